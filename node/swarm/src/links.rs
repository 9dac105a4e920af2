//! The table of live connections: peer -> links, read by every caller without touching the driver.
//! It chooses a link (direct before relayed, then bulk before tunnel) and holds each peer's permits; it never opens or closes anything itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures::task::AtomicWaker;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, Stream};
use shoal_protocol::NodeId;
use shoal_protocol::link::Purpose;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::address::{ip_of_multiaddr, is_tcp};
use crate::control::client::{ClientCommand, ControlHandle};
use crate::error::LaneError;
use crate::lanes::upgrade::LaneKind;
use crate::limits::{
    CONTROL_COMMANDS_MAX, DIAL_ADDRESSES_MAX, INBOUND_LANES_PER_PEER_MAX, OPENS_MAX, REPLIES_UNSENT_MAX,
};
use crate::pool::LanePool;
use crate::tunnel::book::AddressBook;
use crate::tunnel::slot::TunnelSlot;

/// How packets of a link travel. Ordered: the better one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// Straight to the peer.
    Direct,
    /// Through another peer.
    Relayed,
}

/// Whether the remote speaks our protocols on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// Identify has not answered yet.
    Unknown,
    /// It named our protocols.
    Yes,
    /// It did not, or refused them.
    No,
}

/// Why a link is to be closed by us. One word for log and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The peer broke the control protocol; it is banned for a while.
    Violation,
    /// Three control pings without any answer.
    Silent,
    /// The peer said that it stops.
    Goodbye,
    /// The control lane ended although the connection lives.
    ControlLost,
    /// The peer asks and does not read the answers.
    Stalled,
}

impl CloseReason {
    /// The word.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Violation => "violation",
            Self::Silent => "silent",
            Self::Goodbye => "goodbye",
            Self::ControlLost => "control_lost",
            Self::Stalled => "stalled",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Violation => 1,
            Self::Silent => 2,
            Self::Goodbye => 3,
            Self::ControlLost => 4,
            Self::Stalled => 5,
        }
    }

    const fn of_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Violation),
            2 => Some(Self::Silent),
            3 => Some(Self::Goodbye),
            4 => Some(Self::ControlLost),
            5 => Some(Self::Stalled),
            _ => None,
        }
    }
}

/// A request to a connection's handler: open one shard or tunnel lane.
#[derive(Debug)]
pub(crate) struct OpenLane {
    /// Which protocol.
    pub(crate) kind: LaneKind,
    /// Where the stream goes.
    pub(crate) reply: oneshot::Sender<Result<Stream, LaneError>>,
}

/// What all connections of one peer share.
#[derive(Debug)]
pub(crate) struct PeerShared {
    /// One permit per inbound shard lane.
    pub(crate) inbound_lanes: Arc<Semaphore>,
    /// Outbound shard lanes.
    pub(crate) pool: Arc<LanePool>,
    /// The place of the tunnel lane.
    pub(crate) tunnel: Arc<TunnelSlot>,
}

impl PeerShared {
    fn new() -> Self {
        let inbound_lanes = Arc::new(Semaphore::new(INBOUND_LANES_PER_PEER_MAX));
        Self { inbound_lanes, pool: Arc::default(), tunnel: Arc::default() }
    }
}

/// One established connection, as callers and its handler see it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: NodeId,
    pub(crate) connection: ConnectionId,
    pub(crate) kind: LinkKind,
    /// The remote's address without `/p2p`.
    pub(crate) address: Multiaddr,
    pub(crate) outbound: bool,
    pub(crate) shared: Arc<PeerShared>,
    pub(crate) control: ControlHandle,
    opens: mpsc::Sender<OpenLane>,
    waker: AtomicWaker,
    is_tunnel: AtomicBool,
    control_wanted: AtomicBool,
    support: AtomicU8,
    condemned: AtomicU8,
    rtt_us: AtomicU64,
    /// Bytes of replies that wait to be written here.
    unsent: AtomicUsize,
}

/// The handler's ends of a link's channels.
#[derive(Debug)]
pub(crate) struct LinkEnds {
    pub(crate) opens: mpsc::Receiver<OpenLane>,
    pub(crate) control: mpsc::Receiver<ClientCommand>,
}

