//! RETRIEVE: verified ranges from the store to the lane, then a signed statement of what was served. Bytes are read
//! and verified on a thread for such work and cross a bounded channel; a reader that stops stops the disk.

use std::ops::{ControlFlow, Range};
use std::time::Duration;

use shoal_protocol::lane::{ABORT, DeliveryReply, RetrieveTrailer, encode_abort, encode_end};
use shoal_protocol::receipt::{ByteRange, ServeStatement};
use shoal_protocol::{Nonce, Refusal, ShardId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{AcquireError, mpsc};

use super::Context;
use super::stream::{LaneEnd, LaneIo};
use crate::chunks::ReadError;
use crate::clock;
use crate::membership::Peer;

/// Frames between disk and lane: 4 x 64 KiB.
const FRAMES: usize = 4;
/// How long a RETRIEVE waits for a reading thread before it is told BUSY.
const READER_WAIT: Duration = Duration::from_secs(5);

/// What the header asked for.
pub(super) struct Wanted {
    pub(super) shard: ShardId,
    pub(super) ranges: Vec<ByteRange>,
    pub(super) nonce: Nonce,
}

/// Serves one RETRIEVE.
///
/// # Errors
/// [`LaneEnd`] when the lane cannot go on.
pub(super) async fn retrieve<S: AsyncRead + AsyncWrite + Unpin>(
    context: &Context,
    peer: Peer,
    io: &mut LaneIo<S>,
    wanted: Wanted,
) -> Result<(), LaneEnd> {
    match serve(context, peer, io, &wanted).await? {
        Ok(sent) => {
            let statement = ServeStatement {
                shard: wanted.shard,
                ranges: wanted.ranges,
                sent,
                requester: peer.node,
                boot_epoch: context.boot_epoch(),
                nonce: wanted.nonce,
                time: clock::wall(),
            };
            io.send(&encode_end(&RetrieveTrailer { statement: context.sign(&statement) })).await?;
        }
        Err(reason) => {
            tracing::debug!(peer = %peer.node, %reason, "retrieve refused");
            context.refused(reason);
            io.send(&encode_abort(reason)).await?;
            if reason == Refusal::Stopping {
                return Err(LaneEnd::Stopping);
            }
        }
    }
    last_word(io).await
}

/// The requester's delivery receipt or abort.
async fn last_word<S: AsyncRead + AsyncWrite + Unpin>(io: &mut LaneIo<S>) -> Result<(), LaneEnd> {
    io.begin();
    let word = io.word().await?;
    if word == ABORT.to_be_bytes() {
        return io.abort_number().await.map(drop);
    }
    // What was delivered is for billing to count; until then it is read and let go.
    io.message_after::<DeliveryReply>(word).await.map(drop)
}

/// Sends the encoded ranges; how many bytes, or why it stopped.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    context: &Context,
    peer: Peer,
    io: &mut LaneIo<S>,
    wanted: &Wanted,
) -> Result<Result<u64, Refusal>, LaneEnd> {
    let bytes: u64 = wanted.ranges.iter().map(|range| u64::from(range.end - range.start)).sum();
    if let Err(reason) = context.admit_retrieve(peer, bytes) {
        return Ok(Err(reason));
    }
    let strangers = context.stranger_readers(&peer.node);
    let reader = async {
        let share = match strangers {
            Some(share) => Some(share.acquire_owned().await?),
            None => None,
        };
        Ok::<_, AcquireError>((share, context.readers().acquire_owned().await?))
    };
    let Ok(Ok(permit)) = tokio::time::timeout(READER_WAIT, reader).await else {
        return Ok(Err(Refusal::Busy));
    };
    let ranges: Vec<Range<u64>> =
        wanted.ranges.iter().map(|range| u64::from(range.start)..u64::from(range.end)).collect();
    let (pieces, mut ready) = mpsc::channel::<Vec<u8>>(FRAMES);
    let (store, shard) = (context.store().clone(), wanted.shard);
    let reading = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut sink = |piece: Vec<u8>| match pieces.blocking_send(piece) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        store.read_encoded(&shard, &ranges, &mut sink)
    });
    let mut sent = 0u64;
    while let Some(piece) = ready.recv().await {
        // The reader stops when `ready` is dropped.
        if context.is_stopping() {
            return Ok(Err(Refusal::Stopping));
        }
        if io.is_interrupted()? {
            return Ok(Err(Refusal::Cancelled));
        }
        // The store hands out pieces no longer than LANE_FRAME_MAX.
        io.write(&u32::try_from(piece.len()).unwrap_or(u32::MAX).to_be_bytes()).await?;
        io.write(&piece).await?;
        sent = sent.saturating_add(piece.len() as u64);
    }
    let outcome = reading.await.map_err(|_| LaneEnd::Protocol("the reader panicked".into()))?;
    Ok(outcome.map(|_| sent).map_err(|error| read_refusal(&error)))
}

/// The word for what the store said.
pub(super) fn read_refusal(error: &ReadError) -> Refusal {
    match error {
        ReadError::NotFound => Refusal::NotFound,
        ReadError::Range { .. } | ReadError::Ranges(_) => Refusal::Malformed,
        ReadError::Rot | ReadError::Io(_) => Refusal::Damaged,
    }
}
