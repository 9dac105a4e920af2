//! Fifty nodes in one process: links that come and go, messages that are lost, late and out of order, nodes that restart
//! and remember nothing. Deterministic: one seed, one history; no clock, no thread. It checks after every event that no
//! packet can go round, and it decides no route itself.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

pub(crate) mod chance;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use ed25519_dalek::SigningKey;
use shoal_engine::Now;
use shoal_engine::mesh::routing::snapshot::{Bindings, ExitUse, Lookup};
use shoal_engine::mesh::routing::{Intake, LinkFacts, LinkSample, RouteState, Routing, RoutingEffect, Snapshot};
use shoal_protocol::mesh::address::Pool;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::{RouteMessage, Router, VerifiedOrigin};
use shoal_protocol::{BootEpoch, NetworkId, NodeId, Signed, UnixMillis};

use chance::Chance;

/// When the world begins.
const WALL: u64 = 1_700_000_000_000;

/// How the weather is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Messages lost, per mille.
    pub(crate) loss: u64,
    /// Messages that come up to three seconds late, per mille.
    pub(crate) late: u64,
    /// Links through relays, per mille.
    pub(crate) relayed: u64,
}

#[derive(Clone, Debug)]
enum Event {
    /// A message arrives, wherever its receiver is by then.
    Deliver { from: usize, to: usize, message: RouteMessage },
    /// A node is due.
    Timeout { node: usize },
    /// A node notices what its link to another is like by now.
    Notice { node: usize, other: usize },
}

struct Wire {
    up: bool,
    relayed: bool,
    max_frame: u32,
}

struct Node {
    key: SigningKey,
    id: NodeId,
    hash: PeerHash,
    routing: Routing,
    epoch: BootEpoch,
    up: bool,
    skew_ms: u64,
    scheduled_ms: u64,
    snapshot: Snapshot,
    announced: BTreeSet<Prefix>,
    /// The run of each neighbour its link leads to.
    linked: BTreeMap<usize, BootEpoch>,
    /// The neighbours the route to a router of a prefix uses.
    used: BTreeMap<(Prefix, Router), Vec<usize>>,
}

/// All of it.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) chance: Chance,
    pub(crate) weather: Weather,
    pub(crate) events: u64,
    pub(crate) updates: u64,
    now_ms: u64,
    order: u64,
    next_epoch: u64,
    nodes: Vec<Node>,
    ids: BTreeMap<NodeId, usize>,
    wires: BTreeMap<(usize, usize), Wire>,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    waiting: BTreeMap<usize, Event>,
    intake: Intake,
    rights: BTreeSet<(NodeId, Prefix)>,
}

pub(crate) fn network() -> NetworkId {
    NetworkId::from_bytes([7; 32])
}

