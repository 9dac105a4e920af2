//! Reading back: shards as verified bao streams, records by their checksum. It never hands out an unverified byte.

use std::cell::RefCell;
use std::io::{self, Write};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bao_tree::io::EncodeError;
use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::{ReadAt, encode_ranges_validated};
use bao_tree::{ChunkNum, ChunkRanges};
use shoal_protocol::ShardId;
use shoal_protocol::limits::RANGES_MAX;

use super::bao::{GROUP_BYTES, tree};
use super::error::ReadError;
use super::index::{Place, Slot};
use super::record::{CRC_BYTES, Codec, Entry, HEADER_BYTES, Kind, checksum};
use super::segment::Files;
use super::vfs::VfsFile;

/// Most bytes read ahead of the verifier.
const READ_AHEAD_BYTES: usize = 128 * 1024;
/// Bytes handed to the sink at a time, at most: one data frame.
const SINK_BYTES: usize = 64 * 1024;

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// All ranges reached the sink.
    Complete {
        /// Encoded bytes handed to the sink.
        bytes: u64,
    },
    /// The sink asked to stop.
    Stopped,
}

/// Reads and checks the header at a place.
pub(crate) fn read_header(file: &dyn VfsFile, codec: &Codec, segment: u32, offset: u64) -> Result<Entry, ReadError> {
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, offset).map_err(short_is_rot)?;
    codec.check_header(&bytes, u64::from(segment), offset).map_err(|_| ReadError::Rot)
}

/// Whether the record at `slot` is the shard `key`; a damaged header is not. One that the disk does not read is: the half
/// of the key that led to it says so, and what is durable must not depend on whether the disk answers just now.
pub(crate) fn is_shard(files: &Files, codec: &Codec, slot: &Slot, key: &[u8; 32]) -> bool {
    let file = files.get(slot.segment).map_err(ReadError::Io);
    match file.and_then(|file| read_header(file.as_ref(), codec, slot.segment, slot.offset())) {
        Ok(entry) => entry.kind == Kind::Put && entry.key == *key,
        Err(ReadError::Io(error)) => error.kind() != io::ErrorKind::NotFound,
        Err(_) => false,
    }
}

/// The payload of a GROUP or RECORD.
pub(crate) fn read_signed(
    files: &Files,
    codec: &Codec,
    place: &Place,
    kind: Kind,
    key: &[u8; 32],
) -> Result<Vec<u8>, ReadError> {
    let file = files.get(place.segment).map_err(ReadError::Io)?;
    let entry = read_header(file.as_ref(), codec, place.segment, place.offset())?;
    if entry.kind != kind || entry.key != *key || entry.payload != place.length {
        return Err(ReadError::Rot);
    }
    let mut bytes = vec![0; (entry.payload as usize).saturating_add(CRC_BYTES)];
    let start = place.offset().saturating_add(HEADER_BYTES as u64);
    file.read_exact_at(&mut bytes, start).map_err(short_is_rot)?;
    let crc = bytes.split_off(entry.payload as usize);
    if crc == checksum(&bytes, &[]).to_le_bytes() { Ok(bytes) } else { Err(ReadError::Rot) }
}

/// Streams `ranges` of the shard at `slot` in pre-order, every node and group checked up to `id` before it leaves.
pub(crate) fn read_encoded(
    files: &Files,
    codec: &Codec,
    slot: &Slot,
    id: &ShardId,
    ranges: &[Range<u64>],
    sink: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
) -> Result<ReadOutcome, ReadError> {
    let ranges = chunk_ranges(ranges, slot.length)?;
    let file = files.get(slot.segment).map_err(ReadError::Io)?;
    let entry = read_header(file.as_ref(), codec, slot.segment, slot.offset())?;
    if entry.kind != Kind::Put || entry.payload != slot.length {
        return Err(ReadError::Rot);
    }
    if entry.key != *id.as_bytes() {
        return Err(ReadError::NotFound);
    }
    let start = slot.offset().saturating_add(HEADER_BYTES as u64);
    let mut hashes = vec![0; entry.outboard as usize];
    let behind = start.saturating_add(u64::from(entry.payload));
    file.read_exact_at(&mut hashes, behind).map_err(short_is_rot)?;

    let root = blake3::Hash::from_bytes(*id.as_bytes());
    let outboard = PreOrderMemOutboard { root, tree: tree(entry.payload), data: hashes };
    let data = Payload { file, start, length: u64::from(entry.payload), window: RefCell::default() };
    let mut out = Frames { sink, buffer: Vec::with_capacity(SINK_BYTES), bytes: 0, stopped: false };
    let result = encode_ranges_validated(&data, outboard, &ranges, &mut out).and_then(|()| Ok(out.flush()?));
    match result {
        Ok(()) => Ok(ReadOutcome::Complete { bytes: out.bytes }),
        Err(_) if out.stopped => Ok(ReadOutcome::Stopped),
        Err(EncodeError::ParentHashMismatch(_) | EncodeError::LeafHashMismatch(_) | EncodeError::SizeMismatch) => {
            Err(ReadError::Rot)
        }
        Err(EncodeError::Io(error)) => Err(short_is_rot(error)),
        Err(EncodeError::ParentWrite(_) | EncodeError::LeafWrite(_)) => {
            Err(ReadError::Io(io::ErrorKind::ConnectionReset.into()))
        }
    }
}

