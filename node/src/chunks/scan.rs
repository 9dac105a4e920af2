//! Looking for records in a segment without a footer: at every 64-byte boundary, by MAC alone. It changes nothing.
//!
//! Only a MAC under the store's key, over the record's own place, makes bytes a record: payloads are chosen by strangers.

use std::ops::Range;
use std::path::Path;

use super::error::OpenError;
use super::record::{ALIGN, CRC_BYTES, Codec, Entry, HEADER_BYTES, Refused};
use super::recovery::io_error;
use super::vfs::VfsFile;

/// Bytes read at a time.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Bytes given up at a time where the disk does not read: one page.
const UNREADABLE_STEP: usize = 4096;
/// What stands for bytes the disk does not read: no header of ours begins with it, and it is not zero.
const UNREADABLE: u8 = 0xEE;

/// What a stretch of a segment holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub entries: Vec<Entry>,
    /// End of the last good record.
    pub end: u64,
    /// Damaged stretches between good records.
    pub quarantined: u64,
    /// Bytes of those.
    pub quarantined_bytes: u64,
    /// Bytes behind the last good record that are not zero.
    pub torn_bytes: u64,
    /// Whether anything but zeros was seen.
    pub written: bool,
    /// Whether the disk refused to read some of it.
    pub unreadable: bool,
}

/// One segment to be looked through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scanned<'a> {
    pub file: &'a dyn VfsFile,
    pub codec: &'a Codec,
    pub number: u32,
    pub path: &'a Path,
}

impl Scanned<'_> {
    /// Looks for records from `from`, which is the end of a record or of the segment header, up to `limit`.
    ///
    /// # Errors
    /// [`OpenError::Newer`] for a record of a later version. Bytes the disk does not read count as damaged.
    pub(crate) fn scan(&self, from: u64, limit: u64) -> Result<Scan, OpenError> {
        let mut window = Window { file: self.file, limit, position: 0, bytes: Vec::new(), unreadable: false };
        let mut scan = Scan { end: from, ..Scan::default() };
        let (mut at, mut written_to) = (from, from);
        while let Some(bytes) = window.get(at, ALIGN).map_err(io_error("read", self.path))? {
            if bytes.iter().any(|byte| *byte != 0) {
                scan.written = true;
                written_to = at.saturating_add(ALIGN);
                if let Some(entry) = self.record(&mut window, at)? {
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
        scan.unreadable = window.unreadable;
        Ok(scan)
    }

    /// The record at `at`, if header and checksum are good.
    fn record(&self, window: &mut Window<'_>, at: u64) -> Result<Option<Entry>, OpenError> {
        let header = window.get(at, HEADER_BYTES as u64).map_err(io_error("read", self.path))?;
        let Some(header) = header.and_then(|bytes| bytes.first_chunk::<HEADER_BYTES>()) else { return Ok(None) };
        let entry = match self.codec.check_header(header, u64::from(self.number), at) {
            Ok(entry) => entry,
            Err(Refused::Invalid) => return Ok(None),
            Err(Refused::Newer(what)) => return Err(OpenError::Newer { path: self.path.to_path_buf(), what }),
        };
        let mut crc = 0;
        let mut from = at.saturating_add(HEADER_BYTES as u64);
        let mut left = u64::from(entry.payload).saturating_add(u64::from(entry.outboard));
        while left > 0 {
            let part = left.min(WINDOW_BYTES as u64);
            let Some(bytes) = window.get(from, part).map_err(io_error("read", self.path))? else { return Ok(None) };
            crc = crc32c::crc32c_append(crc, bytes);
            from = from.saturating_add(part);
            left = left.saturating_sub(part);
        }
        let stored = window.get(from, CRC_BYTES as u64).map_err(io_error("read", self.path))?;
        Ok(stored.filter(|stored| **stored == crc.to_le_bytes()).map(|_| entry))
    }
}

/// Where the first record in `range` begins whose header is good.
pub(crate) fn first_record(file: &dyn VfsFile, codec: &Codec, number: u32, range: Range<u64>) -> Option<u64> {
    let mut window = Window { file, limit: range.end, position: 0, bytes: Vec::new(), unreadable: false };
    let mut at = range.start;
    loop {
        let bytes = window.get(at, HEADER_BYTES as u64).ok().flatten()?;
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        if codec.check_header(header, u64::from(number), at).is_ok() {
            return Some(at);
        }
        at = at.saturating_add(ALIGN);
    }
}

/// Reads a file in large steps.
struct Window<'a> {
    file: &'a dyn VfsFile,
    limit: u64,
    position: u64,
    bytes: Vec<u8>,
    unreadable: bool,
}

impl Window<'_> {
    /// Up to [`WINDOW_BYTES`] at a position; `None` if they would pass the limit.
    fn get(&mut self, position: u64, length: u64) -> std::io::Result<Option<&[u8]>> {
        let Some(end) = position.checked_add(length).filter(|end| *end <= self.limit) else { return Ok(None) };
        let held = self.position.saturating_add(self.bytes.len() as u64);
        if position < self.position || end > held {
            let size = self.limit.saturating_sub(position).min(WINDOW_BYTES as u64);
            self.position = position;
            self.bytes.resize(usize::try_from(size).unwrap_or(0), 0);
            match self.file.read_exact_at(&mut self.bytes, position) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    self.bytes.clear();
                    return Err(error);
                }
                Err(_) => self.read_what_reads(),
            }
        }
        let from = usize::try_from(position.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(self.bytes.get(from..to))
    }

    /// Page by page: one bad sector costs its page, not the segment.
    fn read_what_reads(&mut self) {
        let mut at = self.position;
        for page in self.bytes.chunks_mut(UNREADABLE_STEP) {
            if self.file.read_exact_at(page, at).is_err() {
                page.fill(UNREADABLE);
                self.unreadable = true;
            }
            at = at.saturating_add(page.len() as u64);
        }
    }
}
