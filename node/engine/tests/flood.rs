//! Statements under bad weather: whatever is lost, late, pulled or restarted, half a minute after the last change everybody
//! who can be reached has the newest of every kind and signer, and then nobody says anything any more. Each test prints
//! its seed where it fails.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

#[path = "world/chance.rs"]
mod chance;

use std::collections::{BTreeMap, BTreeSet};

use chance::{Chance, first_seed};
use shoal_engine::Now;
use shoal_engine::mesh::flood::{Flood, NotTaken, RESEND_MAX_MS, Statement};
use shoal_protocol::mesh::flood::{FLOOD_PACE_MS, FLOOD_WINDOW, FloodKind, FloodMessage};
use shoal_protocol::{BootEpoch, NodeId, UnixMillis};

const WALL: u64 = 1_700_000_000_000;
const DAY: u64 = 24 * 3600 * 1000;
/// Everybody has everything this long after the last change, milliseconds.
const CONVERGED_MS: u64 = 30_000;
const NODES: usize = 50;

type Key = (FloodKind, usize);

enum Event {
    Deliver {
        from: usize,
        to: usize,
        message: FloodMessage,
    },
    Timeout {
        node: usize,
    },
    /// A node notices what its link to another is like by now.
    Notice {
        node: usize,
        other: usize,
    },
}

struct Node {
    flood: Flood,
    epoch: BootEpoch,
    up: bool,
    scheduled_ms: u64,
    /// What it believes: the newest version of each.
    known: BTreeMap<Key, u64>,
    /// What each neighbour's run said to it, and what it said to that run itself: nothing may come back.
    said: BTreeSet<(usize, BootEpoch, Key, u64)>,
    /// Of its own statements, what it remembers over restarts.
    own: BTreeMap<FloodKind, u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Messages with statements.
    messages: u64,
    /// Of them, those that were sent before.
    again: u64,
    acks: u64,
    items: u64,
    bytes: u64,
}

struct World {
    seed: u64,
    chance: Chance,
    /// Messages lost, and messages up to three seconds late, per mille.
    loss: u64,
    late: u64,
    now_ms: u64,
    order: u64,
    nodes: Vec<Node>,
    ids: BTreeMap<NodeId, usize>,
    wires: BTreeMap<(usize, usize), bool>,
    events: BTreeMap<(u64, u64), Event>,
    last_epoch: u64,
    sent: BTreeSet<(usize, usize, BootEpoch, BootEpoch, u64, u64)>,
    counts: Counts,
    /// Versions that were published.
    published: u64,
}

fn id(n: usize) -> NodeId {
    let mut bytes = [0x5e; 32];
    bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
    NodeId::from_bytes(bytes)
}

fn signed(kind: FloodKind, signer: usize, version: u64) -> Vec<u8> {
    let kind = if kind == FloodKind::Claim { 1u64 } else { 2 };
    // As long as a real one.
    [&kind.to_le_bytes()[..], &(signer as u64).to_le_bytes(), &version.to_le_bytes(), &[0; 200]].concat()
}

