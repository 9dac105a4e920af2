//! What was altered, moved or cut does not open.

use super::*;

type Rows = Vec<(usize, Vec<u8>)>;

fn all_rows(layout: &FileLayout, segment: &SegmentShards, units: &[usize]) -> (SegmentOpener, Rows) {
    let opener = opener(layout, segment);
    let rows = 0..opener.stored().shape().rows();
    let sources = sources(segment, opener.stored(), &rows, units);
    (opener, sources)
}

fn open(opener: &SegmentOpener, sources: Rows) -> Result<Buffer, OpenError> {
    opener.open_rows(0..opener.stored().shape().rows(), sources)
}

/// Unmasks sources, lets `change` move bytes as someone with the verify key could, and masks again.
fn with_unmasked(opener: &SegmentOpener, mut sources: Rows, change: impl Fn(&mut Rows)) -> Rows {
    let mask = |sources: &mut Rows| {
        for (unit, bytes) in sources {
            opener.stored().unmask(0, *unit, bytes).unwrap();
        }
    };
    mask(&mut sources);
    change(&mut sources);
    mask(&mut sources);
    sources
}

#[test]
fn a_flipped_byte_of_any_unit_is_refused() {
    for suite in SUITES {
        let layout = layout(suite, code(4, 2), 1);
        let segment = &seal_all(&layout, &pattern(300_000))[0];
        for units in [[0, 1, 2, 3], [2, 3, 4, 5]] {
            let (opener, good) = all_rows(&layout, segment, &units);
            let length = good[0].1.len();
            for source in 0..4 {
                for at in [0, 1, 65_519, 65_520, 65_535, 65_536, length - 17, length - 16, length - 1] {
                    let mut bad = good.clone();
                    bad[source].1[at] ^= 0x10;
                    let row = at / 65_536;
                    assert!(
                        matches!(open(&opener, bad), Err(OpenError::Tag { row: at, .. }) if at == row),
                        "unit {} byte {at}",
                        units[source]
                    );
                }
            }
        }
    }
}

#[test]
fn moved_units_are_refused() {
    for suite in SUITES {
        let layout = layout(suite, code(2, 1), 1);
        let segment = &seal_all(&layout, &pattern(400_000))[0];
        let (opener, good) = all_rows(&layout, segment, &[0, 1]);
        assert!(open(&opener, good.clone()).is_ok());
        // As stored: masks alone already refuse.
        let mut swapped = good.clone();
        let (first, second) = (swapped[0].1.clone(), swapped[1].1.clone());
        swapped[0].1 = second;
        swapped[1].1 = first;
        assert!(matches!(open(&opener, swapped), Err(OpenError::Tag { row: 0, .. })));
        // Without masks: the counter and AAD refuse columns and rows in each other's place.
        let columns = with_unmasked(&opener, good.clone(), |sources| {
            let (first, second) = sources.split_at_mut(1);
            first[0].1[..65_536].swap_with_slice(&mut second[0].1[..65_536]);
        });
        assert_eq!(open(&opener, columns), Err(OpenError::Tag { row: 0, column: 0 }));
        let rows = with_unmasked(&opener, good.clone(), |sources| {
            for (_, bytes) in sources {
                let (first, second) = bytes.split_at_mut(65_536);
                first.swap_with_slice(&mut second[..65_536]);
            }
        });
        assert_eq!(open(&opener, rows), Err(OpenError::Tag { row: 0, column: 0 }));
    }
}

#[test]
fn segments_in_each_others_place_are_refused() {
    let layout = layout(SUITES[1], code(1, 254), 1);
    let full = layout.code().segment_plain();
    let mut segments = seal_all(&layout, &pattern(3 * full));
    let (last, middle) = (segments.remove(2), segments.remove(1));
    assert!(open_all(&layout, &middle, &[0]).is_ok());
    // The whole entry of one segment, salt and ids included, under another number.
    let moved = SegmentShards { number: SegmentNumber(0), ..middle.clone() };
    assert_eq!(open_all(&layout, &moved, &[0]), Err(OpenError::Tag { row: 0, column: 0 }));
    // A stream cut short: the segment before claims to be the last, and the last one not to be.
    for mut segment in [middle, last] {
        segment.reference.last = !segment.reference.last;
        assert_eq!(open_all(&layout, &segment, &[0]), Err(OpenError::Tag { row: 0, column: 0 }));
    }
}

