//! CoDel (RFC 8289): when a queue has been standing for too long, one packet is told so, and then ever more. It holds no
//! packet: the caller asks for each one that leaves.

/// Parameters of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A queue may stand this long, microseconds.
    pub target_us: u64,
    /// For this long before somebody is told, microseconds: a round trip of the slow ones.
    pub interval_us: u64,
}

/// RFC 8289 4.3: 5 ms.
const TARGET_US: u64 = 5_000;
/// RFC 8289 4.3: 100 ms.
const INTERVAL_US: u64 = 100_000;

impl Settings {
    /// For a link of this rate: the target is never below one and a half times of what a full packet takes there, so that
    /// one packet under way is no standing queue (RFC 8289 4.4), and the interval at least twenty targets, as it is.
    #[must_use]
    pub fn for_rate(bytes_per_second: u64) -> Self {
        let packet_us = (super::QUANTUM as u64).saturating_mul(1_000_000) / bytes_per_second.max(1);
        let target_us = TARGET_US.max(packet_us.saturating_mul(3) / 2);
        Self { target_us, interval_us: INTERVAL_US.max(target_us.saturating_mul(20)) }
    }
}

/// The state of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Codel {
    /// When the queue will have been above its target for an interval; none while it is below.
    above_since_us: Option<u64>,
    /// When the next packet is told.
    next_us: u64,
    /// Packets told since it began, and when it began last.
    count: u64,
    last_count: u64,
    telling: bool,
}

impl Codel {
    /// Whether the packet that leaves now, after `waited_us` in a queue with `backlog` bytes behind it, is to be dropped or
    /// marked (RFC 8289 5.5, one packet at a time).
    pub fn is_told(&mut self, waited_us: u64, backlog: usize, now_us: u64, settings: Settings) -> bool {
        let above = self.is_above(waited_us, backlog, now_us, settings);
        if !above {
            self.telling = false;
            return false;
        }
        if self.telling {
            if now_us < self.next_us {
                return false;
            }
            self.count = self.count.saturating_add(1);
            self.next_us = self.next_us.saturating_add(self.pause_us(settings));
            return true;
        }
        self.telling = true;
        // Where it left off, if that was a moment ago (RFC 8289 5.4: sixteen intervals).
        let delta = self.count.saturating_sub(self.last_count);
        let recent = now_us.saturating_sub(self.next_us) < settings.interval_us.saturating_mul(16);
        self.count = if delta > 1 && recent { delta } else { 1 };
        self.last_count = self.count;
        self.next_us = now_us.saturating_add(self.pause_us(settings));
        true
    }

    /// The queue was found empty.
    pub const fn emptied(&mut self) {
        self.above_since_us = None;
        self.telling = false;
    }

    fn is_above(&mut self, waited_us: u64, backlog: usize, now_us: u64, settings: Settings) -> bool {
        if waited_us < settings.target_us || backlog <= super::QUANTUM {
            self.above_since_us = None;
            return false;
        }
        let due_us = *self.above_since_us.get_or_insert(now_us.saturating_add(settings.interval_us));
        now_us >= due_us
    }

    /// interval / sqrt(count), as sqrt(interval^2 / count).
    fn pause_us(&self, settings: Settings) -> u64 {
        (settings.interval_us.saturating_mul(settings.interval_us) / self.count.max(1)).isqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { target_us: 5_000, interval_us: 100_000 };

    /// Times, in milliseconds, at which a queue that stands forever is told, asked every millisecond.
    fn told(codel: &mut Codel, ms: core::ops::Range<u64>, waited_us: u64) -> Vec<u64> {
        ms.filter(|ms| codel.is_told(waited_us, 1 << 20, ms * 1000, SETTINGS)).collect()
    }

    #[test]
    fn a_standing_queue_is_told_after_an_interval_and_then_faster() {
        // 100 ms, then 100 / sqrt(n) later each: 100, 70.7, 57.7, 50, 44.7 ms.
        assert_eq!(told(&mut Codel::default(), 0..530, 6_000), [100, 200, 271, 329, 379, 424, 464, 502]);
    }

    #[test]
    fn a_short_wait_or_a_short_queue_is_never_told() {
        assert_eq!(told(&mut Codel::default(), 0..5000, 4_999), [0u64; 0]);
        let mut codel = Codel::default();
        assert!((0..5000).all(|ms| !codel.is_told(50_000, super::super::QUANTUM, ms * 1000, SETTINGS)));
    }

    #[test]
    fn it_goes_on_where_it_left_off_a_moment_ago() {
        let mut codel = Codel::default();
        let first = told(&mut codel, 0..1000, 6_000).len() as u64;
        assert!(!codel.is_told(0, 1 << 20, 1_000_000, SETTINGS));
        let again = told(&mut codel, 1001..1400, 6_000);
        assert_eq!(again.first(), Some(&1101));
        assert!(again.len() > 10, "{again:?} after {first}");
        assert!(!codel.is_told(0, 1 << 20, 1_400_000, SETTINGS));
        assert_eq!(told(&mut codel, 5000..5300, 6_000), [5100, 5200, 5271], "long ago is forgotten");
    }

    #[test]
    fn slow_links_have_time_for_a_packet() {
        assert_eq!(Settings::for_rate(625_000), SETTINGS);
        let slow = Settings::for_rate(62_500);
        assert_eq!((slow.target_us, slow.interval_us), (36_336, 726_720));
        assert!(Settings::for_rate(0).target_us > 1_000_000);
    }
}
