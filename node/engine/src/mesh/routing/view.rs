//! Every route with what is thought of it, for people who ask why. Nothing is decided here.

use shoal_protocol::NodeId;
use shoal_protocol::mesh::address::host_prefix;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::Told;

use super::Routing;
use super::table::Destination;
use crate::Now;

/// What is thought of one route that a neighbour tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    /// Packets go this way.
    Used,
    /// They could.
    Feasible,
    /// Not before its router counts on: it might lead back here.
    Unfeasible,
    /// Its router has no right to the prefix.
    Unauthorised,
    /// Nobody stands by it any more.
    Expired,
}

/// One route, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteView {
    /// Where it leads.
    pub prefix: Prefix,
    /// Who tells it.
    pub via: NodeId,
    /// What it is like, from there.
    pub told: Told,
    /// Its metric from here, with the link to its teller and what it costs more because frames do not arrive; the largest
    /// number if that link is gone.
    pub metric: u32,
    /// Longest frame of the way, that link included, bytes.
    pub max_frame: u32,
    /// What is thought of it.
    pub state: RouteState,
}

impl Routing {
    /// Whether there is a way to `node`.
    #[must_use]
    pub fn leads_to(&self, node: &NodeId) -> bool {
        self.links.contains_key(node) || self.router_of(&host_prefix(&self.network, node)).is_some()
    }

    /// To whom packets go whose longest prefix is this one; none if there is no route to it.
    #[must_use]
    pub fn router_of(&self, prefix: &Prefix) -> Option<NodeId> {
        Some(self.destinations.get(prefix)?.best.as_ref()?.told.router.node)
    }

    /// Every prefix there is a route to, the addresses of peers among them, in order.
    pub fn reached(&self) -> impl Iterator<Item = Prefix> {
        self.destinations.iter().filter(|(_, destination)| destination.best.is_some()).map(|(prefix, _)| *prefix)
    }

    /// Every route every neighbour tells, in the order of prefixes.
    pub fn view(&self, now: Now) -> impl Iterator<Item = RouteView> {
        let of = move |(prefix, destination): (&Prefix, &Destination)| {
            let views = destination.heard.iter().map(|(via, heard)| {
                let used = destination.best.as_ref().is_some_and(|best| best.hops.contains(via));
                let link = self.links.get(via);
                let alive = link.is_some_and(|link| heard.is_alive(link, now));
                let Told { router, seqno, metric, .. } = heard.told;
                let state = match (heard.authorised, alive) {
                    (false, _) => RouteState::Unauthorised,
                    (true, false) => RouteState::Expired,
                    (true, true) if used => RouteState::Used,
                    (true, true) if self.sources.is_feasible(*prefix, router, seqno, metric) => RouteState::Feasible,
                    (true, true) => RouteState::Unfeasible,
                };
                let mark = destination.mark(via);
                let total = link.map_or(u32::MAX, |link| {
                    metric.saturating_add(link.cost.published()).saturating_add(1).saturating_add(mark)
                });
                let max_frame = link.map_or(0, |link| link.max_frame.min(heard.told.max_frame));
                RouteView { prefix: *prefix, via: *via, told: heard.told, metric: total, max_frame, state }
            });
            views.collect::<Vec<_>>()
        };
        self.destinations.iter().flat_map(of)
    }
}
