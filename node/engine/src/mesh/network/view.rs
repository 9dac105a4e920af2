//! The network as data for people: members, routes, reasons; and a probe of one member. Of these only the probe asks for
//! anything to be done.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::NodeId;
use shoal_protocol::mesh::address::{network_prefix, overlay, peer_of};
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::content::Control;

use super::effect::{Env, NetworkEffect, PlaneCommand, Setup};
use super::peer::Standing;
use super::{Network, Peer};
use crate::Now;
use crate::mesh::routing::snapshot::{ExitUse, Lookup, NextHop};
use crate::mesh::routing::{RouteState, Snapshot};
use crate::mesh::session::Drops;
use crate::path::{CandidateView, Carrier, Ways};

/// How packets reach a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Without another member in between.
    Direct,
    /// By these neighbours, as good as each other.
    Routed(Vec<NodeId>),
    /// Not at all.
    None,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Who.
    pub node: NodeId,
    /// Its IPv4 address, if its claim is known.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Where it stands.
    pub standing: Standing,
    /// Whether keys are shared with it.
    pub has_session: bool,
    /// Whether its mesh key is known: without one there is no session.
    pub has_key: bool,
    /// How it is reached.
    pub reach: Reach,
    /// What frames go on.
    pub ways: Ways,
    /// The carriers of `ways`, each with its round trip in milliseconds.
    pub rtt_ms: Vec<(Carrier, Option<u64>)>,
    /// Longest frame that gets there, bytes.
    pub max_frame: Option<u32>,
}

/// A route, in use or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRow {
    /// Where it leads.
    pub prefix: Prefix,
    /// To whom packets are sealed.
    pub to: NodeId,
    /// The neighbours packets go by.
    pub hops: Vec<NodeId>,
    /// From here.
    pub metric: u32,
    /// Longest frame of the way, bytes.
    pub max_frame: u32,
    /// What is thought of it.
    pub state: RouteState,
}

/// Why no probe was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPing {
    /// Nobody of this hash is known.
    #[error("unknown-peer")]
    Unknown,
    /// There are no keys yet; a handshake was begun if one can be.
    #[error("no-session")]
    NoSession,
    /// No carrier is up.
    #[error("no-carrier")]
    NoCarrier,
}

impl NoPing {
    /// Whether it may succeed a moment later.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(self, Self::NoSession | Self::NoCarrier)
    }
}

impl Network {
    /// What this network was made of.
    #[must_use]
    pub const fn setup(&self) -> &Setup {
        &self.setup
    }

    /// This node's IPv4 address, unless somebody else has it.
    #[must_use]
    pub const fn own_ipv4(&self) -> Option<Ipv4Addr> {
        self.claims.own_address()
    }

    /// This node's IPv6 address.
    #[must_use]
    pub fn own_ipv6(&self) -> Ipv6Addr {
        overlay(&self.setup.network, &self.own.hash)
    }

