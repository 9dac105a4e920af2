//! The end of a node, asked for and not: nothing of it is left on its machine, and it comes back with its address.

use std::time::Duration;

use shoal_tests::budget::say;
use shoal_tests::member::Member;
use shoal_tests::process::Shoal;

use super::{DEVICE, OPEN, Pair, SHOAL, SHOALD, is_possible, reached, until};

/// Within so long a node is gone.
const GONE: Duration = Duration::from_secs(2);

#[test]
fn a_stopped_node_leaves_nothing_and_comes_back_with_its_address() {
    if !is_possible("a_stopped_node_leaves_nothing_and_comes_back_with_its_address") {
        return;
    }
    let mut pair = Pair::new(&[]);
    let running = pair.right.tables().unwrap();
    assert!(running.contains(DEVICE), "{running}");
    let address = pair.b.v4;
    let took = pair.b.node.terminate().unwrap();
    let clean = pair.right.tables().unwrap();
    say(&format!("vpn: gone {took:?} after SIGTERM"));
    assert!(took < GONE, "{took:?}");
    for trace in [DEVICE, &pair.b.v4.to_string(), &pair.b.v6.to_string(), "100.64.0.0"] {
        assert!(!clean.contains(trace), "{trace} is left: {clean}");
    }

    let arguments = [&OPEN[..], &[DEVICE, "--listen", "/ip4/10.77.0.2/tcp/0", "--bootstrap"]].concat();
    let arguments = [&arguments[..], &[pair.a.node.address.as_str()]].concat();
    let data = pair.room.path().join("b");
    for round in 0..2 {
        pair.b = Member::start(SHOALD, &pair.right, &data, &arguments).unwrap();
        assert_eq!(pair.b.v4, address, "its address is its own");
        let again = reached(&pair.left, address.into(), Duration::from_secs(30));
        say(&format!("vpn: reached {again:?} after start {round}"));
        pair.b.node.kill().unwrap();
        let gone = || pair.right.tables().unwrap() == clean;
        let took = until("what a killed node had is gone", GONE, gone);
        say(&format!("vpn: device gone {took:?} after SIGKILL"));
    }
    assert!(pair.right.nft("list ruleset").unwrap().is_empty());
}

#[test]
fn a_network_that_is_switched_off_leaves_nothing_and_comes_back_while_the_node_runs() {
    if !is_possible("a_network_that_is_switched_off_leaves_nothing_and_comes_back_while_the_node_runs") {
        return;
    }
    let mut pair = Pair::new(&[]);
    let data = pair.room.path().join("b");
    let said = |word: &str| {
        let output =
            Shoal::new(SHOAL, &data.join("home")).run(&["vpn", "--node", data.to_str().unwrap(), word]).unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for _ in 0..2 {
        assert_eq!(said("down"), (Some(0), String::new()));
        let tables = pair.right.tables().unwrap();
        assert!(!tables.contains(DEVICE) && !tables.contains("100.64.0.0"), "{tables}");
        assert!(!pair.left.ping(pair.b.v4.into(), 56).unwrap());
        let (code, errors) = said("peers");
        assert!(code == Some(10) && errors.contains("shoal vpn up"), "{errors}");
        assert_eq!(said("up"), (Some(0), String::new()));
        assert_eq!(said("up"), (Some(0), String::new()), "it goes on");
        let again = reached(&pair.left, pair.b.v4.into(), Duration::from_secs(30));
        say(&format!("vpn: reached {again:?} after it was switched on"));
    }
    assert_eq!((said("down").0, said("down").0), (Some(0), Some(0)));
    // The node itself ran on all the while.
    assert!(pair.b.node.terminate().unwrap() < GONE);
}
