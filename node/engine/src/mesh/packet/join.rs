//! Packets of one flow, which came one by one, to one super-packet for the own kernel: fewer and longer writes to a TUN
//! device. It joins only what the kernel would cut into the same packets again, and holds no byte: those lie in memory of
//! the caller, one copy each.
//!
//! The rules are those of generic receive offload in Linux (`inet_gro_receive`, `ipv6_gro_receive`, `tcp_gro_receive`,
//! `udp_gro_receive`), less what few packets have: IP options, extension headers, TCP options but timestamps.

use core::num::NonZeroU16;

use shoal_protocol::mesh::meta::{Meta, SEGMENTS_MAX, SuperKind};

use super::PacketDrop;
use super::bytes::{array, be16, put, put16};
use super::checksum::Sum;
use super::offload::{checksum_place, pseudo, rebuild};
use super::parse::{IPV4_HEADER_MIN, IPV6_HEADER, Parsed, TCP_HEADER_MIN, Tcp, Transport, UDP_HEADER, Version};
use super::virtio::VirtioHeader;

/// Bytes a caller's memory needs so that the largest super-packet fits: the largest IP packet.
pub const JOIN_BYTES: usize = 65_535;
/// Bytes of the one set of TCP options that is joined: two no-operations and timestamps (RFC 7323 appendix A).
const TIMESTAMPS: usize = 12;
/// How it begins.
const TIMESTAMPS_HEAD: [u8; 4] = [1, 1, 8, 10];

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// It is in the buffer, and more may follow.
    Open,
    /// It is in the buffer, and is the last: to be written before the next one is given.
    Last,
    /// It does not follow what is in the buffer, which is as it was: that is to be written, then this to be given again.
    Other,
    /// It is never joined, and nothing is in the buffer: to be written as it is.
    Alone,
}

/// Where a TCP segment or datagram has its parts.
#[derive(Clone, Copy, Debug)]
struct Shape {
    kind: SuperKind,
    /// Bytes before the payload.
    header: usize,
    network: usize,
    sequence: u32,
    flags: u8,
    pending: bool,
}

/// What is in the buffer.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Of the first.
    shape: Shape,
    /// Payload bytes of the first, and of all but the last.
    size: usize,
    count: usize,
    /// Bytes used.
    length: usize,
    /// What each IPv4 identification has more than the one before; known from the second packet on.
    step: Option<u16>,
    is_last: bool,
}

/// One super-packet in the making. For several flows at once a caller has several, each with its own buffer.
#[derive(Debug, Default)]
pub struct Join {
    held: Option<Held>,
}

impl Join {
    /// Nothing is held.
    #[must_use]
    pub const fn new() -> Self {
        Self { held: None }
    }

    /// Whether nothing is in the buffer.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.held.is_none()
    }

    /// Puts `packet`, which came with `meta`, behind what is in `out`, which is the same memory each time until
    /// [`finish`](Self::finish).
    ///
    /// # Errors
    /// [`PacketDrop::NoRoom`] if `out` is too short for the first packet.
    pub fn push(&mut self, packet: &[u8], parsed: &Parsed, meta: Meta, out: &mut [u8]) -> Result<Joined, PacketDrop> {
        let Some(shape) = Shape::of(packet, parsed, meta) else {
            return Ok(if self.is_empty() { Joined::Alone } else { Joined::Other });
        };
        let Some(held) = &mut self.held else {
            let size = packet.len().saturating_sub(shape.header);
            put(out, 0, packet)?;
            let is_last = shape.flags & (Tcp::FIN | Tcp::PSH) != 0;
            self.held = Some(Held { shape, size, count: 1, length: packet.len(), step: None, is_last });
            return Ok(if is_last { Joined::Last } else { Joined::Open });
        };
        let payload = packet.get(shape.header..).ok_or(PacketDrop::Truncated)?;
        let step = held.follows(&shape, packet, payload.len(), out)?;
        let end = held.length.saturating_add(payload.len());
        let Some(step) = step.filter(|_| end <= JOIN_BYTES.min(out.len())) else { return Ok(Joined::Other) };
        put(out, held.length, payload)?;
        held.step = Some(step);
        held.count = held.count.saturating_add(1);
        held.length = end;
        held.shape.flags |= shape.flags & (Tcp::FIN | Tcp::PSH);
        held.shape.pending |= shape.pending;
        held.is_last =
            payload.len() < held.size || shape.flags & (Tcp::FIN | Tcp::PSH) != 0 || held.count >= SEGMENTS_MAX;
        Ok(if held.is_last { Joined::Last } else { Joined::Open })
    }

    /// What is in `out` becomes one packet: its length and what the kernel is told of it. None if nothing is held.
    ///
    /// # Errors
    /// [`PacketDrop`] if `out` is not the memory the packets were put in.
    pub fn finish(&mut self, out: &mut [u8]) -> Result<Option<(usize, VirtioHeader)>, PacketDrop> {
        let Some(held) = self.held.take() else { return Ok(None) };
        let packet = out.get_mut(..held.length).ok_or(PacketDrop::NoRoom)?;
        if held.count == 1 {
            let meta = Meta::Single { checksum_pending: held.shape.pending };
            return rebuild(meta, packet).map(|(_, header)| Some((held.length, header)));
        }
        held.write_headers(packet)?;
        let size = u16::try_from(held.size).ok().and_then(NonZeroU16::new).ok_or(PacketDrop::BadOffload)?;
        let meta = Meta::Super { kind: held.shape.kind, segment_size: size };
        rebuild(meta, packet).map(|(_, header)| Some((held.length, header)))
    }
}

