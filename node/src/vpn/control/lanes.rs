//! The tunnel lanes of the control task: opened and accepted, read and written by tasks of their own. It chooses no carrier.

use std::sync::Arc;

use shoal_engine::path::Carrier;
use shoal_protocol::NodeId;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_swarm::{FrameBuffer, TunnelLane};

use super::{Control, VpnEvent};
use crate::vpn::neighbours::open_lane;
use crate::vpn::plane::inbound::Sink;
use crate::vpn::plane::lane;

impl Control {
    pub(super) fn open_lane(&mut self, node: NodeId) {
        if self.lanes.contains_key(&node) || !self.opening.insert(node) {
            return;
        }
        let (swarm, handle) = (self.parts.swarm.clone(), self.parts.handle.clone());
        tokio::spawn(async move {
            let event = match open_lane(node, swarm).await {
                Some(lane) => VpnEvent::Lane(Box::new(lane)),
                None => VpnEvent::NoLane(node),
            };
            handle.tell_surely(event).await;
        });
    }

    pub(super) fn lane_opened(&mut self, lane: TunnelLane) {
        let TunnelLane { peer: node, mut reader, writer, .. } = lane;
        self.opening.remove(&node);
        self.next_lane = self.next_lane.saturating_add(1);
        let number = self.next_lane;
        self.lanes.insert(node, number);
        let plane = Arc::clone(&self.parts.plane);
        let (queue, credits, writing) = lane::start(writer, Arc::clone(plane.wake()));
        plane.ensure_link(node);
        self.set_lane(node, Some(queue));
        let handle = self.parts.handle.clone();
        self.lane_tasks.spawn(writing);
        self.lane_tasks.spawn(async move {
            let (mut frames, mut sink) = (FrameBuffer::default(), Sink::default());
            let via = Some(PeerHash::of(&node));
            while let Ok(credit) = reader.read(&mut frames).await {
                if let Some(Err(error)) = credit.map(|credit| credits.handle(credit)) {
                    tracing::debug!(peer = %node, %error, "a tunnel lane ends");
                    break;
                }
                while let Some(frame) = frames.next_frame() {
                    plane.handle_frame(frame, Carrier::Lanes, via, &mut sink);
                }
                plane.settle(&mut sink);
            }
            handle.tell_surely(VpnEvent::LaneGone(node, number)).await;
        });
        // One that takes the place of another was up before too.
        self.event(|network, env| network.handle_lane(node, false, env));
        self.event(|network, env| network.handle_lane(node, true, env));
    }

    pub(super) fn set_lane(&self, node: NodeId, queue: Option<lane::LaneQueue>) {
        self.parts.plane.set_lane(&PeerHash::of(&node), queue);
    }
}
