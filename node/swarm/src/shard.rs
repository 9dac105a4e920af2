//! Shard lanes as callers hold them: plain byte streams with their permits. It knows one message only, BUSY.
//!
//! BUSY is what an acceptor without a free permit writes before it closes a fresh lane: the abort marker
//! `u32 0xFFFFFFFF` and the reason `u16 1`, both big-endian. The opener's first read turns it into
//! [`LaneError::RemoteBusy`]; all other bytes pass untouched.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead as _, AsyncWrite as _};
use libp2p::Stream;
use shoal_protocol::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use crate::control::wire::is_unsupported;
use crate::error::LaneError;
use crate::link::Link;
use crate::pool::LanePool;

/// The whole BUSY answer: abort marker and the number of `busy`.
pub const BUSY_ANSWER: [u8; 6] = [0xff, 0xff, 0xff, 0xff, 0, 3];

/// Most bytes read at once: what muxers put into a frame.
const READ_STEP: usize = 16 * 1024;

/// What is known of the first bytes from the acceptor.
#[derive(Debug)]
enum Greeting {
    /// Nothing read yet, or only a prefix of BUSY.
    Open { bytes: [u8; BUSY_ANSWER.len()], length: usize },
    /// Read ahead and not BUSY: to be given to the caller first.
    Replay { bytes: [u8; BUSY_ANSWER.len()], from: usize, length: usize },
    /// Reads go straight to the stream.
    Past,
}

/// The places of an inbound lane: at its peer, at the node, and among those of strangers.
#[derive(Debug)]
pub(crate) struct LanePermits {
    pub(crate) _peer: OwnedSemaphorePermit,
    pub(crate) _node: OwnedSemaphorePermit,
    pub(crate) _strangers: Option<OwnedSemaphorePermit>,
}

/// One stream of a lane: tokio's `AsyncRead` and `AsyncWrite` without a buffer in between.
#[derive(Debug)]
pub struct LaneStream {
    stream: Stream,
    greeting: Greeting,
    failed: bool,
    /// Of an inbound lane. Here and not beside the stream, so that a stream moved out of its lane keeps its place.
    /// Dropped after the stream.
    _permits: Option<LanePermits>,
}

impl LaneStream {
    /// A stream we opened: its first bytes may be BUSY.
    pub(crate) fn opened(stream: Stream) -> Self {
        Self {
            stream,
            greeting: Greeting::Open { bytes: [0; BUSY_ANSWER.len()], length: 0 },
            failed: false,
            _permits: None,
        }
    }

    /// A stream the peer opened, with its places at the peer and at the node.
    fn accepted(stream: Stream, permits: LanePermits) -> Self {
        Self { stream, greeting: Greeting::Past, failed: false, _permits: Some(permits) }
    }

    fn fail<T>(&mut self, error: io::Error) -> Poll<io::Result<T>> {
        self.failed = true;
        let error = if is_unsupported(&error) { LaneError::Unsupported.into() } else { error };
        Poll::Ready(Err(error))
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.stream).poll_read(cx, space)) {
            Ok(count) => Poll::Ready(Ok(count)),
            Err(error) => self.fail(error),
        }
    }

    /// Reads ahead until the first bytes are BUSY or cannot become it.
    fn poll_greeting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Greeting::Open { mut bytes, length } = self.greeting {
            let count = ready!(self.poll_stream(cx, bytes.get_mut(length..).unwrap_or_default()))?;
            let length = length.saturating_add(count).min(bytes.len());
            let known = bytes.get(..length).unwrap_or_default();
            let prefix = BUSY_ANSWER.starts_with(known);
            if prefix && length == BUSY_ANSWER.len() {
                self.failed = true;
                return Poll::Ready(Err(LaneError::RemoteBusy.into()));
            }
            self.greeting = if prefix && count > 0 {
                Greeting::Open { bytes, length }
            } else {
                Greeting::Replay { bytes, from: 0, length }
            };
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for LaneStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_greeting(cx))?;
        if let Greeting::Replay { bytes, from, length } = &mut this.greeting {
            let rest = bytes.get(*from..*length).unwrap_or_default();
            let count = rest.len().min(buf.remaining());
            buf.put_slice(rest.get(..count).unwrap_or_default());
            *from = from.saturating_add(count);
            if *from >= *length {
                this.greeting = Greeting::Past;
            }
            if count > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        // The stream wants bytes that are set: no more of them are than it has at a time.
        let step = buf.remaining().min(READ_STEP);
        let count = ready!(this.poll_stream(cx, buf.initialize_unfilled_to(step)))?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LaneStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match ready!(Pin::new(&mut this.stream).poll_write(cx, buf)) {
            Ok(count) => Poll::Ready(Ok(count)),
            Err(error) => this.fail(error),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match ready!(Pin::new(&mut this.stream).poll_flush(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => this.fail(error),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A closed side cannot carry another transfer.
        this.failed = true;
        Pin::new(&mut this.stream).poll_close(cx)
    }
}

/// An outbound shard lane. Give it back with [`Self::release`] between transfers; dropping it closes the stream.
#[derive(Debug)]
pub struct ShardLane {
    peer: NodeId,
    stream: LaneStream,
    link: Weak<Link>,
    pool: Arc<LanePool>,
    _permit: OwnedSemaphorePermit,
}

impl ShardLane {
    pub(crate) fn new(
        peer: NodeId,
        stream: LaneStream,
        link: Weak<Link>,
        pool: Arc<LanePool>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { peer, stream, link, pool, _permit: permit }
    }

    /// Whom the lane leads to.
    #[must_use]
    pub const fn peer(&self) -> NodeId {
        self.peer
    }

    /// Returns the lane to the pool for the next transfer. Call it only between transfers, when everything sent was
    /// flushed and everything expected was read. A lane that failed is closed instead.
    pub fn release(self) {
        if !self.stream.failed {
            self.pool.put(self.stream, self.link);
        }
    }
}

impl AsyncRead for ShardLane {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ShardLane {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// A shard lane that a peer opened. Its stream holds one of that peer's places until dropped, so an owner that waits for the
/// next transfer must give up after a while: openers drop idle lanes after 30 s.
#[derive(Debug)]
pub struct InboundLane {
    /// Who opened it: the key that the connection's handshake proved.
    pub peer: NodeId,
    /// The IP address it is seen at; none through a relay.
    pub address: Option<IpAddr>,
    /// The bytes both ways.
    pub stream: LaneStream,
}

impl InboundLane {
    pub(crate) fn new(peer: NodeId, address: Option<IpAddr>, stream: Stream, permits: LanePermits) -> Self {
        Self { peer, address, stream: LaneStream::accepted(stream, permits) }
    }

    pub(crate) fn into_stream(self) -> Stream {
        self.stream.stream
    }
}
