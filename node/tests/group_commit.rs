//! The queue under the shuttle model checker, between a model of the callers and a model of the log writer: under many
//! schedules a caller told of success finds its item durable and in the index, and every caller hears something. Its
//! negative checks show that a wrong order of the commit is found. It never touches a real disk or a real clock.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking, also outside of a function marked as a test"
)]

/// The primitives for this copy of the queue: shuttle's.
mod sync {
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, PoisonError};
}

// The file itself, over other primitives: what is checked here is what runs.
#[path = "../src/chunks/queue.rs"]
mod queue;

use queue::{BatchRule, PushError, Queue};
use shuttle::rand::Rng;
use shuttle::thread;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How many threads push, and how many items each.
const PRODUCERS: u32 = 3;
const ITEMS: u32 = 2;

/// An item: who pushed it, and the how manieth of theirs it is.
type Id = (u32, u32);

/// What the log does with a batch whose sync failed.
#[derive(Clone, Copy)]
enum OnFailure {
    /// Cuts it off the log and reports the failure.
    Cut,
    /// Wrong: reports the failure, but leaves the batch to the next sync.
    Leave,
    /// Wrong: cuts it off and reports success.
    Ignore,
}

/// A step of the commit.
#[derive(Clone, Copy)]
enum Step {
    Write,
    Sync(OnFailure),
    Publish,
    Answer,
}

/// The one right order.
const RIGHT: [Step; 4] = [Step::Write, Step::Sync(OnFailure::Cut), Step::Publish, Step::Answer];

/// What goes wrong with one batch, chosen anew in every schedule.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    SyncFails,
    Panics,
}

/// One model to check.
#[derive(Clone, Copy)]
struct Model {
    steps: [Step; 4],
    trouble: Trouble,
    items_max: usize,
    rule: BatchRule,
    /// How often the reader looks into the index.
    looks: usize,
    /// Closes only when every producer has its answers, instead of at any time; each then pushes all its items first.
    close_last: bool,
}

/// The usual model; the queue holds fewer items than there are, so some are refused.
const USUAL: Model = Model {
    steps: RIGHT,
    trouble: Trouble::None,
    items_max: 4,
    rule: BatchRule { bytes: 3, items: 3, wait: Duration::ZERO },
    looks: 3,
    close_last: false,
};

/// What a producer hears about an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Success,
    SyncFailed,
    /// The item was dropped without an answer.
    Lost,
    Refused(PushError),
}

/// Where the answer to one item arrives.
struct Slot {
    outcome: Mutex<Option<Outcome>>,
    answered: Condvar,
}

