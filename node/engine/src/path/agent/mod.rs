//! One peer's carriers and the choice among them. Events in, [`PathEffect`]s out; it sends nothing and reads no clock.
//!
//! An address nobody answers at is knocked at with short probes. It counts once the peer answered a challenge there and two
//! probes as long as the longest frame that is used there came back; then it goes before lanes, and lanes before routes.
//! Any authentic frame is proof of life. What is in use and gives none for too long, although data goes out, is doubled by
//! the next best and then given up.

mod view;

use std::collections::{BTreeMap, VecDeque};

use shoal_protocol::mesh::session::content::{Control, Fence, PROBE_FRAME, PROBE_PADDING_MAX};
use shoal_protocol::mesh::session::frame::PathId;

use super::candidate::{ALIVE_MS, Candidate, FRAMES, Probe, Proof};
use super::choice::{Choice, Decision, Ways, Why};
use super::{CARRIERS_MAX, Carrier};
use crate::Now;
pub use view::{CandidateState, CandidateView};

/// Decisions that are remembered.
pub const DECISIONS_MAX: usize = 16;
/// Effects kept until they are polled: a probe for each carrier twice, and a few choices. Beyond them probes are left out;
/// only the last choice counts, so there is room for it always.
pub const EFFECTS_MAX: usize = 4 * CARRIERS_MAX;
/// Another address has to be faster by this part of a round trip: a fifth.
pub const FASTER_PART: u64 = 5;
/// And by this much, milliseconds.
pub const FASTER_LEAST_MS: u64 = 5;
/// What is in use is not left for something faster within this long, milliseconds.
pub const STAY_MS: u64 = 5_000;
/// After so long without packets carriers are probed no more, milliseconds.
pub const ACTIVE_MS: u64 = 60_000;

/// To be done by the owner of sockets, lanes and the packet half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathEffect {
    /// Seal this probe under `path` and send it `on` there.
    Probe {
        /// Which way.
        on: Carrier,
        /// What it is counted under.
        path: PathId,
        /// [`Control::Probe`].
        probe: Control,
    },
    /// Send as this says from now on.
    Choose(Choice),
}

/// The carriers of one peer.
#[derive(Debug)]
pub struct PathAgent {
    candidates: BTreeMap<Carrier, Candidate>,
    ways: Ways,
    /// Lengths of data frames that are tried, bytes, the longest first.
    frames: [u16; FRAMES],
    next_probe: u32,
    next_fence: u32,
    /// When packets went last.
    active_ms: Option<u64>,
    decisions: VecDeque<Decision>,
    effects: VecDeque<PathEffect>,
}

impl PathAgent {
    /// Without carriers. `full_frame` is the longest data frame that a datagram of a usual link holds, header and tag
    /// included; an address that does not bear it is tried with shorter ones, down to `least_frame`, which holds a packet
    /// of the network's MTU.
    #[must_use]
    pub fn new(full_frame: u16, least_frame: u16) -> Self {
        let least = least_frame.min(full_frame);
        Self {
            candidates: BTreeMap::new(),
            ways: Ways::None,
            frames: [full_frame, full_frame.midpoint(least), least],
            next_probe: 0,
            next_fence: 0,
            active_ms: None,
            decisions: VecDeque::new(),
            effects: VecDeque::new(),
        }
    }

    /// A carrier is there, or an address is worth a try. What finds no path id is not taken; says whether it was.
    pub fn handle_up(&mut self, carrier: Carrier, now: Now) -> bool {
        if self.candidates.contains_key(&carrier) {
            return true;
        }
        let Some(path) = self.free_path(carrier) else { return false };
        self.candidates.insert(carrier, Candidate::new(path, carrier, now.uptime_ms));
        self.choose(now.uptime_ms);
        true
    }

    /// A carrier is gone, or an address is to be forgotten.
    pub fn handle_down(&mut self, carrier: Carrier, now: Now) {
        if self.candidates.remove(&carrier).is_some() {
            self.choose(now.uptime_ms);
        }
    }

    /// The peer answered a challenge at this address.
    pub fn handle_validated(&mut self, carrier: Carrier, now: Now) {
        if let Some(candidate) = self.candidates.get_mut(&carrier) {
            candidate.shown(now.uptime_ms);
            self.probe_due(now.uptime_ms);
        }
    }

