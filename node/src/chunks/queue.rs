//! The queue between callers and the one log-writer thread: it gathers what the callers push into batches, so that
//! one sync of the log serves many of them (group commit). It never blocks a caller, never reorders or repeats an
//! item, never looks into one, and loses none unless the commit panics.

use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// When a batch is complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchRule {
    /// A batch is complete with this many bytes; its last item may exceed them.
    pub bytes: u64,
    /// The most items of a batch.
    pub items: usize,
    /// How long the first item of a batch waits for others; zero takes what is there and goes.
    pub wait: Duration,
}

/// Why an item was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PushError {
    /// The queue holds as many items as it may.
    Full,
    /// The queue takes no more items, now or later.
    Closed,
}

/// An item in the queue.
struct Entry<T> {
    /// What the caller pushed.
    item: T,
    /// What it counts for in `BatchRule::bytes`.
    bytes: u64,
    /// When it was pushed; the wait of a batch counts from here.
    pushed: Instant,
}

/// What the mutex guards.
struct State<T> {
    /// The items not yet handed to the commit, oldest first.
    entries: VecDeque<Entry<T>>,
    /// Whether further items are refused.
    closed: bool,
}

/// A bounded queue of many callers and one server.
pub(crate) struct Queue<T> {
    /// The items and whether more are taken.
    state: Mutex<State<T>>,
    /// Signalled when an item is pushed or the queue closes; only the server waits on it.
    changed: Condvar,
    /// The most items held at once.
    items_max: usize,
}

impl<T> Queue<T> {
    /// An open, empty queue that holds at most `items_max` items, those handed to the commit not counted.
    pub(crate) fn new(items_max: usize) -> Self {
        let state = State { entries: VecDeque::new(), closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), items_max }
    }

    /// Appends an item and wakes the server. Never blocks; a refused item comes back with the reason.
    pub(crate) fn push(&self, item: T, bytes: u64) -> Result<(), (T, PushError)> {
        let pushed = Instant::now();
        let mut state = self.lock();
        if state.closed {
            return Err((item, PushError::Closed));
        }
        if state.entries.len() >= self.items_max {
            return Err((item, PushError::Full));
        }
        state.entries.push_back(Entry { item, bytes, pushed });
        // Woken after the unlock, or the server would run straight into the lock.
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Refuses further items; `serve` returns once those queued are done.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The loop of the writer thread: gathers batches by `rule` and hands each to `commit`, until the queue is closed
    /// and empty. One thread at a time, as the order of two would be nobody's. If `commit` panics, the queue closes
    /// and the items still in it are dropped, so whoever waits for an item must learn of its drop.
    pub(crate) fn serve(&self, rule: &BatchRule, mut commit: impl FnMut(Vec<T>)) {
        let _close = CloseOnDrop(self);
        while let Some(batch) = self.gather(rule) {
            commit(batch);
        }
    }

    /// How many items wait to be handed to the commit.
    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Waits for a complete batch and takes it out; `None` when the queue is closed and empty.
    fn gather(&self, rule: &BatchRule) -> Option<Vec<T>> {
        // A batch larger than the queue could only end by its wait, with every push refused until then.
        let items_max = rule.items.min(self.items_max).max(1);
        let (mut items, mut bytes) = (0, 0_u64);
        let mut state = self.lock();
        loop {
            // Only the server takes entries out, so those counted before a wait are still the first ones.
            let full = loop {
                if items == items_max || (items > 0 && bytes >= rule.bytes) {
                    break true;
                }
                let Some(next) = state.entries.get(items) else { break false };
                (items, bytes) = (items + 1, bytes.saturating_add(next.bytes));
            };
            let left = state.entries.front().map(|first| rule.wait.saturating_sub(first.pushed.elapsed()));
            state = match left {
                None if state.closed => return None,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) if full || state.closed || left.is_zero() => {
                    return Some(state.entries.drain(..items).map(|entry| entry.item).collect());
                }
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// The state. A poisoned mutex is taken as it is: no change of the state can stop half-way.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("items_max", &self.items_max).finish_non_exhaustive()
    }
}

/// Closes a queue whose server is gone, however it went.
struct CloseOnDrop<'a, T>(&'a Queue<T>);

impl<T> Drop for CloseOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.close();
        // Dropped outside the lock, since the drop of an item may call back into the queue.
        let unserved = std::mem::take(&mut self.0.lock().entries);
        drop(unserved);
    }
}
