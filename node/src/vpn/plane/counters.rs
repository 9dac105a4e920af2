//! What the packet half did not pass on, by reason, and what it did, by class. Counting never waits for long and never
//! allocates once a reason was seen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use shoal_engine::mesh::packet::PacketDrop;
use shoal_engine::mesh::policy::Reason;
use shoal_engine::mesh::qos::QueueDrop;
use shoal_engine::mesh::qos::limits::Limited;
use shoal_engine::mesh::relay::RelayDrop;
use shoal_engine::mesh::session::Dropped;
use shoal_protocol::mesh::class::Class;

use super::send::NotSent;

/// Why a packet or frame went no further: whoever stopped it says so. Copied, so that a flood of them allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lost {
    Packet(PacketDrop),
    Session(Dropped),
    Relay(RelayDrop),
    Rule(Reason),
    Queue(QueueDrop),
    Limit(Limited),
    Send(NotSent),
    /// A word of this program's own.
    Word(&'static str),
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Packet(reason) => reason.fmt(f),
            Self::Session(reason) => reason.fmt(f),
            Self::Relay(reason) => reason.fmt(f),
            Self::Rule(reason) => f.write_str(reason.label()),
            Self::Queue(reason) => reason.fmt(f),
            Self::Limit(reason) => reason.fmt(f),
            Self::Send(reason) => reason.fmt(f),
            Self::Word(word) => f.write_str(word),
        }
    }
}

impl From<PacketDrop> for Lost {
    fn from(reason: PacketDrop) -> Self {
        Self::Packet(reason)
    }
}

impl From<Dropped> for Lost {
    fn from(reason: Dropped) -> Self {
        Self::Session(reason)
    }
}

impl From<RelayDrop> for Lost {
    fn from(reason: RelayDrop) -> Self {
        Self::Relay(reason)
    }
}

impl From<Reason> for Lost {
    fn from(reason: Reason) -> Self {
        Self::Rule(reason)
    }
}

impl From<QueueDrop> for Lost {
    fn from(reason: QueueDrop) -> Self {
        Self::Queue(reason)
    }
}

impl From<Limited> for Lost {
    fn from(reason: Limited) -> Self {
        Self::Limit(reason)
    }
}

impl From<NotSent> for Lost {
    /// All sizes that did not fit are one reason.
    fn from(reason: NotSent) -> Self {
        match reason {
            NotSent::TooBig { .. } => Self::Word("too-big"),
            other => Self::Send(other),
        }
    }
}

impl From<&'static str> for Lost {
    fn from(word: &'static str) -> Self {
        Self::Word(word)
    }
}

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
    /// By reason, of which there are only so many.
    drops: Mutex<BTreeMap<Lost, u64>>,
}

impl Counters {
    /// Counts a packet or frame that went no further.
    pub(crate) fn drop(&self, reason: impl Into<Lost>) {
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        let count = drops.entry(reason.into()).or_default();
        *count = count.saturating_add(1);
    }

    /// Every reason's word with its count.
    pub(crate) fn drops(&self) -> BTreeMap<String, u64> {
        let mut words: BTreeMap<String, u64> = BTreeMap::new();
        for (reason, count) in self.drops.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let sum = words.entry(reason.to_string()).or_default();
            *sum = sum.saturating_add(*count);
        }
        words
    }
}
