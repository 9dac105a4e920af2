//! The durable store of a node: shards, lease groups and signed records in an append-only segment log.
//!
//! It never acknowledges what is not synced, never hands out a byte it did not verify, and never trusts a byte of the
//! log that its own MAC does not cover.
//!
//! # Files
//! | path below the data directory | content |
//! |---|---|
//! | `store.key` | identity and MAC key of the store |
//! | `reserve` | held-back disk space: min(1 GiB, 1 % of the quota), at least 1 MiB |
//! | `segments/%016x.seg` | the log, 256 MiB each, in the order of their numbers |
//!
//! The data directory is locked exclusively (`flock`) while a store is open.
//!
//! # Layout
//! Integers are little-endian. `mac(x)` is the first 16 bytes of BLAKE3 keyed with
//! `derive("shoal log header v1", [key of store.key])`. A segment is: header, records, and when sealed: table, trailer.
//! Records begin on multiples of 64 bytes; the space behind the last one is zero or unfinished.
//!
//! `store.key`, 96 bytes:
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 8 | `SHOALKEY` |
//! | 8 | 1 | version, 1 |
//! | 9 | 7 | zero |
//! | 16 | 16 | store id |
//! | 32 | 32 | key |
//! | 64 | 32 | BLAKE3 of bytes 0..64 |
//!
//! Segment header, 64 bytes at offset 0:
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 8 | `SHOALSEG` |
//! | 8 | 1 | version, 1 |
//! | 9 | 3 | zero |
//! | 12 | 4 | number of the previous segment |
//! | 16 | 16 | store id |
//! | 32 | 8 | number of this segment |
//! | 40 | 8 | end of the previous segment's durable records; 2^64-1: unknown |
//! | 48 | 16 | mac(bytes 0..48) |
//!
//! Record, at a multiple of 64:
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | `SHRC` |
//! | 4 | 1 | version, 1 |
//! | 5 | 1 | kind: 1 PUT, 2 REF, 3 DROP, 4 GROUP, 5 RECORD, 6 TOMBSTONE |
//! | 6 | 2 | zero |
//! | 8 | 32 | key: shard id (PUT, REF, DROP, TOMBSTONE), group id (GROUP), record key (RECORD, TOMBSTONE) |
//! | 40 | 32 | group id; zero in a TOMBSTONE |
//! | 72 | 4 | payload length p: PUT 1..=4 MiB, GROUP and RECORD 1..=60 KiB, else 0 |
//! | 76 | 4 | outboard length o: PUT 64 x (ceil(p / 16 KiB) - 1), else 0 |
//! | 80 | 8 | version number of a RECORD, else 0 |
//! | 88 | 8 | sequence: counts the records of the store |
//! | 96 | 8 | number of this segment |
//! | 104 | 8 | offset of this record in the segment |
//! | 112 | 16 | mac(bytes 0..112) |
//! | 128 | p | payload |
//! | 128+p | o | outboard: hash pairs of the inner nodes over 16 KiB groups, pre-order |
//! | 128+p+o | 4 | CRC32C of payload and outboard |
//! | ... | 0..63 | zero up to a multiple of 64 |
//!
//! Footer table, 96 bytes per record, behind the last record:
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | offset of the record / 64 |
//! | 4 | 1 | kind |
//! | 5 | 3 | zero |
//! | 8 | 4 | payload length |
//! | 12 | 4 | outboard length |
//! | 16 | 8 | version number |
//! | 24 | 8 | sequence |
//! | 32 | 32 | key |
//! | 64 | 32 | group id |
//!
//! Trailer, the last 64 bytes of a sealed segment:
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 8 | `SHOALEND` |
//! | 8 | 1 | version, 1 |
//! | 9 | 3 | zero |
//! | 12 | 4 | entries in the table |
//! | 16 | 8 | number of this segment |
//! | 24 | 8 | offset of the table |
//! | 32 | 16 | zero |
//! | 48 | 16 | mac(bytes 0..48, then the table) |

pub mod bao;
mod commit;
mod error;
mod index;
mod open;
#[cfg(any(test, feature = "test-utils"))]
pub mod random;
mod read;
mod record;
mod recovery;
mod segment;
mod space;
pub mod vfs;
#[cfg(any(test, feature = "test-utils"))]
pub mod vfs_mem;
pub mod vfs_os;

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use ::bytes::Bytes;
use shoal_protocol::limits::{RECORD_MAX, SHARD_MAX};
use shoal_protocol::{GroupId, RecordKey, ShardId};
use tokio::sync::{Semaphore, oneshot};

