//! What ends by itself: routes nobody stands by any more, and what is remembered of those that are gone. It chooses no route.

use std::collections::BTreeSet;

use super::Routing;
use crate::Now;

/// How often what is of use to nobody any more is forgotten, milliseconds: it only takes room.
const FORGET_MS: u64 = 10_000;

impl Routing {
    /// Drops what ended, keeps what is needed.
    pub(super) fn sweep(&mut self, now: Now) {
        let mut ended = Vec::new();
        for (prefix, destination) in &self.destinations {
            for (node, heard) in &destination.heard {
                if !self.links.get(node).is_some_and(|link| heard.is_alive(link, now)) {
                    ended.push((*prefix, *node));
                }
            }
        }
        for (prefix, node) in &ended {
            self.forget(prefix, node);
        }
        self.reselect(ended.iter().map(|(prefix, _)| *prefix).collect::<BTreeSet<_>>(), now);
        let mut over = Vec::new();
        for (prefix, destination) in &mut self.destinations {
            if destination.held_until_ms > 0 && destination.held_until_ms <= now.uptime_ms {
                destination.held_until_ms = 0;
                self.changed = true;
            }
            if destination.is_over(now.uptime_ms) {
                over.push(*prefix);
            }
        }
        self.changed |= !over.is_empty();
        for prefix in over {
            self.destinations.remove(&prefix);
        }
        if now.uptime_ms >= self.next_forget_ms {
            self.next_forget_ms = now.uptime_ms.saturating_add(FORGET_MS);
            self.sources.forget_old(now.uptime_ms);
            for link in self.links.values_mut() {
                link.forget_retracted(now.uptime_ms);
            }
        }
    }
}
