//! What a network costs each of its nodes: memory, time of the processor and words on its links, with as many nodes and
//! routes as there may be. Whole engines in virtual time; what is measured is the time this thread has had on a processor.
//! The full size is the long budget's.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

#[path = "world/chance.rs"]
#[allow(dead_code, reason = "each program uses a part")]
mod chance;
#[allow(dead_code, reason = "each program uses a part")]
mod overlay;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use overlay::{World, network};
use peak_alloc::PeakAlloc;
use shoal_engine::Now;
use shoal_engine::mesh::routing::{Ignored, Intake, LinkFacts, OWN_MAX, ROUTES_MAX, Routing, RoutingEffect};
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::{
    ORIGIN_LIFE_MAX_MS, Origin, Reach, RouteMessage, RouteUpdate, Router, Told, UPDATES_MAX, told_digest,
};
use shoal_protocol::{BootEpoch, NodeId, Signed, UnixMillis};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;
/// One test at a time: all of them count the memory of the program.
static ALONE: Mutex<()> = Mutex::new(());

const WALL: u64 = 1_700_000_000_000;
/// Memory of the engine of one node of a thousand, bytes: half of what an idle node may take as a whole.
const NODE_BYTES_MAX: usize = 30 << 20;
/// Memory of the routes, twice ten thousand of them, bytes.
const ROUTES_BYTES_MAX: usize = 60 << 20;
/// Time of the processor an idle node may take, per mille of one.
const IDLE_PERMILLE_MAX: f64 = 10.0;
/// Words on one link and direction while nothing changes, bytes a second: 64 kbit/s.
const LINK_BYTES_MAX: u64 = 8_000;

/// What this thread has had of a processor (proc(5), `schedstat`): other work on the machine does not count.
fn processor() -> Duration {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(said.split_whitespace().next().unwrap().parse().unwrap())
}

fn is_long() -> bool {
    std::env::var_os("SHOAL_LONG").is_some_and(|value| value == "1")
}

#[test]
fn a_network_of_a_thousand_costs_each_node_what_it_may() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let count = if is_long() { 1_000 } else { 80 };
    let before = ALLOCATOR.current_usage();
    let begun = processor();
    let mut world = World::new(1, count);
    world.is_watched = false;
    for b in 1..count {
        for _ in 0..4 {
            let a = world.chance.index(b);
            if !world.is_wired(a, b) {
                let delay_ms = 1 + world.chance.below(20);
                world.wire(a, b, delay_ms);
            }
        }
    }
    world.run(60_000);
    let mut apart = 0;
    for from in (0..count).step_by(7) {
        apart += (0..count).filter(|to| *to != from && world.hops(from, *to).is_empty()).count();
    }
    println!("{count} nodes: a minute from nothing took {:.1} s", (processor() - begun).as_secs_f64());
    assert_eq!(apart, 0, "pairs without a way");
    let bytes = (ALLOCATOR.current_usage() - before) / count;
    // Words of origins are signed every three minutes: each link carries all of them once.
    let idle_s = 200;
    world.words = Some(BTreeMap::new());
    let begun = processor();
    world.run(idle_s * 1000);
    let permille = (processor() - begun).as_secs_f64() * 1000.0 / (idle_s as f64 * count as f64);
    let words = world.words.take().unwrap();
    let most = words.values().map(|(messages, bytes)| (bytes / idle_s, messages / idle_s)).max().unwrap();
    println!(
        "{count} nodes: {} KiB and {permille:.2} per mille of a processor each, at most {} B and {} messages a second on a link",
        bytes >> 10,
        most.0,
        most.1
    );
    assert!(bytes <= NODE_BYTES_MAX && permille <= IDLE_PERMILLE_MAX && most.0 <= LINK_BYTES_MAX);
}

fn signer(n: usize) -> SigningKey {
    let mut bytes = [0x6b; 32];
    bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
    SigningKey::from_bytes(&bytes)
}

fn id(n: usize) -> NodeId {
    NodeId::from_bytes(signer(n).verifying_key().to_bytes())
}

