//! Connections to members, tunnel lanes, and what is said on the control lane. It opens neither and says nothing itself.

use core::net::{IpAddr, SocketAddr};

use shoal_protocol::NodeId;
use shoal_protocol::mesh::message::{Endpoint, MeshHello, MeshMessage};
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::session::content::CloseReason;

use super::effect::{Carriers, Env, NetworkEffect, PlaneCommand};
use super::peer::{Peer, Standing};
use super::statements::Refused;
use super::{Network, PEERS_MAX, rights};
use crate::mesh::routing::{LinkFacts, LinkSample};
use crate::path::Carrier;

impl Network {
    /// There is a connection to `node`, on whose control lane it can be spoken to. Somebody who is no member is left alone.
    pub fn handle_connected(&mut self, node: NodeId, env: &mut Env<'_>) {
        if node == self.setup.local || !self.setup.members.has(&node) {
            return;
        }
        let Some(peer) = self.peer_mut(node, Standing::Connected) else { return };
        if peer.standing == Standing::Distant {
            peer.standing = Standing::Connected;
        }
        // Its hello can be heard before the connection is: what was asked for then found none.
        let is_lane_missing = matches!(peer.standing, Standing::Neighbour(_)) && !peer.has_lane;
        if is_lane_missing {
            self.want_lane(PeerHash::of(&node));
        }
        self.greet(node);
        self.settle(env);
    }

    fn greet(&mut self, node: NodeId) {
        let Some(hello) = self.hello() else { return };
        if let Some(state) = self.peers.get_mut(&PeerHash::of(&node)) {
            state.is_greeted = true;
        }
        self.tell(node, hello);
    }

    /// There is none any more.
    pub fn handle_disconnected(&mut self, node: NodeId, env: &mut Env<'_>) {
        let peer = PeerHash::of(&node);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.standing = Standing::Distant;
        (state.has_lane, state.is_greeted) = (false, false);
        state.set_carrier(Carrier::Lanes, false, env.now);
        self.flood.handle_link_lost(node, env.now);
        self.drain_path(peer, env);
        self.link_changed(peer, env);
        self.settle(env);
    }

