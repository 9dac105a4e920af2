//! Names across a network: everybody comes to know them, and to the same holder.

use super::*;
use shoal_protocol::mesh::name::HostLabel;

fn label(text: &str) -> HostLabel {
    text.parse().unwrap()
}

fn call(world: &mut World, at: usize, text: Option<&str>) {
    world.event(at, |network, env| network.handle_name(text.map(label), None, env));
}

/// Who answers to a label, as `at` sees it.
fn holder(world: &World, at: usize, text: &str) -> Option<NodeId> {
    world.nodes[at].network.zone(Some("home"), 1).host(text).map(|member| member.node)
}

#[test]
fn a_name_is_known_to_everybody_and_one_label_has_one_holder() {
    let mut world = World::new(3, Carriers::Lanes, &Members::Everybody);
    // In a line: the outer two hear each other's words from the middle.
    world.connect(0, 1);
    world.connect(1, 2);
    call(&mut world, 0, Some("nas"));
    world.run(5_000);
    for at in 0..3 {
        assert_eq!(holder(&world, at, "nas"), Some(id(0)), "as {at} sees it");
        let network = &world.nodes[at].network;
        assert_eq!(network.name_of(&id(0)), Some(&label("nas")));
        let zone = network.zone(None, 1);
        assert_eq!(zone.members().len(), 3, "as {at} sees it");
        for of in 0..3 {
            let member = zone.host(&id(of).to_string().to_ascii_lowercase()).unwrap();
            let own = &world.nodes[of].network;
            assert_eq!((member.v4, member.v6), (own.own_ipv4(), own.own_ipv6()), "{of} as {at} sees it");
        }
    }
    // Both were issued at once: the smaller hash has it, and the other is told who does.
    call(&mut world, 2, Some("nas"));
    world.run(5_000);
    let first = if PeerHash::of(&id(0)) < PeerHash::of(&id(2)) { id(0) } else { id(2) };
    for at in 0..3 {
        assert_eq!(holder(&world, at, "nas"), Some(first), "as {at} sees it");
    }
    for at in [0, 2] {
        assert_eq!(world.nodes[at].network.own_name(), Some((&label("nas"), first)));
    }
    // It gives it up, and the other has it at once.
    let (gone, other) = if first == id(0) { (0, id(2)) } else { (2, id(0)) };
    call(&mut world, gone, None);
    world.run(5_000);
    for at in 0..3 {
        assert_eq!(holder(&world, at, "nas"), Some(other), "as {at} sees it");
    }
    assert_eq!(world.nodes[gone].network.own_name(), None);
}

#[test]
fn a_name_of_somebody_who_is_no_member_is_not_taken() {
    let members = Members::Listed([id(0), id(1)].into());
    let mut world = World::new(3, Carriers::Lanes, &members);
    world.connect(0, 1);
    world.connect(1, 2);
    call(&mut world, 2, Some("nas"));
    world.run(5_000);
    assert_eq!((holder(&world, 0, "nas"), holder(&world, 1, "nas")), (None, None));
    assert_eq!(world.nodes[1].network.zone(None, 1).members().len(), 2);
}
