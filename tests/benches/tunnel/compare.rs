//! Row `compare`: the bare cable, lanes, datagrams and every rival that is installed, in turns: one TCP flow, four, packets
//! of 1,400 bytes, pings with nothing else to do, processor time, memory.

use std::time::Duration;

use shoal_tests::bench::Setting;
use shoal_tests::bench::report::{Limit, context, judged, plain};

use crate::contender::{Contender, Running};
use crate::load::{Flows, Pings, median, packets};

/// Turns of each; the middle one counts.
const ROUNDS: usize = 3;
/// How long each load is measured.
const TIME: Duration = Duration::from_secs(5);
const TIME_SMALL: Duration = Duration::from_secs(1);
/// MTU of the device for TCP and pings, and for packets of that size.
const MTU: u16 = 1360;
const PACKET: u16 = 1400;
/// Echo requests, and the milliseconds between them.
const PINGS: usize = 300;
const EVERY_MS: u32 = 10;
/// Times the speed of EasyTier in one TCP flow, at least.
const LANES_LIMIT: f64 = 2.0;
const UDP_LIMIT: f64 = 3.0;
/// Milliseconds that a ping takes more than on the cable, at most.
const LANES_ADDED: f64 = 0.5;
const UDP_ADDED: f64 = 0.3;
/// Whom the limits of speed are set by.
const MEASURE: &str = "easytier";

/// Figures of one turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Megabits a second.
    one: f64,
    four: f64,
    /// Thousands a second.
    packets: f64,
    /// Milliseconds.
    ping: f64,
    /// Processor seconds a gigabit, both ends.
    work: f64,
    /// MiB.
    peak: f64,
}

fn turn(contender: Contender, time: Duration) -> Turn {
    let running = Running::start(contender, MTU);
    let (left, right, to) = (&running.left, &running.right, running.address);
    let ping = Pings::send(left, to.into(), PINGS, EVERY_MS, 0);
    assert!(ping.lost() * 10 < PINGS, "{} of {PINGS} pings were lost", ping.lost());
    let (one, before, after) = Flows::start(left, right, to, 1).measured(time, || running.work());
    let (four, ..) = Flows::start(left, right, to, 4).measured(time, || ());
    let peak = running.peak_mib();
    // A device of our own takes the packets whole; others are as their manuals say.
    let other = matches!(contender, Contender::Shoal(_)).then(|| Running::start(contender, PACKET));
    let running = other.as_ref().unwrap_or(&running);
    let packets = packets(&running.left, &running.right, running.address, PACKET.into(), time);
    Turn {
        one: one.megabits(),
        four: four.megabits(),
        packets: packets / 1e3,
        ping: ping.quantile(0.5),
        work: after.since(before).seconds() / one.gigabits(),
        peak,
    }
}

/// Each figure's middle one.
fn middle(turns: &[Turn]) -> Turn {
    let of = |figure: fn(&Turn) -> f64| median(turns.iter().map(figure).collect());
    Turn {
        one: of(|turn| turn.one),
        four: of(|turn| turn.four),
        packets: of(|turn| turn.packets),
        ping: of(|turn| turn.ping),
        work: of(|turn| turn.work),
        peak: of(|turn| turn.peak),
    }
}

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    let (rounds, time) = if setting.small { (1, TIME_SMALL) } else { (ROUNDS, TIME) };
    let contenders = Contender::all();
    let mut turns: Vec<Vec<Turn>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for (contender, turns) in contenders.iter().zip(&mut turns) {
            let name = contender.name();
            match std::panic::catch_unwind(|| turn(*contender, time)) {
                Ok(turn) => turns.push(turn),
                Err(_) => println!("{name}: turn {round} NOT MEASURED, see the error above"),
            }
        }
    }
    let measured = contenders.iter().zip(&turns).filter(|(_, turns)| !turns.is_empty());
    let measured: Vec<(&str, Turn)> = measured.map(|(contender, turns)| (contender.name(), middle(turns))).collect();
    println!(
        "{:<13} {:>12} {:>12} {:>14} {:>9} {:>8} {:>9}",
        "", "1 flow Mb/s", "4 flows Mb/s", "1400 B kpkt/s", "ping ms", "s / Gb", "peak MiB"
    );
    for (name, turn) in &measured {
        let Turn { one, four, packets, ping, work, peak } = turn;
        println!("{name:<13} {one:>12.0} {four:>12.0} {packets:>14.1} {ping:>9.3} {work:>8.3} {peak:>9.1}");
    }
    for (name, limit, added) in [("lanes", LANES_LIMIT, LANES_ADDED), ("udp", UDP_LIMIT, UDP_ADDED)] {
        judge(name, limit, added, &measured);
    }
    context(&format!("medians of {rounds} turns each, {time:?} a load; MTU {MTU}, for packets {PACKET}"));
    context("processor time is that of the programs of both ends in one flow; the kernel's own threads are not in it");
}

fn judge(name: &str, limit: f64, added: f64, measured: &[(&str, Turn)]) {
    let of = |name: &str| measured.iter().find(|(known, _)| *known == name).map(|(_, turn)| *turn);
    let Some(own) = of(name) else { return };
    if let Some(cable) = of("cable") {
        let figure = format!("{:.3} ms, the cable {:.3} ms", own.ping, cable.ping);
        judged(&format!("{name}, added ping, idle"), &figure, own.ping - cable.ping, "ms", Limit::AtMost(added));
    }
    if of(MEASURE).is_none() {
        println!("{name} beside {MEASURE}: not measured: {MEASURE} is not installed, or carried nothing");
    }
    for (other, turn) in measured.iter().filter(|(other, _)| !["cable", "lanes", "udp"].contains(other)) {
        let figure = format!("{:.0} Mb/s, {:.0} Mb/s in the same run", own.one, turn.one);
        let what = format!("{name} beside {other}, one flow");
        if *other == MEASURE {
            judged(&what, &figure, own.one / turn.one, "x", Limit::AtLeast(limit));
        } else {
            plain(&what, &format!("{figure}: {:.2} x", own.one / turn.one));
        }
        let ratios = [own.four / turn.four, own.packets / turn.packets, turn.work / own.work];
        let [four, packets, work] = ratios.map(|ratio| format!("{ratio:.2} x"));
        context(&format!("four flows {four}, packets {packets}, gigabits a processor second {work}"));
    }
}
