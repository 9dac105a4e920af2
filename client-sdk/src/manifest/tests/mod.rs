//! Fixtures: one small upload through the real pipeline, and page trees whose pages are kept in a map.

mod file;
mod golden;
mod hostile;
mod tree;

use core::convert::Infallible;
use std::collections::BTreeMap;

use shoal_protocol::capability::Hint;
use shoal_protocol::hash::{RENDEZVOUS, derive};
use shoal_protocol::layout::Code;
use shoal_protocol::page::{Entry, EntryKind, Extent, PageRef, SegmentRef, ShardIds};
use shoal_protocol::record::{Holder, OwnerRecord, PlacementRange, PlacementRecord, RECORD_FORMAT};
use shoal_protocol::sealing::{KdfParams, Salt};
use shoal_protocol::{FileId, NetworkId, NodeId, PublicKey, SegmentNumber, ShardId, Suite};

use super::*;
use crate::keys::{RootKey, kek, make_slot};
use crate::pipeline::{Chunker, FileLayout, PlainSegment};

const PASSWORD: &[u8] = b"correct horse";
const SUITE: Suite = Suite::ChaCha20Poly1305;

fn network() -> NetworkId {
    NetworkId::derive(None, "home").unwrap()
}

fn root() -> RootKey {
    RootKey::new([7; 32])
}

fn owner() -> PublicKey {
    PublicKey::from_bytes(root().owner_signer().verifying_key().to_bytes())
}

fn file_id() -> FileId {
    FileId::of_owner(&network(), &owner())
}

/// Salts 1, 2, 3: different ones, the same in every run.
fn salts() -> impl FnMut() -> Salt {
    let mut count = 0u64;
    move || {
        count += 1;
        derive(RENDEZVOUS, &[b"salt", &count.to_le_bytes()])
    }
}

fn shape(k: usize, m: usize) -> TreeShape {
    TreeShape { file: file_id(), suite: SUITE, code: Code::new(k, m).unwrap(), replicas: 1 }
}

fn reference(number: u32, plain: usize, last: bool, shards: usize) -> SegmentRef {
    let salt = derive(RENDEZVOUS, &[b"reference", &number.to_le_bytes()]);
    let ids: Vec<ShardId> = (0..shards).map(|at| ShardId::of(&[&salt[..], &at.to_le_bytes()].concat())).collect();
    SegmentRef { salt, plain: plain.try_into().unwrap(), shards: ShardIds::new(&ids), last, tokens: None }
}

fn segments(shape: &TreeShape, count: u32) -> Vec<SegmentRef> {
    let full = shape.code.segment_plain();
    (0..count).map(|n| reference(n, full - usize::from(n + 1 == count), n + 1 == count, shape.shards())).collect()
}

fn inline(path: String) -> Entry {
    let content = path.as_bytes().to_vec();
    Entry {
        path,
        kind: EntryKind::File,
        mode: 0o640,
        modified_ms: -1,
        size: content.len() as u64,
        extents: vec![],
        inline: Some(content),
    }
}

fn inlines(count: u32) -> Vec<Entry> {
    (0..count).map(|n| inline(format!("ordner/ü{n:06}/文件"))).collect()
}

/// A page tree outside any swarm.
#[derive(Clone, Debug)]
struct Stored {
    shape: TreeShape,
    root: PageRef,
    bodies: BTreeMap<SegmentNumber, Vec<u8>>,
}

fn build(shape: TreeShape, segments: &[SegmentRef], entries: &[Entry]) -> Result<Stored, BuildError<Infallible>> {
    let mut bodies = BTreeMap::new();
    let mut seal = |number: SegmentNumber, body: &[u8]| {
        assert!(body.len() <= PAGE_BODY_MAX);
        bodies.insert(number, body.to_vec());
        Ok::<_, Infallible>(PageRef { number, segment: reference(number.0, body.len() + 4, true, shape.shards()) })
    };
    let mut builder = TreeBuilder::new(shape, root().read(), salts());
    // Interleaved, as an upload does it.
    for at in 0..segments.len().max(entries.len()) {
        if let Some(segment) = segments.get(at) {
            builder.segment(segment.clone(), &mut seal)?;
        }
        if let Some(entry) = entries.get(at) {
            builder.entry(entry.clone(), &mut seal)?;
        }
    }
    let root = builder.finish(&mut seal)?;
    Ok(Stored { shape, root, bodies })
}

impl Stored {
    fn read_with(&self, key: Option<crate::keys::ReadKey>) -> Result<FileTree, TreeError> {
        let mut reader = TreeReader::new(self.root.clone(), self.shape, key)?;
        loop {
            let wanted: Vec<SegmentNumber> = reader.wanted().map(|page| page.number).collect();
            assert!(wanted.len() <= WANTED_MAX);
            let known: Vec<_> = wanted.iter().filter(|number| self.bodies.contains_key(number)).collect();
            if known.is_empty() {
                return reader.finish();
            }
            // Backwards: the order of arrival must not count.
            for number in known.into_iter().rev() {
                reader.accept(*number, &self.bodies[number])?;
            }
        }
    }

    fn read(&self) -> Result<FileTree, TreeError> {
        self.read_with(Some(root().read()))
    }
}

