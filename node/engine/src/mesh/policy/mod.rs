//! Who may send what to whom inside a network, announce which prefix, and leave where. A document ([`Document`]) is read
//! from text, compiled against the facts of this machine into a [`Snapshot`], and asked for every packet on both ends.
//! It opens no file and publishes nothing.
//!
//! - [`prefix_table`]: values by prefix, the longest found.
//! - [`document`]: the TOML form and its mistakes.
//! - [`compile`]: names to numbers.
//! - [`snapshot`]: the decision.
//! - [`floor`]: what no exit ever reaches.

pub mod compile;
pub mod document;
pub mod floor;
pub mod prefix_table;
mod rate;
pub mod snapshot;

pub use compile::Local;
pub use document::{Document, PolicyError};
pub use floor::Floor;
pub use prefix_table::PrefixTable;
pub use snapshot::{Announce, Direction, Reason, Snapshot, Subject, Verdict};