    /// There is a session, in which probes are answered: addresses where nobody answered are tried anew.
    pub fn handle_session(&mut self, now: Now) {
        for candidate in self.candidates.values_mut() {
            candidate.knock_again(now.uptime_ms);
        }
        self.handle_timeout(now);
    }

    /// Packets were sent on `carrier`. Probes and echoes do not count.
    pub fn handle_sent(&mut self, carrier: Carrier, now: Now) {
        let was_idle = !self.is_active(now.uptime_ms);
        self.active_ms = Some(now.uptime_ms);
        if was_idle {
            self.candidates.values_mut().for_each(|candidate| candidate.knock_again(now.uptime_ms));
        }
        if let Some(candidate) = self.candidates.get_mut(&carrier) {
            candidate.unanswered_ms.get_or_insert(now.uptime_ms);
            let rested = candidate.heard_ms.is_none_or(|heard| now.uptime_ms.saturating_sub(heard) >= ALIVE_MS);
            if was_idle && rested {
                // A mapping on the way may have gone meanwhile: better found out before there is doubt.
                candidate.probe_due_ms = now.uptime_ms;
            }
        }
        self.probe_due(now.uptime_ms);
    }

    /// An authentic frame came on `carrier`.
    pub fn handle_received(&mut self, carrier: Carrier, now: Now) {
        let Some(candidate) = self.candidates.get_mut(&carrier) else { return };
        candidate.heard(now.uptime_ms);
        if matches!(self.ways, Ways::Both { doubted, .. } if doubted == carrier) {
            self.settle(carrier, Why::HeardAgain, now.uptime_ms);
        }
    }

    /// The echo of probe `number` came on `carrier`: how long it was under way, milliseconds, if it is the one that is waited
    /// for.
    pub fn handle_echo(&mut self, number: u32, carrier: Carrier, now: Now) -> Option<u64> {
        self.handle_received(carrier, now);
        let probe = self.candidates.get_mut(&carrier)?.echoed(number, now.uptime_ms)?;
        self.probe_due(now.uptime_ms);
        self.choose(now.uptime_ms);
        Some(now.uptime_ms.saturating_sub(probe.sent_ms))
    }

    /// This node has other addresses than before: every proven carrier is probed at once, packets or not. The peer learns
    /// where this node is from any frame, and sends there once that was answered.
    pub fn handle_moved(&mut self, now: Now) {
        self.active_ms = Some(now.uptime_ms);
        for candidate in self.candidates.values_mut() {
            candidate.probe_due_ms = now.uptime_ms;
        }
        self.probe_due(now.uptime_ms);
    }

    /// Time passed: doubts, ends and probes that are due. To be called every 50 ms while packets go, else now and then.
    pub fn handle_timeout(&mut self, now: Now) {
        let now_ms = now.uptime_ms;
        self.judge_used(now_ms);
        self.choose(now_ms);
        self.probe_due(now_ms);
    }

    /// The next thing to be done; drain it after every event.
    pub fn poll(&mut self) -> Option<PathEffect> {
        self.effects.pop_front()
    }

    /// What is sent on now.
    #[must_use]
    pub const fn ways(&self) -> Ways {
        self.ways
    }

    /// What frames on a carrier are counted under.
    #[must_use]
    pub fn path_of(&self, carrier: Carrier) -> Option<PathId> {
        self.candidates.get(&carrier).map(|candidate| candidate.path)
    }

    /// Longest data frame a carrier takes, bytes: of an address the length that was proven, or is tried.
    #[must_use]
    pub fn frame_of(&self, carrier: Carrier) -> u16 {
        let step = self.candidates.get(&carrier).map_or(0, |candidate| candidate.step);
        match carrier {
            Carrier::Lanes | Carrier::Routed => u16::MAX,
            Carrier::Udp(_) => self.frames.get(step).copied().unwrap_or_default(),
        }
    }

    /// Smoothed round trip of a carrier, milliseconds.
    #[must_use]
    pub fn rtt_ms(&self, carrier: Carrier) -> Option<u64> {
        self.candidates.get(&carrier)?.rtt_ms
    }

    /// The last decisions and their reasons, oldest first.
    pub fn why(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter()
    }

