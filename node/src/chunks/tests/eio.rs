//! A disk that fails: every single operation of a fixed workload fails once or from then on, or finds the disk full.
//! What was acknowledged is there after any crash and after a healed reopening, no descriptor is written or synced after
//! its sync failed, and a full disk is refused by name and left again without reopening.

use super::super::commit::{Append, Draft, Writer};
use super::super::log::Log;
use super::super::vfs_mem::{Fault, FaultError, Operation, OperationKind};
use super::world::*;
use super::*;
use tokio::sync::oneshot;

/// Power cuts tried after each run.
const CRASHES: u64 = 3;

/// One run of the workload: what it was promised, and the writer if it got that far.
struct Run {
    writer: Option<Writer>,
    promised: Promised,
}

impl Run {
    /// Everything a store does, once. Errors are the answer of the day: only what is acknowledged counts.
    fn new(vfs: &MemVfs) -> Self {
        let mut run = Self { writer: reopen(vfs).ok(), promised: Promised::default() };
        run.group(0);
        run.put(&[1, 2, 3], 0);
        run.put(&[4], 1);
        run.record(1);
        run.hold(2, 1);
        run.let_go(3, 0);
        // Held by its mark alone from here on.
        run.hold(3, 1);
        run.rotate();
        run.put(&[5, 6], 1);
        run.remove(1);
        run.record(1);
        run.with(|writer| save(writer).is_ok());
        run.rotate();
        run.put(&[7, 1], 0);
        run.with(|writer| compact(writer).is_ok());
        run.record(2);
        run.with(|writer| scrub(writer).is_ok());
        run.put(&[8, 9], 1);
        run.end_in_order(vfs);
        run.put(&[10], 0);
        run.record(1);
        run.group(1);
        run
    }

    fn with(&mut self, work: impl FnOnce(&mut Writer) -> bool) -> bool {
        self.writer.as_mut().is_some_and(work)
    }

    fn one(&mut self, draft: Draft) -> bool {
        self.with(|writer| writer.commit(vec![draft])[0].is_ok())
    }

    fn put(&mut self, numbers: &[u64], holder: u8) {
        let Some(writer) = &mut self.writer else { return };
        let answers = writer.commit(numbers.iter().map(|n| put_draft(&shard(*n), group(holder))).collect());
        for (n, _) in numbers.iter().zip(answers).filter(|(_, answer)| answer.is_ok()) {
            self.promised.shards.entry(*n).or_default().insert(holder);
        }
    }

    fn hold(&mut self, n: u64, holder: u8) {
        if self.one(Draft::mark(Kind::Ref, *shard_id(n).as_bytes(), *group(holder).as_bytes())) {
            self.promised.shards.entry(n).or_default().insert(holder);
        }
    }

    fn let_go(&mut self, n: u64, holder: u8) {
        if let Some(groups) = self.promised.shards.get_mut(&n) {
            groups.remove(&holder);
        }
        let draft = Draft::mark(Kind::Drop, *shard_id(n).as_bytes(), *group(holder).as_bytes());
        self.one(Draft { number: 50, ..draft });
    }

    fn remove(&mut self, n: u64) {
        self.promised.shards.remove(&n);
        self.one(Draft::mark(Kind::Tombstone, *shard_id(n).as_bytes(), [0; 32]));
    }

    fn group(&mut self, n: u8) {
        if self.one(signed_draft(Kind::Group, *group(n).as_bytes(), group(n), u64::MAX, &[n; 200])) {
            self.promised.groups.insert(n, false);
        }
    }

    fn record(&mut self, key: u8) {
        let number = self.writer.as_ref().map_or(0, |writer| writer.next_sequence + 1);
        let bytes = number.to_le_bytes().repeat(20);
        if self.one(signed_draft(Kind::Record, [key; 32], group(0), number, &bytes)) {
            self.promised.records.insert(key, number);
        }
    }

    fn rotate(&mut self) {
        self.with(|writer| {
            writer.shared.active().into_iter().for_each(|active| writer.end_segment(active));
            true
        });
    }

    fn end_in_order(&mut self, vfs: &MemVfs) {
        let Some(mut writer) = self.writer.take() else { return };
        writer.finish();
        // It only saves time.
        let _ = save(&writer);
        drop(writer);
        self.writer = reopen(vfs).ok();
    }
}

/// After a sync of a file failed, nobody writes or syncs it again before it is opened or made anew.
fn left_alone(trace: &[Operation], failed: usize, what: &str) {
    let Operation { kind, path } = &trace[failed];
    if !matches!(kind, OperationKind::SyncData | OperationKind::SyncAll) {
        return;
    }
    for later in &trace[failed + 1..] {
        let anew = later.kind == OperationKind::Create && later.path == *path;
        if anew || later.kind == OperationKind::Lock {
            return;
        }
        let touches = matches!(later.kind, OperationKind::Write | OperationKind::SyncData | OperationKind::SyncAll);
        assert!(!(touches && later.path == *path), "{what}: {later:?} after its sync failed");
    }
}

