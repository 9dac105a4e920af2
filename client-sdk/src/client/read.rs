//! The network half of a retrieval: fetches the units that a list of pieces needs, decodes them, delivers in order.
//!
//! A piece inside one frame costs one unit from one node. Larger ones are cut into the partial first row, the full rows
//! and the partial last row, so that nothing but whole units around the piece is moved. Segments are fetched ahead, a
//! bounded number of bytes; a node that lies, is gone or stalls is remembered for the run and not asked again.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, FuturesUnordered, StreamExt};
use shoal_protocol::layout::Code;
use shoal_protocol::limits::UNIT;
use shoal_protocol::page::SegmentRef;
use shoal_protocol::receipt::ByteRange;
use shoal_protocol::record::PlacementRecord;
use shoal_protocol::{NodeId, Refusal, SegmentNumber};

use super::{Client, Fleet, OpenFile, RetrieveError};
use crate::keys::{ReadKey, VerifyKey};
use crate::manifest::Piece;
use crate::pipeline::{FileLayout, SegmentOpener, StoredSegment};
use crate::transfer::{FetchSession, FetchState, TransferError};
use crate::transport::{RetrieveJob, ShardTransport};

/// Coded bytes fetched ahead, at most; at least one segment.
const AHEAD_BYTES: usize = 64 << 20;
/// Segments fetched ahead, at most.
const AHEAD_SEGMENTS: usize = 8;
/// Times a busy node is asked for one unit.
const ATTEMPTS: u32 = 5;
/// First wait after BUSY, milliseconds; doubles.
const BUSY_MS: u64 = 100;

/// Plaintext bytes delivered since the last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadProgress {
    /// Bytes.
    pub bytes: u64,
}

/// Nodes that are of no use in this run, and why.
#[derive(Debug, Default)]
pub(super) struct Shunned(Mutex<BTreeMap<NodeId, TransferError>>);

impl Shunned {
    fn add(&self, node: NodeId, error: TransferError) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(node).or_insert(error);
    }

    fn has(&self, node: &NodeId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(node)
    }

    /// Who was shunned, and why.
    pub(super) fn list(&self) -> Vec<(NodeId, TransferError)> {
        let shunned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shunned.iter().map(|(node, error)| (*node, error.clone())).collect()
    }
}

/// What is needed to fetch any segment of one file.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) layout: FileLayout,
    pub(super) verify: VerifyKey,
    pub(super) read: Option<ReadKey>,
    pub(super) placement: Arc<PlacementRecord>,
    pub(super) shunned: Arc<Shunned>,
}

/// Some columns of some rows of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    rows: Range<usize>,
    columns: Range<usize>,
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

impl<T: ShardTransport> Client<T> {
    /// Bytes of `pieces`, in order: `sink` gets the index of the piece and some of its bytes, several times a piece.
    ///
    /// # Errors
    /// [`RetrieveError`]; what the sink got before is good, but not all there is.
    pub async fn read(
        &self,
        file: &OpenFile,
        fleet: &Fleet,
        pieces: &[Piece],
        sink: &mut (dyn FnMut(usize, &[u8]) -> io::Result<()> + Send),
        progress: &(dyn Fn(ReadProgress) + Send + Sync),
    ) -> Result<(), RetrieveError> {
        if !file.can_read() {
            return Err(RetrieveError::CannotRead);
        }
        let ahead = (AHEAD_BYTES / file.code().segment_plain()).clamp(1, AHEAD_SEGMENTS);
        let fetches = jobs(pieces).into_iter().map(|job| async move {
            let segment = file.tree().segments.get(job.segment.0 as usize);
            let segment =
                segment.ok_or_else(|| RetrieveError::Integrity(format!("segment {} does not exist", job.segment)))?;
            let bytes = self.fetch_plain(file.source(), fleet, job.segment, segment, job.plain.clone()).await?;
            Ok((job, bytes))
        });
        let mut ready = stream::iter(fetches).buffered(ahead);
        while let Some(fetched) = ready.next().await {
            let fetched: Result<(Job, Vec<u8>), RetrieveError> = fetched;
            let (job, bytes) = fetched?;
            for (index, range) in &job.pieces {
                let piece = bytes.get(range.start - job.plain.start..range.end - job.plain.start);
                let piece =
                    piece.ok_or_else(|| RetrieveError::Integrity("segment is shorter than its entry says".into()))?;
                sink(*index, piece).map_err(RetrieveError::Output)?;
                progress(ReadProgress { bytes: piece.len() as u64 });
            }
        }
        Ok(())
    }

