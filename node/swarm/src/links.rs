//! The table of live connections: peer -> links, read by every caller without touching the driver.
//! It chooses a link (direct before relayed, then bulk before tunnel); it never opens or closes anything itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;
use shoal_protocol::NodeId;
use shoal_protocol::link::Purpose;

use crate::limits::{DIAL_ADDRESSES_MAX, REPLIES_UNSENT_MAX};
use crate::link::{CloseReason, Link, LinkKind, PeerShared, Support};
use crate::tunnel::book::AddressBook;
use crate::tunnel::slot::TunnelSlot;

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
    use crate::link::{LinkEnds, LinkFacts};

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
