//! A process that made everything is killed, at every step: what it noted is undone by the next one, and nothing is left.

use std::io::{Read, Write};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::{Command, Stdio};

use shoal_node::vpn::system::firewall::{ExitRules, KillSwitch, Nft, Table};
use shoal_node::vpn::system::netlink::{Family, Netlink, Route, Rule, Via};
use shoal_node::vpn::system::state::{Journal, Made, Place};
use shoal_node::vpn::system::sysctl::Switch;
use shoal_node::vpn::system::tun::TunOptions;

use super::{foreign_tables, inside, run, tun};

/// Where the child keeps its journal, and after how many steps it waits to be killed.
const CHILD: &str = "SHOAL_TEST_CHILD";
const TABLE: u32 = 51_820;

fn rules() -> Vec<Rule> {
    let bare = Rule {
        family: Family::V4,
        priority: 5210,
        table: TABLE,
        mark: Some(0x5348),
        inverted: true,
        suppress_prefix_length: None,
        source_port: None,
    };
    vec![
        bare,
        Rule { family: Family::V6, ..bare },
        Rule { table: 254, mark: None, suppress_prefix_length: Some(0), ..bare },
    ]
}

fn route(to: &str, via: Via, table: u32) -> Route {
    Route { to: to.parse().unwrap(), via, table, metric: NonZeroU32::new(77).unwrap(), mtu: None, source: None }
}

/// Makes everything in steps, each noted before it is done, and stops after some.
fn make(directory: &Path, steps: usize) {
    let mut journal = Journal::open(directory).unwrap();
    let mut netlink = Netlink::open().unwrap();
    let nft = Nft::find().unwrap();
    let mut left = steps;
    let mut step = |journal: &mut Journal, made: &[Made]| {
        if left == 0 {
            wait_to_be_killed();
        }
        left -= 1;
        journal.note(made).unwrap();
        if left == 0 {
            // Noted, and not done.
            wait_to_be_killed();
        }
        left -= 1;
    };
    let kill_switch = Table::kill_switch("home").unwrap();
    step(&mut journal, &[Made::Firewall(kill_switch.clone())]);
    let rule = KillSwitch { tuns: vec!["shoal0".into()], mark: 0x5348, ..KillSwitch::default() };
    nft.install(&rule.ruleset(kill_switch).unwrap()).unwrap();

    let device = tun(&TunOptions::new("shoal0", 1280), &[("100.64.0.1", 10), ("fd99::1", 64)]);
    let index = device.facts().index;
    step(&mut journal, &[Made::Interface { name: "shoal0".into(), index }]);
    step(&mut journal, &[Made::RouteTable(TABLE), Made::Route(route("10.7.0.0/16", Via::Unreachable, 254))]);
    netlink.add_route(&route("0.0.0.0/0", Via::Link(index), TABLE)).unwrap();
    netlink.add_route(&route("10.8.0.0/16", Via::Unreachable, TABLE)).unwrap();
    netlink.add_route(&route("fd08::/16", Via::Unreachable, TABLE)).unwrap();
    netlink.add_route(&route("10.7.0.0/16", Via::Unreachable, 254)).unwrap();
    let all: Vec<Made> = rules().into_iter().map(Made::Rule).collect();
    step(&mut journal, &all);
    rules().iter().for_each(|rule| netlink.add_rule(rule).unwrap());
    let exit = Table::exit("home").unwrap();
    step(&mut journal, &[Made::Firewall(exit.clone())]);
    let rules = ExitRules { tun: "shoal0".into(), ..ExitRules::default() };
    nft.install(&rules.ruleset(exit).unwrap()).unwrap();
    for switch in [Switch::ForwardV4, Switch::ForwardV6] {
        step(&mut journal, &[Made::Switch(switch.before().unwrap())]);
        switch.set("1").unwrap();
    }
    wait_to_be_killed();
}

fn wait_to_be_killed() {
    std::io::stdout().write_all(b"made\n").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(60));
    panic!("nobody came");
}

