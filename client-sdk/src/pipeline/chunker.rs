//! A stream of bytes becomes plaintext segments. It never knows the length in advance and never reads a file: the
//! caller fills the space it offers, or pushes slices. One segment is held back until more bytes show it is not the
//! last, so that at most two segments of plaintext exist: the one held and the one handed out.
//!
//! The stream is zero-padded to padme(total); padding may fill whole segments. No bytes, no segment.

use shoal_protocol::SegmentNumber;
use shoal_protocol::buffer::{Buffer, Pool};
use shoal_protocol::layout::{Code, SegmentShape, padme};
use shoal_protocol::limits::SHARDS_PER_MANIFEST_MAX;

use super::segment::PlainSegment;

/// Why a stream was not cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// More shards than a manifest may name.
    #[error("upload of more than {0} segments")]
    TooLong(u32),
}

/// Plaintext buffers kept for the next segment.
const IDLE_MAX: usize = 1;

/// Cuts a stream.
#[derive(Debug)]
pub struct Chunker {
    code: Code,
    emitted: u32,
    total: u64,
    pool: Pool,
    held: Option<Buffer>,
    buffer: Buffer,
    filled: usize,
}

impl Chunker {
    /// A chunker at the start of an upload.
    #[must_use]
    pub fn new(code: Code) -> Self {
        let pool = Pool::new(code.segment_plain(), IDLE_MAX);
        Self { code, emitted: 0, total: 0, pool, held: None, buffer: Buffer::from(Vec::new()), filled: 0 }
    }

    /// Bytes taken so far. The next one lies in segment `position / code.segment_plain()`.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.total
    }

    /// Room for the next bytes, never empty: read straight into it, then tell [`Chunker::advance`].
    pub fn space(&mut self) -> &mut [u8] {
        if self.filled == self.buffer.len() {
            let empty = self.pool.take(self.code.segment_plain());
            let full = core::mem::replace(&mut self.buffer, empty);
            self.held = Some(full).filter(|bytes| !bytes.is_empty()).or(self.held.take());
            self.filled = 0;
        }
        &mut self.buffer[self.filled..]
    }

    /// Says how many bytes of [`Chunker::space`] were filled; gives the segment before them if they begin a new one.
    /// A count beyond the space counts as all of it.
    ///
    /// # Errors
    /// [`ChunkError`] when the upload grows past its bound.
    pub fn advance(&mut self, count: usize) -> Result<Option<PlainSegment>, ChunkError> {
        let count = count.min(self.buffer.len() - self.filled);
        if count == 0 {
            return Ok(None);
        }
        self.filled += count;
        self.total += count as u64;
        let Some(bytes) = self.held.take() else {
            return Ok(None);
        };
        // The bytes just taken belong to one more segment still.
        if self.emitted + 1 >= segments_max(self.code) {
            return Err(ChunkError::TooLong(segments_max(self.code)));
        }
        let segment = plain_segment(self.code, self.emitted, false, bytes);
        self.emitted += 1;
        Ok(segment)
    }

    /// Takes bytes from the front of `input` until a segment is complete or the input is used up. Call again while
    /// `input` is not empty.
    ///
    /// # Errors
    /// [`ChunkError`] when the upload grows past its bound.
    pub fn push(&mut self, input: &mut &[u8]) -> Result<Option<PlainSegment>, ChunkError> {
        while !input.is_empty() {
            let space = self.space();
            let (taken, rest) = input.split_at(space.len().min(input.len()));
            space[..taken.len()].copy_from_slice(taken);
            *input = rest;
            if let Some(segment) = self.advance(taken.len())? {
                return Ok(Some(segment));
            }
        }
        Ok(None)
    }

    /// Ends the stream: what was held back, padded to padme(total), in one segment or several.
    ///
    /// # Errors
    /// [`ChunkError`] if the padded upload is past its bound.
    pub fn finish(mut self) -> Result<Tail, ChunkError> {
        let padded = padme(self.total);
        if padded.div_ceil(self.code.segment_plain() as u64) > u64::from(segments_max(self.code)) {
            return Err(ChunkError::TooLong(segments_max(self.code)));
        }
        self.buffer.truncate(self.filled);
        let zeros = padded - self.total;
        Ok(Tail { code: self.code, emitted: self.emitted, held: self.held, buffer: self.buffer, zeros })
    }
}

