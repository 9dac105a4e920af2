//! The client's half of a transfer on one shard lane, over any stream: STORE and RETRIEVE as `protocol::lane` frames
//! them. It keeps the lane in step: after `Ok`, or an error that says so, the next header may follow.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use shoal_protocol::codec::{self, Message};
use shoal_protocol::lane::{
    DataWord, DeliveryReply, Header, RetrieveTrailer, StoreReply, StoreTrailer, encode_abort, encode_end,
    encode_message, message_length,
};
use shoal_protocol::limits::{LANE_FRAME_MAX, LANE_MESSAGE_MAX};
use shoal_protocol::receipt::{DeliveryReceipt, RefusalStatement, ServeStatement};
use shoal_protocol::{NetworkId, NodeId, Refusal, Signed, UnixMillis};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::pipeline::SliceVerifier;
use crate::transfer::{Pace, TransferError, append_wanted};
use crate::transport::{RetrieveJob, StoreJob};

/// Who talks to whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parties<'a> {
    /// The swarm both are in.
    pub network: &'a NetworkId,
    /// The other side.
    pub node: NodeId,
    /// Signs delivery receipts.
    pub identity: &'a SigningKey,
    /// The clock of signed statements.
    pub now: UnixMillis,
}

/// How an exchange ended, and whether the lane may be used again.
#[derive(Debug)]
pub(super) struct Ended<T> {
    /// The result.
    pub result: Result<T, TransferError>,
    /// Whether both sides are between transfers.
    pub reusable: bool,
}

impl<T> Ended<T> {
    const fn clean(result: Result<T, TransferError>) -> Self {
        Self { result, reusable: true }
    }

    const fn broken(error: TransferError) -> Self {
        Self { result: Err(error), reusable: false }
    }
}

/// Tracks progress against [`Pace`] with the runtime's clock.
struct Watchdog {
    begun: Instant,
    pace: Pace,
}

impl Watchdog {
    fn new() -> Self {
        Self { begun: Instant::now(), pace: Pace::new(0) }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Runs one read or write under the deadline and counts its bytes.
    async fn run<T>(
        &mut self,
        bytes: usize,
        step: impl Future<Output = std::io::Result<T>>,
    ) -> Result<T, TransferError> {
        let deadline = self.begun + Duration::from_millis(self.pace.deadline());
        match tokio::time::timeout_at(deadline, step).await {
            Err(_) => Err(TransferError::TooSlow),
            Ok(Err(error)) => Err(lane_error(&error)),
            Ok(Ok(value)) => {
                let now = self.elapsed_ms();
                self.pace.progress(bytes as u64, now);
                Ok(value)
            }
        }
    }
}

/// A lane that answers BUSY to being opened says so in its first read.
fn lane_error(error: &std::io::Error) -> TransferError {
    match shoal_swarm::LaneError::of(error) {
        Some(shoal_swarm::LaneError::RemoteBusy) => TransferError::refused(Refusal::Busy),
        Some(_) | None => TransferError::Lost(error.to_string()),
    }
}

async fn read_message<T: Message>(
    reader: &mut (impl AsyncRead + Unpin),
    watchdog: &mut Watchdog,
) -> Result<T, TransferError> {
    let mut word = [0; 4];
    watchdog.run(4, reader.read_exact(&mut word)).await?;
    let length = message_length(word).map_err(|fault| TransferError::Protocol(fault.to_string()))?;
    let mut bytes = vec![0; length];
    watchdog.run(length, reader.read_exact(&mut bytes)).await?;
    codec::decode(&bytes, LANE_MESSAGE_MAX).map_err(|error| TransferError::Protocol(error.to_string()))
}

/// Sends one shard and returns the node's signed receipt, unchecked.
pub(super) async fn store<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    job: &StoreJob,
    parties: Parties<'_>,
) -> Ended<Signed> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (stop, stopped) = watch::channel(false);
    let sending = send_shard(&mut writer, job, stopped);
    let answering = async {
        let mut watchdog = Watchdog::new();
        let reply = loop {
            // Silence is measured by the sender while it sends; afterwards by this reader.
            match read_message::<StoreReply>(&mut reader, &mut watchdog).await {
                Err(TransferError::TooSlow) if !stop.is_closed() => watchdog = Watchdog::new(),
                other => break other,
            }
        };
        let _ = stop.send(true);
        reply
    };
    match futures::future::try_join(sending, answering).await {
        Ok(((), StoreReply::Kept(receipt))) => Ended::clean(Ok(receipt)),
        Ok(((), StoreReply::Refused(statement))) => match refusal_of(&statement, job, parties) {
            Ok(refused) => Ended::clean(Err(refused)),
            Err(error) => Ended::broken(error),
        },
        Err(error) => Ended::broken(error),
    }
}

fn refusal_of(statement: &Signed, job: &StoreJob, parties: Parties<'_>) -> Result<TransferError, TransferError> {
    let said = statement
        .verify_by::<RefusalStatement>(&parties.node.into(), parties.network)
        .map_err(|error| TransferError::Protocol(format!("refusal: {error}")))?;
    if said.nonce != job.nonce {
        return Err(TransferError::Protocol("refusal of another request".into()));
    }
    Ok(TransferError::Refused { reason: said.reason, retry_after_ms: said.retry_after_ms })
}

