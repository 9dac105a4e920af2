//! The sealing half of a session: one owner, no lock, no allocation. It never sends and never uses a number twice.

use core::ops::Range;

use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::content::{ContentKind, Control};
use shoal_protocol::mesh::session::frame::{
    BEFORE_BODY, Counter, DATA_HEADER, DATA_TAG, DataHeader, FRAME_MAX, FRAME_OVERHEAD, HARD_STOP_BYTES, PathId,
    WINDOWS,
};

use super::keys::Aead;

/// Why nothing was sealed; no number was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSealed {
    /// The buffer lacks [`BEFORE_BODY`] bytes before the body or [`DATA_TAG`] behind it, or the body is not in it.
    #[error("no room around the body")]
    NoRoom,
    /// The frame would be longer than [`FRAME_MAX`].
    #[error("frame too long")]
    TooLong,
    /// The session has carried all it may; another one has to be made first.
    #[error("session exhausted")]
    Exhausted,
}

/// Seals frames of one session in one direction.
///
/// It cannot be cloned, its key is in nothing else, and each sequence counts upwards before it is used: no two frames of
/// the key have one counter. A frame for two carriers is sealed once, with [`PathId::DUAL`], and its bytes are sent twice.
#[derive(Debug)]
pub struct TxHalf {
    key: Aead,
    receiver: SessionIndex,
    /// Next sequence of each path id.
    next: [u64; WINDOWS],
    bytes: u64,
    payloads: u64,
}

impl TxHalf {
    pub(super) const fn new(key: Aead, receiver: SessionIndex) -> Self {
        Self { key, receiver, next: [0; WINDOWS], bytes: 0, payloads: 0 }
    }

    /// Seals `buffer[body]` in place and says where in `buffer` the frame is now: [`BEFORE_BODY`] bytes earlier,
    /// [`DATA_TAG`] bytes later. `aad` has to be the same when it is opened.
    ///
    /// # Errors
    /// [`NotSealed`]; the buffer is as it was.
    pub fn seal(
        &mut self,
        path: PathId,
        kind: ContentKind,
        aad: &[u8],
        buffer: &mut [u8],
        body: Range<usize>,
    ) -> Result<Range<usize>, NotSealed> {
        let start = body.start.checked_sub(BEFORE_BODY).ok_or(NotSealed::NoRoom)?;
        let end = body.end.checked_add(DATA_TAG).ok_or(NotSealed::NoRoom)?;
        let length = end.checked_sub(start).filter(|length| *length >= FRAME_OVERHEAD).ok_or(NotSealed::NoRoom)?;
        if length > FRAME_MAX {
            return Err(NotSealed::TooLong);
        }
        let frame = buffer.get_mut(start..end).ok_or(NotSealed::NoRoom)?;
        let (header, rest) = frame.split_first_chunk_mut::<DATA_HEADER>().ok_or(NotSealed::NoRoom)?;
        let (text, tag) = rest.split_last_chunk_mut::<DATA_TAG>().ok_or(NotSealed::NoRoom)?;
        let first = text.first_mut().ok_or(NotSealed::NoRoom)?;
        let counter = self.take_counter(path, length)?;
        *header = DataHeader { receiver: self.receiver, counter }.to_bytes();
        *first = kind.number();
        *tag = self.key.seal(counter.nonce(), aad, text);
        if !matches!(kind, ContentKind::Control(_)) {
            self.payloads = self.payloads.saturating_add(1);
        }
        Ok(start..end)
    }

    /// Seals a word between the two ends into the start of `out` and says how long the frame is. Its associated data is
    /// `aad` as for packets.
    ///
    /// # Errors
    /// [`NotSealed`]; nothing was sealed.
    pub fn seal_control(
        &mut self,
        path: PathId,
        control: &Control,
        aad: &[u8],
        out: &mut [u8],
    ) -> Result<usize, NotSealed> {
        let length = out.get_mut(BEFORE_BODY..).and_then(|room| control.write_body(room)).ok_or(NotSealed::NoRoom)?;
        let body = BEFORE_BODY..BEFORE_BODY.saturating_add(length);
        self.seal(path, ContentKind::Control(control.kind()), aad, out, body).map(|frame| frame.len())
    }

    /// Bytes of all frames sealed so far, over all path ids.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Frames sealed so far that were no control words, over all path ids.
    #[must_use]
    pub const fn payloads(&self) -> u64 {
        self.payloads
    }

    /// Frames sealed so far under this path id.
    #[must_use]
    pub fn frames(&self, path: PathId) -> u64 {
        self.next.get(path.slot()).copied().unwrap_or_default()
    }

    /// The next number of `path`, which is gone from then on whatever becomes of it.
    fn take_counter(&mut self, path: PathId, length: usize) -> Result<Counter, NotSealed> {
        let bytes = self.bytes.checked_add(length as u64).filter(|bytes| *bytes <= HARD_STOP_BYTES);
        let bytes = bytes.ok_or(NotSealed::Exhausted)?;
        let next = self.next.get_mut(path.slot()).ok_or(NotSealed::Exhausted)?;
        let counter = Counter::new(path, *next).ok_or(NotSealed::Exhausted)?;
        *next = next.checked_add(1).ok_or(NotSealed::Exhausted)?;
        self.bytes = bytes;
        Ok(counter)
    }

    /// Seals under any counter, which may be used already.
    #[cfg(feature = "test-utils")]
    pub(super) fn seal_as(&self, counter: Counter, aad: &[u8], text: &mut [u8]) -> [u8; DATA_TAG] {
        self.key.seal(counter.nonce(), aad, text)
    }

    /// As if so many bytes had been sealed.
    #[cfg(test)]
    pub(super) const fn skip(&mut self, bytes: u64, sequence: u64) {
        self.bytes = bytes;
        self.next = [sequence; WINDOWS];
    }
}
