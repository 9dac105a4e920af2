//! Quota and disk space: promised atomically before bytes are accepted. Nothing here is ever persisted.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_protocol::limits::SHARD_MAX;

use super::bao::outboard_length;
use super::error::ReserveError;
use super::record::record_size;
use super::vfs::Vfs;

/// Space of a store, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

#[derive(Debug)]
pub(crate) struct Space {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    quota: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stored: u64,
    reserved: u64,
    /// Bytes the active segment holds on disk beyond its last record.
    preallocated: u64,
    /// Bytes the reserve file should hold but does not.
    reserve_missing: u64,
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
    pub(crate) fn new(vfs: Arc<dyn Vfs>, dir: PathBuf, quota: u64, stored: u64, reserve_missing: u64) -> Self {
        let state = State { stored, reserve_missing, ..State::default() };
        Self { vfs, dir, quota, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Promises room for a record with `bytes` of payload. Free disk space is asked for under the lock: space only
    /// moves from `reserved` to the disk, so an older figure could count the same bytes twice.
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
        let left = self.disk_left(&state).map_err(|error| ReserveError::Io(error.kind()))?;
        if left < wanted {
            return Err(ReserveError::Disk { wanted, left });
        }
        state.reserved = state.reserved.saturating_add(wanted);
        Ok(SpaceReservation { space: Arc::clone(self), payload, charged: wanted })
    }

    /// Room for a record that frees more than it takes: refused by the disk alone, never by the quota.
    pub(crate) fn force(self: &Arc<Self>) -> SpaceReservation {
        let charged = record_size(0, 0);
        let mut state = self.state();
        state.reserved = state.reserved.saturating_add(charged);
        drop(state);
        SpaceReservation { space: Arc::clone(self), payload: 0, charged }
    }

    fn quota_left(&self, state: &State) -> u64 {
        self.quota.saturating_sub(state.stored).saturating_sub(state.reserved)
    }

    fn disk_left(&self, state: &State) -> std::io::Result<u64> {
        let free = self.vfs.free_bytes(&self.dir)?.saturating_add(state.preallocated);
        Ok(free.saturating_sub(state.reserve_missing).saturating_sub(state.reserved))
    }

    pub(crate) fn usage(&self) -> Usage {
        let state = self.state();
        let free = self.quota_left(&state).min(self.disk_left(&state).unwrap_or(0));
        Usage { stored: state.stored, reserved: state.reserved, quota: self.quota, free }
    }

    /// The active segment now holds this many bytes beyond its last record.
    pub(crate) fn set_preallocated(&self, bytes: u64) {
        self.state().preallocated = bytes;
    }

    pub(crate) fn set_read_only(&self) {
        self.state().read_only = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::vfs_mem::MemVfs;
    use super::*;

    fn space(quota: u64, capacity: Option<u64>) -> Arc<Space> {
        let vfs = MemVfs::default();
        vfs.set_capacity(capacity);
        Arc::new(Space::new(Arc::new(vfs), PathBuf::from("/d"), quota, 0, 0))
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
