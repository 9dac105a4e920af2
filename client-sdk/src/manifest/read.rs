//! Reads a page tree from its root: says which pages it wants, takes their bytes, checks everything, allocates only
//! for what has arrived. It never fetches, and it believes no count: spans are handed down from the root and every
//! page must fill exactly the span its parent gave it.
//!
//! Bounds: a span holds at least one element a page, levels fall strictly, no page is asked for twice, and all shards
//! named, those of pages included, stay within [`SHARDS_PER_MANIFEST_MAX`]. So a hostile tree ends.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::SegmentNumber;
use shoal_protocol::codec::{CodecError, decode};
use shoal_protocol::layout::Code;
use shoal_protocol::limits::{PAGE_MAX, SHARDS_PER_MANIFEST_MAX};
use shoal_protocol::page::{ChildRef, Entry, Page, PageKind, PageRef, ReadSection, SegmentRef, VerifySection};
use shoal_protocol::sealing::SealedBox;

use super::build::PAGE_BODY_MAX;
use super::path::{PathError, PathOrder};
use super::{FileTree, TreeShape};
use crate::keys::ReadKey;

/// Most pages asked for at a time: 2 MiB of plaintext in flight.
pub const WANTED_MAX: usize = 32;

/// Why a page tree is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A page that was not asked for, or came before.
    #[error("{0} was not asked for")]
    NotAsked(SegmentNumber),
    /// The bytes are no page.
    #[error("{page} is malformed")]
    Malformed {
        /// Which page.
        page: SegmentNumber,
        /// Why.
        #[source]
        source: CodecError,
    },
    /// The read section does not open with this read key, or is malformed.
    #[error("read section of {0} is damaged")]
    ReadSection(SegmentNumber),
    /// The page does not fit what its parent, code or limits say.
    #[error("{page} is inconsistent: {what}")]
    Page {
        /// Which page.
        page: SegmentNumber,
        /// What is wrong.
        what: &'static str,
    },
    /// Entries of the whole tree are out of order or unsafe.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A file names bytes outside the stream.
    #[error("{0:?} names bytes outside the stream")]
    Extent(String),
    /// Pages are missing.
    #[error("{missing} pages are missing, {first} is one")]
    Incomplete {
        /// How many are known to be.
        missing: usize,
        /// The first of them.
        first: SegmentNumber,
    },
}

/// What a page must hold.
#[derive(Clone, Copy)]
struct Span {
    kind: PageKind,
    first: u32,
    count: u32,
    /// The inner page above, by place in [`TreeReader::parents`].
    parent: usize,
}

struct Wanted {
    page: PageRef,
    /// None for the root, which may hold anything.
    span: Option<Span>,
}

/// An inner page whose children have not all arrived.
struct Parent {
    number: SegmentNumber,
    level: u8,
    highest_child: u8,
    missing: usize,
}

/// The state of one reading.
pub struct TreeReader {
    shape: TreeShape,
    read: Option<ReadKey>,
    segments_total: u32,
    shards: u64,
    wanted: BTreeMap<SegmentNumber, Wanted>,
    seen: BTreeSet<SegmentNumber>,
    parents: Vec<Parent>,
    pages: Vec<PageRef>,
    /// Leaves by the number of their first element; finished spans are contiguous.
    segments: BTreeMap<u32, Vec<SegmentRef>>,
    entries: BTreeMap<u32, Vec<Entry>>,
}

impl TreeReader {
    /// Begins at `root`. Without a read key only segments and pages are learnt.
    ///
    /// # Errors
    /// [`TreeError::Page`] if the root's own reference is out of bounds.
    pub fn new(root: PageRef, shape: TreeShape, read: Option<ReadKey>) -> Result<Self, TreeError> {
        let mut reader = Self {
            shape,
            read,
            segments_total: 0,
            shards: 0,
            wanted: BTreeMap::new(),
            seen: BTreeSet::new(),
            parents: Vec::new(),
            pages: Vec::new(),
            segments: BTreeMap::new(),
            entries: BTreeMap::new(),
        };
        let number = root.number;
        reader.want(root, None).map_err(|what| TreeError::Page { page: number, what })?;
        Ok(reader)
    }

