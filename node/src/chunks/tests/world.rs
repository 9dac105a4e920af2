//! A store driven without threads: one writer, its jobs called step by step, and what must be so of its index at any
//! time. It never waits and never hides an error of the store from the suite that asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::LazyLock;

use super::super::commit::{Draft, Writer};
use super::super::index::NO_GROUP;
use super::super::jobs::Room;
use super::super::jobs::compact::{Compactor, Stepped};
use super::super::jobs::expire::Expirer;
use super::super::jobs::scrub::{Found, Scrubber};
use super::super::open::prepare;
use super::super::shared::Shared;
use super::super::{read, snapshot};
use super::*;

/// Shards a workload chooses from.
pub(super) const SHARDS: u64 = 24;
/// Steps after which a job that is not done never will be.
const STEPS_MAX: u32 = 10_000;
/// When the scrubs of the tests look, milliseconds since 1970.
pub(super) const LOOK: u64 = 2000;

/// What must be so after a crash.
#[derive(Clone, Debug, Default)]
pub(super) struct Promised {
    /// Shards by number: the groups whose hold was acknowledged and not given up since.
    pub shards: BTreeMap<u64, BTreeSet<u8>>,
    /// Highest acknowledged version of each record.
    pub records: BTreeMap<u8, u64>,
    /// Groups with an acknowledged statement, and whether it lapses.
    pub groups: BTreeMap<u8, bool>,
}

pub(super) fn is_long() -> bool {
    std::env::var_os("SHOAL_LONG").is_some_and(|value| value == "1")
}

/// The shards with their ids, made once: the suites look at all of them after every step.
static MADE: LazyLock<Vec<(Bytes, ShardId)>> = LazyLock::new(|| {
    let make = |n: u64| payload(n, 1 + usize::try_from(n * 2357 % 21_000).unwrap());
    (0..SHARDS).map(make).map(|bytes| (bytes.clone(), ShardId::of(&bytes))).collect()
});

/// The shard with this number, below [`SHARDS`]: 1 to 21,000 bytes.
pub(super) fn shard(n: u64) -> Bytes {
    MADE[n as usize].0.clone()
}

pub(super) fn shard_id(n: u64) -> ShardId {
    MADE[n as usize].1
}

/// Segments of a few records and a short trash.
pub(super) fn crash_config() -> StoreConfig {
    StoreConfig { segment_bytes: 64 * 1024, trash_ms: 100, ..config() }
}

pub(super) fn writer_with(vfs: &MemVfs, config: StoreConfig) -> Result<(Writer, RecoveryReport), OpenError> {
    prepare(Arc::new(vfs.clone()), data(), config, &[3; 32])
}

pub(super) fn reopen(vfs: &MemVfs) -> Result<Writer, OpenError> {
    writer_with(vfs, crash_config()).map(|(writer, _)| writer)
}

/// A writer of a disk of its own: what stands in while the true one is dropped, because the lock goes with it.
pub(super) fn blank() -> Writer {
    prepare(Arc::new(MemVfs::default()), Path::new("/blank"), config(), &[9; 32]).unwrap().0
}

pub(super) fn room(writer: &Writer) -> Room {
    Room { vfs: Arc::clone(&writer.vfs), data: writer.data.clone(), shared: Arc::clone(&writer.shared) }
}

pub(super) fn put_draft(payload: &Bytes, group: GroupId) -> Draft {
    let (id, outboard) = bao::outboard(payload);
    let crc = record::checksum(payload, &outboard);
    let draft = Draft::mark(Kind::Put, *id.as_bytes(), *group.as_bytes());
    Draft { payload: payload.clone(), outboard, crc, ..draft }
}

pub(super) fn signed_draft(kind: Kind, key: [u8; 32], group: GroupId, number: u64, payload: &[u8]) -> Draft {
    let crc = record::checksum(payload, &[]);
    let draft = Draft::mark(kind, key, *group.as_bytes());
    Draft { number, payload: Bytes::copy_from_slice(payload), crc, ..draft }
}

/// Compacts whatever a person could ask for. Returns how many segments went.
pub(super) fn compact(writer: &mut Writer) -> io::Result<u64> {
    let room = room(writer);
    let mut job = Compactor::default();
    job.begin();
    for _ in 0..STEPS_MAX {
        if let Stepped::Idle = job.step(&room, writer, LOOK)? {
            return Ok(job.segments);
        }
    }
    panic!("compaction does not end");
}

