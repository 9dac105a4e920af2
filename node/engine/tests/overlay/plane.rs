//! The packet halves of a world: frames sealed, relayed and opened as the program does, every frame with its trail. It
//! checks what arrives and asks no engine anything.

use std::sync::Arc;

use shoal_engine::mesh::network::{Network, PlaneCommand};
use shoal_engine::mesh::qos::bucket::Rate;
use shoal_engine::mesh::relay::{RelayDrop, RelayStep};
use shoal_engine::mesh::routing::snapshot::Lookup;
use shoal_engine::mesh::session::{Content, Load, RxHalf, Traffic};
use shoal_engine::path::{Carrier, Ways};
use shoal_protocol::mesh::class::Class;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::relay::{HOP_LIMIT, RelayHeader};
use shoal_protocol::mesh::session::content::{ContentKind, Control};
use shoal_protocol::mesh::session::frame::{BEFORE_BODY, FRAME_MAX, FRAME_OVERHEAD, PathId};
use shoal_protocol::mesh::session::{MessageKind, SessionIndex};

use super::{Arrival, Event, Halves, SECRET, World, pair};

/// Everybody may relay a hundred megabits a second.
const RATE: Rate = Rate { bytes_per_second: 12_500_000, burst: 12_500_000 };

/// Something on a lane, with the honest relays it has crossed since it was sealed or a liar had it.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) bytes: Vec<u8>,
    pub(super) trail: Vec<usize>,
}

impl World {
    pub(super) fn obey(&mut self, at: usize, command: PlaneCommand) {
        let now_us = self.now_ms * 1000;
        match command {
            PlaneCommand::Peer { node } => {
                self.nodes[at].relay.grant(PeerHash::of(&node), RATE, now_us);
            }
            PlaneCommand::Forget { peer } => {
                self.nodes[at].relay.revoke(&peer);
                self.nodes[at].ways.remove(&peer);
            }
            PlaneCommand::Handshake { peer: Some(peer), on: Carrier::Lanes, bytes } => {
                self.put_on_lane(at, peer, Parcel { bytes, trail: vec![] });
            }
            PlaneCommand::Handshake { peer: Some(peer), on: Carrier::Routed, bytes } => self.routed(at, peer, &bytes),
            PlaneCommand::Handshake { .. } => {}
            PlaneCommand::RoutedHandshake { peer, hop, bytes } => self.by(at, peer, hop, &bytes, vec![]),
            PlaneCommand::Install { peer, installed } => {
                let halves = Halves { peer, tx: installed.tx, rx: installed.rx };
                self.nodes[at].halves.insert(installed.index, halves);
            }
            PlaneCommand::Use { peer, index } => {
                self.nodes[at].using.insert(peer, index);
            }
            PlaneCommand::Control { peer, index, on, path, control } => {
                let routed = on == Carrier::Routed;
                let Some(bytes) = self.seal_word(at, peer, index, path, routed, &control) else { return };
                if routed {
                    self.routed(at, peer, &bytes);
                } else {
                    self.put_on_lane(at, peer, Parcel { bytes, trail: vec![] });
                }
            }
            PlaneCommand::RoutedControl { peer, index, hop, control } => {
                if let Some(bytes) = self.seal_word(at, peer, index, PathId::ROUTED, true, &control) {
                    self.by(at, peer, hop, &bytes, vec![]);
                }
            }
            PlaneCommand::Choose { peer, choice } => {
                self.nodes[at].ways.insert(peer, choice.ways);
            }
            PlaneCommand::Erase { peer, index } => {
                self.nodes[at].halves.remove(&index);
                if self.nodes[at].using.get(&peer) == Some(&index) {
                    self.nodes[at].using.remove(&peer);
                }
            }
        }
    }

    pub(super) fn header(&self, at: usize, peer: PeerHash) -> RelayHeader {
        let source = self.nodes[at].hash;
        RelayHeader { class: Class::Interactive, hop_limit: HOP_LIMIT, flow_label: 0, destination: peer, source }
    }

    fn seal_word(
        &mut self,
        at: usize,
        peer: PeerHash,
        index: Option<SessionIndex>,
        path: PathId,
        routed: bool,
        control: &Control,
    ) -> Option<Vec<u8>> {
        let aad = self.header(at, peer).aad();
        let node = &mut self.nodes[at];
        let index = index.or_else(|| node.using.get(&peer).copied())?;
        let halves = node.halves.get_mut(&index)?;
        let mut frame = vec![0; FRAME_MAX];
        let length = halves.tx.seal_control(path, control, if routed { &aad } else { &[] }, &mut frame).unwrap();
        frame.truncate(length);
        Some(frame)
    }

    /// Puts bytes on the lane to a neighbour.
    fn put_on_lane(&mut self, at: usize, peer: PeerHash, parcel: Parcel) {
        let to = self.hashes[&peer];
        if let Some(delay) = self.wires.get(&pair(at, to)).copied() {
            self.counts.frames += 1;
            self.push(delay, Event::Parcel { from: at, to, parcel });
        }
    }

