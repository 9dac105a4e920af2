//! The accepting end of a tunnel lane: who gets one, and the answer that says so. It opens nothing.
//!
//! The answer is a refusal's number, u16 BE, and 0 is yes. Started by the connection's handler, one task a stream, at
//! most [`TUNNEL_ANSWERS_MAX`](crate::limits::TUNNEL_ANSWERS_MAX) at once; a task ends within 2 s. What is lost with it:
//! that lane, before it was anybody's.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use futures::AsyncWriteExt;
use libp2p::Stream;
use shoal_protocol::link::Purpose;
use shoal_protocol::refusal::Refusal;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::lane::TunnelLane;
use super::slot::Life;
use crate::lanes::Shared;
use crate::limits::BUSY_ANSWER_TIMEOUT;
use crate::link::Link;

/// Says yes.
pub(crate) const ACCEPTED: u16 = 0;

/// Why a stream gets no lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoLane {
    /// The peer is a stranger.
    Stranger,
    /// All lanes are taken, or nobody here takes any.
    Full,
    /// There is a lane with this peer, and it stays.
    Second,
}

impl NoLane {
    const fn refusal(self) -> Refusal {
        match self {
            Self::Stranger => Refusal::Denied,
            Self::Full | Self::Second => Refusal::Busy,
        }
    }
}

/// Gives a stream that the peer opened its place, if it may have one.
pub(crate) fn admit(link: &Link, shared: &Shared, now: Instant) -> Result<Life, NoLane> {
    if !shared.may_tunnel(&link.peer) {
        return Err(NoLane::Stranger);
    }
    let slot = shared.links.tunnel_slot(link);
    if shared.tunnels.is_closed() && !slot.is_awaited() {
        return Err(NoLane::Full);
    }
    let permit = Arc::clone(&shared.tunnel_places).try_acquire_owned().map_err(|_| NoLane::Full)?;
    slot.accept(link.connection, shared.local < link.peer, permit, now).ok_or(NoLane::Second)
}

/// Writes the answer, then hands the lane over: to the caller that waits for it, else to the owner.
pub(crate) async fn run(
    mut stream: Stream,
    link: Arc<Link>,
    shared: Arc<Shared>,
    admitted: Result<Life, NoLane>,
    _answering: OwnedSemaphorePermit,
) {
    let number = admitted.as_ref().map_or_else(|no| no.refusal().number(), |_| ACCEPTED);
    let answer = async {
        stream.write_all(&number.to_be_bytes()).await?;
        stream.flush().await?;
        if number == ACCEPTED { Ok(()) } else { stream.close().await }
    };
    let written: io::Result<()> =
        tokio::time::timeout(BUSY_ANSWER_TIMEOUT, answer).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
    let life = match (admitted, written) {
        (Ok(life), Ok(())) => life,
        (Err(no), _) => return tracing::debug!(peer = %link.peer, ?no, "tunnel lane refused"),
        (_, Err(error)) => return tracing::debug!(peer = %link.peer, %error, "tunnel lane not answered"),
    };
    if !life.settle(Instant::now()) {
        return;
    }
    link.set_purpose(Purpose::Tunnel);
    let slot = shared.links.tunnel_slot(&link);
    let is_shared = shared.links.is_shared(&link);
    let lane = TunnelLane::new(link.peer, link.observed_ip(), is_shared, stream, Arc::new(life));
    if let Some(lane) = slot.deliver(lane) {
        // The queue has a place per permit, so it is never full; closed means that the owner went meanwhile.
        if let Err(mpsc::error::TrySendError::Full(_)) = shared.tunnels.try_send(lane) {
            tracing::warn!(peer = %link.peer, "tunnel lane dropped: nobody fetches them");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use libp2p::swarm::ConnectionId;
    use shoal_protocol::NodeId;
    use tokio::sync::mpsc;

    use super::*;
    use crate::lanes::Who;
    use crate::lanes::upgrade::LaneProtocols;
    use crate::limits::TUNNELS_MAX;
    use crate::link::LinkFacts;

    fn shared(tunnels: mpsc::Sender<TunnelLane>, members: &[NodeId], tunnel_strangers: bool) -> Shared {
        let members: BTreeSet<NodeId> = members.iter().copied().collect();
        let who = Who { local: NodeId::from_bytes([0; 32]), members, tunnel_strangers };
        Shared::new(
            LaneProtocols::new("00112233445566aa").unwrap(),
            mpsc::channel(1).0,
            mpsc::channel(1).0,
            tunnels,
            who,
        )
    }

    fn link(shared: &Shared, peer: u8, connection: usize) -> Arc<Link> {
        let peer = NodeId::from_bytes([peer; 32]);
        let address = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let connection = ConnectionId::new_unchecked(connection);
        let facts = LinkFacts { peer, connection, address, outbound: false };
        let (link, _) = Link::new(facts, shared.links.shared_of(&peer));
        shared.links.insert(Arc::clone(&link));
        link
    }

    #[test]
    fn strangers_get_no_lane_unless_the_node_is_open() {
        let now = Instant::now();
        let (tunnels, _kept) = mpsc::channel(TUNNELS_MAX);
        let members = shared(tunnels.clone(), &[NodeId::from_bytes([1; 32])], false);
        assert!(admit(&link(&members, 1, 1), &members, now).is_ok());
        assert_eq!(admit(&link(&members, 2, 2), &members, now).err(), Some(NoLane::Stranger));
        let nobody = shared(tunnels.clone(), &[], false);
        assert_eq!(admit(&link(&nobody, 2, 2), &nobody, now).err(), Some(NoLane::Stranger));
        let open = shared(tunnels, &[], true);
        assert!(admit(&link(&open, 2, 2), &open, now).is_ok());
    }

    #[test]
    fn places_are_bounded_and_nobody_is_let_in_where_nobody_waits() {
        let now = Instant::now();
        let (tunnels, kept) = mpsc::channel(TUNNELS_MAX);
        let open = shared(tunnels, &[], true);
        let first = link(&open, 1, 1);
        let mut lives: Vec<Life> =
            (1..=128_u8).zip(1..).map(|(peer, n)| admit(&link(&open, peer, n), &open, now).unwrap()).collect();
        assert_eq!(lives.len(), TUNNELS_MAX);
        assert_eq!(admit(&link(&open, 200, 200), &open, now).err(), Some(NoLane::Full));
        assert_eq!(NoLane::Full.refusal(), Refusal::Busy);
        lives.truncate(100);
        assert_eq!(admit(&first, &open, now).err(), Some(NoLane::Second));
        let life = admit(&link(&open, 200, 200), &open, now);
        assert!(life.is_ok(), "a place that was given back");
        drop(kept);
        assert_eq!(admit(&link(&open, 201, 201), &open, now).err(), Some(NoLane::Full));
        let late = link(&open, 203, 203);
        let _waits = open.links.shared_of(&late.peer).tunnel.wait().unwrap();
        assert!(admit(&late, &open, now).is_ok(), "a caller waits");
    }
}