    /// Whose address this is; none for this node's own.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<NodeId> {
        match address.to_canonical() {
            IpAddr::V4(address) => self.claims.holder(address),
            IpAddr::V6(address) => {
                let hash = peer_of(&self.setup.network, address)?;
                let of_key = || self.keys.get(&hash).map(super::statements::KnownKey::node);
                self.peers.get(&hash).map(|peer| peer.node).or_else(of_key)
            }
        }
        .filter(|node| *node != self.setup.local)
    }

    /// Every member that is known, by id, this node left out.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerView> {
        let routes = self.snapshot();
        let known = self.peers.values().map(|peer| peer.node);
        let told = self.keys.values().map(super::statements::KnownKey::node);
        let routed = routes.peers().iter().map(|peer| peer.node);
        let all: BTreeSet<NodeId> = known.chain(told).chain(routed).collect();
        let all = all.into_iter().filter(|node| *node != self.setup.local && self.setup.members.has(node));
        all.map(|node| self.view(node, &routes)).collect()
    }

    /// One member; none if nothing was heard of it.
    #[must_use]
    pub fn peer(&self, node: NodeId) -> Option<PeerView> {
        let hash = PeerHash::of(&node);
        let routes = self.snapshot();
        let is_known = self.peers.get(&hash).is_some_and(|peer| peer.node == node)
            || self.keys.get(&hash).is_some_and(|known| known.node() == node)
            || routes.peers().iter().any(|peer| peer.node == node);
        is_known.then(|| self.view(node, &routes))
    }

    fn view(&self, node: NodeId, routes: &Snapshot) -> PeerView {
        let hash = PeerHash::of(&node);
        let state = self.peers.get(&hash).filter(|state| state.node == node);
        let lookup = routes.lookup_peer(&hash, 0);
        let ways = state.map_or(Ways::None, |state| state.path.ways());
        // As packets go: by the routes, and by the ways of whoever is next.
        let (reach, max_frame) = match lookup {
            Lookup::To { hops, .. } if hops.iter().any(|hop| hop.peer == hash) => {
                (Reach::Direct, state.and_then(Peer::max_frame))
            }
            // There are routes, but nothing that goes by them is answered: a liar, or more hops than a frame may cross.
            Lookup::To { .. } if self.watches.is_silent(&hash) => (Reach::None, None),
            Lookup::To { peer, hops, .. } => (Reach::Routed(nodes(hops)), Some(peer.max_frame)),
            Lookup::Local | Lookup::Unreachable(_) => (Reach::None, None),
        };
        let rtt_ms = |state: &Peer| ways.carriers().map(|on| (on, state.path.rtt_ms(on))).collect();
        PeerView {
            node,
            ipv4: self.claims.address_of(&node),
            ipv6: overlay(&self.setup.network, &hash),
            standing: state.map_or(Standing::Distant, |state| state.standing),
            has_session: state.is_some_and(Peer::has_session),
            has_key: self.keys.get(&hash).is_some_and(|known| known.node() == node),
            reach,
            ways,
            rtt_ms: state.map(rtt_ms).unwrap_or_default(),
            max_frame,
        }
    }

    /// Every carrier of a member.
    #[must_use]
    pub fn candidates(&self, peer: &PeerHash, now: Now) -> Vec<CandidateView> {
        self.peers.get(peer).map(|state| state.path.candidates(now).collect()).unwrap_or_default()
    }

    /// Every route: those in use first, then what else neighbours tell, each in the order of prefixes.
    #[must_use]
    pub fn routes(&self, now: Now) -> Vec<RouteRow> {
        let table = self.snapshot();
        let own = network_prefix(&self.setup.network);
        let addresses: BTreeMap<NodeId, Ipv4Addr> =
            self.claims.bindings().map(|(address, node)| (node, address)).collect();
        let mut rows = Vec::new();
        for peer in table.peers() {
            let Lookup::To { hops, .. } = table.lookup_peer(&peer.hash, 0) else { continue };
            let v4 = addresses.get(&peer.node).map(|address| IpAddr::V4(*address));
            let v6 = IpAddr::V6(overlay(&self.setup.network, &peer.hash));
            rows.extend(v4.into_iter().chain([v6]).map(|address| RouteRow {
                prefix: Prefix::host(address),
                to: peer.node,
                hops: nodes(hops),
                metric: peer.metric,
                max_frame: peer.max_frame,
                state: RouteState::Used,
            }));
        }
        // Host routes in use are among the peers above, with all their next hops.
        let told = self.routing.view(now).filter(|row| row.state != RouteState::Used || !own.covers(&row.prefix));
        rows.extend(told.map(|row| RouteRow {
            prefix: row.prefix,
            to: row.told.router.node,
            hops: vec![row.via],
            metric: row.metric,
            max_frame: row.max_frame,
            state: row.state,
        }));
        rows.sort_by_key(|row| (row.state != RouteState::Used, row.prefix, row.metric, row.to));
        rows
    }

    /// Through whom packets to the internet go now; none where nobody takes them.
    #[must_use]
    pub fn exit(&self) -> Option<NodeId> {
        match self.setup.exit {
            ExitUse::Off => None,
            ExitUse::Peer(node) => self.routing.leads_to(&node).then_some(node),
            ExitUse::Auto => {
                let everything = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
                everything.iter().find_map(|address| self.routing.router_of(&Prefix::around(*address, 0)))
            }
        }
    }

    /// Prefixes behind other members that packets go to now, the internet left out.
    #[must_use]
    pub fn led_to(&self) -> Vec<Prefix> {
        let own = network_prefix(&self.setup.network);
        self.routing.reached().filter(|prefix| !own.covers(prefix) && !prefix.is_default()).collect()
    }

    /// What sessions refused, those that are over and of unknown peers included as far as they were counted, by reason.
    pub fn session_drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let of_peers = self.peers.values().filter_map(|peer| peer.sessions.as_ref().map(|sessions| sessions.drops()));
        let all: Vec<&Drops> = of_peers.chain([&self.drops]).collect();
        let mut sums = BTreeMap::new();
        for (reason, count) in all.into_iter().flat_map(Drops::by_reason) {
            let sum: &mut u64 = sums.entry(reason.label()).or_default();
            *sum = sum.saturating_add(count);
        }
        sums.into_iter()
    }

    /// With whom the session of this index is.
    #[must_use]
    pub fn peer_of(&self, index: SessionIndex) -> Option<PeerHash> {
        self.indices.peer(index)
    }

    /// Somebody wants to know how far away a member is: sends it probe `number` on the carrier in use, which is returned.
    /// The echo comes as [`Control::Echo`]. Numbers of 2^31 and above are the caller's, those below are of the paths.
    ///
    /// # Errors
    /// [`NoPing`]; without a session one is begun.
    pub fn handle_ping(&mut self, peer: PeerHash, number: u32, env: &mut Env<'_>) -> Result<Carrier, NoPing> {
        self.handle_want(peer, env);
        let state = self.peers.get(&peer).ok_or(NoPing::Unknown)?;
        if !state.has_session() {
            return Err(NoPing::NoSession);
        }
        let on = state.path.ways().carriers().next().ok_or(NoPing::NoCarrier)?;
        let path = state.path.path_of(on).ok_or(NoPing::NoCarrier)?;
        let control = Control::Probe { number, padding: 0 };
        self.push(NetworkEffect::Plane(PlaneCommand::Control { peer, index: None, on, path, control }));
        Ok(on)
    }
}

fn nodes(hops: &[NextHop]) -> Vec<NodeId> {
    hops.iter().map(|hop| hop.node).collect()
}