/// The last segments of a stream, one at a time.
#[derive(Debug)]
pub struct Tail {
    code: Code,
    emitted: u32,
    held: Option<Buffer>,
    buffer: Buffer,
    zeros: u64,
}

impl Iterator for Tail {
    type Item = PlainSegment;

    fn next(&mut self) -> Option<PlainSegment> {
        let mut bytes = self.held.take().unwrap_or_else(|| core::mem::replace(&mut self.buffer, Vec::new().into()));
        let room = self.code.segment_plain().saturating_sub(bytes.len());
        let padding = usize::try_from(self.zeros).unwrap_or(usize::MAX).min(room);
        let padded = bytes.len() + padding;
        bytes.resize(padded, 0);
        self.zeros -= padding as u64;
        let last = self.buffer.is_empty() && self.zeros == 0;
        let segment = plain_segment(self.code, self.emitted, last, bytes);
        self.emitted += 1;
        segment
    }
}

/// A full segment, or the shorter last one; None when there are no bytes.
fn plain_segment(code: Code, number: u32, last: bool, bytes: Buffer) -> Option<PlainSegment> {
    let shape = SegmentShape::new(code, bytes.len()).ok()?;
    Some(PlainSegment { number: SegmentNumber(number), last, shape, bytes })
}

/// Most segments of one upload: its shards must fit a manifest.
fn segments_max(code: Code) -> u32 {
    u32::try_from(SHARDS_PER_MANIFEST_MAX / code.n() as u64).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(code: Code, bytes: &[u8], piece: usize) -> Vec<PlainSegment> {
        let mut chunker = Chunker::new(code);
        let mut out = Vec::new();
        for mut part in bytes.chunks(piece) {
            while !part.is_empty() {
                out.extend(chunker.push(&mut part).unwrap());
            }
        }
        assert_eq!(chunker.position(), bytes.len() as u64);
        out.extend(chunker.finish().unwrap());
        out
    }

    #[test]
    fn segments_cover_the_padded_stream_in_order() {
        let code = Code::new(1, 254).unwrap();
        let full = code.segment_plain();
        for length in [0, 1, 100, full - 1, full, full + 1, 2 * full, 2 * full + 1, 40 * full + 17] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8 + 1).collect();
            for piece in [full - 1, full, 3 * full + 5] {
                let segments = cut(code, &bytes, piece);
                let stream: Vec<u8> = segments.iter().flat_map(|segment| segment.bytes.to_vec()).collect();
                assert_eq!(stream.len() as u64, padme(length as u64));
                assert!(stream.starts_with(&bytes) && stream[length..].iter().all(|byte| *byte == 0));
                for (i, segment) in segments.iter().enumerate() {
                    let last = i + 1 == segments.len();
                    assert_eq!((segment.number.0 as usize, segment.last), (i, last));
                    assert!(last || segment.bytes.len() == full);
                }
                assert_eq!(segments.is_empty(), length == 0);
            }
        }
    }

    #[test]
    fn space_is_filled_without_copies() {
        let code = Code::new(1, 254).unwrap();
        let mut chunker = Chunker::new(code);
        let mut seen = 0;
        for _ in 0..3 {
            let count = chunker.space().len();
            chunker.space().fill(7);
            seen += usize::from(chunker.advance(count).unwrap().is_some());
            assert!(chunker.advance(0).unwrap().is_none());
        }
        assert_eq!(seen, 2, "the third is held back");
        assert!(chunker.finish().unwrap().last().unwrap().is_last());
    }
}
