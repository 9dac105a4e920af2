//! Two nodes and a cable, with each carrier: what is there when a node says that it is ready, and what goes through.

use std::net::IpAddr;
use std::time::Duration;

use shoal_tests::budget::say;
use shoal_tests::member::{Member, addresses_of};
use shoal_tests::space::Space;
use shoal_tests::traffic::{echo, transfer};

use super::{DEVICE, OPEN, Pair, SHOALD, is_possible, until};

/// Bytes sent each way over each family.
const TRANSFER: usize = 64 << 20;
/// The device's MTU where none is asked for.
const MTU: usize = 1280;
/// Sizes of datagrams: nothing, odd ones, what just fits and what just does not, and such as IP cuts into many.
const SIZES: [usize; 14] = [0, 1, 2, 63, 512, 1_231, 1_232, 1_233, 1_252, 1_253, 4_000, 9_001, 30_000, 65_000];

/// Bytes of an echo request that fills a packet of `mtu`.
const fn filling(to: IpAddr, mtu: usize) -> usize {
    mtu - if to.is_ipv4() { 28 } else { 48 }
}

/// Segments of TCP that came out of order, and such as were sent again; those of the lanes below are among them.
fn trouble(from: &Space, to: &Space) -> (u64, u64) {
    (to.counted("TCPOFOQueue").unwrap(), from.counted("RetransSegs").unwrap())
}

fn everything_goes_through(carrier: &str) {
    let mut pair = Pair::new(&["--vpn-carrier", carrier]);
    for to in pair.b.addresses() {
        let fits = filling(to, MTU);
        assert!(pair.left.ping(to, 8).unwrap() && pair.left.ping(to, fits).unwrap(), "{to} over {carrier}");
        assert!(!pair.left.ping(to, fits + 1).unwrap(), "the kernel cuts what is longer than the device's MTU");
    }
    let (left, right) = (&pair.left, &pair.right);
    for (from, to, addresses) in [(left, right, pair.b.addresses()), (right, left, pair.a.addresses())] {
        for address in addresses {
            let before = trouble(from, to);
            let took = transfer(from, to, address, TRANSFER).unwrap();
            let rate = TRANSFER as f64 * 8e-6 / took.as_secs_f64();
            let (late, again) = (trouble(from, to).0 - before.0, trouble(from, to).1 - before.1);
            say(&format!("vpn {carrier}: {late} segments out of order, {again} sent again"));
            let again = echo(from, to, address, &SIZES).unwrap();
            say(&format!("vpn {carrier}: {rate:.0} Mb/s to {address}, {again} of {} datagrams twice", SIZES.len()));
        }
    }
    say(&format!("vpn {carrier}: {}", pair.a.counted().unwrap()));
    say(&format!("vpn {carrier}: {}", pair.b.counted().unwrap()));
}

#[test]
fn everything_goes_through_lanes() {
    if is_possible("everything_goes_through_lanes") {
        everything_goes_through("lanes");
    }
}

#[test]
fn everything_goes_through_datagrams() {
    if is_possible("everything_goes_through_datagrams") {
        everything_goes_through("udp");
    }
}

#[test]
fn everything_goes_through_what_the_node_chooses() {
    if is_possible("everything_goes_through_what_the_node_chooses") {
        everything_goes_through("auto");
    }
}

#[test]
fn a_longer_packet_than_a_datagram_takes_is_cut_or_refused_with_the_size_that_fits() {
    if !is_possible("a_longer_packet_than_a_datagram_takes_is_cut_or_refused_with_the_size_that_fits") {
        return;
    }
    let pair = Pair::new(&["--vpn-carrier", "udp", "--vpn-mtu", "9000"]);
    for to in pair.b.addresses() {
        // Until the lane that serves at first is gone even the longest goes.
        let refused = || !pair.left.ping(to, filling(to, 9000)).unwrap();
        let took = until("a packet of 9000 bytes is refused", Duration::from_secs(10), refused);
        let known = pair.left.ip(&format!("route get {to}")).unwrap();
        say(&format!("vpn: {to} after {took:?}: {}", known.replace('\n', " ")));
        assert!(known.contains("mtu "), "{known}");
        transfer(&pair.left, &pair.right, to, 8 << 20).unwrap();
        echo(&pair.left, &pair.right, to, &SIZES).unwrap();
    }
}

#[test]
fn device_and_addresses_are_there_before_a_node_is_ready() {
    if !is_possible("device_and_addresses_are_there_before_a_node_is_ready") {
        return;
    }
    let space = Space::new().unwrap();
    let room = tempfile::tempdir().unwrap();
    for (name, more) in [("a", &[][..]), ("b", &["--vpn-pool", "10.9.0.0/16", "--vpn-mtu", "1400"][..])] {
        let arguments = [&OPEN[..], &[DEVICE, "--listen", "/ip4/127.0.0.1/tcp/0"], more].concat();
        let member = Member::start(SHOALD, &space, &room.path().join(name), &arguments).unwrap();
        let found = addresses_of(&space, DEVICE).unwrap();
        let (bits, mtu) = if more.is_empty() { (10, "mtu 1280") } else { (16, "mtu 1400") };
        for expected in [format!("{}/{bits}", member.v4), format!("{}/48", member.v6)] {
            assert!(found.contains(&expected), "{expected} is not in {found:?}");
        }
        let octets = member.v4.octets();
        let is_inside = if bits == 16 { octets[..2] == [10, 9] } else { octets[0] == 100 && octets[1] & 0xc0 == 64 };
        assert!(is_inside && member.v6.octets()[0] == 0xfd, "{} {}", member.v4, member.v6);
        let link = space.ip(&format!("link show dev {DEVICE}")).unwrap();
        assert!(link.contains(mtu) && link.contains(",UP"), "{link}");
        assert_eq!(member.device.as_deref(), Some(DEVICE));
    }
}