/// Everything of a namespace that could be left over.
fn everything() -> String {
    let lines =
        ["ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "nft -s list ruleset"];
    let mut text: String = lines.iter().map(|line| run(line)).collect();
    for family in ["ipv4", "ipv6"] {
        text += &run(&format!("cat /proc/sys/net/{family}/conf/all/forwarding"));
        text += &run(&format!("cat /proc/sys/net/{family}/conf/lo/forwarding"));
    }
    text += &run("ip -br link");
    text
}

fn killed_after(test: &str, directory: &Path, steps: usize) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.env(CHILD, format!("{steps} {}", directory.display())).spawn().unwrap();
    let mut said = Vec::new();
    let mut output = child.stdout.take().unwrap();
    while !said.ends_with(b"made\n") {
        let mut byte = [0];
        assert_eq!(output.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
}

fn undo(directory: &Path, which: impl Fn(&Made) -> bool) {
    let mut journal = Journal::open(directory).unwrap();
    assert_eq!(journal.place(), Place::Here);
    let undone = journal.undo(&mut Netlink::open().unwrap(), which).unwrap();
    assert!(undone.iter().all(|one| one.result.is_ok()), "{undone:?}");
}

#[test]
fn what_a_killed_process_left_is_undone_and_nothing_else() {
    const NAME: &str = "state::what_a_killed_process_left_is_undone_and_nothing_else";
    if let Ok(child) = std::env::var(CHILD) {
        let (steps, directory) = child.split_once(' ').unwrap();
        return make(Path::new(directory), steps.parse().unwrap());
    }
    inside(NAME, || {
        super::switch_on_loopback();
        // Of others, alike in what can be alike.
        run("ip rule add priority 5210 not fwmark 0x5348 table 51820");
        run("ip route add unreachable 10.9.0.0/16 table 51820");
        foreign_tables("table inet others {\nchain c {\ntype filter hook output priority 0\n}\n}\n");
        let before = everything();
        let data = tempfile::tempdir().unwrap();
        let full = 14;
        for steps in (0..=full).chain([full]) {
            killed_after(NAME, data.path(), steps);
            if steps == full {
                let left = everything();
                let parts = ["shoal_kill_home", "shoal_exit_home", "proto 83", "unreachable 10.7.0.0/16", "fd08::/16"];
                parts.iter().for_each(|part| assert!(left.contains(part), "{part} did not outlive it: {left}"));
                assert_eq!(run("cat /proc/sys/net/ipv4/conf/all/forwarding"), "1\n");
                assert!(!left.contains("shoal0:"), "the device outlived it");
            }
            undo(data.path(), |_| true);
            undo(data.path(), |_| true);
            assert_eq!(everything(), before, "after {steps} steps");
            assert!(Journal::open(data.path()).unwrap().made().is_empty());
        }

        // A restart leaves the kill switch standing, and the journal says so.
        killed_after(NAME, data.path(), full);
        undo(data.path(), |made| !made.is_kill_switch());
        let kill_switch = Table::kill_switch("home").unwrap();
        assert_eq!(Nft::find().unwrap().tables().unwrap(), std::slice::from_ref(&kill_switch));
        assert_eq!(Journal::open(data.path()).unwrap().made(), [Made::Firewall(kill_switch)]);
        undo(data.path(), |_| true);
        assert_eq!(everything(), before);
    });
}

#[test]
fn one_that_cannot_be_undone_does_not_keep_the_others() {
    inside("state::one_that_cannot_be_undone_does_not_keep_the_others", || {
        super::switch_on_loopback();
        let before = everything();
        let data = tempfile::tempdir().unwrap();
        let mut netlink = Netlink::open().unwrap();
        let device = tun(&TunOptions::new("shoal0", 1280), &[]);
        let mut journal = Journal::open(data.path()).unwrap();
        let mut wrong = Switch::SourceMark.before().unwrap();
        wrong.value = "no number".into();
        let index = device.facts().index;
        let unreachable = route("10.7.0.0/16", Via::Unreachable, 254);
        journal
            .note(&[
                Made::Rule(rules()[0]),
                Made::Switch(wrong.clone()),
                Made::Route(unreachable),
                Made::Interface { name: "shoal0".into(), index },
                // Another device of that name, now.
                Made::Interface { name: "lo".into(), index: 1 },
            ])
            .unwrap();
        netlink.add_rule(&rules()[0]).unwrap();
        netlink.add_route(&unreachable).unwrap();
        let undone = journal.undo(&mut netlink, |_| true).unwrap();
        let failed: Vec<&Made> = undone.iter().filter(|one| one.result.is_err()).map(|one| &one.made).collect();
        assert_eq!((undone.len(), failed), (5, vec![&Made::Switch(wrong.clone())]));
        assert_eq!(Journal::open(data.path()).unwrap().made(), [Made::Switch(wrong)]);
        assert_eq!(everything(), before, "a device of a living process too");
        assert!(device.read(&mut [0; 2000]).is_err());
    });
}
