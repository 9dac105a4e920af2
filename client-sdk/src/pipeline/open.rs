//! Shards become plaintext again. It never returns a byte whose tag it has not checked, and never asks for more than
//! k indices.

use core::ops::Range;

use shoal_protocol::buffer::Buffer;
use shoal_protocol::limits::TAG;
use shoal_protocol::sealing::nonce;

use super::seal::Aead;
use super::stored::{StoredSegment, UnitsError};

/// Why rows do not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too few or wrong units.
    #[error(transparent)]
    Units(#[from] UnitsError),
    /// A frame's tag does not match: wrong key, or bytes that were not sealed for this place.
    #[error("frame at row {row}, column {column} does not open: wrong key or damaged")]
    Tag {
        /// Row within the segment.
        row: usize,
        /// Data column.
        column: usize,
    },
    /// A data segment, but only the verify key is held.
    #[error("data segments open with the read key only")]
    ReadKey,
}

/// Opens the frames of one segment.
pub struct SegmentOpener {
    stored: StoredSegment,
    aead: Aead,
}

impl core::fmt::Debug for SegmentOpener {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SegmentOpener").field("stored", &self.stored).finish_non_exhaustive()
    }
}

impl SegmentOpener {
    pub(super) fn new(stored: StoredSegment, aead: Aead) -> Self {
        Self { stored, aead }
    }

    /// The segment, for ranges and shapes.
    #[must_use]
    pub fn stored(&self) -> &StoredSegment {
        &self.stored
    }

    /// Opens one frame from the masked bytes of one data shard's unit: the cheap way to a small range. `unit` is
    /// replica x n + column. Returns the frame's plaintext without the zeros past the segment's end.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_frame(&self, row: usize, unit: usize, mut bytes: Vec<u8>) -> Result<Vec<u8>, OpenError> {
        let (code, shape) = (self.stored.layout().code(), self.stored.shape());
        let column = unit % code.n();
        if row >= shape.rows() || bytes.len() != shape.unit_length(row) {
            return Err(UnitsError::Shape("unit of a row").into());
        }
        if column >= code.k() {
            return Err(UnitsError::Shape("data column").into());
        }
        self.stored.unmask(row, unit, &mut bytes)?;
        let aad = self.stored.layout().aad(self.stored.number(), shape, self.stored.is_last(), row, column);
        let opened = self.aead.open(&nonce(aad.counter), &aad.to_bytes(), &mut bytes);
        let length = opened.map_err(|_| OpenError::Tag { row, column })?.len();
        let start = row * code.row_plain() + column * length;
        bytes.truncate(length.min(shape.plain().saturating_sub(start)));
        Ok(bytes)
    }

    /// Opens whole rows from (unit, masked bytes of those rows) of any k distinct indices; replicas of one index count
    /// once. Returns the rows' plaintext without the zeros past the segment's end, in a buffer that is used again for
    /// other segments of the file. Each unit is unmasked and opened while it is in the cache. Peak memory: sources and
    /// plaintext.
    ///
    /// # Errors
    /// [`OpenError`]; no plaintext is returned then.
    pub fn open_rows(&self, rows: Range<usize>, sources: Vec<(usize, impl Into<Buffer>)>) -> Result<Buffer, OpenError> {
        let (layout, shape) = (self.stored.layout(), *self.stored.shape());
        let mut columns = self.stored.columns(&rows, sources)?;
        let frames: usize = rows.clone().map(|row| shape.unit_length(row) - TAG).sum();
        let mut plain = layout.opened().take(frames * columns.len());
        let mut rest = plain.as_mut_slice();
        for row in rows.clone() {
            let start = shape.shard_offset(row) - shape.shard_offset(rows.start);
            for (column, source) in columns.iter_mut().enumerate() {
                let unit = source.bytes.get_mut(start..start + shape.unit_length(row));
                let unit = unit.ok_or(UnitsError::Shape("length of a shard's rows"))?;
                if let Some(mask) = &source.mask {
                    mask.apply(shape.shard_offset(row), unit);
                }
                let (frame, behind) = rest.split_at_mut(unit.len() - TAG);
                rest = behind;
                let aad = layout.aad(self.stored.number(), &shape, self.stored.is_last(), row, column);
                let opened = self.aead.open_into(&nonce(aad.counter), &aad.to_bytes(), unit, frame);
                opened.map_err(|_| OpenError::Tag { row, column })?;
            }
        }
        plain.truncate(shape.plain() - rows.start * layout.code().row_plain());
        Ok(plain)
    }
}
