//! Sequence numbers that are asked for: for prefixes of which only unusable routes are known, again and again until one can
//! be used; and the requests of others that were passed on, a few times each, for on a long way some hop loses one. It
//! sends nothing.

use std::collections::BTreeMap;

use shoal_protocol::NodeId;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::Router;

use super::ROUTES_MAX;

/// First wait before a request is repeated, milliseconds; doubled each time.
pub const REQUEST_FIRST_MS: u64 = 1_000;
/// Longest wait before a request is repeated, milliseconds.
pub const REQUEST_AGAIN_MAX_MS: u64 = 8_000;
/// The same request is not passed on twice within this time, milliseconds: less than the first wait of who asks, so that a
/// repeated request is not taken for a copy. After as long, and then twice as long each time, it is repeated.
pub const FORWARD_ONCE_MS: u64 = 600;
/// How often a request of somebody else is sent on, with repetitions: with one message in ten lost all four fail once in
/// ten thousand.
pub const FORWARD_TRIES: u8 = 4;
/// Most requests passed on that are remembered; beyond it none is passed on.
pub const FORWARDED_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug)]
struct Want {
    router: Router,
    seqno: u32,
    due_ms: u64,
    wait_ms: u64,
}

/// A request of somebody else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    pub(super) seqno: u32,
    /// Who asked.
    pub(super) from: NodeId,
    /// How many more hops it may travel.
    pub(super) hops: u8,
    sent_ms: u64,
    wait_ms: u64,
    left: u8,
}

impl Passed {
    /// How often it was passed on before.
    pub(super) const fn tries(&self) -> usize {
        FORWARD_TRIES.saturating_sub(1).saturating_sub(self.left) as usize
    }

    const fn due_ms(&self) -> u64 {
        self.sent_ms.saturating_add(self.wait_ms)
    }
}

/// Requests of this node and of others.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Own ones, at most [`ROUTES_MAX`].
    wanted: BTreeMap<Prefix, Want>,
    /// At most [`FORWARDED_MAX`].
    forwarded: BTreeMap<(Prefix, Router), Passed>,
}

impl Requests {
    /// `prefix` has no usable route until `router` counts to `seqno`.
    pub(super) fn want(&mut self, prefix: Prefix, router: Router, seqno: u32, now_ms: u64) {
        let same = |want: &Want| want.router == router && want.seqno == seqno;
        if self.wanted.get(&prefix).is_some_and(same) {
            return;
        }
        if self.wanted.len() < ROUTES_MAX || self.wanted.contains_key(&prefix) {
            self.wanted.insert(prefix, Want { router, seqno, due_ms: now_ms, wait_ms: REQUEST_FIRST_MS });
        }
    }

    /// `prefix` has a usable route, or none at all.
    pub(super) fn satisfied(&mut self, prefix: &Prefix) {
        self.wanted.remove(prefix);
    }

    /// When the next request is due.
    pub(super) fn due_ms(&self) -> u64 {
        let own = self.wanted.values().map(|want| want.due_ms);
        own.chain(self.forwarded.values().map(Passed::due_ms)).min().unwrap_or(u64::MAX)
    }

    /// The own requests that are due.
    pub(super) fn due(&mut self, now_ms: u64) -> Vec<(Prefix, Router, u32)> {
        let due = self.wanted.iter_mut().filter(|(_, want)| want.due_ms <= now_ms);
        due.map(|(prefix, want)| {
            want.due_ms = now_ms.saturating_add(want.wait_ms);
            want.wait_ms = want.wait_ms.saturating_mul(2).min(REQUEST_AGAIN_MAX_MS);
            (*prefix, want.router, want.seqno)
        })
        .collect()
    }

    /// Whether a request of `from` is passed on now: not if the same, or one for more, was a moment ago.
    pub(super) fn forward(
        &mut self,
        prefix: Prefix,
        router: Router,
        (seqno, hops): (u32, u8),
        from: NodeId,
        now_ms: u64,
    ) -> bool {
        let key = (prefix, router);
        let copy = |passed: &Passed| passed.seqno >= seqno && now_ms.saturating_sub(passed.sent_ms) < FORWARD_ONCE_MS;
        if self.forwarded.get(&key).is_some_and(copy)
            || (self.forwarded.len() >= FORWARDED_MAX && !self.forwarded.contains_key(&key))
        {
            return false;
        }
        let left = FORWARD_TRIES.saturating_sub(1);
        self.forwarded.insert(key, Passed { seqno, from, hops, sent_ms: now_ms, wait_ms: FORWARD_ONCE_MS, left });
        true
    }

    /// The requests of others that are to be repeated, unless `is_answered`.
    pub(super) fn due_again(
        &mut self,
        now_ms: u64,
        is_answered: impl Fn(&Prefix, &Router, u32) -> bool,
    ) -> Vec<(Prefix, Router, Passed)> {
        let mut out = Vec::new();
        self.forwarded.retain(|(prefix, router), passed| {
            if passed.due_ms() > now_ms {
                return true;
            }
            if passed.left == 0 || is_answered(prefix, router, passed.seqno) {
                return false;
            }
            (passed.left, passed.sent_ms) = (passed.left.saturating_sub(1), now_ms);
            passed.wait_ms = passed.wait_ms.saturating_mul(2);
            out.push((*prefix, *router, *passed));
            true
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::BootEpoch;

    fn router() -> Router {
        Router { node: NodeId::from_bytes([1; 32]), epoch: BootEpoch(1) }
    }

    #[test]
    fn own_requests_are_repeated_ever_less_often_until_satisfied() {
        let prefix: Prefix = "10.0.0.0/8".parse().unwrap();
        let mut requests = Requests::default();
        requests.want(prefix, router(), 3, 0);
        let mut at = vec![];
        for now in 0..40_000 {
            requests.want(prefix, router(), 3, now);
            if !requests.due(now).is_empty() {
                at.push(now);
            }
        }
        assert_eq!(at, [0, 1_000, 3_000, 7_000, 15_000, 23_000, 31_000, 39_000]);
        requests.satisfied(&prefix);
        assert!(requests.due(100_000).is_empty() && requests.due_ms() == u64::MAX);
    }

    #[test]
    fn copies_are_not_passed_on_but_repetitions_and_higher_ones_are() {
        let prefix: Prefix = "10.0.0.0/8".parse().unwrap();
        let from = NodeId::from_bytes([2; 32]);
        let mut requests = Requests::default();
        let mut forward = |seqno, now_ms| requests.forward(prefix, router(), (seqno, 5), from, now_ms);
        assert!(forward(3, 0));
        assert!(!forward(3, 10) && !forward(2, 10));
        assert!(forward(4, 20));
        assert!(forward(4, 20 + FORWARD_ONCE_MS));
    }

    #[test]
    fn a_request_that_was_passed_on_is_repeated_a_few_times_or_until_it_is_answered() {
        let prefix: Prefix = "10.0.0.0/8".parse().unwrap();
        let mut requests = Requests::default();
        assert!(requests.forward(prefix, router(), (3, 5), NodeId::from_bytes([2; 32]), 0));
        let again = |requests: &mut Requests, answered| -> Vec<u64> {
            (0..20_000).filter(|now_ms| !requests.due_again(*now_ms, |_, _, _| answered).is_empty()).collect()
        };
        assert_eq!(again(&mut requests, false), [600, 1_800, 4_200]);
        assert!(requests.forwarded.is_empty());
        assert!(requests.forward(prefix, router(), (3, 5), NodeId::from_bytes([2; 32]), 0));
        assert!(again(&mut requests, true).is_empty() && requests.forwarded.is_empty());
    }
}
