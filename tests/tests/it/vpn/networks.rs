//! One machine in two private networks, with real programs between real kernels: it reaches both, they do not reach each
//! other, and neither's end, kill switch or firewall is the other's.
//!
//! ```text
//! public (198.51.100.7) --10.82.0.0/24-- b --10.81.1.0/24-- a --10.81.2.0/24-- c
//!                                        red               both             blue
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, RecordType};
use shoal_protocol::NetworkId;
use shoal_protocol::mesh::address::network_prefix;
use shoal_tests::asked::vpn;
use shoal_tests::member::Member;
use shoal_tests::process::{Shoal, Shoald};
use shoal_tests::space::Space;
use tempfile::TempDir;

use super::names::{Over, ask};
use super::{DEVICE, SHOAL, SHOALD, is_possible, reached, until};

const WAIT: Duration = Duration::from_secs(40);
/// Behind b, and nowhere else.
const PUBLIC: &str = "198.51.100.7";
/// The pool of blue; red has the usual one.
const BLUE_POOL: &str = "10.9.0.0/16";
const BEFORE: &str = "# by hand\nnameserver 10.81.2.2\noptions timeout:1\n";
/// A switch that both networks may need.
const FORWARDING: &str = "net.ipv4.conf.all.forwarding";

/// The file of the machine in the middle; more keys for the private part of each network.
fn file(room: &TempDir, red: &str, blue: &str) -> PathBuf {
    let path = room.path().join("a.toml");
    let text = format!(
        "network = \"red\"\nopen = true\nlisten = [\"/ip4/10.81.1.1/tcp/4100\"]\n[vpn]\ntun-name = \"red0\"\n{red}\n\
         [[networks]]\nname = \"blue\"\nopen = true\nlisten = [\"/ip4/10.81.2.1/tcp/4200\"]\n\
         [networks.vpn]\ntun-name = \"blue0\"\npool = \"{BLUE_POOL}\"\n{blue}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// The machines of the picture; nodes end before them.
struct Land {
    a: Member,
    b: Member,
    c: Member,
    middle: Space,
    red: Space,
    blue: Space,
    public: Space,
    room: TempDir,
}

/// The addresses of the machine in the middle in blue.
fn in_blue(a: &Member) -> (Ipv4Addr, Ipv6Addr) {
    let facts = &a.node.networks[0]["vpn"];
    let text = |name: &str| facts[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", a.node.networks));
    (text("ipv4").parse().unwrap(), text("ipv6").parse().unwrap())
}

impl Land {
    /// With these keys more in the private parts of the middle one's networks, which `red` may make of b's id, and these
    /// arguments more of b.
    fn new(red_keys: impl FnOnce(&str) -> String, blue_keys: &str, b_more: &[&str]) -> Self {
        let [middle, red, blue, public] = [(); 4].map(|()| Space::new().unwrap());
        middle.cable(("to-b", "10.81.1.1/24"), &red, ("cable", "10.81.1.2/24")).unwrap();
        middle.cable(("to-c", "10.81.2.1/24"), &blue, ("cable", "10.81.2.2/24")).unwrap();
        red.cable(("out", "10.82.0.1/24"), &public, ("in", "10.82.0.2/24")).unwrap();
        public.ip(&format!("address add {PUBLIC}/32 dev lo")).unwrap();
        red.ip("route add default via 10.82.0.2").unwrap();
        middle.resolver().write(BEFORE).unwrap();
        let room = tempfile::tempdir().unwrap();
        let own = ["--network", "red", "--open", "--tun-name", DEVICE, "--listen", "/ip4/10.81.1.2/tcp/4100"];
        let begin = ["--bootstrap", "/ip4/10.81.1.1/tcp/4100"];
        let b = Member::start(SHOALD, &red, &room.path().join("b"), &[&own[..], &begin, b_more].concat()).unwrap();
        let file = file(&room, &red_keys(&b.node.id), blue_keys);
        let a = Self::middle(&middle, &room, &file);
        let own = ["--network", "blue", "--open", "--tun-name", DEVICE, "--listen", "/ip4/10.81.2.2/tcp/4200"];
        let begin = ["--bootstrap", "/ip4/10.81.2.1/tcp/4200", "--vpn-pool", BLUE_POOL];
        let c = Member::start(SHOALD, &blue, &room.path().join("c"), &[&own[..], &begin].concat()).unwrap();
        let land = Self { a, b, c, middle, red, blue, public, room };
        land.all_reached();
        land
    }

    fn middle(space: &Space, room: &TempDir, file: &std::path::Path) -> Member {
        let more = ["--config", file.to_str().unwrap()];
        Member::start(SHOALD, space, &room.path().join("a"), &more).unwrap()
    }

    /// The middle one reaches both others by both families, and they it.
    fn all_reached(&self) {
        let (v4, v6) = in_blue(&self.a);
        for to in self.b.addresses().into_iter().chain(self.c.addresses()) {
            reached(&self.middle, to, WAIT);
        }
        for to in self.a.addresses() {
            reached(&self.red, to, WAIT);
        }
        for to in [IpAddr::V4(v4), IpAddr::V6(v6)] {
            reached(&self.blue, to, WAIT);
        }
    }

    fn asked(&self, node: &str, words: &[&str]) -> Output {
        let data = self.room.path().join(node);
        let shoal = Shoal::new(SHOAL, &data.join("home"));
        shoal.run(&[&["vpn", "--node", data.to_str().unwrap()], words].concat()).unwrap()
    }

    fn done(&self, node: &str, words: &[&str]) -> String {
        let output = self.asked(node, words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// All that was dropped in a network of a node.
    fn dropped(&self, node: &str, network: &str) -> u64 {
        let stats = vpn(SHOAL, &self.room.path().join(node), &["--network", network, "stats"]).unwrap();
        stats["dropped"].as_object().unwrap().values().filter_map(serde_json::Value::as_u64).sum()
    }

    /// What a program of the middle machine finds under a name.
    fn found(&self, name: &str) -> Option<String> {
        let output = self.middle.command("getent").args(["ahostsv4", name]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.split_whitespace().next().map(str::to_owned)
    }

    fn forwards(&self) -> String {
        let output = self.middle.command("sysctl").args(["-n", FORWARDING]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

/// What a packet counter named `seen` has in a table of this name.
fn count(space: &Space, table: &str) -> u64 {
    let text = space.nft(&format!("list counter inet {table} seen")).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "packets").unwrap();
    words[at + 1].parse().unwrap()
}

/// Counts what comes in by the device from these addresses.
fn count_from(space: &Space, sources: &str) {
    let rules = format!(
        "table inet strangers {{\n counter seen {{\n }}\n chain come {{\n type filter hook prerouting priority -400\n \
         iifname \"{DEVICE}\" ip saddr {{ {sources} }} counter name seen\n }}\n}}\n"
    );
    space.nft(&rules).unwrap();
}

#[test]
fn a_machine_in_two_networks_reaches_both_and_neither_reaches_the_other() {
    if !is_possible("a_machine_in_two_networks_reaches_both_and_neither_reaches_the_other") {
        return;
    }
    let land = Land::new(|_| String::new(), "", &[]);
    count_from(&land.blue, &format!("10.81.1.2, {}", land.b.v4));
    count_from(&land.red, &format!("10.81.2.2, {}", land.c.v4));
    let silent = |why: &str| {
        for (from, to) in [(&land.red, &land.c), (&land.blue, &land.b)] {
            for address in to.addresses() {
                assert!(!from.ping(address, 56).unwrap(), "{address} answers {why}");
            }
        }
    };
    silent("without a route");

    // Into the own network, as if it led there: this end refuses, and says so.
    let (red, blue) = ["red", "blue"].map(|name| network_prefix(&NetworkId::derive(None, name).unwrap())).into();
    land.red.ip(&format!("route add {BLUE_POOL} dev {DEVICE}")).unwrap();
    land.red.ip(&format!("-6 route add {blue} dev {DEVICE}")).unwrap();
    land.blue.ip(&format!("route add 100.64.0.0/10 dev {DEVICE}")).unwrap();
    land.blue.ip(&format!("-6 route add {red} dev {DEVICE}")).unwrap();
    let before = [("b", "red"), ("c", "blue")].map(|(node, network)| land.dropped(node, network));
    silent("through the own network");
    for ((node, network), before) in [("b", "red"), ("c", "blue")].into_iter().zip(before) {
        let after = land.dropped(node, network);
        assert!(after >= before + 2, "{node} dropped {before} before and {after} after");
    }

    // Through the middle machine, which forwards: into its device, and no further.
    let output = land.middle.command("sysctl").args(["-w", &format!("{FORWARDING}=1")]).output().unwrap();
    assert!(output.status.success());
    land.red.ip(&format!("route replace {BLUE_POOL} via 10.81.1.1")).unwrap();
    land.blue.ip("route replace 100.64.0.0/10 via 10.81.2.1").unwrap();
    let before = ["red", "blue"].map(|network| land.dropped("a", network));
    silent("through a machine that forwards");
    for (network, before) in ["red", "blue"].into_iter().zip(before) {
        let after = land.dropped("a", network);
        assert!(after > before, "a dropped {before} before and {after} after in {network}");
    }
    assert_eq!((count(&land.blue, "strangers"), count(&land.red, "strangers")), (0, 0));
    land.all_reached();
}

#[test]
fn names_of_both_networks_are_answered_where_both_are_and_nowhere_else() {
    if !is_possible("names_of_both_networks_are_answered_where_both_are_and_nowhere_else") {
        return;
    }
    let land = Land::new(|_| String::new(), "", &[]);
    let name = |member: &Member, network: &str| format!("{}.{network}.shoal.internal", member.node.id);
    let names = [(name(&land.b, "red"), land.b.v4), (name(&land.c, "blue"), land.c.v4)];
    for (name, address) in &names {
        let told = || land.found(name) == Some(address.to_string());
        until(&format!("{name} is found"), WAIT, told);
        // Each of the two servers answers for both.
        for server in [IpAddr::V6(land.a.v6), IpAddr::V6(in_blue(&land.a).1)] {
            let answer = ask(&land.middle, server, Over::Udp, &format!("{name}."), RecordType::A).unwrap().unwrap();
            assert_eq!(answer.answers[0].data, RData::A(A(*address)), "{name} by {server}");
        }
    }
    // Who is in one network knows nothing of the other, and is told nothing by the machine that is in both.
    let (_, blue_server) = in_blue(&land.a);
    for (space, own, servers, name) in [
        (&land.red, land.b.v6, IpAddr::V6(land.a.v6), &names[1].0),
        (&land.blue, land.c.v6, IpAddr::V6(blue_server), &names[0].0),
    ] {
        let name = format!("{name}.");
        let code = |server| {
            let answer = ask(space, server, Over::Udp, &name, RecordType::A).unwrap().unwrap();
            assert!(answer.answers.is_empty(), "{answer}");
            answer.metadata.response_code
        };
        assert_eq!(code(IpAddr::V6(own)), ResponseCode::NXDomain, "{name} by its own server");
        assert_eq!(code(servers), ResponseCode::Refused, "{name} by the machine that is in both");
    }

    // The server that programs ask goes with its network: the other takes its place.
    let file = || land.middle.resolver().read().unwrap();
    assert!(file().contains(&format!("nameserver {}", land.a.v6)), "{}", file());
    land.done("a", &["down"]);
    assert!(file().contains(&format!("nameserver {blue_server}")), "{}", file());
    assert_eq!(land.found(&names[1].0), Some(names[1].1.to_string()));
    land.done("a", &["--network", "blue", "down"]);
    assert_eq!(file(), BEFORE);
    land.done("a", &["--network", "blue", "up"]);
    assert!(file().contains(&format!("nameserver {blue_server}")), "{}", file());
}

#[test]
fn one_network_goes_and_comes_back_while_the_other_stays() {
    if !is_possible("one_network_goes_and_comes_back_while_the_other_stays") {
        return;
    }
    let land = Land::new(|_| String::new(), "", &[]);
    let status = vpn(SHOAL, &land.room.path().join("a"), &["status"]).unwrap();
    assert_eq!(status["interface"], "red0");
    assert_eq!((&status["networks"][0]["name"], &status["networks"][0]["state"]), (&"blue".into(), &"on".into()));
    assert_eq!(status["networks"][0]["interface"], "blue0");
    for (network, device, gone, stays, left) in
        [("blue", "blue0", &land.c, &land.b, &land.red), ("red", "red0", &land.b, &land.c, &land.blue)]
    {
        land.done("a", &["--network", network, "down"]);
        let tables = land.middle.tables().unwrap();
        assert!(!tables.contains(device), "{tables}");
        assert!(!land.middle.ping(gone.v4.into(), 56).unwrap(), "{network} is off");
        let refused = land.asked("a", &["--network", network, "peers"]);
        assert_eq!(refused.status.code(), Some(10), "{}", String::from_utf8_lossy(&refused.stderr));
        assert!(land.middle.ping(stays.v4.into(), 56).unwrap() && land.middle.ping(stays.v6.into(), 56).unwrap());
        let back = if network == "blue" { IpAddr::V4(land.a.v4) } else { IpAddr::V4(in_blue(&land.a).0) };
        assert!(left.ping(back, 56).unwrap());
        let other = if network == "blue" { "red" } else { "blue" };
        let status = land.done("a", &["--network", other, "status"]);
        assert!(status.contains(&format!("{network}  down")), "{status}");
        land.done("a", &["--network", network, "up"]);
        land.all_reached();
    }
    let peers = vpn(SHOAL, &land.room.path().join("a"), &["--network", "blue", "peers"]).unwrap();
    assert_eq!(peers["peers"][0]["node"], land.c.node.id.as_str());
    land.done("a", &["--network", "blue", "ping", &land.c.node.id]);
    let unknown = land.asked("a", &["--network", "green", "status"]);
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(unknown.status.code() == Some(10) && said.contains("it has red, blue"), "{said}");
}

#[test]
fn roles_of_two_networks_share_switches_and_nothing_is_left_of_either() {
    if !is_possible("roles_of_two_networks_share_switches_and_nothing_is_left_of_either") {
        return;
    }
    let roles = "advertise-route = [\"192.168.77.0/24\"]";
    let mut land = Land::new(|_| "exit-node = true".to_owned(), roles, &[]);
    let tables = |land: &Land| {
        let text = land.middle.nft("list tables").unwrap();
        ["red", "blue"]
            .map(|name| text.contains(&format!("shoal_exit_{}", NetworkId::derive(None, name).unwrap().tag())))
    };
    assert_eq!((tables(&land), land.forwards().as_str()), ([true, true], "1"));
    land.done("a", &["--network", "blue", "down"]);
    assert_eq!((tables(&land), land.forwards().as_str()), ([true, false], "1"), "red still needs it");
    land.done("a", &["--network", "blue", "up"]);
    land.done("a", &["--network", "red", "down"]);
    assert_eq!((tables(&land), land.forwards().as_str()), ([false, true], "1"), "blue still needs it");
    land.done("a", &["--network", "blue", "down"]);
    assert_eq!((tables(&land), land.forwards().as_str()), ([false, false], "0"));
    let clean = land.middle.tables().unwrap();
    for network in ["red", "blue"] {
        land.done("a", &["--network", network, "up"]);
    }
    assert_eq!((tables(&land), land.forwards().as_str()), ([true, true], "1"));

    let nothing = |land: &Land, when: &str| {
        assert_eq!(land.middle.tables().unwrap(), clean, "{when}");
        assert_eq!(land.middle.nft("list ruleset").unwrap(), "", "{when}");
        assert_eq!(
            (land.forwards().as_str(), land.middle.resolver().read().unwrap().as_str()),
            ("0", BEFORE),
            "{when}"
        );
        assert!(!land.room.path().join("a/vpn.made").exists(), "{when}");
    };
    land.a.node.terminate().unwrap();
    nothing(&land, "after SIGTERM");
    land.a = Land::middle(&land.middle, &land.room, &land.room.path().join("a.toml"));
    land.all_reached();
    land.a.node.kill().unwrap();
    assert_eq!((tables(&land), land.forwards().as_str()), ([true, true], "1"), "after SIGKILL");
    let mut cleanup = land.middle.command(SHOALD);
    let output = cleanup.args(["vpn", "cleanup", "--data-dir"]).arg(land.room.path().join("a")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    nothing(&land, "after SIGKILL and cleanup");
}

/// What of the middle machine's own reaches the cable to c, and is neither for c itself nor for b, which the node tries under
/// all its addresses: that carries the tunnel.
const LEAKS: &str = r#"
table inet leaks {
    counter seen {
    }
    chain come {
        type filter hook prerouting priority -400; policy accept;
        iifname "cable" ip daddr != { 10.81.2.2, 10.82.0.1 } counter name seen
    }
}
"#;

#[test]
fn a_kill_switch_of_one_network_leaves_the_other_alone_and_leaks_nothing() {
    if !is_possible("a_kill_switch_of_one_network_leaves_the_other_alone_and_leaks_nothing") {
        return;
    }
    let keys = |id: &str| format!("use-exit = \"{id}\"\nkill-switch = true");
    let mut land = Land::new(keys, "", &["--exit-node"]);
    // The ordinary way out: what leaves by it is seen there.
    land.middle.ip("route add default via 10.81.2.2").unwrap();
    land.blue.nft(LEAKS).unwrap();
    let public: IpAddr = PUBLIC.parse().unwrap();
    reached(&land.middle, public, WAIT);
    land.all_reached();
    // One default route: the other network gets none.
    let refused = land.asked("a", &["--network", "blue", "exit", "use", "auto"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(18) && said.contains("shoal vpn --network red exit use off"), "{said}");
    assert_eq!(count(&land.blue, "leaks"), 0);

    // The other network goes and comes back behind the switch, which stays.
    land.done("a", &["--network", "blue", "down"]);
    reached(&land.middle, public, WAIT);
    land.done("a", &["--network", "blue", "up"]);
    reached(&land.middle, land.c.v4.into(), WAIT);
    reached(&land.blue, in_blue(&land.a).0.into(), WAIT);

    // The exit dies: nothing leaves by the ordinary way, and the other network does not notice.
    land.b.node.kill().unwrap();
    for _ in 0..3 {
        assert!(!land.middle.ping(public, 56).unwrap(), "there is another way out");
        reached(&land.middle, land.c.v4.into(), WAIT);
    }
    assert_eq!(count(&land.blue, "leaks"), 0, "while the exit was dead");
    // The node of both dies: the switch stands. It starts with the exit dead, and the other network is there.
    land.a.node.kill().unwrap();
    assert!(!land.middle.ping(public, 56).unwrap());
    assert_eq!(count(&land.blue, "leaks"), 0, "while the node was dead");
    land.a = Land::middle(&land.middle, &land.room, &land.room.path().join("a.toml"));
    reached(&land.middle, land.c.v4.into(), WAIT);
    assert!(!land.middle.ping(public, 56).unwrap());
    assert_eq!(count(&land.blue, "leaks"), 0, "while the node started");
    // Without the switch the ordinary way is free, and the counter counts.
    land.a.node.terminate().unwrap();
    assert_eq!(land.middle.nft("list ruleset").unwrap(), "");
    let _ = land.middle.ping(public, 56).unwrap();
    assert!(count(&land.blue, "leaks") > 0);
    drop(land.public);
}

/// What `shoald run` says of a file it refuses.
fn refused(space: &Space, room: &TempDir, text: &str) -> (Option<i32>, String) {
    let path = room.path().join("refused.toml");
    std::fs::write(&path, text).unwrap();
    let mut command = space.command(SHOALD);
    command.args(["run", "--json", "--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir"]).arg(room.path().join("none"));
    let output = command.arg("--config").arg(&path).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn networks_that_cannot_be_on_one_machine_are_refused_and_one_whose_pool_is_taken_costs_itself_alone() {
    if !is_possible("networks_that_cannot_be_on_one_machine_are_refused") {
        return;
    }
    let space = Space::new().unwrap();
    let room = tempfile::tempdir().unwrap();
    let blue = "[[networks]]\nname = \"blue\"\n";
    for (text, next) in [
        (format!("[vpn]\n{blue}"), "another `pool`"),
        (blue.repeat(2), "leave one of the two out"),
        (format!("network = \"blue\"\n{blue}"), "leave one of the two out"),
        (format!("[vpn]\ntun-name = \"x\"\n{blue}vpn = {{ tun-name = \"x\" }}\n"), "another `tun-name`"),
        (
            format!("[vpn]\nuse-exit = \"auto\"\n{blue}vpn = {{ pool = \"10.9.0.0/16\", use-exit = \"auto\" }}\n"),
            "`exit-only`",
        ),
        (format!("{blue}quota = \"1GB\"\n"), "shoald run --help"),
    ] {
        let (code, errors) = refused(&space, &room, &text);
        assert_eq!(code, Some(2), "{text}: {errors}");
        let lines = ["error: ", "  why: ", "  try: "];
        assert!(lines.iter().all(|line| errors.lines().any(|told| told.starts_with(line))), "{text}: {errors}");
        assert!(errors.contains(next), "{text}: {errors}");
    }

    // Somebody has the pool of one of them: the other runs, and the node stores.
    super::refusals::link(&space, "other0");
    space.ip("address add 10.9.3.1/24 dev other0").unwrap();
    let path = room.path().join("a.toml");
    let text = format!(
        "open = true\nnetwork = \"red\"\n[vpn]\ntun-name = \"red0\"\n{blue}open = true\nvpn = {{ pool = \"10.9.0.0/16\" }}\n"
    );
    std::fs::write(&path, text).unwrap();
    let (log, data) = (room.path().join("errors"), room.path().join("a"));
    let mut command = space.command(SHOALD);
    command.stderr(std::fs::File::create(&log).unwrap());
    let more = ["--config", path.to_str().unwrap(), "--quota", "64MB", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let mut node = Shoald::start_with(command, &data, &more).unwrap();
    let errors = std::fs::read_to_string(&log).unwrap();
    let words = ["network \"blue\": the pool 10.9.0.0/16 overlaps 10.9.3.", "interface other0", "--vpn-pool"];
    assert!(words.iter().all(|word| errors.contains(word)), "{errors}");
    assert_eq!(node.vpn["ifname"], "red0");
    assert!(node.networks[0]["name"] == "blue" && node.networks[0]["vpn"].is_null(), "{}", node.networks);
    let said = |words: &[&str]| {
        let shoal = Shoal::new(SHOAL, &data.join("home"));
        let output = shoal.run(&[&["vpn", "--node", data.to_str().unwrap()], words].concat()).unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout),
        )
    };
    let (code, told) = said(&["--network", "blue", "status"]);
    assert!(code == Some(1) && told.contains("interface other0"), "{told}");
    assert!(said(&["status"]).1.contains("blue  the private network did not start"), "{}", said(&["status"]).1);
    space.ip("link delete other0").unwrap();
    assert_eq!(said(&["--network", "blue", "up"]).0, Some(0));
    assert!(said(&["--network", "blue", "status"]).1.contains("shoal1"));
    node.terminate().unwrap();
    assert_eq!(space.nft("list ruleset").unwrap(), "");
}
