//! How many bytes a second go to or come from one peer, together and by protocol: the pace of queues of their own, so that
//! what is over the limit waits a little before it is marked or dropped, and one TCP connection keeps to its limit without
//! running dry. It sends nothing and knows no peer.

use super::queue::{Queue, QueueDrop};
use crate::mesh::packet::tuple::{ICMP, ICMPV6, TCP, UDP};
use shoal_protocol::mesh::class::Class;

/// How far ahead of its rate a limit lets packets go at once, nanoseconds: a few looks of who serves the queues.
const AHEAD_NS: u64 = 5_000_000;
/// Time of its rate that waits, milliseconds: ten targets of CoDel.
const WAIT_MS: u64 = 50;
/// Bytes that wait at least: ten full packets, or a connection with a long round trip would lose each burst.
const WAIT_MIN: u64 = 16 * 1024;
/// Places of queues: one a protocol, one for all that have no rate of their own.
const PLACES: usize = Protocol::ALL.len() + 1;
/// The place of what has no rate of its own.
const REST: usize = Protocol::ALL.len();

/// Protocols that have limits of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
    /// All others together.
    Other,
}

impl Protocol {
    /// All, in the order of their rates.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Icmp, Self::Other];

    /// The protocol of a number above IP.
    #[must_use]
    pub const fn of(number: u8) -> Self {
        match number {
            TCP => Self::Tcp,
            UDP => Self::Udp,
            ICMP | ICMPV6 => Self::Icmp,
            _ => Self::Other,
        }
    }

    /// Its place in lists of all.
    const fn place(self) -> usize {
        self as usize
    }
}

/// The limits of one peer, bytes a second; what is none has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerRates {
    /// All of it.
    pub all: Option<u64>,
    /// In the order of [`Protocol::ALL`].
    pub protocols: [Option<u64>; 4],
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Limited {
    /// That of the peer.
    #[error("limited-peer")]
    Peer,
    /// That of the protocol.
    #[error("limited-protocol")]
    Protocol,
}

/// One limit: when what passed so far would have passed at its rate.
#[derive(Clone, Copy, Debug)]
struct Gate {
    bytes_per_second: u64,
    until_ns: u64,
}

impl Gate {
    /// Nanoseconds until it is open.
    const fn wait_ns(&self, now_us: u64) -> u64 {
        self.until_ns.saturating_sub(now_us.saturating_mul(1000).saturating_add(AHEAD_NS))
    }

    /// So many bytes pass, however long that takes: who comes next waits for it.
    fn pass(&mut self, bytes: usize, now_us: u64) {
        let takes = u128::from(bytes as u64).saturating_mul(1_000_000_000) / u128::from(self.bytes_per_second.max(1));
        let takes = u64::try_from(takes).unwrap_or(u64::MAX);
        self.until_ns = self.until_ns.max(now_us.saturating_mul(1000)).saturating_add(takes);
    }
}

/// The limits of one peer in one direction, and what waits for them.
#[derive(Debug)]
pub struct Limiter<T> {
    rates: PeerRates,
    all: Option<Gate>,
    protocols: [Option<Gate>; 4],
    /// Made when something waits.
    queues: [Option<Box<Queue<T>>>; PLACES],
    /// Whose turn it is.
    turn: usize,
}

impl<T> Default for Limiter<T> {
    fn default() -> Self {
        let rates = PeerRates::default();
        Self { rates, all: None, protocols: [None; 4], queues: [const { None }; PLACES], turn: 0 }
    }
}

impl<T> Limiter<T> {
    /// These limits count from now on. What waits stays, and goes as they let it.
    pub fn set(&mut self, rates: PeerRates) {
        if self.rates != rates {
            let gate = |rate: Option<u64>| rate.map(|bytes_per_second| Gate { bytes_per_second, until_ns: 0 });
            (self.rates, self.all, self.protocols) = (rates, gate(rates.all), rates.protocols.map(gate));
        }
    }

    /// Bytes a second of a packet of this protocol at most; none if nothing limits it.
    #[must_use]
    pub fn rate(&self, protocol: Protocol) -> Option<u64> {
        let own = self.rates.protocols.get(protocol.place()).copied().flatten();
        own.into_iter().chain(self.rates.all).min()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(Option::is_none)
    }

