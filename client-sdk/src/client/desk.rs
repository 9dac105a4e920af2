//! One desk per node: reserves room ahead in batches, so that a store does not wait a round trip for each shard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::control::{Request, Reserve, Response};
use shoal_protocol::limits::RESERVATION_MS;
use shoal_protocol::{BootEpoch, NodeId, Refusal, ReservationId, Signed, UnixMillis};
use tokio::sync::Mutex;

use super::Fleet;
use crate::transfer::TransferError;
use crate::transport::ShardTransport;

/// Full shards reserved in one request.
const BATCH: usize = 4;
/// A reservation this close to its end is not used any more, milliseconds.
const MARGIN_MS: u64 = 10_000;
/// How long a node may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Room on one node, ready to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) reservation: ReservationId,
    pub(super) boot_epoch: BootEpoch,
}

#[derive(Debug)]
struct Desk {
    boot_epoch: BootEpoch,
    /// Unused reservations: id, bytes, when they end.
    ready: Vec<(ReservationId, u32, UnixMillis)>,
}

/// The desks of one upload.
#[derive(Debug)]
pub(super) struct Desks<T> {
    transport: Arc<T>,
    group: Signed,
    full_shard: u32,
    desks: BTreeMap<NodeId, Mutex<Desk>>,
}

impl<T: ShardTransport> Desks<T> {
    /// A desk for every node of the fleet; shards of `full_shard` bytes are reserved in batches.
    pub(super) fn new(transport: Arc<T>, group: Signed, full_shard: u32, fleet: &Fleet) -> Self {
        let desk = |epoch| Mutex::new(Desk { boot_epoch: epoch, ready: Vec::new() });
        let desks = fleet.nodes().map(|live| (live.node, desk(live.boot_epoch))).collect();
        Self { transport, group, full_shard, desks }
    }

    /// Room for `length` bytes on `node`, from the batch before or a new one.
    pub(super) async fn place(&self, node: NodeId, length: u32, now: UnixMillis) -> Result<Place, TransferError> {
        let desk = self.desks.get(&node).ok_or_else(|| TransferError::Unreachable("never greeted".into()))?;
        let mut desk = desk.lock().await;
        desk.ready.retain(|(_, _, until)| now.saturating_add(MARGIN_MS) < *until);
        if let Some(at) = desk.ready.iter().position(|(_, bytes, _)| *bytes == length) {
            let (reservation, _, _) = desk.ready.swap_remove(at);
            return Ok(Place { reservation, boot_epoch: desk.boot_epoch });
        }
        let batch = if length == self.full_shard { BATCH } else { 1 };
        let ids = match self.reserve(node, desk.boot_epoch, length, batch).await {
            Err(TransferError::Refused { reason: Refusal::NoSpace | Refusal::Busy, .. }) if batch > 1 => {
                self.reserve(node, desk.boot_epoch, length, 1).await?
            }
            other => other?,
        };
        let until = now.saturating_add(RESERVATION_MS);
        let mut ids = ids.into_iter();
        let first = ids.next().ok_or_else(|| TransferError::Protocol("reserved nothing".into()))?;
        desk.ready.extend(ids.take(BATCH).map(|id| (id, length, until)));
        Ok(Place { reservation: first, boot_epoch: desk.boot_epoch })
    }

    /// The node runs anew: what was reserved before is void.
    pub(super) async fn restarted(&self, node: NodeId, boot_epoch: BootEpoch) {
        if let Some(desk) = self.desks.get(&node) {
            *desk.lock().await = Desk { boot_epoch, ready: Vec::new() };
        }
    }

    async fn reserve(
        &self,
        node: NodeId,
        boot_epoch: BootEpoch,
        length: u32,
        count: usize,
    ) -> Result<Vec<ReservationId>, TransferError> {
        let request = Reserve { boot_epoch, group: self.group.clone(), lengths: vec![length; count], voucher: None };
        match self.transport.request(node, Request::Reserve(request), ANSWER).await? {
            Response::Reserved(reserved) if reserved.ids.len() == count => Ok(reserved.ids),
            _ => Err(TransferError::Protocol("answered RESERVE with something else".into())),
        }
    }
}
