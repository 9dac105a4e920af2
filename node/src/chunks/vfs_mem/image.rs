//! One state of a file: a length and the sectors that are not all zeros, so that empty space costs nothing.
//!
//! It never knows which bytes are durable; bytes beyond the length are always zeros, so a later extension reads zeros.

use std::ops::Range;
use std::sync::Arc;

use super::SECTOR;
use super::shared_map::SharedMap;

pub(super) type Sector = [u8; SECTOR];

#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    length: u64,
    sectors: SharedMap<Arc<Sector>>,
}

/// The sector of a position, and the offset within it.
pub(super) fn locate(position: u64) -> (u64, usize) {
    let size = SECTOR as u64;
    (position / size, usize::try_from(position % size).unwrap_or(0))
}

/// Where in sector `number` the position lies: 0 if before it, `SECTOR` if behind it.
pub(super) fn clamp_to(position: u64, number: u64) -> usize {
    let start = number.saturating_mul(SECTOR as u64);
    usize::try_from(position.saturating_sub(start)).unwrap_or(SECTOR).min(SECTOR)
}

/// The sectors that `length` bytes from `offset` touch: number, offset within the sector, range of the bytes.
pub(super) fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    let mut done = 0_usize;
    std::iter::from_fn(move || {
        let (number, start) = locate(offset.saturating_add(done as u64));
        let end = length.min(done.saturating_add(SECTOR.saturating_sub(start)));
        let range = std::mem::replace(&mut done, end)..end;
        (!range.is_empty()).then_some((number, start, range))
    })
}

/// Copies `bytes` into a sector from `start`.
pub(super) fn copy_into(sector: &mut Sector, start: usize, bytes: &[u8]) {
    if let Some(target) = sector.get_mut(start..start.saturating_add(bytes.len())) {
        target.copy_from_slice(bytes);
    }
}

impl Image {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut image = Self { length: bytes.len() as u64, ..Self::default() };
        image.write(bytes, 0);
        image
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn sector(&self, number: u64) -> Sector {
        self.sectors.get(number).map_or([0; SECTOR], |sector| **sector)
    }

    pub(super) fn put(&mut self, number: u64, sector: &Sector) {
        if *sector == [0; SECTOR] {
            self.sectors.remove(number);
        } else {
            self.sectors.insert(number, Arc::new(*sector));
        }
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) {
        for (number, start, range) in parts(offset, buffer.len()) {
            let Some(target) = buffer.get_mut(range) else { continue };
            match self.sectors.get(number).and_then(|sector| sector.get(start..start.saturating_add(target.len()))) {
                Some(bytes) => target.copy_from_slice(bytes),
                None => target.fill(0),
            }
        }
    }

    /// Writes within the length.
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        for (number, start, range) in parts(offset, bytes.len()) {
            let sector = self.sectors.get_or_insert(number, || Arc::new([0; SECTOR]));
            copy_into(Arc::make_mut(sector), start, bytes.get(range).unwrap_or_default());
        }
    }

    pub(super) fn set_length(&mut self, length: u64) {
        if length < self.length {
            self.erase_from(length);
        }
        self.length = length;
    }

    /// Makes all bytes from `position` zeros and leaves the length alone.
    pub(super) fn erase_from(&mut self, position: u64) {
        let (number, start) = locate(position);
        if start == 0 {
            self.sectors.remove_from(number);
            return;
        }
        self.sectors.remove_from(number.saturating_add(1));
        if let Some(sector) = self.sectors.get_mut(number)
            && let Some(tail) = Arc::make_mut(sector).get_mut(start..)
        {
            tail.fill(0);
        }
    }

    /// Flips bits of one byte, if it lies within the length.
    pub(super) fn flip(&mut self, position: u64, mask: u8) {
        if position < self.length {
            let (number, start) = locate(position);
            let mut sector = self.sector(number);
            if let Some(byte) = sector.get_mut(start) {
                *byte ^= mask;
            }
            self.put(number, &sector);
        }
    }
}
