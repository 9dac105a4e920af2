//! Row `recovery`: how long opening takes, with nothing of the store in the system's memory. The slowest of three counts.

use std::path::Path;

use crate::child::{Opened, grow, grow_and_die, reopen, reopen_from_log};
use shoal_tests::bench::Setting;
use shoal_tests::bench::machine::free;
use shoal_tests::bench::report::{Limit, context, judged};

const SHARDS: u64 = 1_000_000;
/// Bytes of a payload in the small and in the large store.
const SMALL_BYTES: u64 = 64;
const LARGE_BYTES: u64 = 10_000;
/// Shards that come between the last snapshot and a kill.
const YOUNGER: u64 = 100_000;
const ROUNDS: usize = 3;
/// Most seconds.
const LIMIT: f64 = 5.0;

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    let shards = setting.size(SHARDS);
    let dir = setting.fresh();
    let data = dir.path().join("small");
    grow(&data, 0, shards, SMALL_BYTES);
    both_ways("reopen", &data, shards);
    let (mut worst, mut from) = (None, shards);
    for _ in 0..ROUNDS {
        let to = from + setting.size(YOUNGER);
        grow_and_die(&data, from, to, SMALL_BYTES);
        from = to;
        worst = slower(worst, reopen(&data));
    }
    say(&format!("reopen after a kill, {} records younger than the snapshot", setting.size(YOUNGER)), worst);
    drop(dir);

    // The log, and as much again for the file system and whoever else writes.
    let needed = 2 * shards * LARGE_BYTES;
    let left = free(&setting.dir);
    if left < needed {
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        println!("reopen, large log: SKIPPED: needs {:.0} GB free, {:.0} are", gigabytes(needed), gigabytes(left));
        return;
    }
    let dir = setting.fresh();
    let data = dir.path().join("large");
    grow(&data, 0, shards, LARGE_BYTES);
    both_ways(&format!("reopen, log of {:.1} GB", (shards * LARGE_BYTES) as f64 / 1e9), &data, shards);
}

fn both_ways(what: &str, data: &Path, shards: u64) {
    let (mut snapshot, mut log) = (None, None);
    for _ in 0..ROUNDS {
        let opened = reopen(data);
        assert!(opened.from_snapshot && opened.shards == shards);
        snapshot = slower(snapshot, opened);
        log = slower(log, reopen_from_log(data));
    }
    say(&format!("{what}, from the snapshot"), snapshot);
    say(&format!("{what}, from the log"), log);
}

fn slower(worst: Option<Opened>, opened: Opened) -> Option<Opened> {
    Some(worst.filter(|worst| worst.seconds > opened.seconds).unwrap_or(opened))
}

fn say(what: &str, opened: Option<Opened>) {
    let opened = opened.unwrap();
    let figure = format!("{} shards, {} records read from the log", opened.shards, opened.records);
    judged(what, &figure, opened.seconds, "s", Limit::AtMost(LIMIT));
    context(&format!("slowest of {ROUNDS}; memory {:.0} MB, on the way {:.0} MB", mb(opened.memory), mb(opened.peak)));
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
