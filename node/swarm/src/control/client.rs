//! The opening side of a control lane: requests out, responses in.
//!
//! Started by the connection's handler when its outbound control stream is negotiated, one per connection. It ends
//! with the stream, on a violation, on three unanswered pings, or when the swarm stops (after a goodbye). What is
//! lost: every request in flight, whose caller is told `Closed`; the remote may have executed it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::io::{AsyncReadExt, ReadHalf};
use libp2p::Stream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::codec::{Frame, REQUEST_BODY_MAX};
use super::wire::{FrameWriter, LaneEnd, Violation, read_frame};
use crate::error::RequestError;
use crate::limits::{GOODBYE_TIMEOUT, PING_INTERVAL, PINGS_MISSED_MAX, REQUESTS_IN_FLIGHT_MAX};
use crate::link::{CloseReason, Link, Support};

/// What callers ask of the task.
#[derive(Debug)]
pub(crate) enum ClientCommand {
    /// Send a request.
    Request {
        id: u64,
        body: Bytes,
        deadline: Instant,
        reply: oneshot::Sender<Bytes>,
        /// Held until the response, the cancel or the end of the lane.
        slot: OwnedSemaphorePermit,
    },
    /// Nobody waits for this one any more.
    Cancel { id: u64 },
}

/// The callers' end of one control lane.
#[derive(Debug)]
pub(crate) struct ControlHandle {
    commands: mpsc::Sender<ClientCommand>,
    slots: Arc<Semaphore>,
    next_id: AtomicU64,
}

/// Sends a cancel when the caller's future is dropped or its deadline passes.
struct CancelOnDrop<'a> {
    commands: &'a mpsc::Sender<ClientCommand>,
    id: u64,
    armed: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            // The queue holds two commands per slot; if it is full the response is ignored when it comes.
            let _ = self.commands.try_send(ClientCommand::Cancel { id: self.id });
        }
    }
}

impl ControlHandle {
    pub(crate) fn new(commands: mpsc::Sender<ClientCommand>) -> Self {
        Self { commands, slots: Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT_MAX)), next_id: AtomicU64::new(1) }
    }

    /// Sends one request and waits for its response. Cancel safe: dropping the future cancels the request.
    pub(crate) async fn request(&self, body: Bytes, deadline: Duration) -> Result<Bytes, RequestError> {
        if body.len() > REQUEST_BODY_MAX {
            return Err(RequestError::TooLarge { bytes: body.len() });
        }
        let deadline = deadline.min(crate::limits::DEADLINE_MAX);
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| RequestError::Busy)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, response) = oneshot::channel();
        let until = Instant::now() + deadline;
        let command = ClientCommand::Request { id, body, deadline: until, reply, slot };
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RequestError::Busy,
            mpsc::error::TrySendError::Closed(_) => RequestError::Closed,
        })?;
        let mut cancel = CancelOnDrop { commands: &self.commands, id, armed: true };
        match tokio::time::timeout_at(until, response).await {
            Ok(answer) => {
                cancel.armed = false;
                answer.map_err(|_| RequestError::Closed)
            }
            Err(_) => Err(RequestError::Timeout(deadline)),
        }
    }
}

struct Pending {
    reply: oneshot::Sender<Bytes>,
    _slot: OwnedSemaphorePermit,
}

#[derive(Default)]
struct PingState {
    /// Id and time of the last ping written.
    last: Option<(u64, Instant)>,
    /// Ticks since the last frame from the remote.
    silent: u32,
}

