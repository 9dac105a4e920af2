//! A token bucket over bytes. It says when, never whether: who is refused decides the caller.

/// Parts of a byte a bucket counts in, so that the slowest rate is filled without loss: a byte a second and a microsecond.
const PARTS: u64 = 1_000_000;

/// What one bucket may hold and how fast it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes a second.
    pub bytes_per_second: u64,
    /// Bytes at once.
    pub burst: u64,
}

/// Filled continuously up to a burst, emptied by what is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    rate: Rate,
    /// Millionths of a byte.
    level: u128,
    filled_us: u64,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Rate, now_us: u64) -> Self {
        Self { rate, level: u128::from(rate.burst).saturating_mul(u128::from(PARTS)), filled_us: now_us }
    }

    /// Takes `bytes` if they are there. What is larger than the burst is let through by a full bucket and empties it.
    ///
    /// # Errors
    /// The microseconds until it could be taken, [`u64::MAX`] if never.
    pub fn take(&mut self, bytes: usize, now_us: u64) -> Result<(), u64> {
        self.fill(now_us);
        let wanted = u128::from((bytes as u64).min(self.rate.burst)).saturating_mul(u128::from(PARTS));
        match wanted.checked_sub(self.level) {
            None | Some(0) => {
                self.level = self.level.saturating_sub(wanted);
                Ok(())
            }
            Some(missing) => match u128::from(self.rate.bytes_per_second) {
                0 => Err(u64::MAX),
                rate => Err(u64::try_from(missing.div_ceil(rate)).unwrap_or(u64::MAX)),
            },
        }
    }

    fn fill(&mut self, now_us: u64) {
        let passed = u128::from(now_us.saturating_sub(self.filled_us));
        let most = u128::from(self.rate.burst).saturating_mul(u128::from(PARTS));
        // A byte a second is a millionth of a byte a microsecond.
        self.level = self.level.saturating_add(passed.saturating_mul(u128::from(self.rate.bytes_per_second))).min(most);
        self.filled_us = self.filled_us.max(now_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(bytes_per_second: u64, burst: u64, now_us: u64) -> Bucket {
        Bucket::new(Rate { bytes_per_second, burst }, now_us)
    }

    #[test]
    fn the_long_run_is_the_rate() {
        for rate in [1, 999, 125_000, 1_250_000_000] {
            let mut bucket = bucket(rate, 3000, 0);
            let mut taken = 0u64;
            let mut now_us = 0;
            while now_us < 10_000_000 {
                match bucket.take(1000, now_us) {
                    Ok(()) => taken += 1000,
                    Err(wait_us) => now_us += wait_us,
                }
            }
            let allowed = 3000 + rate * now_us / 1_000_000;
            assert!(taken <= allowed && taken + 2000 >= allowed, "{rate}: {taken} of {allowed}");
        }
    }

    #[test]
    fn odd_buckets_hold() {
        let mut none = bucket(0, 10, 0);
        assert_eq!((none.take(10, 0), none.take(1, u64::MAX)), (Ok(()), Err(u64::MAX)));
        let mut all = bucket(u64::MAX, u64::MAX, 0);
        assert_eq!((all.take(usize::MAX, 0), all.take(usize::MAX, 1_000_000)), (Ok(()), Ok(())));
        let mut back = bucket(1000, 1000, 1_000_000);
        assert_eq!(back.take(1000, 1_000_000), Ok(()));
        assert_eq!(back.take(1, 0), Err(1000), "a clock that went back fills nothing");
        assert_eq!(back.take(1, 1_001_000), Ok(()));
        let mut large = bucket(1000, 1000, 0);
        assert_eq!((large.take(5000, 0), large.take(1, 0)), (Ok(()), Err(1000)), "more than the burst empties it");
    }
}
