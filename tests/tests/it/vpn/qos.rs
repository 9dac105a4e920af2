//! Who goes first on a slow cable (`tc tbf`), and what limits of peers let through. The bounds are wide, for machines are busy: how short the way of a voice packet
//! is to be, the benchmark says.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use shoal_tests::asked::{dropped, vpn};
use shoal_tests::budget::say;
use shoal_tests::member::Member;
use shoal_tests::space::Space;
use shoal_tests::traffic::Flow;

use super::{DEVICE, OPEN, Pair, SHOAL, SHOALD, is_possible, on_carrier, reached};

/// TCP connections that fill the cable.
const FLOWS: usize = 4;
/// How long they have, and how long they are looked at.
const WARM: Duration = Duration::from_secs(3);
/// Voice packets, and the milliseconds between them.
const PINGS: u32 = 200;
const EVERY_MS: u32 = 20;
/// What half of them may take longer than without the flows, milliseconds. Where nothing makes room for them it is the
/// queue of the cable, 400.
const LATER_MAX: f64 = 60.0;
/// Part of the rate that the flows have at least.
const GOODPUT_MIN: f64 = 0.7;
/// A machine that other work keeps busy is late by itself: of so many times the first that is in time counts.
const TRIES: usize = 3;

fn shape(space: &Space, megabits: u32) {
    // Two milliseconds of the rate at once, some packets at least.
    let (rate, burst) = (format!("{megabits}mbit"), (megabits * 250).max(16 * 1024).to_string());
    let words = ["qdisc", "replace", "dev", "cable", "root", "tbf", "rate", &rate, "burst", &burst, "latency", "400ms"];
    let said = space.command("tc").args(words).stdin(Stdio::null()).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

/// The middle round trip of so many voice packets, milliseconds.
fn voice(pair: &Pair, count: u32) -> f64 {
    let (every, count) = (format!("0.{EVERY_MS:03}"), count.to_string());
    let to = pair.b.v4.to_string();
    // Expedited forwarding (RFC 3246), as the byte of an IP header.
    let said = pair.left.pings(&["-n", "-i", &every, "-c", &count, "-Q", "0xb8", "-W", "5", &to]).unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let after = |line: &str| line.split_once("time=")?.1.split(' ').next()?.parse().ok();
    let mut times: Vec<f64> = said.lines().filter_map(after).collect();
    times.sort_unstable_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::INFINITY)
}

fn voice_goes_first(option: &str, carrier: &str, megabits: u32) {
    let mut pair = Pair::new(&["--vpn-carrier", option]);
    on_carrier(&pair, carrier);
    for space in [&pair.left, &pair.right] {
        shape(space, megabits);
    }
    let idle = voice(&pair, PINGS / 4);
    let flows: Vec<Flow> =
        (0..FLOWS).map(|_| Flow::start(&pair.left, &pair.right, pair.b.v4.into()).unwrap()).collect();
    std::thread::sleep(WARM);
    let in_time = (0..TRIES).any(|_| {
        let begun = Instant::now();
        let busy = voice(&pair, PINGS);
        let bytes: usize = flows.iter().map(|flow| flow.bytes_since(begun)).sum();
        let goodput = bytes as f64 * 8e-6 / begun.elapsed().as_secs_f64() / f64::from(megabits);
        say(&format!(
            "vpn {carrier} at {megabits} Mb/s: voice {idle:.1} ms, beside flows {busy:.1} ms, goodput {:.0} %",
            goodput * 100.0
        ));
        busy < idle + LATER_MAX && goodput > GOODPUT_MIN
    });
    assert!(in_time, "{TRIES} times voice waited, or the flows did");
    for flow in flows {
        flow.finish().unwrap();
    }
    say(&format!("vpn {carrier} at {megabits} Mb/s: {}", pair.a.counted().unwrap()));
}

#[test]
fn voice_goes_before_flows_on_a_slow_cable_over_lanes() {
    if is_possible("voice_goes_before_flows_on_a_slow_cable_over_lanes") {
        voice_goes_first("lanes", "lanes", 5);
        voice_goes_first("lanes", "lanes", 50);
    }
}

#[test]
fn voice_goes_before_flows_on_a_slow_cable_over_datagrams() {
    if is_possible("voice_goes_before_flows_on_a_slow_cable_over_datagrams") {
        voice_goes_first("udp", "udp", 5);
        voice_goes_first("udp", "udp", 50);
    }
}

