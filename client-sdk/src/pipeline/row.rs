//! One row of a segment on its way to storage: plain, sealed, coded, masked, each a type. A state is only reached from
//! the one before, in place, on the units' final memory; it never allocates unit bytes of its own.

use blake3::Hasher;
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

/// k data units that hold plaintext and m empty ones.
pub(super) struct PlainRow<'a> {
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
    /// Lengthens each shard in `shards` (index order, one replica) by one unit of `unit_length` bytes and lays `plain`
    /// into the first `data` of them, frame by frame; the rest of the last frames is zero.
    pub(super) fn lay(shards: &'a mut [Vec<u8>], data: usize, unit_length: usize, plain: &[u8]) -> Self {
        let frame_length = unit_length - TAG;
        let mut frames = plain.chunks(frame_length);
        let units = shards
            .iter_mut()
            .enumerate()
            .map(|(index, shard)| {
                let start = shard.len();
                if index < data {
                    shard.extend_from_slice(frames.next().unwrap_or_default());
                }
                shard.resize(start + unit_length, 0);
                &mut shard[start..]
            })
            .collect();
        Self { units, data }
    }

    /// Seals every data unit.
    pub(super) fn seal(mut self, sealer: &FrameSealer<'_>) -> SealedRow<'a> {
        for (counter, unit) in (sealer.first.counter..).zip(self.units.iter_mut().take(self.data)) {
            let aad = FrameAad { counter, ..sealer.first };
            sealer.aead.seal(&nonce(counter), &aad.to_bytes(), unit);
        }
        SealedRow(self.units)
    }
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
    /// Copies the row to the other replicas, then masks every unit of all of them. `masks` has one keystream per shard,
    /// replica by replica; `offset` is where the row begins within each shard.
    pub(super) fn mask(self, copies: &'a mut [Vec<u8>], masks: &[Mask], offset: usize) -> MaskedRow<'a> {
        let mut units = self.0;
        let width = units.len();
        for (position, copy) in copies.iter_mut().enumerate() {
            let start = copy.len();
            copy.extend_from_slice(units[position % width]);
            units.push(&mut copy[start..]);
        }
        for (unit, mask) in units.iter_mut().zip(masks) {
            mask.apply(offset, unit);
        }
        MaskedRow(units)
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
