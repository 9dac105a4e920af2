//! What the entries of a journal add up to, and the slots an upload goes on with. It never asks a node whether it still
//! has what it receipted: whoever goes on does, and forgets what is gone.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::record::slot_of;
use shoal_protocol::{NodeId, SegmentNumber, ShardId};

use super::entry::{Begin, Entry, HeldUnit, SealedSegment};
use super::mark::Mark;
use shoal_protocol::page::SegmentRef;

/// A segment that was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSegment {
    /// Its plaintext.
    pub mark: Mark,
    /// Its salt, its shards, its tokens.
    pub reference: SegmentRef,
    /// Who receipted each unit.
    pub held: Vec<Option<NodeId>>,
}

impl JournalSegment {
    /// Whether every shard has a holder.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.held.iter().all(Option::is_some)
    }
}

/// An upload as its journal left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalState {
    begin: Begin,
    segments: BTreeMap<SegmentNumber, JournalSegment>,
}

impl JournalState {
    /// An upload that has only begun.
    #[must_use]
    pub const fn new(begin: Begin) -> Self {
        Self { begin, segments: BTreeMap::new() }
    }

    /// How the upload is made.
    #[must_use]
    pub const fn begin(&self) -> &Begin {
        &self.begin
    }

    /// Shards of every segment.
    fn units(&self) -> usize {
        self.begin.code.n() * usize::from(self.begin.replicas)
    }

    /// Takes one more entry; false, and nothing changed, if it cannot follow.
    pub fn apply(&mut self, entry: Entry) -> bool {
        let units = self.units();
        match entry {
            Entry::Begin(_) => false,
            Entry::Sealed(SealedSegment { number, mark, reference }) => {
                let fits = reference.shards.len() == units && reference.audit_rounds() == self.begin.audit_rounds;
                if fits {
                    self.segments.insert(number, JournalSegment { mark, reference, held: vec![None; units] });
                }
                fits
            }
            Entry::Held(HeldUnit { number, unit, node }) => {
                let segment = self.segments.get_mut(&number);
                let holder = segment.and_then(|segment| segment.held.get_mut(usize::from(unit)));
                holder.is_some_and(|holder| {
                    *holder = Some(node);
                    true
                })
            }
        }
    }

    /// Every shard that was receipted: segment, unit, id, by whom.
    pub fn holdings(&self) -> impl Iterator<Item = (SegmentNumber, usize, ShardId, NodeId)> + '_ {
        self.segments.iter().flat_map(|(number, segment)| {
            let units = segment.reference.shards.iter().zip(&segment.held).enumerate();
            units.filter_map(|(unit, (shard, node))| Some((*number, unit, shard, (*node)?)))
        })
    }

    /// Plaintext bytes of a segment, padding included; none if it was not sealed.
    #[must_use]
    pub fn plain(&self, number: SegmentNumber) -> Option<u32> {
        self.segments.get(&number).map(|segment| segment.reference.plain)
    }

    /// The shard is not where its receipt said.
    pub fn forget(&mut self, number: SegmentNumber, unit: usize) {
        if let Some(holder) = self.segments.get_mut(&number).and_then(|segment| segment.held.get_mut(unit)) {
            *holder = None;
        }
    }

    /// The entries of a journal that goes on from here under another group serial.
    pub fn entries(&self, serial: u64) -> impl Iterator<Item = Entry> + '_ {
        let begin = Entry::Begin(Begin { serial, ..self.begin.clone() });
        let segments = self.segments.iter().flat_map(|(&number, segment)| {
            let JournalSegment { mark, reference, held } = segment;
            let sealed = Entry::Sealed(SealedSegment { number, mark: *mark, reference: reference.clone() });
            let held = held.iter().enumerate().filter_map(move |(unit, node)| {
                Some(Entry::Held(HeldUnit { number, unit: u16::try_from(unit).ok()?, node: (*node)? }))
            });
            std::iter::once(sealed).chain(held)
        });
        std::iter::once(begin).chain(segments)
    }

    /// The segments, for whoever seals what is missing.
    #[must_use]
    pub fn into_segments(self) -> BTreeMap<SegmentNumber, JournalSegment> {
        self.segments
    }
}

/// The slots and spares an upload goes on with: every slot keeps the node that last receipted for it, if that is still
/// among `slots` or `spares`; the others get nodes that stand in no slot, those of `slots` first. So no node gets a second
/// shard of a segment that it already holds one of in its own slot.
#[must_use]
pub fn slots_as_left(slots: &[NodeId], spares: &[NodeId], state: &JournalState) -> (Vec<NodeId>, Vec<NodeId>) {
    let usable: BTreeSet<NodeId> = slots.iter().chain(spares).copied().collect();
    let mut last: Vec<Option<(SegmentNumber, NodeId)>> = vec![None; slots.len()];
    for (number, unit, _, node) in state.holdings().filter(|(.., node)| usable.contains(node)) {
        if let Some(slot) = slot_of(number, unit, slots.len()).and_then(|slot| last.get_mut(slot)) {
            *slot = Some((number, node));
        }
    }
    // Of two slots that one node served, it keeps the one it served last.
    let mut kept: BTreeMap<NodeId, (SegmentNumber, usize)> = BTreeMap::new();
    for (slot, (number, node)) in last.iter().enumerate().filter_map(|(slot, last)| Some((slot, (*last)?))) {
        let best = kept.entry(node).or_insert((number, slot));
        *best = (*best).max((number, slot));
    }
    let mut table: Vec<Option<NodeId>> = vec![None; slots.len()];
    for (node, (_, slot)) in &kept {
        if let Some(place) = table.get_mut(*slot) {
            *place = Some(*node);
        }
    }
    // Where the plan puts a free node into a free slot, it stays.
    for (place, planned) in table.iter_mut().zip(slots) {
        if place.is_none() && !kept.contains_key(planned) {
            *place = Some(*planned);
            kept.insert(*planned, (SegmentNumber(0), 0));
        }
    }
    let mut free = slots.iter().chain(spares).copied().filter(|node| !kept.contains_key(node));
    let table = table.into_iter().filter_map(|place| place.or_else(|| free.next())).collect();
    (table, free.collect())
}
