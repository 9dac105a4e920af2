//! A stored segment as the verify key sees it: which bytes of a shard hold which rows, unmasking, rebuilding, repair.
//! It never holds a segment key and never judges a tag; whether shard bytes are the right ones is the verifier's
//! business ([`super::verify`]).

use core::ops::Range;

use shoal_protocol::SegmentNumber;
use shoal_protocol::buffer::Buffer;
use shoal_protocol::layout::SegmentShape;
use shoal_protocol::page::SegmentRef;
use shoal_protocol::{ShardId, sealing::Salt};
use sia_reed_solomon::ReedSolomon;

use super::open::{OpenError, SegmentOpener};
use super::seal::Mask;
use super::segment::{FileLayout, segment_key};
use crate::keys::{ReadKey, VerifyKey};

/// Why units do not make a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitsError {
    /// Fewer distinct indices than the code needs; replicas of one index count once.
    #[error("{have} distinct shards where {need} are needed")]
    NotEnough {
        /// Distinct indices given.
        have: usize,
        /// k.
        need: usize,
    },
    /// Rows, units or lengths that this segment does not have.
    #[error("segment has no such shape: {0}")]
    Shape(&'static str),
}

/// Why a shard was not made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RepairError {
    /// Too few or wrong sources.
    #[error(transparent)]
    Units(#[from] UnitsError),
    /// All rows were rebuilt and do not hash to the shard's id: a source was not what its id says.
    #[error("rebuilt shard has another hash than its id")]
    Id,
}

/// One segment in the swarm.
#[derive(Clone, Debug)]
pub struct StoredSegment {
    layout: FileLayout,
    verify: VerifyKey,
    number: SegmentNumber,
    shape: SegmentShape,
    salt: Salt,
    last: bool,
    ids: Vec<ShardId>,
}

impl StoredSegment {
    /// The segment a page describes.
    ///
    /// # Errors
    /// [`UnitsError::Shape`] if the description does not fit the layout.
    pub fn new(
        layout: &FileLayout,
        verify: &VerifyKey,
        number: SegmentNumber,
        reference: &SegmentRef,
    ) -> Result<Self, UnitsError> {
        let plain = usize::try_from(reference.plain).map_err(|_| UnitsError::Shape("length of the segment"))?;
        let shape = SegmentShape::new(layout.code(), plain).map_err(UnitsError::Shape)?;
        let ids: Vec<ShardId> = reference.shards.iter().collect();
        if ids.len() != layout.units() {
            return Err(UnitsError::Shape("count of shards"));
        }
        Ok(Self {
            layout: layout.clone(),
            verify: verify.clone(),
            number,
            shape,
            salt: reference.salt,
            last: reference.last,
            ids,
        })
    }

    /// Rows and unit lengths.
    #[must_use]
    pub fn shape(&self) -> &SegmentShape {
        &self.shape
    }

    /// Rows that hold these plaintext bytes of the segment; empty for an empty or outlying range.
    #[must_use]
    pub fn rows_for(&self, plain: Range<usize>) -> Range<usize> {
        let row = self.layout.code().row_plain();
        let end = plain.end.min(self.shape.plain());
        if plain.start >= end { 0..0 } else { plain.start / row..end.div_ceil(row) }
    }

    /// Bytes of every shard that hold these rows: what to ask a node for. None if there are no such rows.
    #[must_use]
    pub fn shard_range(&self, rows: &Range<usize>) -> Option<Range<u64>> {
        if rows.is_empty() || rows.end > self.shape.rows() {
            return None;
        }
        let end = self.shape.shard_offset(rows.end - 1) + self.shape.unit_length(rows.end - 1);
        Some(self.shape.shard_offset(rows.start) as u64..end as u64)
    }

    /// Makes the bytes of shard `missing` for these rows again, byte by byte as they were stored, from the same rows of
    /// any k other indices, or of one replica of the same index. `sources` are (unit, masked bytes of those rows). When
    /// the rows are all of them, the result is checked against the shard's id.
    ///
    /// # Errors
    /// [`RepairError`].
    pub fn repair(
        &self,
        rows: Range<usize>,
        missing: usize,
        sources: Vec<(usize, impl Into<Buffer>)>,
    ) -> Result<Vec<u8>, RepairError> {
        let shape = UnitsError::Shape;
        let range = self.shard_range(&rows).ok_or(shape("rows"))?;
        let place = self.layout.place(missing).ok_or(shape("shard to repair"))?;
        let index = usize::from(place.0);
        let mut units = self.sort(&rows, sources)?;
        let mut bytes = match units.get_mut(index).and_then(Option::take) {
            Some((unit, mut bytes)) => {
                self.unmask(rows.start, unit, &mut bytes)?;
                core::mem::take(&mut *bytes)
            }
            None => self.rebuild_one(index, self.coded(rows.start, units)?)?,
        };
        self.layout.mask(&self.verify, self.number, place).apply(self.shape.shard_offset(rows.start), &mut bytes);
        let whole = range == (0..self.shape.shard_length() as u64);
        if whole && self.ids.get(missing) != Some(&ShardId::of(&bytes)) {
            return Err(RepairError::Id);
        }
        Ok(bytes)
    }

