//! Strategies for every message: values within their bounds, otherwise anything.

use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use shoal_protocol::audit::{AuditRequest, AuditStatement, Challenge};
use shoal_protocol::control::{Held, Hello, PutRecord, Request, Reserve, Reserved, Response};
use shoal_protocol::group::{Group, Voucher};
use shoal_protocol::lane::{DeliveryReply, Header, RetrieveTrailer, StoreReply, StoreTrailer};
use shoal_protocol::layout::Code;
use shoal_protocol::limits::{KDF_MEMORY_KIB_MAX, KDF_MEMORY_KIB_MIN, LEASE_MS_MAX, SHARD_MAX};
use shoal_protocol::loss::{Loss, LossStatement};
use shoal_protocol::mesh::claim::{ATTEMPT_MAX, CLAIM_LIFE_MAX_MS, Claim};
use shoal_protocol::mesh::flood::{FloodAck, FloodItem, FloodKind, FloodMessage};
use shoal_protocol::mesh::message::{Endpoint, MeshHello, MeshMessage};
use shoal_protocol::mesh::name::NameClaim;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::{
    FRAME_MAX, FRAME_MIN, METRIC_MAX, Origin, Reach, RouteMessage, RouteUpdate, Router, SeqnoRequest,
};
use shoal_protocol::page::{
    ChildRef, Entry, EntryKind, Extent, Page, PageKind, PageRef, ReadSection, SegmentRef, ShardIds, VerifySection,
};
use shoal_protocol::peer_record::PeerRecord;
use shoal_protocol::receipt::{ByteRange, DeliveryReceipt, Receipt, RefusalStatement, ServeStatement};
use shoal_protocol::record::{Holder, OwnerRecord, PlacementRange, PlacementRecord, Record, RecordKind};
use shoal_protocol::sealing::{KdfParams, KeySlot, SealedBox};
use shoal_protocol::{
    BootEpoch, ByteCount, FileId, GroupId, NodeId, Nonce, PublicKey, RecordKey, Refusal, ReservationId, SegmentNumber,
    ShardId, Signed, Suite, UnixMillis,
};

macro_rules! ids {
    ($($function:ident -> $type:ty, $len:literal;)*) => {
        $(fn $function() -> impl Strategy<Value = $type> {
            any::<[u8; $len]>().prop_map(<$type>::from_bytes)
        })*
    };
}
ids! {
    node -> NodeId, 32;
    shard -> ShardId, 32;
    file -> FileId, 32;
    group_id -> GroupId, 32;
    key -> PublicKey, 32;
    record_key -> RecordKey, 32;
    nonce -> Nonce, 16;
}

fn time() -> impl Strategy<Value = UnixMillis> {
    any::<u64>().prop_map(UnixMillis)
}

fn epoch() -> impl Strategy<Value = BootEpoch> {
    any::<u64>().prop_map(BootEpoch)
}

fn count() -> impl Strategy<Value = ByteCount> {
    any::<u64>().prop_map(ByteCount)
}

fn plain_text(max: usize) -> impl Strategy<Value = String> {
    vec(0x21u8..=0x7e, 1..=max).prop_map(|bytes| String::from_utf8(bytes).unwrap())
}

fn addresses() -> impl Strategy<Value = Vec<String>> {
    vec(plain_text(256), 0..=3)
}

fn domain() -> impl Strategy<Value = Option<String>> {
    of(plain_text(64))
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=max)
}

fn sized<const N: usize>() -> impl Strategy<Value = [u8; N]> {
    vec(any::<u8>(), N).prop_map(|bytes| bytes.try_into().unwrap())
}

/// Any envelope, signed by nobody.
pub(crate) fn signed() -> impl Strategy<Value = Signed> {
    (bytes(120), any::<[u8; 32]>(), sized::<64>()).prop_map(|(payload, key, signature)| {
        let mut out = Vec::new();
        let mut encoder = minicbor::Encoder::new(&mut out);
        encoder.map(3).unwrap().u8(0).unwrap().bytes(&payload).unwrap().u8(1).unwrap().bytes(&key).unwrap();
        encoder.u8(2).unwrap().bytes(&signature).unwrap();
        Signed::from_bytes(&out, 1024).unwrap()
    })
}

