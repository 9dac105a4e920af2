//! Whether frames for a peer that is reached over others arrive: asked end to end, by sealed probes through each neighbour
//! that could be the next hop. A neighbour whose probes are not answered costs more for that peer, so that routing goes
//! elsewhere, and less again when they are. It seals and sends nothing, and chooses no way.
//!
//! A neighbour that announces short ways and drops what it is given is not seen by routing, whose messages it answers well.
//! It cannot tell probes from packets, for both are sealed, of short and long frames; so it answers for both or for none.
//! Who relays asks too: who sends can only leave its own neighbours, and the liar may be anybody's.
//!
//! [`hop`]: one neighbour as a way to one peer.

pub mod hop;

use std::collections::{BTreeMap, VecDeque};

use shoal_protocol::NodeId;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::relay::RelayHeader;
use shoal_protocol::mesh::session::content::{Control, PROBE_FRAME, PROBE_PADDING_MAX};
use shoal_protocol::mesh::session::frame::FRAME_OVERHEAD;

use crate::Now;
use hop::{Hop, Pace};

/// Most peers that are watched. Each that is active takes a probe and an answer every two seconds and way, about 100 bytes
/// each: 13 kB/s for all of them.
pub const WATCHES_MAX: usize = 256;
/// Of them, most that only others send to: whoever sends through this node to many does not keep it from its own.
pub const RELAYED_MAX: usize = 128;
/// Most neighbours remembered of a peer: twice as many as share its flows.
pub const HOPS_MAX: usize = 16;
/// Most neighbours an answer, or a handshake that is repeated, goes by: the way back may be bad too, and whoever asks shall
/// not be misled by it.
pub const FAN_MAX: usize = 4;
/// Probes go for so long after the last packet, milliseconds.
pub const ACTIVE_MS: u64 = 15_000;
/// What was found out is remembered for so long after it, milliseconds.
pub const REMEMBER_MS: u64 = 300_000;
/// How often a way is asked that this node's own packets go, milliseconds.
pub const STEADY_OWN_MS: u64 = 2_000;
/// And one that only those of others go: there are more of these.
pub const STEADY_RELAYED_MS: u64 = 4_000;
/// With packets out and nothing back there is doubt after this long, milliseconds.
pub const SILENT_MS: u64 = 1_000;
/// A watch is looked at this often, milliseconds.
pub const LOOK_MS: u64 = 250;
/// A handshake message is a repetition if the one before is younger than this, milliseconds: two of the longest waits
/// between initiations.
pub const REPEATED_MS: u64 = 12_000;
/// A neighbour that is left for so many peers, and for more than it answers for, is not trusted with another before it
/// answers: one alone may be the peer's own doing.
pub const SUSPECT_LEAST: usize = 2;
/// Probes are numbered from here to twice this: below are those of the paths, above those of people who ask.
pub const FIRST_NUMBER: u32 = 1 << 30;
/// Zeros behind a long probe, bytes, as far as the way takes them: who passes only short frames is found too.
const PADDING: u16 = 1_024;
/// Effects that wait to be polled: each watch asks all of its hops at once, at most.
const EFFECTS_MAX: usize = 2 * WATCHES_MAX * HOPS_MAX;

/// A neighbour that could be the next hop to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The neighbour.
    pub hop: NodeId,
    /// Whether packets go this way now.
    pub in_use: bool,
    /// Longest frame of the way, relay header included, bytes.
    pub max_frame: u32,
}

/// To be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEffect {
    /// Seal this for `peer` and send it by `hop`.
    Probe {
        /// To whom.
        peer: PeerHash,
        /// By whom.
        hop: NodeId,
        /// [`Control::Probe`].
        probe: Control,
    },
    /// A way to `peer` by `hop` costs this much more from now on.
    Penalty {
        /// Where to.
        peer: PeerHash,
        /// By whom.
        hop: NodeId,
        /// In points of the metric.
        penalty: u32,
    },
}

