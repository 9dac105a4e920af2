//! One neighbour as a way to one peer: what was asked through it, what came back, and what that makes it cost. It sends
//! nothing and chooses no way.

use crate::Now;

/// Probes in a row without an answer after which a neighbour is left: one is lost on any way, three on one where one in
/// ten is lost once in a thousand times.
pub const MISSES_MAX: u8 = 3;
/// And so many of the last eight: somebody passes on every other frame, or sends them where chance has it. Where one in ten
/// is lost it happens once in two hundred times.
pub const MISSES_OF_EIGHT_MAX: u32 = 4;
/// An answer is waited for this long at least, milliseconds: the longest round trip of a way that is of use for talking.
pub const ANSWER_LEAST_MS: u64 = 1_000;
/// And this long at most, milliseconds, so that three that do not come, and the wait before the first, take less than ten
/// seconds.
pub const ANSWER_MOST_MS: u64 = 2_000;
/// Round trips an answer is waited for, within those bounds.
const ANSWER_ROUND_TRIPS: u64 = 4;
/// What a way costs more by a neighbour that does not answer: more than 16 links, as many as a frame may cross, of the
/// greatest cost there is. So any other way is nearer, and ways that are all like that stay in their order.
pub const LEFT_PENALTY: u32 = 1 << 21;
/// What it costs more while it answers again, but has not done so for long: one link of the greatest cost.
pub const PROVING_PENALTY: u32 = 1 << 16;
/// Answers in a row after which it costs nothing more; doubled each time it is left again.
pub const PROOFS: u8 = 6;
/// Most times that is doubled: 48 answers, most of a minute.
const STRIKES_MAX: u8 = 4;
/// It is left after so long without a session, milliseconds: that is two or three handshakes.
pub const NO_SESSION_MS: u64 = 3_000;
/// It is asked again after this long while it is left, milliseconds.
pub const LEFT_AGAIN_MS: u64 = 5_000;
/// And while it proves itself.
pub const PROVING_AGAIN_MS: u64 = 1_000;
/// In doubt it is asked again after this long, milliseconds, if no answer is waited for.
pub const DOUBT_AGAIN_MS: u64 = 500;
/// One that is not in use is asked this often, milliseconds.
pub const UNUSED_AGAIN_MS: u64 = 30_000;
/// Each time it was left is forgiven after so long without another, milliseconds.
pub const FORGIVE_MS: u64 = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It answers, or was never asked.
    Good,
    /// It did not, and is used only where nobody does.
    Left,
    /// It answered so many probes in a row since.
    Proving(u8),
}

/// What is asked of a hop next, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Packets go this way.
    pub(super) in_use: bool,
    /// Some way in use is in doubt.
    pub(super) doubt: bool,
    /// How often one in use is asked when nothing is in doubt, milliseconds.
    pub(super) steady_ms: u64,
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    standing: Standing,
    /// The probe that is not answered yet, and when it went.
    probe: Option<(u32, u64)>,
    /// When the last probe went.
    asked_ms: Option<u64>,
    misses: u8,
    /// The last eight probes, a bit for each that was missed, the last one lowest.
    history: u8,
    /// Whether probes are long now: changed by each answer, so that one that is lost is followed by its like.
    long: bool,
    rtt_ms: Option<u64>,
    /// How often it was left lately.
    strikes: u8,
    struck_ms: u64,
}

impl Hop {
    pub(super) const fn new() -> Self {
        Self {
            standing: Standing::Good,
            probe: None,
            asked_ms: None,
            misses: 0,
            history: 0,
            long: false,
            rtt_ms: None,
            strikes: 0,
            struck_ms: 0,
        }
    }

    /// One that did not answer for other peers: it is used after it answered for this one.
    pub(super) const fn suspect(now: Now) -> Self {
        Self { standing: Standing::Left, strikes: 1, struck_ms: now.uptime_ms, ..Self::new() }
    }

    /// Whether it has answered, and does.
    pub(super) fn is_proven(&self) -> bool {
        self.standing == Standing::Good && self.rtt_ms.is_some()
    }

    /// What a way by it costs more.
    pub(super) const fn penalty(&self) -> u32 {
        match self.standing {
            Standing::Good => 0,
            Standing::Left => LEFT_PENALTY,
            Standing::Proving(_) => PROVING_PENALTY,
        }
    }

