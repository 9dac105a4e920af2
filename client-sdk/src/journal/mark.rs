//! The mark a plaintext segment is known again by. It never leaves the sealed entries of a journal.

use crate::keys::MarkKey;
use crate::pipeline::PlainSegment;

/// Keyed BLAKE3 of one plaintext segment and its place.
pub type Mark = [u8; 32];

/// The mark of `segment`. Two segments of one upload have one mark only if everything that goes into their sealing beside
/// the salt is equal: number, whether it is the last, length and plaintext.
#[must_use]
pub fn mark(key: &MarkKey, segment: &PlainSegment) -> Mark {
    let mut hasher = blake3::Hasher::new_keyed(key.as_bytes());
    hasher.update(&segment.number().0.to_le_bytes());
    hasher.update(&[u8::from(segment.is_last())]);
    hasher.update(&(segment.bytes().len() as u64).to_le_bytes());
    hasher.update(segment.bytes());
    *hasher.finalize().as_bytes()
}