impl Slot {
    fn wait(&self) -> Outcome {
        let mut outcome = lock(&self.outcome);
        loop {
            if let Some(outcome) = *outcome {
                return outcome;
            }
            outcome = self.answered.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The right to answer one item, once; its drop answers too.
struct Reply(Arc<Slot>);

impl Reply {
    fn answer(self, outcome: Outcome) {
        let earlier = lock(&self.0.outcome).replace(outcome);
        assert_eq!(earlier, None, "answered twice");
        self.0.answered.notify_all();
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        lock(&self.0.outcome).get_or_insert(Outcome::Lost);
        self.0.answered.notify_all();
    }
}

/// What the producers push.
struct Item {
    id: Id,
    reply: Reply,
}

/// A log of batches under their sequence numbers.
#[derive(Default)]
struct Disk {
    /// What a power failure may take away.
    written: Vec<(u64, Vec<Id>)>,
    /// What no power failure takes away.
    durable: Vec<(u64, Vec<Id>)>,
}

impl Disk {
    fn is_durable(&self, id: Id, seq: u64) -> bool {
        self.durable.iter().any(|(durable, ids)| *durable == seq && ids.contains(&id))
    }
}

/// The storage node of the model.
struct Node {
    queue: Queue<Item>,
    disk: Mutex<Disk>,
    /// The sequence number of the batch of each item.
    index: Mutex<BTreeMap<Id, u64>>,
    /// All batches the queue delivered, whatever became of them.
    delivered: Mutex<Vec<(u64, Vec<Id>)>>,
}

/// What the schedules of one check came across, so that no check passes because nothing happens in it.
#[derive(Default)]
struct Seen {
    success: AtomicUsize,
    sync_failed: AtomicUsize,
    lost: AtomicUsize,
    full: AtomicUsize,
    closed: AtomicUsize,
    batches_of_many: AtomicUsize,
    success_after_failure: AtomicUsize,
    reads: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One group commit; `trouble` is that of this batch.
fn commit(node: &Node, steps: &[Step], trouble: Trouble, seq: u64, batch: Vec<Item>) {
    let ids: Vec<Id> = batch.iter().map(|item| item.id).collect();
    let mut replies: Vec<Reply> = batch.into_iter().map(|item| item.reply).collect();
    lock(&node.delivered).push((seq, ids.clone()));
    let mut outcome = Outcome::Success;
    for step in steps {
        match step {
            Step::Write => {
                lock(&node.disk).written.push((seq, ids.clone()));
                if trouble == Trouble::Panics {
                    // Not `panic!`: shuttle's hook would report it as the failure of the check.
                    resume_unwind(Box::new("the trouble of the model"));
                }
            }
            Step::Sync(on_failure) => {
                let mut disk = lock(&node.disk);
                if trouble != Trouble::SyncFails {
                    disk.durable = disk.written.clone();
                    continue;
                }
                if !matches!(on_failure, OnFailure::Leave) {
                    disk.written = disk.durable.clone();
                }
                if !matches!(on_failure, OnFailure::Ignore) {
                    outcome = Outcome::SyncFailed;
                }
            }
            Step::Publish if outcome == Outcome::Success => {
                lock(&node.index).extend(ids.iter().map(|id| (*id, seq)));
            }
            Step::Publish => {}
            Step::Answer => replies.drain(..).for_each(|reply| reply.answer(outcome)),
        }
    }
}

/// Pushes the items of one producer and hears about each: one after the other, or all pushed before the first answer.
fn produce(node: &Node, producer: u32, all_first: bool) -> Vec<(Id, Outcome)> {
    let all_first = all_first || shuttle::rand::thread_rng().gen_bool(0.5);
    let mut outcomes = Vec::new();
    let mut waiting = Vec::new();
    for n in 0..ITEMS {
        let id = (producer, n);
        let slot = Arc::new(Slot { outcome: Mutex::new(None), answered: Condvar::new() });
        match node.queue.push(Item { id, reply: Reply(slot.clone()) }, 1) {
            Ok(()) => waiting.push((id, slot)),
            Err((item, why)) => {
                assert_eq!(item.id, id, "refused with another item");
                outcomes.push((id, Outcome::Refused(why)));
            }
        }
        if all_first && n + 1 < ITEMS {
            continue;
        }
        for (id, slot) in waiting.drain(..) {
            let outcome = slot.wait();
            if outcome == Outcome::Success {
                let seq = lock(&node.index).get(&id).copied().expect("told success before it was in the index");
                assert!(lock(&node.disk).is_durable(id, seq), "told success before it was durable");
            }
            outcomes.push((id, outcome));
        }
    }
    outcomes
}

/// Looks into the index, whenever the schedule has it.
fn read(node: &Node, looks: usize, seen: &Seen) {
    for _ in 0..looks {
        let index = lock(&node.index).clone();
        let disk = lock(&node.disk);
        for (id, seq) in index {
            count(&seen.reads);
            assert!(disk.is_durable(id, seq), "in the index before it was durable");
        }
    }
}

/// One schedule of a model, from the start of its threads to the look at what is left.
fn run(model: Model, seen: &Arc<Seen>) {
    let node = Arc::new(Node {
        queue: Queue::new(model.items_max),
        disk: Mutex::default(),
        index: Mutex::default(),
        delivered: Mutex::default(),
    });
    let troubled = shuttle::rand::thread_rng().gen_range(1..4);

    let server = {
        let node = node.clone();
        thread::spawn(move || {
            let mut seq = 0;
            let served = catch_unwind(AssertUnwindSafe(|| {
                node.queue.serve(&model.rule, |batch| {
                    seq += 1;
                    let trouble = if seq == troubled { model.trouble } else { Trouble::None };
                    commit(&node, &model.steps, trouble, seq, batch);
                });
            }));
            // A failed assertion of the model is no trouble of the model.
            match served {
                Err(panic) if model.trouble != Trouble::Panics => resume_unwind(panic),
                served => served.is_err(),
            }
        })
    };
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let node = node.clone();
            thread::spawn(move || produce(&node, producer, model.close_last))
        })
        .collect();
    let reader = {
        let (node, seen) = (node.clone(), seen.clone());
        thread::spawn(move || read(&node, model.looks, &seen))
    };
    let closer = {
        let node = node.clone();
        thread::spawn(move || {
            if model.close_last {
                return;
            }
            // Or it would come before most of the pushes in most of the schedules.
            for _ in 0..shuttle::rand::thread_rng().gen_range(0..30) {
                thread::yield_now();
            }
            node.queue.close();
        })
    };

    let outcomes: BTreeMap<Id, Outcome> = producers.into_iter().flat_map(|producer| producer.join().unwrap()).collect();
    // Once only in either case, as a second close would make up for a first that woke nobody.
    if model.close_last {
        node.queue.close();
    }
    reader.join().unwrap();
    closer.join().unwrap();
    let panicked = server.join().unwrap();
    judge(&node, model, troubled, panicked, &outcomes, seen);
}

/// Whether what is left when all threads are done fits together.
fn judge(node: &Node, model: Model, troubled: u64, panicked: bool, outcomes: &BTreeMap<Id, Outcome>, seen: &Seen) {
    assert_eq!(node.queue.len(), 0, "left in the queue");
    assert_eq!(outcomes.len(), (PRODUCERS * ITEMS) as usize, "not every item was answered or refused");
    let (delivered, disk, index) = (lock(&node.delivered), lock(&node.disk), lock(&node.index));

    // Numbers ascend in what was delivered and in what is durable.
    for batches in [&*delivered, &disk.durable] {
        assert!(batches.windows(2).all(|two| two[0].0 < two[1].0), "sequence numbers do not ascend");
    }
    assert_eq!(panicked, model.trouble == Trouble::Panics && delivered.len() as u64 >= troubled);

    // Each item is delivered once, after the earlier ones of its producer, and with the outcome of its batch.
    let mut seq_of = BTreeMap::new();
    let mut last = BTreeMap::new();
    for (seq, ids) in delivered.iter() {
        assert!((1..=model.rule.items).contains(&ids.len()), "a batch beyond its bounds");
        if ids.len() > 1 {
            count(&seen.batches_of_many);
        }
        for id in ids {
            assert_eq!(seq_of.insert(*id, *seq), None, "delivered twice");
            assert!(last.insert(id.0, id.1).is_none_or(|earlier| earlier < id.1), "out of order");
        }
    }
    for (id, outcome) in outcomes {
        match (seq_of.get(id), model.trouble) {
            (Some(seq), Trouble::SyncFails) if *seq == troubled => assert_eq!(*outcome, Outcome::SyncFailed),
            (Some(seq), Trouble::Panics) if *seq == troubled => assert_eq!(*outcome, Outcome::Lost),
            (Some(_), _) => assert_eq!(*outcome, Outcome::Success),
            (None, _) if *outcome == Outcome::Lost => assert!(panicked, "lost in the queue"),
            (None, _) => assert!(matches!(outcome, Outcome::Refused(_)), "answered, but never delivered"),
        }
        count(match outcome {
            Outcome::Success => &seen.success,
            Outcome::SyncFailed => &seen.sync_failed,
            Outcome::Lost => &seen.lost,
            Outcome::Refused(PushError::Full) => &seen.full,
            Outcome::Refused(PushError::Closed) => &seen.closed,
        });
    }
    if model.trouble == Trouble::SyncFails && delivered.len() as u64 > troubled {
        count(&seen.success_after_failure);
    }

    // Success, the index and what is durable are the same items: a failed batch is in none of them, nor comes later.
    let success: BTreeSet<Id> =
        outcomes.iter().filter(|(_, outcome)| **outcome == Outcome::Success).map(|(id, _)| *id).collect();
    let durable: BTreeSet<Id> = disk.durable.iter().flat_map(|(_, ids)| ids).copied().collect();
    assert_eq!(durable, success, "durable and told success differ");
    assert_eq!(index.keys().copied().collect::<BTreeSet<_>>(), success, "in the index and told success differ");
}

/// How many schedules a check runs.
fn schedules() -> usize {
    if std::env::var("SHOAL_LONG").is_ok_and(|long| long == "1") { 100_000 } else { 20_000 }
}

/// Checks a model under random schedules.
fn check_random(model: Model) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let in_run = seen.clone();
    shuttle::check_random(move || run(model, &in_run), schedules());
    seen
}

/// Checks a model under schedules of few preemptions, which find what needs a long undisturbed run of one thread.
fn check_pct(model: Model) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let in_run = seen.clone();
    shuttle::check_pct(move || run(model, &in_run), schedules(), 3);
    seen
}

