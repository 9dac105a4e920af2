//! Seeded swarms of directories: from one known peer to all; lies are not learnt. No socket, a clock of numbers.

use super::*;
use ed25519_dalek::SigningKey;
use shoal_protocol::control::PROTOCOL_VERSION;
use shoal_protocol::peer_record::{PEER_RECORD_AGE_MAX_MS, PeerRecord};
use shoal_protocol::{BootEpoch, ByteCount};

const WALL: u64 = 1_700_000_000_000;

fn network() -> NetworkId {
    NetworkId::from_bytes([7; 32])
}

fn signer(n: usize) -> SigningKey {
    SigningKey::from_bytes(&[u8::try_from(n + 1).unwrap(); 32])
}

fn id(n: usize) -> NodeId {
    NodeId::from_bytes(signer(n).verifying_key().to_bytes())
}

fn record(n: usize, time: u64, network: &NetworkId) -> Signed {
    let record = PeerRecord {
        addresses: vec![format!("/ip4/10.0.0.{n}/tcp/4700")],
        boot_epoch: BootEpoch(1),
        free: ByteCount(1),
        domain: None,
        stores: true,
        time: UnixMillis(time),
    };
    Signed::seal(&record, &signer(n), network)
}

fn hello(n: usize, record: Option<Signed>) -> Hello {
    Hello {
        versions: vec![PROTOCOL_VERSION],
        boot_epoch: BootEpoch(n as u64),
        free: ByteCount(1),
        domain: None,
        time: UnixMillis(WALL),
        record,
    }
}

/// All directories, and who is connected to whom; every effect is carried out at once.
struct World {
    nodes: Vec<Directory>,
    ids: Vec<NodeId>,
    records: Vec<Signed>,
    uptime_ms: u64,
}

impl World {
    /// `bootstrap` gives the node whose address each node knows.
    fn new(count: usize, seed: u64, bootstrap: impl Fn(usize) -> Option<usize>) -> Self {
        let ids: Vec<NodeId> = (0..count).map(id).collect();
        let records: Vec<Signed> = (0..count).map(|n| record(n, WALL, &network())).collect();
        let node = |n: usize| {
            let first: Vec<String> = bootstrap(n).map(|at| format!("/ip4/10.0.0.{at}/tcp/4700")).into_iter().collect();
            let mut directory = Directory::new(ids[n], network(), &first, seed + n as u64);
            directory.set_own(records[n].clone());
            directory
        };
        let nodes = (0..count).map(node).collect();
        Self { nodes, ids, records, uptime_ms: 0 }
    }

    fn now(&self) -> Now {
        Now { wall: UnixMillis(WALL + self.uptime_ms), uptime_ms: self.uptime_ms }
    }

    fn step(&mut self) {
        self.uptime_ms += 250;
        let now = self.now();
        for n in 0..self.nodes.len() {
            self.nodes[n].handle_timeout(now);
        }
        for n in 0..self.nodes.len() {
            while let Some(effect) = self.nodes[n].poll() {
                self.carry_out(n, effect, now);
            }
        }
    }

    fn carry_out(&mut self, from: usize, effect: LinkEffect, now: Now) {
        match effect {
            LinkEffect::Dial { node, addresses } => {
                let at: usize = addresses[0].split('.').nth(3).unwrap().split('/').next().unwrap().parse().unwrap();
                self.nodes[from].dial_ended(node, &addresses, DialOutcome::Reached(self.ids[at]), now);
                if at != from {
                    self.nodes[from].connected(self.ids[at], now);
                    self.nodes[at].connected(self.ids[from], now);
                }
            }
            LinkEffect::Greet { node } => {
                let to = self.ids.iter().position(|id| *id == node).unwrap();
                let ours = hello(from, Some(self.records[from].clone()));
                self.nodes[to].heard_hello(self.ids[from], ours, now).unwrap();
                let theirs = hello(to, Some(self.records[to].clone()));
                self.nodes[from].heard_hello(node, theirs, now).unwrap();
            }
            LinkEffect::AskPeers { node, after } => {
                let to = self.ids.iter().position(|id| *id == node).unwrap();
                let (records, more) = self.nodes[to].peers(after, now.wall);
                self.nodes[from].heard_peers(node, records, more, now).unwrap();
            }
        }
    }
}

#[test]
fn one_known_peer_leads_to_all() {
    const COUNT: usize = 40;
    for seed in 0..4 {
        for line in [false, true] {
            let mut world =
                World::new(COUNT, seed * 1000, |n| if line { n.checked_sub(1) } else { (n > 0).then_some(0) });
            let mut steps = 0;
            while world.nodes.iter().any(|node| node.known().count() < COUNT - 1 || node.links.len() < COUNT - 1) {
                world.step();
                steps += 1;
                assert!(steps < 80, "seed {seed}, line {line}: not complete after 20 s");
            }
        }
    }
}

#[test]
fn lies_are_not_learnt() {
    let mut directory = Directory::new(id(0), network(), &[], 1);
    let now = Now { wall: UnixMillis(WALL), uptime_ms: 5 };
    let other = NetworkId::from_bytes([8; 32]);
    let old = WALL - PEER_RECORD_AGE_MAX_MS - 1;
    for (what, said) in [
        ("other network", record(1, WALL, &other)),
        ("old", record(1, old, &network())),
        ("future", record(1, WALL + 120_001, &network())),
    ] {
        assert!(directory.heard_hello(id(1), hello(1, Some(said)), now).is_err(), "{what}");
    }
    let borrowed = hello(1, Some(record(2, WALL, &network())));
    assert!(matches!(directory.heard_hello(id(1), borrowed, now), Err(NotLearned::NotItsOwn { .. })));
    assert!(
        directory.heard_peers(id(1), vec![record(3, WALL, &other), record(4, WALL, &network())], true, now).is_err()
    );
    assert_eq!(directory.known().map(|(node, _)| *node).collect::<Vec<_>>(), [id(4)], "the honest one is learnt");
}

