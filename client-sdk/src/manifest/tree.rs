//! What a page tree says once it is read: segments, entries, and which bytes of which segments make up a file.
//! It never holds content beyond inline files.

use core::ops::Range;

use shoal_protocol::layout::Code;
use shoal_protocol::page::{Entry, PageRef, SegmentRef};
use shoal_protocol::record::OwnerRecord;
use shoal_protocol::{FileId, SegmentNumber, Suite};

/// What every page of a tree has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeShape {
    /// The file.
    pub file: FileId,
    /// Its cipher pair.
    pub suite: Suite,
    /// Its code, also of its pages.
    pub code: Code,
    /// Copies of every shard.
    pub replicas: u8,
}

impl TreeShape {
    /// Shards of every segment: `(k+m) x replicas`.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.code.n() * usize::from(self.replicas)
    }
}

impl From<&OwnerRecord> for TreeShape {
    fn from(record: &OwnerRecord) -> Self {
        Self { file: record.file, suite: record.suite, code: record.code, replicas: record.replicas }
    }
}

/// A whole tree, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileTree {
    /// Segments of the stream, in order; all but the last are full.
    pub segments: Vec<SegmentRef>,
    /// Entries, sorted by path; empty when the tree was read with the verify key alone.
    pub entries: Vec<Entry>,
    /// Every page, ascending: they are stored, audited and repaired like segments.
    pub pages: Vec<PageRef>,
}

/// A run of one segment's plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which segment.
    pub segment: SegmentNumber,
    /// Bytes of its plaintext.
    pub plain: Range<u32>,
}

/// Why a range has no pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PieceError {
    /// It begins after its end, or ends after the file.
    #[error("range {start}..{end} is not within a file of {size} bytes")]
    OutsideFile {
        /// First byte asked for.
        start: u64,
        /// Byte after the last.
        end: u64,
        /// Bytes of the file.
        size: u64,
    },
    /// An extent of the entry leaves the stream.
    #[error("entry names bytes outside the stream")]
    OutsideStream,
}

impl FileTree {
    /// Bytes of the stream, padding included.
    #[must_use]
    pub fn stream_length(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.plain)).sum()
    }

    /// Where bytes `range` of the file lie, in order; nothing for inline content and for an empty range.
    ///
    /// # Errors
    /// [`PieceError`].
    pub fn pieces(&self, entry: &Entry, range: Range<u64>) -> Result<Vec<Piece>, PieceError> {
        let Range { start, end } = range;
        if start > end || end > entry.size {
            return Err(PieceError::OutsideFile { start, end, size: entry.size });
        }
        let mut out = Vec::new();
        let mut extent_start = 0u64;
        for extent in &entry.extents {
            let extent_end = extent_start.checked_add(extent.length).ok_or(PieceError::OutsideStream)?;
            let (from, to) = (start.max(extent_start), end.min(extent_end));
            if from < to {
                let first = self.position(extent.segment, extent.offset).ok_or(PieceError::OutsideStream)?;
                let begin = first.checked_add(from - extent_start).ok_or(PieceError::OutsideStream)?;
                self.cut(begin, to - from, &mut out).ok_or(PieceError::OutsideStream)?;
            }
            extent_start = extent_end;
        }
        Ok(out)
    }

    /// Plaintext bytes of every segment but the last.
    fn full(&self) -> Option<u64> {
        self.segments.first().map(|segment| u64::from(segment.plain))
    }

    /// Byte of the stream at `offset` of `segment`, if it lies within that segment.
    fn position(&self, segment: u32, offset: u32) -> Option<u64> {
        let plain = self.segments.get(usize::try_from(segment).ok()?)?.plain;
        (offset < plain).then_some(())?;
        u64::from(segment).checked_mul(self.full()?)?.checked_add(u64::from(offset))
    }

    /// Cuts `length` bytes of the stream from `begin` on at the bounds of segments.
    fn cut(&self, begin: u64, length: u64, out: &mut Vec<Piece>) -> Option<()> {
        let full = self.full()?;
        let (mut at, mut left) = (begin, length);
        while left > 0 {
            let index = at.checked_div(full)?;
            let plain = u64::from(self.segments.get(usize::try_from(index).ok()?)?.plain);
            let offset = at.checked_rem(full)?;
            let take = plain.checked_sub(offset)?.min(left);
            if take == 0 {
                return None;
            }
            let narrow = |number: u64| u32::try_from(number).ok();
            let segment = SegmentNumber(narrow(index)?);
            out.push(Piece { segment, plain: narrow(offset)?..narrow(offset + take)? });
            at = at.checked_add(take)?;
            left -= take;
        }
        Some(())
    }

    /// Whether every extent of `entry` lies within the stream.
    pub(super) fn holds(&self, entry: &Entry, stream_length: u64) -> bool {
        entry.extents.iter().all(|extent| {
            let end = self.position(extent.segment, extent.offset).and_then(|first| first.checked_add(extent.length));
            end.is_some_and(|end| end <= stream_length)
        })
    }
}
