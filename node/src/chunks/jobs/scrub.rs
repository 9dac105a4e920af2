//! Scrub: reads every byte of the log back from the disk and compares it. What is damaged and in use is taken out of use
//! at once, a shard by a durable record that says it is lost; the good rest of its segment is moved by compaction.
//!
//! It never repairs a shard: that is for those who hold the others of its row. It never takes a byte on trust because it
//! was good the last time.

use std::collections::BTreeSet;
use std::io;

use super::super::Stored;
use super::super::check::{Finding, SegmentCheck};
use super::super::commit::Draft;
use super::super::error::{PutError, ReadError};
use super::super::identity;
use super::super::index::Index;
use super::super::log::Log;
use super::super::record::{Entry, Kind};
use super::super::snapshot;
use super::super::verify::{Damage, read_whole};
use super::compact::Stepped;
use super::{Room, bury, in_reach};

/// Bytes read in one step: what clients wait for is not held up behind more.
const STEP_BYTES: u64 = 256 * 1024;
/// Records read in one step.
const STEP_RECORDS: usize = 64;

/// What a pass found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Records read back.
    pub records: u64,
    /// Bytes read back.
    pub bytes: u64,
    /// Damaged places: records, headers, footers, key files, snapshot.
    pub damaged: u64,
    /// Shards lost by them.
    pub lost: u64,
    /// Key files, marker and snapshot written again.
    pub repaired: u64,
}

/// The job, with where its pass is.
#[derive(Debug, Default)]
pub(crate) struct Scrubber {
    pass: Option<Pass>,
    /// Of the pass under way, or the last one.
    pub found: Found,
    /// When the pass under way began, and when the last one ended, milliseconds since 1970; 0: never.
    pub begun_ms: u64,
    pub ended_ms: u64,
}

#[derive(Debug)]
struct Pass {
    /// Segments still to be read, the next one last.
    segments: Vec<u32>,
    check: Option<SegmentCheck>,
    read: u64,
    total: u64,
}

impl Scrubber {
    /// Begins a pass at segment `from`.
    pub(crate) fn begin(&mut self, room: &Room, from: u32, wall_ms: u64) {
        let index = room.shared.index();
        let chosen: Vec<(u32, u64)> =
            index.segments.iter().filter(|(number, _)| *number >= from).map(|(n, held)| (n, held.stored())).collect();
        let total = chosen.iter().map(|(_, stored)| stored).sum();
        let segments = chosen.iter().rev().map(|(number, _)| *number).collect();
        self.pass = Some(Pass { segments, check: None, read: 0, total });
        self.found = Found::default();
        self.begun_ms = wall_ms;
    }

    /// Lets go of the pass.
    pub(crate) fn cancel(&mut self) {
        self.pass = None;
    }

    /// Whether a pass is under way.
    pub(crate) fn is_under_way(&self) -> bool {
        self.pass.is_some()
    }

    /// The segment at which a pass has to go on after a restart.
    pub(crate) fn segment(&self) -> Option<u32> {
        let pass = self.pass.as_ref()?;
        pass.check.as_ref().map(|check| check.number).or_else(|| pass.segments.last().copied())
    }

    /// Bytes read and bytes to read in the pass under way.
    pub(crate) fn progress(&self) -> (u64, u64) {
        self.pass.as_ref().map_or((0, 0), |pass| (pass.read, pass.total))
    }

    /// One short piece of work: what readers stumbled over first, then the pass.
    ///
    /// # Errors
    /// The system's, or the store's if it takes no records.
    pub(crate) fn step(&mut self, room: &Room, log: &mut dyn Log, wall_ms: u64) -> io::Result<Stepped> {
        let suspects = room.shared.take_suspects();
        if !suspects.is_empty() {
            self.look_at(room, log, suspects, wall_ms)?;
            return Ok(Stepped::Busy);
        }
        let Some(pass) = &mut self.pass else { return Ok(Stepped::Idle) };
        // Compaction may have removed it since the step before, and cuts it then.
        pass.check.take_if(|check| room.shared.index().segments.get(check.number).is_none());
        let Some(check) = &mut pass.check else {
            if pass.open_next(room)? {
                return Ok(Stepped::Busy);
            }
            self.end(room, wall_ms)?;
            return Ok(Stepped::Idle);
        };
        let (before, number) = (check.position(), check.number);
        let mut drafts = Vec::new();
        let mut ended = false;
        for _ in 0..STEP_RECORDS {
            match check.next(&room.shared.codec) {
                None => ended = true,
                Some(Finding::Good { bytes }) => {
                    self.found.records = self.found.records.saturating_add(1);
                    self.found.bytes = self.found.bytes.saturating_add(bytes);
                }
                Some(Finding::Frame) => {
                    self.found.damaged = self.found.damaged.saturating_add(1);
                    distrust(room, number);
                }
                Some(Finding::Bad { entry, damage, bytes }) => {
                    if let Err(error) = in_reach(room, damage) {
                        // The segment is read again from its beginning.
                        pass.segments.push(number);
                        pass.check = None;
                        return Err(error);
                    }
                    self.found.bytes = self.found.bytes.saturating_add(bytes);
                    self.found.damaged = self.found.damaged.saturating_add(1);
                    distrust(room, number);
                    drafts.extend(entry.and_then(|entry| lost(room, number, &entry, damage, wall_ms)));
                }
            }
            if ended || check.position().saturating_sub(before) >= STEP_BYTES {
                break;
            }
        }
        pass.read = pass.read.saturating_add(check.position().saturating_sub(before));
        if ended {
            pass.check = None;
        }
        self.report(log, drafts)?;
        Ok(Stepped::Busy)
    }

