//! Frames on a stream: read one, write one. Bounded memory per frame; it never interprets a frame.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::io::WriteHalf;
use futures::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use libp2p::core::upgrade::NegotiationError;

use super::codec::{self, Frame, FrameError, LENGTH_BYTES};
use crate::limits::{CONTROL_READ_STEP, FRAME_WRITE_TIMEOUT, GOODBYE_TIMEOUT};

/// Why a control lane ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneEnd {
    /// The remote does not speak this protocol.
    #[error("the peer does not speak this protocol")]
    Unsupported,
    /// The stream or connection is gone.
    #[error("the stream ended")]
    Stream(#[source] io::Error),
    /// The remote broke the protocol.
    #[error("the peer broke the control protocol")]
    Violation(#[from] Violation),
    /// The remote said that it stops.
    #[error("the peer said goodbye")]
    Goodbye,
    /// Nothing came back for several pings.
    #[error("the peer stopped answering")]
    Silent,
    /// The remote did not read what we wrote.
    #[error("the peer does not read")]
    Stalled,
    /// We stop.
    #[error("this swarm stops")]
    Stopped,
}

/// How a remote broke the control protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame only the other side may send.
    #[error("a frame that this side of the lane may not send")]
    Direction,
    /// Two requests with one id.
    #[error("a request id that is already in flight")]
    DuplicateId,
}

impl From<io::Error> for LaneEnd {
    fn from(error: io::Error) -> Self {
        if is_unsupported(&error) { Self::Unsupported } else { Self::Stream(error) }
    }
}

/// Whether a stream failed because the remote answered "no such protocol" to our optimistic opening.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.get_ref().and_then(|inner| inner.downcast_ref::<NegotiationError>()), Some(NegotiationError::Failed))
}

/// Reads one frame. Memory grows in steps as bytes arrive, whatever length was claimed.
pub(crate) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Frame, LaneEnd> {
    let mut field = [0; LENGTH_BYTES];
    stream.read_exact(&mut field).await?;
    let length = codec::frame_length(field).map_err(Violation::from)?;
    let mut bytes = BytesMut::with_capacity(length.min(CONTROL_READ_STEP));
    while bytes.len() < length {
        let start = bytes.len();
        let step = length.saturating_sub(start).min(CONTROL_READ_STEP);
        bytes.resize(start.saturating_add(step), 0);
        let space = bytes.get_mut(start..).unwrap_or_default();
        stream.read_exact(space).await?;
    }
    Ok(codec::decode(Bytes::from(bytes)).map_err(Violation::from)?)
}

/// One write of at most a frame, within [`FRAME_WRITE_TIMEOUT`].
async fn in_time(write: impl Future<Output = io::Result<()>>) -> Result<(), LaneEnd> {
    match tokio::time::timeout(FRAME_WRITE_TIMEOUT, write).await {
        Ok(written) => Ok(written?),
        Err(_) => Err(LaneEnd::Stalled),
    }
}

/// The write half of a control stream. It knows whether a frame was left half written, so that a goodbye never lands
/// inside another frame.
pub(crate) struct FrameWriter {
    half: WriteHalf<Stream>,
    buffer: BytesMut,
    torn: bool,
}

impl FrameWriter {
    pub(crate) fn new(half: WriteHalf<Stream>) -> Self {
        Self { half, buffer: BytesMut::new(), torn: false }
    }

    /// Writes one frame. Does not flush. Dropped half way, it leaves the lane torn.
    pub(crate) async fn write(&mut self, frame: &Frame) -> Result<(), LaneEnd> {
        self.torn = true;
        self.buffer.clear();
        codec::encode(frame, &mut self.buffer);
        in_time(self.half.write_all(&self.buffer)).await?;
        self.torn = false;
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> Result<(), LaneEnd> {
        in_time(self.half.flush()).await
    }

    /// Says that we stop, if the lane is between frames, and closes our side.
    pub(crate) async fn goodbye(mut self) {
        if self.torn {
            return;
        }
        let goodbye = async {
            self.write(&Frame::Goodbye { reason: 0 }).await?;
            self.half.close().await?;
            Ok::<(), LaneEnd>(())
        };
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await;
    }
}
