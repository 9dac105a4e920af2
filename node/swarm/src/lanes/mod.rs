//! Lanes: our streams on a connection, and the behaviour that keeps the table of links.
//!
//! An open request goes from a caller through [`Link`]'s queue straight to the connection's handler; a negotiated
//! stream goes straight to a task or to the caller. Nothing of this passes through the Swarm's queues, so one slow
//! connection delays no other. This module decides nothing about peers: it closes a connection only when its control
//! lane ended or broke the protocol.

pub(crate) mod handler;
pub(crate) mod upgrade;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandlerInEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use shoal_protocol::NodeId;
use shoal_protocol::link::Purpose;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use self::handler::{Condemned, LaneHandler};
use self::upgrade::LaneProtocols;
use crate::control::server::InboundRequest;
use crate::limits::{
    BUSY_ANSWERS_MAX, INBOUND_LANES_MAX, STRANGER_LANES_MAX, TUNNEL_ANSWERS_MAX, TUNNELS_MAX, WORKERS_MAX,
};
use crate::link::{CloseReason, Link, LinkFacts};
use crate::links::PeerLinks;
use crate::shard::InboundLane;
use crate::tunnel::lane::TunnelLane;

/// What all handlers share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Ourselves.
    pub(crate) local: NodeId,
    pub(crate) protocols: LaneProtocols,
    pub(crate) links: Arc<PeerLinks>,
    pub(crate) stop: CancellationToken,
    pub(crate) requests: mpsc::Sender<InboundRequest>,
    pub(crate) lanes: mpsc::Sender<InboundLane>,
    pub(crate) inbound_lanes: Arc<Semaphore>,
    /// Of those, what others than members may have.
    pub(crate) stranger_lanes: Arc<Semaphore>,
    /// For whom lanes are kept; empty where nobody is told apart.
    pub(crate) members: BTreeSet<NodeId>,
    pub(crate) busy_answers: Arc<Semaphore>,
    pub(crate) tunnels: mpsc::Sender<TunnelLane>,
    /// One permit per tunnel lane.
    pub(crate) tunnel_places: Arc<Semaphore>,
    pub(crate) tunnel_answers: Arc<Semaphore>,
    /// Whether others than members may have tunnel lanes.
    tunnel_strangers: bool,
    /// One permit per control task: bounds them, and tells a stop when all have ended.
    pub(crate) workers: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new(
        protocols: LaneProtocols,
        requests: mpsc::Sender<InboundRequest>,
        lanes: mpsc::Sender<InboundLane>,
        tunnels: mpsc::Sender<TunnelLane>,
        who: Who,
    ) -> Self {
        let Who { local, members, tunnel_strangers } = who;
        Self {
            local,
            protocols,
            links: Arc::default(),
            stop: CancellationToken::new(),
            requests,
            lanes,
            inbound_lanes: Arc::new(Semaphore::new(INBOUND_LANES_MAX)),
            stranger_lanes: Arc::new(Semaphore::new(if members.is_empty() {
                INBOUND_LANES_MAX
            } else {
                STRANGER_LANES_MAX
            })),
            members,
            busy_answers: Arc::new(Semaphore::new(BUSY_ANSWERS_MAX)),
            tunnels,
            tunnel_places: Arc::new(Semaphore::new(TUNNELS_MAX)),
            tunnel_answers: Arc::new(Semaphore::new(TUNNEL_ANSWERS_MAX)),
            tunnel_strangers,
            workers: Arc::new(Semaphore::new(WORKERS_MAX)),
        }
    }

    /// Whether there may be a tunnel lane with this peer.
    pub(crate) fn may_tunnel(&self, peer: &NodeId) -> bool {
        self.tunnel_strangers || self.members.contains(peer)
    }

    fn worker(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.workers).try_acquire_owned().ok()
    }
}

/// Who is who, as the configuration says.
#[derive(Debug)]
pub(crate) struct Who {
    pub(crate) local: NodeId,
    pub(crate) members: BTreeSet<NodeId>,
    /// Whether others than members may have tunnel lanes.
    pub(crate) tunnel_strangers: bool,
}

/// What the driver hears from the lanes.
#[derive(Debug)]
pub(crate) enum LanesEvent {
    /// A connection is being closed because of its control lane.
    Closing { peer: PeerId, reason: CloseReason },
    /// A connection on which there was a tunnel lane is gone.
    TunnelGone { peer: NodeId },
}

/// The behaviour: makes a link per connection, lists it while it is established.
pub(crate) struct Lanes {
    shared: Arc<Shared>,
    /// Links whose connection another behaviour may still deny. Bounded by the pending connections.
    unconfirmed: BTreeMap<ConnectionId, Arc<Link>>,
    /// Two per condemned connection and one per closed one: bounded by the established connections.
    queue: VecDeque<ToSwarm<LanesEvent, std::convert::Infallible>>,
}

impl Lanes {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, unconfirmed: BTreeMap::new(), queue: VecDeque::new() }
    }

    fn handler(
        &mut self,
        connection: ConnectionId,
        peer_id: PeerId,
        address: &Multiaddr,
        outbound: bool,
    ) -> LaneHandler {
        let Some(peer) = node_of(&peer_id) else { return LaneHandler::Stranger };
        let facts = LinkFacts { peer, connection, address: without_peer(address), outbound };
        let (link, ends) = Link::new(facts, self.shared.links.shared_of(&peer));
        self.unconfirmed.insert(connection, Arc::clone(&link));
        LaneHandler::node(link, ends, Arc::clone(&self.shared))
    }
}

/// The node behind a peer id, if its key is Ed25519.
pub(crate) fn node_of(peer: &PeerId) -> Option<NodeId> {
    NodeId::from_peer_id_bytes(&peer.to_bytes())
}

/// An address without a last `/p2p` part.
pub(crate) fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

impl NetworkBehaviour for Lanes {
    type ConnectionHandler = LaneHandler;
    type ToSwarm = LanesEvent;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<LaneHandler, ConnectionDenied> {
        Ok(self.handler(connection, peer, remote, false))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<LaneHandler, ConnectionDenied> {
        Ok(self.handler(connection, peer, address, true))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                if let Some(link) = self.unconfirmed.remove(&established.connection_id) {
                    tracing::debug!(peer = %link.peer, kind = ?link.kind, "link up");
                    self.shared.links.insert(link);
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                let peer = node_of(&closed.peer_id);
                let link = peer.and_then(|peer| self.shared.links.remove(&peer, closed.connection_id));
                if let Some(link) = link.filter(|link| link.purpose() == Purpose::Tunnel) {
                    self.queue.push_back(ToSwarm::GenerateEvent(LanesEvent::TunnelGone { peer: link.peer }));
                }
            }
            FromSwarm::DialFailure(failure) => {
                self.unconfirmed.remove(&failure.connection_id);
            }
            FromSwarm::ListenFailure(failure) => {
                self.unconfirmed.remove(&failure.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer_id: PeerId, connection: ConnectionId, Condemned(reason): Condemned) {
        self.queue.push_back(ToSwarm::GenerateEvent(LanesEvent::Closing { peer: peer_id, reason }));
        let connection = CloseConnection::One(connection);
        self.queue.push_back(ToSwarm::CloseConnection { peer_id, connection });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<LanesEvent, THandlerInEvent<Self>>> {
        // No waker: the queue is filled only while the Swarm polls, and it polls behaviours again afterwards.
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}
