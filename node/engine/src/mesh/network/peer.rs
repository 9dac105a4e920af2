//! One other member: its sessions, its carriers, and what it said of itself. It decides nothing across peers.

use std::collections::BTreeSet;

use shoal_protocol::{BootEpoch, NodeId};

use crate::Now;
use crate::mesh::routing::cost::RTT_WINDOW_S;
use crate::mesh::session::Sessions;
use crate::path::{Carrier, PathAgent, Ways};

/// Where a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is a connection to it, and it has not said yet that it takes part.
    Connected,
    /// It said hello in this run.
    Neighbour(BootEpoch),
    /// No connection: known by what others passed on.
    Distant,
}

/// A member as the network knows it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) standing: Standing,
    /// The run it was last heard of in.
    pub(super) epoch: Option<BootEpoch>,
    /// A tunnel lane is open.
    pub(super) has_lane: bool,
    /// Whether it was told this node's hello on the connection there is, in the run it is in.
    pub(super) is_greeted: bool,
    /// There once its mesh key is known.
    pub(super) sessions: Option<Sessions>,
    pub(super) path: PathAgent,
    /// The carriers its sessions were told of.
    pub(super) carriers: BTreeSet<Carrier>,
    /// Whether a link to it was told to routing.
    pub(super) is_linked: bool,
    /// The last round trip of its control lane, microseconds.
    pub(super) lane_rtt_us: Option<u32>,
    /// When an echo last told the round trip of the way packets go.
    pub(super) measured_ms: Option<u64>,
}

impl Peer {
    pub(super) fn new(node: NodeId, standing: Standing, (full_frame, least_frame): (u16, u16)) -> Self {
        Self {
            node,
            standing,
            epoch: None,
            has_lane: false,
            is_greeted: false,
            sessions: None,
            path: PathAgent::new(full_frame, least_frame),
            carriers: BTreeSet::new(),
            is_linked: false,
            lane_rtt_us: None,
            measured_ms: None,
        }
    }

    /// A carrier came up or went down, for handshakes and for packets.
    pub(super) fn set_carrier(&mut self, carrier: Carrier, up: bool, now: Now) {
        if up {
            if self.path.handle_up(carrier, now) && self.carriers.insert(carrier) {
                self.tell_sessions(carrier, true);
            }
        } else {
            self.path.handle_down(carrier, now);
            if self.carriers.remove(&carrier) {
                self.tell_sessions(carrier, false);
            }
        }
    }

    /// All its carriers, for sessions that were made later than they came up.
    pub(super) fn tell_all_carriers(&mut self) {
        for carrier in self.carriers.clone() {
            self.tell_sessions(carrier, true);
        }
    }

    fn tell_sessions(&mut self, carrier: Carrier, up: bool) {
        if let Some(sessions) = &mut self.sessions {
            sessions.handle_carrier(carrier, up);
        }
    }

    /// Whether keys are shared with it.
    pub(super) fn has_session(&self) -> bool {
        self.sessions.as_ref().is_some_and(|sessions| sessions.current().is_some())
    }

    /// Whether the way packets go was measured so lately that the control lane need not be asked.
    pub(super) fn is_measured(&self, now: Now) -> bool {
        self.measured_ms.is_some_and(|at| now.uptime_ms.saturating_sub(at) < RTT_WINDOW_S.saturating_mul(1000))
    }

    /// Whether frames reach it without another member in between.
    pub(super) fn is_direct(&self) -> bool {
        self.path.ways().carriers().any(|carrier| carrier != Carrier::Routed)
    }

    /// Longest frame of the ways in use, bytes; none if there is no way but through others.
    pub(super) fn max_frame(&self) -> Option<u32> {
        let of = |carrier: Carrier| match carrier {
            Carrier::Lanes => Some(u32::from(u16::MAX)),
            Carrier::Udp(_) => Some(u32::from(self.path.frame_of(carrier))),
            Carrier::Routed => None,
        };
        match self.path.ways() {
            Ways::None => None,
            Ways::One { on, .. } => of(on),
            Ways::Both { doubted, spare } => [of(doubted), of(spare)].into_iter().flatten().min(),
        }
    }
}
