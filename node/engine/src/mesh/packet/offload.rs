//! What the kernel says about a packet to the wire's meta, and a meta with its packet back to what a kernel is told. No
//! offset of the far side is ever used: the packet is parsed here, and what a claim does not bear out is dropped.

use core::num::NonZeroU16;

use shoal_protocol::mesh::meta::{Meta, SEGMENTS_MAX, SuperKind};

use super::bytes::{be16, put16};
use super::checksum::Sum;
use super::parse::{Fragment, Parsed, Tcp, Transport, Version};
use super::virtio::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VirtioHeader};
use super::{PacketDrop, tuple};

/// Where the checksum is in a TCP header.
const TCP_CHECKSUM: usize = 16;
/// Where the checksum is in a UDP header.
const UDP_CHECKSUM: usize = 6;

/// How a super-packet falls apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Bytes of all headers, repeated before every segment.
    pub(super) header: usize,
    /// Payload bytes of all segments.
    pub(super) payload: usize,
    /// How many there are.
    pub(super) segments: usize,
}

/// What a super-packet of this kind and segment size is, if the packet can be one.
pub(super) fn shape(parsed: &Parsed, kind: SuperKind, segment_size: NonZeroU16) -> Result<Shape, PacketDrop> {
    let above = match (kind, parsed.version, parsed.transport) {
        (SuperKind::Tcp4, Version::V4, Transport::Tcp(tcp)) | (SuperKind::Tcp6, Version::V6, Transport::Tcp(tcp)) => {
            // Neither begins nor tears down a connection more than once.
            if tcp.flags & (Tcp::SYN | Tcp::RST) != 0 {
                return Err(PacketDrop::BadOffload);
            }
            tcp.header
        }
        (SuperKind::Udp, _, Transport::Udp { .. }) => super::parse::UDP_HEADER,
        _ => return Err(PacketDrop::BadOffload),
    };
    checksum_place(parsed)?;
    let header = parsed.network.saturating_add(above);
    let payload = parsed.length.saturating_sub(header);
    let segments = payload.div_ceil(usize::from(segment_size.get()));
    if segments == 0 || segments > SEGMENTS_MAX {
        return Err(PacketDrop::BadOffload);
    }
    Ok(Shape { header, payload, segments })
}

/// Where the checksum of a packet is that may be pending: TCP or UDP, whole, covered to its last byte, and by nothing
/// else.
pub(super) fn checksum_place(parsed: &Parsed) -> Result<usize, PacketDrop> {
    let place = match parsed.transport {
        Transport::Tcp(_) => TCP_CHECKSUM,
        Transport::Udp { length, .. } if length == parsed.above_network() => UDP_CHECKSUM,
        _ => return Err(PacketDrop::BadOffload),
    };
    let whole = parsed.fragment == Fragment::Whole && !parsed.authenticated;
    if whole { Ok(parsed.network.saturating_add(place)) } else { Err(PacketDrop::BadOffload) }
}

/// Makes the TCP or UDP checksum of a packet whose field holds anything.
///
/// # Errors
/// [`PacketDrop::BadOffload`] if it has none that could be pending.
pub fn complete(packet: &mut [u8], parsed: &Parsed) -> Result<(), PacketDrop> {
    let place = checksum_place(parsed)?;
    put16(packet, place, 0)?;
    let covered = packet.get(parsed.network..).ok_or(PacketDrop::Truncated)?;
    let sum = pseudo(parsed, covered.len()).bytes(covered);
    put16(packet, place, finished(sum, parsed.protocol))
}

pub(super) fn pseudo(parsed: &Parsed, length: usize) -> Sum {
    Sum::default().pseudo(parsed.source, parsed.destination, parsed.protocol, length)
}

/// The checksum of a sum; UDP has no 0, which means none was made (RFC 768).
pub(super) const fn finished(sum: Sum, protocol: u8) -> u16 {
    match sum.checksum() {
        0 if protocol == tuple::UDP => 0xffff,
        checksum => checksum,
    }
}

