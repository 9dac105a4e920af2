//! What the engine asks of the network, as data: the node turns these into swarm commands, the swarm decides nothing.

use crate::id::NodeId;

/// What a connection is for: tunnel frames once a tunnel lane was opened on it, else everything. Each pair of nodes has
/// one of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Storage transfers and control.
    Bulk,
    /// Tunnel frames.
    Tunnel,
}

/// One thing the engine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEffect {
    /// Connect. `node` is unknown for a bootstrap address without an id.
    Dial {
        /// Whom, if known.
        node: Option<NodeId>,
        /// Where, multiaddr texts.
        addresses: Vec<String>,
    },
    /// Send a connected peer this node's own HELLO; its answer comes back as an event.
    Greet {
        /// Whom.
        node: NodeId,
    },
    /// Ask a connected peer for the peers it knows; its answer comes back as an event.
    AskPeers {
        /// Whom.
        node: NodeId,
        /// Where the page before ended; none for the first.
        after: Option<NodeId>,
    },
}
