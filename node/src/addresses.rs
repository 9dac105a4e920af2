//! Where the node listens: in which order it is said, to peers, to people and to the next start. It never asks the
//! system; the swarm reports.

use std::collections::BTreeSet;
use std::path::Path;

use shoal_protocol::limits::ADDRESSES_MAX;

use crate::files::{read_bounded, write_private};
use crate::vpn::places::Overlays;
use crate::vpn::system::Port;

/// The note in the data directory from which `shoald address` reads.
const FILE: &str = "addresses";
/// Longest note, bytes.
const FILE_MAX: u64 = 64 * 1024;

/// Addresses others may reach before loopback, TCP before QUIC: the order in which they are tried and shown.
pub(crate) fn ordered(mut addresses: Vec<String>) -> Vec<String> {
    addresses.sort_by_cached_key(|address| {
        let loopback = shoal_swarm::ip_of(address).is_some_and(|ip| ip.is_loopback());
        (loopback, address.contains("/quic"), address.clone())
    });
    addresses
}

/// Those a peer record has room for, without the node's id, and without those of the private networks: a connection over it
/// would be a tunnel in the tunnel.
pub(crate) fn advertised(ordered: &[String], overlays: &Overlays) -> Vec<String> {
    let is_inside = |text: &str| shoal_swarm::ip_of(text).is_some_and(|ip| overlays.contains(ip));
    let outside = ordered.iter().filter(|text| !is_inside(text));
    let parsed = outside.filter_map(|text| shoal_swarm::peer_address(text).ok());
    parsed.map(|parsed| parsed.address).take(ADDRESSES_MAX).collect()
}

/// The ports of listeners.
pub(crate) fn ports(addresses: &[String]) -> BTreeSet<Port> {
    let port = |text: &String| {
        let mut parts = text.split('/');
        while let Some(part) = parts.next() {
            match part {
                "tcp" => return parts.next()?.parse().ok().map(Port::Tcp),
                "udp" => return parts.next()?.parse().ok().map(Port::Udp),
                _ => {}
            }
        }
        None
    };
    addresses.iter().filter_map(port).collect()
}

/// Notes them for `shoald address`. A failure is logged: the node runs without.
pub(crate) fn note(data: &Path, addresses: &[String]) {
    if let Err(error) = write_private(&data.join(FILE), (addresses.join("\n") + "\n").as_bytes()) {
        tracing::warn!(%error, "cannot note the addresses for `shoald address`");
    }
}

/// Where the node of this directory listens, or listened last.
pub(crate) fn noted(data: &Path) -> Option<Vec<String>> {
    let bytes = read_bounded(&data.join(FILE), FILE_MAX).ok()??;
    let text = std::str::from_utf8(&bytes).ok()?;
    Some(text.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vpn::places::Overlay;

    #[test]
    fn loopback_comes_last_and_tcp_first() {
        let id = shoal_protocol::NodeId::from_bytes([7; 32]);
        let sorted =
            ["/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/udp/1/quic-v1", "/ip4/127.0.0.1/tcp/1", "/ip6/::1/udp/1/quic-v1"];
        let with_id = |order: [usize; 4]| order.map(|at| format!("{}/p2p/{id}", sorted[at])).to_vec();
        let addresses = ordered(with_id([3, 1, 2, 0]));
        assert_eq!(addresses, with_id([0, 1, 2, 3]));
        assert_eq!(ports(&addresses), [Port::Tcp(1), Port::Udp(1)].into());
        assert_eq!(advertised(&addresses, &Overlays::default()), sorted);
        let network = shoal_protocol::NetworkId::from_bytes([7; 32]);
        let overlays = [Overlay::new("10.0.0.0/16".parse().unwrap(), &network)].into_iter().collect();
        assert_eq!(advertised(&addresses, &overlays), sorted[2..]);
    }
}
