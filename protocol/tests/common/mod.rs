//! Fixed values of every message, made from fixed keys, for golden bytes and signature tests. Nothing here is random.

#![allow(dead_code, reason = "each test binary uses its own part")]

use ed25519_dalek::SigningKey;
use shoal_protocol::audit::{AuditRequest, AuditStatement, Challenge, answer_digest};
use shoal_protocol::control::Hello;
use shoal_protocol::group::{Group, Voucher};
use shoal_protocol::layout::Code;
use shoal_protocol::loss::{Loss, LossStatement};
use shoal_protocol::mesh::claim::Claim;
use shoal_protocol::mesh::flood::{FloodAck, FloodItem, FloodKind, FloodMessage};
use shoal_protocol::mesh::key::MeshKey;
use shoal_protocol::mesh::message::{Endpoint, MeshHello};
use shoal_protocol::mesh::name::NameClaim;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::route::{Origin, Reach, RouteMessage, RouteUpdate, Router, SeqnoRequest};
use shoal_protocol::page::{
    ChildRef, Entry, EntryKind, Extent, Page, PageKind, PageRef, ReadSection, SegmentRef, ShardIds, VerifySection,
};
use shoal_protocol::peer_record::PeerRecord;
use shoal_protocol::receipt::{ByteRange, DeliveryReceipt, Receipt, RefusalStatement, ServeStatement};
use shoal_protocol::record::{Holder, OwnerRecord, PlacementRange, PlacementRecord, Record, RecordKind};
use shoal_protocol::sealing::{KdfParams, KeySlot, SealedBox};
use shoal_protocol::{
    BootEpoch, ByteCount, FileId, GroupId, NetworkId, NodeId, Nonce, PublicKey, Refusal, SegmentNumber, ShardId,
    Signed, Suite, UnixMillis,
};

/// When everything here was said.
pub(crate) const TIME: UnixMillis = UnixMillis(1_700_000_000_000);
/// The run of every node here.
pub(crate) const EPOCH: BootEpoch = BootEpoch(0x0102_0304_0506_0708);
/// The nonce of every request here.
pub(crate) const NONCE: Nonce = Nonce::from_bytes([0x4e; 16]);

pub(crate) fn network() -> NetworkId {
    NetworkId::derive(Some(&[7; 32]), "golden").unwrap()
}