fn now(ms: u64) -> Now {
    Now { wall: UnixMillis(WALL + ms), uptime_ms: ms }
}

fn prefix(n: usize) -> Prefix {
    format!("10.{}.{}.0/24", n / 256, n % 256).parse().unwrap()
}

/// The messages in which `from` tells of every prefix.
fn messages(words: &[(Prefix, usize, Signed)], from: usize) -> Vec<RouteMessage> {
    let (mut sum, mut out) = (Reach::default().digest(), Vec::new());
    for (number, some) in words.chunks(UPDATES_MAX).enumerate() {
        let mut updates = Vec::new();
        for (prefix, signer, origin) in some {
            let router = Router { node: id(*signer), epoch: BootEpoch(1) };
            let told = Told { router, seqno: 1, metric: 500, max_frame: 9_000, relayed: false };
            sum = u64::wrapping_add(sum, told_digest(prefix, &told));
            updates.push(RouteUpdate { origin: origin.clone(), metric: 500, max_frame: 9_000, relayed: false });
        }
        out.push(RouteMessage {
            epoch: BootEpoch(from as u64),
            number: number as u64 + 1,
            updates,
            retracted: vec![],
            requests: vec![],
            reach: None,
            digest: sum,
            resync: false,
        });
    }
    out
}

#[test]
fn ten_thousand_routes_of_two_neighbours_fit_and_are_told_at_a_pace() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // One prefix more than there is room for; each router announces as many as it may.
    let words: Vec<(Prefix, usize, Signed)> = (0..=ROUTES_MAX)
        .map(|n| {
            let (prefix, router) = (prefix(n), 100 + n / OWN_MAX);
            let expires = UnixMillis(WALL + ORIGIN_LIFE_MAX_MS);
            let origin = Origin { prefix, epoch: BootEpoch(1), seqno: 1, expires };
            (prefix, router, Signed::seal(&origin, &signer(router), &network()))
        })
        .collect();
    let told = [messages(&words, 2), messages(&words, 3)];
    let before = ALLOCATOR.current_usage();
    let mut routing = Routing::new(id(1), BootEpoch(1), network());
    let mut intake = Intake::new(network());
    for n in 2..=4 {
        let facts = LinkFacts { epoch: BootEpoch(n as u64), max_frame: 9_000, relayed: false };
        routing.handle_link(id(n), facts, now(0));
    }
    let begun = processor();
    let (mut passed_on, mut sent, mut ms) = (0, Vec::new(), 0);
    for step in 0..told[0].len().max(80) {
        ms = 100 * step as u64;
        for (at, messages) in told.iter().enumerate() {
            if let Some(message) = messages.get(step) {
                let heard = intake.verify(message.clone()).unwrap();
                routing.handle_message(id(2 + at), heard, &|_, _| true, now(ms)).unwrap();
            }
        }
        routing.handle_timeout(now(ms));
        while let Some(effect) = routing.poll() {
            if let RoutingEffect::Send { to, message } = effect
                && to == id(4)
            {
                passed_on += message.updates.len();
                sent.push(ms);
            }
        }
    }
    let took_ms = (processor() - begun).as_millis();
    let bytes = ALLOCATOR.current_usage() - before;
    println!("20,000 routes: {} KiB, {took_ms} ms, {} messages to a neighbour in {ms} ms", bytes >> 10, sent.len());
    assert!(passed_on >= ROUTES_MAX, "{passed_on} told on");
    assert!(sent.windows(10).all(|ten| ten[9] - ten[0] >= 900), "more than ten messages a second");
    assert!(bytes <= ROUTES_BYTES_MAX, "{bytes} bytes");
    let full: u64 = routing.ignored().filter(|(reason, _)| *reason == Ignored::Full).map(|(_, count)| count).sum();
    assert_eq!(full, 2, "the one too many of each");
    assert_eq!(routing.view(now(ms)).count(), 2 * ROUTES_MAX);
}
