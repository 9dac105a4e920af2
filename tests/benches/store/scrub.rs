//! Row `scrub`: a full pass at full speed beside what its two parts cost alone: reading the same files, and BLAKE3 on one
//! thread. All three from the disk, not from what the system has in memory.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::fixture::{fill, job, note, open, payload, run_job, start_jobs};
use shoal_tests::bench::Setting;
use shoal_tests::bench::machine::drop_cache;
use shoal_tests::bench::report::{context, median, plain, rate};

const SHARD_BYTES: usize = 256 << 10;
const TOTAL_BYTES: u64 = 2 << 30;
const ROUNDS: usize = 3;

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    let dir = setting.fresh();
    let data = dir.path().join("store");
    let bytes = setting.size(TOTAL_BYTES);
    fill(&data, 0..bytes / SHARD_BYTES as u64, SHARD_BYTES);
    let store = open(&data);
    start_jobs(&store);
    let (mut scrubs, mut reads, mut hashes) = (vec![], vec![], vec![]);
    let mut scrubbed = 0;
    for _ in 0..ROUNDS {
        reads.push(read_all(&data.join("segments")));
        let since = Instant::now();
        run_job(&store, "scrub");
        scrubs.push(since.elapsed());
        let scrub = job(&store.status(), "scrub");
        scrubbed = note(&scrub, "bytes");
        assert!(scrubbed >= bytes && note(&scrub, "damaged") == 0);
        hashes.push(hash_all(bytes));
    }
    store.close();
    let (scrub, read, hash) =
        (rate(scrubbed, median(&scrubs)), rate(scrubbed, median(&reads)), rate(bytes, median(&hashes)));
    let alone = 1.0 / (1.0 / read + 1.0 / hash);
    let figure = format!("{scrub:.0} MB/s: {:.2} of {alone:.0} MB/s, which is reading, then hashing", scrub / alone);
    plain("scrub, 256 KiB shards", &figure);
    context(&format!("reading {read:.0} MB/s, BLAKE3 on one thread {hash:.0} MB/s, medians of {ROUNDS}"));
}

/// Time to read every file of a directory from its first byte to its last.
fn read_all(dir: &Path) -> Duration {
    drop_cache(dir);
    let mut buffer = vec![0; 1 << 20];
    let since = Instant::now();
    for entry in fs::read_dir(dir).unwrap() {
        let mut file = File::open(entry.unwrap().path()).unwrap();
        while file.read(&mut buffer).unwrap() > 0 {}
    }
    since.elapsed()
}

/// Time to hash so many bytes, shard by shard.
fn hash_all(bytes: u64) -> Duration {
    // More than a cache of the processor holds, as when it comes from the disk.
    let bytes_here = payload(0, 64 << 20);
    let since = Instant::now();
    let mut hashed = 0;
    for shard in bytes_here.chunks(SHARD_BYTES).cycle() {
        if hashed >= bytes {
            break;
        }
        std::hint::black_box(blake3::hash(shard));
        hashed += shard.len() as u64;
    }
    since.elapsed()
}
