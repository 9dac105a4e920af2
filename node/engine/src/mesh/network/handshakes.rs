//! Messages and frames of sessions: which peer each is of, and what its sessions and carriers make of it. It opens and
//! seals nothing.

use core::net::{IpAddr, SocketAddr};

use shoal_protocol::mesh::address::network_prefix;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::session::content::Control;
use shoal_protocol::mesh::session::frame::PathId;
use shoal_protocol::mesh::session::handshake::{CookieReply, Response};
use shoal_protocol::mesh::session::{MessageKind, SessionIndex};

use super::effect::{Env, NetworkEffect, PlaneCommand};
use super::peer::Standing;
use super::{Network, PEERS_MAX};
use crate::mesh::session::{Dropped, Effect, Load, Traffic, Verdict};
use crate::mesh::watch::Watches;
use crate::path::Carrier;

/// Bytes of the longest source a cookie is made for here: an IPv6 address and a port.
const SOURCE: usize = 18;

impl Network {
    /// A handshake message came. `via` is the peer whose lane it came on, or who is said to be its source where it came over
    /// others; none for a datagram.
    pub fn handle_handshake(
        &mut self,
        bytes: &[u8],
        from: Carrier,
        via: Option<PeerHash>,
        load: Load,
        env: &mut Env<'_>,
    ) {
        match bytes.first().copied().and_then(MessageKind::of_first_byte) {
            Some(MessageKind::Initiation) => self.handle_initiation(bytes, from, via, load, env),
            Some(MessageKind::Response) => match Response::parse(bytes) {
                Ok(response) => {
                    self.of_index(response.receiver, env, |sessions, cx| sessions.handle_response(bytes, from, cx));
                }
                Err(_) => self.drops.add(Dropped::Malformed),
            },
            Some(MessageKind::CookieReply) => match CookieReply::parse(bytes) {
                Ok(reply) => {
                    self.of_index(reply.receiver, env, |sessions, cx| sessions.handle_cookie(bytes, from, cx));
                }
                Err(_) => self.drops.add(Dropped::Malformed),
            },
            Some(MessageKind::Data) | None => self.drops.add(Dropped::Malformed),
        }
        self.settle(env);
    }

    fn handle_initiation(&mut self, bytes: &[u8], from: Carrier, via: Option<PeerHash>, load: Load, env: &mut Env<'_>) {
        let (source, length) = source_of(from, via);
        let source = source.get(..length).unwrap_or_default();
        match self.gate.examine(bytes, source, load, env.now.uptime_ms, env.random) {
            Verdict::Dropped(_) => {}
            Verdict::Cookie(reply) => {
                let command = PlaneCommand::Handshake { peer: via, on: from, bytes: reply.to_vec() };
                self.push(NetworkEffect::Plane(command));
            }
            Verdict::Admitted(admitted) => {
                let peer = admitted.introduction().peer;
                if !self.peers.contains_key(&peer) && self.peers.len() >= PEERS_MAX {
                    return self.drops.add(Dropped::Busy);
                }
                match from {
                    Carrier::Routed => self.ensure_routed(peer, env),
                    Carrier::Lanes | Carrier::Udp(_) => self.ensure_known(peer),
                }
                if self.peers.get(&peer).is_none_or(|state| state.sessions.is_none()) {
                    return self.drops.add(Dropped::WrongPeer);
                }
                self.with_sessions(peer, env, |sessions, cx| sessions.handle_initiation(&admitted, from, cx));
            }
        }
    }

    /// An authentic frame of session `index` came `from` there: for the first frame of a session, for each that comes
    /// another way than the one before, and otherwise as often as is convenient.
    pub fn handle_opened(&mut self, index: SessionIndex, from: Carrier, env: &mut Env<'_>) {
        let Some(peer) = self.of_index(index, env, |sessions, cx| sessions.handle_opened(index, from, cx)) else {
            return;
        };
        if let Some(state) = self.peers.get_mut(&peer) {
            state.path.handle_received(from, env.now);
        }
        self.heard_on(peer, from);
        self.drain_path(peer, env);
        self.settle(env);
    }

    /// A word of the peer, opened in a frame of session `index` that came `from` there.
    pub fn handle_control(&mut self, index: SessionIndex, from: Carrier, control: Control, env: &mut Env<'_>) {
        let heard = self.of_index(index, env, |sessions, cx| {
            sessions.handle_opened(index, from, cx);
            sessions.handle_control(index, from, control, cx);
        });
        let Some(peer) = heard else { return };
        self.heard_on(peer, from);
        if let Some(state) = self.peers.get_mut(&peer) {
            state.path.handle_received(from, env.now);
            match control {
                Control::Probe { number, .. } if from == Carrier::Routed => {
                    self.echo_routed(peer, index, number, env);
                }
                Control::Probe { number, .. } => {
                    let path = state.path.path_of(from).unwrap_or(PathId::LANES);
                    let control = Control::Echo { number };
                    let command = PlaneCommand::Control { peer, index: Some(index), on: from, path, control };
                    self.push(NetworkEffect::Plane(command));
                }
                Control::Echo { number } if Watches::is_own(number) => self.heard_echo(peer, number, env),
                Control::Echo { number } => {
                    if let Some(rtt_ms) = state.path.handle_echo(number, from, env.now) {
                        self.measured(peer, from, rtt_ms, env);
                    }
                }
                _ => {}
            }
        }
        self.drain_path(peer, env);
        self.settle(env);
    }

    /// What session `index` has carried until now: at least once a second while it carries anything.
    pub fn handle_traffic(&mut self, index: SessionIndex, traffic: Traffic, env: &mut Env<'_>) {
        self.of_index(index, env, |sessions, cx| sessions.handle_traffic(index, traffic, cx));
        self.settle(env);
    }

