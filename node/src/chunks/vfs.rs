//! The only door from the store to files: a small file system trait with positioned reads and writes.
//!
//! It never caches, retries or orders anything: what is durable when is the business of `commit.rs` and `recovery.rs`.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// How [`Vfs::open`] opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A file that must not exist yet, for reading and writing.
    Create,
}

/// Held as long as a directory is locked; dropping it unlocks.
pub trait DirLock: Send + Sync + Debug {}

/// A file system as the store sees it. Paths are never followed through a symbolic link at their last component.
pub trait Vfs: Send + Sync + Debug {
    /// Creates `dir` and its parents if they are missing, readable by the owner only, and makes the entry durable.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the exclusive lock of a directory; `WouldBlock` if another holder lives.
    fn lock(&self, dir: &Path) -> io::Result<Box<dyn DirLock>>;
    /// Names of the entries of a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>>;
    /// Renames within one directory, replacing; durable only after [`Vfs::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; durable only after [`Vfs::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes an ordinary user may still allocate on the file system of `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// One open file.
pub trait VfsFile: Send + Sync + Debug {
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset`; `UnexpectedEof` if the file is shorter.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `buffers` one after the other from `offset`. On an error any part may have been written.
    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Takes disk space for the first `length` bytes and makes the file at least that long; new bytes read as zero.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// Cuts or zero-extends.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Makes content and length durable. After an error the state of the file on disk is unknown for ever.
    fn sync_data(&self) -> io::Result<()>;
    /// As [`VfsFile::sync_data`], and all other metadata.
    fn sync_all(&self) -> io::Result<()>;
}

/// Writes one buffer.
pub(crate) fn write_at(file: &dyn VfsFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(&mut [IoSlice::new(bytes)], offset)
}

/// True if the disk or the user's disk quota is full: the file is unharmed and the write may be tried again later.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
