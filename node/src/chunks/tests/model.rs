//! The store against a model of maps: after every one of a long random sequence of changes, jobs, ends and beginnings
//! both say the same of every shard, group, record, lapse and byte of quota.
//!
//! The model knows nothing of segments, so it bounds what is stored and is exact about what is in use.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};
use tokio::sync::oneshot;

use super::super::commit::{Append, Draft, Writer};
use super::super::read;
use super::super::store;
use super::world::*;
use super::*;

const GROUPS: u8 = 5;
const RECORDS: u8 = 3;
/// Trash of [`crash_config`].
const TRASH: u64 = 100;
/// Most reservations held at a time.
const HELD_MAX: usize = 3;
/// Payload bytes of a group's statement.
const STATEMENT: u32 = 150;
const MARK: u64 = record_size(0, 0);

/// One thing that happens.
#[derive(Clone, Debug)]
enum Change {
    /// In one batch, for one group.
    Put {
        first: u64,
        count: u64,
        group: u8,
    },
    /// Bytes that are not what the id says.
    PutWrong {
        shard: u64,
    },
    Ref {
        shard: u64,
        group: u8,
    },
    Drop {
        shard: u64,
        group: u8,
    },
    Tombstone {
        shard: u64,
    },
    Statement {
        group: u8,
        lapses_in: u64,
    },
    /// A version so much above (or, if not above 0, below) the newest.
    Version {
        key: u8,
        group: u8,
        step: i64,
    },
    Reserve {
        bytes: u32,
    },
    GiveBack {
        which: usize,
    },
    /// All of the quota is promised: a put is refused, a drop is not.
    Full {
        shard: u64,
        group: u8,
    },
    Time {
        ms: u64,
    },
    Expire,
    Compact,
    Scrub,
    Snapshot,
    Rotate,
    /// An orderly end, and a new beginning.
    Reopen,
    /// `kill -9`, and a new beginning; with a seed the power fails too.
    Kill {
        power: Option<u64>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ModelShard {
    groups: BTreeSet<u8>,
    /// Since when no group holds it.
    trash: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    number: u64,
    group: u8,
    length: u32,
}

/// What the answer of the last change has to be, one for each record.
type Answers = Vec<Result<Stored, PutError>>;

#[derive(Clone, Debug, Default)]
struct Model {
    now: u64,
    shards: BTreeMap<u64, ModelShard>,
    /// When groups with a statement are over.
    groups: BTreeMap<u8, u64>,
    /// The newest first.
    records: BTreeMap<u8, Vec<Version>>,
    /// Bytes on disk of the reservations held.
    held: Vec<u64>,
    /// Bytes ever written.
    stored_most: u64,
    answers: Answers,
    steps: u64,
}

fn shard_size(n: u64) -> u64 {
    let length = shard(n).len() as u32;
    record_size(length, bao::outboard_length(length))
}

fn version_length(number: u64) -> u32 {
    (8 + number % 7 * 40) as u32
}

fn version_bytes(key: u8, number: u64) -> Vec<u8> {
    let mut bytes = vec![key; version_length(number) as usize];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

impl Model {
    fn write(&mut self, size: u64) -> Stored {
        self.stored_most += size;
        Stored::New
    }

    /// Bytes in use: what compaction keeps for good.
    fn live(&self) -> u64 {
        let shards: u64 = self.shards.keys().map(|n| shard_size(*n)).sum();
        let versions: u64 = self.records.values().flatten().map(|version| record_size(version.length, 0)).sum();
        shards + versions + self.groups.len() as u64 * record_size(STATEMENT, 0)
    }

    fn put(&mut self, n: u64, group: u8) -> Result<Stored, PutError> {
        if self.shards.contains_key(&n) {
            return self.hold(n, group);
        }
        self.shards.insert(n, ModelShard { groups: BTreeSet::from([group]), trash: None });
        Ok(self.write(shard_size(n)))
    }

    fn hold(&mut self, n: u64, group: u8) -> Result<Stored, PutError> {
        let held = self.shards.get_mut(&n).ok_or(PutError::NotFound)?;
        held.trash = None;
        if !held.groups.insert(group) {
            return Ok(Stored::Already);
        }
        self.write(MARK);
        Ok(Stored::Referenced)
    }

    fn let_go(&mut self, n: u64, group: u8) -> Result<Stored, PutError> {
        let now = self.now;
        let held = self.shards.get_mut(&n).ok_or(PutError::NotFound)?;
        if !held.groups.remove(&group) {
            return Ok(Stored::Already);
        }
        held.trash = held.groups.is_empty().then_some(now);
        Ok(self.write(MARK))
    }

    fn version(&mut self, key: u8, group: u8, step: i64) -> Result<Stored, PutError> {
        let number = self.wanted(key, step);
        let versions = self.records.entry(key).or_default();
        if let Some(stored) = versions.first().map(|version| version.number).filter(|stored| number <= *stored) {
            return Err(PutError::Stale { stored });
        }
        versions.insert(0, Version { number, group, length: version_length(number) });
        versions.truncate(2);
        Ok(self.write(record_size(version_length(number), 0)))
    }

    fn wanted(&self, key: u8, step: i64) -> u64 {
        let newest = self.records.get(&key).and_then(|versions| versions.first()).map_or(10, |version| version.number);
        newest.saturating_add_signed(step).max(1)
    }

    fn sweep(&mut self) {
        let Some(gone_by) = self.now.checked_sub(TRASH) else { return };
        let groups = self.groups.clone();
        let over = |group: &u8| groups.get(group).is_some_and(|end| *end <= gone_by);
        let lapsed = |held: &ModelShard| match held.trash {
            Some(since) => since <= gone_by,
            None => held.groups.iter().all(over),
        };
        let before = self.shards.len() + self.records.len() + self.groups.len();
        self.shards.retain(|_, held| !lapsed(held));
        self.records.retain(|_, versions| !over(&versions[0].group));
        let of_shards = self.shards.values().flat_map(|held| held.groups.iter().copied());
        let of_records = self.records.values().flatten().map(|version| version.group);
        let holders: BTreeSet<u8> = of_shards.chain(of_records).collect();
        self.groups.retain(|group, end| *end > gone_by || holders.contains(group));
        let removed = before - (self.shards.len() + self.records.len() + self.groups.len());
        self.stored_most += removed as u64 * MARK;
    }
}

struct Reference;

impl ReferenceStateMachine for Reference {
    type State = Model;
    type Transition = Change;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model { now: 1000, ..Model::default() }).boxed()
    }

    fn transitions(_: &Model) -> BoxedStrategy<Change> {
        let (shard, group, key) = (0..SHARDS, 0..GROUPS, 0..RECORDS);
        let pair = (shard.clone(), group.clone());
        prop_oneof![
            12 => (shard.clone(), 1..5_u64, group.clone()).prop_map(|(first, count, group)| Change::Put { first, count, group }),
            1 => shard.clone().prop_map(|shard| Change::PutWrong { shard }),
            5 => pair.clone().prop_map(|(shard, group)| Change::Ref { shard, group }),
            8 => pair.clone().prop_map(|(shard, group)| Change::Drop { shard, group }),
            2 => shard.prop_map(|shard| Change::Tombstone { shard }),
            3 => (group.clone(), 0..3000_u64).prop_map(|(group, lapses_in)| Change::Statement { group, lapses_in }),
            4 => (key, group, -2..4_i64).prop_map(|(key, group, step)| Change::Version { key, group, step }),
            2 => (0..500_000_u32).prop_map(|bytes| Change::Reserve { bytes }),
            1 => (0..HELD_MAX).prop_map(|which| Change::GiveBack { which }),
            1 => pair.prop_map(|(shard, group)| Change::Full { shard, group }),
            3 => (0..1000_u64).prop_map(|ms| Change::Time { ms }),
            3 => Just(Change::Expire),
            4 => Just(Change::Compact),
            1 => Just(Change::Scrub),
            2 => Just(Change::Snapshot),
            2 => Just(Change::Rotate),
            2 => Just(Change::Reopen),
            2 => proptest::option::of(any::<u64>()).prop_map(|power| Change::Kill { power }),
        ]
        .boxed()
    }

    fn preconditions(model: &Model, change: &Change) -> bool {
        // What is stored is only bounded here, so what is to be accepted must fit for certain.
        let room = QUOTA.saturating_sub(model.stored_most + model.held.iter().sum::<u64>());
        match change {
            Change::Reserve { .. } => model.held.len() < HELD_MAX && room > 2 << 20,
            Change::GiveBack { which } => *which < model.held.len(),
            Change::Put { .. } | Change::Ref { .. } | Change::Statement { .. } | Change::Version { .. } => {
                room > 1 << 20
            }
            _ => true,
        }
    }

    fn apply(mut model: Model, change: &Change) -> Model {
        model.steps += 1;
        let answers: Answers = match change {
            Change::Put { first, count, group } => {
                (*first..first + count).map(|n| model.put(n % SHARDS, *group)).collect()
            }
            Change::PutWrong { .. } => vec![Err(PutError::Mismatch)],
            Change::Ref { shard, group } => vec![model.hold(*shard, *group)],
            Change::Drop { shard, group } => vec![model.let_go(*shard, *group)],
            Change::Tombstone { shard } => {
                let there = model.shards.remove(shard).ok_or(PutError::NotFound);
                vec![there.map(|_| model.write(MARK))]
            }
            Change::Statement { group, lapses_in } => {
                model.groups.insert(*group, model.now + lapses_in);
                vec![Ok(model.write(record_size(STATEMENT, 0)))]
            }
            Change::Version { key, group, step } => vec![model.version(*key, *group, *step)],
            Change::Reserve { bytes } => {
                model.held.push(record_size(*bytes, bao::outboard_length(*bytes)));
                vec![]
            }
            Change::GiveBack { which } => {
                model.held.remove(*which);
                vec![]
            }
            Change::Full { shard, group } => vec![model.let_go(*shard, *group)],
            Change::Time { ms } => {
                model.now += ms;
                vec![]
            }
            Change::Expire => {
                model.sweep();
                vec![]
            }
            Change::Reopen | Change::Kill { .. } => {
                model.held.clear();
                vec![]
            }
            Change::Compact | Change::Scrub | Change::Snapshot | Change::Rotate => vec![],
        };
        model.answers = answers;
        model
    }
}

/// The store as it is.
struct Real {
    vfs: MemVfs,
    writer: Option<Writer>,
    held: Vec<SpaceReservation>,
}

impl Real {
    fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().unwrap()
    }

