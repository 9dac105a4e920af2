//! The frames that wait for one tunnel lane: handed over by the packet half, written by a task, their memory used again.
//! Bounded by bytes, and by what the peer says came ([`Flight`]); what finds no room is the caller's to keep or to drop.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use shoal_engine::mesh::qos::Flight;
use shoal_engine::mesh::qos::flight::CreditError;
use shoal_protocol::mesh::credit::Credit;
use shoal_swarm::TunnelWriter;
use tokio::sync::mpsc;

use crate::vpn::system::wake::Wake;

/// Bytes that may wait between the packet half and the task: with what the lane itself keeps below it, two of the largest
/// frames, so that one is sealed while the other is written.
const WAITING_MAX: usize = 128 * 1024;
/// Bytes given to the lane at once: what its batch takes, lengths included.
const BATCH_BYTES: usize = 128 * 1024;
/// Frames that may wait: as many of the shortest packets as WAITING_MAX bytes have room for.
const FRAMES_MAX: usize = 2048;
/// Part of what may be on its way that is written at once, where that is little: so that the link sends one part while the
/// peer tells of another.
const BATCH_PART: u64 = 4;
/// Bytes of the length before a frame.
const LENGTH_BYTES: usize = 2;
/// Frames whose memory is kept to be used again.
const SPARE_MAX: usize = 8;

/// One sealed frame in memory that may be longer.
#[derive(Debug, Default)]
pub(crate) struct LaneFrame {
    pub(crate) memory: Vec<u8>,
    pub(crate) length: usize,
}

impl AsRef<[u8]> for LaneFrame {
    fn as_ref(&self) -> &[u8] {
        self.memory.get(..self.length).unwrap_or_default()
    }
}

#[derive(Debug)]
struct Shared {
    /// Bytes that wait.
    waiting: AtomicUsize,
    flight: Mutex<Flight>,
    begun: Instant,
    /// Somebody found it full since it last had room.
    is_missed: AtomicBool,
    spare: Mutex<Vec<Vec<u8>>>,
    /// Woken when what was full has room again.
    room: Arc<Wake>,
}

impl Shared {
    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn tell_missed(&self) {
        if self.is_missed.swap(false, Ordering::SeqCst) && self.room.wake().is_err() {
            tracing::debug!("a full tunnel lane has room again, and nobody can be woken");
        }
    }
}

/// What the task that reads the lane says of its other direction.
#[derive(Debug)]
pub(crate) struct LaneCredits(Arc<Shared>);

impl LaneCredits {
    /// The peer said what came.
    ///
    /// # Errors
    /// [`CreditError`]: the lane is of no use.
    pub(crate) fn handle(&self, credit: Credit) -> Result<(), CreditError> {
        let has_room = {
            let mut flight = self.0.flight();
            flight.credit(credit.0, self.0.now_us())?;
            flight.has_room()
        };
        if has_room {
            self.0.tell_missed();
        }
        Ok(())
    }
}

/// The packet half's end.
#[derive(Debug)]
pub(crate) struct LaneQueue {
    frames: mpsc::Sender<LaneFrame>,
    shared: Arc<Shared>,
}

impl LaneQueue {
    /// Whether another frame is taken now. Who hears no is woken when there is room.
    pub(crate) fn has_room(&self) -> bool {
        if self.is_open() {
            return true;
        }
        self.shared.is_missed.store(true, Ordering::SeqCst);
        self.shared.flight().missed();
        // Looked at again: the task may have made room before it could see that somebody waits for it.
        self.is_open()
    }

    fn is_open(&self) -> bool {
        let has_place = self.shared.waiting.load(Ordering::SeqCst) < WAITING_MAX && self.frames.capacity() > 0;
        has_place && self.shared.flight().has_room()
    }

    /// Bytes a second that reach the peer, as far as that is known.
    pub(crate) fn rate(&self) -> Option<u64> {
        self.shared.flight().rate(self.shared.now_us())
    }