    /// Records that readers found damaged.
    fn look_at(
        &mut self,
        room: &Room,
        log: &mut dyn Log,
        suspects: BTreeSet<[u8; 32]>,
        wall_ms: u64,
    ) -> io::Result<()> {
        let mut drafts = Vec::new();
        for key in suspects {
            let Some(slot) = room.shared.index().candidate(&key) else { continue };
            let file = room.shared.files.get(slot.segment)?;
            // The header may be what is damaged: then only the index knows the key, by its first half.
            let outboard = super::super::bao::outboard_length(slot.length);
            let read = super::super::read::read_header(file.as_ref(), &room.shared.codec, slot.segment, slot.offset());
            let (entry, damage) = match read {
                Ok(entry) if entry.key == key => {
                    match read_whole(file.as_ref(), &room.shared.codec, slot.segment, &entry) {
                        Err(damage) => (entry, damage),
                        Ok(_) => continue,
                    }
                }
                Ok(_) => continue,
                Err(error) => {
                    let damage = if matches!(error, ReadError::Io(_)) { Damage::Unreadable } else { Damage::Header };
                    let entry = Entry {
                        kind: Kind::Put,
                        key,
                        group: [0; 32],
                        payload: slot.length,
                        outboard,
                        number: 0,
                        sequence: 0,
                        offset: slot.offset(),
                    };
                    (entry, damage)
                }
            };
            in_reach(room, damage)?;
            self.found.damaged = self.found.damaged.saturating_add(1);
            distrust(room, slot.segment);
            drafts.extend(lost(room, slot.segment, &entry, damage, wall_ms));
        }
        self.report(log, drafts)
    }

    fn report(&mut self, log: &mut dyn Log, drafts: Vec<Draft>) -> io::Result<()> {
        for answer in log.commit(drafts) {
            match answer {
                Ok(Stored::New) => self.found.lost = self.found.lost.saturating_add(1),
                // Meanwhile it was stored again, or removed.
                Ok(_) | Err(PutError::NotFound) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(())
    }

    /// What lies beside the log, at the end of a pass.
    fn end(&mut self, room: &Room, wall_ms: u64) -> io::Result<()> {
        self.pass = None;
        self.ended_ms = wall_ms;
        let mut repaired =
            identity::repair(room.vfs.as_ref(), &room.data, &room.shared.key).map_err(io::Error::other)?;
        if snapshot::is_whole(room.vfs.as_ref(), &room.data, &room.shared.codec) == Some(false) {
            snapshot::take(room.vfs.as_ref(), &room.data, &room.shared)?;
            repaired = repaired.saturating_add(1);
        }
        self.found.repaired = repaired;
        self.found.damaged = self.found.damaged.saturating_add(repaired);
        Ok(())
    }
}

impl Pass {
    /// Opens the next segment that is still there; false at the end.
    fn open_next(&mut self, room: &Room) -> io::Result<bool> {
        while let Some(number) = self.segments.pop() {
            let Some(held) = room.shared.index().segments.get(number).copied() else { continue };
            let (vfs, codec) = (room.vfs.as_ref(), &room.shared.codec);
            match SegmentCheck::open(vfs, &room.data, codec, number, held.end, held.sealed) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => {
                    self.check = Some(other?);
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

fn distrust(room: &Room, segment: u32) {
    if let Some(held) = room.shared.index_mut().segments.get_mut(segment) {
        held.suspect = true;
    }
}

/// What is to be written because this record is damaged: only if it was in use, and more than its padding is wrong.
fn lost(room: &Room, segment: u32, entry: &Entry, damage: Damage, wall_ms: u64) -> Option<Draft> {
    let in_use = is_in_use(&room.shared.index(), entry, segment);
    if damage == Damage::Padding || !in_use { None } else { bury(room, segment, entry, damage, wall_ms) }
}

fn is_in_use(index: &Index, entry: &Entry, segment: u32) -> bool {
    let at = |place: super::super::index::Place| place.is_at(segment, entry.offset);
    match entry.kind {
        Kind::Put => index.candidate(&entry.key).is_some_and(|slot| slot.is_at(segment, entry.offset)),
        Kind::Group => index.group(&entry.key).is_some_and(at),
        Kind::Record => [0, 1].into_iter().any(|back| index.record(&entry.key, back).is_some_and(at)),
        Kind::Ref | Kind::Drop | Kind::Tombstone => false,
    }
}
