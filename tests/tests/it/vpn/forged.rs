//! Forged handshake messages, as many as a machine can send, at a node that carries a connection: who does not know its
//! mesh key takes nothing of it but the time to look.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shoal_protocol::mesh::session::MessageKind;
use shoal_tests::asked::{dropped, vpn};
use shoal_tests::budget::say;
use shoal_tests::forger::Forger;
use shoal_tests::member::Member;
use shoal_tests::process::footprint;
use shoal_tests::traffic::transfer;

use super::{DEVICE, OPEN, Pair, SHOAL, SHOALD, is_possible, reached, until};

/// Messages a second: what the bar for the speed of a tunnel under them is set at.
const RATE: u64 = 100_000;
/// Bytes of each transfer.
const TRANSFER: usize = 32 << 20;
/// What resident memory may grow by: 4,096 reports of 163 bytes are a megabyte, the rest is the transfer's.
const MEMORY_KIB: u64 = 24 * 1024;
/// Where both nodes take datagrams.
const PORT: &str = "4200";

fn rate(took: Duration) -> f64 {
    TRANSFER as f64 * 8e-6 / took.as_secs_f64()
}

#[test]
fn forged_handshakes_take_no_place_of_those_who_belong_here() {
    if !is_possible("forged_handshakes_take_no_place_of_those_who_belong_here") {
        return;
    }
    let mut pair = Pair::new(&["--vpn-carrier", "auto", "--vpn-port", PORT]);
    let target: SocketAddr = format!("10.77.0.2:{PORT}").parse().unwrap();
    let inside = pair.b.v4.into();
    let calm = transfer(&pair.left, &pair.right, inside, TRANSFER).unwrap();
    let before = footprint(pair.b.node.pid()).unwrap();
    let unread = pair.right.counted("RcvbufErrors").unwrap();

    let kinds = [[MessageKind::Initiation; 8].as_slice(), &[MessageKind::Response, MessageKind::CookieReply]].concat();
    let forger = Forger::start(&pair.left, target, &kinds, RATE).unwrap();
    let stormy = transfer(&pair.left, &pair.right, inside, TRANSFER).unwrap();
    transfer(&pair.right, &pair.left, pair.a.v6.into(), TRANSFER).unwrap();
    let after = footprint(pair.b.node.pid()).unwrap();
    let sessions = vpn(SHOAL, &pair.b.node.data, &["status"]).unwrap()["sessions"].as_u64();
    let was = forger.rate();
    say(&format!(
        "vpn: {:.0} Mb/s without, {:.0} Mb/s with {was:.0} forged messages a second; memory {} and {} KiB",
        rate(calm),
        rate(stormy),
        before.peak_kib,
        after.peak_kib,
    ));
    assert_eq!(sessions, Some(1));
    assert!(after.peak_kib < before.peak_kib + MEMORY_KIB, "{before:?}, {after:?}");

    // Somebody who was not there yet is let in while it goes on.
    pair.a.node.kill().unwrap();
    let arguments = [&OPEN[..], &[DEVICE, "--listen", "/ip4/10.77.0.1/tcp/0", "--vpn-port", PORT]].concat();
    let arguments = [&arguments[..], &["--bootstrap", &pair.b.node.address]].concat();
    pair.a = Member::start(SHOALD, &pair.left, &pair.room.path().join("again"), &arguments).unwrap();
    let again = reached(&pair.left, inside, Duration::from_secs(30));
    transfer(&pair.left, &pair.right, inside, 1 << 20).unwrap();

    let begun = Instant::now();
    let sent = forger.finish().unwrap();
    let data = pair.b.node.data.clone();
    let counted = |reason: &str| dropped(SHOAL, &data, reason).unwrap();
    let lost = || pair.right.counted("RcvbufErrors").unwrap() - unread;
    // A fiftieth may have been lost elsewhere: while the forger's own machine was busy, or on its cable.
    let all_counted = || counted("bad_mac1") + counted("cookies-full") + lost() >= sent - sent / 50;
    until("what was sent is counted", Duration::from_secs(20), all_counted);
    say(&format!(
        "vpn: of {sent} forged messages {} had a wrong MAC, {} were cookies too many, {} were not read; reached {again:?} \
         after a restart, counted after {:?}",
        counted("bad_mac1"),
        counted("cookies-full"),
        lost(),
        begun.elapsed(),
    ));
    assert!(counted("bad_mac1") > sent / 4, "most of them were looked at");
    assert_eq!(counted("report-full"), 0, "the control half had room for everybody else");
    say(&format!("vpn: {}", pair.b.counted().unwrap()));
}
