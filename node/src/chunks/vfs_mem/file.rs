//! Handles on the simulated disk: an open file and a held lock.
//!
//! A handle never outlives a crash: its process died, so all its operations fail from then on.

use std::io::{self, IoSlice};
use std::path::PathBuf;

use super::MemVfs;
use super::content::Content;
use super::fault::FaultError;
use super::operation::{Group, OperationKind};
use super::state::State;
use crate::chunks::vfs::{DirLock, VfsFile};

#[derive(Debug)]
pub(super) struct MemLock {
    pub(super) vfs: MemVfs,
    pub(super) dir: PathBuf,
    pub(super) generation: u64,
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

#[derive(Debug)]
pub(super) struct MemFile {
    pub(super) vfs: MemVfs,
    pub(super) path: PathBuf,
    pub(super) inode: u64,
    pub(super) generation: u64,
    pub(super) writable: bool,
}

impl MemFile {
    /// Runs one operation; it gets the fault it must fail with, because some faults leave a change behind.
    fn run<T>(
        &self,
        kind: OperationKind,
        work: impl FnOnce(&mut State, Option<FaultError>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.vfs.state();
        let fault = state.begin(kind, &self.path);
        if kind.group() == Group::Write && !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if state.generation != self.generation || state.tree.file(self.inode).is_none() {
            return Err(FaultError::Io.into());
        }
        if kind.changes() {
            state.spend_change()?;
        }
        work(&mut state, fault)
    }

    /// As [`MemFile::run`], for an operation that a fault stops before it does anything.
    fn run_whole<T>(&self, kind: OperationKind, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.run(kind, |state, fault| match fault {
            Some(error) => Err(error.into()),
            None => work(state),
        })
    }
}

impl VfsFile for MemFile {
    fn length(&self) -> io::Result<u64> {
        self.run_whole(OperationKind::Length, |state| Ok(state.tree.file(self.inode).map_or(0, Content::length)))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.run_whole(OperationKind::Read, |state| {
            let end = offset.checked_add(buffer.len() as u64);
            let file = state.tree.file(self.inode).filter(|file| end.is_some_and(|end| end <= file.length()));
            file.ok_or(io::ErrorKind::UnexpectedEof)?.read(buffer, offset);
            Ok(())
        })
    }

    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.run(OperationKind::Write, |state, fault| state.write(self.inode, buffers, offset, fault))
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.run_whole(OperationKind::Allocate, |state| {
            let now = state.tree.file(self.inode).map_or(0, Content::length);
            state.resize(self.inode, length.max(now))
        })
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.run_whole(OperationKind::SetLength, |state| state.resize(self.inode, length))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.run(OperationKind::SyncData, |state, fault| state.sync(self.inode, fault))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.run(OperationKind::SyncAll, |state, fault| state.sync(self.inode, fault))
    }

    fn drop_cache(&self, _: u64, _: u64) {}
}
