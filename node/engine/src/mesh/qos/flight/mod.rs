//! How many bytes may be on their way on a lane, learnt from what its receiver says came: as many as the link holds, and
//! little enough more that what is urgent overtakes the rest in queues of ours. It counts bytes and holds none.
//!
//! After FAST TCP (Wei, Jin, Low, Hegde 2006): where the round trip is longer than the least one, the difference is a queue,
//! and the window becomes what leaves a queue of [`QUEUE_US`]. Below the lane a stream with a window of its own repeats
//! what is lost and shares the link, so that this one only ever takes away:
//!
//! - *Starting*: the window doubles each round until there is a queue.
//! - *Steady*: see above. The least round trip is measured again every few seconds, with a window that leaves no queue, so
//!   that a way that became longer is not taken for a queue.
//! - *Yielding*: the queue stays though the window has fallen: others fill it, or the way became longer. Who holds back
//!   there starves, so for a while the window is open, and then the least round trip is measured.

mod pace;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use self::pace::Pace;
use super::QUANTUM;

/// Queue of the link's own that is left, microseconds: more than the pause between credits, or it runs dry.
const QUEUE_US: u64 = 3_000;
/// The same in bytes at least: three full packets, one that is sent, one on its way there, one that is told of.
const QUEUE_MIN: u64 = 3 * QUANTUM as u64;
/// Window of a new lane: what every way takes at once (RFC 6928: ten segments), twice.
const WINDOW_FIRST: u64 = 32 * 1024;
/// Largest window: 100 ms at 5 Gb/s. Memory is bounded elsewhere, by what waits below.
const WINDOW_MAX: u64 = 64 * 1024 * 1024;
/// Least length of a round, microseconds: two credits of a fast link.
const ROUND_US: u64 = 2_000;
/// The least round trip is measured again when it was not seen for so long, microseconds.
const LEAST_US: u64 = 5_000_000;
/// Rounds of that: one to empty the queue, one to measure.
const MEASURE_ROUNDS: u32 = 2;
/// Part of the rate a second that is on its way meanwhile: a millisecond of it.
const MEASURE_PART: u64 = 1_000;
/// Rounds with a queue that is not ours before this one yields: each halves what is ours of it.
const FOREIGN_ROUNDS: u32 = 8;
/// A queue of so many times what is meant to be there is not ours.
const FOREIGN_TIMES: u64 = 4;
/// The window is open for so long at least, microseconds.
const OPEN_US: u64 = 2_000_000;
/// And for so many round trips.
const OPEN_ROUNDS: u64 = 16;
/// Who sends nothing for so long, microseconds, waited for no credit: it had nothing to send.
const IDLE_US: u64 = 5_000;
/// Groups of frames whose times are kept: beyond it neighbours are taken as one.
const POINTS_MAX: usize = 4096;

/// What the receiver said cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreditError {
    /// Less than it said before.
    #[error("a credit of {received} bytes after one of {before}")]
    Less {
        /// What it said.
        received: u64,
        /// What it said before.
        before: u64,
    },
    /// More than was sent.
    #[error("a credit of {received} bytes, and {sent} were sent")]
    More {
        /// What it said.
        received: u64,
        /// What was sent.
        sent: u64,
    },
}

/// A frame, or some in a row, and when the last of them was sent.
#[derive(Clone, Copy, Debug)]
struct Point {
    end: u64,
    sent_us: u64,
}

/// From one moment until all that was sent before it came.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    end: u64,
    begun_us: u64,
    /// Least round trip in it.
    least_us: Option<u64>,
    /// Somebody found no room in it.
    is_limited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Steady,
    /// For so many rounds more.
    Measuring {
        left: u32,
    },
    /// The window is open until then.
    Yielding {
        until_us: u64,
    },
}

