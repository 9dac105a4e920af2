//! Pages: the immutable tree that says which shards a file has and which files lie in them.
//!
//! A page travels as the plaintext of a segment of its own, sealed under the verify key: who may audit and repair can
//! read its verify section, who may read opens the read section inside with the read key. Leaves hold segments or
//! entries; inner pages hold children. Pages are never rewritten: repaired shards are byte-identical.

use minicbor::{Decode, Encode};

use crate::codec::{Bounded, bytes_array, ensure};
use crate::id::ShardId;
use crate::limits::{
    AUDIT_ROUNDS_MAX, AUDIT_TOKEN, CODE_MAX, EXTENTS_MAX, INLINE_MAX, PAGE_ENTRIES_MAX, PATH_MAX, REPLICAS_MAX,
};
use crate::sealing::{Salt, SealedBox};
use crate::units::SegmentNumber;

/// Version of [`Page`].
pub const PAGE_FORMAT: u8 = 1;
/// Deepest page tree: even with the 7 children a page has room for at 255 shards a segment, 7^6 leaves exceed the
/// shard limit of a manifest.
pub const PAGE_LEVELS_MAX: u8 = 6;

/// Shard ids of one segment, replica by replica, index by index: `replicas x (k+m)` of 32 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct ShardIds(#[cbor(with = "minicbor::bytes")] Vec<u8>);

impl ShardIds {
    /// Concatenates the ids.
    #[must_use]
    pub fn new(ids: &[ShardId]) -> Self {
        Self(ids.iter().flat_map(|id| *id.as_bytes()).collect())
    }

    /// How many ids.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len() / ShardId::LEN
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The id at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<ShardId> {
        self.iter().nth(index)
    }

    /// All ids in order.
    pub fn iter(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.0.chunks_exact(ShardId::LEN).filter_map(|chunk| Some(ShardId::from_bytes(chunk.try_into().ok()?)))
    }
}

/// One segment: all that is needed to fetch, audit and (with the read key) open it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SegmentRef {
    /// Salt of its sealing.
    #[cbor(n(0), with = "bytes_array")]
    pub salt: Salt,
    /// Plaintext bytes, padding included: gives the shard length by the layout.
    #[n(1)]
    pub plain: u32,
    /// Its shards.
    #[n(2)]
    pub shards: ShardIds,
    /// Whether it is the last of the stream.
    #[n(3)]
    pub last: bool,
    /// Audit tokens, 16 bytes each, round by round, replica by replica, index by index; absent when none were minted.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub tokens: Option<Vec<u8>>,
}

impl SegmentRef {
    /// Rounds of whole-shard audits its tokens are for.
    #[must_use]
    pub fn audit_rounds(&self) -> u8 {
        let bytes = self.tokens.as_ref().map_or(0, Vec::len);
        let rounds = bytes.checked_div(AUDIT_TOKEN.saturating_mul(self.shards.len())).unwrap_or(0);
        u8::try_from(rounds).unwrap_or(u8::MAX).min(AUDIT_ROUNDS_MAX)
    }

    /// The token of round `round` of shard `unit`, if it was minted.
    #[must_use]
    pub fn audit_token(&self, round: u8, unit: usize) -> Option<[u8; AUDIT_TOKEN]> {
        let at = usize::from(round).checked_mul(self.shards.len())?.checked_add(unit)?.checked_mul(AUDIT_TOKEN)?;
        let token = self.tokens.as_ref()?.get(at..at.checked_add(AUDIT_TOKEN)?)?;
        if unit < self.shards.len() { token.try_into().ok() } else { None }
    }
}

impl Bounded for SegmentRef {
    fn check(&self) -> Result<(), &'static str> {
        let count = self.shards.len();
        ensure(self.shards.0.len() == count * ShardId::LEN, "shard ids of a segment")?;
        ensure(count >= 2 && count <= CODE_MAX * usize::from(REPLICAS_MAX), "count of shards in a segment")?;
        ensure(self.plain > 0, "empty segment")?;
        let round = AUDIT_TOKEN * count;
        let tokens = self.tokens.as_ref().map_or(round, Vec::len);
        ensure(
            tokens > 0 && tokens.is_multiple_of(round) && tokens <= usize::from(AUDIT_ROUNDS_MAX) * round,
            "audit tokens of a segment",
        )
    }
}

