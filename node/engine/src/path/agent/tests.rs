//! The agent in virtual time: carriers that come, go, fall silent and answer again.

use super::super::candidate::{DEAD_LEAST_MS, HOLD_DOWN_FIRST_MS, PROBE_BURST_MS, PROBE_STEADY_MS, SILENT_LEAST_MS};
use super::*;
use shoal_protocol::UnixMillis;

const STEP_MS: u64 = 10;
const FULL: u16 = 1252;
const LEAST: u16 = 1200;

fn udp(port: u16) -> Carrier {
    Carrier::Udp((core::net::Ipv4Addr::LOCALHOST, port).into())
}

/// An agent, and a peer that answers on what is alive.
struct World {
    agent: PathAgent,
    now_ms: u64,
    /// Round trip of each carrier that works; others swallow everything.
    alive: BTreeMap<Carrier, u64>,
    /// Longest frame a datagram can be on the way.
    limit: BTreeMap<Carrier, u16>,
    echoes: Vec<(u64, u32, Carrier)>,
    data_back: bool,
    returns: Vec<(u64, Carrier)>,
    probes: Vec<(u64, Carrier, u16)>,
    choices: Vec<(u64, Choice)>,
}

impl World {
    fn new() -> Self {
        Self {
            agent: PathAgent::new(FULL, LEAST),
            now_ms: 0,
            alive: BTreeMap::new(),
            limit: BTreeMap::new(),
            echoes: Vec::new(),
            data_back: true,
            returns: Vec::new(),
            probes: Vec::new(),
            choices: Vec::new(),
        }
    }

    /// Lanes, and an address that was confirmed.
    fn with_both(rtt_ms: u64) -> Self {
        let mut world = Self::new();
        world.up(Carrier::Lanes, rtt_ms);
        world.up(udp(1), rtt_ms);
        world.agent.handle_validated(udp(1), world.now());
        world.run(1_000, true);
        assert_eq!(world.on(), [udp(1)]);
        world.choices.clear();
        world
    }

    fn now(&self) -> Now {
        Now { wall: UnixMillis(0), uptime_ms: self.now_ms }
    }

    fn up(&mut self, carrier: Carrier, rtt_ms: u64) {
        self.alive.insert(carrier, rtt_ms);
        assert!(self.agent.handle_up(carrier, self.now()));
        self.drain();
    }

    fn on(&self) -> Vec<Carrier> {
        self.agent.ways().carriers().collect()
    }

    fn drain(&mut self) {
        while let Some(effect) = self.agent.poll() {
            match effect {
                PathEffect::Probe { on, probe: Control::Probe { number, padding }, .. } => {
                    let frame = padding + PROBE_FRAME as u16;
                    self.probes.push((self.now_ms, on, frame));
                    let fits = self.limit.get(&on).is_none_or(|limit| frame <= *limit);
                    if let Some(rtt_ms) = self.alive.get(&on).filter(|_| fits) {
                        self.echoes.push((self.now_ms + rtt_ms, number, on));
                    }
                }
                PathEffect::Probe { probe, .. } => panic!("{probe:?}"),
                PathEffect::Choose(choice) => self.choices.push((self.now_ms, choice)),
            }
        }
    }

    fn run(&mut self, for_ms: u64, data: bool) {
        let end = self.now_ms + for_ms;
        while self.now_ms < end {
            self.now_ms += STEP_MS;
            let due = |at: &u64| *at <= self.now_ms;
            let (arrived, later): (Vec<_>, Vec<_>) = self.echoes.iter().partition(|(at, ..)| due(at));
            let (returned, wait): (Vec<_>, Vec<_>) = self.returns.iter().partition(|(at, _)| due(at));
            (self.echoes, self.returns) = (later, wait);
            for (_, number, carrier) in arrived {
                self.agent.handle_echo(number, carrier, self.now());
            }
            for (_, carrier) in returned {
                self.agent.handle_received(carrier, self.now());
            }
            if data {
                for carrier in self.on() {
                    self.agent.handle_sent(carrier, self.now());
                    if let Some(rtt_ms) = self.alive.get(&carrier).filter(|_| self.data_back) {
                        self.returns.push((self.now_ms + rtt_ms, carrier));
                    }
                }
            }
            self.agent.handle_timeout(self.now());
            self.drain();
        }
    }

    fn whys(&self) -> Vec<Why> {
        self.choices.iter().map(|(_, choice)| choice.why).collect()
    }
}

