//! The client's half of one transfer for fuzzing, over any stream. It is no part of a shipped program.

use ed25519_dalek::SigningKey;
use shoal_protocol::buffer::Buffer;
use shoal_protocol::{NetworkId, NodeId, Signed, UnixMillis};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::exchange::{self, Parties};
use crate::transfer::TransferError;
use crate::transport::{RetrieveJob, StoreJob};

/// Fetches ranges of a shard from `node` on `stream` at `now`; the second value says whether the lane may be used again.
///
/// # Errors
/// What a session of the client would get.
pub async fn retrieve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    job: &RetrieveJob,
    (network, node, identity, now): (&NetworkId, NodeId, &SigningKey, UnixMillis),
) -> (Result<Buffer, TransferError>, bool) {
    let (_stop, cancelled) = oneshot::channel();
    let clock = move || now;
    let parties = Parties { network, node, identity, clock: &clock };
    let ended = exchange::retrieve(stream, job, parties, Buffer::from(Vec::new()), cancelled).await;
    (ended.result, ended.reusable)
}

/// Sends a shard to `node` on `stream` at `now`; the second value says whether the lane may be used again.
///
/// # Errors
/// What a session of the client would get.
pub async fn store<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    job: &StoreJob,
    (network, node, identity, now): (&NetworkId, NodeId, &SigningKey, UnixMillis),
) -> (Result<Signed, TransferError>, bool) {
    let (_stop, cancelled) = oneshot::channel();
    let clock = move || now;
    let parties = Parties { network, node, identity, clock: &clock };
    let ended = exchange::store(stream, job, parties, cancelled).await;
    (ended.result, ended.reusable)
}
