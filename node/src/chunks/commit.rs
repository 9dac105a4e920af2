//! The one writer: gathers a batch, writes it, syncs once, publishes to the index, then completes the waiters.
//!
//! It never completes a waiter with success before the sync that covers its record, and never touches a descriptor
//! again after a write or sync on it failed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::PutError;
use super::index::Slot;
use super::record::{Entry, HEADER_BYTES, Kind, record_size, tail};
use super::segment::{Active, SEGMENT_RECORDS_MAX};
use super::space::SpaceReservation;
use super::vfs::{DirLock, Vfs, is_no_space};
use super::{Shared, Stored};

/// A batch is written once it holds this many bytes,
pub(crate) const BATCH_BYTES: u64 = 4 * 1024 * 1024;
/// or this many records,
pub(crate) const BATCH_RECORDS: usize = 64;
/// or its first record has waited this long.
pub(crate) const BATCH_WAIT: Duration = Duration::from_millis(4);
/// Most records that wait for the writer; further callers wait for a permit.
pub(crate) const QUEUE_RECORDS: usize = 128;
/// Failures of the disk after which nothing is accepted any more.
const FAILURES_MAX: u32 = 2;

/// One record on its way to the log.
#[derive(Debug)]
pub(crate) struct Append {
    pub kind: Kind,
    pub key: [u8; 32],
    pub group: [u8; 32],
    pub number: u64,
    pub payload: Bytes,
    pub outboard: Vec<u8>,
    pub crc: u32,
    /// The stored copy found damaged just now: it does not count as stored.
    pub rotted: Option<Slot>,
    pub space: SpaceReservation,
    pub queued: Instant,
    pub done: oneshot::Sender<Result<Stored, PutError>>,
}

impl Append {
    fn size(&self) -> u64 {
        record_size(length(&self.payload), length(&self.outboard))
    }

    /// Answers after unused space is given back, so that a caller that hears a refusal may reserve again at once.
    fn answer(self, result: Result<Stored, PutError>) {
        drop(self.space);
        // A caller that gave up no longer listens.
        let _ = self.done.send(result);
    }
}

/// What the writer is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// Store this; the permit is its place in the queue.
    Append(Box<Append>, OwnedSemaphorePermit),
    /// Finish what is queued and end.
    Close,
}

/// What becomes of one request of a batch.
enum Verdict {
    Write(Kind),
    Nothing,
    Refuse(PutError),
}

/// What a key will be once the batch so far is durable.
struct Pending {
    present: bool,
    groups: BTreeSet<[u8; 32]>,
}

/// The state of the writer thread.
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

impl Writer {
    /// Serves until closed or until every handle is gone.
    pub(crate) fn run(mut self, queue: &Receiver<Request>) {
        while let Ok(Request::Append(first, permit)) = queue.recv() {
            drop(permit);
            let (batch, closed) = gather(*first, queue);
            self.commit(batch);
            if closed {
                break;
            }
        }
    }

    fn commit(&mut self, batch: Vec<Append>) {
        let (batch, kinds) = self.judge(batch);
        if batch.is_empty() {
            return;
        }
        let result = if self.failures >= FAILURES_MAX { Err(PutError::ReadOnly) } else { self.write(&batch, &kinds) };
        match result {
            Ok(entries) => self.publish(batch, &kinds, &entries),
            Err(error) => {
                for append in batch {
                    append.answer(Err(error));
                }
            }
        }
    }

    /// Answers what is refused and says for the rest which record to write, if any.
    fn judge(&self, batch: Vec<Append>) -> (Vec<Append>, Vec<Option<Kind>>) {
        let mut keys = BTreeMap::new();
        let mut newest = BTreeMap::new();
        let (mut kept, mut kinds) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for append in batch {
            if self.shared.index().is_full(append.kind, BATCH_RECORDS, self.shared.shards_max) {
                append.answer(Err(PutError::IndexFull));
                continue;
            }
            let verdict = match append.kind {
                Kind::Record => self.judge_record(&append, &mut newest),
                Kind::Group => Verdict::Write(Kind::Group),
                Kind::Put | Kind::Ref | Kind::Drop | Kind::Tombstone => self.judge_shard(&append, &mut keys),
            };
            match verdict {
                Verdict::Write(kind) => {
                    kinds.push(Some(kind));
                    kept.push(append);
                }
                Verdict::Nothing => {
                    kinds.push(None);
                    kept.push(append);
                }
                Verdict::Refuse(error) => append.answer(Err(error)),
            }
        }
        (kept, kinds)
    }

