//! What goes in comes out: every size class, every code, every set of k, repair, replicas, pages.

use proptest::prelude::*;
use shoal_protocol::layout::padme;
use shoal_protocol::limits::FRAME_PLAIN;

use super::*;

/// Seals, opens from the last k shards (as much parity as there is) and from the first k; compares.
fn round_trip(layout: &FileLayout, length: usize) {
    let bytes = pattern(length);
    let segments = seal_all(layout, &bytes);
    let (k, n) = (layout.code().k(), layout.code().n());
    for units in [(0..k).collect::<Vec<_>>(), (n - k..n).collect()] {
        let stream: Vec<u8> =
            segments.iter().flat_map(|segment| open_all(layout, segment, &units).unwrap().to_vec()).collect();
        assert_eq!(stream.len() as u64, padme(length as u64));
        assert!(stream.starts_with(&bytes) && stream[length..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn every_size_class_round_trips() {
    for (k, m) in [(1, 1), (2, 2), (4, 2), (8, 8)] {
        let row = k * FRAME_PLAIN;
        for suite in SUITES {
            let layout = layout(suite, code(k, m), 1);
            assert!(seal_all(&layout, &[]).is_empty());
            for length in [1, 65_519, 65_520, 65_521, row - 1, row, row + 1] {
                round_trip(&layout, length);
            }
        }
    }
}

#[test]
fn whole_segments_round_trip() {
    for (k, m, suite) in [(1, 1, SUITES[0]), (2, 2, SUITES[1]), (4, 2, SUITES[0]), (8, 8, SUITES[1])] {
        let layout = layout(suite, code(k, m), 1);
        let full = layout.code().segment_plain();
        for length in [full - 1, full, full + 1] {
            round_trip(&layout, length);
        }
    }
}

#[test]
fn every_subset_of_k_shards_restores() {
    for suite in SUITES {
        let layout = layout(suite, code(4, 2), 1);
        let segment = &seal_all(&layout, &pattern(600_000))[0];
        let plain = open_all(&layout, segment, &[0, 1, 2, 3]).unwrap();
        let mut subsets = 0;
        for set in 0u32..64 {
            let units: Vec<usize> = (0..6).filter(|bit| set & (1 << bit) != 0).collect();
            match units.len() {
                4.. => assert!(open_all(&layout, segment, &units).unwrap() == plain, "{units:?}"),
                have => assert_eq!(
                    open_all(&layout, segment, &units),
                    Err(OpenError::Units(UnitsError::NotEnough { have, need: 4 }))
                ),
            }
            subsets += usize::from(units.len() == 4);
        }
        assert_eq!(subsets, 15);
    }
}

#[test]
fn parity_is_that_of_reed_solomon_erasure() {
    for (k, m) in [(1, 1), (2, 2), (4, 2), (8, 8), (10, 20)] {
        let layout = layout(SUITES[1], code(k, m), 1);
        let segment = &seal_all(&layout, &pattern(k * FRAME_PLAIN + 1234))[0];
        let stored = stored(&layout, segment);
        let coded = segment.shards.iter().map(|shard| {
            let mut bytes = shard.bytes.to_vec();
            stored.unmask(0, shard.unit, &mut bytes).unwrap();
            bytes
        });
        let mut coded: Vec<Vec<u8>> = coded.collect();
        let ours = coded.clone();
        coded[k..].iter_mut().for_each(|parity| parity.fill(0));
        reed_solomon_erasure::galois_8::ReedSolomon::new(k, m).unwrap().encode(&mut coded).unwrap();
        assert!(coded == ours, "{k}+{m}");
    }
}

#[test]
fn single_frames_open_alone() {
    let layout = layout(SUITES[1], code(4, 2), 2);
    let bytes = pattern(400_000);
    let segment = &seal_all(&layout, &bytes)[0];
    let opener = opener(&layout, segment);
    let shape = *opener.stored().shape();
    let mut stream = Vec::new();
    for row in 0..shape.rows() {
        for column in 0..4 {
            let from = |unit: usize| sources(segment, opener.stored(), &(row..row + 1), &[unit]).remove(0).1;
            let plain = opener.open_frame(row, column, from(column)).unwrap();
            assert_eq!(plain, opener.open_frame(row, 6 + column, from(6 + column)).unwrap());
            stream.extend(plain);
        }
    }
    assert_eq!(stream.len(), shape.plain());
    assert!(stream.starts_with(&bytes));
    let parity = sources(segment, opener.stored(), &(0..1), &[4]).remove(0).1;
    assert!(matches!(opener.open_frame(0, 4, parity), Err(OpenError::Units(UnitsError::Shape(_)))));
}

#[test]
fn rows_and_ranges_follow_the_plaintext() {
    let layout = layout(SUITES[0], code(4, 2), 1);
    let segment = &seal_all(&layout, &pattern(600_000))[0];
    let stored = stored(&layout, segment);
    let (row, plain) = (4 * FRAME_PLAIN, stored.shape().plain());
    assert_eq!(stored.rows_for(0..1), 0..1);
    assert_eq!(stored.rows_for(row - 1..row + 1), 0..2);
    assert_eq!(stored.rows_for(row..row), 0..0);
    assert_eq!(stored.rows_for(0..usize::MAX), 0..3);
    assert_eq!(stored.rows_for(plain..plain + 1), 0..0);
    assert_eq!(stored.shard_range(&(0..1)), Some(0..65_536));
    assert_eq!(stored.shard_range(&(1..3)), Some(65_536..stored.shape().shard_length() as u64));
    assert_eq!(stored.shard_range(&(2..4)), None);
    assert_eq!(stored.shard_range(&(1..1)), None);
}

#[test]
fn replicas_differ_and_repair_is_byte_identical() {
    for suite in SUITES {
        let layout = layout(suite, code(3, 2), 2);
        let segment = &seal_all(&layout, &pattern(300_000))[0];
        let ids: std::collections::BTreeSet<_> = segment.shards.iter().map(|shard| shard.id).collect();
        assert_eq!(ids.len(), 10, "no two shards are alike");
        let stored = stored(&layout, segment);
        let rows = 0..stored.shape().rows();
        for missing in 0..10 {
            let others: Vec<usize> = (0..10).filter(|unit| unit % 5 != missing % 5).collect();
            let twin = [(missing + 5) % 10];
            for units in [&others[..3], &others[3..6], &twin[..]] {
                let made = stored.repair(rows.clone(), missing, sources(segment, &stored, &rows, units)).unwrap();
                assert!(made == segment.shards[missing].bytes, "{missing} from {units:?}");
                let part = stored.repair(1..2, missing, sources(segment, &stored, &(1..2), units)).unwrap();
                assert!(part == made[65_536..], "{missing} from {units:?}");
            }
        }
        // Two replicas of one index are one source.
        let twice = sources(segment, &stored, &rows, &[1, 6, 2]);
        let error = RepairError::Units(UnitsError::NotEnough { have: 2, need: 3 });
        assert_eq!(stored.repair(rows.clone(), 0, twice), Err(error));
        let mut wrong = sources(segment, &stored, &rows, &[1, 2, 3]);
        wrong[0].1[5] ^= 1;
        assert_eq!(stored.repair(rows, 0, wrong), Err(RepairError::Id));
    }
}

#[test]
fn pages_open_with_the_verify_key_alone() {
    let layout = layout(SUITES[1], code(2, 1), 1);
    let number = SegmentNumber::page(4).unwrap();
    let plain = PlainSegment::page(number, layout.code(), b"a page").unwrap();
    let segment = plain.seal(&layout, &read_key(), [5; 32]).unwrap();
    let opener = stored(&layout, &segment).opener(None).unwrap();
    let sources = sources(&segment, opener.stored(), &(0..1), &[1, 2]);
    assert_eq!(page_bytes(&opener.open_rows(0..1, sources).unwrap()), Ok(&b"a page"[..]));
    let data = &seal_all(&layout, b"data")[0];
    assert_eq!(stored(&layout, data).opener(None).unwrap_err(), OpenError::ReadKey);
    assert!(PlainSegment::page(SegmentNumber(4), layout.code(), b"").is_err());
}

#[test]
fn settings_out_of_range_are_refused() {
    assert!(FileLayout::new(FILE, SUITES[0], Code { data: 0, parity: 1 }, 1).is_err());
    assert!(FileLayout::new(FILE, SUITES[0], Code { data: 200, parity: 56 }, 1).is_err());
    for replicas in [0, 9, 255] {
        assert_eq!(
            FileLayout::new(FILE, SUITES[0], code(1, 1), replicas).unwrap_err(),
            LayoutError::Replicas(replicas)
        );
    }
    let cut = cut(code(2, 1), b"x").remove(0);
    let error = SealError::Code { cut: code(2, 1), file: code(1, 2) };
    assert_eq!(cut.seal(&layout(SUITES[0], code(1, 2), 1), &read_key(), [0; 32]), Err(error));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_rows_open_from_any_shards(
        (k, m) in (1usize..9, 1usize..9),
        replicas in 1u8..3,
        length in 1usize..1_000_000,
        aes in any::<bool>(),
        shuffle in any::<u64>(),
        rows in (0usize..100, 0usize..100),
    ) {
        let layout = layout(SUITES[usize::from(aes)], code(k, m), replicas);
        let bytes = pattern(length);
        let segments = seal_all(&layout, &bytes);
        let segment = &segments[shuffle as usize % segments.len()];
        let opener = opener(&layout, segment);
        let count = opener.stored().shape().rows();
        let start = rows.0 % count;
        let rows = start..start + 1 + rows.1 % (count - start);
        let mut units: Vec<usize> = (0..layout.units()).collect();
        units.sort_by_key(|unit| blake3::hash(&[&shuffle.to_le_bytes()[..], &unit.to_le_bytes()].concat()).to_hex());
        units.truncate(k * usize::from(replicas));
        let distinct: std::collections::BTreeSet<_> = units.iter().map(|unit| unit % (k + m)).collect();
        let opened = opener.open_rows(rows.clone(), sources(segment, opener.stored(), &rows, &units));
        if distinct.len() < k {
            let error = UnitsError::NotEnough { have: distinct.len(), need: k };
            prop_assert_eq!(opened, Err(OpenError::Units(error)));
        } else {
            let begin = segment.number.0 as usize * layout.code().segment_plain() + rows.start * k * FRAME_PLAIN;
            let opened = opened.unwrap();
            let mut expected = bytes;
            expected.resize(begin.max(expected.len()) + opened.len(), 0);
            prop_assert!(*opened == expected[begin..begin + opened.len()]);
        }
    }
}