fn suite() -> impl Strategy<Value = Suite> {
    prop_oneof![Just(Suite::ChaCha20Poly1305), Just(Suite::Aes256Gcm)]
}

fn refusal_reason() -> impl Strategy<Value = Refusal> {
    (0..Refusal::ALL.len()).prop_map(|at| Refusal::ALL[at])
}

fn ranges() -> impl Strategy<Value = Vec<ByteRange>> {
    vec((1u32..1000, 1u32..60_000), 1..=64).prop_map(|steps| {
        let mut end = 0;
        let next = |(gap, length): (u32, u32)| {
            let range = ByteRange { start: end + gap, end: end + gap + length };
            end = range.end;
            range
        };
        steps.into_iter().map(next).filter(|range| range.end <= SHARD_MAX).collect()
    })
}

pub(crate) fn peer_record() -> impl Strategy<Value = PeerRecord> {
    (addresses(), epoch(), count(), domain(), any::<bool>(), time()).prop_map(
        |(addresses, boot_epoch, free, domain, stores, time)| PeerRecord {
            addresses,
            boot_epoch,
            free,
            domain,
            stores,
            time,
        },
    )
}

pub(crate) fn losses() -> impl Strategy<Value = LossStatement> {
    let losses = btree_map(any::<[u8; 32]>(), time(), 0..=256).prop_map(|losses| {
        losses.into_iter().map(|(shard, found)| Loss { shard: ShardId::from_bytes(shard), found }).collect()
    });
    (losses, epoch(), nonce(), time()).prop_map(|(losses, boot_epoch, nonce, time)| LossStatement {
        losses,
        boot_epoch,
        nonce,
        time,
    })
}

pub(crate) fn group() -> impl Strategy<Value = Group> {
    (key(), key(), count(), 0..u64::MAX / 2, 1..=LEASE_MS_MAX, any::<u64>()).prop_map(
        |(steward, payer, ceiling, issued, length, serial)| {
            let (issued, expires) = (UnixMillis(issued), UnixMillis(issued + length));
            Group { steward, payer, ceiling, issued, expires, serial }
        },
    )
}

pub(crate) fn voucher() -> impl Strategy<Value = Voucher> {
    (node(), node(), count(), time(), any::<u64>()).prop_map(|(holder, node, bytes, expires, serial)| Voucher {
        holder,
        node,
        bytes,
        expires,
        serial,
    })
}

pub(crate) fn receipt() -> impl Strategy<Value = Receipt> {
    (shard(), 0..=SHARD_MAX, group_id(), time(), epoch(), nonce(), time()).prop_map(
        |(shard, length, group, expires, boot_epoch, nonce, time)| Receipt {
            shard,
            length,
            group,
            expires,
            boot_epoch,
            nonce,
            time,
        },
    )
}

pub(crate) fn refusal() -> impl Strategy<Value = RefusalStatement> {
    (refusal_reason(), any::<u32>(), epoch(), nonce(), time()).prop_map(
        |(reason, retry_after_ms, boot_epoch, nonce, time)| RefusalStatement {
            reason,
            retry_after_ms,
            boot_epoch,
            nonce,
            time,
        },
    )
}

pub(crate) fn serve() -> impl Strategy<Value = ServeStatement> {
    (shard(), ranges(), any::<u64>(), node(), epoch(), nonce(), time()).prop_map(
        |(shard, ranges, sent, requester, boot_epoch, nonce, time)| ServeStatement {
            shard,
            ranges,
            sent,
            requester,
            boot_epoch,
            nonce,
            time,
        },
    )
}

pub(crate) fn delivery() -> impl Strategy<Value = DeliveryReceipt> {
    (shard(), ranges(), node(), nonce(), time()).prop_map(|(shard, ranges, node, nonce, time)| DeliveryReceipt {
        shard,
        ranges,
        node,
        nonce,
        time,
    })
}