    /// Packets and bytes that wait.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let sum = |(packets, bytes): (usize, usize), queue: &Queue<T>| (packets + queue.len(), bytes + queue.bytes());
        self.queues.iter().flatten().fold((0, 0), |all, queue| sum(all, queue))
    }

    /// Whether a packet may pass now, before nobody that waits; it counts then.
    pub fn passes(&mut self, protocol: Protocol, bytes: usize, now_us: u64) -> bool {
        let Some(place) = self.place(protocol) else { return true };
        let is_free = self.queues.get(place).is_none_or(Option::is_none) && self.wait_ns(place, now_us) == 0;
        if is_free {
            self.count(place, bytes, now_us);
        }
        is_free
    }

    /// Lets an item of so many bytes wait behind its flow. What has to go for it is given to `dropped`.
    pub fn push(
        &mut self,
        item: T,
        protocol: Protocol,
        key: (Class, u64, usize),
        now_us: u64,
        mut dropped: impl FnMut(T, Limited),
    ) {
        let rate = self.rate(protocol).unwrap_or(u64::MAX);
        let place = self.place(protocol).unwrap_or(REST);
        let Some(queue) = self.queues.get_mut(place) else { return };
        let queue = queue.get_or_insert_with(|| {
            let mut queue = Box::new(Queue::new(rate));
            let most = (rate / 1000).saturating_mul(WAIT_MS).max(WAIT_MIN);
            queue.set_most(usize::try_from(most).unwrap_or(usize::MAX));
            queue
        });
        queue.push(item, key, now_us, |item, _: QueueDrop| dropped(item, limited(place)));
        if queue.is_empty() {
            self.clear(place);
        }
    }

    /// The next item that its limits let go. `mark` is asked to mark one that met congestion and says whether it could; what
    /// it could not mark is given to `dropped`.
    pub fn pop(
        &mut self,
        now_us: u64,
        mut mark: impl FnMut(&mut T) -> bool,
        mut dropped: impl FnMut(T, Limited),
    ) -> Option<T> {
        for step in 0..PLACES {
            let place = (self.turn + step) % PLACES;
            if self.wait_ns(place, now_us) > 0 {
                continue;
            }
            let Some(Some(queue)) = self.queues.get_mut(place) else { continue };
            let taken = queue.pop(now_us, &mut mark, |item, _| dropped(item, limited(place)));
            if queue.is_empty() {
                self.clear(place);
            }
            if let Some(taken) = taken {
                self.count(place, taken.length, now_us);
                self.turn = place + 1;
                return Some(taken.item);
            }
        }
        None
    }

    /// Microseconds until the next item may go; none where nothing waits.
    #[must_use]
    pub fn wait_us(&self, now_us: u64) -> Option<u64> {
        let waiting = self.queues.iter().enumerate().filter(|(_, queue)| queue.is_some());
        waiting.map(|(place, _)| self.wait_ns(place, now_us).div_ceil(1000)).min()
    }

    /// Where packets of a protocol wait; none if nothing limits them.
    fn place(&self, protocol: Protocol) -> Option<usize> {
        let has_own = self.protocols.get(protocol.place()).is_some_and(Option::is_some);
        if has_own { Some(protocol.place()) } else { self.all.map(|_| REST) }
    }

    fn wait_ns(&self, place: usize, now_us: u64) -> u64 {
        let own = self.protocols.get(place).copied().flatten();
        own.iter().chain(&self.all).map(|gate| gate.wait_ns(now_us)).max().unwrap_or(0)
    }

    fn count(&mut self, place: usize, bytes: usize, now_us: u64) {
        let own = self.protocols.get_mut(place).and_then(Option::as_mut);
        for gate in own.into_iter().chain(&mut self.all) {
            gate.pass(bytes, now_us);
        }
    }

    fn clear(&mut self, place: usize) {
        if let Some(queue) = self.queues.get_mut(place) {
            *queue = None;
        }
    }
}

