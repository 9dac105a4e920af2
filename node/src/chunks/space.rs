//! Quota and disk space: promised atomically before bytes are accepted. Nothing here is ever persisted, and a promise
//! never asks the disk: what the disk has left is looked up by whoever changed it, and every few seconds.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use shoal_protocol::limits::SHARD_MAX;

use super::bao::outboard_length;
use super::error::ReserveError;
use super::record::record_size;
use super::vfs::{Vfs, VfsFile, is_no_space};

/// Space of a store, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of the log that hold records, dead ones too.
    pub stored: u64,
    /// Bytes promised to reservations.
    pub reserved: u64,
    /// Bytes the store may take.
    pub quota: u64,
    /// Bytes still to be had: what quota and disk both allow. 0 if the disk does not answer.
    pub free: u64,
}

/// The file that holds disk space back, so that deleting and compacting work on a full disk.
#[derive(Debug)]
pub(crate) struct ReserveFile {
    pub file: Arc<dyn VfsFile>,
    /// Bytes it should hold.
    pub bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Space {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    quota: u64,
    reserve: ReserveFile,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stored: u64,
    reserved: u64,
    /// Bytes the active segment holds on disk beyond its last record.
    preallocated: u64,
    /// Bytes the reserve file holds.
    held: u64,
    /// What the disk said when it was last asked.
    free: Result<u64, io::ErrorKind>,
    /// Counts changes of `preallocated` and `held`: an answer of the disk from before one is not taken.
    changes: u64,
    read_only: bool,
}

/// Space promised to one shard or record; given back when dropped.
#[derive(Debug)]
pub struct SpaceReservation {
    space: Arc<Space>,
    payload: u32,
    charged: u64,
}

impl SpaceReservation {
    /// Payload bytes this is good for.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.payload
    }

    /// Turns the promise into `stored` bytes on disk.
    pub(crate) fn consume(mut self, stored: u64) {
        let mut state = self.space.state();
        state.reserved = state.reserved.saturating_sub(self.charged);
        state.stored = state.stored.saturating_add(stored);
        state.preallocated = state.preallocated.saturating_sub(stored);
        drop(state);
        self.charged = 0;
    }
}

impl Drop for SpaceReservation {
    fn drop(&mut self) {
        if self.charged > 0 {
            let mut state = self.space.state();
            state.reserved = state.reserved.saturating_sub(self.charged);
        }
    }
}

