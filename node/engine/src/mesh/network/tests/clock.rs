//! A node whose clock was set back, with and without what its former run kept: its mesh key is believed all the same.

use super::*;

/// By how much it is set back, milliseconds: an hour.
const SET_BACK_MS: u64 = 3_600_000;

impl World {
    /// Node `at` starts again, with a clock that was set back and with this of its former run.
    fn restart_set_back(&mut self, at: usize, key_epoch: u64) {
        self.restart_behind(at, key_epoch, SET_BACK_MS);
    }

    /// The same, so far behind.
    fn restart_behind(&mut self, at: usize, key_epoch: u64, behind_ms: u64) {
        for other in 0..self.nodes.len() {
            if self.linked(at, other) {
                self.disconnect(at, other);
            }
        }
        self.set_back.insert(at, behind_ms);
        let setup = Setup { epoch: BootEpoch(77), key_epoch, ..self.nodes[at].network.setup.clone() };
        let (policy, now) = (Arc::clone(&self.nodes[at].network.policy), self.now_of(at));
        let random = &mut self.random;
        let network = Network::new(setup, policy, &mut Env { now, random: &mut |out| random.fill(out) });
        let node = &mut self.nodes[at];
        (node.network, node.halves, node.using, node.ways) =
            (network, BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        self.drain(at);
    }

    fn key_epoch(&self, at: usize) -> u64 {
        self.nodes[at].network.key.record().epoch
    }
}

fn two() -> World {
    let mut world = World::new(3, Carriers::Auto, &Members::Everybody);
    world.connect(0, 1);
    world.connect(1, 2);
    world.run(1_000);
    assert!(world.reach(0, 1, 200).is_some());
    world
}

#[test]
fn a_key_that_is_kept_is_believed_at_once_although_the_clock_was_set_back() {
    let mut world = two();
    let former = world.key_epoch(1);
    world.restart_set_back(1, former);
    assert_eq!(world.key_epoch(1), former + 1);
    world.connect(0, 1);
    assert!(world.reach(0, 1, 1_000).is_some() && world.reach(1, 0, 1_000).is_some());
}

#[test]
fn a_node_that_kept_nothing_hears_of_its_former_key_and_makes_one_above_it() {
    let mut world = two();
    let former = world.key_epoch(1);
    world.restart_set_back(1, 0);
    assert!(world.key_epoch(1) < former, "as the clock says");
    world.connect(0, 1);
    assert!(world.reach(0, 1, 5_000).is_some() && world.reach(1, 0, 1_000).is_some());
    assert_eq!(world.key_epoch(1), former + 1);
    // Who was not there learns it too.
    world.connect(1, 2);
    assert!(world.reach(2, 1, 5_000).is_some());
    world.run(60_000);
    assert_eq!(world.key_epoch(1), former + 1, "once");
}

#[test]
fn the_epoch_is_kept_before_the_key_is_signed() {
    let now = Now { wall: UnixMillis(WALL), uptime_ms: 0 };
    let world = World::new(1, Carriers::Lanes, &Members::Everybody);
    let setup = Setup { key_epoch: WALL + 9, ..world.nodes[0].network.setup.clone() };
    let policy = Arc::clone(&world.nodes[0].network.policy);
    let mut random = Random(3);
    let mut network = Network::new(setup, policy, &mut Env { now, random: &mut |out| random.fill(out) });
    let effects: Vec<NetworkEffect> = std::iter::from_fn(|| network.poll()).collect();
    let of_key = |effect: &&NetworkEffect| {
        matches!(effect, NetworkEffect::SaveKeyEpoch(_) | NetworkEffect::Sign(Unsigned::Key(_)))
    };
    let mut of_key = effects.iter().filter(of_key);
    assert!(matches!(of_key.next(), Some(NetworkEffect::SaveKeyEpoch(epoch)) if *epoch == WALL + 10));
    assert!(matches!(of_key.next(), Some(NetworkEffect::Sign(Unsigned::Key(key))) if key.epoch == WALL + 10));
    assert!(of_key.next().is_none());
}

#[test]
fn records_that_ended_or_are_of_a_time_to_come_are_named_and_count_once_the_clock_is_set_right() {
    let mut world = World::new(2, Carriers::Auto, &Members::Everybody);
    let day = 24 * 3_600_000;
    let untimely =
        |world: &World, at: usize, of: usize| world.nodes[at].network.untimely(&id(of), world.now_of(at).wall);
    assert_eq!(untimely(&world, 0, 1), None);
    // It is switched on and has no battery for its clock.
    world.restart_behind(1, 0, 9 * day);
    world.connect(0, 1);
    world.run(2_000);
    let said = untimely(&world, 0, 1);
    assert!(matches!(said, Some((Word::Key, Untimely::Over(at))) if at.0 < WALL - day), "{said:?}");
    let said = untimely(&world, 1, 0);
    assert!(matches!(said, Some((Word::Key, Untimely::Early(at))) if at.0 > WALL - day), "{said:?}");
    assert_eq!(world.reach(0, 1, 2_000), None);
    world.set_back.remove(&1);
    world.run(3_000);
    assert!(world.reach(0, 1, 3_000).is_some() && world.reach(1, 0, 1_000).is_some());
    assert_eq!((untimely(&world, 0, 1), untimely(&world, 1, 0)), (None, None));
    for (at, of) in [(0, 1), (1, 0)] {
        let seen = world.nodes[at].network.peer(id(of)).unwrap();
        assert!(seen.ipv4.is_some() && seen.has_session, "{seen:?}");
    }
}

#[test]
fn a_member_that_is_gone_for_longer_than_its_words_count_is_said_to_be() {
    let mut world = two();
    world.disconnect(0, 1);
    let hour = 3_600_000;
    let ahead = |world: &mut World, hours: u64| {
        world.uptime_ms += hours * hour;
        world.run(2_000);
        world.nodes[0].network.untimely(&id(1), world.now().wall)
    };
    assert_eq!(ahead(&mut world, 47), None);
    let claim = ahead(&mut world, 2);
    assert!(matches!(claim, Some((Word::Claim, Untimely::Over(at))) if at.0 < world.now().wall.0), "{claim:?}");
    let key = ahead(&mut world, 24 * 5);
    assert!(matches!(key, Some((Word::Key, Untimely::Over(at))) if at.0 < world.now().wall.0), "{key:?}");
    world.connect(0, 1);
    assert!(world.reach(0, 1, 5_000).is_some());
    world.run(2_000);
    assert_eq!(world.nodes[0].network.untimely(&id(1), world.now().wall), None);
}
