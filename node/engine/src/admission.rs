//! Which peer may do what, and how often. Judged per operation, never per connection: anyone may connect, ask and
//! read within a budget; only members, and for as much as it says whoever shows a voucher, change what the node keeps.

use core::net::IpAddr;
use std::collections::BTreeSet;

use shoal_protocol::{NodeId, Refusal};

use crate::Now;
use crate::budget::Budgets;

/// What a peer wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// RESERVE, STORE, PUT_RECORD: changes what the node keeps.
    Change {
        /// Whether a voucher comes with it, which is judged and charged afterwards.
        voucher: bool,
    },
    /// HELLO, PEERS: without them no node finds the others, so they are answered to strangers also where nothing else is.
    Greet,
    /// LOCATE, STAT, GET_RECORD, LOSSES: asks.
    Ask,
    /// RETRIEVE of this many bytes, or an AUDIT that has the disk read that many.
    Read {
        /// Bytes asked for, or read.
        bytes: u64,
    },
}

/// Who may do what here.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Everybody is a member.
    pub open: bool,
    /// Strangers are greeted and nothing else.
    pub members_only: bool,
    /// Who may change things; empty is nobody.
    pub members: BTreeSet<NodeId>,
    /// Whose vouchers count; empty is nobody's.
    pub issuers: BTreeSet<NodeId>,
}

/// The door of every operation.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    policy: Policy,
    budgets: Budgets,
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
    /// By this policy, with full budgets.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, budgets: Budgets::default() }
    }

    /// Whether this peer needs no voucher.
    #[must_use]
    pub fn is_member(&self, peer: &NodeId) -> bool {
        self.policy.open || self.policy.members.contains(peer)
    }

    /// Whose vouchers count.
    #[must_use]
    pub const fn issuers(&self) -> &BTreeSet<NodeId> {
        &self.policy.issuers
    }

    /// Whether a peer, seen at `address`, may do this now. Members and everybody on an open node have no budget: disk and
    /// lanes bound them.
    ///
    /// # Errors
    /// [`Refusal::Denied`] for what strangers may not do, [`Refusal::Busy`] beyond a budget.
    pub fn admit(
        &mut self,
        peer: NodeId,
        address: Option<IpAddr>,
        operation: Operation,
        now: Now,
    ) -> Result<(), Denial> {
        if self.is_member(&peer) {
            return Ok(());
        }
        let denied = Denial { reason: Refusal::Denied, retry_after_ms: 0 };
        let bytes = match operation {
            Operation::Change { voucher: false } => return Err(denied),
            // Nobody issues any: not worth reading one.
            Operation::Change { voucher: true } if self.policy.issuers.is_empty() => return Err(denied),
            Operation::Ask | Operation::Read { .. } if self.policy.members_only => return Err(denied),
            Operation::Change { voucher: true } | Operation::Greet | Operation::Ask => 0,
            Operation::Read { bytes } => bytes,
        };
        self.budgets.spend(peer, address, bytes, now.uptime_ms).map_err(|(_, wait_ms)| Denial {
            reason: Refusal::Busy,
            retry_after_ms: u32::try_from(wait_ms).unwrap_or(u32::MAX).max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::PEER;

    const CHANGE: Operation = Operation::Change { voucher: false };
    const VOUCHED: Operation = Operation::Change { voucher: true };
    const READ: Operation = Operation::Read { bytes: 1 };

    fn peer(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn allowed(policy: &Policy, who: u8, operation: Operation) -> Result<(), Refusal> {
        let mut admission = Admission::new(policy.clone());
        admission.admit(peer(who), None, operation, Now::default()).map_err(|denial| denial.reason)
    }

    #[test]
    fn who_may_do_what() {
        let closed = Policy { members: BTreeSet::from([peer(1)]), ..Policy::default() };
        let private = Policy { members_only: true, ..closed.clone() };
        let vouching = Policy { issuers: BTreeSet::from([peer(9)]), ..private.clone() };
        let open = Policy { open: true, members_only: true, ..Policy::default() };
        let operations = [CHANGE, VOUCHED, Operation::Greet, Operation::Ask, READ];
        let table = [
            (&Policy::default(), 1, [false, false, true, true, true]),
            (&closed, 1, [true; 5]),
            (&closed, 2, [false, false, true, true, true]),
            (&private, 1, [true; 5]),
            (&private, 2, [false, false, true, false, false]),
            (&vouching, 2, [false, true, true, false, false]),
            (&open, 2, [true; 5]),
        ];
        for (policy, who, expected) in table {
            for (operation, expected) in operations.into_iter().zip(expected) {
                let expected = if expected { Ok(()) } else { Err(Refusal::Denied) };
                assert_eq!(allowed(policy, who, operation), expected, "{who}: {operation:?} by {policy:?}");
            }
        }
    }

    #[test]
    fn strangers_have_a_budget_and_members_none() {
        let mut admission = Admission::new(Policy { members: BTreeSet::from([peer(1)]), ..Policy::default() });
        let mut ask =
            |who, uptime_ms| admission.admit(peer(who), None, Operation::Ask, Now { uptime_ms, ..Now::default() });
        for _ in 0..PEER.operations_burst {
            assert_eq!(ask(2, 0), Ok(()));
        }
        assert_eq!(ask(2, 0), Err(Denial { reason: Refusal::Busy, retry_after_ms: 5 }));
        assert_eq!(ask(2, 5), Ok(()));
        for _ in 0..2 * PEER.operations_burst {
            assert_eq!(ask(1, 0), Ok(()));
        }
    }

    #[test]
    fn what_is_denied_costs_no_budget() {
        let mut admission = Admission::new(Policy::default());
        for _ in 0..2 * PEER.operations_burst {
            assert!(admission.admit(peer(2), None, CHANGE, Now::default()).is_err());
        }
        assert_eq!(admission.admit(peer(2), None, Operation::Ask, Now::default()), Ok(()));
    }
}
