//! Nodes of one process on real loopback sockets, spoken to by hand over the wire: who may do what, what is kept, how
//! a lane goes on after a refusal, and how fast a node stops. It looks at no file but through the node.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod admission;
mod audits;
mod stalled;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use shoal_node::{Config, Node};
use shoal_protocol::codec;
use shoal_protocol::control::{Hello, PROTOCOL_VERSION, PutRecord, Request, Reserve, Reserved, Response};
use shoal_protocol::group::Group;
use shoal_protocol::lane::{
    ABORT, END, Header, RetrieveTrailer, StoreReply, StoreTrailer, encode_abort, encode_end, encode_message,
};
use shoal_protocol::loss::LossStatement;
use shoal_protocol::peer_record::PeerRecord;
use shoal_protocol::receipt::{ByteRange, Receipt, RefusalStatement, ServeStatement};
use shoal_protocol::record::{Record, RecordKind, link};
use shoal_protocol::sealing::SealedBox;
use shoal_protocol::{
    BootEpoch, ByteCount, NetworkId, NodeId, Nonce, PublicKey, Refusal, ReservationId, ShardId, Signed, UnixMillis,
};
use shoal_swarm::{ShardLane, Started, SwarmConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

const WAIT: Duration = Duration::from_secs(10);
const SEED: [u8; 32] = [42; 32];

fn network() -> NetworkId {
    NetworkId::derive(None, "loopback").unwrap()
}

fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    UnixMillis(u64::try_from(since.as_millis()).unwrap())
}

async fn node(data: &Path, allow: Vec<NodeId>, bootstrap: Vec<String>) -> Node {
    Node::start(config(data, allow, bootstrap)).await.unwrap()
}