#[test]
fn a_lost_peer_is_dialled_again_with_growing_patience() {
    let mut directory = Directory::new(id(0), network(), &["/ip4/10.0.0.1/tcp/4700".into()], 1);
    let at = |uptime_ms| Now { wall: UnixMillis(WALL), uptime_ms };
    let mut dials = Vec::new();
    for uptime_ms in (0..200_000).step_by(100) {
        directory.handle_timeout(at(uptime_ms));
        while let Some(effect) = directory.poll() {
            let LinkEffect::Dial { node, addresses } = effect else { panic!("{effect:?}") };
            directory.dial_ended(node, &addresses, DialOutcome::Failed, at(uptime_ms));
            dials.push(uptime_ms);
        }
    }
    let waits: Vec<u64> = dials.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((8..=14).contains(&dials.len()), "{dials:?}");
    assert!(waits[0] <= 800 && waits.iter().all(|wait| *wait <= 76_000), "{waits:?}");
    assert!(waits.last() > waits.first(), "{waits:?}");
}

#[test]
fn pages_that_never_end_are_not_followed() {
    let mut directory = Directory::new(id(0), network(), &[], 1);
    let now = Now { wall: UnixMillis(WALL), uptime_ms: 5 };
    directory.connected(id(1), now);
    assert_eq!(directory.poll(), Some(LinkEffect::Greet { node: id(1) }));
    directory.heard_hello(id(1), hello(1, Some(record(1, WALL, &network()))), now).unwrap();
    directory.handle_timeout(now);
    let asked = |directory: &mut Directory| {
        let asks =
            std::iter::from_fn(|| directory.poll()).filter(|effect| matches!(effect, LinkEffect::AskPeers { .. }));
        asks.count()
    };
    assert_eq!(asked(&mut directory), 1);
    let page = vec![record(2, WALL, &network())];
    directory.heard_peers(id(1), page.clone(), true, now).unwrap();
    assert_eq!(asked(&mut directory), 1, "the next page");
    directory.heard_peers(id(1), page.clone(), true, now).unwrap();
    assert_eq!(asked(&mut directory), 0, "the same page again");
    directory.heard_peers(id(1), page, true, now).unwrap();
    assert_eq!(asked(&mut directory), 0, "a page nobody asked for");
}

#[test]
fn visitors_are_greeted_but_not_asked_and_the_silent_are_asked_less() {
    let mut directory = Directory::new(id(0), network(), &[], 1);
    let at = |uptime_ms| Now { wall: UnixMillis(WALL), uptime_ms };
    directory.connected(id(1), at(0));
    directory.connected(id(2), at(0));
    let mut greetings = Vec::new();
    for uptime_ms in (0..600_000).step_by(500) {
        directory.handle_timeout(at(uptime_ms));
        while let Some(effect) = directory.poll() {
            match effect {
                LinkEffect::Greet { node } if node == id(1) => {
                    directory.heard_hello(node, hello(1, None), at(uptime_ms)).unwrap()
                }
                LinkEffect::Greet { node } => {
                    greetings.push(uptime_ms);
                    directory.ask_failed(node, at(uptime_ms));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!((4..=8).contains(&greetings.len()), "{greetings:?}");
}

#[test]
fn lost_events_are_made_up_for() {
    let mut directory = Directory::new(id(0), network(), &[], 1);
    let now = Now { wall: UnixMillis(WALL), uptime_ms: 5 };
    directory.connected(id(1), now);
    directory.connected(id(2), now);
    directory.reconcile(&[id(2), id(3)], now);
    assert_eq!(directory.links.keys().copied().collect::<std::collections::BTreeSet<_>>(), [id(2), id(3)].into());
}

#[test]
fn answers_are_paged_in_order_and_fit_a_frame() {
    let mut directory = Directory::new(id(0), network(), &[], 1);
    let now = Now { wall: UnixMillis(WALL), uptime_ms: 5 };
    directory.set_own(record(0, WALL, &network()));
    for n in 1..100 {
        let long = |at: usize| format!("/dns4/{}.example/tcp/{at}", "x".repeat(220));
        let record = PeerRecord {
            addresses: (0..8).map(long).collect(),
            boot_epoch: BootEpoch(1),
            free: ByteCount(1),
            domain: None,
            stores: true,
            time: UnixMillis(WALL),
        };
        directory.heard_peers(id(1), vec![Signed::seal(&record, &signer(n), &network())], false, now).unwrap();
    }
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let (records, more) = directory.peers(after, now.wall);
        let response = shoal_protocol::control::Response::Peers { records: records.clone(), more };
        assert!(response.to_bytes().len() < 65_000 && !records.is_empty());
        seen.extend(records.iter().map(|signed| NodeId::from(*signed.claimed_signer())));
        after = seen.last().copied();
        if !more {
            break;
        }
    }
    assert!(seen.is_sorted_by(|a, b| a < b));
    assert_eq!(seen.len(), 100, "every peer and the node itself once");
    let (found, more) = directory.locate(&[id(5), id(0), NodeId::from_bytes([1; 32])], now.wall);
    assert_eq!((found.len(), more), (2, false));
}