    fn judge_record(&self, append: &Append, newest: &mut BTreeMap<[u8; 32], u64>) -> Verdict {
        let known = newest.get(&append.key).copied();
        let stored = known.or_else(|| self.shared.index().record(&append.key, 0).map(|place| place.number));
        match stored {
            Some(stored) if append.number <= stored => Verdict::Refuse(PutError::Stale { stored }),
            _ => {
                newest.insert(append.key, append.number);
                Verdict::Write(Kind::Record)
            }
        }
    }

    fn judge_shard(&self, append: &Append, keys: &mut BTreeMap<[u8; 32], Pending>) -> Verdict {
        let pending = keys.entry(append.key).or_insert_with(|| {
            let found = self.shared.find(&append.key);
            let groups = found.map(|slot| self.shared.index().groups_of(&append.key, &slot)).unwrap_or_default();
            let rotted = |slot: &Slot| append.rotted.is_some_and(|rotted| rotted.same_place(slot));
            Pending { present: found.is_some_and(|slot| !rotted(&slot)), groups }
        });
        match (append.kind, pending.present) {
            (Kind::Put, false) => {
                pending.present = true;
                pending.groups.insert(append.group);
                Verdict::Write(Kind::Put)
            }
            (Kind::Put | Kind::Ref, true) if pending.groups.insert(append.group) => Verdict::Write(Kind::Ref),
            (Kind::Drop, true) if pending.groups.remove(&append.group) => Verdict::Write(Kind::Drop),
            (Kind::Tombstone, true) => {
                *pending = Pending { present: false, groups: BTreeSet::new() };
                Verdict::Write(Kind::Tombstone)
            }
            (Kind::Tombstone, false) if self.shared.index().record(&append.key, 0).is_some() => {
                Verdict::Write(Kind::Tombstone)
            }
            (_, true) => Verdict::Nothing,
            (_, false) => Verdict::Refuse(PutError::NotFound),
        }
    }

    /// Makes all records of a batch durable in one segment with one sync, or none of them counts.
    fn write(&mut self, batch: &[Append], kinds: &[Option<Kind>]) -> Result<Vec<Entry>, PutError> {
        let records: Vec<(&Append, Kind)> =
            batch.iter().zip(kinds).filter_map(|(append, kind)| Some((append, (*kind)?))).collect();
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let size: u64 = records.iter().map(|(append, kind)| size_of(append, *kind)).sum();
        let mut active = self.take_active(size, records.len())?;
        let end = active.synced.saturating_add(size);
        if let Err(error) = active.allocate(end, self.shared.step) {
            return Err(self.give_up(active, &error, true));
        }
        self.shared.space.set_preallocated(active.allocated.saturating_sub(active.synced));

        let entries = self.place(&records, active.synced);
        let heads: Vec<[u8; HEADER_BYTES]> =
            entries.iter().map(|entry| self.shared.codec.header(entry, u64::from(active.number))).collect();
        let tails: Vec<Vec<u8>> = records
            .iter()
            .zip(&entries)
            .map(|((append, _), entry)| {
                tail(if entry.payload == 0 { 0 } else { append.crc }, entry.payload, entry.outboard)
            })
            .collect();
        let mut buffers = Vec::with_capacity(records.len().saturating_mul(4));
        for ((((append, _), entry), head), tail) in records.iter().zip(&entries).zip(&heads).zip(&tails) {
            buffers.push(IoSlice::new(head));
            if entry.payload > 0 {
                buffers.push(IoSlice::new(&append.payload));
                buffers.push(IoSlice::new(&append.outboard));
            }
            buffers.push(IoSlice::new(tail));
        }
        match active.append(&mut buffers, &entries, end) {
            Ok(()) => {
                self.next_sequence = self.next_sequence.saturating_add(entries.len() as u64);
                self.active = Some(active);
                Ok(entries)
            }
            Err(error) => Err(self.give_up(active, &error, false)),
        }
    }

