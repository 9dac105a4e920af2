//! Row `foreground`: what a client waits while the store works for itself. Shards come and are read at a fixed rate,
//! whether the one before is done or not, and the time of each counts from when it was due.

use std::ops::ControlFlow;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use shoal_node::chunks::Store;
use shoal_node::chunks::workers::{Command, State};
use shoal_protocol::ShardId;
use tokio::runtime::Runtime;

use crate::compact::{is_removed, prepare};
use crate::fixture::{job, open, put, put_all, runtime, shard, shards, start_jobs};
use shoal_tests::bench::Setting;
use shoal_tests::bench::machine::drop_cache;
use shoal_tests::bench::report::{Limit, context, judged, ms, quantile};

/// Shards the store has before, four tenths of which stay.
const BASE_BYTES: u64 = 6 << 30;
/// Three segments: the last one is appended to again, and never compacted.
const BASE_BYTES_MIN: u64 = 768 << 20;
const BASE_SHARD_BYTES: usize = 256 << 10;
/// Shards that are put, and ranges that are read.
const BYTES: usize = 64 << 10;
const PHASE: Duration = Duration::from_secs(20);
/// Shards that tell how many a second there could be.
const TRIAL: u64 = 4096;
const TRIAL_IN_FLIGHT: usize = 16;
/// A third of that is asked for, but no more than this a second: a phase then never reads a shard twice.
const RATE_MAX: f64 = 300.0;
/// Most, in multiples of what it is alone.
const LIMIT: f64 = 2.0;
/// Numbers of shards that nothing else uses.
const TRIAL_START: u64 = 1 << 40;
const PHASE_START: u64 = 1 << 41;
/// A job is compared with the phases before and after it. The first phase only warms up: the disk still has the base.
const PHASES: [Option<&str>; 6] = [None, None, Some("scrub"), None, Some("compact"), None];

/// What each operation of a phase took.
#[derive(Default)]
struct Waits {
    put: Vec<Duration>,
    read: Vec<Duration>,
}

/// The store under load.
struct Load {
    runtime: Runtime,
    store: Store,
    /// Shards that are there to be read.
    live: Vec<ShardId>,
    /// Operations of each kind a second.
    rate: f64,
    /// How long a phase is.
    length: Duration,
}

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    let dir = setting.fresh();
    let data = dir.path().join("store");
    let base = setting.size(BASE_BYTES).max(BASE_BYTES_MIN) / BASE_SHARD_BYTES as u64;
    prepare(&data, base, BASE_SHARD_BYTES);
    let store = open(&data);
    start_jobs(&store);
    let runtime = runtime();
    let since = Instant::now();
    put_all(&runtime, &store, TRIAL_START..TRIAL_START + setting.size(TRIAL), TRIAL_IN_FLIGHT, &shards(BYTES));
    let most = setting.size(TRIAL) as f64 / since.elapsed().as_secs_f64();
    let rate = (most / 3.0).min(RATE_MAX);
    let length = if setting.small { PHASE / 8 } else { PHASE };
    context(&format!("{most:.0} puts a second with {TRIAL_IN_FLIGHT} in flight; asked for: {rate:.0} puts and reads"));
    let live = (0..base).filter(|number| !is_removed(*number)).map(|number| shard(number, BASE_SHARD_BYTES).0);
    let load = Load { live: live.collect(), runtime, store, rate, length };

    let mut phases: Vec<Waits> =
        PHASES.iter().enumerate().map(|(at, job)| load.phase(&data, at as u64, *job)).collect();
    load.store.close();
    for (at, job) in PHASES.iter().enumerate() {
        if let Some(name) = job {
            let mut alone = Waits::default();
            for beside in [at - 1, at + 1] {
                alone.put.extend(&phases[beside].put);
                alone.read.extend(&phases[beside].read);
            }
            let with = &mut phases[at];
            compare(&format!("put p99 of 64 KiB beside {name}"), &mut alone.put, &mut with.put);
            compare(&format!("read p99 of 64 KiB beside {name}"), &mut alone.read, &mut with.read);
        }
    }
}

