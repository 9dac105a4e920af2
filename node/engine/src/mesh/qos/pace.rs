//! How fast a socket's link takes bytes, learnt from when the kernel refuses more, and from that how much may wait in the
//! kernel: little enough that what is urgent overtakes the rest in queues of ours, enough that the link never runs dry.

/// Windows over which the greatest rate counts.
const WINDOWS: usize = 8;
/// Least length of a window, microseconds: several refusals of a fast link.
const WINDOW_US: u64 = 20_000;
/// Without a refusal for so long the link is taken to be as fast as it is ever needed, microseconds.
const FORGET_US: u64 = 2_000_000;
/// What may wait in the kernel, microseconds of the link's rate.
const BELOW_US: u64 = 2_000;
/// Bytes that may wait at least: two full packets, so that one is sent while the next is handed over.
pub const BELOW_MIN: usize = 3_000;
/// Bytes that may wait at most: 1.7 ms at 10 Gb/s.
pub const BELOW_MAX: usize = 2 * 1024 * 1024;
/// Bytes that may wait before anything is known: one batch of datagrams. A fast link refuses the next and shows by how
/// soon it takes more that it is fast; a slow one holds no more than this until it is known, 100 ms at 5 Mb/s.
pub const BELOW_UNKNOWN: usize = 64 * 1024;

/// See the head of this file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Bytes a second of the last windows, in a ring.
    windows: [u64; WINDOWS],
    at: usize,
    /// When the window began, at a refusal, and the bytes taken since.
    window: Option<(u64, u64)>,
    refused_us: Option<u64>,
}

impl Pace {
    /// The kernel took so many bytes.
    pub const fn accepted(&mut self, bytes: usize) {
        if let Some((_, sum)) = &mut self.window {
            *sum = sum.saturating_add(bytes as u64);
        }
    }

    /// The kernel is full. Between two such moments it sent as much as it took.
    pub fn refused(&mut self, now_us: u64) {
        self.refused_us = Some(now_us);
        let Some((begun_us, bytes)) = self.window else {
            self.window = Some((now_us, 0));
            return;
        };
        let length_us = now_us.saturating_sub(begun_us);
        if length_us < WINDOW_US {
            return;
        }
        let rate = bytes.saturating_mul(1_000_000).checked_div(length_us).unwrap_or_default();
        if let Some(slot) = self.windows.get_mut(self.at % WINDOWS) {
            *slot = rate;
        }
        self.at = self.at.wrapping_add(1);
        self.window = Some((now_us, 0));
    }

    /// Nothing waits for the link any more: what it takes from now on says nothing of its rate.
    pub const fn idle(&mut self) {
        self.window = None;
    }

    /// Bytes a second, if the link has been the narrow place lately.
    #[must_use]
    pub fn rate(&mut self, now_us: u64) -> Option<u64> {
        if self.refused_us.is_some_and(|refused| now_us.saturating_sub(refused) > FORGET_US) {
            *self = Self::default();
        }
        self.windows.iter().copied().max().filter(|rate| *rate > 0)
    }

    /// Bytes that may wait in the kernel.
    #[must_use]
    pub fn below(&mut self, now_us: u64) -> usize {
        let Some(rate) = self.rate(now_us) else { return BELOW_UNKNOWN };
        let bytes = rate.saturating_mul(BELOW_US) / 1_000_000;
        usize::try_from(bytes).unwrap_or(BELOW_MAX).clamp(BELOW_MIN, BELOW_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of this rate whose kernel takes `below` bytes, always filled up: what the pace makes of it after so long.
    fn saturate(pace: &mut Pace, rate: u64, from_us: u64, for_us: u64) -> u64 {
        let (mut now_us, mut waiting) = (from_us, 0.0_f64);
        while now_us < from_us + for_us {
            let below = pace.below(now_us) as f64;
            let taken = (below - waiting).max(0.0);
            waiting += taken;
            pace.accepted(taken as usize);
            pace.refused(now_us);
            // Writable again when half is gone.
            let wait_us = ((below / 2.0) / rate as f64 * 1e6).max(50.0) as u64;
            waiting = (waiting - rate as f64 * wait_us as f64 / 1e6).max(0.0);
            now_us += wait_us;
        }
        now_us
    }

    #[test]
    fn a_rate_is_found_and_two_milliseconds_of_it_wait() {
        for (rate, below) in [(625_000, BELOW_MIN), (6_250_000, 12_500), (62_500_000, 125_000)] {
            let mut pace = Pace::default();
            let end = saturate(&mut pace, rate, 0, 2_000_000);
            let found = pace.rate(end).unwrap();
            assert!((rate * 9 / 10..=rate * 12 / 10).contains(&found), "{found} for {rate}");
            assert!(pace.below(end).abs_diff(below) <= below / 4, "{} for {rate}", pace.below(end));
        }
    }

    #[test]
    fn a_faster_link_is_found_again_and_one_that_never_refuses_has_no_rate() {
        let mut pace = Pace::default();
        assert_eq!((pace.rate(0), pace.below(0)), (None, BELOW_UNKNOWN));
        let end = saturate(&mut pace, 625_000, 0, 2_000_000);
        let end = saturate(&mut pace, 62_500_000, end, 1_000_000);
        assert!(pace.rate(end).unwrap() > 30_000_000);
        pace.idle();
        assert_eq!(pace.rate(end + FORGET_US + 1), None);
    }
}