fn read(signed: &[u8]) -> (usize, u64) {
    let word = |at: usize| u64::from_le_bytes(signed[at..at + 8].try_into().unwrap());
    (usize::try_from(word(8)).unwrap(), word(16))
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    fn new(seed: u64, loss: u64, late: u64) -> Self {
        let mut world = Self {
            seed,
            chance: Chance::new(seed),
            loss,
            late,
            now_ms: 1_000,
            order: 0,
            nodes: Vec::new(),
            ids: (0..NODES).map(|n| (id(n), n)).collect(),
            wires: BTreeMap::new(),
            events: BTreeMap::new(),
            last_epoch: 0,
            sent: BTreeSet::new(),
            counts: Counts::default(),
            published: 0,
        };
        for n in 0..NODES {
            let node = world.boot(n, BTreeMap::new());
            world.nodes.push(node);
        }
        world
    }

    fn boot(&mut self, n: usize, own: BTreeMap<FloodKind, u64>) -> Node {
        self.last_epoch += 1;
        let epoch = BootEpoch(self.last_epoch);
        let flood = Flood::new(id(n), epoch);
        Node { flood, epoch, up: true, scheduled_ms: u64::MAX, known: BTreeMap::new(), said: BTreeSet::new(), own }
    }

    fn now(&self) -> Now {
        Now { wall: UnixMillis(WALL + self.now_ms), uptime_ms: self.now_ms }
    }

    /// A node signs anew.
    fn publish(&mut self, n: usize, kind: FloodKind) {
        *self.nodes[n].own.entry(kind).or_insert(0) += 1;
        self.published += 1;
        self.say_own(n);
    }

    fn say_own(&mut self, n: usize) {
        if !self.nodes[n].up {
            return;
        }
        let now = self.now();
        for (kind, version) in self.nodes[n].own.clone() {
            if self.nodes[n].known.insert((kind, n), version) < Some(version) {
                self.nodes[n].flood.handle_news(statement(kind, n, version), None, now).unwrap();
            }
        }
        self.drain(n);
    }

    fn wire(&mut self, a: usize, b: usize, up: bool) {
        self.wires.insert(pair(a, b), up);
        self.notice(a, b);
        self.notice(b, a);
    }

    fn is_wired(&self, a: usize, b: usize) -> bool {
        self.wires.get(&pair(a, b)) == Some(&true)
    }

    /// A node stops, or starts with its own statements alone.
    fn power(&mut self, n: usize, up: bool) {
        if up {
            let own = self.nodes[n].own.clone();
            self.nodes[n] = self.boot(n, own);
            self.say_own(n);
        } else {
            self.nodes[n].up = false;
        }
        for other in (0..NODES).filter(|other| self.wires.contains_key(&pair(n, *other))).collect::<Vec<_>>() {
            self.notice(n, other);
            self.notice(other, n);
        }
    }

    fn notice(&mut self, node: usize, other: usize) {
        let delay = self.chance.below(1_500);
        self.push(delay, Event::Notice { node, other });
    }

    fn push(&mut self, delay_ms: u64, event: Event) {
        self.order += 1;
        self.events.insert((self.now_ms + delay_ms, self.order), event);
    }

    fn run(&mut self, milliseconds: u64) {
        let end = self.now_ms + milliseconds;
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), event) = entry.remove_entry();
            self.now_ms = at.max(self.now_ms);
            self.happen(event);
        }
        self.now_ms = end;
    }

    fn happen(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Deliver { from, to, message } if self.nodes[to].up => self.deliver(from, to, message),
            Event::Timeout { node } if self.nodes[node].scheduled_ms <= self.now_ms => {
                self.nodes[node].scheduled_ms = u64::MAX;
                self.drain(node);
            }
            Event::Notice { node, other } if self.nodes[node].up => {
                if self.is_wired(node, other) && self.nodes[other].up {
                    let epoch = self.nodes[other].epoch;
                    assert!(self.nodes[node].flood.handle_link(id(other), epoch));
                } else {
                    self.nodes[node].flood.handle_link_lost(id(other), now);
                }
                self.drain(node);
            }
            _ => {}
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: FloodMessage) {
        let now = self.now();
        let epoch = message.from;
        let items = match self.nodes[to].flood.handle_message(id(from), message, now) {
            Ok(items) => items,
            Err(error) => {
                assert_ne!(error, NotTaken::TooMany, "seed {}: an honest node is too fast", self.seed);
                vec![]
            }
        };
        let node = &mut self.nodes[to];
        for item in items {
            let (signer, version) = read(&item.signed);
            node.said.insert((from, epoch, (item.kind, signer), version));
            let known = node.known.entry((item.kind, signer)).or_insert(0);
            if *known < version {
                *known = version;
                node.flood.handle_news(statement(item.kind, signer, version), Some(id(from)), now).unwrap();
            } else {
                node.flood.handle_known(item.kind, id(signer), version, id(from));
            }
        }
        self.drain(to);
    }

    fn drain(&mut self, n: usize) {
        if !self.nodes[n].up {
            return;
        }
        let now = self.now();
        self.nodes[n].flood.handle_timeout(now);
        while let Some(send) = self.nodes[n].flood.poll(now) {
            let to = self.ids[&send.to];
            self.count(n, to, &send.message);
            if !self.is_wired(n, to) || self.chance.permille(self.loss) {
                continue;
            }
            let most = if self.chance.permille(self.late) { 3_000 } else { 50 };
            let delay = 1 + self.chance.below(most);
            self.push(delay, Event::Deliver { from: n, to, message: send.message });
        }
        let due = self.nodes[n].flood.due_ms().max(self.now_ms);
        if due < self.nodes[n].scheduled_ms {
            self.nodes[n].scheduled_ms = due;
            self.push(due - self.now_ms, Event::Timeout { node: n });
        }
    }

    fn count(&mut self, n: usize, to: usize, message: &FloodMessage) {
        if message.number == 0 {
            self.counts.acks += 1;
            return;
        }
        self.counts.messages += 1;
        self.counts.items += message.items.len() as u64;
        self.counts.bytes += shoal_protocol::codec::encode(message).len() as u64;
        let first = self.sent.insert((n, to, message.from, message.to, message.series, message.number));
        self.counts.again += u64::from(!first);
        for item in message.items.iter().filter(|_| first) {
            let (signer, version) = read(&item.signed);
            let came = self.nodes[n].said.contains(&(to, message.to, (item.kind, signer), version));
            assert!(!came, "seed {}: {n} says to {to} what it heard there", self.seed);
        }
    }

    /// Which nodes can reach which.
    fn components(&self) -> Vec<usize> {
        let mut component: Vec<usize> = (0..NODES).collect();
        for start in (0..NODES).filter(|n| self.nodes[*n].up) {
            let mut open = vec![start];
            while let Some(at) = open.pop() {
                for other in 0..NODES {
                    if self.nodes[other].up && self.is_wired(at, other) && component[other] > component[start] {
                        component[other] = component[start];
                        open.push(other);
                    }
                }
            }
        }
        component
    }

    /// Everybody knows the newest that anybody it can reach knows.
    fn assert_converged(&self) {
        let component = self.components();
        let mut newest: BTreeMap<(usize, Key), u64> = BTreeMap::new();
        for (n, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.up) {
            for (key, version) in &node.known {
                let most = newest.entry((component[n], *key)).or_insert(0);
                *most = (*most).max(*version);
            }
            for (kind, version) in &node.own {
                assert_eq!(node.known.get(&(*kind, n)), Some(version));
            }
        }
        for (n, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.up) {
            for ((_, key), version) in
                newest.range((component[n], (FloodKind::Claim, 0))..).take_while(|(at, _)| at.0 == component[n])
            {
                assert_eq!(
                    node.known.get(key),
                    Some(version),
                    "seed {}: {n} about {key:?} at {} ms",
                    self.seed,
                    self.now_ms
                );
            }
            assert_eq!(node.flood.len(), node.known.len());
        }
    }
}

