//! Who goes first on a slow cable (`tc tbf`). The bounds are wide, for machines are busy: how short the way of a voice packet
//! is to be, the benchmark says.

use std::process::Stdio;
use std::time::{Duration, Instant};

use shoal_tests::budget::say;
use shoal_tests::space::Space;
use shoal_tests::traffic::Flow;

use super::{Pair, is_possible, on_carrier};

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
