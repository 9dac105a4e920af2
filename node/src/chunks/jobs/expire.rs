//! Expiry: what no living group holds any more is removed once it has lain in the trash long enough. It never removes
//! what a group holds whose end is unknown, and the writer looks again before it believes.

use std::io;

use super::super::commit::Draft;
use super::super::index::Index;
use super::super::log::Log;
use super::super::record::{Entry, Kind};
use super::super::{PutError, Stored};
use super::Room;
use super::compact::{Stepped, entries_of};

/// Records looked at in one step.
const STEP_LOOKS: usize = 4096;
/// Tombstones written in one step.
const STEP_RECORDS: usize = 64;

/// The job, with where its sweep is.
#[derive(Debug, Default)]
pub(crate) struct Expirer {
    sweep: Option<Sweep>,
    /// Shards, records and statements removed.
    pub removed: u64,
}

#[derive(Debug)]
struct Sweep {
    segments: Vec<u32>,
    segment: u32,
    entries: std::vec::IntoIter<Entry>,
}

impl Expirer {
    /// Whether anything may have lain in the trash for long enough.
    pub(crate) fn is_due(room: &Room, wall_ms: u64, trash_ms: u64) -> bool {
        room.shared.index().first_lapse().is_some_and(|lapse| lapse.saturating_add(trash_ms) <= wall_ms)
    }

    /// Begins at the first segment.
    pub(crate) fn begin(&mut self, room: &Room) {
        let segments = room.shared.index().segments.iter().map(|(number, _)| number).collect();
        self.sweep = Some(Sweep { segments, segment: 0, entries: Vec::new().into_iter() });
    }

    /// Lets go of the sweep.
    pub(crate) fn cancel(&mut self) {
        self.sweep = None;
    }

    /// Segments still to be looked through.
    pub(crate) fn left(&self) -> u64 {
        self.sweep.as_ref().map_or(0, |sweep| sweep.segments.len() as u64)
    }

    /// One short piece of work. `gone_by` is the time, milliseconds since 1970, at which what is removed now must have
    /// lapsed.
    ///
    /// # Errors
    /// The system's, or the store's if it takes no tombstones.
    pub(crate) fn step(&mut self, room: &Room, log: &mut dyn Log, gone_by: u64) -> io::Result<Stepped> {
        let Some(sweep) = &mut self.sweep else { return Ok(Stepped::Idle) };
        let drafts = sweep.next(room, gone_by);
        if drafts.is_empty() && sweep.entries.len() == 0 {
            let Some(segment) = sweep.segments.pop() else {
                self.sweep = None;
                return Ok(Stepped::Idle);
            };
            let held = room.shared.index().segments.get(segment).copied();
            sweep.segment = segment;
            // A segment that was compacted meanwhile is looked at in its new place, at the next sweep.
            sweep.entries = match held {
                Some(held) => entries_of(room, segment, &held)?.into_iter(),
                None => Vec::new().into_iter(),
            };
            return Ok(Stepped::Busy);
        }
        for answer in log.commit(drafts) {
            match answer {
                Ok(Stored::New) => self.removed = self.removed.saturating_add(1),
                // Meanwhile a group holds it again, or it is gone.
                Ok(_) | Err(PutError::NotFound) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(Stepped::Busy)
    }
}

impl Sweep {
    fn next(&mut self, room: &Room, gone_by: u64) -> Vec<Draft> {
        let mut drafts = Vec::new();
        for _ in 0..STEP_LOOKS {
            if drafts.len() >= STEP_RECORDS {
                break;
            }
            let Some(entry) = self.entries.next() else { break };
            let index = room.shared.index();
            if is_gone(&index, &entry, self.segment, gone_by) {
                let tombstone = Draft::mark(Kind::Tombstone, entry.key, [0; 32]);
                drafts.push(Draft { at: Some((self.segment, entry.offset)), lapsed: Some(gone_by), ..tombstone });
            }
        }
        drafts
    }
}

/// Whether this record is what the index points at, and nothing holds it since `gone_by`.
fn is_gone(index: &Index, entry: &Entry, segment: u32, gone_by: u64) -> bool {
    let lapsed = match entry.kind {
        Kind::Put => {
            let slot = index.candidate(&entry.key).filter(|slot| slot.is_at(segment, entry.offset));
            slot.and_then(|slot| index.shard_lapses(&entry.key, &slot))
        }
        Kind::Record => {
            let place = index.record(&entry.key, 0).filter(|place| place.is_at(segment, entry.offset));
            place.and_then(|_| index.record_lapses(&entry.key))
        }
        Kind::Group => {
            let place = index.group(&entry.key).filter(|place| place.is_at(segment, entry.offset));
            place.and_then(|_| index.group_lapses(&entry.key))
        }
        Kind::Ref | Kind::Drop | Kind::Tombstone => None,
    };
    lapsed.is_some_and(|lapsed| lapsed <= gone_by)
}
