//! Who is there: from one known peer to every live node, with what placement needs to know of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use shoal_protocol::control::{Hello, PROTOCOL_VERSION, Request, Response};
use shoal_protocol::limits::FRESHNESS_MS;
use shoal_protocol::peer_record::{PEER_RECORD_AGE_MAX_MS, PeerRecord};
use shoal_protocol::{BootEpoch, ByteCount, NodeId, Signed};

use super::{Client, ConnectError};
use crate::placement::Candidate;
use crate::transfer::TransferError;
use crate::transport::ShardTransport;

/// Most nodes a client keeps in mind.
pub const FLEET_MAX: usize = 4096;
/// Nodes greeted at the same time.
const GREETINGS: usize = 32;
/// Pages of peers asked of one node.
const PAGES_MAX: usize = FLEET_MAX / shoal_protocol::limits::PEERS_PAGE_MAX + 1;
/// How long one node may take to be connected and to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A node that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveNode {
    /// Who.
    pub node: NodeId,
    /// Where, best first, multiaddr texts without the node id.
    pub addresses: Vec<String>,
    /// Its current run.
    pub boot_epoch: BootEpoch,
    /// Room it offers.
    pub free: ByteCount,
    /// Its declared failure domain.
    pub domain: Option<String>,
    /// Whether it stores for others.
    pub stores: bool,
}

/// Everybody who answered.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    live: BTreeMap<NodeId, LiveNode>,
}

impl Fleet {
    /// All live nodes, in id order.
    pub fn nodes(&self) -> impl Iterator<Item = &LiveNode> {
        self.live.values()
    }

    /// Live nodes that store for others.
    pub fn storing(&self) -> impl Iterator<Item = &LiveNode> {
        self.live.values().filter(|live| live.stores)
    }

    /// The storing nodes as placement sees them. Nobody has a standing yet: all have the full one.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        self.storing().map(candidate).collect()
    }

    /// The live node with this id.
    #[must_use]
    pub fn get(&self, node: &NodeId) -> Option<&LiveNode> {
        self.live.get(node)
    }

    /// Adds what another discovery found; its answers are the newer ones.
    pub fn merge(&mut self, other: Self) {
        self.live.extend(other.live);
    }

    /// How many answered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether nobody answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}

/// What one greeting brought.
struct Greeting {
    live: LiveNode,
    heard_of: Vec<(NodeId, PeerRecord)>,
}

impl<T: ShardTransport> Client<T> {
    /// Greets the given addresses and known nodes, then everybody they know, until nobody new is heard of.
    ///
    /// # Errors
    /// [`ConnectError`] when there was nobody to ask or nobody answered.
    pub async fn discover(&self, addresses: &[String], known: &[(NodeId, Vec<String>)]) -> Result<Fleet, ConnectError> {
        let mut tried = addresses.len() + known.len();
        if tried == 0 {
            return Err(ConnectError::NoPeers);
        }
        let mut fleet = Fleet::default();
        let mut seen: BTreeSet<NodeId> = known.iter().map(|(node, _)| *node).collect();
        let mut round: Vec<(Option<NodeId>, Vec<String>)> =
            addresses.iter().map(|address| (None, vec![address.clone()])).collect();
        round.extend(known.iter().map(|(node, addresses)| (Some(*node), addresses.clone())));
        let mut last = None;
        while !round.is_empty() {
            let mut greetings = stream::iter(std::mem::take(&mut round))
                .map(|(node, addresses)| self.greet(node, addresses))
                .buffer_unordered(GREETINGS);
            let mut heard: BTreeMap<NodeId, PeerRecord> = BTreeMap::new();
            while let Some(greeting) = greetings.next().await {
                match greeting {
                    Ok(Greeting { live, heard_of }) => {
                        seen.insert(live.node);
                        fleet.live.insert(live.node, live);
                        heard.extend(heard_of);
                    }
                    Err(error) => last = Some(error),
                }
            }
            drop(greetings);
            for (node, record) in heard {
                if seen.len() < FLEET_MAX && node != self.node && record.stores && seen.insert(node) {
                    round.push((Some(node), record.addresses));
                }
            }
            tried += round.len();
        }
        if fleet.is_empty() { Err(ConnectError::NobodyAnswered { tried, last }) } else { Ok(fleet) }
    }

