//! One part of one segment from its holders: asks as [`FetchSession`] says, watches how each transfer gets on, and asks
//! others as well when one stalls. The first `k` that suffice win, the rest is stopped; a node that lies, is gone or
//! breaks the protocol is remembered for the run and not asked again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use shoal_protocol::buffer::Buffer;
use shoal_protocol::layout::Code;
use shoal_protocol::page::SegmentRef;
use shoal_protocol::receipt::ByteRange;
use shoal_protocol::record::PlacementRecord;
use shoal_protocol::{NodeId, Refusal, SegmentNumber};
use tokio::time::Instant;

use super::peers::Peers;
use super::{Client, Fleet, RetrieveError};
use crate::keys::{ReadKey, VerifyKey};
use crate::pipeline::{FileLayout, SegmentOpener, StoredSegment};
use crate::transfer::{Chance, FetchSession, FetchState, TransferError, Watch};
use crate::transport::{Meter, RetrieveJob, ShardTransport};

/// Times a busy node is asked for one unit.
const ATTEMPTS: u32 = 5;
/// First wait after BUSY, milliseconds; doubles.
const BUSY_MS: u64 = 100;
/// How often transfers under way are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What is needed to fetch any segment of one file.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) layout: FileLayout,
    pub(super) verify: VerifyKey,
    pub(super) read: Option<ReadKey>,
    pub(super) placement: Arc<PlacementRecord>,
    pub(super) peers: Arc<Peers>,
}

/// Some columns of some rows of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

/// One transfer under way.
struct Flight {
    node: NodeId,
    meter: Meter,
    /// Since its turn came.
    watch: Option<Watch>,
    /// Whether another holder was asked for its sake.
    given_up: bool,
}

/// The transfers of one part.
struct Flights<'a> {
    peers: &'a Peers,
    begun: Instant,
    units: BTreeMap<usize, Flight>,
}

impl Flights<'_> {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes note of what moved, and tells the session who stalls. Who waits for a turn with a stalled node stalls too.
    fn look(&mut self, session: &mut FetchSession) {
        let now = self.now_ms();
        for (unit, flight) in &mut self.units {
            let Some(bytes) = flight.meter.bytes() else {
                if self.peers.chance(&flight.node) == Chance::Poor {
                    session.stalled(*unit);
                }
                continue;
            };
            let watch = flight.watch.get_or_insert_with(|| Watch::new(now));
            let moved = watch.look(bytes, now);
            let silent = watch.silent_ms(now);
            let stalled = self.peers.history(|history| {
                if moved {
                    history.moved(&flight.node);
                }
                silent >= history.patience_ms(&flight.node)
            });
            if stalled && !std::mem::replace(&mut flight.given_up, true) {
                self.peers.history(|history| history.stalled(flight.node));
                session.stalled(*unit);
            }
        }
    }

    /// A transfer ended; well, if its bytes and duration are given.
    fn ended(&mut self, unit: usize, good: Option<(u64, Duration)>) {
        let now = self.now_ms();
        let Some(flight) = self.units.remove(&unit) else { return };
        let longest = flight.watch.map(|watch| watch.longest_ms(now));
        self.peers.history(|history| match good {
            Some((bytes, took)) => {
                let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                history.finished(flight.node, bytes, took, longest.unwrap_or(took_ms).min(took_ms));
            }
            None => history.failed(flight.node),
        });
    }
}

