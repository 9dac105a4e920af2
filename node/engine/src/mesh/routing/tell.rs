//! What is told to which neighbour, and when: only what it can use, only what changed, in messages that are paced. It
//! chooses no route.

use std::sync::Arc;

use shoal_protocol::NodeId;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::{
    FRAME_MAX, REQUESTS_MAX, RETRACTIONS_MAX, Reach, RouteMessage, RouteUpdate, SeqnoRequest, Told, UPDATES_MAX,
    VerifiedOrigin,
};

use super::links::Link;
use super::{EFFECTS_MAX, RESYNC_FIRST_MS, ROUND_MS, Routing, RoutingEffect};
use crate::Now;

/// A metric that differs from the one told by less than this part of it is not told: a sixteenth.
const TELL: u32 = 16;

impl Routing {
    /// What `node` is to know of `prefix`.
    ///
    /// Nothing it could not use: not its own prefixes, not what goes through it, and the address of a peer only if it does
    /// not reach that peer directly. So in a network where everybody reaches everybody no host route is told at all.
    fn for_neighbour(
        &self,
        prefix: &Prefix,
        node: &NodeId,
        link: &Link,
        now: Now,
    ) -> Option<(Told, Arc<VerifiedOrigin>)> {
        let host = self.host_of(prefix);
        if self.origins.contains(prefix) {
            let word = self.origins.word(prefix).filter(|word| word.origin().expires > now.wall)?;
            if host.is_some() && !self.leads_to_strangers(link) {
                return None;
            }
            let seqno = word.origin().seqno;
            let told = Told { router: self.local, seqno, metric: 0, max_frame: FRAME_MAX, relayed: false };
            return Some((told, Arc::clone(word)));
        }
        let best = self.destinations.get(prefix)?.best.as_ref()?;
        let router = best.told.router.node;
        let reaches = |peer| link.reach.as_ref().is_some_and(|reach| reach.contains(&peer));
        if router == *node || best.hops.contains(node) || host.is_some_and(reaches) {
            return None;
        }
        Some((best.told, Arc::clone(&best.origin)))
    }

    /// Whether a neighbour has links to somebody to whom this node has none. What it reaches is not known before it says
    /// so.
    fn leads_to_strangers(&self, link: &Link) -> bool {
        let own = PeerHash::of(&self.local.node);
        let stranger = |peer: &PeerHash| *peer != own && *peer != link.hash && !self.reach.contains(peer);
        link.reach.as_ref().is_some_and(|reach| reach.others || reach.direct.iter().any(stranger))
    }

    /// Notes for each neighbour whether there is news of `prefix` for it.
    pub(super) fn mark(&mut self, prefix: Prefix, now: Now) {
        let news: Vec<NodeId> = self
            .links
            .iter()
            .filter(|(node, link)| {
                let told = self.for_neighbour(&prefix, node, link, now).map(|(told, _)| told);
                is_news(link.last_told(&prefix), told.as_ref())
            })
            .map(|(node, _)| *node)
            .collect();
        for node in news {
            self.mark_for_sure(&node, prefix);
        }
    }

    /// `node` is told of `prefix` in the next message, news or not.
    pub(super) fn mark_for_sure(&mut self, node: &NodeId, prefix: Prefix) {
        if let Some(link) = self.links.get_mut(node) {
            link.dirty.insert(prefix);
        }
    }

    /// Notes all news there is for `node`.
    pub(super) fn mark_all_for(&mut self, node: NodeId, now: Now) {
        let Some(link) = self.links.get(&node) else { return };
        let known = self.destinations.keys().copied().chain(self.origins.prefixes()).chain(link.told.keys().copied());
        let news = known.filter(|prefix| {
            let told = self.for_neighbour(prefix, &node, link, now).map(|(told, _)| told);
            is_news(link.last_told(prefix), told.as_ref())
        });
        let news: Vec<Prefix> = news.collect();
        for prefix in news {
            self.mark_for_sure(&node, prefix);
        }
    }

    /// `node` missed something: whatever it was told, it is told again; not more often than it may ask.
    pub(super) fn tell_all_again(&mut self, node: NodeId, now: Now) {
        let Some(link) = self.links.get_mut(&node) else { return };
        if link.resynced_ms.is_some_and(|at| now.uptime_ms.saturating_sub(at) < RESYNC_FIRST_MS / 2) {
            return;
        }
        link.resynced_ms = Some(now.uptime_ms);
        link.reach_due = true;
        link.dirty.extend(link.told.keys().copied());
    }

