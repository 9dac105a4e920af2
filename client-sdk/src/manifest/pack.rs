//! From files to entries: small ones into their entry, the others back to back into one stream. Lengths are those of
//! the bytes that were really read, never those a directory listing claimed. It reads nothing itself.

use shoal_protocol::layout::Code;
use shoal_protocol::limits::{INLINE_MAX, PATH_MAX, SHARDS_PER_MANIFEST_MAX};
use shoal_protocol::page::{Entry, EntryKind, Extent};

use super::path::{PathError, PathOrder};

/// What is known of a file before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Relative path, `/` between components.
    pub path: String,
    /// Unix permission bits; others are cut off.
    pub mode: u32,
    /// Last modification, milliseconds since 1970.
    pub modified_ms: i64,
}

/// Why a file cannot become an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Its path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A link's target is empty or too long.
    #[error("target of link {0:?} is empty or longer than {PATH_MAX} bytes")]
    LinkTarget(String),
    /// The stream would have more segments than a manifest may name.
    #[error("upload is too long for its code")]
    TooLong,
}

/// Turns files, given in ascending order of their paths' bytes, into entries.
#[derive(Debug)]
pub struct Packer {
    segment_plain: u64,
    stream_max: u64,
    stream: u64,
    order: PathOrder,
}

/// A file being read. What is dropped before [`Packer::finish`] leaves the stream in disorder: it ends the upload.
#[derive(Debug)]
pub struct FileFeed {
    meta: Meta,
    head: Vec<u8>,
    length: u64,
}

impl Packer {
    /// An empty stream cut by `code`, stored `replicas` times.
    #[must_use]
    pub fn new(code: Code, replicas: u8) -> Self {
        let segment_plain = code.segment_plain() as u64;
        let shards = code.n() as u64 * u64::from(replicas.max(1));
        let stream_max = (SHARDS_PER_MANIFEST_MAX / shards).saturating_mul(segment_plain);
        Self { segment_plain, stream_max, stream: 0, order: PathOrder::default() }
    }

    /// Bytes of the stream so far, without padding.
    #[must_use]
    pub const fn stream_length(&self) -> u64 {
        self.stream
    }

    /// The entry of a directory.
    ///
    /// # Errors
    /// [`PackError::Path`].
    pub fn directory(&mut self, meta: Meta) -> Result<Entry, PackError> {
        self.order.push(&meta.path, EntryKind::Directory)?;
        Ok(entry(meta, EntryKind::Directory, 0, None, None))
    }

    /// The entry of a symbolic link.
    ///
    /// # Errors
    /// [`PackError::Path`] and [`PackError::LinkTarget`].
    pub fn symlink(&mut self, meta: Meta, target: Vec<u8>) -> Result<Entry, PackError> {
        if target.is_empty() || target.len() > PATH_MAX {
            return Err(PackError::LinkTarget(meta.path));
        }
        self.order.push(&meta.path, EntryKind::Symlink)?;
        Ok(entry(meta, EntryKind::Symlink, target.len() as u64, None, Some(target)))
    }

    /// Begins a file; the path is refused before a byte is read.
    ///
    /// # Errors
    /// [`PackError::Path`].
    pub fn begin(&mut self, meta: Meta) -> Result<FileFeed, PackError> {
        self.order.push(&meta.path, EntryKind::File)?;
        Ok(FileFeed { meta, head: Vec::new(), length: 0 })
    }

    /// The entry of a file that was read to its end.
    ///
    /// # Errors
    /// [`PackError::TooLong`].
    pub fn finish(&mut self, feed: FileFeed) -> Result<Entry, PackError> {
        let FileFeed { meta, head, length } = feed;
        if length <= INLINE_MAX as u64 {
            return Ok(entry(meta, EntryKind::File, length, None, Some(head)));
        }
        let end = self.stream.checked_add(length).filter(|&end| end <= self.stream_max).ok_or(PackError::TooLong)?;
        let narrow = |number: u64| u32::try_from(number).map_err(|_| PackError::TooLong);
        let extent = Extent {
            segment: narrow(self.stream / self.segment_plain)?,
            offset: narrow(self.stream % self.segment_plain)?,
            length,
        };
        self.stream = end;
        Ok(entry(meta, EntryKind::File, length, Some(extent), None))
    }
}

