//! Ways that go and come back under a TCP connection inside the tunnel, and a machine that gets another address.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use shoal_tests::budget::{is_long, say};
use shoal_tests::space::Space;
use shoal_tests::traffic::{Flow, transfer};

use super::{Pair, is_possible, reached, until};

/// Longest time a connection inside may stand still when the way below it goes.
const STALL_MAX: Duration = Duration::from_secs(3);
/// Within so long a node is on datagrams again: twice the first hold-down of an address, 5 s, and its proof.
const PROMOTED: Duration = Duration::from_secs(20);
/// How long somebody with another address may take to be reached.
const ROAMED: Duration = Duration::from_secs(20);
/// The same over lanes alone: control pings find a dead connection in 3 to 4 times 15 s, and then it is dialled anew.
const ROAMED_LANES: Duration = Duration::from_secs(90);
/// Counts what leaves by the cable, kind by kind; `refuse` comes before it.
const COUNT: &str = "table inet count {
    chain out {
        type filter hook output priority 10
        oifname cable meta l4proto udp counter
        oifname cable meta l4proto tcp counter
    }
}";
/// Nothing of UDP leaves or comes by the cable.
const REFUSE: &str = "table inet refuse {
    chain out {
        type filter hook output priority 0
        oifname cable meta l4proto udp drop
    }
    chain in {
        type filter hook input priority 0
        iifname cable meta l4proto udp drop
    }
}";

/// Bytes of UDP and TCP that left by the cable.
fn sent(space: &Space) -> (u64, u64) {
    let rules = space.nft("list table inet count").unwrap();
    let bytes = |kind: &str| {
        let line = rules.lines().find(|line| line.contains(kind) && line.contains("counter")).unwrap();
        line.split_whitespace().skip_while(|word| *word != "bytes").nth(1).unwrap().parse::<u64>().unwrap()
    };
    (bytes("l4proto udp"), bytes("l4proto tcp"))
}

/// Bytes of UDP and TCP that leave within this time.
fn sent_within(space: &Space, time: Duration) -> (u64, u64) {
    let before = sent(space);
    std::thread::sleep(time);
    let after = sent(space);
    (after.0 - before.0, after.1 - before.1)
}

/// Nearly all that leaves is UDP.
fn is_on_udp(space: &Space) -> bool {
    let (udp, tcp) = sent_within(space, Duration::from_millis(500));
    udp > 500_000 && tcp < udp / 20
}

#[test]
fn a_connection_goes_on_over_lanes_while_datagrams_are_dropped_and_back_on_them_after() {
    if !is_possible("a_connection_goes_on_over_lanes_while_datagrams_are_dropped_and_back_on_them_after") {
        return;
    }
    let mut pair = Pair::new(&["--vpn-carrier", "auto"]);
    pair.left.nft(COUNT).unwrap();
    let flow = Flow::start(&pair.left, &pair.right, pair.b.v4.into()).unwrap();
    let first = until("the flow is on datagrams", PROMOTED, || is_on_udp(&pair.left));

    // A machine that other work keeps busy is late by itself: of three times the first that is in time counts.
    let in_time = (0..3).any(|_| {
        pair.left.nft(REFUSE).unwrap();
        let dropped = Instant::now();
        std::thread::sleep(Duration::from_secs(4));
        let stall = flow.longest_stall(dropped);
        let (_, tcp) = sent_within(&pair.left, Duration::from_millis(500));
        say(&format!("vpn: on datagrams after {first:?}; when they are dropped nothing comes for {stall:?}"));
        assert!(tcp > 500_000, "{tcp} bytes on lanes in half a second");

        pair.left.nft("delete table inet refuse").unwrap();
        let freed = Instant::now();
        let back = until("the flow is on datagrams again", 2 * PROMOTED, || is_on_udp(&pair.left));
        let after = flow.longest_stall(freed);
        say(&format!("vpn: back on datagrams {back:?} after they go again, stall {after:?}"));
        stall <= STALL_MAX && after < STALL_MAX
    });
    assert!(in_time, "three times nothing came for more than {STALL_MAX:?}");
    flow.finish().unwrap();
    say(&format!("vpn: {}", pair.a.counted().unwrap()));
}

/// The machine on the right, or the one on the left, gets another address, and the old one is gone.
fn roam(carrier: &str, moves_right: bool) {
    let pair = Pair::new(&["--vpn-carrier", carrier]);
    let (mover, old, new) = if moves_right {
        (&pair.right, "10.77.0.2/24", "10.77.0.9/24")
    } else {
        (&pair.left, "10.77.0.1/24", "10.77.0.9/24")
    };
    transfer(&pair.left, &pair.right, pair.b.v4.into(), 1 << 20).unwrap();
    mover.ip(&format!("address del {old} dev cable")).unwrap();
    mover.ip(&format!("address add {new} dev cable")).unwrap();
    let (near, far) = (IpAddr::from(pair.a.v4), IpAddr::from(pair.b.v4));
    let (from, to) = if moves_right { (&pair.left, far) } else { (&pair.right, near) };
    let took = reached(from, to, if carrier == "lanes" { ROAMED_LANES } else { ROAMED });
    transfer(&pair.left, &pair.right, far, 1 << 20).unwrap();
    transfer(&pair.right, &pair.left, near, 1 << 20).unwrap();
    let who = if moves_right { "right" } else { "left" };
    say(&format!("vpn {carrier}: reached {took:?} after the {who} machine got another address"));
}

#[test]
fn who_dialled_and_got_another_address_is_reached_again() {
    if is_possible("who_dialled_and_got_another_address_is_reached_again") {
        roam("auto", true);
    }
}

#[test]
fn who_was_dialled_and_got_another_address_is_reached_again() {
    if is_possible("who_was_dialled_and_got_another_address_is_reached_again") {
        roam("auto", false);
    }
}

#[test]
fn who_got_another_address_is_reached_again_over_lanes_alone() {
    // A minute, nearly all of it waiting.
    if is_long() && is_possible("who_got_another_address_is_reached_again_over_lanes_alone") {
        roam("lanes", true);
    }
}

#[test]
fn who_got_another_address_is_reached_again_by_datagrams_alone() {
    if is_possible("who_got_another_address_is_reached_again_by_datagrams_alone") {
        roam("udp", true);
    }
}
