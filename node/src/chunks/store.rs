//! The handle of a store: what the rest of the node calls. It never writes by itself; the writer thread does.

use std::ops::{Bound, ControlFlow, Range};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use ::bytes::Bytes;
use shoal_protocol::limits::{RECORD_MAX, SHARD_MAX};
use shoal_protocol::{GroupId, RecordKey, ShardId, UnixMillis};

use super::commit::Draft;
use super::index::{Index, Place, Slot};
use super::status::{Health, StoreStatus};
use super::upkeep::{self, Wall};
use super::vfs::Vfs;
use super::workers::{Command, Rest, RunError, UnknownWorker};
use super::{
    Inner, Kind, OpenError, PutError, ReadError, ReadOutcome, RecoveryReport, ReserveError, SEGMENT_BYTES, Shared,
    SpaceReservation, Usage, bao, open, read, record, status,
};

/// Mean shard size below which the index, not the quota, is the bound: 2 bytes of memory per KiB of quota.
const SHARD_MEAN_MIN: u64 = 16 * 1024;
/// Smallest segment: the smallest reserve.
const SEGMENT_BYTES_MIN: u64 = 1024 * 1024;
/// Segments of a full store, at least: the reserve then has room for the half of one that compaction copies, so that it
/// can begin on a full disk.
const SEGMENTS_MIN: u64 = 64;
/// How long what no group holds any more is kept.
const TRASH_MS: u64 = 7 * 24 * 3600 * 1000;

/// How a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Bytes the log may take on disk.
    pub quota: u64,
    /// Bytes after which a segment is sealed.
    pub segment_bytes: u64,
    /// Most shards, and most further groups of shards, in the index: 32 bytes of memory each.
    pub shards_max: usize,
    /// How long what no group holds any more is kept, milliseconds.
    pub trash_ms: u64,
}

impl StoreConfig {
    /// The usual settings under a quota in bytes.
    #[must_use]
    pub fn new(quota: u64) -> Self {
        let shards = usize::try_from(quota / SHARD_MEAN_MIN).unwrap_or(usize::MAX);
        let segment_bytes = (quota / SEGMENTS_MIN).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES);
        Self { quota, segment_bytes, shards_max: shards.max(4096), trash_ms: TRASH_MS }
    }
}

/// What a durable put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The bytes were written.
    New,
    /// The bytes were here; the group was added to their holders.
    Referenced,
    /// Bytes and group were here.
    Already,
}

/// A mark on a shard: a record without payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The group holds the shard too.
    Ref(GroupId),
    /// The group no longer holds the shard.
    Drop {
        /// Which.
        group: GroupId,
        /// When: the trash counts from here.
        at: UnixMillis,
    },
    /// The shard is gone for all groups.
    Tombstone,
}

/// The store of a node; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

/// A payload found to be what its id says.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) outboard: Vec<u8>,
    pub(super) crc: u32,
    pub(super) rotted: Option<Slot>,
}

impl Store {
    /// Opens or creates the store in `data`. `seed` is randomness for the key of a new store. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is changed in a directory that is in use, foreign or newer.
    pub fn open(
        vfs: Arc<dyn Vfs>,
        data: &Path,
        config: StoreConfig,
        seed: [u8; 32],
    ) -> Result<(Self, RecoveryReport), OpenError> {
        open::open(vfs, data, config, &seed)
    }

    /// Starts what the store does by itself: compaction, expiry, scrub, snapshots, and the watch over its directories.
    ///
    /// # Errors
    /// The system's, if it has no thread.
    pub fn start_upkeep(&self, wall: Wall) -> std::io::Result<()> {
        let workers = upkeep::start(&self.inner, wall)?;
        *self.inner.upkeep.lock().unwrap_or_else(PoisonError::into_inner) = Some(workers);
        Ok(())
    }

