//! The door: bans, an optional allowlist, and a filter for addresses that must not carry us (the overlay's own).
//! It denies connections; it never judges what an admitted peer may do.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::address::ip_of_multiaddr;
use crate::bans::BanList;
use crate::limits::{
    CONNECTIONS_PER_SUBNET_MAX, HANDSHAKES_BURST, HANDSHAKES_PER_SECOND, MEMBER_ADDRESSES_MAX, STRANGER_CONNECTIONS_MAX,
};
use crate::subnets::Subnets;

/// Says of an IP address whether connections over it are refused.
pub type AddressFilter = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// Why the door stayed shut. One word for error, log and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DoorReason {
    #[error("banned")]
    Banned,
    #[error("not on the allowlist")]
    NotAllowed,
    #[error("filtered address")]
    FilteredAddress,
    #[error("too many connections from one network")]
    SubnetFull,
    #[error("too many strangers")]
    StrangersFull,
    #[error("too many handshakes a second")]
    TooFast,
}

struct Door {
    bans: BanList,
    /// Set when a ban may concern a connected peer.
    sweep: bool,
}

/// The part of the guard that callers share with it.
#[derive(Clone)]
pub(crate) struct Bans {
    door: Arc<Mutex<Door>>,
    waker: Arc<AtomicWaker>,
}

impl Bans {
    pub(crate) fn new() -> Self {
        let door = Door { bans: BanList::default(), sweep: false };
        Self { door: Arc::new(Mutex::new(door)), waker: Arc::default() }
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bans for as long as asked and closes the peer's connections.
    pub(crate) fn ban(&self, peer: PeerId, length: Duration) {
        {
            let mut door = self.door();
            door.bans.ban(peer, length, Instant::now());
            door.sweep = true;
        }
        self.waker.wake();
    }

    /// Bans with back-off after a violation and closes the peer's connections.
    pub(crate) fn strike(&self, peer: PeerId) -> Duration {
        let mut word = [0; 4];
        // Without randomness all bans have their plain length, which is good enough.
        let _ = getrandom::fill(&mut word);
        let length = {
            let mut door = self.door();
            door.sweep = true;
            door.bans.strike(peer, Instant::now(), u32::from_le_bytes(word))
        };
        self.waker.wake();
        length
    }

    fn is_banned(&self, peer: &PeerId) -> bool {
        self.door().bans.is_banned(peer, Instant::now())
    }

    fn take_sweep(&self) -> bool {
        std::mem::take(&mut self.door().sweep)
    }
}

/// How many handshakes may begin: [`HANDSHAKES_PER_SECOND`] in the long run, [`HANDSHAKES_BURST`] at once. Pure.
#[derive(Debug)]
struct Pace {
    /// Thousandths of a handshake, so that one millisecond brings a whole number of them.
    level: u64,
    filled: Instant,
}

impl Pace {
    const ONE: u64 = 1000;
    const FULL: u64 = HANDSHAKES_BURST as u64 * Self::ONE;

    const fn new(now: Instant) -> Self {
        Self { level: Self::FULL, filled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed_ms = u64::try_from(now.saturating_duration_since(self.filled).as_millis()).unwrap_or(u64::MAX);
        if passed_ms > 0 {
            let more = passed_ms.saturating_mul(u64::from(HANDSHAKES_PER_SECOND));
            self.level = self.level.saturating_add(more).min(Self::FULL);
            self.filled = now;
        }
        match self.level.checked_sub(Self::ONE) {
            Some(left) => {
                self.level = left;
                true
            }
            None => false,
        }
    }
}

/// The behaviour. It stands before everything that keeps state per connection.
pub(crate) struct Guard {
    bans: Bans,
    allowed: Option<BTreeSet<PeerId>>,
    filter: Option<AddressFilter>,
    /// Who always finds a place; none where nobody is told apart.
    members: BTreeSet<PeerId>,
    /// Inbound connections of others, where there are members; bounded by the connection limits.
    strangers: BTreeSet<ConnectionId>,
    pace: Pace,
    /// Where members were seen, the latest last; at most [`MEMBER_ADDRESSES_MAX`].
    member_addresses: VecDeque<IpAddr>,
    /// Handshakes from there.
    member_pace: Pace,
    /// Bounded by the connection limits.
    connected: BTreeSet<PeerId>,
    /// Inbound connections from public networks; bounded by the connection limits.
    subnets: Subnets<ConnectionId>,
    /// Peers to disconnect; bounded by `connected`.
    closing: Vec<PeerId>,
}

impl Guard {
    pub(crate) fn new(bans: Bans, allowed: Option<BTreeSet<PeerId>>, filter: Option<AddressFilter>) -> Self {
        let subnets = Subnets::new(CONNECTIONS_PER_SUBNET_MAX);
        Self {
            bans,
            allowed,
            filter,
            members: BTreeSet::new(),
            strangers: BTreeSet::new(),
            pace: Pace::new(Instant::now()),
            member_addresses: VecDeque::new(),
            member_pace: Pace::new(Instant::now()),
            connected: BTreeSet::new(),
            subnets,
            closing: Vec::new(),
        }
    }

