//! The client's half of a transfer on one shard lane, over any stream: STORE and RETRIEVE as `protocol::lane` frames
//! them. It keeps the lane in step: after `Ok`, or an error that says so, the next header may follow.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use ed25519_dalek::SigningKey;
use shoal_protocol::buffer::Buffer;
use shoal_protocol::codec::{self, Message};
use shoal_protocol::lane::{
    DataWord, DeliveryReply, Header, RetrieveTrailer, StoreReply, StoreTrailer, encode_abort, encode_end,
    encode_message, message_length,
};
use shoal_protocol::limits::{LANE_FRAME_MAX, LANE_MESSAGE_MAX, SHARD_MAX, TRANSFER_SILENCE_MS};
use shoal_protocol::receipt::{DeliveryReceipt, RefusalStatement, ServeStatement};
use shoal_protocol::signed::ensure_fresh;
use shoal_protocol::{NetworkId, NodeId, Refusal, Signed, UnixMillis};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::pipeline::SliceVerifier;
use crate::transfer::{Pace, TransferError, append_wanted};
use crate::transport::{Meter, RetrieveJob, StoreJob};

/// Ends when the caller gives up: its sender is dropped, and never used.
pub(super) type Cancelled = oneshot::Receiver<Infallible>;

/// How often the silence before an answer is looked at.
const ANSWER_LOOK: Duration = Duration::from_millis(500);
/// Times the duration of the sending that an answer may take beyond the silence allowed. What is queued in this machine
/// when the last byte was handed over is less than a shard, and leaves at the pace of what went before.
const QUEUED_FACTOR: u32 = 4;
/// Bytes of a transfer given up that are still read: what may be on its way when the node hears of it, at most a shard.
const UNREAD_MAX: usize = SHARD_MAX as usize * 2;

/// Who talks to whom.
#[derive(Clone, Copy)]
pub(super) struct Parties<'a> {
    /// The swarm both are in.
    pub network: &'a NetworkId,
    /// The other side.
    pub node: NodeId,
    /// Signs delivery receipts.
    pub identity: &'a SigningKey,
    /// The clock of signed statements, read when one is made or judged: a transfer may take longer than one is fresh.
    pub clock: &'a (dyn Fn() -> UnixMillis + Send + Sync),
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
        Self::with_silence(TRANSFER_SILENCE_MS)
    }

    fn with_silence(silence_ms: u64) -> Self {
        Self { begun: Instant::now(), pace: Pace::with_silence(0, silence_ms) }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Runs one read under the deadline and counts the bytes it says.
    async fn read(&mut self, step: impl Future<Output = std::io::Result<usize>>) -> Result<usize, TransferError> {
        let count = self.run(0, step).await?;
        let now = self.elapsed_ms();
        self.pace.progress(count as u64, now);
        Ok(count)
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

/// Fills a buffer of `length` bytes, counting them as they come.
async fn read_frame(
    reader: &mut (impl AsyncRead + Unpin),
    length: usize,
    watchdog: &mut Watchdog,
    meter: &Meter,
) -> Result<Bytes, TransferError> {
    let mut frame = BytesMut::with_capacity(length);
    while frame.len() < length {
        let missing = length - frame.len();
        let mut space = (&mut frame).limit(missing);
        let count = watchdog.read(reader.read_buf(&mut space)).await?;
        if count == 0 {
            return Err(TransferError::Lost("the lane was closed within a frame".into()));
        }
        meter.add(count as u64);
    }
    Ok(frame.freeze())
}

async fn read_message<T: Message>(
    reader: &mut (impl AsyncRead + Unpin),
    watchdog: &mut Watchdog,
) -> Result<T, TransferError> {
    let mut word = [0; 4];
    watchdog.run(4, reader.read_exact(&mut word)).await?;
    message_after(word, reader, watchdog).await
}

async fn message_after<T: Message>(
    word: [u8; 4],
    reader: &mut (impl AsyncRead + Unpin),
    watchdog: &mut Watchdog,
) -> Result<T, TransferError> {
    let length = message_length(word).map_err(|fault| TransferError::Protocol(fault.to_string()))?;
    let mut bytes = vec![0; length];
    watchdog.run(length, reader.read_exact(&mut bytes)).await?;
    codec::decode(&bytes, LANE_MESSAGE_MAX).map_err(|error| TransferError::Protocol(error.to_string()))
}

/// Sends one shard and returns the node's signed receipt, unchecked. Once `cancelled` ends, it is broken off.
pub(super) async fn store<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    job: &StoreJob,
    parties: Parties<'_>,
    cancelled: Cancelled,
) -> Ended<Signed> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (stop, stopped) = watch::channel(false);
    let (sent, all_sent) = watch::channel(None);
    let sending = async {
        let begun = Instant::now();
        send_shard(&mut writer, job, stopped).await?;
        let _ = sent.send(Some(begun.elapsed()));
        Ok(())
    };
    let answering = async {
        let reply = read_reply(&mut reader, job.silence_ms, all_sent).await;
        let _ = stop.send(true);
        reply
    };
    let exchange = futures::future::try_join(sending, answering);
    let cancelling = async {
        let _ = cancelled.await;
        let _ = stop.send(true);
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = exchange => ended,
        never = cancelling => never,
    };
    match ended {
        Ok(((), StoreReply::Kept(receipt))) => Ended::clean(Ok(receipt)),
        Ok(((), StoreReply::Refused(statement))) => match refusal_of(&statement, job, parties) {
            Ok(refused) => Ended::clean(Err(refused)),
            Err(error) => Ended::broken(error),
        },
        Err(error) => Ended::broken(error),
    }
}

