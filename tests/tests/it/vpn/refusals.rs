//! What a user is told when the private network cannot be: what, why and what next. A flag that cannot mean what it says
//! ends the program; a system that refuses costs the private network alone.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};

use shoal_tests::member::Member;
use shoal_tests::process::Shoald;
use shoal_tests::space::Space;

use super::{DEVICE, OPEN, SHOALD, is_possible, settled};

/// The documented exit code of a flag that cannot mean what it says.
const USAGE: i32 = 2;

/// The three lines: each begins as it has to, and they contain these words.
fn says(errors: &str, words: &[&str]) -> bool {
    let parts = ["error: ", "  why: ", "  try: "];
    parts.iter().all(|part| errors.lines().any(|line| line.starts_with(part) && line.len() > part.len() + 8))
        && words.iter().all(|word| errors.contains(word))
}

/// Starts `command` as a node whose private network the system refuses: it stores all the same.
fn runs_on(mut command: Command, room: &Path, more: &[&str], words: &[&str]) {
    let log = room.join("errors");
    command.stderr(std::fs::File::create(&log).unwrap());
    let begin = ["--network", "vpn", "--open", "--vpn", "--quota", "64MB", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let mut node = Shoald::start_with(command, &room.join("data"), &[&begin[..], more].concat()).unwrap();
    let errors = std::fs::read_to_string(&log).unwrap();
    assert!(says(&errors, words), "{errors}");
    assert!(node.vpn.is_null(), "{}", node.vpn);
    let took = node.terminate().unwrap();
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_flag_that_cannot_mean_what_it_says_is_refused_with_the_next_command() {
    if !is_possible("a_flag_that_cannot_mean_what_it_says_is_refused_with_the_next_command") {
        return;
    }
    let space = Space::new().unwrap();
    let room = tempfile::tempdir().unwrap();
    for (flag, value, next) in [
        ("--vpn-mtu", "1279", "--vpn-mtu 1280"),
        ("--vpn-mtu", "9001", "--vpn-mtu 1280"),
        ("--vpn-pool", "fish", "--vpn-pool 10.9.0.0/16"),
        ("--vpn-pool", "10.9.0.1/16", "--vpn-pool 10.9.0.0/16"),
        ("--vpn-pool", "10.9.0.0/31", "--vpn-pool 10.9.0.0/16"),
        ("--vpn-pool", "fd00::/8", "--vpn-pool 10.9.0.0/16"),
        ("--vpn-carrier", "pigeon", "--vpn-carrier auto, lanes or udp"),
        ("--vpn-name", "", "--vpn-name nas"),
        ("--vpn-name", "Nas", "--vpn-name nas"),
        ("--vpn-name", "nas.home", "--vpn-name nas"),
        ("--vpn-name", "wpad", "--vpn-name nas"),
        ("--use-exit", "fish", "--use-exit PEER"),
        ("--advertise-route", "fish", "--advertise-route 192.168.1.0/24"),
        ("--advertise-route", "100.64.3.0/24", "name a network of this machine"),
        ("--advertise-route", "0.0.0.0/0", "--exit-node"),
        ("--exit-bypass", "10.0.0.0/8", "--use-exit"),
        ("--socks", "1080", "--vpn-userspace"),
        ("--forward", "8080=nas:80", "--vpn-userspace"),
        ("--publish", "80=8080", "--vpn-userspace"),
        ("--tun-name", "", "--tun-name shoal0"),
        ("--tun-name", "sixteen-letters-", "--tun-name shoal0"),
        ("--tun-name", "a/b", "--tun-name shoal0"),
    ] {
        let mut command = space.command(SHOALD);
        command.args(["run", "--json", "--vpn", "--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir"]);
        let output = command.arg(room.path().join("data")).args([flag, value]).stdin(Stdio::null()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(USAGE), "{flag} {value}: {errors}");
        assert!(says(&errors, &[next]) && output.stdout.is_empty(), "{flag} {value}: {errors}");
    }
    // What the arguments' own grammar refuses has its words; the exit code is the same.
    for wrong in [["--vpn-mtu", "many"], ["--vpn-port", "70000"], ["--no-tun", "--tun-name=x"]] {
        let output = space.command(SHOALD).args(["run", "--vpn"]).args(wrong).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(USAGE), "{wrong:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: "), "{wrong:?}");
    }
}

