//! Networks a third of which lies: whole engines with sessions, whose frames are swallowed, misled and sent again and whose
//! neighbours announce ways they do not have. Nobody but its owner opens a frame, loops end, a bad next hop is left within
//! ten seconds, and within thirty whoever can be reached over honest nodes is reached. Each test prints its seed where it
//! fails.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

#[path = "world/chance.rs"]
#[allow(dead_code, reason = "each program uses a part")]
mod chance;
mod overlay;

use chance::first_seed;
use overlay::World;
use overlay::liar::Vice;
use shoal_engine::mesh::network::Reach;

/// How long a bad next hop may be used, milliseconds.
const LEFT_MS: u64 = 10_000;
/// After how long everybody who can be reached over honest nodes is reached, milliseconds.
const HEALED_MS: u64 = 30_000;
const VICES: [Vice; 5] = [Vice::BlackHole, Vice::Misroute, Vice::OldWords, Vice::ShortOnly, Vice::Silent];
/// Bytes of a packet of the tests: longer than what a liar calls short.
const LENGTH: usize = 600;

fn is_long() -> bool {
    std::env::var_os("SHOAL_LONG").is_some_and(|value| value == "1")
}

/// Pairs that talk, each way five times a second.
fn talk(world: &mut World, flows: &[(usize, usize)], for_ms: u64) {
    let end = world.now_ms + for_ms;
    while world.now_ms < end {
        for (a, b) in flows {
            world.send(*a, *b, LENGTH);
            world.send(*b, *a, LENGTH);
        }
        world.run(200);
    }
}

/// Packets that arrived from `from` at `to` since then.
fn arrived(world: &World, from: usize, to: usize, since_ms: u64) -> usize {
    let of_flow = world.arrivals.iter().filter(|got| (got.from, got.to) == (from, to) && got.at_ms >= since_ms);
    of_flow.count()
}

/// The longest time without an arrival since then, and whether one came in the last second.
fn gap(world: &World, from: usize, to: usize, since_ms: u64) -> u64 {
    let of_flow = world.arrivals.iter().filter(|got| (got.from, got.to) == (from, to) && got.at_ms >= since_ms);
    let times: Vec<u64> = [since_ms].into_iter().chain(of_flow.map(|got| got.at_ms)).chain([world.now_ms]).collect();
    times.windows(2).map(|two| two[1] - two[0]).max().unwrap()
}

/// Two ways between the ends: over 1, which is shorter, and over 2 and 4.
fn diamond() -> World {
    let mut world = World::new(1, 5);
    world.suspect(1);
    for (a, b, delay_ms) in [(0, 1, 2), (1, 3, 2), (0, 2, 5), (2, 4, 5), (4, 3, 5)] {
        world.wire(a, b, delay_ms);
    }
    world.run(5_000);
    talk(&mut world, &[(0, 3)], 10_000);
    assert!(arrived(&world, 0, 3, 10_000) > 20);
    assert_eq!(world.hops(0, 3), [1], "the short way");
    world
}

#[test]
fn a_black_hole_is_left_within_ten_seconds_and_taken_again_when_it_is_none() {
    for vice in [Vice::BlackHole, Vice::Silent, Vice::ShortOnly] {
        let mut world = diamond();
        world.corrupt(1, Some(vice));
        let begun = world.now_ms;
        talk(&mut world, &[(0, 3)], 30_000);
        let gaps = [gap(&world, 0, 3, begun), gap(&world, 3, 0, begun)];
        println!("{vice:?}: no packet for {gaps:?} ms");
        assert!(gaps.iter().all(|gap| *gap <= LEFT_MS), "{vice:?}: {gaps:?}");
        assert!(world.counts.swallowed > 0 && world.hops(0, 3) == [2]);
        world.corrupt(1, None);
        let healed = world.now_ms;
        while world.hops(0, 3) != [1] {
            talk(&mut world, &[(0, 3)], 1_000);
            assert!(world.now_ms - healed <= 120_000, "{vice:?}: the short way is not taken again");
        }
    }
}

