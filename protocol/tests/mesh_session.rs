//! Sessions of the private network: golden bytes of every message, and what must hold for all bytes. `UPDATE_GOLDEN=1`
//! writes the file and then fails, so that nobody passes by rewriting.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

use std::path::Path;

use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use shoal_protocol::codec;
use shoal_protocol::mesh::key::MeshKey;
use shoal_protocol::mesh::offloads::Offloads;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::session::content::{CloseReason, ContentKind, Control, Fence, PROBE_PADDING_MAX};
use shoal_protocol::mesh::session::frame::{Counter, DataHeader, PathId, SEQUENCES, WINDOWS};
use shoal_protocol::mesh::session::handshake::{
    CookieReply, Initiation, Introduction, Offer, Opening, Response, Side, Stamp, cookie, cookie_key, mac1, mac2,
    prologue,
};
use shoal_protocol::mesh::session::{MessageKind, SessionIndex};
use shoal_protocol::signed::Statement;
use shoal_protocol::{NetworkId, NodeId, Signed, Suite, UnixMillis};

/// Inputs of arbitrary bytes to each decoder.
const BYTES_CASES: u32 = 10_000;
/// Values of each type.
const VALUE_CASES: u32 = 1_000;

fn network() -> NetworkId {
    NetworkId::derive(Some(&[7; 32]), "golden").unwrap()
}

fn key() -> MeshKey {
    MeshKey {
        public: [0x42; 32],
        epoch: 300,
        not_after: UnixMillis(1_800_000_000_000),
        suites: vec![Suite::ChaCha20Poly1305, Suite::Aes256Gcm],
    }
}

fn offer() -> Offer {
    Offer { offloads: Offloads { uso: false, ..Offloads::ALL }, max_frame: 9000 }
}

fn initiation() -> Initiation {
    let noise = core::array::from_fn(|at| at as u8);
    let sender = SessionIndex(0x0102_0304);
    Initiation { sender, introduction: [0x1d; 18], noise, mac1: [0xa1; 16], mac2: [0xa2; 16] }
}

fn response() -> Response {
    let noise = core::array::from_fn(|at| at as u8);
    Response { sender: SessionIndex(0x0506_0708), receiver: SessionIndex(0x0102_0304), noise, mac1: [0xa1; 16] }
}

fn header() -> DataHeader {
    let counter = Counter::new(PathId::new(5).unwrap(), 0x0001_0203_0405).unwrap();
    DataHeader { receiver: SessionIndex(0x0102_0304), counter }
}

fn body(control: Control) -> Vec<u8> {
    let mut out = vec![0xee; control.body_length()];
    assert_eq!(control.write_body(&mut out), Some(out.len()));
    let mut all = vec![ContentKind::Control(control.kind()).number()];
    all.extend(out);
    all
}

fn lines() -> Vec<(&'static str, Vec<u8>)> {
    let (one, other) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
    let suites = key().suites;
    let first = Side { node: &one, epoch: 3, suites: &suites };
    let second = Side { node: &other, epoch: 0x0405, suites: &suites[..1] };
    let introduction = Introduction { peer: PeerHash::new([0x0a; 10]), epoch: 77 };
    let control = body;
    let fence = Fence { number: 9, from: PathId::LANES, to: PathId::DUAL };
    vec![
        ("mesh key payload", codec::encode(&key())),
        ("mesh key", Signed::seal(&key(), &SigningKey::from_bytes(&[4; 32]), &network()).to_bytes()),
        ("initiation", initiation().to_bytes().to_vec()),
        ("introduction, masked", introduction.mask(&network(), &[8; 32], &[9; 32]).to_vec()),
        ("response", response().to_bytes().to_vec()),
        (
            "cookie reply",
            CookieReply { receiver: SessionIndex(1), salt: [0x5a; 32], sealed: [0x5e; 32] }.to_bytes().to_vec(),
        ),
        ("opening", Opening { stamp: Stamp(0x0102_0304_0506), offer: offer() }.to_bytes().to_vec()),
        ("offer", offer().to_bytes().to_vec()),
        ("prologue", prologue(&network(), first, second)),
        ("mac1", mac1(&network(), &[8; 32], b"before").to_vec()),
        ("mac2", mac2(&[0xc0; 16], b"before").to_vec()),
        ("cookie", cookie(&[0x5e; 32], b"source").to_vec()),
        ("cookie key", cookie_key(&network(), &[8; 32], &[0x5a; 32]).to_vec()),
        ("data header", header().to_bytes().to_vec()),
        ("nonce", header().counter.nonce().to_vec()),
        ("challenge", control(Control::Challenge([0xc4; 16]))),
        ("answer", control(Control::Answer([0xc4; 16]))),
        ("fence", control(Control::Fence(fence))),
        ("probe of 3 zeros", control(Control::Probe { number: 7, padding: 3 })),
        ("echo", control(Control::Echo { number: 7 })),
        ("keepalive", control(Control::Keepalive)),
        ("close, stopping", control(Control::Close(CloseReason::Stopping))),
    ]
}

