//! How sessions reach nodes: one trait, two implementations (memory for tests, lanes under `net`).
//!
//! A transport carries and verifies hashes as bytes arrive; whether a receipt counts, whom to ask next and when to give
//! up on a node is decided by the sessions.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use shoal_protocol::buffer::Buffer;
use shoal_protocol::control::{Request, Response};
use shoal_protocol::receipt::ByteRange;
use shoal_protocol::{BootEpoch, NodeId, Nonce, ReservationId, ShardId, Signed};

use crate::transfer::TransferError;

/// One shard on its way to a node.
#[derive(Debug, Clone)]
pub struct StoreJob {
    /// The place reserved for it.
    pub reservation: ReservationId,
    /// The node's run.
    pub boot_epoch: BootEpoch,
    /// Echoed in the receipt.
    pub nonce: Nonce,
    /// What the bytes hash to.
    pub shard: ShardId,
    /// The masked bytes.
    pub bytes: Bytes,
    /// Silence that ends the transfer, milliseconds.
    pub silence_ms: u64,
}

/// How far a transfer is. The transport adds, whoever waits for the transfer looks.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Moved>);

#[derive(Debug, Default)]
struct Moved {
    begun: AtomicBool,
    bytes: AtomicU64,
}

impl Meter {
    /// It is its turn: from now on silence counts.
    pub fn begin(&self) {
        self.0.begun.store(true, Ordering::Relaxed);
    }

    /// `bytes` more came.
    pub fn add(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The bytes that came so far, if it has begun.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.0.begun.load(Ordering::Relaxed).then(|| self.0.bytes.load(Ordering::Relaxed))
    }
}

/// Ranges of one shard on their way back.
#[derive(Debug, Clone)]
pub struct RetrieveJob {
    /// Which shard.
    pub shard: ShardId,
    /// Its length by the manifest, bytes.
    pub length: u32,
    /// Wanted bytes; ascending, apart.
    pub ranges: Vec<ByteRange>,
    /// Echoed in the serve statement.
    pub nonce: Nonce,
    /// Counts encoded bytes as they come.
    pub meter: Meter,
}

impl RetrieveJob {
    /// Bytes that are wanted.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.ranges.iter().map(|range| range.end.saturating_sub(range.start) as usize).sum()
    }
}

/// Carries requests and shards to nodes.
pub trait ShardTransport: Send + Sync + 'static {
    /// Connects; returns who answered.
    fn connect(
        &self,
        node: Option<NodeId>,
        addresses: Vec<String>,
        deadline: Duration,
    ) -> impl Future<Output = Result<NodeId, TransferError>> + Send;

    /// One control request. A refusal comes back as [`TransferError::Refused`].
    fn request(
        &self,
        node: NodeId,
        request: Request,
        deadline: Duration,
    ) -> impl Future<Output = Result<Response, TransferError>> + Send;

    /// Sends one shard; the signed reply is for the caller to check. Dropping the future stops it and costs no lane.
    fn store(&self, node: NodeId, job: StoreJob) -> impl Future<Output = Result<Signed, TransferError>> + Send;

    /// Fetches ranges of one shard: exactly their bytes, back to back, verified against the shard id. Dropping the future
    /// stops it and costs no lane.
    fn retrieve(&self, node: NodeId, job: RetrieveJob) -> impl Future<Output = Result<Buffer, TransferError>> + Send;
}
