//! Flows: their hashes, for queues, labels and equal paths, and the table of those a rule allowed, so that their replies
//! are allowed too. It decides nothing about the first packet of a flow and changes no packet.

use core::net::IpAddr;

use shoal_protocol::mesh::peer_hash::PeerHash;

use super::packet::Tcp;
use super::packet::tuple::{ICMP, ICMPV6, TCP, Tuple, UDP};

/// Two secret words drawn when a node starts: nobody outside can choose flows that share a queue or push each other out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowSeed(u64, u64);

impl core::fmt::Debug for FlowSeed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FlowSeed(..)")
    }
}

impl FlowSeed {
    /// From 16 random bytes.
    #[must_use]
    pub const fn new(random: [u8; 16]) -> Self {
        let number = u128::from_le_bytes(random);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        let halves = Self(number as u64, (number >> 64) as u64);
        halves
    }

    /// The hash of a flow in this direction.
    #[must_use]
    pub fn one_way(self, tuple: &Tuple) -> u64 {
        let (source, destination) = tuple.ports.unwrap_or_default();
        let ports = u64::from(source) << 16 | u64::from(destination);
        let [a, b] = words(tuple.source);
        let [c, d] = words(tuple.destination);
        sip(self, [a, b, c, d, u64::from(tuple.protocol) << 32 | ports])
    }

    /// The same hash for a flow and its replies.
    #[must_use]
    pub fn both_ways(self, tuple: &Tuple) -> u64 {
        let back = tuple.reversed();
        let is_lower = (tuple.source, tuple.ports) <= (back.source, back.ports);
        self.one_way(if is_lower { tuple } else { &back })
    }

    /// The label of a flow in relay headers: 16 bits of its hash, which tell nobody more than which frames belong together.
    #[must_use]
    pub fn label(self, tuple: &Tuple) -> u16 {
        let [low, high, ..] = self.one_way(tuple).to_le_bytes();
        u16::from_le_bytes([low, high])
    }
}

fn words(address: IpAddr) -> [u64; 2] {
    let number = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    };
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    let halves = [(number >> 64) as u64, number as u64];
    halves
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012) of 40 bytes.
fn sip(FlowSeed(k0, k1): FlowSeed, words: [u64; 5]) -> u64 {
    let mut state = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    // The last block holds the length modulo 256 in its highest byte.
    for word in words.into_iter().chain([40 << 56]) {
        state[3] ^= word;
        round(&mut state);
        round(&mut state);
        state[0] ^= word;
    }
    state[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut state));
    state.into_iter().fold(0, |all, word| all ^ word)
}

