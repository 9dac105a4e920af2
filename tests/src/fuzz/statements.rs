//! Signed statements: whatever is signed, only what was signed counts, for its kind and its network alone.

use ed25519_dalek::{Signer as _, SigningKey};
use shoal_engine::{Directory, Now};
use shoal_protocol::audit::AuditStatement;
use shoal_protocol::codec;
use shoal_protocol::group::{Group, Voucher};
use shoal_protocol::limits::CONTROL_FRAME_MAX;
use shoal_protocol::loss::LossStatement;
use shoal_protocol::mesh::claim::Claim;
use shoal_protocol::mesh::key::MeshKey;
use shoal_protocol::mesh::name::NameClaim;
use shoal_protocol::mesh::route::Origin;
use shoal_protocol::peer_record::PeerRecord;
use shoal_protocol::receipt::{DeliveryReceipt, Receipt, RefusalStatement, ServeStatement};
use shoal_protocol::record::Record;
use shoal_protocol::signed::Statement;
use shoal_protocol::{NetworkId, NodeId, Signed, UnixMillis};

use super::input::{Input, golden, join, sized};

const STATEMENTS: &str = include_str!("../../../protocol/golden/statements.hex");
const ROUTES: &str = include_str!("../../../protocol/golden/routes.hex");
const SESSION: &str = include_str!("../../../protocol/golden/mesh_session.hex");

/// What can be asked of one kind of statement, its type forgotten.
struct Kind {
    context: &'static str,
    limit: usize,
    /// The payload written again, if it is one.
    decode: fn(&[u8]) -> Option<Vec<u8>>,
    /// The payload of a believed statement, written again.
    verify: fn(&Signed, &NetworkId) -> Option<Vec<u8>>,
}

const fn kind<T: Statement>() -> Kind {
    Kind {
        context: T::CONTEXT,
        limit: T::LIMIT,
        decode: |bytes| Some(codec::encode(&codec::decode::<T>(bytes, T::LIMIT).ok()?)),
        verify: |signed, network| Some(codec::encode(&*signed.verify::<T>(network).ok()?)),
    }
}

const KINDS: [Kind; 14] = [
    kind::<PeerRecord>(),
    kind::<Group>(),
    kind::<Voucher>(),
    kind::<Receipt>(),
    kind::<LossStatement>(),
    kind::<RefusalStatement>(),
    kind::<ServeStatement>(),
    kind::<DeliveryReceipt>(),
    kind::<AuditStatement>(),
    kind::<Record>(),
    kind::<Claim>(),
    kind::<Origin>(),
    kind::<MeshKey>(),
    kind::<NameClaim>(),
];

pub(super) fn network() -> NetworkId {
    NetworkId::derive(None, "fuzz").unwrap_or(NetworkId::from_bytes([1; 32]))
}

pub(super) fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

/// The node of [`key`].
pub(super) fn node(number: u8) -> NodeId {
    NodeId::from_bytes(key(number).verifying_key().to_bytes())
}

/// An envelope around any payload, rightly signed under any context.
pub(super) fn envelope(context: &str, network: &NetworkId, payload: &[u8], signer: &SigningKey) -> Vec<u8> {
    let mut message = (context.len() as u64).to_le_bytes().to_vec();
    message.extend_from_slice(context.as_bytes());
    message.extend_from_slice(network.as_bytes());
    message.extend_from_slice(payload);
    let signature = signer.sign(&message).to_bytes();
    let mut out = Vec::new();
    let mut encoder = minicbor::Encoder::new(&mut out);
    let written = encoder
        .map(3)
        .and_then(|e| e.u8(0)?.bytes(payload)?.u8(1)?.bytes(signer.verifying_key().as_bytes()))
        .and_then(|e| e.u8(2)?.bytes(&signature));
    assert!(written.is_ok(), "writing into memory does not fail");
    out
}

/// Any bytes as an envelope, believed as any kind.
pub fn signed_envelope(data: &[u8]) -> bool {
    let Ok(signed) = Signed::from_bytes(data, CONTROL_FRAME_MAX) else { return false };
    assert_eq!(signed.to_bytes(), data, "a second spelling");
    for network in [network(), golden_network()] {
        let believed: Vec<&Kind> = KINDS.iter().filter(|kind| (kind.verify)(&signed, &network).is_some()).collect();
        assert!(believed.len() <= 1, "believed as two kinds");
        for kind in believed {
            let payload = (kind.verify)(&signed, &network).unwrap_or_default();
            let is_inside = data.windows(payload.len().max(1)).any(|window| window == payload);
            assert!(is_inside, "{}: not what was signed", kind.context);
        }
    }
    true
}

