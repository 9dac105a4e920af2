//! A cable that loses one packet of a hundred in each direction: what goes through it is whole, what is lost is what the
//! cable lost, and nobody leaves a way because of it.

use std::process::{Command, Stdio};
use std::time::Instant;

use shoal_tests::asked::vpn;
use shoal_tests::budget::say;
use shoal_tests::traffic::transfer;

use super::{Pair, SHOAL, is_possible, on_carrier};

/// One of a hundred, of everything that comes by the cable. A machine's own packets are cut before they get there.
const LOSS: &str = "table inet loss {
    chain in {
        type filter hook input priority 0
        iifname cable numgen random mod 100 == 0 counter drop
    }
}";
/// Bytes each way.
const TRANSFER: usize = 8 << 20;
/// Echo requests, and the milliseconds between them.
const PINGS: u32 = 2_000;
const EVERY_MS: u32 = 2;
/// Of them are lost, where nobody repeats them: one of a hundred each way makes 39.8, and five standard deviations of 6.2.
const LOST: std::ops::RangeInclusive<u32> = 9..=71;
/// Changes of carriers that are no storm: one echo in ten thousand is lost twice in a row, and probes with it.
const CHANGES_MAX: usize = 2;

/// Echo requests that were not answered.
fn lost_pings(pair: &Pair) -> u32 {
    let mut command: Command = pair.left.command("ping");
    let (count, every) = (PINGS.to_string(), format!("0.{EVERY_MS:03}"));
    command.args(["-q", "-n", "-c", &count, "-i", &every, "-W", "2", &pair.b.v4.to_string()]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let received = said.split(", ").find_map(|part| part.strip_suffix(" received")).unwrap_or_else(|| panic!("{said}"));
    PINGS - received.parse::<u32>().unwrap()
}

/// Changes of carriers towards the other one since `begun`.
fn changes(pair: &Pair, begun: Instant) -> usize {
    let ends = [(&pair.a.node.data, pair.b.v4), (&pair.b.node.data, pair.a.v4)];
    let since_ms = u64::try_from(begun.elapsed().as_millis()).unwrap();
    let of = |(data, other): (&std::path::PathBuf, std::net::Ipv4Addr)| {
        let why = vpn(SHOAL, data, &["why", &other.to_string()]).unwrap();
        let decisions = why["decisions"].as_array().unwrap().clone();
        decisions.iter().filter(|decision| decision["ms_ago"].as_u64().unwrap() < since_ms).count()
    };
    ends.into_iter().map(of).sum()
}

fn everything_comes_whole(option: &str, carrier: &str) {
    let mut pair = Pair::new(&["--vpn-carrier", option]);
    on_carrier(&pair, carrier);
    for space in [&pair.left, &pair.right] {
        // The kernel cuts super-packets before the cable, or the cable would lose them whole.
        space.ip("link set cable gso_max_segs 1").unwrap();
        space.nft(LOSS).unwrap();
    }
    let begun = Instant::now();
    for address in pair.b.addresses() {
        let took = transfer(&pair.left, &pair.right, address, TRANSFER).unwrap();
        say(&format!("vpn {carrier} with loss: {:.0} Mb/s", TRANSFER as f64 * 8e-6 / took.as_secs_f64()));
    }
    transfer(&pair.right, &pair.left, pair.a.v4.into(), TRANSFER).unwrap();
    let lost = lost_pings(&pair);
    let changed = changes(&pair, begun);
    say(&format!("vpn {carrier} with loss: {lost} of {PINGS} echoes lost, {changed} changes in {:?}", begun.elapsed()));
    if carrier == "udp" {
        assert!(LOST.contains(&lost), "{lost} of {PINGS} echoes were lost");
    } else {
        assert_eq!(lost, 0, "lanes repeat what is lost");
    }
    assert!(changed <= CHANGES_MAX, "{changed} changes of carriers");
    for space in [&pair.left, &pair.right] {
        let rules = space.nft("list table inet loss").unwrap();
        assert!(!rules.contains("packets 0 "), "nothing was dropped: {rules}");
    }
    for member in [&mut pair.a, &mut pair.b] {
        say(&format!("vpn {carrier} with loss: {}", member.counted().unwrap()));
    }
}

#[test]
fn with_one_of_a_hundred_lost_everything_comes_whole_over_datagrams() {
    if is_possible("with_one_of_a_hundred_lost_everything_comes_whole_over_datagrams") {
        everything_comes_whole("auto", "udp");
    }
}

#[test]
fn with_one_of_a_hundred_lost_everything_comes_whole_over_lanes() {
    if is_possible("with_one_of_a_hundred_lost_everything_comes_whole_over_lanes") {
        everything_comes_whole("lanes", "lanes");
    }
}
