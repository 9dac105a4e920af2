//! Bytes to the facts of one IP packet. It believes no length, follows no chain beyond a bound, and answers every odd
//! packet with a reason; it changes nothing and decides nothing about who may send what.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shoal_protocol::mesh::meta::SuperKind;

use super::PacketDrop;
use super::bytes::{array, be16, be32, byte};
use super::checksum::Sum;
use super::tuple::{ICMP, ICMPV6, TCP, Tuple, UDP};

/// Most extension headers of one IPv6 packet. RFC 8200 4.1 knows seven places; what needs more is an attack on parsers.
pub const EXTENSIONS_MAX: usize = 8;
/// Bytes of an IPv6 header.
pub const IPV6_HEADER: usize = 40;
/// Least bytes of an IPv4 header.
pub const IPV4_HEADER_MIN: usize = 20;
/// Least bytes of a TCP header.
pub const TCP_HEADER_MIN: usize = 20;
/// Bytes of a UDP header.
pub const UDP_HEADER: usize = 8;
/// Largest packet IP can put together from fragments, bytes.
const REASSEMBLED_MAX: usize = 65_535;

/// Which IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Whether it is a packet or a piece of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// All of it. An IPv6 atomic fragment (RFC 6946) is whole too.
    Whole,
    /// The first piece: it has the ports.
    First,
    /// A later piece: nobody knows its ports.
    Later,
}

/// A TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tcp {
    /// Source and destination.
    pub ports: (u16, u16),
    /// Bytes of the header with its options, 20 to 60.
    pub header: usize,
    /// Byte 13: CWR, ECE, URG, ACK, PSH, RST, SYN, FIN from the highest bit.
    pub flags: u8,
    /// Of the first payload byte, or of the SYN.
    pub sequence: u32,
}

impl Tcp {
    /// No more comes from this side.
    pub const FIN: u8 = 0x01;
    /// A connection begins.
    pub const SYN: u8 = 0x02;
    /// A connection is torn down.
    pub const RST: u8 = 0x04;
    /// Hand over what there is.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// The sender slowed down (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// What is above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// RFC 9293.
    Tcp(Tcp),
    /// RFC 768.
    Udp {
        /// Source and destination.
        ports: (u16, u16),
        /// Its own length field: header and payload.
        length: usize,
    },
    /// ICMP in IPv4 (RFC 792), ICMPv6 in IPv6 (RFC 4443).
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Of an echo request or reply.
        identifier: Option<u16>,
    },
    /// Anything else, and what a later fragment carries.
    Opaque,
}

/// The facts of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Which IP.
    pub version: Version,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// DSCP in the upper six bits, ECN in the lower two.
    pub traffic_class: u8,
    /// Protocol above IP and its extension headers.
    pub protocol: u8,
    /// Bytes of the packet.
    pub length: usize,
    /// Bytes before the transport header: IP header with options, or with extension headers.
    pub network: usize,
    /// What is above.
    pub transport: Transport,
    /// Whether it is a piece.
    pub fragment: Fragment,
    /// An authentication header (RFC 4302) covers it: no byte may be changed.
    pub authenticated: bool,
}

impl Parsed {
    /// Reads a packet that fills `packet` exactly.
    ///
    /// # Errors
    /// [`PacketDrop`] with the first thing that is wrong.
    pub fn of(packet: &[u8]) -> Result<Self, PacketDrop> {
        match byte(packet, 0)? >> 4 {
            4 => parse_v4(packet),
            6 => parse_v6(packet),
            _ => Err(PacketDrop::Version),
        }
    }

    /// What a decision is made of.
    #[must_use]
    pub const fn tuple(&self) -> Tuple {
        let ports = match self.transport {
            Transport::Tcp(Tcp { ports, .. }) | Transport::Udp { ports, .. } => Some(ports),
            Transport::Icmp { identifier: Some(identifier), .. } => Some((identifier, identifier)),
            Transport::Icmp { .. } | Transport::Opaque => None,
        };
        Tuple { source: self.source, destination: self.destination, protocol: self.protocol, ports }
    }

    /// The flags of a TCP header, if there is one.
    #[must_use]
    pub const fn tcp_flags(&self) -> Option<u8> {
        match self.transport {
            Transport::Tcp(tcp) => Some(tcp.flags),
            _ => None,
        }
    }

    /// Of which kind a super-packet of such packets is; none of what is never in one.
    #[must_use]
    pub const fn super_kind(&self) -> Option<SuperKind> {
        match (self.transport, self.version) {
            (Transport::Tcp(_), Version::V4) => Some(SuperKind::Tcp4),
            (Transport::Tcp(_), Version::V6) => Some(SuperKind::Tcp6),
            (Transport::Udp { .. }, _) => Some(SuperKind::Udp),
            _ => None,
        }
    }

