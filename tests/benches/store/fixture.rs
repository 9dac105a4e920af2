//! Stores to measure, and what is in them: seeded payloads that are the same in every run. It measures nothing itself.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use shoal_node::chunks::vfs::Vfs;
use shoal_node::chunks::vfs_os::OsVfs;
use shoal_node::chunks::workers::{Command, Rest, WorkerStatus};
use shoal_node::chunks::{RecoveryReport, Store, StoreConfig, StoreStatus};
use shoal_protocol::{GroupId, ShardId};
use tokio::runtime::Runtime;

/// Enough for every row; segments have their full size, and the index has room for 2^21 shards.
const QUOTA: u64 = 32 << 30;
/// What a store is filled with: the number of the shard makes the payload.
pub(crate) type Make = Arc<dyn Fn(u64) -> (ShardId, Bytes) + Send + Sync>;

/// The real disk.
pub(crate) fn disk() -> Arc<dyn Vfs> {
    Arc::new(OsVfs)
}

/// Opens the store in `data` over `vfs`.
pub(crate) fn open_over(vfs: Arc<dyn Vfs>, data: &Path) -> (Store, RecoveryReport) {
    Store::open(vfs, data, StoreConfig::new(QUOTA), [7; 32]).unwrap()
}

/// Opens the store in `data` on the real disk.
pub(crate) fn open(data: &Path) -> Store {
    open_over(disk(), data).0
}

/// A runtime as the node has one.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// The group that holds everything.
pub(crate) fn group() -> GroupId {
    GroupId::from_bytes([1; 32])
}

/// `bytes` pseudo-random bytes that no other number has (SplitMix64).
pub(crate) fn payload(number: u64, bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0xd134_2543_de82_ef95);
    let mut out = Vec::with_capacity(bytes.next_multiple_of(8));
    while out.len() < bytes {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// The shard of a number.
pub(crate) fn shard(number: u64, bytes: usize) -> (ShardId, Bytes) {
    let payload = payload(number, bytes);
    (ShardId::of(&payload), payload.into())
}

/// Shards of `bytes` bytes.
pub(crate) fn shards(bytes: usize) -> Make {
    Arc::new(move |number| shard(number, bytes))
}

/// Stores one shard; how long that took.
pub(crate) async fn put(store: &Store, id: ShardId, payload: Bytes) -> Duration {
    let since = Instant::now();
    let space = store.reserve(payload.len() as u64).unwrap();
    store.put_shard(space, id, group(), payload).await.unwrap();
    since.elapsed()
}

/// Stores shards, so many at a time; how long each took.
pub(crate) fn put_all(
    runtime: &Runtime,
    store: &Store,
    numbers: Range<u64>,
    in_flight: usize,
    make: &Make,
) -> Vec<Duration> {
    let next = Arc::new(AtomicU64::new(numbers.start));
    let tasks: Vec<_> = (0..in_flight)
        .map(|_| {
            let (store, next, make) = (store.clone(), Arc::clone(&next), Arc::clone(make));
            runtime.spawn(async move {
                let mut took = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return took;
                    }
                    let (id, payload) = make(number);
                    took.push(put(&store, id, payload).await);
                }
            })
        })
        .collect();
    tasks.into_iter().flat_map(|task| runtime.block_on(task).unwrap()).collect()
}

/// Fills the store in `data` and closes it.
pub(crate) fn fill(data: &Path, numbers: Range<u64>, bytes: usize) {
    let store = open(data);
    put_all(&runtime(), &store, numbers, 128, &shards(bytes));
    store.close();
}

/// Starts the jobs of a store, all paused.
pub(crate) fn start_jobs(store: &Store) {
    let wall = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    store.start_upkeep(Arc::new(wall)).unwrap();
    for job in ["compact", "expire", "scrub", "snapshot"] {
        store.command(job, Command::Pause).unwrap();
    }
}

/// Runs a job to its end without its pauses.
pub(crate) fn run_job(store: &Store, name: &str) {
    store.command(name, Command::Speed(0)).unwrap();
    store.command(name, Command::Start).unwrap();
    let rest = store.run_job(name).unwrap();
    assert!(matches!(rest, Rest::Idle { .. }), "{rest:?}");
}

/// What is shown of a job.
pub(crate) fn job(status: &StoreStatus, name: &str) -> WorkerStatus {
    status.jobs.iter().find(|job| job.name == name).unwrap().clone()
}

/// A counter of a job.
pub(crate) fn note(job: &WorkerStatus, name: &str) -> u64 {
    job.progress.notes.iter().find(|(note, _)| note == name).unwrap().1
}
