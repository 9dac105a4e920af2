//! Who may not connect, and until when: a bounded list with back-off. Pure: the clock is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::limits::{BAN_ASKED_MAX, BAN_FIRST, BAN_JITTER_THOUSANDTHS, BAN_LONGEST, BANS_MAX};

#[derive(Debug)]
struct Ban {
    until: Instant,
    /// Length of the next ban by back-off.
    next: Duration,
    /// Key in the order of strikes.
    order: u64,
}

/// The ban list. The least recently struck peer is forgotten first, and a peer that behaved for as long as its
/// longest ban starts again at the shortest.
#[derive(Debug, Default)]
pub(crate) struct BanList {
    bans: BTreeMap<PeerId, Ban>,
    order: BTreeMap<u64, PeerId>,
    next_order: u64,
}

impl BanList {
    /// Bans after a violation: 5 s, then half as long again each time, up to 30 min; `jitter`, any number, adds up to a
    /// quarter. Returns the length.
    pub(crate) fn strike(&mut self, peer: PeerId, now: Instant, jitter: u32) -> Duration {
        let known = self.bans.get(&peer).filter(|ban| now < ban.until + BAN_LONGEST);
        let base = known.map_or(BAN_FIRST, |ban| ban.next);
        let more = base.saturating_mul(jitter % (BAN_JITTER_THOUSANDTHS + 1)) / 1000;
        let length = base.saturating_add(more).min(BAN_LONGEST);
        self.put(peer, now, length, (base.saturating_mul(3) / 2).min(BAN_LONGEST));
        length
    }

    /// Bans for as long as asked, up to a year; never shortens a ban.
    pub(crate) fn ban(&mut self, peer: PeerId, length: Duration, now: Instant) {
        let next = self.bans.get(&peer).map_or(BAN_FIRST, |ban| ban.next);
        self.put(peer, now, length.min(BAN_ASKED_MAX), next);
    }

    /// Whether the peer is banned now.
    pub(crate) fn is_banned(&self, peer: &PeerId, now: Instant) -> bool {
        self.bans.get(peer).is_some_and(|ban| now < ban.until)
    }

    fn put(&mut self, peer: PeerId, now: Instant, length: Duration, next: Duration) {
        let mut until = now + length;
        if let Some(old) = self.bans.remove(&peer) {
            self.order.remove(&old.order);
            until = until.max(old.until);
        }
        if self.bans.len() >= BANS_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.bans.remove(&oldest);
        }
        self.next_order = self.next_order.wrapping_add(1);
        self.order.insert(self.next_order, peer);
        self.bans.insert(peer, Ban { until, next, order: self.next_order });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_back_off_and_are_forgotten() {
        let (mut list, peer, start) = (BanList::default(), PeerId::random(), Instant::now());
        assert_eq!(list.strike(peer, start, 0), Duration::from_secs(5));
        assert!(list.is_banned(&peer, start + Duration::from_secs(4)));
        assert!(!list.is_banned(&peer, start + Duration::from_secs(5)));
        assert_eq!(list.strike(peer, start + Duration::from_secs(6), 0), Duration::from_millis(7_500));
        for _ in 0..20 {
            list.strike(peer, start, 0);
        }
        assert_eq!(list.strike(peer, start, 999), BAN_LONGEST, "jitter never goes beyond the longest");
        assert_eq!(list.strike(peer, start + 3 * BAN_LONGEST, 0), BAN_FIRST);
    }

    #[test]
    fn jitter_adds_up_to_a_quarter_and_does_not_add_up() {
        let (peer, start) = (PeerId::random(), Instant::now());
        for jitter in [0, 1, 125, 250, 251, u32::MAX] {
            let mut list = BanList::default();
            let first = list.strike(peer, start, jitter);
            assert!((BAN_FIRST..=BAN_FIRST * 5 / 4).contains(&first), "{jitter}: {first:?}");
            assert_eq!(list.strike(peer, start, 0), BAN_FIRST * 3 / 2, "{jitter}");
        }
        assert_eq!(BanList::default().strike(peer, start, 250), BAN_FIRST * 5 / 4);
        let steps = (0..40).scan(BAN_FIRST, |length, _| {
            *length = (*length * 3 / 2).min(BAN_LONGEST);
            Some(*length)
        });
        assert_eq!(steps.take_while(|length| *length < BAN_LONGEST).count(), 14, "15 violations to half an hour");
    }

    #[test]
    fn a_longer_ban_stays() {
        let (mut list, peer, start) = (BanList::default(), PeerId::random(), Instant::now());
        list.ban(peer, Duration::from_secs(100), start);
        list.ban(peer, Duration::from_secs(1), start);
        assert!(list.is_banned(&peer, start + Duration::from_secs(99)));
        list.ban(peer, Duration::MAX, start);
        assert!(list.is_banned(&peer, start + Duration::from_secs(300 * 24 * 3600)));
    }

    #[test]
    fn the_list_is_bounded() {
        let (mut list, start) = (BanList::default(), Instant::now());
        let first = PeerId::random();
        list.strike(first, start, 0);
        for _ in 0..BANS_MAX {
            list.strike(PeerId::random(), start, 0);
        }
        assert_eq!((list.bans.len(), list.order.len()), (BANS_MAX, BANS_MAX));
        assert!(!list.is_banned(&first, start));
    }
}
