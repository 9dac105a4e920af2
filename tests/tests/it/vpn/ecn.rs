//! Congestion marks across the tunnel (RFC 6040): what a packet says inside its datagram says outside, and what a router
//! writes outside arrives inside.

use shoal_tests::asked::dropped;
use shoal_tests::budget::say;
use shoal_tests::space::Space;

use super::{Pair, SHOAL, is_possible, on_carrier};

/// Counts what leaves by the cable.
const OUTSIDE: &str = "table ip outside {
    chain out {
        type filter hook output priority 10
        oifname cable meta l4proto udp ip ecn ect0 counter
    }
}";
/// A router that is congested marks what can be marked.
const ROUTER: &str = "table ip router {
    chain in {
        type filter hook prerouting priority -200
        iifname cable meta l4proto udp ip ecn ect0 ip ecn set ce
    }
}";
/// Counts what comes out of the tunnel.
const INSIDE: &str = "table inet inside {
    chain in {
        type filter hook prerouting priority 0
        iifname shoal-t ip ecn ce counter
        iifname shoal-t ip6 ecn ce counter
    }
}";
/// One that marks what must not be.
const BROKEN: &str = "table ip broken {
    chain in {
        type filter hook prerouting priority -200
        iifname cable meta l4proto udp ip ecn not-ect ip ecn set ce
    }
}";
const PINGS: &str = "20";

/// Packets that the rules of a table counted, one number a rule.
fn counted(space: &Space, table: &str) -> Vec<u64> {
    let rules = space.nft(&format!("list table {table}")).unwrap();
    let packets = |line: &str| line.split_once("packets ")?.1.split(' ').next()?.parse().ok();
    rules.lines().filter_map(packets).collect()
}

#[test]
fn marks_are_copied_outside_and_come_back_inside() {
    if !is_possible("marks_are_copied_outside_and_come_back_inside") {
        return;
    }
    let pair = Pair::new(&["--vpn-carrier", "udp"]);
    on_carrier(&pair, "udp");
    pair.left.nft(OUTSIDE).unwrap();
    pair.right.nft(INSIDE).unwrap();
    let ping = |tos: &str, to: &str| {
        let words = ["-n", "-q", "-i", "0.02", "-c", PINGS, "-W", "2", "-Q", tos, to];
        pair.left.pings(&words).unwrap().status.success()
    };
    let (v4, v6) = (pair.b.v4.to_string(), pair.b.v6.to_string());
    assert!(ping("0", &v4));
    assert_eq!(counted(&pair.left, "ip outside"), [0], "who does not take part is not said to");
    assert!(ping("2", &v4) && ping("2", &v6));
    assert!(counted(&pair.left, "ip outside")[0] >= 40);
    assert_eq!(counted(&pair.right, "inet inside"), [0, 0]);

    pair.right.nft(ROUTER).unwrap();
    assert!(ping("2", &v4) && ping("2", &v6));
    let came = counted(&pair.right, "inet inside");
    assert!(came[0] >= 20 && came[1] >= 20, "{came:?}");
    assert!(ping("0", &v4));

    pair.right.nft(BROKEN).unwrap();
    assert!(!ping("0", &v4), "a mark that the ends would not understand");
    let lost = dropped(SHOAL, &pair.b.node.data, "not-ecn-capable").unwrap();
    say(&format!("vpn ecn: {came:?} marked packets came, {lost} with marks that cannot be were dropped"));
    assert!(lost >= 20);
}