    fn reserve(&self, bytes: u64) -> Result<SpaceReservation, ReserveError> {
        self.writer.as_ref().unwrap().shared.space.reserve(bytes)
    }

    /// Through the same doors as the handle: space first, then the batch.
    fn commit(&mut self, drafts: Vec<Draft>) -> Answers {
        let mut batch = Vec::new();
        let mut waiters = Vec::new();
        for draft in drafts {
            let (done, waiter) = oneshot::channel();
            let space = match draft.kind {
                Kind::Drop | Kind::Tombstone => Ok(self.writer().shared.space.force(draft.size())),
                _ => self.reserve(draft.payload.len() as u64),
            };
            waiters.push(space.map_err(PutError::Space).map(|space| {
                batch.push(Append { draft, space, done });
                waiter
            }));
        }
        self.writer().commit_batch(batch);
        waiters.into_iter().map(|waiter| waiter.and_then(|mut waiter| waiter.try_recv().unwrap())).collect()
    }

    fn put_wrong(&mut self, n: u64) -> Result<Stored, PutError> {
        let mut wrong = shard(n).to_vec();
        wrong[0] ^= 1;
        let id = shard_id(n);
        store::check(&self.writer().shared, &id, &wrong.into()).map(|_| Stored::New)
    }

    fn full(&mut self, n: u64, group_number: u8, now: u64) -> Answers {
        let mut all = Vec::new();
        for bytes in [4 << 20, 1 << 16, 1 << 10, 0] {
            while let Ok(space) = self.reserve(bytes) {
                all.push(space);
            }
        }
        let refused = self.reserve(0).unwrap_err();
        assert!(matches!(refused, ReserveError::Quota { wanted: MARK, left } if left < MARK), "{refused:?}");
        let put = self.commit(vec![put_draft(&shard(n), group(group_number))]);
        assert!(matches!(put[0], Err(PutError::Space(ReserveError::Quota { .. }))), "{put:?}");
        self.commit(vec![drop_draft(n, group_number, now)])
    }