/// One pass over everything.
pub(super) fn scrub(writer: &mut Writer) -> io::Result<Found> {
    let room = room(writer);
    let mut job = Scrubber::default();
    job.begin(&room, 0, LOOK);
    for _ in 0..STEPS_MAX {
        if let Stepped::Idle = job.step(&room, writer, LOOK)? {
            return Ok(job.found);
        }
    }
    panic!("the scrub does not end");
}

/// One sweep. Returns how much it removed.
pub(super) fn expire(writer: &mut Writer, gone_by: u64) -> io::Result<u64> {
    let room = room(writer);
    let mut job = Expirer::default();
    job.begin(&room);
    for _ in 0..STEPS_MAX {
        if let Stepped::Idle = job.step(&room, writer, gone_by)? {
            return Ok(job.removed);
        }
    }
    panic!("the sweep does not end");
}

pub(super) fn save(writer: &Writer) -> io::Result<u64> {
    snapshot::take(writer.vfs.as_ref(), &writer.data, &writer.shared)
}

/// Ends a store in good order.
pub(super) fn finish(mut writer: Writer) {
    writer.finish();
    save(&writer).unwrap();
}

/// The encoded stream of a whole shard as far as it came, and how the read ended. `None` if it is not here.
pub(super) fn stream(shared: &Shared, id: &ShardId) -> Option<(Vec<u8>, Result<ReadOutcome, ReadError>)> {
    let slot = shared.index().candidate(id.as_bytes())?;
    let mut out = Vec::new();
    let mut sink = |bytes: Vec<u8>| {
        out.extend_from_slice(&bytes);
        ControlFlow::Continue(())
    };
    let all = [0..u64::from(slot.length)];
    let done = read::read_encoded(&shared.files, &shared.codec, &slot, id, &all, &mut sink);
    Some((out, done))
}

/// Everything that was promised is there, byte for byte, and nothing is there that is not what its id says.
pub(super) fn check(writer: &Writer, promised: &Promised, what: &str) {
    let shared = &writer.shared;
    for n in 0..SHARDS {
        let bytes = shard(n);
        let id = shard_id(n);
        let slot = shared.find(id.as_bytes());
        let groups = promised.shards.get(&n);
        if let Some(groups) = groups.filter(|groups| !groups.is_empty()) {
            let slot = slot.unwrap_or_else(|| panic!("{what}: shard {n} is lost"));
            let held = shared.index().groups_of(id.as_bytes(), &slot);
            for wanted in groups {
                assert!(held.contains(group(*wanted).as_bytes()), "{what}: group {wanted} lost its shard {n}");
            }
        }
        if slot.is_some() {
            let (out, done) = stream(shared, &id).unwrap();
            assert!(done.is_ok(), "{what}: shard {n}: {done:?}");
            let all = [0..bytes.len() as u64];
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
pub(super) fn consistent(writer: &Writer, what: &str) {
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
    let mut holds: BTreeMap<u32, u32> = BTreeMap::new();
    let of_records = index.records.values().flatten().flatten().map(|place| place.group);
    let of_shards = slots.iter().map(|slot| slot.group).chain(index.refs.iter().map(|(_, group)| *group));
    of_records
        .chain(of_shards)
        .filter(|group| *group != NO_GROUP)
        .for_each(|group| *holds.entry(group).or_default() += 1);
    let mut bytes: BTreeMap<u32, u64> = BTreeMap::new();
    let own = index.records.values().flatten().flatten().map(|place| (place.group, place.length));
    for (group, length) in own.chain(slots.iter().map(|slot| (slot.group, slot.length))) {
        *bytes.entry(group).or_default() += u64::from(length);
    }
    for (handle, state) in index.groups.iter().enumerate() {
        let own = bytes.get(&(handle as u32)).copied().unwrap_or(0);
        assert_eq!(state.bytes, own, "{what}: bytes of group {:02x}", state.id[0]);
        let wanted = holds.get(&(handle as u32)).copied().unwrap_or(0);
        assert_eq!(state.holds, wanted, "{what}: what group {:02x} holds", state.id[0]);
    }
}
