//! The opening half of a session: one owner, no lock, no allocation. It never lets a frame pass twice.

use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::content::{ContentKind, Control};
use shoal_protocol::mesh::session::frame::{DATA_HEADER, DATA_TAG, DataHeader, HARD_STOP_BYTES, PathId, WINDOWS};

use super::drops::{Dropped, Drops};
use super::keys::Aead;
use super::window::Window;

/// An authentic frame, opened for the first time.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'b> {
    /// How its sender counted it.
    pub path: PathId,
    /// What it is.
    pub content: Content<'b>,
}

/// What was in a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Content<'b> {
    /// A packet for this end.
    Packet(&'b mut [u8]),
    /// A relay header and a frame of another session.
    Relayed(&'b mut [u8]),
    /// A word for the control half. Keepalive, close, challenge and answer are the sessions', fence, probe and echo the
    /// path agent's.
    Control(Control),
}

/// Opens frames of one session in one direction.
#[derive(Debug)]
pub struct RxHalf {
    key: Aead,
    index: SessionIndex,
    /// One a path id: 9 KiB, allocated once.
    windows: Box<[Window; WINDOWS]>,
    bytes: u64,
    frames: u64,
    payloads: u64,
    drops: Drops,
}

impl RxHalf {
    pub(super) fn new(key: Aead, index: SessionIndex) -> Self {
        let windows = Box::new([const { Window::new() }; WINDOWS]);
        Self { key, index, windows, bytes: 0, frames: 0, payloads: 0, drops: Drops::default() }
    }

    /// The session a frame claims to be of: what to look up before [`Self::open`].
    ///
    /// # Errors
    /// [`Dropped::Malformed`] if it is no data frame.
    pub fn index_of(frame: &[u8]) -> Result<SessionIndex, Dropped> {
        DataHeader::parse(frame).map(|header| header.receiver).map_err(|_| Dropped::Malformed)
    }

    /// Opens `frame` in place, once. What is in it after an error is not to be read.
    ///
    /// # Errors
    /// [`Dropped`], which is counted in [`Self::drops`]. A number is used up only by an authentic frame.
    pub fn open<'b>(&mut self, frame: &'b mut [u8], aad: &[u8]) -> Result<Opened<'b>, Dropped> {
        self.try_open(frame, aad).inspect_err(|reason| self.drops.add(*reason))
    }

    fn try_open<'b>(&mut self, frame: &'b mut [u8], aad: &[u8]) -> Result<Opened<'b>, Dropped> {
        let header = DataHeader::parse(frame).map_err(|_| Dropped::Malformed)?;
        if header.receiver != self.index {
            return Err(Dropped::NoSession);
        }
        let bytes = self.bytes.checked_add(frame.len() as u64).filter(|bytes| *bytes <= HARD_STOP_BYTES);
        let bytes = bytes.ok_or(Dropped::Exhausted)?;
        let (path, sequence) = (header.counter.path(), header.counter.sequence());
        let window = self.windows.get_mut(path.slot()).ok_or(Dropped::Malformed)?;
        window.check(sequence)?;
        let sealed = frame.get_mut(DATA_HEADER..).ok_or(Dropped::Malformed)?;
        let (text, tag) = sealed.split_last_chunk_mut::<DATA_TAG>().ok_or(Dropped::Malformed)?;
        self.key.open(header.counter.nonce(), aad, text, tag).map_err(|_| Dropped::Forged)?;
        window.accept(sequence);
        self.bytes = bytes;
        self.frames = self.frames.saturating_add(1);
        let (kind, body) = text.split_first_mut().ok_or(Dropped::BadContent)?;
        let kind = ContentKind::from_number(*kind).ok_or(Dropped::BadContent)?;
        if !matches!(kind, ContentKind::Control(_)) {
            self.payloads = self.payloads.saturating_add(1);
        }
        let content = match kind {
            ContentKind::Packet => Content::Packet(body),
            ContentKind::Relayed => Content::Relayed(body),
            ContentKind::Control(kind) => {
                Content::Control(Control::parse(kind, body).map_err(|_| Dropped::BadContent)?)
            }
        };
        Ok(Opened { path, content })
    }

    /// Its index, by which frames name it.
    #[must_use]
    pub const fn index(&self) -> SessionIndex {
        self.index
    }

    /// Bytes of all frames opened so far, over all path ids.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Frames opened so far, over all path ids.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    /// Frames opened so far that were no control words, over all path ids.
    #[must_use]
    pub const fn payloads(&self) -> u64 {
        self.payloads
    }

    /// What was refused, by reason.
    #[must_use]
    pub const fn drops(&self) -> &Drops {
        &self.drops
    }

    /// As if so many bytes had been opened.
    #[cfg(test)]
    pub(super) const fn skip(&mut self, bytes: u64) {
        self.bytes = bytes;
    }
}
