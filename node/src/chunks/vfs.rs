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

/// Device and inode of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirId {
    /// Number of the file system.
    pub device: u64,
    /// Number of the directory on it.
    pub inode: u64,
}

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
    /// Which directory this is: another device or another directory at the same path has other numbers.
    fn identity(&self, dir: &Path) -> io::Result<DirId>;
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
    /// Asks the system to forget its copy in memory of `length` bytes from `offset`, so that the next read of them comes
    /// from the disk. It may decline.
    fn drop_cache(&self, offset: u64, length: u64);
}

/// Writes one buffer.
pub(crate) fn write_at(file: &dyn VfsFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(&mut [IoSlice::new(bytes)], offset)
}

/// Replaces a file in `dir` by these bytes as a whole, durable with its entry; on an error it is the old or the new one.
pub(crate) fn replace_file(vfs: &dyn Vfs, dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    remove_if_there(vfs, &temporary)?;
    let write = || {
        let file = vfs.open(&temporary, OpenMode::Create)?;
        write_at(file.as_ref(), bytes, 0)?;
        file.sync_all()
    };
    if let Err(error) = write() {
        let _ = vfs.remove(&temporary);
        return Err(error);
    }
    vfs.rename(&temporary, path)?;
    vfs.sync_dir(dir)
}

/// Removes a file; it is no error if there is none.
pub(crate) fn remove_if_there(vfs: &dyn Vfs, path: &Path) -> io::Result<()> {
    match vfs.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The bytes of a file of at most `most` bytes; `None` if there is none, or it is longer.
pub(crate) fn read_file(vfs: &dyn Vfs, path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match vfs.open(path, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let length = file.length()?;
    let Some(size) = usize::try_from(length).ok().filter(|_| length <= most) else { return Ok(None) };
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

/// True if the disk or the user's disk quota is full: the file is unharmed and the write may be tried again later.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
