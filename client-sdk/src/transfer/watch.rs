//! One transfer as it is seen from outside: how much of it came, and how long nothing did. It reads no clock.

/// A transfer that is looked at from time to time. Times are milliseconds of any monotone clock.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    moved_ms: u64,
    bytes: u64,
    longest_ms: u64,
}

impl Watch {
    /// A transfer that begins at `now_ms`.
    #[must_use]
    pub const fn new(now_ms: u64) -> Self {
        Self { moved_ms: now_ms, bytes: 0, longest_ms: 0 }
    }

    /// Looks at `now_ms`, when `bytes` have come in all. Returns whether there were more than before.
    pub fn look(&mut self, bytes: u64, now_ms: u64) -> bool {
        let moved = bytes > self.bytes;
        if moved {
            self.longest_ms = self.longest_ms.max(self.silent_ms(now_ms));
            self.bytes = bytes;
            self.moved_ms = now_ms;
        }
        moved
    }

    /// How long nothing has come, milliseconds.
    #[must_use]
    pub const fn silent_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.moved_ms)
    }

    /// The longest silence so far, milliseconds.
    #[must_use]
    pub fn longest_ms(&self, now_ms: u64) -> u64 {
        self.longest_ms.max(self.silent_ms(now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_more_bytes_end_a_silence() {
        let mut watch = Watch::new(100);
        assert!(!watch.look(0, 600));
        assert_eq!((watch.silent_ms(600), watch.longest_ms(600)), (500, 500));
        assert!(watch.look(10, 700) && !watch.look(10, 900));
        assert_eq!((watch.silent_ms(900), watch.longest_ms(900)), (200, 600));
    }
}
