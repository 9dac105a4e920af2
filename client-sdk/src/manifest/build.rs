//! Segments and entries in, pages out, bottom up: a page is handed out as soon as it is full, so memory stays at one
//! unfinished page a level. It never encodes a page twice and never sees how a page's segment is sealed.
//!
//! Two subtrees grow side by side, one of segments and one of entries; the root joins them. What fits one page is one
//! page: a root without children that holds both. Page numbers count up from the first leaf; the root is the last.

use shoal_protocol::codec::encode;
use shoal_protocol::limits::{AUDIT_ROUNDS_MAX, AUDIT_TOKEN, PAGE_ENTRIES_MAX, PAGE_MAX, SHARDS_PER_MANIFEST_MAX, TAG};
use shoal_protocol::page::{
    ChildRef, Entry, PAGE_FORMAT, PAGE_LEVELS_MAX, Page, PageKind, PageRef, ReadSection, SegmentRef, VerifySection,
};
use shoal_protocol::sealing::{Salt, SealedBox};
use shoal_protocol::{SegmentNumber, ShardId};
use zeroize::Zeroizing;

use super::TreeShape;
use super::path::{PathError, PathOrder};
use crate::keys::ReadKey;

/// Largest CBOR of a page: [`PAGE_MAX`] less the 4-byte length before it in the page's plaintext.
pub const PAGE_BODY_MAX: usize = PAGE_MAX - 4;

/// CBOR of a page beside its elements, at most: page 5 (map, keys 3, format); verify section 17 (map, keys 4, level,
/// first segment 5, list heads 6); sealed box 40 (map, keys 2, salt 34, head 3) and tag; read section 5 (map, key, list
/// head 3).
const OVERHEAD: usize = 5 + 17 + 40 + TAG + 5;

/// Room for elements in one page.
const ROOM: usize = PAGE_BODY_MAX - OVERHEAD;

/// CBOR of a segment beside its ids and tokens, at most: map, keys 4, salt 34, length 5, heads 6, flag.
const SEGMENT_OVERHEAD: usize = 1 + 5 + 34 + 5 + 6 + 1;

/// Whether a page has room for a segment of `units` shards with audit tokens for `rounds` rounds. A `false` is known
/// before the first byte is sealed.
#[must_use]
pub fn fits_page(units: usize, rounds: u8) -> bool {
    let each = ShardId::LEN.saturating_add(AUDIT_TOKEN.saturating_mul(usize::from(rounds)));
    rounds <= AUDIT_ROUNDS_MAX && units.saturating_mul(each).saturating_add(SEGMENT_OVERHEAD) <= ROOM
}

/// Why a tree cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError<E> {
    /// The page's segment was not sealed.
    #[error("page could not be sealed")]
    Seal(E),
    /// An entry's path is unsafe or out of order.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A segment has another count of shards than the file's code and replicas give.
    #[error("segment with {found} shards, expected {expected}")]
    Shards {
        /// (k+m) x replicas.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// One segment or entry is larger than a page, or fewer than two page references fit one: lower the replicas, the
    /// width of the code or the audit rounds.
    #[error("{bytes} bytes about one segment, page or entry do not fit a page of {PAGE_MAX} bytes")]
    TooWide {
        /// Its encoded size.
        bytes: usize,
    },
    /// More shards, pages or levels than one manifest may have.
    #[error("upload is too large for one manifest")]
    TooLarge,
}

/// Elements of one unfinished page.
struct Batch<T> {
    items: Vec<T>,
    bytes: usize,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { items: Vec::new(), bytes: 0 }
    }
}

impl<T> Batch<T> {
    fn fits(&self, size: usize) -> bool {
        self.bytes + size <= ROOM && self.items.len() < PAGE_ENTRIES_MAX
    }

    fn push(&mut self, item: T, size: usize) {
        self.items.push(item);
        self.bytes += size;
    }
}

/// One kind's unfinished pages: a leaf, and above it one inner page a level.
struct Subtree<T> {
    leaf: Batch<T>,
    /// Elements in leaves already handed out.
    flushed: u32,
    inner: Vec<Batch<ChildRef>>,
}

impl<T> Default for Subtree<T> {
    fn default() -> Self {
        Self { leaf: Batch::default(), flushed: 0, inner: Vec::new() }
    }
}

/// Children that still need a parent, and the level that parent has.
type Top = (Batch<ChildRef>, u8);

/// Builds the page tree of one upload.
pub struct TreeBuilder<R> {
    pages: PageMaker<R>,
    order: PathOrder,
    segments: Subtree<SegmentRef>,
    entries: Subtree<Entry>,
}

/// Encodes pages and counts them.
struct PageMaker<R> {
    shape: TreeShape,
    read: ReadKey,
    salts: R,
    next_page: u32,
    shards: u64,
}

impl<R: FnMut() -> Salt> TreeBuilder<R> {
    /// An empty tree. `salts` draws fresh random bytes for each read section.
    #[must_use]
    pub fn new(shape: TreeShape, read: ReadKey, salts: R) -> Self {
        Self {
            pages: PageMaker { shape, read, salts, next_page: 0, shards: 0 },
            order: PathOrder::default(),
            segments: Subtree::default(),
            entries: Subtree::default(),
        }
    }

