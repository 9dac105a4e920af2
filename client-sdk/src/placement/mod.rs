//! Which nodes hold which slots of a file: weights, failure domains, codes by profile.
//!
//! Pure: free space, standing and addresses are arguments, so one set of candidates gives one table on every machine.
//! It never asks a node whether it agrees, and never moves a shard that is already placed.
//!
//! - [`place`]: one ordered holder table of `(k+m) x replicas` slots, and who steps in when one refuses.
//! - [`outlook`]: what a code would mean here for whatever file comes.
//! - [`Profile`], [`choose`]: the code for a count of live nodes.
//! - [`Domain`]: what fails together.
//! - [`rendezvous_first`]: the nodes that keep a record.

mod domain;
mod outlook;
mod profile;
mod rendezvous;
mod table;

pub use domain::Domain;
pub use outlook::{Outlook, outlook};
pub use profile::{Choice, CodeTextError, Profile, UnknownProfile, choose, parse_code};
pub use rendezvous::rendezvous_first;
pub use table::{Candidate, Placed, Placement, Rules, place};

use core::fmt;

use shoal_protocol::layout::Code;

/// Why a file cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Fewer distinct usable nodes than shards of one segment.
    #[error("{have} usable nodes, {need} needed")]
    NotEnoughNodes {
        /// Distinct live nodes with room and standing.
        have: usize,
        /// k + m.
        need: usize,
    },
}

impl PlacementError {
    /// Whether the same call may succeed later: nodes come back.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        match self {
            Self::NotEnoughNodes { .. } => true,
        }
    }
}

/// What the owner should know about a placement or a code, though it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// One domain holds so many shards that its loss is the loss of the file.
    LosesFile {
        /// Which.
        domain: Domain,
        /// Slots of the table it holds.
        slots: usize,
    },
    /// No arrangement keeps every domain at the wanted count of slots.
    DomainCapRaised {
        /// Slots a domain should hold at most.
        wanted: usize,
        /// The smallest count that works.
        cap: usize,
    },
    /// Too few nodes for all copies.
    FewerReplicas {
        /// Copies asked for.
        wanted: u8,
        /// Copies placed.
        replicas: u8,
    },
    /// Some node holds several slots, as `allow_colocate` permits.
    Colocated {
        /// Distinct nodes.
        nodes: usize,
        /// Slots on them.
        slots: usize,
    },
    /// Every usable node holds a slot: nothing can be repaired before another joins.
    NoSpare,
    /// The profile's own code needs more nodes.
    ScaledDown {
        /// The profile's code.
        wanted: Code,
        /// The code chosen.
        code: Code,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LosesFile { domain, slots } => write!(f, "losing {domain} loses this file ({slots} slots there)"),
            Self::DomainCapRaised { wanted, cap } => {
                write!(f, "one failure domain may hold {cap} slots, {wanted} would be safe: too few domains")
            }
            Self::FewerReplicas { wanted, replicas } => {
                write!(f, "{replicas} instead of {wanted} copies: too few nodes")
            }
            Self::Colocated { nodes, slots } => write!(f, "{slots} slots share {nodes} nodes"),
            Self::NoSpare => f.write_str("no spare node: a lost shard cannot be repaired before another node joins"),
            Self::ScaledDown { wanted, code } => write!(f, "{code} instead of {wanted}: too few nodes"),
        }
    }
}

#[cfg(test)]
mod tests;