    /// What opens this segment: pages need no more than the verify key, data needs the read key.
    ///
    /// # Errors
    /// [`OpenError::ReadKey`] if this is a data segment and `read` is None.
    pub fn opener(self, read: Option<&ReadKey>) -> Result<SegmentOpener, OpenError> {
        let key = segment_key(&self.layout, &self.verify, read, self.number, &self.salt).ok_or(OpenError::ReadKey)?;
        let aead = self.layout.aead(&key);
        Ok(SegmentOpener::new(self, aead))
    }

    pub(super) fn layout(&self) -> &FileLayout {
        &self.layout
    }

    pub(super) fn number(&self) -> SegmentNumber {
        self.number
    }

    pub(super) fn is_last(&self) -> bool {
        self.last
    }

    /// The k data columns of these rows from any k distinct indices: as they came, with their masks, where all of them
    /// did, else rebuilt.
    pub(super) fn columns(
        &self,
        rows: &Range<usize>,
        sources: Vec<(usize, impl Into<Buffer>)>,
    ) -> Result<Vec<Column>, UnitsError> {
        let k = self.layout.code().k();
        let mut units = self.sort(rows, sources)?;
        if units.iter().take(k).all(Option::is_some) {
            let data = units.drain(..k).flatten();
            return data.map(|(unit, bytes)| Ok(Column { bytes, mask: Some(self.mask(unit)?) })).collect();
        }
        let mut coded = self.coded(rows.start, units)?;
        let coder = self.layout.coder();
        coder.reconstruct_data(&mut coded).map_err(|_| UnitsError::Shape("erasure code"))?;
        let data = coded.into_iter().take(k).flatten();
        let columns: Vec<Column> = data.map(|bytes| Column { bytes: bytes.into(), mask: None }).collect();
        if columns.len() == k { Ok(columns) } else { Err(UnitsError::Shape("erasure code")) }
    }

    /// Unmasks the bytes of shard `unit` that begin at row `first_row`.
    pub(super) fn unmask(&self, first_row: usize, unit: usize, bytes: &mut [u8]) -> Result<(), UnitsError> {
        self.mask(unit)?.apply(self.shape.shard_offset(first_row), bytes);
        Ok(())
    }

    fn mask(&self, unit: usize) -> Result<Mask, UnitsError> {
        let place = self.layout.place(unit).ok_or(UnitsError::Shape("number of a shard"))?;
        Ok(self.layout.mask(&self.verify, self.number, place))
    }

    /// Sources by index, one of each, still masked; refuses what this segment does not have.
    fn sort(
        &self,
        rows: &Range<usize>,
        sources: Vec<(usize, impl Into<Buffer>)>,
    ) -> Result<Vec<Option<Source>>, UnitsError> {
        let range = self.shard_range(rows).ok_or(UnitsError::Shape("rows"))?;
        let mut units: Vec<Option<Source>> = Vec::new();
        units.resize_with(self.layout.code().n(), || None);
        for (unit, bytes) in sources {
            let bytes = bytes.into();
            let (index, _) = self.layout.place(unit).ok_or(UnitsError::Shape("number of a shard"))?;
            if bytes.len() as u64 != range.end - range.start {
                return Err(UnitsError::Shape("length of a shard's rows"));
            }
            if let Some(slot) = units.get_mut(usize::from(index)) {
                slot.get_or_insert((unit, bytes));
            }
        }
        Ok(units)
    }

    /// Unmasks k of the sources, data before parity; drops the rest.
    fn coded(&self, first_row: usize, units: Vec<Option<Source>>) -> Result<Vec<Option<Vec<u8>>>, UnitsError> {
        let need = self.layout.code().k();
        let have = units.iter().flatten().count();
        if have < need {
            return Err(UnitsError::NotEnough { have, need });
        }
        let mut taken = 0;
        let unmasked = units.into_iter().map(|source| {
            let Some((unit, mut bytes)) = source.filter(|_| taken < need) else {
                return Ok(None);
            };
            taken += 1;
            self.unmask(first_row, unit, &mut bytes)?;
            // The coder takes vectors, and keeps them: these do not go back to their pool.
            Ok(Some(core::mem::take(&mut *bytes)))
        });
        unmasked.collect()
    }

    /// Computes one missing unit from k present ones.
    fn rebuild_one(&self, index: usize, mut coded: Vec<Option<Vec<u8>>>) -> Result<Vec<u8>, UnitsError> {
        let failed = |_| UnitsError::Shape("erasure code");
        let coder: &ReedSolomon = self.layout.coder();
        coder.reconstruct_data(&mut coded).map_err(failed)?;
        if coded.get(index).is_some_and(Option::is_none) {
            // A parity unit: the coder fills every gap, so stand-ins keep it from computing the other parity units.
            let length = coded.iter().flatten().map(Vec::len).next().unwrap_or(0);
            for (at, unit) in coded.iter_mut().enumerate() {
                if at != index && unit.is_none() {
                    *unit = Some(vec![0; length]);
                }
            }
            coder.reconstruct(&mut coded).map_err(failed)?;
        }
        coded.get_mut(index).and_then(Option::take).ok_or(UnitsError::Shape("erasure code"))
    }
}

/// A shard's number and its masked bytes for some rows.
type Source = (usize, Buffer);

/// One data column of some rows.
pub(super) struct Column {
    /// Its units back to back.
    pub(super) bytes: Buffer,
    /// What they are still under.
    pub(super) mask: Option<Mask>,
}
