//! One inbound shard lane, from its first header to its end. Started by the node for each lane a peer opens; it ends
//! when the peer closes it, breaks the protocol, stalls, or rests too long, and when the node stops; a transfer under
//! way is lost then, and nothing was promised for it.

use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::lane::Header;
use shoal_swarm::InboundLane;

use super::stream::{LaneEnd, LaneIo};
use super::{Context, receive, send};
use crate::membership::Peer;

/// How long a lane may rest between two transfers; openers drop idle lanes after 30 s.
const REST: Duration = Duration::from_secs(60);

/// Serves transfers until the lane ends.
pub(crate) async fn serve(context: Arc<Context>, mut lane: InboundLane) {
    let peer = lane.peer;
    let from = Peer { node: peer, address: lane.address };
    let mut io = LaneIo::new(&mut lane.stream);
    let ended = loop {
        let header = tokio::select! {
            header = io.next_header::<Header>(REST) => header,
            () = context.stopped() => Err(LaneEnd::Stopping),
        };
        let header = match header {
            Ok(header) => header,
            Err(end) => break end,
        };
        let Ok(_under_way) = context.transfers().acquire().await else { break LaneEnd::Stopping };
        let served = match header {
            Header::Store { reservation, boot_epoch, nonce } => {
                receive::store(&context, peer, &mut io, receive::Wanted { reservation, boot_epoch, nonce }).await
            }
            Header::Retrieve { shard, ranges, nonce } => {
                send::retrieve(&context, from, &mut io, send::Wanted { shard, ranges, nonce }).await
            }
        };
        if let Err(end) = served {
            break end;
        }
    };
    match ended {
        LaneEnd::Closed | LaneEnd::Stopping => {}
        other => tracing::info!(%peer, reason = %other, "shard lane ended"),
    }
}
