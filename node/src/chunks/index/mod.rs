//! Where everything is: rebuilt from the log at open, changed by the writer alone. It never holds a payload; what is
//! written of it to disk ([`super::snapshot`]) only saves time.

mod groups;
mod segments;
mod staggered;

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};

use super::bao::outboard_length;
use super::record::{ALIGN, Entry, Kind, record_size};

pub(crate) use groups::{GROUPS_MAX, Groups, NO_GROUP};
pub(crate) use segments::{SegmentUse, Segments};
pub(crate) use staggered::{Prefix, StaggeredMap};

/// Most record keys one node keeps.
pub(crate) const RECORDS_MAX: usize = 1 << 22;
/// Most lost shards a node remembers; beyond them the one with the lowest id is forgotten.
pub(crate) const LOSSES_MAX: usize = 65_536;

/// Where a shard is. With its prefix this is 32 bytes of memory per shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub segment: u32,
    /// Offset of the header in units of [`ALIGN`].
    pub unit: u32,
    /// Bytes of the payload.
    pub length: u32,
    /// Handle of the first group that holds it.
    pub group: u32,
}

const _: () = assert!(size_of::<(Prefix, Slot)>() == 32);

/// Where a record or group statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub segment: u32,
    pub unit: u32,
    pub length: u32,
    /// Handle of the group that holds it.
    pub group: u32,
    /// Version of a record; when a group is over, milliseconds since 1970.
    pub number: u64,
}

impl Slot {
    /// Bytes from the start of the segment to the header.
    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.unit).saturating_mul(ALIGN)
    }

    /// Whether both are the same bytes on disk.
    pub(crate) fn same_place(&self, other: &Self) -> bool {
        (self.segment, self.unit) == (other.segment, other.unit)
    }

    /// Whether this is the record at `offset` of `segment`.
    pub(crate) fn is_at(&self, segment: u32, offset: u64) -> bool {
        self.segment == segment && self.offset() == offset
    }

    /// Bytes of the whole record.
    pub(crate) fn size(&self) -> u64 {
        record_size(self.length, outboard_length(self.length))
    }
}

impl Place {
    /// Bytes from the start of the segment to the header.
    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.unit).saturating_mul(ALIGN)
    }

    /// Whether this is the record at `offset` of `segment`.
    pub(crate) fn is_at(&self, segment: u32, offset: u64) -> bool {
        self.segment == segment && self.offset() == offset
    }

    /// Bytes of the whole record.
    pub(crate) fn size(&self) -> u64 {
        record_size(self.length, 0)
    }
}

/// Tells whether the record at a slot has this full key; reads the disk.
pub(crate) type SameKey<'a> = &'a dyn Fn(&Slot, &[u8; 32]) -> bool;

/// The two newest versions of a record.
pub(crate) type Versions = [Option<Place>; 2];

/// The index of one store.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub shards: StaggeredMap<Slot>,
    /// Shards whose prefix another shard had first.
    pub collided: BTreeMap<[u8; 32], Slot>,
    /// Groups that hold a shard beyond its first. One may be here before the shard is: they count once it comes.
    pub refs: BTreeSet<([u8; 32], u32)>,
    pub groups: Groups,
    pub records: BTreeMap<[u8; 32], Versions>,
    /// Shards no group holds any more, and since when, milliseconds since 1970.
    pub trash: BTreeMap<[u8; 32], u64>,
    /// Shards found damaged and not stored again, and when that was found, milliseconds since 1970.
    pub losses: BTreeMap<[u8; 32], u64>,
    pub segments: Segments,
    /// The sequence number of the next new record.
    pub next_sequence: u64,
}

fn prefix(key: &[u8; 32]) -> Prefix {
    let mut out = [0; 16];
    out.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    out
}

impl Index {
    /// The shard, if `same` confirms its full key.
    pub(crate) fn find(&self, key: &[u8; 32], same: SameKey<'_>) -> Option<Slot> {
        self.candidate(key).filter(|slot| self.collided.contains_key(key) || same(slot, key))
    }

    /// Where the shard is if it is here: its full key must still be compared.
    pub(crate) fn candidate(&self, key: &[u8; 32]) -> Option<Slot> {
        self.collided.get(key).or_else(|| self.shards.get(&prefix(key))).copied()
    }

    /// The newest (`back` 0) or second newest (1) version of a record.
    pub(crate) fn record(&self, key: &[u8; 32], back: u8) -> Option<Place> {
        self.records.get(key)?.get(usize::from(back)).copied().flatten()
    }