/// Whether the whole segment is no longer there.
pub(crate) fn is_gone(error: &ReadError) -> bool {
    matches!(error, ReadError::Io(error) if error.kind() == io::ErrorKind::NotFound)
}

/// A file that ends too early is damage, not a disk error.
fn short_is_rot(error: io::Error) -> ReadError {
    if error.kind() == io::ErrorKind::UnexpectedEof { ReadError::Rot } else { ReadError::Io(error) }
}

/// The 1 KiB chunks that cover byte ranges within a shard of `length` bytes.
fn chunk_ranges(ranges: &[Range<u64>], length: u32) -> Result<ChunkRanges, ReadError> {
    if ranges.len() > RANGES_MAX {
        return Err(ReadError::Ranges(ranges.len()));
    }
    let mut chunks = ChunkRanges::empty();
    for range in ranges {
        if range.start >= range.end || range.end > u64::from(length) {
            return Err(ReadError::Range { length });
        }
        chunks |= ChunkRanges::from(ChunkNum::full_chunks(range.start)..ChunkNum::chunks(range.end));
    }
    if chunks.is_empty() { Err(ReadError::Range { length }) } else { Ok(chunks) }
}

/// The payload of one record as the bao crate reads it: in order, so reading ahead pays.
struct Payload {
    file: Arc<dyn VfsFile>,
    start: u64,
    length: u64,
    window: RefCell<Window>,
}

#[derive(Default)]
struct Window {
    position: u64,
    bytes: Vec<u8>,
    /// Where the last read ended: reading ahead starts at the second read in a row.
    next: Option<u64>,
}

impl Window {
    fn part(&self, position: u64, length: usize) -> Option<&[u8]> {
        let from = usize::try_from(position.checked_sub(self.position)?).ok()?;
        self.bytes.get(from..from.checked_add(length)?)
    }
}

impl ReadAt for Payload {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(position)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let mut window = self.window.borrow_mut();
        if window.part(position, length).is_none() {
            let in_a_row = window.next == Some(position);
            let ahead = if in_a_row { READ_AHEAD_BYTES } else { GROUP_BYTES };
            window.position = position;
            window.bytes.resize(ahead.max(length).min(left), 0);
            let at = self.start.saturating_add(position);
            if let Err(error) = self.file.read_exact_at(&mut window.bytes, at) {
                window.bytes.clear();
                return Err(error);
            }
        }
        let part = window.part(position, length).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
        window.next = Some(position.saturating_add(length as u64));
        Ok(length)
    }
}

/// Gathers verified pieces into pieces of up to [`SINK_BYTES`].
struct Frames<'a> {
    sink: &'a mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
    buffer: Vec<u8>,
    bytes: u64,
    stopped: bool,
}

impl Write for Frames<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= SINK_BYTES {
            self.flush()?;
        }
        let room = SINK_BYTES.saturating_sub(self.buffer.len());
        let now = bytes.get(..room).unwrap_or(bytes);
        self.buffer.extend_from_slice(now);
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.bytes = self.bytes.saturating_add(self.buffer.len() as u64);
            let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(SINK_BYTES));
            if (self.sink)(full).is_break() {
                self.stopped = true;
                return Err(io::Error::other("stopped by the sink"));
            }
        }
        Ok(())
    }
}
