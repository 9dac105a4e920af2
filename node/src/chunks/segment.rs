//! Segment files: their names, the open one that is appended to, and a bounded set of open ones for readers.
//! It never decides what to write.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::record::{Codec, ENTRY_BYTES, Entry, SEGMENT_HEADER_BYTES, SegmentHeader, TRAILER_BYTES};
use super::vfs::{OpenMode, Vfs, VfsFile, is_no_space, write_at};

/// A segment is sealed at this many records, so that its footer table stays below 3.1 MiB, and what is known of the open
/// segment below 4 MiB of memory.
pub(crate) const SEGMENT_RECORDS_MAX: usize = 32_768;
/// Most segment files open for readers at a time.
const READ_FILES_MAX: usize = 64;
/// Bytes at the end of a segment that the system keeps in its memory. What is older it is told to forget: a node shares
/// its machine with programs whose files matter more there, and memory that was just given back is the fastest to write
/// the next batch to. Where large writes go past that memory, this is about small ones.
const RECENT_BYTES: u64 = 16 << 20;
/// The system is told in steps of this, which pages of any size divide.
const FORGET_BYTES: u64 = 2 << 20;

const _: () = assert!(SEGMENT_RECORDS_MAX * ENTRY_BYTES + TRAILER_BYTES < 31 << 17);

/// Folder of the segments below the data directory.
pub(crate) fn segments_dir(data: &Path) -> PathBuf {
    data.join("segments")
}

/// File of a segment: its number in 16 hexadecimal digits.
pub(crate) fn segment_path(data: &Path, number: u32) -> PathBuf {
    segments_dir(data).join(format!("{number:016x}.seg"))
}

/// The number behind a file name; `None` for any other file.
pub(crate) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    let number = u32::from_str_radix(digits, 16).ok()?;
    (format!("{number:016x}") == digits).then_some(number)
}

/// Open segments for readers.
#[derive(Debug)]
pub(crate) struct Files {
    vfs: Arc<dyn Vfs>,
    data: PathBuf,
    open: Mutex<OpenFiles>,
}

#[derive(Debug, Default)]
struct OpenFiles {
    clock: u64,
    /// Segments forgotten so far.
    removals: u64,
    files: BTreeMap<u32, (u64, Arc<dyn VfsFile>)>,
}

impl OpenFiles {
    /// The segment if it is open here, else the count of removals.
    fn held(&mut self, number: u32) -> Result<Arc<dyn VfsFile>, u64> {
        self.clock = self.clock.saturating_add(1);
        let Some((used, file)) = self.files.get_mut(&number) else { return Err(self.removals) };
        *used = self.clock;
        Ok(Arc::clone(file))
    }

    /// The segment as it is open here, which is `file` unless somebody was faster. Of those that nobody reads the one
    /// unused for longest gives way.
    fn keep(&mut self, number: u32, file: Arc<dyn VfsFile>) -> Arc<dyn VfsFile> {
        if self.files.len() >= READ_FILES_MAX {
            let unread = self.files.iter().filter(|(_, (_, file))| Arc::strong_count(file) == 1);
            let oldest = unread.min_by_key(|(_, (used, _))| *used).map(|(number, _)| *number);
            oldest.and_then(|number| self.files.remove(&number));
        }
        let (_, file) = self.files.entry(number).or_insert((self.clock, file));
        Arc::clone(file)
    }
}

impl Files {
    pub(crate) fn new(vfs: Arc<dyn Vfs>, data: PathBuf) -> Self {
        Self { vfs, data, open: Mutex::default() }
    }

    /// The segment, for reading: one open file each, whoever reads it. It is opened without the lock: a slow disk keeps
    /// nobody from the segments open here.
    pub(crate) fn get(&self, number: u32) -> io::Result<Arc<dyn VfsFile>> {
        loop {
            let removals = match self.lock().held(number) {
                Ok(file) => return Ok(file),
                Err(removals) => removals,
            };
            let file = self.vfs.open(&segment_path(&self.data, number), OpenMode::Read)?;
            let mut open = self.lock();
            // Else it may be the one removed meanwhile: kept here it would keep its space.
            if open.removals == removals {
                return Ok(open.keep(number, file));
            }
        }
    }

    /// Lets go of a segment that is removed, and returns it if somebody reads it. The last close is what frees its space.
    pub(crate) fn forget(&self, number: u32) -> Option<Arc<dyn VfsFile>> {
        let mut open = self.lock();
        open.removals = open.removals.wrapping_add(1);
        open.files.remove(&number).map(|(_, file)| file)
    }

    fn lock(&self) -> MutexGuard<'_, OpenFiles> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The segment that is appended to. Everything before `synced` is durable, nothing behind it was promised.
#[derive(Debug)]
pub(crate) struct Active {
    pub number: u32,
    pub file: Arc<dyn VfsFile>,
    /// End of the last durable record.
    pub synced: u64,
    /// Disk space is taken up to here.
    pub allocated: u64,
    /// Every durable record, for the footer.
    pub entries: Vec<Entry>,
    /// A sync failed: what of the file is on disk is unknown for ever, even if the disk was merely full.
    pub unsure: bool,
    /// Where what was written here and is still in the system's memory begins.
    recent: u64,
}

/// What of a segment the system may forget when it is durable up to `synced` and known from `recent` on.
fn no_longer_recent(recent: u64, synced: u64) -> Option<Range<u64>> {
    let end = synced.saturating_sub(RECENT_BYTES) / FORGET_BYTES * FORGET_BYTES;
    (end > recent).then_some(recent..end)
}

impl Active {
    /// Creates segment `number`, durable with its directory entry before this returns.
    pub(crate) fn create(
        vfs: &dyn Vfs,
        data: &Path,
        codec: &Codec,
        number: u32,
        previous: (u32, u64),
        step: u64,
    ) -> io::Result<Self> {
        let path = segment_path(data, number);
        let file = vfs.open(&path, OpenMode::Create)?;
        let created = Self::initialise(file, codec, number, previous, step)
            .and_then(|active| vfs.sync_dir(&segments_dir(data)).map(|()| active));
        if created.is_err() {
            // Nothing was promised in it; a leftover is removed at the next open.
            let _ = vfs.remove(&path);
        }
        created
    }