    /// The newest statement of a group.
    pub(crate) fn group(&self, id: &[u8; 32]) -> Option<Place> {
        self.groups.get(self.groups.known(id)?)?.place
    }

    /// Shards known.
    pub(crate) fn shards(&self) -> usize {
        self.shards.len().saturating_add(self.collided.len())
    }

    /// Whether `more` entries of this kind would pass a bound.
    pub(crate) fn is_full(&self, kind: Kind, more: usize, shards_max: usize) -> bool {
        let groups = self.groups.len().saturating_add(more) > GROUPS_MAX;
        match kind {
            Kind::Put => groups || self.shards().saturating_add(more) > shards_max,
            Kind::Ref => groups || self.refs.len().saturating_add(more) > shards_max,
            Kind::Record => groups || self.records.len().saturating_add(more) > RECORDS_MAX,
            Kind::Group => groups,
            Kind::Drop | Kind::Tombstone => false,
        }
    }

    fn handles_of(&self, key: &[u8; 32], slot: &Slot) -> impl Iterator<Item = u32> {
        let more = self.refs.range((*key, 0)..=(*key, NO_GROUP)).map(|(_, handle)| *handle);
        std::iter::once(slot.group).filter(|handle| *handle != NO_GROUP).chain(more)
    }

    /// The groups that hold this shard.
    pub(crate) fn groups_of(&self, key: &[u8; 32], slot: &Slot) -> BTreeSet<[u8; 32]> {
        self.handles_of(key, slot).filter_map(|handle| Some(self.groups.get(handle)?.id)).collect()
    }

    /// When the last group that holds this shard is over, or since when none holds it, milliseconds since 1970. `None`
    /// if a group holds it whose end is not known.
    pub(crate) fn shard_lapses(&self, key: &[u8; 32], slot: &Slot) -> Option<u64> {
        if slot.group == NO_GROUP {
            return self.trash.get(key).copied();
        }
        self.handles_of(key, slot).try_fold(0, |latest, handle| Some(self.groups.expires(handle)?.max(latest)))
    }

    /// When the group that holds this record is over; as [`Index::shard_lapses`].
    pub(crate) fn record_lapses(&self, key: &[u8; 32]) -> Option<u64> {
        self.groups.expires(self.record(key, 0)?.group)
    }

    /// When a group that holds nothing any more is over, milliseconds since 1970.
    pub(crate) fn group_lapses(&self, id: &[u8; 32]) -> Option<u64> {
        let group = self.groups.get(self.groups.known(id)?)?;
        Some(group.place?.number).filter(|_| group.holds == 0)
    }

    /// The earliest time at which anything stored lapses, milliseconds since 1970.
    pub(crate) fn first_lapse(&self) -> Option<u64> {
        let groups = self.groups.iter().filter_map(|group| Some(group.place?.number));
        groups.chain(self.trash.values().copied()).min()
    }

    /// Takes in one durable record; the same for a record just synced and for one found at open, if they come in the
    /// order of their sequence numbers.
    pub(crate) fn apply(&mut self, entry: &Entry, segment: u32, same: SameKey<'_>) {
        let unit = u32::try_from(entry.offset / ALIGN).unwrap_or(u32::MAX);
        match entry.kind {
            Kind::Put => {
                let group = self.groups.handle(&entry.group);
                self.insert(&entry.key, Slot { segment, unit, length: entry.payload, group }, same);
            }
            Kind::Ref => self.add_ref(&entry.key, &entry.group, same),
            Kind::Drop => self.drop_ref(&entry.key, &entry.group, entry.number, same),
            Kind::Group => {
                let group = self.groups.handle(&entry.key);
                self.set_group(group, Place { segment, unit, length: entry.payload, group, number: entry.number });
            }
            Kind::Record => {
                let group = self.groups.handle(&entry.group);
                let place = Place { segment, unit, length: entry.payload, group, number: entry.number };
                self.insert_record(&entry.key, place);
            }
            Kind::Tombstone => self.remove(&entry.key, entry.number, same),
        }
        self.segments.note(segment, entry);
        self.next_sequence = self.next_sequence.max(entry.sequence.saturating_add(1));
    }