const fn limited(place: usize) -> Limited {
    if place == REST { Limited::Peer } else { Limited::Protocol }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 2_500_000;
    const PACKET: usize = 1250;

    fn limiter(all: Option<u64>, udp: Option<u64>) -> Limiter<u64> {
        let mut limiter = Limiter::default();
        limiter.set(PeerRates { all, protocols: [None, udp, None, None] });
        limiter
    }

    fn offer(limiter: &mut Limiter<u64>, protocol: Protocol, now_us: u64, lost: &mut Vec<Limited>) -> u64 {
        if limiter.passes(protocol, PACKET, now_us) {
            return 1;
        }
        limiter.push(now_us, protocol, (Class::Bulk, 7, PACKET), now_us, |_, why| lost.push(why));
        0
    }

    /// Packets that pass within so many milliseconds where one comes every so many microseconds.
    fn run(limiter: &mut Limiter<u64>, protocol: Protocol, every_us: u64, ms: u64, lost: &mut Vec<Limited>) -> u64 {
        let mut passed = 0;
        for now_us in (0..ms * 1000).step_by(every_us as usize) {
            passed += offer(limiter, protocol, now_us, lost);
            while limiter.pop(now_us, |_| false, |_, why| lost.push(why)).is_some() {
                passed += 1;
            }
        }
        passed
    }

    #[test]
    fn what_is_over_the_limit_waits_and_then_is_dropped_and_the_long_run_is_the_rate() {
        let (mut limiter, mut lost) = (limiter(Some(RATE), None), Vec::new());
        let passed = run(&mut limiter, Protocol::Tcp, 100, 4_000, &mut lost);
        let allowed = RATE * 4 / PACKET as u64;
        assert!((allowed..allowed + 20).contains(&passed), "{passed} of {allowed}");
        assert!(lost.len() > 20_000 && lost.iter().all(|why| *why == Limited::Peer));
        let (packets, bytes) = limiter.waiting();
        assert!(packets > 0 && bytes as u64 <= RATE / 20);
        let wait_us = limiter.wait_us(3_999_900).unwrap();
        assert!((1..=500).contains(&wait_us), "{wait_us}");
    }

    #[test]
    fn under_the_limit_nothing_waits_and_nothing_is_lost() {
        let (mut limiter, mut lost) = (limiter(Some(RATE), Some(RATE)), Vec::new());
        assert_eq!(run(&mut limiter, Protocol::Udp, 510, 1_000, &mut lost), 1_000_000_u64.div_ceil(510));
        assert!(lost.is_empty() && limiter.is_empty() && limiter.wait_us(0).is_none());
    }

    #[test]
    fn a_protocol_has_its_own_limit_and_leaves_the_rest_to_others() {
        let (mut limiter, mut lost) = (limiter(Some(RATE), Some(RATE / 10)), Vec::new());
        let (mut udp, mut tcp) = (0, 0);
        for now_us in (0..4_000_000).step_by(200) {
            udp += offer(&mut limiter, Protocol::Udp, now_us, &mut lost);
            tcp += offer(&mut limiter, Protocol::Tcp, now_us, &mut lost);
            while limiter.pop(now_us, |_| false, |_, why| lost.push(why)).is_some() {
                if limiter.turn == Protocol::Udp.place() + 1 { udp += 1 } else { tcp += 1 }
            }
        }
        let allowed = RATE * 4 / PACKET as u64;
        assert!(udp.abs_diff(allowed / 10) < 20 && (udp + tcp).abs_diff(allowed) < 20, "{udp} and {tcp}");
        assert!(lost.contains(&Limited::Protocol) && lost.contains(&Limited::Peer));
    }

    #[test]
    fn what_has_no_limit_passes_and_one_that_goes_lets_all_go() {
        let mut free = limiter(None, Some(1));
        assert!((0..1000).all(|_| free.passes(Protocol::Tcp, 1 << 30, 0)));
        let mut lost = Vec::new();
        assert_eq!((0..5).map(|_| offer(&mut free, Protocol::Udp, 0, &mut lost)).sum::<u64>(), 1);
        assert_eq!(free.pop(1_000_000, |_| false, |_, _| ()), None, "a byte a second");
        free.set(PeerRates::default());
        assert_eq!((0..9).filter_map(|_| free.pop(0, |_| false, |_, _| ())).count(), 4);
        assert!(free.is_empty() && lost.is_empty());
    }

    #[test]
    fn odd_numbers_hold() {
        let mut limiter = limiter(Some(0), Some(u64::MAX));
        assert!(limiter.passes(Protocol::Udp, usize::MAX, u64::MAX));
        assert!(!limiter.passes(Protocol::Udp, 1, 0));
        let item = (Class::Voice, 1, usize::MAX);
        let mut lost = 0;
        limiter.push(1, Protocol::Udp, item, 0, |_, _| lost += 1);
        assert!(lost == 1 && limiter.is_empty(), "larger than a whole queue");
    }
}
