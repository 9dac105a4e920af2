//! Three nodes in a line, the outer two without a link to each other: one in the middle relays, with a device or without.

use std::time::Duration;

use shoal_tests::budget::say;
use shoal_tests::member::Member;
use shoal_tests::space::Space;
use shoal_tests::traffic::{echo, transfer};

use super::{DEVICE, OPEN, SHOALD, is_possible, reached};

/// The port in the middle, in a namespace of its own: who comes back is found where it was.
const MIDDLE: &str = "/ip4/0.0.0.0/tcp/4100";
/// How long a way over another member may take to be found.
const FOUND: Duration = Duration::from_secs(30);

fn the_outer_two_reach_each_other(middle_more: &[&str]) {
    let [left, middle, right] = [(); 3].map(|()| Space::new().unwrap());
    left.cable(("cable", "10.78.1.1/24"), &middle, ("left", "10.78.1.2/24")).unwrap();
    right.cable(("cable", "10.78.2.1/24"), &middle, ("right", "10.78.2.2/24")).unwrap();
    let room = tempfile::tempdir().unwrap();
    let middle_arguments = [&OPEN[..3], &["--listen", MIDDLE], middle_more].concat();
    let start_middle = || Member::start(SHOALD, &middle, &room.path().join("b"), &middle_arguments).unwrap();
    let mut b = start_middle();
    let outer = |space: &Space, name: &str, own: &str, next: &str| {
        let listen = format!("/ip4/{own}/tcp/0");
        let next = format!("/ip4/{next}/tcp/4100/p2p/{}", b.node.id);
        let arguments = [&OPEN[..], &[DEVICE, "--listen", &listen, "--bootstrap", &next]].concat();
        Member::start(SHOALD, space, &room.path().join(name), &arguments).unwrap()
    };
    let mut a = outer(&left, "a", "10.78.1.1", "10.78.1.2");
    let mut c = outer(&right, "c", "10.78.2.1", "10.78.2.2");
    let first = reached(&left, c.v4.into(), FOUND);
    reached(&right, a.v6.into(), FOUND);
    assert_eq!(b.device.is_some(), middle_more.contains(&"--tun-name"));
    if b.device.is_some() {
        reached(&left, b.v4.into(), FOUND);
    }
    let took = transfer(&left, &right, c.v4.into(), 16 << 20).unwrap();
    transfer(&right, &left, a.v6.into(), 16 << 20).unwrap();
    echo(&left, &right, c.v6.into(), &[0, 700, 1_232, 20_000]).unwrap();
    let rate = f64::from(16 << 20) * 8e-6 / took.as_secs_f64();

    b.node.kill().unwrap();
    assert!(!left.ping(c.v4.into(), 56).unwrap(), "there is no other way");
    b = start_middle();
    let again = reached(&left, c.v4.into(), Duration::from_secs(60));
    transfer(&left, &right, c.v4.into(), 1 << 20).unwrap();
    say(&format!("vpn line {middle_more:?}: found after {first:?}, {rate:.0} Mb/s, after a kill {again:?}"));
    for member in [&mut a, &mut b, &mut c] {
        say(&format!("vpn line: {}", member.counted().unwrap()));
    }
}

#[test]
fn the_outer_two_of_three_reach_each_other_over_the_third() {
    if is_possible("the_outer_two_of_three_reach_each_other_over_the_third") {
        the_outer_two_reach_each_other(&["--tun-name", DEVICE]);
    }
}

#[test]
fn a_node_without_a_device_relays() {
    if is_possible("a_node_without_a_device_relays") {
        the_outer_two_reach_each_other(&["--no-tun"]);
    }
}
