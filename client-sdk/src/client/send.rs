//! The network half of an upload: drives a [`StoreSession`] with sealed segments from a channel until all are receipted.
//! Dropping the future stops everything; nothing is retried beyond what the session says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use shoal_protocol::{GroupId, NodeId, Refusal, SegmentNumber, ShardId};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::desk::{Desks, Place};
use super::journal::Logbook;
use super::source::ReadySegment;
use super::{Client, UploadError, UploadProgress};
use crate::transfer::{
    Expected, Sent, StoreAction, StoreOutcome, StoreSession, StoreTask, TransferError, check_receipt,
};
use crate::transport::{ShardTransport, StoreJob};

type Flight = BoxFuture<'static, (StoreTask, Result<(u64, Duration), TransferError>)>;

/// What one upload sends with.
pub(super) struct Sender<T> {
    pub(super) client: Client<T>,
    pub(super) desks: Arc<Desks<T>>,
    pub(super) group: GroupId,
    pub(super) session: StoreSession,
    /// Distinct holders below which the upload is given up at once; 1 where nodes may share.
    pub(super) least: usize,
    /// Where receipts are noted.
    pub(super) logbook: Logbook,
}

impl<T: ShardTransport> Sender<T> {
    /// Sends everything that comes out of `sealed`, until it closes and all is receipted or given up.
    pub(super) async fn run(
        mut self,
        mut sealed: mpsc::Receiver<ReadySegment>,
        progress: &(dyn Fn(UploadProgress) + Send + Sync),
    ) -> Result<StoreOutcome, UploadError> {
        let mut ready: BTreeMap<SegmentNumber, ReadySegment> = BTreeMap::new();
        let mut flights: FuturesUnordered<Flight> = FuturesUnordered::new();
        let mut closed = false;
        let begun = Instant::now();
        loop {
            while let Some(action) = self.session.poll() {
                match action {
                    StoreAction::Send { task, delay_ms, silence_ms } => {
                        let shard = ready.get(&task.segment).and_then(|segment| segment.shards.get(task.unit)).cloned();
                        if let Some(shard) = shard {
                            flights.push(self.flight(task, shard, delay_ms, silence_ms));
                        }
                    }
                    StoreAction::Release(segment) => {
                        if let Some(segment) = ready.remove(&segment) {
                            progress(UploadProgress::Receipted { plain: segment.plain });
                        }
                    }
                }
            }
            if self.session.live_nodes() < self.least {
                return Err(self.too_few(self.session.live_nodes()));
            }
            if closed && self.session.is_idle() {
                break;
            }
            tokio::select! {
                segment = sealed.recv(), if !closed && self.session.wants_segment() => match segment {
                    Some(segment) => self.admit(segment, &mut ready, progress),
                    None => closed = true,
                },
                Some((task, result)) = flights.next(), if !flights.is_empty() => match result {
                    Ok((bytes, took)) => {
                        progress(UploadProgress::Sent { bytes });
                        let now_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                        self.logbook.held(task.segment, task.unit, task.node);
                        self.session.stored(task, Sent { bytes, took, now_ms });
                    }
                    Err(error) => {
                        tracing::info!(node = %task.node, segment = %task.segment, unit = task.unit, %error, "shard not stored");
                        self.session.failed(task, error);
                    }
                },
            }
        }
        if self.session.is_happy() {
            Ok(self.session.outcome())
        } else {
            Err(self.too_few(self.session.weakest().unwrap_or(0)))
        }
    }

    fn admit(
        &mut self,
        mut segment: ReadySegment,
        ready: &mut BTreeMap<SegmentNumber, ReadySegment>,
        progress: &(dyn Fn(UploadProgress) + Send + Sync),
    ) {
        progress(UploadProgress::Sealed { plain: segment.plain });
        let (number, held) = (segment.number, std::mem::take(&mut segment.held));
        ready.insert(number, segment);
        self.session.add(number, held);
    }

    fn too_few(&self, have: usize) -> UploadError {
        let failures = self.session.failures().iter().map(|(node, error)| (*node, error.clone())).collect();
        UploadError::TooFewHolders { have, need: self.least, failures }
    }

    fn flight(&self, task: StoreTask, (shard, bytes): (ShardId, Bytes), delay_ms: u64, silence_ms: u64) -> Flight {
        let (client, desks, group) = (self.client.clone(), Arc::clone(&self.desks), self.group);
        Box::pin(async move {
            if delay_ms > 0 {
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            }
            let (sent, begun) = (bytes.len() as u64, Instant::now());
            let result = client.store_one(&desks, group, task.node, (shard, bytes), silence_ms).await;
            (task, result.map(|()| (sent, begun.elapsed())))
        })
    }
}

impl<T: ShardTransport> Client<T> {
    /// Reserves, sends and checks the receipt of one shard.
    async fn store_one(
        &self,
        desks: &Desks<T>,
        group: GroupId,
        node: NodeId,
        (shard, bytes): (ShardId, Bytes),
        silence_ms: u64,
    ) -> Result<(), TransferError> {
        let length = u32::try_from(bytes.len()).map_err(|_| TransferError::refused(Refusal::TooLarge))?;
        let place = match desks.place(node, length, self.now()).await {
            Err(TransferError::Refused { reason: Refusal::WrongEpoch, .. }) => {
                let live = self.greet_again(node).await?;
                desks.restarted(node, live).await;
                desks.place(node, length, self.now()).await?
            }
            Err(TransferError::Unreachable(why)) => {
                self.reconnect(node).await.map_err(|_| TransferError::Unreachable(why))?;
                desks.place(node, length, self.now()).await?
            }
            other => other?,
        };
        let nonce = self.nonce();
        let Place { reservation, boot_epoch } = place;
        let job = StoreJob { reservation, boot_epoch, nonce, shard, bytes, silence_ms };
        let signed = self.transport.store(node, job).await?;
        let expected = Expected { node, shard, length, group, nonce, boot_epoch };
        check_receipt(&signed, &expected, &self.network, self.now())
            .map(drop)
            .map_err(|error| TransferError::Lied(error.to_string()))
    }
}
