//! The jobs of a running store on their own thread: what they notice, when they run, and what a restart keeps of them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::commit::{Draft, Writer};
use super::super::jobs::compact::Stepped;
use super::super::jobs::scrub::Scrubber;
use super::super::log::Log;
use super::super::record::Kind;
use super::super::vfs::DirId;
use super::super::workers::Command;
use super::world::{LOOK, SHARDS, compact, crash_config, put_draft, room, shard, shard_id, writer_with};
use super::*;

const DAY_MS: u64 = 24 * 3600 * 1000;
/// A moment in 2026, milliseconds since 1970.
const NOW: u64 = 1_780_000_000_000;

struct Clock(Arc<AtomicU64>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NOW)))
    }

    fn start(&self, store: &Store) {
        let now = Arc::clone(&self.0);
        store.start_upkeep(Arc::new(move || now.load(Ordering::SeqCst))).unwrap();
    }

    fn pass(&self, milliseconds: u64) {
        self.0.fetch_add(milliseconds, Ordering::SeqCst);
    }
}

fn noted(store: &Store, job: &str, name: &str) -> u64 {
    let status = store.status();
    let job = status.jobs.iter().find(|status| status.name == job).unwrap();
    job.progress.notes.iter().find(|(note, _)| note == name).unwrap().1
}

fn filled(vfs: &MemVfs, runtime: &Runtime, count: u64) -> Store {
    let (store, _) = open_with(vfs, small_segments()).unwrap();
    runtime.block_on(async {
        store.put_group(group(1), UnixMillis(NOW + DAY_MS), Bytes::from_static(b"one")).await.unwrap();
        for n in 0..count {
            put(&store, group(1), &payload(n, 20_000)).await.unwrap();
        }
    });
    store
}

#[test]
fn another_disk_under_an_open_store_ends_writing_and_is_said() {
    let swaps: [fn(&MemVfs); 3] = [
        |vfs| vfs.set_identity(data(), DirId { device: 2, inode: 1 }),
        |vfs| vfs.set_identity(&data().join("segments"), DirId { device: 1, inode: 99 }),
        |vfs| vfs.remove(&data().join("segments/store.id")).unwrap(),
    ];
    for swap in swaps {
        let (runtime, vfs) = (runtime(), MemVfs::default());
        let store = filled(&vfs, &runtime, 2);
        Clock::new().start(&store);
        store.run_job("watch").unwrap();
        assert_eq!(store.health(), Health::Good);
        swap(&vfs);
        store.command("watch", Command::Start).unwrap();
        store.run_job("watch").unwrap();
        assert_eq!((store.health(), store.status().health), (Health::Detached, Health::Detached));
        let refused = runtime.block_on(put(&store, group(1), &payload(9, 10)));
        assert_eq!(refused, Err(PutError::Space(ReserveError::ReadOnly)));
        let marked = runtime.block_on(store.put_mark(&ShardId::of(&payload(0, 20_000)), Mark::Tombstone));
        assert_eq!(marked, Err(PutError::ReadOnly));
        let before = vfs.paths();
        store.close();
        assert!(before.iter().all(|path| vfs.contents(path).is_some()), "nothing is written or removed there");
    }
}

#[test]
fn what_no_lease_holds_goes_after_seven_days_and_its_space_comes_back() {
    let (runtime, vfs, clock) = (runtime(), MemVfs::default(), Clock::new());
    let store = filled(&vfs, &runtime, 30);
    clock.start(&store);
    for (later, left) in [(0, 30), (DAY_MS * 7, 30), (DAY_MS + 3_600_000, 0)] {
        clock.pass(later);
        store.run_job("expire").unwrap();
        assert_eq!(store.shards(), left, "after another {later} ms");
    }
    let stored = store.usage().stored;
    store.run_job("compact").unwrap();
    assert!(store.usage().stored < stored / 10, "{} of {stored}", store.usage().stored);
    let gone = ShardId::of(&payload(0, 20_000));
    assert_eq!(runtime.block_on(store.put_mark(&gone, Mark::Ref(group(1)))), Err(PutError::NotFound));
    store.close();
    assert_eq!(open_with(&vfs, small_segments()).unwrap().0.shards(), 0);
}

#[test]
fn a_lease_renewed_while_its_shards_lie_in_the_trash_keeps_them() {
    let (runtime, vfs, clock) = (runtime(), MemVfs::default(), Clock::new());
    let store = filled(&vfs, &runtime, 3);
    clock.start(&store);
    clock.pass(DAY_MS * 6);
    store.run_job("expire").unwrap();
    let renewed = store.put_group(group(1), UnixMillis(NOW + DAY_MS * 40), Bytes::from_static(b"two"));
    runtime.block_on(renewed).unwrap();
    clock.pass(DAY_MS * 10);
    store.run_job("expire").unwrap();
    assert_eq!(store.shards(), 3);
}