const fn round([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

/// Flows a table remembers: a busy household has a few thousand. 16,384 take 2 MiB.
pub const FLOWS_MAX: usize = 16_384;
/// Flows that share a place; a new one pushes out one of them if all are alive.
const WAYS: usize = 8;

/// A TCP connection that is neither new nor ending (RFC 5382 REQ-5: two hours and four minutes), milliseconds.
pub const TCP_MS: u64 = 7_440_000;
/// A TCP connection without an answer, or ended (RFC 5382 REQ-5: four minutes).
pub const TCP_TRANSITORY_MS: u64 = 240_000;
/// UDP (RFC 4787 REQ-5: five minutes are recommended).
pub const UDP_MS: u64 = 300_000;
/// ICMP echoes (RFC 5508 REQ-2: sixty seconds).
pub const ICMP_MS: u64 = 60_000;
/// All other protocols: ten minutes, as connection tracking elsewhere.
pub const OTHER_MS: u64 = 600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No reply yet.
    Opening,
    /// Both sides spoke; which of them has said its last: the first, the other.
    Open { first_ended: bool, other_ended: bool },
    /// Reset, or ended by both.
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// As the side sees it that a rule let begin.
    tuple: Tuple,
    /// The machine at the other end of the tunnel.
    peer: PeerHash,
    stage: Stage,
    used_ms: u64,
    /// The policy that allowed it.
    generation: u64,
}

impl Entry {
    fn is_alive(&self, now_ms: u64) -> bool {
        let idle_ms = match (self.tuple.protocol, self.stage) {
            (TCP, Stage::Open { .. }) => TCP_MS,
            (TCP, _) => TCP_TRANSITORY_MS,
            (UDP, _) => UDP_MS,
            (ICMP | ICMPV6, _) => ICMP_MS,
            _ => OTHER_MS,
        };
        now_ms.saturating_sub(self.used_ms) < idle_ms
    }

    fn step(&mut self, flags: Option<u8>, is_reply: bool) {
        let flags = flags.unwrap_or(0);
        let ends = flags & Tcp::FIN != 0;
        self.stage = match self.stage {
            _ if flags & Tcp::RST != 0 => Stage::Ended,
            Stage::Ended if flags & Tcp::SYN != 0 && !is_reply => Stage::Opening,
            Stage::Ended => Stage::Ended,
            Stage::Opening if !is_reply => Stage::Opening,
            Stage::Opening => Stage::Open { first_ended: false, other_ended: ends },
            Stage::Open { first_ended, other_ended } => {
                match (first_ended || (ends && !is_reply), other_ended || (ends && is_reply)) {
                    (true, true) => Stage::Ended,
                    (first_ended, other_ended) => Stage::Open { first_ended, other_ended },
                }
            }
        };
    }
}

/// The flows that a rule allowed, for as long as they are used. All memory is taken when it is made.
#[derive(Debug)]
pub struct FlowTable {
    seed: FlowSeed,
    places: Vec<Option<Entry>>,
}

impl FlowTable {
    /// An empty table of [`FLOWS_MAX`] places.
    #[must_use]
    pub fn new(seed: FlowSeed) -> Self {
        Self { seed, places: vec![None; FLOWS_MAX] }
    }

    /// A packet to or from `peer` was allowed by a rule of policy `generation`: its flow is remembered. `flags` are those of
    /// TCP.
    pub fn allowed(&mut self, peer: PeerHash, tuple: &Tuple, flags: Option<u8>, generation: u64, now_ms: u64) {
        let set = self.set(tuple);
        let known = set.iter_mut().flatten().find(|entry| entry.peer == peer && entry.tuple == *tuple);
        if let Some(entry) = known {
            if !entry.is_alive(now_ms) || entry.generation != generation {
                entry.stage = Stage::Opening;
            }
            entry.step(flags, false);
            (entry.used_ms, entry.generation) = (now_ms, generation);
            return;
        }
        let entry = Entry { tuple: *tuple, peer, stage: Stage::Opening, used_ms: now_ms, generation };
        if let Some(place) = least_missed(set, now_ms).and_then(|at| set.get_mut(at)) {
            *place = Some(entry);
        }
    }

    /// Whether a packet to or from `peer` answers a flow that is remembered under this policy. A TCP packet that begins a
    /// connection answers nothing.
    pub fn is_reply(&mut self, peer: PeerHash, tuple: &Tuple, flags: Option<u8>, generation: u64, now_ms: u64) -> bool {
        let begins = flags.is_some_and(|flags| flags & (Tcp::SYN | Tcp::ACK | Tcp::RST) == Tcp::SYN);
        let back = tuple.reversed();
        let fits = |entry: &&mut Entry| entry.peer == peer && entry.tuple == back && entry.generation == generation;
        let entry = self.set(tuple).iter_mut().flatten().find(fits);
        let Some(entry) = entry.filter(|entry| !begins && entry.is_alive(now_ms)) else { return false };
        entry.step(flags, true);
        entry.used_ms = now_ms;
        true
    }

    /// Whether an ICMP error to or from `peer`, which quotes a packet of this flow, is about one that is remembered. It
    /// keeps nothing alive.
    #[must_use]
    pub fn is_about(&mut self, peer: PeerHash, quoted: &Tuple, generation: u64, now_ms: u64) -> bool {
        let back = quoted.reversed();
        let fits = |entry: &Entry| {
            let either = entry.tuple == *quoted || entry.tuple == back;
            either && entry.peer == peer && entry.generation == generation && entry.is_alive(now_ms)
        };
        self.set(quoted).iter().flatten().any(fits)
    }

    /// The places a flow may have, the same for both directions.
    fn set(&mut self, tuple: &Tuple) -> &mut [Option<Entry>] {
        let sets = (self.places.len() / WAYS).max(1) as u64;
        let at = usize::try_from(self.seed.both_ways(tuple) % sets).unwrap_or(0).saturating_mul(WAYS);
        self.places.get_mut(at..at.saturating_add(WAYS)).unwrap_or_default()
    }
}

/// The place that is empty or over; else, of the flows nobody answered, then of all, the one of the peer that has the most
/// here that was used least recently: who opens many flows pushes out its own.
fn least_missed(set: &[Option<Entry>], now_ms: u64) -> Option<usize> {
    let worth = |(_, place): &(usize, &Option<Entry>)| match place {
        Some(entry) if entry.is_alive(now_ms) => {
            let of_peer = set.iter().flatten().filter(|other| other.peer == entry.peer).count();
            (1 + u8::from(entry.stage != Stage::Opening), WAYS.saturating_sub(of_peer), entry.used_ms)
        }
        _ => (0, 0, 0),
    };
    set.iter().enumerate().min_by_key(worth).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher;

    const SEED: FlowSeed = FlowSeed(1, 2);

    fn peer(n: u8) -> PeerHash {
        PeerHash::new([n; 10])
    }

    fn tuple(n: u16, protocol: u8) -> Tuple {
        let [source, destination] = ["100.64.0.1", "100.64.0.2"].map(|text| text.parse().unwrap());
        Tuple { source, destination, protocol, ports: Some((n, 80)) }
    }

    #[test]
    fn the_hash_is_siphash_2_4() {
        for n in 0..100u16 {
            let flow = tuple(n, 6);
            #[expect(deprecated, reason = "the one SipHash-2-4 of the standard library, as a second opinion")]
            let mut other = core::hash::SipHasher::new_with_keys(1, 2);
            for word in [0, 0xffff_6440_0001, 0, 0xffff_6440_0002, 6 << 32 | u64::from(n) << 16 | 80] {
                other.write(&u64::to_le_bytes(word));
            }
            assert_eq!(SEED.one_way(&flow), other.finish());
        }
    }

    #[test]
    fn hashes_are_alike_both_ways_where_wanted() {
        for n in 0..200 {
            let flow = tuple(n, 17);
            assert_eq!(SEED.both_ways(&flow), SEED.both_ways(&flow.reversed()));
            assert_ne!(SEED.one_way(&flow), SEED.one_way(&flow.reversed()));
            assert_ne!(SEED.one_way(&flow), FlowSeed::new([9; 16]).one_way(&flow));
        }
        let same_address = Tuple { destination: tuple(0, 6).source, ..tuple(7, 6) };
        assert_eq!(SEED.both_ways(&same_address), SEED.both_ways(&same_address.reversed()));
        let labels: std::collections::BTreeSet<u16> = (0..1000).map(|n| SEED.label(&tuple(n, 6))).collect();
        assert!(labels.len() > 980, "{}", labels.len());
    }

    #[test]
    fn replies_pass_while_the_flow_is_used() {
        let mut table = FlowTable::new(SEED);
        let flow = tuple(1000, UDP);
        let back = flow.reversed();
        assert!(!table.is_reply(peer(1), &back, None, 1, 0));
        table.allowed(peer(1), &flow, None, 1, 0);
        assert!(table.is_reply(peer(1), &back, None, 1, UDP_MS - 1));
        assert!(!table.is_reply(peer(2), &back, None, 1, UDP_MS - 1), "of another peer");
        assert!(!table.is_reply(peer(1), &flow, None, 1, UDP_MS - 1), "the flow itself is no reply");
        assert!(!table.is_reply(peer(1), &back, None, 2, UDP_MS - 1), "under another policy");
        assert!(table.is_reply(peer(1), &back, None, 1, 2 * UDP_MS - 2));
        assert!(table.is_about(peer(1), &flow, 1, 2 * UDP_MS) && table.is_about(peer(1), &back, 1, 2 * UDP_MS));
        assert!(!table.is_about(peer(2), &flow, 1, 2 * UDP_MS));
        assert!(!table.is_reply(peer(1), &back, None, 1, 3 * UDP_MS - 2), "idle for too long");
    }

    #[test]
    fn a_connection_ends_as_tcp_says() {
        let (flow, mut table) = (tuple(1000, TCP), FlowTable::new(SEED));
        let back = flow.reversed();
        let reply = |table: &mut FlowTable, flags, now_ms| table.is_reply(peer(1), &back, Some(flags), 1, now_ms);
        table.allowed(peer(1), &flow, Some(Tcp::SYN), 1, 0);
        assert!(!reply(&mut table, Tcp::SYN, 0), "a connection of the other side is no reply");
        assert!(reply(&mut table, Tcp::SYN | Tcp::ACK, 0));
        assert!(reply(&mut table, Tcp::ACK, TCP_MS - 1));
        table.allowed(peer(1), &flow, Some(Tcp::FIN | Tcp::ACK), 1, TCP_MS);
        assert!(reply(&mut table, Tcp::ACK, TCP_MS + TCP_TRANSITORY_MS), "half closed is open");
        let now_ms = TCP_MS + TCP_TRANSITORY_MS;
        assert!(reply(&mut table, Tcp::FIN | Tcp::ACK, now_ms));
        assert!(!reply(&mut table, Tcp::ACK, now_ms + TCP_TRANSITORY_MS));
        table.allowed(peer(1), &flow, Some(Tcp::SYN), 1, now_ms + TCP_TRANSITORY_MS);
        let now_ms = now_ms + TCP_TRANSITORY_MS;
        assert!(reply(&mut table, Tcp::SYN | Tcp::ACK, now_ms) && reply(&mut table, Tcp::RST, now_ms));
        assert!(!reply(&mut table, Tcp::ACK, now_ms + TCP_TRANSITORY_MS));
    }

    #[test]
    fn who_opens_many_flows_pushes_out_its_own() {
        let mut table = FlowTable::new(SEED);
        let quiet: Vec<Tuple> = (0..500).map(|n| tuple(n, UDP)).collect();
        for flow in &quiet {
            table.allowed(peer(1), flow, None, 1, 0);
            assert!(table.is_reply(peer(1), &flow.reversed(), None, 1, 0));
        }
        for n in 1000..60_000 {
            table.allowed(peer(2), &tuple(n, UDP), None, 1, 1);
            table.is_reply(peer(2), &tuple(n, UDP).reversed(), None, 1, 1);
        }
        let kept = quiet.iter().filter(|flow| table.is_reply(peer(1), &flow.reversed(), None, 1, 2)).count();
        assert!(kept >= 499, "{kept} of 500");
        assert_eq!(table.places.len(), FLOWS_MAX);
    }
}
