//! One connection as callers and its handler see it: where it leads, what it is for, and the queues to its handler.
//! It opens and closes nothing itself, and knows no other connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::task::AtomicWaker;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, Stream};
use shoal_protocol::NodeId;
use shoal_protocol::link::Purpose;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::address::{ip_of_multiaddr, is_tcp};
use crate::control::client::{ClientCommand, ControlHandle};
use crate::error::LaneError;
use crate::lanes::upgrade::LaneKind;
use crate::limits::{CONTROL_COMMANDS_MAX, INBOUND_LANES_PER_PEER_MAX, OPENS_MAX};
use crate::pool::LanePool;
use crate::tunnel::slot::TunnelSlot;

/// How packets of a link travel. Ordered: the better one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// Straight to the peer.
    Direct,
    /// Through another peer.
    Relayed,
}

/// Whether the remote speaks our protocols on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// Identify has not answered yet.
    Unknown,
    /// It named our protocols.
    Yes,
    /// It did not, or refused them.
    No,
}

/// Why a link is to be closed by us. One word for log and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The peer broke the control protocol; it is banned for a while.
    Violation,
    /// Three control pings without any answer.
    Silent,
    /// The peer said that it stops.
    Goodbye,
    /// The control lane ended although the connection lives.
    ControlLost,
    /// The peer asks and does not read the answers.
    Stalled,
}

impl CloseReason {
    /// The word.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Violation => "violation",
            Self::Silent => "silent",
            Self::Goodbye => "goodbye",
            Self::ControlLost => "control_lost",
            Self::Stalled => "stalled",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Violation => 1,
            Self::Silent => 2,
            Self::Goodbye => 3,
            Self::ControlLost => 4,
            Self::Stalled => 5,
        }
    }

    const fn of_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Violation),
            2 => Some(Self::Silent),
            3 => Some(Self::Goodbye),
            4 => Some(Self::ControlLost),
            5 => Some(Self::Stalled),
            _ => None,
        }
    }
}

/// A request to a connection's handler: open one shard or tunnel lane.
#[derive(Debug)]
pub(crate) struct OpenLane {
    /// Which protocol.
    pub(crate) kind: LaneKind,
    /// Where the stream goes.
    pub(crate) reply: oneshot::Sender<Result<Stream, LaneError>>,
}

/// What all connections of one peer share.
#[derive(Debug)]
pub(crate) struct PeerShared {
    /// One permit per inbound shard lane.
    pub(crate) inbound_lanes: Arc<Semaphore>,
    /// Outbound shard lanes.
    pub(crate) pool: Arc<LanePool>,
    /// The place of the tunnel lane.
    pub(crate) tunnel: Arc<TunnelSlot>,
}

impl PeerShared {
    pub(crate) fn new() -> Self {
        let inbound_lanes = Arc::new(Semaphore::new(INBOUND_LANES_PER_PEER_MAX));
        Self { inbound_lanes, pool: Arc::default(), tunnel: Arc::default() }
    }
}

/// One established connection, as callers and its handler see it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: NodeId,
    pub(crate) connection: ConnectionId,
    pub(crate) kind: LinkKind,
    /// The remote's address without `/p2p`.
    pub(crate) address: Multiaddr,
    pub(crate) outbound: bool,
    pub(crate) shared: Arc<PeerShared>,
    pub(crate) control: ControlHandle,
    opens: mpsc::Sender<OpenLane>,
    waker: AtomicWaker,
    is_tunnel: AtomicBool,
    control_wanted: AtomicBool,
    support: AtomicU8,
    condemned: AtomicU8,
    rtt_us: AtomicU64,
    /// Bytes of replies that wait to be written here.
    pub(crate) unsent: AtomicUsize,
}

/// The handler's ends of a link's channels.
#[derive(Debug)]
pub(crate) struct LinkEnds {
    pub(crate) opens: mpsc::Receiver<OpenLane>,
    pub(crate) control: mpsc::Receiver<ClientCommand>,
}

/// What is known of a connection when its link is made.
#[derive(Debug, Clone)]
pub(crate) struct LinkFacts {
    pub(crate) peer: NodeId,
    pub(crate) connection: ConnectionId,
    pub(crate) address: Multiaddr,
    pub(crate) outbound: bool,
}

