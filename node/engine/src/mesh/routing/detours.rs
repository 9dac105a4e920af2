//! Ways to a peer by which neighbour, and what was found out about them end to end. It asks nobody: who does is
//! [`Watches`](crate::mesh::watch::Watches).

use shoal_protocol::NodeId;
use shoal_protocol::mesh::address::host_prefix;

use super::Routing;
use super::table::MARKS_MAX;
use crate::Now;
use crate::mesh::watch::Candidate;

impl Routing {
    /// The neighbours that could be the next hop to `node`, the nearest first, at most `most`; none if it is a neighbour to
    /// whom packets go directly. All of them are feasible, so a frame by any of them does not come back over honest nodes.
    #[must_use]
    pub fn candidates(&self, node: &NodeId, most: usize, now: Now) -> Vec<Candidate> {
        let prefix = host_prefix(&self.network, node);
        let Some(destination) = self.destinations.get(&prefix) else { return Vec::new() };
        let direct = self.links.get(node).map(|link| link.cost.published().saturating_add(1));
        let best = destination.best.as_ref().filter(|best| direct.is_none_or(|direct| best.told.metric < direct));
        if direct.is_some() && best.is_none() {
            return Vec::new();
        }
        let mut usable = destination.usable(prefix, &self.links, &self.sources, now);
        usable.sort_by_key(|way| (way.total, way.node));
        let candidates = usable.into_iter().take(most).map(|way| Candidate {
            hop: way.node,
            in_use: best.is_some_and(|best| best.hops.contains(&way.node)),
            max_frame: way.heard.told.max_frame.min(way.link.max_frame),
        });
        candidates.collect()
    }

    /// A way to `node` by `hop` costs `penalty` more from now on, or nothing more if that is 0. The metric that is told
    /// grows with it, so others turn away too; feasibility asks what was told, and stays what it was.
    pub fn handle_penalty(&mut self, node: &NodeId, hop: NodeId, penalty: u32, now: Now) {
        let prefix = host_prefix(&self.network, node);
        let Some(destination) = self.destinations.get_mut(&prefix) else { return };
        if penalty == 0 {
            destination.marks.remove(&hop);
        } else if destination.marks.len() < MARKS_MAX || destination.marks.contains_key(&hop) {
            destination.marks.insert(hop, penalty);
        }
        self.reselect([prefix], now);
        self.settle(now);
    }
}