    fn free_path(&self, carrier: Carrier) -> Option<PathId> {
        let wanted = match carrier {
            Carrier::Lanes => 0..1,
            Carrier::Routed => 1..2,
            Carrier::Udp(_) => 2..CARRIERS_MAX as u8,
        };
        let is_free = |path: &PathId| self.candidates.values().all(|candidate| candidate.path != *path);
        wanted.filter_map(PathId::new).find(is_free)
    }

    fn is_active(&self, now_ms: u64) -> bool {
        self.active_ms.is_some_and(|last| now_ms.saturating_sub(last) < ACTIVE_MS)
    }

    /// Doubts what is silent, gives up what was silent for too long.
    fn judge_used(&mut self, now_ms: u64) {
        let (used, doubted) = match self.ways {
            Ways::None => return,
            Ways::One { on, .. } => (on, false),
            Ways::Both { doubted, .. } => (doubted, true),
        };
        let Some(candidate) = self.candidates.get_mut(&used) else { return };
        let (for_ms, limit_ms) = (candidate.silent_ms(now_ms), candidate.silent_limit_ms());
        if for_ms >= limit_ms / 2 {
            // Asked at half of the time, a one-way flow over a good carrier never comes into doubt.
            let asked = candidate.probe.is_some_and(|probe| now_ms.saturating_sub(probe.sent_ms) < limit_ms / 2);
            if !asked {
                candidate.probe_due_ms = now_ms;
            }
        }
        let dead = for_ms >= candidate.dead_limit_ms();
        let Some(spare) = self.best(Some(used), now_ms) else { return };
        if dead {
            if let Some(candidate) = self.candidates.get_mut(&used) {
                candidate.fail(now_ms);
            }
            self.settle(spare, Why::Dead { for_ms }, now_ms);
        } else if for_ms >= limit_ms && !doubted {
            if let Some(candidate) = self.candidates.get_mut(&spare) {
                candidate.probe_due_ms = now_ms;
            }
            self.switch(Ways::Both { doubted: used, spare }, Why::Silent { for_ms, limit_ms }, now_ms);
        }
    }

    /// Changes to the best carrier if that is worth it. What is in doubt is left to [`Self::judge_used`].
    fn choose(&mut self, now_ms: u64) {
        let used = match self.ways {
            Ways::None => None,
            Ways::One { on, .. } => Some(on),
            Ways::Both { doubted, spare } => {
                // One of the two is gone: the other one stays.
                let (first, second) = (self.candidates.contains_key(&doubted), self.candidates.contains_key(&spare));
                match (first, second) {
                    (true, true) => return,
                    (true, false) => return self.settle(doubted, Why::Gone, now_ms),
                    _ => Some(spare).filter(|_| second),
                }
            }
        };
        let current = used.filter(|used| self.candidates.contains_key(used));
        let Some(best) = self.best(None, now_ms) else {
            if current.is_none() && self.ways != Ways::None {
                self.switch(Ways::None, Why::NothingLeft, now_ms);
            }
            return;
        };
        let Some(current) = current else {
            let why = if self.ways == Ways::None { Why::First } else { Why::Gone };
            return self.settle(best, why, now_ms);
        };
        if best != current {
            if let Some(why) = self.reason_to_move(current, best, now_ms) {
                self.settle(best, why, now_ms);
            }
        } else if matches!(self.ways, Ways::Both { .. }) {
            self.settle(current, Why::Gone, now_ms);
        }
    }

