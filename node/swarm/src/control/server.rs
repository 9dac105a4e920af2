//! The accepting side of a control lane: requests in, responses out.
//!
//! Started by the connection's handler when the peer's control stream is negotiated, one per connection. It ends with
//! the stream, on a violation, or when the swarm stops (after a goodbye). What is lost: responses not yet written;
//! requests already handed out see [`InboundRequest::gone`] and their reply fails with `Closed`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::io::{AsyncReadExt, ReadHalf};
use libp2p::Stream;
use shoal_protocol::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::codec::{Frame, RESPONSE_BODY_MAX};
use super::wire::{FrameWriter, LaneEnd, Violation, read_frame};
use crate::error::ReplyError;
use crate::limits::{DEADLINE_MAX, PONGS_MAX, REQUESTS_IN_FLIGHT_MAX};
use crate::link::{CloseReason, Link};
use crate::links::{PeerLinks, Unsent};

/// A peer's request. Drop it without [`Self::reply`] and nothing is sent; either way it frees its place, and a peer
/// with 64 unanswered requests is not read any further.
#[derive(Debug)]
pub struct InboundRequest {
    /// Who asks: the key that the connection's handshake proved.
    pub peer: NodeId,
    /// The IP address it is seen at; none through a relay.
    pub address: Option<IpAddr>,
    /// What is asked, opaque here.
    pub body: Bytes,
    /// How long the peer said it waits, counted from receipt; at most 10 minutes.
    pub deadline: Duration,
    received: Instant,
    gone: CancellationToken,
    answer: Answer,
}

/// Gives the place back when dropped, with or without a response.
#[derive(Debug)]
struct Answer {
    id: u64,
    replies: mpsc::Sender<Reply>,
    slot: Option<OwnedSemaphorePermit>,
    links: Arc<PeerLinks>,
    link: Arc<Link>,
}

#[derive(Debug)]
struct Reply {
    id: u64,
    body: Option<Bytes>,
    /// Counts its bytes while they wait.
    _unsent: Unsent,
    /// Freed when the writer has taken the reply, so that the queue can never be full.
    _slot: OwnedSemaphorePermit,
}

impl InboundRequest {
    /// Sends the response. After a cancel it is dropped silently.
    ///
    /// # Errors
    /// [`ReplyError`] if it does not fit one frame or the connection ended.
    pub fn reply(mut self, body: Bytes) -> Result<(), ReplyError> {
        if body.len() > RESPONSE_BODY_MAX {
            return Err(ReplyError::TooLarge { bytes: body.len() });
        }
        self.answer.send(Some(body))
    }

    /// Waits until nobody waits for the reply: cancelled, past its deadline, or disconnected.
    pub async fn gone(&self) {
        let passed = tokio::time::sleep_until(self.received + self.deadline);
        tokio::select! {
            () = self.gone.cancelled() => {}
            () = passed => {}
        }
    }

    /// Whether nobody waits for the reply any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.is_cancelled() || self.received.elapsed() >= self.deadline
    }
}

impl Answer {
    fn send(&mut self, body: Option<Bytes>) -> Result<(), ReplyError> {
        let Some(slot) = self.slot.take() else { return Ok(()) };
        let unsent = Unsent::new(&self.links, &self.link, body.as_ref().map_or(0, Bytes::len));
        let reply = Reply { id: self.id, body, _unsent: unsent, _slot: slot };
        self.replies.try_send(reply).map_err(|_| ReplyError::Closed)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let _ = self.send(None);
    }
}

struct Server<'a> {
    link: &'a Arc<Link>,
    links: Arc<PeerLinks>,
    requests: mpsc::Sender<InboundRequest>,
    replies: mpsc::Sender<Reply>,
    pongs: mpsc::Sender<u64>,
    slots: Arc<Semaphore>,
    /// At most [`REQUESTS_IN_FLIGHT_MAX`]: each entry's request owns a slot, cancelled ones leave at once.
    in_flight: Mutex<BTreeMap<u64, CancellationToken>>,
    alive: CancellationToken,
}

/// The queues into the writer.
struct Outbox {
    replies: mpsc::Receiver<Reply>,
    pongs: mpsc::Receiver<u64>,
}