/// See the head of this file. Times are microseconds since some moment.
#[derive(Debug)]
pub struct Flight {
    sent: u64,
    received: u64,
    credited_us: u64,
    points: VecDeque<Point>,
    window: u64,
    state: State,
    round: Round,
    /// Least round trip, and when one like it was seen last.
    least: Option<(u64, u64)>,
    /// The least there ever was: of the way with nobody on it, unless it became longer.
    empty_us: u64,
    /// Limited rounds in a row that others spoilt.
    foreign: u32,
    /// Greatest rate since this one yielded last.
    best: u64,
    pace: Pace,
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            sent: 0,
            received: 0,
            credited_us: 0,
            points: VecDeque::new(),
            window: WINDOW_FIRST,
            state: State::Starting,
            round: Round::default(),
            least: None,
            empty_us: u64::MAX,
            foreign: 0,
            best: 0,
            pace: Pace::default(),
        }
    }
}

impl Flight {
    /// Whether another frame may be sent. One always may where nothing is on its way.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.in_flight() < self.window()
    }

    /// Somebody wanted to send and found no room.
    pub const fn missed(&mut self) {
        self.round.is_limited = true;
        self.pace.missed();
    }

    /// Bytes that were sent, and of which the receiver said nothing yet.
    #[must_use]
    pub const fn in_flight(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// Bytes that may be on their way.
    #[must_use]
    pub fn window(&self) -> u64 {
        match self.state {
            State::Starting | State::Steady => self.window,
            State::Measuring { .. } => self.measuring(),
            State::Yielding { .. } => u64::MAX,
        }
    }

    /// The window that leaves no queue to speak of.
    fn measuring(&self) -> u64 {
        let part = self.pace.last().map_or(self.window / 8, |rate| rate / MEASURE_PART);
        part.clamp(QUANTUM as u64, self.window.max(QUANTUM as u64))
    }

    /// Bytes a second that come, if the lane has been full lately.
    #[must_use]
    pub fn rate(&self, now_us: u64) -> Option<u64> {
        self.pace.rate(now_us)
    }

    /// So many bytes, with their lengths, were given to the lane.
    pub fn sent(&mut self, bytes: u64, now_us: u64) {
        if self.in_flight() == 0 && now_us.saturating_sub(self.credited_us) > IDLE_US {
            self.pace.idle();
        }
        self.sent = self.sent.saturating_add(bytes);
        let point = Point { end: self.sent, sent_us: now_us };
        let is_full = self.points.len() >= POINTS_MAX;
        match self.points.back_mut() {
            Some(last) if is_full || last.sent_us == now_us => *last = point,
            _ => self.points.push_back(point),
        }
    }

    /// The receiver says that so many bytes came since the lane began.
    ///
    /// # Errors
    /// [`CreditError`]: it is no receiver of this lane's.
    pub fn credit(&mut self, received: u64, now_us: u64) -> Result<(), CreditError> {
        if received < self.received {
            return Err(CreditError::Less { received, before: self.received });
        }
        if received > self.sent {
            return Err(CreditError::More { received, sent: self.sent });
        }
        self.pace.came(received.saturating_sub(self.received), now_us);
        (self.received, self.credited_us) = (received, now_us);
        let mut newest = None;
        while let Some(point) = self.points.front().filter(|point| point.end <= received) {
            newest = Some(now_us.saturating_sub(point.sent_us));
            self.points.pop_front();
        }
        if let Some(rtt_us) = newest {
            self.empty_us = self.empty_us.min(rtt_us);
            self.round.least_us = Some(self.round.least_us.map_or(rtt_us, |least| least.min(rtt_us)));
            match self.least {
                // As near as clocks and other work let it come.
                Some((least, _)) if rtt_us > least.saturating_add(least / 16).saturating_add(100) => {}
                Some((least, _)) => self.least = Some((least.min(rtt_us), now_us)),
                None => self.least = Some((rtt_us, now_us)),
            }
        }
        if received >= self.round.end && now_us.saturating_sub(self.round.begun_us) >= ROUND_US {
            let begun = Round { end: self.sent, begun_us: now_us, ..Round::default() };
            let round = std::mem::replace(&mut self.round, begun);
            if let Some(rtt_us) = round.least_us {
                self.turn(rtt_us, round.is_limited, now_us);
            }
        }
        Ok(())
    }

    /// A round ended.
    fn turn(&mut self, rtt_us: u64, is_limited: bool, now_us: u64) {
        match self.state {
            State::Yielding { until_us } if now_us >= until_us => {
                self.state = State::Measuring { left: MEASURE_ROUNDS };
            }
            State::Yielding { .. } => {}
            State::Measuring { left: 0 | 1 } => {
                // Whatever queue is left is somebody else's.
                self.least = Some((rtt_us, now_us));
                let rate = u128::from(self.pace.rate(now_us).unwrap_or_default());
                let held = rate.saturating_mul(rtt_us.saturating_add(QUEUE_US).into()) / 1_000_000;
                self.window = self.window.max(u64::try_from(held).unwrap_or(WINDOW_MAX)).min(WINDOW_MAX);
                self.state = State::Steady;
            }
            State::Measuring { left } => self.state = State::Measuring { left: left.saturating_sub(1) },
            State::Starting | State::Steady if !is_limited => {}
            State::Starting | State::Steady => self.adapt(rtt_us, now_us),
        }
    }

    /// A round ended in which there was more to send than the window took.
    fn adapt(&mut self, rtt_us: u64, now_us: u64) {
        let (least_us, seen_us) = self.least.unwrap_or((rtt_us, now_us));
        let queue_us = rtt_us.saturating_sub(least_us);
        let wanted = wanted(self.window, least_us, rtt_us);
        if self.state == State::Starting {
            if queue_us < QUEUE_US / 2 {
                self.window = self.window.saturating_mul(2).min(WINDOW_MAX);
                return;
            }
            // The least round trip may be that of a queue: nobody has seen the way empty yet.
            self.state = State::Measuring { left: MEASURE_ROUNDS };
            self.window = wanted.min(self.window);
            return;
        }
        self.foreign = if self.is_spoilt(rtt_us, queue_us) { self.foreign.saturating_add(1) } else { 0 };
        if self.foreign >= FOREIGN_ROUNDS {
            (self.foreign, self.best) = (0, 0);
            let until_us = now_us.saturating_add(OPEN_US.max(rtt_us.saturating_mul(OPEN_ROUNDS)));
            self.state = State::Yielding { until_us };
        } else if now_us.saturating_sub(seen_us) > LEAST_US {
            self.state = State::Measuring { left: MEASURE_ROUNDS };
        } else {
            self.window = self.window.midpoint(wanted).min(WINDOW_MAX);
        }
    }
}