/// The node's answer. While bytes are being sent the sender watches the silence. Afterwards much of them may still be
/// queued in this machine, so the answer may take as long as the silence allowed and some times what the sending took.
async fn read_reply(
    reader: &mut (impl AsyncRead + Unpin),
    silence_ms: u64,
    all_sent: watch::Receiver<Option<Duration>>,
) -> Result<StoreReply, TransferError> {
    let mut word = [0; 4];
    let mut filled = 0;
    let silence = Duration::from_millis(silence_ms);
    let mut since_sent: Option<Instant> = None;
    // The first byte is what takes long; what has begun is read like any other message.
    while filled == 0 {
        let step = reader.read(&mut word);
        match tokio::time::timeout(ANSWER_LOOK, step).await {
            Ok(Ok(0)) => return Err(TransferError::Lost("the lane was closed before the answer".into())),
            Ok(Ok(count)) => filled = count,
            Ok(Err(error)) => return Err(lane_error(&error)),
            Err(_) => {
                let Some(sending) = *all_sent.borrow() else { continue };
                let begun = since_sent.get_or_insert_with(Instant::now);
                if begun.elapsed() >= silence.saturating_add(sending.saturating_mul(QUEUED_FACTOR)) {
                    return Err(TransferError::TooSlow);
                }
            }
        }
    }
    let mut watchdog = Watchdog::new();
    watchdog.run(4, reader.read_exact(word.get_mut(filled..).unwrap_or_default())).await?;
    message_after(word, reader, &mut watchdog).await
}

fn refusal_of(statement: &Signed, job: &StoreJob, parties: Parties<'_>) -> Result<TransferError, TransferError> {
    let said = statement
        .verify_by::<RefusalStatement>(&parties.node.into(), parties.network)
        .map_err(|error| TransferError::Protocol(format!("refusal: {error}")))?;
    if said.nonce != job.nonce {
        return Err(TransferError::Protocol("refusal of another request".into()));
    }
    ensure_fresh(said.time, (parties.clock)()).map_err(|error| TransferError::Protocol(format!("refusal: {error}")))?;
    Ok(TransferError::Refused { reason: said.reason, retry_after_ms: said.retry_after_ms })
}

