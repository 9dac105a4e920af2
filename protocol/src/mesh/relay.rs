//! The header with which a sealed frame crosses relays. It is not encrypted for them, and what they may change of it is
//! exactly what the ends do not authenticate.
//!
//! ```text
//! byte 0       bits 4-7 version, 1; bits 0-3 class, 0 to 3         a relay may read and change it
//! byte 1       hop limit, 1 to 255                                 every relay lowers it
//! byte 2-3     flow label u16 BE                                   \
//! byte 4-13    destination, peer hash                               } end-to-end associated data, 22 bytes
//! byte 14-23   source, peer hash                                   /
//! ```

use super::class::Class;
use super::peer_hash::PeerHash;

/// The only version of this header.
pub const RELAY_VERSION: u8 = 1;
/// Hop limit an origin writes.
pub const HOP_LIMIT: u8 = 16;
/// Highest hop limit a relay writes, whatever it received: who writes 255 gets no further than who writes 16.
pub const HOP_LIMIT_RELAYED_MAX: u8 = HOP_LIMIT - 1;

/// What stands before a frame that crosses relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayHeader {
    /// How urgent it is: a wish, not authenticated.
    pub class: Class,
    /// How many more links it may cross, this one included.
    pub hop_limit: u8,
    /// Frames of one flow have one label, so that relays may spread flows without reordering them. Of the inner flow it
    /// tells a hash seeded by the origin, nothing else.
    pub flow_label: u16,
    /// Who can open the frame.
    pub destination: PeerHash,
    /// Who sealed it. Only the destination can tell whether that is true.
    pub source: PeerHash,
}

/// Why bytes are no relay header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayHeaderError {
    /// Fewer than [`RelayHeader::LEN`] bytes.
    #[error("a relay header cut short")]
    Short,
    /// Another version.
    #[error("relay header version {0}")]
    Version(u8),
    /// A class that does not exist.
    #[error("class number {0}")]
    Class(u8),
    /// Hop limit 0: nobody sends it on.
    #[error("hop limit 0")]
    HopLimit,
    /// From somebody to itself.
    #[error("source and destination are one peer")]
    SameEnds,
}

impl RelayHeader {
    /// Bytes of the header.
    pub const LEN: usize = 24;
    /// Where the hop limit is.
    pub const HOP_LIMIT_AT: usize = 1;
    /// Which bytes of the header are in the end-to-end associated data: label, destination, source.
    pub const AAD: core::ops::Range<usize> = 2..Self::LEN;

    /// The only bytes of this header.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = RELAY_VERSION << 4 | self.class.number();
        out[Self::HOP_LIMIT_AT] = self.hop_limit;
        out[2..4].copy_from_slice(&self.flow_label.to_be_bytes());
        out[4..14].copy_from_slice(self.destination.as_bytes());
        out[14..].copy_from_slice(self.source.as_bytes());
        out
    }

    /// The associated data of the end-to-end seal.
    #[must_use]
    pub fn aad(&self) -> [u8; Self::LEN - 2] {
        let bytes = self.to_bytes();
        core::array::from_fn(|i| bytes[i + Self::AAD.start])
    }

    /// Reads the header at the front of a frame.
    ///
    /// # Errors
    /// [`RelayHeaderError`] with the first thing that is wrong.
    pub fn parse(frame: &[u8]) -> Result<Self, RelayHeaderError> {
        let Some((header, _)) = frame.split_first_chunk::<{ Self::LEN }>() else {
            return Err(RelayHeaderError::Short);
        };
        let [first, hop_limit, label_high, label_low, ends @ ..] = *header;
        if first >> 4 != RELAY_VERSION {
            return Err(RelayHeaderError::Version(first >> 4));
        }
        let class = Class::from_number(first & 0x0f).ok_or(RelayHeaderError::Class(first & 0x0f))?;
        if hop_limit == 0 {
            return Err(RelayHeaderError::HopLimit);
        }
        let destination = PeerHash::new(core::array::from_fn(|i| ends[i]));
        let source = PeerHash::new(core::array::from_fn(|i| ends[i + PeerHash::LEN]));
        if destination == source {
            return Err(RelayHeaderError::SameEnds);
        }
        let flow_label = u16::from_be_bytes([label_high, label_low]);
        Ok(Self { class, hop_limit, flow_label, destination, source })
    }
}