    /// Packets for `peer` were sent on this carrier since this was last said.
    pub fn handle_sent(&mut self, peer: PeerHash, on: Carrier, env: &mut Env<'_>) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.path.handle_sent(on, env.now);
        }
        if on == Carrier::Routed {
            self.watches.handle_sent(peer, env.now);
        }
        self.drain_path(peer, env);
        self.settle(env);
    }

    /// Packets of `peer` came on this carrier since this was last said.
    pub fn handle_received(&mut self, peer: PeerHash, on: Carrier, env: &mut Env<'_>) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.path.handle_received(on, env.now);
        }
        self.heard_on(peer, on);
        self.drain_path(peer, env);
        self.settle(env);
    }

    /// What comes over others shows that something arrives, whichever way it went.
    fn heard_on(&mut self, peer: PeerHash, on: Carrier) {
        if on == Carrier::Routed {
            self.watches.handle_received(&peer);
        }
    }

    /// Lets `event` at the sessions that own an index, and says whose they are.
    fn of_index(
        &mut self,
        index: SessionIndex,
        env: &mut Env<'_>,
        event: impl FnOnce(&mut crate::mesh::session::Sessions, &mut crate::mesh::session::Context<'_>),
    ) -> Option<PeerHash> {
        let Some(peer) = self.indices.peer(index) else {
            self.drops.add(Dropped::NoSession);
            return None;
        };
        self.with_sessions(peer, env, event);
        Some(peer)
    }

    /// Makes the sessions of a member that shows itself by an initiation.
    fn ensure_known(&mut self, peer: PeerHash) {
        if let Some(known) = self.keys.get(&peer).filter(|_| !self.peers.contains_key(&peer)) {
            let node = known.node();
            self.peer_mut(node, Standing::Distant);
        }
        self.ensure_sessions(peer);
    }

    /// Passes on what the sessions of a peer want.
    pub(super) fn drain_sessions(&mut self, peer: PeerHash, env: &mut Env<'_>) {
        while let Some(effect) = self.peers.get_mut(&peer).and_then(|state| state.sessions.as_mut()?.poll()) {
            match effect {
                Effect::Send { on: Carrier::Routed, bytes } => self.send_handshake_routed(peer, bytes, env),
                Effect::Send { on, bytes } => {
                    self.push(NetworkEffect::Plane(PlaneCommand::Handshake { peer: Some(peer), on, bytes }));
                }
                Effect::Install(installed) => {
                    self.push(NetworkEffect::Plane(PlaneCommand::Install { peer, installed }));
                }
                Effect::Use { index } => self.push(NetworkEffect::Plane(PlaneCommand::Use { peer, index })),
                Effect::Control { index, on, control } => {
                    let path = self.path_for(peer, on, env);
                    let command = PlaneCommand::Control { peer, index: Some(index), on, path, control };
                    self.push(NetworkEffect::Plane(command));
                }
                Effect::Erase { index } => self.push(NetworkEffect::Plane(PlaneCommand::Erase { peer, index })),
                Effect::Validated { carrier } => {
                    if let Some(state) = self.peers.get_mut(&peer) {
                        state.set_carrier(carrier, true, env.now);
                        state.path.handle_validated(carrier, env.now);
                    }
                    self.drain_path(peer, env);
                }
                Effect::Up | Effect::Down(_) => {
                    self.watches.handle_session(&peer);
                    // Addresses are proven by frames of a session: with a new one they are tried anew.
                    if let Some(state) = self.peers.get_mut(&peer) {
                        state.path.handle_session(env.now);
                    }
                    self.drain_path(peer, env);
                }
                // The record comes with the next hello or flood; there is nobody else to ask.
                Effect::WantKey { .. } => {}
            }
        }
    }

    /// What frames on a carrier are counted under; an address that is still to be shown gets a number too, if one is free.
    fn path_for(&mut self, peer: PeerHash, on: Carrier, env: &Env<'_>) -> PathId {
        let Some(state) = self.peers.get_mut(&peer) else { return PathId::LANES };
        if state.path.path_of(on).is_none() {
            state.path.handle_up(on, env.now);
        }
        state.path.path_of(on).unwrap_or(PathId::LANES)
    }

    /// The addresses of the network itself: nobody's carrier leads there.
    pub(super) fn tables_overlay(&self) -> OwnAddresses {
        OwnAddresses { v6: network_prefix(&self.setup.network), v4: self.setup.pool.prefix() }
    }
}

/// The two prefixes of a network.
pub(super) struct OwnAddresses {
    v6: Prefix,
    v4: Prefix,
}

impl OwnAddresses {
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.v6.contains(address) || self.v4.contains(address)
    }
}

/// The source of an initiation as cookies know it, and its length.
fn source_of(from: Carrier, via: Option<PeerHash>) -> ([u8; SOURCE], usize) {
    let mut out = [0; SOURCE];
    let mut write = |parts: [&[u8]; 2]| {
        let mut at = 0;
        for (slot, byte) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *slot = *byte;
            at += 1;
        }
        at
    };
    let length = match (from, via) {
        (Carrier::Udp(SocketAddr::V4(address)), _) => write([&address.ip().octets(), &address.port().to_be_bytes()]),
        (Carrier::Udp(SocketAddr::V6(address)), _) => write([&address.ip().octets(), &address.port().to_be_bytes()]),
        (Carrier::Lanes, Some(peer)) => write([b"lanes", peer.as_bytes()]),
        (Carrier::Routed, Some(peer)) => write([b"routed", peer.as_bytes()]),
        (Carrier::Lanes | Carrier::Routed, None) => 0,
    };
    (out, length)
}