impl Shape {
    /// What a packet has to be to be joined with others; none if it is not.
    fn of(packet: &[u8], parsed: &Parsed, meta: Meta) -> Option<Self> {
        let Meta::Single { checksum_pending: pending } = meta else { return None };
        checksum_place(parsed).ok()?;
        let plain = match parsed.version {
            Version::V4 => IPV4_HEADER_MIN,
            Version::V6 => IPV6_HEADER,
        };
        let kind = parsed.super_kind()?;
        let (above, sequence, flags) = match parsed.transport {
            Transport::Tcp(tcp) => (tcp.header, tcp.sequence, tcp.flags),
            _ => (UDP_HEADER, 0, 0),
        };
        let shape = Self { kind, header: plain.checked_add(above)?, network: plain, sequence, flags, pending };
        let is_joined = parsed.network == plain && parsed.length > shape.header && shape.is_data(packet);
        (is_joined && (pending || is_whole(packet, parsed))).then_some(shape)
    }

    /// Whether a TCP segment is one in the middle of a stream: acknowledges, is not urgent, begins and breaks off nothing,
    /// has no options but timestamps.
    fn is_data(&self, packet: &[u8]) -> bool {
        if self.kind == SuperKind::Udp {
            return true;
        }
        let options = packet.get(self.network.saturating_add(TCP_HEADER_MIN)..self.header).unwrap_or_default();
        let known = options.is_empty() || (options.len() == TIMESTAMPS && options.starts_with(&TIMESTAMPS_HEAD));
        let urgent = be16(packet, self.network.saturating_add(18)) != Ok(0);
        known && !urgent && self.flags & (Tcp::ACK | Tcp::SYN | Tcp::RST | Tcp::URG) == Tcp::ACK
    }
}

impl Held {
    /// Whether a packet with `payload` bytes is the next one of what is in `out`: by how much its identification is more
    /// than the one before.
    fn follows(&self, shape: &Shape, packet: &[u8], payload: usize, out: &[u8]) -> Result<Option<u16>, PacketDrop> {
        let first = &self.shape;
        let alike = |from: usize, to: usize| packet.get(from..to) == out.get(from..to);
        let above = first.network;
        let from = |at: usize| above.saturating_add(at);
        let fits = !self.is_last && shape.kind == first.kind && shape.header == first.header && payload <= self.size;
        let network = match above {
            // Version, length, class; fragment word, hop limit, protocol; addresses.
            IPV4_HEADER_MIN => alike(0, 2) && alike(6, 10) && alike(12, 20),
            // Version, class, label; next header, hop limit, addresses.
            _ => alike(0, 4) && alike(6, IPV6_HEADER),
        };
        let transport = if first.kind == SuperKind::Udp {
            alike(above, from(4))
        } else {
            let sequence = u32::try_from(self.length.saturating_sub(first.header)).unwrap_or(u32::MAX);
            let bits = (shape.flags ^ first.flags) & !(Tcp::CWR | Tcp::FIN | Tcp::PSH);
            // Ports; acknowledgement, length; window; options.
            alike(above, from(4))
                && shape.sequence == first.sequence.wrapping_add(sequence)
                && alike(from(8), from(13))
                && bits == 0
                && shape.flags & Tcp::CWR == 0
                && alike(from(14), from(16))
                && alike(from(18), first.header)
        };
        if !fits || !network || !transport {
            return Ok(None);
        }
        if above != IPV4_HEADER_MIN {
            return Ok(Some(0));
        }
        self.identification_step(packet, out)
    }

    /// Identifications count on by one. Those of packets that may not be cut mean nothing (RFC 6864 4.1) and may also stay
    /// the same; which one it is has to hold for all.
    fn identification_step(&self, packet: &[u8], out: &[u8]) -> Result<Option<u16>, PacketDrop> {
        let [word, _] = array(packet, 6)?;
        let is_atomic = word & 0x40 != 0;
        let more = be16(packet, 4)?.wrapping_sub(be16(out, 4)?);
        let count = u16::try_from(self.count).unwrap_or(u16::MAX);
        let step = match more {
            0 if is_atomic => 0,
            more if more == count => 1,
            _ => return Ok(None),
        };
        Ok(Some(step).filter(|step| self.step.is_none_or(|before| before == *step)))
    }

    /// Lengths, flags and the checksum of an IPv4 header, as of one packet.
    fn write_headers(&self, packet: &mut [u8]) -> Result<(), PacketDrop> {
        let narrow = |length: usize| u16::try_from(length).map_err(|_| PacketDrop::TotalLength);
        let network = self.shape.network;
        if network == IPV4_HEADER_MIN {
            put16(packet, 2, narrow(self.length)?)?;
            put16(packet, 10, 0)?;
            let header = packet.get(..network).ok_or(PacketDrop::Truncated)?;
            let checksum = Sum::default().bytes(header).checksum();
            put16(packet, 10, checksum)?;
        } else {
            put16(packet, 4, narrow(self.length.saturating_sub(IPV6_HEADER))?)?;
        }
        if self.shape.kind == SuperKind::Udp {
            put16(packet, network.saturating_add(4), narrow(self.length.saturating_sub(network))?)
        } else {
            put(packet, network.saturating_add(13), &[self.shape.flags])
        }
    }
}

/// Whether the checksum of a packet is made and right: a wrong one must stay wrong, and a datagram's that was never made
/// must stay so.
fn is_whole(packet: &[u8], parsed: &Parsed) -> bool {
    let covered = packet.get(parsed.network..).unwrap_or_default();
    let made = match parsed.transport {
        Transport::Udp { .. } => be16(packet, parsed.network.saturating_add(6)) != Ok(0),
        _ => true,
    };
    made && pseudo(parsed, covered.len()).bytes(covered).checksum() == 0
}