impl FileFeed {
    /// Takes the next bytes of the file; `stream` receives what belongs into the stream, in order, perhaps nothing yet.
    ///
    /// # Errors
    /// Whatever `stream` returns.
    pub fn write<E>(&mut self, bytes: &[u8], mut stream: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let before = self.length;
        self.length = before.saturating_add(bytes.len() as u64);
        if self.length <= INLINE_MAX as u64 {
            self.head.extend_from_slice(bytes);
            return Ok(());
        }
        if !self.head.is_empty() {
            stream(&core::mem::take(&mut self.head))?;
        }
        if bytes.is_empty() { Ok(()) } else { stream(bytes) }
    }
}

fn entry(meta: Meta, kind: EntryKind, size: u64, extent: Option<Extent>, inline: Option<Vec<u8>>) -> Entry {
    let Meta { path, mode, modified_ms } = meta;
    Entry { path, kind, mode: mode & 0o7777, modified_ms, size, extents: extent.into_iter().collect(), inline }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::convert::Infallible;

    fn meta(path: &str) -> Meta {
        Meta { path: path.into(), mode: 0o100_644, modified_ms: 7 }
    }

    fn pack(packer: &mut Packer, path: &str, pieces: &[&[u8]], stream: &mut Vec<u8>) -> Entry {
        let mut feed = packer.begin(meta(path)).unwrap();
        for piece in pieces {
            let Ok(()) = feed.write(piece, |bytes| {
                stream.extend_from_slice(bytes);
                Ok::<(), Infallible>(())
            });
        }
        packer.finish(feed).unwrap()
    }

    #[test]
    fn small_files_stay_in_their_entry() {
        let mut packer = Packer::new(Code::new(1, 1).unwrap(), 1);
        let mut stream = Vec::new();
        let empty = pack(&mut packer, "a", &[], &mut stream);
        assert_eq!((empty.inline, empty.size, empty.mode), (Some(vec![]), 0, 0o644));
        let full = pack(&mut packer, "b", &[&[1; 2000], &[2; 48]], &mut stream);
        assert_eq!((full.inline.unwrap().len(), full.size), (2048, 2048));
        assert!(stream.is_empty());
        let over = pack(&mut packer, "c", &[&[3; 2000], &[4; 48], &[5; 1], &[]], &mut stream);
        assert_eq!((over.inline, over.size), (None, 2049));
        assert_eq!(over.extents, [Extent { segment: 0, offset: 0, length: 2049 }]);
        assert_eq!(stream, [vec![3; 2000], vec![4; 48], vec![5]].concat());
    }

    #[test]
    fn extents_follow_the_stream_over_segments() {
        let code = Code::new(1, 1).unwrap();
        let mut packer = Packer::new(code, 1);
        let big = vec![0; code.segment_plain() + 10];
        let mut stream = Vec::new();
        pack(&mut packer, "a", &[&big], &mut stream);
        let next = pack(&mut packer, "b", &[&[1; 3000]], &mut stream);
        assert_eq!(next.extents, [Extent { segment: 1, offset: 10, length: 3000 }]);
        assert_eq!(packer.stream_length(), stream.len() as u64);
    }

    #[test]
    fn links_directories_and_order() {
        let mut packer = Packer::new(Code::new(1, 1).unwrap(), 1);
        assert_eq!(packer.directory(meta("d")).unwrap().kind, EntryKind::Directory);
        let link = packer.symlink(meta("d/l"), b"../x".to_vec()).unwrap();
        assert_eq!((link.size, link.inline), (4, Some(b"../x".to_vec())));
        assert!(matches!(packer.symlink(meta("e"), vec![]), Err(PackError::LinkTarget(_))));
        assert!(matches!(packer.begin(meta("d/l/x")), Err(PackError::Path(PathError::NotBelowDirectory(_)))));
        assert!(matches!(packer.begin(meta("c")), Err(PackError::Path(PathError::Order(_)))));
    }

    #[test]
    fn a_stream_beyond_the_shard_limit_is_refused() {
        let code = Code::new(1, 254).unwrap();
        let mut packer = Packer::new(code, 8);
        let feed = FileFeed { meta: meta("a"), head: vec![], length: u64::MAX };
        assert_eq!(packer.finish(feed), Err(PackError::TooLong));
    }
}
