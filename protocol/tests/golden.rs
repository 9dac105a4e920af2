//! Golden bytes of every wire format: each line of `protocol/golden` is decoded and compared, and what is encoded now
//! is compared with it. `UPDATE_GOLDEN=1` writes the files and then fails, so that nobody passes by rewriting.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

mod common;

use std::fmt::Debug;
use std::path::Path;

use common::*;
use data_encoding::HEXLOWER;
use shoal_protocol::audit::{AuditParties, answer_digest, positions};
use shoal_protocol::capability::{Capability, CapabilityKind, Hint};
use shoal_protocol::codec::{self, Message};
use shoal_protocol::control::{Held, PutRecord, Request, Reserve, Reserved, Response};
use shoal_protocol::hash;
use shoal_protocol::lane::{
    DataWord, DeliveryReply, Header, RetrieveTrailer, StoreReply, StoreTrailer, encode_abort, encode_end,
    encode_message, message_length,
};
use shoal_protocol::layout::{Code, SegmentShape, padme};
use shoal_protocol::limits::{CONTROL_FRAME_MAX, LANE_MESSAGE_MAX, PAGE_MAX, RECORD_MAX};
use shoal_protocol::mesh::address::{Pool, network_prefix, overlay};
use shoal_protocol::mesh::flood::FLOOD_MESSAGE_MAX;
use shoal_protocol::mesh::message::MeshMessage;
use shoal_protocol::mesh::name::NameClaim;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::route::{ROUTE_MESSAGE_MAX, Told, told_digest};
use shoal_protocol::record::{RecordKind, link};
use shoal_protocol::sealing::{FrameAad, nonce, single_aad};
use shoal_protocol::signed::Statement;
use shoal_protocol::{NetworkId, NodeId, Refusal, ReservationId, SegmentNumber, ShardId, Signed, Suite};

/// One line of a golden file: what is encoded now, and a reader that panics if a text is not that value.
struct Case {
    name: String,
    shown: String,
    read: Box<dyn Fn(&str)>,
}

fn text(name: impl Into<String>, shown: impl Into<String>, read: impl Fn(&str) + 'static) -> Case {
    Case { name: name.into(), shown: shown.into(), read: Box::new(read) }
}

/// A value that only goes one way: a hash, a table, an AAD.
fn output(name: impl Into<String>, shown: impl Into<String>) -> Case {
    text(name, shown, |_| {})
}

fn bytes(name: impl Into<String>, bytes: &[u8], read: impl Fn(&[u8]) + 'static) -> Case {
    text(name, HEXLOWER.encode(bytes), move |line| read(&HEXLOWER.decode(line.as_bytes()).unwrap()))
}

fn message<T: Message + PartialEq + Debug + 'static>(name: &str, value: T, limit: usize) -> Case {
    let encoded = codec::encode(&value);
    bytes(name, &encoded, move |line| assert_eq!(codec::decode::<T>(line, limit).as_ref(), Ok(&value)))
}

/// A message of the shard lane, behind its length word and, for trailers, the end word.
fn framed<T: Message + PartialEq + Debug + 'static>(name: &str, value: T, trailer: bool) -> Case {
    let encoded = if trailer { encode_end(&value) } else { encode_message(&value) };
    bytes(name, &encoded, move |line| {
        let mut line = line;
        if trailer {
            let (word, rest) = line.split_first_chunk::<4>().unwrap();
            assert_eq!(DataWord::parse(*word), Ok(DataWord::End));
            line = rest;
        }
        let (word, body) = line.split_first_chunk::<4>().unwrap();
        assert_eq!(message_length(*word), Ok(body.len()));
        assert_eq!(codec::decode::<T>(body, LANE_MESSAGE_MAX).as_ref(), Ok(&value));
    })
}

/// The envelope around a statement, signed by key `by`.
fn signed<T: Statement + PartialEq + Debug + 'static>(name: &str, value: T, by: u8) -> Case {
    let envelope = Signed::seal(&value, &signer(by), &network());
    bytes(name, &envelope.to_bytes(), move |line| {
        let read = Signed::from_bytes(line, CONTROL_FRAME_MAX).unwrap();
        assert_eq!(*read.verify_by::<T>(&public(by), &network()).unwrap(), value);
    })
}

fn check(file: &str, cases: &[Case]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        let lines: String = cases.iter().map(|case| format!("{} = {}\n", case.name, case.shown)).collect();
        std::fs::write(&path, lines).unwrap();
        panic!("{file} was written; read the difference, then run again without UPDATE_GOLDEN");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    for (case, line) in cases.iter().zip(found.lines()) {
        let (name, shown) = line.split_once(" = ").unwrap();
        assert_eq!(name, case.name, "{file}");
        (case.read)(shown);
        assert_eq!(shown, case.shown, "{file}: {name} is encoded differently");
    }
    assert_eq!(found.lines().count(), cases.len(), "lines of {file}");
}

