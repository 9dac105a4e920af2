//! The first steps of a store: lock, identity, reserve file, recovery, writer thread. It never repairs an identity.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, RwLock, mpsc};
use std::thread;

use tokio::sync::Semaphore;

use super::commit::{QUEUE_RECORDS, Request, Writer};
use super::error::OpenError;
use super::record::{ALIGN, Codec, KEY_FILE_BYTES, Refused, StoreKey};
use super::recovery::{RecoveryReport, io_error, recover};
use super::segment::{Files, segment_number, segments_dir};
use super::space::Space;
use super::vfs::{OpenMode, Vfs, is_no_space, write_at};
use super::{Inner, QUOTA_MIN, Shared, Store, StoreConfig};

/// Most of a segment that is preallocated at a time.
const STEP_MAX: u64 = 64 * 1024 * 1024;
/// Largest reserve file.
const RESERVE_MAX: u64 = 1024 * 1024 * 1024;
/// Smallest reserve file.
const RESERVE_MIN: u64 = 1024 * 1024;
/// Most shards hashed at a time.
const HASHING_MAX: usize = 16;
/// Disk blocks: preallocation steps are whole ones.
const BLOCK: u64 = 4096;

pub(super) fn open(
    vfs: Arc<dyn Vfs>,
    data: &Path,
    config: StoreConfig,
    seed: &[u8; 32],
) -> Result<(Store, RecoveryReport), OpenError> {
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
    let (key, created) = store_key(vfs.as_ref(), data, seed)?;
    let reserve_missing = reserve_file(vfs.as_ref(), data, config.quota)?;
    let codec = Codec::new(&key);
    let files = Files::new(Arc::clone(&vfs), data.to_path_buf());
    let found = recover(&vfs, data, &codec, &files)?;
    let report = RecoveryReport { reserve_missing, created, ..found.report };

    let space = Space::new(Arc::clone(&vfs), data.to_path_buf(), config.quota, found.stored, reserve_missing);
    let shared = Arc::new(Shared {
        codec,
        files,
        index: RwLock::new(found.index),
        space: Arc::new(space),
        failures: AtomicU32::new(0),
        step: STEP_MAX.min(config.quota / 16).next_multiple_of(BLOCK),
        segment_bytes: config.segment_bytes.next_multiple_of(ALIGN),
        shards_max: config.shards_max,
    });
    let writer = Writer {
        vfs,
        data: data.to_path_buf(),
        shared: Arc::clone(&shared),
        active: found.active,
        next_segment: found.next_segment,
        previous: found.previous,
        next_sequence: found.next_sequence,
        failures: 0,
        _lock: lock,
    };
    // One place more than permits, so that `Request::Close` always fits.
    let (queue, requests) = mpsc::sync_channel::<Request>(QUEUE_RECORDS.saturating_add(1));
    let thread = thread::Builder::new()
        .name("shoal-log".to_owned())
        .spawn(move || writer.run(&requests))
        .map_err(OpenError::Thread)?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let inner = Inner {
        shared,
        queue,
        places: Arc::new(Semaphore::new(QUEUE_RECORDS)),
        hashing: Arc::new(Semaphore::new(cores.min(HASHING_MAX))),
        thread: Mutex::new(Some(thread)),
    };
    Ok((Store { inner: Arc::new(inner) }, report))
}

fn key_path(data: &Path) -> PathBuf {
    data.join("store.key")
}

/// The identity of the store; a new one only where nothing was ever stored.
fn store_key(vfs: &dyn Vfs, data: &Path, seed: &[u8; 32]) -> Result<(StoreKey, bool), OpenError> {
    let path = key_path(data);
    let file = match vfs.open(&path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return new_key(vfs, data, seed),
        Err(error) => return Err(io_error("open", &path)(error)),
    };
    let mut bytes = [0; KEY_FILE_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(OpenError::KeyDamaged(path)),
        Err(error) => return Err(io_error("read", &path)(error)),
    }
    match StoreKey::decode(&bytes) {
        Ok(key) => Ok((key, false)),
        Err(Refused::Invalid) => Err(OpenError::KeyDamaged(path)),
        Err(Refused::Newer(what)) => Err(OpenError::Newer { path, what }),
    }
}

fn new_key(vfs: &dyn Vfs, data: &Path, seed: &[u8; 32]) -> Result<(StoreKey, bool), OpenError> {
    let segments = segments_dir(data);
    let names = vfs.list(&segments).map_err(io_error("list", &segments))?;
    if names.iter().any(|name| segment_number(name).is_some()) {
        return Err(OpenError::KeyMissing(data.to_path_buf()));
    }
    let key = StoreKey::from_seed(seed);
    let (path, temporary) = (key_path(data), data.join("store.key.new"));
    let write = || {
        match vfs.remove(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = vfs.open(&temporary, OpenMode::Create)?;
        write_at(file.as_ref(), &key.encode(), 0)?;
        file.sync_all()?;
        vfs.rename(&temporary, &path)?;
        vfs.sync_dir(data)
    };
    write().map_err(io_error("write", &path))?;
    Ok((key, true))
}

/// Holds back min(1 GiB, 1 % of the quota), at least 1 MiB, for deletes and compaction. Returns what is missing of it.
fn reserve_file(vfs: &dyn Vfs, data: &Path, quota: u64) -> Result<u64, OpenError> {
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
                Err(error) if is_no_space(&error) => return Ok(bytes.saturating_sub(length)),
                other => other?,
            }
        }
        file.sync_all()?;
        vfs.sync_dir(data)?;
        Ok(0)
    };
    hold().map_err(io_error("reserve space in", &path))
}