    fn reason_to_move(&self, current: Carrier, best: Carrier, now_ms: u64) -> Option<Why> {
        let (from, to) = (self.candidates.get(&current)?, self.candidates.get(&best)?);
        let rtt_ms = to.rtt_ms.unwrap_or_default();
        if rank(current) != rank(best) {
            let why = match best {
                Carrier::Udp(_) => Why::MtuConfirmed { frame: self.frame_of(best), rtt_ms },
                Carrier::Lanes | Carrier::Routed => Why::Better,
            };
            return (rank(best) < rank(current)).then_some(why);
        }
        let than_ms = from.rtt_ms?;
        let stayed = from.used_since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= STAY_MS);
        let gain = than_ms.saturating_sub(to.rtt_ms?);
        let enough = gain >= FASTER_LEAST_MS && gain >= than_ms / FASTER_PART;
        (stayed && enough).then_some(Why::Faster { rtt_ms, than_ms })
    }

    /// The best usable carrier: by kind, then by round trip.
    fn best(&self, except: Option<Carrier>, now_ms: u64) -> Option<Carrier> {
        let usable = self
            .candidates
            .iter()
            .filter(|(carrier, candidate)| Some(**carrier) != except && (candidate.is_usable(now_ms)));
        usable.min_by_key(|(carrier, candidate)| (rank(**carrier), candidate.rtt_ms)).map(|(carrier, _)| *carrier)
    }

    /// Uses one carrier alone.
    fn settle(&mut self, on: Carrier, why: Why, now_ms: u64) {
        let Some(path) = self.candidates.get(&on).map(|candidate| candidate.path) else { return };
        self.switch(Ways::One { on, path }, why, now_ms);
    }

    fn switch(&mut self, ways: Ways, why: Why, now_ms: u64) {
        let before = core::mem::replace(&mut self.ways, ways);
        for (carrier, candidate) in &mut self.candidates {
            match (ways.carriers().any(|used| used == *carrier), candidate.used_since_ms) {
                (true, None) => {
                    candidate.used_since_ms = Some(now_ms);
                    candidate.unanswered_ms = None;
                }
                (false, Some(_)) => {
                    candidate.used_since_ms = None;
                    candidate.unanswered_ms = None;
                }
                _ => {}
            }
        }
        // Without a carrier of before there is nothing that could still arrive behind the new frames.
        let still_there = before.carriers().any(|carrier| self.candidates.contains_key(&carrier));
        let fence = match (before.path(), ways.path()) {
            (Some(from), Some(to)) if from != to && still_there => {
                let number = self.next_fence;
                self.next_fence = self.next_fence.wrapping_add(1);
                Some(Fence { number, from, to })
            }
            _ => None,
        };
        if self.decisions.len() >= DECISIONS_MAX {
            self.decisions.pop_front();
        }
        self.decisions.push_back(Decision { at_ms: now_ms, before, after: ways, why });
        if self.effects.len() >= EFFECTS_MAX {
            self.effects.pop_front();
        }
        let frame = ways.carriers().map(|carrier| self.frame_of(carrier)).min().unwrap_or_default();
        self.effects.push_back(PathEffect::Choose(Choice { ways, frame, fence, why }));
    }

    /// Sends the probes that are due, see [`Candidate::asks`].
    fn probe_due(&mut self, now_ms: u64) {
        let active = self.is_active(now_ms);
        let frames = self.frames;
        let mut narrowed = false;
        for (carrier, candidate) in &mut self.candidates {
            let is_due = candidate.probe_due_ms <= now_ms && candidate.asks(active);
            if !is_due || self.effects.len() >= EFFECTS_MAX / 2 {
                continue;
            }
            if candidate.is_too_long() {
                // Shorter frames still come: nothing else would tell that the path bears less than before.
                candidate.fail(now_ms);
                narrowed = true;
                continue;
            }
            if !candidate.count_try(now_ms) {
                continue;
            }
            let padded = matches!(candidate.proof, Proof::Echoes(_) | Proof::Mtu);
            let frame = frames.get(candidate.step).copied().unwrap_or_default();
            let padding = if padded { usize::from(frame).saturating_sub(PROBE_FRAME) } else { 0 };
            let padding = u16::try_from(padding).unwrap_or(PROBE_PADDING_MAX).min(PROBE_PADDING_MAX);
            let number = self.next_probe;
            self.next_probe = self.next_probe.wrapping_add(1);
            candidate.probe_due_ms = candidate.next_probe_ms(now_ms, active);
            candidate.probes = candidate.probes.saturating_add(1);
            candidate.probe = Some(Probe { number, sent_ms: now_ms, padded });
            let probe = Control::Probe { number, padding };
            self.effects.push_back(PathEffect::Probe { on: *carrier, path: candidate.path, probe });
        }
        if narrowed {
            self.choose(now_ms);
        }
    }
}

/// Less is better.
const fn rank(carrier: Carrier) -> u8 {
    match carrier {
        Carrier::Udp(_) => 0,
        Carrier::Lanes => 1,
        Carrier::Routed => 2,
    }
}

#[cfg(test)]
mod tests;
