//! Addresses as text: what people write and what other crates keep. It resolves no name and opens no socket.

use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use shoal_protocol::NodeId;

use crate::lanes::node_of;
use crate::limits::ADDRESS_TEXT_MAX;

/// Why a text is not an address we can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing was given.
    #[error("the address is empty")]
    Empty,
    /// Longer than any address.
    #[error("the address has {0} bytes; at most {ADDRESS_TEXT_MAX} are allowed")]
    TooLong(usize),
    /// `host:port`, as other programs write it.
    #[error("write {0} instead")]
    SocketAddress(String),
    /// Not a multiaddr.
    #[error("{text:?} is not a multiaddr such as /ip4/192.0.2.7/tcp/4001 ({cause})")]
    Malformed {
        /// The text.
        text: String,
        /// The parser's reason.
        cause: String,
    },
    /// No transport here speaks it.
    #[error("{0:?} needs /tcp/PORT or /udp/PORT/quic-v1 after /ip4, /ip6 or /dns")]
    Unsupported(String),
    /// A relayed address.
    #[error("{0:?} leads through a relay, which is not supported yet")]
    Relayed(String),
    /// A peer id without an Ed25519 key.
    #[error("{0:?} names a peer whose key is not Ed25519")]
    PeerKey(String),
    /// The peer in the address is not the peer that was asked for.
    #[error("the addresses name more than one peer")]
    PeerMismatch,
    /// More addresses than one dial may have.
    #[error("{0} addresses; one dial takes at most {max}", max = crate::limits::DIAL_ADDRESSES_MAX)]
    TooMany(usize),
}

/// An address and the peer it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// Without a last `/p2p` part.
    pub address: String,
    /// From the last `/p2p` part.
    pub peer: Option<NodeId>,
}

/// Reads an address a person wrote: `/ip4/192.0.2.7/tcp/4001`, with or without `/p2p/12D3Koo..` at the end.
///
/// # Errors
/// [`AddressError`], worded for that person.
pub fn peer_address(text: &str) -> Result<PeerAddress, AddressError> {
    let (address, peer) = parse(text)?;
    Ok(PeerAddress { address: address.to_string(), peer })
}

/// The IP address in a multiaddr, if it has one.
#[must_use]
pub fn ip_of(text: &str) -> Option<IpAddr> {
    if text.len() > ADDRESS_TEXT_MAX {
        return None;
    }
    ip_of_multiaddr(&text.parse().ok()?)
}

/// The first IP part of an address.
pub(crate) fn ip_of_multiaddr(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })
}

/// Address and port of TCP alone, whatever peer is named behind them.
pub(crate) fn socket_of(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Protocol::Tcp(port)), None | Some(Protocol::P2p(_)), None) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Whether an address (without `/p2p`) leads over TCP alone.
pub(crate) fn is_tcp(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    parts.next().is_some_and(|host| is_host(&host))
        && matches!((parts.next(), parts.next()), (Some(Protocol::Tcp(_)), None))
}

/// An address without its last `/p2p` part, and the peer that part names.
pub(crate) fn parse(text: &str) -> Result<(Multiaddr, Option<NodeId>), AddressError> {
    let mut address = parse_any(text)?;
    let own = || text.to_owned();
    let peer = match address.iter().last() {
        Some(Protocol::P2p(peer)) => {
            address.pop();
            Some(node_of(&peer).ok_or_else(|| AddressError::PeerKey(own()))?)
        }
        _ => None,
    };
    if address.iter().any(|part| matches!(part, Protocol::P2pCircuit | Protocol::P2p(_))) {
        return Err(AddressError::Relayed(own()));
    }
    if !has_transport(&address) {
        return Err(AddressError::Unsupported(own()));
    }
    Ok((address, peer))
}

fn parse_any(text: &str) -> Result<Multiaddr, AddressError> {
    if text.is_empty() {
        return Err(AddressError::Empty);
    }
    if text.len() > ADDRESS_TEXT_MAX {
        return Err(AddressError::TooLong(text.len()));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        let family = if socket.is_ipv4() { "ip4" } else { "ip6" };
        return Err(AddressError::SocketAddress(format!("/{family}/{}/tcp/{}", socket.ip(), socket.port())));
    }
    text.parse().map_err(|cause: libp2p::multiaddr::Error| AddressError::Malformed {
        text: text.to_owned(),
        cause: cause.to_string(),
    })
}

fn has_transport(address: &Multiaddr) -> bool {
    let parts: Vec<Protocol<'_>> = address.iter().collect();
    match parts.as_slice() {
        [host, Protocol::Tcp(_)] => is_host(host),
        [host, Protocol::Udp(_), Protocol::QuicV1] => is_host(host),
        [Protocol::Dnsaddr(_)] => true,
        [Protocol::Memory(_)] => cfg!(feature = "test-utils"),
        _ => false,
    }
}

const fn is_host(part: &Protocol<'_>) -> bool {
    matches!(part, Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn addresses_with_and_without_a_peer() {
        let node = NodeId::from_bytes([9; 32]);
        let plain = peer_address("/ip4/192.0.2.7/tcp/4001").unwrap();
        assert_eq!(plain, PeerAddress { address: "/ip4/192.0.2.7/tcp/4001".into(), peer: None });
        let named = peer_address(&format!("/dns4/example.org/udp/4001/quic-v1/p2p/{node}")).unwrap();
        assert_eq!(named, PeerAddress { address: "/dns4/example.org/udp/4001/quic-v1".into(), peer: Some(node) });
    }

    #[test]
    fn mistakes_are_explained() {
        assert_eq!(peer_address(""), Err(AddressError::Empty));
        let hint = peer_address("192.0.2.7:4001").unwrap_err();
        assert_eq!(hint.to_string(), "write /ip4/192.0.2.7/tcp/4001 instead");
        assert!(matches!(peer_address("/ip4/300.0.0.1/tcp/1"), Err(AddressError::Malformed { .. })));
        assert!(matches!(peer_address("/ip4/192.0.2.7"), Err(AddressError::Unsupported(_))));
        assert!(matches!(peer_address("/ip4/192.0.2.7/udp/5"), Err(AddressError::Unsupported(_))));
        assert!(matches!(peer_address(&"/".repeat(300)), Err(AddressError::TooLong(300))));
        let relay = NodeId::from_bytes([1; 32]);
        let relayed = format!("/ip4/192.0.2.7/tcp/4001/p2p/{relay}/p2p-circuit/p2p/{relay}");
        assert!(matches!(peer_address(&relayed), Err(AddressError::Relayed(_))));
    }

    #[test]
    fn ip_parts_of_addresses() {
        assert_eq!(ip_of("/ip4/10.0.0.1/tcp/1"), Some(Ipv4Addr::new(10, 0, 0, 1).into()));
        assert_eq!(ip_of("/dns/example.org/tcp/1"), None);
    }
}