    /// Plaintext bytes `plain` of one segment.
    pub(super) async fn fetch_plain(
        &self,
        source: &Source,
        fleet: &Fleet,
        number: SegmentNumber,
        segment: &SegmentRef,
        plain: Range<usize>,
    ) -> Result<Vec<u8>, RetrieveError> {
        let damaged = |what: String| RetrieveError::Integrity(format!("segment {number}: {what}"));
        let stored = StoredSegment::new(&source.layout, &source.verify, number, segment)
            .map_err(|error| damaged(error.to_string()))?;
        let opener = stored.opener(source.read.as_ref()).map_err(|error| damaged(error.to_string()))?;
        let opener = Arc::new(opener);
        let plan = parts(opener.stored(), plain.clone());
        let fetched: Vec<Result<Vec<u8>, RetrieveError>> = stream::iter(plan.iter().cloned())
            .map(|part| self.fetch_part(source, fleet, number, segment, Arc::clone(&opener), part))
            .buffered(3)
            .collect()
            .await;
        let mut bytes = Vec::with_capacity(plain.len());
        for part in fetched {
            bytes.extend_from_slice(&part?);
        }
        let skip =
            plan.first().and_then(|part| first_byte(opener.stored(), part)).map_or(0, |first| plain.start - first);
        let end = skip.checked_add(plain.len()).filter(|end| *end <= bytes.len());
        let end = end.ok_or_else(|| damaged("is shorter than its entry says".into()))?;
        bytes.truncate(end);
        bytes.drain(..skip);
        Ok(bytes)
    }

    async fn fetch_part(
        &self,
        source: &Source,
        fleet: &Fleet,
        number: SegmentNumber,
        segment: &SegmentRef,
        opener: Arc<SegmentOpener>,
        part: Part,
    ) -> Result<Vec<u8>, RetrieveError> {
        let code = source.layout.code();
        let holders: Vec<Option<NodeId>> = (0..segment.shards.len())
            .map(|unit| source.placement.holder(number, unit).map(|holder| holder.node))
            .map(|node| node.filter(|node| fleet.get(node).is_some() && !source.shunned.has(node)))
            .collect();
        let available: Vec<bool> = holders.iter().map(Option::is_some).collect();
        let mut session = FetchSession::new(code, part.columns.clone(), &available);
        let range = opener.stored().shard_range(&part.rows);
        let range = range.ok_or_else(|| RetrieveError::Integrity(format!("segment {number} has no such rows")))?;
        let mut units: BTreeMap<usize, Bytes> = BTreeMap::new();
        let mut failures: Vec<(NodeId, TransferError)> = Vec::new();
        let mut flights = FuturesUnordered::new();
        loop {
            while let Some(unit) = session.poll() {
                let (Some(Some(node)), Some(shard)) = (holders.get(unit).copied(), segment.shards.get(unit)) else {
                    session.failed(unit);
                    continue;
                };
                let job = self.unit_job(opener.stored(), shard, &range);
                flights.push(async move { (unit, node, self.fetch_unit(node, job).await) });
            }
            match session.state() {
                FetchState::Pending => {}
                FetchState::Direct | FetchState::Rebuild => break,
                FetchState::Failed { have } => {
                    failures.extend(source.shunned.list());
                    let segment = number.to_string();
                    return Err(RetrieveError::TooFewShards { segment, have, need: code.k(), failures });
                }
            }
            let Some((unit, node, result)) = flights.next().await else {
                return Err(RetrieveError::Integrity(format!("segment {number}: fetch stalled")));
            };
            match result {
                Ok(bytes) => {
                    units.insert(unit, bytes);
                    session.arrived(unit);
                }
                Err(error) => {
                    tracing::info!(%node, segment = %number, unit, %error, "unit not fetched");
                    if shuns(&error) {
                        source.shunned.add(node, error.clone());
                    }
                    failures.push((node, error));
                    session.failed(unit);
                }
            }
        }
        drop(flights);
        decode(opener, part, units, code, number).await
    }