#[test]
fn the_first_carrier_is_used_at_once_and_nothing_is_probed_without_packets() {
    let mut world = World::new();
    assert_eq!(world.agent.ways(), Ways::None);
    world.up(Carrier::Routed, 50);
    assert_eq!(world.on(), [Carrier::Routed]);
    world.up(Carrier::Lanes, 50);
    assert_eq!((world.on(), world.whys()), (vec![Carrier::Lanes], vec![Why::First, Why::Better]));
    world.run(100_000, false);
    assert!(world.probes.is_empty());
    world.agent.handle_down(Carrier::Lanes, world.now());
    world.agent.handle_down(Carrier::Routed, world.now());
    world.drain();
    assert_eq!(world.whys()[2..], [Why::Gone, Why::NothingLeft]);
    assert!(world.choices.iter().skip(2).all(|(_, choice)| choice.fence.is_none()), "nothing comes on what is gone");
}

#[test]
fn an_address_is_used_after_a_challenge_and_two_probes_of_full_length() {
    let mut world = World::new();
    world.up(Carrier::Lanes, 20);
    world.up(udp(1), 20);
    world.run(5_000, true);
    let is_short = |(_, _, frame): &(u64, Carrier, u16)| *frame == PROBE_FRAME as u16;
    assert!(world.probes.iter().all(is_short), "nothing long goes to an address nobody answered at");
    assert_eq!(world.on(), [Carrier::Lanes], "an echo proves nothing before a challenge was answered");
    world.probes.clear();
    world.agent.handle_validated(udp(1), world.now());
    world.drain();
    let began = world.now_ms;
    world.run(1_000, true);
    let (at_ms, choice) = *world.choices.last().unwrap();
    assert_eq!(choice.why, Why::MtuConfirmed { frame: FULL, rtt_ms: 20 });
    assert!((40..=60).contains(&(at_ms - began)), "{} ms", at_ms - began);
    assert!(world.probes.iter().filter(|(_, on, _)| *on == udp(1)).all(|(_, _, frame)| *frame == FULL));
    let fence = choice.fence.unwrap();
    assert_eq!((fence.from, Some(fence.to)), (PathId::LANES, choice.ways.path()));
    assert_eq!(world.agent.why().last().unwrap().before.path(), Some(PathId::LANES));
}

#[test]
fn an_address_that_bears_less_is_used_with_frames_of_what_it_bears() {
    for (limit, frame) in [(FULL - 1, 1226), (1226, 1226), (1225, LEAST), (LEAST, LEAST)] {
        let mut world = World::new();
        world.up(Carrier::Lanes, 20);
        world.up(udp(1), 20);
        world.limit.insert(udp(1), limit);
        world.agent.handle_validated(udp(1), world.now());
        world.run(15_000, true);
        assert_eq!(world.on(), [udp(1)], "{limit}");
        let (_, choice) = world.choices.last().unwrap();
        assert_eq!((choice.why, choice.frame), (Why::MtuConfirmed { frame, rtt_ms: 20 }, frame));
        // It bears less from now on: left, and found again with what it bears.
        world.limit.insert(udp(1), LEAST);
        world.run(120_000, true);
        assert_eq!((world.on(), world.agent.frame_of(udp(1))), (vec![udp(1)], LEAST), "{limit}");
    }
}

#[test]
fn an_address_where_nobody_answers_for_long_is_found_within_seconds_when_somebody_does() {
    for dead_ms in [4_000, 20_000, 300_000] {
        for was_shown in [false, true] {
            let mut world = if was_shown { World::with_both(20) } else { World::new() };
            if !was_shown {
                world.up(Carrier::Lanes, 20);
                world.up(udp(1), 20);
            }
            world.alive.remove(&udp(1));
            world.probes.clear();
            world.run(dead_ms, true);
            assert_eq!(world.on(), [Carrier::Lanes]);
            let knocks = world.probes.iter().filter(|(_, on, _)| *on == udp(1)).count();
            assert!(knocks <= 18 + dead_ms as usize / PROBE_STEADY_MS as usize, "{knocks} in {dead_ms} ms");
            world.alive.insert(udp(1), 20);
            let begun = world.now_ms;
            while world.on() != [udp(1)] {
                let knocks = world.probes.len();
                world.run(STEP_MS, true);
                // Its own challenge is answered where a knock came through.
                if !was_shown && world.probes[knocks..].iter().any(|(_, on, _)| *on == udp(1)) {
                    world.agent.handle_validated(udp(1), world.now());
                }
                assert!(world.now_ms - begun < 7_000, "dead for {dead_ms} ms, shown before: {was_shown}");
            }
            assert_eq!(world.agent.frame_of(udp(1)), FULL, "dead is not narrow");
        }
    }
}