    /// Keeps places for these peers: others get [`STRANGER_CONNECTIONS_MAX`] of the inbound ones.
    pub(crate) fn with_members(mut self, members: BTreeSet<PeerId>) -> Self {
        self.members = members;
        self
    }

    fn is_stranger(&self, peer: &PeerId) -> bool {
        !self.members.is_empty() && !self.members.contains(peer)
    }

    /// Refuses one more stranger where those have their share.
    fn check_stranger(&self, peer: &PeerId) -> Result<(), ConnectionDenied> {
        if self.is_stranger(peer) && self.strangers.len() >= STRANGER_CONNECTIONS_MAX {
            return Err(ConnectionDenied::new(DoorReason::StrangersFull));
        }
        Ok(())
    }

    fn check_peer(&self, peer: &PeerId) -> Result<(), ConnectionDenied> {
        if self.bans.is_banned(peer) {
            return Err(ConnectionDenied::new(DoorReason::Banned));
        }
        match &self.allowed {
            Some(allowed) if !allowed.contains(peer) => Err(ConnectionDenied::new(DoorReason::NotAllowed)),
            _ => Ok(()),
        }
    }

    fn check_address(&self, address: &Multiaddr) -> Result<(), ConnectionDenied> {
        if self.is_filtered(address) { Err(ConnectionDenied::new(DoorReason::FilteredAddress)) } else { Ok(()) }
    }

    /// Refuses one more handshake while they come too fast; a flood from elsewhere keeps no member out.
    fn check_pace(&mut self, remote: &Multiaddr, now: Instant) -> Result<(), ConnectionDenied> {
        let of_member = observed(remote).is_some_and(|ip| self.member_addresses.contains(&ip));
        let pace = if of_member { &mut self.member_pace } else { &mut self.pace };
        if pace.take(now) { Ok(()) } else { Err(ConnectionDenied::new(DoorReason::TooFast)) }
    }

    fn member_seen(&mut self, remote: &Multiaddr) {
        let Some(ip) = observed(remote) else { return };
        self.member_addresses.retain(|known| *known != ip);
        self.member_addresses.push_back(ip);
        if self.member_addresses.len() > MEMBER_ADDRESSES_MAX {
            self.member_addresses.pop_front();
        }
    }

    /// Refuses one more connection from a network that has its share.
    fn check_subnet(&self, remote: &Multiaddr) -> Result<(), ConnectionDenied> {
        if observed(remote).is_some_and(|ip| self.subnets.is_full(ip)) {
            Err(ConnectionDenied::new(DoorReason::SubnetFull))
        } else {
            Ok(())
        }
    }