    /// This node takes datagrams elsewhere than before: neighbours are told.
    pub fn handle_endpoints(&mut self, endpoints: Vec<Endpoint>, env: &mut Env<'_>) {
        if self.setup.endpoints != endpoints {
            self.setup.endpoints = endpoints;
            self.greet_all();
            let all: Vec<PeerHash> = self.peers.keys().copied().collect();
            for peer in all {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.path.handle_moved(env.now);
                }
                self.drain_path(peer, env);
            }
            self.settle(env);
        }
    }

    /// A tunnel lane to `node` is open, or is no more.
    pub fn handle_lane(&mut self, node: NodeId, up: bool, env: &mut Env<'_>) {
        if !self.setup.members.has(&node) {
            return;
        }
        let peer = PeerHash::of(&node);
        let Some(state) = self.peer_mut(node, Standing::Connected).filter(|state| state.has_lane != up) else { return };
        state.has_lane = up;
        state.set_carrier(Carrier::Lanes, up, env.now);
        let wants_lane = !up && matches!(state.standing, Standing::Neighbour(_));
        if wants_lane {
            self.want_lane(peer);
        }
        self.drain_path(peer, env);
        if up {
            // Keys before the first packet: it need not wait, and addresses can be proven.
            self.with_sessions(peer, env, |sessions, cx| sessions.handle_want(cx));
        }
        self.link_changed(peer, env);
        self.settle(env);
    }

    /// A neighbour said something. `seen` is the address its connection comes from.
    pub fn handle_message(&mut self, from: NodeId, seen: Option<IpAddr>, message: MeshMessage, env: &mut Env<'_>) {
        if !self.setup.members.has(&from) {
            return self.refuse(Refused::NotMember);
        }
        match message {
            MeshMessage::Hello(hello) => self.take_hello(from, seen, &hello, env),
            MeshMessage::Routes(routes) => match self.intake.verify(routes) {
                Ok(heard) => {
                    let heard = {
                        let right = rights(&self.policy, &self.claims, &self.setup);
                        self.routing.handle_message(from, heard, &right, env.now)
                    };
                    if let Err(reason) = heard {
                        self.refuse(Refused::Routes(reason));
                    }
                }
                Err(_) => self.refuse(Refused::Forged),
            },
            MeshMessage::Flood(flood) => match self.flood.handle_message(from, flood, env.now) {
                Ok(items) => self.take_items(from, items, env),
                Err(reason) => self.refuse(Refused::Flood(reason)),
            },
            MeshMessage::Leave => self.handle_disconnected(from, env),
        }
        self.settle(env);
    }

    fn take_hello(&mut self, from: NodeId, seen: Option<IpAddr>, hello: &MeshHello, env: &mut Env<'_>) {
        let Some(state) = self.peer_mut(from, Standing::Connected) else { return };
        state.standing = Standing::Neighbour(hello.epoch);
        let has_lane = state.has_lane;
        let restarted = state.epoch.replace(hello.epoch).is_some_and(|known| known != hello.epoch);
        let is_greeted = state.is_greeted && !restarted;
        if !self.learn_key(from, &hello.key, Some(from), env) {
            // Older than the key that is known, perhaps: then it hears of that one, and says hello with another.
            self.flood.handle_link(from, hello.epoch);
            return;
        }
        let peer = PeerHash::of(&from);
        if !is_greeted {
            // It takes part anew on a connection that stayed: nobody else tells it of this node.
            self.greet(from);
        }
        if restarted {
            // Its keys went with the run before: what is sealed with them is lost until somebody notices.
            self.with_sessions(peer, env, |sessions, cx| sessions.close(CloseReason::Stopping, cx));
        }
        self.flood.handle_link(from, hello.epoch);
        self.ensure_sessions(peer);
        if !has_lane {
            self.want_lane(peer);
        }
        if self.setup.carriers != Carriers::Lanes {
            let said = hello.endpoints.iter().map(|endpoint| endpoint.address());
            // Behind a translator the port is a guess, but where there is none it is right.
            let seen =
                hello.endpoints.iter().filter_map(|endpoint| Some(SocketAddr::new(seen?, endpoint.address().port())));
            let overlay = self.tables_overlay();
            for address in said.chain(seen).filter(|address| !overlay.contains(address.ip())) {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.set_carrier(Carrier::Udp(address), true, env.now);
                }
            }
        }
        self.with_sessions(peer, env, |sessions, cx| sessions.handle_want(cx));
        self.drain_path(peer, env);
        self.link_changed(peer, env);
    }

    pub(super) fn want_lane(&mut self, peer: PeerHash) {
        let Some(state) = self.peers.get(&peer) else { return };
        let proven = state.path.ways().carriers().any(|carrier| matches!(carrier, Carrier::Udp(_)));
        if self.setup.carriers != Carriers::Udp || !proven {
            let node = state.node;
            self.push(NetworkEffect::OpenLane(node));
        }
    }

    /// What this node says first; none before its key is signed.
    pub(super) fn hello(&self) -> Option<MeshMessage> {
        let key = self.key_record.clone()?;
        Some(MeshMessage::Hello(MeshHello { epoch: self.setup.epoch, key, endpoints: self.setup.endpoints.clone() }))
    }

    /// Says hello again to everybody there is a connection to.
    pub(super) fn greet_all(&mut self) {
        let connected = self.peers.values().filter(|peer| peer.standing != Standing::Distant);
        let nodes: Vec<NodeId> = connected.map(|peer| peer.node).collect();
        nodes.into_iter().for_each(|node| self.greet(node));
    }

    /// Stops taking part: a word to every neighbour and the end of every session.
    pub fn leave(&mut self, env: &mut Env<'_>) {
        let all: Vec<(PeerHash, NodeId, Standing)> =
            self.peers.iter().map(|(hash, peer)| (*hash, peer.node, peer.standing)).collect();
        for (peer, node, standing) in all {
            self.with_sessions(peer, env, |sessions, cx| sessions.close(CloseReason::Stopping, cx));
            if matches!(standing, Standing::Neighbour(_)) {
                self.tell(node, MeshMessage::Leave);
            }
        }
    }

    pub(super) fn tell(&mut self, to: NodeId, message: MeshMessage) {
        self.push(NetworkEffect::Tell { to, message: Box::new(message) });
    }

    /// The state of a peer, new ones with this standing; none where there are too many.
    pub(super) fn peer_mut(&mut self, node: NodeId, standing: Standing) -> Option<&mut Peer> {
        let hash = PeerHash::of(&node);
        if !self.peers.contains_key(&hash) {
            if self.peers.len() >= PEERS_MAX {
                self.refuse(Refused::Full);
                return None;
            }
            self.publish = true;
            self.peers.insert(hash, Peer::new(node, standing, (self.setup.full_frame, self.setup.least_frame)));
            self.push(NetworkEffect::Plane(PlaneCommand::Peer { node }));
        }
        // Of two nodes with one hash, which is a matter of 2^40 tries for each, the first stays.
        self.peers.get_mut(&hash).filter(|peer| peer.node == node)
    }

    /// Everybody who said hello on a connection there is.
    pub fn neighbours(&self) -> impl Iterator<Item = NodeId> {
        let is_near = |peer: &&Peer| matches!(peer.standing, Standing::Neighbour(_));
        self.peers.values().filter(is_near).map(|peer| peer.node)
    }

    /// How long the last word to each of these neighbours and its answer took on the control lane, microseconds, as the swarm
    /// measures it by a timer of its own: all that is known of a link without packets, for which no session is kept. Said
    /// every few seconds; the echoes of probes go before it.
    pub fn handle_round_trips(&mut self, rtts: impl IntoIterator<Item = (NodeId, u32)>, env: &mut Env<'_>) {
        for (node, rtt_us) in rtts {
            let state = self.peers.get_mut(&PeerHash::of(&node)).filter(|state| state.node == node);
            let Some(state) = state.filter(|state| matches!(state.standing, Standing::Neighbour(_))) else { continue };
            state.lane_rtt_us = Some(rtt_us);
            if !state.is_measured(env.now) {
                self.sample(node, Some(rtt_us), env);
            }
        }
        self.settle(env);
    }

    /// A probe to a peer and its echo on this carrier took so long.
    pub(super) fn measured(&mut self, peer: PeerHash, on: Carrier, rtt_ms: u64, env: &mut Env<'_>) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if on != Carrier::Routed && state.path.ways().carriers().next() == Some(on) {
            state.measured_ms = Some(env.now.uptime_ms);
            let node = state.node;
            self.sample(node, Some(micros(rtt_ms)), env);
        }
    }

    fn sample(&mut self, node: NodeId, rtt_us: Option<u32>, env: &Env<'_>) {
        if rtt_us.is_some() {
            let sample = LinkSample { rtt_us, reliability_permille: 1000, ..LinkSample::default() };
            self.routing.handle_sample(node, sample, env.now);
        }
    }

    /// Tells routing what the link to a peer is like now.
    pub(super) fn link_changed(&mut self, peer: PeerHash, env: &mut Env<'_>) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let node = state.node;
        match (state.standing, state.max_frame()) {
            (Standing::Neighbour(epoch), Some(max_frame)) if state.is_direct() => {
                state.is_linked = true;
                let rtt_ms = state.path.ways().carriers().find_map(|carrier| state.path.rtt_ms(carrier));
                self.routing.handle_link(node, LinkFacts { epoch, max_frame, relayed: false }, env.now);
                let rtt_us = rtt_ms.map_or(state.lane_rtt_us, |rtt_ms| Some(micros(rtt_ms)));
                self.sample(node, rtt_us, env);
            }
            _ if state.is_linked => {
                state.is_linked = false;
                self.routing.handle_link_lost(node, env.now);
            }
            _ => {}
        }
    }
}

fn micros(milliseconds: u64) -> u32 {
    u32::try_from(milliseconds.saturating_mul(1000)).unwrap_or(u32::MAX)
}