#[test]
fn golden_bytes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join("mesh_session.hex");
    let now: String = lines().iter().map(|(name, bytes)| format!("{name} = {}\n", HEXLOWER.encode(bytes))).collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::write(&path, now).unwrap();
        panic!("mesh_session.hex was written; read the difference, then run again without UPDATE_GOLDEN");
    }
    let found = std::fs::read_to_string(&path).unwrap();
    for (line, new) in found.lines().zip(now.lines()) {
        assert_eq!(line, new);
    }
    assert_eq!(found.lines().count(), now.lines().count());
    let read = |name: &str| {
        let line = found.lines().find_map(|line| line.strip_prefix(&format!("{name} = "))).unwrap();
        HEXLOWER.decode(line.as_bytes()).unwrap()
    };
    let signed = Signed::from_bytes(&read("mesh key"), 256).unwrap();
    assert_eq!(*signed.verify::<MeshKey>(&network()).unwrap(), key());
    assert!(read("mesh key payload").len() <= MeshKey::LIMIT);
    assert_eq!(Initiation::parse(&read("initiation")), Ok(initiation()));
    assert_eq!(Response::parse(&read("response")), Ok(response()));
    let masked = read("introduction, masked").try_into().unwrap();
    let introduction = Introduction::unmask(&masked, &network(), &[8; 32], &[9; 32]);
    assert_eq!(introduction, Introduction { peer: PeerHash::new([0x0a; 10]), epoch: 77 });
}

fn again(kind: ContentKind, bytes: &[u8]) -> Option<Vec<u8>> {
    let ContentKind::Control(kind) = kind else { return None };
    let control = Control::parse(kind, bytes).ok()?;
    assert_eq!(control.kind(), kind);
    let mut out = vec![0xee; control.body_length()];
    control.write_body(&mut out).map(|_| out)
}

fn path() -> impl Strategy<Value = PathId> {
    (0..WINDOWS).prop_map(|slot| PathId::new(if slot == WINDOWS - 1 { 255 } else { slot as u8 }).unwrap())
}

fn control() -> impl Strategy<Value = Control> {
    let fence = (any::<u32>(), path(), path())
        .prop_filter("two path ids", |(_, from, to)| from != to)
        .prop_map(|(number, from, to)| Control::Fence(Fence { number, from, to }));
    prop_oneof![
        any::<[u8; 16]>().prop_map(Control::Challenge),
        any::<[u8; 16]>().prop_map(Control::Answer),
        fence,
        (any::<u32>(), 0..=PROBE_PADDING_MAX).prop_map(|(number, padding)| Control::Probe { number, padding }),
        any::<u32>().prop_map(|number| Control::Echo { number }),
        Just(Control::Keepalive),
        Just(Control::Close(CloseReason::Idle)),
        Just(Control::Close(CloseReason::Refused)),
    ]
}

/// Bytes that begin like a message more often than chance would have it, and are as long as one.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![Just(163_usize), Just(76), Just(69), Just(13), 0..200_usize];
    (length, any::<[u8; 2]>(), any::<u8>(), any::<u64>()).prop_map(|(length, [kind, version], path, seed)| {
        let mut state = seed;
        let mut bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        for (at, byte) in [(0, 0xa0 | (kind % 6)), (1, version % 3), (12, if path % 3 == 0 { 255 } else { path % 10 })]
        {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes
    })
}