    fn begin_again(&mut self) {
        self.held.clear();
        self.writer = None;
        let (writer, report) = writer_with(&self.vfs, crash_config()).unwrap();
        assert_eq!((report.quarantined, report.torn_bytes), (0, 0), "nothing was damaged: {report:?}");
        self.writer = Some(writer);
    }

    fn compact(&mut self) {
        let before = self.writer().shared.space.usage().stored;
        compact(self.writer()).unwrap();
        let after = self.writer().shared.space.usage().stored;
        assert!(after <= before, "compaction made {after} bytes of {before}");
    }

    /// A sweep may meet a statement before the last thing its group holds, so it is made until nothing goes.
    fn sweep(&mut self, now: u64) {
        while let Some(gone_by) = now.checked_sub(TRASH)
            && expire(self.writer(), gone_by).unwrap() > 0
        {}
    }
}

fn id(n: u64) -> [u8; 32] {
    *shard_id(n).as_bytes()
}

fn drop_draft(n: u64, group_number: u8, now: u64) -> Draft {
    Draft { number: now, ..Draft::mark(Kind::Drop, id(n), *group(group_number).as_bytes()) }
}

struct Against;

impl StateMachineTest for Against {
    type SystemUnderTest = Real;
    type Reference = Reference;

    fn init_test(_: &Model) -> Real {
        let vfs = MemVfs::default();
        let writer = Some(reopen(&vfs).unwrap());
        Real { vfs, writer, held: Vec::new() }
    }

