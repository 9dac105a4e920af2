//! Pages, the tree they make, and the local manifest file that caches them.

use shoal_client::manifest::{ManifestFile, PAGE_BODY_MAX, TreeReader, TreeShape, open_owner, open_placement};
use shoal_client::pipeline::{page_bytes, page_plain};
use shoal_protocol::codec;
use shoal_protocol::hash::{MANIFEST_FILE, derive};
use shoal_protocol::layout::Code;
use shoal_protocol::limits::{HINTS_MAX, PAGE_MAX, SHARDS_PER_MANIFEST_MAX};
use shoal_protocol::page::{
    ChildRef, Entry, EntryKind, Extent, Page, PageKind, PageRef, ReadSection, SegmentRef, ShardIds, VerifySection,
    is_safe_path,
};
use shoal_protocol::sealing::SealedBox;
use shoal_protocol::{FileId, SegmentNumber, ShardId, Suite};

use super::input::{Input, golden, join, sized};
use super::messages::canonical;
use super::records::{file, root};

const PAGES: &str = include_str!("../../../protocol/golden/pages.hex");
const MANIFEST: &str = include_str!("../../../client-sdk/golden/manifest.txt");
/// Most pages given to one reader: a tree of them has every shape a larger one has.
const TREE_PAGES_MAX: usize = 24;

/// Any bytes as a page, its read section, a reference, or the plaintext of a page segment: the first says which.
pub fn page(data: &[u8]) -> bool {
    let Some((which, bytes)) = data.split_first() else { return false };
    match which % 4 {
        0 => canonical::<Page>(bytes, PAGE_MAX),
        1 => {
            let good = canonical::<ReadSection>(bytes, PAGE_MAX);
            if let Ok(section) = codec::decode::<ReadSection>(bytes, PAGE_MAX) {
                assert!(section.entries.iter().all(|entry| is_safe_path(&entry.path)), "a path that leads out");
            }
            good
        }
        2 => canonical::<PageRef>(bytes, PAGE_MAX),
        _ => {
            let Ok(body) = page_bytes(bytes) else { return false };
            assert!(page_plain(body).is_ok_and(|again| again == bytes), "a second padding");
            true
        }
    }
}

pub(super) fn pages() -> Vec<Vec<u8>> {
    let line = |which: u8, name: &'static str| join(&[which], &golden(PAGES, move |found| found == name).concat());
    let plain = page_plain(b"a page").unwrap_or_default();
    vec![
        line(0, "leaf page"),
        line(0, "inner page"),
        line(1, "read section"),
        line(2, "page reference"),
        join(&[3], &plain),
    ]
}

fn shape() -> TreeShape {
    TreeShape { file: file(), suite: Suite::ChaCha20Poly1305, code: Code { data: 2, parity: 1 }, replicas: 1 }
}

fn segment(plain: u32, last: bool) -> SegmentRef {
    let shards: Vec<ShardId> = (0..3).map(|shard| ShardId::from_bytes([shard; 32])).collect();
    SegmentRef { salt: [0; 32], plain, shards: ShardIds::new(&shards), last, tokens: None }
}

fn page_ref(number: u32) -> PageRef {
    let number = SegmentNumber(SegmentNumber::FIRST_PAGE.saturating_add(number));
    PageRef { number, segment: segment(64, true) }
}

/// Whether entries are read, then pages, each behind its length, in the order the reader asks for them. What a page has
/// for a read section is sealed under the right key first. A tree that is finished keeps every promise of its reader.
pub fn page_tree(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let reads = input.byte().is_multiple_of(2);
    let read = root().read();
    let Ok(mut reader) = TreeReader::new(page_ref(0), shape(), reads.then(|| read.clone())) else { return false };
    for _ in 0..TREE_PAGES_MAX {
        let Some(number) = reader.wanted().next().map(|wanted| wanted.number) else { break };
        assert!(reader.wanted().count() <= shoal_client::manifest::WANTED_MAX);
        let mut body = input.bytes(PAGE_MAX).to_vec();
        if let Ok(mut page) = codec::decode::<Page>(&body, PAGE_BODY_MAX)
            && let Some(section) = &mut page.read
        {
            let key = read.page_read_key(&file(), number, section.salt);
            let SealedBox { salt, sealed } = key.seal(shape().suite, &file(), u64::from(number.0), &section.sealed);
            *section = SealedBox { salt, sealed };
            body = codec::encode(&page);
        }
        if reader.accept(number, &body).is_err() {
            return false;
        }
        assert!(reader.accept(number, &body).is_err(), "the same page twice");
    }
    let Ok(tree) = reader.finish() else { return false };
    let shards = (tree.segments.len() as u64 + tree.pages.len() as u64) * shape().shards() as u64;
    assert!(shards <= SHARDS_PER_MANIFEST_MAX, "more shards than a manifest may name");
    assert!(reads || tree.entries.is_empty(), "entries without the key");
    assert!(tree.entries.is_sorted_by(|a, b| a.path < b.path || a.path != b.path), "an entry twice");
    for entry in &tree.entries {
        assert!(is_safe_path(&entry.path), "a path that leads out");
        check_pieces(&tree, entry);
    }
    true
}

