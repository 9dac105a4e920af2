//! Packets made the slow and obvious way, without a line of what is tested, to compare with. Nothing here is random.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// RFC 1071, a word at a time, carry by carry.
pub(crate) fn slow_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum as u16
}

/// What stands around a transport header.
#[derive(Clone, Debug)]
pub(crate) struct Ip {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) traffic_class: u8,
    pub(crate) identification: u16,
    /// IPv4 options, or whole IPv6 extension headers, the type of the first in front.
    pub(crate) options: Vec<u8>,
    pub(crate) first_extension: Option<u8>,
}

impl Ip {
    pub(crate) fn v4() -> Self {
        Self {
            source: Ipv4Addr::new(10, 0, 0, 1).into(),
            destination: Ipv4Addr::new(10, 0, 0, 2).into(),
            traffic_class: 0,
            identification: 1,
            options: vec![],
            first_extension: None,
        }
    }

    pub(crate) fn v6() -> Self {
        Self {
            source: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
            destination: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into(),
            ..Self::v4()
        }
    }

    /// With four no-operations, or an extension header of padding.
    pub(crate) fn with_options(self) -> Self {
        match self.source {
            IpAddr::V4(_) => Self { options: vec![1, 1, 1, 0], ..self },
            IpAddr::V6(_) => Self { options: vec![0, 0, 1, 4, 0, 0, 0, 0], first_extension: Some(60), ..self },
        }
    }

    /// Bytes before the transport header.
    pub(crate) fn network(&self) -> usize {
        self.options.len() + if self.source.is_ipv4() { 20 } else { 40 }
    }

    /// The packet, `above` behind its IP header.
    pub(crate) fn packet(&self, protocol: u8, above: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let total = self.network() + above.len();
                out.extend([0x40 | (self.network() / 4) as u8, self.traffic_class]);
                out.extend((total as u16).to_be_bytes());
                out.extend(self.identification.to_be_bytes());
                out.extend([0, 0, 64, protocol, 0, 0]);
                out.extend(source.octets());
                out.extend(destination.octets());
                out.extend(&self.options);
                let checksum = !slow_sum(&out);
                out[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                out.extend([0x60 | self.traffic_class >> 4, self.traffic_class << 4, 0, 0]);
                out.extend(((self.options.len() + above.len()) as u16).to_be_bytes());
                out.extend([self.first_extension.unwrap_or(protocol), 64]);
                out.extend(source.octets());
                out.extend(destination.octets());
                out.extend(&self.options);
                if self.first_extension.is_some() {
                    out[40] = protocol;
                }
            }
            _ => panic!("two versions"),
        }
        out.extend(above);
        out
    }

    /// The sum of the pseudo header and these bytes.
    pub(crate) fn pseudo_sum(&self, protocol: u8, above: &[u8]) -> u16 {
        let mut spelled = vec![];
        for address in [self.source, self.destination] {
            match address {
                IpAddr::V4(address) => spelled.extend(address.octets()),
                IpAddr::V6(address) => spelled.extend(address.octets()),
            }
        }
        spelled.extend((above.len() as u32).to_be_bytes());
        spelled.extend([0, 0, 0, protocol]);
        spelled.extend(above);
        slow_sum(&spelled)
    }
}

/// A TCP segment.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    pub(crate) urgent: u16,
    /// A multiple of 4.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Segment {
    pub(crate) fn header(&self) -> usize {
        20 + self.options.len()
    }

    /// The packet with its right checksum, and with only the seed of one.
    pub(crate) fn packets(&self, ip: &Ip) -> (Vec<u8>, Vec<u8>) {
        let mut above = vec![0x12, 0x34, 0, 80];
        above.extend(self.sequence.to_be_bytes());
        above.extend([1, 2, 3, 4, (self.header() / 4 * 16) as u8, self.flags, 0xff, 0xff, 0, 0]);
        above.extend(self.urgent.to_be_bytes());
        above.extend(&self.options);
        above.extend(&self.payload);
        finish(ip, TCP, above, 16)
    }
}

/// A UDP packet with its right checksum, and with only the seed of one.
pub(crate) fn udp(ip: &Ip, ports: (u16, u16), payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut above = vec![];
    above.extend(ports.0.to_be_bytes());
    above.extend(ports.1.to_be_bytes());
    above.extend((8 + payload.len() as u16).to_be_bytes());
    above.extend([0, 0]);
    above.extend(payload);
    finish(ip, UDP, above, 6)
}

/// An ICMP or ICMPv6 packet of this type, code and rest.
pub(crate) fn icmp(ip: &Ip, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut above = vec![kind, code, 0, 0];
    above.extend(rest);
    let v6 = ip.source.is_ipv6();
    let sum = if v6 { ip.pseudo_sum(ICMPV6, &above) } else { slow_sum(&above) };
    above[2..4].copy_from_slice(&(!sum).to_be_bytes());
    ip.packet(if v6 { ICMPV6 } else { ICMP }, &above)
}

fn finish(ip: &Ip, protocol: u8, mut above: Vec<u8>, place: usize) -> (Vec<u8>, Vec<u8>) {
    let checksum = match !ip.pseudo_sum(protocol, &above) {
        0 if protocol == UDP => 0xffff,
        checksum => checksum,
    };
    let zeros = vec![0; above.len()];
    let seed = ip.pseudo_sum(protocol, &zeros);
    let mut half = above.clone();
    half[place..place + 2].copy_from_slice(&seed.to_be_bytes());
    above[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
    (ip.packet(protocol, &above), ip.packet(protocol, &half))
}
