//! Nodes of this process on loopback sockets, and visitors that speak the wire to them by hand, so that they can say the
//! same thing a thousand times. It decides nothing about what is accepted.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use shoal_node::{Config, Node};
use shoal_protocol::control::{Hello, PROTOCOL_VERSION, Request, Reserve, Reserved, Response};
use shoal_protocol::lane::{END, Header, RetrieveTrailer, StoreReply, StoreTrailer, encode_end, encode_message};
use shoal_protocol::limits::LANE_MESSAGE_MAX;
use shoal_protocol::{BootEpoch, ByteCount, NodeId, Nonce, ReservationId, ShardId, UnixMillis};
use shoal_swarm::{ShardLane, Started, SwarmConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::*;

const WAIT: Duration = Duration::from_secs(20);
/// Requests on their way at a time, so that two of them meet in the node.
const AT_ONCE: usize = 16;

/// May store.
pub(super) const MEMBER: u8 = 42;
/// May store, too.
pub(super) const OTHER_MEMBER: u8 = 43;
/// May store with a voucher alone.
pub(super) const HOLDER: u8 = 44;
/// Signs vouchers that count.
pub(super) const ISSUER: u8 = 77;
/// Owns the group and the records.
pub(super) const OWNER: u8 = 9;

pub(super) fn now() -> UnixMillis {
    shoal_tests::sample::clock()
}

/// What came of many sendings, by word.
pub(super) type Tally = BTreeMap<String, usize>;

/// All of them came to this.
pub(super) fn all(word: &str) -> Tally {
    BTreeMap::from([(word.to_owned(), REPLAYS)])
}

/// A node that can be started again on the same disk.
pub(super) struct Place {
    data: tempfile::TempDir,
    network: NetworkId,
    node: Option<Node>,
}

impl Place {
    pub(super) async fn start(network: NetworkId) -> Self {
        let mut place = Self { data: tempfile::tempdir().unwrap(), network, node: None };
        place.begin().await;
        place
    }

    async fn begin(&mut self) {
        let config = Config {
            data_dir: self.data.path().to_path_buf(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
            bootstrap: vec![],
            network: self.network,
            name: "signed".into(),
            quota: Some(64 << 20),
            allow: vec![node_of(&key(MEMBER)), node_of(&key(OTHER_MEMBER))],
            open: false,
            members_only: false,
            voucher_issuers: vec![node_of(&key(ISSUER))],
            domain: None,
            vpn: None,
            networks: vec![],
        };
        self.node = Some(Node::start(config).await.unwrap());
    }

    /// Another run on the same disk.
    pub(super) async fn restart(&mut self) {
        self.stop().await;
        self.begin().await;
    }

    pub(super) async fn stop(&mut self) {
        self.node.take().unwrap().shutdown().await;
    }

    pub(super) fn id(&self) -> NodeId {
        self.node.as_ref().unwrap().id()
    }

    /// Digests of what the node keeps durably: its log and what is spent of vouchers.
    pub(super) fn disk(&self) -> BTreeMap<String, [u8; 32]> {
        let digest = |path: &Path| *blake3::hash(&std::fs::read(path).unwrap()).as_bytes();
        let mut out = BTreeMap::new();
        for entry in std::fs::read_dir(self.data.path().join("segments")).unwrap() {
            let path = entry.unwrap().path();
            out.insert(path.display().to_string(), digest(&path));
        }
        out.insert("vouchers.log".into(), digest(&self.data.path().join("vouchers.log")));
        out
    }

    /// Somebody connects, in the network of the node.
    pub(super) async fn visitor(&self, seed: u8) -> Visitor {
        let config = SwarmConfig::new(Zeroizing::new([seed; 32]), self.network.tag());
        let swarm = shoal_swarm::start(config).await.unwrap();
        let addresses = self.node.as_ref().unwrap().addresses().to_vec();
        let node = swarm.handle.dial(None, addresses, WAIT).await.unwrap();
        let mut visitor = Visitor { swarm, node, epoch: BootEpoch(0) };
        let Response::Hello(hello) = visitor.ask(hello(None)).await else { panic!("no HELLO") };
        visitor.epoch = hello.boot_epoch;
        visitor
    }
}

/// Speaks the wire by hand.
pub(super) struct Visitor {
    swarm: Started,
    node: NodeId,
    pub(super) epoch: BootEpoch,
}

impl Visitor {
    pub(super) async fn ask(&self, request: Request) -> Response {
        let body = self.swarm.handle.request(self.node, request.to_bytes().into(), WAIT).await.unwrap();
        Response::from_bytes(&body).unwrap()
    }

    /// The same request so many times, some of them at once.
    pub(super) async fn repeat(&self, request: &Request, times: usize) -> Tally {
        let answers = stream::iter(0..times).map(|_| self.ask(request.clone())).buffer_unordered(AT_ONCE);
        let mut tally = Tally::new();
        for answer in answers.collect::<Vec<_>>().await {
            *tally.entry(word(&answer)).or_default() += 1;
        }
        tally
    }

    /// A thousand times.
    pub(super) async fn replay(&self, request: &Request) -> Tally {
        self.repeat(request, REPLAYS).await
    }

    pub(super) async fn lane(&self) -> ShardLane {
        self.swarm.handle.lane(self.node, WAIT).await.unwrap()
    }

    pub(super) async fn reserve(&self, group: &Signed, length: u32) -> ReservationId {
        match self.ask(reserve(self.epoch, group, length, None)).await {
            Response::Reserved(Reserved { ids, .. }) => ids[0],
            other => panic!("{other:?}"),
        }
    }

    /// One STORE a thousand times on one lane.
    pub(super) async fn replay_store(&self, header: &Header, bytes: &[u8]) -> Tally {
        let (mut lane, mut tally) = (self.lane().await, Tally::new());
        for _ in 0..REPLAYS {
            *tally.entry(self.store(&mut lane, header, bytes).await).or_default() += 1;
        }
        tally
    }

    /// What came of one STORE, in a word the node signed.
    pub(super) async fn store(&self, lane: &mut ShardLane, header: &Header, bytes: &[u8]) -> String {
        let length = u32::try_from(bytes.len()).unwrap();
        let mut out = encode_message(header);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(bytes);
        out.extend(encode_end(&StoreTrailer { shard: ShardId::of(bytes), length }));
        send(lane, &out).await;
        match message(lane).await {
            StoreReply::Kept(receipt) => {
                receipt.verify_by::<Receipt>(&self.node.into(), &network()).unwrap();
                "accepted".into()
            }
            StoreReply::Refused(signed) => {
                let refusal = signed.verify_by::<RefusalStatement>(&self.node.into(), &network()).unwrap();
                refusal.reason.label().into()
            }
        }
    }

    /// One RETRIEVE of a whole short shard, with this as the last word of it.
    pub(super) async fn retrieve(&self, lane: &mut ShardLane, header: &Header, last_word: &[u8]) -> ServeStatement {
        send(lane, &encode_message(header)).await;
        loop {
            let mut word = [0; 4];
            lane.read_exact(&mut word).await.unwrap();
            let length = u32::from_be_bytes(word);
            if length == END {
                break;
            }
            lane.read_exact(&mut vec![0; length as usize]).await.unwrap();
        }
        let trailer: RetrieveTrailer = message(lane).await;
        send(lane, last_word).await;
        trailer.statement.verify_by::<ServeStatement>(&self.node.into(), &network()).unwrap().into_inner()
    }
}

/// What came of a request.
fn word(response: &Response) -> String {
    match response {
        Response::Refused { reason, .. } => reason.label().into(),
        Response::Conflict { .. } => "conflict".into(),
        _ => "accepted".into(),
    }
}

pub(super) fn hello(record: Option<Signed>) -> Request {
    Request::Hello(Hello {
        versions: vec![PROTOCOL_VERSION],
        boot_epoch: BootEpoch(1),
        free: ByteCount(0),
        domain: None,
        time: now(),
        record,
    })
}

pub(super) fn reserve(boot_epoch: BootEpoch, group: &Signed, length: u32, voucher: Option<&Signed>) -> Request {
    let (group, voucher) = (group.clone(), voucher.cloned());
    Request::Reserve(Reserve { boot_epoch, group, lengths: vec![length], voucher })
}

pub(super) fn store_header(reservation: ReservationId, boot_epoch: BootEpoch) -> Header {
    Header::Store { reservation, boot_epoch, nonce: Nonce::from_bytes([7; 16]) }
}

async fn send(lane: &mut ShardLane, bytes: &[u8]) {
    lane.write_all(bytes).await.unwrap();
    lane.flush().await.unwrap();
}

async fn message<T: codec::Message>(lane: &mut ShardLane) -> T {
    let mut word = [0; 4];
    lane.read_exact(&mut word).await.unwrap();
    let mut bytes = vec![0; u32::from_be_bytes(word) as usize];
    lane.read_exact(&mut bytes).await.unwrap();
    codec::decode(&bytes, LANE_MESSAGE_MAX).unwrap()
}
