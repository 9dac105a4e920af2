//! Opening the log: the snapshot of the index if it fits, footers of sealed segments, a scan of every other, the torn
//! tail cut off. Nothing that was ever promised is removed here.
//!
//! A bad record followed by a good one is rot and is skipped; bad to the end of the file is a torn tail. Records are
//! replayed in the order of their sequence numbers: compaction moves them without changing what they mean.

use std::path::Path;
use std::sync::Arc;

use shoal_protocol::limits::SHARD_MAX;

use super::bao::outboard_length;
use super::commit::{BATCH, BATCH_RECORDS};
use super::error::OpenError;
use super::index::{Index, Slot};
use super::read::is_shard;
use super::record::{
    Codec, ENTRY_BYTES, Entry, Refused, SEGMENT_HEADER_BYTES, SegmentHeader, TRAILER_BYTES, record_size,
};
use super::scan::{Scan, Scanned, first_record};
use super::segment::{Active, Files, SEGMENT_RECORDS_MAX, segment_number, segment_path, segments_dir};
use super::snapshot;
use super::vfs::{OpenMode, Vfs, VfsFile, write_at};

/// Bytes of the largest batch: one that was just below its bound before its last and largest record came.
const LAST_BATCH_BYTES: u64 = BATCH.bytes + record_size(SHARD_MAX, outboard_length(SHARD_MAX));

/// What opening a store found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segment files.
    pub segments: u64,
    /// Segments whose footer spared a scan.
    pub sealed: u64,
    /// Records read from the log; those the snapshot knew are not among them.
    pub records: u64,
    /// Damaged stretches between good records.
    pub quarantined: u64,
    /// Bytes of those stretches.
    pub quarantined_bytes: u64,
    /// Bytes of unfinished records cut off or left aside at the ends of segments.
    pub torn_bytes: u64,
    /// Bytes of the reserve file that the disk had no room for.
    pub reserve_missing: u64,
    /// Whether the index came from its snapshot, and only what is younger from the log.
    pub from_snapshot: bool,
    /// Whether the store was created by this call.
    pub created: bool,
}

/// The state of a store as the log tells it.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub index: Index,
    pub active: Option<Active>,
    pub next_segment: u32,
    pub previous: (u32, u64),
    /// Where the snapshot that was used ends, a sequence number.
    pub snapshot: Option<u64>,
    pub report: RecoveryReport,
}

/// One segment as it was read.
struct Loaded {
    number: u32,
    entries: Vec<Entry>,
    /// Records before this are known from the snapshot.
    from: u64,
    end: u64,
    sealed: bool,
    suspect: bool,
}

struct Recovery<'a> {
    vfs: &'a Arc<dyn Vfs>,
    data: &'a Path,
    codec: &'a Codec,
    files: &'a Files,
    /// A last segment that ends below this is appended to again.
    segment_bytes: u64,
    loaded: Vec<Loaded>,
    state: Recovered,
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |source| OpenError::Io { action, path: path.clone(), source }
}

