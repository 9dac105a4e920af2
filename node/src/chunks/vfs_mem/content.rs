//! One file's bytes: what readers see, what is durable, and the unsynced pieces and lengths between the two.
//!
//! It never names a file and never fails: faults and room on the disk are the business of `state.rs`.

use super::SECTOR;
use super::image::{Image, Sector, clamp_to, locate, parts};
use super::piece::Piece;
use super::shared_map::SharedMap;
use crate::chunks::random::Random;

/// More unsynced pieces of one sector than this are merged, oldest first, to bound memory.
const MOST_PIECES: usize = 16;

/// Of 256, how many pieces of a file survive a crash.
const ODDS: [u64; 5] = [0, 32, 128, 224, 256];

#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    live: Image,
    durable: Image,
    pending: SharedMap<Vec<Piece>>,
    /// The lengths since the durable one, in order.
    lengths: Vec<u64>,
    /// Those of `lengths` that were cuts.
    cuts: Vec<Cut>,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Its number among the changes of the length, from 1.
    change: usize,
    length: u64,
}

impl Content {
    /// A file with these bytes, all durable.
    pub(super) fn durable(bytes: &[u8]) -> Self {
        let image = Image::of(bytes);
        Self { live: image.clone(), durable: image, ..Self::default() }
    }

    pub(super) fn length(&self) -> u64 {
        self.live.length()
    }

    /// Fills `buffer`; bytes beyond the end are zeros.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) {
        self.live.read(buffer, offset);
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.length()).unwrap_or(0)];
        self.read(&mut bytes, 0);
        bytes
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        self.resize(self.length().max(offset.saturating_add(bytes.len() as u64)));
        self.live.write(bytes, offset);
        for (number, start, range) in parts(offset, bytes.len()) {
            let piece = Piece::new(self.lengths.len(), start, bytes.get(range).unwrap_or_default());
            let pieces = self.pending.get_or_insert(number, Vec::new);
            pieces.push(piece);
            if pieces.len() > MOST_PIECES {
                merge_oldest(pieces, &self.cuts, number);
            }
        }
    }

    pub(super) fn resize(&mut self, length: u64) {
        let old = self.length();
        if length == old {
            return;
        }
        self.live.set_length(length);
        self.lengths.push(length);
        if length < old {
            self.cuts.push(Cut { change: self.lengths.len(), length });
        }
    }

    /// Makes all of it durable.
    pub(super) fn sync(&mut self) {
        self.settle(self.lengths.len(), self.length(), || true);
    }

    /// As Linux does: the pages are marked clean though they never reached the disk. The length is metadata and stays
    /// unsynced.
    pub(super) fn fail_sync(&mut self) {
        self.pending = SharedMap::default();
    }

    pub(super) fn crash(&mut self, random: &mut Random) {
        let (reached, length) = self.survivor(random);
        let odds = usize::try_from(random.below(ODDS.len() as u64)).ok().and_then(|index| ODDS.get(index));
        let odds = odds.copied().unwrap_or(0);
        self.settle(reached, length, || random.below(256) < odds);
        self.live = self.durable.clone();
    }

    /// Flips bits of one byte wherever it is stored, so that a sync of what is pending does not repair it.
    pub(super) fn flip(&mut self, position: u64, mask: u8) {
        self.live.flip(position, mask);
        self.durable.flip(position, mask);
        let (number, start) = locate(position);
        for piece in self.pending.get_mut(number).into_iter().flatten() {
            piece.flip(start, mask);
        }
    }

    /// How many changes of the length a crash keeps, and the length after it.
    fn survivor(&self, random: &mut Random) -> (usize, u64) {
        let all = self.lengths.len();
        let (old, new) = (self.durable.length(), self.length());
        match random.below(5) {
            0 => (0, old),
            1 | 2 => (all, new),
            3 => {
                let reached = usize::try_from(random.below(all as u64 + 1)).unwrap_or(0);
                let last = reached.checked_sub(1).and_then(|index| self.lengths.get(index));
                (reached, last.copied().unwrap_or(old))
            }
            _ => {
                let (low, high) = (old.min(new), old.max(new));
                let length = low.saturating_add(random.below((high - low).saturating_add(1)));
                // A file that grew in part has been through all cuts before; one that shrank in part may still hold
                // the bytes from before the cut.
                let reached = if length > old || random.below(2) == 0 { all } else { 0 };
                (reached, length)
            }
        }
    }

    /// Makes the first `reached` changes of the length, the pieces that `keep` picks and `length` durable, and forgets
    /// the rest.
    fn settle(&mut self, reached: usize, length: u64, mut keep: impl FnMut() -> bool) {
        let mut cuts = std::mem::take(&mut self.cuts);
        cuts.retain(|cut| cut.change <= reached);
        let mut settled = Vec::new();
        for (number, pieces) in std::mem::take(&mut self.pending).iter() {
            let mut sector = self.durable.sector(number);
            let mut done = 0;
            for piece in pieces {
                let now = cuts.partition_point(|cut| cut.change <= piece.changes_before);
                erase(&mut sector, cuts.get(done..now), number);
                done = now;
                if keep() {
                    piece.apply(&mut sector);
                }
            }
            erase(&mut sector, cuts.get(done..), number);
            settled.push((number, sector));
        }
        if let Some(shortest) = cuts.iter().map(|cut| cut.length).min() {
            self.durable.erase_from(shortest);
        }
        for (number, sector) in settled {
            self.durable.put(number, &sector);
        }
        // Pieces beyond the length are lost even if the durable file was as short before.
        self.durable.erase_from(length);
        self.durable.set_length(length);
        self.lengths.clear();
    }
}

/// Zeros what the cuts took from a sector.
fn erase(sector: &mut Sector, cuts: Option<&[Cut]>, number: u64) {
    let first = cuts.into_iter().flatten().map(|cut| clamp_to(cut.length, number)).min();
    if let Some(tail) = first.and_then(|first| sector.get_mut(first..)) {
        tail.fill(0);
    }
}

fn merge_oldest(pieces: &mut Vec<Piece>, cuts: &[Cut], number: u64) {
    if let [older, newer, ..] = pieces.as_slice() {
        let between = older.changes_before.saturating_add(1)..=newer.changes_before;
        let cuts = cuts.iter().filter(|cut| between.contains(&cut.change));
        let cut = cuts.map(|cut| clamp_to(cut.length, number)).min().unwrap_or(SECTOR);
        let merged = older.merge(newer, cut);
        pieces.splice(..2, [merged]);
    }
}
