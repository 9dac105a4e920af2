//! The verifier against the encoder the nodes use: every range shape, every way to be wrong.

use core::ops::Range;

use bytes::Bytes;
use shoal_protocol::ShardId;

use super::*;

/// Verifies `answer` in pieces of `step` bytes; the pieces, or why it was refused.
fn verify(
    id: ShardId,
    length: u64,
    ranges: &[Range<u64>],
    answer: &[u8],
    step: usize,
) -> Result<Vec<Piece>, VerifyError> {
    let mut verifier = SliceVerifier::new(id, length, ranges).unwrap();
    let mut pieces = Vec::new();
    for part in answer.chunks(step) {
        let mut input = Bytes::copy_from_slice(part);
        while !input.is_empty() {
            pieces.extend(verifier.push(&mut input)?);
        }
    }
    let complete = verifier.is_complete();
    verifier.finish()?;
    assert!(complete);
    Ok(pieces)
}

fn range_sets(length: u64) -> Vec<Vec<Range<u64>>> {
    let mut sets = vec![vec![0..length], vec![0..1], vec![length - 1..length], vec![length / 2..length]];
    if length > 3000 {
        sets.push(vec![1000..1001, 2500..2501, length - 2000..length - 1000]);
        sets.push(vec![length - 1000..length, 0..5, 3..1025]);
    }
    if length > 70_000 {
        sets.push(vec![0..65_536, 16_384..20_000, 65_536..length]);
        sets.push(vec![16_384..32_768, 49_152..49_153]);
    }
    sets
}

#[test]
fn answers_of_the_encoder_are_accepted() {
    for length in [1, 1023, 1024, 1025, 16_383, 16_384, 16_385, 32_768, 65_536, 196_608, 200_017] {
        let shard = pattern(length);
        let id = ShardId::of(&shard);
        for ranges in range_sets(length as u64) {
            let answer = encode_ranges(&shard, &ranges).unwrap();
            for step in [1, 63, 1024, 16_384, 65_536, 1 << 20] {
                let pieces = verify(id, length as u64, &ranges, &answer, step).unwrap();
                let mut covered = vec![false; length];
                let mut end = 0;
                for Piece { offset, bytes } in pieces {
                    assert!(offset >= end && bytes.len() <= 16_384);
                    end = offset + bytes.len() as u64;
                    assert!(bytes == shard[offset as usize..end as usize]);
                    covered[offset as usize..end as usize].fill(true);
                }
                for (at, covered) in covered.iter().enumerate() {
                    let chunk = (at as u64 / 1024 * 1024)..(at as u64 / 1024 + 1) * 1024;
                    let wanted = ranges.iter().any(|range| range.start < chunk.end && range.end > chunk.start);
                    assert_eq!(*covered, wanted, "byte {at} of {length} for {ranges:?}");
                }
            }
        }
    }
}

#[test]
fn every_flipped_byte_is_refused() {
    let shard = pattern(40_000);
    let id = ShardId::of(&shard);
    for ranges in [vec![0..40_000], vec![16_000..17_000, 33_000..33_001]] {
        let good = encode_ranges(&shard, &ranges).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            let refused = verify(id, 40_000, &ranges, &bad, 4096);
            assert!(matches!(refused, Err(VerifyError::Wrong { .. })), "byte {at}: {refused:?}");
        }
    }
}

#[test]
fn truncation_excess_and_another_id_are_refused() {
    let shard = pattern(40_000);
    let id = ShardId::of(&shard);
    for ranges in [vec![0..40_000], vec![16_000..17_000, 33_000..33_001]] {
        let good = encode_ranges(&shard, &ranges).unwrap();
        for length in 0..good.len() {
            assert_eq!(verify(id, 40_000, &ranges, &good[..length], 1 << 20), Err(VerifyError::Early), "{length}");
        }
        let excess = [&good[..], &[0]].concat();
        for step in [1, 1 << 20] {
            assert_eq!(verify(id, 40_000, &ranges, &excess, step), Err(VerifyError::Excess));
        }
        let wrong = verify(ShardId::of(b"other"), 40_000, &ranges, &good, 64);
        assert_eq!(wrong, Err(VerifyError::Wrong { offset: 0 }));
    }
}

#[test]
fn an_answer_for_another_length_is_refused() {
    let shard = pattern(40_000);
    let good = encode_ranges(&shard, &[0..1000, 39_000..40_000]).unwrap();
    for length in [16_384, 20_000, 32_768, 39_000, 39_999, 40_001, 65_536, 1 << 20] {
        let ranges = [0..1000, 16_000.min(length - 1000)..length];
        let refused = verify(ShardId::of(&shard), length, &ranges, &good, 64);
        assert!(matches!(refused, Err(VerifyError::Wrong { .. })), "{length}: {refused:?}");
    }
}

#[test]
fn after_a_refusal_nothing_is_accepted() {
    let shard = pattern(40_000);
    let good = encode_ranges(&shard, &[0..40_000]).unwrap();
    let mut verifier = SliceVerifier::new(ShardId::of(&shard), 40_000, &[0..40_000]).unwrap();
    let wrong = Err(VerifyError::Wrong { offset: 0 });
    assert_eq!(verifier.push(&mut Bytes::from(vec![0; 64])), wrong);
    assert_eq!(verifier.push(&mut Bytes::from(good)), wrong);
    assert!(!verifier.is_complete());
    assert_eq!(verifier.finish(), Err(VerifyError::Wrong { offset: 0 }));
}

#[test]
fn ranges_that_are_none_are_refused() {
    let id = ShardId::of(b"");
    let refused = |length, ranges: &[Range<u64>]| SliceVerifier::new(id, length, ranges).unwrap_err();
    assert_eq!(refused(10, &[]), RangesError::Count(0));
    assert_eq!(refused(10, &vec![0..1; 65]), RangesError::Count(65));
    for (start, end) in [(0, 11), (5, 5), (6, 5), (10, 11), (u64::MAX, u64::MAX)] {
        let range = Range { start, end };
        assert_eq!(refused(10, &[range]), RangesError::Bounds { start, end, length: 10 });
    }
    for length in [0, 4 * 1024 * 1024 + 1, u64::MAX] {
        assert_eq!(refused(length, &[0..1]), RangesError::Length(length));
    }
    assert_eq!(encode_ranges(&[], &[0..1]), Err(RangesError::Length(0)));
}
