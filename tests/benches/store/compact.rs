//! Row `compact`: giving back the space of a store of which most was removed, at full speed.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use shoal_node::chunks::{Mark, Store};

use crate::fixture::{fill, job, note, open_over, run_job, runtime, shard, start_jobs};
use crate::timed::TimedVfs;
use shoal_tests::bench::Setting;
use shoal_tests::bench::machine::drop_cache;
use shoal_tests::bench::report::{context, ms, plain, rate};

const SHARD_BYTES: usize = 256 << 10;
const TOTAL_BYTES: u64 = 2 << 30;
/// Three segments: the last one is appended to again, and never compacted.
const TOTAL_BYTES_MIN: u64 = 768 << 20;
/// Marks that are on their way at a time.
const IN_FLIGHT: usize = 64;

/// Whether a shard is one of the six in ten that are removed: evenly spread.
pub(crate) fn is_removed(number: u64) -> bool {
    number % 5 < 3
}

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    let dir = setting.fresh();
    let data = dir.path().join("store");
    let shards = setting.size(TOTAL_BYTES).max(TOTAL_BYTES_MIN) / SHARD_BYTES as u64;
    prepare(&data, shards, SHARD_BYTES);
    drop_cache(&data);
    let timed = TimedVfs::default();
    let (store, _) = open_over(Arc::new(timed.clone()), &data);
    start_jobs(&store);
    let before = store.usage().stored;
    timed.report();
    let since = Instant::now();
    run_job(&store, "compact");
    let took = since.elapsed();
    let (status, spent) = (store.status(), timed.report());
    store.close();
    let compact = job(&status, "compact");
    let (copied, removed) = (note(&compact, "bytes_copied"), note(&compact, "bytes_removed"));
    let freed = before.saturating_sub(status.usage.stored);
    let figure = format!(
        "{:.0} MB/s copied, {:.0} MB/s freed, {:.2} bytes written for each freed",
        rate(copied, took),
        rate(freed, took),
        copied as f64 / freed as f64,
    );
    plain("compaction, 60 % removed, 256 KiB shards", &figure);
    context(&format!(
        "{:.0} ms: {:.0} MB copied out of {:.0} MB removed, in {} steps",
        ms(took),
        copied as f64 / 1e6,
        removed as f64 / 1e6,
        compact.steps,
    ));
    context(&format!("of that: {spent}"));
}

/// Makes a store of so many shards of which six in ten are removed.
pub(crate) fn prepare(data: &Path, shards: u64, bytes: usize) {
    fill(data, 0..shards, bytes);
    let store = crate::fixture::open(data);
    let runtime = runtime();
    let removed: Vec<u64> = (0..shards).filter(|number| is_removed(*number)).collect();
    for some in removed.chunks(IN_FLIGHT) {
        let marks: Vec<_> = some.iter().map(|number| runtime.spawn(remove(store.clone(), *number, bytes))).collect();
        marks.into_iter().for_each(|mark| runtime.block_on(mark).unwrap());
    }
    store.close();
}

async fn remove(store: Store, number: u64, bytes: usize) {
    let (id, _) = shard(number, bytes);
    store.put_mark(&id, Mark::Tombstone).await.unwrap();
}