#[test]
fn a_scrub_comes_once_a_month_and_goes_on_where_the_node_stopped() {
    let (runtime, vfs, clock) = (runtime(), MemVfs::default(), Clock::new());
    let store = filled(&vfs, &runtime, 40);
    clock.start(&store);
    store.run_job("scrub").unwrap();
    assert_eq!(noted(&store, "scrub", "records"), 0, "a new store has nothing to look for yet");
    clock.pass(DAY_MS * 36);
    store.run_job("scrub").unwrap();
    assert_eq!((noted(&store, "scrub", "records"), noted(&store, "scrub", "ended_ms")), (41, NOW + DAY_MS * 36));
    store.close();

    // What was found is still known, and the next one is not due.
    let (store, _) = open_with(&vfs, small_segments()).unwrap();
    clock.pass(DAY_MS);
    clock.start(&store);
    store.run_job("scrub").unwrap();
    assert_eq!((noted(&store, "scrub", "records"), noted(&store, "scrub", "ended_ms")), (41, NOW + DAY_MS * 36));

    // A pass that was under way when the node stopped goes on.
    vfs.set_contents(&data().join("scrub"), format!("shoal-scrub-1 {} 5 2 17 1 0 0 0\n", NOW).as_bytes());
    store.close();
    vfs.set_contents(&data().join("scrub"), format!("shoal-scrub-1 {} 5 2 17 1 0 0 0\n", NOW).as_bytes());
    let (store, _) = open_with(&vfs, small_segments()).unwrap();
    clock.start(&store);
    store.run_job("scrub").unwrap();
    let records = noted(&store, "scrub", "records");
    assert!(records > 17 && records < 17 + 41, "{records}");
    store.close();
}

#[test]
fn a_snapshot_is_taken_when_asked_and_spares_the_log() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let store = filled(&vfs, &runtime, 10);
    Clock::new().start(&store);
    store.command("snapshot", Command::Start).unwrap();
    store.run_job("snapshot").unwrap();
    kill(store, &vfs);
    let (_, report) = open_with(&vfs, small_segments()).unwrap();
    assert_eq!((report.from_snapshot, report.records), (true, 0));
}

#[test]
fn readers_find_every_shard_while_compaction_moves_it() {
    let (runtime, vfs, clock) = (runtime(), MemVfs::default(), Clock::new());
    let store = filled(&vfs, &runtime, 60);
    clock.start(&store);
    let kept: Vec<Bytes> = (0..60).filter(|n| n % 3 == 0).map(|n| payload(n, 20_000)).collect();
    let statement = Bytes::from_static(b"one");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut reads = 0;
                    while !done.load(Ordering::SeqCst) {
                        for shard in &kept {
                            let id = ShardId::of(shard);
                            assert_eq!(store.shard_length(&id), Some(20_000));
                            assert_reads(&store, shard, "while it moves");
                            reads += 1;
                        }
                        assert_eq!(store.group(&group(1)).unwrap(), Some(statement.clone()));
                    }
                    reads
                })
            })
            .collect();
        for round in 0..6 {
            // What is dead is put again and buried again, so that every round has segments to compact.
            for n in (0..60).filter(|n| n % 3 != 0) {
                runtime.block_on(put(&store, group(1), &payload(n, 20_000))).unwrap();
                let id = ShardId::of(&payload(n, 20_000));
                runtime.block_on(store.put_mark(&id, Mark::Tombstone)).unwrap();
            }
            store.command("compact", Command::Start).unwrap();
            let rest = store.run_job("compact").unwrap();
            assert!(noted(&store, "compact", "segments_removed") > round, "{rest:?}");
        }
        done.store(true, Ordering::SeqCst);
        let reads: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(reads > 100, "{reads}");
    });
    assert_eq!(store.shards(), kept.len());
}

/// A writer with all [`SHARDS`] in segments of a few records.
fn written(vfs: &MemVfs) -> Writer {
    let (mut writer, _) = writer_with(vfs, crash_config()).unwrap();
    let put: Vec<_> = (0..SHARDS).flat_map(|n| writer.commit(vec![put_draft(&shard(n), group(1))])).collect();
    assert!(put.iter().all(Result::is_ok), "{put:?}");
    writer
}

fn bury_most(writer: &mut Writer) {
    let dead = (0..SHARDS).filter(|n| n % 6 != 0);
    let drafts = dead.map(|n| Draft::mark(Kind::Tombstone, *shard_id(n).as_bytes(), [0; 32])).collect();
    assert!(writer.commit(drafts).iter().all(Result::is_ok));
}

#[test]
fn a_scrub_lets_go_of_a_segment_that_compaction_removes() {
    let vfs = MemVfs::default();
    let mut writer = written(&vfs);
    let room = room(&writer);
    let mut scrub = Scrubber::default();
    scrub.begin(&room, 0, LOOK);
    // The first segment is open and not read yet.
    assert!(matches!(scrub.step(&room, &mut writer, LOOK), Ok(Stepped::Busy)));
    let at = scrub.segment().unwrap();
    bury_most(&mut writer);
    assert!(compact(&mut writer).unwrap() > 1);
    assert!(vfs.contents(&segment_path(data(), at)).is_none(), "segment {at} is still there");
    while let Stepped::Busy = scrub.step(&room, &mut writer, LOOK).unwrap() {}
    assert_eq!((scrub.found.damaged, scrub.found.lost), (0, 0));
    world::consistent(&writer, "after the scrub");
}

#[test]
fn who_reads_a_removed_segment_reads_it_to_the_end() {
    let vfs = MemVfs::default();
    let mut writer = written(&vfs);
    let slot = writer.shared.find(shard_id(6).as_bytes()).unwrap();
    let reader = writer.shared.files.get(slot.segment).unwrap();
    let length = reader.length().unwrap();
    bury_most(&mut writer);
    compact(&mut writer).unwrap();
    assert!(vfs.contents(&segment_path(data(), slot.segment)).is_none());
    assert_eq!(reader.length().unwrap(), length, "cut under its reader");
    assert_ne!(writer.shared.find(shard_id(6).as_bytes()).unwrap().segment, slot.segment);
}
