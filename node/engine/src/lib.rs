//! Every decision of a node as data. It names no clock, socket, file, thread or random source: time and randomness are
//! arguments, and what has to be done comes out as effects or answers.
//!
//! - [`directory`]: who is known, who is dialled, who is asked; from one known peer to all of them.
//! - [`mesh`]: the private network.
//! - [`path`]: which carrier a peer is reached by, and why.
//! - [`admission`]: which peer may do what, and how often.
//! - [`budget`]: how much strangers may ask and read.
//! - [`vouchers`]: whether a voucher counts, and what of it is spent.
//! - [`ceilings`]: what a lease group may still be promised.
//! - [`counters`]: how often what was refused.
//! - [`reservations`]: room promised for a minute.
//! - [`suggest`]: the word that was probably meant.
//! - [`pressure`]: when to come again.
//! - [`leases`]: whether a lease group counts.
//! - [`records`]: whether a record follows the one that is kept.

pub mod admission;
pub mod budget;
pub mod ceilings;
pub mod counters;
pub mod directory;
pub mod leases;
pub mod mesh;
pub mod path;
pub mod pressure;
pub mod records;
pub mod reservations;
pub mod suggest;
pub mod time;
pub mod vouchers;

pub use admission::{Admission, Denial, Operation, Policy};
pub use counters::Counters;
pub use directory::Directory;
pub use reservations::Reservations;
pub use time::Now;
