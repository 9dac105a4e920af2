//! The header the kernel puts before every packet of a TUN device opened with IFF_VNET_HDR (virtio 1.2, 5.1.6
//! `virtio_net_hdr`). It is a local matter: never sent, never taken from the wire.
//!
//! ```text
//! byte 0    flags: 1 checksum pending, 2 checksum already verified
//! byte 1    0 none, 1 tcp4, 3 ufo, 4 tcp6, 5 udp; 0x80 added: CWR is set
//! byte 2-3  bytes of all headers, a hint     byte 4-5  segment size
//! byte 6-7  where the checksum begins        byte 8-9  where it is stored, from there
//! byte 10-11  buffers, in the long form only
//! ```
//! Numbers are little-endian: on other machines the device has to be told so with TUNSETVNETLE.

use super::PacketDrop;
use super::bytes::{array, put};

/// Flag: the checksum from `csum_start` on is half made.
pub const NEEDS_CSUM: u8 = 1;
/// Segment kind: one packet.
pub const GSO_NONE: u8 = 0;
/// Segment kind: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// Segment kind: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// Segment kind: UDP datagrams.
pub const GSO_UDP_L4: u8 = 5;
/// Added to a TCP kind: the first segment has CWR.
pub const GSO_ECN: u8 = 0x80;

/// How long the header is, as set with TUNSETVNETHDRSZ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// 10 bytes.
    Short,
    /// 12 bytes.
    Long,
}

impl Form {
    /// Bytes of the header.
    #[must_use]
    pub const fn length(self) -> usize {
        match self {
            Self::Short => 10,
            Self::Long => 12,
        }
    }
}

/// `virtio_net_hdr`, its numbers as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// [`NEEDS_CSUM`] and others.
    pub flags: u8,
    /// One of the kinds above.
    pub gso_type: u8,
    /// Bytes of all headers; a hint that nobody should believe.
    pub header_length: u16,
    /// Payload bytes of a segment.
    pub segment_size: u16,
    /// Where the checksum begins.
    pub checksum_start: u16,
    /// Where it is stored, from its beginning.
    pub checksum_offset: u16,
}

impl VirtioHeader {
    /// Reads the header at the front of what the device gave, and what follows it.
    ///
    /// # Errors
    /// [`PacketDrop::Truncated`] if there are fewer bytes than the form has.
    pub fn parse(bytes: &[u8], form: Form) -> Result<(Self, &[u8]), PacketDrop> {
        let rest = bytes.get(form.length()..).ok_or(PacketDrop::Truncated)?;
        let [flags, gso_type, h0, h1, s0, s1, c0, c1, o0, o1] = array(bytes, 0)?;
        let header = Self {
            flags,
            gso_type,
            header_length: u16::from_le_bytes([h0, h1]),
            segment_size: u16::from_le_bytes([s0, s1]),
            checksum_start: u16::from_le_bytes([c0, c1]),
            checksum_offset: u16::from_le_bytes([o0, o1]),
        };
        Ok((header, rest))
    }

    /// Writes the header to the front of `out`; the long form counts no buffers, as a TUN device wants it.
    ///
    /// # Errors
    /// [`PacketDrop::NoRoom`] if `out` is shorter than the form.
    pub fn write(&self, form: Form, out: &mut [u8]) -> Result<(), PacketDrop> {
        let ([h0, h1], [s0, s1]) = (self.header_length.to_le_bytes(), self.segment_size.to_le_bytes());
        let ([c0, c1], [o0, o1]) = (self.checksum_start.to_le_bytes(), self.checksum_offset.to_le_bytes());
        let bytes = [self.flags, self.gso_type, h0, h1, s0, s1, c0, c1, o0, o1, 0, 0];
        put(out, 0, bytes.get(..form.length()).unwrap_or_default())
    }
}