#[test]
fn without_packets_a_dead_address_is_left_alone_until_there_are_some_or_a_session() {
    let mut world = World::new();
    world.agent.handle_up(udp(1), world.now());
    world.run(60_000, false);
    assert_eq!(world.probes.len(), PROBE_BURST_MS.len());
    world.run(600_000, false);
    assert_eq!(world.probes.len(), PROBE_BURST_MS.len());
    world.agent.handle_session(world.now());
    world.drain();
    assert_eq!(world.probes.len(), PROBE_BURST_MS.len() + 1);
    world.run(600_000, false);
    let before = world.probes.len();
    world.agent.handle_sent(udp(1), world.now());
    world.drain();
    assert_eq!(world.probes.len(), before + 1);
}

#[test]
fn a_slow_way_is_not_taken_for_a_narrow_one() {
    let mut world = World::new();
    world.up(Carrier::Lanes, 900);
    world.up(udp(1), 900);
    world.agent.handle_validated(udp(1), world.now());
    world.run(20_000, true);
    assert_eq!((world.on(), world.agent.frame_of(udp(1))), (vec![udp(1)], FULL));
}

#[test]
fn an_address_with_a_small_mtu_is_never_used_and_asked_seldom() {
    let mut world = World::new();
    world.up(Carrier::Lanes, 20);
    world.up(udp(1), 20);
    world.limit.insert(udp(1), LEAST - 1);
    world.agent.handle_validated(udp(1), world.now());
    world.run(600_000, true);
    assert_eq!(world.on(), [Carrier::Lanes]);
    let asked = world.probes.iter().filter(|(_, on, _)| *on == udp(1)).count();
    assert!((12..=60).contains(&asked), "{asked} probes in ten minutes");
}

#[test]
fn a_carrier_that_falls_silent_is_doubled_after_400_ms_and_left_after_1200() {
    let mut world = World::with_both(20);
    world.alive.remove(&udp(1));
    let began = world.now_ms;
    world.run(3_000, true);
    assert_eq!(world.on(), [Carrier::Lanes]);
    let &[(doubled, both), (left, one)] = &world.choices[..] else { panic!("{:?}", world.choices) };
    assert_eq!(both.ways, Ways::Both { doubted: udp(1), spare: Carrier::Lanes });
    assert!(matches!(both.why, Why::Silent { limit_ms: SILENT_LEAST_MS, .. }));
    assert_eq!(both.fence.map(|fence| fence.to), Some(PathId::DUAL));
    // What was under way when it fell silent still came back.
    assert!((SILENT_LEAST_MS..=SILENT_LEAST_MS + 50).contains(&(doubled - began)), "{}", doubled - began);
    assert!(matches!(one.why, Why::Dead { .. }));
    assert!((DEAD_LEAST_MS..=DEAD_LEAST_MS + 50).contains(&(left - began)), "{}", left - began);
    assert!(world.probes.iter().any(|(at, on, _)| *on == udp(1) && (began + 200..doubled + 20).contains(at)));
}

#[test]
fn a_long_way_is_given_four_round_trips() {
    let mut world = World::with_both(200);
    world.alive.remove(&udp(1));
    let began = world.now_ms;
    world.run(3_000, true);
    let doubled = world.choices[0].0 - began;
    assert!((800..=1_100).contains(&doubled), "{doubled}");
}

#[test]
fn what_is_heard_again_in_time_is_kept_and_in_order() {
    let mut world = World::with_both(20);
    world.alive.remove(&udp(1));
    world.run(700, true);
    assert_eq!(world.on(), [udp(1), Carrier::Lanes]);
    world.agent.handle_received(udp(1), world.now());
    world.drain();
    assert_eq!(world.on(), [udp(1)]);
    let fence = world.choices.last().unwrap().1.fence.unwrap();
    assert_eq!((fence.number, fence.from), (world.choices[0].1.fence.unwrap().number + 1, PathId::DUAL));
    assert_eq!(world.whys().last(), Some(&Why::HeardAgain));
}

#[test]
fn packets_in_one_direction_alone_are_no_reason_for_doubt() {
    let mut world = World::with_both(20);
    world.data_back = false;
    world.run(60_000, true);
    assert!(world.choices.is_empty(), "{:?}", world.choices);
    let probes = world.probes.iter().filter(|(_, on, _)| *on == udp(1)).count();
    assert!((100..=400).contains(&probes), "{probes} in a minute");
}