fn statement(kind: FloodKind, signer: usize, version: u64) -> Statement {
    let signed = signed(kind, signer, version);
    Statement { kind, signer: id(signer), version, expires: UnixMillis(WALL + DAY), signed }
}

/// Everybody has two neighbours in a ring, and some more.
fn plug(world: &mut World, more: usize) {
    for n in 0..NODES {
        world.wire(n, (n + 1) % NODES, true);
    }
    for _ in 0..more {
        let (a, b) = (world.chance.index(NODES), world.chance.index(NODES));
        if a != b {
            world.wire(a, b, true);
        }
    }
}

fn kind(chance: &mut Chance) -> FloodKind {
    if chance.permille(500) { FloodKind::Claim } else { FloodKind::MeshKey }
}

/// One thing that can happen.
fn change(world: &mut World) {
    let wires: Vec<(usize, usize)> = world.wires.keys().copied().collect();
    let n = world.chance.index(NODES);
    match world.chance.below(100) {
        0..50 => {
            let kind = kind(&mut world.chance);
            world.publish(n, kind);
        }
        50..75 => {
            let (a, b) = wires[world.chance.index(wires.len())];
            let up = world.is_wired(a, b);
            world.wire(a, b, !up);
        }
        75..85 => {
            let up = world.nodes[n].up;
            world.power(n, !up);
        }
        85..92 => {
            world.power(n, false);
            world.power(n, true);
        }
        _ => {
            // Everything between two halves is cut, or mended.
            let (start, up) = (world.chance.index(NODES), world.chance.permille(500));
            let side = |n: usize| (n + NODES - start) % NODES < NODES / 2;
            for (a, b) in wires.into_iter().filter(|(a, b)| side(*a) != side(*b)) {
                world.wire(a, b, up);
            }
        }
    }
}