#[test]
fn ids_and_hashes() {
    let (network, shard) = (network(), shard(1));
    let mut cases = vec![
        output("network id of genesis 07.. and \"golden\"", HEXLOWER.encode(network.as_bytes())),
        output("network id of \"home\" without genesis", {
            HEXLOWER.encode(NetworkId::derive(None, "home").unwrap().as_bytes())
        }),
        output("network tag", network.tag()),
        text("peer id", node(1).to_string(), |line| assert_eq!(line.parse::<NodeId>(), Ok(node(1)))),
        text("shard cid", shard.to_string(), move |line| assert_eq!(line.parse::<ShardId>(), Ok(shard))),
        output("file id", file().to_hex()),
        output("group id", group_id().to_hex()),
        output("owner record key", RecordKind::Owner.key(&network, &public(1), 0).to_hex()),
        output("placement record key 3", RecordKind::Placement.key(&network, &public(2), 3).to_hex()),
        output("record link", HEXLOWER.encode(&link(b"signed bytes"))),
        output("audit answer digest", HEXLOWER.encode(&answer_digest(b"answer"))),
    ];
    for context in hash::ALL {
        cases.push(output(
            format!("derive {}", context.as_str()),
            HEXLOWER.encode(&hash::derive(*context, &[b"golden", b""])),
        ));
    }
    check("ids.txt", &cases);
}

#[test]
fn layout_tables() {
    let mut cases: Vec<Case> = [0, 1, 2, 3, 9, 17, 1000, 65_519, 65_520, 65_521, 1 << 20, 8_386_561, u64::MAX]
        .into_iter()
        .map(|length| output(format!("padme {length}"), padme(length).to_string()))
        .collect();
    for (k, m, plain) in
        [(1, 1, 1), (4, 2, 262_080), (4, 2, 262_085), (16, 16, 1), (10, 20, 20_966_400), (4, 2, 8_386_560)]
    {
        let code = Code::new(k, m).unwrap();
        let shape = SegmentShape::new(code, plain).unwrap();
        let last = shape.unit_length(shape.rows() - 1);
        let shown = format!("rows {} last unit {last} shard {}", shape.rows(), shape.shard_length());
        cases.push(output(format!("segment {code} of {plain}"), shown));
    }
    for (k, m) in [(1, 1), (4, 2), (16, 16), (10, 20), (16, 17), (254, 1)] {
        let code = Code::new(k, m).unwrap();
        let shown = format!("{} happy {}", code.rows_per_segment(), code.happy());
        cases.push(output(format!("rows of a full {code} segment"), shown));
    }
    check("layout.txt", &cases);
}

#[test]
fn sealing_inputs() {
    let aad = FrameAad {
        suite: Suite::Aes256Gcm,
        file: file(),
        segment: SegmentNumber::page(2).unwrap(),
        counter: 0x0102_0304,
        code: Code { data: 4, parity: 2 },
        unit_length: 65_536,
        last: true,
    };
    let plain = FrameAad { suite: Suite::ChaCha20Poly1305, segment: SegmentNumber(7), last: false, ..aad };
    let slices = positions(
        AuditParties { network: &network(), auditor: &node(3), node: &node(4) },
        &[0x5e; 32],
        &shard(1),
        2 << 20,
        32,
    );
    let slices: Vec<String> = slices.iter().map(u32::to_string).collect();
    check(
        "sealing.txt",
        &[
            output("frame aad, page", HEXLOWER.encode(&aad.to_bytes())),
            output("frame aad, data", HEXLOWER.encode(&plain.to_bytes())),
            output("single aad", HEXLOWER.encode(&single_aad(Suite::ChaCha20Poly1305, &file(), 0x0102_0304_0506))),
            output("nonce", HEXLOWER.encode(&nonce(0x0102_0304))),
            output("audit positions of 32 slices in 2 MiB", slices.join(",")),
        ],
    );
}