impl<T: ShardTransport> Client<T> {
    /// Plaintext of the frames of one part, back to back.
    pub(super) async fn fetch_part(
        &self,
        source: &Source,
        fleet: &Fleet,
        number: SegmentNumber,
        segment: &SegmentRef,
        opener: Arc<SegmentOpener>,
        part: Part,
    ) -> Result<Buffer, RetrieveError> {
        let code = source.layout.code();
        let holder = |unit| source.placement.holder(number, unit).map(|holder| holder.node);
        let holders: Vec<Option<NodeId>> =
            (0..segment.shards.len()).map(|unit| holder(unit).filter(|node| fleet.get(node).is_some())).collect();
        let chance = |node: &Option<NodeId>| node.as_ref().map_or(Chance::None, |node| source.peers.chance(node));
        let chances: Vec<Chance> = holders.iter().map(chance).collect();
        let mut session = FetchSession::new(code, part.columns.clone(), &chances);
        let range = opener.stored().shard_range(&part.rows);
        let range = range.ok_or_else(|| RetrieveError::Integrity(format!("segment {number} has no such rows")))?;
        let mut units: BTreeMap<usize, Buffer> = BTreeMap::new();
        let mut failures: Vec<(NodeId, TransferError)> = Vec::new();
        let mut watched = Flights { peers: &source.peers, begun: Instant::now(), units: BTreeMap::new() };
        let mut flights = FuturesUnordered::new();
        loop {
            while let Some(unit) = session.poll() {
                let (Some(Some(node)), Some(shard)) = (holders.get(unit).copied(), segment.shards.get(unit)) else {
                    session.failed(unit);
                    continue;
                };
                let job = self.unit_job(opener.stored(), shard, &range);
                watched.units.insert(unit, Flight { node, meter: job.meter.clone(), watch: None, given_up: false });
                flights.push(async move { (unit, node, self.fetch_unit(&source.peers, node, job).await) });
            }
            match session.state() {
                FetchState::Pending => {}
                FetchState::Direct | FetchState::Rebuild => break,
                FetchState::Failed { have } => {
                    failures.extend(source.peers.shunned());
                    let segment = number.to_string();
                    return Err(RetrieveError::TooFewShards { segment, have, need: code.k(), failures });
                }
            }
            let ended = tokio::select! {
                ended = flights.next() => ended,
                () = tokio::time::sleep(LOOK) => {
                    watched.look(&mut session);
                    continue;
                }
            };
            let Some((unit, node, result)) = ended else {
                return Err(RetrieveError::Integrity(format!("segment {number}: fetch stalled")));
            };
            watched.ended(unit, result.as_ref().ok().map(|(bytes, took)| (bytes.len() as u64, *took)));
            match result {
                Ok((bytes, _)) => {
                    units.insert(unit, bytes);
                    session.arrived(unit);
                }
                Err(error) => {
                    tracing::info!(%node, segment = %number, unit, %error, "unit not fetched");
                    if shuns(&error) {
                        source.peers.shun(node, error.clone());
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
            meter: Meter::default(),
        }
    }

    /// One unit range from one node, and what it took once its turn came; a busy node is asked again, a broken connection
    /// made again once.
    async fn fetch_unit(
        &self,
        peers: &Arc<Peers>,
        node: NodeId,
        job: RetrieveJob,
    ) -> Result<(Buffer, Duration), TransferError> {
        let _turn = peers.turn(node).await;
        job.meter.begin();
        let begun = Instant::now();
        let mut attempt = 0;
        loop {
            let error = match self.transport.retrieve(node, job.clone()).await {
                Ok(bytes) => return Ok((bytes, begun.elapsed())),
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
    mut units: BTreeMap<usize, Buffer>,
    code: Code,
    number: SegmentNumber,
) -> Result<Buffer, RetrieveError> {
    let work = tokio::task::spawn_blocking(move || {
        let direct = part.columns.clone().map(|column| units.keys().copied().find(|unit| *unit % code.n() == column));
        let direct: Option<Vec<usize>> = direct.collect();
        match direct {
            Some(wanted) if part.rows.len() == 1 => {
                let mut out = Vec::new();
                for unit in wanted {
                    let bytes = units.remove(&unit).map(|mut bytes| std::mem::take(&mut *bytes)).unwrap_or_default();
                    out.extend_from_slice(&opener.open_frame(part.rows.start, unit, bytes)?);
                }
                Ok(out.into())
            }
            _ => {
                let plain = opener.open_rows(part.rows.clone(), units.into_iter().collect())?;
                // Of a single row only some columns may be wanted.
                let frame = opener.stored().shape().frame_plain(part.rows.start);
                if part.rows.len() > 1 {
                    return Ok(plain);
                }
                let end = plain.len().min(part.columns.end * frame);
                Ok(plain.get(part.columns.start * frame..end).unwrap_or_default().to_vec().into())
            }
        }
    });
    let opened: Result<Buffer, crate::pipeline::OpenError> = work.await.map_err(|_| RetrieveError::Interrupted)?;
    opened.map_err(|error| RetrieveError::Integrity(format!("segment {number}: {error}")))
}
