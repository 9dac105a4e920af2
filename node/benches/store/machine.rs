//! The machine: what it is, what is free, what this process holds in memory. It changes nothing but what the system
//! keeps of files in memory.

use std::fs::{self, File};
use std::path::Path;

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
pub(crate) fn print_facts(dir: &Path) {
    let unknown = || "unknown".to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("CPU: {}, {cores} cores", field("/proc/cpuinfo", "model name").unwrap_or_else(unknown));
    println!("memory: {}", field("/proc/meminfo", "MemTotal").unwrap_or_else(unknown));
    println!("kernel: {}", fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| unknown()).trim());
    println!("file system: {}, {:.0} GB free", file_system(dir).unwrap_or_else(unknown), free(dir) as f64 / 1e9);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_else(|_| unknown());
    println!("load before: {}", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
}

/// Ticks of all processors since the start: in sum, and those this process and its ended children had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks {
    all: u64,
    idle: u64,
    own: u64,
}

impl Ticks {
    /// Up to now.
    pub(crate) fn now() -> Self {
        let numbers = |text: &str, skip: usize| -> Vec<u64> {
            text.split_whitespace().skip(skip).map_while(|word| word.parse().ok()).collect()
        };
        let text = fs::read_to_string("/proc/stat").unwrap();
        // user, nice, system, idle, waiting for the disk, two kinds of interrupts, taken by the host
        let all = numbers(text.lines().next().unwrap(), 1);
        let text = fs::read_to_string("/proc/self/stat").unwrap();
        // Behind the name, which may hold anything: state and ten fields, then the times of it and of its children.
        let own = numbers(text.rsplit_once(')').unwrap().1, 12);
        Self { all: all.iter().take(8).sum(), idle: all[3] + all[4], own: own.iter().take(4).sum() }
    }

    /// Which share of the processors' time others had since `before`: other processes, the kernel's own, the host.
    pub(crate) fn others_since(&self, before: &Self) -> f64 {
        let [all, idle, own] = [self.all - before.all, self.idle - before.idle, self.own - before.own];
        all.saturating_sub(idle).saturating_sub(own) as f64 / all.max(1) as f64
    }
}

/// Bytes that may still be written to the file system of `dir`.
pub(crate) fn free(dir: &Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).unwrap();
    stat.f_bavail.saturating_mul(stat.f_frsize)
}

/// Bytes this process holds in memory: now (`VmRSS`), or at most since the last [`forget_peak`] (`VmHWM`).
pub(crate) fn memory(name: &str) -> u64 {
    let value = field("/proc/self/status", name).unwrap();
    value.trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// From now on the peak counts anew.
pub(crate) fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Asks the system to forget what it keeps in memory of all files below `dir`.
pub(crate) fn drop_cache(dir: &Path) {
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
