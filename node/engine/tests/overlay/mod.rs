//! Whole networks in one process and in virtual time: engines with real keys, sessions and sealed frames over wires with
//! delay, and among them nodes that lie. One seed, one history. It carries out what engines want and decides no route; what
//! liars do is in `liar`.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

pub(crate) mod liar;
mod plane;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use shoal_engine::Now;
use shoal_engine::mesh::network::{Carriers, Env, Members, Network, NetworkEffect, PeerView, Setup, Unsigned};
use shoal_engine::mesh::policy;
use shoal_engine::mesh::relay::Relay;
use shoal_engine::mesh::routing::Snapshot;
use shoal_engine::mesh::routing::snapshot::Lookup;
use shoal_engine::mesh::session::{RxHalf, TxHalf};
use shoal_engine::path::{Carrier, Ways};
use shoal_protocol::control::Request;
use shoal_protocol::mesh::address::Pool;
use shoal_protocol::mesh::message::MeshMessage;
use shoal_protocol::mesh::offloads::Offloads;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::handshake::Offer;
use shoal_protocol::{BootEpoch, NetworkId, NodeId, Signed, Suite, UnixMillis};

use crate::chance::Chance;
use liar::Liar;
use plane::Parcel;

const WALL: u64 = 1_700_000_000_000;
/// How often an engine is told the time, as the program does while packets go.
const TICK_MS: u64 = 50;
/// What application packets begin with: nobody on the way may ever see it.
pub(crate) const SECRET: &[u8; 16] = b"nobody reads it!";

pub(crate) fn network() -> NetworkId {
    NetworkId::from_bytes([7; 32])
}

pub(crate) struct Halves {
    pub(crate) peer: PeerHash,
    pub(crate) tx: TxHalf,
    pub(crate) rx: RxHalf,
}

pub(crate) struct Node {
    pub(crate) network: Network,
    signer: SigningKey,
    pub(crate) id: NodeId,
    pub(crate) hash: PeerHash,
    halves: BTreeMap<SessionIndex, Halves>,
    using: BTreeMap<PeerHash, SessionIndex>,
    ways: BTreeMap<PeerHash, Ways>,
    relay: Relay,
    routes: Arc<Snapshot>,
    /// What it sent and heard since the engine was told.
    sent: BTreeSet<(PeerHash, Carrier)>,
    heard: BTreeSet<(PeerHash, Carrier)>,
    pub(crate) liar: Option<Liar>,
}

enum Event {
    Tick(usize),
    Message { from: usize, to: usize, message: Box<MeshMessage> },
    Parcel { from: usize, to: usize, parcel: Parcel },
}

/// An application packet that arrived where it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrival {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) at_ms: u64,
}