/// Writes header, data and trailer; or, once the node has answered early, an abort between two frames.
async fn send_shard(
    writer: &mut (impl AsyncWrite + Unpin),
    job: &StoreJob,
    stopped: watch::Receiver<bool>,
) -> Result<(), TransferError> {
    let mut watchdog = Watchdog::with_silence(job.silence_ms);
    let StoreJob { reservation, boot_epoch, nonce, .. } = *job;
    let header = encode_message(&Header::Store { reservation, boot_epoch, nonce });
    watchdog.run(header.len(), writer.write_all(&header)).await?;
    for piece in job.bytes.chunks(LANE_FRAME_MAX) {
        if *stopped.borrow() {
            return say(writer, &encode_abort(Refusal::Cancelled), &mut watchdog).await;
        }
        // A piece is at most LANE_FRAME_MAX.
        let word = u32::try_from(piece.len()).unwrap_or(u32::MAX).to_be_bytes();
        watchdog.run(word.len(), writer.write_all(&word)).await?;
        watchdog.run(piece.len(), writer.write_all(piece)).await?;
    }
    let length = u32::try_from(job.bytes.len()).map_err(|_| TransferError::refused(Refusal::TooLarge))?;
    say(writer, &encode_end(&StoreTrailer { shard: job.shard, length }), &mut watchdog).await
}

/// Whether the caller gave up, and whether the node was told.
#[derive(Default)]
struct GivenUp {
    noticed: AtomicBool,
    told: AtomicBool,
}

/// Fetches ranges of one shard into `space`, verified as they arrive. Once `cancelled` ends, the node is told to stop, and what it
/// still sends is read and let go.
pub(super) async fn retrieve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    job: &RetrieveJob,
    parties: Parties<'_>,
    space: Buffer,
    cancelled: Cancelled,
) -> Ended<Buffer> {
    let mut watchdog = Watchdog::new();
    let header = encode_message(&Header::Retrieve { shard: job.shard, ranges: job.ranges.clone(), nonce: job.nonce });
    if let Err(error) = say(stream, &header, &mut watchdog).await {
        return Ended::broken(error);
    }
    let (mut reader, mut writer) = tokio::io::split(&mut *stream);
    let given_up = GivenUp::default();
    let telling = async {
        let _ = cancelled.await;
        given_up.noticed.store(true, Ordering::Relaxed);
        if say(&mut writer, &encode_abort(Refusal::Cancelled), &mut Watchdog::new()).await.is_ok() {
            given_up.told.store(true, Ordering::Relaxed);
        }
        std::future::pending().await
    };
    let received = tokio::select! {
        received = receive(&mut reader, job, space, &mut watchdog, &given_up.noticed) => received,
        never = telling => never,
    };
    drop((reader, writer));
    if given_up.noticed.load(Ordering::Relaxed) {
        // The abort was the last word. Half a word would leave the lane out of step.
        let reusable = received.is_ok() && given_up.told.load(Ordering::Relaxed);
        return Ended { result: Err(TransferError::refused(Refusal::Cancelled)), reusable };
    }
    let (last_word, result) = match received {
        Ok(Received::Whole { bytes, sent, trailer }) => match check_served(&trailer, sent, job, parties) {
            Ok(said) => (last_word(&said, job, parties), Ok(bytes)),
            Err(error) => return Ended::broken(error),
        },
        Ok(Received::Aborted(reason)) => {
            (encode_abort(Refusal::Cancelled).to_vec(), Err(TransferError::refused(reason)))
        }
        Err(error) => return Ended::broken(error),
    };
    let reusable = say(stream, &last_word, &mut watchdog).await.is_ok();
    Ended { result, reusable }
}

/// Writes `bytes` and flushes.
async fn say(
    writer: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    watchdog: &mut Watchdog,
) -> Result<(), TransferError> {
    watchdog.run(bytes.len(), writer.write_all(bytes)).await?;
    watchdog.run(0, writer.flush()).await
}

