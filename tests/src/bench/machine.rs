//! The machine: what it is, what is free, what processes hold in memory and had of the processors. It changes nothing
//! but what the system keeps of files in memory.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

/// The value behind `name` in a file of lines "name : value".
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Kind of the file system `dir` is on, by the longest mount point above it.
fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    });
    let above = mounts.filter(|(point, _)| dir.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind)
}

/// Prints what the figures depend on.
pub fn print_facts(dir: &Path) {
    let unknown = || "unknown".to_owned();
    let cores = cores();
    println!("CPU: {}, {cores} cores", field("/proc/cpuinfo", "model name").unwrap_or_else(unknown));
    println!("memory: {}", field("/proc/meminfo", "MemTotal").unwrap_or_else(unknown));
    println!("kernel: {}", fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| unknown()).trim());
    println!("file system: {}, {:.0} GB free", file_system(dir).unwrap_or_else(unknown), free(dir) as f64 / 1e9);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| unknown());
    println!("load before: {}", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
}

fn numbers(text: &str, skip: usize) -> Vec<u64> {
    text.split_whitespace().skip(skip).map_while(|word| word.parse().ok()).collect()
}

/// Milliseconds of a tick as Linux tells programs (`USER_HZ`), whatever its own clock runs at.
const TICK_MS: u64 = 10;

/// Ticks a process had: user and system, and the same of its children that ended and were waited for.
fn process_ticks(process: &str) -> Option<[u64; 4]> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the name, which may hold anything: state and ten fields, then the times.
    numbers(text.rsplit_once(')')?.1, 11).get(..4)?.try_into().ok()
}

/// Processor time, a hundredth of a second exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// In programs.
    pub user: Duration,
    /// In the system on their behalf.
    pub system: Duration,
}

impl Work {
    /// What a running process had so far, without its children; nothing if there is none.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let [user, system, ..] = process_ticks(&pid.to_string()).unwrap_or_default();
        Self::from_ticks(user, system)
    }

    /// What the children of this process had that ended and were waited for.
    #[must_use]
    pub fn of_ended_children() -> Self {
        let [.., user, system] = process_ticks("self").unwrap_or_default();
        Self::from_ticks(user, system)
    }

    fn from_ticks(user: u64, system: u64) -> Self {
        let time = |ticks: u64| Duration::from_millis(ticks.saturating_mul(TICK_MS));
        Self { user: time(user), system: time(system) }
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { user: self.user.saturating_sub(before.user), system: self.system.saturating_sub(before.system) }
    }

    /// Both kinds, seconds.
    #[must_use]
    pub fn seconds(self) -> f64 {
        (self.user + self.system).as_secs_f64()
    }
}

impl std::ops::Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| sum + one)
    }
}

/// Ticks of all processors since the start: in sum, and those this process and its ended children had.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    all: u64,
    idle: u64,
    own: u64,
}

impl Ticks {
    /// Up to now.
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap();
        // user, nice, system, idle, waiting for the disk, two kinds of interrupts, taken by the host
        let all = numbers(text.lines().next().unwrap(), 1);
        let own = process_ticks("self").unwrap();
        Self { all: all.iter().take(8).sum(), idle: all[3] + all[4], own: own.iter().sum() }
    }

    /// Which share of the processors' time others had since `before`: other processes, the kernel's own, the host.
    pub fn others_since(&self, before: &Self) -> f64 {
        let [all, idle, own] = [self.all - before.all, self.idle - before.idle, self.own - before.own];
        all.saturating_sub(idle).saturating_sub(own) as f64 / all.max(1) as f64
    }
}

/// Bytes that may still be written to the file system of `dir`.
pub fn free(dir: &Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).unwrap();
    stat.f_bavail.saturating_mul(stat.f_frsize)
}

/// Bytes this process holds in memory: now (`VmRSS`), or at most since the last [`forget_peak`] (`VmHWM`).
#[must_use]
pub fn memory(name: &str) -> u64 {
    memory_of("self", name).unwrap()
}

/// The same of another process, by its id; none if it ended.
#[must_use]
pub fn memory_of(process: &str, name: &str) -> Option<u64> {
    let value = field(&format!("/proc/{process}/status"), name)?;
    Some(value.trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// Time this thread was on a processor: what others take meanwhile is not in it, what they do to the caches is.
///
/// # Panics
/// Where the kernel keeps no such count (`CONFIG_SCHED_INFO`).
#[must_use]
pub fn thread_time() -> Duration {
    // The count of a running thread is brought up to date when it is scheduled, which giving way asks for.
    std::thread::yield_now();
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(numbers(&text, 0)[0])
}

/// Cores this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// From now on the peak counts anew.
pub fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Asks the system to forget what it keeps in memory of all files below `dir`.
pub fn drop_cache(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            drop_cache(&path);
        } else {
            let file = File::open(&path).unwrap();
            // Only what is on the disk can be forgotten.
            file.sync_all().unwrap();
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_in_a_program_counts_as_its_user_time() {
        let (before, since) = (Work::of(std::process::id()), thread_time());
        let mut hash = blake3::hash(b"");
        while thread_time() - since < Duration::from_millis(300) {
            (0..1000).for_each(|_| hash = blake3::hash(hash.as_bytes()));
        }
        let work = Work::of(std::process::id()).since(before);
        assert!(work.user >= Duration::from_millis(150), "{work:?}");
        assert!(work.user > work.system, "{work:?}");
    }

    #[test]
    fn the_children_of_a_process_count_once_they_ended() {
        let before = Work::of_ended_children();
        let spin = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("sh").args(["-c", spin]).status().unwrap().success());
        let work = Work::of_ended_children().since(before);
        assert!(work.user >= Duration::from_millis(20), "{work:?}");
    }
}
