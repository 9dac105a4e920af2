//! What a sender says about a packet before its bytes: whether it is a super-packet, and whether its checksum is still
//! to be made. Offsets are never said: the receiver finds them in the packet itself.
//!
//! ```text
//! byte 0    bits 0-1 kind: 0 none, 1 tcp4, 2 tcp6, 3 udp; bit 2 checksum pending; bits 3-7 zero
//! byte 1-2  segment size u16 BE: 0 for kind none, else payload bytes of every segment but the last
//! ```

use core::num::NonZeroU16;

/// Most segments of one super-packet: the 64 KiB an IP packet can have hold 54 of the smallest MTU of IPv6, and the
/// kernels that make and take super-packets allow between 64 and 128.
pub const SEGMENTS_MAX: usize = 128;

/// Bits 0 and 1 of the first byte.
const KIND_BITS: u8 = 0b011;
/// Bit 2 of the first byte.
const PENDING_BIT: u8 = 0b100;

/// What a super-packet is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SuperKind {
    /// One TCP stream over IPv4.
    Tcp4,
    /// One TCP stream over IPv6.
    Tcp6,
    /// Datagrams of one UDP flow, over IPv4 or IPv6.
    Udp,
}

/// What precedes a packet on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Meta {
    /// One packet.
    Single {
        /// Its TCP or UDP checksum is not made yet; the field holds anything.
        checksum_pending: bool,
    },
    /// Several segments under one header, whose checksums are made when it is cut.
    Super {
        /// What they are.
        kind: SuperKind,
        /// Payload bytes of every segment but the last, which has 1 to as many.
        segment_size: NonZeroU16,
    },
}

/// Why three bytes are no meta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// A bit is set that this version does not know.
    #[error("unknown bits in the meta byte {0:#04x}")]
    Bits(u8),
    /// A single packet with a segment size.
    #[error("a single packet has no segment size, this one {0}")]
    SizeOfSingle(u16),
    /// A super-packet without a segment size.
    #[error("a super-packet without a segment size")]
    NoSize,
    /// A super-packet whose checksum is said to be made: it cannot be.
    #[error("the checksum of a super-packet is always pending")]
    Finished,
}

impl Meta {
    /// Bytes of a meta.
    pub const LEN: usize = 3;
    /// A packet with nothing to do.
    pub const COMPLETE: Self = Self::Single { checksum_pending: false };

    /// Whether a checksum is still to be made.
    #[must_use]
    pub const fn checksum_pending(self) -> bool {
        match self {
            Self::Single { checksum_pending } => checksum_pending,
            Self::Super { .. } => true,
        }
    }

    /// The only bytes of this meta.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::LEN] {
        match self {
            Self::Single { checksum_pending: false } => [0, 0, 0],
            Self::Single { checksum_pending: true } => [PENDING_BIT, 0, 0],
            Self::Super { kind, segment_size } => {
                let kind = match kind {
                    SuperKind::Tcp4 => 1,
                    SuperKind::Tcp6 => 2,
                    SuperKind::Udp => 3,
                };
                let [high, low] = segment_size.get().to_be_bytes();
                [kind | PENDING_BIT, high, low]
            }
        }
    }

    /// Reads a meta.
    ///
    /// # Errors
    /// [`MetaError`] for everything that [`Meta::to_bytes`] does not write.
    pub const fn from_bytes([first, high, low]: [u8; Self::LEN]) -> Result<Self, MetaError> {
        if first & !(KIND_BITS | PENDING_BIT) != 0 {
            return Err(MetaError::Bits(first));
        }
        let checksum_pending = first & PENDING_BIT != 0;
        let size = u16::from_be_bytes([high, low]);
        let kind = match first & KIND_BITS {
            0 if size != 0 => return Err(MetaError::SizeOfSingle(size)),
            0 => return Ok(Self::Single { checksum_pending }),
            1 => SuperKind::Tcp4,
            2 => SuperKind::Tcp6,
            _ => SuperKind::Udp,
        };
        if !checksum_pending {
            return Err(MetaError::Finished);
        }
        match NonZeroU16::new(size) {
            Some(segment_size) => Ok(Self::Super { kind, segment_size }),
            None => Err(MetaError::NoSize),
        }
    }
}