/// Where a page is.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PageRef {
    /// Its segment number.
    #[n(0)]
    pub number: SegmentNumber,
    /// Its segment.
    #[n(1)]
    pub segment: SegmentRef,
}

impl Bounded for PageRef {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.number.is_page(), "page number")?;
        ensure(self.segment.last, "a page is its whole stream")?;
        self.segment.check()
    }
}

/// What a subtree holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum PageKind {
    /// Segments of the stream.
    #[n(1)]
    Segments,
    /// Entries of the tree of files.
    #[n(2)]
    Entries,
}

/// A child of an inner page.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ChildRef {
    /// Where it is.
    #[n(0)]
    pub page: PageRef,
    /// What it holds.
    #[n(1)]
    pub kind: PageKind,
    /// First segment number, or first entry counted from 0, in its subtree.
    #[n(2)]
    pub first: u32,
    /// Segments or entries in its subtree.
    #[n(3)]
    pub count: u32,
}

/// What auditors and repairers may read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct VerifySection {
    /// 0 for a leaf, else one more than its highest child.
    #[n(0)]
    pub level: u8,
    /// Number of the first segment below.
    #[n(1)]
    pub first_segment: u32,
    /// Segments, in order.
    #[n(2)]
    pub segments: Vec<SegmentRef>,
    /// Children, in order.
    #[n(3)]
    pub children: Vec<ChildRef>,
}

/// One page, at most [`crate::limits::PAGE_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Page {
    /// [`PAGE_FORMAT`].
    #[n(0)]
    pub format: u8,
    /// What auditors and repairers may read.
    #[n(1)]
    pub verify: VerifySection,
    /// A [`ReadSection`] sealed under the read key; absent where there are no entries.
    #[n(2)]
    pub read: Option<SealedBox>,
}

impl Bounded for Page {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.format == PAGE_FORMAT, "page format")?;
        ensure(self.verify.level <= PAGE_LEVELS_MAX, "page level")?;
        ensure((self.verify.level == 0) == self.verify.children.is_empty(), "children of a page")?;
        let segments = u32::try_from(self.verify.segments.len()).map_err(|_| "segments of a page")?;
        let end = self.verify.first_segment.checked_add(segments).ok_or("segment numbers of a page")?;
        ensure(end <= SegmentNumber::FIRST_PAGE, "segment numbers of a page")?;
        self.verify.segments.iter().try_for_each(SegmentRef::check)?;
        self.verify.children.iter().try_for_each(|child| {
            ensure(child.count > 0 && child.first.checked_add(child.count).is_some(), "span of a child")?;
            child.page.check()
        })
    }
}

/// Entries of one page, sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ReadSection {
    /// The entries.
    #[n(0)]
    pub entries: Vec<Entry>,
}

impl Bounded for ReadSection {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.entries.len() <= PAGE_ENTRIES_MAX, "count of entries")?;
        self.entries.iter().try_for_each(Entry::check)?;
        ensure(self.entries.is_sorted_by(|a, b| a.path < b.path), "order of entries")
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum EntryKind {
    /// A regular file.
    #[n(1)]
    File,
    /// A directory; listed so that empty ones survive and modes are kept.
    #[n(2)]
    Directory,
    /// A symbolic link; its target is the inline content.
    #[n(3)]
    Symlink,
}

