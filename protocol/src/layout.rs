//! Where bytes of an upload lie: padding, segments, rows, units. Pure arithmetic, the same on every machine.
//!
//! ```text
//! stream  = all files back to back, zero-padded to padme(total)
//! segment = up to R rows of the stream;  R = min(32, 1024 / (k+m))
//! row     = k frames of 65,520 bytes; the last row of the stream: k frames of q = ceil(rest / k)
//! unit    = frame + 16-byte tag; m parity units follow, computed over the k data units
//! shard i = unit i of every row, back to back
//! ```

use crate::codec::ensure;
use crate::limits::{CODE_MAX, FRAME_PLAIN, ROWS_MAX, SEGMENT_UNITS_MAX, TAG, UNIT};
use minicbor::{Decode, Encode};

/// An erasure code: any `data` of `data + parity` shards give the segment back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(map)]
pub struct Code {
    /// k, data shards.
    #[n(0)]
    pub data: u8,
    /// m, parity shards.
    #[n(1)]
    pub parity: u8,
}

/// Why two numbers make no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a code needs at least 1 data and 1 parity shard and at most {CODE_MAX} together, not {data}+{parity}")]
pub struct CodeError {
    /// k asked for.
    pub data: usize,
    /// m asked for.
    pub parity: usize,
}

impl Code {
    /// k + m with both at least 1 and at most 255 together.
    ///
    /// # Errors
    /// [`CodeError`] outside those bounds.
    pub fn new(data: usize, parity: usize) -> Result<Self, CodeError> {
        let error = CodeError { data, parity };
        if data == 0 || parity == 0 || data > CODE_MAX || parity > CODE_MAX || data + parity > CODE_MAX {
            return Err(error);
        }
        let narrow = |n: usize| u8::try_from(n).map_err(|_| error);
        Ok(Self { data: narrow(data)?, parity: narrow(parity)? })
    }

    /// k as a count.
    #[must_use]
    pub const fn k(self) -> usize {
        self.data as usize
    }

    /// m as a count.
    #[must_use]
    pub const fn m(self) -> usize {
        self.parity as usize
    }

    /// k + m.
    #[must_use]
    pub const fn n(self) -> usize {
        self.data as usize + self.parity as usize
    }

    /// Distinct holders a segment needs for the upload to count: k + ceil(m/2).
    #[must_use]
    pub const fn happy(self) -> usize {
        self.k() + self.m().div_ceil(2)
    }

    /// Full rows of one segment: min(32, floor(1024 / n)).
    #[must_use]
    pub const fn rows_per_segment(self) -> usize {
        let rows = SEGMENT_UNITS_MAX / self.n();
        if rows < ROWS_MAX { rows } else { ROWS_MAX }
    }

    /// Plaintext bytes of one full row.
    #[must_use]
    pub const fn row_plain(self) -> usize {
        self.k() * FRAME_PLAIN
    }

    /// Plaintext bytes of one full segment.
    #[must_use]
    pub const fn segment_plain(self) -> usize {
        self.rows_per_segment() * self.row_plain()
    }

    pub(crate) fn check(self) -> Result<(), &'static str> {
        ensure(Self::new(self.k(), self.m()).is_ok(), "code out of range")
    }
}

impl core::fmt::Display for Code {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

/// Padmé: the smallest size >= `length` whose low bits are zero, so that at most O(log log length) bits leak and at
/// most 12 % is added. Source: Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with
/// PURBs", PoPETs 2019, §4. Saturates at `u64::MAX`.
#[must_use]
pub const fn padme(length: u64) -> u64 {
    if length < 2 {
        return length;
    }
    let exponent = length.ilog2();
    let mantissa_bits = exponent.ilog2() + 1;
    let low_bits = exponent.saturating_sub(mantissa_bits);
    let mask = (1u64 << low_bits) - 1;
    length.saturating_add(mask) & !mask
}

/// The shape of one segment: how many rows, and how long their units are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentShape {
    code: Code,
    plain: usize,
}

/// Where one byte range of a segment's plaintext lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitAt {
    /// Row within the segment.
    pub row: usize,
    /// Data column, 0..k.
    pub column: usize,
    /// First byte of the unit within its shard.
    pub shard_offset: u64,
    /// Bytes of the unit with its tag.
    pub unit_length: usize,
    /// First plaintext byte of the frame within the segment.
    pub plain_offset: usize,
}

