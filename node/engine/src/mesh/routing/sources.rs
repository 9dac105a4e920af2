//! Feasibility: for each (prefix, router) the best this node ever told. A route is used only if its teller is nearer than
//! that, so nobody's route can lead back through its own past (RFC 8966 §2.4, §3.5.1). It knows no routes and no links.
//!
//! An entry is forgotten only when nobody can hold a route that was learnt from what it stands for: what was told rests on
//! an origin's word, which ends within [`ORIGIN_LIFE_MAX_MS`] by the clock of whoever hears it, and clocks differ by at most
//! [`FRESHNESS_MS`] each. When there is no room for an entry, the route is not told: that is safe, forgetting is not.

use std::collections::BTreeMap;

use shoal_protocol::NodeId;
use shoal_protocol::limits::FRESHNESS_MS;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::{ORIGIN_LIFE_MAX_MS, Router};

use super::ROUTES_MAX;

/// How long an entry is kept after its route was last told, milliseconds: an origin's life, and the difference of two
/// clocks on each side.
pub const SOURCE_KEEP_MS: u64 = ORIGIN_LIFE_MAX_MS + 4 * FRESHNESS_MS;
/// Most entries: twice the routes, for routers change.
pub const SOURCES_MAX: usize = 2 * ROUTES_MAX;
/// Most entries of one node over all its runs and prefixes, so that nobody who restarts all the time uses up the table.
pub const SOURCES_PER_NODE_MAX: u32 = 256;

#[derive(Clone, Copy, Debug)]
struct Distance {
    seqno: u32,
    metric: u32,
    told_ms: u64,
}

/// All feasibility distances.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// At most [`SOURCES_MAX`].
    distances: BTreeMap<(Prefix, Router), Distance>,
    per_node: BTreeMap<NodeId, u32>,
}

impl Sources {
    /// Whether a route with this number and this metric of its teller may be used. Of what was never told, any may: nobody
    /// can have learnt a route from this node.
    pub(super) fn is_feasible(&self, prefix: Prefix, router: Router, seqno: u32, metric: u32) -> bool {
        let Some(distance) = self.distances.get(&(prefix, router)) else { return true };
        seqno > distance.seqno || (seqno == distance.seqno && metric < distance.metric)
    }

    /// The number a router has to count to before any route to it may be used again.
    pub(super) fn seqno_wanted(&self, prefix: Prefix, router: Router) -> Option<u32> {
        self.distances.get(&(prefix, router))?.seqno.checked_add(1)
    }

    /// The route is about to be told with this metric: remembers it if it is better than all before. `false` if there is no
    /// room, and then it must not be told.
    #[must_use]
    pub(super) fn tell(&mut self, prefix: Prefix, router: Router, seqno: u32, metric: u32, now_ms: u64) -> bool {
        if let Some(distance) = self.distances.get_mut(&(prefix, router)) {
            distance.told_ms = now_ms;
            if seqno > distance.seqno || (seqno == distance.seqno && metric < distance.metric) {
                (distance.seqno, distance.metric) = (seqno, metric);
            }
            return true;
        }
        let of_node = self.per_node.get(&router.node).copied().unwrap_or(0);
        if self.distances.len() >= SOURCES_MAX || of_node >= SOURCES_PER_NODE_MAX {
            return false;
        }
        self.per_node.insert(router.node, of_node.saturating_add(1));
        self.distances.insert((prefix, router), Distance { seqno, metric, told_ms: now_ms });
        true
    }

    /// Forgets what nobody can rely on any more.
    pub(super) fn forget_old(&mut self, now_ms: u64) {
        let per_node = &mut self.per_node;
        self.distances.retain(|(_, router), distance| {
            let keep = now_ms.saturating_sub(distance.told_ms) < SOURCE_KEEP_MS;
            if !keep {
                let left = per_node.get(&router.node).copied().unwrap_or(0).saturating_sub(1);
                if left == 0 {
                    per_node.remove(&router.node);
                } else {
                    per_node.insert(router.node, left);
                }
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::BootEpoch;

    fn prefix() -> Prefix {
        "10.1.0.0/16".parse().unwrap()
    }

    fn router(epoch: u64) -> Router {
        Router { node: NodeId::from_bytes([1; 32]), epoch: BootEpoch(epoch) }
    }

    #[test]
    fn only_nearer_tellers_or_newer_numbers_are_feasible() {
        let mut sources = Sources::default();
        assert!(sources.is_feasible(prefix(), router(1), 0, u32::MAX), "never told");
        assert!(sources.tell(prefix(), router(1), 5, 100, 0));
        for (seqno, metric, feasible) in
            [(5, 99, true), (5, 100, false), (5, 101, false), (4, 1, false), (6, u32::MAX, true)]
        {
            assert_eq!(sources.is_feasible(prefix(), router(1), seqno, metric), feasible, "{seqno} {metric}");
        }
        assert!(sources.is_feasible(prefix(), router(2), 0, 1000), "another run is another router");
        assert!(sources.tell(prefix(), router(1), 5, 200, 0));
        assert!(!sources.is_feasible(prefix(), router(1), 5, 100), "a worse metric told later changes nothing");
        assert!(sources.tell(prefix(), router(1), 6, 300, 0));
        assert!(sources.is_feasible(prefix(), router(1), 6, 299), "a newer number starts again");
        assert_eq!(sources.seqno_wanted(prefix(), router(1)), Some(7));
    }

    #[test]
    fn an_entry_outlives_every_route_that_came_from_it() {
        let mut sources = Sources::default();
        assert!(sources.tell(prefix(), router(1), 5, 100, 1_000));
        assert!(sources.tell(prefix(), router(1), 5, 200, 2_000));
        sources.forget_old(2_000 + SOURCE_KEEP_MS - 1);
        assert!(!sources.is_feasible(prefix(), router(1), 5, 100));
        sources.forget_old(2_000 + SOURCE_KEEP_MS);
        assert!(sources.is_feasible(prefix(), router(1), 5, 100));
        assert!(sources.per_node.is_empty());
    }

    #[test]
    fn a_full_table_refuses_to_tell_and_forgets_nothing() {
        let mut sources = Sources::default();
        for epoch in 0..u64::from(SOURCES_PER_NODE_MAX) {
            assert!(sources.tell(prefix(), router(epoch), 1, 1, 0));
        }
        assert!(!sources.tell(prefix(), router(9_999), 1, 1, 0), "one node has its share");
        assert!(sources.tell(prefix(), router(0), 2, 1, 0), "what is known goes on");
        assert!(!sources.is_feasible(prefix(), router(0), 2, 1));
    }
}
