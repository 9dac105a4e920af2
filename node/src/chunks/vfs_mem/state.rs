//! All that the clones of one simulated disk share: the tree of files, the faults, the count of operations.
//!
//! It is always used under the lock of the disk and never hands out a reference beyond it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::MemVfs;
use super::content::Content;
use super::fault::{FaultError, Faults};
use super::names::Names;
use super::operation::{CrashPoint, Operation, OperationKind};
use crate::chunks::random::Random;
use crate::chunks::vfs::DirId;

/// What free space is reported without a capacity.
const UNBOUNDED: u64 = 1 << 50;

/// What a fork takes along: the files and names, with all that is unsynced.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    files: Arc<BTreeMap<u64, Arc<Content>>>,
    pub(super) names: Names,
    next_inode: u64,
}

impl Tree {
    pub(super) fn file(&self, inode: u64) -> Option<&Content> {
        self.files.get(&inode).map(Arc::as_ref)
    }

    pub(super) fn file_mut(&mut self, inode: u64) -> Option<&mut Content> {
        Arc::make_mut(&mut self.files).get_mut(&inode).map(Arc::make_mut)
    }

    pub(super) fn named(&self, path: &Path) -> Option<&Content> {
        self.file(self.names.get(path)?)
    }

    pub(super) fn named_mut(&mut self, path: &Path) -> Option<&mut Content> {
        self.file_mut(self.names.get(path)?)
    }

    pub(super) fn create(&mut self, path: &Path) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        Arc::make_mut(&mut self.files).insert(inode, Arc::default());
        self.names.create(path, inode);
        inode
    }

    /// Bytes of all files that have a name; a file without one costs nothing once its last handle is closed.
    fn used(&self) -> u64 {
        let files = self.names.inodes();
        files.iter().filter_map(|inode| self.file(*inode)).fold(0, |sum, file| sum.saturating_add(file.length()))
    }

    fn crash(&mut self, random: &mut Random) {
        self.names.crash(random);
        let kept = self.names.inodes();
        let files = Arc::make_mut(&mut self.files);
        for file in files.values_mut() {
            Arc::make_mut(file).crash(random);
        }
        files.retain(|inode, _| kept.contains(inode));
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) tree: Tree,
    pub(super) locked: BTreeSet<PathBuf>,
    /// Handles of an older generation fail: their process died in the crash.
    pub(super) generation: u64,
    pub(super) capacity: Option<u64>,
    pub(super) faults: Faults,
    pub(super) changes_until_cut: Option<u64>,
    pub(super) syncs: u64,
    pub(super) operations: u64,
    /// Directories that are not the ones they were.
    pub(super) identities: BTreeMap<PathBuf, DirId>,
    pub(super) trace: Option<Vec<Operation>>,
    pub(super) points: Option<Vec<CrashPoint>>,
}

impl State {
    pub(super) fn of(tree: Tree) -> Self {
        Self { tree, ..Self::default() }
    }

    /// Gives an operation its number, records it and says what it is made to fail with.
    pub(super) fn begin(&mut self, kind: OperationKind, path: &Path) -> Option<FaultError> {
        let number = self.operations;
        self.operations += 1;
        let operation = || Operation { kind, path: path.to_path_buf() };
        if let Some(trace) = &mut self.trace {
            trace.push(operation());
        }
        if let Some(points) = self.points.as_mut().filter(|_| kind.changes()) {
            points.push(CrashPoint { disk: MemVfs::of(self.tree.clone()), operation: operation() });
        }
        self.faults.meet(number, kind)
    }

    /// As [`State::begin`], for an operation that a fault stops before it does anything.
    pub(super) fn begin_or_fail(&mut self, kind: OperationKind, path: &Path) -> io::Result<()> {
        self.begin(kind, path).map_or(Ok(()), |error| Err(error.into()))
    }

    /// Fails if the power is off, and counts a change if not.
    pub(super) fn spend_change(&mut self) -> io::Result<()> {
        match &mut self.changes_until_cut {
            Some(0) => Err(io::Error::other("the power is off")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn free(&self) -> u64 {
        match self.capacity {
            _ if self.faults.is_full() => 0,
            Some(capacity) => capacity.saturating_sub(self.tree.used()),
            None => UNBOUNDED,
        }
    }

    fn grow_to(&self, inode: u64, length: u64) -> io::Result<()> {
        let now = self.tree.file(inode).map_or(0, Content::length);
        let more = length.saturating_sub(now);
        let over = |capacity| self.tree.used().saturating_add(more) > capacity;
        if more > 0 && (self.faults.is_full() || self.capacity.is_some_and(over)) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        inode: u64,
        buffers: &[IoSlice<'_>],
        offset: u64,
        fault: Option<FaultError>,
    ) -> io::Result<()> {
        let limit = self.faults.limit_write(buffers, fault);
        let (mut position, mut left) = (offset, limit.bytes);
        for buffer in buffers {
            let length = usize::try_from(left).map_or(buffer.len(), |left| buffer.len().min(left));
            let bytes = buffer.get(..length).unwrap_or_default();
            if bytes.is_empty() {
                continue;
            }
            let end = position.checked_add(length as u64).ok_or(io::ErrorKind::InvalidInput)?;
            self.grow_to(inode, end)?;
            if let Some(file) = self.tree.file_mut(inode) {
                file.write(bytes, position);
            }
            self.faults.count_bytes(length as u64);
            position = end;
            left = left.saturating_sub(length as u64);
        }
        if limit.fills {
            self.faults.fill();
        }
        limit.error.map_or(Ok(()), |error| Err(error.into()))
    }

    pub(super) fn resize(&mut self, inode: u64, length: u64) -> io::Result<()> {
        self.grow_to(inode, length)?;
        if let Some(file) = self.tree.file_mut(inode) {
            file.resize(length);
        }
        Ok(())
    }

    /// Syncs a file, or drops its unsynced pieces if the sync is made to fail.
    pub(super) fn sync(&mut self, inode: u64, fault: Option<FaultError>) -> io::Result<()> {
        self.syncs += 1;
        let counted = self.faults.meet_sync();
        let fault = fault.or(counted);
        if let Some(file) = self.tree.file_mut(inode) {
            if fault.is_some() {
                file.fail_sync();
            } else {
                file.sync();
            }
        }
        fault.map_or(Ok(()), |error| Err(error.into()))
    }

    pub(super) fn crash(&mut self, seed: u64) {
        self.tree.crash(&mut Random::new(seed));
        self.locked.clear();
        self.generation += 1;
        self.faults.crash();
        self.changes_until_cut = None;
    }
}
