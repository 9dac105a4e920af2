//! The durable store of a node: shards, lease groups and signed records in an append-only segment log.
//!
//! It never acknowledges what is not synced, never hands out a byte it did not verify, and never trusts a byte of the
//! log that its own MAC does not cover.
//!
//! # Files
//! | path below the data directory | content |
//! |---|---|
//! | `store.key`, `store.key.copy` | identity and MAC key of the store, twice |
//! | `segments/store.id` | whose segments these are: a missing mount and a swapped disk are told by it |
//! | `reserve` | held-back disk space: min(1 GiB, 1 % of the quota), at least 1 MiB |
//! | `segments/%016x.seg` | the log, 256 MiB each, in the order of their numbers |
//! | `index` | snapshot of the index: may be deleted |
//! | `scrub` | where the scrub is: may be deleted |
//!
//! The data directory is locked exclusively (`flock`) while a store is open.
//!
//! # Layout
//! Integers are little-endian. `mac(x)` is the first 16 bytes of BLAKE3 keyed with
//! `derive("shoal log header v1", [key of store.key])`. A segment is: header, records, and when sealed: table, trailer.
//! Records begin on multiples of 64 bytes; the space behind the last one is zero or unfinished.
//!
//! `store.key`, 96 bytes:
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 8 | `SHOALKEY` |
//! | 8 | 1 | version, 1 |
//! | 9 | 7 | zero |
//! | 16 | 16 | store id |
//! | 32 | 32 | key |
//! | 64 | 32 | BLAKE3 of bytes 0..64 |
//!
//! Segment header, 64 bytes at offset 0:
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 8 | `SHOALSEG` |
//! | 8 | 1 | version, 1 |
//! | 9 | 3 | zero |
//! | 12 | 4 | number of the previous segment |
//! | 16 | 16 | store id |
//! | 32 | 8 | number of this segment |
//! | 40 | 8 | end of the previous segment's durable records; 2^64-1: unknown |
//! | 48 | 16 | mac(bytes 0..48) |
//!
//! Record, at a multiple of 64:
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | `SHRC` |
//! | 4 | 1 | version, 1 |
//! | 5 | 1 | kind: 1 PUT, 2 REF, 3 DROP, 4 GROUP, 5 RECORD, 6 TOMBSTONE |
//! | 6 | 2 | zero |
//! | 8 | 32 | key: shard id (PUT, REF, DROP, TOMBSTONE), group id (GROUP, TOMBSTONE), record key (RECORD, TOMBSTONE) |
//! | 40 | 32 | group id; zero in a TOMBSTONE |
//! | 72 | 4 | payload length p: PUT 1..=4 MiB, GROUP and RECORD 1..=60 KiB, else 0 |
//! | 76 | 4 | outboard length o: PUT 64 x (ceil(p / 16 KiB) - 1), else 0 |
//! | 80 | 8 | RECORD: version; GROUP: when it is over; DROP: when it was made; TOMBSTONE: when the shard was found damaged, 0 if it was removed; else 0. Times in milliseconds since 1970 |
//! | 88 | 8 | sequence: counts the records of the store; a copy made by compaction keeps it |
//! | 96 | 8 | number of this segment |
//! | 104 | 8 | offset of this record in the segment |
//! | 112 | 16 | mac(bytes 0..112) |
//! | 128 | p | payload |
//! | 128+p | o | outboard: hash pairs of the inner nodes over 16 KiB groups, pre-order |
//! | 128+p+o | 4 | CRC32C of payload and outboard |
//! | ... | 0..63 | zero up to a multiple of 64 |
//!
//! Footer table, 96 bytes per record, behind the last record:
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | offset of the record / 64 |
//! | 4 | 1 | kind |
//! | 5 | 3 | zero |
//! | 8 | 4 | payload length |
//! | 12 | 4 | outboard length |
//! | 16 | 8 | what the header has at 80 |
//! | 24 | 8 | sequence |
//! | 32 | 32 | key |
//! | 64 | 32 | group id |
//!
//! Trailer, the last 64 bytes of a sealed segment:
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 8 | `SHOALEND` |
//! | 8 | 1 | version, 1 |
//! | 9 | 3 | zero |
//! | 12 | 4 | entries in the table |
//! | 16 | 8 | number of this segment |
//! | 24 | 8 | offset of the table |
//! | 32 | 16 | zero |
//! | 48 | 16 | mac(bytes 0..48, then the table) |
//!
//! `segments/store.id`, 64 bytes:
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 8 | `SHOALDIR` |
//! | 8 | 1 | version, 1 |
//! | 9 | 7 | zero |
//! | 16 | 16 | store id |
//! | 32 | 16 | zero |
//! | 48 | 16 | mac(bytes 0..48) |
//!
//! `index`: 104 bytes of header, the sections in this order, 32 bytes of MAC over all before it (the same key, uncut):
//! | bytes | field |
//! |---:|---|
//! | 8 | `SHOALIDX` |
//! | 8 | version 1, seven zeros |
//! | 16 | store id |
//! | 8 x 8 | entries of each section |
//! | 8 | sequence number of the next record |
//! | 48 each | segment: number 4, sealed 1, suspect 1, zero 2, end 8, bytes of marks 8, lowest sequence 8, highest of a mark 8, records 4, zero 4 |
//! | 56 each | group: id 32, place 24 |
//! | 32 each | shard: first 16 bytes of its id, slot 16 |
//! | 48 each | shard whose first 16 bytes another has too: id 32, slot 16 |
//! | 36 each | further holder: shard 32, number of the group 4 |
//! | 80 each | record: key 32, places of its two newest versions |
//! | 40 each | trash: shard 32, since when 8 |
//! | 40 each | loss: shard 32, found when 8 |
//!
//! A slot is segment 4, offset / 64 4, length 4, group 4 (2^32-1: none); a place the same and the number of the record 8,
//! all zero if there is none.

pub mod bao;
mod check;
mod commit;
mod direct;
mod error;
pub mod fsck;
mod identity;
mod index;
mod jobs;
mod judge;
mod log;
mod open;
#[cfg(feature = "test-utils")]
pub mod probe;
mod queue;
#[cfg(test)]
mod queue_tests;
#[cfg(any(test, feature = "test-utils"))]
pub mod random;
mod read;
mod record;
mod recovery;
mod scan;
mod segment;
mod shared;
mod snapshot;
mod space;
mod status;
mod store;
mod upkeep;
mod verify;
pub mod vfs;
#[cfg(any(test, feature = "test-utils"))]
pub mod vfs_mem;
pub mod vfs_os;
pub mod workers;

/// What `queue.rs` synchronises with; its proof puts a model checker here.
mod sync {
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
}

use shared::{Inner, Shared};

pub use error::{OpenError, PutError, ReadError, ReserveError};
pub use read::ReadOutcome;
pub use record::Kind;
pub use recovery::RecoveryReport;
pub use space::{SpaceReservation, Usage};
pub use status::{Health, StoreStatus};
pub use store::{Mark, Store, StoreConfig, Stored};

/// Smallest quota a store opens with, bytes: one shard of the largest size and its overhead.
pub const QUOTA_MIN: u64 = 8 * 1024 * 1024;
/// Bytes of a segment of a large store.
pub const SEGMENT_BYTES: u64 = 256 * 1024 * 1024;

#[cfg(test)]
mod tests;
