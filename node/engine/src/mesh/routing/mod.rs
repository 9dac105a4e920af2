//! The way to every peer and every prefix of the private network: a distance vector after RFC 8966 (Babel), over links
//! that come and go. It sends, signs and measures nothing: events come in through `handle_*`, what is to be done comes out
//! of [`Routing::poll`], and the packet half reads an immutable [`Snapshot`].
//!
//! - [`cost`]: what a link costs. `links`: what each neighbour was told and says. [`intake`]: signatures.
//! - `table`: which route is used. `sources`: which routes may be. `ask`, `requests`: how to get one that may.
//! - `sweep`: what ends by itself.
//! - [`detours`]: what it costs more by whom, where frames do not arrive.
//! - `tell`: what is told to whom. `origins`: what this node itself can be reached under.
//! - [`snapshot`]: the result. `view`: the same for people.
//!
//! Why there is no loop: along every next hop the feasibility distance for the router strictly falls, whatever is lost,
//! late or out of order, for a node lowers its distance before it tells a route and uses only routes whose teller is nearer
//! than that. A node that restarts forgets its distances, but it is another neighbour then (another epoch): whoever sent
//! packets to its former run sends none to the new one before that told a route. That holds for each router; where a prefix
//! has several, the sender chooses one and hops ask for that one (see [`snapshot`]), so choices that differ make no loop. A
//! snapshot may be a round older than the choice, for a distance is lowered only in a round, behind a new snapshot.

mod ask;
pub mod cost;
pub mod detours;
pub mod intake;
mod links;
mod origins;
mod requests;
pub mod snapshot;
mod sources;
mod sweep;
mod table;
mod tell;
mod view;

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_protocol::limits::FRESHNESS_MS;
use shoal_protocol::mesh::address::{host_prefix, network_prefix, peer_within};
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::{ORIGIN_LIFE_MAX_MS, Origin, Reach, RouteMessage, Router, Told, told_digest};
use shoal_protocol::{BootEpoch, NetworkId, NodeId};

pub use cost::LinkSample;
pub use intake::{HeardMessage, HeardUpdate, Intake};
pub use links::LinkFacts;
pub use origins::{COUNT_ON_MS, ORIGIN_REFRESH_MS, OWN_MAX};
pub use requests::{FORWARD_ONCE_MS, FORWARD_TRIES, FORWARDED_MAX, REQUEST_AGAIN_MAX_MS, REQUEST_FIRST_MS};
pub use snapshot::Snapshot;
pub use sources::{SOURCE_KEEP_MS, SOURCES_MAX, SOURCES_PER_NODE_MAX};
pub use view::{RouteState, RouteView};

use crate::Now;
use links::Link;
use origins::Origins;
use requests::Requests;
use sources::Sources;
use table::{Destination, Heard};

/// Most prefixes there are routes to, and most that one neighbour may tell.
pub const ROUTES_MAX: usize = 10_000;
/// Most routes remembered over all neighbours: eight a prefix, about 25 MiB.
pub const HEARD_MAX: usize = 8 * ROUTES_MAX;
/// Most neighbours; as many connections the directory keeps track of.
pub const LINKS_MAX: usize = crate::directory::LINKS_MAX;
/// Most next hops that share the flows of one destination.
pub const HOPS_MAX: usize = 8;
/// Least time between two messages to one neighbour, milliseconds. What changes in between goes in one.
pub const PACE_MS: u64 = 100;
/// Least time between two rounds of messages to all neighbours, milliseconds, and between two snapshots unless packets would
/// be lost meanwhile: what is heard in between is told and published together. One snapshot of a thousand peers takes half a
/// millisecond to make, and while a large network settles some route changes with nearly every message.
pub const ROUND_MS: u64 = 50;
/// A neighbour hears at least this often, milliseconds: a number and a digest, about 40 bytes.
pub const PERIOD_MS: u64 = 5_000;
/// After news a digest follows this soon, milliseconds; then after twice that, and so on up to [`PERIOD_MS`]. With it a
/// chain of fifty links that each lose one message in ten settles in seconds.
pub const DIGEST_SOON_MS: u64 = 400;
/// A route counts for this long after its teller last stood by it, milliseconds: six periods, so that with one message in
/// ten lost a route ends by mistake once in a million.
pub const HOLD_MS: u64 = 30_000;
/// First wait before everything is asked for again, milliseconds; doubled by each answer after which digests still do not
/// fit.
pub const RESYNC_FIRST_MS: u64 = 500;
/// Longest such wait, milliseconds: half of [`HOLD_MS`], so that routes stay even if digests never fit.
pub const RESYNC_MAX_MS: u64 = 15_000;
/// How often routes are looked through for those that ended, milliseconds.
pub const SWEEP_MS: u64 = 1_000;
/// Effects that wait to be taken; beyond it messages wait for their turn.
const EFFECTS_MAX: usize = 2 * LINKS_MAX;

