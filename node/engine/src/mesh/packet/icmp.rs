//! The two things the tunnel has to do with ICMP: answer a packet that does not fit (RFC 1191, RFC 4443 3.2), and find
//! the flow an ICMP error is about. How often it answers is the caller's limit.

use core::net::IpAddr;

use super::bytes::{array, be16, byte, put, put16};
use super::checksum::Sum;
use super::parse::{Fragment, IPV4_HEADER_MIN, IPV6_HEADER, Parsed, Transport, Version, walk};
use super::tuple::{self, ICMP, ICMPV6, Tuple};

/// Most bytes of an answer over IPv4 (RFC 1812 4.3.2.3).
pub const ANSWER_V4_MAX: usize = 576;
/// Most bytes of an answer over IPv6: its least MTU (RFC 4443 2.4 (c)).
pub const ANSWER_V6_MAX: usize = 1280;
/// Least MTU an answer may state over IPv6; less is ignored by who obeys RFC 8201.
pub const MTU_V6_MIN: u32 = 1280;
/// Least MTU an answer states over IPv4 (RFC 791 3.1: what everybody can take in one piece is 576, what a link may have
/// is 68; stacks ignore what is below 552 to 576).
pub const MTU_V4_MIN: u32 = 576;
/// Hop limit of an answer (RFC 1812 4.3.2 and the assigned default).
const HOPS: u8 = 64;
/// Bytes of the ICMP header of an answer.
const ICMP_HEADER: usize = 8;

/// Why no answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NoAnswer {
    /// It is an ICMP error itself: errors about errors never end.
    #[error("icmp-error")]
    IcmpError,
    /// Not the first piece of a packet.
    #[error("later-fragment")]
    LaterFragment,
    /// Its source or destination is nobody in particular: the answer would reach many or none.
    #[error("not-unicast")]
    NotUnicast,
    /// The own address is of the other IP.
    #[error("own-address")]
    OwnAddress,
    /// The caller's buffer is shorter than the answer.
    #[error("no-room")]
    NoRoom,
}

/// Writes the answer to a packet that does not fit `mtu` bytes: fragmentation needed, or packet too big, from `own` to the
/// packet's source. Returns its bytes, at most [`ANSWER_V4_MAX`] or [`ANSWER_V6_MAX`].
///
/// An IPv4 packet that may be fragmented is answered too: nothing here fragments, so it is lost otherwise.
///
/// # Errors
/// [`NoAnswer`] where an answer is forbidden (RFC 1122 3.2.2, RFC 4443 2.4 (e)) or has no room.
pub fn too_big(packet: &[u8], parsed: &Parsed, own: IpAddr, mtu: u32, out: &mut [u8]) -> Result<usize, NoAnswer> {
    check(parsed)?;
    let (ip, most) = match (parsed.version, own) {
        (Version::V4, IpAddr::V4(_)) => (IPV4_HEADER_MIN, ANSWER_V4_MAX),
        (Version::V6, IpAddr::V6(_)) => (IPV6_HEADER, ANSWER_V6_MAX),
        _ => return Err(NoAnswer::OwnAddress),
    };
    let front = ip.saturating_add(ICMP_HEADER);
    let quoted = packet.get(..packet.len().min(most.saturating_sub(front))).unwrap_or_default();
    let length = front.saturating_add(quoted.len());
    let answer = out.get_mut(..length).ok_or(NoAnswer::NoRoom)?;
    answer.fill(0);
    write_answer(answer, front, quoted, (own, parsed.source), mtu).map_err(|_| NoAnswer::NoRoom)?;
    Ok(length)
}