/// What happened to frames on their way, over the whole world.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) events: u64,
    pub(crate) relayed: u64,
    pub(crate) hop_limit: u64,
    pub(crate) swallowed: u64,
    pub(crate) replayed: u64,
    /// Frames that were tried at somebody who is not their owner.
    pub(crate) tried: u64,
    /// The most honest relays in a row of one frame.
    pub(crate) longest: usize,
    /// Frames on lanes.
    pub(crate) frames: u64,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) chance: Chance,
    pub(crate) nodes: Vec<Node>,
    pub(crate) now_ms: u64,
    pub(crate) counts: Counts,
    pub(crate) arrivals: Vec<Arrival>,
    /// Where frames ended that did not arrive: destination, node, why; and how many.
    pub(crate) lost: BTreeMap<(usize, usize, &'static str), u64>,
    /// Whether every change of routes is looked at for loops; it costs a look at all pairs.
    pub(crate) is_watched: bool,
    /// Messages and bytes of control words, by who says them to whom; none are counted unless there is a place for them.
    pub(crate) words: Option<BTreeMap<(usize, usize), (u64, u64)>>,
    seen: BTreeSet<u64>,
    serial: u64,
    order: u64,
    ids: BTreeMap<NodeId, usize>,
    hashes: BTreeMap<PeerHash, usize>,
    /// One-way delay of each wire, milliseconds.
    wires: BTreeMap<(usize, usize), u64>,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    waiting: BTreeMap<usize, Event>,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    pub(crate) fn new(seed: u64, count: usize) -> Self {
        let mut world = Self {
            seed,
            chance: Chance::new(seed),
            nodes: Vec::new(),
            now_ms: 0,
            counts: Counts::default(),
            arrivals: Vec::new(),
            lost: BTreeMap::new(),
            is_watched: true,
            words: None,
            seen: BTreeSet::new(),
            serial: 0,
            order: 0,
            ids: BTreeMap::new(),
            hashes: BTreeMap::new(),
            wires: BTreeMap::new(),
            queue: BinaryHeap::new(),
            waiting: BTreeMap::new(),
        };
        let rules = policy::Snapshot::compile(&policy::Document::built_in(), policy::Local::default(), 1).unwrap();
        let rules = Arc::new(rules);
        for at in 0..count {
            let node = world.node(at, &rules);
            world.ids.insert(node.id, at);
            world.hashes.insert(node.hash, at);
            world.nodes.push(node);
        }
        for at in 0..count {
            world.drain(at);
            let first = world.chance.below(TICK_MS);
            world.push(first, Event::Tick(at));
        }
        world
    }

    fn node(&mut self, at: usize, rules: &Arc<policy::Snapshot>) -> Node {
        let mut bytes = [0x5e; 32];
        bytes[..8].copy_from_slice(&(at as u64).to_le_bytes());
        let signer = SigningKey::from_bytes(&bytes);
        let id = NodeId::from_bytes(signer.verifying_key().to_bytes());
        let hash = PeerHash::of(&id);
        let setup = Setup {
            local: id,
            network: network(),
            epoch: BootEpoch(at as u64 + 1),
            members: Members::Everybody,
            pool: Pool::default(),
            issued: UnixMillis(WALL - 1000),
            saved: None,
            key_epoch: 0,
            offer: Offer { offloads: Offloads::ALL, max_frame: 65_535 },
            full_frame: 1400,
            least_frame: 1400,
            advertised: vec![],
            exit: shoal_engine::mesh::routing::snapshot::ExitUse::Off,
            endpoints: vec![],
            carriers: Carriers::Lanes,
            suites: vec![Suite::ChaCha20Poly1305, Suite::Aes256Gcm],
        };
        let now = self.now();
        let chance = &mut self.chance;
        let random = &mut |out: &mut [u8]| out.iter_mut().for_each(|byte| *byte = chance.below(256) as u8);
        let network = Network::new(setup, Arc::clone(rules), &mut Env { now, random });
        let routes = Arc::new(network.tables().routes);
        Node {
            network,
            signer,
            id,
            hash,
            halves: BTreeMap::new(),
            using: BTreeMap::new(),
            ways: BTreeMap::new(),
            relay: Relay::new(hash),
            routes,
            sent: BTreeSet::new(),
            heard: BTreeSet::new(),
            liar: None,
        }
    }

    fn now(&self) -> Now {
        Now { wall: UnixMillis(WALL + self.now_ms), uptime_ms: self.now_ms }
    }

    /// Tells an engine something and does what it wants.
    fn event<R>(&mut self, at: usize, event: impl FnOnce(&mut Network, &mut Env<'_>) -> R) -> R {
        let now = self.now();
        let chance = &mut self.chance;
        let random = &mut |out: &mut [u8]| out.iter_mut().for_each(|byte| *byte = chance.below(256) as u8);
        let done = event(&mut self.nodes[at].network, &mut Env { now, random });
        self.drain(at);
        done
    }

    /// A connection between two nodes, with this delay one way.
    pub(crate) fn wire(&mut self, a: usize, b: usize, delay_ms: u64) {
        self.wires.insert(pair(a, b), delay_ms);
        let (one, other) = (self.nodes[a].id, self.nodes[b].id);
        self.event(a, |network, env| network.handle_connected(other, env));
        self.event(b, |network, env| network.handle_connected(one, env));
    }

    pub(crate) fn is_wired(&self, a: usize, b: usize) -> bool {
        self.wires.contains_key(&pair(a, b))
    }

    pub(crate) fn view(&self, from: usize, to: usize) -> PeerView {
        self.nodes[from].network.peer(self.nodes[to].id).unwrap()
    }

    pub(crate) fn is_liar(&self, at: usize) -> bool {
        self.nodes[at].liar.as_ref().is_some_and(|liar| liar.vice.is_some())
    }

    /// Where packets of `from` for `to` go next.
    pub(crate) fn hops(&self, from: usize, to: usize) -> Vec<usize> {
        match self.nodes[from].routes.lookup_peer(&self.nodes[to].hash, 0) {
            Lookup::To { hops, .. } => hops.iter().map(|hop| self.ids[&hop.node]).collect(),
            Lookup::Local | Lookup::Unreachable(_) => vec![],
        }
    }

    /// Whether two nodes are joined by wires of honest nodes alone.
    pub(crate) fn has_honest_path(&self, from: usize, to: usize) -> bool {
        let (mut seen, mut open) = (BTreeSet::from([from]), vec![from]);
        while let Some(at) = open.pop() {
            for next in 0..self.nodes.len() {
                if self.is_wired(at, next) && (next == to || !self.is_liar(next)) && seen.insert(next) {
                    if next == to {
                        return true;
                    }
                    open.push(next);
                }
            }
        }
        false
    }

    /// Lets time pass, event by event.
    pub(crate) fn run(&mut self, for_ms: u64) {
        let end = self.now_ms + for_ms;
        while let Some(Reverse((at_ms, _, slot))) = self.queue.peek().copied().filter(|Reverse((at, ..))| *at <= end) {
            self.queue.pop();
            self.now_ms = at_ms.max(self.now_ms);
            self.counts.events += 1;
            let event = self.waiting.remove(&slot).unwrap();
            self.happen(event);
        }
        self.now_ms = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(at) => {
                self.tick(at);
                self.push(TICK_MS, Event::Tick(at));
            }
            Event::Message { from, to, message } => {
                if let Some(liar) = &mut self.nodes[to].liar {
                    liar.listen(&message);
                }
                let id = self.nodes[from].id;
                self.event(to, |network, env| network.handle_message(id, None, *message, env));
            }
            Event::Parcel { from, to, parcel } => self.deliver(from, to, parcel),
        }
    }

    /// Tells an engine the time and what its packet half did, as the program does.
    fn tick(&mut self, at: usize) {
        for (peer, on) in std::mem::take(&mut self.nodes[at].sent) {
            self.event(at, |network, env| network.handle_sent(peer, on, env));
            self.traffic(at, peer);
        }
        for (peer, on) in std::mem::take(&mut self.nodes[at].heard) {
            self.event(at, |network, env| network.handle_received(peer, on, env));
            self.traffic(at, peer);
        }
        let relayed: Vec<PeerHash> = self.nodes[at].relay.take_destinations().collect();
        self.event(at, |network, env| network.handle_relayed(relayed, env));
        self.event(at, Network::handle_timeout);
        self.lie(at);
    }

    fn drain(&mut self, at: usize) {
        while let Some(effect) = self.nodes[at].network.poll() {
            match effect {
                NetworkEffect::Tell { to, message } => self.tell(at, self.ids[&to], message),
                NetworkEffect::OpenLane(node) => {
                    let (to, one) = (self.ids[&node], self.nodes[at].id);
                    if self.is_wired(at, to) {
                        self.event(at, |network, env| network.handle_lane(node, true, env));
                        self.event(to, |network, env| network.handle_lane(one, true, env));
                    }
                }
                NetworkEffect::Sign(unsigned) => self.sign(at, &unsigned),
                NetworkEffect::Plane(command) => self.obey(at, command),
                NetworkEffect::Publish => self.publish(at),
                NetworkEffect::CloseLane(_)
                | NetworkEffect::SaveKeyEpoch(_)
                | NetworkEffect::SaveClaim(_)
                | NetworkEffect::SaveName(_)
                | NetworkEffect::Names
                | NetworkEffect::OwnAddress(_) => {}
            }
        }
    }

    fn tell(&mut self, from: usize, to: usize, mut message: Box<MeshMessage>) {
        let Some(delay) = self.wires.get(&pair(from, to)).copied() else { return };
        if let (Some(liar), MeshMessage::Routes(routes)) = (&mut self.nodes[from].liar, message.as_mut()) {
            liar.rewrite(to, routes);
        }
        if let Some(words) = &mut self.words {
            let count = words.entry((from, to)).or_default();
            count.0 += 1;
            count.1 += Request::Mesh(message.clone()).to_bytes().len() as u64;
        }
        self.push(delay, Event::Message { from, to, message });
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
            Unsigned::Origin(said) => {
                let signed = Signed::seal(said, &key, &network());
                self.event(at, |network, env| network.handle_signed_origin(signed, env));
            }
            Unsigned::Name(said) => {
                let signed = Signed::seal(said, &key, &network());
                self.event(at, |network, env| network.handle_signed_name(signed, env));
            }
        }
    }

    /// New routes count; and no packet goes round among honest nodes because of them.
    fn publish(&mut self, at: usize) {
        self.nodes[at].routes = Arc::new(self.nodes[at].network.tables().routes);
        if self.is_liar(at) || !self.is_watched {
            return;
        }
        for destination in 0..self.nodes.len() {
            let (mut seen, mut open) = (BTreeSet::new(), self.hops(at, destination));
            while let Some(next) = open.pop() {
                let (seed, now_ms) = (self.seed, self.now_ms);
                assert_ne!(next, at, "seed {seed}: loop to {destination} through {at} at {now_ms} ms");
                if next != destination && !self.is_liar(next) && seen.insert(next) {
                    open.extend(self.hops(next, destination));
                }
            }
        }
    }

    fn push(&mut self, delay_ms: u64, event: Event) {
        self.order += 1;
        let slot = usize::try_from(self.order).unwrap();
        self.waiting.insert(slot, event);
        self.queue.push(Reverse((self.now_ms + delay_ms, self.order, slot)));
    }
}