    /// Links came or went: everybody hears whom this node reaches directly, and perhaps of this node itself.
    pub(super) fn links_changed(&mut self, now: Now) {
        let direct = self.links.iter().filter(|(_, link)| !link.relayed);
        let mut direct: Vec<PeerHash> = direct.map(|(_, link)| link.hash).collect();
        direct.sort_unstable();
        direct.dedup();
        let reach = Reach { direct, others: self.links.values().any(|link| link.relayed) };
        if self.reach != reach {
            self.reach_digest = reach.digest();
            self.reach = reach;
            for link in self.links.values_mut() {
                link.reach_due = true;
            }
            let own: Vec<Prefix> = self.origins.prefixes().collect();
            for prefix in own {
                self.mark(prefix, now);
            }
        }
    }

    /// Does what is due: signs, asks, tells. What packets go by is published before anything is told of it.
    pub(super) fn settle(&mut self, now: Now) {
        self.sign_due(now);
        self.ask_due(now);
        if std::mem::take(&mut self.urgent) {
            self.publish |= std::mem::take(&mut self.changed);
        }
        if self.round_due_ms() > now.uptime_ms {
            return;
        }
        self.next_round_ms = now.uptime_ms.saturating_add(ROUND_MS);
        self.publish |= std::mem::take(&mut self.changed);
        let due = self.links.iter().filter(|(_, link)| link.is_due(now.uptime_ms)).map(|(node, _)| *node);
        let due: Vec<NodeId> = due.take(EFFECTS_MAX.saturating_sub(self.effects.len())).collect();
        for node in due {
            self.flush(node, now);
        }
    }

    /// When something is to be told or published next, milliseconds of uptime.
    pub(super) fn round_due_ms(&self) -> u64 {
        let links = self.links.values().map(Link::due_ms).min().unwrap_or(u64::MAX);
        if self.changed { self.next_round_ms } else { links.max(self.next_round_ms) }
    }

    /// One message to `node` with all that fits.
    fn flush(&mut self, node: NodeId, now: Now) {
        let Some(mut link) = self.links.remove(&node) else { return };
        let (mut updates, mut retracted) = (Vec::new(), Vec::new());
        while updates.len() < UPDATES_MAX && retracted.len() < RETRACTIONS_MAX {
            let Some(prefix) = link.dirty.pop_first() else { break };
            let news = self.for_neighbour(&prefix, &node, &link, now);
            // The distance is lowered before the route is told: from then on nothing that is farther is used.
            let news = news.filter(|(told, _)| {
                told.router == self.local
                    || self.sources.tell(prefix, told.router, told.seqno, told.metric, now.uptime_ms)
            });
            if let Some((told, origin)) = news {
                link.tell(prefix, told);
                let Told { metric, max_frame, relayed, .. } = told;
                updates.push(RouteUpdate { origin: origin.signed().clone(), metric, max_frame, relayed });
            } else if link.retract(prefix, now.uptime_ms) {
                retracted.push(prefix);
            }
        }
        let requests: Vec<SeqnoRequest> = link.requests.drain(..link.requests.len().min(REQUESTS_MAX)).collect();
        self.last_number = self.last_number.saturating_add(1);
        let message = RouteMessage {
            epoch: self.local.epoch,
            number: self.last_number,
            updates,
            retracted,
            requests,
            reach: link.reach_due.then(|| self.reach.clone()),
            digest: link.digest(self.reach_digest),
            resync: link.asks_resync(now.uptime_ms),
        };
        let news = !message.updates.is_empty() || !message.retracted.is_empty() || message.reach.is_some();
        link.sent(news || message.resync, now.uptime_ms);
        self.links.insert(node, link);
        self.effects.push_back(RoutingEffect::Send { to: node, message });
    }
}

/// Whether what was told last is no longer right, by more than noise.
fn is_news(last: Option<&Told>, now: Option<&Told>) -> bool {
    match (last, now) {
        (None, None) => false,
        (Some(last), Some(now)) => {
            let moved = last.metric.abs_diff(now.metric) > last.metric / TELL;
            moved || Told { metric: now.metric, ..*last } != *now
        }
        _ => true,
    }
}