fn every_operation_fails(fault: Fault) {
    let clean = MemVfs::default();
    clean.record_trace();
    drop(Run::new(&clean));
    let (count, kinds) = (clean.operations(), clean.trace());
    for number in 0..count {
        let what = format!("{fault:?} at operation {number}, {:?}", kinds[number as usize]);
        let vfs = MemVfs::default();
        vfs.record_trace();
        vfs.fail_operation(number, fault);
        let run = Run::new(&vfs);
        left_alone(&vfs.trace(), number as usize, &what);
        let reads_fail = !kinds[number as usize].kind.changes();
        if let Some(writer) = run.writer.as_ref().filter(|_| !(reads_fail && fault.lasting)) {
            check(writer, &run.promised, &format!("{what}, at once"));
        }
        for seed in 0..=CRASHES {
            let disk = vfs.fork();
            if seed > 0 {
                disk.crash(number * CRASHES + seed);
            }
            if seed == CRASHES {
                // The snapshot may be deleted at any time: the log alone says all.
                disk.set_contents(&data().join("index"), b"");
            }
            let what = format!("{what}, crash {seed}");
            let writer = reopen(&disk).unwrap_or_else(|error| panic!("{what}: does not open: {error:?}"));
            check(&writer, &run.promised, &what);
            assert!(writer.shared.index().losses.is_empty(), "{what}: losses of a disk that forgot nothing");
        }
    }
    eprintln!("{count} operations, {fault:?}, {} reopenings", count * (CRASHES + 1));
}

#[test]
fn an_error_at_any_operation_costs_nothing_that_was_acknowledged() {
    every_operation_fails(Fault { error: FaultError::Io, lasting: false });
}

#[test]
fn errors_from_any_operation_on_cost_nothing_that_was_acknowledged() {
    every_operation_fails(Fault { error: FaultError::Io, lasting: true });
}

#[test]
fn a_disk_found_full_at_any_operation_costs_nothing_that_was_acknowledged() {
    every_operation_fails(Fault { error: FaultError::NoSpace, lasting: false });
}

/// A put through both doors: space, then the batch.
fn store(writer: &mut Writer, n: u64) -> Result<Stored, PutError> {
    let draft = put_draft(&shard(n), group(0));
    let space = writer.shared.space.reserve(draft.payload.len() as u64)?;
    let (done, mut waiter) = oneshot::channel();
    writer.commit_batch(vec![Append { draft, space, done }]);
    waiter.try_recv().unwrap()
}

fn is_full(error: PutError) -> bool {
    matches!(error, PutError::DiskFull | PutError::Space(ReserveError::Disk { .. }))
}

fn fills_at(byte: u64) -> bool {
    let what = format!("full at byte {byte}");
    let vfs = MemVfs::default();
    let mut writer = reopen(&vfs).unwrap();
    vfs.fill_at_byte(byte);
    let mut promised = Promised::default();
    let mut refused = Vec::new();
    for n in 0..SHARDS {
        match store(&mut writer, n) {
            Ok(_) => {
                promised.shards.entry(n).or_default().insert(0);
            }
            Err(error) => {
                assert!(is_full(error), "{what}: {error:?}");
                refused.push(n);
            }
        }
    }
    check(&writer, &promised, &what);
    if refused.is_empty() {
        return false;
    }
    assert_eq!(writer.shared.health(), Health::Good, "{what}: a full disk is no broken one");
    // Full as disks are: nothing but what the store itself gives back.
    let used = vfs.paths().iter().filter_map(|path| vfs.contents(path)).map(|bytes| bytes.len() as u64).sum();
    vfs.set_capacity(Some(used));
    writer.shared.space.refresh();
    for n in promised.shards.keys().copied().filter(|n| n % 2 == 0).collect::<Vec<_>>() {
        let draft = Draft::mark(Kind::Tombstone, *shard_id(n).as_bytes(), [0; 32]);
        assert_eq!(writer.commit(vec![draft])[0], Ok(Stored::New), "{what}: removing {n}");
        promised.shards.remove(&n);
    }
    compact(&mut writer).unwrap_or_else(|error| panic!("{what}: compaction: {error}"));
    check(&writer, &promised, &format!("{what}, compacted"));
    vfs.set_capacity(None);
    writer.shared.space.refresh();
    for n in refused {
        assert_eq!(store(&mut writer, n), Ok(Stored::New), "{what}: shard {n} when there is room again");
        promised.shards.entry(n).or_default().insert(0);
    }
    check(&writer, &promised, &format!("{what}, with room"));
    drop(writer);
    vfs.crash(byte);
    check(&reopen(&vfs).unwrap(), &promised, &format!("{what}, after a crash"));
    true
}

#[test]
fn a_disk_full_at_any_byte_is_refused_by_name_and_left_without_reopening() {
    let first = record_size(1, 0) + record_size(2358, 0);
    let (from, step) = (64 + first + 64, if is_long() { 97 } else { 1499 });
    let mut filled = 0;
    for byte in (0..from).chain((from..300_000).step_by(step)) {
        filled += u64::from(fills_at(byte));
    }
    eprintln!("the disk was full at {filled} bytes");
    assert!(filled > 2000);
}