    /// Whether an address may not be used.
    pub(crate) fn is_filtered(&self, address: &Multiaddr) -> bool {
        match (&self.filter, ip_of_multiaddr(address)) {
            (Some(filter), Some(ip)) => filter(ip),
            _ => false,
        }
    }
}

impl NetworkBehaviour for Guard {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.check_address(local)?;
        self.check_address(remote)?;
        // Before the handshake, which costs more than the answer.
        self.check_subnet(remote)?;
        self.check_pace(remote, Instant::now())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        peer: PeerId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        self.check_peer(&peer)?;
        self.check_stranger(&peer)?;
        self.check_subnet(remote)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        peer: Option<PeerId>,
        _addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if let Some(peer) = peer {
            self.check_peer(&peer)?;
        }
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        self.check_peer(&peer)?;
        self.check_address(address)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.connected.insert(established.peer_id);
                if self.members.contains(&established.peer_id) {
                    self.member_seen(established.endpoint.get_remote_address());
                }
                if let ConnectedPoint::Listener { send_back_addr, .. } = established.endpoint {
                    if self.is_stranger(&established.peer_id) {
                        self.strangers.insert(established.connection_id);
                    }
                    if let Some(ip) = observed(send_back_addr) {
                        self.subnets.opened(established.connection_id, ip);
                    }
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.subnets.closed(&closed.connection_id);
                self.strangers.remove(&closed.connection_id);
                if closed.remaining_established == 0 {
                    self.connected.remove(&closed.peer_id);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        self.bans.waker.register(cx.waker());
        if self.bans.take_sweep() {
            let banned = self.connected.iter().filter(|peer| self.bans.is_banned(peer));
            self.closing = banned.copied().collect();
        }
        match self.closing.pop() {
            Some(peer_id) => Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::All }),
            None => Poll::Pending,
        }
    }
}

/// The IP address behind a direct connection; a relay's address says nothing about who comes through it.
fn observed(remote: &Multiaddr) -> Option<IpAddr> {
    let relayed = remote.iter().any(|part| part == libp2p::multiaddr::Protocol::P2pCircuit);
    if relayed { None } else { ip_of_multiaddr(remote) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};

    fn door() -> Guard {
        Guard::new(Bans::new(), None, None)
    }

    fn at(ip: &str) -> Multiaddr {
        format!("/ip4/{ip}/tcp/4001").parse().unwrap()
    }

    fn asks(guard: &mut Guard, remote: &Multiaddr) -> Result<(), ConnectionDenied> {
        guard.handle_pending_inbound_connection(ConnectionId::new_unchecked(0), &at("9.0.0.1"), remote)
    }

    fn comes(guard: &mut Guard, number: usize, remote: &Multiaddr, inbound: bool) {
        let listener = ConnectedPoint::Listener { local_addr: at("9.0.0.1"), send_back_addr: remote.clone() };
        let dialer =
            ConnectedPoint::Dialer { address: remote.clone(), role_override: Endpoint::Dialer, port_use: PortUse::New };
        guard.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: PeerId::random(),
            connection_id: ConnectionId::new_unchecked(number),
            endpoint: if inbound { &listener } else { &dialer },
            failed_addresses: &[],
            other_established: 0,
        }));
    }

    #[test]
    fn one_network_gets_no_more_than_its_share_of_inbound_connections() {
        let mut guard = door();
        for number in 0..CONNECTIONS_PER_SUBNET_MAX {
            assert!(asks(&mut guard, &at(&format!("9.9.9.{number}"))).is_ok());
            comes(&mut guard, number, &at(&format!("9.9.9.{number}")), true);
            comes(&mut guard, number + 100, &at("9.9.8.1"), false);
            comes(&mut guard, number + 200, &at("192.168.1.1"), true);
        }
        let denied = asks(&mut guard, &at("9.9.9.200")).unwrap_err();
        assert_eq!(denied.downcast::<DoorReason>().unwrap(), DoorReason::SubnetFull);
        let established = guard.handle_established_inbound_connection(
            ConnectionId::new_unchecked(0),
            PeerId::random(),
            &at("9.0.0.1"),
            &at("9.9.9.200"),
        );
        assert!(established.is_err(), "also one that was in its handshake while the last place was taken");
        assert!(asks(&mut guard, &at("9.9.8.1")).is_ok(), "connections of our own making do not count");
        assert!(asks(&mut guard, &at("192.168.1.1")).is_ok());
        let relay = PeerId::random();
        let relayed = format!("/ip4/9.9.9.1/tcp/1/p2p/{relay}/p2p-circuit").parse().unwrap();
        assert!(asks(&mut guard, &relayed).is_ok(), "a relay's address says nothing");

        let endpoint = ConnectedPoint::Listener { local_addr: at("9.0.0.1"), send_back_addr: at("9.9.9.3") };
        guard.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
            peer_id: PeerId::random(),
            connection_id: ConnectionId::new_unchecked(3),
            endpoint: &endpoint,
            cause: None,
            remaining_established: 0,
        }));
        assert!(asks(&mut guard, &at("9.9.9.200")).is_ok());
    }

    #[test]
    fn strangers_have_their_share_and_members_find_a_place() {
        let member = PeerId::random();
        let mut guard = door().with_members(BTreeSet::from([member]));
        let enters = |guard: &mut Guard, peer| {
            let (connection, local) = (ConnectionId::new_unchecked(0), at("9.0.0.1"));
            guard.handle_established_inbound_connection(connection, peer, &local, &at("192.168.1.1")).map(drop)
        };
        for number in 0..STRANGER_CONNECTIONS_MAX {
            assert!(enters(&mut guard, PeerId::random()).is_ok(), "{number}");
            comes(&mut guard, number, &at("192.168.1.1"), true);
            comes(&mut guard, number + 1000, &at("192.168.1.1"), false);
        }
        let denied = enters(&mut guard, PeerId::random()).unwrap_err();
        assert_eq!(denied.downcast::<DoorReason>().unwrap(), DoorReason::StrangersFull);
        assert!(enters(&mut guard, member).is_ok());
        let endpoint = ConnectedPoint::Listener { local_addr: at("9.0.0.1"), send_back_addr: at("192.168.1.1") };
        guard.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
            peer_id: PeerId::random(),
            connection_id: ConnectionId::new_unchecked(7),
            endpoint: &endpoint,
            cause: None,
            remaining_established: 0,
        }));
        assert!(enters(&mut guard, PeerId::random()).is_ok(), "a place that was left is free");
    }

    #[test]
    fn handshakes_begin_in_a_burst_and_then_at_their_pace() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut begun = |after: Duration| (0..10_000).filter(|_| pace.take(start + after)).count();
        assert_eq!(begun(Duration::ZERO), HANDSHAKES_BURST as usize);
        assert_eq!(begun(Duration::from_micros(900)), 0);
        assert_eq!(begun(Duration::from_millis(100)), HANDSHAKES_PER_SECOND as usize / 10);
        let spread = (101..=1100).map(|ms| begun(Duration::from_millis(ms))).sum::<usize>();
        assert_eq!(spread, HANDSHAKES_PER_SECOND as usize, "nothing is lost to rounding");
        assert_eq!(begun(Duration::from_secs(3600)), HANDSHAKES_BURST as usize, "a rest fills no more than a burst");
        assert_eq!(begun(Duration::from_secs(1)), 0, "a clock that goes back brings none");
    }

    #[test]
    fn a_flood_from_elsewhere_leaves_the_door_open_where_members_were_seen() {
        let member = PeerId::random();
        let mut guard = door().with_members(BTreeSet::from([member]));
        let listener = ConnectedPoint::Listener { local_addr: at("9.0.0.1"), send_back_addr: at("9.9.9.9") };
        guard.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: member,
            connection_id: ConnectionId::new_unchecked(1),
            endpoint: &listener,
            failed_addresses: &[],
            other_established: 0,
        }));
        let now = Instant::now();
        let flood = (0..10_000).filter(|_| guard.check_pace(&at("9.9.9.8"), now).is_ok()).count();
        assert_eq!(flood, HANDSHAKES_BURST as usize);
        let again = (0..10_000).filter(|_| guard.check_pace(&at("9.9.9.9"), now).is_ok()).count();
        assert_eq!(again, HANDSHAKES_BURST as usize, "it has a pace too");
        for n in 0..2 * MEMBER_ADDRESSES_MAX {
            guard.member_seen(&at(&format!("9.8.{}.{}", n / 250, n % 250)));
        }
        assert_eq!(guard.member_addresses.len(), MEMBER_ADDRESSES_MAX);
    }
}
