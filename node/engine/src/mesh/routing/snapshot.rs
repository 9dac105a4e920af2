//! What the packet half reads: for every address whose it is, and for every peer which neighbours lead to it. Immutable,
//! sorted, and asked without allocation or lock; a new one replaces it as a whole.
//!
//! A packet goes to a peer: the longest matching prefix says to which, and from there on every hop asks for that peer by
//! its hash. So relays need no prefixes, and a prefix that is known here but not there cannot turn a packet round.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeMap;

use shoal_protocol::mesh::address::peer_within;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::{BootEpoch, NodeId};

use super::Routing;
use super::table::Best;

/// A neighbour that packets are sent to, in the run its link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The neighbour.
    pub node: NodeId,
    /// Its hash.
    pub peer: PeerHash,
    /// Its run.
    pub epoch: BootEpoch,
}

/// A peer there is a way to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The peer.
    pub node: NodeId,
    /// Its hash: what relays know it by.
    pub hash: PeerHash,
    /// Largest frame that passes all ways there, bytes.
    pub max_frame: u32,
    /// Metric of the way.
    pub metric: u32,
    /// Whether some link of it goes through somebody else's relay.
    pub relayed: bool,
    first_hop: u32,
    hops: u32,
}

/// Why there is no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unreachable {
    /// Nobody announces the address.
    NoRoute,
    /// The route was lost a moment ago: the packet does not fall to a shorter prefix.
    Held,
    /// It is known whose the address is, but not how to reach that peer.
    NoWay,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// This node itself.
    Local,
    /// To a peer.
    To {
        /// To whom it is sealed.
        peer: &'a Peer,
        /// The neighbour for this flow.
        hop: &'a NextHop,
        /// All neighbours that are as good.
        hops: &'a [NextHop],
    },
    /// Nowhere.
    Unreachable(Unreachable),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Local,
    /// Number of a peer.
    Peer(u32),
    Unreachable(Unreachable),
}

/// Through whom packets go that are for nobody of the network: the internet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExitUse {
    /// Nobody: they have no route.
    #[default]
    Off,
    /// The nearest one that announces a way out and may.
    Auto,
    /// This one or nobody.
    Peer(NodeId),
}

/// What besides routes decides where a packet goes.
#[derive(Clone, Copy, Debug)]
pub struct Bindings<'a> {
    /// Who has which IPv4 address: [`Claims::bindings`](crate::mesh::claims::Claims::bindings).
    pub v4: &'a [(Ipv4Addr, NodeId)],
    /// All addresses of the pool: one that nobody has leads nowhere, and not to an exit.
    pub pool: Prefix,
    /// Through whom packets leave.
    pub exit: ExitUse,
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The addresses of members.
    overlay: Prefix,
    local: PeerHash,
    /// By hash.
    peers: Vec<Peer>,
    hops: Vec<NextHop>,
    /// First address of each stretch with one answer, ascending.
    v4: Vec<(u32, Target)>,
    v6: Vec<(u128, Target)>,
}

impl Snapshot {
    /// Where a packet to `destination` goes. `flow` is a hash of what must stay in order; equal ones go the same way as
    /// long as that neighbour stays one of the best.
    #[must_use]
    pub fn lookup(&self, destination: IpAddr, flow: u64) -> Lookup<'_> {
        let target = match destination.to_canonical() {
            IpAddr::V4(address) => stretch(&self.v4, address.to_bits()),
            IpAddr::V6(address) if self.overlay.contains(IpAddr::V6(address)) => {
                return self.lookup_peer(&peer_within(address), flow);
            }
            IpAddr::V6(address) => stretch(&self.v6, address.to_bits()),
        };
        match target {
            Target::Local => Lookup::Local,
            Target::Unreachable(why) => Lookup::Unreachable(why),
            Target::Peer(number) => match usize::try_from(number).ok().and_then(|number| self.peers.get(number)) {
                Some(peer) => self.to(peer, flow),
                None => Lookup::Unreachable(Unreachable::NoWay),
            },
        }
    }

    /// Where a frame for `peer` goes: what relays ask.
    #[must_use]
    pub fn lookup_peer(&self, peer: &PeerHash, flow: u64) -> Lookup<'_> {
        if *peer == self.local {
            return Lookup::Local;
        }
        match self.peers.binary_search_by_key(peer, |peer| peer.hash).ok().and_then(|at| self.peers.get(at)) {
            Some(peer) => self.to(peer, flow),
            None => Lookup::Unreachable(Unreachable::NoWay),
        }
    }

    /// Every peer there is a way to, by hash.
    #[must_use]
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    fn to<'a>(&'a self, peer: &'a Peer, flow: u64) -> Lookup<'a> {
        let range = usize::try_from(peer.first_hop).ok().zip(usize::try_from(peer.hops).ok());
        let hops = range.and_then(|(first, count)| self.hops.get(first..first.checked_add(count)?)).unwrap_or_default();
        // The neighbour with the highest weight for the flow: when one goes, only its own flows move (rendezvous hashing,
        // Thaler and Ravishankar 1998).
        match hops.iter().max_by_key(|hop| weight(&hop.peer, flow)) {
            Some(hop) => Lookup::To { peer, hop, hops },
            None => Lookup::Unreachable(Unreachable::NoWay),
        }
    }
}

