//! What callers hold: a cheap handle that asks the driver, the table of links and the lanes.
//! No call waits for a full queue: it answers Busy at once.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;
use shoal_protocol::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::address::{self, AddressError};
use crate::dials::DialRequest;
use crate::driver::{Command, STOP_MAX};
use crate::error::{DialError, LaneError, RequestError};
use crate::guard::Bans;
use crate::lanes::Shared;
use crate::limits::{DEADLINE_MAX, DIAL_ADDRESSES_MAX};
use crate::link::{LinkKind, Support};
use crate::pool;
use crate::shard::ShardLane;
use crate::tunnel::lane::TunnelLane;
use crate::tunnel::open;

/// A running swarm. Clones share it; when the last one is dropped the swarm stops.
#[derive(Clone)]
pub struct SwarmHandle {
    pub(crate) local: NodeId,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) bans: Bans,
    pub(crate) done: CancellationToken,
}

/// What the swarm refused or lost since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwarmCounters {
    /// Inbound shard lanes answered BUSY.
    pub lanes_busy: usize,
    /// Inbound shard lanes reset without an answer.
    pub lanes_reset: usize,
    /// Events nobody fetched in time.
    pub events_lost: usize,
    /// Connections closed because the peer broke the control protocol.
    pub violations: usize,
}

impl std::fmt::Debug for SwarmHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SwarmHandle").field("local", &self.local).finish_non_exhaustive()
    }
}

fn peer_id(node: &NodeId) -> Option<PeerId> {
    PeerId::from_bytes(&node.to_peer_id_bytes()).ok()
}

impl SwarmHandle {
    /// Our own id.
    #[must_use]
    pub const fn local(&self) -> NodeId {
        self.local
    }

    /// All bound addresses with their real ports, each ending in our own `/p2p`.
    #[expect(clippy::unused_async, reason = "callers must not rely on it being answered without the driver")]
    pub async fn listening(&self) -> Vec<String> {
        self.shared.links.listening()
    }

    /// Connects to a peer, or joins a connection or dial that exists. Addresses may end in `/p2p`, all naming one
    /// peer. Without a peer the addresses are tried in turn and whoever answers is returned.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(
        &self,
        target: Option<NodeId>,
        addresses: Vec<String>,
        deadline: Duration,
    ) -> Result<NodeId, DialError> {
        if addresses.len() > DIAL_ADDRESSES_MAX {
            return Err(AddressError::TooMany(addresses.len()).into());
        }
        let (mut target, mut parsed) = (target, Vec::with_capacity(addresses.len()));
        for text in &addresses {
            let (address, peer) = address::parse(text)?;
            match (target, peer) {
                (Some(known), Some(named)) if known != named => return Err(AddressError::PeerMismatch.into()),
                (None, Some(named)) => target = Some(named),
                _ => {}
            }
            parsed.push(address);
        }
        if target == Some(self.local) {
            return Err(DialError::Ourselves);
        }
        if let Some(target) = target {
            self.shared.links.book().add(target, &parsed);
        }
        let (reply, answer) = oneshot::channel();
        let command = Command::Dial(DialRequest { target, addresses: parsed, reply });
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => DialError::Busy,
            mpsc::error::TrySendError::Closed(_) => DialError::Stopped,
        })?;
        match tokio::time::timeout(deadline.min(DEADLINE_MAX), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(DialError::Stopped),
            Err(_) => Err(DialError::Timeout),
        }
    }

    /// Asks a connected peer on its control lane. Dropping the future cancels the request at the peer.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(&self, peer: NodeId, body: Bytes, deadline: Duration) -> Result<Bytes, RequestError> {
        let link = self.shared.links.best(&peer).ok_or(RequestError::NotConnected)?;
        if link.support() == Support::No {
            return Err(RequestError::Unsupported);
        }
        link.want_control();
        match link.control.request(body, deadline).await {
            Err(RequestError::Closed) if link.support() == Support::No => Err(RequestError::Unsupported),
            result => result,
        }
    }

    /// A shard lane to a connected peer: an idle one, or a new one on the best link. At most four per peer exist;
    /// callers wait for one until the deadline.
    ///
    /// # Errors
    /// [`LaneError`]. That the peer is busy or does not speak the protocol may also show at the first read of the
    /// lane: [`LaneError::of`] finds it in the I/O error.
    pub async fn lane(&self, peer: NodeId, deadline: Duration) -> Result<ShardLane, LaneError> {
        pool::acquire(&self.shared.links, &peer, deadline).await
    }

    /// The tunnel lane to a connected member: opened here or, where the rule gives that to the peer, awaited until it
    /// calls this too. Who dialled opens; if both did, the smaller id. The lane has a TCP connection of its own, and
    /// shares the best one ([`TunnelLane::shared`]) where no TCP address of the peer answers within half of the deadline.
    ///
    /// A lane that the peer opens while nobody waits here comes out of [`crate::Inbound::tunnels`]. One lane a pair exists.
    ///
    /// # Errors
    /// [`LaneError`]; `TunnelOpen` while the lane of this pair is alive, `Denied` for strangers.
    pub async fn tunnel(&self, peer: NodeId, deadline: Duration) -> Result<TunnelLane, LaneError> {
        open::acquire(self, peer, deadline).await
    }

    /// The IP address that the best link leads to; none through a relay, nor where a name was dialled.
    #[must_use]
    pub fn remote_ip(&self, peer: &NodeId) -> Option<IpAddr> {
        self.shared.links.remote_ip(peer)
    }

    /// Last round trip of the best link, by control ping.
    #[must_use]
    pub fn rtt(&self, peer: &NodeId) -> Option<Duration> {
        self.shared.links.rtt(peer)
    }

    /// How the best link to a peer runs.
    #[must_use]
    pub fn link(&self, peer: &NodeId) -> Option<LinkKind> {
        self.shared.links.kind(peer)
    }

    /// All connected nodes, in order of their ids.
    #[must_use]
    pub fn connected(&self) -> Vec<NodeId> {
        self.shared.links.connected()
    }

    /// Refuses a peer for a while, at most a year, and closes its connections.
    pub fn ban(&self, peer: NodeId, for_: Duration) {
        if let Some(peer) = peer_id(&peer) {
            self.bans.ban(peer, for_);
        }
    }

    /// Closes all connections to a peer. It may connect again.
    pub async fn disconnect(&self, peer: NodeId) {
        let Some(peer) = peer_id(&peer) else { return };
        let (done, finished) = oneshot::channel();
        if self.commands.send(Command::Disconnect { peer, done }).await.is_ok() {
            let _ = finished.await;
        }
    }

    /// What was refused or lost so far.
    #[must_use]
    pub fn counters(&self) -> SwarmCounters {
        let counters = &self.shared.links.counters;
        SwarmCounters {
            lanes_busy: counters.lanes_busy.load(Ordering::Relaxed),
            lanes_reset: counters.lanes_reset.load(Ordering::Relaxed),
            events_lost: counters.events_lost.load(Ordering::Relaxed),
            violations: counters.violations.load(Ordering::Relaxed),
        }
    }

    /// Stops the swarm: goodbye to every peer, all connections closed, ports free. Done within 2 s.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        let _ = tokio::time::timeout(STOP_MAX, self.done.cancelled()).await;
    }
}
