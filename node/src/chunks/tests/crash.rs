//! Power cuts: generated workloads with compaction, expiry, scrub and snapshots run on one writer without threads, and
//! the power is cut before every single change of the disk. What was acknowledged by then must be there afterwards, byte
//! for byte; what was not may be there or not, but never wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::super::commit::{Draft, Writer};
use super::super::jobs::Room;
use super::super::jobs::compact::{Compactor, Stepped};
use super::super::jobs::expire::Expirer;
use super::super::jobs::scrub::Scrubber;
use super::super::log::Log;
use super::super::open::prepare;
use super::super::vfs_mem::CrashPoint;
use super::super::{read, snapshot};
use super::*;

/// Shards a workload chooses from.
const SHARDS: u64 = 24;
const GROUPS: u8 = 4;
/// When the groups that lapse are over, and when the sweeps look: well after that and the trash.
const LAPSE: u64 = 1000;
const SWEEP: u64 = 2000;

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

/// What must be so after a crash.
#[derive(Clone, Debug, Default)]
struct Promised {
    /// Shards by number: the groups whose hold was acknowledged and not given up since.
    shards: BTreeMap<u64, BTreeSet<u8>>,
    /// Highest acknowledged version of each record.
    records: BTreeMap<u8, u64>,
    groups: BTreeMap<u8, bool>,
}

fn shard(n: u64) -> Bytes {
    payload(n, 1 + usize::try_from(n * 2357 % 21_000).unwrap())
}

fn crash_config() -> StoreConfig {
    StoreConfig { segment_bytes: 64 * 1024, trash_ms: 100, ..config() }
}

struct World {
    vfs: MemVfs,
    writer: Writer,
    promised: Promised,
    /// What was promised when so many crash points had been kept.
    history: Vec<(usize, Promised)>,
}

fn room(writer: &Writer) -> Room {
    Room { vfs: Arc::clone(&writer.vfs), data: data().to_path_buf(), shared: Arc::clone(&writer.shared) }
}

