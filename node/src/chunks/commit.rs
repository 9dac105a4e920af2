//! The one writer: takes a batch, writes it, syncs once, publishes to the index, then completes the waiters.
//!
//! It never completes a waiter with success before the sync that covers its record, and never touches a descriptor
//! again after a write or sync on it failed.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::PutError;
use super::index::Slot;
use super::judge::{Judge, Verdict};
use super::queue::BatchRule;
use super::record::{Entry, HEADER_BYTES, Kind, record_size, tail};
use super::segment::{Active, SEGMENT_RECORDS_MAX};
use super::space::SpaceReservation;
use super::vfs::{DirLock, Vfs, is_no_space};
use super::{Shared, Stored};

/// Most records of a batch.
pub(crate) const BATCH_RECORDS: usize = 64;
/// A batch is written once it holds this many bytes or records, or when its first record has waited this long.
pub(crate) const BATCH: BatchRule =
    BatchRule { bytes: 4 * 1024 * 1024, items: BATCH_RECORDS, wait: Duration::from_millis(4) };
/// Most records that wait for the writer; further callers wait for a permit.
pub(crate) const QUEUE_RECORDS: usize = 128;
/// Failures of the disk after which nothing is accepted any more.
const FAILURES_MAX: u32 = 2;

/// What a record is to say.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub kind: Kind,
    pub key: [u8; 32],
    pub group: [u8; 32],
    pub number: u64,
    pub payload: Bytes,
    pub outboard: Vec<u8>,
    pub crc: u32,
    /// The stored copy found damaged just now: it does not count as stored.
    pub rotted: Option<Slot>,
    /// Only if the index still has the key at this segment and offset.
    pub at: Option<(u32, u64)>,
    /// Only if nothing holds the key since this time, milliseconds since 1970.
    pub lapsed: Option<u64>,
    /// A copy keeps the sequence number of what it copies.
    pub sequence: Option<u64>,
}

/// One record on its way to the log.
#[derive(Debug)]
pub(crate) struct Append {
    pub draft: Draft,
    pub space: SpaceReservation,
    pub done: oneshot::Sender<Result<Stored, PutError>>,
}

/// What the writer is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// Store this; the permit is its place in the queue.
    Append(Box<Append>, Option<OwnedSemaphorePermit>),
    /// End the active segment, if it is this one; the next record begins a new one.
    Rotate(u32, oneshot::Sender<()>),
}

/// The state of the writer thread.
#[derive(Debug)]
pub(crate) struct Writer {
    pub vfs: Arc<dyn Vfs>,
    pub data: PathBuf,
    pub shared: Arc<Shared>,
    pub active: Option<Active>,
    pub next_segment: u32,
    /// Number and durable end of the segment before the next one.
    pub previous: (u32, u64),
    pub next_sequence: u64,
    pub failures: u32,
    /// Held here so that nobody opens the directory while a last batch is still written.
    pub _lock: Box<dyn DirLock>,
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

impl Draft {
    /// Whether the store is smaller for it in the end: it may then use the space that is held back.
    fn frees(&self) -> bool {
        self.sequence.is_some() || matches!(self.kind, Kind::Drop | Kind::Tombstone)
    }

    /// Bytes it takes on disk if it is written as it is.
    pub(crate) fn size(&self) -> u64 {
        record_size(length(&self.payload), length(&self.outboard))
    }

    /// Bytes it takes if it is written as `kind`: a PUT of a known shard shrinks to a REF.
    fn size_as(&self, kind: Kind) -> u64 {
        if kind == Kind::Ref { record_size(0, 0) } else { self.size() }
    }
}

impl Append {
    /// Answers after unused space is given back, so that a caller that hears a refusal may reserve again at once.
    fn answer(self, result: Result<Stored, PutError>) {
        drop(self.space);
        // A caller that gave up no longer listens.
        let _ = self.done.send(result);
    }
}

/// A request with what becomes of it.
struct Judged {
    append: Append,
    /// The record to write; `None` if everything is so already.
    kind: Option<Kind>,
}

impl Writer {
    /// Serves one batch of requests.
    pub(crate) fn serve(&mut self, requests: Vec<Request>) {
        let mut batch = Vec::with_capacity(requests.len());
        let mut rotations = Vec::new();
        for request in requests {
            match request {
                Request::Append(append, permit) => {
                    drop(permit);
                    batch.push(*append);
                }
                Request::Rotate(segment, done) => rotations.push((segment, done)),
            }
        }
        self.commit_batch(batch);
        for (segment, done) in rotations {
            self.end_segment(segment);
            let _ = done.send(());
        }
    }

    /// Makes a batch durable and answers it.
    pub(crate) fn commit_batch(&mut self, batch: Vec<Append>) {
        let batch = self.judge(batch);
        if batch.is_empty() {
            return;
        }
        match self.write_if_allowed(&batch) {
            Ok(entries) => self.publish(batch, &entries),
            Err(PutError::DiskFull) => self.commit_what_frees(batch),
            Err(error) => batch.into_iter().for_each(|judged| judged.append.answer(Err(error))),
        }
    }