enum Received {
    /// The wanted bytes, how many came to prove them, and what the node says of it.
    Whole {
        bytes: Buffer,
        sent: u64,
        trailer: RetrieveTrailer,
    },
    Aborted(Refusal),
}

/// Reads up to the trailer or abort of the node; once `given_up`, without looking at the bytes.
async fn receive(
    reader: &mut (impl AsyncRead + Unpin),
    job: &RetrieveJob,
    mut bytes: Buffer,
    watchdog: &mut Watchdog,
    given_up: &AtomicBool,
) -> Result<Received, TransferError> {
    let ranges: Vec<Range<u64>> = job.ranges.iter().map(|range| u64::from(range.start)..u64::from(range.end)).collect();
    let mut verifier = SliceVerifier::new(job.shard, u64::from(job.length), &ranges)
        .map_err(|error| TransferError::Protocol(error.to_string()))?;
    let (mut unread, mut sent) = (UNREAD_MAX, 0u64);
    loop {
        let mut word = [0; 4];
        watchdog.run(4, reader.read_exact(&mut word)).await?;
        match DataWord::parse(word).map_err(|fault| TransferError::Protocol(fault.to_string()))? {
            DataWord::Data(length) => {
                let mut frame = read_frame(reader, length, watchdog, &job.meter).await?;
                sent = sent.saturating_add(length as u64);
                if given_up.load(Ordering::Relaxed) {
                    unread = unread.checked_sub(length).ok_or(TransferError::TooSlow)?;
                    continue;
                }
                while let Some(piece) =
                    verifier.push(&mut frame).map_err(|error| TransferError::Lied(error.to_string()))?
                {
                    append_wanted(&piece, &ranges, &mut bytes);
                }
            }
            DataWord::End => {
                let trailer = read_message(reader, watchdog).await?;
                if !given_up.load(Ordering::Relaxed) {
                    verifier.finish().map_err(|error| TransferError::Lied(error.to_string()))?;
                }
                return Ok(Received::Whole { bytes, sent, trailer });
            }
            DataWord::Abort => {
                let mut reason = [0; 2];
                watchdog.run(2, reader.read_exact(&mut reason)).await?;
                return Ok(Received::Aborted(Refusal::from_number(u16::from_be_bytes(reason))));
            }
        }
    }
}

/// Whether the node's statement is about what it sent, to whom, for this request.
fn check_served(
    trailer: &RetrieveTrailer,
    sent: u64,
    job: &RetrieveJob,
    parties: Parties<'_>,
) -> Result<ServeStatement, TransferError> {
    let said = trailer
        .statement
        .verify_by::<ServeStatement>(&parties.node.into(), parties.network)
        .map_err(|error| TransferError::Lied(format!("serve statement: {error}")))?;
    if said.shard != job.shard || said.ranges != job.ranges || said.nonce != job.nonce {
        return Err(TransferError::Lied("serve statement is about another request".into()));
    }
    if said.requester.as_bytes() != &parties.identity.verifying_key().to_bytes() {
        return Err(TransferError::Lied("serve statement is to another requester".into()));
    }
    if said.sent != sent {
        return Err(TransferError::Lied(format!("serve statement is about {} bytes, {sent} came", said.sent)));
    }
    Ok(said.into_inner())
}

/// A receipt for what a statement says, if it is of now. Otherwise none: clocks differ, and the bytes, which were
/// verified by themselves, are kept all the same.
fn last_word(said: &ServeStatement, job: &RetrieveJob, parties: Parties<'_>) -> Vec<u8> {
    if ensure_fresh(said.time, (parties.clock)()).is_ok() {
        delivered(job, parties)
    } else {
        encode_abort(Refusal::Stale).to_vec()
    }
}

