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
/// Waits between the first probes of an address, milliseconds; then [`PROBE_REST_MS`].
pub const PROBE_BURST_MS: [u64; 12] = [200, 300, 500, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000];
/// Probes of each length that may stay without an echo in a row before the next shorter one is tried: together those of
/// [`PROBE_BURST_MS`]. The longest has most, for a slow link answers the first ones too late.
pub const TRIES: [u8; FRAMES] = [5, 4, 3];
/// The same of a length that was proven: three probes, as for [`ALIVE_MS`].
pub const TRIES_PROVEN: u8 = 3;
/// Lengths that are tried.
pub const FRAMES: usize = 3;
/// Wait between probes of an address that does not answer, milliseconds.
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
    /// Nobody has answered there.
    Nothing,
    /// The peer answered a challenge; so many padded probes came back since.
    Echoes(u8),
    /// Frames of the network MTU come through.
    Mtu,
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
        if let (Proof::Echoes(count), true) = (self.proof, probe.padded) {
            let count = count.saturating_add(1);
            self.proof = if count >= CONFIRM_ECHOES { Proof::Mtu } else { Proof::Echoes(count) };
        }
        Some(probe)
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

    /// A probe goes out that is to prove a length: a shorter one where those before had no echo, after the shortest the
    /// longest again.
    pub(super) fn try_length(&mut self) {
        if TRIES.get(self.step).is_some_and(|most| self.tries >= *most) {
            self.step = self.step.saturating_add(1) % FRAMES;
            (self.tries, self.proof) = (0, Proof::Echoes(0));
        }
        self.tries = self.tries.saturating_add(1);
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

    /// When to probe again after a probe was sent now.
    pub(super) fn next_probe_ms(&self, now_ms: u64) -> u64 {
        let burst = PROBE_BURST_MS.get(self.probes).copied().unwrap_or(PROBE_REST_MS);
        let wait = match self.proof {
            Proof::Needless | Proof::Mtu => PROBE_STEADY_MS,
            Proof::Nothing | Proof::Echoes(_) => burst,
        };
        now_ms.saturating_add(wait)
    }
}