pub(crate) fn audit() -> impl Strategy<Value = AuditRequest> {
    let slices = (any::<[u8; 32]>(), 1u8..=32).prop_map(|(seed, count)| Challenge::Slices { seed, count });
    let whole = any::<[u8; 32]>().prop_map(|challenge| Challenge::Whole { challenge });
    (shard(), 1..=SHARD_MAX, prop_oneof![slices, whole], nonce())
        .prop_map(|(shard, length, challenge, nonce)| AuditRequest { shard, length, challenge, nonce })
}

pub(crate) fn audit_statement() -> impl Strategy<Value = AuditStatement> {
    (audit(), any::<[u8; 32]>(), node(), epoch(), time()).prop_map(|(request, digest, auditor, boot_epoch, time)| {
        AuditStatement { request, digest, auditor, boot_epoch, time }
    })
}

fn sealed_box() -> impl Strategy<Value = SealedBox> {
    (any::<[u8; 32]>(), bytes(200)).prop_map(|(salt, sealed)| SealedBox { salt, sealed })
}

pub(crate) fn record() -> impl Strategy<Value = Record> {
    let kind = prop_oneof![Just(RecordKind::Owner), Just(RecordKind::Placement)];
    (kind, any::<u32>(), 1u64..5, any::<[u8; 32]>(), sealed_box()).prop_map(|(kind, index, version, hash, body)| {
        Record { kind, index, version, previous: (version > 1).then_some(hash), body }
    })
}

fn segment_ref(count: usize, last: impl Strategy<Value = bool>) -> impl Strategy<Value = SegmentRef> {
    let tokens = of((1usize..=3, any::<u8>()));
    (any::<[u8; 32]>(), 1..=u32::MAX, vec(shard(), count), last, tokens).prop_map(
        move |(salt, plain, shards, last, tokens)| SegmentRef {
            salt,
            plain,
            shards: ShardIds::new(&shards),
            last,
            tokens: tokens.map(|(rounds, fill)| vec![fill; 16 * count * rounds]),
        },
    )
}

pub(crate) fn page_ref(count: usize) -> impl Strategy<Value = PageRef> {
    (SegmentNumber::FIRST_PAGE..=u32::MAX, segment_ref(count, Just(true)))
        .prop_map(|(number, segment)| PageRef { number: SegmentNumber(number), segment })
}

pub(crate) fn page() -> impl Strategy<Value = Page> {
    let leaf = (0..1u32 << 30, vec(segment_ref(4, any::<bool>()), 0..4))
        .prop_map(|(first_segment, segments)| VerifySection { level: 0, first_segment, segments, children: vec![] });
    let kind = prop_oneof![Just(PageKind::Segments), Just(PageKind::Entries)];
    let child = (page_ref(4), kind, 0..1u32 << 30, 1..1u32 << 30).prop_map(|(page, kind, first, count)| ChildRef {
        page,
        kind,
        first,
        count,
    });
    let inner = (1u8..=6, 0..1u32 << 30, vec(child, 1..4)).prop_map(|(level, first_segment, children)| VerifySection {
        level,
        first_segment,
        segments: vec![],
        children,
    });
    (prop_oneof![leaf, inner], of(sealed_box())).prop_map(|(verify, read)| Page { format: 1, verify, read })
}

type Content = (EntryKind, Vec<Extent>, Option<Vec<u8>>);

pub(crate) fn read_section() -> impl Strategy<Value = ReadSection> {
    let part = vec(any::<char>(), 1..8).prop_map(|chars| {
        let text: String = chars.into_iter().filter(|c| !matches!(c, '/' | '\0')).collect();
        if matches!(text.as_str(), "" | "." | "..") { "x".into() } else { text }
    });
    let path = vec(part, 1..4).prop_map(|parts: Vec<String>| parts.join("/"));
    let extent = (0..SegmentNumber::FIRST_PAGE, any::<u32>(), 1..u64::MAX >> 4)
        .prop_map(|(segment, offset, length)| Extent { segment, offset, length });
    let content = prop_oneof![
        vec(extent, 1..4).prop_map(|extents| (EntryKind::File, extents, None)),
        bytes(2048).prop_map(|inline| (EntryKind::File, vec![], Some(inline))),
        vec(any::<u8>(), 1..64).prop_map(|target| (EntryKind::Symlink, vec![], Some(target))),
        Just((EntryKind::Directory, vec![], None)),
    ];
    btree_map(path, (content, 0u32..=0o7777, any::<i64>()), 0..4).prop_map(|entries| {
        let entry = |(path, (content, mode, modified_ms)): (String, (Content, u32, i64))| {
            let (kind, extents, inline) = content;
            let stream: u64 = extents.iter().map(|extent| extent.length).sum();
            let size = inline.as_ref().map_or(stream, |bytes| bytes.len() as u64);
            Entry { path, kind, mode, modified_ms, size, extents, inline }
        };
        ReadSection { entries: entries.into_iter().map(entry).collect() }
    })
}

