//! What the packet half did not pass on, by reason, and what it did, by class. Counting never waits for long and never
//! allocates once a reason was seen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use shoal_protocol::mesh::class::Class;

/// Packets and bytes of one direction.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    packets: [AtomicU64; Class::ALL.len()],
    bytes: [AtomicU64; Class::ALL.len()],
}

impl Flow {
    pub(crate) fn add(&self, class: Class, bytes: usize) {
        let at = usize::from(class.number());
        if let (Some(packets), Some(sum)) = (self.packets.get(at), self.bytes.get(at)) {
            packets.fetch_add(1, Ordering::Relaxed);
            sum.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Packets and bytes of a class.
    pub(crate) fn of(&self, class: Class) -> (u64, u64) {
        let at = usize::from(class.number());
        let read = |counts: &[AtomicU64]| counts.get(at).map_or(0, |count| count.load(Ordering::Relaxed));
        (read(&self.packets), read(&self.bytes))
    }
}

/// All counts of one plane.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent: Flow,
    pub(crate) received: Flow,
    /// Reasons are words of the program, so there are only so many.
    drops: Mutex<BTreeMap<String, u64>>,
}

impl Counters {
    /// Counts a packet or frame that went no further.
    pub(crate) fn drop(&self, reason: &str) {
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = drops.get_mut(reason) {
            *count = count.saturating_add(1);
        } else {
            drops.insert(reason.to_owned(), 1);
        }
    }

    /// Every reason with its count.
    pub(crate) fn drops(&self) -> BTreeMap<String, u64> {
        self.drops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