/// The numbers of the segment files, ascending.
pub(crate) fn segment_numbers(vfs: &dyn Vfs, data: &Path) -> Result<Vec<u32>, OpenError> {
    let dir = segments_dir(data);
    let names = vfs.list(&dir).map_err(io_error("list", &dir))?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads the whole log. What may still lack a sync is written and synced again before it counts.
pub(crate) fn recover(
    vfs: &Arc<dyn Vfs>,
    data: &Path,
    codec: &Codec,
    files: &Files,
    segment_bytes: u64,
) -> Result<Recovered, OpenError> {
    let numbers = segment_numbers(vfs.as_ref(), data)?;
    let recovery = |base: Index, from_snapshot: bool| Recovery {
        vfs,
        data,
        codec,
        files,
        segment_bytes,
        loaded: Vec::new(),
        state: Recovered {
            snapshot: from_snapshot.then_some(base.next_sequence),
            index: base,
            active: None,
            next_segment: 0,
            previous: (0, u64::MAX),
            report: RecoveryReport { from_snapshot, ..RecoveryReport::default() },
        },
    };
    if let Some(base) = snapshot::load(vfs.as_ref(), data, codec) {
        if let Some(found) = recovery(base, true).run(&numbers)? {
            return Ok(found);
        }
        tracing::warn!("the snapshot of the index does not fit the log; the log is read instead");
        snapshot::remove(vfs.as_ref(), data).map_err(io_error("remove the index of", data))?;
    }
    // Listed again: an empty segment may have been removed meanwhile.
    let numbers = segment_numbers(vfs.as_ref(), data)?;
    let rebuilt = recovery(Index::default(), false).run(&numbers)?;
    rebuilt.ok_or_else(|| io_error("rebuild the index of", data)(std::io::ErrorKind::InvalidData.into()))
}

impl Recovery<'_> {
    /// Everything from the log that the base does not know; `None` if base and log do not belong together.
    fn run(mut self, numbers: &[u32]) -> Result<Option<Recovered>, OpenError> {
        let known: Vec<u32> = self.state.index.segments.iter().map(|(number, _)| number).collect();
        let last_known = known.last().copied();
        let strange = |number: &&u32| last_known.is_some_and(|last| **number < last) && !known.contains(number);
        if numbers.iter().any(|number| strange(&number)) {
            return Ok(None);
        }
        for (at, number) in numbers.iter().enumerate() {
            let next = numbers.get(at.saturating_add(1)).copied();
            self.segment(*number, next, last_known)?;
        }
        self.replay(numbers);
        let index = &mut self.state.index;
        for number in known.into_iter().filter(|number| !numbers.contains(number)) {
            // Compaction removes a segment only after all that was in use of it was copied: somebody else removed it.
            if index.segments.remove(number).is_some_and(|gone| gone.live > 0) {
                return Ok(None);
            }
        }
        Ok(Some(self.state))
    }

    fn segment(&mut self, number: u32, next: Option<u32>, last_known: Option<u32>) -> Result<(), OpenError> {
        let path = segment_path(self.data, number);
        let mode = if next.is_none() { OpenMode::Write } else { OpenMode::Read };
        let file = self.vfs.open(&path, mode).map_err(io_error("open", &path))?;
        let length = file.length().map_err(io_error("measure", &path))?;
        let header = self.segment_header(file.as_ref(), number, &path)?;
        self.state.report.segments = self.state.report.segments.saturating_add(1);
        self.state.next_segment = number.max(last_known.unwrap_or(0)).saturating_add(1);
        let known = self.state.index.segments.get(number).map(|held| held.end);
        if let Some(end) = known.filter(|_| Some(number) != last_known) {
            self.state.previous = (number, end);
            return Ok(());
        }
        let from = known.unwrap_or(0);
        if let Some((entries, end)) = self.footer(file.as_ref(), number, length, &path)? {
            self.state.report.sealed = self.state.report.sealed.saturating_add(1);
            self.state.previous = (number, end);
            let suspect = header.is_none();
            let room = end < self.segment_bytes && entries.len() < SEGMENT_RECORDS_MAX;
            let reopened = next.is_none() && room && !suspect;
            if reopened {
                self.reopen(file, number, end, &entries, &path)?;
            }
            self.load(Loaded { number, entries, from, end, sealed: !reopened, suspect });
            return Ok(());
        }
        let limit = self.promised_end(number, next)?.min(length);
        let scan = Scanned { file: file.as_ref(), codec: self.codec, number, path: &path }
            .scan(SEGMENT_HEADER_BYTES as u64, limit)?;
        let report = &mut self.state.report;
        report.quarantined = report.quarantined.saturating_add(scan.quarantined);
        report.quarantined_bytes = report.quarantined_bytes.saturating_add(scan.quarantined_bytes);
        report.torn_bytes = report.torn_bytes.saturating_add(scan.torn_bytes);
        let end = scan.end.max(from);
        self.state.previous = (number, end);
        if next.is_none() && end == scan.end {
            return self.tail(file, number, header.is_some(), from, scan, &path);
        }
        self.load(Loaded { number, entries: scan.entries, from, end, sealed: false, suspect: true });
        Ok(())
    }

    /// The last segment ended with a footer and has room: it is cut off, and the segment appended to again.
    fn reopen(
        &mut self,
        file: Arc<dyn VfsFile>,
        number: u32,
        end: u64,
        entries: &[Entry],
        path: &Path,
    ) -> Result<(), OpenError> {
        file.set_length(end).map_err(io_error("truncate", path))?;
        file.sync_all().map_err(io_error("sync", path))?;
        self.state.active = Some(Active::reopened(number, file, end, entries.to_vec()));
        Ok(())
    }

    /// The last segment is cut behind its last good record, made durable, and appended to.
    fn tail(
        &mut self,
        file: Arc<dyn VfsFile>,
        number: u32,
        has_header: bool,
        from: u64,
        scan: Scan,
        path: &Path,
    ) -> Result<(), OpenError> {
        if !has_header && !scan.written && !scan.unreadable {
            // Its creation was interrupted before the header was durable: nothing was ever promised in it.
            self.vfs.remove(path).map_err(io_error("remove", path))?;
            let before = self.state.index.segments.iter().last();
            self.state.previous = before.map_or((0, u64::MAX), |(number, held)| (number, held.end));
            return self.vfs.sync_dir(&segments_dir(self.data)).map_err(io_error("sync", path));
        }
        // What the disk does not read now it may read later: then nothing behind it may be missing.
        let usable = has_header && !scan.unreadable;
        if usable {
            file.set_length(scan.end).map_err(io_error("truncate", path))?;
        }
        self.rewrite_last_batch(file.as_ref(), &scan, path)?;
        file.sync_all().map_err(io_error("sync", path))?;
        self.vfs.sync_dir(&segments_dir(self.data)).map_err(io_error("sync", path))?;
        let suspect = !usable || scan.quarantined > 0;
        if usable && scan.entries.len() < SEGMENT_RECORDS_MAX {
            let entries = scan.entries.clone();
            self.state.active = Some(Active::reopened(number, file, scan.end, entries));
        }
        let suspect = suspect || self.state.active.is_none();
        self.load(Loaded { number, entries: scan.entries, from, end: scan.end, sealed: false, suspect });
        Ok(())
    }

    /// Writes the newest records over themselves. Their sync may have failed before the process ended: the system then
    /// shows them and calls them clean, though they are not on disk, and only a new write makes it try again. Any record
    /// before the last batch is covered by a sync that succeeded, or the last batch had not been written.
    fn rewrite_last_batch(&self, file: &dyn VfsFile, scan: &Scan, path: &Path) -> Result<(), OpenError> {
        let mut start = scan.end;
        for entry in scan.entries.iter().rev().take(BATCH_RECORDS) {
            if scan.end.saturating_sub(entry.offset) > LAST_BATCH_BYTES {
                break;
            }
            start = entry.offset;
        }
        let mut bytes = vec![0; usize::try_from(scan.end.saturating_sub(start)).unwrap_or(0)];
        if scan.unreadable || bytes.is_empty() {
            return Ok(());
        }
        file.read_exact_at(&mut bytes, start).map_err(io_error("read", path))?;
        write_at(file, &bytes, start).map_err(io_error("write", path))
    }

    fn load(&mut self, loaded: Loaded) {
        let held = self.state.index.segments.entry(loaded.number);
        held.end = held.end.max(loaded.end);
        held.sealed = loaded.sealed;
        held.suspect |= loaded.suspect;
        self.loaded.push(loaded);
    }

    /// Applies what was read, in the order in which it was written first.
    fn replay(&mut self, numbers: &[u32]) {
        let mut order: Vec<(u64, u32, &Entry)> = Vec::new();
        for loaded in &self.loaded {
            let new = loaded.entries.iter().filter(|entry| entry.offset >= loaded.from);
            order.extend(new.map(|entry| (entry.sequence, loaded.number, entry)));
        }
        order.sort_unstable_by_key(|(sequence, number, entry)| (*sequence, *number, entry.offset));
        let same = |slot: &Slot, key: &[u8; 32]| {
            // A segment that is gone was compacted: its keys cannot be compared, but what is looked for is the copy.
            numbers.binary_search(&slot.segment).is_err() || is_shard(self.files, self.codec, slot, key)
        };
        let index = &mut self.state.index;
        let base = index.next_sequence;
        for (sequence, number, entry) in &order {
            if *sequence < base {
                index.relocate(entry, *number, None, &same);
            } else {
                index.apply(entry, *number, &same);
            }
        }
        self.state.report.records = order.len() as u64;
    }

    fn segment_header(&self, file: &dyn VfsFile, number: u32, path: &Path) -> Result<Option<SegmentHeader>, OpenError> {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        if file.read_exact_at(&mut bytes, 0).is_err() {
            // Too short, or a bad sector: the records behind it speak for themselves.
            return Ok(None);
        }
        match self.codec.check_segment_header(&bytes, u64::from(number)) {
            Ok(header) if header.store != self.codec.store => {
                // Only a segment without a single record of ours is another store's; else its header is damaged.
                let length = file.length().map_err(io_error("measure", path))?;
                match first_record(file, self.codec, number, SEGMENT_HEADER_BYTES as u64..length) {
                    Some(_) => Ok(None),
                    None => Err(OpenError::Foreign(path.to_path_buf())),
                }
            }
            Ok(header) => Ok(Some(header)),
            Err(Refused::Invalid) => Ok(None),
            Err(Refused::Newer(what)) => Err(OpenError::Newer { path: path.to_path_buf(), what }),
        }
    }

    /// Where segment `number` ends according to its successor: what a failed sync left behind that does not count.
    fn promised_end(&self, number: u32, next: Option<u32>) -> Result<u64, OpenError> {
        let Some(next) = next else { return Ok(u64::MAX) };
        let path = segment_path(self.data, next);
        let file = self.vfs.open(&path, OpenMode::Read).map_err(io_error("open", &path))?;
        let header = self.segment_header(file.as_ref(), next, &path)?;
        Ok(header.filter(|header| header.previous == number).map_or(u64::MAX, |header| header.previous_end))
    }

    fn footer(
        &self,
        file: &dyn VfsFile,
        number: u32,
        length: u64,
        path: &Path,
    ) -> Result<Option<(Vec<Entry>, u64)>, OpenError> {
        match read_footer(file, self.codec, number, length) {
            Ok(footer) => Ok(footer),
            Err(what) => Err(OpenError::Newer { path: path.to_path_buf(), what }),
        }
    }
}

/// The entries of a sealed segment of `length` bytes and the end of its records; `None` if it must be scanned.
///
/// # Errors
/// What in it is of a later version.
pub(crate) fn read_footer(
    file: &dyn VfsFile,
    codec: &Codec,
    number: u32,
    length: u64,
) -> Result<Option<(Vec<Entry>, u64)>, String> {
    let Some(at) = length.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
    let mut bytes = [0; TRAILER_BYTES];
    if file.read_exact_at(&mut bytes, at).is_err() {
        return Ok(None);
    }
    let Some(trailer) = Codec::peek_trailer(&bytes, u64::from(number), length) else { return Ok(None) };
    if trailer.count as usize > SEGMENT_RECORDS_MAX {
        return Ok(None);
    }
    let mut table = vec![0; (trailer.count as usize).saturating_mul(ENTRY_BYTES)];
    if file.read_exact_at(&mut table, trailer.table).is_err() {
        return Ok(None);
    }
    match codec.check_footer(&table, &bytes) {
        Ok(entries) => Ok(Some((entries, trailer.table))),
        Err(Refused::Invalid) => Ok(None),
        Err(Refused::Newer(what)) => Err(what),
    }
}
