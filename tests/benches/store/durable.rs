//! Row `durable`: storing shards of 2 MiB beside writing the same bytes to one file. Its stores are new and large enough
//! that no segment is smaller than in a real one.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal_node::chunks::vfs::{OpenMode, Vfs};
use shoal_node::chunks::vfs_os::OsVfs;
use shoal_protocol::ShardId;
use tokio::runtime::Runtime;

use crate::fixture::{disk, open_over, put_all, runtime, shard};
use crate::timed::TimedVfs;
use shoal_tests::bench::Setting;
use shoal_tests::bench::report::{Limit, context, judged, median, ms, quantile, rate};

const SHARD_BYTES: usize = 2 << 20;
const TOTAL_BYTES: u64 = 512 << 20;
/// Shards that are on their way at a time.
const IN_FLIGHT: usize = 16;
/// Bytes per sync of the plain file: a batch of the store.
const SYNC_BYTES: usize = 4 << 20;
const ROUNDS: usize = 15;

/// Share of the plain file's speed that the store has at least.
const LIMIT: f64 = 0.80;

type Shards = Arc<Vec<(ShardId, Bytes)>>;

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    let count = setting.size(TOTAL_BYTES) / SHARD_BYTES as u64;
    let shards: Shards = Arc::new((0..count).map(|number| shard(number, SHARD_BYTES)).collect());
    let bytes = count * SHARD_BYTES as u64;
    let runtime = runtime();
    let (mut stored, mut plain, mut hashed, mut latencies) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        plain.push(write_plain(setting.fresh().path(), &shards, false));
        let (took, each) = store(&runtime, setting.fresh().path(), &shards, disk());
        stored.push(took);
        latencies.extend(each);
        hashed.push(write_plain(setting.fresh().path(), &shards, true));
    }
    let (store_time, plain_time, hashed_time) = (median(&stored), median(&plain), median(&hashed));
    let ratio = plain_time.as_secs_f64() / store_time.as_secs_f64();
    let figure =
        format!("{:.0} MB/s, one file {:.0} MB/s in the same run", rate(bytes, store_time), rate(bytes, plain_time));
    judged("durable STORE, 2 MiB shards", &figure, ratio, "of raw", Limit::AtLeast(LIMIT));

    let pairs = plain.iter().zip(&stored).map(|(plain, stored)| plain.as_secs_f64() / stored.as_secs_f64());
    let (least, most) = pairs.fold((f64::MAX, 0.0_f64), |(least, most), pair| (least.min(pair), most.max(pair)));
    context(&format!("pairs {least:.2} to {most:.2} of raw, {ROUNDS} of them"));
    let best = |times: &[Duration]| times.iter().min().copied().unwrap_or_default();
    let undisturbed = best(&plain).as_secs_f64() / best(&stored).as_secs_f64();
    context(&format!(
        "fastest turns: {:.0} MB/s, one file {:.0} MB/s: {undisturbed:.2} of raw",
        rate(bytes, best(&stored)),
        rate(bytes, best(&plain)),
    ));
    let beside_hashed = hashed_time.as_secs_f64() / store_time.as_secs_f64();
    context(&format!(
        "one file and BLAKE3 on the same thread {:.0} MB/s: the store has {beside_hashed:.2} of that",
        rate(bytes, hashed_time),
    ));
    let (p50, p99) = (quantile(&mut latencies, 0.5), quantile(&mut latencies, 0.99));
    context(&format!("put latency with {IN_FLIGHT} in flight: p50 {:.1} ms, p99 {:.1} ms", ms(p50), ms(p99)));

    let timed = TimedVfs::default();
    let (took, _) = store(&runtime, setting.fresh().path(), &shards, Arc::new(timed.clone()));
    context(&format!("one more round took {:.0} ms, of that: {}", ms(took), timed.report()));
}

/// Time until all shards are durable in a new store, and what each took.
fn store(runtime: &Runtime, dir: &Path, shards: &Shards, vfs: Arc<dyn Vfs>) -> (Duration, Vec<Duration>) {
    touch_memory(dir, shards);
    let (store, _) = open_over(vfs, &dir.join("store"));
    let theirs = Arc::clone(shards);
    let since = Instant::now();
    let make = Arc::new(move |number: u64| theirs[number as usize].clone());
    let each = put_all(runtime, &store, 0..shards.len() as u64, IN_FLIGHT, &(make as _));
    let took = since.elapsed();
    store.close();
    (took, each)
}

/// Has as many pages of memory in the hands of the system as the next turn needs. On a virtual machine the first touch of
/// a page that its host has taken back costs five times what copying into it does, and without this it is a matter of luck
/// which turn pays for that.
fn touch_memory(dir: &Path, shards: &Shards) {
    let path = dir.join("touched");
    let file = OsVfs.open(&path, OpenMode::Create).unwrap();
    for (number, (_, payload)) in shards.iter().enumerate() {
        file.write_all_at(&mut [IoSlice::new(payload)], (number * SHARD_BYTES) as u64).unwrap();
    }
    drop(file);
    OsVfs.remove(&path).unwrap();
}

/// Time until all bytes are durable in a preallocated file.
fn write_plain(dir: &Path, shards: &Shards, hash: bool) -> Duration {
    touch_memory(dir, shards);
    let file = OsVfs.open(&dir.join("plain"), OpenMode::Create).unwrap();
    file.allocate(shards.len() as u64 * SHARD_BYTES as u64).unwrap();
    file.sync_all().unwrap();
    let since = Instant::now();
    let mut offset = 0;
    for batch in shards.chunks(SYNC_BYTES / SHARD_BYTES) {
        let same = |(id, payload): &(ShardId, Bytes)| ShardId::of(payload) == *id;
        assert!(!hash || batch.iter().all(same));
        let mut buffers: Vec<IoSlice<'_>> = batch.iter().map(|(_, payload)| IoSlice::new(payload)).collect();
        file.write_all_at(&mut buffers, offset).unwrap();
        file.sync_data().unwrap();
        offset += batch.len() as u64 * SHARD_BYTES as u64;
    }
    since.elapsed()
}
