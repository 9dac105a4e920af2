//! Every route with what is thought of it, for people who ask why. Nothing is decided here.

use shoal_protocol::NodeId;
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
    /// What is thought of it.
    pub state: RouteState,
}

impl Routing {
    /// Every route every neighbour tells, in the order of prefixes.
    pub fn view(&self, now: Now) -> impl Iterator<Item = RouteView> {
        let of = move |(prefix, destination): (&Prefix, &Destination)| {
            let views = destination.heard.iter().map(|(via, heard)| {
                let used = destination.best.as_ref().is_some_and(|best| best.hops.contains(via));
                let alive = self.links.get(via).is_some_and(|link| heard.is_alive(link, now));
                let Told { router, seqno, metric, .. } = heard.told;
                let state = match (heard.authorised, alive) {
                    (false, _) => RouteState::Unauthorised,
                    (true, false) => RouteState::Expired,
                    (true, true) if used => RouteState::Used,
                    (true, true) if self.sources.is_feasible(*prefix, router, seqno, metric) => RouteState::Feasible,
                    (true, true) => RouteState::Unfeasible,
                };
                RouteView { prefix: *prefix, via: *via, told: heard.told, state }
            });
            views.collect::<Vec<_>>()
        };
        self.destinations.iter().flat_map(of)
    }
}