/// What reader, writer and pinger share; all three run in one task.
#[derive(Default)]
struct Shared {
    /// At most [`REQUESTS_IN_FLIGHT_MAX`]: each entry owns a slot.
    pending: Mutex<BTreeMap<u64, Pending>>,
    ping: Mutex<PingState>,
    ping_due: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the lane to its end and says what that means for the connection.
pub(crate) async fn run(
    stream: Stream,
    mut commands: mpsc::Receiver<ClientCommand>,
    link: Arc<Link>,
    stop: CancellationToken,
    _worker: OwnedSemaphorePermit,
) {
    let shared = Shared::default();
    let (mut half, write_half) = stream.split();
    let mut writer = FrameWriter::new(write_half);
    let (end, can_read) = tokio::select! {
        end = read_all(&mut half, &shared, &link) => (end, false),
        end = write_all(&mut writer, &mut commands, &shared) => (end, true),
        end = tick(&shared, &link) => (end, true),
        () = stop.cancelled() => (LaneEnd::Stopped, false),
    };
    let is_silent = can_read && link.support() == Support::Unknown;
    let end = if is_silent { refused_or(end, &mut half).await } else { end };
    tracing::debug!(peer = %link.peer, end = %end, "outbound control lane ended");
    match end {
        LaneEnd::Unsupported => link.set_support(Support::No),
        LaneEnd::Stream(_) => link.condemn(CloseReason::ControlLost),
        LaneEnd::Violation(_) => link.condemn(CloseReason::Violation),
        LaneEnd::Goodbye => link.condemn(CloseReason::Goodbye),
        LaneEnd::Silent => link.condemn(CloseReason::Silent),
        LaneEnd::Stalled => link.condemn(CloseReason::Stalled),
        LaneEnd::Stopped => writer.goodbye().await,
    }
}

/// A stream that no write gets through, and on which nothing came, may have been refused: the refusal is read then, if it is
/// there. One whose read failed cannot be read again.
async fn refused_or(end: LaneEnd, half: &mut ReadHalf<Stream>) -> LaneEnd {
    if !matches!(end, LaneEnd::Stream(_)) {
        return end;
    }
    match tokio::time::timeout(GOODBYE_TIMEOUT, read_frame(half)).await {
        Ok(Err(LaneEnd::Unsupported)) => LaneEnd::Unsupported,
        _ => end,
    }
}

async fn read_all(half: &mut ReadHalf<Stream>, shared: &Shared, link: &Link) -> LaneEnd {
    let mut first = true;
    loop {
        let frame = match read_frame(half).await {
            Ok(frame) => frame,
            Err(end) => return end,
        };
        if first {
            link.set_support(Support::Yes);
            first = false;
        }
        lock(&shared.ping).silent = 0;
        match frame {
            // An unknown id is a response that crossed our cancel.
            Frame::Response { id, body } => {
                if let Some(pending) = lock(&shared.pending).remove(&id) {
                    let _ = pending.reply.send(body);
                }
            }
            Frame::Pong { id } => {
                let sent = lock(&shared.ping).last.filter(|(last, _)| *last == id);
                if let Some((_, at)) = sent {
                    link.set_rtt(at.elapsed());
                }
            }
            Frame::Goodbye { .. } => return LaneEnd::Goodbye,
            Frame::Request { .. } | Frame::Cancel { .. } | Frame::Ping { .. } => return Violation::Direction.into(),
        }
    }
}

async fn write_all(writer: &mut FrameWriter, commands: &mut mpsc::Receiver<ClientCommand>, shared: &Shared) -> LaneEnd {
    loop {
        let step = tokio::select! {
            command = commands.recv() => match command {
                Some(command) => write_batch(writer, command, commands, shared).await,
                None => return LaneEnd::Stopped,
            },
            () = shared.ping_due.notified() => write_ping(writer, shared).await,
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

/// Writes a command and those that wait behind it, at most one queue's worth, before one flush.
async fn write_batch(
    writer: &mut FrameWriter,
    first: ClientCommand,
    commands: &mut mpsc::Receiver<ClientCommand>,
    shared: &Shared,
) -> Result<(), LaneEnd> {
    write_command(writer, first, shared).await?;
    for _ in 0..crate::limits::CONTROL_COMMANDS_MAX {
        match commands.try_recv() {
            Ok(command) => write_command(writer, command, shared).await?,
            Err(_) => break,
        }
    }
    Ok(())
}

async fn write_command(writer: &mut FrameWriter, command: ClientCommand, shared: &Shared) -> Result<(), LaneEnd> {
    match command {
        ClientCommand::Request { id, body, deadline, reply, slot } => {
            if reply.is_closed() {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            let deadline_ms = u32::try_from(left).unwrap_or(u32::MAX);
            lock(&shared.pending).insert(id, Pending { reply, _slot: slot });
            writer.write(&Frame::Request { id, deadline_ms, body }).await
        }
        ClientCommand::Cancel { id } => {
            let waiting = lock(&shared.pending).remove(&id).is_some();
            if waiting { writer.write(&Frame::Cancel { id }).await } else { Ok(()) }
        }
    }
}

async fn write_ping(writer: &mut FrameWriter, shared: &Shared) -> Result<(), LaneEnd> {
    let id = {
        let mut ping = lock(&shared.ping);
        let id = ping.last.map_or(0, |(last, _)| last).wrapping_add(1);
        ping.last = Some((id, Instant::now()));
        id
    };
    writer.write(&Frame::Ping { id }).await
}

/// Asks for a ping now and every interval, and drops pooled lanes that nobody used for long.
async fn tick(shared: &Shared, link: &Link) -> LaneEnd {
    let mut interval = tokio::time::interval(PING_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        {
            let mut ping = lock(&shared.ping);
            if ping.silent >= PINGS_MISSED_MAX {
                return LaneEnd::Silent;
            }
            ping.silent = ping.silent.saturating_add(1);
        }
        shared.ping_due.notify_one();
        link.shared.pool.drop_stale();
    }
}
