//! Checking a store that nobody has open: every byte of every segment, the key files, the snapshot. It writes nothing.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::check::{Finding, SegmentCheck};
use super::error::OpenError;
use super::record::{Codec, SEGMENT_HEADER_BYTES};
use super::recovery::{io_error, read_footer, segment_numbers};
use super::scan::Scanned;
use super::segment::segment_path;
use super::vfs::{OpenMode, Vfs};
use super::{identity, snapshot};

/// Most damaged places that are listed; all are counted.
const LISTED_MAX: usize = 1000;

/// A damaged place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedPlace {
    /// Number of the segment.
    pub segment: u32,
    /// Where the record begins, bytes.
    pub offset: u64,
    /// What is wrong.
    pub damage: String,
    /// The shard, record or group, if the footer tells, in hexadecimal.
    pub key: Option<String>,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FsckReport {
    /// Segment files.
    pub segments: u64,
    /// Good records.
    pub records: u64,
    /// Bytes of records read.
    pub bytes: u64,
    /// Damaged places.
    pub damaged: u64,
    /// Bytes at the end of the last segment that were never promised: what a crash leaves.
    pub torn_bytes: u64,
    /// Whether the snapshot of the index is whole; absent if there is none.
    pub snapshot: Option<bool>,
    /// The first of the damaged places.
    pub places: Vec<DamagedPlace>,
}

/// Deletes the snapshot of the index of a store that nobody has open: the next open reads the log.
///
/// # Errors
/// [`OpenError`], as [`fsck`].
pub fn forget_index(vfs: &Arc<dyn Vfs>, data: &Path) -> Result<(), OpenError> {
    let _lock = lock(vfs.as_ref(), data)?;
    snapshot::remove(vfs.as_ref(), data).map_err(io_error("remove the index of", data))
}

/// Checks the store in `data`. `tell` is given bytes read and bytes in all, now and then.
///
/// # Errors
/// [`OpenError`]: in use, not a store, or not to be read at all. Damage is no error, it is what the report is for.
pub fn fsck(vfs: &Arc<dyn Vfs>, data: &Path, tell: &mut dyn FnMut(u64, u64)) -> Result<FsckReport, OpenError> {
    let _lock = lock(vfs.as_ref(), data)?;
    let key = identity::load(vfs.as_ref(), data)?.ok_or_else(|| OpenError::KeyMissing(data.to_path_buf()))?;
    let codec = Codec::new(&key);
    let numbers = segment_numbers(vfs.as_ref(), data)?;
    let mut total = 0u64;
    for number in &numbers {
        let path = segment_path(data, *number);
        let length = vfs.open(&path, OpenMode::Read).and_then(|file| file.length());
        total = total.saturating_add(length.map_err(io_error("measure", &path))?);
    }
    let mut report = FsckReport { snapshot: snapshot::is_whole(vfs.as_ref(), data, &codec), ..FsckReport::default() };
    report.damaged = u64::from(report.snapshot == Some(false));
    for number in &numbers {
        check_segment(vfs, data, &codec, *number, &mut report, &mut |bytes| tell(bytes, total))?;
    }
    Ok(report)
}

fn lock(vfs: &dyn Vfs, data: &Path) -> Result<Box<dyn super::vfs::DirLock>, OpenError> {
    vfs.lock(data).map_err(|source| match source.kind() {
        std::io::ErrorKind::WouldBlock => OpenError::Locked(data.to_path_buf()),
        _ => io_error("lock", data)(source),
    })
}

fn check_segment(
    vfs: &Arc<dyn Vfs>,
    data: &Path,
    codec: &Codec,
    number: u32,
    report: &mut FsckReport,
    tell: &mut dyn FnMut(u64),
) -> Result<(), OpenError> {
    let path = segment_path(data, number);
    let file = vfs.open(&path, OpenMode::Read).map_err(io_error("open", &path))?;
    let length = file.length().map_err(io_error("measure", &path))?;
    let footer = read_footer(file.as_ref(), codec, number, length)
        .map_err(|what| OpenError::Newer { path: path.clone(), what })?;
    let sealed = footer.is_some();
    let end = match footer {
        Some((_, end)) => end,
        None => {
            let scanned = Scanned { file: file.as_ref(), codec, number, path: &path };
            let scan = scanned.scan(SEGMENT_HEADER_BYTES as u64, length)?;
            report.torn_bytes = report.torn_bytes.saturating_add(scan.torn_bytes);
            scan.end
        }
    };
    report.segments = report.segments.saturating_add(1);
    let opened = SegmentCheck::open(vfs.as_ref(), data, codec, number, end, sealed);
    let mut check = opened.map_err(io_error("open", &path))?;
    loop {
        let offset = check.position();
        let (bytes, place) = match check.next(codec) {
            None => return Ok(()),
            Some(Finding::Good { bytes }) => {
                report.records = report.records.saturating_add(1);
                (bytes, None)
            }
            Some(Finding::Frame) => (0, Some((0, "Frame".to_owned(), None))),
            Some(Finding::Bad { entry, damage, bytes }) => {
                let key = entry.map(|entry| data_encoding::HEXLOWER.encode(&entry.key));
                (bytes, Some((offset, format!("{damage:?}"), key)))
            }
        };
        report.bytes = report.bytes.saturating_add(bytes);
        tell(report.bytes);
        if let Some((offset, damage, key)) = place {
            report.damaged = report.damaged.saturating_add(1);
            if report.places.len() < LISTED_MAX {
                report.places.push(DamagedPlace { segment: number, offset, damage, key });
            }
        }
    }
}