/// A random network of which a third is going to lie, and pairs of honest nodes that talk.
fn village(seed: u64, count: usize, degree: usize) -> (World, Vec<(usize, usize)>) {
    let mut world = World::new(seed, count);
    for at in (0..count).filter(|at| at % 3 == 2) {
        world.suspect(at);
    }
    for b in 1..count {
        // Each has one honest neighbour among those before it, so that what is honest hangs together; the rest is chance.
        let honest: Vec<usize> = (0..b).filter(|a| a % 3 != 2).collect();
        let first = honest[world.chance.index(honest.len())];
        let delay_ms = 1 + world.chance.below(20);
        world.wire(first, b, delay_ms);
        for a in 0..b {
            if world.chance.index(count) < degree && !world.is_wired(a, b) {
                let delay_ms = 1 + world.chance.below(20);
                world.wire(a, b, delay_ms);
            }
        }
    }
    let mut flows: Vec<(usize, usize)> = Vec::new();
    while flows.len() < count / 2 {
        let (a, b) = (world.chance.index(count), world.chance.index(count));
        if a < b && a % 3 != 2 && b % 3 != 2 && !world.is_wired(a, b) && !flows.contains(&(a, b)) {
            assert!(world.has_honest_path(a, b));
            flows.push((a, b));
        }
    }
    (world, flows)
}

/// Everybody begins to lie; 30 s later every pair talks again. Gives events and the longest silence after the start.
fn corrupted(seed: u64, count: usize, degree: usize, before_ms: u64) {
    let (mut world, flows) = village(seed, count, degree);
    if before_ms > 0 {
        world.run(5_000);
        talk(&mut world, &flows, before_ms);
    }
    for (n, at) in (0..count).filter(|at| at % 3 == 2).enumerate() {
        world.corrupt(at, Some(VICES[n % VICES.len()]));
    }
    let begun = world.now_ms;
    talk(&mut world, &flows, HEALED_MS);
    let healed = world.now_ms;
    world.lost.clear();
    talk(&mut world, &flows, 15_000);
    let (mut worst, mut late) = (0, vec![]);
    for (a, b) in &flows {
        for (from, to) in [(*a, *b), (*b, *a)] {
            let got = arrived(&world, from, to, healed);
            let silence = gap(&world, from, to, healed);
            worst = worst.max(gap(&world, from, to, begun));
            if got < 50 || silence > LEFT_MS {
                late.push((from, to, got, silence, world.hops(from, to)));
            }
        }
    }
    let lost = |to: usize| world.lost.range((to, 0, "")..(to + 1, 0, "")).collect::<Vec<_>>();
    let why: Vec<_> = late.iter().map(|(_, to, ..)| (to, lost(*to))).collect();
    assert!(
        late.is_empty(),
        "seed {seed}: (from, to, arrived of 75, silence, next hops): {late:?}; lost: {why:?}; longest silence {worst} ms"
    );
    assert!(world.counts.swallowed > 0 && world.counts.tried > 0);
}

#[test]
fn with_a_third_of_liars_everybody_honest_is_reached_again() {
    let runs = if is_long() { 40 } else { 1 };
    for seed in first_seed()..first_seed() + runs {
        corrupted(seed, 24, 3, 10_000);
    }
}

#[test]
fn liars_that_were_there_first_keep_nobody_apart() {
    let runs = if is_long() { 40 } else { 1 };
    for seed in first_seed() + 100..first_seed() + 100 + runs {
        corrupted(seed, 24, 3, 0);
    }
}

#[test]
fn what_is_farther_than_frames_may_go_is_shown_as_unreachable_and_nothing_goes_round() {
    // Sixteen links are as many as a frame may cross, so of the ends of a line of twenty nodes neither hears the other.
    let mut world = World::new(1, 20);
    (1..20).for_each(|at| world.wire(at - 1, at, 1));
    world.run(30_000);
    assert_eq!(world.hops(0, 19), [1], "there is a route");
    let begun = world.now_ms;
    talk(&mut world, &[(0, 16), (0, 17), (0, 19)], 20_000);
    for (to, reached) in [(16, true), (17, false), (19, false)] {
        assert_eq!(arrived(&world, 0, to, begun) > 50 && arrived(&world, to, 0, begun) > 50, reached, "{to}");
        let reach = world.view(0, to).reach;
        assert_eq!(matches!(reach, Reach::Routed(_)), reached, "{to}: {reach:?}");
        assert_eq!(reach == Reach::None, !reached, "{to}: {reach:?}");
    }
    assert!(world.counts.hop_limit > 0 && world.counts.longest == 15, "{:?}", world.counts);
    // A shorter way comes up, and it is reached.
    world.wire(3, 12, 1);
    let begun = world.now_ms;
    talk(&mut world, &[(0, 19)], 30_000);
    assert!(arrived(&world, 0, 19, begun) > 50 && matches!(world.view(0, 19).reach, Reach::Routed(_)));
}
