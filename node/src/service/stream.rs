//! Reading and writing one shard lane: words, messages and data under the pace every transfer must keep. It knows the
//! frames of `protocol::lane` and nothing of stores or peers.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures::FutureExt;
use shoal_protocol::codec::{self, Message};
use shoal_protocol::lane::{DataWord, message_length};
use shoal_protocol::limits::{LANE_MESSAGE_MAX, TRANSFER_SILENCE_MS, TRANSFER_WINDOW_BYTES, TRANSFER_WINDOW_MS};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// Silence that ends a transfer.
const SILENCE: Duration = Duration::from_millis(TRANSFER_SILENCE_MS);
/// Time spent waiting for the other side over which the slowest allowed rate is measured.
const WINDOW: Duration = Duration::from_millis(TRANSFER_WINDOW_MS);
/// Bytes thrown away at a time.
const SKIP_STEP: usize = 8 * 1024;
/// Bytes of a length word.
const WORD: usize = 4;

/// Why a lane has to be closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneEnd {
    /// The other side closed it, between transfers or not.
    #[error("closed")]
    Closed,
    /// Too slow or silent.
    #[error("too slow or silent")]
    TooSlow,
    /// Not what may come here.
    #[error("broke the protocol: {0}")]
    Protocol(String),
    /// The node stops.
    #[error("the node stops")]
    Stopping,
}

/// How a transfer gets on. Only time spent waiting for the other side counts, not the node's own disk.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// One read or write, within what silence and window leave.
    async fn step(&mut self, step: impl Future<Output = io::Result<usize>>) -> Result<usize, LaneEnd> {
        let begun = Instant::now();
        let limit = SILENCE.min(WINDOW.saturating_sub(self.waited));
        let moved = tokio::time::timeout(limit, step).await.map_err(|_| LaneEnd::TooSlow)?;
        let moved = moved.map_err(|_| LaneEnd::Closed)?;
        self.waited = self.waited.saturating_add(begun.elapsed());
        self.bytes = self.bytes.saturating_add(moved as u64);
        if self.bytes >= TRANSFER_WINDOW_BYTES {
            *self = Self::default();
        }
        Ok(moved)
    }
}

