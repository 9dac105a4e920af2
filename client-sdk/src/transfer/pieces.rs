//! From verified pieces to the bytes that were asked for.

use std::ops::Range;

use crate::pipeline::verify::Piece;

/// Appends the part of `piece` that lies in `ranges`: verified pieces are whole groups, requests need not be.
pub fn append_wanted(piece: &Piece, ranges: &[Range<u64>], out: &mut Vec<u8>) {
    let end = piece.offset.saturating_add(piece.bytes.len() as u64);
    for range in ranges {
        let (from, to) = (range.start.max(piece.offset), range.end.min(end));
        if from < to {
            let at = |offset: u64| usize::try_from(offset - piece.offset).unwrap_or(usize::MAX);
            out.extend_from_slice(piece.bytes.get(at(from)..at(to)).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_kept() {
        let piece = Piece { offset: 10, bytes: bytes::Bytes::from_static(b"0123456789") };
        let mut out = Vec::new();
        append_wanted(&piece, &[0..12, 15..16, 19..40, 50..60], &mut out);
        assert_eq!(out, b"0159");
    }
}