/// All of these must have happened.
fn assert_seen(counters: &[&AtomicUsize]) {
    let counts: Vec<_> = counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect();
    assert!(!counts.contains(&0), "something never happened: {counts:?}");
}

#[test]
fn group_commit_random() {
    let seen = check_random(USUAL);
    assert_seen(&[&seen.success, &seen.full, &seen.closed, &seen.batches_of_many, &seen.reads]);
}

#[test]
fn group_commit_pct() {
    let seen = check_pct(USUAL);
    assert_seen(&[&seen.success, &seen.full, &seen.closed, &seen.batches_of_many, &seen.reads]);
}

/// Shuttle's clock stands still, so a batch only leaves when it is full or the queue closes: each push and the close
/// must wake the server in the midst of its gathering.
const WAITING: Model = Model { rule: BatchRule { wait: Duration::from_secs(86_400), ..USUAL.rule }, ..USUAL };

#[test]
fn waiting_for_more_random() {
    let seen = check_random(WAITING);
    assert_seen(&[&seen.success, &seen.closed, &seen.batches_of_many, &seen.reads]);
}

#[test]
fn waiting_for_more_pct() {
    let seen = check_pct(WAITING);
    assert_seen(&[&seen.success, &seen.closed, &seen.batches_of_many, &seen.reads]);
}