/// One lane with its pace.
pub(crate) struct LaneIo<S> {
    stream: S,
    pace: Pace,
    /// Bytes of the next word that were read ahead of their turn.
    early: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> LaneIo<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, pace: Pace::default(), early: BytesMut::with_capacity(WORD) }
    }

    /// A transfer, or a part of it with a pace of its own, begins.
    pub(crate) fn begin(&mut self) {
        self.pace = Pace::default();
    }

    /// The message that begins the next transfer: between transfers a lane may rest.
    pub(crate) async fn next_header<T: Message>(&mut self, rest: Duration) -> Result<T, LaneEnd> {
        let mut word = [0; WORD];
        let read = tokio::time::timeout(rest, self.stream.read_exact(&mut word)).await;
        read.map_err(|_| LaneEnd::Closed)?.map_err(|_| LaneEnd::Closed)?;
        self.begin();
        self.message_after(word).await
    }

    /// The next message.
    pub(crate) async fn message<T: Message>(&mut self) -> Result<T, LaneEnd> {
        let word = self.word().await?;
        self.message_after(word).await
    }

    /// The message whose length word was read.
    pub(crate) async fn message_after<T: Message>(&mut self, word: [u8; WORD]) -> Result<T, LaneEnd> {
        let length = message_length(word).map_err(|fault| LaneEnd::Protocol(fault.to_string()))?;
        let mut bytes = BytesMut::with_capacity(length);
        self.read_into(&mut bytes, length).await?;
        codec::decode(&bytes, LANE_MESSAGE_MAX).map_err(|error| LaneEnd::Protocol(error.to_string()))
    }

    /// The next raw length word.
    pub(crate) async fn word(&mut self) -> Result<[u8; WORD], LaneEnd> {
        let mut bytes = std::mem::take(&mut self.early);
        let missing = WORD.saturating_sub(bytes.len());
        self.read_into(&mut bytes, missing).await?;
        bytes.as_ref().try_into().map_err(|_| LaneEnd::Closed)
    }

    /// Whether the other side has begun its next word, which this takes in without waiting. Only for a time when it has
    /// no business to speak but to stop the transfer.
    pub(crate) fn is_interrupted(&mut self) -> Result<bool, LaneEnd> {
        let missing = WORD.saturating_sub(self.early.len());
        if missing > 0 {
            let mut space = (&mut self.early).limit(missing);
            match self.stream.read_buf(&mut space).now_or_never() {
                None => {}
                Some(Ok(1..)) => {}
                Some(Ok(0) | Err(_)) => return Err(LaneEnd::Closed),
            }
        }
        Ok(self.early.len() >= WORD)
    }

    /// The next word of the data phase.
    pub(crate) async fn data_word(&mut self) -> Result<DataWord, LaneEnd> {
        DataWord::parse(self.word().await?).map_err(|fault| LaneEnd::Protocol(fault.to_string()))
    }

    /// Takes in the number after an abort word.
    pub(crate) async fn abort_number(&mut self) -> Result<u16, LaneEnd> {
        let mut number = BytesMut::with_capacity(2);
        self.read_into(&mut number, 2).await?;
        Ok(u16::from_be_bytes(number.as_ref().try_into().map_err(|_| LaneEnd::Closed)?))
    }

    /// Appends the next `length` bytes to `out`.
    pub(crate) async fn read_into(&mut self, out: &mut impl BufMut, length: usize) -> Result<(), LaneEnd> {
        let mut left = length;
        while left > 0 {
            let mut space = (&mut *out).limit(left);
            let read = self.pace.step(self.stream.read_buf(&mut space)).await?;
            if read == 0 {
                return Err(LaneEnd::Closed);
            }
            left = left.saturating_sub(read);
        }
        Ok(())
    }

    /// Throws the next `length` bytes away.
    pub(crate) async fn skip(&mut self, length: usize) -> Result<(), LaneEnd> {
        let mut left = length;
        let mut sink = BytesMut::with_capacity(SKIP_STEP.min(length));
        while left > 0 {
            let step = left.min(SKIP_STEP);
            self.read_into(&mut sink, step).await?;
            sink.clear();
            left = left.saturating_sub(step);
        }
        Ok(())
    }

    /// Sends `bytes` and flushes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), LaneEnd> {
        self.write(bytes).await?;
        let stream = &mut self.stream;
        self.pace.step(async { stream.flush().await.map(|()| 0) }).await.map(drop)
    }

    /// Sends `bytes`, not flushed.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), LaneEnd> {
        let mut left = bytes;
        while !left.is_empty() {
            let written = self.pace.step(self.stream.write(left)).await?;
            if written == 0 {
                return Err(LaneEnd::Closed);
            }
            left = left.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::Refusal;
    use shoal_protocol::lane::encode_abort;

    #[tokio::test(start_paused = true)]
    async fn a_slow_transfer_ends_and_a_steady_one_does_not() {
        for (per_second, good) in [(9 * 1024, true), (7 * 1024, false)] {
            let (near, mut far) = tokio::io::duplex(1024);
            let sender = tokio::spawn(async move {
                for _ in 0..60 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if far.write_all(&vec![1; per_second]).await.is_err() {
                        return;
                    }
                }
            });
            let mut io = LaneIo::new(near);
            let mut out = BytesMut::new();
            let read = io.read_into(&mut out, 60 * per_second).await;
            assert_eq!(read.is_ok(), good, "{per_second}: {read:?}");
            sender.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_transfer() {
        let (near, _far) = tokio::io::duplex(1024);
        let begun = Instant::now();
        assert!(matches!(LaneIo::new(near).word().await, Err(LaneEnd::TooSlow)));
        assert_eq!(begun.elapsed().as_secs(), SILENCE.as_secs());
    }

    #[tokio::test]
    async fn an_interruption_is_noticed_without_waiting_and_read_later() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut io = LaneIo::new(near);
        assert!(!io.is_interrupted().unwrap());
        let abort = encode_abort(Refusal::Cancelled);
        far.write_all(&abort[..3]).await.unwrap();
        assert!(!io.is_interrupted().unwrap());
        far.write_all(&abort[3..]).await.unwrap();
        assert!(io.is_interrupted().unwrap());
        assert_eq!(io.data_word().await.unwrap(), DataWord::Abort);
        assert_eq!(io.abort_number().await.unwrap(), Refusal::Cancelled.number());
        drop(far);
        assert!(matches!(io.is_interrupted(), Err(LaneEnd::Closed)));
    }
}
