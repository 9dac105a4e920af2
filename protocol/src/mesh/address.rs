//! Addresses on the private network without anybody who hands them out: both follow from the node's own key. It gives
//! candidates; who holds an IPv4 address is decided from claims.
//!
//! ```text
//! IPv6 = fd || BLAKE3(network id)[0..5] || BLAKE3(node id)[0..10]         an RFC 4193 address, checked by anyone
//! IPv4 = pool + 2 + (u64 LE of derive('shoal mesh ipv4 v1', network, node, attempt u32 LE)[0..8]) mod (size - 3)
//! ```

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::hash::{MESH_IPV4, derive};
use crate::id::NodeId;
use crate::mesh::peer_hash::PeerHash;
use crate::mesh::prefix::Prefix;
use crate::network::NetworkId;

/// Why a prefix cannot be a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pool is an IPv4 prefix of 8 to 16 bits, {0} is not")]
pub struct PoolError(pub Prefix);

/// The IPv4 addresses of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    first: Ipv4Addr,
    length: u8,
}

impl Default for Pool {
    /// `100.64.0.0/10`, the shared address space of RFC 6598: 4,194,301 usable addresses.
    fn default() -> Self {
        Self { first: Ipv4Addr::new(100, 64, 0, 0), length: 10 }
    }
}

impl Pool {
    /// Longest pool prefix: 65,533 usable addresses, so that the 1,000 peers of a large network are 2 % of it.
    pub const LENGTH_MAX: u8 = 16;
    /// Shortest pool prefix: as large as `10.0.0.0/8`.
    pub const LENGTH_MIN: u8 = 8;

    /// The pool of a prefix.
    ///
    /// # Errors
    /// [`PoolError`] unless it is IPv4 and 8 to 16 bits long.
    pub fn new(prefix: Prefix) -> Result<Self, PoolError> {
        match prefix.address() {
            IpAddr::V4(first) if (Self::LENGTH_MIN..=Self::LENGTH_MAX).contains(&prefix.length()) => {
                Ok(Self { first, length: prefix.length() })
            }
            _ => Err(PoolError(prefix)),
        }
    }

    /// All its addresses.
    #[must_use]
    pub fn prefix(&self) -> Prefix {
        // The parts come from a prefix, or are the default, which is one.
        Prefix::new(IpAddr::V4(self.first), self.length).unwrap_or_else(|_| Prefix::host(IpAddr::V4(self.first)))
    }

    /// How many addresses a peer can get: all but network, broadcast and the first host, which many machines take for a
    /// gateway.
    #[must_use]
    pub const fn usable(&self) -> u32 {
        (1 << (32 - self.length)) - 3
    }

    /// The address `node` claims in its `attempt`-th try, from 0.
    #[must_use]
    pub fn candidate(&self, network: &NetworkId, node: &NodeId, attempt: u32) -> Ipv4Addr {
        let hash = derive(MESH_IPV4, &[network.as_bytes(), node.as_bytes(), &attempt.to_le_bytes()]);
        let [a, b, c, d, e, f, g, h, ..] = hash;
        // 64 bits over at most 2^24 places: no place is likelier than another by more than 2^-40.
        let place = u64::from_le_bytes([a, b, c, d, e, f, g, h]) % u64::from(self.usable());
        let offset = u32::try_from(place).unwrap_or(0).saturating_add(2);
        Ipv4Addr::from_bits(self.first.to_bits() | offset)
    }
}

/// The /48 of a network: `fd` and 40 bits of BLAKE3 over its id, where RFC 4193 wants random ones.
#[must_use]
pub fn network_prefix(network: &NetworkId) -> Prefix {
    let address = overlay(network, &PeerHash::new([0; 10]));
    // 48 bits and zeros behind them.
    Prefix::new(IpAddr::V6(address), 48).unwrap_or_else(|_| Prefix::host(IpAddr::V6(address)))
}

/// The IPv6 address of a node in a network.
#[must_use]
pub fn overlay(network: &NetworkId, peer: &PeerHash) -> Ipv6Addr {
    let [a, b, c, d, e, ..] = *blake3::hash(network.as_bytes()).as_bytes();
    let mut octets = [0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (octet, byte) in octets.iter_mut().skip(6).zip(peer.as_bytes()) {
        *octet = *byte;
    }
    Ipv6Addr::from(octets)
}

/// Whose address this is, if it is one of this network: its last ten bytes.
#[must_use]
pub fn peer_of(network: &NetworkId, address: Ipv6Addr) -> Option<PeerHash> {
    let peer = peer_within(address);
    (overlay(network, &peer) == address).then_some(peer)
}

/// Whose address this is, which is known to be within [`network_prefix`].
#[must_use]
pub const fn peer_within(address: Ipv6Addr) -> PeerHash {
    let [_, _, _, _, _, _, a, b, c, d, e, f, g, h, i, j] = address.octets();
    PeerHash::new([a, b, c, d, e, f, g, h, i, j])
}

/// The host prefix of a node's own IPv6 address: the one prefix every member may announce.
#[must_use]
pub fn host_prefix(network: &NetworkId, node: &NodeId) -> Prefix {
    Prefix::host(IpAddr::V6(overlay(network, &PeerHash::of(node))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> NetworkId {
        NetworkId::from_bytes([7; 32])
    }

    #[test]
    fn an_ipv6_address_names_its_peer_and_its_network() {
        let node = NodeId::from_bytes([9; 32]);
        let address = overlay(&network(), &PeerHash::of(&node));
        assert_eq!(address.octets()[0], 0xfd);
        assert!(network_prefix(&network()).contains(IpAddr::V6(address)));
        assert_eq!(peer_of(&network(), address), Some(PeerHash::of(&node)));
        assert_eq!(peer_of(&NetworkId::from_bytes([8; 32]), address), None);
        assert!(host_prefix(&network(), &node).is_host());
    }

    #[test]
    fn candidates_stay_inside_and_off_the_edges() {
        for text in ["100.64.0.0/10", "10.0.0.0/8", "10.9.0.0/16"] {
            let pool = Pool::new(text.parse().unwrap()).unwrap();
            let (first, last) = pool.prefix().range();
            for n in 0..2_000_u32 {
                let node = NodeId::from_bytes([u8::try_from(n % 251).unwrap(); 32]);
                let address = pool.candidate(&network(), &node, n);
                assert!(pool.prefix().contains(IpAddr::V4(address)), "{address} in {text}");
                let number = u128::from(address.to_bits());
                assert!(number >= first + 2 && number < last, "{address} in {text}");
            }
        }
        assert_eq!(Pool::default().prefix(), "100.64.0.0/10".parse().unwrap());
        for text in ["10.0.0.0/7", "10.0.0.0/17", "fd00::/8"] {
            assert!(text.parse().map(Pool::new).is_err() || Pool::new(text.parse().unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn network_peer_and_attempt_all_count() {
        let (pool, node) = (Pool::default(), NodeId::from_bytes([9; 32]));
        let address = pool.candidate(&network(), &node, 0);
        assert_eq!(address, pool.candidate(&network(), &node, 0));
        assert_ne!(address, pool.candidate(&network(), &node, 1));
        assert_ne!(address, pool.candidate(&network(), &NodeId::from_bytes([8; 32]), 0));
        assert_ne!(address, pool.candidate(&NetworkId::from_bytes([8; 32]), &node, 0));
    }
}