pub(crate) fn owner_record() -> impl Strategy<Value = OwnerRecord> {
    let kdf = (any::<[u8; 16]>(), KDF_MEMORY_KIB_MIN..=KDF_MEMORY_KIB_MAX, 1u32..=16, 1u32..=16)
        .prop_map(|(salt, memory_kib, passes, lanes)| KdfParams { salt, memory_kib, passes, lanes });
    let slot = (any::<[u8; 32]>(), any::<[u8; 32]>(), sized::<48>()).prop_map(|(salt, commitment, sealed)| KeySlot {
        salt,
        commitment,
        sealed,
    });
    let shape = (1u8..5, 1u8..5, 1u8..=2);
    (file(), suite(), shape, kdf, vec(slot, 1..4), key()).prop_flat_map(
        |(file, suite, (data, parity, replicas), kdf, slots, steward)| {
            let count = usize::from(data + parity) * usize::from(replicas);
            (page_ref(count), vec(page_ref(count), 0..3)).prop_map(move |(root, previous_roots)| OwnerRecord {
                format: 1,
                file,
                suite,
                code: Code { data, parity },
                replicas,
                kdf: kdf.clone(),
                slots: slots.clone(),
                root,
                steward,
                previous_roots,
            })
        },
    )
}

pub(crate) fn placement_record() -> impl Strategy<Value = PlacementRecord> {
    let holder =
        (node(), addresses(), domain()).prop_map(|(node, addresses, domain)| Holder { node, addresses, domain });
    let ranges = vec((0u32..1000, 0u32..1000, vec(of(0u16..2), 2..6)), 0..4);
    (file(), vec(holder, 2..4), ranges).prop_map(|(file, holders, ranges)| {
        let mut free = 0;
        let next = |(gap, length, slots): (u32, u32, Vec<Option<u16>>)| {
            let first = free + gap;
            free = first + length + 1;
            PlacementRange { first: SegmentNumber(first), last: SegmentNumber(first + length), slots }
        };
        PlacementRecord { format: 1, file, holders, ranges: ranges.into_iter().map(next).collect() }
    })
}

fn hello() -> impl Strategy<Value = Hello> {
    (vec(any::<u16>(), 1..=8), epoch(), count(), domain(), time(), of(signed())).prop_map(
        |(versions, boot_epoch, free, domain, time, record)| Hello { versions, boot_epoch, free, domain, time, record },
    )
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let reserve = (epoch(), signed(), vec(1..=SHARD_MAX, 1..=64), of(signed()))
        .prop_map(|(boot_epoch, group, lengths, voucher)| Reserve { boot_epoch, group, lengths, voucher });
    let put =
        (epoch(), signed(), signed(), of(signed()), nonce()).prop_map(|(boot_epoch, group, record, voucher, nonce)| {
            PutRecord { boot_epoch, group, record, voucher, nonce }
        });
    prop_oneof![
        hello().prop_map(Request::Hello),
        of(node()).prop_map(|after| Request::Peers { after }),
        vec(node(), 1..=32).prop_map(|nodes| Request::Locate { nodes }),
        reserve.prop_map(Request::Reserve),
        vec(shard(), 1..=256).prop_map(|shards| Request::Stat { shards }),
        audit().prop_map(Request::Audit),
        put.prop_map(Request::PutRecord),
        (record_key(), 0u8..=1).prop_map(|(key, back)| Request::GetRecord { key, back }),
        (of(shard()), nonce()).prop_map(|(after, nonce)| Request::Losses { after, nonce }),
        mesh_message().prop_map(|message| Request::Mesh(Box::new(message))),
    ]
}