/// The close comes too late to wake anyone, so each push must, or the last full batch never leaves.
const WOKEN_BY_PUSH: Model = Model { items_max: 6, close_last: true, ..WAITING };

#[test]
fn woken_by_push_random() {
    let seen = check_random(WOKEN_BY_PUSH);
    assert_eq!(seen.success.load(Ordering::Relaxed), schedules() * (PRODUCERS * ITEMS) as usize);
}

#[test]
fn woken_by_push_pct() {
    let seen = check_pct(WOKEN_BY_PUSH);
    assert_eq!(seen.success.load(Ordering::Relaxed), schedules() * (PRODUCERS * ITEMS) as usize);
}

#[test]
fn failing_sync_random() {
    let seen = check_random(Model { trouble: Trouble::SyncFails, ..USUAL });
    assert_seen(&[&seen.success, &seen.sync_failed, &seen.success_after_failure, &seen.reads]);
}

#[test]
fn failing_sync_pct() {
    let seen = check_pct(Model { trouble: Trouble::SyncFails, ..USUAL });
    assert_seen(&[&seen.success, &seen.sync_failed, &seen.success_after_failure, &seen.reads]);
}

#[test]
fn panicking_commit_random() {
    let seen = check_random(Model { trouble: Trouble::Panics, ..USUAL });
    assert_seen(&[&seen.success, &seen.lost, &seen.closed]);
}

#[test]
#[should_panic(expected = "told success before it was durable")]
fn finds_answer_before_sync() {
    // Published and not looked at, so that nothing but the producer's look at the disk can find it.
    let steps = [Step::Write, Step::Publish, Step::Answer, Step::Sync(OnFailure::Cut)];
    check_random(Model { steps, looks: 0, ..USUAL });
}

#[test]
#[should_panic(expected = "told success before it was in the index")]
fn finds_answer_before_publish() {
    let steps = [Step::Write, Step::Sync(OnFailure::Cut), Step::Answer, Step::Publish];
    check_random(Model { steps, ..USUAL });
}

#[test]
#[should_panic(expected = "in the index before it was durable")]
fn finds_publish_before_sync() {
    let steps = [Step::Write, Step::Publish, Step::Sync(OnFailure::Cut), Step::Answer];
    check_random(Model { steps, ..USUAL });
}

#[test]
#[should_panic(expected = "durable and told success differ")]
fn finds_a_failed_batch_left_to_the_next_sync() {
    let steps = [Step::Write, Step::Sync(OnFailure::Leave), Step::Publish, Step::Answer];
    check_random(Model { steps, trouble: Trouble::SyncFails, ..USUAL });
}

#[test]
#[should_panic(expected = "before it was durable")]
fn finds_an_ignored_failure() {
    let steps = [Step::Write, Step::Sync(OnFailure::Ignore), Step::Publish, Step::Answer];
    check_random(Model { steps, trouble: Trouble::SyncFails, ..USUAL });
}