/// What is known of a connection when its link is made.
#[derive(Debug, Clone)]
pub(crate) struct LinkFacts {
    pub(crate) peer: NodeId,
    pub(crate) connection: ConnectionId,
    pub(crate) address: Multiaddr,
    pub(crate) outbound: bool,
}

impl Link {
    pub(crate) fn new(facts: LinkFacts, shared: Arc<PeerShared>) -> (Arc<Self>, LinkEnds) {
        let (opens, opens_end) = mpsc::channel(OPENS_MAX);
        let (commands, control_end) = mpsc::channel(CONTROL_COMMANDS_MAX);
        let relayed = facts.address.iter().any(|part| part == libp2p::multiaddr::Protocol::P2pCircuit);
        let link = Self {
            peer: facts.peer,
            connection: facts.connection,
            kind: if relayed { LinkKind::Relayed } else { LinkKind::Direct },
            address: facts.address,
            outbound: facts.outbound,
            shared,
            control: ControlHandle::new(commands),
            opens,
            waker: AtomicWaker::new(),
            is_tunnel: AtomicBool::new(false),
            control_wanted: AtomicBool::new(false),
            support: AtomicU8::new(0),
            condemned: AtomicU8::new(0),
            rtt_us: AtomicU64::new(u64::MAX),
            unsent: AtomicUsize::new(0),
        };
        (Arc::new(link), LinkEnds { opens: opens_end, control: control_end })
    }

    /// Asks the handler for a lane. Full queue: Busy.
    pub(crate) fn open(&self, request: OpenLane) -> Result<(), LaneError> {
        self.opens.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LaneError::Busy,
            mpsc::error::TrySendError::Closed(_) => LaneError::Closed,
        })
    }

    /// Whether the connection still exists.
    pub(crate) fn is_open(&self) -> bool {
        !self.opens.is_closed() && self.condemned().is_none()
    }

    pub(crate) fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// What the connection is for. Bulk until a tunnel stream is opened on it or it is dialled for one.
    pub(crate) fn purpose(&self) -> Purpose {
        if self.is_tunnel.load(Ordering::Acquire) { Purpose::Tunnel } else { Purpose::Bulk }
    }

    pub(crate) fn set_purpose(&self, purpose: Purpose) {
        self.is_tunnel.store(purpose == Purpose::Tunnel, Ordering::Release);
    }

    /// The smaller the better for bulk: a relay is worse than to share with a tunnel.
    pub(crate) fn rank(&self) -> (LinkKind, Purpose) {
        (self.kind, self.purpose())
    }

    /// Whether it is a TCP connection straight to the peer.
    pub(crate) fn is_tcp(&self) -> bool {
        self.kind == LinkKind::Direct && is_tcp(&self.address)
    }

    /// The IP address the peer is seen at; none through a relay, whose address says nothing about it.
    pub(crate) fn observed_ip(&self) -> Option<IpAddr> {
        (self.kind == LinkKind::Direct).then(|| ip_of_multiaddr(&self.address)).flatten()
    }

    /// Asks the handler to open the control lane if it is not open.
    pub(crate) fn want_control(&self) {
        if !self.control_wanted.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    pub(crate) fn control_wanted(&self) -> bool {
        self.control_wanted.load(Ordering::Acquire)
    }

    /// Asks for the connection to be closed. The first reason stays.
    pub(crate) fn condemn(&self, reason: CloseReason) {
        let first = self.condemned.compare_exchange(0, reason.code(), Ordering::AcqRel, Ordering::Acquire).is_ok();
        if first {
            self.waker.wake();
        }
    }

    pub(crate) fn condemned(&self) -> Option<CloseReason> {
        CloseReason::of_code(self.condemned.load(Ordering::Acquire))
    }

    pub(crate) fn support(&self) -> Support {
        match self.support.load(Ordering::Acquire) {
            1 => Support::Yes,
            2 => Support::No,
            _ => Support::Unknown,
        }
    }

    pub(crate) fn set_support(&self, support: Support) {
        let code = match support {
            Support::Unknown => 0,
            Support::Yes => 1,
            Support::No => 2,
        };
        self.support.store(code, Ordering::Release);
    }

    pub(crate) fn set_rtt(&self, rtt: Duration) {
        let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX - 1);
        self.rtt_us.store(micros, Ordering::Release);
    }

    /// A stock ping's figure, until the control lane has its own.
    pub(crate) fn set_rtt_if_unknown(&self, rtt: Duration) {
        if self.rtt().is_none() {
            self.set_rtt(rtt);
        }
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.rtt_us.load(Ordering::Acquire) {
            u64::MAX => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }
}