fn delivered(job: &RetrieveJob, parties: Parties<'_>) -> Vec<u8> {
    let receipt = DeliveryReceipt {
        shard: job.shard,
        ranges: job.ranges.clone(),
        node: parties.node,
        nonce: job.nonce,
        time: (parties.clock)(),
    };
    encode_message(&DeliveryReply { receipt: Signed::seal(&receipt, parties.identity, parties.network) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::verify::encode_ranges;
    use shoal_protocol::receipt::ByteRange;
    use shoal_protocol::{BootEpoch, Nonce, ReservationId, ShardId};
    use tokio::io::DuplexStream;

    const NODE: [u8; 32] = [5; 32];
    const NOW: UnixMillis = UnixMillis(1_780_000_000_000);

    fn network() -> NetworkId {
        NetworkId::from_bytes([7; 32])
    }

    fn node() -> NodeId {
        NodeId::from_bytes(SigningKey::from_bytes(&NODE).verifying_key().to_bytes())
    }

    fn retrieve_job(shard: &[u8]) -> RetrieveJob {
        let length = u32::try_from(shard.len()).unwrap();
        let ranges = vec![ByteRange { start: 0, end: length }];
        let nonce = Nonce::from_bytes([1; 16]);
        RetrieveJob { shard: ShardId::of(shard), length, ranges, nonce, meter: Meter::default() }
    }

    async fn header(lane: &mut DuplexStream) -> Header {
        read_message(lane, &mut Watchdog::new()).await.unwrap()
    }

    async fn frame(lane: &mut DuplexStream, bytes: &[u8]) {
        lane.write_all(&u32::try_from(bytes.len()).unwrap().to_be_bytes()).await.unwrap();
        lane.write_all(bytes).await.unwrap();
    }

    /// Serves one RETRIEVE whole, as a node does, up to the client's last word.
    async fn serve(lane: &mut DuplexStream, shard: &[u8]) {
        let Header::Retrieve { shard: id, ranges, nonce } = header(lane).await else { panic!("no retrieve") };
        let length = shard.len() as u64;
        let encoded = encode_ranges(shard, &[0..length]).unwrap();
        for piece in encoded.chunks(LANE_FRAME_MAX) {
            frame(lane, piece).await;
        }
        let statement = ServeStatement {
            shard: id,
            ranges,
            sent: encoded.len() as u64,
            requester: NodeId::from_bytes(SigningKey::from_bytes(&[9; 32]).verifying_key().to_bytes()),
            boot_epoch: BootEpoch(1),
            nonce,
            time: NOW,
        };
        let statement = Signed::seal(&statement, &SigningKey::from_bytes(&NODE), &network());
        lane.write_all(&encode_end(&RetrieveTrailer { statement })).await.unwrap();
        let _: DeliveryReply = read_message(lane, &mut Watchdog::new()).await.unwrap();
    }

    #[tokio::test]
    async fn a_retrieve_that_is_given_up_leaves_its_lane_in_step() {
        let shard = vec![3; 300_000];
        let encoded = encode_ranges(&shard, &[0..300_000]).unwrap();
        let (mut near, mut far) = tokio::io::duplex(16 * 1024);
        let identity = SigningKey::from_bytes(&[9; 32]);
        let (network, job) = (network(), retrieve_job(&shard));
        let parties = Parties { network: &network, node: node(), identity: &identity, clock: &|| NOW };
        let serving = async {
            header(&mut far).await;
            // A frame and a half, then the client gives up; the rest of that frame still comes.
            frame(&mut far, &encoded[..LANE_FRAME_MAX]).await;
            far.write_all(&u32::try_from(LANE_FRAME_MAX).unwrap().to_be_bytes()).await.unwrap();
            far.write_all(&encoded[LANE_FRAME_MAX..LANE_FRAME_MAX + 1000]).await.unwrap();
            let mut abort = [0; 6];
            far.read_exact(&mut abort).await.unwrap();
            assert_eq!(abort[..], encode_abort(Refusal::Cancelled)[..]);
            far.write_all(&encoded[LANE_FRAME_MAX + 1000..2 * LANE_FRAME_MAX]).await.unwrap();
            far.write_all(&encode_abort(Refusal::Cancelled)).await.unwrap();
            serve(&mut far, &shard).await;
        };
        let asking = async {
            let (stop, cancelled) = oneshot::channel();
            let meter = job.meter.clone();
            meter.begin();
            let giving_up = async move {
                while meter.bytes() < Some(LANE_FRAME_MAX as u64 + 1000) {
                    tokio::task::yield_now().await;
                }
                drop(stop);
            };
            let (ended, ()) =
                tokio::join!(retrieve(&mut near, &job, parties, Buffer::from(vec![]), cancelled), giving_up);
            assert_eq!(ended.result, Err(TransferError::refused(Refusal::Cancelled)));
            assert!(ended.reusable);
            let (_stop, cancelled) = oneshot::channel();
            let again = retrieve(&mut near, &job, parties, Buffer::from(vec![]), cancelled).await;
            assert!(again.reusable && *again.result.unwrap() == shard);
        };
        tokio::join!(serving, asking);
    }

    #[tokio::test]
    async fn a_store_that_is_given_up_ends_between_two_frames() {
        let bytes = Bytes::from(vec![4; 600_000]);
        let (mut near, mut far) = tokio::io::duplex(16 * 1024);
        let identity = SigningKey::from_bytes(&[9; 32]);
        let network = network();
        let parties = Parties { network: &network, node: node(), identity: &identity, clock: &|| NOW };
        let nonce = Nonce::from_bytes([2; 16]);
        let job = StoreJob {
            reservation: ReservationId(1),
            boot_epoch: BootEpoch(1),
            nonce,
            shard: ShardId::of(&bytes),
            bytes,
            silence_ms: TRANSFER_SILENCE_MS,
        };
        let (stop, cancelled) = oneshot::channel();
        let taking = async {
            header(&mut far).await;
            let mut stop = Some(stop);
            loop {
                let mut word = [0; 4];
                far.read_exact(&mut word).await.unwrap();
                match DataWord::parse(word).unwrap() {
                    DataWord::Data(length) => {
                        let mut frame = vec![0; length];
                        far.read_exact(&mut frame).await.unwrap();
                        drop(stop.take());
                    }
                    DataWord::Abort => break,
                    DataWord::End => panic!("all of it was sent"),
                }
            }
            let mut reason = [0; 2];
            far.read_exact(&mut reason).await.unwrap();
            let refusal = RefusalStatement {
                reason: Refusal::Cancelled,
                retry_after_ms: 0,
                boot_epoch: BootEpoch(1),
                nonce,
                time: NOW,
            };
            let refusal = Signed::seal(&refusal, &SigningKey::from_bytes(&NODE), &network);
            far.write_all(&encode_message(&StoreReply::Refused(refusal))).await.unwrap();
        };
        let (ended, ()) = tokio::join!(store(&mut near, &job, parties, cancelled), taking);
        assert_eq!(ended.result.unwrap_err(), TransferError::refused(Refusal::Cancelled));
        assert!(ended.reusable);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_longer_where_sending_took_long() {
        for (sending, good) in [(Some(Duration::from_secs(10)), true), (Some(Duration::ZERO), false)] {
            let (mut near, mut far) = tokio::io::duplex(1024);
            let (_sent, all_sent) = watch::channel(sending);
            let answering = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(40)).await;
                let statement = RefusalStatement {
                    reason: Refusal::NoSpace,
                    retry_after_ms: 0,
                    boot_epoch: BootEpoch(1),
                    nonce: Nonce::from_bytes([2; 16]),
                    time: NOW,
                };
                let refusal = Signed::seal(&statement, &SigningKey::from_bytes(&NODE), &network());
                let _ = far.write_all(&encode_message(&StoreReply::Refused(refusal))).await;
            });
            let reply = read_reply(&mut near, TRANSFER_SILENCE_MS, all_sent).await;
            assert_eq!(reply.is_ok(), good, "{sending:?}: {reply:?}");
            answering.abort();
        }
    }
}
