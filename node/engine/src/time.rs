//! The two clocks the engine is told: one that people set, one that only grows. It reads neither.

use shoal_protocol::UnixMillis;

/// What the time is, as an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For what machines tell each other. May jump.
    pub wall: UnixMillis,
    /// For waiting: milliseconds since some moment before the engine was made. Never goes back.
    pub uptime_ms: u64,
}

/// Small deterministic generator for jitter (SplitMix64). Never used for a secret.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Three quarters to five quarters of `milliseconds`.
    pub(crate) fn around(&mut self, milliseconds: u64) -> u64 {
        let half = milliseconds / 2;
        milliseconds.saturating_sub(half / 2).saturating_add(self.next() % half.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_quarter() {
        let mut jitter = Jitter::new(7);
        for _ in 0..1000 {
            assert!((750..1250).contains(&jitter.around(1000)));
        }
        assert!(jitter.around(0) <= 1 && jitter.around(u64::MAX) > 1);
    }
}