    /// Takes in a copy that compaction made of a record whose effect is here already: only its place is new, and only
    /// if it was the place given in `from`.
    pub(crate) fn relocate(&mut self, entry: &Entry, segment: u32, from: Option<(u32, u64)>, same: SameKey<'_>) {
        self.segments.note(segment, entry);
        let moved = |segment, offset| from.is_none_or(|from| from == (segment, offset));
        let unit = u32::try_from(entry.offset / ALIGN).unwrap_or(u32::MAX);
        match entry.kind {
            Kind::Put => {
                if let Some(old) = self.find(&entry.key, same).filter(|old| moved(old.segment, old.offset())) {
                    let new = Slot { segment, unit, ..old };
                    self.set(&entry.key, new);
                    self.exchange(Some((old.segment, old.size())), Some((segment, new.size())));
                }
            }
            Kind::Group => {
                if let Some(old) = self.group(&entry.key).filter(|old| moved(old.segment, old.offset())) {
                    self.set_group(old.group, Place { segment, unit, ..old });
                }
            }
            Kind::Record => {
                let old = self.version(&entry.key, entry.number);
                if let Some(old) = old.filter(|old| moved(old.segment, old.offset())) {
                    self.insert_record(&entry.key, Place { segment, unit, ..old });
                }
            }
            Kind::Ref | Kind::Drop | Kind::Tombstone => {}
        }
    }

    fn version(&self, key: &[u8; 32], number: u64) -> Option<Place> {
        self.records.get(key)?.iter().flatten().find(|place| place.number == number).copied()
    }

    fn exchange(&mut self, dead: Option<(u32, u64)>, alive: Option<(u32, u64)>) {
        if let Some((segment, size)) = dead {
            self.segments.dead(segment, size);
        }
        if let Some((segment, size)) = alive {
            self.segments.alive(segment, size);
        }
    }

    /// Newer bytes of a shard replace older ones; the groups that held it go on holding it.
    fn insert(&mut self, key: &[u8; 32], slot: Slot, same: SameKey<'_>) {
        self.losses.remove(key);
        self.exchange(None, Some((slot.segment, slot.size())));
        let Some(old) = self.find(key, same) else {
            if let MapEntry::Vacant(free) = self.shards.entry(prefix(key)) {
                free.insert(slot);
            } else {
                self.collided.insert(*key, slot);
            }
            if self.refs.remove(&(*key, slot.group)) {
                self.groups.take_over(slot.group, slot.length);
            } else {
                self.groups.hold(slot.group, slot.length);
            }
            return;
        };
        self.exchange(Some((old.segment, old.size())), None);
        let group = if old.group == NO_GROUP { slot.group } else { old.group };
        self.set(key, Slot { group, ..slot });
        if old.group == NO_GROUP {
            self.trash.remove(key);
            self.groups.hold(group, slot.length);
        } else if slot.group != group && self.refs.insert((*key, slot.group)) {
            self.groups.hold(slot.group, 0);
        }
    }

    fn set(&mut self, key: &[u8; 32], slot: Slot) {
        if let Some(place) = self.collided.get_mut(key).or_else(|| self.shards.get_mut(&prefix(key))) {
            *place = slot;
        }
    }

    fn add_ref(&mut self, key: &[u8; 32], group: &[u8; 32], same: SameKey<'_>) {
        let group = self.groups.handle(group);
        match self.find(key, same) {
            Some(slot) if slot.group == NO_GROUP => {
                self.trash.remove(key);
                self.set(key, Slot { group, ..slot });
                self.groups.hold(group, slot.length);
            }
            Some(slot) if slot.group == group => {}
            Some(_) | None => {
                if self.refs.insert((*key, group)) {
                    self.groups.hold(group, 0);
                }
            }
        }
    }

    fn drop_ref(&mut self, key: &[u8; 32], group: &[u8; 32], when: u64, same: SameKey<'_>) {
        let Some(handle) = self.groups.known(group) else { return };
        if self.refs.remove(&(*key, handle)) {
            self.groups.release(handle, 0);
            return;
        }
        let Some(slot) = self.find(key, same).filter(|slot| slot.group == handle && handle != NO_GROUP) else { return };
        self.groups.release(handle, slot.length);
        let next = self.refs.range((*key, 0)..=(*key, NO_GROUP)).next().copied();
        let group = next.map_or(NO_GROUP, |(_, group)| group);
        if next.is_some() {
            self.refs.remove(&(*key, group));
            self.groups.take_over(group, slot.length);
        } else {
            self.trash.insert(*key, when);
        }
        self.set(key, Slot { group, ..slot });
    }

