//! What is known of one carrier of a peer: heard when, how far away, proven how. It chooses nothing.

use shoal_protocol::mesh::session::frame::PathId;

use super::Carrier;

/// With data out and none back there is doubt after this long at least, milliseconds.
pub const SILENT_LEAST_MS: u64 = 400;
/// And after this many round trips at least.
pub const SILENT_ROUND_TRIPS: u64 = 4;
/// With data out and none back a carrier is given up after this long at least, milliseconds.
pub const DEAD_LEAST_MS: u64 = 1_200;
/// And after this many round trips at least: more than those of the doubt, so that the probe sent then has its time.
pub const DEAD_ROUND_TRIPS: u64 = 6;
/// Echoes of padded probes that confirm an address.
pub const CONFIRM_ECHOES: u8 = 2;
/// Waits between the first probes of an address, milliseconds; then [`PROBE_REST_MS`] or [`PROBE_STEADY_MS`].
pub const PROBE_BURST_MS: [u64; 12] = [200, 300, 500, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000];
/// Probes of each length that may stay without an echo in a row before the next shorter one is tried: together those of
/// [`PROBE_BURST_MS`]. The longest has most, for a slow link answers the first ones too late.
pub const TRIES: [u8; FRAMES] = [5, 4, 3];
/// The same of a length that was proven: three probes, as for [`ALIVE_MS`].
pub const TRIES_PROVEN: u8 = 3;
/// The same of a length that had no echo where short probes have.
pub const TRIES_AGAIN: u8 = 2;
/// Lengths that are tried.
pub const FRAMES: usize = 3;
/// Where in [`PROBE_BURST_MS`] the short probe stands that follows those of a length without an echo: one second is its time
/// to come back. An address that does not answer it is dead, not narrow.
const DOUBT_AT: usize = 3;
/// Wait between probes of an address that does not answer, milliseconds, while no packets go; else [`PROBE_STEADY_MS`].
pub const PROBE_REST_MS: u64 = 60_000;
/// Wait between probes of a carrier that answers, while packets go, milliseconds.
pub const PROBE_STEADY_MS: u64 = 5_000;
/// A carrier that is not in use counts as alive for this long after it was heard, milliseconds: three probes.
pub const ALIVE_MS: u64 = 3 * PROBE_STEADY_MS;
/// An address that was given up is not chosen again for this long, milliseconds; doubled each time it happens.
pub const HOLD_DOWN_FIRST_MS: u64 = 5_000;
/// Longest such time, milliseconds.
pub const HOLD_DOWN_MAX_MS: u64 = 60_000;
/// In use for so long without being given up, an address has earned the first wait again, milliseconds.
pub const STEADY_MS: u64 = 60_000;

/// How far an address has been proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Not an address: nothing to prove.
    Needless,
    /// Nobody answers there: short probes knock. They are as good a beginning as any frame for the challenges of both.
    Nothing,
    /// The peer answered there; so many padded probes came back since.
    Echoes(u8),
    /// Frames of the network MTU come through.
    Mtu,
}

/// What is thought of an address where probes of a length had no echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// Nothing yet.
    None,
    /// It may be dead: a short probe is under way.
    Dead,
    /// It lives. Had it been dead until just now, the length would come through: it is tried [`TRIES_AGAIN`] times more.
    Narrow,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) number: u32,
    pub(super) sent_ms: u64,
    pub(super) padded: bool,
}

#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) path: PathId,
    pub(super) proof: Proof,
    /// Smoothed as in RFC 6298: seven eighths of the old, one of the new.
    pub(super) rtt_ms: Option<u64>,
    pub(super) heard_ms: Option<u64>,
    /// First data sent since something was heard.
    pub(super) unanswered_ms: Option<u64>,
    /// The probe under way; an older one is forgotten when another is sent.
    pub(super) probe: Option<Probe>,
    pub(super) probe_due_ms: u64,
    pub(super) probes: usize,
    /// Which length is tried, or proven.
    pub(super) step: usize,
    /// Probes of this length without an echo.
    tries: u8,
    /// The peer answered a challenge there: its echoes prove that it is there now.
    is_shown: bool,
    doubt: Doubt,
    pub(super) held_until_ms: u64,
    hold_ms: u64,
    pub(super) used_since_ms: Option<u64>,
}

