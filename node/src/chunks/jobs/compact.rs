//! Compaction: what is in use of a segment is copied to the end of the log, then the segment is removed. A copy keeps
//! its sequence number, so it means what its original meant, and each is verified to the last byte before it is written.
//!
//! It never removes a segment of which anything is still in use. A crash at any point leaves the original, the copy, or
//! both.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::super::commit::Draft;
use super::super::error::PutError;
use super::super::index::SegmentUse;
use super::super::log::Log;
use super::super::record::{Entry, Kind, SEGMENT_HEADER_BYTES};
use super::super::recovery::read_footer;
use super::super::scan::Scanned;
use super::super::segment::{segment_path, segments_dir};
use super::super::verify::{Damage, Whole, read_whole};
use super::super::vfs::{OpenMode, VfsFile};
use super::{Room, bury, in_reach};

/// Segments with less than this in use are worth the copying.
pub(crate) const ALIVE_PERCENT: u64 = 50;
/// The same when a person asks: whatever gives a tenth back.
const ALIVE_PERCENT_BY_HAND: u64 = 90;
/// Bytes copied in one step: small enough that what clients wait for is not held up behind it.
const STEP_BYTES: u64 = 256 * 1024;
/// Bytes of a removed segment given back to the file system in one step.
const CUT_BYTES: u64 = 4 << 20;
/// Records handed in, or looked at, in one step.
const STEP_RECORDS: usize = 32;
const STEP_LOOKS: usize = 4096;

/// What a step came to.
#[derive(Debug)]
pub(crate) enum Stepped {
    /// There is more to do.
    Busy,
    /// There is nothing to do now.
    Idle,
}

/// The job, with the segment it is at.
#[derive(Debug)]
pub(crate) struct Compactor {
    run: Option<Run>,
    leftover: Option<Leftover>,
    alive_percent: u64,
    /// Segments removed.
    pub segments: u64,
    /// Bytes copied, and bytes of the segments removed.
    pub copied: u64,
    pub freed: u64,
}

/// One segment on its way out.
#[derive(Debug)]
struct Run {
    segment: u32,
    stored: u64,
    entries: Vec<Entry>,
    /// Tombstones whose key may still be in these segments: by key, their sequence numbers.
    sought: BTreeMap<[u8; 32], Vec<u64>>,
    others: Vec<u32>,
    /// Sequence numbers of tombstones without which something would come back.
    needed: BTreeSet<u64>,
    next: usize,
    /// Whether `entries` are all there ever were: what a footer without gaps says. Else a damaged header hides its
    /// record.
    whole: bool,
}

impl Default for Compactor {
    fn default() -> Self {
        Self { run: None, leftover: None, alive_percent: ALIVE_PERCENT, segments: 0, copied: 0, freed: 0 }
    }
}

impl Compactor {
    /// From now on until nothing is left to do, whatever gives a tenth of a segment back counts.
    pub(crate) fn begin(&mut self) {
        self.alive_percent = ALIVE_PERCENT_BY_HAND;
    }

    /// Lets go of the segment under way; what was copied stays copied.
    pub(crate) fn cancel(&mut self) {
        self.run = None;
        self.leftover = None;
        self.alive_percent = ALIVE_PERCENT;
    }

    /// Bytes still to look at in the segment under way.
    pub(crate) fn left(&self) -> u64 {
        let rest = self.run.as_ref().and_then(|run| run.entries.get(run.next..)).unwrap_or_default();
        rest.iter().map(Entry::size).sum()
    }

    /// One short piece of work.
    ///
    /// # Errors
    /// The system's, or the store's if it takes no copies; the segment stays as it is.
    pub(crate) fn step(&mut self, room: &Room, log: &mut dyn Log, wall_ms: u64) -> io::Result<Stepped> {
        if let Some(leftover) = self.leftover.take() {
            self.leftover = leftover.cut()?;
            return Ok(Stepped::Busy);
        }
        let Some(mut run) = self.run.take() else { return self.choose(room, log) };
        if let Some(other) = run.others.pop() {
            run.search(room, other)?;
        } else if run.next < run.entries.len() {
            self.copied = self.copied.saturating_add(run.copy(room, log, wall_ms)?);
        } else {
            self.leftover = Some(run.remove(room)?);
            self.segments = self.segments.saturating_add(1);
            self.freed = self.freed.saturating_add(run.stored);
            return Ok(Stepped::Busy);
        }
        self.run = Some(run);
        Ok(Stepped::Busy)
    }