    async fn greet(&self, node: Option<NodeId>, addresses: Vec<String>) -> Result<Greeting, TransferError> {
        let node = self.transport.connect(node, addresses.clone(), ANSWER).await?;
        let hello = self.hello(node).await?;
        let record =
            hello.record.as_ref().and_then(|signed| self.peer_record(signed)).filter(|(said, _)| *said == node);
        let mut known_at: Vec<String> = addresses.iter().map(|address| without_peer(address)).collect();
        let mut stores = false;
        if let Some((_, record)) = record {
            stores = record.stores;
            known_at.extend(record.addresses);
        }
        let mut distinct = BTreeSet::new();
        known_at.retain(|address| distinct.insert(address.clone()));
        let live = LiveNode {
            node,
            addresses: known_at,
            boot_epoch: hello.boot_epoch,
            free: hello.free,
            domain: hello.domain,
            stores,
        };
        Ok(Greeting { live, heard_of: self.peers_of(node).await })
    }

    /// All peer records a node passes on; what it refuses or forges is left out.
    async fn peers_of(&self, node: NodeId) -> Vec<(NodeId, PeerRecord)> {
        let mut heard = Vec::new();
        let mut after = None;
        for _ in 0..PAGES_MAX {
            let Ok(Response::Peers { records, more }) =
                self.transport.request(node, Request::Peers { after }, ANSWER).await
            else {
                break;
            };
            let last = records.last().map(|signed| NodeId::from(*signed.claimed_signer()));
            heard.extend(records.iter().filter_map(|signed| self.peer_record(signed)));
            if !more || last <= after {
                break;
            }
            after = last;
        }
        heard
    }

    /// A peer record worth believing: well signed, not from tomorrow, not older than a day.
    fn peer_record(&self, signed: &Signed) -> Option<(NodeId, PeerRecord)> {
        let record = signed.verify::<PeerRecord>(&self.network).ok()?;
        let now = self.now();
        let fresh = record.time <= now.saturating_add(FRESHNESS_MS)
            && now <= record.time.saturating_add(PEER_RECORD_AGE_MAX_MS);
        fresh.then(|| (NodeId::from(*record.signer()), record.into_inner()))
    }

    /// The current run of a node that was restarted.
    pub(super) async fn greet_again(&self, node: NodeId) -> Result<BootEpoch, TransferError> {
        Ok(self.hello(node).await?.boot_epoch)
    }

    /// Connects again to a node whose addresses the transport still knows.
    pub(super) async fn reconnect(&self, node: NodeId) -> Result<(), TransferError> {
        self.transport.connect(Some(node), Vec::new(), ANSWER).await.map(drop)
    }

    /// HELLO, and what came back if it is one.
    async fn hello(&self, node: NodeId) -> Result<Hello, TransferError> {
        let hello = Hello {
            versions: vec![PROTOCOL_VERSION],
            boot_epoch: self.boot_epoch,
            free: ByteCount(0),
            domain: None,
            time: self.now(),
            record: None,
        };
        let Response::Hello(hello) = self.transport.request(node, Request::Hello(hello), ANSWER).await? else {
            return Err(TransferError::Protocol("answered HELLO with something else".into()));
        };
        if !hello.versions.contains(&PROTOCOL_VERSION) {
            return Err(TransferError::Protocol(format!("speaks versions {:?} only", hello.versions)));
        }
        Ok(hello)
    }
}

/// The address without a trailing `/p2p/ID`.
fn without_peer(address: &str) -> String {
    address.rsplit_once("/p2p/").map_or(address, |(before, _)| before).to_owned()
}

fn candidate(live: &LiveNode) -> Candidate {
    Candidate {
        node: live.node,
        free_bytes: live.free.0,
        standing: 1.0,
        domain: live.domain.clone(),
        observed_ip: live.addresses.iter().find_map(|address| ip_of(address)),
    }
}

/// The address in a multiaddr text that begins with `/ip4/` or `/ip6/`.
fn ip_of(address: &str) -> Option<IpAddr> {
    let mut parts = address.split('/').skip(1);
    matches!(parts.next()?, "ip4" | "ip6").then_some(())?;
    parts.next()?.parse().ok()
}
