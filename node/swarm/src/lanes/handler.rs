//! One connection's part of the lanes: it negotiates streams and gives them away. It never reads or writes one, and
//! every poll does a bounded, constant amount of work, so that no connection slows another.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::AsyncWriteExt;
use libp2p::Stream;
use libp2p::swarm::handler::{ConnectionEvent, ProtocolsChange};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::Shared;
use super::upgrade::{LaneKind, Offer};
use crate::control::client::ClientCommand;
use crate::control::{client, server};
use crate::error::LaneError;
use crate::limits::{BUSY_ANSWER_TIMEOUT, LANES_REFUSED_MAX, STREAM_TIMEOUT};
use crate::link::{CloseReason, Link, LinkEnds, OpenLane, Support};
use crate::shard::{BUSY_ANSWER, InboundLane, LanePermits};
use crate::tunnel::accept::{self, NoLane};

/// What the handler tells its behaviour, at most once per connection.
#[derive(Debug)]
pub(crate) struct Condemned(pub(crate) CloseReason);

/// Why a stream was asked for.
#[derive(Debug)]
pub(crate) enum OpenInfo {
    Control,
    Lane(oneshot::Sender<Result<Stream, LaneError>>),
}

/// The handler of one connection; of a peer that is no node it offers nothing.
pub(crate) enum LaneHandler {
    /// A node: lanes are offered and opened.
    Node(Box<NodeHandler>),
    /// A stock peer with another kind of key: it may identify and ping.
    Stranger,
}

pub(crate) struct NodeHandler {
    link: Arc<Link>,
    shared: Arc<Shared>,
    opens: mpsc::Receiver<OpenLane>,
    /// Until the control stream is negotiated; its task owns it then.
    commands: Option<mpsc::Receiver<ClientCommand>>,
    control_asked: bool,
    control_accepted: bool,
    reported: bool,
    /// Lanes refused on this connection while its peer had all of its own.
    refused: usize,
}

type Event = ConnectionHandlerEvent<Offer, OpenInfo, Condemned>;

impl LaneHandler {
    pub(crate) fn node(link: Arc<Link>, ends: LinkEnds, shared: Arc<Shared>) -> Self {
        Self::Node(Box::new(NodeHandler {
            link,
            shared,
            opens: ends.opens,
            commands: Some(ends.control),
            control_asked: false,
            control_accepted: false,
            reported: false,
            refused: 0,
        }))
    }
}