    pub(super) fn is_left(&self) -> bool {
        self.standing == Standing::Left
    }

    /// Whether there is reason to look for another.
    pub(super) fn is_doubted(&self) -> bool {
        // The last four.
        self.history & 0x0f != 0 || self.is_left()
    }

    /// Whether there is anything to remember of it.
    pub(super) fn is_plain(&self) -> bool {
        self.standing == Standing::Good && self.strikes == 0 && self.history == 0 && self.probe.is_none()
    }

    /// Time passed: a probe that was waited for long enough is missed.
    pub(super) fn handle_timeout(&mut self, now: Now) {
        let wait_ms = self.rtt_ms.unwrap_or_default().saturating_mul(ANSWER_ROUND_TRIPS);
        let wait_ms = wait_ms.clamp(ANSWER_LEAST_MS, ANSWER_MOST_MS);
        let missed = self.probe.take_if(|(_, sent_ms)| now.uptime_ms.saturating_sub(*sent_ms) >= wait_ms).is_some();
        if missed {
            self.misses = self.misses.saturating_add(1);
            self.history = self.history << 1 | 1;
            let proved_nothing = matches!(self.standing, Standing::Proving(_));
            let lossy = self.history.count_ones() >= MISSES_OF_EIGHT_MAX;
            if !self.is_left() && (proved_nothing || lossy || self.misses >= MISSES_MAX) {
                self.standing = Standing::Left;
                self.strikes = self.strikes.saturating_add(1).min(STRIKES_MAX);
                self.struck_ms = now.uptime_ms;
            }
        } else if self.strikes > 0 && now.uptime_ms.saturating_sub(self.struck_ms) >= FORGIVE_MS {
            self.strikes = self.strikes.saturating_sub(1);
            self.struck_ms = now.uptime_ms;
        }
    }

    /// There is no session to ask with, and handshakes go by it and others: whoever brought none is left. It says nothing
    /// of this one alone, but with all of them left a way that is not among them has a chance.
    pub(super) fn handle_no_session(&mut self, now: Now) {
        let since_ms = *self.asked_ms.get_or_insert(now.uptime_ms);
        if now.uptime_ms.saturating_sub(since_ms) >= NO_SESSION_MS && !self.is_left() {
            self.standing = Standing::Left;
            self.struck_ms = now.uptime_ms;
        }
    }

    /// There is a session again: it is asked at once.
    pub(super) const fn handle_session(&mut self) {
        (self.probe, self.asked_ms) = (None, None);
    }

    /// Whether it is to be asked now.
    pub(super) fn is_due(&self, pace: Pace, now: Now) -> bool {
        let wait_ms = match self.standing {
            Standing::Left => LEFT_AGAIN_MS,
            Standing::Proving(_) => PROVING_AGAIN_MS,
            Standing::Good if pace.doubt => DOUBT_AGAIN_MS,
            Standing::Good if pace.in_use => pace.steady_ms,
            Standing::Good => UNUSED_AGAIN_MS,
        };
        self.probe.is_none() && self.asked_ms.is_none_or(|asked| now.uptime_ms.saturating_sub(asked) >= wait_ms)
    }

    /// Probe `number` goes by it now; says whether it is to be a long one.
    pub(super) const fn asked(&mut self, number: u32, now: Now) -> bool {
        self.probe = Some((number, now.uptime_ms));
        self.asked_ms = Some(now.uptime_ms);
        self.long
    }

    /// An answer came: whether it is the one that is waited for.
    pub(super) fn answered(&mut self, number: u32, now: Now) -> bool {
        let Some((_, sent_ms)) = self.probe.take_if(|(asked, _)| *asked == number) else { return false };
        (self.misses, self.history, self.long) = (0, self.history << 1, !self.long);
        self.rtt_ms = Some(now.uptime_ms.saturating_sub(sent_ms));
        let needed = PROOFS.saturating_mul(1 << self.strikes.saturating_sub(1).min(STRIKES_MAX));
        self.standing = match self.standing {
            Standing::Good => Standing::Good,
            Standing::Left => Standing::Proving(1),
            Standing::Proving(proofs) if proofs.saturating_add(1) >= needed => {
                self.history = 0;
                Standing::Good
            }
            Standing::Proving(proofs) => Standing::Proving(proofs.saturating_add(1)),
        };
        true
    }
}
