//! Page trees that lie: whatever a page says, reading ends with an error and never with more work than bytes came in.

use shoal_protocol::codec::{decode, encode};
use shoal_protocol::limits::PAGE_MAX;
use shoal_protocol::page::{ChildRef, Page, PageKind, ReadSection};

use super::*;

/// 3 pages of segments, several of entries, one root of level 1.
fn honest() -> Stored {
    let shape = shape(4, 2);
    let stored = build(shape, &segments(&shape, 700), &inlines(1500)).unwrap();
    assert!(stored.read().is_ok());
    stored
}

fn page(stored: &Stored, number: SegmentNumber) -> Page {
    decode(&stored.bodies[&number], PAGE_MAX).unwrap()
}

/// What the reader says after `lie` changed the page `number`.
fn told(stored: &Stored, number: SegmentNumber, lie: impl FnOnce(&mut Page)) -> TreeError {
    let mut stored = stored.clone();
    let mut page = page(&stored, number);
    lie(&mut page);
    stored.bodies.insert(number, encode(&page));
    stored.read().unwrap_err()
}

fn told_by_root(lie: impl FnOnce(&mut Vec<ChildRef>)) -> TreeError {
    let stored = honest();
    told(&stored, stored.root.number, |page| lie(&mut page.verify.children))
}

fn is_page(error: &TreeError, words: &str) {
    let TreeError::Page { what, .. } = error else { panic!("{error:?} instead of {words:?}") };
    assert_eq!(*what, words);
}

#[test]
fn missing_swapped_and_repeated_pages() {
    let stored = honest();
    let (first, second) = (SegmentNumber::page(0).unwrap(), SegmentNumber::page(1).unwrap());
    let mut missing = stored.clone();
    missing.bodies.remove(&first);
    assert_eq!(missing.read(), Err(TreeError::Incomplete { missing: 1, first }));
    let mut swapped = stored.clone();
    let body = swapped.bodies[&first].clone();
    let other = swapped.bodies.insert(second, body).unwrap();
    swapped.bodies.insert(first, other);
    assert!(matches!(swapped.read(), Err(TreeError::Page { .. } | TreeError::ReadSection(_))));
    let mut reader = TreeReader::new(stored.root.clone(), stored.shape, None).unwrap();
    let root = stored.root.number;
    assert_eq!(reader.accept(first, &stored.bodies[&first]), Err(TreeError::NotAsked(first)));
    reader.accept(root, &stored.bodies[&root]).unwrap();
    assert_eq!(reader.accept(root, &stored.bodies[&root]), Err(TreeError::NotAsked(root)));
}

#[test]
fn swapped_entry_pages_do_not_open() {
    let stored = honest();
    let entries: Vec<SegmentNumber> = page(&stored, stored.root.number)
        .verify
        .children
        .iter()
        .filter(|child| child.kind == PageKind::Entries)
        .map(|child| child.page.number)
        .collect();
    let mut swapped = stored.clone();
    let body = swapped.bodies[&entries[0]].clone();
    let other = swapped.bodies.insert(entries[1], body).unwrap();
    swapped.bodies.insert(entries[0], other);
    assert!(matches!(swapped.read(), Err(TreeError::ReadSection(_))));
    assert!(matches!(stored.read_with(Some(RootKey::new([8; 32]).read())), Err(TreeError::ReadSection(_))));
}

#[test]
fn cycles_and_repeated_references() {
    let stored = honest();
    let root = stored.root.clone();
    is_page(&told_by_root(|children| children[0].page = root), "page named twice");
    is_page(&told_by_root(|children| children[1].page = children[0].page.clone()), "page named twice");
}

#[test]
fn spans_and_counts() {
    is_page(&told_by_root(|children| children[1].first -= 1), "spans of children");
    is_page(&told_by_root(|children| children[1].first += 1), "spans of children");
    is_page(&told_by_root(|children| children[0].first = 1), "spans of children");
    is_page(&told_by_root(|children| drop(children.remove(0))), "spans of children");
    is_page(&told_by_root(|children| children.reverse()), "kind of a child");
    let shifted = told_by_root(|children| {
        children[0].count -= 1;
        children[1].first -= 1;
        children[1].count += 1;
    });
    is_page(&shifted, "first segment");
    let more = told_by_root(|children| {
        let last = children.iter_mut().rfind(|child| child.kind == PageKind::Segments).unwrap();
        last.count += 1;
    });
    is_page(&more, "count of segments");
    is_page(&told_by_root(|children| children.last_mut().unwrap().count += 1), "count of entries");
    // A count that would need gigabytes is refused before anything is asked for.
    let huge = told_by_root(|children| {
        let last = children.iter_mut().rfind(|child| child.kind == PageKind::Segments).unwrap();
        last.count = 3_000_000;
    });
    is_page(&huge, "count of shards");
}