pub(crate) fn signer(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub(crate) fn public(n: u8) -> PublicKey {
    PublicKey::from_bytes(signer(n).verifying_key().to_bytes())
}

pub(crate) fn node(n: u8) -> NodeId {
    public(n).into()
}

pub(crate) fn shard(n: u8) -> ShardId {
    ShardId::of(&[n])
}

pub(crate) fn file() -> FileId {
    FileId::of_owner(&network(), &public(1))
}

pub(crate) fn group_id() -> GroupId {
    GroupId::of_owner(&network(), &public(1))
}

pub(crate) fn peer_record() -> PeerRecord {
    PeerRecord {
        addresses: vec!["/ip4/192.0.2.1/tcp/4701".into(), "/ip6/2001:db8::1/udp/4701/quic-v1".into()],
        boot_epoch: EPOCH,
        free: ByteCount(1 << 40),
        domain: Some("attic".into()),
        stores: true,
        time: TIME,
    }
}

pub(crate) fn losses() -> LossStatement {
    let loss = |n, found| Loss { shard: ShardId::from_bytes([n; 32]), found: UnixMillis(found) };
    LossStatement { losses: vec![loss(1, TIME.0), loss(2, 5)], boot_epoch: EPOCH, nonce: NONCE, time: TIME }
}

pub(crate) fn group() -> Group {
    Group {
        steward: public(2),
        payer: public(3),
        ceiling: ByteCount(1 << 30),
        issued: TIME,
        expires: TIME.saturating_add(31 * 24 * 3600 * 1000),
        serial: 1,
    }
}

pub(crate) fn voucher() -> Voucher {
    Voucher { holder: node(3), node: node(4), bytes: ByteCount(1 << 20), expires: TIME, serial: 9 }
}

pub(crate) fn receipt() -> Receipt {
    Receipt {
        shard: shard(1),
        length: 65_536,
        group: group_id(),
        expires: TIME.saturating_add(1),
        boot_epoch: EPOCH,
        nonce: NONCE,
        time: TIME,
    }
}

pub(crate) fn refusal() -> RefusalStatement {
    RefusalStatement { reason: Refusal::NoSpace, retry_after_ms: 1500, boot_epoch: EPOCH, nonce: NONCE, time: TIME }
}

pub(crate) fn ranges() -> Vec<ByteRange> {
    vec![ByteRange { start: 0, end: 17 }, ByteRange { start: 65_536, end: 131_072 }]
}

pub(crate) fn serve() -> ServeStatement {
    ServeStatement {
        shard: shard(1),
        ranges: ranges(),
        sent: 70_000,
        requester: node(3),
        boot_epoch: EPOCH,
        nonce: NONCE,
        time: TIME,
    }
}

pub(crate) fn delivery() -> DeliveryReceipt {
    DeliveryReceipt { shard: shard(1), ranges: ranges(), node: node(4), nonce: NONCE, time: TIME }
}

pub(crate) fn audit_slices() -> AuditRequest {
    let challenge = Challenge::Slices { seed: [0x5e; 32], count: 32 };
    AuditRequest { shard: shard(1), length: 2 << 20, challenge, nonce: NONCE }
}

pub(crate) fn audit_whole() -> AuditRequest {
    AuditRequest { challenge: Challenge::Whole { challenge: [0xc4; 32] }, ..audit_slices() }
}

pub(crate) fn audit_statement(request: AuditRequest) -> AuditStatement {
    AuditStatement { request, digest: answer_digest(b"answer"), auditor: node(3), boot_epoch: EPOCH, time: TIME }
}

pub(crate) fn sealed_box() -> SealedBox {
    SealedBox { salt: [0x5a; 32], sealed: vec![0xee; 24] }
}

pub(crate) fn record(version: u64) -> Record {
    let previous = (version > 1).then_some([0x9f; 32]);
    Record { kind: RecordKind::Placement, index: 3, version, previous, body: sealed_box() }
}

pub(crate) fn segment_ref(last: bool, rounds: usize) -> SegmentRef {
    SegmentRef {
        salt: [0xa1; 32],
        plain: 1_000_000,
        shards: ShardIds::new(&[shard(1), shard(2), shard(3)]),
        last,
        tokens: (rounds > 0).then(|| vec![0x70; 16 * 3 * rounds]),
    }
}

pub(crate) fn page_ref(page: u32) -> PageRef {
    PageRef { number: SegmentNumber::page(page).unwrap(), segment: segment_ref(true, 0) }
}

pub(crate) fn owner_record() -> OwnerRecord {
    OwnerRecord {
        format: 1,
        file: file(),
        suite: Suite::Aes256Gcm,
        code: Code { data: 2, parity: 1 },
        replicas: 1,
        kdf: KdfParams::recommended([0x0a; 16]),
        slots: vec![KeySlot { salt: [1; 32], commitment: [2; 32], sealed: [3; 48] }],
        root: page_ref(1),
        steward: public(2),
        previous_roots: vec![page_ref(0)],
    }
}

pub(crate) fn placement_record() -> PlacementRecord {
    let holder = |n, domain: Option<&str>| Holder {
        node: node(n),
        addresses: vec!["/ip4/192.0.2.7/tcp/4701".into()],
        domain: domain.map(Into::into),
    };
    let range = |first, last, slots| PlacementRange { first: SegmentNumber(first), last: SegmentNumber(last), slots };
    PlacementRecord {
        format: 1,
        file: file(),
        holders: vec![holder(4, Some("attic")), holder(5, None)],
        ranges: vec![
            range(0, 9, vec![Some(0), Some(1), None]),
            range(SegmentNumber::FIRST_PAGE, u32::MAX, vec![Some(1), None, Some(0)]),
        ],
    }
}

pub(crate) fn leaf_page() -> Page {
    let segments = vec![segment_ref(false, 0), segment_ref(true, 2)];
    let verify = VerifySection { level: 0, first_segment: 5, segments, children: vec![] };
    Page { format: 1, verify, read: Some(sealed_box()) }
}

pub(crate) fn inner_page() -> Page {
    let child = |page, kind, first, count| ChildRef { page: page_ref(page), kind, first, count };
    let children = vec![child(0, PageKind::Segments, 0, 700), child(1, PageKind::Entries, 0, 12)];
    let verify = VerifySection { level: 1, first_segment: 0, segments: vec![], children };
    Page { format: 1, verify, read: None }
}

pub(crate) fn read_section() -> ReadSection {
    let entry = |path: &str, kind, size, extents, inline| Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        modified_ms: -1,
        size,
        extents,
        inline,
    };
    let extents = vec![Extent { segment: 2, offset: 17, length: 5_000_000_000 }];
    ReadSection {
        entries: vec![
            entry("big", EntryKind::File, 5_000_000_000, extents, None),
            entry("dir", EntryKind::Directory, 0, vec![], None),
            entry("dir/small", EntryKind::File, 3, vec![], Some(b"abc".to_vec())),
            entry("link", EntryKind::Symlink, 3, vec![], Some(b"big".to_vec())),
        ],
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        versions: vec![1],
        boot_epoch: EPOCH,
        free: ByteCount(1 << 40),
        domain: Some("attic".into()),
        time: TIME,
        record: None,
    }
}