impl Flight {
    /// Whether others have the link: a queue that this lane's window cannot make, or, where there was one when the least
    /// round trip was measured, not half of the rate that there was.
    fn is_spoilt(&mut self, rtt_us: u64, queue_us: u64) -> bool {
        let rate = self.pace.last().unwrap_or_default();
        self.best = self.best.max(rate);
        let most_us =
            QUEUE_US.max(QUEUE_MIN.saturating_mul(1_000_000) / self.best.max(1)).saturating_mul(FOREIGN_TIMES);
        let is_crowded = rtt_us.saturating_sub(self.empty_us) > most_us;
        queue_us > most_us || (is_crowded && rate < self.best / 2)
    }
}

/// The window that leaves the queue that is meant to be there, where this one has this round trip.
fn wanted(window: u64, least_us: u64, rtt_us: u64) -> u64 {
    let rtt_us = rtt_us.max(1);
    let of = |us: u64| {
        u64::try_from(u128::from(window).saturating_mul(us.into()) / u128::from(rtt_us)).unwrap_or(WINDOW_MAX)
    };
    let by_time = of(least_us.saturating_add(QUEUE_US));
    let by_bytes = of(least_us).saturating_add(QUEUE_MIN);
    by_time.max(by_bytes).min(window.saturating_mul(2))
}
