//! The frames that wait for one tunnel lane: handed over by the packet half, written by a task, their memory used again.
//! Bounded by bytes; what finds no room is the caller's to keep or to drop.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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

#[derive(Debug, Default)]
struct Shared {
    /// Bytes that wait.
    waiting: AtomicUsize,
    /// Somebody found it full since it last had room.
    is_missed: AtomicBool,
    spare: Mutex<Vec<Vec<u8>>>,
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
        // Looked at again: the task may have made room before it could see that somebody waits for it.
        self.is_open()
    }

    fn is_open(&self) -> bool {
        self.shared.waiting.load(Ordering::SeqCst) < WAITING_MAX && self.frames.capacity() > 0
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
        if self.frames.try_send(frame).is_err() {
            // Gone with its lane, of which the control half hears by itself, or full of words in between.
            self.shared.waiting.fetch_sub(length, Ordering::AcqRel);
        }
    }
}

/// A queue and the task that empties it into `writer`. The task ends with the lane, or when the queue is dropped; frames
/// that still wait are lost then. `room` is woken when a full queue has room again.
pub(crate) fn start(writer: TunnelWriter, room: Arc<Wake>) -> (LaneQueue, impl Future<Output = ()>) {
    let (sender, frames) = mpsc::channel(FRAMES_MAX);
    let shared = Arc::new(Shared::default());
    (LaneQueue { frames: sender, shared: Arc::clone(&shared) }, run(writer, frames, shared, room))
}

async fn run(mut writer: TunnelWriter, mut frames: mpsc::Receiver<LaneFrame>, shared: Arc<Shared>, room: Arc<Wake>) {
    let mut next = None;
    let mut batch: Vec<LaneFrame> = Vec::new();
    loop {
        if writer.ready().await.is_err() {
            return;
        }
        let first = match next.take() {
            Some(frame) => Some(frame),
            None => frames.recv().await,
        };
        let Some(first) = first else { return };
        let mut bytes = first.length;
        batch.push(first);
        while let Ok(frame) = frames.try_recv() {
            // Each has a length of two bytes before it.
            let lengths = batch.len().saturating_add(1).saturating_mul(2);
            if bytes.saturating_add(frame.length).saturating_add(lengths) > BATCH_BYTES {
                next = Some(frame);
                break;
            }
            bytes = bytes.saturating_add(frame.length);
            batch.push(frame);
        }
        let sent = writer.send(&batch).await;
        shared.waiting.fetch_sub(bytes, Ordering::SeqCst);
        {
            let mut spare = shared.spare.lock().unwrap_or_else(PoisonError::into_inner);
            let left = SPARE_MAX.saturating_sub(spare.len());
            spare.extend(batch.drain(..).take(left).map(|frame| frame.memory));
        }
        batch.clear();
        if shared.is_missed.swap(false, Ordering::SeqCst) && room.wake().is_err() {
            tracing::debug!("a full tunnel lane has room again, and nobody can be woken");
        }
        if sent.is_err() {
            return;
        }
    }
}
