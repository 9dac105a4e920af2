//! A disk in memory that can lose power: a crash keeps any subset of unsynced sectors, lengths and directory entries.
//!
//! It is for tests and simulations only and never touches a real file. All choices come from the seed of the crash.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::random::Random;
use super::vfs::{DirLock, OpenMode, Vfs, VfsFile};

/// Bytes that reach the disk together or not at all.
pub const SECTOR: usize = 512;

/// A simulated disk; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemVfs {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending: Vec<DirChange>,
    locked: BTreeSet<PathBuf>,
    next_inode: u64,
    /// Handles of an older generation fail: their process died in the crash.
    generation: u64,
    capacity: Option<u64>,
    writes_until_error: Option<u64>,
    /// Whether the failing write says that the disk is full instead of EIO.
    write_error_is_full: bool,
    syncs_until_error: Option<u64>,
    changes_until_cut: Option<u64>,
    syncs: u64,
}

#[derive(Debug, Default, Clone)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum DirChange {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl DirChange {
    fn is_in(&self, dir: &Path) -> bool {
        let (Self::Create(path, _) | Self::Rename(path, _) | Self::Remove(path)) = self;
        path.parent() == Some(dir)
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Create(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

impl Content {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset.saturating_add(bytes.len());
        if self.live.len() < end {
            self.live.resize(end, 0);
        }
        if let Some(target) = self.live.get_mut(offset..end) {
            target.copy_from_slice(bytes);
        }
        self.mark(offset, end);
    }

    fn resize(&mut self, length: usize) {
        let old = self.live.len();
        self.live.resize(length, 0);
        self.mark(old.min(length), old.max(length));
    }

    fn mark(&mut self, start: usize, end: usize) {
        self.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
    }

    fn sync(&mut self) {
        self.durable.resize(self.live.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.keep_sector(sector);
        }
    }

    fn keep_sector(&mut self, sector: usize) {
        let start = sector.saturating_mul(SECTOR);
        let end = start.saturating_add(SECTOR).min(self.live.len()).min(self.durable.len());
        if let (Some(to), Some(from)) = (self.durable.get_mut(start..end), self.live.get(start..end)) {
            to.copy_from_slice(from);
        }
    }

    fn crash(&mut self, random: &mut Random) {
        let (old, new) = (self.durable.len(), self.live.len());
        let (low, high) = (old.min(new), old.max(new));
        let length = match random.below(4) {
            0 => old,
            1 | 2 => new,
            _ => low.saturating_add(usize::try_from(random.below((high - low) as u64)).unwrap_or(0)),
        };
        self.durable.resize(length, 0);
        let odds = [0, 32, 128, 224, 256][usize::try_from(random.below(5)).unwrap_or(0)];
        for sector in std::mem::take(&mut self.dirty) {
            if random.below(256) < odds {
                self.keep_sector(sector);
            }
        }
        self.live = self.durable.clone();
    }
}

impl State {
    fn used(&self) -> u64 {
        self.files.values().map(|file| file.live.len() as u64).sum()
    }

    fn change(&mut self) -> io::Result<()> {
        match &mut self.changes_until_cut {
            Some(0) => Err(io::Error::other("the power is off")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn grow_to(&self, inode: u64, length: u64) -> io::Result<()> {
        let now = self.files.get(&inode).map_or(0, |file| file.live.len() as u64);
        let more = length.saturating_sub(now);
        match self.capacity {
            Some(capacity) if more > 0 && self.used().saturating_add(more) > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

fn count_down(counter: &mut Option<u64>) -> io::Result<()> {
    match counter {
        Some(0) => {
            *counter = None;
            Err(io::Error::from_raw_os_error(5))
        }
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

impl MemVfs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loses power: unsynced state survives as the seed decides, all open handles and locks are dead.
    pub fn crash(&self, seed: u64) {
        let mut random = Random::new(seed);
        let mut state = self.state();
        let mut names = state.durable_names.clone();
        for change in std::mem::take(&mut state.pending) {
            if random.below(2) == 0 {
                change.apply(&mut names);
            }
        }
        for file in state.files.values_mut() {
            file.crash(&mut random);
        }
        let kept: BTreeSet<u64> = names.values().copied().collect();
        state.files.retain(|inode, _| kept.contains(inode));
        state.names.clone_from(&names);
        state.durable_names = names;
        state.locked.clear();
        state.generation += 1;
        state.writes_until_error = None;
        state.syncs_until_error = None;
        state.changes_until_cut = None;
    }

    /// The write after `writes` more ones fails with EIO, once.
    pub fn fail_write_after(&self, writes: u64) {
        let mut state = self.state();
        (state.writes_until_error, state.write_error_is_full) = (Some(writes), false);
    }

    /// The write after `writes` more ones fails with ENOSPC in its middle, once.
    pub fn fill_at_write_after(&self, writes: u64) {
        let mut state = self.state();
        (state.writes_until_error, state.write_error_is_full) = (Some(writes), true);
    }

    /// The fsync or fdatasync after `syncs` more ones fails with EIO, once.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.state().syncs_until_error = Some(syncs);
    }

    /// After `changes` more writes, syncs and directory changes everything fails until [`MemVfs::crash`].
    pub fn cut_power_after(&self, changes: u64) {
        self.state().changes_until_cut = Some(changes);
    }

    /// The disk holds this many bytes in all; `None`: no bound.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.state().capacity = capacity;
    }

    /// Syncs of files so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Bytes of a file as now seen.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        Some(state.files.get(state.names.get(path)?)?.live.clone())
    }

    /// Overwrites a file behind the store's back, durably: rot.
    pub fn set_contents(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        if let Some(inode) = state.names.get(path).copied()
            && let Some(file) = state.files.get_mut(&inode)
        {
            *file = Content { live: bytes.to_vec(), durable: bytes.to_vec(), dirty: BTreeSet::new() };
        }
    }

    /// A copy of the disk as it is now, sharing nothing; nobody holds its locks.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.state();
        Self {
            state: Arc::new(Mutex::new(State {
                files: state.files.clone(),
                names: state.names.clone(),
                durable_names: state.durable_names.clone(),
                pending: state.pending.clone(),
                next_inode: state.next_inode,
                ..State::default()
            })),
        }
    }
}

#[derive(Debug)]
struct MemLock {
    vfs: MemVfs,
    dir: PathBuf,
    generation: u64,
}

impl DirLock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut state = self.vfs.state();
        if state.generation == self.generation {
            state.locked.remove(&self.dir);
        }
    }
}

impl Vfs for MemVfs {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        let mut state = self.state();
        if !state.locked.insert(dir.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemLock { vfs: self.clone(), dir: dir.to_path_buf(), generation: state.generation }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let mut state = self.state();
        let found = state.names.get(path).copied();
        let inode = match (mode, found) {
            (OpenMode::Read | OpenMode::Write, Some(inode)) => inode,
            (OpenMode::Read | OpenMode::Write, None) => return Err(io::ErrorKind::NotFound.into()),
            (OpenMode::Create, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (OpenMode::Create, None) => {
                state.change()?;
                let inode = state.next_inode;
                state.next_inode += 1;
                state.files.insert(inode, Content::default());
                state.names.insert(path.to_path_buf(), inode);
                state.pending.push(DirChange::Create(path.to_path_buf(), inode));
                inode
            }
        };
        Ok(Arc::new(MemFile {
            vfs: self.clone(),
            inode,
            generation: state.generation,
            writable: mode != OpenMode::Read,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let change = DirChange::Rename(from.to_path_buf(), to.to_path_buf());
        change.apply(&mut state.names);
        state.pending.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let change = DirChange::Remove(path.to_path_buf());
        change.apply(&mut state.names);
        state.pending.push(change);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        count_down(&mut state.syncs_until_error)?;
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.pending).into_iter().partition(|change| change.is_in(dir));
        for change in now {
            change.apply(&mut state.durable_names);
        }
        state.pending = later;
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.map_or(1 << 50, |capacity| capacity.saturating_sub(state.used())))
    }
}

#[derive(Debug)]
struct MemFile {
    vfs: MemVfs,
    inode: u64,
    generation: u64,
    writable: bool,
}

impl MemFile {
    fn with<T>(&self, work: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.vfs.state();
        if state.generation != self.generation || !state.files.contains_key(&self.inode) {
            return Err(io::Error::from_raw_os_error(5));
        }
        work(&mut state, self.inode)
    }

    fn change<T>(&self, work: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.with(|state, inode| {
            state.change()?;
            work(state, inode)
        })
    }
}

fn at(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl VfsFile for MemFile {
    fn length(&self) -> io::Result<u64> {
        self.with(|state, inode| Ok(state.files.get(&inode).map_or(0, |file| file.live.len() as u64)))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = at(offset)?;
        self.with(|state, inode| {
            let end = start.saturating_add(buffer.len());
            let bytes = state.files.get(&inode).and_then(|file| file.live.get(start..end));
            buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut position = at(offset)?;
        self.change(|state, inode| {
            let mut failed = count_down(&mut state.writes_until_error);
            if failed.is_err() && state.write_error_is_full {
                failed = Err(io::ErrorKind::StorageFull.into());
            }
            // A failing write may still have reached the cache in part: half of the buffers do.
            let count = if failed.is_ok() { buffers.len() } else { buffers.len() / 2 };
            for buffer in buffers.iter().take(count) {
                state.grow_to(inode, position.saturating_add(buffer.len()) as u64)?;
                if let Some(file) = state.files.get_mut(&inode) {
                    file.write(buffer, position);
                }
                position = position.saturating_add(buffer.len());
            }
            failed
        })
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.change(|state, inode| {
            state.grow_to(inode, length)?;
            let length = at(length)?;
            if let Some(file) = state.files.get_mut(&inode).filter(|file| file.live.len() < length) {
                file.resize(length);
            }
            Ok(())
        })
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.change(|state, inode| {
            state.grow_to(inode, length)?;
            if let Some(file) = state.files.get_mut(&inode) {
                file.resize(at(length)?);
            }
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, inode| {
            state.change()?;
            state.syncs += 1;
            let failed = count_down(&mut state.syncs_until_error);
            if let Some(file) = state.files.get_mut(&inode) {
                if failed.is_err() {
                    // As Linux does: the pages are marked clean though they never reached the disk.
                    file.dirty.clear();
                    file.durable.resize(file.live.len(), 0);
                } else {
                    file.sync();
                }
            }
            failed
        })
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunks::vfs::write_at;

    #[test]
    fn synced_bytes_survive_every_crash_and_unsynced_ones_sometimes() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..200 {
            let vfs = MemVfs::default();
            let path = Path::new("/d/file");
            let file = vfs.open(path, OpenMode::Create).unwrap();
            write_at(file.as_ref(), &[1; 2048], 0).unwrap();
            file.sync_all().unwrap();
            vfs.sync_dir(Path::new("/d")).unwrap();
            write_at(file.as_ref(), &[2; 2048], 2048).unwrap();

            vfs.crash(seed);

            let bytes = vfs.contents(path).unwrap();
            assert_eq!(bytes.get(..2048), Some(&[1; 2048][..]), "seed {seed}");
            if bytes.len() == 4096 && bytes.ends_with(&[2; 2048]) {
                kept += 1;
            } else {
                lost += 1;
            }
            assert!(file.length().is_err(), "an old handle is dead");
        }
        assert!(kept > 10 && lost > 10, "{kept} {lost}");
    }

    #[test]
    fn an_unsynced_rename_is_kept_or_lost_as_a_whole() {
        let (mut old, mut new) = (0, 0);
        for seed in 0..50 {
            let vfs = MemVfs::default();
            let (a, b) = (Path::new("/d/a"), Path::new("/d/b"));
            vfs.open(a, OpenMode::Create).unwrap().sync_all().unwrap();
            vfs.sync_dir(Path::new("/d")).unwrap();
            vfs.rename(a, b).unwrap();
            vfs.crash(seed);
            match vfs.list(Path::new("/d")).unwrap().as_slice() {
                [name] if name == "a" => old += 1,
                [name] if name == "b" => new += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(old > 0 && new > 0);
    }

    #[test]
    fn capacity_and_injected_errors() {
        let vfs = MemVfs::default();
        vfs.set_capacity(Some(1000));
        let file = vfs.open(Path::new("/f"), OpenMode::Create).unwrap();
        assert_eq!(file.allocate(1001).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.allocate(1000).unwrap();
        assert_eq!(vfs.free_bytes(Path::new("/")).unwrap(), 0);
        vfs.fail_write_after(1);
        write_at(file.as_ref(), b"a", 0).unwrap();
        assert_eq!(write_at(file.as_ref(), b"a", 0).unwrap_err().raw_os_error(), Some(5));
        write_at(file.as_ref(), b"a", 0).unwrap();
        vfs.fail_sync_after(0);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
    }
}