#[test]
fn signed_statements() {
    check(
        "statements.hex",
        &[
            message("peer record payload", peer_record(), 4096),
            signed("peer record", peer_record(), 4),
            message("group payload", group(), 512),
            signed("group", group(), 1),
            message("voucher payload", voucher(), 512),
            signed("voucher", voucher(), 6),
            message("receipt payload", receipt(), 512),
            signed("receipt", receipt(), 4),
            message("loss statement payload", losses(), 16 * 1024),
            signed("loss statement", losses(), 4),
            message("refusal payload", refusal(), 256),
            signed("refusal", refusal(), 4),
            message("serve statement payload", serve(), 4096),
            signed("serve statement", serve(), 4),
            message("delivery receipt payload", delivery(), 4096),
            signed("delivery receipt", delivery(), 3),
            message("audit statement payload, slices", audit_statement(audit_slices()), 1024),
            message("audit statement payload, whole", audit_statement(audit_whole()), 1024),
            signed("audit statement", audit_statement(audit_slices()), 4),
            message("record payload, version 1", record(1), RECORD_MAX),
            message("record payload, version 2", record(2), RECORD_MAX),
            signed("record", record(2), 2),
        ],
    );
}

#[test]
fn mesh_addresses_claims_and_routes() {
    let candidate = |attempt| Pool::default().candidate(&network(), &node(4), attempt).to_string();
    let told = Told { router: mesh_router(), seqno: 7, metric: 300, max_frame: 8_900, relayed: true };
    check(
        "routes.hex",
        &[
            output("peer hash", PeerHash::of(&node(4)).to_string()),
            output("mesh prefix", network_prefix(&network()).to_string()),
            output("mesh ipv6", overlay(&network(), &PeerHash::of(&node(4))).to_string()),
            output("mesh ipv4, attempt 0", candidate(0)),
            output("mesh ipv4, attempt 1", candidate(1)),
            message("claim payload", claim(), 128),
            signed("claim", claim(), 4),
            message("name claim payload", name_claim(), 160),
            message("name claim payload, given up", NameClaim { label: None, ..name_claim() }, 160),
            signed("name claim", name_claim(), 4),
            message("origin payload, ipv4", origin("10.1.0.0/16"), 48),
            message("origin payload, ipv6", origin("2001:db8::/32"), 48),
            signed("origin", origin("10.1.0.0/16"), 4),
            output("digest of a route", told_digest(&origin("10.1.0.0/16").prefix, &told).to_string()),
            output("digest of a reach", reach().digest().to_string()),
            message("route message, digest only", quiet_message(), ROUTE_MESSAGE_MAX),
            message("route message", route_message(), ROUTE_MESSAGE_MAX),
            message("flood message", flood_message(), FLOOD_MESSAGE_MAX),
            message("flood acknowledgement", flood_acknowledgement(), FLOOD_MESSAGE_MAX),
        ],
    );
}

#[test]
fn control_requests() {
    let group = Signed::seal(&group(), &signer(1), &network());
    let voucher = Signed::seal(&voucher(), &signer(6), &network());
    let record = Signed::seal(&record(1), &signer(2), &network());
    let own = Signed::seal(&peer_record(), &signer(4), &network());
    let reserve = |voucher| Reserve { boot_epoch: EPOCH, group: group.clone(), lengths: vec![17, 65_536], voucher };
    let put =
        |voucher| PutRecord { boot_epoch: EPOCH, group: group.clone(), record: record.clone(), voucher, nonce: NONCE };
    let key = RecordKind::Placement.key(&network(), &public(2), 3);
    let request = |name, value: Request| message(name, value, CONTROL_FRAME_MAX);
    let visitor = shoal_protocol::control::Hello { domain: None, ..hello() };
    check(
        "requests.hex",
        &[
            request("hello of a visitor", Request::Hello(visitor)),
            request("hello", Request::Hello(shoal_protocol::control::Hello { record: Some(own), ..hello() })),
            request("peers, first page", Request::Peers { after: None }),
            request("peers, next page", Request::Peers { after: Some(node(4)) }),
            request("locate", Request::Locate { nodes: vec![node(4), node(5)] }),
            request("reserve", Request::Reserve(reserve(None))),
            request("reserve with a voucher", Request::Reserve(reserve(Some(voucher.clone())))),
            request("stat", Request::Stat { shards: vec![shard(1), shard(2)] }),
            request("audit, slices", Request::Audit(audit_slices())),
            request("audit, whole", Request::Audit(audit_whole())),
            request("put record", Request::PutRecord(put(None))),
            request("put record with a voucher", Request::PutRecord(put(Some(voucher)))),
            request("get record", Request::GetRecord { key, back: 1 }),
            request("losses, first page", Request::Losses { after: None, nonce: NONCE }),
            request("losses, next page", Request::Losses { after: Some(shard(1)), nonce: NONCE }),
            request("mesh, hello", Request::Mesh(Box::new(MeshMessage::Hello(mesh_hello())))),
            request("mesh, leave", Request::Mesh(Box::new(MeshMessage::Leave))),
        ],
    );
}