    fn apply(mut real: Real, model: &Model, change: Change) -> Real {
        let answers = match change {
            Change::Put { first, count, group: holder } => {
                let drafts = (first..first + count).map(|n| put_draft(&shard(n % SHARDS), group(holder)));
                real.commit(drafts.collect())
            }
            Change::PutWrong { shard } => vec![real.put_wrong(shard)],
            Change::Ref { shard, group: holder } => {
                real.commit(vec![Draft::mark(Kind::Ref, id(shard), *group(holder).as_bytes())])
            }
            Change::Drop { shard, group } => real.commit(vec![drop_draft(shard, group, model.now)]),
            Change::Tombstone { shard } => real.commit(vec![Draft::mark(Kind::Tombstone, id(shard), [0; 32])]),
            Change::Statement { group: number, lapses_in } => {
                let (key, bytes) = (group(number), [number; STATEMENT as usize]);
                real.commit(vec![signed_draft(Kind::Group, *key.as_bytes(), key, model.now + lapses_in, &bytes)])
            }
            Change::Version { key, group: holder, step } => {
                // The model has moved on: if it was accepted, the newest one is it.
                let number = match model.answers[0] {
                    Ok(_) => model.records[&key][0].number,
                    Err(_) => model.wanted(key, step),
                };
                let bytes = version_bytes(key, number);
                real.commit(vec![signed_draft(Kind::Record, [0x80 | key; 32], group(holder), number, &bytes)])
            }
            Change::Reserve { bytes } => {
                let space = real.reserve(u64::from(bytes)).unwrap();
                real.held.push(space);
                vec![]
            }
            Change::GiveBack { which } => {
                real.held.remove(which);
                vec![]
            }
            Change::Full { shard, group } => real.full(shard, group, model.now),
            Change::Time { .. } => vec![],
            Change::Expire => {
                real.sweep(model.now);
                vec![]
            }
            Change::Compact => {
                real.compact();
                vec![]
            }
            Change::Scrub => {
                let found = scrub(real.writer()).unwrap();
                assert_eq!((found.damaged, found.lost, found.repaired), (0, 0, 0), "nothing is damaged here");
                vec![]
            }
            Change::Snapshot => {
                save(real.writer()).unwrap();
                vec![]
            }
            Change::Rotate => {
                if let Some(active) = real.writer().shared.active() {
                    real.writer().end_segment(active);
                }
                vec![]
            }
            Change::Reopen => {
                finish(real.writer.take().unwrap());
                real.begin_again();
                vec![]
            }
            Change::Kill { power } => {
                power.into_iter().for_each(|seed| real.vfs.crash(seed));
                real.begin_again();
                vec![]
            }
        };
        assert_eq!(answers, model.answers, "the answers");
        real
    }