    /// Bytes from the transport header to the end.
    #[must_use]
    pub const fn above_network(&self) -> usize {
        self.length.saturating_sub(self.network)
    }
}

fn parse_v4(packet: &[u8]) -> Result<Parsed, PacketDrop> {
    let fixed: [u8; IPV4_HEADER_MIN] = array(packet, 0)?;
    let network = usize::from(fixed[0] & 0x0f).saturating_mul(4);
    let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if network < IPV4_HEADER_MIN || network > length {
        return Err(PacketDrop::HeaderLength);
    }
    if length != packet.len() {
        return Err(if length > packet.len() { PacketDrop::Truncated } else { PacketDrop::TotalLength });
    }
    let header = packet.get(..network).ok_or(PacketDrop::HeaderLength)?;
    if Sum::default().bytes(header).checksum() != 0 {
        return Err(PacketDrop::HeaderChecksum);
    }
    check_options(header.get(IPV4_HEADER_MIN..).unwrap_or_default())?;
    let word = u16::from_be_bytes([fixed[6], fixed[7]]);
    let (offset, more) = (usize::from(word & 0x1fff).saturating_mul(8), word & 0x2000 != 0);
    let protocol = fixed[9];
    let above = length.saturating_sub(network);
    let fragment = fragment_of(offset, more, above)?;
    let [_, _, _, _, _, _, _, _, _, _, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = fixed;
    let mut parsed = Parsed {
        version: Version::V4,
        source: Ipv4Addr::new(s0, s1, s2, s3).into(),
        destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
        traffic_class: fixed[1],
        protocol,
        length,
        network,
        transport: Transport::Opaque,
        fragment,
        authenticated: protocol == AUTHENTICATION,
    };
    parsed.transport = transport_of(packet, &parsed, offset)?;
    Ok(parsed)
}

/// Options must end where the header does, and not lead elsewhere (loose and strict source route, RFC 7126 4.3, 4.4).
fn check_options(mut options: &[u8]) -> Result<(), PacketDrop> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const LOOSE_ROUTE: u8 = 131;
    const STRICT_ROUTE: u8 = 137;
    loop {
        options = match options {
            [] | [END, ..] => return Ok(()),
            [NOTHING, rest @ ..] => rest,
            [LOOSE_ROUTE | STRICT_ROUTE, ..] => return Err(PacketDrop::SourceRoute),
            [_, length, ..] if *length >= 2 => options.get(usize::from(*length)..).ok_or(PacketDrop::Options)?,
            _ => return Err(PacketDrop::Options),
        };
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// Where a chain of extension headers led.
pub(super) struct Chain {
    pub(super) protocol: u8,
    pub(super) at: usize,
    /// Offset in bytes and more-flag.
    pub(super) piece: Option<(usize, bool)>,
    authenticated: bool,
}

fn parse_v6(packet: &[u8]) -> Result<Parsed, PacketDrop> {
    let fixed: [u8; IPV6_HEADER] = array(packet, 0)?;
    let length = usize::from(u16::from_be_bytes([fixed[4], fixed[5]])).saturating_add(IPV6_HEADER);
    if length != packet.len() {
        return Err(if length > packet.len() { PacketDrop::Truncated } else { PacketDrop::TotalLength });
    }
    let chain = walk(packet, fixed[6])?;
    let above = length.saturating_sub(chain.at);
    let (offset, more) = chain.piece.unwrap_or((0, false));
    let source: [u8; 16] = array(&fixed, 8)?;
    let destination: [u8; 16] = array(&fixed, 24)?;
    let mut parsed = Parsed {
        version: Version::V6,
        source: Ipv6Addr::from(source).into(),
        destination: Ipv6Addr::from(destination).into(),
        traffic_class: (fixed[0] & 0x0f) << 4 | fixed[1] >> 4,
        protocol: chain.protocol,
        length,
        network: chain.at,
        transport: Transport::Opaque,
        fragment: fragment_of(offset, more, above)?,
        authenticated: chain.authenticated,
    };
    parsed.transport = transport_of(packet, &parsed, offset)?;
    Ok(parsed)
}

/// Follows the extension headers up to what is above IP, or to the end of what a later fragment shows.
pub(super) fn walk(packet: &[u8], first: u8) -> Result<Chain, PacketDrop> {
    let mut chain = Chain { protocol: first, at: IPV6_HEADER, piece: None, authenticated: false };
    for place in 0..=EXTENSIONS_MAX {
        let length = match chain.protocol {
            // Only right behind the IPv6 header (RFC 8200 4.1).
            HOP_BY_HOP if place > 0 => return Err(PacketDrop::Extensions),
            HOP_BY_HOP | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 => extension_length(packet, chain.at)?,
            ROUTING => {
                // With segments left the destination address is only the next stop; type 0 is dead (RFC 5095).
                let (kind, left) =
                    (byte(packet, chain.at.saturating_add(2))?, byte(packet, chain.at.saturating_add(3))?);
                if left > 0 || kind == 0 {
                    return Err(PacketDrop::SourceRoute);
                }
                extension_length(packet, chain.at)?
            }
            FRAGMENT if chain.piece.is_some() => return Err(PacketDrop::Fragment),
            FRAGMENT => {
                let word = be16(packet, chain.at.saturating_add(2))?;
                chain.piece = Some((usize::from(word & 0xfff8), word & 1 != 0));
                8
            }
            AUTHENTICATION => {
                chain.authenticated = true;
                // In words of 4 bytes, less 2 (RFC 4302 2.2).
                usize::from(byte(packet, chain.at.saturating_add(1))?).saturating_add(2).saturating_mul(4)
            }
            _ => return Ok(chain),
        };
        let next = byte(packet, chain.at)?;
        chain.at = chain.at.saturating_add(length);
        if chain.at > packet.len() {
            return Err(PacketDrop::Truncated);
        }
        chain.protocol = next;
        if chain.piece.is_some_and(|(offset, _)| offset > 0) {
            return Ok(chain);
        }
    }
    Err(PacketDrop::Extensions)
}

/// In words of 8 bytes, less 1 (RFC 6564).
fn extension_length(packet: &[u8], at: usize) -> Result<usize, PacketDrop> {
    Ok(usize::from(byte(packet, at.saturating_add(1))?).saturating_add(1).saturating_mul(8))
}

fn fragment_of(offset: usize, more: bool, above: usize) -> Result<Fragment, PacketDrop> {
    if offset.saturating_add(above) > REASSEMBLED_MAX || (more && (above == 0 || !above.is_multiple_of(8))) {
        return Err(PacketDrop::Fragment);
    }
    Ok(match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    })
}

/// The header above IP. A first fragment must show it whole (RFC 7112, RFC 1858), a second must not begin inside it.
fn transport_of(packet: &[u8], parsed: &Parsed, offset: usize) -> Result<Transport, PacketDrop> {
    if parsed.fragment == Fragment::Later {
        // RFC 3128: eight bytes in are the flags of TCP.
        let overwrites = parsed.protocol == TCP && offset < TCP_HEADER_MIN;
        return if overwrites { Err(PacketDrop::TinyFragment) } else { Ok(Transport::Opaque) };
    }
    let read = match (parsed.protocol, parsed.version) {
        (TCP, _) => tcp_of(packet, parsed),
        (UDP, _) => udp_of(packet, parsed),
        (ICMP, Version::V4) => icmp_of(packet, parsed, [8, 0]),
        (ICMPV6, Version::V6) => icmp_of(packet, parsed, [128, 129]),
        _ => Ok(Transport::Opaque),
    };
    match parsed.fragment {
        Fragment::First => read.map_err(|_| PacketDrop::TinyFragment),
        _ => read,
    }
}

fn tcp_of(packet: &[u8], parsed: &Parsed) -> Result<Transport, PacketDrop> {
    let fixed: [u8; TCP_HEADER_MIN] = array(packet, parsed.network)?;
    let header = usize::from(fixed[12] >> 4).saturating_mul(4);
    if header < TCP_HEADER_MIN || header > parsed.above_network() {
        return Err(PacketDrop::Transport);
    }
    let ports = (be16(&fixed, 0)?, be16(&fixed, 2)?);
    Ok(Transport::Tcp(Tcp { ports, header, flags: fixed[13], sequence: be32(&fixed, 4)? }))
}

/// Its length may be less than what is there: what follows are options (RFC 9868). Never more, but in a first fragment.
fn udp_of(packet: &[u8], parsed: &Parsed) -> Result<Transport, PacketDrop> {
    let fixed: [u8; UDP_HEADER] = array(packet, parsed.network)?;
    let length = usize::from(be16(&fixed, 4)?);
    let over = parsed.fragment == Fragment::Whole && length > parsed.above_network();
    if length < UDP_HEADER || over {
        return Err(PacketDrop::Transport);
    }
    Ok(Transport::Udp { ports: (be16(&fixed, 0)?, be16(&fixed, 2)?), length })
}

fn icmp_of(packet: &[u8], parsed: &Parsed, echoes: [u8; 2]) -> Result<Transport, PacketDrop> {
    let fixed: [u8; 8] = array(packet, parsed.network)?;
    let identifier = echoes.contains(&fixed[0]).then_some(u16::from_be_bytes([fixed[4], fixed[5]]));
    Ok(Transport::Icmp { kind: fixed[0], code: fixed[1], identifier })
}
