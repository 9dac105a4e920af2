//! What this node itself can be reached under: its own words, their numbers, and when they have to be signed again. It
//! signs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::{ORIGIN_LIFE_MAX_MS, Origin, VerifiedOrigin};

use super::{Routing, RoutingEffect};
use crate::Now;

/// Most prefixes one node announces: its address, its subnets, two exits.
pub const OWN_MAX: usize = 64;
/// A word is signed again after this long, milliseconds: three tries before the former is over.
pub const ORIGIN_REFRESH_MS: u64 = 3 * 60_000;
/// Least time between two words of one prefix, milliseconds, however many ask: each travels to every member.
pub const COUNT_ON_MS: u64 = 500;
/// How long a signature may take before it is asked for again, milliseconds.
const SIGN_AGAIN_MS: u64 = 5_000;

#[derive(Debug, Default)]
struct Own {
    /// Its last word.
    origin: Option<Arc<VerifiedOrigin>>,
    /// What is being signed, and since when.
    signing: Option<(Origin, u64)>,
    /// When the last was asked to be signed.
    asked_ms: Option<u64>,
    /// Whether somebody needs a greater number.
    count_on: bool,
}

impl Own {
    fn due_ms(&self) -> u64 {
        let Some(asked_ms) = self.asked_ms else { return 0 };
        let wait = match (&self.signing, self.count_on) {
            (Some(_), _) => SIGN_AGAIN_MS,
            (None, true) => COUNT_ON_MS,
            (None, false) => ORIGIN_REFRESH_MS,
        };
        asked_ms.saturating_add(wait)
    }
}

/// All own prefixes.
#[derive(Debug, Default)]
pub(super) struct Origins {
    /// At most [`OWN_MAX`].
    own: BTreeMap<Prefix, Own>,
    /// One count for all prefixes of the run, so that a prefix that comes back goes on where it was. At two a second and
    /// prefix it lasts a year; then the node needs a new run.
    last_seqno: u32,
}

impl Origins {
    pub(super) fn add(&mut self, prefix: Prefix) {
        if self.own.len() < OWN_MAX {
            self.own.entry(prefix).or_default();
        }
    }

    /// The number of the last word of `prefix`.
    pub(super) fn seqno(&self, prefix: &Prefix) -> Option<u32> {
        Some(self.word(prefix)?.origin().seqno)
    }

    pub(super) fn word(&self, prefix: &Prefix) -> Option<&Arc<VerifiedOrigin>> {
        self.own.get(prefix)?.origin.as_ref()
    }

    pub(super) fn contains(&self, prefix: &Prefix) -> bool {
        self.own.contains_key(prefix)
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.own.keys().copied()
    }

    pub(super) fn count_on(&mut self, prefix: &Prefix) {
        if let Some(own) = self.own.get_mut(prefix) {
            own.count_on = true;
        }
    }

    pub(super) fn due_ms(&self) -> u64 {
        self.own.values().map(Own::due_ms).min().unwrap_or(u64::MAX)
    }

    /// What has to be signed now.
    pub(super) fn due(&mut self, epoch: shoal_protocol::BootEpoch, now: Now) -> Vec<Origin> {
        let mut out = Vec::new();
        for (prefix, own) in self.own.iter_mut().filter(|(_, own)| own.due_ms() <= now.uptime_ms) {
            let Some(seqno) = self.last_seqno.checked_add(1) else { break };
            self.last_seqno = seqno;
            let expires = now.wall.saturating_add(ORIGIN_LIFE_MAX_MS);
            let origin = Origin { prefix: *prefix, epoch, seqno, expires };
            (own.asked_ms, own.count_on) = (Some(now.uptime_ms), false);
            own.signing = Some((origin.clone(), now.uptime_ms));
            out.push(origin);
        }
        out
    }
}

impl Routing {
    /// This node can be reached under `prefix` too; beyond [`OWN_MAX`] it is not announced. Its own address is from the
    /// start.
    pub fn announce(&mut self, prefix: Prefix, now: Now) {
        self.origins.add(prefix);
        self.changed = true;
        self.settle(now);
    }

    /// It can no longer.
    pub fn withdraw(&mut self, prefix: Prefix, now: Now) {
        if self.origins.own.remove(&prefix).is_some() {
            self.changed = true;
            self.mark(prefix, now);
            self.settle(now);
        }
    }

    /// What [`RoutingEffect::Sign`] asked for was signed. Anything else is not used.
    pub fn handle_signed(&mut self, signed: VerifiedOrigin, now: Now) {
        let prefix = signed.origin().prefix;
        let Some(own) = self.origins.own.get_mut(&prefix) else { return };
        if signed.router() != self.local || own.signing.as_ref().is_none_or(|(asked, _)| asked != signed.origin()) {
            return;
        }
        (own.origin, own.signing) = (Some(Arc::new(signed)), None);
        self.mark(prefix, now);
        self.settle(now);
    }

    pub(super) fn sign_due(&mut self, now: Now) {
        for origin in self.origins.due(self.local.epoch, now) {
            self.effects.push_back(RoutingEffect::Sign(origin));
        }
    }
}
