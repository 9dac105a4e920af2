//! The real disk with a clock: how long the calls of each kind took in sum, and how many there were. It changes nothing
//! of what passes through it.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shoal_node::chunks::vfs::{DirId, DirLock, OpenMode, Vfs, VfsFile};
use shoal_node::chunks::vfs_os::OsVfs;

/// Time and number of one kind of call.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    nanos: AtomicU64,
    calls: AtomicU64,
}

/// What was spent on what.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    read: Spent,
    write: Spent,
    sync: Spent,
    allocate: Spent,
}

/// The disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimedVfs {
    clock: Arc<Clock>,
}

#[derive(Debug)]
struct TimedFile {
    file: Arc<dyn VfsFile>,
    clock: Arc<Clock>,
}

impl Spent {
    fn run<T>(&self, call: impl FnOnce() -> T) -> T {
        let since = Instant::now();
        let out = call();
        let nanos = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        out
    }

    fn take(&self) -> (Duration, u64) {
        (Duration::from_nanos(self.nanos.swap(0, Ordering::Relaxed)), self.calls.swap(0, Ordering::Relaxed))
    }
}

impl TimedVfs {
    /// What was spent since the last call of this, as a line.
    pub(crate) fn report(&self) -> String {
        let Clock { read, write, sync, allocate } = self.clock.as_ref();
        let kinds = [("read", read), ("write", write), ("sync", sync), ("allocate and cut", allocate)];
        let parts = kinds.map(|(name, spent)| {
            let (time, calls) = spent.take();
            format!("{name} {:.0} ms in {calls} calls", time.as_secs_f64() * 1e3)
        });
        parts.join(", ")
    }
}

impl Vfs for TimedVfs {
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
        Ok(Arc::new(TimedFile { file: OsVfs.open(path, mode)?, clock: Arc::clone(&self.clock) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsVfs.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.clock.allocate.run(|| OsVfs.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.clock.sync.run(|| OsVfs.sync_dir(dir))
    }

    fn identity(&self, dir: &Path) -> io::Result<DirId> {
        OsVfs.identity(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        OsVfs.free_bytes(dir)
    }
}

impl VfsFile for TimedFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.clock.read.run(|| self.file.read_exact_at(buffer, offset))
    }

    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.clock.write.run(|| self.file.write_all_at(buffers, offset))
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.clock.allocate.run(|| self.file.allocate(length))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.clock.allocate.run(|| self.file.set_length(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.clock.sync.run(|| self.file.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.clock.sync.run(|| self.file.sync_all())
    }

    fn drop_cache(&self, offset: u64, length: u64) {
        self.file.drop_cache(offset, length);
    }
}