#[derive(Debug, Default)]
struct Watch {
    /// At most [`HOPS_MAX`].
    hops: BTreeMap<NodeId, Hop>,
    /// The last packet of this node's own, and of others.
    own_ms: Option<u64>,
    relayed_ms: Option<u64>,
    /// First own packet since something was heard.
    unanswered_ms: Option<u64>,
    next_look_ms: u64,
    /// Whether everybody who could be the next hop was left.
    silent: bool,
}

impl Watch {
    fn active_ms(&self) -> u64 {
        self.own_ms.max(self.relayed_ms).unwrap_or_default()
    }

    fn is_within(last: Option<u64>, now: Now) -> bool {
        last.is_some_and(|at| now.uptime_ms.saturating_sub(at) < ACTIVE_MS)
    }

    /// Knows every candidate, and of others only what is worth remembering.
    fn take_candidates(&mut self, candidates: &[Candidate], suspects: &[NodeId], now: Now) {
        let is_candidate = |node: &NodeId| candidates.iter().any(|candidate| candidate.hop == *node);
        self.hops.retain(|node, hop| is_candidate(node) || !hop.is_plain());
        for candidate in candidates {
            if self.hops.len() >= HOPS_MAX && !self.hops.contains_key(&candidate.hop) {
                // Of those that are no candidates now one has to be forgotten; its penalty ends with it, see `judge`.
                let other = self.hops.keys().find(|node| !is_candidate(node)).copied();
                let Some(other) = other else { break };
                self.hops.remove(&other);
            }
            let is_suspect = suspects.contains(&candidate.hop);
            self.hops.entry(candidate.hop).or_insert_with(|| if is_suspect { Hop::suspect(now) } else { Hop::new() });
        }
    }
}

/// All peers that are watched.
#[derive(Debug, Default)]
pub struct Watches {
    /// At most [`WATCHES_MAX`].
    watches: BTreeMap<PeerHash, Watch>,
    /// When the last handshake message went to a peer; at most [`WATCHES_MAX`].
    handshakes: BTreeMap<PeerHash, u64>,
    probes: u32,
    effects: VecDeque<WatchEffect>,
}

impl Watches {
    /// A packet of this node's own waits for a session with `peer`. `false` if there is no room to watch it.
    pub fn handle_want(&mut self, peer: PeerHash, now: Now) -> bool {
        let Some(watch) = self.ensure(peer, false, now) else { return false };
        watch.own_ms = Some(now.uptime_ms);
        true
    }

    /// A packet of this node's own went to `peer` over others. `false` if there is no room to watch it.
    pub fn handle_sent(&mut self, peer: PeerHash, now: Now) -> bool {
        let Some(watch) = self.ensure(peer, false, now) else { return false };
        watch.own_ms = Some(now.uptime_ms);
        watch.unanswered_ms.get_or_insert(now.uptime_ms);
        true
    }

    /// A frame of somebody else went to `peer` over a neighbour. `false` if there is no room to watch it.
    pub fn handle_relayed(&mut self, peer: PeerHash, now: Now) -> bool {
        let Some(watch) = self.ensure(peer, true, now) else { return false };
        watch.relayed_ms = Some(now.uptime_ms);
        true
    }

    /// An authentic frame of `peer` came over others.
    pub fn handle_received(&mut self, peer: &PeerHash) {
        if let Some(watch) = self.watches.get_mut(peer) {
            watch.unanswered_ms = None;
        }
    }

    /// `peer` answered probe `number`.
    pub fn handle_echo(&mut self, peer: &PeerHash, number: u32, now: Now) {
        let Some(watch) = self.watches.get_mut(peer) else { return };
        watch.unanswered_ms = None;
        for (node, hop) in &mut watch.hops {
            let before = hop.penalty();
            if hop.answered(number, now) {
                let penalty = hop.penalty();
                watch.silent = false;
                if penalty != before {
                    self.effects.push_back(WatchEffect::Penalty { peer: *peer, hop: *node, penalty });
                }
                break;
            }
        }
    }

