//! How many transfers share one uplink: no more than let each of them stay well above the slowest pace that is allowed.
//! Receipts are what it measures by; bytes that merely left may still be queued in this machine.

use std::collections::VecDeque;

use shoal_protocol::limits::{TRANSFER_WINDOW_BYTES, TRANSFER_WINDOW_MS};

/// Transfers at once whatever the uplink: below, distance and not bandwidth decides.
pub const CROWD_MIN: usize = 8;
/// What each transfer is to get, bytes a second: eight times what ends one.
const COMFORT: u64 = 8 * (TRANSFER_WINDOW_BYTES * 1000 / TRANSFER_WINDOW_MS);
/// Time over which the uplink is measured, milliseconds.
const MEASURED_MS: u64 = 10_000;
/// Receipts kept, at most.
const RECENT_MAX: usize = 4096;

/// The measure of one uplink.
#[derive(Debug, Clone, Default)]
pub struct Crowd {
    /// When receipts came, and for how many bytes.
    recent: VecDeque<(u64, u64)>,
    begun_ms: Option<u64>,
    limit: usize,
}

impl Crowd {
    /// Transfers that may be under way at once.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.max(CROWD_MIN)
    }

    /// `bytes` were receipted at `now_ms`, `took_ms` after they began to be sent.
    pub fn finished(&mut self, bytes: u64, took_ms: u64, now_ms: u64) {
        let begun = *self.begun_ms.get_or_insert(now_ms.saturating_sub(took_ms));
        self.recent.push_back((now_ms, bytes));
        let from = now_ms.saturating_sub(MEASURED_MS);
        while self.recent.len() > RECENT_MAX || self.recent.front().is_some_and(|(at, _)| *at < from) {
            self.recent.pop_front();
        }
        let sum: u64 = self.recent.iter().map(|(_, bytes)| *bytes).sum();
        let over_ms = now_ms.saturating_sub(begun.max(from)).max(1);
        let rate = sum.saturating_mul(1000) / over_ms;
        self.limit = usize::try_from(rate / COMFORT).unwrap_or(usize::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: u64 = 2 << 20;

    #[test]
    fn a_slow_uplink_is_shared_by_few_and_a_fast_one_by_many() {
        let mut slow = Crowd::default();
        // 5 Mb/s: eight shards at once take 27 s each, and one is receipted about every 3.4 s.
        for n in 0..20 {
            slow.finished(SHARD, 27_000, 27_000 + n * 3_400);
        }
        assert!((CROWD_MIN..12).contains(&slow.limit()), "{}", slow.limit());
        let mut fast = Crowd::default();
        (0..50).for_each(|n| fast.finished(SHARD, 20, 20 + n * 5));
        assert!(fast.limit() > 1_000, "{}", fast.limit());
    }

    #[test]
    fn each_of_them_stays_above_what_ends_a_transfer() {
        for uplink in [100_000u64, 625_000, 5_000_000, 100_000_000] {
            let mut crowd = Crowd::default();
            let mut now = 0;
            for _ in 0..200 {
                now += SHARD * 1000 / uplink;
                crowd.finished(SHARD, 1_000, now);
            }
            let each = uplink / crowd.limit() as u64;
            assert!(each >= TRANSFER_WINDOW_BYTES * 1000 / TRANSFER_WINDOW_MS, "{uplink}: {each}");
        }
    }

    #[test]
    fn a_pause_of_the_source_is_no_fast_uplink() {
        let mut crowd = Crowd::default();
        crowd.finished(SHARD, 10, 10);
        crowd.finished(SHARD, 10, 1_000_000);
        assert!(crowd.limit() < 10, "{}", crowd.limit());
    }
}