/// The finalizer of SplitMix64 over flow and neighbour; hashes are uniform, so eight bytes of one do.
fn weight(peer: &PeerHash, flow: u64) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *peer.as_bytes();
    let mut word = flow ^ u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn stretch<N: Ord + Copy>(stretches: &[(N, Target)], address: N) -> Target {
    let at = stretches.partition_point(|(first, _)| *first <= address).checked_sub(1);
    let found = at.and_then(|at| stretches.get(at));
    found.map_or(Target::Unreachable(Unreachable::NoRoute), |(_, target)| *target)
}

impl Routing {
    /// What packets need of all this, as it is now.
    #[must_use]
    pub fn snapshot(&self, bindings: Bindings<'_>) -> Snapshot {
        let (peers, hops) = self.ways();
        let numbers: BTreeMap<NodeId, u32> = peers.iter().map(|peer| peer.node).zip(0..).collect();
        let to = |node: &NodeId| match numbers.get(node) {
            _ if *node == self.local.node => Target::Local,
            Some(number) => Target::Peer(*number),
            None => Target::Unreachable(Unreachable::NoWay),
        };
        let mut prefixes = vec![
            (bindings.pool, Target::Unreachable(Unreachable::NoRoute)),
            (self.overlay, Target::Unreachable(Unreachable::NoRoute)),
        ];
        prefixes.extend(bindings.v4.iter().map(|(address, node)| (Prefix::host(IpAddr::V4(*address)), to(node))));
        prefixes.extend(self.origins.prefixes().map(|prefix| (prefix, Target::Local)));
        if let ExitUse::Peer(node) = bindings.exit {
            let everything = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
            prefixes.extend(everything.map(|address: IpAddr| (Prefix::around(address, 0), to(&node))));
        }
        for (prefix, destination) in &self.destinations {
            let is_unused_exit = prefix.is_default() && bindings.exit != ExitUse::Auto;
            if self.overlay.covers(prefix) || self.origins.contains(prefix) || is_unused_exit {
                continue;
            }
            if let Some(best) = &destination.best {
                prefixes.push((*prefix, to(&best.told.router.node)));
            } else if destination.held_until_ms > 0 {
                prefixes.push((*prefix, Target::Unreachable(Unreachable::Held)));
            }
        }
        let of = |v6: bool| prefixes.iter().filter(move |(prefix, _)| prefix.address().is_ipv6() == v6).copied();
        let v4 = flatten(of(false).collect(), u128::from(u32::MAX));
        let v4 = v4.into_iter().filter_map(|(first, target)| Some((u32::try_from(first).ok()?, target))).collect();
        let v6 = flatten(of(true).collect(), u128::MAX);
        Snapshot { overlay: self.overlay, local: PeerHash::of(&self.local.node), peers, hops, v4, v6 }
    }

    /// Every peer with a link or a route, and the neighbours that lead there. A link is used unless a route is nearer: at
    /// its end is the peer itself, so it needs nobody's distance.
    fn ways(&self) -> (Vec<Peer>, Vec<NextHop>) {
        let mut peers: Vec<(PeerHash, NodeId, Option<&Best>)> = Vec::new();
        for (node, link) in &self.links {
            peers.push((link.hash, *node, None));
        }
        for (prefix, destination) in &self.destinations {
            if let Some(best) = &destination.best
                && let Some(hash) = self.host_of(prefix)
            {
                let node = best.told.router.node;
                let direct = self.links.get(&node).map(|link| link.cost.published().saturating_add(1));
                if direct.is_none_or(|direct| best.told.metric < direct) {
                    peers.push((hash, node, Some(best)));
                }
            }
        }
        // Of a peer with both, the route, which is the nearer one then.
        peers.sort_by_key(|(hash, _, best)| (*hash, best.is_none()));
        peers.dedup_by_key(|(hash, ..)| *hash);
        let mut hops = Vec::new();
        let ways = peers.into_iter().filter_map(|(hash, node, best)| {
            let link = self.links.get(&node);
            let (max_frame, metric, relayed) = match best {
                Some(best) => (best.told.max_frame, best.told.metric, best.told.relayed),
                None => link.map(|link| (link.max_frame, link.cost.published().saturating_add(1), link.relayed))?,
            };
            let first_hop = u32::try_from(hops.len()).ok()?;
            let direct = [node];
            for hop in best.map_or(&direct[..], |best| &best.hops) {
                let Some(link) = self.links.get(hop) else { continue };
                hops.push(NextHop { node: *hop, peer: link.hash, epoch: link.epoch });
            }
            let count = u32::try_from(hops.len()).ok()?.checked_sub(first_hop)?;
            Some(Peer { node, hash, max_frame, metric, relayed, first_hop, hops: count })
        });
        (ways.collect(), hops)
    }
}

