//! What becomes of each request of a batch: which record is written, if any, or why not. It decides over the index and
//! the requests before it in the same batch, and writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::Shared;
use super::commit::{BATCH_RECORDS, Draft};
use super::error::PutError;
use super::index::Slot;
use super::record::Kind;

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A record of this kind is written.
    Write(Kind),
    /// It is so already.
    Nothing,
    /// It cannot be.
    Refuse(PutError),
}

/// What a key will be once the batch so far is durable.
#[derive(Debug)]
struct Pending {
    present: bool,
    groups: BTreeSet<[u8; 32]>,
}

/// Judges the requests of one batch in their order.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    shared: &'a Shared,
    keys: BTreeMap<[u8; 32], Pending>,
    newest: BTreeMap<[u8; 32], u64>,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        Self { shared, keys: BTreeMap::new(), newest: BTreeMap::new() }
    }

    /// What becomes of the next request.
    pub(crate) fn next(&mut self, draft: &Draft) -> Verdict {
        if draft.sequence.is_some() {
            return self.copy(draft);
        }
        if self.shared.index().is_full(draft.kind, BATCH_RECORDS, self.shared.shards_max) {
            return Verdict::Refuse(PutError::IndexFull);
        }
        match draft.kind {
            Kind::Record => self.record(draft),
            Kind::Group => Verdict::Write(Kind::Group),
            Kind::Put | Kind::Ref | Kind::Drop | Kind::Tombstone => self.shard(draft),
        }
    }

    /// A copy by compaction. It keeps its sequence number, so a change of the same key in this batch still comes after
    /// it; the index alone decides.
    fn copy(&self, draft: &Draft) -> Verdict {
        let Some((segment, offset)) = draft.at else { return Verdict::Nothing };
        let found = match draft.kind {
            Kind::Put | Kind::Ref | Kind::Drop => self.shared.find_at(&draft.key, draft.at),
            Kind::Group | Kind::Record | Kind::Tombstone => None,
        };
        let index = self.shared.index();
        let group = index.groups.known(&draft.group);
        let held = match found {
            Some(slot) => index.groups_of(&draft.key, &slot).contains(&draft.group),
            None => group.is_some_and(|group| index.refs.contains(&(draft.key, group))),
        };
        let wanted = match draft.kind {
            // Its bytes are dead, but it may be what says that this group holds the shard.
            Kind::Put if found.is_none_or(|slot| !slot.is_at(segment, offset)) => {
                return if held { Verdict::Write(Kind::Ref) } else { Verdict::Nothing };
            }
            Kind::Put | Kind::Tombstone => true,
            Kind::Ref => held,
            Kind::Drop => found.is_some() && !held,
            Kind::Group => index.group(&draft.key).is_some_and(|place| place.is_at(segment, offset)),
            Kind::Record => {
                let versions = [index.record(&draft.key, 0), index.record(&draft.key, 1)];
                versions.into_iter().flatten().any(|place| place.is_at(segment, offset))
            }
        };
        if wanted { Verdict::Write(draft.kind) } else { Verdict::Nothing }
    }

    fn record(&mut self, draft: &Draft) -> Verdict {
        let known = self.newest.get(&draft.key).copied();
        let stored = known.or_else(|| self.shared.index().record(&draft.key, 0).map(|place| place.number));
        match stored {
            Some(stored) if draft.number <= stored => Verdict::Refuse(PutError::Stale { stored }),
            _ => {
                self.newest.insert(draft.key, draft.number);
                Verdict::Write(Kind::Record)
            }
        }
    }

    fn shard(&mut self, draft: &Draft) -> Verdict {
        let shared = self.shared;
        let found = self.shared.find_at(&draft.key, draft.at);
        if !self.still_holds(draft, found.as_ref()) {
            return Verdict::Nothing;
        }
        let pending = self.keys.entry(draft.key).or_insert_with(|| {
            let groups = found.map(|slot| shared.index().groups_of(&draft.key, &slot)).unwrap_or_default();
            let rotted = |slot: &Slot| draft.rotted.is_some_and(|rotted| rotted.same_place(slot));
            Pending { present: found.is_some_and(|slot| !rotted(&slot)), groups }
        });
        match (draft.kind, pending.present) {
            (Kind::Put, false) => {
                pending.present = true;
                pending.groups.insert(draft.group);
                Verdict::Write(Kind::Put)
            }
            (Kind::Put | Kind::Ref, true) if pending.groups.insert(draft.group) => Verdict::Write(Kind::Ref),
            (Kind::Drop, true) if pending.groups.remove(&draft.group) => Verdict::Write(Kind::Drop),
            (Kind::Tombstone, true) => {
                *pending = Pending { present: false, groups: BTreeSet::new() };
                Verdict::Write(Kind::Tombstone)
            }
            (Kind::Tombstone, false) if self.names_a_statement(&draft.key) => {
                self.newest.remove(&draft.key);
                Verdict::Write(Kind::Tombstone)
            }
            (_, true) => Verdict::Nothing,
            (_, false) => Verdict::Refuse(PutError::NotFound),
        }
    }

    /// Whether what the draft was made for is still so: meanwhile the key may have been stored again, removed, or held
    /// by another group.
    fn still_holds(&self, draft: &Draft, found: Option<&Slot>) -> bool {
        let Some((segment, offset)) = draft.at else { return true };
        let index = self.shared.index();
        let (there, lapses) = match found {
            Some(slot) => (slot.is_at(segment, offset), index.shard_lapses(&draft.key, slot)),
            None => {
                let place = index.record(&draft.key, 0).or_else(|| index.group(&draft.key));
                let lapses = index.record_lapses(&draft.key).or_else(|| index.group_lapses(&draft.key));
                (place.is_some_and(|place| place.is_at(segment, offset)), lapses)
            }
        };
        let untouched = !self.keys.contains_key(&draft.key) && !self.newest.contains_key(&draft.key);
        there && draft.lapsed.is_none_or(|gone_by| untouched && lapses.is_some_and(|lapses| lapses <= gone_by))
    }

    fn names_a_statement(&self, key: &[u8; 32]) -> bool {
        let index = self.shared.index();
        index.record(key, 0).is_some() || index.group(key).is_some() || self.newest.contains_key(key)
    }
}
