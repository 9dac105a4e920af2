//! The pipeline as a whole: round trips, losses, tampering, golden shards.

mod golden;
mod round_trip;
mod tamper;
mod verifying;

use shoal_protocol::buffer::Buffer;
use shoal_protocol::layout::Code;
use shoal_protocol::{FileId, SegmentNumber, Suite};

use super::*;
use crate::keys::{ReadKey, RootKey};

const SUITES: [Suite; 2] = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm];
const FILE: FileId = FileId::from_bytes([0xf1; 32]);

fn code(data: usize, parity: usize) -> Code {
    Code::new(data, parity).unwrap()
}

fn layout(suite: Suite, code: Code, replicas: u8) -> FileLayout {
    FileLayout::new(FILE, suite, code, replicas).unwrap()
}

fn read_key() -> ReadKey {
    RootKey::new([0x77; 32]).read()
}

/// Bytes that repeat at no power of two.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

/// Plain segments of a stream of these bytes.
fn cut(code: Code, bytes: &[u8]) -> Vec<PlainSegment> {
    let mut chunker = Chunker::new(code);
    let (mut rest, mut out) = (bytes, Vec::new());
    while !rest.is_empty() {
        out.extend(chunker.push(&mut rest).unwrap());
    }
    out.extend(chunker.finish().unwrap());
    out
}

/// The stream of these bytes, sealed; salts count up from 1.
fn seal_all(layout: &FileLayout, bytes: &[u8]) -> Vec<SegmentShards> {
    let salts = (1u8..).map(|n| [n; 32]);
    cut(layout.code(), bytes)
        .into_iter()
        .zip(salts)
        .map(|(segment, salt)| segment.seal(layout, &read_key(), salt).unwrap())
        .collect()
}

fn stored(layout: &FileLayout, segment: &SegmentShards) -> StoredSegment {
    StoredSegment::new(layout, &read_key().verify(), segment.number, &segment.reference).unwrap()
}

fn opener(layout: &FileLayout, segment: &SegmentShards) -> SegmentOpener {
    stored(layout, segment).opener(Some(&read_key())).unwrap()
}

/// Units of these rows from the shards with these numbers.
fn sources(
    segment: &SegmentShards,
    stored: &StoredSegment,
    rows: &core::ops::Range<usize>,
    units: &[usize],
) -> Vec<(usize, Vec<u8>)> {
    let range = stored.shard_range(rows).unwrap();
    let range = range.start as usize..range.end as usize;
    units.iter().map(|unit| (*unit, segment.shards[*unit].bytes[range.clone()].to_vec())).collect()
}

fn open_all(layout: &FileLayout, segment: &SegmentShards, units: &[usize]) -> Result<Buffer, OpenError> {
    let opener = opener(layout, segment);
    let rows = 0..opener.stored().shape().rows();
    let sources = sources(segment, opener.stored(), &rows, units);
    opener.open_rows(rows, sources)
}
