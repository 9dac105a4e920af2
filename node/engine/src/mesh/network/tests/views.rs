//! What the network says of itself is what it does: carriers, next hops, routes, probes.

use std::net::IpAddr;

use super::*;

fn seen(world: &World, from: usize, to: usize) -> PeerView {
    world.nodes[from].network.peer(id(to)).expect("known")
}

fn ping(world: &mut World, from: usize, to: usize) -> Result<Carrier, NoPing> {
    let mut sent = Err(NoPing::Unknown);
    let peer = PeerHash::of(&id(to));
    world.event(from, |network, env| sent = network.handle_ping(peer, 1 << 31, env));
    sent
}

#[test]
fn a_neighbour_is_seen_on_the_carrier_it_is_reached_by() {
    for (carriers, is_udp, frame) in [(Carriers::Lanes, false, 65_535), (Carriers::Auto, true, u32::from(FULL_FRAME))] {
        let mut world = World::new(2, carriers, &Members::Everybody);
        assert!(world.nodes[0].network.peers().is_empty() && world.nodes[0].network.peer(id(1)).is_none());
        assert_eq!(ping(&mut world, 0, 1), Err(NoPing::Unknown));
        world.connect(0, 1);
        world.run(2_000);
        let peer = seen(&world, 0, 1);
        assert_eq!(world.nodes[0].network.peers(), std::slice::from_ref(&peer));
        assert!(matches!(peer.standing, Standing::Neighbour(_)) && peer.has_session && peer.has_key);
        assert_eq!((peer.reach, peer.max_frame), (Reach::Direct, Some(frame)));
        let [(on, _)] = peer.rtt_ms[..] else { panic!("{:?}", peer.rtt_ms) };
        assert_eq!(matches!(on, Carrier::Udp(_)), is_udp);
        assert_eq!(ping(&mut world, 0, 1), Ok(on));
        let network = &world.nodes[0].network;
        assert_eq!(Some(peer.ipv6), Some(world.nodes[1].network.own_ipv6()));
        assert_eq!(peer.ipv4, world.nodes[1].network.own_ipv4());
        for address in [IpAddr::V6(peer.ipv6), IpAddr::V4(peer.ipv4.unwrap())] {
            assert_eq!(network.holder(address), Some(id(1)));
            assert_eq!(world.nodes[1].network.holder(address), None, "its own");
            let row = network.routes(world.now()).into_iter().find(|row| row.prefix == Prefix::host(address));
            let row = row.expect("a route");
            assert_eq!((row.to, row.hops, row.max_frame), (id(1), vec![id(1)], frame));
        }
        let used: Vec<_> = network
            .candidates(&PeerHash::of(&id(1)), world.now())
            .into_iter()
            .filter(|candidate| candidate.in_use)
            .map(|candidate| (candidate.carrier, candidate.state.to_string()))
            .collect();
        assert_eq!(used, [(on, "usable".to_owned())]);
        let last = network.why(&PeerHash::of(&id(1))).last().copied().expect("a decision");
        assert_eq!(last.after.to_string(), on.to_string());
        assert!(last.why.to_string().starts_with(if is_udp { "datagrams of 1400 B" } else { "the first carrier" }));
    }
}

#[test]
fn the_other_end_of_a_line_is_seen_over_the_middle() {
    let mut world = World::new(3, Carriers::Lanes, &Members::Everybody);
    world.connect(0, 1);
    world.connect(1, 2);
    world.run(5_000);
    let before = seen(&world, 0, 2);
    assert_eq!((before.standing, before.reach), (Standing::Distant, Reach::Routed(vec![id(1)])));
    assert!(!before.has_session);
    assert_eq!(ping(&mut world, 0, 2), Err(NoPing::NoSession));
    assert!(NoPing::NoSession.retryable());
    world.run(1_000);
    assert_eq!(ping(&mut world, 0, 2), Ok(Carrier::Routed), "the first one began a session");
    assert!(seen(&world, 0, 2).has_session);
    assert_eq!(world.nodes[1].network.peers().len(), 2);
    world.disconnect(1, 2);
    world.run(60_000);
    assert_eq!(seen(&world, 0, 2).reach, Reach::None, "nobody leads there any more");
}