pub(crate) fn response() -> impl Strategy<Value = Response> {
    let reserved = (vec(any::<u64>().prop_map(ReservationId), 1..=64), any::<u32>(), group_id())
        .prop_map(|(ids, valid_ms, group)| Reserved { ids, valid_ms, group });
    prop_oneof![
        hello().prop_map(Response::Hello),
        (vec(signed(), 0..=32), any::<bool>()).prop_map(|(records, more)| Response::Peers { records, more }),
        reserved.prop_map(Response::Reserved),
        vec(of(any::<u32>()).prop_map(|length| Held { length }), 1..=256).prop_map(|held| Response::Stat { held }),
        (signed(), bytes(2000)).prop_map(|(statement, answer)| Response::Audit { statement, answer }),
        signed().prop_map(|receipt| Response::RecordKept { receipt }),
        signed().prop_map(|held| Response::Conflict { held }),
        (signed(), any::<bool>()).prop_map(|(record, more)| Response::Record { record, more }),
        (signed(), any::<bool>()).prop_map(|(statement, more)| Response::Losses { statement, more }),
        Just(Response::Taken),
        (refusal_reason(), any::<u32>())
            .prop_map(|(reason, retry_after_ms)| Response::Refused { reason, retry_after_ms }),
    ]
}

pub(crate) fn header() -> impl Strategy<Value = Header> {
    let store = (any::<u64>(), epoch(), nonce()).prop_map(|(reservation, boot_epoch, nonce)| Header::Store {
        reservation: ReservationId(reservation),
        boot_epoch,
        nonce,
    });
    let retrieve =
        (shard(), ranges(), nonce()).prop_map(|(shard, ranges, nonce)| Header::Retrieve { shard, ranges, nonce });
    prop_oneof![store, retrieve]
}

pub(crate) fn store_trailer() -> impl Strategy<Value = StoreTrailer> {
    (shard(), 1..=SHARD_MAX).prop_map(|(shard, length)| StoreTrailer { shard, length })
}

pub(crate) fn store_reply() -> impl Strategy<Value = StoreReply> {
    prop_oneof![signed().prop_map(StoreReply::Kept), signed().prop_map(StoreReply::Refused)]
}

pub(crate) fn retrieve_trailer() -> impl Strategy<Value = RetrieveTrailer> {
    signed().prop_map(|statement| RetrieveTrailer { statement })
}

pub(crate) fn delivery_reply() -> impl Strategy<Value = DeliveryReply> {
    signed().prop_map(|receipt| DeliveryReply { receipt })
}

pub(crate) fn prefix() -> impl Strategy<Value = Prefix> {
    let cut = |left: u128, length: u8| left & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    let v4 = (any::<u32>(), 0u8..=32).prop_map(move |(address, length)| {
        let address = u32::try_from(cut(u128::from(address) << 96, length) >> 96).unwrap();
        Prefix::new(std::net::Ipv4Addr::from_bits(address).into(), length).unwrap()
    });
    let v6 = (any::<u128>(), 0u8..=128).prop_map(move |(address, length)| {
        // Not zero in front: never an IPv4 address in IPv6 form.
        let address = cut(address | 1 << 127, length);
        Prefix::new(std::net::Ipv6Addr::from_bits(address).into(), length).unwrap()
    });
    prop_oneof![v4, v6]
}

pub(crate) fn claim() -> impl Strategy<Value = Claim> {
    (0..=ATTEMPT_MAX, 0..1u64 << 40, 0..1u64 << 40, 0..1u64 << 40, 1..=CLAIM_LIFE_MAX_MS).prop_map(
        |(attempt, issued, member, used, life)| {
            let (bound, time) = (issued + member, issued + member + used);
            let [issued, bound, time, expires] = [issued, bound, time, time + life].map(UnixMillis);
            Claim { attempt, issued, bound, time, expires }
        },
    )
}