    fn unit_job(&self, stored: &StoredSegment, shard: shoal_protocol::ShardId, range: &Range<u64>) -> RetrieveJob {
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        RetrieveJob {
            shard,
            length: narrow(stored.shape().shard_length() as u64),
            ranges: vec![ByteRange { start: narrow(range.start), end: narrow(range.end) }],
            nonce: self.nonce(),
        }
    }

    /// One unit range from one node; a busy node is asked again, a broken connection made again once.
    async fn fetch_unit(&self, node: NodeId, job: RetrieveJob) -> Result<Bytes, TransferError> {
        let mut attempt = 0;
        loop {
            let error = match self.transport.retrieve(node, job.clone()).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            attempt += 1;
            match &error {
                TransferError::Refused { reason: Refusal::Busy | Refusal::TimedOut, retry_after_ms }
                    if attempt < ATTEMPTS =>
                {
                    let wait = u64::from(*retry_after_ms).clamp(BUSY_MS << attempt.min(5), 5_000);
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                TransferError::Lost(_) | TransferError::Unreachable(_) if attempt < 2 => {
                    if self.reconnect(node).await.is_err() {
                        return Err(error);
                    }
                }
                _ => return Err(error),
            }
        }
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

/// Whether the node is of no further use in this run.
const fn shuns(error: &TransferError) -> bool {
    match error {
        TransferError::Refused { reason, .. } => {
            matches!(reason, Refusal::Denied | Refusal::Stopping | Refusal::Unsupported)
        }
        TransferError::Unreachable(_)
        | TransferError::Lost(_)
        | TransferError::TooSlow
        | TransferError::Lied(_)
        | TransferError::Protocol(_) => true,
    }
}

/// Unmasks, rebuilds and opens on a thread for such work.
async fn decode(
    opener: Arc<SegmentOpener>,
    part: Part,
    units: BTreeMap<usize, Bytes>,
    code: Code,
    number: SegmentNumber,
) -> Result<Vec<u8>, RetrieveError> {
    let work = tokio::task::spawn_blocking(move || {
        let direct = part.columns.clone().map(|column| units.iter().find(|(unit, _)| *unit % code.n() == column));
        let direct: Option<Vec<(usize, Vec<u8>)>> =
            direct.map(|found| found.map(|(unit, bytes)| (*unit, bytes.to_vec()))).collect();
        match direct {
            Some(frames) if part.rows.len() == 1 => {
                let mut out = Vec::new();
                for (unit, bytes) in frames {
                    out.extend_from_slice(&opener.open_frame(part.rows.start, unit, bytes)?);
                }
                Ok(out)
            }
            _ => {
                let sources = units.into_iter().map(|(unit, bytes)| (unit, bytes.to_vec())).collect();
                let plain = opener.open_rows(part.rows.clone(), sources)?;
                // Of a single row only some columns may be wanted.
                let frame = opener.stored().shape().frame_plain(part.rows.start);
                if part.rows.len() > 1 {
                    return Ok(plain);
                }
                let end = plain.len().min(part.columns.end * frame);
                Ok(plain.get(part.columns.start * frame..end).unwrap_or_default().to_vec())
            }
        }
    });
    let opened: Result<Vec<u8>, crate::pipeline::OpenError> = work.await.map_err(|_| RetrieveError::Interrupted)?;
    opened.map_err(|error| RetrieveError::Integrity(format!("segment {number}: {error}")))
}
