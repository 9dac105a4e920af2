//! Segment files: their names, the open one that is appended to, and a bounded set of open ones for readers.
//! It never decides what to write.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::record::{Codec, ENTRY_BYTES, Entry, SEGMENT_HEADER_BYTES, SegmentHeader, TRAILER_BYTES};
use super::vfs::{OpenMode, Vfs, VfsFile, is_no_space, write_at};

/// A segment is sealed at this many records, so that its footer table stays below 3.1 MiB, and what is known of the open
/// segment below 4 MiB of memory.
pub(crate) const SEGMENT_RECORDS_MAX: usize = 32_768;
/// Most segment files open for readers at a time.
const READ_FILES_MAX: usize = 64;

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

/// Open segments for readers; the one unused for longest is closed for a new one.
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
}

impl Files {
    pub(crate) fn new(vfs: Arc<dyn Vfs>, data: PathBuf) -> Self {
        Self { vfs, data, open: Mutex::default() }
    }

    /// The segment, for reading. It is opened without the lock: a slow disk keeps nobody from the segments open here.
    pub(crate) fn get(&self, number: u32) -> io::Result<Arc<dyn VfsFile>> {
        let removals = match self.lock().held(number) {
            Ok(file) => return Ok(file),
            Err(removals) => removals,
        };
        let file = self.vfs.open(&segment_path(&self.data, number), OpenMode::Read)?;
        let mut open = self.lock();
        if open.removals != removals {
            // It may be the one removed meanwhile: kept here it would keep its space.
            return Ok(file);
        }
        if open.files.len() >= READ_FILES_MAX {
            let oldest = open.files.iter().min_by_key(|(_, (used, _))| *used).map(|(number, _)| *number);
            oldest.and_then(|number| open.files.remove(&number));
        }
        let now = open.clock;
        open.files.insert(number, (now, Arc::clone(&file)));
        Ok(file)
    }

    /// Closes a segment that is to be removed; who still reads it keeps it.
    pub(crate) fn forget(&self, number: u32) {
        let mut open = self.lock();
        open.files.remove(&number);
        open.removals = open.removals.wrapping_add(1);
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
        Ok(Self { number, file, synced, allocated: allocated.max(synced), entries: Vec::new(), unsure: false })
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
