//! A node whose clock was set back, with and without what its former run kept: its mesh key is believed all the same.

use super::*;

/// By how much it is set back, milliseconds: an hour.
const SET_BACK_MS: u64 = 3_600_000;

impl World {
    /// Node `at` starts again, with a clock that was set back and with this of its former run.
    fn restart_set_back(&mut self, at: usize, key_epoch: u64) {
        for other in 0..self.nodes.len() {
            if self.linked(at, other) {
                self.disconnect(at, other);
            }
        }
        self.set_back.insert(at, SET_BACK_MS);
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
