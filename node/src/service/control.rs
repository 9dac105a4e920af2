//! Control requests: request -> engine -> store -> response, one function a request. It answers everything, with a
//! typed refusal where it cannot do what was asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_engine::admission::{Denial, Operation};
use shoal_engine::leases::{self, Lease, LeaseDecision};
use shoal_engine::records::{self, RecordDecision};
use shoal_protocol::control::{Held, PutRecord, Request, Reserve, Reserved, Response};
use shoal_protocol::limits::{LOSSES_PAGE_MAX, RECORD_MAX, RESERVATION_MS};
use shoal_protocol::loss::{Loss, LossStatement};
use shoal_protocol::receipt::Receipt;
use shoal_protocol::{NodeId, Nonce, RecordKey, Refusal, ShardId, Signed};
use shoal_swarm::InboundRequest;

use super::{Context, audit, receive, send};
use crate::clock;
use crate::membership::Peer;

/// How long a request waits for the disk before it is told BUSY; what it asked for may still be done.
const DISK_WAIT: Duration = Duration::from_secs(5);

/// Answers one request. It runs on a task of its own; the answer of one that nobody waits for any more is let go.
pub(crate) async fn serve(context: Arc<Context>, inbound: InboundRequest) {
    let peer = inbound.peer;
    let from = Peer { node: peer, address: inbound.address };
    let response = match Request::from_bytes(&inbound.body) {
        Err(error) => {
            tracing::debug!(%peer, %error, "malformed request");
            Response::refused(Refusal::Malformed)
        }
        Ok(request) => {
            let label = request.label();
            let response = answer(&context, from, request).await;
            if let Response::Refused { reason, .. } = &response {
                tracing::debug!(%peer, request = label, %reason, "request refused");
            }
            response
        }
    };
    match &response {
        Response::Refused { reason, .. } => context.refused(*reason),
        Response::Conflict { .. } => context.refused(Refusal::Conflict),
        _ => {}
    }
    if let Err(error) = inbound.reply(response.to_bytes().into()) {
        tracing::debug!(%peer, %error, "response not sent");
    }
}

async fn answer(context: &Arc<Context>, from: Peer, request: Request) -> Response {
    if context.is_stopping() {
        return Response::refused(Refusal::Stopping);
    }
    let operation = match &request {
        Request::Reserve(Reserve { voucher, .. }) | Request::PutRecord(PutRecord { voucher, .. }) => {
            Operation::Change { voucher: voucher.is_some() }
        }
        Request::Hello(_) | Request::Peers { .. } | Request::Mesh(_) => Operation::Greet,
        Request::Audit(audit) => Operation::Read { bytes: audit::bytes_read(audit) },
        _ => Operation::Ask,
    };
    if let Err(Denial { reason, retry_after_ms }) = context.admit(from, operation) {
        return Response::Refused { reason, retry_after_ms };
    }
    let peer = from.node;
    let request = match context.membership().answer(from, request) {
        Ok(done) => return answered(context, done),
        Err(request) => *request,
    };
    let done = match request {
        Request::Reserve(reserve) => within_bounds(context, make_room(context, peer, reserve)).await,
        Request::Stat { shards } => within_bounds(context, stat(context, shards)).await,
        Request::Audit(request) => within_bounds(context, audit::answer(context, peer, request)).await,
        Request::PutRecord(put) => within_bounds(context, put_record(context, peer, put)).await,
        Request::Losses { after, nonce } => Ok(losses(context, after, nonce)),
        Request::GetRecord { key, back } => within_bounds(context, get_record(context, key, back)).await,
        // Answered above.
        Request::Hello(_) | Request::Peers { .. } | Request::Locate { .. } | Request::Mesh(_) => {
            Err(Refusal::Unsupported)
        }
    };
    answered(context, done)
}

fn answered(context: &Context, done: Result<Response, Refusal>) -> Response {
    done.unwrap_or_else(|reason| {
        let retry_after_ms = if reason == Refusal::Busy { context.retry_after_ms() } else { 0 };
        Response::Refused { reason, retry_after_ms }
    })
}

/// Waits for an answer that needs the disk: only so many at a time, and not for ever.
async fn within_bounds<T>(context: &Context, answer: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let _place = context.requests().try_acquire_owned().map_err(|_| Refusal::Busy)?;
    tokio::time::timeout(DISK_WAIT, answer).await.map_err(|_| Refusal::Busy)?
}

/// The lease a request is made under; a new one is kept durably first.
async fn lease(context: &Arc<Context>, signed: &Signed) -> Result<Lease, Refusal> {
    let id = leases::judge(signed, context.network(), clock::wall())?.id;
    let _alone = context.group_lock(&id).await;
    let held = blocking(context, move |context| context.store().group(&id)).await?;
    let held = held.map_err(|error| send::read_refusal(&error))?;
    let held = held.and_then(|bytes| Signed::from_bytes(&bytes, RECORD_MAX).ok());
    match leases::decide(signed, held.as_ref(), context.network(), clock::wall())? {
        LeaseDecision::Known(lease) => Ok(lease),
        LeaseDecision::Keep(lease) => {
            let kept = context.store().put_group(lease.id, lease.group.expires, signed.to_bytes().into()).await;
            kept.map_err(|error| receive::put_refusal(&error))?;
            Ok(lease)
        }
    }
}

