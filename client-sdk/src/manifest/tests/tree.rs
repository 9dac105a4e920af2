//! Page trees: what is built is read back, at every size, in every order of arrival, and pages are used to the full.

use proptest::prelude::*;
use shoal_protocol::codec::decode;
use shoal_protocol::limits::PAGE_MAX;
use shoal_protocol::page::Page;

use super::*;

fn level(stored: &Stored) -> u8 {
    decode::<Page>(&stored.bodies[&stored.root.number], PAGE_MAX).unwrap().verify.level
}

fn round_trip(shape: TreeShape, segments: &[SegmentRef], entries: &[Entry]) -> Stored {
    let stored = build(shape, segments, entries).unwrap();
    let tree = stored.read().unwrap();
    assert!(tree.segments == segments, "segments differ");
    assert!(tree.entries == entries, "entries differ");
    assert_eq!(tree.pages.len(), stored.bodies.len());
    assert_eq!(tree.pages.last(), Some(&stored.root));
    stored
}

#[test]
fn small_uploads_are_one_page() {
    assert_eq!(round_trip(shape(4, 2), &[], &[]).bodies.len(), 1);
    assert_eq!(round_trip(shape(4, 2), &[], &inlines(1)).bodies.len(), 1);
    let both = round_trip(shape(4, 2), &segments(&shape(4, 2), 20), &inlines(20));
    assert_eq!((both.bodies.len(), level(&both)), (1, 0));
    assert_eq!(both.root.number, SegmentNumber::page(0).unwrap());
}

#[test]
fn three_thousand_entries_with_unicode_paths() {
    let stored = round_trip(shape(4, 2), &segments(&shape(4, 2), 3), &inlines(3000));
    assert_eq!(level(&stored), 1);
    let full = stored.bodies.values().filter(|body| body.len() > PAGE_BODY_MAX - 200).count();
    assert!(full >= stored.bodies.len() - 3, "{full} of {} pages are full", stored.bodies.len());
}

#[test]
fn a_hundred_thousand_segments_need_several_levels() {
    let shape = shape(4, 2);
    let many = segments(&shape, 100_000);
    let stored = round_trip(shape, &many, &inlines(2000));
    assert_eq!(level(&stored), 2);
    let leaves = stored.bodies.values().filter(|body| body.len() > PAGE_BODY_MAX - 300).count();
    assert!(leaves * 101 / 100 + 10 >= stored.bodies.len(), "{leaves} of {} pages are full", stored.bodies.len());
    // The verify key alone learns segments and pages, and no entry.
    let verified = stored.read_with(None).unwrap();
    assert!(verified.segments == many && verified.entries.is_empty());
    assert_eq!(verified.pages.len(), stored.bodies.len());
}

#[test]
fn widest_codes_still_make_a_tree() {
    let wide = shape(200, 55);
    let stored = round_trip(wide, &segments(&wide, 60), &inlines(3));
    assert_eq!(level(&stored), 2);
    // Two references to pages of 255 x 8 shards do not fit one page; one page alone does.
    let widest = TreeShape { replicas: 8, ..wide };
    round_trip(widest, &segments(&widest, 1), &[]);
    assert!(matches!(build(widest, &segments(&widest, 2), &[]), Err(BuildError::TooWide { .. })));
}

#[test]
fn a_full_page_is_within_the_limit() {
    let shape = shape(1, 1);
    // Find the count at which one page becomes several: the page before it is as full as pages get.
    let pages = |count| build(shape, &segments(&shape, count), &inlines(2)).unwrap().bodies.len();
    let most = (1..2000u32).collect::<Vec<_>>().partition_point(|&count| pages(count) == 1) as u32;
    assert_eq!((pages(most), pages(most + 1)), (1, 3));
    let full = round_trip(shape, &segments(&shape, most), &inlines(2));
    let body = full.bodies[&full.root.number].len();
    assert!(body <= PAGE_BODY_MAX && body > PAGE_BODY_MAX - 150, "{body}");
}

#[test]
fn segments_of_another_shape_and_unsafe_paths_are_refused() {
    let other = build(shape(4, 2), &segments(&shape(2, 2), 1), &[]);
    assert_eq!(other.unwrap_err(), BuildError::Shards { expected: 6, found: 4 });
    let outside = build(shape(4, 2), &[], &[inline("../x".into())]);
    assert!(matches!(outside, Err(BuildError::Path(PathError::Unsafe(_)))));
}

#[test]
fn pieces_follow_a_file_over_segments() {
    let shape = shape(1, 1);
    let full = shape.code.segment_plain() as u64;
    let entry = stream_file("a", vec![extent(0, 10, full), extent(2, 5, 7)]);
    let stored = build(shape, &segments(&shape, 3), std::slice::from_ref(&entry)).unwrap();
    let tree = stored.read().unwrap();
    let piece = |segment, from: u64, to: u64| Piece { segment: SegmentNumber(segment), plain: from as u32..to as u32 };
    let all = tree.pieces(&entry, 0..full + 7).unwrap();
    assert_eq!(all, [piece(0, 10, full), piece(1, 0, 10), piece(2, 5, 12)]);
    assert_eq!(tree.pieces(&entry, full - 10..full + 1).unwrap(), [piece(1, 0, 10), piece(2, 5, 6)]);
    assert_eq!(tree.pieces(&entry, 5..5).unwrap(), []);
    assert_eq!(tree.pieces(&entry, full + 7..full + 7).unwrap(), []);
    assert!(matches!(tree.pieces(&entry, 0..full + 8), Err(PieceError::OutsideFile { .. })));
    let lying = stream_file("b", vec![extent(2, 0, full)]);
    assert_eq!(tree.pieces(&lying, 0..full), Err(PieceError::OutsideStream));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_tree_round_trips(
        code in (1usize..60, 1usize..20),
        segment_count in 0u32..600,
        names in proptest::collection::btree_set("[a-zäß文]{1,12}", 0..1500),
        padding in 0usize..2000,
    ) {
        let shape = shape(code.0, code.1);
        let entries: Vec<Entry> = names.into_iter().map(|path| {
            let content = vec![1; path.len() * 97 % (padding + 1)];
            Entry { size: content.len() as u64, inline: Some(content), ..inline(path) }
        }).collect();
        round_trip(shape, &segments(&shape, segment_count), &entries);
    }

    #[test]
    fn pieces_cover_exactly_the_range(
        from in 0u64..20_000_000, length in 0u64..20_000_000, offset in 0u32..2_000_000,
    ) {
        let shape = shape(2, 1);
        let tree = FileTree { segments: segments(&shape, 12), ..FileTree::default() };
        let size = tree.stream_length() - u64::from(offset);
        let entry = stream_file("a", vec![extent(0, offset, size)]);
        let (start, end) = (from.min(size), (from + length).min(size));
        let pieces = tree.pieces(&entry, start..end).unwrap();
        let full = shape.code.segment_plain() as u64;
        let mut at = start + u64::from(offset);
        for piece in pieces {
            prop_assert_eq!(u64::from(piece.segment.0) * full + u64::from(piece.plain.start), at);
            prop_assert!(piece.plain.start < piece.plain.end);
            at += u64::from(piece.plain.end - piece.plain.start);
        }
        prop_assert_eq!(at, end + u64::from(offset));
    }
}
