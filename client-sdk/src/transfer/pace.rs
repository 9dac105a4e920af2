//! When a transfer is too slow: below 8 KiB/s over 20 s, or silent for 15 s. Never a limit on the whole.

use shoal_protocol::limits::{TRANSFER_SILENCE_MS, TRANSFER_WINDOW_BYTES, TRANSFER_WINDOW_MS};

/// Progress of one transfer. Times are milliseconds of any monotone clock.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    window_start: u64,
    window_bytes: u64,
    last: u64,
    silence: u64,
}

impl Pace {
    /// A transfer that begins at `now`.
    #[must_use]
    pub const fn new(now: u64) -> Self {
        Self::with_silence(now, TRANSFER_SILENCE_MS)
    }

    /// A transfer that begins at `now` and ends at a silence of `silence` milliseconds.
    #[must_use]
    pub const fn with_silence(now: u64, silence: u64) -> Self {
        Self { window_start: now, window_bytes: 0, last: now, silence }
    }

    /// `bytes` moved by `now`.
    pub const fn progress(&mut self, bytes: u64, now: u64) {
        self.last = now;
        self.window_bytes = self.window_bytes.saturating_add(bytes);
        if self.window_bytes >= TRANSFER_WINDOW_BYTES {
            self.window_start = now;
            self.window_bytes = 0;
        }
    }

    /// When to give up unless something moves: the end of silence or of the window.
    #[must_use]
    pub fn deadline(&self) -> u64 {
        (self.last.saturating_add(self.silence)).min(self.window_start.saturating_add(TRANSFER_WINDOW_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_trickle_both_end() {
        let mut pace = Pace::new(0);
        assert_eq!(pace.deadline(), 15_000);
        for second in 1..=19 {
            pace.progress(100, second * 1000);
        }
        assert_eq!(pace.deadline(), 20_000, "a trickle does not extend the window");
        pace.progress(TRANSFER_WINDOW_BYTES, 19_500);
        assert_eq!(pace.deadline(), 34_500);
    }
}
