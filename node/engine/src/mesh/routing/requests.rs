//! Sequence numbers that are asked for: for prefixes of which only unusable routes are known, again and again until one can
//! be used; and which requests of others were passed on a moment ago. It sends nothing.

use std::collections::BTreeMap;

use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::Router;

use super::ROUTES_MAX;

/// First wait before a request is repeated, milliseconds; doubled each time.
pub const REQUEST_FIRST_MS: u64 = 1_000;
/// Longest wait before a request is repeated, milliseconds.
pub const REQUEST_AGAIN_MAX_MS: u64 = 8_000;
/// The same request is not passed on twice within this time, milliseconds: less than the first wait of who asks, so that a
/// repeated request is not taken for a copy.
pub const FORWARD_ONCE_MS: u64 = 600;
/// Most requests passed on that are remembered; beyond it none is passed on.
pub const FORWARDED_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug)]
struct Want {
    router: Router,
    seqno: u32,
    due_ms: u64,
    wait_ms: u64,
}

/// Requests of this node and of others.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Own ones, at most [`ROUTES_MAX`].
    wanted: BTreeMap<Prefix, Want>,
    /// Number asked for, and until when the same is not passed on again; at most [`FORWARDED_MAX`].
    forwarded: BTreeMap<(Prefix, Router), (u32, u64)>,
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

    /// When the next own request is due.
    pub(super) fn due_ms(&self) -> u64 {
        self.wanted.values().map(|want| want.due_ms).min().unwrap_or(u64::MAX)
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

    /// Whether a request of somebody else is passed on: not if the same, or one for more, was a moment ago.
    pub(super) fn may_forward(&mut self, prefix: Prefix, router: Router, seqno: u32, now_ms: u64) -> bool {
        if self.forwarded.get(&(prefix, router)).is_some_and(|(asked, until)| *asked >= seqno && *until > now_ms) {
            return false;
        }
        if self.forwarded.len() >= FORWARDED_MAX {
            self.forwarded.retain(|_, (_, until)| *until > now_ms);
            if self.forwarded.len() >= FORWARDED_MAX {
                return false;
            }
        }
        self.forwarded.insert((prefix, router), (seqno, now_ms.saturating_add(FORWARD_ONCE_MS)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::{BootEpoch, NodeId};

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
        let mut requests = Requests::default();
        assert!(requests.may_forward(prefix, router(), 3, 0));
        assert!(!requests.may_forward(prefix, router(), 3, 10));
        assert!(!requests.may_forward(prefix, router(), 2, 10));
        assert!(requests.may_forward(prefix, router(), 4, 20));
        assert!(requests.may_forward(prefix, router(), 4, 20 + FORWARD_ONCE_MS));
    }
}
