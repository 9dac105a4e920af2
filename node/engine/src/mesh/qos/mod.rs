//! Who goes first on a link, and what goes no further. Every link to a next hop has one [`Queue`]; packets get a class
//! ([`classify()`]), are cut if they would hold the link for long ([`piece_bytes`]), wait in a queue of their flow, and
//! leave by deficit round robin with CoDel. Limits
//! ([`limits`]) stand before it. Time is an argument, in microseconds
//! since some moment, never going back; what a packet is made of is the caller's.

pub mod bucket;
pub mod classify;
pub mod codel;
pub mod flight;
pub mod limits;
pub mod pace;
pub mod queue;

pub use bucket::{Bucket, Rate};
pub use classify::classify;
pub use codel::Codel;
pub use flight::Flight;
pub use limits::{Limiter, Protocol};
pub use pace::Pace;
pub use queue::{Queue, QueueDrop, Taken};

/// Bytes of a full packet on an Ethernet link, the quantum of RFC 8290 5.2.4: what one flow may send before another.
pub const QUANTUM: usize = 1514;

/// Most bytes that enter a queue in one piece: a millisecond of the link's rate, at least one full packet. What is longer
/// is split before it is queued, so that nobody waits for more than that behind it.
#[must_use]
pub fn piece_bytes(bytes_per_second: u64) -> usize {
    usize::try_from(bytes_per_second / 1000).unwrap_or(usize::MAX).max(QUANTUM)
}

/// Whether a packet of `length` bytes has to be split for a link of this rate, and into pieces of at most how much.
#[must_use]
pub fn split_at(length: usize, bytes_per_second: u64) -> Option<usize> {
    let most = piece_bytes(bytes_per_second);
    (length > most).then_some(most)
}