#[test]
fn another_shape_suite_file_or_key_is_refused() {
    let (suite, other) = (SUITES[0], SUITES[1]);
    let own = layout(suite, code(2, 2), 1);
    let segment = &seal_all(&own, &pattern(200_000))[0];
    let tag = Err(OpenError::Tag { row: 0, column: 0 });
    assert_eq!(open_all(&layout(other, code(2, 2), 1), segment, &[0, 1]), tag);
    let elsewhere = FileLayout::new(FileId::from_bytes([0; 32]), suite, code(2, 2), 1).unwrap();
    assert_eq!(open_all(&elsewhere, segment, &[0, 1]), tag);
    assert!(open_all(&own, segment, &[0, 1]).is_ok());
    // A row cut short changes the length in its AAD.
    let mut shorter = segment.clone();
    shorter.reference.plain -= 2;
    let opener = stored(&own, &shorter).opener(Some(&read_key())).unwrap();
    let mut cut = sources(segment, &stored(&own, segment), &(0..2), &[0, 1]);
    cut.iter_mut().for_each(|(_, bytes)| bytes.truncate(bytes.len() - 1));
    assert_eq!(opener.open_rows(0..2, cut), Err(OpenError::Tag { row: 1, column: 0 }));
    // A whole row cut off changes the length of the shard, which its id binds.
    let answer = encode_ranges(&segment.shards[0].bytes, &[0..65_536]).unwrap();
    let mut verifier = SliceVerifier::new(segment.shards[0].id, 65_536, &[0..65_536]).unwrap();
    let mut input = bytes::Bytes::from(answer);
    let verified = core::iter::from_fn(|| verifier.push(&mut input).transpose()).collect::<Result<Vec<_>, _>>();
    assert!(matches!(verified, Err(VerifyError::Wrong { .. })), "{verified:?}");
    let verify = read_key().verify();
    for (k, m) in [(2, 1), (3, 2)] {
        let foreign = StoredSegment::new(&layout(suite, code(k, m), 1), &verify, segment.number, &segment.reference);
        assert!(matches!(foreign, Err(UnitsError::Shape(_))));
    }
    let strange = RootKey::new([1; 32]).read();
    let opener = stored(&own, segment).opener(Some(&strange)).unwrap();
    let sources = sources(segment, opener.stored(), &(0..2), &[0, 1]);
    assert_eq!(opener.open_rows(0..2, sources), tag);
}

#[test]
fn units_of_another_shape_are_refused() {
    let layout = layout(SUITES[0], code(2, 1), 1);
    let segment = &seal_all(&layout, &pattern(200_000))[0];
    let (opener, good) = all_rows(&layout, segment, &[0, 1]);
    fn shape<T>(result: Result<T, OpenError>) -> bool {
        matches!(result, Err(OpenError::Units(UnitsError::Shape(_))))
    }
    let mut cut = good.clone();
    cut[1].1.pop();
    assert!(shape(open(&opener, cut)));
    let mut long = good.clone();
    long[1].1.push(0);
    assert!(shape(open(&opener, long)));
    for unit in [3, usize::MAX] {
        let mut strange = good.clone();
        strange[0].0 = unit;
        assert!(shape(open(&opener, strange)));
    }
    assert!(shape(opener.open_rows(0..9, good.clone())));
    assert!(shape(opener.open_rows(usize::MAX - 1..usize::MAX, good.clone())));
    assert!(shape(opener.open_rows(0..0, Rows::new())));
    assert!(shape(opener.open_frame(9, 0, good[0].1.clone())));
    assert!(shape(opener.open_frame(0, 0, vec![])));
    assert!(shape(opener.open_frame(0, 30, good[0].1[..65_536].to_vec())));
}
