//! What one network wants done, and what it is told with every event. It is data alone.

use core::net::Ipv4Addr;
use std::collections::BTreeSet;

use shoal_protocol::mesh::address::Pool;
use shoal_protocol::mesh::claim::Claim;
use shoal_protocol::mesh::key::MeshKey;
use shoal_protocol::mesh::message::{Endpoint, MeshMessage};
use shoal_protocol::mesh::name::NameClaim;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::Origin;
use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::content::Control;
use shoal_protocol::mesh::session::frame::PathId;
use shoal_protocol::mesh::session::handshake::Offer;
use shoal_protocol::{BootEpoch, NetworkId, NodeId, Suite, UnixMillis};

use crate::Now;
use crate::mesh::routing::snapshot::ExitUse;
use crate::mesh::session::Installed;
use crate::path::{Carrier, Choice};

/// Who takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// Every peer that shows itself in this network.
    Everybody,
    /// These.
    Listed(BTreeSet<NodeId>),
}

impl Members {
    /// Whether `node` does.
    #[must_use]
    pub fn has(&self, node: &NodeId) -> bool {
        match self {
            Self::Everybody => true,
            Self::Listed(nodes) => nodes.contains(node),
        }
    }
}

/// Which carriers may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carriers {
    /// What is best at the time.
    #[default]
    Auto,
    /// Lanes alone.
    Lanes,
    /// Datagrams, and lanes only until the first handshake is done over them.
    Udp,
}

/// What a network is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This node.
    pub local: NodeId,
    /// The network.
    pub network: NetworkId,
    /// This run; never used before.
    pub epoch: BootEpoch,
    /// Who takes part.
    pub members: Members,
    /// Where its IPv4 addresses are.
    pub pool: Pool,
    /// When this node became a member.
    pub issued: UnixMillis,
    /// The last claim of the run before.
    pub saved: Option<Claim>,
    /// The greatest epoch of a mesh key in all runs before; 0 if there was none.
    pub key_epoch: u64,
    /// What this node takes in.
    pub offer: Offer,
    /// Longest data frame that a datagram of the network's MTU holds, header and tag included.
    pub full_frame: u16,
    /// Longest data frame of a packet of the network's MTU: the least that an address has to bear.
    pub least_frame: u16,
    /// Prefixes this node leads to, besides its own addresses.
    pub advertised: Vec<Prefix>,
    /// Through whom this node's packets to the internet go.
    pub exit: ExitUse,
    /// Where this node takes datagrams.
    pub endpoints: Vec<Endpoint>,
    /// Which carriers may be used.
    pub carriers: Carriers,
    /// What this node's processor seals with, ascending by number.
    pub suites: Vec<Suite>,
}

/// What every event brings with it.
pub struct Env<'a> {
    /// The time.
    pub now: Now,
    /// Fills memory with random bytes that nobody can foresee.
    pub random: &'a mut dyn FnMut(&mut [u8]),
}

/// To be signed by the node's key and handed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsigned {
    /// For [`super::Network::handle_signed_key`].
    Key(MeshKey),
    /// For [`super::Network::handle_signed_claim`].
    Claim(Claim),
    /// For [`super::Network::handle_signed_name`].
    Name(NameClaim),
    /// For [`super::Network::handle_signed_origin`].
    Origin(Origin),
}

/// What the packet half is told.
#[derive(Debug)]
pub enum PlaneCommand {
    /// Make room for this member; what follows names it by its hash.
    Peer {
        /// Who.
        node: NodeId,
    },
    /// Send a handshake message as it is.
    Handshake {
        /// To whom; not known of a cookie for a stranger's address.
        peer: Option<PeerHash>,
        /// Which way.
        on: Carrier,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Take these halves.
    Install {
        /// Whose.
        peer: PeerHash,
        /// The halves.
        installed: Box<Installed>,
    },
    /// Seal with this session from now on.
    Use {
        /// With whom.
        peer: PeerHash,
        /// Which.
        index: SessionIndex,
    },
    /// Seal this word with this session and send it.
    Control {
        /// To whom.
        peer: PeerHash,
        /// Which session; none for the one in use.
        index: Option<SessionIndex>,
        /// Which way.
        on: Carrier,
        /// What it is counted under.
        path: PathId,
        /// The word.
        control: Control,
    },
    /// Seal this word with this session and send it over others, by this neighbour, whatever the routes say. It is counted
    /// under [`PathId::ROUTED`].
    RoutedControl {
        /// To whom.
        peer: PeerHash,
        /// Which session; none for the one in use.
        index: Option<SessionIndex>,
        /// The neighbour.
        hop: PeerHash,
        /// The word.
        control: Control,
    },
    /// Send a handshake message as it is over others, by this neighbour.
    RoutedHandshake {
        /// To whom.
        peer: PeerHash,
        /// The neighbour.
        hop: PeerHash,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Send as this says from now on.
    Choose {
        /// To whom.
        peer: PeerHash,
        /// The choice.
        choice: Choice,
    },
    /// This member has neither a connection nor a session any more.
    Forget {
        /// Who.
        peer: PeerHash,
    },
    /// Drop both halves of this session.
    Erase {
        /// Whose.
        peer: PeerHash,
        /// Which.
        index: SessionIndex,
    },
}

/// To be done, in this order.
#[derive(Debug)]
pub enum NetworkEffect {
    /// Say this to a neighbour on its control lane, after everything said to it before.
    Tell {
        /// The neighbour.
        to: NodeId,
        /// What to say.
        message: Box<MeshMessage>,
    },
    /// Open a tunnel lane to a neighbour, and again after it broke.
    OpenLane(NodeId),
    /// No tunnel lane to this peer any more.
    CloseLane(NodeId),
    /// Sign this.
    Sign(Unsigned),
    /// Keep this durably: it is [`Setup::saved`] of the next run.
    SaveClaim(Claim),
    /// Keep this durably before anything that follows is done: it is [`Setup::key_epoch`] of the next run. A run that does
    /// not know it and whose clock was set back makes a key that others do not believe, until it hears from them of the
    /// former one.
    SaveKeyEpoch(u64),
    /// Keep this durably: it is what [`super::Network::handle_name`] of the next run is told.
    SaveName(NameClaim),
    /// The node's own IPv4 address is this from now on.
    OwnAddress(Option<Ipv4Addr>),
    /// [`super::Network::zone`] made before is out of date.
    Names,
    /// [`super::Network::tables`] made before are out of date.
    Publish,
    /// For the packet half.
    Plane(PlaneCommand),
}