    /// Takes the next segment of the stream. `seal` receives the number and the CBOR of each page that became full (at
    /// most [`PAGE_BODY_MAX`] bytes, a few pages at most), makes it a segment of its own and says where it is.
    ///
    /// # Errors
    /// [`BuildError`]; the builder is of no further use then.
    pub fn segment<E>(
        &mut self,
        segment: SegmentRef,
        seal: &mut impl FnMut(SegmentNumber, &[u8]) -> Result<PageRef, E>,
    ) -> Result<(), BuildError<E>> {
        let (expected, found) = (self.pages.shape.shards(), segment.shards.len());
        if found != expected {
            return Err(BuildError::Shards { expected, found });
        }
        self.pages.count_shards()?;
        let size = measure(&segment)?;
        if !self.segments.leaf.fits(size) {
            self.flush_segments(seal)?;
        }
        self.segments.leaf.push(segment, size);
        Ok(())
    }

    /// Takes the next entry, in ascending order of paths; `seal` as in [`Self::segment`].
    ///
    /// # Errors
    /// [`BuildError`]; the builder is of no further use then.
    pub fn entry<E>(
        &mut self,
        entry: Entry,
        seal: &mut impl FnMut(SegmentNumber, &[u8]) -> Result<PageRef, E>,
    ) -> Result<(), BuildError<E>> {
        self.order.push(&entry.path, entry.kind)?;
        let size = measure(&entry)?;
        if !self.entries.leaf.fits(size) {
            self.flush_entries(seal)?;
        }
        self.entries.leaf.push(entry, size);
        Ok(())
    }

    /// Hands out the remaining pages and returns the root.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn finish<E>(
        mut self,
        seal: &mut impl FnMut(SegmentNumber, &[u8]) -> Result<PageRef, E>,
    ) -> Result<PageRef, BuildError<E>> {
        let small = self.segments.inner.is_empty() && self.entries.inner.is_empty();
        if small && self.segments.leaf.bytes + self.entries.leaf.bytes <= ROOM {
            let read = Some(self.entries.leaf.items).filter(|entries| !entries.is_empty());
            return self.pages.make(0, 0, self.segments.leaf.items, vec![], read, seal);
        }
        if !self.segments.leaf.items.is_empty() {
            self.flush_segments(seal)?;
        }
        if !self.entries.leaf.items.is_empty() {
            self.flush_entries(seal)?;
        }
        let mut left = self.pages.close(PageKind::Segments, self.segments.inner, seal)?;
        let mut right = self.pages.close(PageKind::Entries, self.entries.inner, seal)?;
        if left.0.bytes + right.0.bytes > ROOM {
            left = self.pages.collapse(PageKind::Segments, left, seal)?;
            right = self.pages.collapse(PageKind::Entries, right, seal)?;
        }
        let bytes = left.0.bytes + right.0.bytes;
        if bytes > ROOM {
            return Err(BuildError::TooWide { bytes });
        }
        let mut children = left.0.items;
        children.append(&mut right.0.items);
        self.pages.make(left.1.max(right.1), 0, vec![], children, None, seal)
    }

    fn flush_segments<E>(
        &mut self,
        seal: &mut impl FnMut(SegmentNumber, &[u8]) -> Result<PageRef, E>,
    ) -> Result<(), BuildError<E>> {
        let segments = core::mem::take(&mut self.segments.leaf).items;
        let (first, count) = advance(&mut self.segments.flushed, segments.len())?;
        let page = self.pages.make(0, first, segments, vec![], None, seal)?;
        let child = ChildRef { page, kind: PageKind::Segments, first, count };
        self.pages.adopt(&mut self.segments.inner, 0, child, seal)
    }

    fn flush_entries<E>(
        &mut self,
        seal: &mut impl FnMut(SegmentNumber, &[u8]) -> Result<PageRef, E>,
    ) -> Result<(), BuildError<E>> {
        let entries = core::mem::take(&mut self.entries.leaf).items;
        let (first, count) = advance(&mut self.entries.flushed, entries.len())?;
        let page = self.pages.make(0, 0, vec![], vec![], Some(entries), seal)?;
        let child = ChildRef { page, kind: PageKind::Entries, first, count };
        self.pages.adopt(&mut self.entries.inner, 0, child, seal)
    }
}

impl<R: FnMut() -> Salt> PageMaker<R> {
    /// Encodes one page and has it sealed.
    fn make<E>(
        &mut self,
        level: u8,
        first_segment: u32,
        segments: Vec<SegmentRef>,
        children: Vec<ChildRef>,
        entries: Option<Vec<Entry>>,
        seal: &mut impl FnMut(SegmentNumber, &[u8]) -> Result<PageRef, E>,
    ) -> Result<PageRef, BuildError<E>> {
        if level > PAGE_LEVELS_MAX {
            return Err(BuildError::TooLarge);
        }
        let number = SegmentNumber::page(self.next_page).ok_or(BuildError::TooLarge)?;
        self.next_page = self.next_page.checked_add(1).ok_or(BuildError::TooLarge)?;
        self.count_shards()?;
        let read = entries.map(|entries| self.seal_entries(number, entries));
        let verify = VerifySection { level, first_segment, segments, children };
        let body = encode(&Page { format: PAGE_FORMAT, verify, read });
        debug_assert!(body.len() <= PAGE_BODY_MAX, "{} bytes in a page", body.len());
        seal(number, &body).map_err(BuildError::Seal)
    }