    fn set_group(&mut self, handle: u32, place: Place) {
        let old = self.groups.set_place(handle, Some(place));
        self.exchange(old.map(|old| (old.segment, old.size())), Some((place.segment, place.size())));
    }

    fn insert_record(&mut self, key: &[u8; 32], place: Place) {
        let [newest, previous] = self.records.get(key).copied().unwrap_or_default();
        let number = |place: Option<Place>| place.map(|place| place.number);
        let (versions, gone) = match (number(newest), number(previous)) {
            (Some(first), _) if place.number == first => ([Some(place), previous], newest),
            (Some(first), second) if place.number < first => {
                if second.is_none_or(|second| place.number >= second) {
                    ([newest, Some(place)], previous)
                } else {
                    return;
                }
            }
            _ => ([Some(place), newest], previous),
        };
        self.records.insert(*key, versions);
        self.groups.hold(place.group, place.length);
        self.exchange(None, Some((place.segment, place.size())));
        if let Some(gone) = gone {
            self.forget_record(&gone);
        }
    }

    fn forget_record(&mut self, place: &Place) {
        self.groups.release(place.group, place.length);
        self.segments.dead(place.segment, place.size());
    }

    /// A tombstone: the shard, record or group under this key is gone. `found` is not 0 if it was found damaged then.
    fn remove(&mut self, key: &[u8; 32], found: u64, same: SameKey<'_>) {
        for place in self.records.remove(key).into_iter().flatten().flatten() {
            self.forget_record(&place);
        }
        if let Some(handle) = self.groups.known(key)
            && let Some(old) = self.groups.set_place(handle, None)
        {
            self.segments.dead(old.segment, old.size());
        }
        if found > 0 {
            self.losses.insert(*key, found);
            if self.losses.len() > LOSSES_MAX {
                self.losses.pop_first();
            }
        } else {
            self.losses.remove(key);
        }
        if let Some(slot) = self.find(key, same) {
            self.segments.dead(slot.segment, slot.size());
            self.groups.release(slot.group, slot.length);
            if self.collided.remove(key).is_none() {
                self.shards.remove(&prefix(key));
            }
            self.trash.remove(key);
        }
        while let Some(found) = self.refs.range((*key, 0)..=(*key, NO_GROUP)).next().copied() {
            self.refs.remove(&found);
            self.groups.release(found.1, 0);
        }
    }

    /// Lets go of everything that is still said to be in a segment. Returns how many records that were.
    pub(crate) fn forget_segment(&mut self, segment: u32) -> usize {
        let shards: Vec<Prefix> =
            self.shards.iter().filter(|(_, slot)| slot.segment == segment).map(|(prefix, _)| *prefix).collect();
        let collided: Vec<[u8; 32]> =
            self.collided.iter().filter(|(_, slot)| slot.segment == segment).map(|(key, _)| *key).collect();
        let records: Vec<[u8; 32]> = self
            .records
            .iter()
            .filter(|(_, versions)| versions.iter().flatten().any(|place| place.segment == segment))
            .map(|(key, _)| *key)
            .collect();
        let groups: Vec<Place> =
            self.groups.iter().filter_map(|group| group.place.filter(|place| place.segment == segment)).collect();
        let count = shards.len().saturating_add(collided.len()).saturating_add(records.len());
        self.trash.retain(|key, _| !shards.contains(&prefix(key)) && !collided.contains(key));
        let slots: Vec<Slot> = shards.iter().filter_map(|prefix| self.shards.remove(prefix)).collect();
        let slots = slots.into_iter().chain(collided.iter().filter_map(|key| self.collided.remove(key)));
        for slot in slots.collect::<Vec<_>>() {
            self.segments.dead(slot.segment, slot.size());
            self.groups.release(slot.group, slot.length);
        }
        for key in records {
            let [newest, previous] = self.records.remove(&key).unwrap_or_default();
            let (gone, kept): (Vec<Place>, Vec<Place>) =
                [newest, previous].into_iter().flatten().partition(|place| place.segment == segment);
            gone.iter().for_each(|place| self.forget_record(place));
            if let Some(kept) = kept.first() {
                self.records.insert(key, [Some(*kept), None]);
            }
        }
        for place in &groups {
            self.groups.set_place(place.group, None);
            self.segments.dead(segment, place.size());
        }
        count.saturating_add(groups.len())
    }