impl Space {
    /// Space of a store whose log has `stored` bytes already. Asks the disk.
    pub(crate) fn new(vfs: Arc<dyn Vfs>, dir: PathBuf, quota: u64, stored: u64, reserve: ReserveFile) -> Self {
        let held = reserve.file.length().unwrap_or(0);
        let free = vfs.free_bytes(&dir).map_err(|error| error.kind());
        let state = State { stored, reserved: 0, preallocated: 0, held, free, changes: 0, read_only: false };
        Self { vfs, dir, quota, reserve, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Promises room for a record with `bytes` of payload.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<SpaceReservation, ReserveError> {
        let payload = u32::try_from(bytes).ok().filter(|bytes| *bytes <= SHARD_MAX);
        let payload = payload.ok_or(ReserveError::Length(bytes))?;
        let wanted = record_size(payload, outboard_length(payload));
        let mut state = self.state();
        if state.read_only {
            return Err(ReserveError::ReadOnly);
        }
        let left = self.quota_left(&state);
        if left < wanted {
            return Err(ReserveError::Quota { wanted, left });
        }
        let left = self.disk_left(&state).map_err(ReserveError::Io)?;
        if left < wanted {
            return Err(ReserveError::Disk { wanted, left });
        }
        state.reserved = state.reserved.saturating_add(wanted);
        Ok(SpaceReservation { space: Arc::clone(self), payload, charged: wanted })
    }

    /// Room for a record of `size` bytes on disk that frees more than it takes: refused by the disk alone, never by the
    /// quota.
    pub(crate) fn force(self: &Arc<Self>, size: u64) -> SpaceReservation {
        let mut state = self.state();
        state.reserved = state.reserved.saturating_add(size);
        drop(state);
        SpaceReservation { space: Arc::clone(self), payload: 0, charged: size }
    }

    fn quota_left(&self, state: &State) -> u64 {
        self.quota.saturating_sub(state.stored).saturating_sub(state.reserved)
    }

    fn disk_left(&self, state: &State) -> Result<u64, io::ErrorKind> {
        let missing = self.reserve.bytes.saturating_sub(state.held);
        let free = state.free?.saturating_add(state.preallocated);
        Ok(free.saturating_sub(missing).saturating_sub(state.reserved))
    }

    pub(crate) fn usage(&self) -> Usage {
        let state = self.state();
        let free = self.quota_left(&state).min(self.disk_left(&state).unwrap_or(0));
        Usage { stored: state.stored, reserved: state.reserved, quota: self.quota, free }
    }

    /// Bytes a compaction may copy before it frees anything: what the disk has left with the reserve.
    pub(crate) fn room_for_copies(&self) -> u64 {
        let state = self.state();
        state.free.unwrap_or(0).saturating_add(state.preallocated).saturating_add(state.held)
    }

    /// The active segment now holds this many bytes beyond its last record. Asks the disk what is left.
    pub(crate) fn set_preallocated(&self, bytes: u64) {
        self.change(|state| state.preallocated = bytes);
    }

    /// A segment of so many bytes is gone. Asks the disk what is left.
    pub(crate) fn freed(&self, stored: u64) {
        self.change(|state| state.stored = state.stored.saturating_sub(stored));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let free = self.vfs.free_bytes(&self.dir).map_err(|error| error.kind());
        let mut state = self.state();
        change(&mut state);
        state.free = free;
        state.changes = state.changes.wrapping_add(1);
    }

    /// Asks the disk what is left; somebody else may use it too.
    pub(crate) fn refresh(&self) {
        let changes = self.state().changes;
        let free = self.vfs.free_bytes(&self.dir).map_err(|error| error.kind());
        let mut state = self.state();
        if state.changes == changes {
            state.free = free;
        }
    }

    /// Gives the reserve to whoever frees space now. Whether there was any.
    pub(crate) fn release_reserve(&self) -> bool {
        let held = self.state().held;
        if held == 0 || self.reserve.file.set_length(0).is_err() {
            return false;
        }
        tracing::warn!(bytes = held, "the disk is full: the reserve is used to free space");
        self.change(|state| state.held = 0);
        true
    }

    /// Holds back again what is missing of the reserve, as far as the disk has it.
    pub(crate) fn fill_reserve(&self) -> io::Result<()> {
        if self.state().held >= self.reserve.bytes {
            return Ok(());
        }
        match self.reserve.file.allocate(self.reserve.bytes) {
            Err(error) if is_no_space(&error) => return Ok(()),
            other => other?,
        }
        let held = self.reserve.file.length()?;
        self.change(|state| state.held = held);
        Ok(())
    }

    /// Bytes the reserve file should hold and does not.
    pub(crate) fn reserve_missing(&self) -> u64 {
        self.reserve.bytes.saturating_sub(self.state().held)
    }

    pub(crate) fn set_read_only(&self) {
        self.state().read_only = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::vfs::OpenMode;
    use super::super::vfs_mem::MemVfs;
    use super::*;
    use std::path::Path;

    fn space(quota: u64, capacity: Option<u64>) -> Arc<Space> {
        let vfs = MemVfs::default();
        vfs.set_capacity(capacity);
        let file = vfs.open(Path::new("/d/reserve"), OpenMode::Create).unwrap();
        let reserve = ReserveFile { file, bytes: 0 };
        Arc::new(Space::new(Arc::new(vfs), PathBuf::from("/d"), quota, 0, reserve))
    }

    #[test]
    fn a_reservation_is_given_back_or_consumed_once() {
        let space = space(10_000, None);
        let first = space.reserve(1000).unwrap();
        assert_eq!(space.usage().reserved, record_size(1000, 0));
        drop(space.reserve(5000).unwrap());
        first.consume(640);
        assert_eq!(space.usage(), Usage { stored: 640, reserved: 0, quota: 10_000, free: 9360 });
        assert!(matches!(space.reserve(10_000), Err(ReserveError::Quota { left: 9360, .. })));
        assert_eq!(space.reserve(u64::MAX).unwrap_err(), ReserveError::Length(u64::MAX));
    }

    #[test]
    fn the_disk_refuses_before_the_quota_does() {
        let space = space(1 << 40, Some(10_000));
        let held = space.reserve(8000).unwrap();
        assert!(matches!(space.reserve(4000), Err(ReserveError::Disk { .. })));
        drop(held);
        assert!(space.reserve(4000).is_ok());
        space.set_read_only();
        assert_eq!(space.reserve(1).unwrap_err(), ReserveError::ReadOnly);
    }

    #[test]
    fn the_reserve_is_given_up_and_filled_again() {
        let vfs = MemVfs::default();
        vfs.set_capacity(Some(10_000));
        let file = vfs.open(Path::new("/d/reserve"), OpenMode::Create).unwrap();
        let space =
            Space::new(Arc::new(vfs.clone()), PathBuf::from("/d"), 1 << 20, 0, ReserveFile { file, bytes: 4000 });
        assert_eq!((space.reserve_missing(), space.usage().free), (4000, 6000));
        space.fill_reserve().unwrap();
        assert_eq!((space.reserve_missing(), space.usage().free), (0, 6000));
        assert_eq!(space.room_for_copies(), 10_000);
        assert!(space.release_reserve() && !space.release_reserve());
        vfs.set_capacity(Some(3000));
        space.fill_reserve().unwrap();
        space.refresh();
        assert_eq!((space.reserve_missing(), space.usage().free), (4000, 0), "no room for it, and that is no error");
    }

    #[test]
    fn concurrent_reserves_never_pass_the_quota() {
        let one = record_size(1000, 0);
        let space = space(one * 100, None);
        let granted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..50).filter_map(|_| space.reserve(1000).ok()).collect::<Vec<_>>()))
                .collect();
            let held: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            assert_eq!(space.usage().free, 0);
            held.len()
        });
        assert_eq!(granted, 100);
        assert_eq!(space.usage().reserved, 0);
    }
}
