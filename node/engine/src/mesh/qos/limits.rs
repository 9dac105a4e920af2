//! How many bytes a second a peer may send, together and by protocol. It knows only the peers it was told of: control
//! adds and removes them, so that a packet of a stranger allocates nothing.

use std::collections::BTreeMap;

use shoal_protocol::mesh::peer_hash::PeerHash;

use super::bucket::{Bucket, Rate};
use crate::mesh::packet::tuple::{ICMP, ICMPV6, TCP, UDP};

/// Peers with a limit: every peer of the largest mesh we simulate, and as many again.
pub const LIMITED_MAX: usize = 2048;

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
}

/// The limits of one peer; what is none has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerRates {
    /// All of it.
    pub all: Option<Rate>,
    /// In the order of [`Protocol::ALL`].
    pub protocols: [Option<Rate>; 4],
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Limited {
    /// That of the peer.
    #[error("peer-rate")]
    Peer,
    /// That of the protocol.
    #[error("protocol-rate")]
    Protocol,
}

#[derive(Clone, Copy, Debug)]
struct Buckets {
    all: Option<Bucket>,
    protocols: [Option<Bucket>; 4],
}

/// The limits of all peers that have any.
#[derive(Clone, Debug, Default)]
pub struct RateLimits {
    peers: BTreeMap<PeerHash, Buckets>,
}

impl RateLimits {
    /// Sets the limits of a peer, with full buckets. Says whether there was room.
    pub fn set(&mut self, peer: PeerHash, rates: PeerRates, now_us: u64) -> bool {
        if !self.peers.contains_key(&peer) && self.peers.len() >= LIMITED_MAX {
            return false;
        }
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::new(rate, now_us));
        self.peers.insert(peer, Buckets { all: bucket(rates.all), protocols: rates.protocols.map(bucket) });
        true
    }

    /// The peer has no limits any more.
    pub fn remove(&mut self, peer: &PeerHash) {
        self.peers.remove(peer);
    }

    /// Takes a packet's bytes from both limits, or from none.
    ///
    /// # Errors
    /// [`Limited`] names the limit that was reached: the packet is dropped.
    pub fn take(&mut self, peer: &PeerHash, protocol: Protocol, bytes: usize, now_us: u64) -> Result<(), Limited> {
        let Some(buckets) = self.peers.get_mut(peer) else { return Ok(()) };
        let at = Protocol::ALL.iter().position(|known| *known == protocol).unwrap_or(0);
        let before = buckets.all;
        if let Some(all) = &mut buckets.all {
            all.take(bytes, now_us).map_err(|_| Limited::Peer)?;
        }
        if let Some(Some(own)) = buckets.protocols.get_mut(at)
            && own.take(bytes, now_us).is_err()
        {
            buckets.all = before;
            return Err(Limited::Protocol);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerHash = PeerHash::new([1; 10]);
    const RATE: Rate = Rate { bytes_per_second: 1000, burst: 1000 };

    #[test]
    fn both_limits_count_and_a_refusal_costs_nothing() {
        let mut limits = RateLimits::default();
        assert_eq!(limits.take(&PEER, Protocol::Udp, 1 << 30, 0), Ok(()), "who has no limit has none");
        let udp = Rate { bytes_per_second: 100, burst: 100 };
        assert!(limits.set(PEER, PeerRates { all: Some(RATE), protocols: [None, Some(udp), None, None] }, 0));
        assert_eq!(limits.take(&PEER, Protocol::Udp, 100, 0), Ok(()));
        for _ in 0..100 {
            assert_eq!(limits.take(&PEER, Protocol::Udp, 100, 0), Err(Limited::Protocol));
        }
        assert_eq!(limits.take(&PEER, Protocol::Tcp, 900, 0), Ok(()));
        assert_eq!(limits.take(&PEER, Protocol::Tcp, 1, 0), Err(Limited::Peer));
        assert_eq!(limits.take(&PEER, Protocol::Udp, 100, 1_000_000), Ok(()));
        limits.remove(&PEER);
        assert_eq!(limits.take(&PEER, Protocol::Udp, 1 << 30, 0), Ok(()));
    }

    #[test]
    fn limits_are_bounded() {
        let mut limits = RateLimits::default();
        let peer = |n: usize| PeerHash::new(core::array::from_fn(|i| if i < 8 { n.to_le_bytes()[i] } else { 0 }));
        let rates = PeerRates { all: Some(RATE), ..PeerRates::default() };
        assert!((0..LIMITED_MAX).all(|n| limits.set(peer(n), rates, 0)));
        assert!(!limits.set(peer(LIMITED_MAX), rates, 0));
        assert!(limits.set(peer(0), rates, 0), "one that is known can be changed");
    }
}