    /// On a full disk only what frees space is written, into the space that was held back for it.
    fn commit_what_frees(&mut self, batch: Vec<Judged>) {
        let (frees, rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(|judged| judged.append.draft.frees());
        rest.into_iter().for_each(|judged| judged.append.answer(Err(PutError::DiskFull)));
        if frees.is_empty() {
            return;
        }
        let mut result = self.write_if_allowed(&frees);
        if result == Err(PutError::DiskFull) && self.shared.space.release_reserve() {
            result = self.write_if_allowed(&frees);
        }
        match result {
            Ok(entries) => self.publish(frees, &entries),
            Err(error) => frees.into_iter().for_each(|judged| judged.append.answer(Err(error))),
        }
    }

    /// Answers what is refused and says for the rest which record to write, if any.
    fn judge(&self, batch: Vec<Append>) -> Vec<Judged> {
        let mut judge = Judge::new(&self.shared);
        let mut kept = Vec::with_capacity(batch.len());
        for append in batch {
            match judge.next(&append.draft) {
                Verdict::Write(kind) => kept.push(Judged { append, kind: Some(kind) }),
                Verdict::Nothing => kept.push(Judged { append, kind: None }),
                Verdict::Refuse(error) => append.answer(Err(error)),
            }
        }
        kept
    }

    fn write_if_allowed(&mut self, batch: &[Judged]) -> Result<Vec<Entry>, PutError> {
        if self.failures >= FAILURES_MAX || self.shared.is_detached() {
            return Err(PutError::ReadOnly);
        }
        self.write(batch)
    }

    /// Makes all records of a batch durable in one segment with one sync, or none of them counts.
    fn write(&mut self, batch: &[Judged]) -> Result<Vec<Entry>, PutError> {
        let records: Vec<(&Draft, Kind)> =
            batch.iter().filter_map(|judged| Some((&judged.append.draft, judged.kind?))).collect();
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let size: u64 = records.iter().map(|(draft, kind)| draft.size_as(*kind)).sum();
        let mut active = self.take_active(size, records.len())?;
        let end = active.synced.saturating_add(size);
        let allocated = active.allocated;
        if let Err(error) = active.allocate(end, self.shared.step) {
            return Err(self.give_up(active, &error, true));
        }
        if active.allocated != allocated {
            self.shared.space.set_preallocated(active.allocated.saturating_sub(active.synced));
        }

        let entries = self.place(&records, active.synced);
        let heads: Vec<[u8; HEADER_BYTES]> =
            entries.iter().map(|entry| self.shared.codec.header(entry, u64::from(active.number))).collect();
        let tails: Vec<Vec<u8>> = records
            .iter()
            .zip(&entries)
            .map(|((draft, _), entry)| {
                tail(if entry.payload == 0 { 0 } else { draft.crc }, entry.payload, entry.outboard)
            })
            .collect();
        let mut buffers = Vec::with_capacity(records.len().saturating_mul(4));
        for ((((draft, _), entry), head), tail) in records.iter().zip(&entries).zip(&heads).zip(&tails) {
            buffers.push(IoSlice::new(head));
            if entry.payload > 0 {
                buffers.push(IoSlice::new(&draft.payload));
                buffers.push(IoSlice::new(&draft.outboard));
            }
            buffers.push(IoSlice::new(tail));
        }
        match active.append(&mut buffers, &entries, end) {
            Ok(()) => {
                self.active = Some(active);
                Ok(entries)
            }
            Err(error) => Err(self.give_up(active, &error, false)),
        }
    }

    /// Entries one after the other from `offset`. A number once given is not given again, even if this write fails: what
    /// it leaves behind must not be taken for another record.
    fn place(&mut self, records: &[(&Draft, Kind)], mut offset: u64) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(records.len());
        for (draft, kind) in records {
            let bodiless = *kind == Kind::Ref;
            let sequence = draft.sequence.unwrap_or(self.next_sequence);
            if draft.sequence.is_none() {
                self.next_sequence = self.next_sequence.saturating_add(1);
            }
            let entry = Entry {
                kind: *kind,
                key: draft.key,
                group: draft.group,
                payload: if bodiless { 0 } else { length(&draft.payload) },
                outboard: if bodiless { 0 } else { length(&draft.outboard) },
                number: draft.number,
                sequence,
                offset,
            };
            offset = entry.end();
            entries.push(entry);
        }
        entries
    }