    /// Sends bytes for a member over others, the way packets go.
    fn routed(&mut self, at: usize, peer: PeerHash, bytes: &[u8]) {
        if let Lookup::To { hop, .. } = self.nodes[at].routes.lookup_peer(&peer, 0) {
            let hop = hop.peer;
            if hop != peer {
                self.by(at, peer, hop, bytes, vec![]);
            }
        }
    }

    fn by(&mut self, at: usize, peer: PeerHash, hop: PeerHash, bytes: &[u8], trail: Vec<usize>) {
        let relayed = [&self.header(at, peer).to_bytes()[..], bytes].concat();
        self.send_relayed(at, hop, &relayed, trail);
    }

    /// Sends a relay header and what is behind it to a neighbour, inside of the session with that one.
    pub(super) fn send_relayed(&mut self, at: usize, hop: PeerHash, relayed: &[u8], trail: Vec<usize>) {
        if let Some(bytes) = self.seal_body(at, hop, PathId::LANES, ContentKind::Relayed, &[], relayed) {
            self.put_on_lane(at, hop, Parcel { bytes, trail });
        }
    }

    fn seal_body(
        &mut self,
        at: usize,
        peer: PeerHash,
        path: PathId,
        kind: ContentKind,
        aad: &[u8],
        body: &[u8],
    ) -> Option<Vec<u8>> {
        let node = &mut self.nodes[at];
        let halves = node.halves.get_mut(node.using.get(&peer)?)?;
        let mut memory = vec![0; body.len() + FRAME_OVERHEAD];
        let range = BEFORE_BODY..BEFORE_BODY + body.len();
        memory[range.clone()].copy_from_slice(body);
        let frame = halves.tx.seal(path, kind, aad, &mut memory, range).unwrap();
        Some(memory[frame].to_vec())
    }

    /// An application packet of this length; asks for a session if there is none. Says whether it went.
    pub(crate) fn send(&mut self, from: usize, to: usize, length: usize) -> bool {
        let peer = self.nodes[to].hash;
        if !self.nodes[from].using.contains_key(&peer) {
            self.event(from, |network, env| network.handle_want(peer, env));
            return false;
        }
        self.serial += 1;
        let mut body = SECRET.to_vec();
        for number in [self.serial, from as u64, to as u64] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body.resize(length.max(body.len()), 0xaa);
        let Lookup::To { hop, .. } = self.nodes[from].routes.lookup_peer(&peer, 0) else { return false };
        let hop = hop.peer;
        let Some(path) = self.nodes[from].ways.get(&peer).and_then(Ways::path) else { return false };
        let on = if hop == peer { Carrier::Lanes } else { Carrier::Routed };
        self.nodes[from].sent.insert((peer, on));
        if hop == peer {
            let Some(bytes) = self.seal_body(from, peer, path, ContentKind::Packet, &[], &body) else { return false };
            self.put_on_lane(from, peer, Parcel { bytes, trail: vec![] });
        } else {
            let aad = self.header(from, peer).aad();
            let Some(bytes) = self.seal_body(from, peer, path, ContentKind::Packet, &aad, &body) else { return false };
            self.by(from, peer, hop, &bytes, vec![]);
        }
        true
    }

    /// What a session has carried, for its rekeying.
    pub(super) fn traffic(&mut self, at: usize, peer: PeerHash) {
        let of_peer = self.nodes[at].halves.iter().filter(|(_, halves)| halves.peer == peer);
        let all: Vec<_> = of_peer.map(|(index, halves)| (*index, Traffic::of(&halves.tx, &halves.rx))).collect();
        for (index, traffic) in all {
            self.event(at, |network, env| network.handle_traffic(index, traffic, env));
        }
    }

    pub(super) fn deliver(&mut self, from: usize, to: usize, parcel: Parcel) {
        let previous = self.nodes[from].hash;
        self.open(to, parcel, Carrier::Lanes, previous, None);
    }