    /// Forgets what is old, and says whom [`Self::judge`] is to look at now.
    pub fn due(&mut self, now: Now) -> Vec<PeerHash> {
        let effects = &mut self.effects;
        self.watches.retain(|peer, watch| {
            let keep = now.uptime_ms.saturating_sub(watch.active_ms()) < REMEMBER_MS;
            if !keep {
                forget(peer, watch, effects);
            }
            keep
        });
        self.handshakes.retain(|_, at| now.uptime_ms.saturating_sub(*at) < REPEATED_MS);
        let due = self.watches.iter().filter(|(_, watch)| {
            let active = Watch::is_within(watch.own_ms.max(watch.relayed_ms), now);
            active && watch.next_look_ms <= now.uptime_ms
        });
        due.map(|(peer, _)| *peer).collect()
    }

    /// Looks at one peer: which probes were not answered, and who is to be asked. `candidates` are the neighbours that could
    /// be the next hop, the nearest first; none of them is asked unless there is a session with the peer.
    pub fn judge(&mut self, peer: PeerHash, candidates: &[Candidate], has_session: bool, now: Now) {
        let suspects = self.suspects(&peer, candidates);
        let Some(watch) = self.watches.get_mut(&peer) else { return };
        watch.next_look_ms = now.uptime_ms.saturating_add(LOOK_MS);
        let before: Vec<(NodeId, u32)> = watch.hops.iter().map(|(node, hop)| (*node, hop.penalty())).collect();
        watch.take_candidates(candidates, &suspects, now);
        for (node, hop) in &mut watch.hops {
            if has_session {
                hop.handle_timeout(now);
            } else if candidates.iter().any(|candidate| candidate.hop == *node) {
                hop.handle_no_session(now);
            }
        }
        let fresh =
            watch.hops.keys().filter(|node| before.iter().all(|(known, _)| known != *node)).map(|node| (*node, 0));
        let before: Vec<(NodeId, u32)> = before.iter().copied().chain(fresh).collect();
        for (node, penalty) in before {
            let after = watch.hops.get(&node).map_or(0, Hop::penalty);
            if after != penalty && self.effects.len() < EFFECTS_MAX {
                self.effects.push_back(WatchEffect::Penalty { peer, hop: node, penalty: after });
            }
        }
        let hop_of = |candidate: &Candidate| watch.hops.get(&candidate.hop);
        let known = || candidates.iter().filter_map(|candidate| Some((candidate, hop_of(candidate)?)));
        watch.silent = known().next().is_some() && known().all(|(_, hop)| hop.is_left());
        let unheard = watch.unanswered_ms.is_some_and(|since| now.uptime_ms.saturating_sub(since) >= SILENT_MS);
        let doubt = unheard || known().any(|(candidate, hop)| candidate.in_use && hop.is_doubted());
        if !has_session {
            return;
        }
        let steady_ms = if Watch::is_within(watch.own_ms, now) { STEADY_OWN_MS } else { STEADY_RELAYED_MS };
        for candidate in candidates {
            let Some(hop) = watch.hops.get_mut(&candidate.hop) else { continue };
            let pace = Pace { in_use: candidate.in_use, doubt, steady_ms };
            if hop.is_due(pace, now) && self.effects.len() < EFFECTS_MAX {
                self.probes = self.probes.wrapping_add(1);
                let number = FIRST_NUMBER | (self.probes & (FIRST_NUMBER - 1));
                let padding = if hop.asked(number, now) { padding(candidate.max_frame) } else { 0 };
                let probe = Control::Probe { number, padding };
                self.effects.push_back(WatchEffect::Probe { peer, hop: candidate.hop, probe });
            }
        }
    }

    /// The next thing to be done; drain it after every event.
    pub fn poll(&mut self) -> Option<WatchEffect> {
        self.effects.pop_front()
    }

    /// Whether `number` is of a probe of [`WatchEffect::Probe`].
    #[must_use]
    pub const fn is_own(number: u32) -> bool {
        number >= FIRST_NUMBER && number < FIRST_NUMBER << 1
    }