/// Runs the lane to its end and says what that means for the connection.
pub(crate) async fn run(
    stream: Stream,
    link: Arc<Link>,
    links: Arc<PeerLinks>,
    requests: mpsc::Sender<InboundRequest>,
    stop: CancellationToken,
    _worker: OwnedSemaphorePermit,
) {
    let (mut half, write_half) = stream.split();
    let (replies, replies_end) = mpsc::channel(REQUESTS_IN_FLIGHT_MAX);
    let (pongs, pongs_end) = mpsc::channel(PONGS_MAX);
    let alive = CancellationToken::new();
    let _gone = alive.clone().drop_guard();
    let server = Server {
        link: &link,
        links,
        requests,
        replies,
        pongs,
        slots: Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX)),
        in_flight: Mutex::default(),
        alive,
    };
    let mut outbox = Outbox { replies: replies_end, pongs: pongs_end };
    let mut writer = FrameWriter::new(write_half);
    let end = tokio::select! {
        end = server.read_all(&mut half) => end,
        end = server.write_all(&mut writer, &mut outbox) => end,
        () = stop.cancelled() => LaneEnd::Stopped,
    };
    tracing::debug!(peer = %link.peer, end = %end, "inbound control lane ended");
    match end {
        LaneEnd::Violation(_) => link.condemn(CloseReason::Violation),
        LaneEnd::Goodbye => link.condemn(CloseReason::Goodbye),
        LaneEnd::Stalled => link.condemn(CloseReason::Stalled),
        LaneEnd::Stopped => writer.goodbye().await,
        // The peer closed its side; its own opener decides about the connection.
        LaneEnd::Stream(_) | LaneEnd::Unsupported | LaneEnd::Silent => {}
    }
}

impl Server<'_> {
    async fn read_all(&self, half: &mut ReadHalf<Stream>) -> LaneEnd {
        loop {
            let step = match read_frame(half).await {
                Ok(frame) => self.on_frame(frame).await,
                Err(end) => Err(end),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn on_frame(&self, frame: Frame) -> Result<(), LaneEnd> {
        match frame {
            Frame::Request { id, deadline_ms, body } => self.on_request(id, deadline_ms, body).await,
            Frame::Cancel { id } => {
                if let Some(gone) = self.in_flight().remove(&id) {
                    gone.cancel();
                }
                Ok(())
            }
            // A full queue stops the reader: a flood of pings slows only its sender.
            Frame::Ping { id } => self.pongs.send(id).await.map_err(|_| LaneEnd::Stopped),
            Frame::Goodbye { .. } => Err(LaneEnd::Goodbye),
            Frame::Response { .. } | Frame::Pong { .. } => Err(Violation::Direction.into()),
        }
    }

    /// Waits for a free place, then for room in the owner's queue: the peer is not read meanwhile.
    async fn on_request(&self, id: u64, deadline_ms: u32, body: Bytes) -> Result<(), LaneEnd> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| LaneEnd::Stopped)?;
        let gone = self.alive.child_token();
        {
            let mut in_flight = self.in_flight();
            if in_flight.contains_key(&id) {
                return Err(Violation::DuplicateId.into());
            }
            in_flight.insert(id, gone.clone());
        }
        let request = InboundRequest {
            peer: self.link.peer,
            address: self.link.observed_ip(),
            body,
            deadline: Duration::from_millis(u64::from(deadline_ms)).min(DEADLINE_MAX),
            received: Instant::now(),
            gone,
            answer: Answer {
                id,
                replies: self.replies.clone(),
                slot: Some(slot),
                links: Arc::clone(&self.links),
                link: Arc::clone(self.link),
            },
        };
        // An owner that takes no requests drops its receiver; the peer then sees its deadlines pass.
        let _ = self.requests.send(request).await;
        Ok(())
    }

    async fn write_all(&self, writer: &mut FrameWriter, outbox: &mut Outbox) -> LaneEnd {
        loop {
            let step = tokio::select! {
                Some(reply) = outbox.replies.recv() => self.write_replies(writer, reply, outbox).await,
                Some(id) = outbox.pongs.recv() => writer.write(&Frame::Pong { id }).await,
                else => return LaneEnd::Stopped,
            };
            let flushed = match step {
                Ok(()) => writer.flush().await,
                Err(end) => Err(end),
            };
            if let Err(end) = flushed {
                return end;
            }
        }
    }

    /// Writes a reply and those that wait behind it, at most one queue's worth, before one flush.
    async fn write_replies(&self, writer: &mut FrameWriter, first: Reply, outbox: &mut Outbox) -> Result<(), LaneEnd> {
        self.write_reply(writer, first).await?;
        for _ in 0..REQUESTS_IN_FLIGHT_MAX {
            match outbox.replies.try_recv() {
                Ok(reply) => self.write_reply(writer, reply).await?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    async fn write_reply(&self, writer: &mut FrameWriter, reply: Reply) -> Result<(), LaneEnd> {
        let wanted = self.in_flight().remove(&reply.id).is_some();
        match reply.body {
            Some(body) if wanted => writer.write(&Frame::Response { id: reply.id, body }).await,
            _ => Ok(()),
        }
    }

    fn in_flight(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, CancellationToken>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
