//! Opening a store: footers of sealed segments, a scan of every other, the torn tail cut off.
//!
//! A bad record followed by a good one is rot and is skipped; bad to the end of the file is a torn tail. Only a MAC
//! under the store's key, over the record's own place, makes bytes a record: payloads are chosen by strangers.
//! Nothing that was ever promised is removed here.

use std::path::Path;
use std::sync::Arc;

use super::error::OpenError;
use super::index::{Index, Slot};
use super::read::is_shard;
use super::record::{
    ALIGN, CRC_BYTES, Codec, ENTRY_BYTES, Entry, HEADER_BYTES, Refused, SEGMENT_HEADER_BYTES, SegmentHeader,
    TRAILER_BYTES,
};
use super::segment::{Active, Files, SEGMENT_RECORDS_MAX, segment_number, segment_path, segments_dir};
use super::vfs::{OpenMode, Vfs, VfsFile};

/// Bytes read at a time while scanning.
const WINDOW_BYTES: usize = 1024 * 1024;

/// What opening a store found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segment files.
    pub segments: u64,
    /// Segments whose footer spared a scan.
    pub sealed: u64,
    /// Records taken into the index.
    pub records: u64,
    /// Damaged stretches between good records.
    pub quarantined: u64,
    /// Bytes of those stretches.
    pub quarantined_bytes: u64,
    /// Bytes of unfinished records cut off or left aside at the ends of segments.
    pub torn_bytes: u64,
    /// Bytes of the reserve file that the disk had no room for.
    pub reserve_missing: u64,
    /// Whether the store was created by this call.
    pub created: bool,
}

/// The state of a store as the log tells it.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub index: Index,
    pub stored: u64,
    pub active: Option<Active>,
    pub next_segment: u32,
    pub previous: (u32, u64),
    pub next_sequence: u64,
    pub report: RecoveryReport,
}

/// What one unsealed segment holds.
#[derive(Debug, Default)]
struct Scan {
    entries: Vec<Entry>,
    /// End of the last good record.
    end: u64,
    quarantined: u64,
    quarantined_bytes: u64,
    torn_bytes: u64,
    /// Whether anything but zeros was seen.
    written: bool,
}

struct Recovery<'a> {
    vfs: &'a Arc<dyn Vfs>,
    data: &'a Path,
    codec: &'a Codec,
    files: &'a Files,
    state: Recovered,
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |source| OpenError::Io { action, path: path.clone(), source }
}

/// Reads the whole log. Every segment that may still lack a sync is synced before its records count.
pub(crate) fn recover(vfs: &Arc<dyn Vfs>, data: &Path, codec: &Codec, files: &Files) -> Result<Recovered, OpenError> {
    let dir = segments_dir(data);
    let names = vfs.list(&dir).map_err(io_error("list", &dir))?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    let state = Recovered {
        index: Index::default(),
        stored: 0,
        active: None,
        next_segment: 0,
        previous: (0, u64::MAX),
        next_sequence: 0,
        report: RecoveryReport::default(),
    };
    let mut recovery = Recovery { vfs, data, codec, files, state };
    for (at, number) in numbers.iter().enumerate() {
        recovery.segment(*number, numbers.get(at.saturating_add(1)).copied())?;
    }
    Ok(recovery.state)
}

