//! What a retrieval brings is written by a thread of its own, so that the disk or the reader of a pipe holds up nothing
//! but what is a bounded number of pieces behind. It never looks into a piece.

use std::io;
use std::pin::pin;
use std::thread::{self, JoinHandle};

use futures::stream::{Stream, StreamExt};
use shoal_client::client::{ReadPiece, RetrieveError};
use tokio::sync::{mpsc, oneshot};

/// Pieces between the network and the thread; one of a large file is a segment of it.
const PIECES_AHEAD: usize = 1;

/// What happens to the thread when a retrieval is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// It is waited for: what it has written is removed next.
    Wait,
    /// It is left alone: it may wait for somebody who reads no more.
    Leave,
}

/// The thread; [`GivenUp::Wait`] is kept when this is dropped.
#[derive(Debug)]
struct Thread {
    handle: Option<JoinHandle<()>>,
    given_up: GivenUp,
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take().filter(|_| self.given_up == GivenUp::Wait) {
            // A panic was said already, and nothing of what was written is used.
            let _ = handle.join();
        }
    }
}

/// Output under way. Its fields are dropped in this order: the thread ends when nothing can come any more.
#[derive(Debug)]
pub(crate) struct Writing {
    out: mpsc::Sender<ReadPiece>,
    ended: oneshot::Receiver<io::Result<()>>,
    thread: Thread,
}

impl Writing {
    /// Starts a thread that calls `write` piece by piece, and with none when no more comes.
    pub(crate) fn start(
        given_up: GivenUp,
        mut write: impl FnMut(Option<ReadPiece>) -> io::Result<()> + Send + 'static,
    ) -> Result<Self, RetrieveError> {
        let (out, mut pieces) = mpsc::channel::<ReadPiece>(PIECES_AHEAD);
        let (say, ended) = oneshot::channel();
        let run = move || {
            let written = loop {
                let piece = pieces.blocking_recv();
                let last = piece.is_none();
                let written = write(piece);
                if last || written.is_err() {
                    break written;
                }
            };
            // Nobody listens if the retrieval was given up.
            let _ = say.send(written);
        };
        let handle = thread::Builder::new().name("output".into()).spawn(run).map_err(RetrieveError::Output)?;
        Ok(Self { out, ended, thread: Thread { handle: Some(handle), given_up } })
    }

    /// Writes all that comes and waits for the end; `on` hears of the bytes handed over.
    pub(crate) async fn all(
        self,
        pieces: impl Stream<Item = Result<ReadPiece, RetrieveError>>,
        on: impl Fn(u64),
    ) -> Result<(), RetrieveError> {
        // Dropped last to first.
        let Self { thread: _thread, ended, out } = self;
        let mut pieces = pin!(pieces);
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            let bytes = piece.bytes.len() as u64;
            if out.send(piece).await.is_err() {
                // The thread has ended, and says why.
                break;
            }
            on(bytes);
        }
        drop(out);
        ended.await.map_err(|_| RetrieveError::Interrupted)?.map_err(RetrieveError::Output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use futures::stream;

    fn piece(index: usize) -> Result<ReadPiece, RetrieveError> {
        Ok(ReadPiece { index, bytes: vec![7; index].into() })
    }

    #[tokio::test]
    async fn all_is_written_in_order_before_the_end_is_said() {
        let written = Arc::new(Mutex::new(vec![]));
        let (seen, handed) = (Arc::clone(&written), Mutex::new(0));
        let writing = Writing::start(GivenUp::Wait, move |piece| {
            seen.lock().unwrap().push(piece.map(|piece| piece.index));
            Ok(())
        });
        let pieces = stream::iter((1..5).map(piece));
        writing.unwrap().all(pieces, |bytes| *handed.lock().unwrap() += bytes).await.unwrap();
        assert_eq!(*written.lock().unwrap(), [Some(1), Some(2), Some(3), Some(4), None]);
        assert_eq!(*handed.lock().unwrap(), 10);
    }

    #[tokio::test]
    async fn a_failure_to_write_ends_the_reading() {
        let writing = Writing::start(GivenUp::Wait, |piece| match piece {
            Some(piece) if piece.index == 2 => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        });
        let endless = stream::iter((1..).map(|index: usize| piece(index.min(9))));
        let ended = writing.unwrap().all(endless, |_| {}).await;
        assert!(matches!(ended, Err(RetrieveError::Output(error)) if error.kind() == io::ErrorKind::StorageFull));
    }

    #[tokio::test]
    async fn who_gives_up_waits_for_the_thread_or_leaves_it() {
        for (given_up, waited) in [(GivenUp::Wait, true), (GivenUp::Leave, false)] {
            let done = Arc::new(AtomicBool::new(false));
            let ended = Arc::clone(&done);
            let writing = Writing::start(given_up, move |_| {
                thread::sleep(Duration::from_millis(300));
                ended.store(true, Ordering::SeqCst);
                Ok(())
            });
            let pieces = stream::iter([piece(1)]).chain(stream::pending());
            let stopped = tokio::time::timeout(Duration::from_millis(50), writing.unwrap().all(pieces, |_| {})).await;
            assert!(stopped.is_err());
            assert_eq!(done.load(Ordering::SeqCst), waited, "{given_up:?}");
        }
    }
}
