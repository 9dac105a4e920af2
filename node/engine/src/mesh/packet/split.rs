//! Super-packets to packets that fit: by the far side's offloads, by the largest frame of a route, by what a queue takes
//! in one piece. It writes into memory of the caller, one copy a byte, and never cuts what is not a super-packet.

use core::num::NonZeroU16;

use shoal_protocol::mesh::meta::{Meta, SEGMENTS_MAX, SuperKind};
use shoal_protocol::mesh::offloads::Offloads;

use super::PacketDrop;
use super::bytes::{be16, put, put16};
use super::checksum::Sum;
use super::offload::{Shape, checksum_place, complete, finished, pseudo, shape};
use super::parse::{IPV6_HEADER, Parsed, Tcp, Transport, Version};

/// What a packet has to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a packet, without meta: from the `max_frame` of the route, or from a queue.
    pub max_packet: usize,
    /// What the far side's kernel takes.
    pub far: Offloads,
}

/// What has to be sent instead of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// The packet itself, with this meta.
    Whole(Meta),
    /// The pieces that [`Split::next`] writes.
    Split(Split),
}

/// Makes a packet fit the far side: completes a checksum in place, or says how it is cut. TCP is cut smaller than its
/// sender meant if it has to be; datagrams never.
///
/// # Errors
/// [`PacketDrop::TooBig`] if it cannot be cut to fit, [`PacketDrop::BadOffload`] if it is not what the meta says or would
/// give more than [`SEGMENTS_MAX`] segments.
pub fn prepare(packet: &mut [u8], parsed: &Parsed, meta: Meta, limits: Limits) -> Result<Prepared, PacketDrop> {
    let (kind, wanted) = match meta {
        Meta::Single { .. } if packet.len() > limits.max_packet => return Err(PacketDrop::TooBig),
        Meta::Single { checksum_pending: true } if !limits.far.checksum => {
            complete(packet, parsed)?;
            return Ok(Prepared::Whole(Meta::COMPLETE));
        }
        Meta::Single { .. } => return Ok(Prepared::Whole(meta)),
        Meta::Super { kind, segment_size } => (kind, segment_size),
    };
    let Shape { header, payload, .. } = shape(parsed, kind, wanted)?;
    let room = limits.max_packet.saturating_sub(header);
    let segment_size = match kind {
        SuperKind::Udp if room < usize::from(wanted.get()) => return Err(PacketDrop::TooBig),
        SuperKind::Udp => wanted,
        SuperKind::Tcp4 | SuperKind::Tcp6 => {
            let narrow = u16::try_from(room).unwrap_or(u16::MAX);
            NonZeroU16::new(narrow.min(wanted.get())).ok_or(PacketDrop::TooBig)?
        }
    };
    let size = usize::from(segment_size.get());
    if payload.div_ceil(size) > SEGMENTS_MAX {
        return Err(PacketDrop::BadOffload);
    }
    let supers = limits.far.takes(kind);
    if supers && packet.len() <= limits.max_packet {
        return Ok(Prepared::Whole(Meta::Super { kind, segment_size }));
    }
    let together = if supers { room.checked_div(size).unwrap_or(1).max(1) } else { 1 };
    let stride = size.saturating_mul(together);
    let (parsed, far_checksum) = (*parsed, limits.far.checksum);
    Ok(Prepared::Split(Split { parsed, kind, segment_size, header, payload, stride, at: 0, far_checksum }))
}

/// Most bytes of a piece of a super-packet that is to be cut at `bytes`: at least one segment with its headers.
#[must_use]
pub fn piece_limit(parsed: &Parsed, meta: Meta, bytes: usize) -> usize {
    match meta {
        Meta::Super { kind, segment_size } => match shape(parsed, kind, segment_size) {
            Ok(shape) => bytes.max(shape.header.saturating_add(usize::from(segment_size.get()))),
            Err(_) => bytes,
        },
        Meta::Single { .. } => bytes.max(parsed.length),
    }
}

/// A super-packet that is being cut. It holds no bytes: every step is given the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    parsed: Parsed,
    kind: SuperKind,
    segment_size: NonZeroU16,
    /// Bytes of all headers.
    header: usize,
    /// Payload bytes of the packet.
    payload: usize,
    /// Payload bytes of every piece but the last: a multiple of the segment size.
    stride: usize,
    /// Payload bytes already written.
    at: usize,
    far_checksum: bool,
}

impl Split {
    /// Pieces that are still to come.
    #[must_use]
    pub fn left(&self) -> usize {
        self.payload.saturating_sub(self.at).div_ceil(self.stride.max(1))
    }