use commit::{Append, Request};
use index::{Index, Slot};
use record::Codec;
use segment::Files;
use space::Space;
use vfs::Vfs;

pub use error::{OpenError, PutError, ReadError, ReserveError};
pub use read::ReadOutcome;
pub use record::Kind;
pub use recovery::RecoveryReport;
pub use space::{SpaceReservation, Usage};

/// Smallest quota a store opens with, bytes: one shard of the largest size and its overhead.
pub const QUOTA_MIN: u64 = 8 * 1024 * 1024;
/// Bytes of a segment.
pub const SEGMENT_BYTES: u64 = 256 * 1024 * 1024;
/// Mean shard size below which the index, not the quota, is the bound: 2 bytes of memory per KiB of quota.
const SHARD_MEAN_MIN: u64 = 16 * 1024;

/// How a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Bytes the log may take on disk.
    pub quota: u64,
    /// Bytes after which a segment is sealed; [`SEGMENT_BYTES`] outside of tests.
    pub segment_bytes: u64,
    /// Most shards, and most further groups of shards, in the index: 32 bytes of memory each.
    pub shards_max: usize,
}

impl StoreConfig {
    /// The usual settings under a quota in bytes.
    #[must_use]
    pub fn new(quota: u64) -> Self {
        let shards = usize::try_from(quota / SHARD_MEAN_MIN).unwrap_or(usize::MAX);
        Self { quota, segment_bytes: SEGMENT_BYTES, shards_max: shards.max(4096) }
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

/// How well the disk behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No failure since the store was opened.
    Good,
    /// One failure of a write or sync: the segment was given up, nothing promised was lost.
    Degraded,
    /// A second failure: nothing is accepted any more, reading goes on.
    ReadOnly,
}

/// A mark on a shard: a record without payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The group holds the shard too.
    Ref(GroupId),
    /// The group no longer holds the shard.
    Drop(GroupId),
    /// The shard is gone for all groups.
    Tombstone,
}

/// The store of a node; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    queue: SyncSender<Request>,
    /// Places in the queue.
    places: Arc<Semaphore>,
    hashing: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What handles and writer thread share. Only the writer changes the index.
#[derive(Debug)]
struct Shared {
    codec: Codec,
    files: Files,
    index: RwLock<Index>,
    space: Arc<Space>,
    failures: AtomicU32,
    /// Preallocation step, bytes.
    step: u64,
    segment_bytes: u64,
    shards_max: usize,
}

impl Shared {
    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_shard(&self, slot: &Slot, key: &[u8; 32]) -> bool {
        read::is_shard(&self.files, &self.codec, slot, key)
    }

    /// The shard under its full key. The disk is read without the lock.
    fn find(&self, key: &[u8; 32]) -> Option<Slot> {
        let candidate = self.index().candidate(key);
        candidate.filter(|slot| self.is_shard(slot, key))
    }

    fn set_failures(&self, failures: u32) {
        self.failures.store(failures, Ordering::Release);
    }

    fn health(&self) -> Health {
        match self.failures.load(Ordering::Acquire) {
            0 => Health::Good,
            1 => Health::Degraded,
            _ => Health::ReadOnly,
        }
    }
}

/// A payload found to be what its id says.
struct Checked {
    payload: Bytes,
    outboard: Vec<u8>,
    crc: u32,
    rotted: Option<Slot>,
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

