//! What the handles of a store, its writer thread and its jobs share. Only the writer changes what is stored.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, oneshot};

use super::commit::{Append, Draft, Request};
use super::error::PutError;
use super::index::{Index, Slot};
use super::jobs::Room;
use super::queue::Queue;
use super::read;
use super::record::{Codec, StoreKey};
use super::segment::Files;
use super::space::{Space, SpaceReservation};
use super::workers::Workers;
use super::{Health, Stored};

/// [`Shared::active`] while there is none.
pub(crate) const NO_SEGMENT: u64 = u64::MAX;
/// [`Shared::snapshot`] while there is none.
pub(crate) const NO_SNAPSHOT: u64 = u64::MAX;
/// Most shards that readers found damaged and the scrub has not looked at yet.
const SUSPECTS_MAX: usize = 1024;

/// What all handles of one store share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub room: Room,
    pub shared: Arc<Shared>,
    pub queue: Arc<Queue<Request>>,
    /// Places in the queue.
    pub places: Arc<Semaphore>,
    pub hashing: Arc<Semaphore>,
    pub thread: Mutex<Option<JoinHandle<()>>>,
    pub upkeep: Mutex<Option<Workers>>,
}

impl Inner {
    /// Queues one record; what comes of it comes out of the receiver. `bytes` is what it counts for in a batch: at least
    /// its size, and a whole batch if no others are to be waited for.
    pub(crate) async fn enqueue(
        &self,
        draft: Draft,
        space: SpaceReservation,
        bytes: u64,
    ) -> Result<oneshot::Receiver<Result<Stored, PutError>>, PutError> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| PutError::Closed)?;
        let (done, waiter) = oneshot::channel();
        let request = Request::Append(Box::new(Append { draft, space, done }), Some(place));
        // The permit is a place in the queue, so it is never full.
        self.queue.push(request, bytes).map_err(|_| PutError::Closed)?;
        Ok(waiter)
    }

    /// The jobs that run, if any were started.
    pub(crate) fn workers(&self) -> Option<Workers> {
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The writer thread ends once what is queued is done; nobody waits for it here.
        self.queue.close();
    }
}

/// What handles, jobs and writer thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub key: StoreKey,
    pub codec: Codec,
    pub files: Files,
    pub index: RwLock<Index>,
    pub space: Arc<Space>,
    pub failures: AtomicU32,
    /// Whether other directories are found where the store was.
    pub detached: AtomicBool,
    /// The segment that is appended to, or [`NO_SEGMENT`].
    pub active: AtomicU64,
    /// Shards that a reader found damaged.
    pub suspects: Mutex<BTreeSet<[u8; 32]>>,
    /// Preallocation step, bytes.
    pub step: u64,
    pub segment_bytes: u64,
    pub shards_max: usize,
    /// Where the snapshot on disk ends, a sequence number; [`NO_SNAPSHOT`] if there is none.
    pub snapshot: AtomicU64,
    /// How long what no group holds is kept, milliseconds.
    pub trash_ms: u64,
}

impl Shared {
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_shard(&self, slot: &Slot, key: &[u8; 32]) -> bool {
        read::is_shard(&self.files, &self.codec, slot, key)
    }

    /// The shard under its full key. The disk is read without the lock, so compaction may move the shard meanwhile: then
    /// it is looked for where it is now.
    pub(crate) fn find(&self, key: &[u8; 32]) -> Option<Slot> {
        let mut slot = self.index().candidate(key)?;
        while !self.is_shard(&slot, key) {
            slot = self.index().candidate(key).filter(|now| !now.same_place(&slot))?;
        }
        Some(slot)
    }

    /// The shard as [`Shared::find`] has it. One that the index has at `at` is not compared on disk: whoever names the
    /// place has read the key there, and its header may be what is damaged.
    pub(crate) fn find_at(&self, key: &[u8; 32], at: Option<(u32, u64)>) -> Option<Slot> {
        let candidate = self.index().candidate(key);
        let there = candidate.filter(|slot| at.is_some_and(|(segment, offset)| slot.is_at(segment, offset)));
        there.or_else(|| self.find(key))
    }

    pub(crate) fn set_failures(&self, failures: u32) {
        self.failures.store(failures, Ordering::Release);
    }

    /// Nothing is accepted any more: these are not the directories the store was opened in.
    pub(crate) fn detach(&self) {
        self.detached.store(true, Ordering::Release);
        self.space.set_read_only();
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    pub(crate) fn active(&self) -> Option<u32> {
        u32::try_from(self.active.load(Ordering::Acquire)).ok()
    }

    pub(crate) fn set_active(&self, segment: Option<u32>) {
        self.active.store(segment.map_or(NO_SEGMENT, u64::from), Ordering::Release);
    }

    pub(crate) fn health(&self) -> Health {
        match self.failures.load(Ordering::Acquire) {
            _ if self.is_detached() => Health::Detached,
            0 => Health::Good,
            1 => Health::Degraded,
            _ => Health::ReadOnly,
        }
    }

    /// A reader found this shard damaged; the scrub looks at it next.
    pub(crate) fn suspect(&self, key: [u8; 32]) {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        if suspects.len() < SUSPECTS_MAX {
            suspects.insert(key);
        }
    }

    pub(crate) fn take_suspects(&self) -> BTreeSet<[u8; 32]> {
        std::mem::take(&mut *self.suspects.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
