//! A disk in memory that can lose power: a crash keeps any subset of unsynced writes, lengths and directory entries.
//!
//! It is for tests and simulations only and never touches a real file. All choices come from the seed of the crash.

mod content;
mod fault;
mod file;
mod image;
mod names;
mod operation;
mod piece;
mod shared_map;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::vfs::{DirId, DirLock, OpenMode, Vfs, VfsFile};
use content::Content;
use file::{MemFile, MemLock};
use state::{State, Tree};

pub use fault::{Fault, FaultError};
pub use operation::{CrashPoint, Operation, OperationKind};

/// Bytes of a file that a crash decides on apart from all others.
pub const SECTOR: usize = 512;

/// A simulated disk; clones share it.
#[derive(Clone, Default)]
pub struct MemVfs {
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for MemVfs {
    /// Leaves out the contents: every handle prints its disk, and a disk may hold many recorded forks.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemVfs").finish_non_exhaustive()
    }
}

impl MemVfs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(tree: Tree) -> Self {
        Self { state: Arc::new(Mutex::new(State::of(tree))) }
    }

    /// Loses power: unsynced state survives as the seed decides, all open handles and locks are dead.
    ///
    /// Ends [`MemVfs::fail_write_after`], [`MemVfs::fill_at_write_after`], [`MemVfs::fail_sync_after`] and
    /// [`MemVfs::cut_power_after`]; all other faults stay until [`MemVfs::heal`].
    pub fn crash(&self, seed: u64) {
        self.state().crash(seed);
    }

    /// The write after `writes` more ones fails with EIO, once.
    pub fn fail_write_after(&self, writes: u64) {
        self.state().faults.plan_write(writes, FaultError::Io);
    }

    /// The write after `writes` more ones fails with ENOSPC in its middle, once.
    pub fn fill_at_write_after(&self, writes: u64) {
        self.state().faults.plan_write(writes, FaultError::NoSpace);
    }

    /// The fsync or fdatasync after `syncs` more ones fails with EIO, once.
    ///
    /// A sync of a file that fails, by this or by [`MemVfs::fail_operation`], leaves its unsynced bytes readable but no
    /// longer pending: they never reach the disk unless they are written again.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.state().faults.plan_sync(syncs);
    }

    /// After `changes` more writes, syncs and directory changes every one of them fails until [`MemVfs::crash`].
    pub fn cut_power_after(&self, changes: u64) {
        self.state().changes_until_cut = Some(changes);
    }

    /// Ends [`MemVfs::cut_power_after`] without a crash: it was only the process that ended.
    pub fn restore_power(&self) {
        self.state().changes_until_cut = None;
    }

    /// The disk holds this many bytes in all; `None`: no bound. A disk filled by [`MemVfs::fill_at_byte`] has room
    /// again.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        let mut state = self.state();
        state.capacity = capacity;
        state.faults.end_full();
    }

    /// Makes the operation after `after` more ones fail (0: the next), once or from then on. Replaces an earlier fault
    /// of the same operation. A write that fails this way leaves the first half of its bytes.
    pub fn fail_operation(&self, after: u64, fault: Fault) {
        let mut state = self.state();
        let number = state.operations.saturating_add(after);
        state.faults.plan(number, fault);
    }

    /// After `bytes` more bytes written in all, the write that passes them stops exactly there with ENOSPC, and each
    /// later one that needs more space fails until [`MemVfs::heal`] or [`MemVfs::set_capacity`].
    pub fn fill_at_byte(&self, bytes: u64) {
        self.state().faults.plan_full(bytes);
    }

    /// Ends all faults, planned and lasting. A cut of the power and the capacity stay.
    pub fn heal(&self) {
        self.state().faults = fault::Faults::default();
    }

    /// Syncs of files so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Calls of the methods of `Vfs` and `VfsFile` so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Records every operation from now on, anew.
    pub fn record_trace(&self) {
        self.state().trace = Some(Vec::new());
    }

    /// The operations since [`MemVfs::record_trace`]; none without it.
    #[must_use]
    pub fn trace(&self) -> Vec<Operation> {
        self.state().trace.clone().unwrap_or_default()
    }

    /// Keeps a fork of the disk before each changing operation from now on, anew.
    pub fn record_points(&self) {
        self.state().points = Some(Vec::new());
    }

    /// How many crash points are kept.
    #[must_use]
    pub fn points(&self) -> usize {
        self.state().points.as_ref().map_or(0, Vec::len)
    }

    /// Takes the crash points kept so far, in order. Recording goes on, and [`MemVfs::points`] counts from 0 again.
    #[must_use]
    pub fn take_points(&self) -> Vec<CrashPoint> {
        self.state().points.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// All names now, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().tree.names.paths().cloned().collect()
    }

    /// Bytes of a file as now seen.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        Some(self.state().tree.named(path)?.bytes())
    }

    /// Overwrites a file behind the store's back, durably: rot.
    pub fn set_contents(&self, path: &Path, bytes: &[u8]) {
        if let Some(file) = self.state().tree.named_mut(path) {
            *file = Content::durable(bytes);
        }
    }

    /// Flips the bits of `mask` in one byte of a file behind the store's back, durable and live; what is unsynced
    /// stays so. Nothing happens beyond the end of the file.
    pub fn rot(&self, path: &Path, offset: u64, mask: u8) {
        if let Some(file) = self.state().tree.named_mut(path) {
            file.flip(offset, mask);
        }
    }

    /// From now on another directory is found at this path.
    pub fn set_identity(&self, dir: &Path, identity: DirId) {
        self.state().identities.insert(dir.to_path_buf(), identity);
    }

    /// A copy of the disk as it is now, with what is unsynced; nobody holds its locks, it has no faults, no bound and
    /// no records. A change of one is never seen by the other.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::of(self.state().tree.clone())
    }
}