/// Takes what the own kernel handed over: `packet` is what followed `header`. A checksum that the wire cannot express as
/// pending is made here.
///
/// # Errors
/// [`PacketDrop`]: not a packet, or [`PacketDrop::BadOffload`] for segments of a kind that was never switched on, beyond
/// [`SEGMENTS_MAX`], or not what the packet is.
pub fn ingest(header: &VirtioHeader, packet: &mut [u8]) -> Result<(Parsed, Meta), PacketDrop> {
    let parsed = Parsed::of(packet)?;
    let kind = match header.gso_type & !GSO_ECN {
        GSO_NONE if header.flags & NEEDS_CSUM == 0 => return Ok((parsed, Meta::COMPLETE)),
        GSO_NONE => return Ok((parsed, single(header, packet, &parsed)?)),
        GSO_TCPV4 => SuperKind::Tcp4,
        GSO_TCPV6 => SuperKind::Tcp6,
        GSO_UDP_L4 => SuperKind::Udp,
        _ => return Err(PacketDrop::BadOffload),
    };
    let segment_size = NonZeroU16::new(header.segment_size).ok_or(PacketDrop::BadOffload)?;
    let meta = match shape(&parsed, kind, segment_size)?.segments {
        1 => Meta::Single { checksum_pending: true },
        _ => Meta::Super { kind, segment_size },
    };
    Ok((parsed, meta))
}

/// A single packet with a half-made checksum: left so if it is that of its own TCP or UDP header, else (inside a tunnel,
/// in a fragment) made as the kernel described it.
fn single(header: &VirtioHeader, packet: &mut [u8], parsed: &Parsed) -> Result<Meta, PacketDrop> {
    let start = usize::from(header.checksum_start);
    let place = start.saturating_add(usize::from(header.checksum_offset));
    if start == parsed.network && checksum_place(parsed) == Ok(place) {
        return Ok(Meta::Single { checksum_pending: true });
    }
    if start < parsed.network {
        return Err(PacketDrop::BadOffload);
    }
    be16(packet, place).map_err(|_| PacketDrop::BadOffload)?;
    let covered = packet.get(start..).ok_or(PacketDrop::BadOffload)?;
    // The field holds the pseudo header already. 0xffff is 0 too, and no protocol minds it.
    let checksum = match Sum::default().bytes(covered).checksum() {
        0 => 0xffff,
        checksum => checksum,
    };
    put16(packet, place, checksum)?;
    // Whoever can write raw packets to the device chooses the place: what was decided about must be what is sent.
    if Parsed::of(packet) == Ok(*parsed) { Ok(Meta::COMPLETE) } else { Err(PacketDrop::BadOffload) }
}

/// Takes what a peer sent and makes of it what the own kernel is told. The checksum field of a pending packet is written
/// anew, so nothing of the sender's arithmetic is left.
///
/// # Errors
/// [`PacketDrop`]: not a packet, or [`PacketDrop::BadOffload`] for a meta that does not fit it.
pub fn rebuild(meta: Meta, packet: &mut [u8]) -> Result<(Parsed, VirtioHeader), PacketDrop> {
    let parsed = Parsed::of(packet)?;
    let none = VirtioHeader::default();
    let (kind, shape) = match meta {
        Meta::Single { checksum_pending: false } => return Ok((parsed, none)),
        Meta::Single { checksum_pending: true } => (GSO_NONE, None),
        Meta::Super { kind, segment_size } => {
            let shape = shape(&parsed, kind, segment_size)?;
            let number = match kind {
                SuperKind::Tcp4 => GSO_TCPV4,
                SuperKind::Tcp6 => GSO_TCPV6,
                SuperKind::Udp => GSO_UDP_L4,
            };
            // One segment is a packet: kernels refuse super-packets of one.
            if shape.segments > 1 { (number, Some((shape, segment_size.get()))) } else { (GSO_NONE, None) }
        }
    };
    let place = checksum_place(&parsed)?;
    put16(packet, place, pseudo(&parsed, parsed.above_network()).folded())?;
    let narrow = |number: usize| u16::try_from(number).map_err(|_| PacketDrop::BadOffload);
    let marked = parsed.tcp_flags().is_some_and(|flags| flags & Tcp::CWR != 0) && shape.is_some();
    let (header_length, segment_size) = match shape {
        Some((shape, size)) => (narrow(shape.header)?, size),
        None => (0, 0),
    };
    let header = VirtioHeader {
        flags: NEEDS_CSUM,
        gso_type: kind | if marked { GSO_ECN } else { 0 },
        header_length,
        segment_size,
        checksum_start: narrow(parsed.network)?,
        checksum_offset: narrow(place.saturating_sub(parsed.network))?,
    };
    Ok((parsed, header))
}