/// Prefixes to stretches: at each address the longest prefix counts, of equal ones the last in the list. `last` is the last
/// address of the family.
fn flatten(prefixes: Vec<(Prefix, Target)>, last: u128) -> Vec<(u128, Target)> {
    let mut ordered: Vec<(u128, u8, u128, Target)> = prefixes
        .into_iter()
        .map(|(prefix, target)| {
            let (first, end) = prefix.range();
            (first, prefix.length(), end, target)
        })
        .collect();
    // Stable: of equal prefixes the last one is painted last.
    ordered.sort_by_key(|(first, length, ..)| (*first, *length));
    let mut out: Vec<(u128, Target)> = vec![(0, Target::Unreachable(Unreachable::NoRoute))];
    let mut open: Vec<(u128, Target)> = Vec::new();
    let close = |open: &mut Vec<(u128, Target)>, out: &mut Vec<(u128, Target)>, before: Option<u128>| {
        while let Some((end, _)) = open.last().copied().filter(|(end, _)| before.is_none_or(|before| *end < before)) {
            open.pop();
            let outer = open.last().map_or(Target::Unreachable(Unreachable::NoRoute), |(_, target)| *target);
            if end < last {
                paint(out, end.saturating_add(1), outer);
            }
        }
    };
    for (first, _, end, target) in ordered {
        close(&mut open, &mut out, Some(first));
        paint(&mut out, first, target);
        open.push((end, target));
    }
    close(&mut open, &mut out, None);
    out
}

/// From `first` on it is `target`.
fn paint(out: &mut Vec<(u128, Target)>, first: u128, target: Target) {
    if out.last().is_some_and(|(last, _)| *last == first) {
        out.pop();
    }
    if out.last().is_none_or(|(_, last)| *last != target) {
        out.push((first, target));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::NetworkId;
    use shoal_protocol::mesh::address::network_prefix;

    #[test]
    fn every_address_finds_its_longest_prefix() {
        // Against the plain rule, over all pairs of nested and neighbouring prefixes of a small corner of the space.
        let texts = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.0.0.0/30",
            "10.0.0.0/32",
            "10.0.0.1/32",
            "10.0.0.3/32",
            "10.0.0.4/31",
            "255.255.255.252/30",
            "255.255.255.255/32",
            "10.0.0.2/31",
            "11.0.0.0/8",
        ];
        let prefixes: Vec<Prefix> = texts.iter().map(|text| text.parse().unwrap()).collect();
        for mask in 0..1_u32 << prefixes.len() {
            let chosen: Vec<(Prefix, Target)> = (0..prefixes.len())
                .filter(|n| mask >> n & 1 == 1)
                .map(|n| (prefixes[n], Target::Peer(u32::try_from(n).unwrap())))
                .collect();
            let flat = flatten(chosen.clone(), u128::from(u32::MAX));
            for address in [
                "0.0.0.0",
                "9.255.255.255",
                "10.0.0.0",
                "10.0.0.1",
                "10.0.0.2",
                "10.0.0.3",
                "10.0.0.4",
                "10.0.0.5",
                "10.0.0.6",
                "10.255.255.255",
                "11.0.0.0",
                "12.0.0.0",
                "255.255.255.253",
                "255.255.255.255",
            ] {
                let address: Ipv4Addr = address.parse().unwrap();
                let mut matching: Vec<_> =
                    chosen.iter().filter(|(prefix, _)| prefix.contains(IpAddr::V4(address))).collect();
                matching.sort_unstable_by_key(|(prefix, _)| *prefix);
                let expected = matching.first().map_or(Target::Unreachable(Unreachable::NoRoute), |found| found.1);
                assert_eq!(stretch(&flat, u128::from(address.to_bits())), expected, "{address} in {chosen:?}");
            }
        }
    }

    #[test]
    fn flows_spread_and_only_those_of_a_lost_hop_move() {
        let hops: Vec<NextHop> = (1..=4_u8)
            .map(|n| {
                let node = NodeId::from_bytes([n; 32]);
                NextHop { node, peer: PeerHash::of(&node), epoch: BootEpoch(1) }
            })
            .collect();
        let peer = |hops| Peer {
            node: NodeId::from_bytes([9; 32]),
            hash: PeerHash::of(&NodeId::from_bytes([9; 32])),
            max_frame: 9_000,
            metric: 1,
            relayed: false,
            first_hop: 0,
            hops,
        };
        let snapshot = |count: u32| Snapshot {
            overlay: network_prefix(&NetworkId::from_bytes([7; 32])),
            local: PeerHash::new([0; 10]),
            peers: vec![peer(count)],
            hops: hops.clone(),
            v4: vec![],
            v6: vec![],
        };
        let (four, three) = (snapshot(4), snapshot(3));
        let chosen = |snapshot: &Snapshot, flow: u64| match snapshot.lookup_peer(&peer(0).hash, flow) {
            Lookup::To { hop, .. } => hop.node,
            other => panic!("{other:?}"),
        };
        let mut counts = BTreeMap::<NodeId, u32>::new();
        for flow in 0..4_000_u64 {
            let flow = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let hop = chosen(&four, flow);
            *counts.entry(hop).or_default() += 1;
            if hop != hops[3].node {
                assert_eq!(chosen(&three, flow), hop);
            }
        }
        assert!(counts.len() == 4 && counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
