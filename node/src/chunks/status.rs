//! What there is to say about a store at one moment, for people and programs. It reads memory only, never the disk.

use serde::{Deserialize, Serialize};

use super::shared::Inner;
use super::space::Usage;
use super::workers::WorkerStatus;

/// How well the disk behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// No failure since the store was opened.
    Good,
    /// One failure of a write or sync: the segment was given up, nothing promised was lost.
    Degraded,
    /// A second failure: nothing is accepted any more, reading goes on.
    ReadOnly,
    /// Other directories are found where the store was opened: a disk was unmounted or swapped. Nothing is accepted.
    Detached,
}

/// A store at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// How well the disk behaves.
    pub health: Health,
    /// Space, bytes.
    pub usage: Usage,
    /// Bytes of the log that are in use; the rest is for compaction.
    pub live: u64,
    /// Bytes the reserve file should hold and does not.
    pub reserve_missing: u64,
    /// Segment files.
    pub segments: u64,
    /// Of those, segments that are damaged or were given up, whose good rest compaction moves.
    pub suspect: u64,
    /// Shards.
    pub shards: u64,
    /// Shards no group holds any more, kept for a while.
    pub trash: u64,
    /// Shards found damaged and not stored again.
    pub losses: u64,
    /// Lease groups.
    pub groups: u64,
    /// Signed records.
    pub records: u64,
    /// Records that wait for the writer.
    pub queued: u64,
    /// What the store does by itself.
    pub jobs: Vec<WorkerStatus>,
}

/// The status of a store.
pub(crate) fn of(inner: &Inner) -> StoreStatus {
    let shared = &inner.shared;
    let index = shared.index();
    StoreStatus {
        health: shared.health(),
        usage: shared.space.usage(),
        live: index.segments.live(),
        reserve_missing: shared.space.reserve_missing(),
        segments: index.segments.len() as u64,
        suspect: index.segments.iter().filter(|(_, held)| held.suspect).count() as u64,
        shards: index.shards() as u64,
        trash: index.trash.len() as u64,
        losses: index.losses.len() as u64,
        groups: index.groups.len() as u64,
        records: index.records.len() as u64,
        queued: inner.queue.len() as u64,
        jobs: inner.workers().map(|workers| workers.status()).unwrap_or_default(),
    }
}
