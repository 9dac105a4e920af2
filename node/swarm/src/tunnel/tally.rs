//! What came on a tunnel lane, and what of it the peer was told. It decides when a credit is due, and writes none itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shoal_protocol::mesh::credit::Credit;
use tokio::sync::Notify;

use crate::limits::{CREDIT_BYTES, CREDIT_PAUSE};

/// Shared by both halves of a lane.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    received: AtomicU64,
    told: AtomicU64,
    owes: Notify,
}

impl Tally {
    /// So many bytes of frames came.
    pub(crate) fn came(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let before = self.received.fetch_add(bytes, Ordering::AcqRel);
        let owed = before.saturating_sub(self.told.load(Ordering::Acquire));
        // Whoever writes looks again when it has told something, so it is woken for the first byte and for the last that
        // a credit waits for.
        if owed == 0 || (owed < CREDIT_BYTES && owed.saturating_add(bytes) >= CREDIT_BYTES) {
            self.owes.notify_one();
        }
    }

    fn owed(&self) -> u64 {
        self.received.load(Ordering::Acquire).saturating_sub(self.told.load(Ordering::Acquire))
    }

    /// The credit that is owed, if one is: it counts as told.
    pub(crate) fn take(&self) -> Option<Credit> {
        let received = self.received.load(Ordering::Acquire);
        (self.told.swap(received, Ordering::AcqRel) != received).then_some(Credit(received))
    }

    /// Waits until a credit is due: at once after a pause, later while they follow each other. Dropping it loses nothing.
    pub(crate) async fn due(&self, told: Option<Instant>) {
        loop {
            let passed = told.map_or(Duration::MAX, |told| told.elapsed());
            match self.owed() {
                0 => self.owes.notified().await,
                CREDIT_BYTES.. => return,
                _ if passed >= CREDIT_PAUSE => return,
                _ => {
                    // Whether it was woken or its time has come, it looks.
                    let _ = tokio::time::timeout(CREDIT_PAUSE.saturating_sub(passed), self.owes.notified()).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_credit_is_due_at_once_after_a_pause_and_for_many_bytes_and_never_for_nothing() {
        let tally = Arc::new(Tally::default());
        let now = tokio::time::timeout(Duration::from_millis(50), tally.due(None)).await;
        assert!(now.is_err() && tally.take().is_none(), "nothing came");
        let waiting = tokio::spawn({
            let tally = Arc::clone(&tally);
            async move { tally.due(None).await }
        });
        tokio::task::yield_now().await;
        tally.came(5);
        waiting.await.unwrap();
        assert_eq!((tally.take(), tally.take()), (Some(Credit(5)), None));
        let told = Instant::now();
        tally.came(1);
        tally.due(Some(told)).await;
        assert!(told.elapsed() >= CREDIT_PAUSE);
        tally.came(CREDIT_BYTES);
        let soon = Instant::now().checked_add(Duration::from_secs(60)).unwrap();
        tally.due(Some(soon)).await;
        assert_eq!(tally.take(), Some(Credit(6 + CREDIT_BYTES)));
    }
}