fn config(data: &Path, allow: Vec<NodeId>, bootstrap: Vec<String>) -> Config {
    Config {
        data_dir: data.to_path_buf(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
        bootstrap,
        network: network(),
        name: "loopback".into(),
        quota: Some(64 << 20),
        allow,
        open: false,
        members_only: false,
        voucher_issuers: vec![],
        domain: Some("cellar".into()),
        vpn: None,
        networks: vec![],
    }
}

/// A visitor that speaks the wire by hand.
struct Visitor {
    swarm: Started,
    node: NodeId,
    epoch: BootEpoch,
}

fn visitor_id() -> NodeId {
    NodeId::from_bytes(SigningKey::from_bytes(&SEED).verifying_key().to_bytes())
}

impl Visitor {
    async fn connect(node: &Node) -> Self {
        let swarm = shoal_swarm::start(SwarmConfig::new(Zeroizing::new(SEED), network().tag())).await.unwrap();
        let reached = swarm.handle.dial(None, node.addresses().to_vec(), WAIT).await.unwrap();
        assert_eq!(reached, node.id());
        let mut visitor = Self { swarm, node: reached, epoch: BootEpoch(0) };
        let hello = Hello {
            versions: vec![PROTOCOL_VERSION],
            boot_epoch: BootEpoch(1),
            free: ByteCount(0),
            domain: None,
            time: now(),
            record: None,
        };
        let Response::Hello(hello) = visitor.ask(Request::Hello(hello)).await else { panic!("no HELLO") };
        assert_eq!(hello.domain.as_deref(), Some("cellar"));
        visitor.epoch = hello.boot_epoch;
        visitor
    }

    async fn ask(&self, request: Request) -> Response {
        let body = self.swarm.handle.request(self.node, request.to_bytes().into(), WAIT).await.unwrap();
        Response::from_bytes(&body).unwrap()
    }

    async fn lane(&self) -> ShardLane {
        self.swarm.handle.lane(self.node, WAIT).await.unwrap()
    }

    async fn reserve(&self, length: u32) -> ReservationId {
        let reserve = Reserve { boot_epoch: self.epoch, group: group(1, 60_000), lengths: vec![length], voucher: None };
        match self.ask(Request::Reserve(reserve)).await {
            Response::Reserved(Reserved { ids, .. }) => ids[0],
            other => panic!("{other:?}"),
        }
    }
}

fn owner() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

fn group(serial: u64, lives_ms: u64) -> Signed {
    let key = PublicKey::from_bytes(owner().verifying_key().to_bytes());
    let group = Group {
        steward: key,
        payer: key,
        ceiling: ByteCount(1 << 30),
        issued: UnixMillis(now().0 - 1000),
        expires: now().saturating_add(lives_ms),
        serial,
    };
    Signed::seal(&group, &owner(), &network())
}

async fn message<T: codec::Message>(lane: &mut ShardLane) -> T {
    let mut word = [0; 4];
    lane.read_exact(&mut word).await.unwrap();
    let mut bytes = vec![0; u32::from_be_bytes(word) as usize];
    lane.read_exact(&mut bytes).await.unwrap();
    codec::decode(&bytes, 1 << 16).unwrap()
}

async fn send(lane: &mut ShardLane, bytes: &[u8]) {
    lane.write_all(bytes).await.unwrap();
    lane.flush().await.unwrap();
}

async fn store(lane: &mut ShardLane, header: &Header, bytes: &[u8], id: ShardId) -> StoreReply {
    let mut out = encode_message(header);
    for piece in bytes.chunks(65_536) {
        out.extend_from_slice(&u32::try_from(piece.len()).unwrap().to_be_bytes());
        out.extend_from_slice(piece);
    }
    out.extend(encode_end(&StoreTrailer { shard: id, length: u32::try_from(bytes.len()).unwrap() }));
    send(lane, &out).await;
    message(lane).await
}

fn refusal(reply: &StoreReply, node: NodeId) -> Refusal {
    let StoreReply::Refused(signed) = reply else { panic!("{reply:?}") };
    signed.verify_by::<RefusalStatement>(&node.into(), &network()).unwrap().reason
}

/// The bytes of a RETRIEVE, or why there are none.
async fn retrieve(lane: &mut ShardLane, shard: ShardId, range: ByteRange, node: NodeId) -> Result<Vec<u8>, Refusal> {
    let nonce = Nonce::from_bytes([3; 16]);
    send(lane, &encode_message(&Header::Retrieve { shard, ranges: vec![range], nonce })).await;
    let mut out = Vec::new();
    let result = loop {
        let mut word = [0; 4];
        lane.read_exact(&mut word).await.unwrap();
        match u32::from_be_bytes(word) {
            END => break Ok(message::<RetrieveTrailer>(lane).await),
            ABORT => {
                let mut number = [0; 2];
                lane.read_exact(&mut number).await.unwrap();
                break Err(Refusal::from_number(u16::from_be_bytes(number)));
            }
            length => {
                let start = out.len();
                out.resize(start + length as usize, 0);
                lane.read_exact(&mut out[start..]).await.unwrap();
            }
        }
    };
    send(lane, &encode_abort(Refusal::Cancelled)).await;
    result.map(|trailer| {
        let statement = trailer.statement.verify_by::<ServeStatement>(&node.into(), &network()).unwrap();
        assert_eq!((statement.sent, statement.requester, statement.nonce), (out.len() as u64, visitor_id(), nonce));
        out
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_stored_and_read_and_the_lane_survives_refusals() {
    let place = tempfile::tempdir().unwrap();
    let node = node(place.path(), vec![visitor_id()], vec![]).await;
    let visitor = Visitor::connect(&node).await;
    let bytes: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
    let (id, length, nonce) = (ShardId::of(&bytes), 10_000, Nonce::from_bytes([7; 16]));
    let header = |reservation, boot_epoch| Header::Store { reservation, boot_epoch, nonce };
    let mut lane = visitor.lane().await;

    let unknown = store(&mut lane, &header(ReservationId(5), visitor.epoch), &bytes, id).await;
    assert_eq!(refusal(&unknown, node.id()), Refusal::NoReservation);
    let place_for = visitor.reserve(length).await;
    let old = store(&mut lane, &header(place_for, BootEpoch(0)), &bytes, id).await;
    assert_eq!(refusal(&old, node.id()), Refusal::WrongEpoch, "and the place is not used up");
    let kept = store(&mut lane, &header(place_for, visitor.epoch), &bytes, id).await;
    let StoreReply::Kept(receipt) = kept else { panic!("{kept:?}") };
    let receipt = receipt.verify_by::<Receipt>(&node.id().into(), &network()).unwrap();
    assert_eq!((receipt.shard, receipt.length, receipt.nonce), (id, length, nonce));
    let again = store(&mut lane, &header(place_for, visitor.epoch), &bytes, id).await;
    assert_eq!(refusal(&again, node.id()), Refusal::NoReservation, "a place is used once");

    let wrong = visitor.reserve(length).await;
    let mismatch = store(&mut lane, &header(wrong, visitor.epoch), &bytes[1..], id).await;
    assert_eq!(refusal(&mismatch, node.id()), Refusal::Mismatch);
    let short = visitor.reserve(100).await;
    let long = store(&mut lane, &header(short, visitor.epoch), &bytes, id).await;
    assert_eq!(refusal(&long, node.id()), Refusal::Mismatch, "more than was reserved");
    let stopped = visitor.reserve(length).await;
    let mut abort = encode_message(&header(stopped, visitor.epoch));
    abort.extend(encode_abort(Refusal::Cancelled));
    send(&mut lane, &abort).await;
    assert_eq!(refusal(&message(&mut lane).await, node.id()), Refusal::Cancelled);

    let all = ByteRange { start: 0, end: length };
    assert_eq!(retrieve(&mut lane, id, all, node.id()).await.unwrap(), bytes);
    assert_eq!(retrieve(&mut lane, ShardId::of(b"?"), all, node.id()).await, Err(Refusal::NotFound));
    let beyond = ByteRange { start: 0, end: length + 1 };
    assert_eq!(retrieve(&mut lane, id, beyond, node.id()).await, Err(Refusal::Malformed));
    assert_eq!(retrieve(&mut lane, id, all, node.id()).await.unwrap(), bytes);

    let Response::Stat { held } = visitor.ask(Request::Stat { shards: vec![id, ShardId::of(b"?")] }).await else {
        panic!("no STAT")
    };
    assert_eq!(held.iter().map(|held| held.length).collect::<Vec<_>>(), [Some(length), None]);

    let begun = Instant::now();
    node.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let reopened = self::node(place.path(), vec![], vec![]).await;
    let visitor = Visitor::connect(&reopened).await;
    let mut lane = visitor.lane().await;
    assert_eq!(retrieve(&mut lane, id, all, reopened.id()).await.unwrap(), bytes, "after a restart, by a stranger");
    reopened.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_says_so_to_transfers_under_way() {
    let place = tempfile::tempdir().unwrap();
    let node = node(place.path(), vec![visitor_id()], vec![]).await;
    let visitor = Visitor::connect(&node).await;
    let (reservation, id) = (visitor.reserve(1000).await, node.id());
    let mut lane = visitor.lane().await;
    let nonce = Nonce::from_bytes([7; 16]);
    let mut half = encode_message(&Header::Store { reservation, boot_epoch: visitor.epoch, nonce });
    half.extend_from_slice(&500u32.to_be_bytes());
    half.extend_from_slice(&[1; 500]);
    send(&mut lane, &half).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    let (reply, ()) = tokio::join!(message(&mut lane), node.shutdown());
    assert_eq!(refusal(&reply, id), Refusal::Stopping);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_read_and_do_not_write() {
    let place = tempfile::tempdir().unwrap();
    let node = node(place.path(), vec![], vec![]).await;
    let visitor = Visitor::connect(&node).await;
    let denied = Response::Refused { reason: Refusal::Denied, retry_after_ms: 0 };
    let reserve = Reserve { boot_epoch: visitor.epoch, group: group(1, 60_000), lengths: vec![9], voucher: None };
    assert_eq!(visitor.ask(Request::Reserve(reserve)).await, denied);
    let put = put_record(&visitor, record(1, None, 0));
    assert_eq!(visitor.ask(put).await, denied);
    let key = RecordKind::Owner.key(&network(), &owner_key(), 0);
    assert_eq!(visitor.ask(Request::GetRecord { key, back: 0 }).await, Response::refused(Refusal::NotFound));
    let Response::Peers { records, more: false } = visitor.ask(Request::Peers { after: None }).await else {
        panic!("no PEERS")
    };
    assert_eq!(records.len(), 1, "its own");
    node.shutdown().await;
}

fn owner_key() -> PublicKey {
    PublicKey::from_bytes(owner().verifying_key().to_bytes())
}

fn record(version: u64, previous: Option<&Signed>, body: u8) -> Signed {
    let record = Record {
        kind: RecordKind::Owner,
        index: 0,
        version,
        previous: previous.map(|signed| link(&signed.to_bytes())),
        body: SealedBox { salt: [0; 32], sealed: vec![body; 40] },
    };
    Signed::seal(&record, &owner(), &network())
}

fn put_record(visitor: &Visitor, record: Signed) -> Request {
    Request::PutRecord(PutRecord {
        boot_epoch: visitor.epoch,
        group: group(1, 60_000),
        record,
        voucher: None,
        nonce: Nonce::from_bytes([8; 16]),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn records_follow_each_other_and_leases_are_judged() {
    let place = tempfile::tempdir().unwrap();
    let node = node(place.path(), vec![visitor_id()], vec![]).await;
    let visitor = Visitor::connect(&node).await;
    let (first, other) = (record(1, None, 0), record(1, None, 1));
    let second = record(2, Some(&first), 0);

    let put = |record: &Signed| visitor.ask(put_record(&visitor, record.clone()));
    let Response::RecordKept { receipt } = put(&first).await else { panic!("not kept") };
    let receipt = receipt.verify_by::<Receipt>(&node.id().into(), &network()).unwrap();
    assert_eq!(receipt.length as usize, first.to_bytes().len());
    assert!(matches!(put(&first).await, Response::RecordKept { .. }), "the same again");
    assert_eq!(put(&other).await, Response::Conflict { held: first.clone() });
    let rivals: Vec<Signed> = (10..18).map(|body| record(2, Some(&first), body)).collect();
    let answers = futures::future::join_all(rivals.iter().map(put)).await;
    let kept = answers.iter().filter(|answer| matches!(answer, Response::RecordKept { .. })).count();
    assert_eq!(kept, 1, "one successor wins: {answers:?}");
    assert!(matches!(put(&second).await, Response::Conflict { .. }));
    let key = RecordKind::Owner.key(&network(), &owner_key(), 0);
    let Response::Record { more: true, .. } = visitor.ask(Request::GetRecord { key, back: 0 }).await else {
        panic!("no record")
    };
    assert_eq!(visitor.ask(Request::GetRecord { key, back: 1 }).await, Response::Record { record: first, more: false });

    let reserve = |epoch, group| {
        let reserve = Reserve { boot_epoch: epoch, group, lengths: vec![1000], voucher: None };
        visitor.ask(Request::Reserve(reserve))
    };
    let refused = Response::refused;
    assert_eq!(reserve(BootEpoch(0), group(1, 60_000)).await, refused(Refusal::WrongEpoch));
    assert_eq!(reserve(visitor.epoch, group(1, 0)).await, refused(Refusal::NoLease), "over");
    let foreign = Signed::seal(
        &*group(1, 60_000).verify::<Group>(&network()).unwrap(),
        &owner(),
        &NetworkId::from_bytes([1; 32]),
    );
    assert_eq!(reserve(visitor.epoch, foreign).await, refused(Refusal::Forged));
    let large =
        Reserve { boot_epoch: visitor.epoch, group: group(1, 60_000), lengths: vec![4 << 20; 20], voucher: None };
    assert_eq!(visitor.ask(Request::Reserve(large)).await, refused(Refusal::NoSpace), "80 MiB of 64");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_known_node_leads_to_all() {
    let places: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut nodes: Vec<Node> = Vec::new();
    for place in &places {
        let bootstrap = nodes.last().map(|before| before.addresses()[0].clone()).into_iter().collect();
        nodes.push(node(place.path(), vec![], bootstrap).await);
    }
    let visitor = Visitor::connect(&nodes[0]).await;
    knows(&visitor, 4).await;
    let located = visitor.ask(Request::Locate { nodes: vec![nodes[3].id()] }).await;
    let Response::Peers { records, more: false } = located else { panic!("{located:?}") };
    let record = records[0].verify_by::<PeerRecord>(&nodes[3].id().into(), &network()).unwrap();
    assert!(record.stores && record.addresses.iter().all(|address| address.starts_with("/ip4/127.0.0.1/tcp/")));
    for node in nodes {
        node.shutdown().await;
    }
}

async fn knows(visitor: &Visitor, count: usize) {
    let begun = Instant::now();
    loop {
        let Response::Peers { records, .. } = visitor.ask(Request::Peers { after: None }).await else {
            panic!("no PEERS")
        };
        if records.len() == count {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "{} of {count} after 15 s", records.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Refused with BUSY and a time to come again.
fn is_busy(response: &Response) -> bool {
    matches!(response, Response::Refused { reason: Refusal::Busy, retry_after_ms } if *retry_after_ms >= 500)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stalls_makes_the_node_busy_and_never_deaf() {
    let place = tempfile::tempdir().unwrap();
    let disk = stalled::StalledVfs::default();
    let node = Node::start_on(config(place.path(), vec![visitor_id()], vec![]), Arc::new(disk.clone())).await.unwrap();
    let visitor = Visitor::connect(&node).await;
    let bytes = vec![5; 10_000];
    let id = ShardId::of(&bytes);
    let reservation = visitor.reserve(10_000).await;
    let mut lane = visitor.lane().await;
    disk.stall();

    // What needs the disk waits, and is told to come again: a shard, a statement, a record.
    let header = Header::Store { reservation, boot_epoch: visitor.epoch, nonce: Nonce::from_bytes([7; 16]) };
    let stored = store(&mut lane, &header, &bytes, id);
    let reserve = Reserve { boot_epoch: visitor.epoch, group: group(2, 60_000), lengths: vec![10_000], voucher: None };
    let reserved = visitor.ask(Request::Reserve(reserve.clone()));
    let record = record(1, None, 1);
    let recorded = visitor.ask(put_record(&visitor, record));
    // What needs none is answered at once meanwhile.
    let others = async {
        for _ in 0..20 {
            let begun = Instant::now();
            let answer = visitor.ask(Request::Peers { after: None }).await;
            assert!(matches!(answer, Response::Peers { .. }) && begun.elapsed() < Duration::from_secs(2), "{answer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (stored, reserved, recorded, ()) = tokio::join!(stored, reserved, recorded, others);
    let StoreReply::Refused(signed) = &stored else { panic!("{stored:?}") };
    let refused = signed.verify_by::<RefusalStatement>(&node.id().into(), &network()).unwrap();
    assert!(refused.reason == Refusal::Busy && refused.retry_after_ms >= 500, "{refused:?}");
    assert!(is_busy(&reserved) && is_busy(&recorded), "{reserved:?} {recorded:?}");

    disk.go_on();
    let reserved = visitor.ask(Request::Reserve(reserve)).await;
    let Response::Reserved(Reserved { ids, .. }) = reserved else { panic!("{reserved:?}") };
    let header = Header::Store { reservation: ids[0], boot_epoch: visitor.epoch, nonce: Nonce::from_bytes([8; 16]) };
    assert!(matches!(store(&mut lane, &header, &bytes, id).await, StoreReply::Kept(_)), "the lane goes on");
    node.shutdown().await;
}

async fn losses(visitor: &Visitor, node: NodeId) -> Vec<ShardId> {
    let nonce = Nonce::from_bytes([9; 16]);
    let Response::Losses { statement, more: false } = visitor.ask(Request::Losses { after: None, nonce }).await else {
        panic!("no LOSSES")
    };
    let statement = statement.verify_by::<LossStatement>(&node.into(), &network()).unwrap();
    assert_eq!((statement.nonce, statement.boot_epoch), (nonce, visitor.epoch));
    statement.losses.iter().map(|loss| loss.shard).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_rotted_is_reported_as_lost_until_it_is_stored_again() {
    let place = tempfile::tempdir().unwrap();
    let node = node(place.path(), vec![visitor_id()], vec![]).await;
    let visitor = Visitor::connect(&node).await;
    let mut lane = visitor.lane().await;
    let bytes: Vec<u8> = (0..12_000_u32).map(|n| (n % 241) as u8).collect();
    let id = ShardId::of(&bytes);
    let header =
        |reservation| Header::Store { reservation, boot_epoch: visitor.epoch, nonce: Nonce::from_bytes([7; 16]) };
    let kept = store(&mut lane, &header(visitor.reserve(12_000).await), &bytes, id).await;
    assert!(matches!(kept, StoreReply::Kept(_)));
    assert_eq!(losses(&visitor, node.id()).await, []);

    let segment = place.path().join("segments/0000000000000000.seg");
    let mut log = std::fs::read(&segment).unwrap();
    let at = log.windows(500).position(|window| *window == bytes[8_000..8_500]).unwrap();
    log[at + 250] ^= 1;
    let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &log[at..at + 500], at as u64).unwrap();
    let all = ByteRange { start: 0, end: 12_000 };
    assert_eq!(retrieve(&mut lane, id, all, node.id()).await, Err(Refusal::Damaged));
    let begun = Instant::now();
    while losses(&visitor, node.id()).await != [id] {
        assert!(begun.elapsed() < Duration::from_secs(30), "the node does not say what it lost");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(retrieve(&mut lane, id, all, node.id()).await, Err(Refusal::NotFound));

    let again = store(&mut lane, &header(visitor.reserve(12_000).await), &bytes, id).await;
    assert!(matches!(again, StoreReply::Kept(_)));
    assert_eq!(losses(&visitor, node.id()).await, []);
    assert_eq!(retrieve(&mut lane, id, all, node.id()).await.unwrap(), bytes);
    node.shutdown().await;
}
