//! The faults a test has asked for: which operation fails, with what, and how many bytes a failing write leaves.
//!
//! It only decides and never changes a file; the power cut is no fault and lives in `state.rs`.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};

use super::operation::{Group, OperationKind};

/// An error an operation is made to fail with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// The device fails: EIO.
    Io,
    /// The disk is full: ENOSPC.
    NoSpace,
}

/// A failure asked for with `MemVfs::fail_operation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What the operation fails with.
    pub error: FaultError,
    /// Whether all later operations of its kind group fail too, until `MemVfs::heal`. The groups are: write, allocate
    /// and set length; the three syncs; create directory, create, rename and remove; all the rest, which only read.
    pub lasting: bool,
}

impl From<FaultError> for io::Error {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::Io => Self::from_raw_os_error(5),
            FaultError::NoSpace => io::ErrorKind::StorageFull.into(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    /// By the number of the operation.
    planned: BTreeMap<u64, Fault>,
    lasting: BTreeMap<Group, FaultError>,
    next_write: Option<(u64, FaultError)>,
    next_sync: Option<u64>,
    bytes_until_full: Option<u64>,
    full: bool,
}

impl Faults {
    pub(super) fn plan(&mut self, number: u64, fault: Fault) {
        self.planned.insert(number, fault);
    }

    pub(super) fn plan_write(&mut self, writes: u64, error: FaultError) {
        self.next_write = Some((writes, error));
    }

    pub(super) fn plan_sync(&mut self, syncs: u64) {
        self.next_sync = Some(syncs);
    }

    pub(super) fn plan_full(&mut self, bytes: u64) {
        (self.bytes_until_full, self.full) = (Some(bytes), false);
    }

    /// A crash ends the faults that count one kind of operation.
    pub(super) fn crash(&mut self) {
        (self.next_write, self.next_sync) = (None, None);
    }

    pub(super) fn end_full(&mut self) {
        self.full = false;
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// What the operation with this number is made to fail with.
    pub(super) fn meet(&mut self, number: u64, kind: OperationKind) -> Option<FaultError> {
        let planned = self.planned.remove(&number);
        if let Some(fault) = planned.filter(|fault| fault.lasting) {
            self.lasting.insert(kind.group(), fault.error);
        }
        planned.map(|fault| fault.error).or_else(|| self.lasting.get(&kind.group()).copied())
    }

    /// What the next sync of a file or directory fails with by its own count.
    pub(super) fn meet_sync(&mut self) -> Option<FaultError> {
        let left = self.next_sync?;
        self.next_sync = left.checked_sub(1);
        (left == 0).then_some(FaultError::Io)
    }

    fn meet_write(&mut self) -> Option<FaultError> {
        let (left, error) = self.next_write?;
        self.next_write = left.checked_sub(1).map(|left| (left, error));
        (left == 0).then_some(error)
    }

    /// What becomes of a write that meets `fault`.
    pub(super) fn limit_write(&mut self, buffers: &[IoSlice<'_>], fault: Option<FaultError>) -> WriteLimit {
        let bytes_of = |buffers: &[IoSlice<'_>]| buffers.iter().map(|buffer| buffer.len() as u64).sum::<u64>();
        let all = bytes_of(buffers);
        let counted = self.meet_write();
        let (bytes, error) = match (fault, counted) {
            (Some(error), _) => (all / 2, Some(error)),
            // Half of the buffers.
            (None, Some(error)) => (bytes_of(buffers.get(..buffers.len() / 2).unwrap_or_default()), Some(error)),
            (None, None) => (all, None),
        };
        match self.bytes_until_full {
            Some(left) if bytes > left => WriteLimit { bytes: left, error: Some(FaultError::NoSpace), fills: true },
            _ => WriteLimit { bytes, error, fills: false },
        }
    }

    /// Counts bytes that reached the cache.
    pub(super) fn count_bytes(&mut self, bytes: u64) {
        if let Some(left) = &mut self.bytes_until_full {
            *left = left.saturating_sub(bytes);
        }
    }

    /// From now on nothing can grow.
    pub(super) fn fill(&mut self) {
        (self.bytes_until_full, self.full) = (None, true);
    }
}

/// What the faults leave of one write.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteLimit {
    /// How many bytes reach the cache.
    pub(super) bytes: u64,
    /// What the write fails with after them.
    pub(super) error: Option<FaultError>,
    /// Whether the disk is full after them.
    pub(super) fills: bool,
}