impl SegmentShape {
    /// The shape of a segment of `plain` plaintext bytes, padding included.
    ///
    /// # Errors
    /// If `plain` is 0 or more than a full segment.
    pub fn new(code: Code, plain: usize) -> Result<Self, &'static str> {
        ensure(plain > 0, "a segment has at least one byte")?;
        ensure(plain <= code.segment_plain(), "segment longer than its code allows")?;
        Ok(Self { code, plain })
    }

    /// The code of this segment.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// Plaintext bytes, without the zeros that fill the last row.
    #[must_use]
    pub const fn plain(&self) -> usize {
        self.plain
    }

    /// Rows whose frames are full.
    #[must_use]
    pub const fn full_rows(&self) -> usize {
        self.plain / self.code.row_plain()
    }

    /// All rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.plain.div_ceil(self.code.row_plain())
    }

    /// Plaintext bytes of each frame in `row`.
    #[must_use]
    pub const fn frame_plain(&self, row: usize) -> usize {
        if row < self.full_rows() { FRAME_PLAIN } else { (self.plain % self.code.row_plain()).div_ceil(self.code.k()) }
    }

    /// Bytes of each unit in `row`.
    #[must_use]
    pub const fn unit_length(&self, row: usize) -> usize {
        self.frame_plain(row) + TAG
    }

    /// Bytes of every shard of this segment.
    #[must_use]
    pub const fn shard_length(&self) -> usize {
        let full = self.full_rows();
        let tail = if self.rows() > full { self.unit_length(full) } else { 0 };
        full * UNIT + tail
    }

    /// First byte of `row`'s unit within a shard.
    #[must_use]
    pub const fn shard_offset(&self, row: usize) -> usize {
        row * UNIT
    }

    /// The frame that holds plaintext byte `offset`, or None at or past the end.
    #[must_use]
    pub fn locate(&self, offset: usize) -> Option<UnitAt> {
        if offset >= self.plain {
            return None;
        }
        let row = offset / self.code.row_plain();
        let frame = self.frame_plain(row);
        let column = (offset % self.code.row_plain()) / frame;
        Some(UnitAt {
            row,
            column,
            shard_offset: self.shard_offset(row) as u64,
            unit_length: frame + TAG,
            plain_offset: row * self.code.row_plain() + column * frame,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padme_adds_at_most_twelve_percent() {
        for (length, padded) in [
            (0, 0),
            (1, 1),
            (9, 10),
            (65_519, 65_536),
            (65_520, 65_536),
            (65_537, 67_584),
            (u64::MAX, !((1 << 57) - 1)),
        ] {
            assert_eq!(padme(length), padded, "padme({length})");
        }
        for length in (1..200_000u64).chain((20..62).map(|bit| (1 << bit) + 1)) {
            let padded = padme(length);
            assert!(
                padded >= length && u128::from(padded - length) * 100 <= u128::from(length) * 12,
                "{length} -> {padded}"
            );
        }
    }

    #[test]
    fn shapes_follow_the_rule_of_the_last_row() {
        let code = Code::new(4, 2).unwrap();
        let shape = SegmentShape::new(code, 1).unwrap();
        assert_eq!((shape.rows(), shape.frame_plain(0), shape.shard_length()), (1, 1, 17));
        let shape = SegmentShape::new(code, 4 * 65_520).unwrap();
        assert_eq!((shape.rows(), shape.full_rows(), shape.shard_length()), (1, 1, 65_536));
        let shape = SegmentShape::new(code, 4 * 65_520 + 5).unwrap();
        assert_eq!((shape.rows(), shape.frame_plain(1), shape.shard_length()), (2, 2, 65_536 + 18));
        assert_eq!(shape.locate(4 * 65_520 + 3).unwrap().column, 1);
        assert_eq!(shape.locate(4 * 65_520 + 5), None);
        assert!(SegmentShape::new(code, code.segment_plain()).is_ok());
        assert!(SegmentShape::new(code, code.segment_plain() + 1).is_err());
        assert!(SegmentShape::new(code, 0).is_err());
    }

    #[test]
    fn shards_stay_within_two_mebibytes() {
        for k in 1..=254 {
            for m in [1, 255 - k] {
                let code = Code::new(k, m).unwrap();
                let shape = SegmentShape::new(code, code.segment_plain()).unwrap();
                assert!(shape.shard_length() <= 2 * 1024 * 1024);
                assert!(shape.shard_length() * code.n() <= 64 * 1024 * 1024);
                assert!(code.rows_per_segment() >= 4);
            }
        }
    }
}