/// A whole upload of three small files and one of 5,000 bytes over 2+1, one copy.
struct Upload {
    layout: FileLayout,
    tree_root: PageRef,
    pages: Vec<(SegmentNumber, Vec<u8>)>,
    owner_record: OwnerRecord,
    placement: PlacementRecord,
}

fn upload() -> Upload {
    let (read, mut salts) = (root().read(), salts());
    let shape = shape(2, 1);
    let layout = FileLayout::new(shape.file, shape.suite, shape.code, 1).unwrap();
    let mut packer = Packer::new(shape.code, 1);
    let meta = |path: &str| Meta { path: path.into(), mode: 0o644, modified_ms: 1_700_000_000_000 };
    let mut stream = Vec::new();
    let mut entries = vec![packer.directory(meta("docs")).unwrap()];
    for (path, length) in [("docs/a.txt", 5), ("docs/big.bin", 5000), ("docs/empty", 0)] {
        let mut feed = packer.begin(meta(path)).unwrap();
        let Ok(()) = feed.write(&vec![0x42; length], |bytes| {
            stream.extend_from_slice(bytes);
            Ok::<_, Infallible>(())
        });
        entries.push(packer.finish(feed).unwrap());
    }
    entries.push(packer.symlink(meta("link"), b"docs/a.txt".to_vec()).unwrap());
    let mut chunker = Chunker::new(shape.code);
    let mut input = &stream[..];
    let mut cut: Vec<PlainSegment> = Vec::new();
    while !input.is_empty() {
        cut.extend(chunker.push(&mut input).unwrap());
    }
    cut.extend(chunker.finish().unwrap());

    let mut pages = Vec::new();
    let mut page_salt = 100u8;
    let mut seal = |number: SegmentNumber, body: &[u8]| {
        page_salt += 1;
        pages.push((number, body.to_vec()));
        let sealed =
            PlainSegment::page(number, shape.code, body).unwrap().seal(&layout, &read, [page_salt; 32]).unwrap();
        Ok::<_, Infallible>(PageRef { number, segment: sealed.reference })
    };
    let mut builder = TreeBuilder::new(shape, read.clone(), &mut salts);
    for segment in cut {
        let sealed = segment.seal(&layout, &read, [99; 32]).unwrap();
        builder.segment(sealed.reference, &mut seal).unwrap();
    }
    for entry in entries {
        builder.entry(entry, &mut seal).unwrap();
    }
    let tree_root = builder.finish(&mut seal).unwrap();
    let owner_record = owner_body(&tree_root);
    Upload { layout, tree_root, pages, owner_record, placement: placement_body() }
}

fn owner_body(tree_root: &PageRef) -> OwnerRecord {
    let kdf = KdfParams { salt: [5; 16], memory_kib: 19 * 1024, passes: 1, lanes: 1 };
    let kek = kek(PASSWORD, &kdf).unwrap();
    OwnerRecord {
        format: RECORD_FORMAT,
        file: file_id(),
        suite: SUITE,
        code: Code::new(2, 1).unwrap(),
        replicas: 1,
        kdf,
        slots: vec![make_slot(&kek, SUITE, &file_id(), &root(), [6; 32])],
        root: tree_root.clone(),
        steward: PublicKey::from_bytes(root().read().verify().steward_signer().verifying_key().to_bytes()),
        previous_roots: vec![],
    }
}

fn placement_body() -> PlacementRecord {
    let holder = |n: u8| Holder {
        node: NodeId::from_bytes([n; 32]),
        addresses: vec![format!("/ip4/192.168.1.{n}/tcp/4701")],
        domain: None,
    };
    let slots = vec![Some(0), Some(1), Some(2)];
    let page = SegmentNumber::page(0).unwrap();
    let range = |number| PlacementRange { first: number, last: number, slots: slots.clone() };
    PlacementRecord {
        format: RECORD_FORMAT,
        file: file_id(),
        holders: vec![holder(1), holder(2), holder(3)],
        ranges: vec![range(SegmentNumber(0)), range(page)],
    }
}

fn hints() -> Vec<Hint> {
    vec![Hint { node: NodeId::from_bytes([1; 32]), address: "/ip4/192.168.1.1/tcp/4701".into() }]
}

impl Upload {
    fn manifest(&self) -> ManifestFile {
        let verify = root().read().verify();
        let seal = |(number, body): &(SegmentNumber, Vec<u8>)| {
            CachedPage::seal(&self.layout, &verify, *number, body, [0x77; 32])
        };
        ManifestFile {
            network: network(),
            owner: owner(),
            locator: root().locator(),
            hints: hints(),
            owner_record: make_owner(&self.owner_record, &root(), &network(), None, [0x55; 32]).unwrap(),
            placement_records: vec![make_placement(&self.placement, 0, &verify, &network(), None, [0x66; 32]).unwrap()],
            pages: self.pages.iter().map(seal).collect(),
        }
    }
}

fn extent(segment: u32, offset: u32, length: u64) -> Extent {
    Extent { segment, offset, length }
}

fn stream_file(path: &str, extents: Vec<Extent>) -> Entry {
    let size = extents.iter().map(|extent| extent.length).sum();
    Entry { size, extents, inline: None, ..inline(path.into()) }
}
