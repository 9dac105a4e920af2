//! What must hold for all bytes and all values: round trips, no panic, no second spelling, no signature that fits
//! anything but the statement, kind and network it was made for.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

#[path = "common/arbitrary.rs"]
mod arbitrary;
mod common;

use common::*;
use proptest::prelude::*;
use shoal_protocol::audit::{AuditRequest, AuditStatement, Challenge};
use shoal_protocol::capability::{Capability, CapabilityKind};
use shoal_protocol::codec::{self, Message};
use shoal_protocol::control::{Request, Response};
use shoal_protocol::group::{Group, Voucher};
use shoal_protocol::lane::{
    DataWord, DeliveryReply, Header, RetrieveTrailer, StoreReply, StoreTrailer, message_length,
};
use shoal_protocol::loss::LossStatement;
use shoal_protocol::mesh::claim::Claim;
use shoal_protocol::mesh::flood::FloodMessage;
use shoal_protocol::mesh::name::NameClaim;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::{Origin, RouteMessage};
use shoal_protocol::page::{Page, PageRef, ReadSection, is_safe_path};
use shoal_protocol::peer_record::PeerRecord;
use shoal_protocol::receipt::{DeliveryReceipt, Receipt, RefusalStatement, ServeStatement};
use shoal_protocol::record::{OwnerRecord, PlacementRecord, Record, RecordKind};
use shoal_protocol::sealing::{KdfParams, SealedBox};
use shoal_protocol::signed::Statement;
use shoal_protocol::{
    BootEpoch, ByteCount, GroupId, NetworkId, NodeId, Nonce, PublicKey, Refusal, ShardId, Signed, Suite, UnixMillis,
};

/// Inputs of arbitrary bytes to each decoder.
const BYTES_CASES: u32 = 10_000;
/// Values of each message type.
const VALUE_CASES: u32 = 256;
/// More than any message here has.
const LIMIT: usize = 1 << 20;

/// Decodes and, if that worked, encodes again.
type Decoder = fn(&[u8]) -> Option<Vec<u8>>;

fn again<T: Message>(bytes: &[u8]) -> Option<Vec<u8>> {
    codec::decode::<T>(bytes, LIMIT).ok().map(|value| codec::encode(&value))
}

/// Every CBOR decoder there is.
const DECODERS: [(&str, Decoder); 27] = [
    ("request", again::<Request>),
    ("response", again::<Response>),
    ("lane header", again::<Header>),
    ("store trailer", again::<StoreTrailer>),
    ("store reply", again::<StoreReply>),
    ("retrieve trailer", again::<RetrieveTrailer>),
    ("delivery reply", again::<DeliveryReply>),
    ("envelope", again::<Signed>),
    ("peer record", again::<PeerRecord>),
    ("group", again::<Group>),
    ("voucher", again::<Voucher>),
    ("receipt", again::<Receipt>),
    ("loss statement", again::<LossStatement>),
    ("refusal", again::<RefusalStatement>),
    ("serve statement", again::<ServeStatement>),
    ("delivery receipt", again::<DeliveryReceipt>),
    ("audit statement", again::<AuditStatement>),
    ("record", again::<Record>),
    ("page", again::<Page>),
    ("read section", again::<ReadSection>),
    ("owner record", again::<OwnerRecord>),
    ("placement record", again::<PlacementRecord>),
    ("claim", again::<Claim>),
    ("name claim", again::<NameClaim>),
    ("origin", again::<Origin>),
    ("route message", again::<RouteMessage>),
    ("flood message", again::<FloodMessage>),
];

/// Decoders of parts that also stand alone.
const PARTS: [(&str, Decoder); 3] = [
    ("audit request", again::<AuditRequest>),
    ("page reference", again::<PageRef>),
    ("password-hash settings", again::<KdfParams>),
];

fn all_decoders() -> impl Iterator<Item = (&'static str, Decoder)> {
    DECODERS.into_iter().chain(PARTS)
}

fn round_trip<T: Message + PartialEq + std::fmt::Debug>(value: &T, extra: u8) -> Result<(), TestCaseError> {
    let mut bytes = codec::encode(value);
    let decoded = codec::decode::<T>(&bytes, LIMIT);
    prop_assert_eq!(decoded.as_ref(), Ok(value));
    prop_assert!(codec::decode::<T>(&bytes, bytes.len() - 1).is_err(), "over its limit");
    prop_assert!(codec::decode::<T>(&bytes[..bytes.len() - 1], LIMIT).is_err(), "cut");
    bytes.push(extra);
    prop_assert!(codec::decode::<T>(&bytes, LIMIT).is_err(), "a trailing byte");
    Ok(())
}

macro_rules! round_trips {
    ($($name:ident = $strategy:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(VALUE_CASES) })]
            $(#[test]
            fn $name(value in $strategy, extra in any::<u8>()) {
                round_trip(&value, extra)?;
            })*
        }
    };
}

