//! Public networks: what one operator can have many addresses of. It says which network an address is in, and nothing of
//! who may do what.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};

/// A public network: the /24 of an IPv4 address, the /48 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subnet {
    /// First three octets.
    V4([u8; 3]),
    /// First three groups.
    V6([u16; 3]),
}

impl Subnet {
    /// The network of an address that its maker cannot choose freely: private, loopback, link-local and carrier addresses
    /// are nobody's network, one household may have hundreds of machines there.
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                let carrier_nat = a == 100 && (b & 0xc0) == 64;
                let own = address.is_private() || address.is_loopback() || address.is_link_local();
                (!own && !carrier_nat && a != 0).then_some(Self::V4([a, b, c]))
            }
            IpAddr::V6(address) => {
                let [a, b, c, ..] = address.segments();
                let own = address.is_unspecified() || address.is_loopback();
                let own = own || address.is_unique_local() || address.is_unicast_link_local();
                (!own).then_some(Self::V6([a, b, c]))
            }
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4([a, b, c]) => write!(f, "{a}.{b}.{c}.0/24"),
            Self::V6([a, b, c]) => write!(f, "{}/48", Ipv6Addr::new(*a, *b, *c, 0, 0, 0, 0, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_addresses() {
        let of = |text: &str| Subnet::of(text.parse().unwrap());
        assert_eq!(of("203.0.113.7"), Some(Subnet::V4([203, 0, 113])));
        assert_eq!(of("::ffff:203.0.113.7"), of("203.0.113.200"));
        assert_eq!(of("2001:67c:1:2::3"), Some(Subnet::V6([0x2001, 0x67c, 1])));
        for none in [
            "10.0.0.1",
            "127.0.0.1",
            "192.168.0.9",
            "169.254.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fd00::1",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
