//! Bytes of a tunnel lane as frames: `length u16 BE, 1..=65535 || bytes`. Pure: it reads nothing, and its memory is made
//! once and never follows a claimed length.

use crate::error::TunnelError;
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
    /// Length of the first frame, if its length arrived.
    fn length(&self) -> Result<Option<usize>, TunnelError> {
        let unread = self.bytes.get(self.from..self.to).unwrap_or_default();
        let Some((length, _)) = unread.split_first_chunk() else { return Ok(None) };
        match u16::from_be_bytes(*length) {
            0 => Err(TunnelError::EmptyFrame),
            length => Ok(Some(usize::from(length))),
        }
    }

    /// Whether a whole frame waits.
    pub(crate) fn has_frame(&self) -> Result<bool, TunnelError> {
        let have = self.to.saturating_sub(self.from);
        Ok(self.length()?.is_some_and(|length| have >= LENGTH_BYTES.saturating_add(length)))
    }

    /// The next whole frame, without its length; `None` if only a part of one is left. The bytes may be changed.
    ///
    /// # Errors
    /// [`TunnelError::EmptyFrame`] where the peer sent a frame of no bytes; nothing after it can be read.
    pub fn next_frame(&mut self) -> Result<Option<&mut [u8]>, TunnelError> {
        if !self.has_frame()? {
            return Ok(None);
        }
        let start = self.from.saturating_add(LENGTH_BYTES);
        let end = start.saturating_add(self.length()?.unwrap_or_default());
        self.from = end;
        Ok(self.bytes.get_mut(start..end))
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

    /// So many bytes of [`Self::space`] were filled.
    pub(crate) fn filled(&mut self, count: usize) {
        self.to = self.to.saturating_add(count).min(self.bytes.len());
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

    fn feed(buffer: &mut FrameBuffer, bytes: &[u8], step: usize) -> Result<Vec<Vec<u8>>, TunnelError> {
        let (mut rest, mut frames) = (bytes, Vec::new());
        while !rest.is_empty() {
            let space = buffer.space();
            assert!(!space.is_empty());
            let count = step.min(space.len()).min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            buffer.filled(count);
            rest = &rest[count..];
            while let Some(frame) = buffer.next_frame()? {
                frames.push(frame.to_vec());
            }
        }
        Ok(frames)
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
            prop_assert_eq!(feed(&mut buffer, &framed(&frames), step.max(200)).unwrap(), frames);
            prop_assert!(!buffer.is_torn());
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), step in 1..50_usize) {
            let _ = feed(&mut FrameBuffer::default(), &bytes, step);
        }
    }

    #[test]
    fn a_frame_of_nothing_is_refused_and_a_cut_one_is_seen() {
        let mut buffer = FrameBuffer::default();
        let read = feed(&mut buffer, &[0, 1, 7, 0, 0, 0, 1, 8], 8);
        assert_eq!(read, Err(TunnelError::EmptyFrame));
        let mut buffer = FrameBuffer::default();
        assert_eq!(feed(&mut buffer, &[0, 1, 7, 0, 2, 8], 6), Ok(vec![vec![7]]));
        assert!(buffer.is_torn());
        buffer.clear();
        assert!(!buffer.is_torn());
    }
}
