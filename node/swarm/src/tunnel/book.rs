//! Where peers can be dialled over TCP: what callers named for them, and what they said of themselves. Pure memory; an
//! address here is a hint that a dial tries, never a fact.

use std::collections::VecDeque;

use libp2p::Multiaddr;
use shoal_protocol::NodeId;

use crate::address::is_tcp;
use crate::limits::{ADDRESS_BOOK_PEERS_MAX, DIAL_ADDRESSES_MAX};

/// The book, the peer named last at the back.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    /// At most [`ADDRESS_BOOK_PEERS_MAX`], each with at most [`DIAL_ADDRESSES_MAX`] addresses, the latest last.
    peers: VecDeque<(NodeId, Vec<Multiaddr>)>,
}

impl AddressBook {
    /// Keeps those of the addresses (without `/p2p`) that are TCP.
    pub(crate) fn add<'a>(&mut self, peer: NodeId, addresses: impl IntoIterator<Item = &'a Multiaddr>) {
        let mut addresses = addresses.into_iter().filter(|address| is_tcp(address)).take(DIAL_ADDRESSES_MAX).peekable();
        if addresses.peek().is_none() {
            return;
        }
        let place = self.peers.iter().position(|(known, _)| *known == peer);
        let (_, mut kept) = place.and_then(|place| self.peers.remove(place)).unwrap_or((peer, Vec::new()));
        for address in addresses {
            kept.retain(|known| known != address);
            kept.push(address.clone());
        }
        let beyond = kept.len().saturating_sub(DIAL_ADDRESSES_MAX);
        kept.drain(..beyond);
        self.peers.push_back((peer, kept));
        if self.peers.len() > ADDRESS_BOOK_PEERS_MAX {
            self.peers.pop_front();
        }
    }

    /// The same of what a peer says of itself, which pushes out nothing that a caller named.
    pub(crate) fn add_said(&mut self, peer: NodeId, addresses: &[Multiaddr]) {
        let named: Vec<Multiaddr> = self.of(&peer).into_iter().rev().collect();
        self.add(peer, addresses.iter().filter(|address| !named.contains(address)));
        self.add(peer, &named);
    }

    /// The latest first.
    pub(crate) fn of(&self, peer: &NodeId) -> Vec<Multiaddr> {
        let known = self.peers.iter().find(|(known, _)| known == peer);
        known.map(|(_, addresses)| addresses.iter().rev().cloned().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn tcp_alone_is_kept_the_latest_first_and_the_oldest_forgotten() {
        let (mut book, peer) = (AddressBook::default(), NodeId::from_bytes([1; 32]));
        book.add(peer, &[address("/ip4/1.2.3.4/udp/1/quic-v1"), address("/dnsaddr/example.org")]);
        assert!(book.of(&peer).is_empty());
        book.add(peer, &[address("/ip4/1.2.3.4/tcp/1"), address("/dns/example.org/tcp/2")]);
        book.add(peer, &[address("/ip4/1.2.3.4/tcp/1")]);
        assert_eq!(book.of(&peer), [address("/ip4/1.2.3.4/tcp/1"), address("/dns/example.org/tcp/2")]);
        for port in 10..30 {
            book.add(peer, &[address(&format!("/ip4/1.2.3.4/tcp/{port}"))]);
        }
        assert_eq!(book.of(&peer).len(), DIAL_ADDRESSES_MAX);
        assert_eq!(book.of(&peer)[0], address("/ip4/1.2.3.4/tcp/29"));
        for n in 0..ADDRESS_BOOK_PEERS_MAX {
            let mut other = [2; 32];
            other[..8].copy_from_slice(&n.to_be_bytes());
            book.add(NodeId::from_bytes(other), &[address("/ip4/1.2.3.4/tcp/1")]);
        }
        assert!(book.of(&peer).is_empty());
        assert_eq!(book.peers.len(), ADDRESS_BOOK_PEERS_MAX);
    }
}
