//! Routing under bad weather: whatever is lost, late, pulled or restarted, no packet can go round, and half a minute after
//! the last change everybody who can be reached is reached. Each test prints its seed where it fails.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

mod world;

use shoal_engine::mesh::routing::{HOLD_MS, LinkSample};
use shoal_protocol::mesh::prefix::Prefix;
use world::chance::{Chance, first_seed};
use world::{Weather, World};

/// Everything reachable has a route this long after the last change, milliseconds.
const CONVERGED_MS: u64 = 30_000;
/// Nothing unreachable has one this long after that: what was learnt last has expired.
const EXPIRED_MS: u64 = HOLD_MS + 5_000;
const STORM: Weather = Weather { loss: 100, late: 50, relayed: 100 };

#[derive(Clone, Copy, Debug)]
enum Shape {
    Line,
    Ring,
    Full,
    Grid,
    Random,
}

fn topology(world: &mut World, shape: Shape) {
    let count = world.len();
    for b in 1..count {
        for a in 0..b {
            let wired = match shape {
                Shape::Line => b == a + 1,
                Shape::Ring => b == a + 1 || (a == 0 && b == count - 1),
                Shape::Full => true,
                Shape::Grid => b == a + 7 || (b == a + 1 && b % 7 != 0),
                Shape::Random => world.chance.index(count) < 3,
            };
            if wired {
                world.wire(a, b, true);
            }
        }
    }
}

/// Subnets with one and with two routers, an exit, and one announced without a right.
fn prefixes(world: &mut World) {
    let prefix = |text: &str| -> Prefix { text.parse().unwrap() };
    let last = world.len() - 1;
    for (node, text) in [
        (0, "10.1.0.0/16"),
        (last, "10.1.0.0/16"),
        (1, "10.1.2.0/24"),
        (2, "192.168.7.0/24"),
        (last, "0.0.0.0/0"),
        (1, "::/0"),
        (2, "2001:db8::/32"),
    ] {
        world.allow(node, prefix(text));
        world.announce(node, prefix(text));
    }
    world.announce(3, prefix("172.16.0.0/12"));
}

fn sample(chance: &mut Chance) -> LinkSample {
    LinkSample {
        rtt_us: Some(u32::try_from(500 + chance.below(120_000)).unwrap()),
        loss_permille: u32::try_from(chance.below(30)).unwrap(),
        load_permille: u32::try_from(chance.below(1000)).unwrap(),
        reliability_permille: u32::try_from(500 + chance.below(501)).unwrap(),
    }
}

/// One thing that can happen to a network.
fn change(world: &mut World) {
    let count = world.len();
    let wires = world.wires();
    let (a, b) = wires[world.chance.index(wires.len())];
    match world.chance.below(100) {
        0..60 => {
            let sample = sample(&mut world.chance);
            world.measure(a, b, sample);
        }
        60..80 => {
            let up = world.is_wired(a, b);
            world.wire(a, b, !up);
        }
        80..86 => {
            let n = world.chance.index(count);
            let up = world.is_up(n);
            world.power(n, !up);
        }
        86..92 => {
            let n = world.chance.index(count);
            world.power(n, false);
            world.power(n, true);
        }
        92..95 => {
            // Everything between two halves is cut, or mended.
            let (start, up) = (world.chance.index(count), world.chance.permille(500));
            let side = |n: usize| (n + count - start) % count < count / 2;
            for (a, b) in wires {
                if side(a) != side(b) {
                    world.wire(a, b, up);
                }
            }
        }
        95..98 => {
            let c = world.chance.index(count);
            if c != a {
                world.wire(a, c, true);
            }
        }
        _ => {
            let prefix = "192.168.7.0/24".parse().unwrap();
            world.withdraw(2, prefix);
            world.run(200);
            world.announce(2, prefix);
        }
    }
}

/// Storms and calms, one after the other; gives the number of events.
fn history(seed: u64, count: usize, shape: Shape, storms: usize) -> u64 {
    let mut world = World::new(seed, count, STORM);
    topology(&mut world, shape);
    prefixes(&mut world);
    world.run(CONVERGED_MS);
    world.assert_reachable();
    for _ in 0..storms {
        for _ in 0..40 {
            change(&mut world);
            let pause = world.chance.below(1_000);
            world.run(pause);
        }
        world.run(CONVERGED_MS + 1_500);
        world.assert_reachable();
        world.run(EXPIRED_MS);
        world.assert_unreachable();
        world.assert_reachable();
    }
    world.events
}

#[test]
fn no_packet_goes_round_and_everybody_is_reached() {
    let mut events = 0;
    let shapes = [Shape::Random, Shape::Ring, Shape::Grid, Shape::Random, Shape::Full, Shape::Random, Shape::Line];
    for (seed, count) in (first_seed()..).zip([50, 20, 42, 35, 12, 50, 10, 8, 25, 30]) {
        let shape = shapes[usize::try_from(seed).unwrap() % shapes.len()];
        let some = history(seed, count, shape, 3);
        println!("seed {seed}: {shape:?} of {count}, {some} events");
        events += some;
    }
    assert!(events >= 100_000, "only {events} events");
}

#[test]
fn where_everybody_reaches_everybody_no_host_route_is_told() {
    let mut world = World::new(1, 20, Weather { loss: 0, late: 0, relayed: 0 });
    topology(&mut world, Shape::Full);
    world.run(20_000);
    // While links come up one after the other some are told; then none.
    let before = world.updates;
    world.run(150_000);
    world.assert_reachable();
    assert_eq!(world.updates, before);
    // One link less, and the two get each other's route from the others.
    world.wire(0, 1, false);
    world.run(10_000);
    world.assert_reachable();
    let told = world.updates - before;
    assert!((2..=200).contains(&told), "{told} updates for one link");
}

#[test]
fn one_seed_gives_one_history() {
    let twice = [history(77, 12, Shape::Random, 1), history(77, 12, Shape::Random, 1)];
    assert_eq!(twice[0], twice[1]);
}
