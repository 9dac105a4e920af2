//! Peers that are reached over others, asked whether frames arrive: what [`Watches`] wants to know of routes and sessions,
//! and what becomes of what it wants. It judges nobody.

use shoal_protocol::NodeId;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::content::Control;
use shoal_protocol::mesh::session::frame::PathId;

use super::Network;
use super::effect::{Env, NetworkEffect, PlaneCommand};
use super::peer::Peer;
use crate::mesh::watch::{Candidate, FAN_MAX, HOPS_MAX, WatchEffect};
use crate::path::Carrier;

impl Network {
    /// Frames of others went to these, by neighbours that are not the destination themselves, since this was last said: what
    /// [`Relay::take_destinations`](crate::mesh::relay::Relay::take_destinations) gives, a few times a second.
    pub fn handle_relayed(&mut self, destinations: impl IntoIterator<Item = PeerHash>, env: &mut Env<'_>) {
        for peer in destinations {
            if self.node_of(&peer).is_some() {
                self.watches.handle_relayed(peer, env.now);
            }
        }
        self.settle(env);
    }

    /// Packets wait for a session with `peer`, which is watched from then on if it is reached over others.
    pub(super) fn watch_wanted(&mut self, peer: PeerHash, env: &Env<'_>) {
        if !self.hops_to(&peer, 1, env).is_empty() {
            self.watches.handle_want(peer, env.now);
        }
    }

    /// Asks whom it is time to ask.
    pub(super) fn look_at_watches(&mut self, env: &mut Env<'_>) {
        for peer in self.watches.due(env.now) {
            let candidates = self.hops_to(&peer, HOPS_MAX, env);
            let has_session = self.peers.get(&peer).is_some_and(Peer::has_session);
            if !has_session && !candidates.is_empty() {
                self.ensure_routed(peer, env);
                self.with_sessions(peer, env, |sessions, cx| sessions.handle_want(cx));
            }
            self.watches.judge(peer, &candidates, has_session, env.now);
        }
        self.drain_watches(env);
    }

    fn drain_watches(&mut self, env: &mut Env<'_>) {
        while let Some(effect) = self.watches.poll() {
            match effect {
                WatchEffect::Probe { peer, hop, probe } => self.send_by(peer, None, hop, probe),
                WatchEffect::Penalty { peer, hop, penalty } => {
                    if let Some(node) = self.node_of(&peer) {
                        self.routing.handle_penalty(&node, hop, penalty, env.now);
                    }
                }
            }
        }
    }

    /// The answer of `peer` to a probe by one of its neighbours.
    pub(super) fn heard_echo(&mut self, peer: PeerHash, number: u32, env: &mut Env<'_>) {
        self.watches.handle_echo(&peer, number, env.now);
        self.drain_watches(env);
    }

    /// Answers a probe that came over others, by several ways: what is asked is whether the probe arrived, and the way back
    /// may be the bad one.
    pub(super) fn echo_routed(&mut self, peer: PeerHash, index: SessionIndex, number: u32, env: &mut Env<'_>) {
        let control = Control::Echo { number };
        let candidates = self.hops_to(&peer, FAN_MAX, env);
        for candidate in &candidates {
            self.send_by(peer, Some(index), candidate.hop, control);
        }
        if candidates.is_empty()
            && let Some(state) = self.peers.get(&peer)
        {
            let on = state.path.ways().carriers().next().unwrap_or(Carrier::Routed);
            let path = state.path.path_of(on).unwrap_or(PathId::LANES);
            let command = PlaneCommand::Control { peer, index: Some(index), on, path, control };
            self.push(NetworkEffect::Plane(command));
        }
    }

    /// A handshake message for a peer that is reached over others: the first one the way packets go. If nothing came of it,
    /// the next by several, for a way that loses it would lose each.
    pub(super) fn send_handshake_routed(&mut self, peer: PeerHash, bytes: Vec<u8>, env: &mut Env<'_>) {
        let candidates = self.hops_to(&peer, FAN_MAX, env);
        if !self.watches.is_repeated(peer, env.now) || candidates.is_empty() {
            let on = Carrier::Routed;
            return self.push(NetworkEffect::Plane(PlaneCommand::Handshake { peer: Some(peer), on, bytes }));
        }
        for candidate in candidates {
            let hop = PeerHash::of(&candidate.hop);
            let command = PlaneCommand::RoutedHandshake { peer, hop, bytes: bytes.clone() };
            self.push(NetworkEffect::Plane(command));
        }
    }

    fn send_by(&mut self, peer: PeerHash, index: Option<SessionIndex>, hop: NodeId, control: Control) {
        let hop = PeerHash::of(&hop);
        self.push(NetworkEffect::Plane(PlaneCommand::RoutedControl { peer, index, hop, control }));
    }

    fn hops_to(&self, peer: &PeerHash, most: usize, env: &Env<'_>) -> Vec<Candidate> {
        self.node_of(peer).map(|node| self.routing.candidates(&node, most, env.now)).unwrap_or_default()
    }

    /// Whose hash it is, if that member is known.
    fn node_of(&self, peer: &PeerHash) -> Option<NodeId> {
        let of_key = || self.keys.get(peer).map(super::statements::KnownKey::node);
        self.peers.get(peer).map(|state| state.node).or_else(of_key)
    }
}