#[test]
fn control_responses() {
    let record = Signed::seal(&record(2), &signer(2), &network());
    let peer = Signed::seal(&peer_record(), &signer(4), &network());
    let receipt = Signed::seal(&receipt(), &signer(4), &network());
    let statement = Signed::seal(&audit_statement(audit_whole()), &signer(4), &network());
    let reserved =
        Reserved { ids: vec![ReservationId(1), ReservationId(u64::MAX)], valid_ms: 60_000, group: group_id() };
    let response = |name, value: Response| message(name, value, CONTROL_FRAME_MAX);
    check(
        "responses.hex",
        &[
            response("hello", Response::Hello(hello())),
            response("peers", Response::Peers { records: vec![peer], more: true }),
            response("reserved", Response::Reserved(reserved)),
            response("stat", Response::Stat { held: vec![Held { length: Some(65_536) }, Held { length: None }] }),
            response("audit", Response::Audit { statement, answer: b"answer".to_vec() }),
            response("record kept", Response::RecordKept { receipt }),
            response("conflict", Response::Conflict { held: record.clone() }),
            response("record", Response::Record { record, more: false }),
            response(
                "losses",
                Response::Losses { statement: Signed::seal(&losses(), &signer(4), &network()), more: true },
            ),
            response("taken", Response::Taken),
            response("refused", Response::Refused { reason: Refusal::Busy, retry_after_ms: 250 }),
        ],
    );
    for refusal in Refusal::ALL {
        assert_eq!(codec::encode(&refusal), codec::encode(&refusal.number()));
    }
}

#[test]
fn shard_lane() {
    let receipt = Signed::seal(&receipt(), &signer(4), &network());
    let refusal = Signed::seal(&refusal(), &signer(4), &network());
    let statement = Signed::seal(&serve(), &signer(4), &network());
    let delivery = Signed::seal(&delivery(), &signer(3), &network());
    let store = Header::Store { reservation: ReservationId(300), boot_epoch: EPOCH, nonce: NONCE };
    check(
        "lane.hex",
        &[
            framed("store header", store, false),
            framed("store end and trailer", StoreTrailer { shard: shard(1), length: 65_536 }, true),
            framed("store reply, kept", StoreReply::Kept(receipt), false),
            framed("store reply, refused", StoreReply::Refused(refusal), false),
            framed("retrieve header", Header::Retrieve { shard: shard(1), ranges: ranges(), nonce: NONCE }, false),
            framed("retrieve end and trailer", RetrieveTrailer { statement }, true),
            framed("delivery reply", DeliveryReply { receipt: delivery }, false),
            bytes("abort, busy", &encode_abort(Refusal::Busy), |line| {
                assert_eq!(DataWord::parse(*line.first_chunk().unwrap()), Ok(DataWord::Abort));
                assert_eq!(Refusal::from_number(u16::from_be_bytes([line[4], line[5]])), Refusal::Busy);
            }),
            bytes("word of a full data frame", &65_536u32.to_be_bytes(), |line| {
                assert_eq!(DataWord::parse(*line.first_chunk().unwrap()), Ok(DataWord::Data(65_536)));
            }),
        ],
    );
}

#[test]
fn pages_and_record_bodies() {
    check(
        "pages.hex",
        &[
            message("leaf page", leaf_page(), PAGE_MAX),
            message("inner page", inner_page(), PAGE_MAX),
            message("page reference", page_ref(7), PAGE_MAX),
            message("read section", read_section(), PAGE_MAX),
            message("owner record", owner_record(), RECORD_MAX),
            message("placement record", placement_record(), RECORD_MAX),
            message("password-hash settings", owner_record().kdf, RECORD_MAX),
        ],
    );
}

#[test]
fn capability_strings() {
    let hints = vec![
        Hint { node: node(4), address: "/ip4/192.0.2.7/tcp/4701".into() },
        Hint { node: node(5), address: String::new() },
    ];
    let cases: Vec<Case> = [
        ("shoal1", CapabilityKind::Locate),
        ("shoalr1", CapabilityKind::Read),
        ("shoalv1", CapabilityKind::Verify),
        ("shoalo1", CapabilityKind::Owner),
    ]
    .into_iter()
    .map(|(name, kind)| {
        let made = Capability::new(kind, &network(), public(1), [0x10; 32], [0x5e; 32], hints.clone());
        assert!(made.to_text().starts_with(name));
        text(name, made.to_text().as_str(), move |line| assert!(Capability::parse(line).unwrap() == made))
    })
    .collect();
    check("capabilities.txt", &cases);
}