round_trips! {
    requests = arbitrary::request();
    responses = arbitrary::response();
    lane_headers = arbitrary::header();
    store_trailers = arbitrary::store_trailer();
    store_replies = arbitrary::store_reply();
    retrieve_trailers = arbitrary::retrieve_trailer();
    delivery_replies = arbitrary::delivery_reply();
    envelopes = arbitrary::signed();
    peer_records = arbitrary::peer_record();
    groups = arbitrary::group();
    vouchers = arbitrary::voucher();
    receipts = arbitrary::receipt();
    loss_statements = arbitrary::losses();
    refusals = arbitrary::refusal();
    serve_statements = arbitrary::serve();
    delivery_receipts = arbitrary::delivery();
    audits = arbitrary::audit();
    audit_statements = arbitrary::audit_statement();
    records = arbitrary::record();
    pages = arbitrary::page();
    page_references = arbitrary::page_ref(6);
    read_sections = arbitrary::read_section();
    owner_records = arbitrary::owner_record();
    placement_records = arbitrary::placement_record();
    claims = arbitrary::claim();
    name_claims = arbitrary::name_claim();
    origins = arbitrary::origin();
    route_messages = arbitrary::route_message();
    flood_messages = arbitrary::flood_message();
}

/// Bytes that a decoder of this protocol gets further into than into noise.
fn valid_messages() -> Vec<Vec<u8>> {
    let signed = Signed::seal(&group(), &signer(1), &network());
    vec![
        codec::encode(&signed),
        codec::encode(&Request::Hello(hello())),
        codec::encode(&Request::Audit(audit_slices())),
        codec::encode(&Response::Conflict { held: signed }),
        codec::encode(&leaf_page()),
        codec::encode(&inner_page()),
        codec::encode(&read_section()),
        codec::encode(&owner_record()),
        codec::encode(&placement_record()),
        codec::encode(&serve()),
        codec::encode(&record(2)),
        codec::encode(&peer_record()),
        codec::encode(&claim()),
        codec::encode(&name_claim()),
        codec::encode(&origin("10.1.0.0/16")),
        codec::encode(&route_message()),
        codec::encode(&flood_message()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(BYTES_CASES) })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for (name, decode) in all_decoders() {
            if let Some(again) = decode(&bytes) {
                prop_assert_eq!(&again, &bytes, "{} has a second spelling", name);
            }
        }
    }

    #[test]
    fn damaged_messages_never_panic(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
    ) {
        let messages = valid_messages();
        let mut bytes = which.get(&messages).clone();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => bytes.truncate(at + 1),
            }
        }
        for (name, decode) in all_decoders() {
            if let Some(again) = decode(&bytes) {
                prop_assert_eq!(&again, &bytes, "{} has a second spelling", name);
            }
        }
    }

    #[test]
    fn arbitrary_texts_never_panic(text in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = (text.parse::<NodeId>(), text.parse::<ShardId>(), text.parse::<Suite>(), Capability::parse(&text));
        let _ = (is_safe_path(&text), NetworkId::derive(None, &text), text.parse::<Prefix>());
        for prefix in ["shoal", "shoalr", "shoalv", "shoalo", "other"] {
            let hrp = bech32::Hrp::parse(prefix).unwrap();
            let checked = bech32::encode::<bech32::Bech32m>(hrp, &bytes).unwrap();
            if let Ok(capability) = Capability::parse(&checked) {
                let again = capability.to_text();
                prop_assert_eq!(again.as_str(), checked);
            }
        }
    }

    #[test]
    fn prefixes_have_one_spelling(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
        if let Ok(prefix) = Prefix::from_bytes(&bytes) {
            prop_assert_eq!(prefix.to_bytes(), bytes);
            prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
            let (first, last) = prefix.range();
            prop_assert!(first <= last && prefix.contains(prefix.address()) && prefix.covers(&prefix));
        }
    }

    #[test]
    fn words_never_panic(word in any::<[u8; 4]>(), number in any::<u16>()) {
        let length = u32::from_be_bytes(word);
        prop_assert_eq!(message_length(word).is_ok(), (1..=16_384).contains(&length));
        prop_assert_eq!(DataWord::parse(word).is_ok(), length <= 65_536 || length == u32::MAX);
        let refusal = Refusal::from_number(number);
        prop_assert!(refusal.number() == number || refusal == Refusal::Unsupported);
    }
}

