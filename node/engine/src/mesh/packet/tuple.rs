//! What a decision about a packet is made of: addresses, protocol, ports. It holds no byte of the packet.

use core::net::IpAddr;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// The five values that name a flow in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Protocol above IP, extension headers left out.
    pub protocol: u8,
    /// Source and destination port of TCP and UDP; of ICMP echoes their identifier, twice. None for other protocols, other
    /// ICMP, and fragments but the first, whose ports nobody knows.
    pub ports: Option<(u16, u16)>,
}

impl Tuple {
    /// The same flow, seen from the other side.
    #[must_use]
    pub const fn reversed(self) -> Self {
        let ports = match self.ports {
            Some((source, destination)) => Some((destination, source)),
            None => None,
        };
        Self { source: self.destination, destination: self.source, protocol: self.protocol, ports }
    }

    /// Whether the ports are ports, not an identifier of ICMP.
    #[must_use]
    pub const fn has_ports(&self) -> bool {
        self.ports.is_some() && (self.protocol == TCP || self.protocol == UDP)
    }
}
