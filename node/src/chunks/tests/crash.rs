//! Power cuts: generated workloads with compaction, expiry, scrub and snapshots run on one writer without threads, and
//! the power is cut before every single change of the disk. What was acknowledged by then must be there afterwards, byte
//! for byte; what was not may be there or not, but never wrong.

use super::super::commit::{Draft, Writer};
use super::super::log::Log;
use super::super::vfs_mem::CrashPoint;
use super::world::*;
use super::*;

const GROUPS: u8 = 4;
/// When the groups that lapse are over: the sweeps look well after that and the trash.
const LAPSE: u64 = 1000;

/// One thing a workload does.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// Puts of these shards for a group, in one batch.
    Put {
        first: u64,
        count: u64,
        group: u8,
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
    Group {
        group: u8,
        lapses: bool,
    },
    Record {
        key: u8,
    },
    Compact,
    Expire,
    Scrub,
    Snapshot,
    Rotate,
    /// An orderly end, and a new beginning.
    Reopen,
    /// `kill -9`, and a new beginning.
    Kill,
}

struct World {
    vfs: MemVfs,
    writer: Writer,
    promised: Promised,
    /// What was promised when so many crash points had been kept.
    history: Vec<(usize, Promised)>,
}

impl World {
    fn new() -> Self {
        let vfs = MemVfs::default();
        vfs.record_points();
        let writer = reopen(&vfs).unwrap();
        Self { vfs, writer, promised: Promised::default(), history: vec![(0, Promised::default())] }
    }

    fn put(&mut self, drafts: Vec<Draft>) -> Vec<bool> {
        Log::commit(&mut self.writer, drafts).into_iter().map(|answer| answer.is_ok()).collect()
    }

    fn act(&mut self, action: Action) {
        // Whatever takes something away may do so from now on; whatever adds is promised only once it is acknowledged.
        match action {
            Action::Drop { shard, group } => {
                self.promised.shards.entry(shard).or_default().remove(&group);
            }
            Action::Tombstone { shard } => {
                self.promised.shards.remove(&shard);
            }
            Action::Group { group, lapses: true } => {
                self.promised.groups.remove(&group);
                for groups in self.promised.shards.values_mut() {
                    groups.remove(&group);
                }
                self.promised.records.clear();
            }
            _ => {}
        }
        self.note();
        self.execute(action);
        self.note();
    }

    fn note(&mut self) {
        self.history.push((self.vfs.points(), self.promised.clone()));
    }

    fn execute(&mut self, action: Action) {
        let id = |n: u64| *shard_id(n).as_bytes();
        let group_id = |n: u8| *group(n).as_bytes();
        match action {
            Action::Put { first, count, group } => {
                let numbers: Vec<u64> = (first..first + count).map(|n| n % SHARDS).collect();
                let drafts = numbers.iter().map(|n| put_draft(&shard(*n), super::group(group)));
                let kept = self.put(drafts.collect());
                for n in numbers.iter().zip(kept).filter(|(_, kept)| *kept).map(|(n, _)| *n) {
                    self.promise(n, group);
                }
            }
            Action::Ref { shard, group } => {
                if self.put(vec![Draft::mark(Kind::Ref, id(shard), group_id(group))])[0] {
                    self.promise(shard, group);
                }
            }
            Action::Drop { shard, group } => {
                let draft = Draft::mark(Kind::Drop, id(shard), group_id(group));
                self.put(vec![Draft { number: LAPSE, ..draft }]);
            }
            Action::Tombstone { shard } => {
                self.put(vec![Draft::mark(Kind::Tombstone, id(shard), [0; 32])]);
            }
            Action::Group { group, lapses } => {
                let number = if lapses { LAPSE } else { u64::MAX };
                let draft = signed_draft(Kind::Group, group_id(group), super::group(group), number, &[group; 200]);
                if self.put(vec![draft])[0] {
                    self.promised.groups.insert(group, lapses);
                }
            }
            Action::Record { key } => {
                let number = self.writer.next_sequence + 1;
                let payload = number.to_le_bytes().repeat(20);
                let draft = signed_draft(Kind::Record, [key; 32], group(0), number, &payload);
                let lapses = self.promised.groups.get(&0) == Some(&true);
                if self.put(vec![draft])[0] && !lapses {
                    self.promised.records.insert(key, number);
                }
            }
            Action::Compact => {
                compact(&mut self.writer).unwrap();
            }
            Action::Expire => {
                expire(&mut self.writer, LOOK - 100).unwrap();
            }
            Action::Scrub => {
                let found = scrub(&mut self.writer).unwrap();
                assert_eq!((found.damaged, found.lost), (0, 0), "nothing is damaged here");
            }
            Action::Snapshot => {
                save(&self.writer).unwrap();
            }
            Action::Rotate => {
                if let Some(active) = self.writer.shared.active() {
                    self.writer.end_segment(active);
                }
            }
            Action::Reopen => {
                self.writer.finish();
                save(&self.writer).unwrap();
                self.restart();
            }
            Action::Kill => self.restart(),
        }
    }