#[test]
fn levels() {
    let stored = honest();
    let root = stored.root.number;
    is_page(&told(&stored, root, |page| page.verify.level = 2), "level above its children");
    let deep = told(&stored, root, |page| page.verify.level = 7);
    assert!(matches!(deep, TreeError::Malformed { .. }));
    // A leaf that claims to be an inner page of the root's own level.
    let (child, grandchild) = (SegmentNumber::page(0).unwrap(), SegmentNumber::page(900).unwrap());
    let count = page(&stored, child).verify.segments.len() as u32;
    let error = told(&stored, child, |page| {
        let segment = reference(grandchild.0, 100, true, 6);
        let below = PageRef { number: grandchild, segment };
        page.verify.segments.clear();
        page.verify.children = vec![ChildRef { page: below, kind: PageKind::Segments, first: 0, count }];
        page.verify.level = 1;
    });
    is_page(&error, "level does not fall");
}

#[test]
fn segments_and_references_of_the_wrong_shape() {
    let stored = honest();
    let leaf = SegmentNumber::page(0).unwrap();
    let lie = |change: fn(&mut SegmentRef)| told(&stored, leaf, |page| change(&mut page.verify.segments[3]));
    is_page(&lie(|segment| segment.last = true), "last segment");
    is_page(&lie(|segment| segment.plain -= 1), "length of a segment");
    is_page(&lie(|segment| segment.plain += 1), "length of a segment");
    is_page(&lie(|segment| segment.shards = ShardIds::new(&[ShardId::of(b"a"); 5])), "shards of a segment");
    is_page(&told(&stored, leaf, |page| drop(page.verify.segments.pop())), "count of segments");
    is_page(&told_by_root(|children| children[0].page.segment = reference(0, 9, true, 5)), "shards of a page");
    is_page(&told_by_root(|children| children[0].page.segment.plain = 70_000), "length of a page");
    let root_of_five = PageRef { number: leaf, segment: reference(0, 9, true, 5) };
    assert!(TreeReader::new(root_of_five, stored.shape, None).is_err());
    let small = build(stored.shape, &segments(&stored.shape, 2), &[]).unwrap();
    is_page(&told(&small, leaf, |page| page.verify.segments[1].last = false), "last segment");
    is_page(&told(&small, leaf, |page| page.verify.first_segment = 1), "first segment");
}

#[test]
fn entries_of_the_whole_tree() {
    let shape = shape(1, 1);
    let full = shape.code.segment_plain() as u64;
    let read = |entries: Vec<Entry>| {
        let mut stored = build(shape, &segments(&shape, 2), &[]).unwrap();
        let number = stored.root.number;
        let key = root().read().page_read_key(&shape.file, number, [1; 32]);
        let mut page = page(&stored, number);
        page.read = Some(key.seal(SUITE, &shape.file, u64::from(number.0), &encode(&ReadSection { entries })));
        stored.bodies.insert(number, encode(&page));
        stored.read()
    };
    assert!(read(vec![stream_file("a", vec![extent(0, 1, 2 * full - 2)])]).is_ok());
    for bad in [extent(0, 1, 2 * full - 1), extent(1, full as u32 - 1, 1), extent(2, 0, 1), extent(0, full as u32, 1)] {
        assert!(matches!(read(vec![stream_file("a", vec![bad])]), Err(TreeError::Extent(_))), "{bad:?}");
    }
    let huge = [extent(0, 0, u64::MAX)];
    assert!(matches!(read(vec![stream_file("a", huge.to_vec())]), Err(TreeError::Extent(_))));
    let link = Entry { kind: EntryKind::Symlink, ..inline("a".into()) };
    assert!(matches!(read(vec![link, inline("a/b".into())]), Err(TreeError::Path(_))));
    assert!(matches!(read(vec![inline("b".into()), inline("a".into())]), Err(TreeError::ReadSection(_))));
}

#[test]
fn every_bit_of_a_page_counts() {
    let stored = build(shape(2, 1), &segments(&shape(2, 1), 2), &inlines(2)).unwrap();
    let number = stored.root.number;
    let honest = stored.read().unwrap();
    for bit in 0..stored.bodies[&number].len() * 8 {
        let mut bad = stored.clone();
        bad.bodies.get_mut(&number).unwrap()[bit / 8] ^= 1 << (bit % 8);
        // Refused, or told apart by what it says: the page's shard ids are what binds its bytes.
        assert!(bad.read().map_or(true, |tree| tree != honest), "bit {bit}");
    }
}
