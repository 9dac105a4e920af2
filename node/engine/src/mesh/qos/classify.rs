//! A packet to its class, from what it says of itself: DSCP, ports, and whether it is only an acknowledgement.
//!
//! All packets of one flow get one class, but for acknowledgements without payload, whose order does not matter: a class
//! by size alone would send the small packets of a connection past its large ones, and TCP takes that for loss. A quiet
//! flow that no rule here knows is still served before the others of its class, see [`super::queue`].

use shoal_protocol::mesh::class::Class;

use crate::mesh::packet::ecn::dscp;
use crate::mesh::packet::tuple::{ICMP, ICMPV6};
use crate::mesh::packet::{Parsed, Tcp, Transport, Version};

/// Largest packet of a call, bytes: 60 ms of uncompressed 64 kbit/s speech (480) and headers. Larger ones on the same
/// ports are video.
const SPEECH_MAX: usize = 576;

/// The class of a packet.
#[must_use]
pub fn classify(parsed: &Parsed) -> Class {
    by_dscp(dscp(parsed.traffic_class)).unwrap_or_else(|| match parsed.transport {
        Transport::Tcp(tcp) if is_bare_acknowledgement(parsed, tcp) => Class::Interactive,
        Transport::Tcp(tcp) => by_tcp_port(tcp.ports.0).or(by_tcp_port(tcp.ports.1)).unwrap_or(Class::Bulk),
        Transport::Udp { ports: (source, destination), .. } => {
            let found = by_udp_port(source).or(by_udp_port(destination)).unwrap_or(Class::Bulk);
            if found == Class::Voice && parsed.length > SPEECH_MAX { Class::Interactive } else { found }
        }
        Transport::Icmp { .. } => Class::Interactive,
        Transport::Opaque if parsed.protocol == ICMP && parsed.version == Version::V4 => Class::Interactive,
        Transport::Opaque if parsed.protocol == ICMPV6 && parsed.version == Version::V6 => Class::Interactive,
        Transport::Opaque => Class::Bulk,
    })
}

/// What a sender marked: the service classes of RFC 4594 in four, lower effort (RFC 8622) last. None if it marked nothing
/// or something private.
const fn by_dscp(dscp: u8) -> Option<Class> {
    match dscp {
        // CS4 (games), CS5 (signalling), EF and VOICE-ADMIT (speech), CS6 and CS7 (routing).
        32 | 40 | 44 | 46 | 48 | 56 => Some(Class::Voice),
        // CS2 (administration), AF2x (transactions), CS3 and AF3x (broadcast), AF4x (conferences).
        16 | 18 | 20 | 22 | 24 | 26 | 28 | 30 | 34 | 36 | 38 => Some(Class::Interactive),
        // AF1x: much data.
        10 | 12 | 14 => Some(Class::Bulk),
        // LE and its older form CS1.
        1 | 8 => Some(Class::Background),
        _ => None,
    }
}

fn is_bare_acknowledgement(parsed: &Parsed, tcp: Tcp) -> bool {
    let bare = parsed.above_network() == tcp.header;
    bare && tcp.flags & (Tcp::SYN | Tcp::FIN | Tcp::RST) == 0
}

/// Ports of the service name registry, and those everybody uses for sharing files.
const fn by_tcp_port(port: u16) -> Option<Class> {
    match port {
        // SSH, telnet, DNS, DNS over TLS, SIP, RDP, VNC.
        22 | 23 | 53 | 853 | 5060 | 5061 | 3389 | 5900 => Some(Class::Interactive),
        // rsync, BitTorrent.
        873 | 6881..=6889 | 51413 => Some(Class::Background),
        _ => None,
    }
}

const fn by_udp_port(port: u16) -> Option<Class> {
    match port {
        // NTP, STUN and TURN, SIP, RTP as registered.
        123 | 3478 | 5004 | 5005 | 5060 => Some(Class::Voice),
        // DNS, DHCP, mDNS, mosh.
        53 | 67 | 68 | 546 | 547 | 5353 | 60000..=60010 => Some(Class::Interactive),
        6881..=6889 | 51413 => Some(Class::Background),
        _ => None,
    }
}
