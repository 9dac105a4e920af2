//! A retrieval: which parts of which segments a list of pieces needs, fetched ahead and delivered in order.
//!
//! A piece inside one frame costs one unit from one node. Larger ones are cut into the partial first row, the full rows
//! and the partial last row, so that nothing but whole units around the piece is moved. Segments are fetched ahead, a
//! bounded number of bytes; who is asked for a part is the business of `fetch.rs`.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use shoal_protocol::SegmentNumber;
use shoal_protocol::buffer::Buffer;
use shoal_protocol::limits::UNIT;
use shoal_protocol::page::SegmentRef;

use super::fetch::{Part, Source};
use super::{Client, Fleet, OpenFile, RetrieveError};
use crate::manifest::Piece;
use crate::pipeline::StoredSegment;
use crate::transport::ShardTransport;

/// Coded bytes fetched ahead, at most; at least one segment.
const AHEAD_BYTES: usize = 32 << 20;
/// Segments fetched ahead, at most.
const AHEAD_SEGMENTS: usize = 8;

/// Some plaintext of what is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadPiece {
    /// Which of the pieces asked for.
    pub index: usize,
    /// Its next bytes. They keep the buffer of their segment, of at most 64 MiB, from being used again.
    pub bytes: Bytes,
}

/// Cuts a plaintext range of a segment into parts, in order.
fn parts(stored: &StoredSegment, plain: Range<usize>) -> Vec<Part> {
    let (shape, k) = (stored.shape(), stored.shape().code().k());
    let (Some(first), Some(last)) =
        (shape.locate(plain.start), plain.end.checked_sub(1).and_then(|at| shape.locate(at)))
    else {
        return vec![];
    };
    if first.row == last.row {
        return vec![Part { rows: first.row..first.row + 1, columns: first.column..last.column + 1 }];
    }
    // The last frame of a row may be short of plaintext: a row is complete when its last byte is wanted.
    let row_end = shape.plain().min((last.row + 1) * shape.code().row_plain());
    let whole_last = plain.end == row_end;
    let middle = first.row + usize::from(first.column > 0)..last.row + usize::from(whole_last);
    let mut out = Vec::new();
    if first.column > 0 {
        out.push(Part { rows: first.row..first.row + 1, columns: first.column..k });
    }
    if !middle.is_empty() {
        out.push(Part { rows: middle, columns: 0..k });
    }
    if !whole_last {
        out.push(Part { rows: last.row..last.row + 1, columns: 0..last.column + 1 });
    }
    out
}

/// Pieces of one segment that are fetched together.
struct Job {
    segment: SegmentNumber,
    plain: Range<usize>,
    pieces: Vec<(usize, Range<usize>)>,
}

/// Groups ascending pieces by segment.
fn jobs(pieces: &[Piece]) -> Vec<Job> {
    let mut out: Vec<Job> = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let plain = piece.plain.start as usize..piece.plain.end as usize;
        if plain.is_empty() {
            continue;
        }
        match out.last_mut() {
            // A gap of less than a unit is not worth a request of its own.
            Some(job)
                if job.segment == piece.segment
                    && plain.start >= job.plain.start
                    && plain.start <= job.plain.end + UNIT =>
            {
                job.plain.end = job.plain.end.max(plain.end);
                job.pieces.push((index, plain));
            }
            _ => out.push(Job { segment: piece.segment, plain: plain.clone(), pieces: vec![(index, plain)] }),
        }
    }
    out
}

/// The pieces of one segment.
fn cut(job: &Job, bytes: &Bytes) -> Vec<Result<ReadPiece, RetrieveError>> {
    let short = || RetrieveError::Integrity("segment is shorter than its entry says".into());
    let piece = |(index, range): &(usize, Range<usize>)| {
        let (start, end) = (range.start - job.plain.start, range.end - job.plain.start);
        if end > bytes.len() {
            return Err(short());
        }
        Ok(ReadPiece { index: *index, bytes: bytes.slice(start..end) })
    };
    job.pieces.iter().map(piece).collect()
}

impl<T: ShardTransport> Client<T> {
    /// Bytes of `pieces`, in order; several items may be of one piece. What came before an error is good, but not all
    /// there is. Segments are fetched ahead as long as the stream is polled; dropping it stops them.
    pub fn read<'a>(
        &'a self,
        file: &'a OpenFile,
        fleet: &'a Fleet,
        pieces: &[Piece],
    ) -> impl Stream<Item = Result<ReadPiece, RetrieveError>> + Send + use<'a, T> {
        let ahead = (AHEAD_BYTES / file.code().segment_plain()).clamp(1, AHEAD_SEGMENTS);
        let (refused, jobs) =
            if file.can_read() { (None, jobs(pieces)) } else { (Some(Err(RetrieveError::CannotRead)), vec![]) };
        let fetches = jobs.into_iter().map(move |job| async move {
            let segment = file.tree().segments.get(job.segment.0 as usize);
            let segment =
                segment.ok_or_else(|| RetrieveError::Integrity(format!("segment {} does not exist", job.segment)))?;
            let bytes = self.fetch_plain(file.source(), fleet, job.segment, segment, job.plain.clone()).await?;
            Ok((job, bytes))
        });
        let ready = stream::iter(fetches).buffered(ahead).flat_map(|fetched: Result<(Job, Bytes), RetrieveError>| {
            stream::iter(match fetched {
                Ok((job, bytes)) => cut(&job, &bytes),
                Err(error) => vec![Err(error)],
            })
        });
        stream::iter(refused).chain(ready)
    }

    /// Plaintext bytes `plain` of one segment.
    pub(super) async fn fetch_plain(
        &self,
        source: &Source,
        fleet: &Fleet,
        number: SegmentNumber,
        segment: &SegmentRef,
        plain: Range<usize>,
    ) -> Result<Bytes, RetrieveError> {
        let damaged = |what: String| RetrieveError::Integrity(format!("segment {number}: {what}"));
        let stored = StoredSegment::new(&source.layout, &source.verify, number, segment)
            .map_err(|error| damaged(error.to_string()))?;
        let opener = stored.opener(source.read.as_ref()).map_err(|error| damaged(error.to_string()))?;
        let opener = Arc::new(opener);
        let plan = parts(opener.stored(), plain.clone());
        let fetched: Vec<Result<Buffer, RetrieveError>> = stream::iter(plan.iter().cloned())
            .map(|part| self.fetch_part(source, fleet, number, segment, Arc::clone(&opener), part))
            .buffered(3)
            .collect()
            .await;
        let mut fetched = fetched.into_iter();
        // A whole segment is one part, which is not copied.
        let mut bytes = fetched.next().transpose()?.unwrap_or_else(|| Buffer::from(Vec::new()));
        for part in fetched {
            bytes.extend_from_slice(&part?);
        }
        let skip =
            plan.first().and_then(|part| first_byte(opener.stored(), part)).map_or(0, |first| plain.start - first);
        let end = skip.checked_add(plain.len()).filter(|end| *end <= bytes.len());
        let end = end.ok_or_else(|| damaged("is shorter than its entry says".into()))?;
        Ok(Bytes::from_owner(bytes).slice(skip..end))
    }
}

/// First plaintext byte of a part within its segment.
fn first_byte(stored: &StoredSegment, part: &Part) -> Option<usize> {
    let shape = stored.shape();
    let row = part.rows.start;
    let byte = row
        .checked_mul(shape.code().row_plain())?
        .checked_add(part.columns.start.checked_mul(shape.frame_plain(row))?)?;
    (byte < shape.plain()).then_some(byte)
}
