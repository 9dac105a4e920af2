//! What one link costs: from round trips, loss, relay use, reliability and load to one number that does not flutter.
//! It measures nothing; samples and the time are arguments.
//!
//! ```text
//! cost = 96 + 4 a millisecond of the least round trip of 10 s + 8 a per mille lost + 256 through a relay
//!          + half a point a per mille not up + an eighth of a point a per mille of load,   within 1..=65,535
//! ```
//! The least round trip is the way itself, without queues, so a link does not get worse by being used. Load counts little
//! and is averaged over about 16 samples, so that traffic moves away from a full link slowly and does not swing back.

/// Cost of a perfect link (RFC 8966 Appendix A gives 96 to a wired one).
pub const COST_BASE: u32 = 96;
/// Largest cost of a link.
pub const COST_MAX: u32 = 65_535;
/// Round trips older than this do not count, seconds.
pub const RTT_WINDOW_S: u64 = 10;
/// Round trip assumed before the first sample, microseconds.
const RTT_UNKNOWN_US: u32 = 100_000;
/// Microseconds of round trip a point of cost.
const RTT_US_A_POINT: u32 = 250;
/// Points a per mille of loss: one percent costs as much as 20 ms.
const LOSS_POINTS: u32 = 8;
/// Points for a relay: as much as 64 ms, so that a relay is used where it saves that much.
const RELAY_POINTS: u32 = 256;
/// Samples over which loss and load are averaged, as a power of two.
const AVERAGE_SHIFT: u32 = 4;
/// A cost that differs from the published one by less than this part of it is not published: one eighth.
const HYSTERESIS: u32 = 8;

/// What was observed of a link since the last sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkSample {
    /// A round trip, microseconds, if one was measured.
    pub rtt_us: Option<u32>,
    /// Part of the probes that got no answer, per mille.
    pub loss_permille: u32,
    /// Part of the link's rate that is in use, per mille.
    pub load_permille: u32,
    /// Part of the last hour or more that the peer could be reached, per mille; its standing may lower it.
    pub reliability_permille: u32,
}

/// The cost of one link.
#[derive(Clone, Debug)]
pub(super) struct LinkCost {
    /// Least round trip of each of the last seconds: (second, microseconds).
    rtts: [(u64, u32); RTT_WINDOW_S as usize],
    /// Least round trip when the window last had one: kept while a link is silent.
    last_rtt_us: u32,
    /// Per mille times 16.
    loss: u32,
    load: u32,
    unreliable_permille: u32,
    relayed: bool,
    published: u32,
}

impl LinkCost {
    pub(super) fn new(relayed: bool) -> Self {
        let mut cost = Self {
            rtts: [(0, u32::MAX); RTT_WINDOW_S as usize],
            last_rtt_us: RTT_UNKNOWN_US,
            loss: 0,
            load: 0,
            unreliable_permille: 0,
            relayed,
            published: 0,
        };
        cost.published = cost.raw();
        cost
    }

    /// The published cost, 1 to [`COST_MAX`].
    pub(super) const fn published(&self) -> u32 {
        self.published
    }

    /// Takes a sample; `true` if the published cost changed.
    pub(super) fn sample(&mut self, sample: LinkSample, now_ms: u64) -> bool {
        let second = now_ms / 1000;
        if let Some(rtt_us) = sample.rtt_us {
            let at = usize::try_from(second % RTT_WINDOW_S).unwrap_or(0);
            if let Some(slot) = self.rtts.get_mut(at) {
                *slot = if slot.0 == second { (second, slot.1.min(rtt_us)) } else { (second, rtt_us) };
            }
        }
        let fresh = self.rtts.iter().filter(|(at, rtt)| second.saturating_sub(*at) < RTT_WINDOW_S && *rtt != u32::MAX);
        self.last_rtt_us = fresh.map(|(_, rtt)| *rtt).min().unwrap_or(self.last_rtt_us);
        self.loss = averaged(self.loss, sample.loss_permille);
        self.load = averaged(self.load, sample.load_permille);
        self.unreliable_permille = 1000_u32.saturating_sub(sample.reliability_permille);
        self.publish()
    }

    /// Whether the link goes through a relay now; `true` if the published cost changed.
    pub(super) fn set_relayed(&mut self, relayed: bool) -> bool {
        self.relayed = relayed;
        self.publish()
    }

    fn publish(&mut self) -> bool {
        let raw = self.raw();
        let moved = raw.abs_diff(self.published) > self.published / HYSTERESIS;
        if moved {
            self.published = raw;
        }
        moved
    }

    fn raw(&self) -> u32 {
        let points = [
            self.last_rtt_us / RTT_US_A_POINT,
            (self.loss >> AVERAGE_SHIFT).saturating_mul(LOSS_POINTS),
            if self.relayed { RELAY_POINTS } else { 0 },
            self.unreliable_permille / 2,
            (self.load >> AVERAGE_SHIFT) / 8,
        ];
        points.iter().fold(COST_BASE, |sum, part| sum.saturating_add(*part)).clamp(1, COST_MAX)
    }
}

/// An average over about 16 samples, times 16.
fn averaged(sum: u32, sample_permille: u32) -> u32 {
    sum.saturating_sub(sum >> AVERAGE_SHIFT).saturating_add(sample_permille.min(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtt(rtt_us: u32) -> LinkSample {
        LinkSample { rtt_us: Some(rtt_us), reliability_permille: 1000, ..LinkSample::default() }
    }

    #[test]
    fn the_least_round_trip_of_ten_seconds_counts() {
        let mut cost = LinkCost::new(false);
        assert_eq!(cost.published(), COST_BASE + 400);
        cost.sample(rtt(5_000), 1_000);
        assert_eq!(cost.published(), COST_BASE + 20);
        for second in 2..10 {
            assert!(!cost.sample(rtt(80_000), second * 1000), "a queue is not the way");
        }
        cost.sample(rtt(80_000), 11_000);
        assert_eq!(cost.published(), COST_BASE + 320, "the way became longer");
    }

    #[test]
    fn small_changes_are_not_published_and_load_moves_slowly() {
        let mut cost = LinkCost::new(false);
        cost.sample(rtt(5_000), 0);
        assert!(!cost.sample(rtt(4_000), 1_000));
        let loaded = LinkSample { load_permille: 1000, ..rtt(5_000) };
        let moved = (0..100).find(|n| cost.sample(loaded, 2_000 + n * 100));
        assert!(moved.is_some_and(|n| n >= 2), "{moved:?}");
        assert!(cost.published() <= COST_BASE + 20 + 125);
    }

    #[test]
    fn loss_and_relays_cost_and_nothing_overflows() {
        let mut cost = LinkCost::new(false);
        cost.sample(rtt(5_000), 0);
        let direct = cost.published();
        assert!(cost.set_relayed(true));
        assert_eq!(cost.published(), direct + 256);
        let worst = LinkSample {
            rtt_us: Some(u32::MAX - 1),
            loss_permille: u32::MAX,
            load_permille: u32::MAX,
            reliability_permille: 0,
        };
        for n in 0..1_000 {
            cost.sample(worst, 20_000 + n * 1_000);
        }
        assert_eq!(cost.published(), COST_MAX);
        cost.sample(worst, u64::MAX);
    }
}
