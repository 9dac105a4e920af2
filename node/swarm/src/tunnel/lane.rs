//! A tunnel lane as its owner holds it: a reader and a writer of whole frames, each movable to a task of its own.
//! It knows no frame's meaning, drops none and orders nothing anew.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures::io::{AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};
use libp2p::Stream;
use shoal_protocol::NodeId;
use shoal_protocol::mesh::credit::{Credit, Followed, Follower};

use super::frames::{FrameBuffer, LENGTH_BYTES};
use super::slot::Life;
use super::tally::Tally;
use crate::error::TunnelError;
use crate::limits::{TUNNEL_BATCH_MAX, TUNNEL_FRAME_MAX};

/// A lane of frames to one peer; the same at both ends. It ends when both halves are dropped, and the peer hears it.
#[derive(Debug)]
pub struct TunnelLane {
    /// Whose key the connection's handshake proved.
    pub peer: NodeId,
    /// The IP address it is seen at; none through a relay, nor where a name was dialled.
    pub address: Option<IpAddr>,
    /// Whether bulk transfers may share the connection: no TCP connection for frames alone could be had.
    pub shared: bool,
    /// Frames from the peer.
    pub reader: TunnelReader,
    /// Frames to the peer.
    pub writer: TunnelWriter,
}

impl TunnelLane {
    pub(crate) fn new(peer: NodeId, address: Option<IpAddr>, shared: bool, stream: Stream, life: Arc<Life>) -> Self {
        let (read, write) = stream.split();
        let tally = Arc::new(Tally::default());
        let (follower, told) = (Follower::default(), None);
        let reader = TunnelReader { half: read, life: Arc::clone(&life), follower, tally: Arc::clone(&tally) };
        let writer = TunnelWriter { half: write, life, tally, told, batch: Vec::new(), from: 0 };
        Self { peer, address, shared, reader, writer }
    }
}

/// The reading half.
#[derive(Debug)]
pub struct TunnelReader {
    half: ReadHalf<Stream>,
    life: Arc<Life>,
    follower: Follower,
    tally: Arc<Tally>,
}

impl TunnelReader {
    /// Waits until a whole frame is in the buffer, or the peer told what it received, which is given back; as many frames
    /// as arrived are there then, perhaps none. At once if one is left there. Straight from the stream, in steps as large
    /// as the buffer's room. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`TunnelError`]; the lane has then ended for both halves.
    pub async fn read(&mut self, frames: &mut FrameBuffer) -> Result<Option<Credit>, TunnelError> {
        let result = self.read_on(frames).await;
        if result.is_err() {
            self.life.end();
        }
        result
    }

    async fn read_on(&mut self, frames: &mut FrameBuffer) -> Result<Option<Credit>, TunnelError> {
        while !frames.has_frame() {
            let read = tokio::select! {
                biased;
                read = self.half.read(frames.space()) => read,
                () = self.life.ended().cancelled() => Ok(0),
            };
            match read {
                Ok(0) | Err(_) if frames.is_torn() => return Err(TunnelError::Cut),
                Ok(0) | Err(_) => return Err(TunnelError::Closed),
                Ok(count) => {
                    let Followed { bytes, credit } = self.follower.pass(frames.filled(count));
                    self.tally.came(bytes);
                    if credit.is_some() {
                        return Ok(credit);
                    }
                }
            }
        }
        Ok(None)
    }
}

/// The writing half.
#[derive(Debug)]
pub struct TunnelWriter {
    half: WriteHalf<Stream>,
    life: Arc<Life>,
    tally: Arc<Tally>,
    /// When the peer was last told what came.
    told: Option<Instant>,
    /// A credit and frames with their lengths, at most [`TUNNEL_BATCH_MAX`] bytes of these.
    batch: Vec<u8>,
    /// What of it was written.
    from: usize,
}

impl TunnelWriter {
    /// Waits until little enough waits below: choose the next frames only then, so that what is urgent overtakes what
    /// is not. Over TCP at most the larger of 64 KiB and what leaves in 10 ms waits, and at most 16 KiB more.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`TunnelError::Closed`].
    pub async fn ready(&mut self) -> Result<(), TunnelError> {
        self.write_batch().await?;
        self.write(true).await.map(|_| ())
    }

    /// Waits until the peer is to be told what came from it: [`Self::send`], with frames or with none, then tells it.
    /// Dropping the future loses nothing.
    pub async fn owed(&self) {
        self.tally.due(self.told).await;
    }

    /// Writes a batch of frames in their order, with as few writes as there are 64 KiB in it, and returns when all of
    /// it was given to the connection. What came from the peer is told with it. Dropped half way the rest of the batch
    /// goes out with the next call.
    ///
    /// # Errors
    /// [`TunnelError::FrameLength`] and [`TunnelError::BatchTooLarge`] before anything was written;
    /// [`TunnelError::Closed`] where the lane ended.
    pub async fn send<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result<(), TunnelError> {
        let mut bytes = 0_usize;
        for frame in frames {
            let length = frame.as_ref().len();
            if length == 0 || length > TUNNEL_FRAME_MAX {
                return Err(TunnelError::FrameLength { bytes: length });
            }
            bytes = bytes.saturating_add(LENGTH_BYTES).saturating_add(length);
        }
        if bytes > TUNNEL_BATCH_MAX {
            return Err(TunnelError::BatchTooLarge { bytes });
        }
        self.write_batch().await?;
        if let Some(credit) = self.tally.take() {
            self.told = Some(Instant::now());
            self.batch.extend_from_slice(&credit.to_bytes());
        }
        for frame in frames {
            let frame = frame.as_ref();
            let Ok(length) = u16::try_from(frame.len()) else { continue };
            self.batch.extend_from_slice(&length.to_be_bytes());
            self.batch.extend_from_slice(frame);
        }
        self.write_batch().await
    }

    /// Writes what is left of the batch.
    async fn write_batch(&mut self) -> Result<(), TunnelError> {
        while self.from < self.batch.len() {
            let count = self.write(false).await?;
            if count == 0 {
                self.life.end();
                return Err(TunnelError::Closed);
            }
            self.from = self.from.saturating_add(count);
        }
        self.batch.clear();
        self.from = 0;
        Ok(())
    }

    /// One write: of what is left, or of nothing, which waits for room all the same. Vectored, because those wait (see
    /// the muxer). No flush follows: the muxer sends what it has, and the lane's first bytes were its answer.
    async fn write(&mut self, nothing: bool) -> Result<usize, TunnelError> {
        let rest = if nothing { &[] } else { self.batch.get(self.from..).unwrap_or_default() };
        let half = &mut self.half;
        let write = std::future::poll_fn(|cx| Pin::new(&mut *half).poll_write_vectored(cx, &[IoSlice::new(rest)]));
        let written = tokio::select! {
            biased;
            () = self.life.ended().cancelled() => Err(io::ErrorKind::NotConnected.into()),
            written = write => written,
        };
        written.map_err(|_| {
            self.life.end();
            TunnelError::Closed
        })
    }
}