fn say_phase(name: &str, put: &mut [Duration], read: &mut [Duration]) {
    let [p50, p99, worst] = [0.5, 0.99, 1.0].map(|share| ms(quantile(put, share)));
    let [r50, r99, longest] = [0.5, 0.99, 1.0].map(|share| ms(quantile(read, share)));
    context(&format!(
        "{name}: put p50 {p50:.2} p99 {p99:.2} most {worst:.1} ms, read p50 {r50:.2} p99 {r99:.2} most {longest:.1} ms"
    ));
}

fn compare(what: &str, alone: &mut [Duration], with: &mut [Duration]) {
    let (alone, with) = (ms(quantile(alone, 0.99)), ms(quantile(with, 0.99)));
    judged(what, &format!("{with:.2} ms, alone {alone:.2} ms"), with / alone, "x", Limit::AtMost(LIMIT));
}

impl Load {
    /// One phase, with a job at its usual speed or with none. It begins with nothing of the store in the system's memory.
    fn phase(&self, data: &Path, at: u64, with: Option<&str>) -> Waits {
        drop_cache(data);
        let before = with.map(|name| job(&self.store.status(), name));
        let mut waits = thread::scope(|scope| {
            let puts = scope.spawn(|| self.put_steadily(at));
            let reads = scope.spawn(|| self.read_steadily(at));
            if let Some(name) = with {
                self.keep_running(name);
            }
            Waits { put: puts.join().unwrap(), read: reads.join().unwrap() }
        });
        if let (Some(name), Some(before)) = (with, before) {
            let after = job(&self.store.status(), name);
            let share = (after.busy_ms - before.busy_ms) as f64 / ms(self.length);
            let steps = after.steps - before.steps;
            context(&format!(
                "{name} with pauses of {} steps: {steps} steps, {share:.2} of the time",
                after.tranquility
            ));
        }
        say_phase(with.unwrap_or("alone"), &mut waits.put, &mut waits.read);
        waits
    }

    /// Has a job at work until the phase is over; one that ends before is started again.
    fn keep_running(&self, name: &str) {
        let since = Instant::now();
        let mut starts = 0;
        while since.elapsed() < self.length {
            if job(&self.store.status(), name).state != State::Running {
                self.store.command(name, Command::Start).unwrap();
                starts += 1;
            }
            thread::sleep(Duration::from_millis(100));
        }
        self.store.command(name, Command::Pause).unwrap();
        self.store.command(name, Command::Cancel).unwrap();
        if starts > 1 {
            context(&format!("{name} had nothing left to do and was started {starts} times"));
        }
    }

    /// Sleeps until each operation is due and starts it; the time it was due and its number go to `start`.
    fn pace(&self, mut start: impl FnMut(Instant, u64)) {
        let (since, mut number) = (Instant::now(), 0);
        loop {
            let after = Duration::from_secs_f64(number as f64 / self.rate);
            if after >= self.length {
                return;
            }
            let due = since + after;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            start(due, number);
            number += 1;
        }
    }

    fn put_steadily(&self, at: u64) -> Vec<Duration> {
        let first = PHASE_START + (at << 32);
        let mut next = shard(first, BYTES);
        let mut tasks = Vec::new();
        self.pace(|due, number| {
            // Made before it is due: the making is not the store's.
            let (id, payload) = next.clone();
            let store = self.store.clone();
            tasks.push(self.runtime.spawn(async move {
                put(&store, id, payload).await;
                due.elapsed()
            }));
            next = shard(first + number + 1, BYTES);
        });
        tasks.into_iter().map(|task| self.runtime.block_on(task).unwrap()).collect()
    }

    fn read_steadily(&self, at: u64) -> Vec<Duration> {
        // A step without a common divisor: all over the disk, and none twice in a phase.
        let step = self.live.len() / 3 + 1;
        let step = (step..).find(|step| gcd(*step, self.live.len()) == 1).unwrap();
        let mut tasks = Vec::new();
        self.pace(|due, number| {
            let id = self.live[(at as usize * 7 + number as usize * step) % self.live.len()];
            let store = self.store.clone();
            tasks.push(self.runtime.spawn_blocking(move || {
                let mut sink = |_: Vec<u8>| ControlFlow::Continue(());
                let start = (number % 4) * BYTES as u64;
                let bytes = [start..start + BYTES as u64];
                store.read_encoded(&id, &bytes, &mut sink).unwrap();
                due.elapsed()
            }));
        });
        tasks.into_iter().map(|task| self.runtime.block_on(task).unwrap()).collect()
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
