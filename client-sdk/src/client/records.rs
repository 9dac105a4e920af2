//! Records on their way: kept on all holders and the five rendezvous-first nodes of their key, read back from whoever
//! still has them, the highest valid version first.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use shoal_protocol::control::{PutRecord, Request, Response};
use shoal_protocol::limits::RECORD_MAX;
use shoal_protocol::{GroupId, NodeId, RecordKey, Refusal, ShardId, Signed};

use super::{Client, Fleet};
use crate::placement::rendezvous_first;
use crate::transfer::{Expected, TransferError, check_receipt};
use crate::transport::ShardTransport;

/// Nodes beside the holders that keep a record.
pub(super) const RENDEZVOUS: usize = 5;
/// Nodes asked at the same time.
const ASKED: usize = 32;
/// How long one node may take, a sync of its disk included.
const ANSWER: Duration = Duration::from_secs(10);

/// A record, with where it belongs.
pub(super) struct RecordToKeep<'a> {
    pub(super) group: &'a Signed,
    pub(super) group_id: GroupId,
    pub(super) record: &'a Signed,
}

/// Who kept a record, and who did not.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) by: Vec<NodeId>,
    pub(super) failures: Vec<(NodeId, TransferError)>,
}

impl<T: ShardTransport> Client<T> {
    /// The nodes that should keep a record: all holders, and the rendezvous-first storing nodes.
    pub(super) fn record_nodes(fleet: &Fleet, holders: &[NodeId], key: &RecordKey) -> BTreeSet<NodeId> {
        let storing = fleet.storing().map(|live| live.node);
        holders.iter().copied().chain(rendezvous_first(key.as_bytes(), storing, RENDEZVOUS)).collect()
    }

    /// Has a record kept by all of `nodes` that will.
    pub(super) async fn keep_record(&self, fleet: &Fleet, nodes: &BTreeSet<NodeId>, record: &RecordToKeep<'_>) -> Kept {
        let answers: Vec<_> = stream::iter(nodes.iter().copied())
            .map(|node| async move { (node, self.keep_on(fleet, node, record).await) })
            .buffer_unordered(ASKED)
            .collect()
            .await;
        let mut kept = Kept::default();
        for (node, answer) in answers {
            match answer {
                Ok(()) => kept.by.push(node),
                Err(error) => kept.failures.push((node, error)),
            }
        }
        kept
    }

    async fn keep_on(&self, fleet: &Fleet, node: NodeId, record: &RecordToKeep<'_>) -> Result<(), TransferError> {
        let live = fleet.get(&node).ok_or_else(|| TransferError::Unreachable("never greeted".into()))?;
        let request = PutRecord {
            boot_epoch: live.boot_epoch,
            group: record.group.clone(),
            record: record.record.clone(),
            voucher: None,
            nonce: self.nonce(),
        };
        let bytes = record.record.to_bytes();
        let expected = Expected {
            node,
            shard: ShardId::of(&bytes),
            length: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            group: record.group_id,
            nonce: request.nonce,
            boot_epoch: live.boot_epoch,
        };
        match self.transport.request(node, Request::PutRecord(request), ANSWER).await? {
            Response::RecordKept { receipt } => check_receipt(&receipt, &expected, &self.network, self.now())
                .map(drop)
                .map_err(|error| TransferError::Lied(error.to_string())),
            Response::Conflict { .. } => Err(TransferError::refused(Refusal::Conflict)),
            _ => Err(TransferError::Protocol("answered PUT_RECORD with something else".into())),
        }
    }

    /// The newest copies of a record that any node of the fleet gives, unchecked.
    pub(super) async fn fetch_record(&self, fleet: &Fleet, key: RecordKey) -> Vec<Signed> {
        let answers: Vec<_> = stream::iter(fleet.nodes().map(|live| live.node).collect::<Vec<_>>())
            .map(|node| self.transport.request(node, Request::GetRecord { key, back: 0 }, ANSWER))
            .buffer_unordered(ASKED)
            .collect()
            .await;
        let mut found: Vec<Signed> = Vec::new();
        for answer in answers {
            if let Ok(Response::Record { record, .. }) = answer
                && record.to_bytes().len() <= RECORD_MAX
                && !found.contains(&record)
            {
                found.push(record);
            }
        }
        found
    }
}
