//! Full disks that are really full: small file systems of their own, filled and freed again and again. Needs root to
//! mount them; without it these tests say that they were skipped.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use shoal_node::chunks::vfs_os::OsVfs;
use shoal_node::chunks::workers::Command as JobCommand;
use shoal_node::chunks::{Health, Mark, PutError, ReserveError, Store, StoreConfig};
use shoal_protocol::{GroupId, ShardId};
use shoal_tests::budget::{FULL_DISK_CYCLES, say};
use shoal_tests::process::{Shoal, Shoald};
use shoal_tests::sample::{bytes, clock};
use tokio::runtime::Runtime;

const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
const SHOAL: &str = env!("CARGO_BIN_EXE_test-shoal");
const MIB: u64 = 1 << 20;

/// A small file system, mounted for as long as this lives.
struct SmallDisk {
    mounted: PathBuf,
    _room: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one of this kind; `None`, said aloud, where that is not allowed.
    fn mount(kind: &str, size: u64) -> Option<Self> {
        let room = tempfile::tempdir().unwrap();
        let mounted = room.path().join("disk");
        std::fs::create_dir(&mounted).unwrap();
        let done = match kind {
            "tmpfs" => run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], &mounted),
            _ => {
                let image = room.path().join("image");
                std::fs::File::create(&image).unwrap().set_len(size).unwrap();
                run("mkfs.ext4", &["-q", "-F", "-m", "0"], &image)
                    && run("mount", &["-o", "loop", text(&image)], &mounted)
            }
        };
        if !done {
            say(&format!("full disk: SKIPPED on {kind}, it cannot be mounted here"));
            return None;
        }
        Some(Self { mounted, _room: room })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &[], &self.mounted);
    }
}

fn run(program: &str, arguments: &[&str], last: &Path) -> bool {
    Command::new(program).args(arguments).arg(last).output().is_ok_and(|output| output.status.success())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn group() -> GroupId {
    GroupId::from_bytes([1; 32])
}

/// Stores new shards until the disk is full. The refusal must be a typed one, and the store as well as before.
fn fill(runtime: &Runtime, store: &Store, next: &mut u64, held: &mut Vec<u64>) -> usize {
    let before = held.len();
    loop {
        let n = *next;
        *next += 1;
        let payload = Bytes::from(content(n));
        let stored = match store.reserve(payload.len() as u64) {
            Ok(space) => runtime.block_on(store.put_shard(space, ShardId::of(&payload), group(), payload)).map(drop),
            Err(error) => Err(PutError::Space(error)),
        };
        match stored {
            Ok(()) => held.push(n),
            Err(PutError::DiskFull | PutError::Space(ReserveError::Disk { .. })) => break,
            Err(other) => panic!("a full disk says {other:?}"),
        }
    }
    assert_eq!(store.health(), Health::Good);
    held.len() - before
}

fn content(n: u64) -> Vec<u8> {
    bytes(n, 20_000 + usize::try_from(n * 7919 % 400_000).unwrap())
}

fn assert_reads(store: &Store, n: u64) {
    let payload = content(n);
    let mut read = 0;
    let mut sink = |piece: Vec<u8>| {
        read += piece.len();
        ControlFlow::Continue(())
    };
    let all = [0..payload.len() as u64];
    let done = store.read_encoded(&ShardId::of(&payload), &all, &mut sink);
    assert!(done.is_ok() && read >= payload.len(), "shard {n}: {done:?}");
}

fn cycles(kind: &str) {
    let Some(disk) = SmallDisk::mount(kind, 24 * MIB) else { return };
    let runtime = Runtime::new().unwrap();
    let data = disk.mounted.join("node");
    let open = || Store::open(Arc::new(OsVfs), &data, StoreConfig::new(64 * MIB), [7; 32]).unwrap().0;
    let store = open();
    store.start_upkeep(Arc::new(|| clock().0)).unwrap();
    let (mut next, mut held) = (0, Vec::new());
    let count = FULL_DISK_CYCLES.take();
    for cycle in 0..count {
        let more = fill(&runtime, &store, &mut next, &mut held);
        assert!(more > 10, "cycle {cycle}: only {more} shards were taken");
        // On the full disk: reads, deletes and compaction.
        held.iter().step_by(9).for_each(|n| assert_reads(&store, *n));
        let (gone, kept): (Vec<u64>, Vec<u64>) = held.iter().partition(|n| (**n + cycle as u64) % 10 < 7);
        let ids: Vec<ShardId> = gone.iter().map(|n| ShardId::of(&content(*n))).collect();
        let marks = ids.iter().map(|id| store.put_mark(id, Mark::Tombstone));
        for dead in runtime.block_on(futures::future::join_all(marks)) {
            assert!(dead.is_ok(), "cycle {cycle}: {dead:?}");
        }
        store.command("compact", JobCommand::Start).unwrap();
        let rest = store.run_job("compact").unwrap();
        let status = store.status();
        assert!(status.usage.stored < 18 * MIB, "cycle {cycle}: {rest:?} {status:?}");
        held = kept;
        held.iter().step_by(5).for_each(|n| assert_reads(&store, *n));
    }
    let segments = store.status().segments;
    store.close();
    let store = open();
    held.iter().for_each(|n| assert_reads(&store, *n));
    assert_eq!(store.shards(), held.len(), "what was deleted stays deleted");
    say(&format!("{kind}: {count} cycles, {next} shards offered, {} left in {segments} segments", held.len()));
    store.close();
}

#[test]
fn a_disk_filled_and_freed_again_and_again_loses_nothing_and_goes_on() {
    cycles("tmpfs");
}

#[test]
fn the_same_on_a_loop_mounted_file_system() {
    cycles("ext4");
}

#[test]
fn a_full_disk_is_exit_15_for_the_client_and_the_node_goes_on() {
    let Some(disk) = SmallDisk::mount("tmpfs", 40 * MIB) else { return };
    let room = tempfile::tempdir().unwrap();
    let first = Shoald::start(SHOALD, &disk.mounted.join("a"), &["--open", "--quota", "100MB"]).unwrap();
    let more = ["--open", "--quota", "100MB", "--bootstrap", &first.address];
    let second = Shoald::start(SHOALD, &room.path().join("b"), &more).unwrap();
    let (small, big) = (room.path().join("small"), room.path().join("big"));
    std::fs::write(&small, bytes(1, 300_000)).unwrap();
    std::fs::write(&big, bytes(2, 120_000_000)).unwrap();
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let upload = |file: &Path| {
        let mut command = shoal.command(&["upload", "-", "--peer", &first.address, "--code", "1+1"]);
        command.stdin(std::fs::File::open(file).unwrap()).output().unwrap()
    };
    assert_eq!(upload(&small).status.code(), Some(0));
    let refused = upload(&big);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(15), "{said}");
    // A little more still fits beside the reserve, or is refused in the same way; the node is there in any case.
    let again = upload(&small).status.code();
    assert!(matches!(again, Some(0 | 15)), "{again:?}");
    drop((first, second));
}
