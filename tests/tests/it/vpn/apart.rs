//! Who does not belong together: two networks on one link, and somebody whom no member knows.

use std::time::Duration;

use shoal_tests::member::Member;
use shoal_tests::space::Space;
use tempfile::TempDir;

use super::{DEVICE, SHOALD, is_possible, reached};

/// Machines on one switch. The switch is a machine too.
struct Switch {
    machines: Vec<Space>,
    _hub: Space,
}

impl Switch {
    fn new(count: usize) -> Self {
        let hub = Space::new().unwrap();
        hub.ip("link add hub type bridge").unwrap();
        hub.ip("link set hub up").unwrap();
        let machines = (0..count).map(|number| {
            let machine = Space::new().unwrap();
            let (own, port) = (address(number), format!("port{number}"));
            machine.cable(("cable", &format!("{own}/24")), &hub, (&port, "0.0.0.0/32")).unwrap();
            hub.ip(&format!("link set {port} master hub")).unwrap();
            machine
        });
        Self { machines: machines.collect(), _hub: hub }
    }
}

fn address(number: usize) -> String {
    format!("10.79.0.{}", number + 1)
}

/// A node on the machine of this number, which begins with these others.
fn member(switch: &Switch, room: &TempDir, number: usize, first: &[&Member], more: &[&str]) -> Member {
    let listen = format!("/ip4/{}/tcp/0", address(number));
    let begin = first.iter().flat_map(|member| ["--bootstrap", member.node.address.as_str()]);
    let begin: Vec<&str> = begin.collect();
    let arguments = [&["--tun-name", DEVICE, "--listen", &listen][..], &begin, more].concat();
    Member::start(SHOALD, &switch.machines[number], &room.path().join(number.to_string()), &arguments).unwrap()
}

/// Neither address of `to` answers within a second, a thousand times what an answer takes.
fn is_silent(from: &Space, to: &Member) -> bool {
    to.addresses().into_iter().all(|address| !from.ping(address, 8).unwrap())
}

#[test]
fn two_networks_on_one_link_do_not_see_each_other() {
    if !is_possible("two_networks_on_one_link_do_not_see_each_other") {
        return;
    }
    let switch = Switch::new(4);
    let room = tempfile::tempdir().unwrap();
    let (one, two) = (["--open", "--network", "one"], ["--open", "--network", "two"]);
    let a = member(&switch, &room, 0, &[], &one);
    let b = member(&switch, &room, 1, &[&a], &two);
    let c = member(&switch, &room, 2, &[&a, &b], &one);
    let d = member(&switch, &room, 3, &[&a, &b, &c], &two);
    let [at_a, at_b, at_c, at_d] = &switch.machines[..] else { panic!("four machines") };
    for (from, to) in [(at_a, &c), (at_c, &a), (at_b, &d), (at_d, &b)] {
        for address in to.addresses() {
            reached(from, address, Duration::from_secs(20));
        }
    }
    for (from, to) in [(at_a, &b), (at_b, &a), (at_c, &d), (at_d, &a)] {
        assert!(is_silent(from, to));
    }
}

#[test]
fn nothing_of_somebody_who_is_no_member_comes_through() {
    if !is_possible("nothing_of_somebody_who_is_no_member_comes_through") {
        return;
    }
    let switch = Switch::new(3);
    let room = tempfile::tempdir().unwrap();
    let ids: Vec<String> = (0..3).map(|number| id(&switch, &room, number)).collect();
    let allow = |number: usize| ["--network", "vpn", "--allow-peer", &ids[number]];
    let a = member(&switch, &room, 0, &[], &allow(1));
    let b = member(&switch, &room, 1, &[&a], &allow(0));
    // The stranger takes both for members, and is one for neither.
    let more = [&allow(0)[..], &["--allow-peer", &ids[1]]].concat();
    let stranger = member(&switch, &room, 2, &[&a, &b], &more);
    let [at_a, at_b, at_stranger] = &switch.machines[..] else { panic!("three machines") };
    reached(at_a, b.v4.into(), Duration::from_secs(20));
    reached(at_b, a.v6.into(), Duration::from_secs(20));
    for member in [&a, &b] {
        assert!(is_silent(at_stranger, member));
    }
    for machine in [at_a, at_b] {
        assert!(is_silent(machine, &stranger));
    }
    assert!(at_a.ping(b.v4.into(), 8).unwrap(), "members still reach each other");
}

/// The id that the node of this number will have: it is made here.
fn id(switch: &Switch, room: &TempDir, number: usize) -> String {
    let said = ["init", "id"].map(|word| {
        let mut command = switch.machines[number].command(SHOALD);
        let output = command.args([word, "--data-dir"]).arg(room.path().join(number.to_string())).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    });
    said[1].trim().to_owned()
}