pub(crate) fn name_claim() -> impl Strategy<Value = NameClaim> {
    let label = "[a-z][a-z0-9]{0,30}-?[a-z0-9]".prop_filter_map("a reserved one", |text| text.parse().ok());
    (of(label), claim()).prop_map(|(label, Claim { issued, bound, time, expires, .. })| NameClaim {
        label,
        issued,
        bound,
        time,
        expires,
    })
}

pub(crate) fn origin() -> impl Strategy<Value = Origin> {
    (prefix(), epoch(), any::<u32>(), time()).prop_map(|(prefix, epoch, seqno, expires)| Origin {
        prefix,
        epoch,
        seqno,
        expires,
    })
}

fn router() -> impl Strategy<Value = Router> {
    (node(), epoch()).prop_map(|(node, epoch)| Router { node, epoch })
}

fn reach() -> impl Strategy<Value = Reach> {
    (proptest::collection::btree_set(any::<[u8; 10]>(), 0..5), any::<bool>())
        .prop_map(|(peers, others)| Reach { direct: peers.into_iter().map(PeerHash::new).collect(), others })
}

/// An envelope no longer than an origin's may be, signed by nobody.
fn short_signed() -> impl Strategy<Value = Signed> {
    signed().prop_filter("too long for an origin", |signed| signed.to_bytes().len() <= 176)
}

fn route_update() -> impl Strategy<Value = RouteUpdate> {
    (short_signed(), 0..=METRIC_MAX, FRAME_MIN..=FRAME_MAX, any::<bool>())
        .prop_map(|(origin, metric, max_frame, relayed)| RouteUpdate { origin, metric, max_frame, relayed })
}

fn seqno_request() -> impl Strategy<Value = SeqnoRequest> {
    (prefix(), router(), any::<u32>(), 1u8..=64).prop_map(|(prefix, router, seqno, hops)| SeqnoRequest {
        prefix,
        router,
        seqno,
        hops,
    })
}

pub(crate) fn route_message() -> impl Strategy<Value = RouteMessage> {
    let lists = (vec(route_update(), 0..4), vec(prefix(), 0..4), vec(seqno_request(), 0..4));
    (epoch(), 1..=u64::MAX, lists, of(reach()), any::<u64>(), any::<bool>()).prop_map(
        |(epoch, number, (updates, retracted, requests), reach, digest, resync)| RouteMessage {
            epoch,
            number,
            updates,
            retracted,
            requests,
            reach,
            digest,
            resync,
        },
    )
}

pub(crate) fn mesh_message() -> impl Strategy<Value = MeshMessage> {
    let endpoint = (any::<[u8; 4]>(), any::<[u8; 16]>(), any::<bool>(), any::<u16>());
    let endpoint = endpoint.prop_filter_map("nobody is there", |(v4, v6, is_v4, port)| {
        Endpoint::new(if is_v4 { (v4, port).into() } else { (v6, port).into() })
    });
    let hello = (epoch(), signed(), vec(endpoint, 0..=8));
    prop_oneof![
        hello.prop_map(|(epoch, key, endpoints)| MeshMessage::Hello(MeshHello { epoch, key, endpoints })),
        route_message().prop_map(MeshMessage::Routes),
        flood_message().prop_map(MeshMessage::Flood),
        Just(MeshMessage::Leave),
    ]
}

pub(crate) fn flood_message() -> impl Strategy<Value = FloodMessage> {
    let kind = prop_oneof![Just(FloodKind::Claim), Just(FloodKind::MeshKey), Just(FloodKind::Name)];
    let item = (kind, vec(any::<u8>(), 1..100)).prop_map(|(kind, signed)| FloodItem { kind, signed });
    let ack = || (1..=u64::MAX, any::<u64>()).prop_map(|(series, through)| FloodAck { series, through });
    let runs = || (epoch(), epoch());
    let full = (runs(), (1..=u64::MAX, 1..=u64::MAX), vec(item, 1..5), of(ack()))
        .prop_map(|((from, to), (series, number), items, ack)| FloodMessage { from, to, series, number, items, ack });
    let empty = (runs(), ack()).prop_map(|((from, to), ack)| FloodMessage {
        from,
        to,
        series: 0,
        number: 0,
        items: vec![],
        ack: Some(ack),
    });
    prop_oneof![full, empty]
}
