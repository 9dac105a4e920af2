//! `shoal vpn` as people use it: beside nodes that reach each other by lanes and by datagrams, one without a private
//! network, and none at all.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_tests::budget::say;
use shoal_tests::netns::{CLIENT, Lab, NODES};
use shoal_tests::process::{Shoal, Shoald};

const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
const SHOAL: &str = env!("CARGO_BIN_EXE_test-shoal");
/// How long two nodes may take to know each other and to prove an address.
const WAIT: Duration = Duration::from_secs(20);
/// Nobody of those who rightly run a node: `nobody`.
const STRANGER: &str = "65534";

/// Runs `shoal vpn` for the node in `data`.
fn vpn(data: &Path, words: &[&str]) -> Output {
    let shoal = Shoal::new(SHOAL, &data.join("home"));
    shoal.run(&[&["vpn", "--node", data.to_str().unwrap()], words].concat()).unwrap()
}

/// Its exit code and report.
fn json(data: &Path, words: &[&str]) -> (i32, Value) {
    let output = vpn(data, &[words, &["--json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(report["operation"].as_str(), Some(format!("vpn.{}", words[0]).as_str()), "{report:#}");
    (output.status.code().unwrap(), report["details"].clone())
}

/// Details of a command that is done.
#[track_caller]
fn told(data: &Path, words: &[&str]) -> Value {
    let (exit, details) = json(data, words);
    assert_eq!(exit, 0, "{words:?}: {details:#}");
    details
}

/// That it fails with this code and three lines.
#[track_caller]
fn refused(output: &Output, exit: i32, what: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{said}");
    for part in [what, "error: ", "  why: ", "  try: "] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

#[test]
fn a_node_without_a_private_network_says_so_and_no_node_is_exit_17() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("node");
    let mut node = Shoald::start(SHOALD, &data, &["--open", "--quota", "1GB"]).unwrap();
    for words in [&["status"][..], &["peers"], &["routes"], &["stats"], &["why", "100.64.0.7"], &["ping", "fd00::7"]] {
        refused(&vpn(&data, words), 10, "takes no part in a private network");
        assert_eq!(json(&data, words).0, 10);
    }
    // The variable in the place of the option, and the socket in the place of its directory.
    let shoal = Shoal::new(SHOAL, &data.join("home"));
    let mut by_variable = shoal.command(&["vpn", "status"]);
    by_variable.env("SHOAL_NODE", data.join("control.sock")).stdin(Stdio::null());
    refused(&by_variable.output().unwrap(), 10, "takes no part");
    node.terminate().unwrap();
    refused(&vpn(&data, &["status"]), 17, "no node answers at");
    refused(&vpn(&place.path().join("nowhere"), &["status"]), 17, "no node answers at");
    assert_eq!(json(&data, &["peers"]).1["error"].as_str().map(|what| what.contains("no node answers")), Some(true));
}

/// Two nodes that know each other and reach each other by this carrier; none if this machine does not let them.
fn pair(lab: &Lab, place: &Path, option: &str, carrier: &str) -> Option<(Shoald, Shoald)> {
    let options = ["--open", "--quota", "1GB", "--vpn", "--vpn-carrier", option];
    let one = Shoald::start_as(lab.on_nodes(SHOALD), NODES, &place.join("one"), &options).unwrap();
    let (exit, why) = json(&one.data, &["status"]);
    if exit == 1 && std::env::var_os("CI").is_none() {
        say(&format!("vpn commands: SKIPPED, no private network here: {}", why["error"]));
        return None;
    }
    assert_eq!(exit, 0, "{why:#}");
    let more = [&options[..], &["--bootstrap", &one.address]].concat();
    let two = Shoald::start_as(lab.on_client(SHOALD), CLIENT, &place.join("two"), &more).unwrap();
    let begun = Instant::now();
    loop {
        let peers = [&one, &two].map(|node| told(&node.data, &["peers"])["peers"][0].clone());
        let is_up =
            |peer: &Value| peer["session"] == true && peer["ways"][0]["carrier"] == carrier && !peer["ipv4"].is_null();
        if peers.iter().all(is_up) {
            return Some((one, two));
        }
        assert!(begun.elapsed() < WAIT, "not by {carrier}: {peers:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_commands_say_what_is_true_on_lanes_and_on_datagrams() {
    for (option, carrier) in [("lanes", "lanes"), ("auto", "udp")] {
        let lab = match Lab::new() {
            Ok(lab) => lab,
            Err(error) if std::env::var_os("CI").is_none() => {
                say(&format!("vpn commands: SKIPPED, no network namespaces here: {error:#}"));
                return;
            }
            Err(error) => panic!("{error:#}"),
        };
        let place = tempfile::tempdir().unwrap();
        let Some((one, mut two)) = pair(&lab, place.path(), option, carrier) else { return };
        facts_are_true(&lab, &one, &two, option, carrier);
        strangers_are_denied(&one);
        two.kill().unwrap();
        refused_after_the_end(&one, &two);
    }
}

fn facts_are_true(lab: &Lab, one: &Shoald, two: &Shoald, option: &str, carrier: &str) {
    let (status, other) = (told(&one.data, &["status"]), told(&two.data, &["status"]));
    assert_eq!((status["node"].as_str(), other["node"].as_str()), (Some(one.id.as_str()), Some(two.id.as_str())));
    assert_eq!((status["carriers"].as_str(), status["interface"].as_str()), (Some(option), Some("shoal0")));
    let counts = ["known", "neighbours", "sessions", "direct", "routed"].map(|key| status[key].as_u64().unwrap());
    assert_eq!(counts, [1, 1, 1, 1, 0], "{status:#}");
    assert_eq!(status["network"], other["network"]);

    let peer = told(&one.data, &["peers"])["peers"][0].clone();
    assert_eq!((&peer["ipv4"], &peer["ipv6"]), (&other["ipv4"], &other["ipv6"]), "each says its own addresses");
    assert_eq!((peer["node"].as_str(), peer["reach"].as_str()), (Some(two.id.as_str()), Some("direct")));
    assert_eq!((peer["standing"].as_str(), &peer["next_hops"][0]), (Some("neighbour"), &peer["node"]));
    let (way, frame) = (&peer["ways"][0], peer["max_frame"].as_u64().unwrap());
    if carrier == "udp" {
        assert!(way["address"].as_str().unwrap().starts_with(&format!("{CLIENT}:")), "{peer:#}");
        assert!((1_200..1_500).contains(&frame), "{peer:#}");
    } else {
        assert!(way["address"].is_null() && frame == 65_535, "{peer:#}");
    }
    let text = String::from_utf8(vpn(&one.data, &["peers"]).stdout).unwrap();
    assert!(text.contains(&two.id) && text.contains(carrier) && text.lines().count() == 2, "{text}");

    let (ipv4, ipv6) = (peer["ipv4"].as_str().unwrap(), peer["ipv6"].as_str().unwrap());
    for name in [two.id.as_str(), ipv4, ipv6] {
        let why = told(&one.data, &["why", name]);
        assert_eq!(why["peer"]["node"], peer["node"]);
        assert!(why["verdict"].as_str().unwrap().starts_with(&format!("direct, on {carrier}")), "{why:#}");
        let last = why["decisions"].as_array().unwrap().last().unwrap();
        assert!(last["after"].as_str().unwrap().starts_with(carrier), "{why:#}");
        let used = why["candidates"].as_array().unwrap().iter().find(|candidate| candidate["in_use"] == true).unwrap();
        assert_eq!((&used["carrier"], used["state"].as_str()), (&way["carrier"], Some("usable")));
        let ping = told(&one.data, &["ping", name, "--count", "3"]);
        assert_eq!((ping["sent"].as_u64(), ping["received"].as_u64()), (Some(3), Some(3)), "{ping:#}");
        assert!(ping["pings"].as_array().unwrap().iter().all(|ping| ping["carrier"] == carrier), "{ping:#}");
        assert!((1..1_000_000).contains(&ping["min_us"].as_u64().unwrap()), "{ping:#}");
        say(&format!("vpn ping on {carrier}: {} to {} us", ping["min_us"], ping["max_us"]));
    }
    let direct = told(&one.data, &["ping", ipv4, "--until-direct"]);
    assert_eq!((direct["sent"].as_u64(), direct["direct"].as_bool()), (Some(1), Some(true)));

    let routes = told(&one.data, &["routes"])["routes"].clone();
    for prefix in [format!("{ipv4}/32"), format!("{ipv6}/128")] {
        let route = routes.as_array().unwrap().iter().find(|route| route["prefix"] == prefix.as_str());
        let route = route.unwrap_or_else(|| panic!("{prefix} is not in {routes:#}"));
        assert_eq!((&route["to"], route["state"].as_str()), (&peer["node"], Some("used")));
        assert_eq!(route["max_frame"], peer["max_frame"]);
    }

    let sums = |data: &Path, direction: &str| {
        let stats = told(data, &["stats"]);
        let classes = stats[direction].as_object().unwrap().clone();
        assert_eq!(classes.len(), 4);
        classes.values().map(|amount| amount["packets"].as_u64().unwrap()).sum::<u64>()
    };
    let before = (sums(&one.data, "sent"), sums(&two.data, "received"));
    let script = format!("for i in 1 2 3 4 5; do echo word > /dev/udp/{ipv4}/9; done");
    assert!(lab.on_nodes("bash").args(["-c", &script]).stderr(Stdio::null()).status().is_ok());
    let begun = Instant::now();
    while sums(&one.data, "sent") < before.0 + 5 || sums(&two.data, "received") < before.1 + 5 {
        assert!(begun.elapsed() < WAIT, "five packets were not counted");
        std::thread::sleep(Duration::from_millis(50));
    }
    for words in [&["why", "100.127.255.254"][..], &["ping", "fd00::1"], &["why", status["ipv4"].as_str().unwrap()]] {
        refused(&vpn(&one.data, words), 10, "no other member is");
    }
}

/// The socket and its directory are the owner's and root's.
fn strangers_are_denied(node: &Shoald) {
    let socket = node.data.join("control.sock");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&socket).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let home = tempfile::tempdir().unwrap();
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups", "--", SHOAL]);
    let shoal = Shoal::new(SHOAL, home.path());
    let mut asked = shoal.command_as(stranger, &["vpn", "status", "--node", socket.to_str().unwrap()]);
    refused(&asked.stdin(Stdio::null()).output().unwrap(), 18, "cannot ask the node");
}

/// A member that was killed is not pinged any more, and that is no success.
fn refused_after_the_end(one: &Shoald, two: &Shoald) {
    let begun = Instant::now();
    loop {
        let output = vpn(&one.data, &["ping", &two.id, "--count", "1"]);
        if output.status.code() == Some(17) {
            return;
        }
        assert!(begun.elapsed() < WAIT, "{}", String::from_utf8_lossy(&output.stdout));
    }
}
