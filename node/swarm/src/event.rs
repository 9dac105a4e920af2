//! What the swarm tells its owner, and a bounded way to tell it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shoal_protocol::NodeId;
use tokio::sync::mpsc;

use crate::links::PeerLinks;

/// A fact about peers or addresses. Low rate; never needed for a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwarmEvent {
    /// The first connection to a peer.
    Connected {
        /// Its proven key.
        peer: NodeId,
        /// Its address, without `/p2p`.
        address: String,
        /// Whether we dialled.
        outbound: bool,
    },
    /// The last connection to a peer is gone.
    Disconnected {
        /// Who.
        peer: NodeId,
    },
    /// The connection of a peer's tunnel lane is gone, and the lane with it.
    TunnelGone {
        /// Who.
        peer: NodeId,
    },
    /// A listener is bound to a further address.
    Listening {
        /// Ends in our own `/p2p`.
        address: String,
    },
    /// How a peer sees us, as it says; with the port it saw.
    ObservedAddress {
        /// Who says so.
        peer: NodeId,
        /// Our address.
        address: String,
    },
    /// What a peer says of itself.
    Identified {
        /// Who.
        peer: NodeId,
        /// Its program, at most 128 characters.
        agent: String,
        /// Its protocols, at most 64.
        protocols: Vec<String>,
        /// Where it says it can be reached; at most 64, unchecked.
        addresses: Vec<String>,
    },
    /// The owner was too slow: so many events were lost. `SwarmHandle::connected` tells the present state.
    Lagged {
        /// Events lost since the last one delivered.
        lost: usize,
    },
}

/// The driver's end of the event queue. It never waits.
#[derive(Debug)]
pub(crate) struct EventSink {
    queue: mpsc::Sender<SwarmEvent>,
    links: Arc<PeerLinks>,
    lost: usize,
}

impl EventSink {
    pub(crate) fn new(queue: mpsc::Sender<SwarmEvent>, links: Arc<PeerLinks>) -> Self {
        Self { queue, links, lost: 0 }
    }

    pub(crate) fn send(&mut self, event: SwarmEvent) {
        if self.lost > 0 && self.queue.try_send(SwarmEvent::Lagged { lost: self.lost }).is_ok() {
            self.lost = 0;
        }
        let full = matches!(self.queue.try_send(event), Err(mpsc::error::TrySendError::Full(_)));
        if full {
            self.lost = self.lost.saturating_add(1);
            self.links.counters.events_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