    fn seal_entries(&mut self, number: SegmentNumber, entries: Vec<Entry>) -> SealedBox {
        let TreeShape { file, suite, .. } = self.shape;
        let key = self.read.page_read_key(&file, number, (self.salts)());
        let plain = Zeroizing::new(encode(&ReadSection { entries }));
        key.seal(suite, &file, u64::from(number.0), &plain)
    }

    /// Every segment, also that of a page, counts against the limit of shards.
    fn count_shards<E>(&mut self) -> Result<(), BuildError<E>> {
        self.shards = self.shards.saturating_add(self.shape.shards() as u64);
        if self.shards <= SHARDS_PER_MANIFEST_MAX { Ok(()) } else { Err(BuildError::TooLarge) }
    }

    /// Puts `child` into the inner page at place `from`; pages that become full are handed out and become children of
    /// the next level.
    fn adopt<E>(
        &mut self,
        inner: &mut Vec<Batch<ChildRef>>,
        from: usize,
        mut child: ChildRef,
        seal: &mut impl FnMut(SegmentNumber, &[u8]) -> Result<PageRef, E>,
    ) -> Result<(), BuildError<E>> {
        for at in from..=usize::from(PAGE_LEVELS_MAX) {
            if inner.len() <= at {
                inner.push(Batch::default());
            }
            let Some(batch) = inner.get_mut(at) else { break };
            let size = measure(&child)?;
            if batch.fits(size) {
                batch.push(child, size);
                return Ok(());
            }
            if batch.items.len() < 2 {
                return Err(BuildError::TooWide { bytes: size });
            }
            let full = core::mem::take(batch);
            let kind = child.kind;
            batch.push(child, size);
            child = self.parent(kind, full.items, level_above(at)?, seal)?;
        }
        Err(BuildError::TooLarge)
    }

    /// Hands out every unfinished inner page but the highest.
    fn close<E>(
        &mut self,
        kind: PageKind,
        mut inner: Vec<Batch<ChildRef>>,
        seal: &mut impl FnMut(SegmentNumber, &[u8]) -> Result<PageRef, E>,
    ) -> Result<Top, BuildError<E>> {
        let mut at = 0;
        while at + 1 < inner.len() {
            let children = inner.get_mut(at).map(core::mem::take).unwrap_or_default().items;
            let page = self.parent(kind, children, level_above(at)?, seal)?;
            self.adopt(&mut inner, at + 1, page, seal)?;
            at += 1;
        }
        let level = if inner.is_empty() { 0 } else { level_above(at)? };
        Ok((inner.pop().unwrap_or_default(), level))
    }

    /// Puts several children under one page.
    fn collapse<E>(
        &mut self,
        kind: PageKind,
        (children, level): Top,
        seal: &mut impl FnMut(SegmentNumber, &[u8]) -> Result<PageRef, E>,
    ) -> Result<Top, BuildError<E>> {
        if children.items.len() < 2 {
            return Ok((children, level));
        }
        let page = self.parent(kind, children.items, level, seal)?;
        let mut batch = Batch::default();
        let size = measure(&page)?;
        batch.push(page, size);
        Ok((batch, level.saturating_add(1)))
    }

    /// The inner page over `children`, as a child of the next level.
    fn parent<E>(
        &mut self,
        kind: PageKind,
        children: Vec<ChildRef>,
        level: u8,
        seal: &mut impl FnMut(SegmentNumber, &[u8]) -> Result<PageRef, E>,
    ) -> Result<ChildRef, BuildError<E>> {
        let first = children.first().map_or(0, |child| child.first);
        let count = children.iter().map(|child| child.count).sum();
        let first_segment = if kind == PageKind::Segments { first } else { 0 };
        let page = self.make(level, first_segment, vec![], children, None, seal)?;
        Ok(ChildRef { page, kind, first, count })
    }
}

/// The level of the page that holds the batch at this place of the stack.
fn level_above<E>(at: usize) -> Result<u8, BuildError<E>> {
    u8::try_from(at + 1).map_err(|_| BuildError::TooLarge)
}

/// Encoded size of one element, if a page has room for it.
fn measure<T: minicbor::Encode<()>, E>(item: &T) -> Result<usize, BuildError<E>> {
    let bytes = encode(item).len();
    if bytes <= ROOM { Ok(bytes) } else { Err(BuildError::TooWide { bytes }) }
}

/// The span of the next `count` elements.
fn advance<E>(flushed: &mut u32, count: usize) -> Result<(u32, u32), BuildError<E>> {
    let first = *flushed;
    let count = u32::try_from(count).map_err(|_| BuildError::TooLarge)?;
    *flushed = first.checked_add(count).ok_or(BuildError::TooLarge)?;
    Ok((first, count))
}