/// Whether a node has a right to announce a prefix that is not its own address: the policy, as a function.
pub type Right<'a> = &'a dyn Fn(&NodeId, &Prefix) -> bool;

/// What has to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutingEffect {
    /// Send this to a neighbour.
    Send {
        /// The neighbour.
        to: NodeId,
        /// What to send.
        message: RouteMessage,
    },
    /// Sign this and hand it to [`Routing::handle_signed`].
    Sign(Origin),
    /// A snapshot made before is out of date.
    Changed,
}

/// Why a message was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NotHeard {
    /// There is no link to its teller.
    #[error("routes of somebody who is no neighbour")]
    NoLink,
    /// It is from another run of the neighbour than the link.
    #[error("routes of another run of the neighbour")]
    OtherRun,
    /// A later message was heard before.
    #[error("message came late")]
    Late,
    /// More messages than a neighbour may send.
    #[error("too many messages")]
    TooMany,
    /// It tells of somebody else's prefix as if it were at no distance.
    #[error("metric of nothing for somebody else's prefix")]
    TooNear,
}

impl NotHeard {
    /// Whether only a liar sends such a message.
    #[must_use]
    pub const fn is_lie(self) -> bool {
        matches!(self, Self::TooNear)
    }
}

/// Why a route or request of a message that was used was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ignored {
    /// It leads to this node itself.
    Ours,
    /// Its origin's word is over.
    Expired,
    /// Its origin's word counts for longer than one may.
    Future,
    /// There is no place for another.
    Full,
    /// A request for a number that was reached already: it is answered by telling the route, not by counting on.
    Stale,
    /// A request for a number nobody can have a reason to ask for.
    Invented,
    /// A request that was passed on a moment ago, or whose hops are used up, or that nobody can answer.
    NotForwarded,
}

/// All routes of one node in one network.
#[derive(Debug)]
pub struct Routing {
    local: Router,
    overlay: Prefix,
    network: NetworkId,
    origins: Origins,
    /// At most [`LINKS_MAX`].
    links: BTreeMap<NodeId, Link>,
    /// Whom this node reaches.
    reach: Reach,
    reach_digest: u64,
    /// At most [`ROUTES_MAX`].
    destinations: BTreeMap<Prefix, Destination>,
    heard_count: usize,
    sources: Sources,
    requests: Requests,
    /// Of the last message: one count for all neighbours and the whole run, so that none is ever used twice.
    last_number: u64,
    next_sweep_ms: u64,
    next_forget_ms: u64,
    ignored: BTreeMap<Ignored, u64>,
    /// At most [`EFFECTS_MAX`] and one.
    effects: VecDeque<RoutingEffect>,
    /// Packets would go elsewhere than by the last snapshot.
    changed: bool,
    /// Some would be lost until the next round.
    urgent: bool,
    /// A snapshot is to be made.
    publish: bool,
    next_round_ms: u64,
}