    /// Entries one after the other from `offset`.
    fn place(&self, records: &[(&Append, Kind)], mut offset: u64) -> Vec<Entry> {
        let mut sequence = self.next_sequence;
        let mut entries = Vec::with_capacity(records.len());
        for (append, kind) in records {
            let bodiless = *kind == Kind::Ref;
            let entry = Entry {
                kind: *kind,
                key: append.key,
                group: append.group,
                payload: if bodiless { 0 } else { length(&append.payload) },
                outboard: if bodiless { 0 } else { length(&append.outboard) },
                number: append.number,
                sequence,
                offset,
            };
            offset = entry.end();
            sequence = sequence.saturating_add(1);
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
            self.retire(&active);
            if let Err(error) = active.seal(&self.shared.codec) {
                let error = self.note(&error);
                if self.failures >= FAILURES_MAX {
                    return Err(error);
                }
            }
        }
        let number = self.next_segment;
        let next = number.checked_add(1).ok_or(PutError::IndexFull)?;
        self.next_segment = next;
        let step = self.shared.step.min(self.shared.segment_bytes);
        Active::create(self.vfs.as_ref(), &self.data, &self.shared.codec, number, self.previous, step)
            .map_err(|error| self.note(&error))
    }

    /// The next segment will say where this one ends.
    fn retire(&mut self, active: &Active) {
        self.previous = (active.number, active.synced);
        self.shared.space.set_preallocated(0);
    }

    /// After a failed append: a disk that was merely full keeps its segment, cut back to what is durable; any other
    /// failure poisons it at its last durable byte.
    fn give_up(&mut self, mut active: Active, error: &io::Error, untouched: bool) -> PutError {
        let answer = self.note(error);
        let usable = is_no_space(error) && (untouched || active.roll_back().is_ok());
        if usable {
            self.active = Some(active);
        } else {
            tracing::error!(segment = active.number, end = active.synced, %error, "segment poisoned");
            self.retire(&active);
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
    fn publish(&self, batch: Vec<Append>, kinds: &[Option<Kind>], entries: &[Entry]) {
        if let Some(active) = &self.active
            && !entries.is_empty()
        {
            let shared = &self.shared;
            let same = |slot: &Slot, key: &[u8; 32]| shared.is_shard(slot, key);
            let mut index = shared.index_mut();
            for entry in entries {
                index.apply(entry, active.number, &same);
            }
        }
        for (append, kind) in batch.into_iter().zip(kinds) {
            let stored = match kind {
                None => Stored::Already,
                Some(Kind::Ref) => Stored::Referenced,
                Some(_) => Stored::New,
            };
            let size = kind.map(|kind| size_of(&append, kind));
            let Append { space, done, .. } = append;
            match size {
                Some(size) => space.consume(size),
                None => drop(space),
            }
            let _ = done.send(Ok(stored));
        }
    }
}

/// Bytes this request takes if it is written as `kind`: a PUT of a known shard shrinks to a REF.
fn size_of(append: &Append, kind: Kind) -> u64 {
    if kind == Kind::Ref { record_size(0, 0) } else { append.size() }
}

/// Fills a batch, and tells whether the store was closed meanwhile.
fn gather(first: Append, queue: &Receiver<Request>) -> (Vec<Append>, bool) {
    let deadline = first.queued.checked_add(BATCH_WAIT);
    let mut bytes = first.size();
    let mut batch = vec![first];
    while bytes < BATCH_BYTES && batch.len() < BATCH_RECORDS {
        let wait = deadline.map_or(BATCH_WAIT, |deadline| deadline.saturating_duration_since(Instant::now()));
        match queue.recv_timeout(wait) {
            Ok(Request::Append(append, permit)) => {
                drop(permit);
                bytes = bytes.saturating_add(append.size());
                batch.push(*append);
            }
            Err(RecvTimeoutError::Timeout) => break,
            Ok(Request::Close) | Err(RecvTimeoutError::Disconnected) => return (batch, true),
        }
    }
    (batch, false)
}