    /// Tells a background job what to do.
    ///
    /// # Errors
    /// [`UnknownWorker`], also if none runs.
    pub fn command(&self, job: &str, command: Command) -> Result<(), UnknownWorker> {
        let unknown = || UnknownWorker { name: job.to_owned() };
        self.inner.workers().ok_or_else(unknown)?.command(job, command)
    }

    /// Runs a background job until it has nothing to do, without its pauses. Blocks.
    ///
    /// # Errors
    /// [`RunError`], also if none runs.
    pub fn run_job(&self, job: &str) -> Result<Rest, RunError> {
        self.inner.workers().ok_or(RunError::Stopped)?.run_to_idle(job)
    }

    /// Everything there is to say about the store and its jobs. Waits for no disk.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        status::of(&self.inner)
    }

    /// Promises space for one shard or record of `bytes` payload bytes, until it is used or dropped. Never waits.
    ///
    /// # Errors
    /// [`ReserveError`] if quota or disk have no room.
    pub fn reserve(&self, bytes: u64) -> Result<SpaceReservation, ReserveError> {
        self.inner.shared.space.reserve(bytes)
    }

    /// Stores a shard for a group, durably when this resolves. The bytes are hashed here, on a blocking thread.
    /// Needs a tokio runtime. Dropping the future does not undo a put that was queued.
    ///
    /// # Errors
    /// [`PutError`]; nothing was promised.
    pub async fn put_shard(
        &self,
        space: SpaceReservation,
        id: ShardId,
        group: GroupId,
        payload: Bytes,
    ) -> Result<Stored, PutError> {
        let length = payload.len() as u64;
        if payload.is_empty() || length > u64::from(SHARD_MAX) {
            return Err(PutError::Length(length));
        }
        let reserved = u64::from(space.bytes());
        if length > reserved {
            return Err(PutError::Reservation { length, reserved });
        }
        if matches!(self.health(), Health::ReadOnly | Health::Detached) {
            return Err(PutError::ReadOnly);
        }
        let permit = Arc::clone(&self.inner.hashing).acquire_owned().await.map_err(|_| PutError::Closed)?;
        let shared = Arc::clone(&self.inner.shared);
        let hashed = payload.clone();
        let checked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            check(&shared, &id, &hashed)
        });
        let checked = checked.await.map_err(|_| PutError::Closed)??;
        let Checked { outboard, crc, rotted } = checked;
        let draft = Draft::mark(Kind::Put, *id.as_bytes(), *group.as_bytes());
        self.append(Draft { payload, outboard, crc, rotted, ..draft }, space).await
    }

    /// Stores the signed statement of a group that is over at `expires`, durably when this resolves; it replaces the one
    /// before.
    ///
    /// # Errors
    /// [`PutError`]; nothing was promised.
    pub async fn put_group(&self, group: GroupId, expires: UnixMillis, signed: Bytes) -> Result<(), PutError> {
        self.put_signed(Kind::Group, *group.as_bytes(), group, expires.0, signed).await
    }

    /// Stores a version of a signed record, durably when this resolves. The two newest versions stay readable.
    /// The same bytes again are no error.
    ///
    /// # Errors
    /// [`PutError::Stale`] unless `version` is higher than the stored one; others: nothing was promised.
    pub async fn put_record(
        &self,
        key: RecordKey,
        group: GroupId,
        version: u64,
        signed: Bytes,
    ) -> Result<(), PutError> {
        match self.put_signed(Kind::Record, *key.as_bytes(), group, version, signed.clone()).await {
            Err(PutError::Stale { stored }) if stored == version => match self.record(&key, 0) {
                Ok(Some((number, bytes))) if number == version && bytes == signed => Ok(()),
                _ => Err(PutError::Stale { stored }),
            },
            other => other,
        }
    }

    /// Appends a mark on a shard, durably when this resolves. Marks that free space pass a full quota and a full disk.
    ///
    /// # Errors
    /// [`PutError::NotFound`] if the shard is not here; others: nothing was promised.
    pub async fn put_mark(&self, shard: &ShardId, mark: Mark) -> Result<Stored, PutError> {
        let (kind, group, number) = match mark {
            Mark::Ref(group) => (Kind::Ref, *group.as_bytes(), 0),
            Mark::Drop { group, at } => (Kind::Drop, *group.as_bytes(), at.0),
            Mark::Tombstone => (Kind::Tombstone, [0; 32], 0),
        };
        let draft = Draft { number, ..Draft::mark(kind, *shard.as_bytes(), group) };
        let space = match mark {
            Mark::Ref(_) => self.reserve(0)?,
            Mark::Drop { .. } | Mark::Tombstone => self.inner.shared.space.force(draft.size()),
        };
        self.append(draft, space).await
    }

    /// The newest statement of a group. Blocks.
    ///
    /// # Errors
    /// [`ReadError::Rot`] or [`ReadError::Io`].
    pub fn group(&self, id: &GroupId) -> Result<Option<Bytes>, ReadError> {
        let place = |index: &Index| index.group(id.as_bytes());
        Ok(self.read_signed(Kind::Group, id.as_bytes(), &place)?.map(|(_, bytes)| bytes))
    }

    /// Bytes of the records of a group and of the shards it is the first to hold. Reads memory only.
    #[must_use]
    pub fn group_bytes(&self, id: &GroupId) -> u64 {
        let index = self.inner.shared.index();
        let known = index.groups.known(id.as_bytes());
        known.and_then(|handle| index.groups.get(handle)).map_or(0, |group| group.bytes)
    }

    /// Version and bytes of a record: the newest (`back` 0) or the one before (1). Blocks.
    ///
    /// # Errors
    /// [`ReadError::Rot`] or [`ReadError::Io`].
    pub fn record(&self, key: &RecordKey, back: u8) -> Result<Option<(u64, Bytes)>, ReadError> {
        self.read_signed(Kind::Record, key.as_bytes(), &|index| index.record(key.as_bytes(), back))
    }

    /// Number and bytes of a statement or record where the index has it; if compaction moves it meanwhile, where it is
    /// then.
    fn read_signed(
        &self,
        kind: Kind,
        key: &[u8; 32],
        place_in: &dyn Fn(&Index) -> Option<Place>,
    ) -> Result<Option<(u64, Bytes)>, ReadError> {
        let shared = &self.inner.shared;
        let Some(mut place) = place_in(&shared.index()) else { return Ok(None) };
        loop {
            let error = match read::read_signed(&shared.files, &shared.codec, &place, kind, key) {
                Ok(bytes) => return Ok(Some((place.number, bytes.into()))),
                Err(error) => error,
            };
            let now = place_in(&shared.index());
            match now.filter(|now| *now != place) {
                Some(now) if read::is_gone(&error) => place = now,
                _ => return Err(error),
            }
        }
    }

    /// Payload bytes of a shard if it is here. Reads 128 bytes of the disk.
    #[must_use]
    pub fn shard_length(&self, id: &ShardId) -> Option<u32> {
        self.inner.shared.find(id.as_bytes()).map(|slot| slot.length)
    }

    /// The groups that hold a shard, in the order of their ids. Reads 128 bytes of the disk.
    #[must_use]
    pub fn shard_groups(&self, id: &ShardId) -> Vec<GroupId> {
        let Some(slot) = self.inner.shared.find(id.as_bytes()) else { return Vec::new() };
        let groups = self.inner.shared.index().groups_of(id.as_bytes(), &slot);
        groups.into_iter().map(GroupId::from_bytes).collect()
    }

    /// Streams byte ranges of a shard to `sink` in the bao encoding (pre-order, 16 KiB groups, 1 KiB leaves at the
    /// edges, no size prefix), in pieces of at most 64 KiB. Each piece is verified up to `id` before it leaves; at
    /// most 256 KiB are in memory. Blocks.
    ///
    /// # Errors
    /// [`ReadError::Rot`] as soon as the disk does not hold what was stored; all pieces before it were good.
    pub fn read_encoded(
        &self,
        id: &ShardId,
        ranges: &[Range<u64>],
        sink: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
    ) -> Result<ReadOutcome, ReadError> {
        let shared = &self.inner.shared;
        let mut slot = shared.index().candidate(id.as_bytes()).ok_or(ReadError::NotFound)?;
        loop {
            let result = read::read_encoded(&shared.files, &shared.codec, &slot, id, ranges, sink);
            let Err(error @ (ReadError::Rot | ReadError::Io(_))) = result else { return result };
            // Compaction may have moved it between the look and the read: then nothing was read yet.
            let moved = shared.index().candidate(id.as_bytes()).filter(|now| !now.same_place(&slot));
            match moved {
                Some(now) if read::is_gone(&error) => slot = now,
                _ => {
                    shared.suspect(*id.as_bytes());
                    return Err(error);
                }
            }
        }
    }

    /// Space taken and left.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.inner.shared.space.usage()
    }

    /// How well the disk behaves.
    #[must_use]
    pub fn health(&self) -> Health {
        self.inner.shared.health()
    }

    /// Shards in the index.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.inner.shared.index().shards()
    }

    /// Up to `most` shards found damaged here and not stored again since, with the time they were found, in the order of
    /// their ids from the first one after `after`.
    #[must_use]
    pub fn losses(&self, after: Option<ShardId>, most: usize) -> Vec<(ShardId, UnixMillis)> {
        let index = self.inner.shared.index();
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(*after.as_bytes()));
        let losses = index.losses.range((from, Bound::Unbounded)).take(most);
        losses.map(|(key, found)| (ShardId::from_bytes(*key), UnixMillis(*found))).collect()
    }

    /// Ends the background jobs, finishes what is queued, ends the writer thread, saves the index and unlocks the
    /// directory. Other handles then refuse to put. Blocks.
    pub fn close(self) {
        if let Some(workers) = self.inner.workers() {
            workers.stop();
        }
        self.inner.places.close();
        self.inner.queue.close();
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the writer thread panicked");
        }
    }

    async fn put_signed(
        &self,
        kind: Kind,
        key: [u8; 32],
        group: GroupId,
        number: u64,
        signed: Bytes,
    ) -> Result<(), PutError> {
        let length = signed.len() as u64;
        if signed.is_empty() || length > RECORD_MAX as u64 {
            return Err(PutError::Length(length));
        }
        let space = self.reserve(length)?;
        let crc = record::checksum(&signed, &[]);
        let draft = Draft { number, payload: signed, crc, ..Draft::mark(kind, key, *group.as_bytes()) };
        self.append(draft, space).await.map(drop)
    }

    /// Queues one record and waits until it is durable.
    async fn append(&self, draft: Draft, space: SpaceReservation) -> Result<Stored, PutError> {
        let bytes = draft.size();
        let waiter = self.inner.enqueue(draft, space, bytes).await?;
        waiter.await.map_err(|_| PutError::Closed)?
    }
}

/// Hashes a payload, and if the shard is here already, whether its stored copy is still good: an acknowledgement must
/// never rest on a damaged one.
pub(super) fn check(shared: &Shared, id: &ShardId, payload: &Bytes) -> Result<Checked, PutError> {
    let (hash, outboard) = bao::outboard(payload);
    if hash != *id {
        return Err(PutError::Mismatch);
    }
    let crc = record::checksum(payload, &outboard);
    let all = [0..payload.len() as u64];
    let rotted = shared.find(id.as_bytes()).filter(|slot| {
        let mut sink = |_: Vec<u8>| ControlFlow::Continue(());
        read::read_encoded(&shared.files, &shared.codec, slot, id, &all, &mut sink).is_err()
    });
    Ok(Checked { outboard, crc, rotted })
}
