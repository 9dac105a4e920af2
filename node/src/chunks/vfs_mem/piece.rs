//! One unsynced write as far as it touches one sector: the unit that survives a crash or not.
//!
//! A piece never reaches beyond its sector and never decides itself whether it survives.

use std::sync::Arc;

use super::SECTOR;
use super::image::{Sector, copy_into};

#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// How many unsynced changes of the length came before it.
    pub(super) changes_before: usize,
    /// Ranges that do not overlap. A write has one, a merged piece any number.
    spans: Arc<[Span]>,
}

#[derive(Clone, Debug)]
struct Span {
    start: usize,
    bytes: Vec<u8>,
}

impl Piece {
    pub(super) fn new(changes_before: usize, start: usize, bytes: &[u8]) -> Self {
        Self { changes_before, spans: Arc::new([Span { start, bytes: bytes.to_vec() }]) }
    }

    pub(super) fn apply(&self, sector: &mut Sector) {
        for span in self.spans.iter() {
            copy_into(sector, span.start, &span.bytes);
        }
    }

    /// Flips bits of the byte at `offset` in the sector, if the piece covers it.
    pub(super) fn flip(&mut self, offset: usize, mask: u8) {
        for span in Arc::make_mut(&mut self.spans) {
            if let Some(byte) = offset.checked_sub(span.start).and_then(|index| span.bytes.get_mut(index)) {
                *byte ^= mask;
            }
        }
    }

    /// Both as one piece that survives as a whole.
    ///
    /// Bytes of `self` from `cut` on were cut off before `newer` was written. They are left out instead of zeroed:
    /// whether the cut survives is decided elsewhere.
    pub(super) fn merge(&self, newer: &Self, cut: usize) -> Self {
        let mut bytes = [None; SECTOR];
        self.paint(&mut bytes);
        if let Some(tail) = bytes.get_mut(cut..) {
            tail.fill(None);
        }
        newer.paint(&mut bytes);
        let mut spans: Vec<Span> = Vec::new();
        for (start, run) in runs(&bytes) {
            spans.push(Span { start, bytes: run });
        }
        Self { changes_before: newer.changes_before, spans: spans.into() }
    }

    fn paint(&self, bytes: &mut [Option<u8>; SECTOR]) {
        for span in self.spans.iter() {
            for (target, byte) in bytes.iter_mut().skip(span.start).zip(&span.bytes) {
                *target = Some(*byte);
            }
        }
    }
}

/// The runs of bytes that are there, each with its start.
fn runs(bytes: &[Option<u8>]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let mut at = 0_usize;
    bytes.chunk_by(|left, right| left.is_some() == right.is_some()).filter_map(move |run| {
        let start = at;
        at = at.saturating_add(run.len());
        let there: Vec<u8> = run.iter().flatten().copied().collect();
        (!there.is_empty()).then_some((start, there))
    })
}
