//! The one task that owns the Swarm.
//!
//! Started by [`crate::start`]; ends when the swarm is stopped or every handle is dropped. Every branch is O(1) in
//! the number of peers, except the one for a closed door, and waits for nothing. What is lost when it ends: dials in
//! progress, whose callers are told `Stopped`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, SwarmEvent as Libp2pEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify};
use shoal_protocol::NodeId;
use shoal_protocol::link::Purpose;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::behaviour::{Behaviour, BehaviourEvent};
use crate::dials::{DialRequest, Dials, explain};
use crate::error::DialError;
use crate::event::{EventSink, SwarmEvent};
use crate::guard::Bans;
use crate::lanes::{LanesEvent, Shared, node_of, without_peer};
use crate::limits::{
    DIAL_ADDRESSES_MAX, GOODBYE_TIMEOUT, IDENTIFY_PROTOCOLS_MAX, IDENTIFY_TEXT_MAX, LISTEN_ADDRESSES_MAX,
    PENDING_OUTBOUND_MAX, WORKERS_MAX,
};
use crate::link::{CloseReason, Link};
use crate::tunnel::open::TunnelDial;

/// What handles ask of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Dial(DialRequest),
    DialTunnel(TunnelDial),
    Disconnect { peer: PeerId, done: oneshot::Sender<()> },
}

/// The driver's state.
pub(crate) struct Driver {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) bans: Bans,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: EventSink,
    pub(crate) dials: Dials,
    /// Dials for tunnel connections, at most [`PENDING_OUTBOUND_MAX`].
    pub(crate) tunnel_dials: BTreeMap<ConnectionId, oneshot::Sender<Arc<Link>>>,
    pub(crate) listening: Listening,
    /// Cancelled when the driver has ended.
    pub(crate) done: CancellationToken,
}

/// Bound addresses per listener; at most [`LISTEN_ADDRESSES_MAX`] in all.
#[derive(Debug, Default)]
pub(crate) struct Listening(BTreeMap<String, ListenerId>);

impl Listening {
    /// Adds an address. False if it was known or there is no room.
    pub(crate) fn add(&mut self, listener: ListenerId, address: String) -> bool {
        self.0.len() < LISTEN_ADDRESSES_MAX && self.0.insert(address, listener).is_none()
    }