    /// Something for this node: a handshake, or a frame to be opened.
    fn open(&mut self, at: usize, parcel: Parcel, on: Carrier, previous: PeerHash, header: Option<RelayHeader>) {
        let Parcel { mut bytes, trail } = parcel;
        if bytes.first().copied().and_then(MessageKind::of_first_byte) != Some(MessageKind::Data) {
            let via = Some(header.map_or(previous, |header| header.source));
            return self.event(at, |network, env| network.handle_handshake(&bytes, on, via, Load::Calm, env));
        }
        let Ok(index) = RxHalf::index_of(&bytes) else { return };
        let aad = header.map(|header| header.aad());
        let aad = aad.as_ref().map_or(&[][..], |aad| &aad[..]);
        let Some(halves) = self.nodes[at].halves.get_mut(&index) else { return };
        let peer = halves.peer;
        if header.is_some_and(|header| header.source != peer) {
            return;
        }
        let Ok(opened) = halves.rx.open(&mut bytes, aad) else { return };
        match opened.content {
            Content::Control(control) => {
                self.nodes[at].heard.insert((peer, on));
                self.event(at, |network, env| network.handle_control(index, on, control, env));
            }
            Content::Packet(body) => {
                let body = body.to_vec();
                self.arrived(at, peer, &body);
                self.nodes[at].heard.insert((peer, on));
                self.event(at, |network: &mut Network, env| network.handle_opened(index, on, env));
            }
            Content::Relayed(relayed) => {
                let bytes = relayed.to_vec();
                self.event(at, |network, env| network.handle_opened(index, on, env));
                assert!(header.is_none(), "a relay header within another");
                self.relay(at, peer, Parcel { bytes, trail });
            }
        }
    }

    /// An application packet was opened: only by whom it is for, from whom it says, once.
    fn arrived(&mut self, at: usize, peer: PeerHash, body: &[u8]) {
        assert_eq!(&body[..SECRET.len()], SECRET);
        let number = |n: usize| u64::from_le_bytes(body[SECRET.len() + 8 * n..][..8].try_into().unwrap());
        let (serial, from, to) = (number(0), number(1) as usize, number(2) as usize);
        assert_eq!((to, self.nodes[from].hash), (at, peer), "seed {}: accepted at a non-owner", self.seed);
        assert!(self.seen.insert(serial), "seed {}: packet {serial} was accepted twice", self.seed);
        self.arrivals.push(Arrival { from, to, at_ms: self.now_ms });
    }

    /// A frame behind a relay header, which neighbour `previous` brought.
    fn relay(&mut self, at: usize, previous: PeerHash, parcel: Parcel) {
        let Parcel { mut bytes, mut trail } = parcel;
        let own = self.nodes[at].hash;
        let is_own = RelayHeader::parse(&bytes).is_ok_and(|header| header.destination == own);
        if self.is_liar(at) && !is_own {
            self.pry(at, &bytes);
            self.lose(at, &bytes, "liar");
            return self.misuse(at, previous, bytes);
        }
        let routes = Arc::clone(&self.nodes[at].routes);
        let route = |destination: &PeerHash, label: u16| match routes.lookup_peer(destination, u64::from(label)) {
            Lookup::To { hop, .. } => Some(hop.peer),
            Lookup::Local | Lookup::Unreachable(_) => None,
        };
        match self.nodes[at].relay.handle_frame(&mut bytes, &previous, self.now_ms * 1000, route) {
            Ok(RelayStep::Ours(header)) => {
                let inner = Parcel { bytes: bytes[RelayHeader::LEN..].to_vec(), trail };
                self.open(at, inner, Carrier::Routed, previous, Some(header));
            }
            Ok(RelayStep::Forward { next, .. }) => {
                trail.push(at);
                self.counts.relayed += 1;
                self.counts.longest = self.counts.longest.max(trail.len());
                assert!(trail.len() < usize::from(HOP_LIMIT), "seed {}: beyond its limit: {trail:?}", self.seed);
                self.send_relayed(at, next, &bytes, trail);
            }
            Err(reason) => {
                self.counts.hop_limit += u64::from(reason == RelayDrop::HopLimit);
                let why = match reason {
                    RelayDrop::HopLimit => "hop limit",
                    RelayDrop::NoRoute => "no route",
                    RelayDrop::Back => "back",
                    _ => "other",
                };
                self.lose(at, &bytes, why);
            }
        }
    }

    fn lose(&mut self, at: usize, relayed: &[u8], why: &'static str) {
        let Ok(header) = RelayHeader::parse(relayed) else { return };
        let to = self.hashes[&header.destination];
        *self.lost.entry((to, at, why)).or_default() += 1;
    }

    /// Somebody who should not tries to read a frame.
    fn pry(&mut self, at: usize, relayed: &[u8]) {
        let is_secret = relayed.windows(SECRET.len()).any(|window| window == SECRET);
        assert!(!is_secret, "seed {}: plaintext at {at}", self.seed);
        let frame = &relayed[RelayHeader::LEN..];
        let Ok(header) = RelayHeader::parse(relayed) else { return };
        let Ok(index) = RxHalf::index_of(frame) else { return };
        for halves in self.nodes[at].halves.values_mut() {
            // The index is written over with each of its own: what is left is the key.
            let mut bytes = frame.to_vec();
            let own = [index, halves.rx.index()];
            for index in own {
                bytes[1..5].copy_from_slice(&index.0.to_le_bytes());
                self.counts.tried += 1;
                assert!(halves.rx.open(&mut bytes.clone(), &header.aad()).is_err(), "opened at a non-owner");
            }
        }
    }
}
