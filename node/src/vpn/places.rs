//! Where others may send this node datagrams: its machine's addresses, those inside private networks left out. It
//! opens no socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use shoal_protocol::NetworkId;
use shoal_protocol::mesh::address::network_prefix;
use shoal_protocol::mesh::message::{ENDPOINTS_MAX, Endpoint};
use shoal_protocol::mesh::prefix::Prefix;

use super::system::netlink::{Netlink, NetlinkError};
use super::system::udp::UdpSocket;

/// The two prefixes of a private network. Connections of the swarm over them would be a tunnel in the tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overlay {
    v4: Prefix,
    v6: Prefix,
}

impl Overlay {
    /// Of a network and its pool.
    pub(crate) fn new(pool: Prefix, network: &NetworkId) -> Self {
        Self { v4: pool, v6: network_prefix(network) }
    }

    /// Both.
    pub(crate) const fn prefixes(&self) -> [Prefix; 2] {
        [self.v4, self.v6]
    }

    /// Whether some address of a prefix is in the private network.
    pub(crate) fn overlaps(&self, prefix: &Prefix) -> bool {
        self.prefixes().iter().any(|own| own.overlaps(prefix))
    }

    /// Whether an address is in the private network.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.v4.contains(address) || self.v6.contains(address)
    }
}

/// Those of all private networks of a node. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overlays(Arc<[Overlay]>);

impl Overlays {
    /// Whether an address is in any of them.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|overlay| overlay.contains(address))
    }

    /// Whether some address of a prefix is in any of them.
    pub(crate) fn overlaps(&self, prefix: &Prefix) -> bool {
        self.0.iter().any(|overlay| overlay.overlaps(prefix))
    }
}

impl FromIterator<Overlay> for Overlays {
    fn from_iter<T: IntoIterator<Item = Overlay>>(overlays: T) -> Self {
        Self(overlays.into_iter().collect())
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Places {
    overlays: Overlays,
    /// Where the sockets are bound, one a family.
    bound: Vec<SocketAddr>,
}

impl Places {
    pub(crate) fn new(sockets: &[UdpSocket], overlays: Overlays) -> Self {
        Self { overlays, bound: sockets.iter().map(|socket| socket.facts().local).collect() }
    }

    /// The endpoints as they are now, IPv6 last, at most [`ENDPOINTS_MAX`].
    ///
    /// # Errors
    /// [`NetlinkError`] if the system does not say.
    pub(crate) fn endpoints(&self, netlink: &mut Netlink) -> Result<Vec<Endpoint>, NetlinkError> {
        let addresses = netlink.all_addresses()?.into_iter().map(|address| address.address);
        let mut found: Vec<Endpoint> =
            addresses.filter(|address| self.is_place(*address)).filter_map(|address| self.endpoint(address)).collect();
        if found.is_empty() {
            // Alone on this machine: others on it see the address of the connection, and need the port.
            found.extend(self.endpoint(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        }
        found.sort_by_key(|endpoint| endpoint.address());
        found.truncate(ENDPOINTS_MAX);
        Ok(found)
    }

    fn is_place(&self, address: IpAddr) -> bool {
        let is_near = match address {
            IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
            IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
        };
        !is_near && !self.overlays.contains(address)
    }

    fn endpoint(&self, address: IpAddr) -> Option<Endpoint> {
        let bound = self.bound.iter().find(|bound| bound.is_ipv4() == address.is_ipv4())?;
        Endpoint::new(SocketAddr::new(address, bound.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_the_network_itself_nor_this_machine_alone_is_a_place() {
        let network = NetworkId::from_bytes([7; 32]);
        let other = Overlay::new("10.9.0.0/16".parse().unwrap(), &NetworkId::from_bytes([8; 32]));
        let overlay = Overlay::new("100.64.0.0/10".parse().unwrap(), &network);
        let bound = vec!["0.0.0.0:4000".parse().unwrap(), "[::]:4001".parse().unwrap()];
        let overlays: Overlays = [overlay, other].into_iter().collect();
        let places = Places { overlays: overlays.clone(), bound };
        let own = network_prefix(&network).address();
        for (text, is_one) in [
            ("192.0.2.1", true),
            ("2001:db8::1", true),
            ("127.0.0.1", false),
            ("100.64.0.9", false),
            ("10.9.0.9", false),
            ("fe80::1", false),
        ] {
            assert_eq!(places.is_place(text.parse().unwrap()), is_one, "{text}");
        }
        assert!(!places.is_place(own));
        let text = |address: &str| places.endpoint(address.parse().unwrap()).unwrap().address().to_string();
        assert_eq!((text("192.0.2.1"), text("2001:db8::1")), ("192.0.2.1:4000".into(), "[2001:db8::1]:4001".into()));
        assert!(Places { overlays, bound: vec![] }.endpoint("192.0.2.1".parse().unwrap()).is_none());
    }
}
