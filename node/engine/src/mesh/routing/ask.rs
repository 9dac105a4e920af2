//! Sequence numbers: who is asked for one, who answers, who passes the question on (RFC 8966 §3.8). It chooses no route.

use shoal_protocol::NodeId;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::{REQUEST_HOPS_MAX, Router, SeqnoRequest};

use super::{Ignored, Routing};
use crate::Now;

/// Most neighbours that are asked for one number: the nearest who know the router.
const ASKED_MAX: usize = 8;

impl Routing {
    /// A neighbour asks that a router counts on (RFC 8966 §3.8.1.2).
    pub(super) fn handle_request(&mut self, from: NodeId, request: SeqnoRequest, now: Now) {
        let SeqnoRequest { prefix, router, seqno, hops } = request;
        if router.node == self.local.node {
            let known = self.origins.seqno(&prefix).filter(|_| router == self.local);
            match known {
                Some(own) if own.checked_add(1) == Some(seqno) => self.origins.count_on(&prefix),
                Some(own) if own < seqno => self.ignore(Ignored::Invented),
                _ => {
                    self.ignore(Ignored::Stale);
                    self.mark_for_sure(&from, prefix);
                }
            }
            return;
        }
        if self.answers(&prefix, &router, seqno) {
            return self.mark_for_sure(&from, prefix);
        }
        match (self.towards(&prefix, &router, &from, 0), hops.checked_sub(1)) {
            (Some(next), Some(hops))
                if hops > 0 && self.requests.forward(prefix, router, (seqno, hops), from, now.uptime_ms) =>
            {
                self.ask(next, SeqnoRequest { hops, ..request });
            }
            _ => self.ignore(Ignored::NotForwarded),
        }
    }

    /// Whether the route in use is what somebody who asks for this number needs.
    fn answers(&self, prefix: &Prefix, router: &Router, seqno: u32) -> bool {
        let best = self.destinations.get(prefix).and_then(|destination| destination.best.as_ref());
        best.is_some_and(|best| best.told.router != *router || best.told.seqno >= seqno)
    }

    /// Who is nearer to the router: the way packets go, else the nearest that is known, usable or not; never back. Each
    /// further try asks the next of them, for who is asked may keep it to itself.
    fn towards(&self, prefix: &Prefix, router: &Router, from: &NodeId, tries: usize) -> Option<NodeId> {
        let destination = self.destinations.get(prefix)?;
        let used = destination.best.as_ref().map(|best| best.via);
        let others = destination.heard.iter().filter(|(_, heard)| heard.told.router == *router);
        let mut known: Vec<(u32, bool, u32, NodeId)> = others
            .map(|(node, heard)| (destination.mark(node), Some(*node) != used, heard.told.metric, *node))
            .chain(used.map(|via| (destination.mark(&via), false, 0, via)))
            .filter(|(.., node)| node != from)
            .collect();
        known.sort_unstable();
        known.dedup_by_key(|(.., node)| *node);
        known.get(tries.checked_rem(known.len())?).map(|(.., node)| *node)
    }

    fn ask(&mut self, node: NodeId, request: SeqnoRequest) {
        if let Some(link) = self.links.get_mut(&node) {
            link.request(request);
        }
    }

    /// Asks for the numbers that are needed here, and once more for those that others need.
    pub(super) fn ask_due(&mut self, now: Now) {
        for (prefix, router, seqno) in self.requests.due(now.uptime_ms) {
            let Some(destination) = self.destinations.get(&prefix) else { continue };
            let known = destination.heard.iter();
            let mut known: Vec<(bool, u32, u32, NodeId)> = known
                .map(|(node, heard)| (heard.told.router != router, destination.mark(node), heard.told.metric, *node))
                .collect();
            known.sort_unstable();
            for (.., node) in known.into_iter().take(ASKED_MAX) {
                self.ask(node, SeqnoRequest { prefix, router, seqno, hops: REQUEST_HOPS_MAX });
            }
        }
        let mut requests = std::mem::take(&mut self.requests);
        let again = requests.due_again(now.uptime_ms, |prefix, router, seqno| self.answers(prefix, router, seqno));
        self.requests = requests;
        for (prefix, router, passed) in again {
            if let Some(next) = self.towards(&prefix, &router, &passed.from, passed.tries()) {
                self.ask(next, SeqnoRequest { prefix, router, seqno: passed.seqno, hops: passed.hops });
            }
        }
    }
}
