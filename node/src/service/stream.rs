//! Reading and writing one shard lane: words, messages and data under the pace every transfer must keep. It knows the
//! frames of `protocol::lane` and nothing of stores or peers.

use std::time::Duration;

use bytes::Bytes;
use shoal_protocol::codec::{self, Message};
use shoal_protocol::lane::{DataWord, message_length};
use shoal_protocol::limits::LANE_MESSAGE_MAX;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// Silence that ends a transfer.
const SILENCE: Duration = Duration::from_secs(15);
/// Window over which the slowest allowed rate is measured.
const WINDOW: Duration = Duration::from_secs(20);
/// Bytes that must move within one window: 8 KiB/s.
const WINDOW_BYTES: u64 = 8 * 1024 * 20;

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
}

/// One lane with its pace.
pub(crate) struct LaneIo<S> {
    stream: S,
    window_start: Instant,
    window_bytes: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> LaneIo<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, window_start: Instant::now(), window_bytes: 0 }
    }

    /// A transfer begins: the window starts anew.
    pub(crate) fn begin(&mut self) {
        self.window_start = Instant::now();
        self.window_bytes = 0;
    }

    /// The word of the next message, however long it takes: between transfers a lane may rest.
    pub(crate) async fn next_header<T: Message>(&mut self, rest: Duration) -> Result<T, LaneEnd> {
        let mut word = [0; 4];
        let read = tokio::time::timeout(rest, self.stream.read_exact(&mut word)).await;
        read.map_err(|_| LaneEnd::Closed)?.map_err(|_| LaneEnd::Closed)?;
        self.begin();
        self.message_after(word).await
    }

    /// The next message.
    pub(crate) async fn message<T: Message>(&mut self) -> Result<T, LaneEnd> {
        let mut word = [0; 4];
        self.read(&mut word).await?;
        self.message_after(word).await
    }

    /// The message whose length word was read.
    pub(crate) async fn message_after<T: Message>(&mut self, word: [u8; 4]) -> Result<T, LaneEnd> {
        let length = message_length(word).map_err(|fault| LaneEnd::Protocol(fault.to_string()))?;
        let mut bytes = vec![0; length];
        self.read(&mut bytes).await?;
        codec::decode(&bytes, LANE_MESSAGE_MAX).map_err(|error| LaneEnd::Protocol(error.to_string()))
    }

    /// The next raw length word.
    pub(crate) async fn word(&mut self) -> Result<[u8; 4], LaneEnd> {
        let mut word = [0; 4];
        self.read(&mut word).await?;
        Ok(word)
    }

    /// The next word of the data phase.
    pub(crate) async fn data_word(&mut self) -> Result<DataWord, LaneEnd> {
        DataWord::parse(self.word().await?).map_err(|fault| LaneEnd::Protocol(fault.to_string()))
    }

    /// The number after an abort word.
    pub(crate) async fn abort_number(&mut self) -> Result<u16, LaneEnd> {
        let mut number = [0; 2];
        self.read(&mut number).await?;
        Ok(u16::from_be_bytes(number))
    }

    /// Fills `out`.
    pub(crate) async fn read(&mut self, out: &mut [u8]) -> Result<(), LaneEnd> {
        let deadline = self.deadline();
        let read = tokio::time::timeout_at(deadline, self.stream.read_exact(out)).await;
        read.map_err(|_| LaneEnd::TooSlow)?.map_err(|_| LaneEnd::Closed)?;
        self.moved(out.len());
        Ok(())
    }

    /// Sends `bytes` and flushes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), LaneEnd> {
        self.write(bytes).await?;
        let deadline = self.deadline();
        let flushed = tokio::time::timeout_at(deadline, self.stream.flush()).await;
        flushed.map_err(|_| LaneEnd::TooSlow)?.map_err(|_| LaneEnd::Closed)
    }

    /// Sends one data frame, not flushed.
    pub(crate) async fn send_data(&mut self, frame: &Bytes) -> Result<(), LaneEnd> {
        // Frames are made no longer than LANE_FRAME_MAX.
        let word = u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.write(&word).await?;
        self.write(frame).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), LaneEnd> {
        let deadline = self.deadline();
        let written = tokio::time::timeout_at(deadline, self.stream.write_all(bytes)).await;
        written.map_err(|_| LaneEnd::TooSlow)?.map_err(|_| LaneEnd::Closed)?;
        self.moved(bytes.len());
        Ok(())
    }

    /// End of silence, or of the window.
    fn deadline(&self) -> Instant {
        (Instant::now() + SILENCE).min(self.window_start + WINDOW)
    }

    fn moved(&mut self, bytes: usize) {
        self.window_bytes = self.window_bytes.saturating_add(bytes as u64);
        if self.window_bytes >= WINDOW_BYTES {
            self.begin();
        }
    }
}
