//! A disk with sectors that do not read: reads that touch them fail with EIO, everything else is the simulated disk's.
//! Writing never heals them.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::super::vfs::{DirId, DirLock, OpenMode, Vfs, VfsFile};
use super::*;

type Bad = Arc<Mutex<Option<(PathBuf, Range<u64>)>>>;

/// The disk; clones share it.
#[derive(Clone, Debug)]
pub(super) struct BadSectors {
    disk: MemVfs,
    bad: Bad,
}

impl BadSectors {
    pub(super) fn new(disk: &MemVfs, path: &Path, bytes: Range<u64>) -> Self {
        Self { disk: disk.clone(), bad: Arc::new(Mutex::new(Some((path.to_path_buf(), bytes)))) }
    }

    /// All sectors read again.
    pub(super) fn heal(&self) {
        *self.bad.lock().unwrap() = None;
    }
}

#[derive(Debug)]
struct BadFile {
    file: Arc<dyn VfsFile>,
    path: PathBuf,
    bad: Bad,
}

impl Vfs for BadSectors {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        self.disk.lock(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let file = self.disk.open(path, mode)?;
        Ok(Arc::new(BadFile { file, path: path.to_path_buf(), bad: Arc::clone(&self.bad) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn identity(&self, dir: &Path) -> io::Result<DirId> {
        self.disk.identity(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.disk.free_bytes(dir)
    }
}

impl VfsFile for BadFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        let bad = self.bad.lock().unwrap();
        if bad.as_ref().is_some_and(|(path, bytes)| *path == self.path && bytes.start < end && offset < bytes.end) {
            return Err(io::Error::from_raw_os_error(5));
        }
        drop(bad);
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buffers, offset)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn drop_cache(&self, offset: u64, length: u64) {
        self.file.drop_cache(offset, length);
    }
}