impl Routing {
    /// Nobody is known. `epoch` MUST never have been used by this node before.
    #[must_use]
    pub fn new(local: NodeId, epoch: BootEpoch, network: NetworkId) -> Self {
        let mut routing = Self {
            local: Router { node: local, epoch },
            overlay: network_prefix(&network),
            network,
            origins: Origins::default(),
            links: BTreeMap::new(),
            reach: Reach::default(),
            reach_digest: Reach::default().digest(),
            destinations: BTreeMap::new(),
            heard_count: 0,
            sources: Sources::default(),
            requests: Requests::default(),
            last_number: 0,
            next_sweep_ms: 0,
            next_forget_ms: 0,
            ignored: BTreeMap::new(),
            effects: VecDeque::new(),
            changed: true,
            urgent: false,
            publish: false,
            next_round_ms: 0,
        };
        routing.origins.add(host_prefix(&network, &local));
        routing
    }

    /// There is a link to `node`, or what it is like changed. Another run than before is another link.
    pub fn handle_link(&mut self, node: NodeId, facts: LinkFacts, now: Now) {
        if node == self.local.node {
            return;
        }
        if self.links.get(&node).is_some_and(|link| link.epoch != facts.epoch) {
            self.handle_link_lost(node, now);
        }
        if let Some(link) = self.links.get_mut(&node) {
            if !link.set_facts(facts) {
                return;
            }
            self.changed = true;
            self.reselect_all_of(node, now);
        } else if self.links.len() < LINKS_MAX {
            self.links.insert(node, Link::new(&node, facts, now.uptime_ms));
            (self.changed, self.urgent) = (true, true);
            self.mark_all_for(node, now);
        }
        self.links_changed(now);
        self.settle(now);
    }

    /// The link to `node` is gone, and with it all that it told.
    pub fn handle_link_lost(&mut self, node: NodeId, now: Now) {
        if self.links.remove(&node).is_none() {
            return;
        }
        (self.changed, self.urgent) = (true, true);
        let mut touched = Vec::new();
        for (prefix, destination) in &mut self.destinations {
            if destination.heard.remove(&node).is_some() {
                self.heard_count = self.heard_count.saturating_sub(1);
                touched.push(*prefix);
            }
        }
        self.links_changed(now);
        self.reselect(touched, now);
        self.settle(now);
    }

    /// The link to `node` was measured.
    pub fn handle_sample(&mut self, node: NodeId, sample: LinkSample, now: Now) {
        let Some(link) = self.links.get_mut(&node) else { return };
        if link.cost.sample(sample, now.uptime_ms) {
            self.changed = true;
            self.reselect_all_of(node, now);
            self.settle(now);
        }
    }

    /// A message of `from`, which came over the link to it.
    ///
    /// # Errors
    /// [`NotHeard`] if nothing of it was used.
    pub fn handle_message(
        &mut self,
        from: NodeId,
        message: HeardMessage,
        right: Right<'_>,
        now: Now,
    ) -> Result<(), NotHeard> {
        let link = self.links.get_mut(&from).ok_or(NotHeard::NoLink)?;
        if link.epoch != message.epoch {
            return Err(NotHeard::OtherRun);
        }
        if message.number <= link.heard_number {
            return Err(NotHeard::Late);
        }
        if !link.may_speak(now.uptime_ms) {
            return Err(NotHeard::TooMany);
        }
        if message.updates.iter().any(|update| update.metric == 0 && update.origin.router().node != from) {
            return Err(NotHeard::TooNear);
        }
        link.heard_number = message.number;
        let answered = message.reach.is_some();
        if let Some(reach) = message.reach {
            link.set_reach(reach);
            self.mark_all_for(from, now);
        }
        let mut touched = BTreeSet::new();
        for prefix in &message.retracted {
            self.forget(prefix, &from);
            touched.insert(*prefix);
        }
        for update in message.updates {
            touched.insert(update.origin.origin().prefix);
            self.hear(from, update, right, now);
        }
        if let Some(link) = self.links.get_mut(&from) {
            link.check_digest(message.digest, answered, now.uptime_ms);
        }
        if message.resync {
            self.tell_all_again(from, now);
        }
        self.reselect(touched, now);
        for request in message.requests {
            self.handle_request(from, request, now);
        }
        self.settle(now);
        Ok(())
    }