fn write_answer(
    answer: &mut [u8],
    front: usize,
    quoted: &[u8],
    (own, to): (IpAddr, IpAddr),
    mtu: u32,
) -> Result<(), super::PacketDrop> {
    put(answer, front, quoted)?;
    // Bounded by `ANSWER_V6_MAX`, so both fit.
    let total = u16::try_from(answer.len()).unwrap_or(u16::MAX);
    let above = u16::try_from(answer.len().saturating_sub(IPV6_HEADER)).unwrap_or(u16::MAX);
    match (own, to) {
        (IpAddr::V4(own), IpAddr::V4(to)) => {
            let mtu = u16::try_from(mtu.max(MTU_V4_MIN)).unwrap_or(u16::MAX);
            // No precedence, may not be fragmented, and so needs no identification (RFC 6864).
            put(answer, 0, &[0x45, 0])?;
            put16(answer, 2, total)?;
            put(answer, 6, &[0x40, 0, HOPS, ICMP])?;
            put(answer, 12, &own.octets())?;
            put(answer, 16, &to.octets())?;
            let checksum = Sum::default().bytes(answer.get(..IPV4_HEADER_MIN).unwrap_or_default()).checksum();
            put16(answer, 10, checksum)?;
            put(answer, IPV4_HEADER_MIN, &[3, 4])?;
            put16(answer, IPV4_HEADER_MIN + 6, mtu)?;
            let checksum = Sum::default().bytes(answer.get(IPV4_HEADER_MIN..).unwrap_or_default()).checksum();
            put16(answer, IPV4_HEADER_MIN + 2, checksum)
        }
        (IpAddr::V6(own), IpAddr::V6(to)) => {
            put(answer, 0, &[0x60])?;
            put16(answer, 4, above)?;
            put(answer, 6, &[ICMPV6, HOPS])?;
            put(answer, 8, &own.octets())?;
            put(answer, 24, &to.octets())?;
            put(answer, IPV6_HEADER, &[2, 0])?;
            put(answer, IPV6_HEADER + 4, &mtu.max(MTU_V6_MIN).to_be_bytes())?;
            let covered = answer.get(IPV6_HEADER..).unwrap_or_default();
            let sum = Sum::default().pseudo(own.into(), to.into(), ICMPV6, covered.len());
            let checksum = sum.bytes(covered).checksum();
            put16(answer, IPV6_HEADER + 2, checksum)
        }
        _ => Err(super::PacketDrop::Version),
    }
}

fn check(parsed: &Parsed) -> Result<(), NoAnswer> {
    if is_error(parsed) {
        return Err(NoAnswer::IcmpError);
    }
    if parsed.fragment == Fragment::Later {
        return Err(NoAnswer::LaterFragment);
    }
    let one = |address: IpAddr| {
        let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
        !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
    };
    if one(parsed.source) && one(parsed.destination) { Ok(()) } else { Err(NoAnswer::NotUnicast) }
}

/// Whether a packet is an ICMP message about another packet.
#[must_use]
pub fn is_error(parsed: &Parsed) -> bool {
    match (parsed.transport, parsed.version) {
        // Unreachable, source quench, redirect, time exceeded, parameter problem.
        (Transport::Icmp { kind, .. }, Version::V4) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        // RFC 4443 2.1: errors are below 128.
        (Transport::Icmp { kind, .. }, Version::V6) => kind < 128,
        _ => false,
    }
}

/// The flow an ICMP error is about, in the direction of the packet it quotes; none if it is no error or quotes too
/// little. What is quoted is a stranger's word: a flow table has to know it.
#[must_use]
pub fn quoted(packet: &[u8], parsed: &Parsed) -> Option<Tuple> {
    if !is_error(parsed) || parsed.fragment != Fragment::Whole {
        return None;
    }
    let inner = packet.get(parsed.network.saturating_add(ICMP_HEADER)..)?;
    let first = byte(inner, 0).ok()?;
    let (source, destination, protocol, at): (IpAddr, IpAddr, u8, usize) = match (first >> 4, parsed.version) {
        (4, Version::V4) => {
            let (source, destination): ([u8; 4], [u8; 4]) = (array(inner, 12).ok()?, array(inner, 16).ok()?);
            let first_piece = be16(inner, 6).ok()? & 0x1fff == 0;
            let length = usize::from(first & 0x0f).saturating_mul(4);
            (first_piece && length >= IPV4_HEADER_MIN).then_some((
                source.into(),
                destination.into(),
                byte(inner, 9).ok()?,
                length,
            ))?
        }
        (6, Version::V6) => {
            let (source, destination): ([u8; 16], [u8; 16]) = (array(inner, 8).ok()?, array(inner, 24).ok()?);
            let chain = walk(inner, byte(inner, 6).ok()?).ok()?;
            let first_piece = chain.piece.is_none_or(|(offset, _)| offset == 0);
            first_piece.then_some((source.into(), destination.into(), chain.protocol, chain.at))?
        }
        _ => return None,
    };
    let ports = match protocol {
        tuple::TCP | tuple::UDP => (be16(inner, at).ok()?, be16(inner, at.saturating_add(2)).ok()?),
        ICMP | ICMPV6 => {
            let identifier = be16(inner, at.saturating_add(4)).ok()?;
            (identifier, identifier)
        }
        _ => return None,
    };
    Some(Tuple { source, destination, protocol, ports: Some(ports) })
}