    /// The pages wanted next, at most [`WANTED_MAX`]; none when the tree is complete. The same ones until they arrive.
    pub fn wanted(&self) -> impl Iterator<Item = &PageRef> {
        self.wanted.values().take(WANTED_MAX).map(|wanted| &wanted.page)
    }

    /// Takes the CBOR of a wanted page, in any order.
    ///
    /// # Errors
    /// [`TreeError`]; the tree is damaged, no other page can mend it.
    pub fn accept(&mut self, number: SegmentNumber, body: &[u8]) -> Result<(), TreeError> {
        let wanted = self.wanted.remove(&number).ok_or(TreeError::NotAsked(number))?;
        let page: Page = decode(body, PAGE_BODY_MAX).map_err(|source| TreeError::Malformed { page: number, source })?;
        let wrong = |what| TreeError::Page { page: number, what };
        let level = page.verify.level;
        match wanted.span {
            None => self.check_root(&page.verify).map_err(wrong)?,
            Some(span) => self.check_below(span, &page).map_err(wrong)?,
        }
        self.check_segments(&page.verify).map_err(wrong)?;
        if level == 0 {
            self.take_leaf(number, wanted.span, page)?;
        } else if page.read.is_some() {
            return Err(wrong("entries in an inner page"));
        } else {
            self.take_children(number, level, page.verify.children).map_err(wrong)?;
        }
        self.pages.push(wanted.page);
        match wanted.span {
            None => Ok(()),
            Some(span) => self.settle(span.parent, level),
        }
    }

    /// The tree, once nothing more is wanted.
    ///
    /// # Errors
    /// [`TreeError::Incomplete`], or what only the whole tree shows: order of entries, extents within the stream.
    pub fn finish(self) -> Result<FileTree, TreeError> {
        if let Some(&first) = self.wanted.keys().next() {
            return Err(TreeError::Incomplete { missing: self.wanted.len(), first });
        }
        let mut pages = self.pages;
        pages.sort_unstable_by_key(|page| page.number);
        let tree = FileTree {
            segments: self.segments.into_values().flatten().collect(),
            entries: self.entries.into_values().flatten().collect(),
            pages,
        };
        let length = tree.stream_length();
        let mut order = PathOrder::default();
        for entry in &tree.entries {
            order.push(&entry.path, entry.kind)?;
            if !tree.holds(entry, length) {
                return Err(TreeError::Extent(entry.path.clone()));
            }
        }
        Ok(tree)
    }