impl Link {
    pub(crate) fn new(facts: LinkFacts, shared: Arc<PeerShared>) -> (Arc<Self>, LinkEnds) {
        let (opens, opens_end) = mpsc::channel(OPENS_MAX);
        let (commands, control_end) = mpsc::channel(CONTROL_COMMANDS_MAX);
        let relayed = facts.address.iter().any(|part| part == libp2p::multiaddr::Protocol::P2pCircuit);
        let link = Self {
            peer: facts.peer,
            connection: facts.connection,
            kind: if relayed { LinkKind::Relayed } else { LinkKind::Direct },
            address: facts.address,
            outbound: facts.outbound,
            shared,
            control: ControlHandle::new(commands),
            opens,
            waker: AtomicWaker::new(),
            is_tunnel: AtomicBool::new(false),
            control_wanted: AtomicBool::new(false),
            support: AtomicU8::new(0),
            condemned: AtomicU8::new(0),
            rtt_us: AtomicU64::new(u64::MAX),
            unsent: AtomicUsize::new(0),
        };
        (Arc::new(link), LinkEnds { opens: opens_end, control: control_end })
    }

    /// Asks the handler for a lane. Full queue: Busy.
    pub(crate) fn open(&self, request: OpenLane) -> Result<(), LaneError> {
        self.opens.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LaneError::Busy,
            mpsc::error::TrySendError::Closed(_) => LaneError::Closed,
        })
    }

    /// Whether the connection still exists.
    pub(crate) fn is_open(&self) -> bool {
        !self.opens.is_closed() && self.condemned().is_none()
    }

    pub(crate) fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// What the connection is for. Bulk until a tunnel stream is opened on it or it is dialled for one.
    pub(crate) fn purpose(&self) -> Purpose {
        if self.is_tunnel.load(Ordering::Acquire) { Purpose::Tunnel } else { Purpose::Bulk }
    }

    pub(crate) fn set_purpose(&self, purpose: Purpose) {
        self.is_tunnel.store(purpose == Purpose::Tunnel, Ordering::Release);
    }

    /// The smaller the better for bulk: a relay is worse than to share with a tunnel.
    pub(crate) fn rank(&self) -> (LinkKind, Purpose) {
        (self.kind, self.purpose())
    }

    /// Whether it is a TCP connection straight to the peer.
    pub(crate) fn is_tcp(&self) -> bool {
        self.kind == LinkKind::Direct && is_tcp(&self.address)
    }

    /// The IP address the peer is seen at; none through a relay, whose address says nothing about it.
    pub(crate) fn observed_ip(&self) -> Option<IpAddr> {
        (self.kind == LinkKind::Direct).then(|| ip_of_multiaddr(&self.address)).flatten()
    }

    /// Asks the handler to open the control lane if it is not open.
    pub(crate) fn want_control(&self) {
        if !self.control_wanted.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    pub(crate) fn control_wanted(&self) -> bool {
        self.control_wanted.load(Ordering::Acquire)
    }

    /// Asks for the connection to be closed. The first reason stays.
    pub(crate) fn condemn(&self, reason: CloseReason) {
        let first = self.condemned.compare_exchange(0, reason.code(), Ordering::AcqRel, Ordering::Acquire).is_ok();
        if first {
            self.waker.wake();
        }
    }

    pub(crate) fn condemned(&self) -> Option<CloseReason> {
        CloseReason::of_code(self.condemned.load(Ordering::Acquire))
    }

    pub(crate) fn support(&self) -> Support {
        match self.support.load(Ordering::Acquire) {
            1 => Support::Yes,
            2 => Support::No,
            _ => Support::Unknown,
        }
    }

    pub(crate) fn set_support(&self, support: Support) {
        let code = match support {
            Support::Unknown => 0,
            Support::Yes => 1,
            Support::No => 2,
        };
        self.support.store(code, Ordering::Release);
    }

    pub(crate) fn set_rtt(&self, rtt: Duration) {
        let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX - 1);
        self.rtt_us.store(micros, Ordering::Release);
    }

    /// A stock ping's figure, until the control lane has its own.
    pub(crate) fn set_rtt_if_unknown(&self, rtt: Duration) {
        if self.rtt().is_none() {
            self.set_rtt(rtt);
        }
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.rtt_us.load(Ordering::Acquire) {
            u64::MAX => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }
}
