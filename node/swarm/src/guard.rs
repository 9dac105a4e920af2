//! The door: bans, an optional allowlist, and a filter for addresses that must not carry us (the overlay's own).
//! It denies connections; it never judges what an admitted peer may do.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::address::ip_of_multiaddr;
use crate::bans::BanList;

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
        let length = {
            let mut door = self.door();
            door.sweep = true;
            door.bans.strike(peer, Instant::now())
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

/// The behaviour. It stands before everything that keeps state per connection.
pub(crate) struct Guard {
    bans: Bans,
    allowed: Option<BTreeSet<PeerId>>,
    filter: Option<AddressFilter>,
    /// Bounded by the connection limits.
    connected: BTreeSet<PeerId>,
    /// Peers to disconnect; bounded by `connected`.
    closing: Vec<PeerId>,
}

impl Guard {
    pub(crate) fn new(bans: Bans, allowed: Option<BTreeSet<PeerId>>, filter: Option<AddressFilter>) -> Self {
        Self { bans, allowed, filter, connected: BTreeSet::new(), closing: Vec::new() }
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
        self.check_address(remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _connection: ConnectionId,
        peer: PeerId,
        _local: &Multiaddr,
        _remote: &Multiaddr,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        self.check_peer(&peer)?;
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
            }
            FromSwarm::ConnectionClosed(closed) if closed.remaining_established == 0 => {
                self.connected.remove(&closed.peer_id);
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