#[test]
fn half_a_minute_after_the_last_change_everybody_has_the_newest_and_is_silent() {
    for seed in first_seed()..first_seed() + 6 {
        let mut world = World::new(seed, 100, 50);
        plug(&mut world, usize::try_from(seed % 3).unwrap() * 50);
        for n in 0..NODES {
            world.publish(n, FloodKind::Claim);
            world.publish(n, FloodKind::MeshKey);
        }
        world.run(CONVERGED_MS + 1_500);
        world.assert_converged();
        for _ in 0..3 {
            for _ in 0..60 {
                change(&mut world);
                let pause = world.chance.below(500);
                world.run(pause);
            }
            world.run(CONVERGED_MS + 1_500);
            world.assert_converged();
        }
        // Everything is mended and everybody is back.
        for n in (0..NODES).filter(|n| !world.nodes[*n].up).collect::<Vec<_>>() {
            world.power(n, true);
        }
        plug(&mut world, 0);
        world.run(CONVERGED_MS + 1_500);
        world.assert_converged();
        assert!(world.nodes.iter().all(|node| node.known.len() == 2 * NODES));
        // What was taken may still be said a few times more, where acknowledgements were lost.
        world.run(10 * RESEND_MAX_MS);
        let before = world.counts;
        world.run(60_000);
        let after = world.counts;
        assert_eq!((after.messages, after.acks), (before.messages, before.acks), "seed {seed}: somebody is not silent");
        let Counts { messages, again, acks, items, bytes } = after;
        let links = world.wires.len() as u64;
        println!(
            "seed {seed}: {} versions over {links} links in {} s: {messages} messages, {again} of them again, {acks} \
             acknowledgements, {items} statements, {bytes} bytes",
            world.published,
            world.now_ms / 1000,
        );
        // The pace bounds what anybody hears; of what was sent, most was new.
        assert!(messages <= 2 * links * (world.now_ms / FLOOD_PACE_MS + FLOOD_WINDOW));
        assert!(again * 2 < messages, "seed {seed}: {again} of {messages} again");
    }
}

#[test]
fn in_good_weather_a_statement_crosses_each_link_at_most_once_each_way_and_is_everywhere_in_seconds() {
    let mut world = World::new(1, 0, 0);
    plug(&mut world, 100);
    world.run(2_000);
    let links = world.wires.len() as u64;
    for n in 0..NODES {
        world.publish(n, FloodKind::Claim);
    }
    world.run(5_000);
    world.assert_converged();
    let Counts { messages, again, acks, items, bytes } = world.counts;
    println!(
        "50 statements over {links} links: {messages} messages, {acks} acknowledgements, {items} statements, {bytes} bytes"
    );
    assert_eq!(again, 0);
    assert!(items <= NODES as u64 * 2 * links && items >= NODES as u64 * (NODES as u64 - 1), "{items}");
    assert!(acks <= messages);
    // One more: a message a link at most, less those back to where it came from.
    world.counts = Counts::default();
    world.publish(7, FloodKind::MeshKey);
    world.run(5_000);
    world.assert_converged();
    let Counts { messages, items, .. } = world.counts;
    println!("1 statement: {messages} messages");
    assert!(messages == items && messages <= 2 * links && messages >= NODES as u64 - 1, "{messages}");
}

#[test]
fn a_neighbour_nobody_hears_is_tried_ever_more_rarely() {
    let mut world = World::new(1, 1_000, 0);
    world.wire(0, 1, true);
    world.run(2_000);
    for _ in 0..10 {
        world.publish(0, FloodKind::Claim);
        world.run(1_000);
    }
    let before = world.counts.messages;
    world.run(600_000);
    let tries = world.counts.messages - before;
    println!("{tries} messages in ten minutes to nobody");
    assert!((1..=FLOOD_WINDOW * (600_000 / RESEND_MAX_MS + 1)).contains(&tries), "{tries}");
}

#[test]
fn one_seed_gives_one_history() {
    let history = || {
        let mut world = World::new(77, 100, 50);
        plug(&mut world, 20);
        (0..40).for_each(|_| {
            change(&mut world);
            world.run(300);
        });
        world.run(5_000);
        (world.counts.messages, world.counts.items, world.counts.acks)
    };
    assert_eq!(history(), history());
}