fn bindings() -> Bindings<'static> {
    Bindings { v4: &[], pool: Pool::default().prefix(), exit: ExitUse::Auto }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    pub(crate) fn new(seed: u64, count: usize, weather: Weather) -> Self {
        let mut world = Self {
            seed,
            chance: Chance::new(seed),
            weather,
            events: 0,
            updates: 0,
            now_ms: 1_000,
            order: 0,
            next_epoch: 1,
            nodes: Vec::new(),
            ids: BTreeMap::new(),
            wires: BTreeMap::new(),
            queue: BinaryHeap::new(),
            waiting: BTreeMap::new(),
            intake: Intake::new(network()),
            rights: BTreeSet::new(),
        };
        for n in 0..count {
            let mut bytes = [0x5e; 32];
            bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
            let key = SigningKey::from_bytes(&bytes);
            let id = NodeId::from_bytes(key.verifying_key().to_bytes());
            let epoch = world.epoch();
            let routing = Routing::new(id, epoch, network());
            let snapshot = routing.snapshot(bindings());
            let node = Node {
                key,
                id,
                hash: PeerHash::of(&id),
                routing,
                epoch,
                up: true,
                skew_ms: world.chance.below(60_000),
                scheduled_ms: u64::MAX,
                snapshot,
                announced: BTreeSet::new(),
                linked: BTreeMap::new(),
                used: BTreeMap::new(),
            };
            world.ids.insert(id, n);
            world.nodes.push(node);
        }
        for n in 0..count {
            world.drain(n);
        }
        world
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// `node` may announce `prefix`.
    pub(crate) fn allow(&mut self, node: usize, prefix: Prefix) {
        self.rights.insert((self.nodes[node].id, prefix));
    }

    pub(crate) fn announce(&mut self, node: usize, prefix: Prefix) {
        self.nodes[node].announced.insert(prefix);
        let now = self.now(node);
        self.nodes[node].routing.announce(prefix, now);
        self.drain(node);
    }

    pub(crate) fn withdraw(&mut self, node: usize, prefix: Prefix) {
        self.nodes[node].announced.remove(&prefix);
        let now = self.now(node);
        self.nodes[node].routing.withdraw(prefix, now);
        self.drain(node);
    }

    /// A wire between two nodes is plugged or pulled; each end notices within a second and a half.
    pub(crate) fn wire(&mut self, a: usize, b: usize, up: bool) {
        let relayed = self.chance.permille(self.weather.relayed);
        let max_frame = 1_200 + u32::try_from(self.chance.below(8_000)).unwrap();
        let wire = self.wires.entry(pair(a, b)).or_insert(Wire { up, relayed, max_frame });
        wire.up = up;
        self.notice(a, b);
        self.notice(b, a);
    }

    pub(crate) fn is_wired(&self, a: usize, b: usize) -> bool {
        self.wires.get(&pair(a, b)).is_some_and(|wire| wire.up)
    }

    pub(crate) fn wires(&self) -> Vec<(usize, usize)> {
        self.wires.keys().copied().collect()
    }

    /// A node stops, and starts again without any memory when `up`.
    pub(crate) fn power(&mut self, n: usize, up: bool) {
        if up {
            let epoch = self.epoch();
            let node = &mut self.nodes[n];
            node.routing = Routing::new(node.id, epoch, network());
            (node.epoch, node.up, node.scheduled_ms) = (epoch, true, u64::MAX);
            node.linked.clear();
            let announced: Vec<Prefix> = node.announced.iter().copied().collect();
            for prefix in announced {
                self.announce(n, prefix);
            }
            self.drain(n);
        } else {
            self.nodes[n].up = false;
        }
        for other in 0..self.nodes.len() {
            if self.wires.contains_key(&pair(n, other)) {
                self.notice(n, other);
                self.notice(other, n);
            }
        }
    }

    pub(crate) fn is_up(&self, n: usize) -> bool {
        self.nodes[n].up
    }

    /// The wire is measured from both ends.
    pub(crate) fn measure(&mut self, a: usize, b: usize, sample: LinkSample) {
        for (node, other) in [(a, b), (b, a)] {
            if !self.nodes[node].up {
                continue;
            }
            let (now, other) = (self.now(node), self.nodes[other].id);
            self.nodes[node].routing.handle_sample(other, sample, now);
            self.events += 1;
            self.drain(node);
        }
    }

    /// Lets time pass, event by event.
    pub(crate) fn run(&mut self, milliseconds: u64) {
        let end = self.now_ms + milliseconds;
        while let Some(Reverse((at, _, slot))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now_ms = at.max(self.now_ms);
            let event = self.waiting.remove(&slot).unwrap();
            self.events += 1;
            self.happen(event);
        }
        self.now_ms = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message } => {
                if !self.nodes[to].up {
                    return;
                }
                self.updates += message.updates.len() as u64;
                let heard = self.intake.verify(message).unwrap();
                let (from, now) = (self.nodes[from].id, self.now(to));
                let rights = &self.rights;
                let right = |node: &NodeId, prefix: &Prefix| rights.contains(&(*node, *prefix));
                if let Err(error) = self.nodes[to].routing.handle_message(from, heard, &right, now) {
                    assert!(!error.is_lie(), "seed {}: an honest node lies: {error}", self.seed);
                }
                self.drain(to);
            }
            Event::Timeout { node } => {
                if self.nodes[node].up && self.nodes[node].scheduled_ms <= self.now_ms {
                    self.nodes[node].scheduled_ms = u64::MAX;
                    let now = self.now(node);
                    self.nodes[node].routing.handle_timeout(now);
                    self.drain(node);
                }
            }
            Event::Notice { node, other } => {
                if !self.nodes[node].up {
                    return;
                }
                let (now, id) = (self.now(node), self.nodes[other].id);
                let wire = self.wires.get(&pair(node, other)).filter(|wire| wire.up && self.nodes[other].up);
                if let Some(wire) = wire {
                    let (max_frame, relayed) = (wire.max_frame, wire.relayed);
                    let facts = LinkFacts { epoch: self.nodes[other].epoch, max_frame, relayed };
                    self.nodes[node].linked.insert(other, facts.epoch);
                    self.nodes[node].routing.handle_link(id, facts, now);
                } else {
                    self.nodes[node].linked.remove(&other);
                    self.nodes[node].routing.handle_link_lost(id, now);
                }
                self.drain(node);
            }
        }
    }

    /// Does what a node wants done, then looks whether a packet could go round through it.
    fn drain(&mut self, n: usize) {
        // What is off does nothing.
        if !self.nodes[n].up {
            return;
        }
        let mut changed = false;
        while let Some(effect) = self.nodes[n].routing.poll() {
            match effect {
                RoutingEffect::Changed => changed = true,
                RoutingEffect::Sign(origin) => {
                    let signed = Signed::seal(&origin, &self.nodes[n].key, &network());
                    let signed = VerifiedOrigin::verify(signed, &network()).unwrap();
                    let now = self.now(n);
                    self.nodes[n].routing.handle_signed(signed, now);
                }
                RoutingEffect::Send { to, message } => {
                    let to = self.ids[&to];
                    if !self.is_wired(n, to) || self.chance.permille(self.weather.loss) {
                        continue;
                    }
                    let most = if self.chance.permille(self.weather.late) { 3_000 } else { 50 };
                    let delay = 1 + self.chance.below(most);
                    self.push(delay, Event::Deliver { from: n, to, message });
                }
            }
        }
        if changed {
            self.publish(n);
        }
        let due = self.nodes[n].routing.due_ms().max(self.now_ms);
        if due < self.nodes[n].scheduled_ms {
            self.nodes[n].scheduled_ms = due;
            self.push(due - self.now_ms, Event::Timeout { node: n });
        }
    }

    fn publish(&mut self, n: usize) {
        let now = self.now(n);
        let node = &self.nodes[n];
        let snapshot = node.routing.snapshot(bindings());
        let mut used: BTreeMap<(Prefix, Router), Vec<usize>> = BTreeMap::new();
        for view in node.routing.view(now).filter(|view| view.state == RouteState::Used) {
            assert!(view.prefix.length() == 128 || self.rights.contains(&(view.told.router.node, view.prefix)));
            used.entry((view.prefix, view.told.router)).or_default().push(self.ids[&view.via]);
        }
        (self.nodes[n].snapshot, self.nodes[n].used) = (snapshot, used);
        for destination in 0..self.nodes.len() {
            let hash = self.nodes[destination].hash;
            self.no_way_back(n, &format!("peer {destination}"), |world, at| world.hops(at, &hash));
        }
        // A prefix may have several routers; the sender chooses one, and hops ask for that one.
        let routes: Vec<(Prefix, Router)> = self.nodes[n].used.keys().copied().collect();
        for route in routes {
            self.no_way_back(n, &route.0.to_string(), |world, at| world.used(at, &route));
        }
    }

    /// Where a frame for a peer may go from a node; not to a neighbour that has restarted since.
    fn hops(&self, at: usize, peer: &PeerHash) -> Vec<usize> {
        match self.nodes[at].snapshot.lookup_peer(peer, 0) {
            Lookup::To { hops, .. } => {
                let alive = hops.iter().filter(|hop| self.nodes[self.ids[&hop.node]].epoch == hop.epoch);
                alive.map(|hop| self.ids[&hop.node]).collect()
            }
            Lookup::Local | Lookup::Unreachable(_) => vec![],
        }
    }

    /// The same by the routes to one router of a prefix alone.
    fn used(&self, at: usize, route: &(Prefix, Router)) -> Vec<usize> {
        let via = self.nodes[at].used.get(route).cloned().unwrap_or_default();
        if self.nodes[at].announced.contains(&route.0) {
            return vec![];
        }
        let linked = |other: &usize| self.nodes[at].linked.get(other) == Some(&self.nodes[*other].epoch);
        via.into_iter().filter(linked).collect()
    }

    fn no_way_back(&self, start: usize, what: &str, next: impl Fn(&Self, usize) -> Vec<usize>) {
        let mut seen = BTreeSet::new();
        let mut open = next(self, start);
        while let Some(at) = open.pop() {
            assert_ne!(at, start, "seed {}: loop to {what} through {start} at {} ms", self.seed, self.now_ms);
            if self.nodes[at].up && seen.insert(at) {
                open.extend(next(self, at));
            }
        }
    }

    /// Which nodes can reach which, by the wires alone.
    fn components(&self) -> Vec<usize> {
        let mut component: Vec<usize> = (0..self.nodes.len()).collect();
        for start in 0..self.nodes.len() {
            if component[start] != start || !self.nodes[start].up {
                continue;
            }
            let mut open = vec![start];
            let mut seen = BTreeSet::from([start]);
            while let Some(at) = open.pop() {
                component[at] = start;
                for other in 0..self.nodes.len() {
                    if self.nodes[other].up && self.is_wired(at, other) && seen.insert(other) {
                        open.push(other);
                    }
                }
            }
        }
        component
    }

    /// Everybody who can be reached is reached, on every way that flows may take.
    pub(crate) fn assert_reachable(&self) {
        let component = self.components();
        for a in (0..self.nodes.len()).filter(|a| self.nodes[*a].up) {
            for b in (0..self.nodes.len()).filter(|b| *b != a && component[*b] == component[a] && self.nodes[*b].up) {
                let hash = self.nodes[b].hash;
                let mut open = vec![a];
                let mut seen = BTreeSet::new();
                while let Some(at) = open.pop().filter(|at| *at != b) {
                    let hops = self.hops(at, &hash);
                    assert!(
                        !hops.is_empty(),
                        "seed {}: no way from {a} to {b}, ends at {at}, {} ms",
                        self.seed,
                        self.now_ms
                    );
                    for hop in hops {
                        assert!(self.is_wired(at, hop), "seed {}: from {at} to {hop} there is no wire", self.seed);
                        if hop != b && seen.insert(hop) {
                            open.push(hop);
                        }
                    }
                }
            }
            for (prefix, routers) in self.announcers() {
                let there = routers.iter().any(|router| component[*router] == component[a]);
                let own = self.nodes[a].announced.contains(&prefix);
                let goes = match self.nodes[a].snapshot.lookup(prefix.address(), 0) {
                    Lookup::To { peer, .. } => routers.contains(&self.ids[&peer.node]),
                    Lookup::Local => own,
                    Lookup::Unreachable(_) => false,
                };
                assert!(goes || !there, "seed {}: {a} has no way to {prefix} of {routers:?}", self.seed);
            }
        }
    }

    /// Nobody has a way to what cannot be reached.
    pub(crate) fn assert_unreachable(&self) {
        let component = self.components();
        for a in (0..self.nodes.len()).filter(|a| self.nodes[*a].up) {
            for b in (0..self.nodes.len()).filter(|b| *b != a) {
                if component[b] != component[a] || !self.nodes[b].up {
                    let hops = self.hops(a, &self.nodes[b].hash);
                    assert!(
                        hops.is_empty(),
                        "seed {}: {a} has a way to {b}: {hops:?} at {} ms",
                        self.seed,
                        self.now_ms
                    );
                }
            }
            for (prefix, _) in self.nodes[a].used.keys().filter(|(prefix, _)| prefix.length() != 128) {
                let routers = self.announcers().remove(prefix).unwrap_or_default();
                let there = routers.iter().any(|router| component[*router] == component[a]);
                assert!(there, "seed {}: {a} has a way to {prefix} at {} ms", self.seed, self.now_ms);
            }
        }
    }

    /// Running nodes that announce a prefix they have a right to.
    fn announcers(&self) -> BTreeMap<Prefix, Vec<usize>> {
        let mut out: BTreeMap<Prefix, Vec<usize>> = BTreeMap::new();
        for (n, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.up) {
            for prefix in node.announced.iter().filter(|prefix| self.rights.contains(&(node.id, **prefix))) {
                out.entry(*prefix).or_default().push(n);
            }
        }
        out
    }

    fn notice(&mut self, node: usize, other: usize) {
        let delay = self.chance.below(1_500);
        self.push(delay, Event::Notice { node, other });
    }

    fn push(&mut self, delay_ms: u64, event: Event) {
        self.order += 1;
        let slot = usize::try_from(self.order).unwrap();
        self.waiting.insert(slot, event);
        self.queue.push(Reverse((self.now_ms + delay_ms, self.order, slot)));
    }

    fn epoch(&mut self) -> BootEpoch {
        self.next_epoch += 1;
        BootEpoch(self.next_epoch)
    }

    fn now(&self, n: usize) -> Now {
        Now { wall: UnixMillis(WALL + self.now_ms + self.nodes[n].skew_ms), uptime_ms: self.now_ms }
    }
}
