//! Networks of a few nodes with real keys: what each wants done is done, over carriers that can be cut.

mod clock;
mod names;
mod round_trips;
mod views;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use shoal_protocol::mesh::address::Pool;
use shoal_protocol::mesh::message::{Endpoint, MeshMessage};
use shoal_protocol::mesh::offloads::Offloads;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::session::content::ContentKind;
use shoal_protocol::mesh::session::frame::{BEFORE_BODY, FRAME_OVERHEAD, PathId};
use shoal_protocol::mesh::session::handshake::Offer;
use shoal_protocol::mesh::session::{MessageKind, SessionIndex};
use shoal_protocol::{BootEpoch, NetworkId, NodeId, PublicKey, Signed, Suite, UnixMillis};

use super::*;
use crate::Now;
use crate::mesh::routing::snapshot::Lookup;
use crate::mesh::session::{Content, Load, RxHalf, Sieve, TxHalf};
use crate::path::Ways;

const WALL: u64 = 1_700_000_000_000;
const STEP_MS: u64 = 5;
const FULL_FRAME: u16 = 1400;

fn network() -> NetworkId {
    NetworkId::from_bytes([7; 32])
}

fn address(at: usize) -> SocketAddr {
    format!("192.0.2.{}:4{at:03}", at + 1).parse().unwrap()
}

struct Random(u64);

impl Random {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

struct Node {
    network: Network,
    signer: SigningKey,
    id: NodeId,
    halves: BTreeMap<SessionIndex, (PeerHash, TxHalf, RxHalf)>,
    using: BTreeMap<PeerHash, SessionIndex>,
    ways: BTreeMap<PeerHash, Ways>,
    /// As last published.
    sieve: Arc<Sieve>,
    got: Vec<(PeerHash, Vec<u8>)>,
}

enum Parcel {
    Message(usize, Box<MeshMessage>),
    Bytes { from: usize, on: Carrier, bytes: Vec<u8> },
}

struct World {
    nodes: Vec<Node>,
    random: Random,
    uptime_ms: u64,
    /// Pairs with a connection, smaller first.
    links: BTreeSet<(usize, usize)>,
    udp: bool,
    /// By how much the clock of a node is set back, milliseconds.
    set_back: BTreeMap<usize, u64>,
    /// What arrives in the next step.
    under_way: VecDeque<(usize, Parcel)>,
}

fn signer(at: usize) -> SigningKey {
    SigningKey::from_bytes(&[u8::try_from(at + 1).unwrap(); 32])
}

fn id(at: usize) -> NodeId {
    PublicKey::from_bytes(signer(at).verifying_key().to_bytes()).into()
}

impl World {
    fn new(count: usize, carriers: Carriers, members: &Members) -> Self {
        let mut random = Random(9);
        let now = Now { wall: UnixMillis(WALL), uptime_ms: 0 };
        let policy = policy::Snapshot::compile(&policy::Document::built_in(), policy::Local::default(), 1).unwrap();
        let policy = Arc::new(policy);
        let nodes = (0..count).map(|at| {
            let setup = Setup {
                local: id(at),
                network: network(),
                epoch: BootEpoch(at as u64 + 1),
                members: members.clone(),
                pool: Pool::default(),
                issued: UnixMillis(WALL - 1000),
                saved: None,
                key_epoch: 0,
                offer: Offer { offloads: Offloads::ALL, max_frame: 65_535 },
                full_frame: FULL_FRAME,
                least_frame: FULL_FRAME,
                advertised: vec![],
                exit: ExitUse::Off,
                endpoints: vec![Endpoint::new(address(at)).unwrap()],
                carriers,
                suites: vec![Suite::ChaCha20Poly1305, Suite::Aes256Gcm],
            };
            let mut env = Env { now, random: &mut |out| random.fill(out) };
            let network = Network::new(setup, Arc::clone(&policy), &mut env);
            let (halves, using, ways) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
            let sieve = network.tables().sieve;
            Node { network, signer: signer(at), id: id(at), halves, using, ways, sieve, got: vec![] }
        });
        let nodes = nodes.collect();
        let mut world = Self {
            nodes,
            random,
            uptime_ms: 0,
            links: BTreeSet::new(),
            udp: true,
            set_back: BTreeMap::new(),
            under_way: VecDeque::new(),
        };
        (0..count).for_each(|at| world.drain(at));
        world
    }

    fn now(&self) -> Now {
        Now { wall: UnixMillis(WALL + self.uptime_ms), uptime_ms: self.uptime_ms }
    }

