//! What neighbours told of one prefix, and which of it is used. It is a pure function of what was heard, of the costs of
//! the links and of the feasibility distances; it sends and remembers nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_protocol::NodeId;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::{METRIC_MAX, Told, VerifiedOrigin};

use super::links::Link;
use super::sources::Sources;
use super::{HOLD_MS, HOPS_MAX};
use crate::Now;

/// Another router or neighbour is preferred only when it is nearer by more than this part of the metric: one eighth. Less
/// is noise of measurements, and every change of the route reorders flows.
const SWITCH: u32 = 8;
/// Ways whose metric is above the best by at most this part of it share the flows: a sixteenth.
const EQUAL: u32 = 16;
/// Most neighbours of one destination that cost more for it; as many as are watched.
pub(super) const MARKS_MAX: usize = crate::mesh::watch::HOPS_MAX;

/// One route as one neighbour told it.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) origin: Arc<VerifiedOrigin>,
    pub(super) told: Told,
    /// Digest of `told`, as the teller counts it.
    pub(super) digest: u64,
    /// Whether the router has a right to the prefix.
    pub(super) authorised: bool,
    pub(super) heard_ms: u64,
}

impl Heard {
    /// Whether its teller still stands by it and its origin's word still counts.
    pub(super) fn is_alive(&self, link: &Link, now: Now) -> bool {
        let confirmed = self.heard_ms.max(link.confirmed_ms);
        now.uptime_ms.saturating_sub(confirmed) < HOLD_MS && now.wall < self.origin.origin().expires
    }
}

/// The neighbours a route goes through, and what this node tells of it.
#[derive(Clone, Debug)]
pub(super) struct Best {
    pub(super) origin: Arc<VerifiedOrigin>,
    /// With this node's metric; the frame that fits all hops.
    pub(super) told: Told,
    /// The neighbour whose route it is, and those that are as good: at most [`HOPS_MAX`], in the order of their ids.
    pub(super) hops: Vec<NodeId>,
    /// The one whose route it is.
    pub(super) via: NodeId,
}

impl Best {
    /// Whether everybody is told the same of both.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let is_word = Arc::ptr_eq(&self.origin, &other.origin);
        is_word && self.told == other.told && self.via == other.via && self.hops == other.hops
    }

    /// Whether packets go elsewhere, or differently, than with `other`.
    pub(super) fn forwards_like(&self, other: &Self) -> bool {
        self.told.router == other.told.router && self.hops == other.hops && self.told.max_frame == other.told.max_frame
    }
}

/// A route that may be used, with the link to its teller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    /// The metric of this node, see [`total`].
    pub(super) total: u32,
    /// The teller.
    pub(super) node: NodeId,
    pub(super) heard: &'a Heard,
    pub(super) link: &'a Link,
}

/// What is known of one prefix.
#[derive(Debug, Default)]
pub(super) struct Destination {
    /// By neighbour.
    pub(super) heard: BTreeMap<NodeId, Heard>,
    /// What a way by a neighbour costs more, because frames by it do not arrive; at most [`MARKS_MAX`].
    pub(super) marks: BTreeMap<NodeId, u32>,
    pub(super) best: Option<Best>,
    /// After the last route was lost, packets are refused until then and do not fall to a shorter prefix: what was private
    /// does not leave through an exit because a router restarts (compare RFC 8966 §3.5.4).
    pub(super) held_until_ms: u64,
}