    fn promise(&mut self, shard: u64, group: u8) {
        // What a lapsed group holds may be swept away at any time.
        if self.promised.groups.get(&group) != Some(&true) {
            self.promised.shards.entry(shard).or_default().insert(group);
        }
    }

    fn restart(&mut self) {
        // The lock goes with the old writer, so the new one comes from a disk of its own name.
        let vfs = self.vfs.clone();
        drop(std::mem::replace(&mut self.writer, blank()));
        self.writer = reopen(&vfs).unwrap();
    }
}

fn random_action(random: &mut Random) -> Action {
    let shard = random.below(SHARDS);
    let group = random.below(u64::from(GROUPS)) as u8;
    match random.below(40) {
        0..14 => Action::Put { first: shard, count: 1 + random.below(4), group },
        14..17 => Action::Ref { shard, group },
        17..22 => Action::Drop { shard, group },
        22..24 => Action::Tombstone { shard },
        24..26 => Action::Group { group, lapses: false },
        26 => Action::Group { group: GROUPS - 1, lapses: true },
        27..30 => Action::Record { key: random.below(3) as u8 },
        30..33 => Action::Compact,
        33 => Action::Expire,
        34 => Action::Scrub,
        35..37 => Action::Snapshot,
        37 => Action::Rotate,
        38 => Action::Kill,
        _ => Action::Reopen,
    }
}

/// Cuts the power at every point of a finished run. Returns how many there were.
fn crash_everywhere(world: World, seed: u64, further: usize) -> usize {
    let World { vfs, writer, history, .. } = world;
    let points = vfs.take_points();
    drop(writer);
    let count = points.len();
    for (number, CrashPoint { disk, operation }) in points.into_iter().enumerate() {
        // What had been promised before this change began.
        let promised =
            history.iter().rev().find(|(points, _)| *points <= number).map(|(_, promised)| promised).unwrap();
        let what = format!("seed {seed}, cut before change {number}, {operation:?}");
        let mut random = Random::new(seed.wrapping_mul(1_000_003) ^ number as u64);
        disk.crash(random.next_u64());
        survive(&disk, promised, &mut random, further, &what);
    }
    count
}

/// Opens after a crash, is cut short `further` times while doing so, and checks.
fn survive(disk: &MemVfs, promised: &Promised, random: &mut Random, further: usize, what: &str) {
    for _ in 0..further {
        disk.cut_power_after(random.below(12));
        drop(reopen(disk));
        disk.crash(random.next_u64());
    }
    let writer = reopen(disk).unwrap_or_else(|error| panic!("{what}: does not open: {error:?}"));
    check(&writer, promised, what);
}

fn run(seed: u64, actions: usize) -> World {
    let mut random = Random::new(seed);
    let mut world = World::new();
    for _ in 0..actions {
        let action = random_action(&mut random);
        world.act(action);
    }
    world
}

#[test]
fn no_power_cut_loses_what_was_acknowledged() {
    let workloads = if is_long() { 5_000 } else { 500 };
    let total: usize = (0..workloads).map(|seed| crash_everywhere(run(seed, 70), seed, 0)).sum();
    eprintln!("{workloads} workloads, {total} crash points");
    assert!(total >= 100_000, "only {total} crash points");
}

#[test]
fn power_cuts_within_recovery_lose_nothing_either() {
    let (doubles, triples) = if is_long() { (20_000, 2_000) } else { (2_000, 200) };
    for (further, wanted) in [(1, doubles), (2, triples)] {
        let mut total = 0;
        for seed in 10_000.. {
            if total >= wanted {
                break;
            }
            total += crash_everywhere(run(seed, 30), seed, further);
        }
        eprintln!("{total} crashes with {further} more while opening");
    }
}

/// Every action of a small set, for the sequences of all of them.
const FEW: [Action; 13] = [
    Action::Put { first: 0, count: 2, group: 0 },
    Action::Put { first: 1, count: 2, group: 1 },
    Action::Ref { shard: 0, group: 1 },
    Action::Drop { shard: 0, group: 0 },
    Action::Tombstone { shard: 1 },
    Action::Group { group: 1, lapses: true },
    Action::Record { key: 1 },
    Action::Compact,
    Action::Expire,
    Action::Snapshot,
    Action::Rotate,
    Action::Reopen,
    Action::Kill,
];

#[test]
fn every_sequence_of_up_to_three_actions_survives_every_power_cut() {
    let mut total = 0;
    let sequences = FEW.len().pow(3);
    for number in 0..sequences {
        let mut world = World::new();
        // Whatever length: the crash points within a sequence are those of its beginnings.
        for action in [number / 169, number / 13 % 13, number % 13] {
            world.act(FEW[action]);
        }
        total += crash_everywhere(world, 1_000_000 + number as u64, 0);
    }
    eprintln!("{sequences} sequences of three actions, {total} crash points");
}
