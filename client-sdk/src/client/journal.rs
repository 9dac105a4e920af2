//! The journal of one upload while it runs: the sealing thread notes what it sealed, the sender what was receipted. What
//! cannot be noted is noted no more, and the upload goes on without. Never asked for anything back once it runs.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_protocol::page::SegmentRef;
use shoal_protocol::{NodeId, SegmentNumber};

use super::Environment;
use crate::journal::{
    Entry, HeldUnit, JOURNAL_MAX, JournalError, JournalHeader, JournalState, JournalWriter, Mark, SealedSegment, mark,
};
use crate::keys::{MarkKey, RootKey};
use crate::pipeline::PlainSegment;
use crate::placement::PlacementError;

/// Where the journal of one upload lies. Calls block for as long as a small write does.
pub trait JournalStore: Send {
    /// What is there, nothing if there is none; at most [`JOURNAL_MAX`] bytes.
    ///
    /// # Errors
    /// The system's.
    fn load(&mut self) -> io::Result<Vec<u8>>;

    /// Puts `bytes` in its place, wholly or not at all.
    ///
    /// # Errors
    /// The system's.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Adds to its end. What a crash of the machine leaves of it may be cut.
    ///
    /// # Errors
    /// The system's.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// What became of the journal, where that is not what the owner would expect.
#[derive(Debug, thiserror::Error)]
pub enum JournalNote {
    /// It was there and could not be gone on with.
    #[error("an earlier upload of this was interrupted, but cannot be gone on with, so it began anew: {0}")]
    Unusable(#[from] JournalError),
    /// Its code does not fit the nodes there are.
    #[error("an earlier upload of this was interrupted, but its code no longer fits, so it began anew: {0}")]
    Code(#[source] PlacementError),
    /// It was made by other options.
    #[error("an earlier upload of this was interrupted, but with other options, so it began anew")]
    Options,
    /// It could not be read.
    #[error("the journal of an earlier upload cannot be read, so it began anew: {0}")]
    Unreadable(#[source] io::Error),
    /// It could not be written from some point on.
    #[error("the upload could not be noted: had it been interrupted, it would have begun anew: {0}")]
    NotWritten(#[source] io::Error),
}

/// The running journal. Cheap to clone; without a store it notes nothing.
#[derive(Clone, Default)]
pub(super) struct Logbook(Option<Arc<Mutex<Pages>>>);

struct Pages {
    store: Box<dyn JournalStore>,
    writer: JournalWriter,
    marks: MarkKey,
    environment: Environment,
    length: usize,
    failed: Option<io::Error>,
}

impl Logbook {
    /// Begins, or goes on: the file is written anew with what is known, so that it never grows by being resumed.
    pub(super) fn open(
        store: Box<dyn JournalStore>,
        header: &JournalHeader,
        root: &RootKey,
        state: &JournalState,
        serial: u64,
        environment: &Environment,
    ) -> Self {
        let writer = JournalWriter::new(header, root.clone());
        let (marks, environment) = (root.mark_key(), environment.clone());
        let mut pages = Pages { store, writer, marks, environment, length: 0, failed: None };
        let mut bytes = header.to_bytes();
        for entry in state.entries(serial) {
            bytes.extend(pages.writer.entry(entry, pages.environment.random()));
        }
        pages.length = bytes.len();
        pages.failed = pages.store.replace(&bytes).err();
        Self(Some(Arc::new(Mutex::new(pages))))
    }

    /// The mark of a segment, if anything is noted at all.
    pub(super) fn mark(&self, segment: &PlainSegment) -> Option<Mark> {
        let pages = self.0.as_ref()?;
        let key = pages.lock().unwrap_or_else(PoisonError::into_inner).marks.clone();
        Some(mark(&key, segment))
    }

    /// A segment was sealed; noted before any of its shards is sent.
    pub(super) fn sealed(&self, number: SegmentNumber, mark: Option<Mark>, reference: &SegmentRef) {
        if let Some(mark) = mark {
            self.note(Entry::Sealed(SealedSegment { number, mark, reference: reference.clone() }));
        }
    }

    /// A node receipted a shard. Pages are made anew when an upload goes on, so theirs are not noted.
    pub(super) fn held(&self, number: SegmentNumber, unit: usize, node: NodeId) {
        if let Ok(unit) = u16::try_from(unit)
            && !number.is_page()
        {
            self.note(Entry::Held(HeldUnit { number, unit, node }));
        }
    }

    /// Why it could not be written from some point on, if so.
    pub(super) fn failure(&self) -> Option<JournalNote> {
        let mut pages = self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        pages.failed.take().map(JournalNote::NotWritten)
    }

    fn note(&self, entry: Entry) {
        let Some(pages) = &self.0 else { return };
        let mut pages = pages.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.failed.is_some() {
            return;
        }
        let salt = pages.environment.random();
        let bytes = pages.writer.entry(entry, salt);
        pages.length = pages.length.saturating_add(bytes.len());
        let written = if pages.length > JOURNAL_MAX {
            Err(io::Error::other(format!("it would be longer than {JOURNAL_MAX} bytes")))
        } else {
            pages.store.append(&bytes)
        };
        pages.failed = written.err();
    }
}