impl Destination {
    /// Whether there is nothing left to know.
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        self.heard.is_empty() && self.marks.is_empty() && self.best.is_none() && self.held_until_ms <= now_ms
    }

    /// What a way by `node` costs more.
    pub(super) fn mark(&self, node: &NodeId) -> u32 {
        self.marks.get(node).copied().unwrap_or(0)
    }

    /// Every route that may be used now: feasible, authorised, alive.
    pub(super) fn usable<'a>(
        &'a self,
        prefix: Prefix,
        links: &'a BTreeMap<NodeId, Link>,
        sources: &Sources,
        now: Now,
    ) -> Vec<Way<'a>> {
        let known = self.heard.iter().filter_map(|(node, heard)| links.get(node).map(|link| (*node, heard, link)));
        known
            .filter(|(_, heard, link)| heard.authorised && heard.is_alive(link, now))
            .filter(|(_, heard, _)| sources.is_feasible(prefix, heard.told.router, heard.told.seqno, heard.told.metric))
            .filter_map(|(node, heard, link)| {
                Some(Way { total: total(heard, link, self.mark(&node))?, node, heard, link })
            })
            .collect()
    }

    /// The route to be used now: feasible, authorised, alive; the nearest, unless the one in use is nearly as near.
    pub(super) fn choose(
        &self,
        prefix: Prefix,
        links: &BTreeMap<NodeId, Link>,
        sources: &Sources,
        now: Now,
    ) -> Option<Best> {
        let usable = self.usable(prefix, links, sources, now);
        let nearest = usable.iter().min_by_key(|way| (way.total, way.node))?;
        let current = self.best.as_ref().and_then(|best| {
            usable.iter().find(|way| way.node == best.via && way.heard.told.router == best.told.router)
        });
        let chosen =
            current.filter(|way| way.total.saturating_sub(nearest.total) <= way.total / SWITCH).unwrap_or(nearest);
        let Way { total: metric, node: via, heard, .. } = *chosen;
        // Ways as good for the same router. Each teller is nearer than what this node will tell, or has a newer number, so
        // each stays feasible when it is told.
        let equal = |way: &&Way<'_>| {
            let told = &way.heard.told;
            way.node == via
                || (told.router == heard.told.router
                    && told.seqno >= heard.told.seqno
                    && told.metric < metric
                    && way.total.saturating_sub(metric) <= metric / EQUAL)
        };
        let mut ways: Vec<_> = usable.iter().filter(equal).collect();
        ways.sort_by_key(|way| (way.node != via, way.total, way.node));
        ways.truncate(HOPS_MAX);
        let frames = ways.iter().map(|way| way.heard.told.max_frame.min(way.link.max_frame));
        let told = Told {
            router: heard.told.router,
            seqno: heard.told.seqno,
            metric,
            max_frame: frames.min()?,
            relayed: ways.iter().any(|way| way.heard.told.relayed || way.link.relayed),
        };
        let mut hops: Vec<NodeId> = ways.iter().map(|way| way.node).collect();
        hops.sort_unstable();
        Some(Best { origin: Arc::clone(&heard.origin), told, hops, via })
    }

    /// The nearest route that could be used if only its router counted on, and is nearer than `best`, which is a way by
    /// which frames do not arrive, or none at all.
    pub(super) fn starving(&self, best: Option<&Best>, links: &BTreeMap<NodeId, Link>, now: Now) -> Option<&Heard> {
        let alive = self.heard.iter().filter_map(|(node, heard)| Some((node, links.get(node)?, heard)));
        let alive = alive.filter(|(_, link, heard)| heard.authorised && heard.is_alive(link, now));
        let near = alive.filter_map(|(node, link, heard)| Some((total(heard, link, self.mark(node))?, heard)));
        let near = near.filter(|(total, _)| best.is_none_or(|best| *total < best.told.metric));
        near.min_by_key(|(total, _)| *total).map(|(_, heard)| heard)
    }
}

/// The metric of this node by way of `link`: more than the teller's by the cost of the link and one, so that it grows on
/// every hop whatever a link costs; and by `mark`, which alone makes no way too long.
pub(super) fn total(heard: &Heard, link: &Link, mark: u32) -> Option<u32> {
    let total = heard.told.metric.checked_add(link.cost.published())?.checked_add(1)?;
    (total <= METRIC_MAX).then_some(total.saturating_add(mark).min(METRIC_MAX))
}
