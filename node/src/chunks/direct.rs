//! Large writes past the page cache. A log is written once and read much later, if at all: copying it into the page
//! cache costs more processor time than all else the disk asks for, and takes the place of other programs' files.
//! It writes whole blocks only, from memory of its own; it never reads, syncs or decides what is written.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Offset, length and memory of such a write are multiples of this, which blocks of all usual disks divide.
pub(super) const BLOCK: usize = 4096;
/// Bytes written at a time.
const PIECE: usize = 1 << 20;
/// Magic numbers of ext4 and XFS (Linux `magic.h`): file systems that keep the page cache and what is written past it
/// the same. Others may not, and a stale page would look like rot.
const COHERENT: [u64; 2] = [0xef53, 0x5846_5342];

/// The way past the page cache to one open file.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    /// The disk wants other blocks than these: everything goes through the page cache.
    refused: AtomicBool,
    /// Room for [`PIECE`] bytes that begin at a multiple of [`BLOCK`]; taken at the first write.
    memory: Mutex<Vec<u8>>,
}

impl Direct {
    /// The same file as `cached`, which lies at `path`; none where that does not work.
    pub(super) fn open(path: &Path, cached: &File) -> Option<Self> {
        let kind = rustix::fs::fstatfs(cached).ok()?.f_type;
        if !u64::try_from(kind).is_ok_and(|kind| COHERENT.contains(&kind)) {
            return None;
        }
        let flags = (OFlags::NOFOLLOW | OFlags::DIRECT).bits().cast_signed();
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
        let (here, there) = (file.metadata().ok()?, cached.metadata().ok()?);
        let same = (here.dev(), here.ino()) == (there.dev(), there.ino());
        same.then(|| Self { file, refused: AtomicBool::new(false), memory: Mutex::default() })
    }

    /// Whether it is of use.
    pub(super) fn works(&self) -> bool {
        !self.refused.load(Ordering::Relaxed)
    }

    /// Writes `blocks` whole blocks from the front of `buffers` at `offset`, a multiple of [`BLOCK`]; through `cached` if
    /// the disk refuses.
    pub(super) fn write(
        &self,
        cached: &File,
        buffers: &mut &mut [IoSlice<'_>],
        mut offset: u64,
        blocks: usize,
    ) -> io::Result<()> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.resize(PIECE.saturating_add(BLOCK), 0);
        let start = memory.as_ptr().align_offset(BLOCK);
        let aligned = memory.get_mut(start..start.saturating_add(PIECE)).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut left = blocks.saturating_mul(BLOCK);
        while left > 0 {
            let (piece, _) = aligned.split_at_mut(left.min(PIECE));
            copy_front(buffers, piece);
            self.write_piece(cached, piece, offset)?;
            offset = offset.saturating_add(piece.len() as u64);
            left = left.saturating_sub(piece.len());
        }
        Ok(())
    }

    fn write_piece(&self, cached: &File, mut piece: &[u8], mut offset: u64) -> io::Result<()> {
        while !piece.is_empty() && self.works() {
            match rustix::io::pwrite(&self.file, piece, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    piece = piece.get(written..).unwrap_or_default();
                    offset = offset.saturating_add(written as u64);
                }
                Err(Errno::INTR) => {}
                // Larger blocks, or a part of one left over.
                Err(Errno::INVAL) => self.refused.store(true, Ordering::Relaxed),
                Err(error) => return Err(error.into()),
            }
        }
        cached.write_all_at(piece, offset)
    }
}

/// Fills `out` from the front of `buffers`, which hold at least as much.
pub(super) fn copy_front(buffers: &mut &mut [IoSlice<'_>], mut out: &mut [u8]) {
    while let Some(first) = buffers.first().filter(|_| !out.is_empty()) {
        let count = first.len().min(out.len());
        let (now, later) = out.split_at_mut(count);
        now.copy_from_slice(first.get(..count).unwrap_or_default());
        out = later;
        IoSlice::advance_slices(buffers, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(length: usize) -> Vec<u8> {
        (0..length as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8).collect()
    }

    fn opened(path: &Path) -> File {
        OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
    }

    /// A new file and the way past the page cache to it. None, said aloud, where the file system has none; in CI it must.
    fn both(path: &Path) -> Option<(File, Direct)> {
        let cached = opened(path);
        let direct = Direct::open(path, &cached);
        if direct.is_none() {
            assert!(std::env::var_os("CI").is_none(), "the temporary directory must be on ext4 or XFS");
            eprintln!("SKIPPED: the temporary directory is neither on ext4 nor on XFS");
        }
        Some((cached, direct?))
    }

    #[test]
    fn blocks_come_from_the_front_whatever_the_buffers_are() {
        let dir = tempfile::tempdir().unwrap();
        let Some((cached, direct)) = both(&dir.path().join("file")) else { return };
        let bytes = pattern(3 * PIECE);
        let pieces: Vec<&[u8]> = bytes.chunks(1_000_003).collect();
        let mut buffers: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = buffers.as_mut_slice();
        let blocks = 2 * PIECE / BLOCK + 7;
        direct.write(&cached, &mut rest, BLOCK as u64, blocks).unwrap();
        assert!(direct.works());
        assert_eq!(rest.iter().map(|slice| slice.len()).sum::<usize>(), bytes.len() - blocks * BLOCK);
        let mut read = vec![0; blocks * BLOCK];
        cached.read_exact_at(&mut read, BLOCK as u64).unwrap();
        assert!(read == bytes[..read.len()]);
    }

    #[test]
    fn what_the_disk_refuses_goes_through_the_page_cache() {
        let dir = tempfile::tempdir().unwrap();
        let Some((cached, direct)) = both(&dir.path().join("file")) else { return };
        let bytes = pattern(2 * PIECE);
        // As a disk with larger blocks answers: this is no multiple of any.
        direct.write(&cached, &mut [IoSlice::new(&bytes)].as_mut_slice(), 100, 2 * PIECE / BLOCK).unwrap();
        assert!(!direct.works());
        let mut read = vec![0; bytes.len()];
        cached.read_exact_at(&mut read, 100).unwrap();
        assert!(read == bytes);
    }

    #[test]
    fn another_file_at_the_path_is_not_taken_for_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join("file"), dir.path().join("aside"));
        let cached = opened(&path);
        std::fs::rename(&path, &aside).unwrap();
        assert!(Direct::open(&path, &cached).is_none());
        opened(&path);
        assert!(Direct::open(&path, &cached).is_none());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&aside, &path).unwrap();
        assert!(Direct::open(&path, &cached).is_none());
    }
}