    /// Promises space for one shard or record of `bytes` payload bytes, until it is used or dropped.
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
        if self.health() == Health::ReadOnly {
            return Err(PutError::ReadOnly);
        }
        let permit = Arc::clone(&self.inner.hashing).acquire_owned().await.map_err(|_| PutError::Closed)?;
        let shared = Arc::clone(&self.inner.shared);
        let checked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            check(&shared, &id, payload)
        });
        let checked = checked.await.map_err(|_| PutError::Closed)??;
        self.append(space, |space, done| Append {
            kind: Kind::Put,
            key: *id.as_bytes(),
            group: *group.as_bytes(),
            number: 0,
            payload: checked.payload,
            outboard: checked.outboard,
            crc: checked.crc,
            rotted: checked.rotted,
            space,
            queued: Instant::now(),
            done,
        })
        .await
    }

    /// Stores the signed statement of a group, durably when this resolves; it replaces the one before.
    ///
    /// # Errors
    /// [`PutError`]; nothing was promised.
    pub async fn put_group(&self, group: GroupId, signed: Bytes) -> Result<(), PutError> {
        self.put_signed(Kind::Group, *group.as_bytes(), group, 0, signed).await
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

    /// Appends a mark on a shard, durably when this resolves. Marks that free space pass a full quota.
    ///
    /// # Errors
    /// [`PutError::NotFound`] if the shard is not here; others: nothing was promised.
    pub async fn put_mark(&self, shard: &ShardId, mark: Mark) -> Result<Stored, PutError> {
        let (kind, group) = match mark {
            Mark::Ref(group) => (Kind::Ref, *group.as_bytes()),
            Mark::Drop(group) => (Kind::Drop, *group.as_bytes()),
            Mark::Tombstone => (Kind::Tombstone, [0; 32]),
        };
        let space = match mark {
            Mark::Ref(_) => self.reserve(0)?,
            Mark::Drop(_) | Mark::Tombstone => self.inner.shared.space.force(),
        };
        let key = *shard.as_bytes();
        self.append(space, |space, done| plain(kind, key, group, 0, Bytes::new(), space, done)).await
    }

    /// The newest statement of a group. Blocks.
    ///
    /// # Errors
    /// [`ReadError::Rot`] or [`ReadError::Io`].
    pub fn group(&self, id: &GroupId) -> Result<Option<Bytes>, ReadError> {
        let shared = &self.inner.shared;
        let Some(place) = shared.index().group(id.as_bytes()) else { return Ok(None) };
        let bytes = read::read_signed(&shared.files, &shared.codec, &place, Kind::Group, id.as_bytes())?;
        Ok(Some(bytes.into()))
    }

    /// Version and bytes of a record: the newest (`back` 0) or the one before (1). Blocks.
    ///
    /// # Errors
    /// [`ReadError::Rot`] or [`ReadError::Io`].
    pub fn record(&self, key: &RecordKey, back: u8) -> Result<Option<(u64, Bytes)>, ReadError> {
        let shared = &self.inner.shared;
        let Some(place) = shared.index().record(key.as_bytes(), back) else { return Ok(None) };
        let bytes = read::read_signed(&shared.files, &shared.codec, &place, Kind::Record, key.as_bytes())?;
        Ok(Some((place.number, bytes.into())))
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
        sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<ReadOutcome, ReadError> {
        let shared = &self.inner.shared;
        let slot = shared.index().candidate(id.as_bytes()).ok_or(ReadError::NotFound)?;
        read::read_encoded(&shared.files, &shared.codec, &slot, id, ranges, sink)
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

    /// Finishes what is queued, ends the writer thread and unlocks the directory. Other handles then refuse to put.
    /// Blocks. Nothing is sealed: the next open scans the last segment.
    pub fn close(self) {
        self.inner.places.close();
        let _ = self.inner.queue.send(Request::Close);
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
        let group = *group.as_bytes();
        self.append(space, |space, done| plain(kind, key, group, number, signed, space, done)).await.map(drop)
    }

    /// Queues one record and waits until it is durable.
    async fn append(
        &self,
        space: SpaceReservation,
        make: impl FnOnce(SpaceReservation, oneshot::Sender<Result<Stored, PutError>>) -> Append,
    ) -> Result<Stored, PutError> {
        let place = Arc::clone(&self.inner.places).acquire_owned().await.map_err(|_| PutError::Closed)?;
        let (done, waiter) = oneshot::channel();
        let request = Request::Append(Box::new(make(space, done)), place);
        // The permit is a place in the channel, so it is never full.
        self.inner.queue.try_send(request).map_err(|_| PutError::Closed)?;
        waiter.await.map_err(|_| PutError::Closed)?
    }
}

fn plain(
    kind: Kind,
    key: [u8; 32],
    group: [u8; 32],
    number: u64,
    payload: Bytes,
    space: SpaceReservation,
    done: oneshot::Sender<Result<Stored, PutError>>,
) -> Append {
    let crc = record::checksum(&payload, &[]);
    let queued = Instant::now();
    Append { kind, key, group, number, payload, outboard: Vec::new(), crc, rotted: None, space, queued, done }
}

/// Hashes a payload, and if the shard is here already, whether its stored copy is still good: an acknowledgement must
/// never rest on a damaged one.
fn check(shared: &Shared, id: &ShardId, payload: Bytes) -> Result<Checked, PutError> {
    let (hash, outboard) = bao::outboard(&payload);
    if hash != *id {
        return Err(PutError::Mismatch);
    }
    let crc = record::checksum(&payload, &outboard);
    let all = [0..payload.len() as u64];
    let rotted = shared.find(id.as_bytes()).filter(|slot| {
        let mut sink = |_: &[u8]| ControlFlow::Continue(());
        read::read_encoded(&shared.files, &shared.codec, slot, id, &all, &mut sink).is_err()
    });
    Ok(Checked { payload, outboard, crc, rotted })
}

#[cfg(test)]
mod tests;