impl Candidate {
    pub(super) const fn new(path: PathId, carrier: Carrier, now_ms: u64) -> Self {
        Self {
            path,
            proof: if matches!(carrier, Carrier::Udp(_)) { Proof::Nothing } else { Proof::Needless },
            rtt_ms: None,
            heard_ms: None,
            unanswered_ms: None,
            probe: None,
            probe_due_ms: now_ms,
            probes: 0,
            step: 0,
            tries: 0,
            is_shown: false,
            doubt: Doubt::None,
            held_until_ms: 0,
            hold_ms: HOLD_DOWN_FIRST_MS,
            used_since_ms: None,
        }
    }

    pub(super) const fn heard(&mut self, now_ms: u64) {
        self.heard_ms = Some(now_ms);
        self.unanswered_ms = None;
    }

    /// The round trip of the probe with this number, if it is the one under way.
    pub(super) fn echoed(&mut self, number: u32, now_ms: u64) -> Option<Probe> {
        let probe = self.probe.take_if(|probe| probe.number == number)?;
        let sample = now_ms.saturating_sub(probe.sent_ms);
        self.rtt_ms = Some(match self.rtt_ms {
            None => sample,
            Some(old) => old.saturating_mul(7).saturating_add(sample) / 8,
        });
        (self.probes, self.tries) = (0, 0);
        match self.proof {
            Proof::Echoes(count) if probe.padded => {
                self.doubt = Doubt::None;
                let count = count.saturating_add(1);
                self.proof = if count >= CONFIRM_ECHOES { Proof::Mtu } else { Proof::Echoes(count) };
                self.probe_due_ms = now_ms;
            }
            Proof::Nothing if self.is_shown => self.answered(now_ms),
            Proof::Needless | Proof::Nothing | Proof::Echoes(_) | Proof::Mtu => {}
        }
        Some(probe)
    }

    /// The peer answered a challenge at the address.
    pub(super) const fn shown(&mut self, now_ms: u64) {
        self.is_shown = true;
        if matches!(self.proof, Proof::Nothing) {
            self.heard(now_ms);
            self.answered(now_ms);
        }
    }

    /// Somebody answers where nobody did: lengths are tried.
    const fn answered(&mut self, now_ms: u64) {
        (self.proof, self.probe_due_ms, self.tries) = (Proof::Echoes(0), now_ms, 0);
        if matches!(self.doubt, Doubt::Dead) {
            self.doubt = Doubt::Narrow;
        }
    }

    /// It is worth knocking anew, if nobody answered before: there is a session, or packets go again.
    pub(super) const fn knock_again(&mut self, now_ms: u64) {
        if matches!(self.proof, Proof::Nothing) {
            (self.probes, self.probe_due_ms) = (0, now_ms);
        }
    }

    pub(super) fn silent_limit_ms(&self) -> u64 {
        self.rtt_ms.unwrap_or_default().saturating_mul(SILENT_ROUND_TRIPS).max(SILENT_LEAST_MS)
    }

    pub(super) fn dead_limit_ms(&self) -> u64 {
        self.rtt_ms.unwrap_or_default().saturating_mul(DEAD_ROUND_TRIPS).max(DEAD_LEAST_MS)
    }

    /// For how long data has gone out without anything coming back.
    pub(super) fn silent_ms(&self, now_ms: u64) -> u64 {
        self.unanswered_ms.map_or(0, |since| now_ms.saturating_sub(since))
    }

    /// Whether frames of full length may be sent this way.
    pub(super) fn is_usable(&self, now_ms: u64) -> bool {
        match self.proof {
            Proof::Needless => now_ms >= self.held_until_ms,
            Proof::Mtu => {
                let alive = self.heard_ms.is_some_and(|heard| now_ms.saturating_sub(heard) < ALIVE_MS);
                now_ms >= self.held_until_ms && (alive || self.used_since_ms.is_some())
            }
            Proof::Nothing | Proof::Echoes(_) => false,
        }
    }

