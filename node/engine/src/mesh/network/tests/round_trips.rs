//! What a link costs is what its round trips say: those of packets' own way, and without packets those of the control lane.

use super::*;

fn metric(world: &World, from: usize, to: usize) -> u32 {
    let own = Prefix::host(world.nodes[to].network.own_ipv6().into());
    let rows = world.nodes[from].network.routes(world.now());
    rows.iter().find(|row| row.prefix == own).expect("a route").metric
}

fn say(world: &mut World, rtt_us: u32) {
    let node = id(1);
    world.event(0, |network, env| network.handle_round_trips([(node, rtt_us)], env));
}

/// Metric of a link of this round trip, which is that of the link and one.
fn of_ms(milliseconds: u32) -> u32 {
    96 + 4 * milliseconds + 1
}

#[test]
fn a_link_without_packets_costs_what_its_control_lane_measures() {
    let mut world = World::new(2, Carriers::Lanes, &Members::Everybody);
    // Said of somebody who is no neighbour it means nothing.
    say(&mut world, 10_000);
    world.connect(0, 1);
    world.run(1_000);
    assert_eq!(metric(&world, 0, 1), of_ms(100), "what is assumed before");
    say(&mut world, 10_000);
    assert_eq!(metric(&world, 0, 1), of_ms(10));
    // Long after the session, which nobody needed, was left to end.
    for _ in 0..60 {
        world.run(5_000);
        say(&mut world, 10_000);
    }
    assert!(!world.nodes[0].network.peer(id(1)).unwrap().has_session);
    assert_eq!(metric(&world, 0, 1), of_ms(10));
    // The least of ten seconds counts.
    say(&mut world, 60_000);
    assert_eq!(metric(&world, 0, 1), of_ms(10));
    world.run(10_000);
    say(&mut world, 60_000);
    assert_eq!(metric(&world, 0, 1), of_ms(60));
}

#[test]
fn the_echoes_of_the_way_packets_go_count_before_the_control_lane() {
    let mut world = World::new(2, Carriers::Lanes, &Members::Everybody);
    world.connect(0, 1);
    for _ in 0..400 {
        world.packet(0, 1, b"packet");
        world.packet(1, 0, b"packet");
        world.run(50);
        say(&mut world, 80_000);
    }
    // A step there, and the echo with the rest of the second.
    assert_eq!(metric(&world, 0, 1), of_ms(u32::try_from(STEP_MS).unwrap()));
    // Without packets there are no echoes: what the control lane says counts again.
    for _ in 0..40 {
        world.run(5_000);
        say(&mut world, 80_000);
    }
    assert_eq!(metric(&world, 0, 1), of_ms(80));
}