    /// The segment with room for a batch: the active one, or a new one after sealing it.
    fn take_active(&mut self, size: u64, records: usize) -> Result<Active, PutError> {
        if let Some(active) = self.active.take() {
            let room = active.synced.saturating_add(size) <= self.shared.segment_bytes;
            if active.entries.is_empty()
                || (room && active.entries.len().saturating_add(records) <= SEGMENT_RECORDS_MAX)
            {
                return Ok(active);
            }
            self.seal(&active)?;
        }
        let number = self.next_segment;
        let next = number.checked_add(1).ok_or(PutError::IndexFull)?;
        self.next_segment = next;
        let step = self.shared.step.min(self.shared.segment_bytes);
        let created = Active::create(self.vfs.as_ref(), &self.data, &self.shared.codec, number, self.previous, step);
        let active = created.map_err(|error| self.note(&error))?;
        self.shared.set_active(Some(number));
        self.shared.index_mut().segments.entry(number);
        self.shared.space.set_preallocated(active.allocated.saturating_sub(active.synced));
        Ok(active)
    }

    /// Ends a segment. Its records are durable: without a footer it costs a scan at open, no data.
    fn seal(&mut self, active: &Active) -> Result<(), PutError> {
        self.retire(active);
        let sealed = active.seal(&self.shared.codec);
        let mut index = self.shared.index_mut();
        let held = index.segments.entry(active.number);
        held.sealed = sealed.is_ok();
        held.suspect |= sealed.is_err();
        drop(index);
        match sealed {
            Ok(()) => Ok(()),
            Err(error) => match self.note(&error) {
                error if self.failures >= FAILURES_MAX => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// Seals the active segment, if it is this one.
    pub(crate) fn end_segment(&mut self, segment: u32) {
        if let Some(active) = self.active.take_if(|active| active.number == segment) {
            // A failure is counted; the next write meets it.
            let _ = self.seal(&active);
        }
    }

    /// The next segment will say where this one ends.
    fn retire(&mut self, active: &Active) {
        self.previous = (active.number, active.synced);
        self.shared.set_active(None);
        self.shared.space.set_preallocated(0);
    }

    /// After a failed append: a disk that was merely full keeps its segment, cut back to what is durable; any other
    /// failure poisons it at its last durable byte.
    fn give_up(&mut self, mut active: Active, error: &io::Error, untouched: bool) -> PutError {
        let answer = self.note(error);
        let usable = is_no_space(error) && !active.unsure && (untouched || active.roll_back().is_ok());
        if usable {
            self.shared.space.set_preallocated(active.allocated.saturating_sub(active.synced));
            self.active = Some(active);
        } else {
            tracing::error!(segment = active.number, end = active.synced, %error, "segment poisoned");
            self.retire(&active);
            self.shared.index_mut().segments.entry(active.number).suspect = true;
        }
        answer
    }

    /// Counts a failure of the disk. A full disk is none.
    fn note(&mut self, error: &io::Error) -> PutError {
        if is_no_space(error) {
            return PutError::DiskFull;
        }
        self.failures = self.failures.saturating_add(1);
        self.shared.set_failures(self.failures);
        if self.failures >= FAILURES_MAX {
            tracing::error!(%error, "the disk failed again: the store is read-only");
            self.shared.space.set_read_only();
        }
        PutError::Io(error.kind())
    }

    /// Everything in `entries` is durable: readers may see it, then the waiters hear of it.
    fn publish(&self, batch: Vec<Judged>, entries: &[Entry]) {
        if let Some(active) = &self.active
            && !entries.is_empty()
        {
            let drafts: Vec<&Draft> =
                batch.iter().filter(|judged| judged.kind.is_some()).map(|judged| &judged.append.draft).collect();
            // The disk is asked which slots these keys have before the index is locked: readers never wait for it.
            let found: Vec<Option<Slot>> =
                drafts.iter().map(|draft| self.shared.find_at(&draft.key, draft.at)).collect();
            let mut written: BTreeMap<[u8; 32], u64> = BTreeMap::new();
            let mut index = self.shared.index_mut();
            for ((entry, draft), found) in entries.iter().zip(drafts).zip(found) {
                let same = |slot: &Slot, key: &[u8; 32]| {
                    let known = found.is_some_and(|found| found.same_place(slot));
                    known || written.get(key).is_some_and(|offset| slot.is_at(active.number, *offset))
                };
                match draft.sequence {
                    None => index.apply(entry, active.number, &same),
                    Some(_) => index.relocate(entry, active.number, draft.at, &same),
                }
                if entry.kind == Kind::Put {
                    written.insert(entry.key, entry.offset);
                }
            }
            index.next_sequence = self.next_sequence;
        }
        for Judged { append, kind } in batch {
            let stored = match kind {
                None => Stored::Already,
                Some(Kind::Ref) => Stored::Referenced,
                Some(_) => Stored::New,
            };
            let size = kind.map(|kind| append.draft.size_as(kind));
            let Append { space, done, .. } = append;
            match size {
                Some(size) => space.consume(size),
                None => drop(space),
            }
            let _ = done.send(Ok(stored));
        }
    }

    /// Ends the log in good order: with a footer, nothing has to be scanned at the next open.
    pub(crate) fn finish(&mut self) {
        if let Some(active) = self.active.take().filter(|_| self.failures < FAILURES_MAX && !self.shared.is_detached())
        {
            let _ = self.seal(&active);
        }
    }
}