/// An envelope with the payload of one statement and the key and signature of another.
fn transplant<T: Statement>(envelope: &Signed, other: &T) -> Signed {
    let payload = codec::encode(other);
    let bytes = envelope.to_bytes();
    // map(3), 0, byte string; then the fixed 34 + 1 + 66 + 1 bytes of key and signature with their field numbers.
    let tail = &bytes[bytes.len() - (1 + 34 + 1 + 66)..];
    let mut out = Vec::new();
    let mut encoder = minicbor::Encoder::new(&mut out);
    encoder.map(3).unwrap().u8(0).unwrap().bytes(&payload).unwrap();
    out.extend_from_slice(tail);
    Signed::from_bytes(&out, LIMIT).unwrap()
}

/// Whether an envelope verifies as one kind of statement.
type Fits = fn(&Signed) -> bool;

fn is_context<T: Statement>(envelope: &Signed) -> bool {
    envelope.verify::<T>(&network()).is_ok()
}

/// The signature fits `good` and nothing else.
fn only_fits<T: Statement + PartialEq + std::fmt::Debug>(good: &T, altered: &[T]) {
    let envelope = Signed::seal(good, &signer(9), &network());
    assert_eq!(*envelope.verify_by::<T>(&public(9), &network()).unwrap(), *good);
    assert!(envelope.verify_by::<T>(&public(8), &network()).is_err(), "another signer");
    for network in [NetworkId::derive(None, "golden").unwrap(), NetworkId::from_bytes([0; 32])] {
        assert!(envelope.verify::<T>(&network).is_err(), "another network");
    }
    for (at, other) in altered.iter().enumerate() {
        assert_ne!(other, good, "alteration {at} changes nothing");
        assert!(transplant(&envelope, other).verify::<T>(&network()).is_err(), "alteration {at} of {good:?}");
    }
    assert!(transplant(&envelope, good).verify::<T>(&network()).is_ok(), "a transplant of the same is the same");
    let kinds: [(&str, Fits); 13] = [
        (PeerRecord::CONTEXT, is_context::<PeerRecord>),
        (Group::CONTEXT, is_context::<Group>),
        (Voucher::CONTEXT, is_context::<Voucher>),
        (Receipt::CONTEXT, is_context::<Receipt>),
        (LossStatement::CONTEXT, is_context::<LossStatement>),
        (RefusalStatement::CONTEXT, is_context::<RefusalStatement>),
        (ServeStatement::CONTEXT, is_context::<ServeStatement>),
        (DeliveryReceipt::CONTEXT, is_context::<DeliveryReceipt>),
        (AuditStatement::CONTEXT, is_context::<AuditStatement>),
        (Record::CONTEXT, is_context::<Record>),
        (Claim::CONTEXT, is_context::<Claim>),
        (NameClaim::CONTEXT, is_context::<NameClaim>),
        (Origin::CONTEXT, is_context::<Origin>),
    ];
    for (context, fits) in kinds {
        assert_eq!(fits(&envelope), context == T::CONTEXT, "read as {context}");
    }
}

#[test]
fn node_statements_bind_every_field() {
    let (group, nonce, epoch, later) =
        (GroupId::from_bytes([0; 32]), Nonce::from_bytes([0; 16]), BootEpoch(0), UnixMillis(1));
    only_fits(
        &receipt(),
        &[
            Receipt { shard: shard(2), ..receipt() },
            Receipt { length: 1, ..receipt() },
            Receipt { group, ..receipt() },
            Receipt { expires: later, ..receipt() },
            Receipt { boot_epoch: epoch, ..receipt() },
            Receipt { nonce, ..receipt() },
            Receipt { time: later, ..receipt() },
        ],
    );
    only_fits(
        &refusal(),
        &[
            RefusalStatement { reason: Refusal::Busy, ..refusal() },
            RefusalStatement { retry_after_ms: 0, ..refusal() },
            RefusalStatement { boot_epoch: epoch, ..refusal() },
            RefusalStatement { nonce, ..refusal() },
            RefusalStatement { time: later, ..refusal() },
        ],
    );
    only_fits(
        &serve(),
        &[
            ServeStatement { shard: shard(2), ..serve() },
            ServeStatement { ranges: ranges()[..1].to_vec(), ..serve() },
            ServeStatement { sent: 0, ..serve() },
            ServeStatement { requester: node(5), ..serve() },
            ServeStatement { boot_epoch: epoch, ..serve() },
            ServeStatement { nonce, ..serve() },
            ServeStatement { time: later, ..serve() },
        ],
    );
    only_fits(
        &losses(),
        &[
            LossStatement { losses: losses().losses[..1].to_vec(), ..losses() },
            LossStatement { boot_epoch: epoch, ..losses() },
            LossStatement { nonce, ..losses() },
            LossStatement { time: later, ..losses() },
        ],
    );
    only_fits(
        &peer_record(),
        &[
            PeerRecord { addresses: vec![], ..peer_record() },
            PeerRecord { boot_epoch: epoch, ..peer_record() },
            PeerRecord { free: ByteCount(0), ..peer_record() },
            PeerRecord { domain: None, ..peer_record() },
            PeerRecord { stores: false, ..peer_record() },
            PeerRecord { time: later, ..peer_record() },
        ],
    );
}

