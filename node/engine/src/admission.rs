//! Which peer may do what, and how often. Judged per operation, never per connection: anyone may connect, ask and
//! read within a budget; only members change what the node keeps.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::{NodeId, Refusal};

use crate::Now;

/// Peers whose budgets are remembered; beyond it the one that has rested longest is forgotten, which refills it.
pub const BUDGETS_MAX: usize = 4096;
/// Operations a stranger may do in a burst; refilled at [`OPERATIONS_PER_SECOND`].
pub const OPERATIONS_BURST: u64 = 2_000;
/// Operations a stranger may do a second in the long run.
pub const OPERATIONS_PER_SECOND: u64 = 200;
/// Bytes a stranger may read in a burst: 1 GiB; refilled at [`BYTES_PER_SECOND`].
pub const BYTES_BURST: u64 = 1 << 30;
/// Bytes a stranger may read a second in the long run: 64 MiB.
pub const BYTES_PER_SECOND: u64 = 64 << 20;

/// What a peer wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// RESERVE, STORE, PUT_RECORD: changes what the node keeps.
    Change,
    /// HELLO, PEERS, LOCATE, STAT, GET_RECORD: asks.
    Ask,
    /// RETRIEVE of this many bytes, or an AUDIT that has the disk read that many.
    Read {
        /// Bytes asked for, or read.
        bytes: u64,
    },
}

/// Who may change things here.
#[derive(Clone, Debug)]
pub struct Admission {
    open: bool,
    members: BTreeSet<NodeId>,
    budgets: BTreeMap<NodeId, Budget>,
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    operations: Bucket,
    bytes: Bucket,
    used_ms: u64,
}

/// A token bucket: `level` of `burst`, refilled continuously.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: u64,
    filled_ms: u64,
}

impl Bucket {
    /// Takes `amount`, or says after how many milliseconds it could be had. What is larger than the whole bucket is let
    /// through when the bucket is full and empties it.
    fn take(&mut self, amount: u64, burst: u64, per_second: u64, now_ms: u64) -> Result<(), u64> {
        let refill = now_ms.saturating_sub(self.filled_ms).saturating_mul(per_second) / 1000;
        if refill > 0 {
            self.level = self.level.saturating_add(refill).min(burst);
            self.filled_ms = now_ms;
        }
        let amount = amount.min(burst);
        match self.level.checked_sub(amount) {
            Some(level) => {
                self.level = level;
                Ok(())
            }
            None => Err((amount - self.level).saturating_mul(1000).div_ceil(per_second)),
        }
    }
}

/// A refusal, and when to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub reason: Refusal,
    /// Milliseconds after which it may be different; 0 where waiting changes nothing.
    pub retry_after_ms: u32,
}

impl Admission {
    /// An empty `members` with `open` false admits nobody to changes.
    #[must_use]
    pub fn new(open: bool, members: impl IntoIterator<Item = NodeId>) -> Self {
        Self { open, members: members.into_iter().collect(), budgets: BTreeMap::new() }
    }

    /// Whether a peer may do this now. Members and everybody on an open node have no budget: disk and lanes bound them.
    ///
    /// # Errors
    /// [`Refusal::Denied`] for changes by strangers, [`Refusal::Busy`] beyond a budget.
    pub fn admit(&mut self, peer: NodeId, operation: Operation, now: Now) -> Result<(), Denial> {
        let member = self.open || self.members.contains(&peer);
        match operation {
            _ if member => Ok(()),
            Operation::Change => Err(Denial { reason: Refusal::Denied, retry_after_ms: 0 }),
            Operation::Ask => self.spend(peer, 0, now),
            Operation::Read { bytes } => self.spend(peer, bytes, now),
        }
    }

    fn spend(&mut self, peer: NodeId, bytes: u64, now: Now) -> Result<(), Denial> {
        let now_ms = now.uptime_ms;
        if !self.budgets.contains_key(&peer) && self.budgets.len() >= BUDGETS_MAX {
            let rested = self.budgets.iter().min_by_key(|(_, budget)| budget.used_ms).map(|(peer, _)| *peer);
            rested.map(|peer| self.budgets.remove(&peer));
        }
        let full = |level| Bucket { level, filled_ms: now_ms };
        let budget = self.budgets.entry(peer).or_insert(Budget {
            operations: full(OPERATIONS_BURST),
            bytes: full(BYTES_BURST),
            used_ms: now_ms,
        });
        budget.used_ms = now_ms;
        let taken = budget
            .operations
            .take(1, OPERATIONS_BURST, OPERATIONS_PER_SECOND, now_ms)
            .and_then(|()| budget.bytes.take(bytes, BYTES_BURST, BYTES_PER_SECOND, now_ms));
        taken.map_err(|wait_ms| Denial {
            reason: Refusal::Busy,
            retry_after_ms: u32::try_from(wait_ms).unwrap_or(u32::MAX).max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(uptime_ms: u64) -> Now {
        Now { uptime_ms, ..Now::default() }
    }

    fn peer(n: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_le_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn an_empty_allowlist_is_nobody() {
        let mut admission = Admission::new(false, []);
        let denied = admission.admit(peer(1), Operation::Change, at(0)).unwrap_err();
        assert_eq!(denied.reason, Refusal::Denied);
        assert!(admission.admit(peer(1), Operation::Ask, at(0)).is_ok());
        assert!(admission.admit(peer(1), Operation::Read { bytes: 1 }, at(0)).is_ok());
        let mut admission = Admission::new(false, [peer(1)]);
        assert!(admission.admit(peer(1), Operation::Change, at(0)).is_ok());
        assert!(admission.admit(peer(2), Operation::Change, at(0)).is_err());
        assert!(Admission::new(true, []).admit(peer(2), Operation::Change, at(0)).is_ok());
    }

    #[test]
    fn strangers_are_held_to_a_budget_and_recover() {
        let mut admission = Admission::new(false, []);
        for _ in 0..OPERATIONS_BURST {
            assert!(admission.admit(peer(1), Operation::Ask, at(0)).is_ok());
        }
        let denied = admission.admit(peer(1), Operation::Ask, at(0)).unwrap_err();
        assert_eq!((denied.reason, denied.retry_after_ms), (Refusal::Busy, 5));
        assert!(admission.admit(peer(2), Operation::Ask, at(0)).is_ok(), "others are not affected");
        assert!(admission.admit(peer(1), Operation::Ask, at(5)).is_ok());
        assert!(admission.admit(peer(1), Operation::Ask, at(5)).is_err());
        let mut admission = Admission::new(false, []);
        assert!(admission.admit(peer(1), Operation::Read { bytes: BYTES_BURST }, at(0)).is_ok());
        assert!(admission.admit(peer(1), Operation::Read { bytes: 1 << 20 }, at(1)).is_err());
        assert!(admission.admit(peer(1), Operation::Read { bytes: 1 << 20 }, at(1000)).is_ok());
    }

    #[test]
    fn budgets_are_bounded() {
        let mut admission = Admission::new(false, []);
        for n in 0..6000u16 {
            assert!(admission.admit(peer(n), Operation::Ask, at(u64::from(n))).is_ok());
        }
        assert_eq!(admission.budgets.len(), BUDGETS_MAX);
    }
}