    /// Bytes of the largest piece: what `out` has to hold.
    #[must_use]
    pub fn largest(&self) -> usize {
        self.header.saturating_add(self.stride.min(self.payload))
    }

    /// Writes the next piece of `packet` to the front of `out`: its bytes and its meta, or none if all are written.
    ///
    /// # Errors
    /// [`PacketDrop::NoRoom`] if `out` is too short, [`PacketDrop::Truncated`] if `packet` is not what was prepared.
    pub fn next(&mut self, packet: &[u8], out: &mut [u8]) -> Result<Option<(usize, Meta)>, PacketDrop> {
        let take = self.stride.min(self.payload.saturating_sub(self.at));
        if take == 0 {
            return Ok(None);
        }
        let from = self.header.saturating_add(self.at);
        let headers = packet.get(..self.header).ok_or(PacketDrop::Truncated)?;
        let bytes = packet.get(from..from.saturating_add(take)).ok_or(PacketDrop::Truncated)?;
        let piece = out.get_mut(..self.header.saturating_add(take)).ok_or(PacketDrop::NoRoom)?;
        put(piece, 0, headers)?;
        put(piece, self.header, bytes)?;
        self.write_network(piece)?;
        self.write_transport(piece, take)?;
        let meta = self.finish(piece, take)?;
        self.at = self.at.saturating_add(take);
        Ok(Some((piece.len(), meta)))
    }

    /// Lengths; of IPv4 the identification, counted on by segments (RFC 6864), and the header checksum.
    fn write_network(&self, piece: &mut [u8]) -> Result<(), PacketDrop> {
        let narrow = |length: usize| u16::try_from(length).map_err(|_| PacketDrop::TotalLength);
        match self.parsed.version {
            Version::V6 => put16(piece, 4, narrow(piece.len().saturating_sub(IPV6_HEADER))?),
            Version::V4 => {
                let segment = narrow(self.at.checked_div(usize::from(self.segment_size.get())).unwrap_or(0))?;
                let identification = be16(piece, 4)?.wrapping_add(segment);
                put16(piece, 2, narrow(piece.len())?)?;
                put16(piece, 4, identification)?;
                put16(piece, 10, 0)?;
                let header = piece.get(..self.parsed.network).ok_or(PacketDrop::Truncated)?;
                let checksum = Sum::default().bytes(header).checksum();
                put16(piece, 10, checksum)
            }
        }
    }

    fn write_transport(&self, piece: &mut [u8], take: usize) -> Result<(), PacketDrop> {
        let (network, above) = (self.parsed.network, piece.len().saturating_sub(self.parsed.network));
        let Transport::Tcp(tcp) = self.parsed.transport else {
            let length = u16::try_from(above).map_err(|_| PacketDrop::TotalLength)?;
            return put16(piece, network.saturating_add(4), length);
        };
        let offset = u32::try_from(self.at).map_err(|_| PacketDrop::TotalLength)?;
        put(piece, network.saturating_add(4), &tcp.sequence.wrapping_add(offset).to_be_bytes())?;
        let mut flags = tcp.flags;
        if self.at.saturating_add(take) < self.payload {
            flags &= !(Tcp::FIN | Tcp::PSH);
        }
        if self.at > 0 {
            // Once is the answer to one ECE (RFC 3168 6.1.2).
            flags &= !Tcp::CWR;
        }
        // The urgent pointer counts from the sequence number of its own segment (RFC 9293 3.1).
        let urgent_at = network.saturating_add(18);
        if tcp.flags & Tcp::URG != 0 {
            let left = usize::from(be16(piece, urgent_at)?).saturating_sub(self.at);
            put16(piece, urgent_at, u16::try_from(left).unwrap_or(u16::MAX))?;
            if left == 0 && self.at > 0 {
                flags &= !Tcp::URG;
            }
        }
        put(piece, network.saturating_add(13), &[flags])
    }

    /// The checksum, or zero where the far side makes it.
    fn finish(&self, piece: &mut [u8], take: usize) -> Result<Meta, PacketDrop> {
        let place = checksum_place(&self.parsed)?;
        put16(piece, place, 0)?;
        if take > usize::from(self.segment_size.get()) {
            return Ok(Meta::Super { kind: self.kind, segment_size: self.segment_size });
        }
        if self.far_checksum {
            return Ok(Meta::Single { checksum_pending: true });
        }
        let covered = piece.get(self.parsed.network..).ok_or(PacketDrop::Truncated)?;
        let sum = pseudo(&self.parsed, covered.len()).bytes(covered);
        put16(piece, place, finished(sum, self.parsed.protocol))?;
        Ok(Meta::COMPLETE)
    }
}
