//! One row of a segment on its way to storage: plain, sealed, coded, masked, each a type. A state is only reached from
//! the one before, in place, on the units' final memory; it never allocates unit bytes of its own.

use core::ops::Range;

use blake3::Hasher;
use shoal_protocol::buffer::Buffer;
use shoal_protocol::limits::TAG;
use shoal_protocol::sealing::{FrameAad, nonce};
use sia_reed_solomon::ReedSolomon;

use super::seal::{Aead, Mask};

/// What every frame of a row is sealed with.
pub(super) struct FrameSealer<'a> {
    pub(super) aead: &'a Aead,
    /// AAD of the row's first frame; the counter goes up by one per column.
    pub(super) first: FrameAad,
}

/// The plaintext of a row and the n units it will become; what is in them counts for nothing.
pub(super) struct PlainRow<'a> {
    plain: &'a [u8],
    units: Vec<&'a mut [u8]>,
    data: usize,
}

/// Data units sealed.
pub(super) struct SealedRow<'a>(Vec<&'a mut [u8]>);

/// Parity units computed over the sealed ones.
pub(super) struct CodedRow<'a>(Vec<&'a mut [u8]>);

/// Every unit of every replica under its own keystream: what nodes may see.
pub(super) struct MaskedRow<'a>(Vec<&'a mut [u8]>);

impl<'a> PlainRow<'a> {
    /// A row of `plain` bytes for the units at `at` of `shards` (index order, one replica, the first `data` for data).
    pub(super) fn new(plain: &'a [u8], shards: &'a mut [Buffer], data: usize, at: &Range<usize>) -> Self {
        Self { plain, units: units(shards, at).collect(), data }
    }

    /// Seals the plaintext frame by frame into the data units; the rest of the last frames is zero.
    pub(super) fn seal(mut self, sealer: &FrameSealer<'_>) -> SealedRow<'a> {
        let mut rest = self.plain;
        for (counter, unit) in (sealer.first.counter..).zip(self.units.iter_mut().take(self.data)) {
            let aad = FrameAad { counter, ..sealer.first }.to_bytes();
            let (frame, behind) = rest.split_at(rest.len().min(unit.len() - TAG));
            rest = behind;
            if frame.len() == unit.len() - TAG {
                sealer.aead.seal_into(&nonce(counter), &aad, frame, unit);
            } else {
                unit.fill(0);
                unit[..frame.len()].copy_from_slice(frame);
                sealer.aead.seal(&nonce(counter), &aad, unit);
            }
        }
        SealedRow(self.units)
    }
}

fn units<'a>(shards: &'a mut [Buffer], at: &Range<usize>) -> impl Iterator<Item = &'a mut [u8]> {
    shards.iter_mut().map(|shard| &mut shard[at.clone()])
}

impl<'a> SealedRow<'a> {
    /// Computes the parity units.
    pub(super) fn code(mut self, coder: &ReedSolomon) -> CodedRow<'a> {
        if coder.encode(&mut self.0).is_err() {
            unreachable!("a row has k+m units of one length, at least the tag");
        }
        CodedRow(self.0)
    }
}

impl<'a> CodedRow<'a> {
    /// Copies the row to the units at `at` of the other replicas, then masks every unit of all of them. `masks` has one
    /// keystream per shard, replica by replica.
    pub(super) fn mask(self, copies: &'a mut [Buffer], masks: &[Mask], at: &Range<usize>) -> MaskedRow<'a> {
        let mut row = self.0;
        let width = row.len();
        for (position, copy) in units(copies, at).enumerate() {
            copy.copy_from_slice(row[position % width]);
            row.push(copy);
        }
        for (unit, mask) in row.iter_mut().zip(masks) {
            mask.apply(at.start, unit);
        }
        MaskedRow(row)
    }
}

impl MaskedRow<'_> {
    /// Feeds each unit to the hasher of its shard.
    pub(super) fn hash(self, hashers: &mut [Hasher]) {
        for (unit, hasher) in self.0.iter().zip(hashers) {
            hasher.update(unit);
        }
    }
}
