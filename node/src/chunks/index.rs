//! Where everything is: rebuilt from the log at open, changed by the writer alone. It never holds a payload and is
//! never written to disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::record::{ALIGN, Entry, Kind};

/// Most lease groups one node knows.
pub(crate) const GROUPS_MAX: usize = 1 << 20;
/// Most record keys one node keeps.
pub(crate) const RECORDS_MAX: usize = 1 << 22;
/// [`Slot::group`] of a shard no group holds.
const NO_GROUP: u32 = u32::MAX;

/// First bytes of a shard id. Two ids may share them, so every hit is confirmed by the full key on disk.
type Prefix = [u8; 16];

/// Where a shard is. With its prefix this is 32 bytes of memory per shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub segment: u32,
    /// Offset of the header in units of [`ALIGN`].
    unit: u32,
    /// Bytes of the payload.
    pub length: u32,
    /// Handle of the first group that holds it.
    group: u32,
}

const _: () = assert!(size_of::<(Prefix, Slot)>() == 32);

/// Where a record or group statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub segment: u32,
    unit: u32,
    pub length: u32,
    /// Version of a record.
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
}

impl Place {
    /// Bytes from the start of the segment to the header.
    pub(crate) fn offset(&self) -> u64 {
        u64::from(self.unit).saturating_mul(ALIGN)
    }
}

/// Tells whether the record at a slot has this full key; reads the disk.
pub(crate) type SameKey<'a> = &'a dyn Fn(&Slot, &[u8; 32]) -> bool;

/// The index of one store.
#[derive(Debug, Default)]
pub(crate) struct Index {
    shards: HashMap<Prefix, Slot>,
    /// Shards whose prefix another shard had first.
    collided: BTreeMap<[u8; 32], Slot>,
    /// Groups that hold a shard beyond its first.
    refs: BTreeSet<([u8; 32], u32)>,
    groups: Vec<([u8; 32], Option<Place>)>,
    handles: BTreeMap<[u8; 32], u32>,
    records: BTreeMap<[u8; 32], [Option<Place>; 2]>,
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
        let handle = self.handles.get(id)?;
        self.groups.get(*handle as usize)?.1
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

    /// The groups that hold this shard.
    pub(crate) fn groups_of(&self, key: &[u8; 32], slot: &Slot) -> BTreeSet<[u8; 32]> {
        let more = self.refs.range((*key, 0)..=(*key, NO_GROUP)).map(|(_, handle)| *handle);
        let handles = std::iter::once(slot.group).chain(more);
        handles.filter_map(|handle| Some(self.groups.get(handle as usize)?.0)).collect()
    }

    /// Takes in one durable record; the same for a record just synced and for one found at open.
    pub(crate) fn apply(&mut self, entry: &Entry, segment: u32, same: SameKey<'_>) {
        let unit = u32::try_from(entry.offset / ALIGN).unwrap_or(u32::MAX);
        let place = Place { segment, unit, length: entry.payload, number: entry.number };
        match entry.kind {
            Kind::Put => {
                let group = self.handle(&entry.group);
                self.insert(&entry.key, Slot { segment, unit, length: entry.payload, group }, same);
            }
            Kind::Ref => self.add_ref(&entry.key, &entry.group, same),
            Kind::Drop => self.drop_ref(&entry.key, &entry.group, same),
            Kind::Group => {
                let handle = self.handle(&entry.key) as usize;
                if let Some(group) = self.groups.get_mut(handle) {
                    group.1 = Some(place);
                }
            }
            Kind::Record => self.insert_record(&entry.key, place),
            Kind::Tombstone => self.remove(&entry.key, same),
        }
    }

    fn handle(&mut self, group: &[u8; 32]) -> u32 {
        if let Some(handle) = self.handles.get(group) {
            return *handle;
        }
        let Some(handle) = u32::try_from(self.groups.len()).ok().filter(|handle| *handle != NO_GROUP) else {
            return NO_GROUP;
        };
        self.groups.push((*group, None));
        self.handles.insert(*group, handle);
        handle
    }

    /// Newer bytes of a shard replace older ones; the groups that held it go on holding it.
    fn insert(&mut self, key: &[u8; 32], slot: Slot, same: SameKey<'_>) {
        let Some(old) = self.find(key, same) else {
            if let std::collections::hash_map::Entry::Vacant(e) = self.shards.entry(prefix(key)) {
                e.insert(slot);
            } else {
                self.collided.insert(*key, slot);
            }
            return;
        };
        let group = if old.group == NO_GROUP { slot.group } else { old.group };
        self.set(key, Slot { group, ..slot });
        if slot.group != group {
            self.refs.insert((*key, slot.group));
        }
    }

    fn set(&mut self, key: &[u8; 32], slot: Slot) {
        if let Some(place) = self.collided.get_mut(key).or_else(|| self.shards.get_mut(&prefix(key))) {
            *place = slot;
        }
    }

    fn add_ref(&mut self, key: &[u8; 32], group: &[u8; 32], same: SameKey<'_>) {
        let group = self.handle(group);
        match self.find(key, same) {
            Some(slot) if slot.group == NO_GROUP => self.set(key, Slot { group, ..slot }),
            Some(slot) if slot.group != group => {
                self.refs.insert((*key, group));
            }
            _ => {}
        }
    }

    fn drop_ref(&mut self, key: &[u8; 32], group: &[u8; 32], same: SameKey<'_>) {
        let (Some(slot), Some(handle)) = (self.find(key, same), self.handles.get(group).copied()) else { return };
        if slot.group != handle {
            self.refs.remove(&(*key, handle));
            return;
        }
        let next = self.refs.range((*key, 0)..=(*key, NO_GROUP)).next().copied();
        let group = next.map_or(NO_GROUP, |(_, group)| group);
        self.refs.remove(&(*key, group));
        self.set(key, Slot { group, ..slot });
    }

    fn insert_record(&mut self, key: &[u8; 32], place: Place) {
        let versions = self.records.entry(*key).or_default();
        let [newest, previous] = *versions;
        let number = |place: Option<Place>| place.map(|place| place.number);
        *versions = match (number(newest), number(previous)) {
            (Some(first), _) if place.number == first => [Some(place), previous],
            (Some(first), second) if place.number < first => {
                if second.is_none_or(|second| place.number >= second) {
                    [newest, Some(place)]
                } else {
                    [newest, previous]
                }
            }
            _ => [Some(place), newest],
        };
    }

    fn remove(&mut self, key: &[u8; 32], same: SameKey<'_>) {
        self.records.remove(key);
        if self.find(key, same).is_none() {
            return;
        }
        if self.collided.remove(key).is_none() {
            self.shards.remove(&prefix(key));
        }
        while let Some(found) = self.refs.range((*key, 0)..=(*key, NO_GROUP)).next().copied() {
            self.refs.remove(&found);
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
            let entry = Entry { kind, key, group, payload, outboard: 0, number, sequence: 0, offset };
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
