//! The opening end of a tunnel lane: whether it is for us to open, on which connection, and what the peer answers.
//!
//! The rule: who dialled opens. If both dialled, the smaller node id does. So the one behind a NAT opens, who alone can
//! make another connection, and each pair has one opener. The other one waits. TCP connections decide where there is
//! one. The lane gets a TCP connection of its own; where none can be made it shares the best one there is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Multiaddr, Stream};
use shoal_protocol::NodeId;
use shoal_protocol::link::Purpose;
use shoal_protocol::refusal::Refusal;
use tokio::sync::oneshot;

use super::accept::ACCEPTED;
use super::lane::TunnelLane;
use super::slot::TunnelSlot;
use crate::control::wire::is_unsupported;
use crate::driver::Command;
use crate::error::LaneError;
use crate::handle::SwarmHandle;
use crate::lanes::upgrade::LaneKind;
use crate::limits::{DEADLINE_MAX, TUNNEL_ATTEMPTS_MAX, TUNNEL_RETRY};
use crate::link::{Link, OpenLane, Support};

/// A dial of the driver for a tunnel connection.
#[derive(Debug)]
pub(crate) struct TunnelDial {
    pub(crate) peer: NodeId,
    /// TCP, without `/p2p`, at most [`crate::limits::DIAL_ADDRESSES_MAX`].
    pub(crate) addresses: Vec<Multiaddr>,
    /// Dropped where the dial fails.
    pub(crate) reply: oneshot::Sender<Arc<Link>>,
}

/// The lane, opened by us or awaited.
pub(crate) async fn acquire(handle: &SwarmHandle, peer: NodeId, deadline: Duration) -> Result<TunnelLane, LaneError> {
    let deadline = deadline.min(DEADLINE_MAX);
    if !handle.shared.may_tunnel(&peer) {
        return Err(LaneError::Denied);
    }
    let links = &handle.shared.links;
    let best = links.best(&peer).ok_or(LaneError::NotConnected)?;
    if best.support() == Support::No {
        return Err(LaneError::Unsupported);
    }
    let slot = links.tunnel_slot(&best);
    let mut awaited = slot.wait()?;
    let found = async {
        if links.is_opener(&peer, handle.local < peer) {
            for _ in 0..TUNNEL_ATTEMPTS_MAX {
                match open(handle, &slot, peer, deadline).await {
                    Err(LaneError::RemoteBusy) => {}
                    other => return other,
                }
                // Its own open may have crossed ours, or it has not yet seen that the lane before has ended.
                if let Ok(lane) = tokio::time::timeout(TUNNEL_RETRY, &mut awaited).await {
                    return lane.map_err(|_| LaneError::Closed);
                }
            }
            return Err(LaneError::RemoteBusy);
        }
        awaited.await.map_err(|_| LaneError::Closed)
    };
    tokio::time::timeout(deadline, found).await.unwrap_or(Err(LaneError::Timeout(deadline)))
}

async fn open(
    handle: &SwarmHandle,
    slot: &Arc<TunnelSlot>,
    peer: NodeId,
    deadline: Duration,
) -> Result<TunnelLane, LaneError> {
    let permit = Arc::clone(&handle.shared.tunnel_places).try_acquire_owned().map_err(|_| LaneError::Busy)?;
    let life = slot.open(permit).ok_or(LaneError::RemoteBusy)?;
    let link = connection(handle, peer, deadline).await?;
    let stream = open_stream(&link).await?;
    if !life.settle(Instant::now()) {
        return Err(LaneError::RemoteBusy);
    }
    link.set_purpose(Purpose::Tunnel);
    let shared = handle.shared.links.is_shared(&link);
    Ok(TunnelLane::new(peer, link.observed_ip(), shared, stream, Arc::new(life)))
}

/// The tunnel connection there is, else a new one, else the best one.
async fn connection(handle: &SwarmHandle, peer: NodeId, deadline: Duration) -> Result<Arc<Link>, LaneError> {
    let links = &handle.shared.links;
    if let Some(link) = links.tunnel(&peer) {
        return Ok(link);
    }
    let addresses = links.tcp_addresses(&peer);
    if !addresses.is_empty() {
        let (reply, dialled) = oneshot::channel();
        let command = Command::DialTunnel(TunnelDial { peer, addresses, reply });
        handle.commands.try_send(command).map_err(|_| LaneError::Busy)?;
        // Half of the time, so that enough is left to fall back.
        if let Ok(Ok(link)) = tokio::time::timeout(deadline / 2, dialled).await {
            return Ok(link);
        }
    }
    links.best(&peer).ok_or(LaneError::NotConnected)
}

/// Opens the stream and reads the answer.
async fn open_stream(link: &Link) -> Result<Stream, LaneError> {
    let (reply, opened) = oneshot::channel();
    link.open(OpenLane { kind: LaneKind::Tunnel, reply })?;
    let mut stream = opened.await.map_err(|_| LaneError::Closed)??;
    let mut answer = [0; 2];
    let answered = async {
        // The peer learns of the stream only by the first bytes, and those are the protocol's name.
        stream.flush().await?;
        stream.read_exact(&mut answer).await
    };
    if let Err(error) = answered.await {
        return Err(if is_unsupported(&error) { LaneError::Unsupported } else { LaneError::Closed });
    }
    let number = u16::from_be_bytes(answer);
    match Refusal::from_number(number) {
        _ if number == ACCEPTED => Ok(stream),
        Refusal::Busy => Err(LaneError::RemoteBusy),
        Refusal::Denied => Err(LaneError::Denied),
        _ => Err(LaneError::Unsupported),
    }
}
