//! How many bytes may wait below a writer: [`UNSENT_TIME`] of the rate at which bytes left, [`UNSENT_FLOOR`] at least.
//! Pure: bytes and times come in, a limit comes out. It never waits and holds no byte.

use std::time::Instant;

use crate::limits::{RATE_FORGOTTEN, RATE_WINDOW, UNSENT_FLOOR, UNSENT_MAX, UNSENT_TIME};

/// Measures a rate and gives the limit that follows from it.
///
/// The rate of a window is its bytes over its length. A faster window counts at once, a slower one takes a quarter of
/// the estimate away: a writer that paused for a moment finds its room again. That the room itself is filled within a
/// window adds to the rate only while the limit grows, so it settles at [`UNSENT_TIME`] of the true rate.
#[derive(Debug)]
pub(crate) struct UnsentLimit {
    /// Bytes a second.
    rate: u64,
    since: Option<Instant>,
    bytes: u64,
}

impl UnsentLimit {
    pub(crate) const fn new() -> Self {
        Self { rate: 0, since: None, bytes: 0 }
    }

    /// So many bytes left now. True when a window ended, so that [`Self::limit`] may be another.
    pub(crate) fn left(&mut self, bytes: usize, now: Instant) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let Some(since) = self.since else {
            // What opens the first window left before it began.
            self.since = Some(now);
            return false;
        };
        self.bytes = self.bytes.saturating_add(bytes);
        let passed = now.saturating_duration_since(since);
        if passed < RATE_WINDOW {
            return false;
        }
        let micros = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX).max(1);
        let sample = self.bytes.saturating_mul(1_000_000) / micros;
        let kept = if passed >= RATE_FORGOTTEN { 0 } else { self.rate - self.rate / 4 };
        self.rate = sample.max(kept);
        self.since = Some(now);
        self.bytes = 0;
        true
    }

    /// Bytes that may wait.
    pub(crate) fn limit(&self) -> usize {
        let micros = u64::try_from(UNSENT_TIME.as_micros()).unwrap_or(u64::MAX);
        let bytes = self.rate.saturating_mul(micros) / 1_000_000;
        usize::try_from(bytes).unwrap_or(usize::MAX).clamp(UNSENT_FLOOR, UNSENT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Sends so many bytes every millisecond.
    fn send(limit: &mut UnsentLimit, from: Instant, ms: u64, bytes: usize) -> Instant {
        for i in 1..=ms {
            limit.left(bytes, from + Duration::from_millis(i));
        }
        from + Duration::from_millis(ms)
    }

    #[test]
    fn the_limit_is_five_ms_of_the_rate_between_floor_and_most() {
        let (mut limit, start) = (UnsentLimit::new(), Instant::now());
        assert_eq!(limit.limit(), UNSENT_FLOOR);
        let now = send(&mut limit, start, 100, 1_000);
        assert_eq!(limit.limit(), UNSENT_FLOOR, "1 MB/s is below the floor");
        let now = send(&mut limit, now, 100, 100_000);
        assert_eq!(limit.limit(), 500_000, "100 MB/s");
        send(&mut limit, now, 100, 10_000_000);
        assert_eq!(limit.limit(), UNSENT_MAX);
    }

    #[test]
    fn a_slower_rate_is_believed_slowly_and_a_pause_forgets() {
        let (mut limit, start) = (UnsentLimit::new(), Instant::now());
        // The first call opens the first window, so five end within 51 ms.
        let now = send(&mut limit, start, 51, 100_000);
        let now = send(&mut limit, now, 10, 10_000);
        assert_eq!(limit.limit(), 375_000, "three quarters after one slow window");
        let now = send(&mut limit, now, 200, 10_000);
        assert_eq!(limit.limit(), 50_000);
        limit.left(1, now + RATE_FORGOTTEN);
        assert_eq!(limit.limit(), UNSENT_FLOOR);
    }
}