fn check_all(bytes: &[u8]) {
    if let Ok(read) = Initiation::parse(bytes) {
        assert_eq!(read.to_bytes(), bytes);
    }
    if let Ok(read) = Response::parse(bytes) {
        assert_eq!(read.to_bytes(), bytes);
    }
    if let Ok(read) = CookieReply::parse(bytes) {
        assert_eq!(read.to_bytes(), bytes);
    }
    if let Ok(read) = DataHeader::parse(bytes) {
        assert_eq!(read.to_bytes(), bytes[..13]);
    }
    if let Ok(read) = codec::decode::<MeshKey>(bytes, MeshKey::LIMIT) {
        assert_eq!(codec::encode(&read), bytes);
    }
    if let Some(array) = bytes.first_chunk()
        && let Ok(read) = Offer::from_bytes(*array)
    {
        assert_eq!(read.to_bytes(), *array);
    }
    if let Some((kind, body)) = bytes.split_first() {
        let kind = ContentKind::from_number(*kind);
        assert!(kind.and_then(|kind| again(kind, body)).is_none_or(|out| out == body));
    }
    let kinds = MessageKind::ALL.into_iter().filter(|kind| {
        let parsed = match kind {
            MessageKind::Initiation => Initiation::parse(bytes).is_ok(),
            MessageKind::Response => Response::parse(bytes).is_ok(),
            MessageKind::CookieReply => CookieReply::parse(bytes).is_ok(),
            MessageKind::Data => DataHeader::parse(bytes).is_ok(),
        };
        assert!(!parsed || MessageKind::of_first_byte(bytes[0]) == Some(*kind));
        parsed
    });
    assert!(kinds.count() <= 1, "bytes are of one kind at most");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: BYTES_CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_have_one_spelling_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check_all(&bytes);
    }

    #[test]
    fn likely_bytes_have_one_spelling_or_none(bytes in likely()) {
        check_all(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: VALUE_CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn contents_round_trip(control in control()) {
        let all = body(control);
        let (kind, rest) = all.split_first().unwrap();
        prop_assert_eq!(ContentKind::from_number(*kind), Some(ContentKind::Control(control.kind())));
        prop_assert_eq!(Control::parse(control.kind(), rest), Ok(control));
        let mut longer = rest.to_vec();
        longer.push(1);
        prop_assert!(Control::parse(control.kind(), &longer).is_err());
    }

    #[test]
    fn headers_round_trip(index in any::<u32>(), path in path(), sequence in 0..SEQUENCES) {
        let header = DataHeader { receiver: SessionIndex(index), counter: Counter::new(path, sequence).unwrap() };
        let mut frame = header.to_bytes().to_vec();
        frame.resize(30, 0);
        prop_assert_eq!(DataHeader::parse(&frame), Ok(header));
        frame.pop();
        prop_assert!(DataHeader::parse(&frame).is_err());
    }

    #[test]
    fn offers_and_introductions_round_trip(
        bits in 0..16_u8, max_frame in 1280..=u16::MAX, peer in any::<[u8; 10]>(), epoch in any::<u64>(),
        responder in any::<[u8; 32]>(), ephemeral in any::<[u8; 32]>(),
    ) {
        let [low, high] = max_frame.to_le_bytes();
        let offer = Offer::from_bytes([bits, low, high]).unwrap();
        prop_assert_eq!(offer.to_bytes(), [bits, low, high]);
        let opening = Opening { stamp: Stamp(epoch), offer };
        prop_assert_eq!(Opening::from_bytes(&opening.to_bytes()), Ok(opening));
        let introduction = Introduction { peer: PeerHash::new(peer), epoch };
        let masked = introduction.mask(&network(), &responder, &ephemeral);
        prop_assert_eq!(Introduction::unmask(&masked, &network(), &responder, &ephemeral), introduction);
    }
}

#[test]
fn bounds_of_content_are_kept() {
    let kind = |number| match ContentKind::from_number(number) {
        Some(ContentKind::Control(kind)) => kind,
        other => panic!("{other:?}"),
    };
    for (what, number, body) in [
        ("a fence from and to one path id", 18, &[0, 0, 0, 0, 3, 3][..]),
        ("a path id nobody has", 18, &[0, 0, 0, 0, 3, 8]),
        ("padding that says something", 19, &[0, 0, 0, 0, 0, 1]),
        ("a reason nobody knows", 22, &[4]),
        ("a keepalive with a body", 21, &[0]),
        ("half a token", 16, &[0; 8]),
    ] {
        assert!(Control::parse(kind(number), body).is_err(), "{what}");
    }
    let long = Control::Probe { number: 0, padding: PROBE_PADDING_MAX + 1 };
    assert_eq!(long.write_body(&mut vec![0; 70_000]), None);
    for kind in ContentKind::ALL {
        assert_eq!(ContentKind::from_number(kind.number()), Some(kind));
    }
    assert_eq!((0..=255).filter(|number| ContentKind::from_number(*number).is_some()).count(), ContentKind::ALL.len());
    assert!(Offer::from_bytes([16, 0, 16]).is_err() && Offer::from_bytes([0, 0xff, 4]).is_err());
}