fn reopen(vfs: &MemVfs) -> Result<Writer, OpenError> {
    prepare(Arc::new(vfs.clone()), data(), crash_config(), &[3; 32]).map(|(writer, _)| writer)
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
        let id = |n: u64| *ShardId::of(&shard(n)).as_bytes();
        let group_id = |n: u8| *group(n).as_bytes();
        match action {
            Action::Put { first, count, group } => {
                let numbers: Vec<u64> = (first..first + count).map(|n| n % SHARDS).collect();
                let drafts = numbers.iter().map(|n| {
                    let payload = shard(*n);
                    let outboard = bao::outboard(&payload).1;
                    let crc = record::checksum(&payload, &outboard);
                    Draft { payload, outboard, crc, ..Draft::mark(Kind::Put, id(*n), group_id(group)) }
                });
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
                let payload = Bytes::from(vec![group; 200]);
                let crc = record::checksum(&payload, &[]);
                let number = if lapses { LAPSE } else { u64::MAX };
                let draft = Draft::mark(Kind::Group, group_id(group), group_id(group));
                if self.put(vec![Draft { number, payload, crc, ..draft }])[0] {
                    self.promised.groups.insert(group, lapses);
                }
            }
            Action::Record { key } => {
                let number = self.writer.next_sequence + 1;
                let payload = Bytes::from(number.to_le_bytes().repeat(20));
                let crc = record::checksum(&payload, &[]);
                let draft = Draft::mark(Kind::Record, [key; 32], group_id(0));
                let lapses = self.promised.groups.get(&0) == Some(&true);
                if self.put(vec![Draft { number, payload, crc, ..draft }])[0] && !lapses {
                    self.promised.records.insert(key, number);
                }
            }
            Action::Compact => self.compact(),
            Action::Expire => {
                let room = room(&self.writer);
                let mut job = Expirer::default();
                job.begin(&room);
                while let Ok(Stepped::Busy) = job.step(&room, &mut self.writer, SWEEP - 100) {}
            }
            Action::Scrub => {
                let room = room(&self.writer);
                let mut job = Scrubber::default();
                job.begin(&room, 0, SWEEP);
                while let Ok(Stepped::Busy) = job.step(&room, &mut self.writer, SWEEP) {}
                assert_eq!((job.found.damaged, job.found.lost), (0, 0), "nothing is damaged here");
            }
            Action::Snapshot => {
                snapshot::take(&self.vfs, data(), &self.writer.shared).unwrap();
            }
            Action::Rotate => {
                if let Some(active) = self.writer.shared.active() {
                    self.writer.end_segment(active);
                }
            }
            Action::Reopen => {
                self.writer.finish();
                snapshot::take(&self.vfs, data(), &self.writer.shared).unwrap();
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

    fn compact(&mut self) {
        let room = room(&self.writer);
        let mut job = Compactor::default();
        job.begin();
        for _ in 0..10_000 {
            match job.step(&room, &mut self.writer, SWEEP).unwrap() {
                Stepped::Busy => {}
                Stepped::Idle => return,
            }
        }
        panic!("compaction does not end");
    }

    fn restart(&mut self) {
        // The lock goes with the old writer, so the new one comes from a disk of its own name.
        let vfs = self.vfs.clone();
        let blank = prepare(Arc::new(MemVfs::default()), Path::new("/blank"), config(), &[9; 32]).unwrap().0;
        drop(std::mem::replace(&mut self.writer, blank));
        self.writer = reopen(&vfs).unwrap();
    }
}

/// Everything that was promised is there, byte for byte, and nothing is there that is not what its id says.
fn check(writer: &Writer, promised: &Promised, what: &str) {
    let shared = &writer.shared;
    for n in 0..SHARDS {
        let bytes = shard(n);
        let id = ShardId::of(&bytes);
        let slot = shared.find(id.as_bytes());
        let groups = promised.shards.get(&n);
        if let Some(groups) = groups.filter(|groups| !groups.is_empty()) {
            let slot = slot.unwrap_or_else(|| panic!("{what}: shard {n} is lost"));
            let held = shared.index().groups_of(id.as_bytes(), &slot);
            for wanted in groups {
                assert!(held.contains(group(*wanted).as_bytes()), "{what}: group {wanted} lost its shard {n}");
            }
        }
        if let Some(slot) = slot {
            let mut out = Vec::new();
            let mut sink = |bytes: &[u8]| {
                out.extend_from_slice(bytes);
                ControlFlow::Continue(())
            };
            let all = [0..bytes.len() as u64];
            let done = read::read_encoded(&shared.files, &shared.codec, &slot, &id, &all, &mut sink);
            assert!(done.is_ok(), "{what}: shard {n}: {done:?}");
            assert_eq!(decode(&id, &bytes, &all, &out[..]), bytes.len() as u64, "{what}");
        }
    }
    for (key, version) in &promised.records {
        let place = shared.index().record(&[*key; 32], 0).unwrap_or_else(|| panic!("{what}: record {key} is lost"));
        assert!(place.number >= *version, "{what}: record {key} is older than what was acknowledged");
        let bytes = read::read_signed(&shared.files, &shared.codec, &place, Kind::Record, &[*key; 32]).unwrap();
        assert_eq!(bytes, place.number.to_le_bytes().repeat(20), "{what}");
    }
    for group_number in promised.groups.iter().filter(|(_, lapses)| !**lapses).map(|(group, _)| *group) {
        let place = shared.index().group(group(group_number).as_bytes());
        assert!(place.is_some(), "{what}: group {group_number} is lost");
    }
    consistent(writer, what);
}

/// What the index counts is what it holds, and no segment it points to is missing.
fn consistent(writer: &Writer, what: &str) {
    let index = writer.shared.index();
    let slots: Vec<_> = index.shards.iter().map(|(_, slot)| *slot).chain(index.collided.values().copied()).collect();
    let mut live: BTreeMap<u32, u64> = index.segments.iter().map(|(number, _)| (number, 0)).collect();
    let places = index.records.values().flatten().flatten().chain(index.groups.iter().filter_map(|g| g.place.as_ref()));
    let sizes = slots.iter().map(|slot| (slot.segment, slot.size()));
    for (segment, size) in sizes.chain(places.map(|place| (place.segment, place.size()))) {
        *live.get_mut(&segment).unwrap_or_else(|| panic!("{what}: segment {segment} is missing")) += size;
    }
    for (number, held) in index.segments.iter() {
        assert_eq!(held.live, live[&number], "{what}: bytes in use of segment {number}");
    }
    assert_eq!(index.segments.stored(), writer.shared.space.usage().stored, "{what}: bytes stored");
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

fn is_long() -> bool {
    std::env::var_os("SHOAL_LONG").is_some_and(|value| value == "1")
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
