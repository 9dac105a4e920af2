//! How background jobs hand in records: to the writer thread through its queue, or straight to a writer where there is no
//! thread. It decides nothing about them.

use std::sync::Weak;

use tokio::sync::oneshot;

use super::commit::{Append, BATCH, Draft, Request, Writer};
use super::error::PutError;
use super::{Inner, Stored};

/// Where jobs hand in records.
pub(crate) trait Log: Send {
    /// Makes these durable; one answer each, in order.
    fn commit(&mut self, drafts: Vec<Draft>) -> Vec<Result<Stored, PutError>>;
    /// Ends the active segment if it is this one.
    fn rotate(&mut self, segment: u32);
}

/// The queue of a running store. It does not keep the store open.
#[derive(Debug)]
pub(crate) struct QueuedLog(pub Weak<Inner>);

impl Log for QueuedLog {
    fn commit(&mut self, drafts: Vec<Draft>) -> Vec<Result<Stored, PutError>> {
        let Some(inner) = self.0.upgrade() else { return vec![Err(PutError::Closed); drafts.len()] };
        let last = drafts.len().saturating_sub(1);
        let waiters: Vec<_> = drafts
            .into_iter()
            .enumerate()
            .map(|(at, draft)| {
                let size = draft.size();
                let space = inner.shared.space.force(size);
                // Nothing more comes after the last: the batch does not wait for it.
                let bytes = if at == last { BATCH.bytes } else { size };
                futures::executor::block_on(inner.enqueue(draft, space, bytes))
            })
            .collect();
        let answer = |waiter: Result<oneshot::Receiver<_>, PutError>| {
            waiter.and_then(|waiter| waiter.blocking_recv().unwrap_or(Err(PutError::Closed)))
        };
        waiters.into_iter().map(answer).collect()
    }

    fn rotate(&mut self, segment: u32) {
        let Some(inner) = self.0.upgrade() else { return };
        let (done, waiter) = oneshot::channel();
        if inner.queue.push(Request::Rotate(segment, done), 0).is_ok() {
            let _ = waiter.blocking_recv();
        }
    }
}

impl Log for Writer {
    fn commit(&mut self, drafts: Vec<Draft>) -> Vec<Result<Stored, PutError>> {
        let mut waiters = Vec::with_capacity(drafts.len());
        let mut batch = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let (done, waiter) = oneshot::channel();
            batch.push(Append { space: self.shared.space.force(draft.size()), draft, done });
            waiters.push(waiter);
        }
        self.commit_batch(batch);
        waiters.into_iter().map(|mut waiter| waiter.try_recv().unwrap_or(Err(PutError::Closed))).collect()
    }

    fn rotate(&mut self, segment: u32) {
        self.end_segment(segment);
    }
}
