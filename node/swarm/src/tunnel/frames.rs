//! Bytes of a tunnel lane as frames: `length u16 BE, 1..=65535 || bytes`, with credits between them, which are passed over.
//! Pure: it reads nothing, and its memory is made once and never follows a claimed length.

use shoal_protocol::mesh::credit::Credit;

use crate::limits::{FRAME_BUFFER_BYTES, TUNNEL_FRAME_MAX};

/// Bytes of a length.
pub(crate) const LENGTH_BYTES: usize = 2;
/// The longest frame with its length.
const WHOLE_MAX: usize = LENGTH_BYTES + TUNNEL_FRAME_MAX;

/// Memory of a reader's owner, 256 KiB, into which frames are read and in which they can be changed in place.
///
/// [`crate::TunnelReader::read`] fills it, [`Self::next_frame`] empties it. Frames not taken before the next read stay.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Default for FrameBuffer {
    fn default() -> Self {
        Self { bytes: vec![0; FRAME_BUFFER_BYTES].into_boxed_slice(), from: 0, to: 0 }
    }
}

impl FrameBuffer {
    /// Length of the first frame, if its length arrived. Credits before it are passed over: whoever reads the lane has
    /// followed them.
    fn length(&mut self) -> Option<usize> {
        loop {
            let unread = self.bytes.get(self.from..self.to).unwrap_or_default();
            match u16::from_be_bytes(*unread.first_chunk()?) {
                0 if unread.len() >= Credit::LEN => self.from = self.from.saturating_add(Credit::LEN),
                0 => return None,
                length => return Some(usize::from(length)),
            }
        }
    }

    /// Length of the first frame, if all of it arrived.
    fn whole(&mut self) -> Option<usize> {
        let length = self.length()?;
        (self.to.saturating_sub(self.from) >= LENGTH_BYTES.saturating_add(length)).then_some(length)
    }

    /// Whether a whole frame waits.
    pub(crate) fn has_frame(&mut self) -> bool {
        self.whole().is_some()
    }

    /// The next whole frame, without its length; `None` if only a part of one is left. The bytes may be changed.
    pub fn next_frame(&mut self) -> Option<&mut [u8]> {
        let length = self.whole()?;
        let start = self.from.saturating_add(LENGTH_BYTES);
        let end = start.saturating_add(length);
        self.from = end;
        self.bytes.get_mut(start..end)
    }

    /// Whether bytes of a frame that is not whole are left.
    pub(crate) const fn is_torn(&self) -> bool {
        self.from < self.to
    }

    /// Room for the next bytes, never empty while no whole frame waits. Moves what is left to the front only where the
    /// longest frame would not find room.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.from >= self.to {
            (self.from, self.to) = (0, 0);
        } else if self.bytes.len().saturating_sub(self.from) < WHOLE_MAX {
            self.bytes.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to.saturating_sub(self.from));
        }
        self.bytes.get_mut(self.to..).unwrap_or_default()
    }

    /// So many bytes of [`Self::space`] were filled: those.
    pub(crate) fn filled(&mut self, count: usize) -> &[u8] {
        let before = self.to;
        self.to = self.to.saturating_add(count).min(self.bytes.len());
        self.bytes.get(before..self.to).unwrap_or_default()
    }

    /// Forgets what is left: of a lane that ended, for the next one.
    pub fn clear(&mut self) {
        (self.from, self.to) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the wire has them.
    fn framed(frames: &[Vec<u8>]) -> Vec<u8> {
        let length = |frame: &Vec<u8>| u16::try_from(frame.len()).unwrap().to_be_bytes();
        frames.iter().flat_map(|frame| [&length(frame)[..], frame].concat()).collect()
    }

    fn feed(buffer: &mut FrameBuffer, bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let (mut rest, mut frames) = (bytes, Vec::new());
        while !rest.is_empty() {
            let space = buffer.space();
            assert!(!space.is_empty());
            let count = step.min(space.len()).min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            assert_eq!(buffer.filled(count), &rest[..count]);
            rest = &rest[count..];
            while let Some(frame) = buffer.next_frame() {
                frames.push(frame.to_vec());
            }
        }
        frames
    }

    proptest! {
        #[test]
        fn frames_arrive_whole_in_any_pieces(
            lengths in prop::collection::vec(prop_oneof![1..=40_usize, 65_000..=65_535_usize], 1..12),
            step in 1..300_000_usize,
        ) {
            let frames: Vec<Vec<u8>> =
                lengths.iter().zip(1_u8..).map(|(length, fill)| vec![fill; *length]).collect();
            let mut buffer = FrameBuffer::default();
            prop_assert_eq!(feed(&mut buffer, &framed(&frames), step.max(200)), frames);
            prop_assert!(!buffer.is_torn());
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), step in 1..50_usize) {
            let _ = feed(&mut FrameBuffer::default(), &bytes, step);
        }
    }

    #[test]
    fn credits_are_passed_over_and_a_cut_frame_is_seen() {
        let mut buffer = FrameBuffer::default();
        let credit = Credit(u64::MAX).to_bytes();
        let bytes = [&credit[..], &[0, 1, 7], &credit, &credit, &[0, 1, 8], &credit].concat();
        assert_eq!(feed(&mut buffer, &bytes, 8), [[7], [8]]);
        assert!(!buffer.has_frame() && !buffer.is_torn());
        assert_eq!(feed(&mut buffer, &[0, 1, 7, 0, 2, 8], 6), [[7]]);
        assert!(buffer.is_torn());
        buffer.clear();
        assert_eq!(feed(&mut buffer, &credit[..9], 9), [[0_u8; 0]; 0]);
        assert!(buffer.is_torn(), "a part of a credit too");
        buffer.clear();
        assert!(!buffer.is_torn());
    }
}