/// The pieces of an entry are its bytes, no more and no fewer, and lie within their segments.
fn check_pieces(tree: &shoal_client::manifest::FileTree, entry: &Entry) {
    if entry.size > 1 << 40 {
        return;
    }
    let Ok(pieces) = tree.pieces(entry, 0..entry.size) else {
        panic!("a finished tree has an entry outside of its stream");
    };
    let mut total = 0u64;
    for piece in &pieces {
        let plain = tree.segments.get(piece.segment.0 as usize).map_or(0, |segment| segment.plain);
        assert!(piece.plain.start < piece.plain.end && piece.plain.end <= plain, "a piece outside of its segment");
        total += u64::from(piece.plain.end - piece.plain.start);
    }
    assert!(total == entry.size || entry.inline.is_some(), "pieces of {total} bytes");
}

fn entry(path: &str, kind: EntryKind, extents: Vec<Extent>, inline: Option<&[u8]>) -> Entry {
    let size = extents.iter().map(|extent| extent.length).sum::<u64>() + inline.map_or(0, |bytes| bytes.len() as u64);
    Entry { path: path.into(), kind, mode: 0o644, modified_ms: 0, size, extents, inline: inline.map(<[u8]>::to_vec) }
}

fn section(entries: Vec<Entry>) -> Option<SealedBox> {
    Some(SealedBox { salt: [3; 32], sealed: codec::encode(&ReadSection { entries }) })
}

pub(super) fn trees() -> Vec<Vec<u8>> {
    let full = u32::try_from(shape().code.segment_plain()).unwrap_or(u32::MAX);
    let entries = || {
        let extent = Extent { segment: 0, offset: 5, length: 100 };
        vec![
            entry("a", EntryKind::File, vec![extent, Extent { segment: 1, offset: 0, length: 7 }], None),
            entry("d", EntryKind::Directory, vec![], None),
            entry("d/b", EntryKind::File, vec![], Some(b"inline")),
            entry("l", EntryKind::Symlink, vec![], Some(b"a")),
        ]
    };
    let segments = || vec![segment(full, false), segment(1000, true)];
    let page = |level, segments, children, read| {
        let verify = VerifySection { level, first_segment: 0, segments, children };
        sized(&codec::encode(&Page { format: 1, verify, read }))
    };
    let child = |number, kind, count| ChildRef { page: page_ref(number), kind, first: 0, count };
    let leaf = page(0, segments(), vec![], section(entries()));
    let children = vec![child(1, PageKind::Segments, 2), child(2, PageKind::Entries, 4)];
    let inner = page(1, vec![], children, None);
    let below = [page(0, segments(), vec![], None), page(0, vec![], vec![], section(entries()))].concat();
    vec![
        join(&[0], &leaf),
        join(&[1], &leaf),
        [&[0][..], &inner, &below].concat(),
        [&[1][..], &inner, &below].concat(),
        join(&[0], &page(0, segments(), vec![], None)),
    ]
}

/// A manifest file: as it is (first byte even), or any body behind the right magic, format and checksum. What is read is
/// written again as it was, and no record in it is believed that its keys did not sign.
pub fn manifest_file(data: &[u8]) -> bool {
    let Some((which, bytes)) = data.split_first() else { return false };
    let mut file = bytes.to_vec();
    if !which.is_multiple_of(2) {
        file = [&b"SHOALMF1\x01"[..], bytes].concat();
        let checksum = derive(MANIFEST_FILE, &[&file]);
        file.extend_from_slice(&checksum);
    }
    let Ok(manifest) = ManifestFile::decode(&file) else { return false };
    assert!(manifest.encode().is_ok_and(|again| again == file), "a second spelling");
    assert!(manifest.hints.len() <= HINTS_MAX && !manifest.placement_records.is_empty());
    let opened = open_owner(&manifest.owner_record, &manifest.network, &manifest.owner, &manifest.locator);
    if let Ok(record) = &opened {
        assert_eq!(record.file, FileId::of_owner(&manifest.network, &manifest.owner));
        assert_eq!(record.signer(), &manifest.owner, "signed by another");
        let verify = root().read().verify();
        for (index, signed) in (0..).zip(&manifest.placement_records) {
            // The keys here are another file's: nothing opens under them.
            let network = &manifest.network;
            assert!(open_placement(signed, index, network, &record.file, &record.steward, &verify).is_err());
        }
    }
    opened.is_ok()
}

pub(super) fn manifests() -> Vec<Vec<u8>> {
    let whole = golden(MANIFEST, |name| name == "manifest file").concat();
    let body = whole.get(9..whole.len().saturating_sub(32)).unwrap_or_default();
    vec![join(&[0], &whole), join(&[1], body), join(&[1], b"\xa0"), join(&[0], b"SHOALMF1")]
}