#[test]
fn mesh_statements_bind_every_field() {
    let moved = |time: UnixMillis| UnixMillis(time.0 - 1);
    only_fits(
        &claim(),
        &[
            Claim { attempt: 3, ..claim() },
            Claim { issued: moved(claim().issued), ..claim() },
            Claim { bound: moved(claim().bound), ..claim() },
            Claim { time: claim().time.saturating_add(1), ..claim() },
            Claim { expires: moved(claim().expires), ..claim() },
        ],
    );
    let name = name_claim();
    only_fits(
        &name,
        &[
            NameClaim { label: None, ..name.clone() },
            NameClaim { label: Some("nas-3".parse().unwrap()), ..name.clone() },
            NameClaim { issued: moved(name.issued), ..name.clone() },
            NameClaim { bound: moved(name.bound), ..name.clone() },
            NameClaim { time: name.time.saturating_add(1), ..name.clone() },
            NameClaim { expires: moved(name.expires), ..name.clone() },
        ],
    );
    let good = origin("10.1.0.0/16");
    only_fits(
        &good,
        &[
            origin("10.2.0.0/16"),
            Origin { epoch: BootEpoch(0), ..good.clone() },
            Origin { seqno: 8, ..good.clone() },
            Origin { expires: moved(good.expires), ..good.clone() },
        ],
    );
}

#[test]
fn client_statements_bind_every_field() {
    let (nobody, later) = (PublicKey::from_bytes([0; 32]), UnixMillis(1));
    only_fits(
        &group(),
        &[
            Group { steward: nobody, ..group() },
            Group { payer: nobody, ..group() },
            Group { ceiling: ByteCount(0), ..group() },
            Group { issued: UnixMillis(TIME.0 - 1), ..group() },
            Group { expires: TIME.saturating_add(1), ..group() },
            Group { serial: 2, ..group() },
        ],
    );
    only_fits(
        &voucher(),
        &[
            Voucher { holder: node(5), ..voucher() },
            Voucher { node: node(5), ..voucher() },
            Voucher { bytes: ByteCount(0), ..voucher() },
            Voucher { expires: later, ..voucher() },
            Voucher { serial: 0, ..voucher() },
        ],
    );
    only_fits(
        &delivery(),
        &[
            DeliveryReceipt { shard: shard(2), ..delivery() },
            DeliveryReceipt { ranges: ranges()[1..].to_vec(), ..delivery() },
            DeliveryReceipt { node: node(5), ..delivery() },
            DeliveryReceipt { nonce: Nonce::from_bytes([0; 16]), ..delivery() },
            DeliveryReceipt { time: later, ..delivery() },
        ],
    );
    only_fits(
        &record(2),
        &[
            Record { kind: RecordKind::Owner, ..record(2) },
            Record { index: 0, ..record(2) },
            Record { version: 3, ..record(2) },
            Record { previous: Some([0; 32]), ..record(2) },
            Record { body: SealedBox { salt: [0; 32], ..sealed_box() }, ..record(2) },
            Record { body: SealedBox { sealed: vec![], ..sealed_box() }, ..record(2) },
        ],
    );
}

#[test]
fn audit_statements_bind_request_and_answer() {
    let good = audit_statement(audit_slices());
    let request = |change: fn(&mut AuditRequest)| {
        let mut request = audit_slices();
        change(&mut request);
        AuditStatement { request, ..good.clone() }
    };
    only_fits(
        &good,
        &[
            request(|request| request.shard = shard(2)),
            request(|request| request.length = 1),
            request(|request| request.challenge = Challenge::Slices { seed: [0; 32], count: 32 }),
            request(|request| request.challenge = Challenge::Slices { seed: [0x5e; 32], count: 31 }),
            request(|request| request.challenge = Challenge::Whole { challenge: [0x5e; 32] }),
            request(|request| request.nonce = Nonce::from_bytes([0; 16])),
            AuditStatement { digest: [0; 32], ..good.clone() },
            AuditStatement { auditor: node(5), ..good.clone() },
            AuditStatement { boot_epoch: BootEpoch(0), ..good.clone() },
            AuditStatement { time: UnixMillis(1), ..good.clone() },
        ],
    );
}

#[test]
fn capability_kinds_do_not_pass_for_each_other() {
    let make = |kind| Capability::new(kind, &network(), public(1), [1; 32], [2; 32], vec![]);
    let body = make(CapabilityKind::Read).to_text();
    let data = body.rsplit_once('1').unwrap().1;
    for prefix in ["shoal", "shoalv", "shoalo"] {
        assert!(Capability::parse(&format!("{prefix}1{data}")).is_err(), "{prefix}");
    }
}
