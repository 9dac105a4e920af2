//! The operating system's file system behind [`Vfs`]. It never follows a symbolic link at the last path component.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, FlockOperation, OFlags};

use super::direct::{BLOCK, Direct, copy_front};
use super::vfs::{DirId, DirLock, OpenMode, Vfs, VfsFile};

/// Bytes of a write from which on it goes past the page cache.
const DIRECT_MIN: usize = 256 * 1024;
/// Most buffers one `pwritev` takes (Linux `UIO_MAXIOV`).
const VECTORS_MAX: usize = 1024;

/// The real disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsVfs;

#[derive(Debug)]
struct OsFile {
    file: File,
    /// Of a file that may be written.
    direct: Option<Direct>,
}

impl OsFile {
    fn open(path: &Path, mode: OpenMode) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::Create => {
                options.write(true).create_new(true);
            }
        }
        let file = options.open(path)?;
        let direct = if mode == OpenMode::Read { None } else { Direct::open(path, &file) };
        Ok(Self { file, direct })
    }
}

#[derive(Debug)]
struct OsLock {
    _dir: File,
}

impl DirLock for OsLock {}

impl Vfs for OsVfs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if !dir.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                self.sync_dir(parent)?;
            }
        }
        Ok(())
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        let dir = File::open(dir)?;
        rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(OsLock { _dir: dir }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        Ok(Arc::new(OsFile::open(path, mode)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn identity(&self, dir: &Path) -> io::Result<DirId> {
        let metadata = fs::metadata(dir)?;
        Ok(DirId { device: metadata.dev(), inode: metadata.ino() })
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Writes all of `buffers` through the page cache.
fn write_cached(file: &File, mut buffers: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut buffers, 0);
    while !buffers.is_empty() {
        let some = buffers.get(..VECTORS_MAX).unwrap_or(buffers);
        match rustix::io::pwritev(file, some, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset = offset.saturating_add(written as u64);
                IoSlice::advance_slices(&mut buffers, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes all of `buffers`, `length` bytes: the whole blocks past the page cache, what is before and behind them through
/// it, as the blocks there are shared with what was written before and comes next.
fn write_direct(
    file: &File,
    direct: &Direct,
    mut buffers: &mut [IoSlice<'_>],
    offset: u64,
    length: usize,
) -> io::Result<()> {
    let block = BLOCK as u64;
    let start = offset.checked_next_multiple_of(block).ok_or(io::ErrorKind::FileTooLarge)?;
    // Less than a block, while there are many.
    let mut head = vec![0; usize::try_from(start.saturating_sub(offset)).unwrap_or(BLOCK)];
    copy_front(&mut buffers, &mut head);
    file.write_all_at(&head, offset)?;
    let blocks = length.saturating_sub(head.len()) / BLOCK;
    direct.write(file, &mut buffers, start, blocks)?;
    write_cached(file, buffers, start.saturating_add((blocks as u64).saturating_mul(block)))
}

impl VfsFile for OsFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let length = buffers.iter().map(|buffer| buffer.len()).fold(0, usize::saturating_add);
        match self.direct.as_ref().filter(|direct| length >= DIRECT_MIN && direct.works()) {
            Some(direct) => write_direct(&self.file, direct, buffers, offset, length),
            None => write_cached(&self.file, buffers, offset),
        }
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, length) {
            // A file system without preallocation: space is then found at the write, whose ENOSPC is handled too.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) if self.length()? < length => {
                self.file.set_len(length)
            }
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn drop_cache(&self, offset: u64, length: u64) {
        let _ = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(length), Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn writes_many_buffers_in_order_and_refuses_a_symlink() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OsVfs.open(&path, OpenMode::Create).unwrap();
        let pieces: Vec<Vec<u8>> = (0..3000_u32).map(|n| n.to_le_bytes().to_vec()).collect();
        let mut buffers: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();

        file.allocate(20_000).unwrap();
        file.write_all_at(&mut buffers, 100).unwrap();

        let mut read = vec![0; 12_000];
        file.read_exact_at(&mut read, 100).unwrap();
        assert_eq!(read, pieces.concat());
        assert_eq!(file.length().unwrap(), 20_000);
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        assert!(OsVfs.open(&dir.path().join("link"), OpenMode::Read).is_err());
        assert!(OsVfs.open(&path, OpenMode::Create).is_err());
        assert!(OsVfs.free_bytes(dir.path()).unwrap() > 0);
    }

    /// Appends of all sizes while somebody reads all of the file, so that stale pages of where they go come into memory
    /// before and during each of them.
    #[test]
    fn what_is_written_past_the_page_cache_is_read_through_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OsFile::open(&path, OpenMode::Create).unwrap();
        let works = |file: &OsFile| file.direct.as_ref().is_some_and(Direct::works);
        let direct = works(&file);
        assert!(direct || std::env::var_os("CI").is_none(), "the temporary directory must be on ext4 or XFS");
        if !direct {
            eprintln!("SKIPPED: neither ext4 nor XFS: all of it goes through the page cache");
        }
        let reader = OsVfs.open(&path, OpenMode::Read).unwrap();
        file.allocate(32 << 20).unwrap();
        let sizes = [1, DIRECT_MIN - 1, DIRECT_MIN, 5000, (1 << 20) + 1, 3 << 20, 128, DIRECT_MIN + 4095, 2_000_000];
        let (mut all, mut seed) = (Vec::new(), 7_u64);
        let stop = Arc::new(AtomicBool::new(false));
        let (other, stopped) = (OsVfs.open(&path, OpenMode::Read).unwrap(), Arc::clone(&stop));
        let racing = std::thread::spawn(move || {
            let mut window = vec![0; 128 << 10];
            let mut passes = 0;
            while !stopped.load(Ordering::Relaxed) {
                for at in (0..32 << 20).step_by(128 << 10) {
                    other.read_exact_at(&mut window, at).unwrap();
                }
                other.drop_cache(0, 0);
                passes += 1;
            }
            passes
        });
        for size in sizes.into_iter().chain(sizes) {
            let mut ahead = vec![0; size + (256 << 10)];
            reader.read_exact_at(&mut ahead, all.len() as u64).unwrap();
            let bytes: Vec<u8> = (0..size)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 56) as u8
                })
                .collect();
            let mut buffers: Vec<IoSlice<'_>> = bytes.chunks(77_777).map(IoSlice::new).collect();
            file.write_all_at(&mut buffers, all.len() as u64).unwrap();
            all.extend_from_slice(&bytes);
            for synced in [false, true] {
                if synced {
                    file.sync_data().unwrap();
                    file.drop_cache(0, 0);
                }
                let mut read = vec![1; all.len() + 4096];
                reader.read_exact_at(&mut read, 0).unwrap();
                assert!(read[..all.len()] == all, "after {} bytes, synced {synced}", all.len());
                assert!(read[all.len()..].iter().all(|byte| *byte == 0), "nothing behind the end");
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(racing.join().unwrap() > 0);
        assert_eq!(works(&file), direct, "the disk refused none of it");
    }

    #[test]
    fn a_directory_is_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let held = OsVfs.lock(dir.path()).unwrap();
        assert_eq!(OsVfs.lock(dir.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        assert!(OsVfs.lock(dir.path()).is_ok());
    }
}
