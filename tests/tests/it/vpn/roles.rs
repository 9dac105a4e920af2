//! Subnet router, exit and its user, as real programs between real kernels: who reaches what, what never leaves, and what
//! is left in the system after each end.
//!
//! ```text
//! user --10.80.1.0/24-- router --10.80.2.0/24-- public (198.51.100.7, 2001:db8:7::7 and all of the floor)
//!                          \------192.168.9.0/24-- host
//! ```

use std::net::{IpAddr, UdpSocket};
use std::process::Output;
use std::time::Duration;

use shoal_tests::budget::say;
use shoal_tests::member::Member;
use shoal_tests::process::Shoal;
use shoal_tests::space::Space;
use shoal_tests::traffic::{echo, transfer};
use tempfile::TempDir;

use super::{DEVICE, OPEN, SHOAL, SHOALD, is_possible, reached, until};

/// The public host.
const PUBLIC: [&str; 2] = ["198.51.100.7", "2001:db8:7::7"];
/// The host behind the router.
const HOST: &str = "192.168.9.2";
/// What no exit reaches, one address of each part. The public host has all of them, so that whatever leaves is answered.
const FLOOR: [&str; 14] = [
    "0.1.2.3",
    "10.9.9.9",
    "100.70.1.1",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.1.1",
    "192.168.9.2",
    "192.168.77.1",
    "2002:7f00:1::1",
    "2002:a00:1::1",
    "64:ff9b::a00:1",
    "fc00::1",
    "fd00:ec2::254",
    "2001:0:a00:1::1",
];
const WAIT: Duration = Duration::from_secs(20);