impl NodeHandler {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.link.register(cx.waker());
        if let Some(reason) = self.link.condemned().filter(|_| !self.reported) {
            self.reported = true;
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Condemned(reason)));
        }
        if self.link.control_wanted() && !self.control_asked && self.link.support() != Support::No {
            self.control_asked = true;
            let offer = Offer::one(&self.shared.protocols.control);
            return Poll::Ready(request(offer, OpenInfo::Control));
        }
        while let Poll::Ready(Some(open)) = self.opens.poll_recv(cx) {
            if open.reply.is_closed() {
                continue;
            }
            if self.link.support() == Support::No {
                let _ = open.reply.send(Err(LaneError::Unsupported));
                continue;
            }
            let offer = Offer::one(self.shared.protocols.of(open.kind));
            return Poll::Ready(request(offer, OpenInfo::Lane(open.reply)));
        }
        Poll::Pending
    }

    /// The control stream is ours: its task takes the queue of requests.
    fn on_control_opened(&mut self, stream: Stream) {
        let (Some(commands), Some(worker)) = (self.commands.take(), self.shared.worker()) else {
            self.link.condemn(CloseReason::ControlLost);
            return;
        };
        let task = client::run(stream, commands, Arc::clone(&self.link), self.shared.stop.clone(), worker);
        tokio::spawn(task);
    }

    fn on_control_accepted(&mut self, stream: Stream) {
        let worker = self.shared.worker();
        let (false, Some(worker)) = (self.control_accepted, worker) else {
            // No node opens a second one, and each costs a negotiation.
            tracing::debug!(peer = %self.link.peer, "second control stream refused");
            self.link.condemn(CloseReason::Violation);
            return;
        };
        self.control_accepted = true;
        let (link, links) = (Arc::clone(&self.link), Arc::clone(&self.shared.links));
        let requests = self.shared.requests.clone();
        tokio::spawn(server::run(stream, link, links, requests, self.shared.stop.clone(), worker));
    }

    /// Admits the lane if the peer and the node have a permit left, else answers BUSY.
    fn on_lane_accepted(&mut self, stream: Stream) {
        let Some(permits) = self.lane_permits() else {
            let is_own_fault = self.link.shared.inbound_lanes.available_permits() == 0;
            self.refused = self.refused.saturating_add(usize::from(is_own_fault));
            if self.refused >= LANES_REFUSED_MAX {
                self.link.condemn(CloseReason::Violation);
            }
            self.answer_busy(stream);
            return;
        };
        let lane = InboundLane::new(self.link.peer, self.link.observed_ip(), stream, permits);
        match self.shared.lanes.try_send(lane) {
            Ok(()) => {}
            // The queue has a place per permit, so it is never full; closed means that this owner serves no lanes.
            Err(mpsc::error::TrySendError::Full(lane) | mpsc::error::TrySendError::Closed(lane)) => {
                self.answer_busy(lane.into_stream());
            }
        }
    }

    /// Admits the one tunnel lane of the peer and lets a task answer.
    fn on_tunnel_accepted(&mut self, stream: Stream) {
        let admitted = accept::admit(&self.link, &self.shared, Instant::now());
        // Nobody opens a second one on a connection that has one.
        self.refused = self.refused.saturating_add(usize::from(matches!(admitted, Err(NoLane::Second))));
        if self.refused >= LANES_REFUSED_MAX {
            self.link.condemn(CloseReason::Violation);
        }
        let Ok(answering) = Arc::clone(&self.shared.tunnel_answers).try_acquire_owned() else {
            self.shared.links.counters.lanes_reset.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(peer = %self.link.peer, "tunnel lane reset: too many answers are being written");
            return;
        };
        let (link, shared) = (Arc::clone(&self.link), Arc::clone(&self.shared));
        tokio::spawn(accept::run(stream, link, shared, admitted, answering));
    }

    fn lane_permits(&self) -> Option<LanePermits> {
        let one = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned().ok();
        let is_member = self.shared.members.contains(&self.link.peer);
        let strangers = if is_member { None } else { Some(one(&self.shared.stranger_lanes)?) };
        let (peer, node) = (one(&self.link.shared.inbound_lanes)?, one(&self.shared.inbound_lanes)?);
        Some(LanePermits { _peer: peer, _node: node, _strangers: strangers })
    }

    fn answer_busy(&self, stream: Stream) {
        let counters = &self.shared.links.counters;
        let Ok(permit) = Arc::clone(&self.shared.busy_answers).try_acquire_owned() else {
            counters.lanes_reset.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(peer = %self.link.peer, "lane reset: too many BUSY answers are being written");
            return;
        };
        counters.lanes_busy.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(write_busy(stream, permit));
    }

    fn on_protocols(&self, change: &ProtocolsChange<'_>) {
        let ProtocolsChange::Added(added) = change else { return };
        let ours = &self.shared.protocols.control.name;
        if added.clone().any(|protocol| protocol == ours) {
            self.link.set_support(Support::Yes);
            self.link.want_control();
        } else if self.link.support() == Support::Unknown {
            self.link.set_support(Support::No);
        }
    }

    fn on_open_failed(&mut self, info: OpenInfo, error: &StreamUpgradeError<Infallible>) {
        let reason = match error {
            StreamUpgradeError::Timeout => LaneError::Timeout(STREAM_TIMEOUT),
            StreamUpgradeError::NegotiationFailed => LaneError::Unsupported,
            StreamUpgradeError::Io(_) | StreamUpgradeError::Apply(_) => LaneError::Closed,
        };
        match info {
            OpenInfo::Lane(reply) => {
                let _ = reply.send(Err(reason));
            }
            OpenInfo::Control => {
                // Queued requests end with the queue.
                self.commands = None;
                match (reason, self.link.support()) {
                    (LaneError::Unsupported, _) | (_, Support::No) => self.link.set_support(Support::No),
                    _ => self.link.condemn(CloseReason::ControlLost),
                }
            }
        }
    }
}

fn request(offer: Offer, info: OpenInfo) -> Event {
    let protocol = SubstreamProtocol::new(offer, info).with_timeout(STREAM_TIMEOUT);
    ConnectionHandlerEvent::OutboundSubstreamRequest { protocol }
}

/// Started per refused lane, at most [`crate::limits::BUSY_ANSWERS_MAX`] at once; ends within 2 s. Losing it loses
/// only the reason of a refusal.
async fn write_busy(mut stream: Stream, _permit: OwnedSemaphorePermit) {
    let answer = async {
        stream.write_all(&BUSY_ANSWER).await?;
        stream.close().await
    };
    let _ = tokio::time::timeout(BUSY_ANSWER_TIMEOUT, answer).await;
}

impl ConnectionHandler for LaneHandler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Condemned;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer, ()> {
        let offer = match self {
            Self::Node(node) => node.shared.protocols.all(),
            Self::Stranger => Offer::nothing(),
        };
        SubstreamProtocol::new(offer, ()).with_timeout(STREAM_TIMEOUT)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self {
            Self::Node(node) => node.poll(cx),
            Self::Stranger => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer, (), OpenInfo>) {
        let Self::Node(node) = self else { return };
        match event {
            ConnectionEvent::FullyNegotiatedInbound(inbound) => match inbound.protocol {
                (LaneKind::Control, stream) => node.on_control_accepted(stream),
                (LaneKind::Shard, stream) => node.on_lane_accepted(stream),
                (LaneKind::Tunnel, stream) => node.on_tunnel_accepted(stream),
            },
            ConnectionEvent::FullyNegotiatedOutbound(outbound) => match outbound.info {
                OpenInfo::Control => node.on_control_opened(outbound.protocol.1),
                OpenInfo::Lane(reply) => {
                    let _ = reply.send(Ok(outbound.protocol.1));
                }
            },
            ConnectionEvent::DialUpgradeError(failed) => node.on_open_failed(failed.info, &failed.error),
            ConnectionEvent::RemoteProtocolsChange(change) => node.on_protocols(&change),
            _ => {}
        }
    }
}