    /// Whether nobody who could be the next hop to `peer` brings an answer.
    #[must_use]
    pub fn is_silent(&self, peer: &PeerHash) -> bool {
        self.watches.get(peer).is_some_and(|watch| watch.silent)
    }

    /// A handshake message goes to `peer`: whether one did a moment ago, which then led to nothing.
    pub fn is_repeated(&mut self, peer: PeerHash, now: Now) -> bool {
        let room = self.handshakes.len() < WATCHES_MAX || self.handshakes.contains_key(&peer);
        let before = if room { self.handshakes.insert(peer, now.uptime_ms) } else { None };
        before.is_some_and(|at| now.uptime_ms.saturating_sub(at) < REPEATED_MS)
    }

    /// There is a session with `peer`: its handshake was heard.
    pub fn handle_session(&mut self, peer: &PeerHash) {
        self.handshakes.remove(peer);
        if let Some(watch) = self.watches.get_mut(peer) {
            watch.hops.values_mut().for_each(Hop::handle_session);
            watch.next_look_ms = 0;
        }
    }

    /// Those among candidates that are new for `peer`, and were left for so many others that it is likely their own doing: a
    /// liar is found out once, and not again for everybody behind it.
    fn suspects(&self, peer: &PeerHash, candidates: &[Candidate]) -> Vec<NodeId> {
        let Some(watch) = self.watches.get(peer) else { return Vec::new() };
        let fresh = candidates.iter().map(|candidate| candidate.hop).filter(|hop| !watch.hops.contains_key(hop));
        let suspect = |node: &NodeId| {
            let known = || self.watches.values().filter_map(|watch| watch.hops.get(node));
            let left = known().filter(|hop| hop.is_left()).count();
            left >= SUSPECT_LEAST && left > known().filter(|hop| hop.is_proven()).count()
        };
        fresh.filter(suspect).collect()
    }

    fn ensure(&mut self, peer: PeerHash, relayed: bool, now: Now) -> Option<&mut Watch> {
        if !self.watches.contains_key(&peer) {
            let of_others = self.watches.values().filter(|watch| watch.own_ms.is_none()).count();
            if relayed && of_others >= RELAYED_MAX {
                self.forget_idle(now, |watch| watch.own_ms.is_none())?;
            } else if self.watches.len() >= WATCHES_MAX {
                self.forget_idle(now, |_| true)?;
            }
        }
        Some(self.watches.entry(peer).or_default())
    }

    /// Makes room: forgets the one without packets for longest; none if all have some.
    fn forget_idle(&mut self, now: Now, which: impl Fn(&Watch) -> bool) -> Option<()> {
        let idle = self.watches.iter().filter(|(_, watch)| which(watch));
        let (peer, watch) = idle.min_by_key(|(_, watch)| watch.active_ms())?;
        if Watch::is_within(Some(watch.active_ms()), now) {
            return None;
        }
        let peer = *peer;
        if let Some(watch) = self.watches.remove(&peer) {
            forget(&peer, &watch, &mut self.effects);
        }
        Some(())
    }
}

/// What was found out of a peer counts no more.
fn forget(peer: &PeerHash, watch: &Watch, effects: &mut VecDeque<WatchEffect>) {
    let punished = watch.hops.iter().filter(|(_, hop)| hop.penalty() > 0);
    effects.extend(punished.map(|(node, _)| WatchEffect::Penalty { peer: *peer, hop: *node, penalty: 0 }));
}

/// How much longer a probe is made on a way of frames this long.
fn padding(max_frame: u32) -> u16 {
    let spent = PROBE_FRAME.saturating_add(FRAME_OVERHEAD).saturating_add(RelayHeader::LEN);
    let room = usize::try_from(max_frame).unwrap_or(usize::MAX).saturating_sub(spent);
    u16::try_from(room).unwrap_or(u16::MAX).min(PADDING).min(PROBE_PADDING_MAX)
}

#[cfg(test)]
mod tests;