async fn make_room(context: &Arc<Context>, peer: NodeId, reserve: Reserve) -> Result<Response, Refusal> {
    context.check_epoch(reserve.boot_epoch)?;
    let bytes = reserve.lengths.iter().fold(0u64, |sum, length| sum.saturating_add(u64::from(*length)));
    let grant = context.judge_voucher(peer, reserve.voucher.as_ref(), bytes)?;
    let lease = lease(context, &reserve.group).await?;
    let ids = context.promise(peer, &reserve.lengths, &lease)?;
    // Room first, so that a full node costs no voucher; told to nobody before the charge is durable.
    if let Err(reason) = context.charge(grant, bytes).await {
        context.release(peer, &ids);
        return Err(reason);
    }
    let valid_ms = u32::try_from(RESERVATION_MS).unwrap_or(u32::MAX);
    Ok(Response::Reserved(Reserved { ids, valid_ms, group: lease.id }))
}

async fn stat(context: &Arc<Context>, shards: Vec<ShardId>) -> Result<Response, Refusal> {
    let held = blocking(context, move |context| {
        shards.iter().map(|shard| Held { length: context.store().shard_length(shard) }).collect()
    });
    Ok(Response::Stat { held: held.await? })
}

async fn put_record(context: &Arc<Context>, peer: NodeId, put: PutRecord) -> Result<Response, Refusal> {
    context.check_epoch(put.boot_epoch)?;
    let key = records::key_of(&put.record, context.network())?;
    let bytes = Bytes::from(put.record.to_bytes());
    let length = u32::try_from(bytes.len()).map_err(|_| Refusal::TooLarge)?;
    let grant = context.judge_voucher(peer, put.voucher.as_ref(), u64::from(length))?;
    let lease = lease(context, &put.group).await?;
    // Until the decision is on disk, nobody else decides about this key.
    let _alone = context.record_lock(&key).await;
    let held = newest(context, key, 0).await?.map(|(_, record)| record);
    let shard = ShardId::of(&bytes);
    match records::decide(&put.record, held.as_ref(), context.network())? {
        RecordDecision::Keep { version } => {
            let _claim = context.claim(&lease, u64::from(length))?;
            context.charge(grant, u64::from(length)).await?;
            let kept = context.store().put_record(key, lease.id, version, bytes).await;
            kept.map_err(|error| receive::put_refusal(&error))?;
        }
        RecordDecision::Kept => {}
        RecordDecision::Conflict => {
            return held.map(|held| Response::Conflict { held }).ok_or(Refusal::Conflict);
        }
    }
    let receipt = Receipt {
        shard,
        length,
        group: lease.id,
        expires: lease.group.expires,
        boot_epoch: context.boot_epoch(),
        nonce: put.nonce,
        time: clock::wall(),
    };
    Ok(Response::RecordKept { receipt: context.sign(&receipt) })
}

async fn get_record(context: &Arc<Context>, key: RecordKey, back: u8) -> Result<Response, Refusal> {
    let (_, record) = newest(context, key, back).await?.ok_or(Refusal::NotFound)?;
    let more = back == 0 && newest(context, key, 1).await?.is_some();
    Ok(Response::Record { record, more })
}

/// One page of the shards this node lost. It reads no disk.
fn losses(context: &Context, after: Option<ShardId>, nonce: Nonce) -> Response {
    let mut losses: Vec<Loss> = context
        .store()
        .losses(after, LOSSES_PAGE_MAX.saturating_add(1))
        .into_iter()
        .map(|(shard, found)| Loss { shard, found })
        .collect();
    let more = losses.len() > LOSSES_PAGE_MAX;
    losses.truncate(LOSSES_PAGE_MAX);
    let statement = LossStatement { losses, boot_epoch: context.boot_epoch(), nonce, time: clock::wall() };
    Response::Losses { statement: context.sign(&statement), more }
}

/// Version and record kept under a key.
async fn newest(context: &Arc<Context>, key: RecordKey, back: u8) -> Result<Option<(u64, Signed)>, Refusal> {
    let held = blocking(context, move |context| context.store().record(&key, back)).await?;
    let held = held.map_err(|error| send::read_refusal(&error))?;
    held.map(|(version, bytes)| match Signed::from_bytes(&bytes, RECORD_MAX) {
        Ok(record) => Ok((version, record)),
        Err(_) => Err(Refusal::Damaged),
    })
    .transpose()
}

/// Runs work that reads the disk on a thread for it, a bounded number at a time.
pub(super) async fn blocking<R: Send + 'static>(
    context: &Arc<Context>,
    work: impl FnOnce(&Context) -> R + Send + 'static,
) -> Result<R, Refusal> {
    let permit = context.readers().acquire_owned().await.map_err(|_| Refusal::Stopping)?;
    let context = Arc::clone(context);
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work(&context)
    });
    done.await.map_err(|_| Refusal::Stopping)
}