    pub(crate) fn has(&self, listener: ListenerId) -> bool {
        self.0.values().any(|own| *own == listener)
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn remove(&mut self, address: &str) {
        self.0.remove(address);
    }

    fn close(&mut self, listener: ListenerId) {
        self.0.retain(|_, own| *own != listener);
    }
}

/// An address of ours as others dial it.
pub(crate) fn with_own_peer(address: &Multiaddr, own: PeerId) -> String {
    without_peer(address).with(Protocol::P2p(own)).to_string()
}

impl Driver {
    /// Runs until stopped.
    pub(crate) async fn run(mut self) {
        let stop = self.shared.stop.clone();
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                () = stop.cancelled() => break,
            }
        }
        self.stop().await;
    }

    /// Tasks say goodbye, connections close, the Swarm is dropped: each step bounded in time.
    async fn stop(mut self) {
        self.shared.stop.cancel();
        self.commands.close();
        self.dials.stop();
        self.tunnel_dials.clear();
        let workers = Arc::clone(&self.shared.workers);
        let all = u32::try_from(WORKERS_MAX).unwrap_or(u32::MAX);
        self.drive_until(async move { drop(workers.acquire_many_owned(all).await) }).await;
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        self.close_all().await;
        drop(self.swarm);
        self.shared.links.set_listening(Vec::new());
        self.done.cancel();
    }

    async fn drive_until(&mut self, finished: impl Future<Output = ()>) {
        let limit = tokio::time::sleep(GOODBYE_TIMEOUT);
        tokio::pin!(limit, finished);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                () = &mut finished => return,
                () = &mut limit => return,
            }
        }
    }

    async fn close_all(&mut self) {
        let limit = tokio::time::sleep(GOODBYE_TIMEOUT);
        tokio::pin!(limit);
        while self.swarm.connected_peers().next().is_some() {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                () = &mut limit => return,
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial(request) => self.on_dial(request),
            Command::DialTunnel(dial) => self.on_dial_tunnel(dial),
            Command::Disconnect { peer, done } => {
                let _ = self.swarm.disconnect_peer_id(peer);
                let _ = done.send(());
            }
        }
    }

    fn on_dial(&mut self, mut request: DialRequest) {
        let connected = match request.target {
            Some(target) => Some(target).filter(|target| self.shared.links.is_connected(target)),
            None => request.addresses.iter().find_map(|address| self.shared.links.peer_at(address)),
        };
        if let Some(peer) = connected {
            let _ = request.reply.send(Ok(peer));
            return;
        }
        let guard = &self.swarm.behaviour().guard;
        let named = request.addresses.len();
        request.addresses.retain(|address| !guard.is_filtered(address));
        if request.addresses.is_empty() {
            let error = if named == 0 { DialError::NoAddress } else { DialError::Denied("filtered address".into()) };
            let _ = request.reply.send(Err(error));
            return;
        }
        if let Some(request) = self.dials.join(request) {
            self.start_dial(vec![request]);
        }
    }

    /// Dials beside what there is. Where that cannot begin the dropped reply says so.
    fn on_dial_tunnel(&mut self, mut dial: TunnelDial) {
        let guard = &self.swarm.behaviour().guard;
        dial.addresses.retain(|address| !guard.is_filtered(address));
        let Some(options) = known_peer(dial.peer, dial.addresses) else { return };
        let connection = options.connection_id();
        if self.tunnel_dials.len() < PENDING_OUTBOUND_MAX as usize && self.swarm.dial(options).is_ok() {
            self.tunnel_dials.insert(connection, dial.reply);
        }
    }

    /// Dials for the first waiter; at an immediate failure for the next, until one dial runs or nobody waits.
    fn start_dial(&mut self, mut waiters: Vec<DialRequest>) {
        while let Some(first) = waiters.first() {
            let target = first.target;
            let Some(options) = dial_options(first) else { return };
            let connection = options.connection_id();
            let full = self.dials.is_full();
            self.dials.started(connection, target, waiters);
            let error = if full {
                DialError::Busy
            } else {
                match self.swarm.dial(options) {
                    Ok(()) => return,
                    Err(error) => explain(&error, target),
                }
            };
            waiters = self.dials.failed(connection, error);
        }
    }

    pub(crate) fn on_event(&mut self, event: Libp2pEvent<BehaviourEvent>) {
        match event {
            Libp2pEvent::Behaviour(event) => self.on_behaviour(event),
            Libp2pEvent::ConnectionEstablished { peer_id, connection_id, endpoint, num_established, .. } => {
                self.on_established(peer_id, connection_id, &endpoint, num_established.get() == 1);
            }
            Libp2pEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                if let Some(peer) = node_of(&peer_id) {
                    self.events.send(SwarmEvent::Disconnected { peer });
                }
            }
            Libp2pEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                let target = peer_id.as_ref().and_then(node_of);
                self.tunnel_dials.remove(&connection_id);
                let waiters = self.dials.failed(connection_id, explain(&error, target));
                self.start_dial(waiters);
            }
            Libp2pEvent::NewListenAddr { listener_id, address } => self.on_listening(listener_id, &address),
            Libp2pEvent::ExpiredListenAddr { address, .. } => {
                self.listening.remove(&with_own_peer(&address, *self.swarm.local_peer_id()));
                self.shared.links.set_listening(self.listening.all());
            }
            Libp2pEvent::ListenerClosed { listener_id, reason, .. } => {
                tracing::warn!(?reason, "listener closed");
                self.listening.close(listener_id);
                self.shared.links.set_listening(self.listening.all());
            }
            Libp2pEvent::ListenerError { error, .. } => tracing::warn!(%error, "listener error"),
            _ => {}
        }
    }

    fn on_established(&mut self, peer_id: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint, first: bool) {
        let peer = node_of(&peer_id);
        self.dials.connected(connection, peer);
        if let Some(reply) = self.tunnel_dials.remove(&connection)
            && let Some(link) = peer.and_then(|peer| self.shared.links.find(&peer, connection))
        {
            link.set_purpose(Purpose::Tunnel);
            let _ = reply.send(link);
        }
        if let (Some(peer), true) = (peer, first) {
            let address = without_peer(endpoint.get_remote_address()).to_string();
            self.events.send(SwarmEvent::Connected { peer, address, outbound: endpoint.is_dialer() });
        }
    }

    fn on_listening(&mut self, listener: ListenerId, address: &Multiaddr) {
        let address = with_own_peer(address, *self.swarm.local_peer_id());
        if self.listening.add(listener, address.clone()) {
            self.shared.links.set_listening(self.listening.all());
            self.events.send(SwarmEvent::Listening { address });
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Lanes(LanesEvent::Closing { peer, reason }) => self.on_closing(peer, reason),
            BehaviourEvent::Lanes(LanesEvent::TunnelGone { peer }) => self.events.send(SwarmEvent::TunnelGone { peer }),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                if let Some(peer) = node_of(&peer_id) {
                    self.on_identified(peer, &info);
                }
            }
            BehaviourEvent::Ping(event) => {
                let link = node_of(&event.peer).and_then(|peer| self.shared.links.find(&peer, event.connection));
                if let (Some(link), Ok(rtt)) = (link, event.result) {
                    link.set_rtt_if_unknown(rtt);
                }
            }
            BehaviourEvent::Identify(_) => {}
            BehaviourEvent::Guard(never) => match never {},
            BehaviourEvent::ConnectionLimits(never) | BehaviourEvent::MemoryLimits(never) => match never {},
        }
    }

    fn on_closing(&self, peer: PeerId, reason: CloseReason) {
        if reason == CloseReason::Violation {
            self.shared.links.counters.violations.fetch_add(1, Ordering::Relaxed);
            let banned = self.bans.strike(peer);
            // Counted above; a line each would let strangers fill the log.
            tracing::debug!(%peer, banned_s = banned.as_secs(), "peer broke the control protocol");
        } else {
            tracing::debug!(%peer, reason = reason.as_str(), "closing connection");
        }
    }

    fn on_identified(&mut self, peer: NodeId, info: &identify::Info) {
        let cut = |text: &str| text.chars().take(IDENTIFY_TEXT_MAX).collect::<String>();
        let observed = with_own_peer(&info.observed_addr, *self.swarm.local_peer_id());
        self.events.send(SwarmEvent::ObservedAddress { peer, address: observed });
        let protocols = info.protocols.iter().take(IDENTIFY_PROTOCOLS_MAX).map(|name| cut(name.as_ref())).collect();
        let said: Vec<Multiaddr> = info.listen_addrs.iter().take(DIAL_ADDRESSES_MAX).map(without_peer).collect();
        self.shared.links.book().add_said(peer, &said);
        let addresses = info.listen_addrs.iter().map(ToString::to_string);
        let short = addresses.filter(|text| text.len() <= crate::limits::ADDRESS_TEXT_MAX);
        self.events.send(SwarmEvent::Identified {
            peer,
            agent: cut(&info.agent_version),
            protocols,
            addresses: short.take(IDENTIFY_PROTOCOLS_MAX).collect(),
        });
    }
}

/// A known peer is dialled at all addresses at once, an unknown one at the first.
fn dial_options(request: &DialRequest) -> Option<DialOpts> {
    match request.target {
        Some(target) => known_peer(target, request.addresses.clone()),
        None => {
            let address = request.addresses.first()?.clone();
            Some(DialOpts::unknown_peer_id().address(address).build())
        }
    }
}

/// A dial of a known peer at all addresses; none without an address.
fn known_peer(peer: NodeId, addresses: Vec<Multiaddr>) -> Option<DialOpts> {
    let peer = PeerId::from_bytes(&peer.to_peer_id_bytes()).ok().filter(|_| !addresses.is_empty())?;
    Some(DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses).build())
}

/// Longest a stop takes: two bounded steps and some slack.
pub(crate) const STOP_MAX: Duration = Duration::from_millis(1_800);
const _: () = assert!(2 * GOODBYE_TIMEOUT.as_millis() + 500 < STOP_MAX.as_millis());
