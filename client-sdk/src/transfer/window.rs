//! How many transfers one node gets at once: additive increase, multiplicative decrease, on pace. It never counts what
//! is under way; whoever starts transfers does.

use std::time::Duration;

/// Transfers at once with a node that nothing is known of.
const START: usize = 2;
/// Most transfers at once with one node: as many as it gets lanes.
pub const WINDOW_MAX: usize = 4;
/// Transfers between two decisions, for each one at once.
const ROUND: usize = 4;
/// A round at so many hundredths of the best one's pace says that the window is too large.
const SLOW_PERCENT: u64 = 150;
/// A failure counts like a transfer at so many hundredths of it.
const FAILED_PERCENT: u64 = 300;
/// This part of the best pace is forgotten each round.
const FORGOTTEN: u64 = 16;
/// Of smaller transfers the time says more of the distance than of the pace, bytes.
const BYTES_MIN: u64 = 64 * 1024;

/// The window of one node. After a decrease as many ends as were under way are not counted: they began under the old one.
#[derive(Debug, Clone)]
pub struct Window {
    size: usize,
    /// Best mean pace of a round: nanoseconds for 1024 bytes. It is forgotten slowly, so that a path may become worse.
    best: Option<u64>,
    /// The round under way: transfers that ended well, their paces, and failures.
    ends: u64,
    paces: u64,
    failures: u64,
    ignored: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { size: START, best: None, ends: 0, paces: 0, failures: 0, ignored: 0 }
    }
}

impl Window {
    /// Transfers that may be under way at once; at least one.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// A transfer of `bytes` ended well after `took`.
    pub fn finished(&mut self, bytes: u64, took: Duration) {
        if bytes < BYTES_MIN || self.is_ignored() {
            return;
        }
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.ends = self.ends.saturating_add(1);
        self.paces = self.paces.saturating_add(nanoseconds / (bytes / 1024).max(1));
        self.decide();
    }

    /// A transfer failed.
    pub fn failed(&mut self) {
        if !self.is_ignored() {
            self.failures = self.failures.saturating_add(1);
            self.decide();
        }
    }

    const fn is_ignored(&mut self) -> bool {
        let ignored = self.ignored > 0;
        self.ignored = self.ignored.saturating_sub(1);
        ignored
    }

    fn decide(&mut self) {
        let (ends, failures) = (self.ends, self.failures);
        if ends.saturating_add(failures) < self.size.saturating_mul(ROUND) as u64 {
            return;
        }
        let percent = self.paces.checked_div(ends).map_or(FAILED_PERCENT, |mean| {
            let best = self.best.map_or(mean, |best| best.saturating_add(best / FORGOTTEN).min(mean)).max(1);
            self.best = Some(best);
            mean.saturating_mul(100) / best
        });
        let sum = percent.saturating_mul(ends).saturating_add(FAILED_PERCENT.saturating_mul(failures));
        (self.ends, self.paces, self.failures) = (0, 0, 0);
        if sum > SLOW_PERCENT.saturating_mul(ends.saturating_add(failures)) {
            self.ignored = self.size;
            self.size = (self.size / 2).max(1);
        } else {
            self.size = self.size.saturating_add(1).min(WINDOW_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: u64 = 2 << 20;

    /// Ends `rounds` decisions' worth of transfers that take what `took` says of the window's size.
    fn run(window: &mut Window, rounds: usize, took: impl Fn(u64) -> u64) {
        for _ in 0..rounds {
            let size = window.size() as u64;
            (0..window.size() * ROUND).for_each(|_| window.finished(SHARD, Duration::from_millis(took(size))));
        }
    }

    #[test]
    fn a_steady_node_gets_all_there_is_and_a_crowded_one_less() {
        let mut steady = Window::default();
        run(&mut steady, 10, |_| 100);
        assert_eq!(steady.size(), WINDOW_MAX);
        // Each takes as long as there are others: more at once gain nothing.
        let mut crowded = Window::default();
        let mut sizes = Vec::new();
        for _ in 0..40 {
            run(&mut crowded, 1, |size| 100 * size);
            sizes.push(crowded.size());
        }
        let mean = sizes.iter().sum::<usize>() as f64 / sizes.len() as f64;
        assert!(mean < 3.0 && !sizes.windows(3).any(|all| all == [WINDOW_MAX; 3]), "{sizes:?}");
    }

    #[test]
    fn failures_shrink_and_the_cohort_under_way_is_not_counted_twice() {
        let mut window = Window::default();
        run(&mut window, 10, |_| 100);
        (0..WINDOW_MAX * ROUND).for_each(|_| window.failed());
        assert_eq!(window.size(), WINDOW_MAX / 2);
        let before = window.clone();
        (0..WINDOW_MAX).for_each(|_| window.failed());
        assert_eq!((window.size(), window.failures), (before.size, 0));
        (0..100).for_each(|_| window.failed());
        assert_eq!(window.size(), 1);
    }

    #[test]
    fn a_path_that_became_worse_for_good_is_the_new_best_in_the_end() {
        let mut window = Window::default();
        run(&mut window, 10, |_| 100);
        run(&mut window, 40, |_| 300);
        assert_eq!(window.size(), WINDOW_MAX);
    }

    #[test]
    fn small_transfers_say_nothing_of_the_pace() {
        let mut window = Window::default();
        (0..100).for_each(|n| window.finished(1000, Duration::from_millis(n * 1000)));
        assert_eq!(window.size(), START);
    }
}
