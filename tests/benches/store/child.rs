//! What is measured in a process of its own, so that nothing of what was done before is in its memory: this program
//! again, with [`FLAG`] first. It says what it saw in one line on its standard output.

use std::env;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::Instant;

use shoal_node::chunks::fsck;

use crate::fixture::{disk, fill, open, open_over, put_all, run_job, runtime, shards, start_jobs};
use shoal_tests::bench::machine::{drop_cache, forget_peak, memory};

/// First argument of a child.
pub(crate) const FLAG: &str = "--child";

/// What opening a store cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    /// Seconds.
    pub(crate) seconds: f64,
    /// Bytes of memory the open store takes.
    pub(crate) memory: u64,
    /// Highest bytes of memory on the way.
    pub(crate) peak: u64,
    /// Records read from the log.
    pub(crate) records: u64,
    /// Whether the snapshot of the index was used.
    pub(crate) from_snapshot: bool,
    /// Shards there.
    pub(crate) shards: u64,
}

/// Runs this program again and gives the numbers it printed.
fn again(arguments: &[&str], data: &Path) -> Vec<u64> {
    let mut process = Process::new(env::current_exe().unwrap());
    let run = process.arg(FLAG).args(arguments).arg(data).stderr(Stdio::inherit()).output().unwrap();
    assert!(run.status.success(), "{arguments:?}: {}", run.status);
    let text = String::from_utf8(run.stdout).unwrap();
    text.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

/// Adds shards `from..to` of `bytes` bytes to a store and closes it.
pub(crate) fn grow(data: &Path, from: u64, to: u64, bytes: u64) {
    again(&["grow", &from.to_string(), &to.to_string(), &bytes.to_string()], data);
}

/// The same, but the process ends without closing: what was acknowledged is in the log, the snapshot is the one before.
pub(crate) fn grow_and_die(data: &Path, from: u64, to: u64, bytes: u64) {
    again(&["die", &from.to_string(), &to.to_string(), &bytes.to_string()], data);
}

/// Opens a store from the disk, not from what the system has in memory of it, and closes it.
pub(crate) fn reopen(data: &Path) -> Opened {
    let [micros, memory, peak, records, snapshot, shards] = again(&["open"], data).try_into().unwrap();
    Opened { seconds: micros as f64 / 1e6, memory, peak, records, from_snapshot: snapshot != 0, shards }
}

/// The same without its snapshot.
pub(crate) fn reopen_from_log(data: &Path) -> Opened {
    fsck::forget_index(&disk(), data).unwrap();
    let opened = reopen(data);
    assert!(!opened.from_snapshot);
    opened
}

/// Bytes of memory of an open store, and the highest bytes while a snapshot is taken.
pub(crate) fn snapshot_peak(data: &Path) -> (u64, u64) {
    let [memory, peak] = again(&["peak"], data).try_into().unwrap();
    (memory, peak)
}

/// The child's side.
pub(crate) fn run(arguments: &[String]) {
    let (data, arguments) = arguments.split_last().unwrap();
    let data = Path::new(data);
    let (what, numbers) = arguments.split_first().unwrap();
    let numbers: Vec<u64> = numbers.iter().map(|number| number.parse().unwrap()).collect();
    match (what.as_str(), numbers.as_slice()) {
        ("grow", [from, to, bytes]) => fill(data, *from..*to, *bytes as usize),
        ("die", [from, to, bytes]) => {
            let store = open(data);
            put_all(&runtime(), &store, *from..*to, 128, &shards(*bytes as usize));
            std::process::exit(0);
        }
        ("open", []) => measure_open(data),
        ("peak", []) => measure_peak(data),
        other => panic!("no such child: {other:?}"),
    }
}

fn measure_open(data: &Path) {
    drop_cache(data);
    let before = memory("VmRSS");
    let since = Instant::now();
    let (store, report) = open_over(disk(), data);
    let micros = since.elapsed().as_micros();
    let (after, peak) = (memory("VmRSS"), memory("VmHWM"));
    let (taken, most) = (after.saturating_sub(before), peak.saturating_sub(before));
    println!("{micros} {taken} {most} {} {} {}", report.records, u8::from(report.from_snapshot), store.shards());
    store.close();
}

fn measure_peak(data: &Path) {
    let before = memory("VmRSS");
    let store = open(data);
    start_jobs(&store);
    forget_peak();
    let after = memory("VmRSS");
    run_job(&store, "snapshot");
    println!("{} {}", after.saturating_sub(before), memory("VmHWM").saturating_sub(before));
    store.close();
}
