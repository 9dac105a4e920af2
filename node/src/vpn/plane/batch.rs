//! Sealed frames for one address and with one congestion mark, side by side, so that one call sends many: equal in length
//! but for the last. It seals nothing and sends nothing itself.

use std::net::SocketAddr;

use shoal_engine::mesh::packet::ecn::Ecn;

/// Bytes of a batch: what one call sends at most.
const BYTES: usize = 65_487;
/// Frames of a batch: what one call sends at most.
const FRAMES_MAX: usize = 64;

/// Where a frame goes, and what its datagram says of congestion.
pub(crate) type Target = (SocketAddr, Ecn);

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Made when first needed.
    memory: Vec<u8>,
    to: Option<Target>,
    end: usize,
    length: usize,
    count: usize,
    /// A shorter frame was the last.
    is_closed: bool,
    /// So many bytes were sent; the socket took no more.
    sent: usize,
    is_stuck: bool,
}

impl Batch {
    /// Whether a frame of at most `most` bytes for `to` can be added; if not, flush first.
    pub(crate) fn takes(&self, to: Target, most: usize) -> bool {
        let fits = self.end.saturating_add(most) <= BYTES;
        self.count == 0 || (self.to == Some(to) && !self.is_closed && !self.is_stuck && self.count < FRAMES_MAX && fits)
    }

    /// Memory for the next frame: all that is left.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory.resize(BYTES, 0);
        }
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    /// The first `length` bytes of the room are a frame for `to`. Says whether the batch now is to be flushed, with the
    /// frame or, if that is longer than those before it, without.
    pub(crate) fn add(&mut self, to: Target, length: usize) -> Added {
        if self.count > 0 && length > self.length {
            return Added::Longer { length };
        }
        if self.count == 0 {
            (self.to, self.length) = (Some(to), length);
        }
        self.is_closed = length < self.length;
        self.count = self.count.saturating_add(1);
        self.end = self.end.saturating_add(length);
        if self.is_closed || self.count >= FRAMES_MAX { Added::Full } else { Added::Open }
    }

    /// After [`Added::Longer`] and a flush: what was left out becomes the first frame.
    pub(crate) fn begin_with(&mut self, at: usize, to: Target, length: usize) {
        self.memory.copy_within(at..at.saturating_add(length), 0);
        self.add(to, length);
    }

    /// Where the next frame would begin.
    pub(crate) const fn end(&self) -> usize {
        self.end
    }

    /// Target, bytes and length of each frame but the last; none if the batch is empty.
    pub(crate) fn contents(&self) -> Option<(Target, &[u8], usize)> {
        let bytes = self.memory.get(self.sent..self.end)?;
        (self.count > 0).then_some((self.to?, bytes, self.length))
    }

    /// Empties it.
    pub(crate) const fn clear(&mut self) {
        (self.end, self.length, self.count, self.is_closed) = (0, 0, 0, false);
        (self.sent, self.is_stuck) = (0, false);
    }

    /// The socket took so many bytes more: the rest stays until it has room.
    pub(crate) const fn keep_after(&mut self, taken: usize) {
        self.sent = self.sent.saturating_add(taken);
        self.is_stuck = true;
    }

    /// Whether a full socket left something here.
    pub(crate) const fn is_stuck(&self) -> bool {
        self.is_stuck
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is in, and more may follow.
    Open,
    /// It is in, and was the last.
    Full,
    /// It is longer than those before and not in: flush, then [`Batch::begin_with`].
    Longer {
        /// Its length.
        length: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16) -> Target {
        (SocketAddr::from(([192, 0, 2, 1], port)), Ecn::Capable0)
    }

    fn put(batch: &mut Batch, byte: u8, length: usize) -> Added {
        batch.room()[..length].fill(byte);
        batch.add(to(1), length)
    }

    #[test]
    fn equal_frames_fill_it_and_a_shorter_one_ends_it() {
        let mut batch = Batch::default();
        assert_eq!(batch.contents(), None);
        assert_eq!(put(&mut batch, 1, 100), Added::Open);
        assert_eq!(put(&mut batch, 2, 100), Added::Open);
        assert!(batch.takes(to(1), 1000) && !batch.takes(to(2), 100));
        assert!(!batch.takes((to(1).0, Ecn::Congested), 100), "a batch has one mark");
        assert_eq!(put(&mut batch, 3, 40), Added::Full);
        assert!(!batch.takes(to(1), 40));
        let (address, bytes, length) = batch.contents().unwrap();
        assert_eq!((address, bytes.len(), length), (to(1), 240, 100));
        batch.clear();
        assert_eq!(batch.contents(), None);
        let added = (0..FRAMES_MAX).map(|_| put(&mut batch, 4, 10)).collect::<Vec<_>>();
        assert_eq!(added.last(), Some(&Added::Full));
    }

    #[test]
    fn a_longer_frame_begins_the_next_batch() {
        let mut batch = Batch::default();
        put(&mut batch, 1, 100);
        let at = batch.end();
        assert_eq!(put(&mut batch, 2, 200), Added::Longer { length: 200 });
        assert_eq!(batch.contents().unwrap().1, &[1; 100][..]);
        batch.clear();
        batch.begin_with(at, to(1), 200);
        assert_eq!(batch.contents().unwrap(), (to(1), &[2; 200][..], 200));
    }
}
