//! The first steps of a store: lock, identity, reserve file, recovery, writer thread. It never repairs an identity that
//! is lost, and never takes an empty directory for an empty store where there was one.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Mutex, RwLock};
use std::thread;

use tokio::sync::Semaphore;

use super::commit::{BATCH, QUEUE_RECORDS, Writer};
use super::error::OpenError;
use super::identity;
use super::jobs::Room;
use super::queue::{BatchRule, Queue};
use super::record::{ALIGN, Codec};
use super::recovery::{RecoveryReport, io_error, recover};
use super::segment::{Files, segments_dir};
use super::shared::{Inner, NO_SEGMENT, NO_SNAPSHOT, Shared};
use super::space::{ReserveFile, Space};
use super::vfs::{OpenMode, Vfs, is_no_space};
use super::{QUOTA_MIN, Store, StoreConfig, snapshot};

/// Most of a segment that is preallocated at a time.
const STEP_MAX: u64 = 64 * 1024 * 1024;
/// Largest reserve file.
const RESERVE_MAX: u64 = 1024 * 1024 * 1024;
/// Smallest reserve file.
const RESERVE_MIN: u64 = 1024 * 1024;
/// Most shards hashed at a time.
const HASHING_MAX: usize = 16;
/// Places in the queue beyond those of records: rotations asked for by jobs.
const QUEUE_SPARE: usize = 8;
/// Disk blocks: preallocation steps are whole ones.
const BLOCK: u64 = 4096;

/// A store that is recovered, with nobody to serve it yet.
pub(crate) fn prepare(
    vfs: Arc<dyn Vfs>,
    data: &Path,
    config: StoreConfig,
    seed: &[u8; 32],
) -> Result<(Writer, RecoveryReport), OpenError> {
    if config.quota < QUOTA_MIN {
        return Err(OpenError::Quota(config.quota));
    }
    vfs.create_dir(data).map_err(io_error("create", data))?;
    let lock = vfs.lock(data).map_err(|source| match source.kind() {
        std::io::ErrorKind::WouldBlock => OpenError::Locked(data.to_path_buf()),
        _ => io_error("lock", data)(source),
    })?;
    let segments = segments_dir(data);
    vfs.create_dir(&segments).map_err(io_error("create", &segments))?;
    let (key, created) = identity::load_or_make(vfs.as_ref(), data, seed)?;
    let reserve = reserve_file(vfs.as_ref(), data, config.quota)?;
    let codec = Codec::new(&key);
    let files = Files::new(Arc::clone(&vfs), data.to_path_buf());
    let segment_bytes = config.segment_bytes.next_multiple_of(ALIGN);
    let found = recover(&vfs, data, &codec, &files, segment_bytes)?;

    let stored = found.index.segments.stored();
    let space = Space::new(Arc::clone(&vfs), data.to_path_buf(), config.quota, stored, reserve);
    let report = RecoveryReport { reserve_missing: space.reserve_missing(), created, ..found.report };
    let next_sequence = found.index.next_sequence;
    let shared = Arc::new(Shared {
        key,
        codec,
        files,
        index: RwLock::new(found.index),
        space: Arc::new(space),
        failures: AtomicU32::new(0),
        detached: AtomicBool::new(false),
        active: AtomicU64::new(found.active.as_ref().map_or(NO_SEGMENT, |active| u64::from(active.number))),
        snapshot: AtomicU64::new(found.snapshot.unwrap_or(NO_SNAPSHOT)),
        suspects: Mutex::new(BTreeSet::new()),
        step: STEP_MAX.min(config.quota / 16).next_multiple_of(BLOCK),
        segment_bytes,
        shards_max: config.shards_max,
        trash_ms: config.trash_ms,
    });
    let writer = Writer {
        vfs,
        data: data.to_path_buf(),
        shared,
        active: found.active,
        next_segment: found.next_segment,
        previous: found.previous,
        next_sequence,
        failures: 0,
        _lock: lock,
    };
    Ok((writer, report))
}

pub(super) fn open(
    vfs: Arc<dyn Vfs>,
    data: &Path,
    config: StoreConfig,
    seed: &[u8; 32],
) -> Result<(Store, RecoveryReport), OpenError> {
    let (writer, report) = prepare(Arc::clone(&vfs), data, config, seed)?;
    let shared = Arc::clone(&writer.shared);
    let queue = Arc::new(Queue::new(QUEUE_RECORDS.saturating_add(QUEUE_SPARE)));
    let served = Arc::clone(&queue);
    let thread = thread::Builder::new()
        .name("shoal-log".to_owned())
        .spawn(move || serve(writer, &served))
        .map_err(OpenError::Thread)?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let inner = Inner {
        room: Room { vfs, data: data.to_path_buf(), shared: Arc::clone(&shared) },
        shared,
        queue,
        places: Arc::new(Semaphore::new(QUEUE_RECORDS)),
        hashing: Arc::new(Semaphore::new(cores.min(HASHING_MAX))),
        thread: Mutex::new(Some(thread)),
        upkeep: Mutex::new(None),
    };
    Ok((Store { inner: Arc::new(inner) }, report))
}

/// The life of the writer thread: batches until the queue is closed, then what makes the next open quick.
fn serve(mut writer: Writer, queue: &Queue<super::commit::Request>) {
    // No batch fills more than a segment, or the segments would be larger than the reserve has room for.
    let rule = BatchRule { bytes: BATCH.bytes.min(writer.shared.segment_bytes), ..BATCH };
    queue.serve(&rule, |requests| writer.serve(requests));
    writer.finish();
    if let Err(error) = snapshot::take(writer.vfs.as_ref(), &writer.data, &writer.shared) {
        tracing::warn!(%error, "the index was not saved; the next start reads the log");
    }
}

/// Holds back min(1 GiB, 1 % of the quota), at least 1 MiB, for deletes and compaction; less if the disk has no room.
fn reserve_file(vfs: &dyn Vfs, data: &Path, quota: u64) -> Result<ReserveFile, OpenError> {
    let path = data.join("reserve");
    let bytes = (quota / 100).clamp(RESERVE_MIN, RESERVE_MAX);
    let hold = || {
        let file = match vfs.open(&path, OpenMode::Write) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => vfs.open(&path, OpenMode::Create)?,
            other => other?,
        };
        let length = file.length()?;
        if length > bytes {
            file.set_length(bytes)?;
        }
        if length < bytes {
            match file.allocate(bytes) {
                Err(error) if is_no_space(&error) => return Ok(file),
                other => other?,
            }
        }
        file.sync_all()?;
        vfs.sync_dir(data)?;
        Ok(file)
    };
    let file = hold().map_err(io_error("reserve space in", &path))?;
    Ok(ReserveFile { file, bytes })
}