    /// Puts a page on the list, once.
    fn want(&mut self, page: PageRef, span: Option<Span>) -> Result<(), &'static str> {
        ensure(page.number.is_page() && page.segment.last, "reference to a page")?;
        ensure(page.segment.shards.len() == self.shape.shards(), "shards of a page")?;
        ensure(usize::try_from(page.segment.plain).is_ok_and(|plain| plain <= PAGE_MAX), "length of a page")?;
        ensure(self.seen.insert(page.number), "page named twice")?;
        self.count_shards(1)?;
        self.wanted.insert(page.number, Wanted { page, span });
        Ok(())
    }

    fn count_shards(&mut self, segments: u32) -> Result<(), &'static str> {
        let shards = self.shape.shards() as u64 * u64::from(segments);
        self.shards = self.shards.saturating_add(shards);
        ensure(self.shards <= SHARDS_PER_MANIFEST_MAX, "count of shards")
    }

    /// The root decides how many segments and entries there are; segments come first among its children.
    fn check_root(&mut self, root: &VerifySection) -> Result<(), &'static str> {
        ensure(root.first_segment == 0, "first segment")?;
        if root.level == 0 {
            self.segments_total = u32::try_from(root.segments.len()).map_err(|_| "count of segments")?;
        } else {
            let split = root.children.partition_point(|child| child.kind == PageKind::Segments);
            let (segments, entries) = root.children.split_at_checked(split).ok_or("children")?;
            self.segments_total = tile(segments, PageKind::Segments, 0)?;
            tile(entries, PageKind::Entries, 0)?;
        }
        ensure(self.segments_total <= SegmentNumber::FIRST_PAGE, "count of segments")?;
        self.count_shards(self.segments_total)
    }

    /// Any other page holds exactly its span, of one kind, and lies below its parent.
    fn check_below(&self, span: Span, page: &Page) -> Result<(), &'static str> {
        let verify = &page.verify;
        let above = self.parents.get(span.parent).ok_or("parent")?;
        ensure(verify.level < above.level, "level does not fall")?;
        let is_segments = span.kind == PageKind::Segments;
        ensure(verify.first_segment == if is_segments { span.first } else { 0 }, "first segment")?;
        if verify.level > 0 {
            return ensure(tile(&verify.children, span.kind, span.first)? == span.count, "count of a subtree");
        }
        ensure(page.read.is_some() != is_segments, "kind of a page")?;
        let expected = if is_segments { span.count } else { 0 };
        ensure(u32::try_from(verify.segments.len()) == Ok(expected), "count of segments")
    }

    /// Each segment has all its shards; all but the last of the stream are full, and only that one says so.
    fn check_segments(&self, verify: &VerifySection) -> Result<(), &'static str> {
        ensure(verify.level == 0 || verify.segments.is_empty(), "segments in an inner page")?;
        let full = full_segment(self.shape.code);
        for (number, segment) in (u64::from(verify.first_segment)..).zip(&verify.segments) {
            ensure(segment.shards.len() == self.shape.shards(), "shards of a segment")?;
            ensure(segment.last == (number + 1 == u64::from(self.segments_total)), "last segment")?;
            ensure(segment.plain <= full && (segment.last || segment.plain == full), "length of a segment")?;
        }
        Ok(())
    }

    fn take_leaf(&mut self, number: SegmentNumber, span: Option<Span>, page: Page) -> Result<(), TreeError> {
        if !page.verify.segments.is_empty() {
            self.segments.insert(page.verify.first_segment, page.verify.segments);
        }
        let (Some(read), Some(sealed)) = (&self.read, &page.read) else { return Ok(()) };
        let entries = open_entries(read, &self.shape, number, sealed).ok_or(TreeError::ReadSection(number))?;
        let counted = span.is_none_or(|span| u32::try_from(entries.len()) == Ok(span.count));
        ensure(counted, "count of entries").map_err(|what| TreeError::Page { page: number, what })?;
        self.entries.insert(span.map_or(0, |span| span.first), entries);
        Ok(())
    }

    fn take_children(&mut self, number: SegmentNumber, level: u8, children: Vec<ChildRef>) -> Result<(), &'static str> {
        let parent = self.parents.len();
        self.parents.push(Parent { number, level, highest_child: 0, missing: children.len() });
        children.into_iter().try_for_each(|child| {
            let ChildRef { page, kind, first, count } = child;
            self.want(page, Some(Span { kind, first, count, parent }))
        })
    }

    /// Notes the level of an arrived child; the last one shows whether the parent told its level right.
    fn settle(&mut self, parent: usize, level: u8) -> Result<(), TreeError> {
        let Some(parent) = self.parents.get_mut(parent) else { return Ok(()) };
        parent.highest_child = parent.highest_child.max(level);
        parent.missing = parent.missing.saturating_sub(1);
        let right = parent.missing > 0 || parent.highest_child.checked_add(1) == Some(parent.level);
        ensure(right, "level above its children").map_err(|what| TreeError::Page { page: parent.number, what })
    }
}

/// Elements under `children`, if all are of one kind and follow each other from `first` on.
fn tile(children: &[ChildRef], kind: PageKind, first: u32) -> Result<u32, &'static str> {
    let end = children.iter().try_fold(first, |next, child| {
        ensure(child.kind == kind, "kind of a child")?;
        ensure(child.first == next, "spans of children")?;
        next.checked_add(child.count).ok_or("spans of children")
    })?;
    end.checked_sub(first).ok_or("spans of children")
}

fn open_entries(read: &ReadKey, shape: &TreeShape, number: SegmentNumber, sealed: &SealedBox) -> Option<Vec<Entry>> {
    let key = read.page_read_key(&shape.file, number, sealed.salt);
    let plain = key.open(shape.suite, &shape.file, u64::from(number.0), sealed).ok()?;
    Some(decode::<ReadSection>(&plain, PAGE_BODY_MAX).ok()?.entries)
}

fn full_segment(code: Code) -> u32 {
    u32::try_from(code.segment_plain()).unwrap_or(u32::MAX)
}

fn ensure(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}
