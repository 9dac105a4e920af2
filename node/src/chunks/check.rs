//! One segment read through from its first byte to its last, every byte compared with what it must be. It changes
//! nothing; scrub and fsck act on what it finds.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::record::{ALIGN, Codec, Entry, HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::recovery::read_footer;
use super::scan::first_record;
use super::segment::segment_path;
use super::verify::{Damage, read_whole};
use super::vfs::{OpenMode, Vfs, VfsFile};

/// What reading one piece of a segment came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// A good record of so many bytes.
    Good {
        /// Bytes on disk.
        bytes: u64,
    },
    /// A record that is not what was written. Without a footer only its place is known.
    Bad {
        /// What the footer says of it.
        entry: Option<Entry>,
        /// What is wrong.
        damage: Damage,
        /// Bytes that were read.
        bytes: u64,
    },
    /// The segment's own header or footer.
    Frame,
}

/// A segment on its way through the check.
#[derive(Debug)]
pub(crate) struct SegmentCheck {
    pub number: u32,
    file: Arc<dyn VfsFile>,
    /// Records according to the footer; without one they are found by walking from header to header.
    table: Option<std::vec::IntoIter<Entry>>,
    /// Where the next record is expected.
    at: u64,
    /// Where the records end.
    end: u64,
    begun: bool,
    /// Whether a sealed segment has no readable footer.
    no_footer: bool,
}

impl SegmentCheck {
    /// Opens segment `number`, whose durable records end at `end`.
    ///
    /// # Errors
    /// The system's; `NotFound` if compaction removed it.
    pub(crate) fn open(
        vfs: &dyn Vfs,
        data: &Path,
        codec: &Codec,
        number: u32,
        end: u64,
        sealed: bool,
    ) -> io::Result<Self> {
        let file = vfs.open(&segment_path(data, number), OpenMode::Read)?;
        let footer =
            if sealed { read_footer(file.as_ref(), codec, number, file.length()?).ok().flatten() } else { None };
        let no_footer = sealed && footer.as_ref().is_none_or(|(_, footer_end)| *footer_end != end);
        let table = footer.filter(|_| !no_footer).map(|(entries, _)| entries.into_iter());
        Ok(Self { number, file, table, at: SEGMENT_HEADER_BYTES as u64, end, begun: false, no_footer })
    }

    /// Bytes of records read so far.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// Reads the next piece; `None` at the end.
    pub(crate) fn next(&mut self, codec: &Codec) -> Option<Finding> {
        if !self.begun {
            self.begun = true;
            if !self.has_header(codec) {
                return Some(Finding::Frame);
            }
        }
        if std::mem::take(&mut self.no_footer) {
            return Some(Finding::Frame);
        }
        match &mut self.table {
            Some(table) => {
                let entry = table.next()?;
                Some(self.listed(codec, entry))
            }
            None => self.walked(codec),
        }
    }

    fn has_header(&self, codec: &Codec) -> bool {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = self.file.read_exact_at(&mut bytes, 0);
        let header = codec.check_segment_header(&bytes, u64::from(self.number));
        read.is_ok() && header.is_ok_and(|header| header.store == codec.store)
    }

    fn listed(&mut self, codec: &Codec, entry: Entry) -> Finding {
        let bytes = entry.end().saturating_sub(self.at);
        self.at = entry.end();
        // Else the copy in memory is checked, not the disk. Only as far as it is read at once: who reads the segment
        // meanwhile keeps the rest.
        self.file.drop_cache(entry.offset, entry.size());
        match read_whole(self.file.as_ref(), codec, self.number, &entry) {
            Ok(whole) if whole.padding => Finding::Bad { entry: Some(entry), damage: Damage::Padding, bytes },
            Ok(_) => Finding::Good { bytes },
            Err(damage) => Finding::Bad { entry: Some(entry), damage, bytes },
        }
    }

    /// The record at the next boundary; behind a damaged one the next good one is looked for.
    fn walked(&mut self, codec: &Codec) -> Option<Finding> {
        if self.at >= self.end {
            return None;
        }
        let mut header = [0; HEADER_BYTES];
        let read = self.file.read_exact_at(&mut header, self.at);
        let entry = codec.check_header(&header, u64::from(self.number), self.at);
        match entry {
            Ok(entry) if read.is_ok() => Some(self.listed(codec, entry)),
            _ => {
                let from = self.at.saturating_add(ALIGN);
                let next = first_record(self.file.as_ref(), codec, self.number, from..self.end).unwrap_or(self.end);
                let bytes = next.saturating_sub(self.at);
                self.at = next;
                Some(Finding::Bad { entry: None, damage: Damage::Header, bytes })
            }
        }
    }
}