    /// Memory of at least `length` bytes for a frame.
    pub(crate) fn memory(&self, length: usize) -> Vec<u8> {
        let spare = self.shared.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut memory = spare.unwrap_or_default();
        if memory.len() < length {
            memory.resize(length, 0);
        }
        memory
    }

    /// Hands a frame over; it is lost if the lane is gone.
    pub(crate) fn push(&self, frame: LaneFrame) {
        let length = frame.length;
        self.shared.waiting.fetch_add(length, Ordering::AcqRel);
        // Held while it is handed over, so that what is sent was counted before anybody says that it came.
        let mut flight = self.shared.flight();
        if self.frames.try_send(frame).is_ok() {
            flight.sent(length.saturating_add(LENGTH_BYTES) as u64, self.shared.now_us());
        } else {
            // Gone with its lane, of which the control half hears by itself, or full of words in between.
            self.shared.waiting.fetch_sub(length, Ordering::AcqRel);
        }
    }
}

/// A queue, what is to be told of credits, and the task that empties the queue into `writer` and tells the peer what came.
/// The task ends with the lane, or when the queue is dropped; frames that still wait are lost then. `room` is woken when
/// a full queue has room again.
pub(crate) fn start(writer: TunnelWriter, room: Arc<Wake>) -> (LaneQueue, LaneCredits, impl Future<Output = ()>) {
    let (sender, frames) = mpsc::channel(FRAMES_MAX);
    let shared = Arc::new(Shared {
        waiting: AtomicUsize::new(0),
        flight: Mutex::default(),
        begun: Instant::now(),
        is_missed: AtomicBool::new(false),
        spare: Mutex::default(),
        room,
    });
    let queue = LaneQueue { frames: sender, shared: Arc::clone(&shared) };
    (queue, LaneCredits(Arc::clone(&shared)), run(writer, frames, shared))
}

async fn run(mut writer: TunnelWriter, mut frames: mpsc::Receiver<LaneFrame>, shared: Arc<Shared>) {
    let mut next = None;
    let mut batch: Vec<LaneFrame> = Vec::new();
    loop {
        if writer.ready().await.is_err() {
            return;
        }
        if next.is_none() {
            tokio::select! {
                biased;
                frame = frames.recv() => match frame {
                    Some(frame) => next = Some(frame),
                    None => return,
                },
                // With no frames to send the peer is told all the same.
                () = writer.owed() => {}
            }
        }
        let bytes = next.take().map_or(0, |first| shared.gather(first, &mut frames, (&mut batch, &mut next)));
        let sent = writer.send(&batch).await;
        shared.waiting.fetch_sub(bytes, Ordering::SeqCst);
        {
            let mut spare = shared.spare.lock().unwrap_or_else(PoisonError::into_inner);
            let left = SPARE_MAX.saturating_sub(spare.len());
            spare.extend(batch.drain(..).take(left).map(|frame| frame.memory));
        }
        batch.clear();
        if bytes > 0 {
            shared.tell_missed();
        }
        if sent.is_err() {
            return;
        }
    }
}

impl Shared {
    /// Takes what is written at once: the first frame, and those that wait behind it. What does not fit any more becomes
    /// the next one. Bytes of all frames.
    fn gather(
        &self,
        first: LaneFrame,
        frames: &mut mpsc::Receiver<LaneFrame>,
        (batch, next): (&mut Vec<LaneFrame>, &mut Option<LaneFrame>),
    ) -> usize {
        let part = usize::try_from(self.flight().window() / BATCH_PART).unwrap_or(usize::MAX);
        let most = part.min(BATCH_BYTES);
        let mut bytes = first.length;
        batch.push(first);
        while let Ok(frame) = frames.try_recv() {
            let lengths = batch.len().saturating_add(1).saturating_mul(LENGTH_BYTES);
            if bytes.saturating_add(frame.length).saturating_add(lengths) > most {
                *next = Some(frame);
                break;
            }
            bytes = bytes.saturating_add(frame.length);
            batch.push(frame);
        }
        bytes
    }
}