#[test]
fn one_that_comes_and_goes_is_left_alone_for_longer_each_time() {
    let mut world = World::with_both(20);
    let mut away = Vec::new();
    for _ in 0..4 {
        world.alive.remove(&udp(1));
        world.run(2_000, true);
        assert_eq!(world.on(), [Carrier::Lanes]);
        world.alive.insert(udp(1), 20);
        let began = world.now_ms;
        while world.on() != [udp(1)] {
            world.run(100, true);
            assert!(world.now_ms - began < 90_000, "it is used again");
        }
        away.push(world.now_ms - began);
    }
    assert!(away.windows(2).all(|pair| pair[0] < pair[1] || pair[1] >= 30_000), "{away:?}");
    assert!(away[0] >= HOLD_DOWN_FIRST_MS / 2, "{away:?}");
}

#[test]
fn without_another_carrier_a_silent_one_is_kept_and_asked() {
    let mut world = World::new();
    world.up(Carrier::Lanes, 20);
    world.run(1_000, true);
    world.alive.clear();
    world.choices.clear();
    let before = world.probes.len();
    world.run(5_000, true);
    assert_eq!((world.on(), world.choices.len()), (vec![Carrier::Lanes], 0));
    assert!((10..=40).contains(&(world.probes.len() - before)));
}

#[test]
fn a_faster_address_is_taken_if_it_is_faster_by_enough() {
    for (rtt_ms, moves) in [(96, false), (84, false), (70, true)] {
        let mut world = World::with_both(100);
        world.up(udp(2), rtt_ms);
        world.agent.handle_validated(udp(2), world.now());
        world.run(20_000, true);
        assert_eq!(world.on() == [udp(2)], moves, "{rtt_ms} ms instead of 100");
        if moves {
            assert!(matches!(world.whys().last(), Some(Why::Faster { .. })), "{:?}", world.whys());
        }
    }
}

#[test]
fn a_lost_spare_or_doubted_carrier_leaves_the_other_one() {
    for (lost, kept) in [(udp(1), Carrier::Lanes), (Carrier::Lanes, udp(1))] {
        let mut world = World::with_both(20);
        world.alive.remove(&udp(1));
        world.run(600, true);
        assert_eq!(world.on().len(), 2);
        world.agent.handle_down(lost, world.now());
        world.drain();
        assert_eq!(world.on(), [kept], "{lost} lost");
        assert_eq!(world.whys().last(), Some(&Why::Gone));
    }
}

#[test]
fn more_addresses_than_path_ids_are_not_taken() {
    let mut world = World::new();
    let taken = (0..100).filter(|port| world.agent.handle_up(udp(*port), world.now())).count();
    assert_eq!(taken, super::super::UDP_PATHS_MAX);
    let paths: std::collections::BTreeSet<_> = world.agent.candidates.values().map(|known| known.path).collect();
    assert_eq!(paths.len(), taken);
    world.agent.handle_down(udp(0), world.now());
    assert!(world.agent.handle_up(udp(50), world.now()));
}

#[test]
fn nothing_grows_for_an_owner_who_does_not_drain() {
    let mut agent = PathAgent::new(FULL, LEAST);
    for step in 0..10_000_u64 {
        let now = Now { wall: UnixMillis(0), uptime_ms: step * 1_000 };
        agent.handle_up(Carrier::Lanes, now);
        agent.handle_sent(Carrier::Lanes, now);
        agent.handle_timeout(now);
        agent.handle_down(Carrier::Lanes, now);
    }
    assert!(agent.effects.len() <= EFFECTS_MAX && agent.decisions.len() <= DECISIONS_MAX);
    assert!(matches!(agent.effects.back(), Some(PathEffect::Choose(Choice { ways: Ways::None, .. }))));
}

#[test]
fn who_moved_shows_itself_on_every_carrier_at_once_even_when_nothing_is_sent() {
    let mut world = World::with_both(10);
    world.run(200_000, false);
    world.probes.clear();
    world.run(10_000, false);
    assert_eq!(world.probes, [], "it rests");
    let begun = world.now_ms;
    world.agent.handle_moved(world.now());
    world.run(100, false);
    let on: Vec<Carrier> =
        world.probes.iter().filter(|(at, ..)| *at <= begun + STEP_MS).map(|(_, on, _)| *on).collect();
    assert!(on.contains(&udp(1)) && on.contains(&Carrier::Lanes), "{on:?}");
}
