//! The newest statement of each kind and signer until it ends, in the order in which they became news, and who has said
//! each already. It verifies nothing and compares signers' words by their numbers alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_protocol::mesh::flood::{FLOOD_ITEM_MAX, FloodKind};
use shoal_protocol::{NodeId, UnixMillis};

use super::{NotKept, STATEMENTS_MAX};

/// What is kept once of each: a kind and a signer.
pub(super) type Key = (FloodKind, NodeId);

/// A verified statement that was news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What it is.
    pub kind: FloodKind,
    /// Who signed it.
    pub signer: NodeId,
    /// Of two of one kind and signer the one with the greater number counts: the time of a claim of either kind, the epoch of a mesh key.
    pub version: u64,
    /// Until when it is passed on.
    pub expires: UnixMillis,
    /// Its envelope, 1 to [`FLOOD_ITEM_MAX`] bytes.
    pub signed: Vec<u8>,
}

/// Which neighbours a statement came from, by their places: one bit each.
#[derive(Clone, Debug, Default)]
struct Holders(Vec<u64>);

impl Holders {
    fn place(slot: u16) -> (usize, u64) {
        (usize::from(slot / 64), 1 << (slot % 64))
    }

    fn add(&mut self, slot: u16) {
        let (word, bit) = Self::place(slot);
        if self.0.len() <= word {
            self.0.resize(word.saturating_add(1), 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    fn remove(&mut self, slot: u16) {
        let (word, bit) = Self::place(slot);
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
    }

    fn has(&self, slot: u16) -> bool {
        let (word, bit) = Self::place(slot);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}

#[derive(Debug)]
struct Entry {
    statement: Arc<Statement>,
    /// Where it is in the order of news.
    place: u64,
    holders: Holders,
}

/// All of them. Two indexes are kept in step with the entries: places and ends.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// At most [`STATEMENTS_MAX`] of each kind.
    entries: BTreeMap<Key, Entry>,
    counts: BTreeMap<FloodKind, usize>,
    places: BTreeMap<u64, Key>,
    ends: BTreeSet<(UnixMillis, Key)>,
    last_place: u64,
}

impl Kept {
    /// Keeps a statement; it takes the place of an older one and goes to the end of the order.
    pub(super) fn keep(&mut self, statement: Statement, wall: UnixMillis) -> Result<(), NotKept> {
        let key = (statement.kind, statement.signer);
        if !(1..=FLOOD_ITEM_MAX).contains(&statement.signed.len()) {
            return Err(NotKept::Length);
        }
        if statement.expires <= wall {
            return Err(NotKept::Expired);
        }
        match self.entries.get(&key) {
            Some(entry) if entry.statement.version >= statement.version => return Err(NotKept::Old),
            None if self.count(statement.kind) >= STATEMENTS_MAX => return Err(NotKept::Full),
            _ => self.forget(&key),
        }
        self.last_place = self.last_place.saturating_add(1);
        self.places.insert(self.last_place, key);
        self.ends.insert((statement.expires, key));
        *self.counts.entry(statement.kind).or_default() += 1;
        let entry = Entry { statement: Arc::new(statement), place: self.last_place, holders: Holders::default() };
        self.entries.insert(key, entry);
        Ok(())
    }

    /// The neighbour at `slot` said this itself, or something newer than `version`.
    pub(super) fn mark(&mut self, key: &Key, version: u64, slot: u16) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.statement.version == version) {
            entry.holders.add(slot);
        }
    }

    /// The neighbour at `slot` said this: whether it is what is kept, byte by byte. Then that is marked.
    pub(super) fn repeat(&mut self, key: &Key, signed: &[u8], slot: u16) -> bool {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.statement.signed == signed) else {
            return false;
        };
        entry.holders.add(slot);
        true
    }

    /// Nothing is known any more of what the neighbour at `slot` said.
    pub(super) fn forget_slot(&mut self, slot: u16) {
        self.entries.values_mut().for_each(|entry| entry.holders.remove(slot));
    }

    /// Lets go of what has ended.
    pub(super) fn expire(&mut self, wall: UnixMillis) {
        while let Some((_, key)) = self.ends.first().copied().filter(|(expires, _)| *expires <= wall) {
            self.forget(&key);
        }
    }

    /// The next statement behind `place` that the neighbour at `slot` did not say itself, with its place.
    pub(super) fn next(&self, place: u64, slot: u16) -> Option<(u64, &Arc<Statement>)> {
        let behind = self.places.range(place.saturating_add(1)..);
        let mut entries = behind.filter_map(|(place, key)| Some((*place, self.entries.get(key)?)));
        entries.find(|(_, entry)| !entry.holders.has(slot)).map(|(place, entry)| (place, &entry.statement))
    }

    /// The place of the newest there ever was.
    pub(super) const fn last_place(&self) -> u64 {
        self.last_place
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// In the order of news.
    pub(super) fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.places.values().filter_map(|key| self.entries.get(key)).map(|entry| &*entry.statement)
    }

    fn count(&self, kind: FloodKind) -> usize {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    fn forget(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.places.remove(&entry.place);
        self.ends.remove(&(entry.statement.expires, *key));
        if let Some(count) = self.counts.get_mut(&key.0) {
            *count = count.saturating_sub(1);
        }
    }
}