/// A run of the stream: it begins in one segment and goes on through the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Extent {
    /// Segment of the first byte.
    #[n(0)]
    pub segment: u32,
    /// First byte within that segment's plaintext.
    #[n(1)]
    pub offset: u32,
    /// Bytes.
    #[n(2)]
    pub length: u64,
}

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    /// Relative path, '/' between components, none of them empty, "." or "..".
    #[n(0)]
    pub path: String,
    /// What it is.
    #[n(1)]
    pub kind: EntryKind,
    /// Unix permission bits, 0o7777 at most.
    #[n(2)]
    pub mode: u32,
    /// Last modification, milliseconds since 1970, negative before.
    #[n(3)]
    pub modified_ms: i64,
    /// Bytes of content.
    #[n(4)]
    pub size: u64,
    /// Where the content lies; empty when inline.
    #[n(5)]
    pub extents: Vec<Extent>,
    /// Content of up to [`INLINE_MAX`] bytes, or a link's target.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub inline: Option<Vec<u8>>,
}

/// Whether `path` may name an entry: relative, no empty, "." or ".." component, no NUL, within the length limit.
#[must_use]
pub fn is_safe_path(path: &str) -> bool {
    path.len() <= PATH_MAX
        && !path.contains('\0')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 255)
}

impl Entry {
    fn check(&self) -> Result<(), &'static str> {
        ensure(is_safe_path(&self.path), "path of an entry")?;
        ensure(self.mode <= 0o7777, "mode of an entry")?;
        ensure(self.extents.len() <= EXTENTS_MAX, "count of extents")?;
        let total = self.extents.iter().try_fold(0u64, |sum, extent| {
            ensure(extent.length > 0 && extent.segment < SegmentNumber::FIRST_PAGE, "extent of an entry")?;
            sum.checked_add(extent.length).ok_or("size of an entry")
        })?;
        match (&self.inline, self.kind) {
            (Some(bytes), EntryKind::File) => {
                ensure(bytes.len() <= INLINE_MAX && self.extents.is_empty(), "inline content")?;
                ensure(self.size == bytes.len() as u64, "size of an entry")
            }
            (Some(target), EntryKind::Symlink) => {
                ensure(!target.is_empty() && target.len() <= PATH_MAX && self.extents.is_empty(), "link target")?;
                ensure(self.size == target.len() as u64, "size of an entry")
            }
            (None, EntryKind::File) => ensure(self.size == total && total > 0, "size of an entry"),
            (None, EntryKind::Directory) => ensure(self.size == 0 && self.extents.is_empty(), "size of a directory"),
            (None, EntryKind::Symlink) | (Some(_), EntryKind::Directory) => Err("content of an entry"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_escape_are_refused() {
        for path in ["", "/", "/etc/passwd", "a//b", "../a", "a/../b", "a/./b", "a/", "a\0b", &"x".repeat(256)] {
            assert!(!is_safe_path(path), "{path:?}");
        }
        for path in ["a", "a/b", "..a/b..", "ü/ñ", " "] {
            assert!(is_safe_path(path), "{path:?}");
        }
    }

    #[test]
    fn tokens_lie_round_by_round_unit_by_unit() {
        let shards = ShardIds::new(&[ShardId::from_bytes([1; 32]), ShardId::from_bytes([2; 32])]);
        let tokens: Vec<u8> = (0..6).flat_map(|token| [token; 16]).collect();
        let segment = SegmentRef { salt: [0; 32], plain: 1, shards, last: true, tokens: Some(tokens) };
        assert_eq!((segment.check(), segment.audit_rounds()), (Ok(()), 3));
        assert_eq!(segment.audit_token(0, 1), Some([1; 16]));
        assert_eq!(segment.audit_token(2, 0), Some([4; 16]));
        assert_eq!((segment.audit_token(3, 0), segment.audit_token(0, 2)), (None, None));
        let none = SegmentRef { tokens: None, ..segment };
        assert_eq!((none.audit_rounds(), none.audit_token(0, 0)), (0, None));
    }

    #[test]
    fn empty_file_is_inline() {
        let entry = Entry {
            path: "a".into(),
            kind: EntryKind::File,
            mode: 0o644,
            modified_ms: -5,
            size: 0,
            extents: vec![],
            inline: Some(vec![]),
        };
        assert_eq!(entry.check(), Ok(()));
        assert!(Entry { size: 1, ..entry.clone() }.check().is_err());
        assert!(Entry { inline: None, ..entry }.check().is_err());
    }
}