/// What one TCP connection gets, megabits a second, once it is as fast as it gets.
fn goodput(from: &Space, to: &Space, address: Ipv4Addr) -> f64 {
    let flow = Flow::start(from, to, address.into()).unwrap();
    std::thread::sleep(WARM);
    let begun = Instant::now();
    std::thread::sleep(WARM);
    let rate = flow.bytes_since(begun) as f64 * 8e-6 / begun.elapsed().as_secs_f64();
    flow.finish().unwrap();
    rate
}

/// What of 20 Mb/s of UDP comes within three seconds, megabits a second of IP.
fn datagrams(from: &Space, to: &Space, address: Ipv4Addr) -> f64 {
    let bind = || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?);
    let (near, far) = (from.inside(bind).unwrap(), to.inside(bind).unwrap());
    near.connect((address, far.local_addr().unwrap().port())).unwrap();
    far.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let (begun, payload) = (Instant::now(), [7; 972]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A thousand bytes with their headers, five each two milliseconds.
            while begun.elapsed() < WARM {
                (0..5).for_each(|_| drop(near.send(&payload)));
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let (mut came, mut buffer) = (0_u32, [0; 2048]);
        while begun.elapsed() < WARM || far.recv(&mut buffer).is_ok() {
            came += u32::from(far.recv(&mut buffer).is_ok());
        }
        f64::from(came) * 8e-3 / WARM.as_secs_f64()
    })
}

#[test]
fn a_limit_of_one_peer_holds_both_ways_and_leaves_others_alone() {
    if !is_possible("a_limit_of_one_peer_holds_both_ways_and_leaves_others_alone") {
        return;
    }
    let [left, right, third] = [(); 3].map(|()| Space::new().unwrap());
    left.cable(("cable", "10.77.0.1/24"), &right, ("cable", "10.77.0.2/24")).unwrap();
    left.cable(("other", "10.78.0.1/24"), &third, ("cable", "10.78.0.2/24")).unwrap();
    let room = tempfile::tempdir().unwrap();
    let file = room.path().join("policy.toml");
    std::fs::write(&file, "version = 1\n").unwrap();
    let listen = ["--listen", "/ip4/0.0.0.0/tcp/4100", "--vpn-policy", file.to_str().unwrap()];
    let a = Member::start(SHOALD, &left, &room.path().join("a"), &[&OPEN[..], &[DEVICE], &listen].concat()).unwrap();
    let other = |space: &Space, name: &str, network: &str| {
        let (listen, first) =
            (format!("/ip4/{network}.2/tcp/0"), format!("/ip4/{network}.1/tcp/4100/p2p/{}", a.node.id));
        let arguments = [&OPEN[..], &[DEVICE, "--listen", &listen, "--bootstrap", &first]].concat();
        Member::start(SHOALD, space, &room.path().join(name), &arguments).unwrap()
    };
    let (b, c) = (other(&right, "b", "10.77.0"), other(&third, "c", "10.78.0"));
    for (space, to) in [(&left, b.v4), (&left, c.v4), (&right, a.v4)] {
        reached(space, to.into(), Duration::from_secs(20));
    }

    let limits = format!("version = 1\n[[limits]]\npeer = \"{}\"\nrate = \"20 Mbit\"\nudp = \"5 Mbit\"\n", b.node.id);
    std::fs::write(&file, limits).unwrap();
    vpn(SHOAL, &a.node.data, &["policy", "reload"]).unwrap();
    let counted = |reason: &str| dropped(SHOAL, &a.node.data, reason).unwrap();
    let in_time = (0..TRIES).any(|_| {
        let (out, back) = (goodput(&left, &right, b.v4), goodput(&right, &left, a.v4));
        let (udp, free) = (datagrams(&left, &right, b.v4), goodput(&left, &third, c.v4));
        let (peer, protocol) = (counted("limited-peer"), counted("limited-protocol"));
        say(&format!(
            "vpn limits: TCP {out:.1} Mb/s out, {back:.1} back, UDP {udp:.2}, another peer {free:.1}; \
             {peer} and {protocol} dropped"
        ));
        assert!(out < 21.0 && back < 21.0 && udp < 5.5, "more than the limit");
        out > 17.0 && back > 17.0 && udp > 4.0 && free > 25.0 && protocol > 0
    });
    assert!(in_time, "{TRIES} times a limit or a machine was too slow");
}