#[test]
fn what_needs_an_interface_is_refused_in_userspace_with_the_next_command() {
    if !is_possible("what_needs_an_interface_is_refused_in_userspace_with_the_next_command") {
        return;
    }
    let space = Space::new().unwrap();
    let room = tempfile::tempdir().unwrap();
    for (flags, words) in [
        (&["--exit-node"][..], &["--exit-node needs an interface", "leave out --vpn-userspace"][..]),
        (&["--advertise-route", "192.168.9.0/24"], &["--advertise-route needs an interface"]),
        (&["--use-exit", "auto", "--kill-switch"], &["--use-exit needs an interface"]),
        (&["--kill-switch"], &["--kill-switch needs an interface"]),
        (&["--tun-name", "shoal0"], &["--tun-name needs an interface"]),
        (&["--no-dns"], &["leave out --no-dns"]),
        (&["--socks", "fish"], &["--socks 127.0.0.1:1080"]),
        (&["--socks", "0.0.0.0:1080"], &["--vpn-expose"]),
        (&["--forward", "8080"], &["--forward 8080=nas:80"]),
        (&["--publish", "80"], &["--publish 80=127.0.0.1:8080"]),
        (&["--publish", "80=1", "--publish", "80=2"], &["published twice"]),
    ] {
        let mut command = space.command(SHOALD);
        command.args(["run", "--json", "--vpn-userspace", "--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir"]);
        let output = command.arg(room.path().join("data")).args(flags).stdin(Stdio::null()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(USAGE), "{flags:?}: {errors}");
        assert!(says(&errors, words) && output.stdout.is_empty(), "{flags:?}: {errors}");
    }
    let taken = space.inside(|| Ok(std::net::TcpListener::bind("127.0.0.1:0")?)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let more = ["--vpn-userspace", "--socks", &address];
    runs_on(space.command(SHOALD), room.path(), &more, &[&address, "ss -ltnp", "--socks"]);
}

#[test]
fn a_node_whose_device_or_port_is_taken_stores_on() {
    if !is_possible("a_node_whose_device_or_port_is_taken_stores_on") {
        return;
    }
    let space = Space::new().unwrap();
    let room = tempfile::tempdir().unwrap();
    space.ip(&format!("link add {DEVICE} type bridge")).unwrap();
    let before = space.tables().unwrap();
    runs_on(space.command(SHOALD), room.path(), &["--tun-name", DEVICE], &[DEVICE, "ip link"]);
    assert_eq!(space.tables().unwrap(), before, "somebody else's device is as it was");
    let taken = space.inside(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let more = ["--tun-name", "other", "--vpn-port", &port];
    runs_on(space.command(SHOALD), room.path(), &more, &[&port, "ss -lunp"]);
    assert_eq!(space.tables().unwrap(), before, "the device went with the attempt");
}

/// A link of somebody else's that is up and changes nothing by itself.
pub(super) fn link(space: &Space, name: &str) {
    space.ip(&format!("link add {name} type veth peer name far-{name}")).unwrap();
    for end in [name, &format!("far-{name}")] {
        space.ip(&format!("link set {end} addrgenmode none")).unwrap();
        space.ip(&format!("link set {end} up")).unwrap();
    }
    settled(space);
}

#[test]
fn a_node_whose_pool_is_somebody_elses_stores_on_and_takes_another_pool() {
    if !is_possible("a_node_whose_pool_is_somebody_elses_stores_on_and_takes_another_pool") {
        return;
    }
    let space = Space::new().unwrap();
    let room = tempfile::tempdir().unwrap();
    link(&space, "other0");
    let tun = ["--tun-name", DEVICE];
    // An address of the machine, a route somebody made in a table of their own, and one that covers the pool.
    for (make, undo, pool) in [
        ("address add 100.100.7.1/24 dev other0", "address flush dev other0", "100.64.0.0/10"),
        ("route add 10.9.8.0/24 dev other0 table 77", "route flush table 77", "10.9.0.0/16"),
        ("route add 10.0.0.0/8 dev other0", "route del 10.0.0.0/8", "10.9.0.0/16"),
    ] {
        space.ip(make).unwrap();
        let before = space.tables().unwrap();
        let words = [&format!("the pool {pool} overlaps"), "interface other0", "--vpn-pool"];
        runs_on(space.command(SHOALD), room.path(), &[&tun[..], &["--vpn-pool", pool]].concat(), &words);
        assert_eq!(space.tables().unwrap(), before, "{make}: nothing was made");
        let free = Member::start(
            SHOALD,
            &space,
            &room.path().join("free"),
            &[&OPEN[..], &[DEVICE, "--vpn-pool", "172.30.0.0/16", "--listen", "/ip4/127.0.0.1/tcp/0"]].concat(),
        );
        drop(free.unwrap());
        space.ip(undo).unwrap();
    }
    // What leads to the internet, in one piece or in halves, is no network of somebody's.
    for prefix in ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"] {
        space.ip(&format!("route add {prefix} dev other0")).unwrap();
    }
    let begin = [&OPEN[..], &[DEVICE, "--listen", "/ip4/127.0.0.1/tcp/0"]].concat();
    let first = Member::start(SHOALD, &space, &room.path().join("first"), &begin).unwrap();
    // Another shoald of this machine, in the same network and in another one.
    for (network, words) in [("vpn", ["same private network", "overlaps"]), ("home", ["--vpn-pool", "100.64.0.0/10"])] {
        let more = ["--network", network, "--tun-name", "other"];
        let mut command = space.command(SHOALD);
        let log = room.path().join(network);
        command.stderr(std::fs::File::create(&log).unwrap());
        let pool = if network == "vpn" { "172.30.0.0/16" } else { "100.64.0.0/10" };
        let rest = ["--open", "--vpn", "--quota", "64MB", "--vpn-pool", pool, "--listen", "/ip4/127.0.0.1/tcp/0"];
        let data = room.path().join(format!("{network}-data"));
        let second = Shoald::start_with(command, &data, &[&more[..], &rest].concat()).unwrap();
        let errors = std::fs::read_to_string(&log).unwrap();
        assert!(second.vpn.is_null() && says(&errors, &words) && errors.contains(DEVICE), "{network}: {errors}");
    }
    drop(first);
}

#[test]
fn a_node_without_a_device_driver_or_with_a_mistyped_policy_stores_on() {
    if !is_possible("a_node_without_a_device_driver_or_with_a_mistyped_policy_stores_on") {
        return;
    }
    let space = Space::new().unwrap();
    let room = tempfile::tempdir().unwrap();
    let mut hidden = space.command("unshare");
    hidden.args(["--mount", "sh", "-c", "mount -t tmpfs -o ro none /dev/net && exec \"$0\" \"$@\"", SHOALD]);
    runs_on(hidden, room.path(), &["--tun-name", DEVICE], &["/dev/net/tun", "modprobe tun"]);
    let policy = room.path().join("policy.toml");
    std::fs::write(&policy, "version = 1\n[[prefixs]]\n").unwrap();
    let more = ["--tun-name", DEVICE, "--vpn-policy", policy.to_str().unwrap()];
    runs_on(space.command(SHOALD), room.path(), &more, &["line 2", "did you mean `prefixes`", "policy check"]);
    let more = ["--tun-name", DEVICE, "--vpn-policy", "/nowhere/policy.toml"];
    runs_on(space.command(SHOALD), room.path(), &more, &["/nowhere/policy.toml", "--vpn-policy"]);
}

#[test]
fn a_node_without_the_right_to_make_devices_stores_on() {
    if !is_possible("a_node_without_the_right_to_make_devices_stores_on") {
        return;
    }
    let space = Space::new().unwrap();
    let room = tempfile::tempdir().unwrap();
    let without = || {
        let mut command = space.command("setpriv");
        command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", SHOALD]);
        command
    };
    runs_on(without(), room.path(), &["--tun-name", DEVICE], &["CAP_NET_ADMIN", "AmbientCapabilities"]);
    // A relay has no device, and needs no such right.
    let arguments = ["--network", "vpn", "--open", "--vpn", "--no-tun", "--quota", "64MB"];
    let arguments = [&arguments[..], &["--listen", "/ip4/127.0.0.1/tcp/0"]].concat();
    let relay = Shoald::start_with(without(), &room.path().join("relay"), &arguments).unwrap();
    assert!(relay.vpn["ifname"].is_null() && relay.vpn["ipv6"].is_string(), "{}", relay.vpn);
}