    fn choose(&mut self, room: &Room, log: &mut dyn Log) -> io::Result<Stepped> {
        let shared = &room.shared;
        let active = shared.active();
        if let Some(active) = active
            && shared.index().segments.get(active).is_some_and(|held| held.suspect)
        {
            log.rotate(active);
            return Ok(Stepped::Busy);
        }
        let space = shared.space.room_for_copies();
        let chosen = shared.index().segments.candidate(active, self.alive_percent, space);
        let Some(segment) = chosen else {
            self.alive_percent = ALIVE_PERCENT;
            return Ok(Stepped::Idle);
        };
        let Some(held) = shared.index().segments.get(segment).copied() else { return Ok(Stepped::Idle) };
        let (entries, whole) = read_entries(room, segment, &held)?;
        self.run = Some(Run::new(room, segment, &held, entries, whole));
        Ok(Stepped::Busy)
    }
}

/// The records of a segment: by its footer, or found again one by one.
pub(crate) fn entries_of(room: &Room, segment: u32, held: &SegmentUse) -> io::Result<Vec<Entry>> {
    read_entries(room, segment, held).map(|(entries, _)| entries)
}

/// The records of a segment, and whether a footer says that they are all there ever were.
fn read_entries(room: &Room, segment: u32, held: &SegmentUse) -> io::Result<(Vec<Entry>, bool)> {
    let path = segment_path(&room.data, segment);
    let file = room.vfs.open(&path, OpenMode::Read)?;
    let codec = &room.shared.codec;
    if held.sealed {
        let footer = read_footer(file.as_ref(), codec, segment, file.length()?).map_err(io::Error::other)?;
        if let Some((entries, end)) = footer {
            // A segment that was damaged before it was sealed has a footer without the damaged record.
            let mut at = SEGMENT_HEADER_BYTES as u64;
            let without_gap = entries.iter().all(|entry| std::mem::replace(&mut at, entry.end()) == entry.offset);
            return Ok((entries, without_gap && at == end));
        }
    }
    let scanned = Scanned { file: file.as_ref(), codec, number: segment, path: &path };
    let limit = held.end.min(file.length()?);
    Ok((scanned.scan(SEGMENT_HEADER_BYTES as u64, limit).map_err(io::Error::other)?.entries, false))
}

impl Run {
    fn new(room: &Room, segment: u32, held: &SegmentUse, entries: Vec<Entry>, whole: bool) -> Self {
        let mut sought: BTreeMap<[u8; 32], Vec<u64>> = BTreeMap::new();
        let mut needed = BTreeSet::new();
        let index = room.shared.index();
        let active = room.shared.active();
        let snapshot = room.shared.snapshot.load(Ordering::Acquire);
        for entry in entries.iter().filter(|entry| entry.kind == Kind::Tombstone) {
            // One that is younger than the snapshot is what takes its key out of that.
            if entry.sequence >= snapshot || index.losses.contains_key(&entry.key) {
                needed.insert(entry.sequence);
            } else {
                sought.entry(entry.key).or_default().push(entry.sequence);
            }
        }
        let highest = sought.values().flatten().max().copied().unwrap_or(0);
        let mut others = Vec::new();
        for (other, use_of) in index.segments.iter().filter(|(other, held)| *other != segment && held.first < highest) {
            if Some(other) == active {
                // It has copies of old records and no footer yet: without looking, all that may matter is kept.
                needed.extend(sought.values().flatten().filter(|sequence| **sequence > use_of.first));
            } else {
                others.push(other);
            }
        }
        Self { segment, stored: held.stored(), entries, sought, others, needed, next: 0, whole }
    }

    /// Looks for what the tombstones bury in one other segment.
    fn search(&mut self, room: &Room, other: u32) -> io::Result<()> {
        let held = room.shared.index().segments.get(other).copied();
        let Some(held) = held else { return Ok(()) };
        for entry in entries_of(room, other, &held)? {
            let buries = !matches!(entry.kind, Kind::Tombstone | Kind::Drop);
            if let Some(sequences) = self.sought.get(&entry.key).filter(|_| buries) {
                self.needed.extend(sequences.iter().filter(|sequence| **sequence > entry.sequence));
            }
        }
        Ok(())
    }