impl Vfs for MemVfs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.state().begin_or_fail(OperationKind::CreateDir, dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        let mut state = self.state();
        state.begin_or_fail(OperationKind::Lock, dir)?;
        if !state.locked.insert(dir.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemLock { vfs: self.clone(), dir: dir.to_path_buf(), generation: state.generation }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.begin_or_fail(OperationKind::List, dir)?;
        let inside = state.tree.names.paths().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let mut state = self.state();
        let kind = match mode {
            OpenMode::Read => OperationKind::OpenRead,
            OpenMode::Write => OperationKind::OpenWrite,
            OpenMode::Create => OperationKind::Create,
        };
        state.begin_or_fail(kind, path)?;
        let inode = match (mode, state.tree.names.get(path)) {
            (OpenMode::Read | OpenMode::Write, Some(inode)) => inode,
            (OpenMode::Read | OpenMode::Write, None) => return Err(io::ErrorKind::NotFound.into()),
            (OpenMode::Create, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (OpenMode::Create, None) => {
                state.spend_change()?;
                state.tree.create(path)
            }
        };
        Ok(Arc::new(MemFile {
            vfs: self.clone(),
            path: path.to_path_buf(),
            inode,
            generation: state.generation,
            writable: mode != OpenMode::Read,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin_or_fail(OperationKind::Rename, from)?;
        state.tree.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.spend_change()?;
        state.tree.names.rename(from, to);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin_or_fail(OperationKind::Remove, path)?;
        state.tree.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        state.spend_change()?;
        state.tree.names.remove(path);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.begin(OperationKind::SyncDir, dir);
        state.spend_change()?;
        let counted = state.faults.meet_sync();
        if let Some(error) = fault.or(counted) {
            return Err(error.into());
        }
        state.tree.names.sync_dir(dir);
        Ok(())
    }

    fn identity(&self, dir: &Path) -> io::Result<DirId> {
        let same = DirId { device: 1, inode: 1 };
        Ok(self.state().identities.get(dir).copied().unwrap_or(same))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let mut state = self.state();
        state.begin_or_fail(OperationKind::Free, dir)?;
        Ok(state.free())
    }
}