    fn check_invariants(real: &Real, model: &Model) {
        let writer = real.writer.as_ref().unwrap();
        shards_agree(writer, model, model.steps % SHARDS);
        statements_agree(writer, model);
        let usage = writer.shared.space.usage();
        assert_eq!(usage.reserved, model.held.iter().sum::<u64>(), "reserved");
        assert!(usage.stored <= model.stored_most && usage.stored <= QUOTA, "{usage:?}, at most {}", model.stored_most);
        assert_eq!(writer.shared.index().segments.live(), model.live(), "bytes in use");
        consistent(writer, "model");
    }

    fn teardown(mut real: Real, model: Model) {
        // Last of all, every byte.
        for begun_again in [false, true] {
            (0..SHARDS).for_each(|n| shards_agree(real.writer.as_ref().unwrap(), &model, n));
            if !begun_again {
                real.begin_again();
            }
        }
    }
}

/// Both have the same shards with the same holders; the bytes of one of them are read.
fn shards_agree(writer: &Writer, model: &Model, read: u64) {
    let shared = &writer.shared;
    for n in 0..SHARDS {
        let slot = shared.find(&id(n));
        let index = shared.index();
        let real = slot.map(|slot| ModelShard {
            groups: index.groups_of(&id(n), &slot).iter().map(|group| group[0]).collect(),
            trash: index.trash.get(&id(n)).copied(),
        });
        assert_eq!(real.as_ref(), model.shards.get(&n), "shard {n}");
        assert_eq!(slot.map(|slot| slot.length), real.map(|_| shard(n).len() as u32));
    }
    let index = shared.index();
    assert_eq!((index.shards(), index.losses.len()), (model.shards.len(), 0));
    drop(index);
    if model.shards.contains_key(&read) {
        let bytes = shard(read);
        let (out, done) = stream(shared, &shard_id(read)).unwrap();
        assert!(done.is_ok(), "shard {read}: {done:?}");
        let all = [0..bytes.len() as u64];
        assert_eq!(decode(&shard_id(read), &bytes, &all, &out[..]), bytes.len() as u64);
    }
}

fn statements_agree(writer: &Writer, model: &Model) {
    let shared = &writer.shared;
    for number in 0..GROUPS {
        let place = shared.index().group(group(number).as_bytes());
        assert_eq!(place.map(|place| place.number), model.groups.get(&number).copied(), "group {number}");
        if let Some(place) = place {
            let key = *group(number).as_bytes();
            let bytes = read::read_signed(&shared.files, &shared.codec, &place, Kind::Group, &key).unwrap();
            assert_eq!(bytes, [number; STATEMENT as usize]);
        }
    }
    for key in 0..RECORDS {
        let name = [0x80 | key; 32];
        for back in 0..2 {
            let place = shared.index().record(&name, back);
            let wanted = model.records.get(&key).and_then(|versions| versions.get(usize::from(back)));
            assert_eq!(
                place.map(|place| place.number),
                wanted.map(|version| version.number),
                "record {key}, {back} back"
            );
            if let Some(place) = place {
                let bytes = read::read_signed(&shared.files, &shared.codec, &place, Kind::Record, &name).unwrap();
                assert_eq!(bytes, version_bytes(key, place.number));
            }
        }
    }
}

#[test]
fn the_store_is_what_its_model_says_after_every_change() {
    let (cases, steps) = if is_long() { (10_000, 100) } else { (256, 60) };
    let config = Config { cases, max_shrink_iters: 20_000, failure_persistence: None, ..Config::default() };
    let started = std::time::Instant::now();
    let strategy = Reference::sequential_strategy(steps);
    // One seed for all: what fails here fails everywhere, and the smallest sequence that does is printed.
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config.clone(), random).run(&strategy, |(initial, changes, seen)| {
        Against::test_sequential(config.clone(), initial, changes, seen);
        Ok(())
    });
    eprintln!("{cases} cases of {steps} changes, {:?}", started.elapsed());
    result.unwrap_or_else(|error| panic!("{error}"));
}