/// Writes header, data and trailer; or, once the node has answered early, an abort between two frames.
async fn send_shard(
    writer: &mut (impl AsyncWrite + Unpin),
    job: &StoreJob,
    stopped: watch::Receiver<bool>,
) -> Result<(), TransferError> {
    let mut watchdog = Watchdog::new();
    let StoreJob { reservation, boot_epoch, nonce, .. } = *job;
    let header = encode_message(&Header::Store { reservation, boot_epoch, nonce });
    watchdog.run(header.len(), writer.write_all(&header)).await?;
    let mut frame = Vec::with_capacity(4 + LANE_FRAME_MAX);
    for piece in job.bytes.chunks(LANE_FRAME_MAX) {
        if *stopped.borrow() {
            let abort = encode_abort(Refusal::Cancelled);
            watchdog.run(abort.len(), writer.write_all(&abort)).await?;
            return watchdog.run(0, writer.flush()).await;
        }
        frame.clear();
        // A piece is at most LANE_FRAME_MAX.
        frame.extend_from_slice(&u32::try_from(piece.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.extend_from_slice(piece);
        watchdog.run(frame.len(), writer.write_all(&frame)).await?;
    }
    let length = u32::try_from(job.bytes.len()).map_err(|_| TransferError::refused(Refusal::TooLarge))?;
    let end = encode_end(&StoreTrailer { shard: job.shard, length });
    watchdog.run(end.len(), writer.write_all(&end)).await?;
    watchdog.run(0, writer.flush()).await
}

/// Fetches ranges of one shard, verified as they arrive.
pub(super) async fn retrieve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    job: &RetrieveJob,
    parties: Parties<'_>,
) -> Ended<Bytes> {
    let mut watchdog = Watchdog::new();
    let header = encode_message(&Header::Retrieve { shard: job.shard, ranges: job.ranges.clone(), nonce: job.nonce });
    let sent = async {
        watchdog.run(header.len(), stream.write_all(&header)).await?;
        watchdog.run(0, stream.flush()).await
    };
    if let Err(error) = sent.await {
        return Ended::broken(error);
    }
    let received = receive(stream, job, &mut watchdog).await;
    let (last_word, result, reusable) = match received {
        Ok(Received::Whole { bytes, trailer }) => match check_served(&trailer, job, parties) {
            Ok(()) => (delivered(job, parties), Ok(bytes), true),
            Err(error) => return Ended::broken(error),
        },
        Ok(Received::Aborted(reason)) => {
            (encode_abort(Refusal::Cancelled).to_vec(), Err(TransferError::refused(reason)), true)
        }
        Err(error) => return Ended::broken(error),
    };
    let closing = async {
        watchdog.run(last_word.len(), stream.write_all(&last_word)).await?;
        watchdog.run(0, stream.flush()).await
    };
    let reusable = closing.await.is_ok() && reusable;
    Ended { result, reusable }
}

enum Received {
    Whole { bytes: Bytes, trailer: RetrieveTrailer },
    Aborted(Refusal),
}

async fn receive(
    reader: &mut (impl AsyncRead + Unpin),
    job: &RetrieveJob,
    watchdog: &mut Watchdog,
) -> Result<Received, TransferError> {
    let ranges: Vec<Range<u64>> = job.ranges.iter().map(|range| u64::from(range.start)..u64::from(range.end)).collect();
    let mut verifier = SliceVerifier::new(job.shard, u64::from(job.length), &ranges)
        .map_err(|error| TransferError::Protocol(error.to_string()))?;
    let mut bytes = Vec::with_capacity(job.ranges.iter().map(|range| (range.end - range.start) as usize).sum());
    loop {
        let mut word = [0; 4];
        watchdog.run(4, reader.read_exact(&mut word)).await?;
        match DataWord::parse(word).map_err(|fault| TransferError::Protocol(fault.to_string()))? {
            DataWord::Data(length) => {
                let mut frame = vec![0; length];
                watchdog.run(length, reader.read_exact(&mut frame)).await?;
                let mut frame = Bytes::from(frame);
                while let Some(piece) =
                    verifier.push(&mut frame).map_err(|error| TransferError::Lied(error.to_string()))?
                {
                    append_wanted(&piece, &ranges, &mut bytes);
                }
            }
            DataWord::End => {
                let trailer = read_message(reader, watchdog).await?;
                verifier.finish().map_err(|error| TransferError::Lied(error.to_string()))?;
                return Ok(Received::Whole { bytes: bytes.into(), trailer });
            }
            DataWord::Abort => {
                let mut reason = [0; 2];
                watchdog.run(2, reader.read_exact(&mut reason)).await?;
                return Ok(Received::Aborted(Refusal::from_number(u16::from_be_bytes(reason))));
            }
        }
    }
}

fn check_served(trailer: &RetrieveTrailer, job: &RetrieveJob, parties: Parties<'_>) -> Result<(), TransferError> {
    let said = trailer
        .statement
        .verify_by::<ServeStatement>(&parties.node.into(), parties.network)
        .map_err(|error| TransferError::Lied(format!("serve statement: {error}")))?;
    if said.shard != job.shard || said.ranges != job.ranges || said.nonce != job.nonce {
        return Err(TransferError::Lied("serve statement is about another request".into()));
    }
    Ok(())
}

fn delivered(job: &RetrieveJob, parties: Parties<'_>) -> Vec<u8> {
    let receipt = DeliveryReceipt {
        shard: job.shard,
        ranges: job.ranges.clone(),
        node: parties.node,
        nonce: job.nonce,
        time: parties.now,
    };
    encode_message(&DeliveryReply { receipt: Signed::seal(&receipt, parties.identity, parties.network) })
}