    /// Copies the next records that are in use. Returns their bytes.
    fn copy(&mut self, room: &Room, log: &mut dyn Log, wall_ms: u64) -> io::Result<u64> {
        let mut drafts: Vec<Draft> = Vec::new();
        let (mut bytes, mut looks) = (0u64, 0usize);
        while bytes < STEP_BYTES && drafts.len() < STEP_RECORDS && looks < STEP_LOOKS {
            let Some(entry) = self.entries.get(self.next).copied() else { break };
            self.next = self.next.saturating_add(1);
            looks = looks.saturating_add(1);
            if let Some(draft) = self.draft(room, &entry, wall_ms)? {
                bytes = bytes.saturating_add(draft.size());
                drafts.push(draft);
            }
        }
        for answer in log.commit(drafts) {
            match answer {
                // Meanwhile it went out of use, or was buried.
                Ok(_) | Err(PutError::NotFound) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(bytes)
    }

    /// The copy of a record, if it is in use; of a damaged one, what says that it is lost.
    fn draft(&self, room: &Room, entry: &Entry, wall_ms: u64) -> io::Result<Option<Draft>> {
        let at = Some((self.segment, entry.offset));
        let draft = Draft { at, sequence: Some(entry.sequence), ..Draft::mark(entry.kind, entry.key, entry.group) };
        let draft = Draft { number: entry.number, ..draft };
        let has_bytes = match entry.kind {
            Kind::Tombstone => return Ok(self.needed.contains(&entry.sequence).then_some(draft)),
            Kind::Ref | Kind::Drop => return Ok(Some(draft)),
            Kind::Put => {
                let found = room.shared.index().candidate(&entry.key);
                found.is_some_and(|slot| slot.is_at(self.segment, entry.offset))
            }
            Kind::Group => {
                let held = room.shared.index().group(&entry.key);
                held.is_some_and(|place| place.is_at(self.segment, entry.offset))
            }
            Kind::Record => {
                let index = room.shared.index();
                let mut versions = [index.record(&entry.key, 0), index.record(&entry.key, 1)].into_iter().flatten();
                versions.any(|place| place.is_at(self.segment, entry.offset))
            }
        };
        if !has_bytes {
            // A PUT whose bytes are dead may still be what says who holds the shard.
            return Ok((entry.kind == Kind::Put).then_some(draft));
        }
        let file = room.shared.files.get(self.segment)?;
        match read_whole(file.as_ref(), &room.shared.codec, self.segment, entry) {
            Ok(Whole { payload, outboard, crc, .. }) => Ok(Some(Draft { payload, outboard, crc, ..draft })),
            Err(damage) => {
                in_reach(room, damage)?;
                Ok(bury(room, self.segment, entry, damage, wall_ms))
            }
        }
    }

    /// Removes the segment once nothing in it is in use.
    fn remove(&self, room: &Room) -> io::Result<Leftover> {
        let shared = &room.shared;
        let live = shared.index().segments.get(self.segment).map_or(0, |held| held.live);
        if live > 0 && self.whole {
            return Err(io::Error::other(format!("{live} bytes of segment {} are still in use", self.segment)));
        }
        if live > 0 {
            // Header and footer are both damaged: nothing but half of its key is left of such a record.
            in_reach(room, Damage::Unreadable)?;
            let lost = shared.index_mut().forget_segment(self.segment);
            tracing::error!(segment = self.segment, lost, "records whose headers are damaged are lost");
        }
        let path = segment_path(&room.data, self.segment);
        let file = room.vfs.open(&path, OpenMode::Write)?;
        let length = file.length()?;
        room.vfs.remove(&path)?;
        shared.index_mut().segments.remove(self.segment);
        let reader = shared.files.forget(self.segment);
        // Should the entry come back after a crash, everything in it is either dead or there twice.
        let synced = room.vfs.sync_dir(&segments_dir(&room.data));
        shared.space.freed(self.stored);
        synced.map(|()| Leftover { file, reader, length })
    }
}

/// A segment without a name, durably. Its space is given back piece by piece: a disk that gets hundreds of megabytes back
/// at once answers nobody meanwhile.
#[derive(Debug)]
struct Leftover {
    file: Arc<dyn VfsFile>,
    /// What readers have open.
    reader: Option<Arc<dyn VfsFile>>,
    length: u64,
}

impl Leftover {
    /// Gives the last piece back; `None` when all is given back, or will be when its last reader ends.
    fn cut(self) -> io::Result<Option<Self>> {
        if self.reader.as_ref().is_some_and(|file| Arc::strong_count(file) > 1) {
            return Ok(None);
        }
        let length = self.length.saturating_sub(CUT_BYTES);
        self.file.set_length(length)?;
        Ok((length > 0).then_some(Self { length, ..self }))
    }
}

impl Draft {
    /// A record without a payload.
    pub(crate) fn mark(kind: Kind, key: [u8; 32], group: [u8; 32]) -> Self {
        let (payload, outboard) = (Bytes::new(), Vec::new());
        Self {
            kind,
            key,
            group,
            number: 0,
            payload,
            outboard,
            crc: 0,
            rotted: None,
            at: None,
            sequence: None,
            lapsed: None,
        }
    }
}