fn to(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The machines of the picture; nodes end before them.
struct Land {
    user: Option<Member>,
    router: Member,
    here: Space,
    middle: Space,
    public: Space,
    host: Space,
    room: TempDir,
}

/// A node of the land.
fn member(space: &Space, room: &TempDir, name: &str, more: &[&str]) -> Member {
    let begin = [&OPEN[..], &[DEVICE, "--listen", "/ip4/0.0.0.0/tcp/4100"]].concat();
    Member::start(SHOALD, space, &room.path().join(name), &[&begin, more].concat()).unwrap()
}

impl Land {
    /// The router with these arguments, the user with what these make of the router's id.
    fn new(router: &[&str], user: impl FnOnce(&str) -> Vec<String>) -> Self {
        let [here, middle, public, host] = [(); 4].map(|()| Space::new().unwrap());
        here.cable(("out", "10.80.1.2/24"), &middle, ("user", "10.80.1.1/24")).unwrap();
        middle.cable(("out", "10.80.2.1/24"), &public, ("in", "10.80.2.2/24")).unwrap();
        middle.cable(("lan", "192.168.9.1/24"), &host, ("in", "192.168.9.2/24")).unwrap();
        for words in ["address add 2001:db8:2::1/64 dev out nodad", "route add default via 10.80.2.2"] {
            middle.ip(words).unwrap();
        }
        public.ip("address add 2001:db8:2::2/64 dev in nodad").unwrap();
        middle.ip("-6 route add default via 2001:db8:2::2").unwrap();
        // The ordinary way out: what leaves the user by it is seen there.
        here.ip("route add default via 10.80.1.1").unwrap();
        here.ip("address add 2001:db8:1::2/64 dev out nodad").unwrap();
        middle.ip("address add 2001:db8:1::1/64 dev user nodad").unwrap();
        here.ip("-6 route add default via 2001:db8:1::1").unwrap();
        for address in PUBLIC.iter().chain(FLOOR.iter().filter(|text| **text != HOST)) {
            let length = if address.contains(':') { 128 } else { 32 };
            // Some are refused by the kernel itself, as 0.1.2.3: nobody has them then.
            let _ = public.ip(&format!("address add {address}/{length} dev lo"));
        }
        let room = tempfile::tempdir().unwrap();
        let router = member(&middle, &room, "router", router);
        let next = format!("/ip4/10.80.1.1/tcp/4100/p2p/{}", router.node.id);
        let more = user(&router.node.id.to_string());
        let more: Vec<&str> = ["--bootstrap", &next].into_iter().chain(more.iter().map(String::as_str)).collect();
        let user = member(&here, &room, "user", &more);
        reached(&here, router.v4.into(), WAIT);
        Self { user: Some(user), router, here, middle, public, host, room }
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

    fn answers(&self, address: &str) -> bool {
        self.here.ping(to(address), 56).unwrap()
    }
}

/// The rules under which `router` leads to the network of the host, and is an exit for everybody.
fn policy(room: &TempDir, router: &str) -> String {
    let file = room.path().join("policy.toml");
    let text = format!("version = 1\n[[prefixes]]\nprefix = \"192.168.9.0/24\"\npeers = [\"{router}\"]\n");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_host_behind_a_subnet_router_is_reached_by_those_whose_policy_says_so() {
    if !is_possible("a_host_behind_a_subnet_router_is_reached_by_those_whose_policy_says_so") {
        return;
    }
    let before = Space::new().unwrap().tables().unwrap();
    let kept = tempfile::tempdir().unwrap();
    let mut file = String::new();
    let mut land = Land::new(&["--advertise-route", "192.168.9.0/24"], |id| {
        file = policy(&kept, id);
        vec!["--vpn-policy".to_owned(), file.clone()]
    });
    reached(&land.here, to(HOST), WAIT);
    transfer(&land.here, &land.host, to(HOST), 8 << 20).unwrap();
    echo(&land.here, &land.host, to(HOST), &[0, 700, 1_232, 9_000]).unwrap();
    // A subnet router is no exit, and leads to nothing it does not name.
    assert!(land.done("router", &["status"]).contains("leads to   192.168.9.0/24"));
    assert!(land.done("user", &["routes"]).contains("192.168.9.0/24"));

    // The network is withdrawn and announced anew; a policy that no longer grants it is read.
    land.done("router", &["route", "rm", "192.168.9.0/24"]);
    until("the network is gone", WAIT, || !land.answers(HOST));
    land.done("router", &["route", "add", "192.168.9.0/24"]);
    reached(&land.here, to(HOST), WAIT);
    land.done("user", &["policy", "check", &file]);
    std::fs::write(&file, "version = 1\n[[prefixes]]\nprefix = \"192.168.8.0/24\"\npeers = [\"*\"]\n").unwrap();
    land.done("user", &["policy", "reload"]);
    until("the right is gone", WAIT, || !land.answers(HOST));
    assert!(land.done("user", &["routes"]).contains("unauthorised"));
    std::fs::write(&file, "version = 1\n[[prefixs]]\n").unwrap();
    for words in [&["policy", "reload"][..], &["policy", "check", &file]] {
        let refused = land.asked("user", words);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(18), "{said}");
        assert!(said.contains("line 2") && said.contains("did you mean `prefixes`"), "{said}");
    }
    for (words, why) in [(["route", "add", "100.64.3.0/24"], "members"), (["route", "add", "0.0.0.0/0"], "--exit-node")]
    {
        let refused = land.asked("router", &words);
        assert!(String::from_utf8_lossy(&refused.stderr).contains(why) && refused.status.code() == Some(18));
    }

    land.router.node.terminate().unwrap();
    land.user.as_mut().unwrap().node.terminate().unwrap();
    assert!(land.middle.nft("list ruleset").unwrap().is_empty());
    let rules = |space: &Space| space.ip("rule").unwrap();
    assert_eq!((rules(&land.middle), rules(&land.here)), (rules(&land.host), rules(&land.host)), "{before}");
}

#[test]
fn an_exit_leads_to_the_internet_and_to_nothing_of_the_floor() {
    if !is_possible("an_exit_leads_to_the_internet_and_to_nothing_of_the_floor") {
        return;
    }
    let mut land = Land::new(&["--exit-node"], |_| Vec::new());
    // Without --use-exit nothing goes there: the middle does not forward, and nobody answers.
    assert!(!land.answers(PUBLIC[0]));
    let id = land.router.node.id.to_string();
    land.done("user", &["exit", "use", &id]);
    for address in PUBLIC {
        reached(&land.here, to(address), WAIT);
    }
    transfer(&land.here, &land.public, to(PUBLIC[0]), 8 << 20).unwrap();
    transfer(&land.here, &land.public, to(PUBLIC[1]), 8 << 20).unwrap();
    // The public host sees the exit, never a member.
    let seen = land.public.inside(|| Ok(UdpSocket::bind("198.51.100.7:9")?)).unwrap();
    let near = land.here.inside(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    seen.set_read_timeout(Some(WAIT)).unwrap();
    near.send_to(b"hello", "198.51.100.7:9").unwrap();
    assert_eq!(seen.recv_from(&mut [0; 9]).unwrap().1.ip(), to("10.80.2.1"));

    for address in FLOOR.iter().chain(&["10.80.2.1", "10.80.2.2", "192.168.9.1", "2001:db8:2::2"]) {
        assert!(!land.answers(address), "{address} was reached through the exit");
    }
    // The exit's own address in the network is no part of the floor.
    assert!(land.here.ping(land.router.v4.into(), 56).unwrap());
    assert!(land.done("user", &["status"]).contains(&format!("through {id}")));
    assert!(land.done("user", &["stats"]).contains("floor-private"));

    land.done("user", &["exit", "use", "off"]);
    until("nobody leads out", WAIT, || !land.answers(PUBLIC[0]));
    land.done("user", &["exit", "use", &land.router.v4.to_string()]);
    reached(&land.here, to(PUBLIC[0]), WAIT);
    land.router.node.terminate().unwrap();
    assert!(land.middle.nft("list ruleset").unwrap().is_empty());
    let forwards = land.middle.command("sysctl").args(["-n", "net.ipv4.ip_forward"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&forwards.stdout).trim(), "0");
    drop(land.user.take());
}

/// What of the user's own reaches the cable, by family: neither of the link, nor to the router's machine, which is where
/// its node carries the tunnel.
const LEAKS: &str = r#"
table inet leaks {
    counter v4 { }
    counter v6 { }
    chain seen {
        type filter hook prerouting priority -400; policy accept;
        iifname "user" ip daddr != { 10.80.1.1, 10.80.2.1, 192.168.9.1 } counter name v4
        iifname "user" ip6 daddr != { 2001:db8:1::1, 2001:db8:2::1, fe80::/10, ff00::/8 } counter name v6
    }
}
"#;
/// Packets of the node itself that went into the tunnel.
const LOOPS: &str = r#"
table inet loops {
    counter own { }
    chain sent {
        type filter hook output priority 400; policy accept;
        oifname "shoal-t" meta mark 0x53686f61 counter name own
        oifname "shoal-t" tcp sport 4100 counter name own
    }
}
"#;

fn count(space: &Space, table: &str, name: &str) -> u64 {
    let text = space.nft(&format!("list counter inet {table} {name}")).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "packets").unwrap();
    words[at + 1].parse().unwrap()
}

/// Tries everything: echo, DNS and TCP, both families. Nobody waits for an answer.
fn try_out(land: &Land) {
    for address in PUBLIC {
        let _ = land.here.pings(&["-c", "1", "-W", "1", address]);
        let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = land.here.inside(|| Ok(UdpSocket::bind(any)?)).unwrap();
        // A refusal is as good as silence.
        let _ = socket.send_to(b"a question", (to(address), 53));
        let target = std::net::SocketAddr::new(to(address), 443);
        let connect = || Ok(std::net::TcpStream::connect_timeout(&target, Duration::from_millis(200)).is_ok());
        let _ = land.here.inside(connect);
    }
}

#[test]
fn with_the_kill_switch_nothing_leaves_but_the_tunnel_whatever_dies() {
    if !is_possible("with_the_kill_switch_nothing_leaves_but_the_tunnel_whatever_dies") {
        return;
    }
    let mut arguments = Vec::new();
    let mut land = Land::new(&["--exit-node"], |id| {
        arguments = vec!["--use-exit".to_owned(), id.to_owned(), "--kill-switch".to_owned()];
        arguments.clone()
    });
    land.middle.nft(LEAKS).unwrap();
    land.here.nft(LOOPS).unwrap();
    let leaks = |land: &Land| (count(&land.middle, "leaks", "v4"), count(&land.middle, "leaks", "v6"));
    for address in PUBLIC {
        reached(&land.here, to(address), WAIT);
    }
    assert_eq!(leaks(&land), (0, 0));

    // The exit dies, and comes back.
    land.router.node.kill().unwrap();
    try_out(&land);
    assert_eq!(leaks(&land), (0, 0), "while the exit was dead");
    land.router = member(&land.middle, &land.room, "router", &["--exit-node"]);
    let again = reached(&land.here, to(PUBLIC[0]), Duration::from_secs(60));
    say(&format!("vpn: through the exit {again:?} after it came back"));
    assert_eq!(count(&land.here, "loops", "own"), 0, "a packet of the node went into its tunnel");

    // The user's node dies: the switch stays, also while it starts anew.
    let user = land.user.as_mut().unwrap();
    user.node.kill().unwrap();
    try_out(&land);
    assert_eq!(leaks(&land), (0, 0), "while the node was dead");
    let next = format!("/ip4/10.80.1.1/tcp/4100/p2p/{}", land.router.node.id);
    let more: Vec<&str> = ["--bootstrap", &next].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    land.user = Some(member(&land.here, &land.room, "user", &more));
    reached(&land.here, to(PUBLIC[0]), WAIT);
    assert_eq!(leaks(&land), (0, 0), "while the node started");

    // Killed once more, and tidied by hand: the ordinary way is free, and what leaves by it is seen.
    land.user.as_mut().unwrap().node.kill().unwrap();
    let data = land.room.path().join("user");
    let mut cleanup = land.here.command(SHOALD);
    let output = cleanup.args(["vpn", "cleanup", "--data-dir"]).arg(&data).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("nftables table inet shoal_kill_"), "{said}");
    let left = land.here.nft("list ruleset").unwrap();
    assert!(!left.contains("shoal_") && left.contains("loops"), "{left}");
    assert_eq!(land.here.ip("rule").unwrap(), land.host.ip("rule").unwrap());
    try_out(&land);
    let (v4, v6) = leaks(&land);
    assert!(v4 > 0 && v6 > 0, "the counters count: {v4} {v6}");
    drop(land.user.take());
}

#[test]
fn what_goes_around_the_exit_and_what_alone_goes_through_it() {
    if !is_possible("what_goes_around_the_exit_and_what_alone_goes_through_it") {
        return;
    }
    let bypass = |id: &str| ["--use-exit", id, "--exit-bypass", "198.51.100.0/24"].map(str::to_owned).to_vec();
    let land = Land::new(&["--exit-node"], bypass);
    land.middle.nft(LEAKS).unwrap();
    reached(&land.here, to(PUBLIC[1]), WAIT);
    assert_eq!(count(&land.middle, "leaks", "v6"), 0);
    let before = count(&land.middle, "leaks", "v4");
    let _ = land.answers(PUBLIC[0]);
    assert!(count(&land.middle, "leaks", "v4") > before, "it went through the tunnel");
    drop(land);

    let only = |_: &str| ["--use-exit", "auto", "--exit-only", "198.51.100.0/24"].map(str::to_owned).to_vec();
    let kept = tempfile::tempdir().unwrap();
    let land = Land::new(&["--exit-node"], |id| {
        // Whom `auto` may choose is said by the policy alone.
        let file = kept.path().join("policy.toml");
        let text = format!("version = 1\n[[exits]]\npeers = [\"{id}\"]\nusers = [\"*\"]\n");
        std::fs::write(&file, text).unwrap();
        [only(id), vec!["--vpn-policy".to_owned(), file.to_str().unwrap().to_owned()]].concat()
    });
    land.middle.nft(LEAKS).unwrap();
    reached(&land.here, to(PUBLIC[0]), WAIT);
    assert_eq!(count(&land.middle, "leaks", "v4"), 0);
    let _ = land.answers(PUBLIC[1]);
    assert!(count(&land.middle, "leaks", "v6") > 0, "it went through the tunnel");
    assert!(land.done("user", &["status"]).contains("auto through"));
}