    /// Takes a damaged statement or version out of use until the next open; its segment is to be given up.
    pub(crate) fn quarantine(&mut self, entry: &Entry, segment: u32) {
        match entry.kind {
            Kind::Record => {
                let Some(versions) = self.records.get_mut(&entry.key) else { return };
                let [newest, previous] = *versions;
                let bad = |place: Option<Place>| place.filter(|place| place.is_at(segment, entry.offset));
                let Some(gone) = bad(newest).or(bad(previous)) else { return };
                let kept = if bad(newest).is_some() { previous } else { newest };
                *versions = [kept, None];
                if kept.is_none() {
                    self.records.remove(&entry.key);
                }
                self.forget_record(&gone);
            }
            Kind::Group => {
                let held = self.group(&entry.key).filter(|place| place.is_at(segment, entry.offset));
                if let Some(place) = held {
                    self.groups.set_place(place.group, None);
                    self.segments.dead(segment, place.size());
                }
            }
            Kind::Put | Kind::Ref | Kind::Drop | Kind::Tombstone => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// A log that is only a list: enough to confirm full keys.
    #[derive(Default)]
    struct Log {
        keys: RefCell<BTreeMap<u64, [u8; 32]>>,
        index: Index,
    }

    impl Log {
        fn add(&mut self, kind: Kind, key: [u8; 32], group: u8, number: u64) {
            let offset = 64 * (self.keys.borrow().len() as u64 + 1);
            self.keys.borrow_mut().insert(offset, key);
            let (group, payload) = ([group; 32], 10);
            let entry = Entry { kind, key, group, payload, outboard: 0, number, sequence: offset, offset };
            let keys = &self.keys;
            self.index.apply(&entry, 1, &|slot, key| keys.borrow().get(&slot.offset()) == Some(key));
        }

        fn groups(&self, key: [u8; 32]) -> Vec<u8> {
            let same = |slot: &Slot, key: &[u8; 32]| self.keys.borrow().get(&slot.offset()) == Some(key);
            let slot = self.index.find(&key, &same);
            slot.map_or(vec![], |slot| self.index.groups_of(&key, &slot).iter().map(|group| group[0]).collect())
        }

        fn has(&self, key: [u8; 32]) -> bool {
            self.index.find(&key, &|slot, key| self.keys.borrow().get(&slot.offset()) == Some(key)).is_some()
        }
    }

    #[test]
    fn keys_with_one_prefix_are_told_apart() {
        let (mut a, mut b, mut c) = ([1; 32], [1; 32], [1; 32]);
        (a[31], b[31], c[31]) = (0xa, 0xb, 0xc);
        let mut log = Log::default();
        log.add(Kind::Put, a, 1, 0);
        log.add(Kind::Put, b, 2, 0);
        assert!(log.has(a) && log.has(b) && !log.has(c));
        log.add(Kind::Tombstone, c, 0, 0);
        log.add(Kind::Tombstone, a, 0, 0);
        assert!(!log.has(a) && log.has(b));
        log.add(Kind::Ref, b, 3, 0);
        log.add(Kind::Put, a, 4, 0);
        assert_eq!((log.groups(a), log.groups(b)), (vec![4], vec![2, 3]));
    }

    #[test]
    fn groups_come_and_go() {
        let mut log = Log::default();
        log.add(Kind::Put, [1; 32], 1, 0);
        log.add(Kind::Ref, [1; 32], 2, 0);
        log.add(Kind::Ref, [1; 32], 2, 0);
        log.add(Kind::Drop, [1; 32], 1, 0);
        assert_eq!(log.groups([1; 32]), [2]);
        log.add(Kind::Drop, [1; 32], 2, 0);
        assert_eq!(log.groups([1; 32]), [0; 0]);
        assert!(log.has([1; 32]), "a shard without a group is kept until it is compacted");
        log.add(Kind::Ref, [1; 32], 5, 0);
        log.add(Kind::Put, [1; 32], 6, 0);
        assert_eq!(log.groups([1; 32]), [5, 6]);
    }

    #[test]
    fn the_two_highest_versions_stay_in_any_order() {
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [3, 1, 2]] {
            let mut log = Log::default();
            order.into_iter().for_each(|number| log.add(Kind::Record, [7; 32], 0, number));
            let number = |back| log.index.record(&[7; 32], back).map(|place| place.number);
            assert_eq!((number(0), number(1), number(2)), (Some(3), Some(2), None), "{order:?}");
        }
    }
}
