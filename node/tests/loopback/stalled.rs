//! A real disk whose syncs can be made to wait. It changes nothing else.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use shoal_node::chunks::vfs::{DirId, DirLock, OpenMode, Vfs, VfsFile};
use shoal_node::chunks::vfs_os::OsVfs;

type Gate = Arc<(Mutex<bool>, Condvar)>;

#[derive(Clone, Debug, Default)]
pub(super) struct StalledVfs {
    gate: Gate,
}

#[derive(Debug)]
struct StalledFile {
    file: Arc<dyn VfsFile>,
    gate: Gate,
}

impl StalledVfs {
    pub(super) fn stall(&self) {
        *self.gate.0.lock().unwrap() = true;
    }

    pub(super) fn go_on(&self) {
        *self.gate.0.lock().unwrap() = false;
        self.gate.1.notify_all();
    }
}

fn wait(gate: &Gate) {
    let stalled = gate.0.lock().unwrap();
    drop(gate.1.wait_while(stalled, |stalled| *stalled).unwrap());
}

impl Vfs for StalledVfs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        OsVfs.create_dir(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        OsVfs.lock(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsVfs.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        Ok(Arc::new(StalledFile { file: OsVfs.open(path, mode)?, gate: Arc::clone(&self.gate) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsVfs.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsVfs.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        wait(&self.gate);
        OsVfs.sync_dir(dir)
    }

    fn identity(&self, dir: &Path) -> io::Result<DirId> {
        OsVfs.identity(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        wait(&self.gate);
        OsVfs.free_bytes(dir)
    }
}

impl VfsFile for StalledFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        wait(&self.gate);
        self.file.write_all_at(buffers, offset)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        wait(&self.gate);
        self.file.allocate(length)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        wait(&self.gate);
        self.file.set_length(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        wait(&self.gate);
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        wait(&self.gate);
        self.file.sync_all()
    }

    fn drop_cache(&self, offset: u64, length: u64) {
        self.file.drop_cache(offset, length);
    }
}