fn golden_network() -> NetworkId {
    NetworkId::derive(Some(&[7; 32]), "golden").unwrap_or(NetworkId::from_bytes([2; 32]))
}

pub(super) fn envelopes() -> Vec<Vec<u8>> {
    golden(STATEMENTS, |name| !name.contains("payload"))
}

/// A kind, a signer, edits of the envelope, then the payload: a right signature over anything. It is believed if and only
/// if it is a statement of that kind and nothing was changed afterwards.
pub fn signed_statement(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (which, signer) = (usize::from(input.byte()) % KINDS.len(), key(input.byte()));
    let edits = input.bytes(24);
    let payload = input.rest();
    let kind = &KINDS[which];
    let good = envelope(kind.context, &network(), payload, &signer);
    let mut sent = good.clone();
    let changed = Input::new(edits).edit(&mut sent, 3);
    let Ok(signed) = Signed::from_bytes(&sent, CONTROL_FRAME_MAX) else { return false };
    let believed = (kind.verify)(&signed, &network());
    assert_eq!(believed.is_some(), !changed && (kind.decode)(payload).is_some(), "{}", kind.context);
    if let Some(again) = &believed {
        assert!(again == payload && payload.len() <= kind.limit, "another value than was signed");
        assert!((kind.verify)(&signed, &golden_network()).is_none(), "in another network");
        let other = &KINDS[(which + 1) % KINDS.len()];
        assert!((other.verify)(&signed, &network()).is_none(), "as another kind");
    }
    believed.is_some()
}

fn payloads() -> Vec<(u8, Vec<u8>)> {
    let names = [
        "peer record payload",
        "group payload",
        "voucher payload",
        "receipt payload",
        "loss statement payload",
        "refusal payload",
        "serve statement payload",
        "delivery receipt payload",
        "audit statement payload",
        "record payload",
        "claim payload",
        "origin payload",
        "mesh key payload",
        "name claim payload",
    ];
    let of = |(which, name): (u8, &'static str)| {
        [STATEMENTS, ROUTES, SESSION]
            .into_iter()
            .flat_map(move |text| golden(text, |found| found.starts_with(name)))
            .map(move |payload| (which, payload))
    };
    (0..).zip(names).flat_map(of).collect()
}

pub(super) fn statements() -> Vec<Vec<u8>> {
    let good = payloads().into_iter().map(|(which, payload)| join(&[which, 1, 0, 0], &payload));
    good.chain([join(&[1, 1, 4, 0, 1, 0, 9, 0, 0], b"x")]).collect()
}

/// What a peer passes on of others: records signed by several, some changed on the way, as the directory of a node takes
/// them. Only nodes that said so themselves become known.
pub fn peer_records(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let wall = UnixMillis(1_700_000_000_000);
    let now = Now { wall, uptime_ms: 1_000 };
    let mut directory = Directory::new(node(0), network(), &[], 7);
    directory.connected(node(200), now);
    let (mut records, mut may_know) = (Vec::new(), vec![node(200)]);
    while !input.is_empty() && records.len() < 8 {
        let signer = input.byte();
        let edits = input.bytes(12);
        let payload = input.bytes(4096);
        let mut bytes = envelope(PeerRecord::CONTEXT, &network(), payload, &key(signer));
        let changed = Input::new(edits).edit(&mut bytes, 1);
        if !changed && codec::decode::<PeerRecord>(payload, PeerRecord::LIMIT).is_ok() {
            may_know.push(node(signer));
        }
        records.extend(Signed::from_bytes(&bytes, CONTROL_FRAME_MAX));
    }
    let learnt = directory.heard_peers(node(200), records, input.byte().is_multiple_of(2), now);
    directory.handle_timeout(now);
    while directory.poll().is_some() {}
    assert!(directory.known().all(|(known, _)| may_know.contains(known)), "somebody was known who never said so");
    let (page, _) = directory.peers(None, wall);
    assert!(page.iter().all(|signed| signed.verify::<PeerRecord>(&network()).is_ok()), "a forged record is passed on");
    learnt.is_ok() && !page.is_empty()
}

pub(super) fn peers() -> Vec<Vec<u8>> {
    let payload = golden(STATEMENTS, |name| name == "peer record payload").concat();
    let one = |signer: u8| [&[signer, 0, 0][..], &sized(&payload)].concat();
    vec![one(3), [one(3), one(4), one(5)].concat(), [&[6u8, 6, 0, 1, 0, 5, 0, 0, 1][..], &sized(&payload)].concat()]
}
