//! STORE: reservation -> bytes -> durable -> signed receipt. A refusal is answered at once and what still comes is
//! discarded, so that the lane stays in step. Bytes are buffered in a bounded pool; nothing is promised before the sync.

use std::time::Duration;

use bytes::Bytes;
use shoal_protocol::buffer::Buffer;
use shoal_protocol::lane::{DataWord, StoreReply, StoreTrailer, encode_message};
use shoal_protocol::limits::SHARD_MAX;
use shoal_protocol::receipt::{Receipt, RefusalStatement};
use shoal_protocol::{BootEpoch, NodeId, Nonce, Refusal, ReservationId, ShardId, Signed};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;

use super::Context;
use super::context::Place;
use super::stream::{LaneEnd, LaneIo};
use crate::chunks::PutError;
use crate::clock;

/// How long a STORE waits for a buffer before it is told BUSY.
const BUFFER_WAIT: Duration = Duration::from_secs(5);
/// How long a STORE whose bytes are here waits for the disk before it is told BUSY; they may still be kept. Less than the silence after which a
/// client gives up.
const DISK_WAIT: Duration = Duration::from_secs(10);

/// What the header asked for.
pub(super) struct Wanted {
    pub(super) reservation: ReservationId,
    pub(super) boot_epoch: BootEpoch,
    pub(super) nonce: Nonce,
}

/// Serves one STORE.
///
/// # Errors
/// [`LaneEnd`] when the lane cannot go on.
pub(super) async fn store<S: AsyncRead + AsyncWrite + Unpin>(
    context: &Context,
    peer: NodeId,
    io: &mut LaneIo<S>,
    wanted: Wanted,
) -> Result<(), LaneEnd> {
    let nonce = wanted.nonce;
    if let Err(reason) = context.check_place(peer, wanted.reservation, wanted.boot_epoch) {
        return refuse_early(context, io, nonce, reason).await;
    }
    let Ok(Ok(buffer)) = tokio::time::timeout(BUFFER_WAIT, context.buffers().acquire_owned()).await else {
        return refuse_early(context, io, nonce, Refusal::Busy).await;
    };
    // Only now: a STORE that was told BUSY keeps its place.
    let place = match context.take_place(peer, wanted.reservation) {
        Ok(place) => place,
        Err(reason) => return refuse_early(context, io, nonce, reason).await,
    };
    let received = tokio::select! {
        received = receive(io, context.shards().empty(place.length as usize), place.length as usize) => received?,
        () = context.stopped() => {
            reply(context, io, nonce, Err(Refusal::Stopping)).await?;
            return Err(LaneEnd::Stopping);
        }
    };
    let result = match received {
        Received::Whole(payload, trailer) if payload.len() == trailer.length as usize => {
            keep(context, place, trailer.shard, payload, nonce, buffer).await
        }
        Received::Whole(..) => Err(Refusal::Mismatch),
        Received::Aborted => Err(Refusal::Cancelled),
        Received::TooLong => return refuse_early(context, io, nonce, Refusal::Mismatch).await,
    };
    // The disk's time is not the peer's.
    io.begin();
    reply(context, io, nonce, result).await
}

/// What came after the header.
enum Received {
    /// All bytes and the trailer.
    Whole(Bytes, StoreTrailer),
    /// The peer stopped.
    Aborted,
    /// More than was reserved; more may come.
    TooLong,
}

/// Appends what comes to `buffer`, `most` bytes at most.
async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut LaneIo<S>,
    mut buffer: Buffer,
    most: usize,
) -> Result<Received, LaneEnd> {
    loop {
        match io.data_word().await? {
            DataWord::Data(length) if length <= most.saturating_sub(buffer.len()) => {
                io.read_into(&mut *buffer, length).await?;
            }
            DataWord::Data(length) => {
                io.skip(length).await?;
                return Ok(Received::TooLong);
            }
            DataWord::End => return Ok(Received::Whole(Bytes::from_owner(buffer), io.message().await?)),
            DataWord::Abort => {
                io.abort_number().await?;
                return Ok(Received::Aborted);
            }
        }
    }
}

/// Appends, and signs once it is on stable media.
async fn keep(
    context: &Context,
    place: Place,
    shard: ShardId,
    payload: Bytes,
    nonce: Nonce,
    buffer: OwnedSemaphorePermit,
) -> Result<Signed, Refusal> {
    let Place { space, group, expires, claim, .. } = place;
    // At most SHARD_MAX.
    let length = u32::try_from(payload.len()).map_err(|_| Refusal::TooLarge)?;
    let store = context.store().clone();
    // On a task of its own: buffer and claim are taken until the bytes are on disk, also if nobody waits for that any more.
    let kept = tokio::spawn(async move {
        let kept = store.put_shard(space, shard, group, payload).await;
        drop((buffer, claim));
        kept
    });
    let kept = tokio::time::timeout(DISK_WAIT, kept).await.map_err(|_| Refusal::Busy)?;
    kept.map_err(|_| Refusal::Stopping)?.map_err(|error| put_refusal(&error))?;
    let receipt =
        Receipt { shard, length, group, expires, boot_epoch: context.boot_epoch(), nonce, time: clock::wall() };
    Ok(context.sign(&receipt))
}

/// The word for what the store said.
pub(super) fn put_refusal(error: &PutError) -> Refusal {
    match error {
        PutError::Mismatch | PutError::Length(_) | PutError::Reservation { .. } => Refusal::Mismatch,
        PutError::Stale { .. } => Refusal::Conflict,
        PutError::NotFound => Refusal::NotFound,
        PutError::Space(_) | PutError::DiskFull | PutError::IndexFull => Refusal::NoSpace,
        PutError::ReadOnly | PutError::Io(_) => Refusal::ReadOnly,
        PutError::Closed => Refusal::Stopping,
    }
}

/// Answers no, then reads up to the end of what the peer still sends: at most one shard.
async fn refuse_early<S: AsyncRead + AsyncWrite + Unpin>(
    context: &Context,
    io: &mut LaneIo<S>,
    nonce: Nonce,
    reason: Refusal,
) -> Result<(), LaneEnd> {
    reply(context, io, nonce, Err(reason)).await?;
    let drain = async {
        let mut left = SHARD_MAX as usize;
        loop {
            match io.data_word().await? {
                DataWord::Data(length) if length <= left => {
                    io.skip(length).await?;
                    left = left.saturating_sub(length);
                }
                DataWord::Data(_) => return Err(LaneEnd::Protocol("more than a shard after a refusal".into())),
                DataWord::End => return io.message::<StoreTrailer>().await.map(drop),
                DataWord::Abort => return io.abort_number().await.map(drop),
            }
        }
    };
    tokio::select! {
        drained = drain => drained,
        () = context.stopped() => Err(LaneEnd::Stopping),
    }
}

async fn reply<S: AsyncRead + AsyncWrite + Unpin>(
    context: &Context,
    io: &mut LaneIo<S>,
    nonce: Nonce,
    result: Result<Signed, Refusal>,
) -> Result<(), LaneEnd> {
    let reply = match result {
        Ok(receipt) => StoreReply::Kept(receipt),
        Err(reason) => {
            tracing::debug!(%reason, "store refused");
            context.refused(reason);
            let retry_after_ms = if reason == Refusal::Busy { context.retry_after_ms() } else { 0 };
            let boot_epoch = context.boot_epoch();
            let statement = RefusalStatement { reason, retry_after_ms, boot_epoch, nonce, time: clock::wall() };
            StoreReply::Refused(context.sign(&statement))
        }
    };
    io.send(&encode_message(&reply)).await
}
