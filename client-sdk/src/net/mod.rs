//! The transport of real clients: control requests and shard lanes of a swarm. It names no libp2p; `shoal-swarm` does.

mod exchange;
#[cfg(feature = "test-utils")]
pub mod probe;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use shoal_protocol::buffer::{Buffer, Pool};
use shoal_protocol::control::{Request, Response};
use shoal_protocol::limits::{ROWS_MAX, UNIT};
use shoal_protocol::{NetworkId, NodeId, Refusal, Signed, UnixMillis};
use shoal_swarm::{DialError, LaneError, RequestError, SwarmHandle};
use tokio::sync::oneshot;

use crate::client::with_causes;
use crate::transfer::TransferError;
use crate::transport::{RetrieveJob, ShardTransport, StoreJob};
use exchange::{Ended, Parties};

/// How long a caller waits for a free lane to one node.
const LANE_WAIT: Duration = Duration::from_secs(15);
/// Buffers of full shards kept for the next ones: what is read ahead of a file, 32 MiB.
const SHARDS_IDLE_MAX: usize = 16;

/// Requests and shards over a running swarm.
#[derive(Debug)]
pub struct LaneTransport {
    swarm: SwarmHandle,
    host: Arc<Host>,
}

/// Who this side is.
#[derive(Debug)]
struct Host {
    network: NetworkId,
    identity: SigningKey,
    clock: fn() -> UnixMillis,
    /// What retrieved shards are held in.
    shards: Pool,
}

impl Host {
    fn parties(&self, node: NodeId) -> Parties<'_> {
        Parties { network: &self.network, node, identity: &self.identity, clock: &self.clock }
    }
}

impl LaneTransport {
    /// Uses `swarm`, which must have been started with the same identity.
    #[must_use]
    pub fn new(swarm: SwarmHandle, network: NetworkId, identity: SigningKey, clock: fn() -> UnixMillis) -> Self {
        Self {
            swarm,
            host: Arc::new(Host { network, identity, clock, shards: Pool::new(ROWS_MAX * UNIT, SHARDS_IDLE_MAX) }),
        }
    }

    /// The swarm underneath.
    #[must_use]
    pub const fn swarm(&self) -> &SwarmHandle {
        &self.swarm
    }

    async fn lane(&self, node: NodeId) -> Result<shoal_swarm::ShardLane, TransferError> {
        self.swarm.lane(node, LANE_WAIT).await.map_err(|error| match error {
            LaneError::Busy | LaneError::RemoteBusy => TransferError::refused(Refusal::Busy),
            LaneError::NotConnected => TransferError::Unreachable(error.to_string()),
            LaneError::Unsupported => TransferError::Protocol(error.to_string()),
            LaneError::Timeout(_) => TransferError::TooSlow,
            // Of tunnels alone: a shard lane is refused otherwise.
            LaneError::Denied => TransferError::refused(Refusal::Denied),
            LaneError::Closed | LaneError::TunnelOpen => TransferError::Lost(error.to_string()),
        })
    }
}

/// Runs an exchange on a task of its own, so that a caller that gives up costs no lane: the task brings the lane back
/// in step and releases it.
async fn detached<T: Send + 'static>(
    exchange: impl Future<Output = Result<T, TransferError>> + Send + 'static,
    stop: oneshot::Sender<Infallible>,
) -> Result<T, TransferError> {
    let exchange = tokio::spawn(exchange);
    let result = exchange.await.map_err(|error| TransferError::Lost(error.to_string()));
    drop(stop);
    result?
}

fn finish<T>(lane: shoal_swarm::ShardLane, ended: Ended<T>) -> Result<T, TransferError> {
    if ended.reusable {
        lane.release();
    }
    ended.result
}

impl ShardTransport for LaneTransport {
    async fn connect(
        &self,
        node: Option<NodeId>,
        addresses: Vec<String>,
        deadline: Duration,
    ) -> Result<NodeId, TransferError> {
        self.swarm.dial(node, addresses, deadline).await.map_err(|error| match error {
            DialError::Busy => TransferError::refused(Refusal::Busy),
            other => TransferError::Unreachable(with_causes(&other)),
        })
    }

    async fn request(&self, node: NodeId, request: Request, deadline: Duration) -> Result<Response, TransferError> {
        let body =
            self.swarm.request(node, request.to_bytes().into(), deadline).await.map_err(|error| match error {
                RequestError::NotConnected => TransferError::Unreachable(error.to_string()),
                RequestError::Busy => TransferError::refused(Refusal::Busy),
                RequestError::TooLarge { .. } => TransferError::refused(Refusal::TooLarge),
                RequestError::Unsupported => TransferError::Protocol(error.to_string()),
                RequestError::Timeout(_) => TransferError::TooSlow,
                RequestError::Closed => TransferError::Lost(error.to_string()),
            })?;
        match Response::from_bytes(&body) {
            Ok(Response::Refused { reason, retry_after_ms }) => Err(TransferError::Refused { reason, retry_after_ms }),
            Ok(response) => Ok(response),
            Err(error) => Err(TransferError::Protocol(error.to_string())),
        }
    }

    async fn store(&self, node: NodeId, job: StoreJob) -> Result<Signed, TransferError> {
        let mut lane = self.lane(node).await?;
        let (stop, cancelled) = oneshot::channel();
        let host = Arc::clone(&self.host);
        let exchange = async move {
            let ended = exchange::store(&mut lane, &job, host.parties(node), cancelled).await;
            finish(lane, ended)
        };
        detached(exchange, stop).await
    }

    async fn retrieve(&self, node: NodeId, job: RetrieveJob) -> Result<Buffer, TransferError> {
        let mut lane = self.lane(node).await?;
        let (stop, cancelled) = oneshot::channel();
        let host = Arc::clone(&self.host);
        let exchange = async move {
            let ended =
                exchange::retrieve(&mut lane, &job, host.parties(node), host.shards.empty(job.wanted()), cancelled)
                    .await;
            finish(lane, ended)
        };
        detached(exchange, stop).await
    }
}
