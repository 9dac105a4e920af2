//! Which way a peer is reached, and why: candidates and what is heard of them in, probes and choices out. It opens no
//! socket and sends nothing.
//!
//! - [`agent`]: the choice, one agent a peer; [`candidate`] is what it knows of each carrier.
//! - [`choice`]: a choice and its reason, as data.
//! - [`fence`]: how a receiver keeps frames in order when their sender changes carriers.

use core::net::SocketAddr;

use shoal_protocol::mesh::session::frame::PATH_IDS;

pub mod agent;
pub mod candidate;
pub mod choice;
pub mod fence;

pub use agent::{CandidateState, CandidateView, PathAgent, PathEffect};
pub use choice::{Choice, Decision, Ways, Why};
pub use fence::{FenceGate, Judgement};

/// Most carriers of one peer: as many as there are path ids.
pub const CARRIERS_MAX: usize = PATH_IDS as usize;
/// Most UDP addresses of one peer at a time: path ids less lanes and routed.
pub const UDP_PATHS_MAX: usize = CARRIERS_MAX - 2;

/// What takes frames to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Carrier {
    /// Streams of a connection of their own.
    Lanes,
    /// Over other members, as the routes say.
    Routed,
    /// Datagrams to this address.
    Udp(SocketAddr),
}

impl core::fmt::Display for Carrier {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Lanes => f.write_str("lanes"),
            Self::Routed => f.write_str("routed"),
            Self::Udp(address) => write!(f, "udp {address}"),
        }
    }
}