    fn initialise(
        file: Arc<dyn VfsFile>,
        codec: &Codec,
        number: u32,
        (previous, previous_end): (u32, u64),
        step: u64,
    ) -> io::Result<Self> {
        let header = SegmentHeader { store: codec.store, segment: u64::from(number), previous, previous_end };
        let allocated = match file.allocate(step) {
            Ok(()) => step,
            Err(error) if is_no_space(&error) => 0,
            Err(error) => return Err(error),
        };
        write_at(file.as_ref(), &codec.segment_header(&header), 0)?;
        file.sync_all()?;
        let synced = SEGMENT_HEADER_BYTES as u64;
        let allocated = allocated.max(synced);
        Ok(Self { number, file, synced, allocated, entries: Vec::new(), unsure: false, recent: 0 })
    }

    /// A segment of before, whose durable records `entries` end at `end`.
    pub(crate) const fn reopened(number: u32, file: Arc<dyn VfsFile>, end: u64, entries: Vec<Entry>) -> Self {
        Self { number, file, synced: end, allocated: end, entries, unsure: false, recent: end }
    }

    /// Takes disk space up to `end`, in whole steps if the disk has them.
    pub(crate) fn allocate(&mut self, end: u64, step: u64) -> io::Result<()> {
        if end <= self.allocated {
            return Ok(());
        }
        let whole = end.checked_next_multiple_of(step.max(1)).unwrap_or(end);
        let mut done = self.file.allocate(whole).map(|()| whole);
        if done.as_ref().is_err_and(is_no_space) && whole != end {
            done = self.file.allocate(end).map(|()| end);
        }
        self.allocated = done?;
        Ok(())
    }

    /// Writes `buffers` behind the last durable record and makes them durable with one fdatasync.
    pub(crate) fn append(&mut self, buffers: &mut [IoSlice<'_>], entries: &[Entry], end: u64) -> io::Result<()> {
        self.file.write_all_at(buffers, self.synced)?;
        self.file.sync_data().inspect_err(|_| self.unsure = true)?;
        self.entries.extend_from_slice(entries);
        self.synced = end;
        self.allocated = self.allocated.max(end);
        if let Some(old) = no_longer_recent(self.recent, self.synced) {
            self.file.drop_cache(old.start, old.end.saturating_sub(old.start));
            self.recent = old.end;
        }
        Ok(())
    }

    /// Cuts off what a refused write may have left. The file then ends at its last durable record.
    pub(crate) fn roll_back(&mut self) -> io::Result<()> {
        self.file.set_length(self.synced)?;
        self.allocated = self.synced;
        Ok(())
    }

    /// Ends the segment with its footer. Its records are durable already, so a failure costs a scan at open, no data.
    pub(crate) fn seal(&self, codec: &Codec) -> io::Result<()> {
        let footer = codec.footer(&self.entries, u64::from(self.number), self.synced);
        self.file.set_length(self.synced)?;
        write_at(self.file.as_ref(), &footer, self.synced)?;
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::codec;
    use super::super::vfs_mem::MemVfs;
    use super::*;

    #[test]
    fn what_was_written_last_stays_in_memory() {
        assert_eq!(no_longer_recent(0, RECENT_BYTES + FORGET_BYTES - 1), None);
        assert_eq!(no_longer_recent(0, RECENT_BYTES + FORGET_BYTES + 1), Some(0..FORGET_BYTES));
        assert_eq!(no_longer_recent(FORGET_BYTES, RECENT_BYTES + FORGET_BYTES + 1), None);
        assert_eq!(
            no_longer_recent(FORGET_BYTES, RECENT_BYTES + 5 * FORGET_BYTES),
            Some(FORGET_BYTES..5 * FORGET_BYTES)
        );
    }

    #[test]
    fn names_are_strict() {
        assert_eq!(segment_number("00000000000000ff.seg"), Some(255));
        for name in ["ff.seg", "00000000000000FF.seg", "00000000000000ff", "+0000000000000ff.seg", "store.key"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
        assert_eq!(segment_path(Path::new("/d"), 16), Path::new("/d/segments/0000000000000010.seg"));
    }

    #[test]
    fn a_created_segment_survives_any_crash() {
        for seed in 0..30 {
            let vfs = MemVfs::default();
            Active::create(&vfs, Path::new("/d"), &codec(), 3, (2, 99), 4096).unwrap();
            vfs.crash(seed);
            let bytes = vfs.contents(&segment_path(Path::new("/d"), 3)).unwrap();
            let header = codec().check_segment_header(bytes[..64].try_into().unwrap(), 3).unwrap();
            assert_eq!((header.previous, header.previous_end), (2, 99));
        }
    }

    #[test]
    fn readers_hold_a_bounded_number_of_files() {
        let vfs = MemVfs::default();
        for number in 0..200 {
            Active::create(&vfs, Path::new("/d"), &codec(), number, (0, 0), 64).unwrap();
        }
        let files = Files::new(Arc::new(vfs), PathBuf::from("/d"));
        for number in 0..200 {
            files.get(number).unwrap();
            files.get(0).unwrap();
        }
        let open = files.open.lock().unwrap();
        assert_eq!(open.files.len(), READ_FILES_MAX);
        assert!(open.files.contains_key(&0) && open.files.contains_key(&199));
    }
}