#[derive(Debug)]
struct PeerSlot {
    shared: Arc<PeerShared>,
    /// At most [`crate::limits::CONNECTIONS_PER_PEER_MAX`], in order of arrival.
    links: Vec<Arc<Link>>,
}

/// The table. Its size is bounded by the connection limits.
#[derive(Debug, Default)]
pub(crate) struct PeerLinks {
    peers: RwLock<BTreeMap<NodeId, PeerSlot>>,
    /// Counters that the owner may read.
    pub(crate) counters: Counters,
    listening: Mutex<Vec<String>>,
    /// Bytes of replies that wait to be written, over all connections.
    unsent: AtomicUsize,
    /// Where peers can be dialled over TCP.
    book: Mutex<AddressBook>,
}

/// A reply's bytes while they wait to be written: counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Unsent {
    links: Arc<PeerLinks>,
    link: Arc<Link>,
    bytes: usize,
}

impl Unsent {
    /// Counts so many more. If that is too much, the connection with the most of them is closed, this one or another.
    pub(crate) fn new(links: &Arc<PeerLinks>, link: &Arc<Link>, bytes: usize) -> Self {
        link.unsent.fetch_add(bytes, Ordering::AcqRel);
        let all = links.unsent.fetch_add(bytes, Ordering::AcqRel).saturating_add(bytes);
        if all > REPLIES_UNSENT_MAX
            && let Some(heaviest) = links.heaviest()
        {
            heaviest.condemn(CloseReason::Stalled);
        }
        Self { links: Arc::clone(links), link: Arc::clone(link), bytes }
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.link.unsent.fetch_sub(self.bytes, Ordering::AcqRel);
        self.links.unsent.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// What was refused or lost, since start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Inbound lanes answered BUSY.
    pub(crate) lanes_busy: AtomicUsize,
    /// Inbound lanes reset without an answer, because too many answers were being written.
    pub(crate) lanes_reset: AtomicUsize,
    /// Events the owner did not fetch in time.
    pub(crate) events_lost: AtomicUsize,
    /// Connections closed for breaking the control protocol.
    pub(crate) violations: AtomicUsize,
}

impl PeerLinks {
    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<NodeId, PeerSlot>> {
        self.peers.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<NodeId, PeerSlot>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shared part of a peer that is connected, else a fresh one.
    pub(crate) fn shared_of(&self, peer: &NodeId) -> Arc<PeerShared> {
        self.read().get(peer).map_or_else(|| Arc::new(PeerShared::new()), |slot| Arc::clone(&slot.shared))
    }

    /// The place of the tunnel lane of a link's peer. Of two connections made at the same time the second may carry
    /// another shared part than the table; of one not listed yet it is the one that will be.
    pub(crate) fn tunnel_slot(&self, link: &Link) -> Arc<TunnelSlot> {
        let peers = self.read();
        Arc::clone(&peers.get(&link.peer).map_or(&link.shared, |slot| &slot.shared).tunnel)
    }

    pub(crate) fn insert(&self, link: Arc<Link>) {
        let mut peers = self.write();
        let slot =
            peers.entry(link.peer).or_insert_with(|| PeerSlot { shared: Arc::clone(&link.shared), links: Vec::new() });
        slot.links.push(link);
    }

    /// Takes a link out of the table.
    pub(crate) fn remove(&self, peer: &NodeId, connection: ConnectionId) -> Option<Arc<Link>> {
        let mut peers = self.write();
        let slot = peers.get_mut(peer)?;
        let place = slot.links.iter().position(|link| link.connection == connection);
        let link = place.map(|place| slot.links.remove(place));
        if slot.links.is_empty() {
            peers.remove(peer);
        }
        link
    }

    /// The best open link for bulk: supported before unsupported, direct before relayed, bulk before tunnel, supported
    /// before unknown, then the oldest.
    pub(crate) fn best(&self, peer: &NodeId) -> Option<Arc<Link>> {
        let peers = self.read();
        let open = peers.get(peer)?.links.iter().filter(|link| link.is_open());
        open.min_by_key(|link| (link.support() == Support::No, link.rank(), link.support() == Support::Unknown))
            .cloned()
    }

    /// What open links of a peer say.
    fn with_open<T>(&self, peer: &NodeId, say: impl FnOnce(&[&Arc<Link>]) -> T) -> T {
        let peers = self.read();
        let links = peers.get(peer).map(|slot| slot.links.as_slice()).unwrap_or_default();
        let open: Vec<&Arc<Link>> = links.iter().filter(|link| link.is_open()).collect();
        say(&open)
    }

    /// The newest TCP connection for tunnels beside another connection, if there is one.
    pub(crate) fn tunnel(&self, peer: &NodeId) -> Option<Arc<Link>> {
        self.with_open(peer, |open| {
            let tunnel = open.iter().rev().find(|link| link.purpose() == Purpose::Tunnel && link.is_tcp());
            tunnel.filter(|_| open.len() > 1).map(|link| Arc::clone(link))
        })
    }

    /// Whether a link is no TCP connection of its own.
    pub(crate) fn is_shared(&self, link: &Link) -> bool {
        !link.is_tcp()
            || self.with_open(&link.peer, |open| open.iter().all(|other| other.connection == link.connection))
    }

    /// Whether it is for us to open the tunnel: for who dialled, over TCP where anybody did; for the smaller id where both.
    pub(crate) fn is_opener(&self, peer: &NodeId, smaller: bool) -> bool {
        self.with_open(peer, |open| {
            let over_tcp = open.iter().any(|link| link.is_tcp());
            let mut counted = open.iter().filter(|link| link.is_tcp() == over_tcp).map(|link| link.outbound);
            match (counted.clone().any(|outbound| outbound), counted.any(|outbound| !outbound)) {
                (true, true) => smaller,
                (outbound, _) => outbound,
            }
        })
    }

    /// Where the peer was dialled, or can be, over TCP; at most [`DIAL_ADDRESSES_MAX`], what worked first.
    pub(crate) fn tcp_addresses(&self, peer: &NodeId) -> Vec<Multiaddr> {
        let mut all: Vec<Multiaddr> = self.with_open(peer, |open| {
            let dialled = open.iter().filter(|link| link.outbound && link.is_tcp());
            dialled.map(|link| link.address.clone()).collect()
        });
        all.extend(self.book().of(peer));
        let mut addresses: Vec<Multiaddr> = Vec::new();
        for address in all {
            if addresses.len() < DIAL_ADDRESSES_MAX && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// Where peers can be dialled over TCP.
    pub(crate) fn book(&self) -> MutexGuard<'_, AddressBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the best link leads to.
    pub(crate) fn remote_ip(&self, peer: &NodeId) -> Option<IpAddr> {
        self.best(peer)?.observed_ip()
    }

    /// The connection with the most unsent replies that is not being closed yet.
    fn heaviest(&self) -> Option<Arc<Link>> {
        let peers = self.read();
        let open = peers.values().flat_map(|slot| &slot.links).filter(|link| link.is_open());
        open.max_by_key(|link| link.unsent.load(Ordering::Acquire)).cloned()
    }

    pub(crate) fn find(&self, peer: &NodeId, connection: ConnectionId) -> Option<Arc<Link>> {
        self.read().get(peer)?.links.iter().find(|link| link.connection == connection).cloned()
    }

    /// Whom an outbound connection to this address (without `/p2p`) reached.
    pub(crate) fn peer_at(&self, address: &Multiaddr) -> Option<NodeId> {
        let peers = self.read();
        let mut links = peers.values().flat_map(|slot| &slot.links);
        links.find(|link| link.outbound && link.is_open() && link.address == *address).map(|link| link.peer)
    }

    pub(crate) fn is_connected(&self, peer: &NodeId) -> bool {
        self.read().get(peer).is_some_and(|slot| slot.links.iter().any(|link| link.is_open()))
    }

    pub(crate) fn connected(&self) -> Vec<NodeId> {
        let peers = self.read();
        peers.iter().filter(|(_, slot)| slot.links.iter().any(|link| link.is_open())).map(|(peer, _)| *peer).collect()
    }

    pub(crate) fn rtt(&self, peer: &NodeId) -> Option<Duration> {
        self.read().get(peer)?.links.iter().filter(|link| link.is_open()).filter_map(|link| link.rtt()).min()
    }

    pub(crate) fn kind(&self, peer: &NodeId) -> Option<LinkKind> {
        self.read().get(peer)?.links.iter().filter(|link| link.is_open()).map(|link| link.kind).min()
    }

    pub(crate) fn listening(&self) -> Vec<String> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_listening(&self, addresses: Vec<String>) {
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId::from_bytes([1; 32]);

    fn add(links: &PeerLinks, connection: usize, address: &str, outbound: bool) -> (Arc<Link>, LinkEnds) {
        let connection = ConnectionId::new_unchecked(connection);
        let facts = LinkFacts { peer: PEER, connection, address: address.parse().unwrap(), outbound };
        let (link, ends) = Link::new(facts, links.shared_of(&PEER));
        links.insert(Arc::clone(&link));
        (link, ends)
    }

    fn best(links: &PeerLinks) -> Option<ConnectionId> {
        links.best(&PEER).map(|link| link.connection)
    }

    #[test]
    fn bulk_leaves_a_tunnel_connection_alone_while_there_is_another() {
        let links = PeerLinks::default();
        let (first, _ends) = add(&links, 1, "/ip4/127.0.0.1/tcp/1", true);
        first.set_support(Support::Yes);
        assert_eq!(best(&links), Some(first.connection));
        assert!(links.is_shared(&first));
        first.set_purpose(Purpose::Tunnel);
        assert_eq!(best(&links), Some(first.connection), "better than none");
        assert!(links.tunnel(&PEER).is_none(), "bulk uses it");
        let (second, _ends) = add(&links, 2, "/ip4/127.0.0.1/tcp/2", true);
        assert_eq!(best(&links), Some(second.connection), "though it is not known to be supported yet");
        assert_eq!(links.tunnel(&PEER).map(|link| link.connection), Some(first.connection));
        assert!(!links.is_shared(&first));
        let (relayed, _ends) = add(&links, 3, "/ip4/127.0.0.1/tcp/3/p2p-circuit", true);
        links.remove(&PEER, second.connection);
        assert_eq!(best(&links), Some(first.connection), "a relay is worse than to share");
        assert_eq!(relayed.observed_ip(), None);
        assert_eq!(links.remote_ip(&PEER), Some([127, 0, 0, 1].into()));
    }

    #[test]
    fn who_dialled_opens_over_tcp_first_and_the_smaller_where_both_did() {
        let links = PeerLinks::default();
        assert!(!links.is_opener(&PEER, true));
        let (quic, _ends) = add(&links, 1, "/ip4/127.0.0.1/udp/1/quic-v1", true);
        assert!(links.is_opener(&PEER, false));
        let (_, _ends) = add(&links, 2, "/ip4/127.0.0.1/tcp/1", false);
        assert!(!links.is_opener(&PEER, true), "TCP decides");
        let (_, _ends) = add(&links, 3, "/ip4/127.0.0.1/tcp/2", true);
        assert!(links.is_opener(&PEER, true));
        assert!(!links.is_opener(&PEER, false));
        links.book().add(PEER, &["/ip4/127.0.0.1/tcp/3".parse().unwrap()]);
        let addresses: Vec<String> = links.tcp_addresses(&PEER).iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["/ip4/127.0.0.1/tcp/2", "/ip4/127.0.0.1/tcp/3"], "no port a peer dialled from");
        assert!(links.is_shared(&quic), "not TCP");
    }
}
