//! The data frame: header, counter, nonce. It neither seals nor opens.
//!
//! ```text
//! data frame = a4 || receiver u32 LE || counter u64 LE || sealed (kind u8 || body) || tag 16
//! counter    = path id in the top 8 bits, sequence in the low 56
//! nonce, 12  = 4 zero bytes || counter u64 LE
//! ```
//! Associated data is what the carrier of the frame says has to hold end to end (§18), nothing on a direct link. The
//! header needs no cover of its own: the index chooses the key, the counter is the nonce, and no other kind of message is
//! sealed under a data key.

use super::{MessageError, MessageKind, SessionIndex, take};

/// Bytes of the header.
pub const DATA_HEADER: usize = 13;
/// Bytes of the tag.
pub const DATA_TAG: usize = 16;
/// Bytes before a body: header and kind.
pub const BEFORE_BODY: usize = DATA_HEADER + 1;
/// Bytes a frame has beyond its body.
pub const FRAME_OVERHEAD: usize = BEFORE_BODY + DATA_TAG;
/// Longest data frame, header and tag included: what a lane carries in one piece.
pub const FRAME_MAX: usize = 65_535;
/// Path ids of single carriers: 0 for lanes, the others for UDP addresses. Each costs a receiver a replay window.
pub const PATH_IDS: u8 = 8;
/// Replay windows of a session: one a path id of a single carrier, one for dual-sent frames.
pub const WINDOWS: usize = PATH_IDS as usize + 1;
/// Frames a replay window remembers.
pub const WINDOW: u64 = 8192;
/// Sequence numbers of one path id and key.
pub const SEQUENCES: u64 = 1 << 56;
/// A session is replaced after so many sealed bytes in one direction, over all path ids.
pub const REKEY_BYTES: u64 = 1 << 36;
/// No frame is sealed or opened that takes a direction of a session beyond so many bytes.
pub const HARD_STOP_BYTES: u64 = 1 << 37;

/// Which way a frame was sent; each way counts its own sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(u8);

impl PathId {
    /// The lanes.
    pub const LANES: Self = Self(0);
    /// Over other members, as the routes say.
    pub const ROUTED: Self = Self(1);
    /// Sealed once, the same bytes on two carriers, accepted once.
    pub const DUAL: Self = Self(255);

    /// Path id `number`, if there is one.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < PATH_IDS || number == Self::DUAL.0 { Some(Self(number)) } else { None }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its place among the windows: below [`WINDOWS`].
    #[must_use]
    pub const fn slot(self) -> usize {
        if self.0 == Self::DUAL.0 { WINDOWS - 1 } else { self.0 as usize }
    }
}

/// Path id and sequence: no two frames of one key have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    path: PathId,
    sequence: u64,
}

impl Counter {
    /// The counter of the frame number `sequence` of a path, if there are so many.
    #[must_use]
    pub const fn new(path: PathId, sequence: u64) -> Option<Self> {
        if sequence < SEQUENCES { Some(Self { path, sequence }) } else { None }
    }

    /// The way it was sent.
    #[must_use]
    pub const fn path(self) -> PathId {
        self.path
    }

    /// Its number on that way.
    #[must_use]
    pub const fn sequence(self) -> u64 {
        self.sequence
    }

    /// As it is on the wire.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        ((self.path.0 as u64) << 56 | self.sequence).to_le_bytes()
    }

    /// The nonce the AEAD gets.
    #[must_use]
    pub fn nonce(self) -> [u8; 12] {
        let mut out = [0; 12];
        let (_, counter) = out.split_at_mut(4);
        counter.copy_from_slice(&self.to_bytes());
        out
    }
}

/// Header of a data frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// The receiver's index of the session.
    pub receiver: SessionIndex,
    /// Number of the frame.
    pub counter: Counter,
}

impl DataHeader {
    /// The bytes before the sealed part.
    #[must_use]
    pub fn to_bytes(self) -> [u8; DATA_HEADER] {
        let [a, b, c, d] = self.receiver.0.to_le_bytes();
        let [e, f, g, h, i, j, k, l] = self.counter.to_bytes();
        [MessageKind::Data.first_byte(), a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// The header at the start of a frame, which has room for a kind and a tag behind it.
    ///
    /// # Errors
    /// [`MessageError`] for another kind, a frame too short or too long, and a path id nobody has.
    pub fn parse(frame: &[u8]) -> Result<Self, MessageError> {
        let mut rest = frame;
        let [kind] = take(&mut rest)?;
        if kind != MessageKind::Data.first_byte() {
            return Err(MessageError::Kind);
        }
        if !(FRAME_OVERHEAD..=FRAME_MAX).contains(&frame.len()) {
            return Err(MessageError::Length);
        }
        let receiver = SessionIndex(u32::from_le_bytes(take(&mut rest)?));
        let counter = u64::from_le_bytes(take(&mut rest)?);
        let [.., top] = counter.to_le_bytes();
        let path = PathId::new(top).ok_or(MessageError::Field("path id"))?;
        let counter = Counter::new(path, counter & (SEQUENCES - 1)).ok_or(MessageError::Field("sequence"))?;
        Ok(Self { receiver, counter })
    }
}