    fn now_of(&self, at: usize) -> Now {
        let set_back = self.set_back.get(&at).copied().unwrap_or(0);
        Now { wall: UnixMillis(WALL + self.uptime_ms - set_back), uptime_ms: self.uptime_ms }
    }

    fn event<R>(&mut self, at: usize, event: impl FnOnce(&mut Network, &mut Env<'_>) -> R) -> R {
        let now = self.now_of(at);
        let random = &mut self.random;
        let done = event(&mut self.nodes[at].network, &mut Env { now, random: &mut |out| random.fill(out) });
        self.drain(at);
        done
    }

    fn connect(&mut self, a: usize, b: usize) {
        self.links.insert((a.min(b), a.max(b)));
        let (one, other) = (id(a), id(b));
        self.event(a, |network, env| network.handle_connected(other, env));
        self.event(b, |network, env| network.handle_connected(one, env));
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        self.links.remove(&(a.min(b), a.max(b)));
        let (one, other) = (id(a), id(b));
        self.event(a, |network, env| network.handle_disconnected(other, env));
        self.event(b, |network, env| network.handle_disconnected(one, env));
    }

    fn linked(&self, a: usize, b: usize) -> bool {
        self.links.contains(&(a.min(b), a.max(b)))
    }

    fn at(&self, node: &NodeId) -> usize {
        self.nodes.iter().position(|known| known.id == *node).unwrap()
    }

    fn of(&self, peer: &PeerHash) -> Option<usize> {
        self.nodes.iter().position(|known| PeerHash::of(&known.id) == *peer)
    }

    fn drain(&mut self, at: usize) {
        while let Some(effect) = self.nodes[at].network.poll() {
            match effect {
                NetworkEffect::Tell { to, message } => {
                    let to = self.at(&to);
                    if self.linked(at, to) {
                        self.under_way.push_back((to, Parcel::Message(at, message)));
                    }
                }
                NetworkEffect::OpenLane(node) => {
                    let to = self.at(&node);
                    if self.linked(at, to) {
                        let (one, other) = (self.nodes[at].id, node);
                        self.event(at, |network, env| network.handle_lane(other, true, env));
                        self.event(to, |network, env| network.handle_lane(one, true, env));
                    }
                }
                NetworkEffect::CloseLane(node) => {
                    let to = self.at(&node);
                    let (one, other) = (self.nodes[at].id, node);
                    self.event(at, |network, env| network.handle_lane(other, false, env));
                    self.event(to, |network, env| network.handle_lane(one, false, env));
                }
                NetworkEffect::Sign(unsigned) => self.sign(at, &unsigned),
                NetworkEffect::Plane(command) => self.obey(at, command),
                NetworkEffect::Publish => self.nodes[at].sieve = self.nodes[at].network.tables().sieve,
                NetworkEffect::SaveKeyEpoch(_)
                | NetworkEffect::SaveClaim(_)
                | NetworkEffect::SaveName(_)
                | NetworkEffect::OwnAddress(_)
                | NetworkEffect::Names => {}
            }
        }
    }

    fn sign(&mut self, at: usize, unsigned: &Unsigned) {
        let key = self.nodes[at].signer.clone();
        match unsigned {
            Unsigned::Key(said) => {
                let signed = Signed::seal(said, &key, &network());
                self.event(at, |network, env| network.handle_signed_key(signed, env));
            }
            Unsigned::Claim(said) => {
                let signed = Signed::seal(said, &key, &network());
                self.event(at, |network, env| network.handle_signed_claim(signed, env));
            }
            Unsigned::Name(said) => {
                let signed = Signed::seal(said, &key, &network());
                self.event(at, |network, env| network.handle_signed_name(signed, env));
            }
            Unsigned::Origin(said) => {
                let signed = Signed::seal(said, &key, &network());
                self.event(at, |network, env| network.handle_signed_origin(signed, env));
            }
        }
    }

    fn obey(&mut self, at: usize, command: PlaneCommand) {
        match command {
            PlaneCommand::Peer { .. } => {}
            PlaneCommand::Forget { peer } => {
                self.nodes[at].ways.remove(&peer);
            }
            PlaneCommand::Handshake { peer, on, bytes } => self.send(at, peer, on, bytes),
            PlaneCommand::Install { peer, installed } => {
                let halves = (peer, installed.tx, installed.rx);
                self.nodes[at].halves.insert(installed.index, halves);
            }
            PlaneCommand::Use { peer, index } => {
                self.nodes[at].using.insert(peer, index);
            }
            PlaneCommand::Control { peer, index, on, path, control } => {
                let node = &mut self.nodes[at];
                let Some(index) = index.or_else(|| node.using.get(&peer).copied()) else { return };
                let Some((_, tx, _)) = node.halves.get_mut(&index) else { return };
                let mut frame = vec![0; 65_535];
                let length = tx.seal_control(path, &control, &[], &mut frame).unwrap();
                frame.truncate(length);
                self.send(at, Some(peer), on, frame);
            }
            // What goes over others is not relayed here, but handed over: see `send`.
            PlaneCommand::RoutedControl { peer, index, control, .. } => {
                let (on, path) = (Carrier::Routed, PathId::ROUTED);
                self.obey(at, PlaneCommand::Control { peer, index, on, path, control });
            }
            PlaneCommand::RoutedHandshake { peer, bytes, .. } => self.send(at, Some(peer), Carrier::Routed, bytes),
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

    fn send(&mut self, at: usize, peer: Option<PeerHash>, on: Carrier, bytes: Vec<u8>) {
        let from_here = Carrier::Udp(address(at));
        let (to, on) = match on {
            Carrier::Udp(to) => match (0..self.nodes.len()).find(|at| address(*at) == to) {
                Some(to) if self.udp => (to, from_here),
                _ => return,
            },
            Carrier::Lanes => match peer.and_then(|peer| self.of(&peer)) {
                Some(to) if self.linked(at, to) => (to, Carrier::Lanes),
                _ => return,
            },
            Carrier::Routed => {
                let Some((peer, to)) = peer.and_then(|peer| Some((peer, self.of(&peer)?))) else { return };
                let tables = self.nodes[at].network.tables();
                if !matches!(tables.routes.lookup_peer(&peer, 0), Lookup::To { .. }) {
                    return;
                }
                (to, Carrier::Routed)
            }
        };
        self.under_way.push_back((to, Parcel::Bytes { from: at, on, bytes }));
    }

    /// Sends a packet if there is a session; else asks for one.
    fn packet(&mut self, from: usize, to: usize, text: &[u8]) -> bool {
        let peer = PeerHash::of(&id(to));
        let node = &mut self.nodes[from];
        let (Some(index), Some(ways)) = (node.using.get(&peer).copied(), node.ways.get(&peer).copied()) else {
            self.event(from, |network, env| network.handle_want(peer, env));
            return false;
        };
        let Some(path) = ways.path() else { return false };
        let (_, tx, _) = node.halves.get_mut(&index).unwrap();
        let mut buffer = vec![0; text.len() + FRAME_OVERHEAD];
        let body = BEFORE_BODY..BEFORE_BODY + text.len();
        buffer[body.clone()].copy_from_slice(text);
        let frame = tx.seal(path, ContentKind::Packet, &[], &mut buffer, body).unwrap();
        let bytes = buffer[frame].to_vec();
        for on in ways.carriers() {
            self.send(from, Some(peer), on, bytes.clone());
            self.event(from, |network, env| network.handle_sent(peer, on, env));
        }
        true
    }

    fn deliver(&mut self, to: usize, parcel: Parcel) {
        match parcel {
            Parcel::Message(from, message) => {
                let (node, seen) = (id(from), Some(address(from).ip()));
                self.event(to, |network, env| network.handle_message(node, seen, *message, env));
            }
            Parcel::Bytes { from, on, mut bytes } => {
                if bytes.first().copied().and_then(MessageKind::of_first_byte) != Some(MessageKind::Data) {
                    if self.nodes[to].sieve.examine(&bytes).is_err() {
                        return;
                    }
                    let via = (!matches!(on, Carrier::Udp(_))).then(|| PeerHash::of(&id(from)));
                    return self.event(to, |network, env| network.handle_handshake(&bytes, on, via, Load::Calm, env));
                }
                let Ok(index) = RxHalf::index_of(&bytes) else { return };
                let Some((peer, _, rx)) = self.nodes[to].halves.get_mut(&index) else { return };
                let peer = *peer;
                match rx.open(&mut bytes, &[]).map(|opened| opened.content) {
                    Ok(Content::Control(control)) => {
                        self.event(to, |network, env| network.handle_control(index, on, control, env));
                    }
                    Ok(Content::Packet(body)) => {
                        let body = body.to_vec();
                        self.nodes[to].got.push((peer, body));
                        self.event(to, |network, env| network.handle_opened(index, on, env));
                    }
                    _ => {}
                }
            }
        }
    }

    fn run(&mut self, for_ms: u64) {
        let end = self.uptime_ms + for_ms;
        while self.uptime_ms < end {
            for (to, parcel) in std::mem::take(&mut self.under_way) {
                self.deliver(to, parcel);
            }
            self.uptime_ms += STEP_MS;
            if self.uptime_ms.is_multiple_of(50) {
                (0..self.nodes.len()).for_each(|at| self.event(at, Network::handle_timeout));
            }
        }
    }

    fn ways(&self, from: usize, to: usize) -> Option<Ways> {
        self.nodes[from].ways.get(&PeerHash::of(&id(to))).copied()
    }

    /// Sends until one arrives, for at most this long; says after how many milliseconds it did.
    fn reach(&mut self, from: usize, to: usize, within_ms: u64) -> Option<u64> {
        let begun = self.uptime_ms;
        let before = self.nodes[to].got.len();
        while self.uptime_ms < begun + within_ms {
            self.packet(from, to, b"packet");
            self.run(50);
            if self.nodes[to].got.len() > before {
                return Some(self.uptime_ms - begun);
            }
        }
        None
    }
}

fn is_udp(ways: Option<Ways>) -> bool {
    matches!(ways, Some(Ways::One { on: Carrier::Udp(_), path }) if path != PathId::LANES)
}

#[test]
fn neighbours_have_keys_before_the_first_packet_and_leave_lanes_for_a_proven_address() {
    let mut world = World::new(2, Carriers::Auto, &Members::Everybody);
    world.connect(0, 1);
    world.run(200);
    assert!(world.packet(0, 1, b"first"), "the session is there before anybody asks");
    world.run(1_000);
    assert!(is_udp(world.ways(0, 1)) && is_udp(world.ways(1, 0)), "{:?}", world.ways(0, 1));
    assert!(world.reach(0, 1, 200).is_some() && world.reach(1, 0, 200).is_some());
    let addresses = world.nodes[0].network.tables().addresses;
    let theirs = world.nodes[1].network.tables();
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        assert!(
            matches!(theirs.routes.lookup(address, 0), Lookup::To { peer, .. } if peer.node == id(0)),
            "{address} leads to its owner"
        );
    }
}

#[test]
fn a_lane_is_asked_for_again_where_the_hello_came_before_the_connection() {
    let mut world = World::new(2, Carriers::Lanes, &Members::Everybody);
    let (one, other) = (id(0), id(1));
    // What node 0 wants of a connection that it does not have yet is lost.
    world.event(1, |network, env| network.handle_connected(one, env));
    let hello = Box::new(world.nodes[1].network.hello().unwrap());
    world.deliver(0, Parcel::Message(1, hello));
    let now = world.now();
    let World { nodes, random, .. } = &mut world;
    nodes[0].network.handle_connected(other, &mut Env { now, random: &mut |out| random.fill(out) });
    let mut wanted = std::iter::from_fn(|| nodes[0].network.poll());
    assert!(wanted.any(|effect| matches!(effect, NetworkEffect::OpenLane(node) if node == other)));
}

#[test]
fn lanes_alone_stay_on_lanes() {
    let mut world = World::new(2, Carriers::Lanes, &Members::Everybody);
    world.connect(0, 1);
    world.run(2_000);
    assert!(matches!(world.ways(0, 1), Some(Ways::One { on: Carrier::Lanes, .. })));
    assert!(world.reach(0, 1, 100).is_some());
}

#[test]
fn datagrams_that_stop_are_left_within_1200_ms_and_taken_again_within_15_s() {
    let mut world = World::new(2, Carriers::Auto, &Members::Everybody);
    world.connect(0, 1);
    world.run(1_000);
    assert!(is_udp(world.ways(0, 1)));
    world.udp = false;
    let took = world.reach(0, 1, 5_000).expect("over lanes");
    assert!(took <= 1_200, "{took} ms");
    for _ in 0..40 {
        world.packet(0, 1, b"x");
        world.packet(1, 0, b"y");
        world.run(50);
    }
    assert!(matches!(world.ways(0, 1), Some(Ways::One { on: Carrier::Lanes, .. })), "{:?}", world.ways(0, 1));
    world.udp = true;
    let healed = world.uptime_ms;
    while !is_udp(world.ways(0, 1)) {
        assert!(world.uptime_ms - healed <= 15_000, "back to direct");
        world.packet(0, 1, b"x");
        world.packet(1, 0, b"y");
        world.run(50);
    }
}

#[test]
fn the_ends_of_a_line_talk_through_its_middle() {
    let mut world = World::new(3, Carriers::Lanes, &Members::Everybody);
    world.connect(0, 1);
    world.connect(1, 2);
    world.run(5_000);
    let took = world.reach(0, 2, 5_000);
    assert!(took.is_some(), "ends of a line");
    assert!(matches!(world.ways(0, 2), Some(Ways::One { on: Carrier::Routed, .. })));
    assert!(world.reach(2, 0, 5_000).is_some());
    // A connection of their own takes the place of the way around.
    world.connect(0, 2);
    world.run(2_000);
    assert!(matches!(world.ways(0, 2), Some(Ways::One { on: Carrier::Lanes, .. })), "{:?}", world.ways(0, 2));
    world.disconnect(0, 2);
    assert!(world.reach(0, 2, 20_000).is_some(), "and gives it back");
}

#[test]
fn who_is_no_member_gets_nothing() {
    let members = Members::Listed(BTreeSet::from([id(0), id(1)]));
    let mut world = World::new(3, Carriers::Auto, &members);
    world.connect(0, 1);
    world.connect(0, 2);
    world.run(1_000);
    assert_eq!(world.reach(2, 0, 2_000), None);
    assert!(world.nodes[0].network.tables().subjects.len() == 1, "only the member is known");
    assert!(world.reach(1, 0, 1_000).is_some());
}

#[test]
fn a_restarted_neighbour_is_heard_again() {
    let mut world = World::new(2, Carriers::Auto, &Members::Everybody);
    world.connect(0, 1);
    world.run(1_000);
    assert!(world.reach(0, 1, 200).is_some());
    world.disconnect(0, 1);
    begin_anew(&mut world);
    world.connect(0, 1);
    // Neither side waits until the silence of the former keys is noticed.
    assert!(world.reach(0, 1, 500).is_some() && world.reach(1, 0, 500).is_some());
}

/// Another run of node 1, which knows nothing.
fn begin_anew(world: &mut World) {
    let mut fresh = World::new(2, Carriers::Auto, &Members::Everybody);
    let mut node = fresh.nodes.remove(1);
    node.network = {
        let now = world.now();
        let mut setup = node.network.setup.clone();
        setup.epoch = BootEpoch(77);
        let policy = Arc::clone(&node.network.policy);
        let random = &mut world.random;
        Network::new(setup, policy, &mut Env { now, random: &mut |out| random.fill(out) })
    };
    world.nodes[1] = node;
    world.drain(1);
}

#[test]
fn a_neighbour_that_takes_part_anew_on_the_same_connection_is_greeted_too() {
    for wait_ms in [0, 60_000] {
        let mut world = World::new(2, Carriers::Auto, &Members::Everybody);
        world.connect(0, 1);
        world.run(1_000);
        world.event(1, Network::leave);
        world.run(100 + wait_ms);
        begin_anew(&mut world);
        // Only the side that begins anew is told of the connection again.
        let one = id(0);
        world.event(1, |network, env| network.handle_connected(one, env));
        assert!(world.reach(0, 1, 1_500).is_some() && world.reach(1, 0, 500).is_some(), "after {wait_ms} ms");
    }
}

#[test]
fn who_comes_and_goes_leaves_no_trace() {
    let mut world = World::new(3, Carriers::Auto, &Members::Everybody);
    world.connect(0, 1);
    world.connect(0, 2);
    world.run(1_000);
    world.disconnect(0, 2);
    // Keys of an unused session end after three minutes.
    world.run(200_000);
    let known: Vec<NodeId> = world.nodes[0].network.peers.values().map(|peer| peer.node).collect();
    assert_eq!(known, [id(1)]);
    world.connect(0, 2);
    assert!(world.reach(0, 2, 2_000).is_some(), "and is welcome again");
}

#[test]
fn a_new_mesh_key_is_known_to_who_receives_before_others_use_it() {
    let mut world = World::new(2, Carriers::Auto, &Members::Everybody);
    world.connect(0, 1);
    assert!(world.reach(0, 1, 2_000).is_some());
    // Nothing else changes at that moment.
    world.run(5_000);
    let before = Arc::clone(&world.nodes[1].sieve);
    world.nodes[1].network.key_renewal = world.now().wall;
    world.event(1, Network::handle_timeout);
    assert!(!Arc::ptr_eq(&world.nodes[1].sieve, &before), "another sieve");
    assert!(Arc::ptr_eq(&world.nodes[1].sieve, &world.nodes[1].network.tables().sieve), "the newest");
    // What is sent to the new key is let in.
    world.run(200_000);
    assert!(world.reach(0, 1, 2_000).is_some() && world.reach(1, 0, 2_000).is_some());
}