    /// It was given up: an address has to prove itself again, nothing is chosen again at once.
    pub(super) fn fail(&mut self, now_ms: u64) {
        if self.used_since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= STEADY_MS) {
            self.hold_ms = HOLD_DOWN_FIRST_MS;
        }
        self.held_until_ms = now_ms.saturating_add(self.hold_ms);
        self.hold_ms = self.hold_ms.saturating_mul(2).min(HOLD_DOWN_MAX_MS);
        if self.proof == Proof::Mtu {
            self.proof = Proof::Echoes(0);
        }
        self.unanswered_ms = None;
        self.used_since_ms = None;
        (self.probes, self.tries) = (0, 0);
    }

    /// A probe is to go out that proves a length, or finds out whether anybody answers; whether it goes out now. Where too
    /// many of a length had no echo, short ones tell whether the address is dead; if it is not, the next shorter length is
    /// tried, after the shortest the longest again, but not soon.
    pub(super) fn count_try(&mut self, now_ms: u64) -> bool {
        let most = match self.doubt {
            Doubt::Narrow => TRIES_AGAIN,
            Doubt::None | Doubt::Dead => TRIES.get(self.step).copied().unwrap_or(TRIES_AGAIN),
        };
        match (self.proof, self.doubt) {
            (Proof::Echoes(_), _) if self.tries < most => self.tries = self.tries.saturating_add(1),
            (Proof::Echoes(_), Doubt::Narrow) => {
                self.step = self.step.saturating_add(1) % FRAMES;
                (self.proof, self.doubt, self.probes, self.tries) = (Proof::Echoes(0), Doubt::None, 0, 1);
                if self.step == 0 {
                    (self.probes, self.tries) = (PROBE_BURST_MS.len(), 0);
                    self.probe_due_ms = now_ms.saturating_add(PROBE_REST_MS);
                    return false;
                }
            }
            (Proof::Echoes(_), Doubt::None | Doubt::Dead) => {
                (self.proof, self.doubt, self.probes) = (Proof::Nothing, Doubt::Dead, DOUBT_AT);
            }
            (Proof::Nothing, _) => (self.step, self.doubt) = (0, Doubt::None),
            (Proof::Needless | Proof::Mtu, _) => {}
        }
        true
    }

    /// A padded probe goes out on what was proven; whether too many before it had no echo though other frames came after
    /// them. Where nothing comes the carrier is in doubt as a whole, which is judged elsewhere.
    pub(super) fn is_too_long(&mut self) -> bool {
        let is_missed = self.probe.is_some_and(|probe| self.heard_ms.is_some_and(|heard| heard > probe.sent_ms));
        if self.proof != Proof::Mtu || !is_missed {
            return false;
        }
        self.tries = self.tries.saturating_add(1);
        self.tries > TRIES_PROVEN
    }

    /// Whether it is to be probed when the time comes: always to prove it, to find out whether anybody answers the first
    /// few times, else while packets go.
    pub(super) const fn asks(&self, active: bool) -> bool {
        match self.proof {
            Proof::Echoes(_) => true,
            Proof::Nothing => active || self.probes < PROBE_BURST_MS.len(),
            Proof::Needless | Proof::Mtu => active,
        }
    }

    /// When to probe again after a probe was sent now. A dead address is knocked at as often as one that lives is asked,
    /// while packets go: so it is found within seconds when it lives again.
    pub(super) fn next_probe_ms(&self, now_ms: u64, active: bool) -> u64 {
        let rest = if active && self.proof == Proof::Nothing { PROBE_STEADY_MS } else { PROBE_REST_MS };
        let wait = match self.proof {
            Proof::Needless | Proof::Mtu => PROBE_STEADY_MS,
            Proof::Nothing | Proof::Echoes(_) => PROBE_BURST_MS.get(self.probes).copied().unwrap_or(rest),
        };
        now_ms.saturating_add(wait)
    }
}