pub(crate) fn claim() -> Claim {
    let ago = |days: u64| UnixMillis(TIME.0 - days * 24 * 3600 * 1000);
    Claim { attempt: 2, issued: ago(9), bound: ago(1), time: TIME, expires: TIME.saturating_add(48 * 3600 * 1000) }
}

pub(crate) fn name_claim() -> NameClaim {
    let Claim { issued, bound, time, expires, .. } = claim();
    NameClaim { label: Some("nas-2".parse().unwrap()), issued, bound, time, expires }
}

pub(crate) fn origin(prefix: &str) -> Origin {
    let expires = TIME.saturating_add(600_000);
    Origin { prefix: prefix.parse().unwrap(), epoch: EPOCH, seqno: 7, expires }
}

pub(crate) fn mesh_router() -> Router {
    Router { node: node(4), epoch: EPOCH }
}

pub(crate) fn reach() -> Reach {
    Reach { direct: vec![PeerHash::new([1; 10]), PeerHash::new([2; 10])], others: true }
}

pub(crate) fn quiet_message() -> RouteMessage {
    RouteMessage {
        epoch: EPOCH,
        number: 1,
        updates: vec![],
        retracted: vec![],
        requests: vec![],
        reach: None,
        digest: u64::MAX,
        resync: false,
    }
}

pub(crate) fn route_message() -> RouteMessage {
    let origin = Signed::seal(&origin("10.1.0.0/16"), &signer(4), &network());
    let request = SeqnoRequest { prefix: "::/0".parse().unwrap(), router: mesh_router(), seqno: 8, hops: 64 };
    RouteMessage {
        number: 300,
        updates: vec![RouteUpdate { origin, metric: 300, max_frame: 8_900, relayed: true }],
        retracted: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        requests: vec![request],
        reach: Some(reach()),
        resync: true,
        ..quiet_message()
    }
}

pub(crate) fn flood_message() -> FloodMessage {
    let item = |kind| FloodItem { kind, signed: b"envelope".to_vec() };
    let items = vec![item(FloodKind::Claim), item(FloodKind::MeshKey), item(FloodKind::Name)];
    let to = BootEpoch(EPOCH.0 + 1);
    FloodMessage { from: EPOCH, to, series: 3, number: 2, items, ack: Some(FloodAck { series: 4, through: 1 }) }
}

pub(crate) fn mesh_hello() -> MeshHello {
    let not_after = TIME.saturating_add(7 * 24 * 3600 * 1000);
    let suites = vec![Suite::ChaCha20Poly1305, Suite::Aes256Gcm];
    let key = MeshKey { public: [9; 32], epoch: TIME.0, not_after, suites };
    let endpoint = |text: &str| Endpoint::new(text.parse().unwrap()).unwrap();
    MeshHello {
        epoch: EPOCH,
        key: Signed::seal(&key, &signer(4), &network()),
        endpoints: vec![endpoint("192.0.2.7:4700"), endpoint("[2001:db8::7]:4700")],
    }
}

pub(crate) fn flood_acknowledgement() -> FloodMessage {
    FloodMessage { series: 0, number: 0, items: vec![], ..flood_message() }
}