    /// The policy changed, or what it is asked about: every right is asked for again, but those of nodes to their own
    /// addresses, which no policy gives or takes.
    pub fn handle_policy(&mut self, right: Right<'_>, now: Now) {
        let mut touched = Vec::new();
        for (prefix, destination) in self.destinations.iter_mut().filter(|(prefix, _)| !self.overlay.covers(prefix)) {
            let mut differs = false;
            for heard in destination.heard.values_mut() {
                let authorised = right(&heard.told.router.node, prefix);
                differs |= std::mem::replace(&mut heard.authorised, authorised) != authorised;
            }
            if differs {
                touched.push(*prefix);
            }
        }
        self.reselect(touched, now);
        self.settle(now);
    }

    /// Time passed. To be called at [`due_ms`](Self::due_ms), or a few times a second.
    pub fn handle_timeout(&mut self, now: Now) {
        if now.uptime_ms >= self.next_sweep_ms {
            self.next_sweep_ms = now.uptime_ms.saturating_add(SWEEP_MS);
            self.sweep(now);
        }
        self.settle(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is needed next, milliseconds of uptime.
    #[must_use]
    pub fn due_ms(&self) -> u64 {
        self.round_due_ms().min(self.requests.due_ms()).min(self.origins.due_ms()).min(self.next_sweep_ms)
    }

    /// Whose address a prefix is, if it is that of a member.
    fn host_of(&self, prefix: &Prefix) -> Option<PeerHash> {
        match prefix.address() {
            IpAddr::V6(address) if self.overlay.covers(prefix) => Some(peer_within(address)),
            _ => None,
        }
    }

    /// The next thing to be done; drain it after every event.
    pub fn poll(&mut self) -> Option<RoutingEffect> {
        if std::mem::take(&mut self.publish) {
            return Some(RoutingEffect::Changed);
        }
        self.effects.pop_front()
    }

    /// How often what was left out of messages, by reason.
    pub fn ignored(&self) -> impl Iterator<Item = (Ignored, u64)> {
        self.ignored.iter().map(|(reason, count)| (*reason, *count))
    }

    /// Takes one told route, or notes why not; either way what was told before of its prefix is void.
    fn hear(&mut self, from: NodeId, update: HeardUpdate, right: Right<'_>, now: Now) {
        let HeardUpdate { origin, metric, max_frame, relayed } = update;
        let (router, said) = (origin.router(), origin.origin().clone());
        self.forget(&said.prefix, &from);
        let reason = if router.node == self.local.node {
            Some(Ignored::Ours)
        } else if said.expires <= now.wall {
            Some(Ignored::Expired)
        } else if said.expires > now.wall.saturating_add(ORIGIN_LIFE_MAX_MS.saturating_add(FRESHNESS_MS)) {
            Some(Ignored::Future)
        } else if self.is_full(&from, &said.prefix) {
            Some(Ignored::Full)
        } else {
            None
        };
        if let Some(reason) = reason {
            return self.ignore(reason);
        }
        let told = Told { router, seqno: said.seqno, metric, max_frame, relayed };
        let digest = told_digest(&said.prefix, &told);
        let authorised = has_right(&self.network, self.overlay, &router.node, &said.prefix, right);
        let Some(link) = self.links.get_mut(&from) else { return };
        link.heard_sum = link.heard_sum.wrapping_add(digest);
        link.heard_count = link.heard_count.saturating_add(1);
        self.heard_count = self.heard_count.saturating_add(1);
        let heard = Heard { origin, told, digest, authorised, heard_ms: now.uptime_ms };
        self.destinations.entry(said.prefix).or_default().heard.insert(from, heard);
    }

    fn is_full(&self, from: &NodeId, prefix: &Prefix) -> bool {
        let no_place = self.destinations.len() >= ROUTES_MAX && !self.destinations.contains_key(prefix);
        let of_link = self.links.get(from).map_or(0, |link| link.heard_count);
        no_place || self.heard_count >= HEARD_MAX || of_link >= ROUTES_MAX
    }

    /// Forgets what `from` told of `prefix`.
    fn forget(&mut self, prefix: &Prefix, from: &NodeId) {
        let Some(destination) = self.destinations.get_mut(prefix) else { return };
        let Some(heard) = destination.heard.remove(from) else { return };
        self.heard_count = self.heard_count.saturating_sub(1);
        if let Some(link) = self.links.get_mut(from) {
            link.heard_sum = link.heard_sum.wrapping_sub(heard.digest);
            link.heard_count = link.heard_count.saturating_sub(1);
        }
    }

    fn ignore(&mut self, reason: Ignored) {
        let count = self.ignored.entry(reason).or_default();
        *count = count.saturating_add(1);
    }

    fn reselect_all_of(&mut self, node: NodeId, now: Now) {
        let of_node = self.destinations.iter().filter(|(_, destination)| destination.heard.contains_key(&node));
        let touched: Vec<Prefix> = of_node.map(|(prefix, _)| *prefix).collect();
        self.reselect(touched, now);
    }

    /// Chooses again for each of these prefixes, and notes whom to tell and what to ask for.
    fn reselect(&mut self, prefixes: impl IntoIterator<Item = Prefix>, now: Now) {
        for prefix in prefixes {
            let Some(destination) = self.destinations.get_mut(&prefix) else { continue };
            let best = destination.choose(prefix, &self.links, &self.sources, now);
            self.changed |= match (&best, &destination.best) {
                (Some(new), Some(old)) => !new.forwards_like(old),
                (None, None) => false,
                _ => true,
            };
            // Who took its route back may know no other.
            let is_gone = |hop: &NodeId| !destination.heard.contains_key(hop);
            self.urgent |= destination.best.as_ref().is_some_and(|old| old.hops.iter().any(is_gone));
            if best.is_none() && destination.best.is_some() {
                destination.held_until_ms = now.uptime_ms.saturating_add(HOLD_MS);
            }
            // Where frames do not arrive the short way that was told keeps others from being feasible: a liar's metric.
            let lost = best.as_ref().is_none_or(|best| destination.mark(&best.via) > 0);
            let starving = if lost { destination.starving(best.as_ref(), &self.links, now) } else { None };
            let wanted = starving.and_then(|heard| {
                let router = heard.told.router;
                Some((router, self.sources.seqno_wanted(prefix, router)?))
            });
            match wanted {
                Some((router, seqno)) => self.requests.want(prefix, router, seqno, now.uptime_ms),
                None => self.requests.satisfied(&prefix),
            }
            let is_same = match (&best, &destination.best) {
                (Some(new), Some(old)) => new.is_same(old),
                (new, old) => new.is_none() && old.is_none(),
            };
            destination.best = best;
            // Most words come from every neighbour, and change nothing after the first.
            if !is_same {
                self.mark(prefix, now);
            }
        }
    }
}

/// A node's own overlay address needs nobody's leave, and nobody else has a right to it.
fn has_right(network: &NetworkId, overlay: Prefix, node: &NodeId, prefix: &Prefix, right: Right<'_>) -> bool {
    if overlay.covers(prefix) { *prefix == host_prefix(network, node) } else { right(node, prefix) }
}

#[cfg(test)]
mod tests;