impl Recovery<'_> {
    fn segment(&mut self, number: u32, next: Option<u32>) -> Result<(), OpenError> {
        let path = segment_path(self.data, number);
        let mode = if next.is_none() { OpenMode::Write } else { OpenMode::Read };
        let file = self.vfs.open(&path, mode).map_err(io_error("open", &path))?;
        let length = file.length().map_err(io_error("measure", &path))?;
        let header = self.segment_header(file.as_ref(), number, &path)?;
        self.state.report.segments = self.state.report.segments.saturating_add(1);
        self.state.next_segment = number.saturating_add(1);
        if let Some((entries, end)) = self.footer(file.as_ref(), number, length, &path)? {
            self.state.report.sealed = self.state.report.sealed.saturating_add(1);
            self.state.previous = (number, end);
            self.apply(&entries, number);
            return Ok(());
        }
        let limit = self.promised_end(number, next)?.min(length);
        let scan = self.scan(file.as_ref(), number, limit, &path)?;
        let report = &mut self.state.report;
        report.quarantined = report.quarantined.saturating_add(scan.quarantined);
        report.quarantined_bytes = report.quarantined_bytes.saturating_add(scan.quarantined_bytes);
        report.torn_bytes = report.torn_bytes.saturating_add(scan.torn_bytes);
        self.state.stored = self.state.stored.saturating_add(scan.quarantined_bytes);
        if next.is_none() {
            return self.tail(file, number, header.is_some(), scan, &path);
        }
        self.state.previous = (number, scan.end);
        self.apply(&scan.entries, number);
        Ok(())
    }

    /// The last segment is cut behind its last good record, made durable, and appended to.
    fn tail(
        &mut self,
        file: Arc<dyn VfsFile>,
        number: u32,
        has_header: bool,
        scan: Scan,
        path: &Path,
    ) -> Result<(), OpenError> {
        if !has_header && !scan.written {
            // Its creation was interrupted before the header was durable: nothing was ever promised in it.
            self.vfs.remove(path).map_err(io_error("remove", path))?;
            return self.vfs.sync_dir(&segments_dir(self.data)).map_err(io_error("sync", path));
        }
        if has_header {
            file.set_length(scan.end).map_err(io_error("truncate", path))?;
        }
        file.sync_all().map_err(io_error("sync", path))?;
        self.vfs.sync_dir(&segments_dir(self.data)).map_err(io_error("sync", path))?;
        self.apply(&scan.entries, number);
        self.state.previous = (number, scan.end);
        if has_header && scan.entries.len() < SEGMENT_RECORDS_MAX {
            self.state.active =
                Some(Active { number, file, synced: scan.end, allocated: scan.end, entries: scan.entries });
        }
        Ok(())
    }

    fn apply(&mut self, entries: &[Entry], number: u32) {
        let same = |slot: &Slot, key: &[u8; 32]| is_shard(self.files, self.codec, slot, key);
        let state = &mut self.state;
        for entry in entries {
            state.index.apply(entry, number, &same);
            state.stored = state.stored.saturating_add(entry.size());
            state.next_sequence = state.next_sequence.max(entry.sequence.saturating_add(1));
        }
        state.report.records = state.report.records.saturating_add(entries.len() as u64);
    }

    fn segment_header(&self, file: &dyn VfsFile, number: u32, path: &Path) -> Result<Option<SegmentHeader>, OpenError> {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(io_error("read", path)(error)),
        }
        match self.codec.check_segment_header(&bytes, u64::from(number)) {
            Ok(header) if header.store != self.codec.store => Err(OpenError::Foreign(path.to_path_buf())),
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

    /// The entries of a sealed segment and the end of its records; `None` if it must be scanned.
    fn footer(
        &self,
        file: &dyn VfsFile,
        number: u32,
        length: u64,
        path: &Path,
    ) -> Result<Option<(Vec<Entry>, u64)>, OpenError> {
        let Some(at) = length.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
        let mut bytes = [0; TRAILER_BYTES];
        file.read_exact_at(&mut bytes, at).map_err(io_error("read", path))?;
        let Some(trailer) = Codec::peek_trailer(&bytes, u64::from(number), length) else { return Ok(None) };
        if trailer.count as usize > SEGMENT_RECORDS_MAX {
            return Ok(None);
        }
        let mut table = vec![0; (trailer.count as usize).saturating_mul(ENTRY_BYTES)];
        file.read_exact_at(&mut table, trailer.table).map_err(io_error("read", path))?;
        match self.codec.check_footer(&table, &bytes) {
            Ok(entries) => Ok(Some((entries, trailer.table))),
            Err(Refused::Invalid) => Ok(None),
            Err(Refused::Newer(what)) => Err(OpenError::Newer { path: path.to_path_buf(), what }),
        }
    }

    /// Looks for records at every 64-byte boundary up to `limit`.
    fn scan(&self, file: &dyn VfsFile, number: u32, limit: u64, path: &Path) -> Result<Scan, OpenError> {
        let mut window = ScanWindow { file, limit, position: 0, bytes: Vec::new() };
        let mut scan = Scan { end: SEGMENT_HEADER_BYTES as u64, ..Scan::default() };
        let mut at = SEGMENT_HEADER_BYTES as u64;
        let mut written_to = at;
        while let Some(bytes) = window.get(at, ALIGN).map_err(io_error("read", path))? {
            if bytes.iter().any(|byte| *byte != 0) {
                scan.written = true;
                written_to = at.saturating_add(ALIGN);
                if let Some(entry) = self.record(&mut window, number, at, path)? {
                    let gap = at.saturating_sub(scan.end);
                    scan.quarantined = scan.quarantined.saturating_add(u64::from(gap > 0));
                    scan.quarantined_bytes = scan.quarantined_bytes.saturating_add(gap);
                    at = entry.end();
                    scan.end = at;
                    scan.entries.push(entry);
                    continue;
                }
            }
            at = at.saturating_add(ALIGN);
        }
        scan.torn_bytes = written_to.saturating_sub(scan.end);
        Ok(scan)
    }

    /// The record at `at`, if header and checksum are good.
    fn record(
        &self,
        window: &mut ScanWindow<'_>,
        number: u32,
        at: u64,
        path: &Path,
    ) -> Result<Option<Entry>, OpenError> {
        let header = window.get(at, HEADER_BYTES as u64).map_err(io_error("read", path))?;
        let Some(header) = header.and_then(|bytes| bytes.first_chunk::<HEADER_BYTES>()) else { return Ok(None) };
        let entry = match self.codec.check_header(header, u64::from(number), at) {
            Ok(entry) => entry,
            Err(Refused::Invalid) => return Ok(None),
            Err(Refused::Newer(what)) => return Err(OpenError::Newer { path: path.to_path_buf(), what }),
        };
        let mut crc = 0;
        let mut from = at.saturating_add(HEADER_BYTES as u64);
        let mut left = u64::from(entry.payload).saturating_add(u64::from(entry.outboard));
        while left > 0 {
            let part = left.min(WINDOW_BYTES as u64);
            let Some(bytes) = window.get(from, part).map_err(io_error("read", path))? else { return Ok(None) };
            crc = crc32c::crc32c_append(crc, bytes);
            from = from.saturating_add(part);
            left = left.saturating_sub(part);
        }
        let stored = window.get(from, CRC_BYTES as u64).map_err(io_error("read", path))?;
        Ok(stored.filter(|stored| **stored == crc.to_le_bytes()).map(|_| entry))
    }
}

/// Reads a file in large steps.
struct ScanWindow<'a> {
    file: &'a dyn VfsFile,
    limit: u64,
    position: u64,
    bytes: Vec<u8>,
}

impl ScanWindow<'_> {
    /// Up to [`WINDOW_BYTES`] at a position; `None` if they would pass the limit.
    fn get(&mut self, position: u64, length: u64) -> std::io::Result<Option<&[u8]>> {
        let Some(end) = position.checked_add(length).filter(|end| *end <= self.limit) else { return Ok(None) };
        let held = self.position.saturating_add(self.bytes.len() as u64);
        if position < self.position || end > held {
            let size = self.limit.saturating_sub(position).min(WINDOW_BYTES as u64);
            self.position = position;
            self.bytes.resize(usize::try_from(size).unwrap_or(0), 0);
            if let Err(error) = self.file.read_exact_at(&mut self.bytes, position) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let from = usize::try_from(position.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(self.bytes.get(from..to))
    }
}
