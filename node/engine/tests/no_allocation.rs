//! Sealing and opening frames allocates nothing: watched by an allocator that remembers the most that was ever in use. One
//! test alone in its program, so that nobody else allocates meanwhile.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use peak_alloc::PeakAlloc;
use shoal_engine::Now;
use shoal_engine::mesh::session::{
    Content, Context, Effect, Gate, Indices, Load, OwnKey, Pair, Party, RxHalf, Sessions, TxHalf, Verdict,
};
use shoal_engine::path::Carrier;
use shoal_protocol::mesh::key::MeshKey;
use shoal_protocol::mesh::offloads::Offloads;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::session::content::ContentKind;
use shoal_protocol::mesh::session::frame::PathId;
use shoal_protocol::mesh::session::handshake::Offer;
use shoal_protocol::{NetworkId, PublicKey, Signed, Suite, UnixMillis, Verified};
use zeroize::Zeroizing;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const WALL: UnixMillis = UnixMillis(1_700_000_000_000);

struct Member {
    own: Arc<OwnKey>,
    signer: SigningKey,
    party: Party,
}

fn network() -> NetworkId {
    NetworkId::derive(None, "tests").unwrap()
}

fn member(n: u8, suites: &[Suite]) -> Member {
    let signer = SigningKey::from_bytes(&[n; 32]);
    let node = PublicKey::from_bytes(signer.verifying_key().to_bytes()).into();
    let own = OwnKey::new(Zeroizing::new([n; 32]), 1, WALL.saturating_add(1_000_000), suites.to_vec());
    Member { own: Arc::new(own), signer, party: Party { node, hash: PeerHash::new([n; 10]) } }
}

fn sessions(own: &Member, peer: &Member) -> Sessions {
    let record: Verified<MeshKey> =
        Signed::seal(peer.own.record(), &peer.signer, &network()).verify(&network()).unwrap();
    let offer = Offer { offloads: Offloads::default(), max_frame: 9000 };
    let pair = Pair { network: network(), own: own.party, peer: peer.party, offer };
    let mut sessions = Sessions::new(pair, Arc::clone(&own.own), record).unwrap();
    sessions.handle_carrier(Carrier::Lanes, true);
    sessions
}

/// What the sessions want sent, and the halves they made.
fn drain(sessions: &mut Sessions) -> (Option<Vec<u8>>, Option<(TxHalf, RxHalf)>) {
    let (mut sent, mut halves) = (None, None);
    while let Some(effect) = sessions.poll() {
        match effect {
            Effect::Send { bytes, .. } => sent = Some(bytes),
            Effect::Install(installed) => halves = Some((installed.tx, installed.rx)),
            _ => {}
        }
    }
    (sent, halves)
}

/// The sealing half of one member and the opening half of the other.
fn halves(suites: &[Suite]) -> (TxHalf, RxHalf) {
    let (one, other) = (member(1, suites), member(2, suites));
    let (mut first, mut second) = (sessions(&one, &other), sessions(&other, &one));
    let (mut here, mut there, mut drawn) = (Indices::default(), Indices::default(), 0_u8);
    let mut random = |out: &mut [u8]| {
        drawn = drawn.wrapping_add(1);
        out.fill(drawn);
    };
    let now = Now { wall: WALL, uptime_ms: 0 };
    first.handle_want(&mut Context { now, random: &mut random, indices: &mut here });
    let initiation = drain(&mut first).0.unwrap();
    let mut gate = Gate::new(network(), Arc::clone(&other.own));
    let Verdict::Admitted(admitted) = gate.examine(&initiation, b"lanes", Load::Calm, 0, &mut random) else {
        panic!("not admitted");
    };
    let cx = &mut Context { now, random: &mut random, indices: &mut there };
    second.handle_initiation(&admitted, Carrier::Lanes, cx);
    let (response, responder) = drain(&mut second);
    let cx = &mut Context { now, random: &mut random, indices: &mut here };
    first.handle_response(&response.unwrap(), Carrier::Lanes, cx);
    (drain(&mut first).1.unwrap().0, responder.unwrap().1)
}

/// Most turns.
const TURNS: u64 = 5;

#[test]
fn sealing_and_opening_allocate_nothing() {
    for suites in [&[Suite::ChaCha20Poly1305][..], &[Suite::ChaCha20Poly1305, Suite::Aes256Gcm]] {
        let (mut tx, mut rx) = halves(suites);
        let mut buffer = vec![0_u8; 64 + 1400 + 16];
        // The allocator counts for the whole process: what the test's own harness takes meanwhile is not ours, and does not
        // come in every turn.
        let mut turns = 0;
        let is_quiet = (0..TURNS).any(|_| {
            turns += 1;
            ALLOCATOR.reset_peak_usage();
            let before = ALLOCATOR.current_usage();
            for round in 0..10_000_u32 {
                let path = PathId::new([0, 1, 5, 255][(round % 4) as usize]).unwrap();
                buffer[64..68].copy_from_slice(&round.to_le_bytes());
                let frame = tx.seal(path, ContentKind::Packet, b"aad", &mut buffer, 64..1464).unwrap();
                let opened = rx.open(&mut buffer[frame.clone()], b"aad").unwrap();
                assert!(matches!(opened.content, Content::Packet(body) if body[..4] == round.to_le_bytes()));
                assert!(rx.open(&mut buffer[frame], b"aad").is_err(), "and neither does refusing");
            }
            ALLOCATOR.peak_usage() == before && ALLOCATOR.current_usage() == before
        });
        assert!(is_quiet, "something was allocated in each of {TURNS} turns");
        let before = ALLOCATOR.current_usage();
        assert_eq!((tx.payloads(), rx.payloads()), (turns * 10_000, turns * 10_000));
        // The watch itself works.
        drop(vec![0_u8; 4096]);
        assert!(ALLOCATOR.peak_usage() >= before + 4096);
    }
}
