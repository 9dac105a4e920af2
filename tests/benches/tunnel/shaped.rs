//! Row `shaped`: a voice packet's way beside four bulk flows on a slow cable (`tc tbf`), on lanes and on datagrams, and
//! what of the cable's own speed the flows have. Beside them the cable without a tunnel, whose queue nobody keeps short.

use std::process::Stdio;
use std::time::Duration;

use shoal_tests::bench::Setting;
use shoal_tests::bench::report::{Limit, context, judged};
use shoal_tests::space::Space;

use crate::contender::{Contender, Running};
use crate::load::{Flows, Pings};

/// Megabits a second, and the milliseconds a voice packet may take more there and back.
const RATES: [(u32, f64); 3] = [(5, 15.0), (50, 8.0), (500, 5.0)];
const MTU: u16 = 1360;
const FLOWS: usize = 4;
/// Part of the bare cable's goodput that four flows have in the tunnel, at least.
const GOODPUT_LIMIT: f64 = 0.9;
/// Expedited forwarding, as telephones mark their packets (RFC 3246), as the byte of an IP header.
const VOICE: u8 = 0xb8;
/// Milliseconds between voice packets, as of most codecs, and for how long.
const EVERY_MS: u32 = 20;
const TIME: Duration = Duration::from_secs(15);
const TIME_SMALL: Duration = Duration::from_secs(3);
/// What the filter lets pass at once: 2 ms of its rate, for a timer is not more exact, at least some packets.
const BURST_MS: u32 = 2;
const BURST_MIN: u32 = 16 * 1024;
/// What waits in its queue before it drops: as much as home routers have, so that whoever fills it waits for it.
const LATENCY: &str = "400ms";

fn shape(space: &Space, megabits: u32) {
    let (rate, burst) = (format!("{megabits}mbit"), (megabits * 1000 / 8 * BURST_MS).max(BURST_MIN).to_string());
    let words = ["qdisc", "replace", "dev", "cable", "root", "tbf", "rate", &rate, "burst", &burst, "latency", LATENCY];
    let said = space.command("tc").args(words).stdin(Stdio::null()).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

/// Megabits a second of the flows; voice pings without them and with them.
struct Measured {
    goodput: f64,
    idle: Pings,
    busy: Pings,
}

fn measure(contender: Contender, megabits: u32, time: Duration) -> Measured {
    let running = Running::start(contender, MTU);
    for space in [&running.left, &running.right] {
        shape(space, megabits);
    }
    let (left, right, to) = (&running.left, &running.right, running.address);
    let count = usize::try_from(time.as_millis() / u128::from(EVERY_MS)).unwrap();
    let idle = Pings::send(left, to.into(), count / 4, EVERY_MS, VOICE);
    let flows = Flows::start(left, right, to, FLOWS);
    // The window of a flow and what is learnt of the cable take a while on a slow one.
    flows.during(time / 3);
    let (goodput, busy) = std::thread::scope(|scope| {
        let pings = scope.spawn(|| Pings::send(left, to.into(), count, EVERY_MS, VOICE));
        let rate = flows.during(time);
        (rate.megabits(), pings.join().unwrap())
    });
    Measured { goodput, idle, busy }
}

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    let time = if setting.small { TIME_SMALL } else { TIME };
    for (megabits, limit) in RATES {
        let cable = measure(Contender::Cable, megabits, time);
        context(&format!(
            "{megabits} Mb/s, the cable alone: {:.2} Mb/s, voice {:.2} ms, beside the flows {:.2} ms, {} of them lost",
            cable.goodput,
            cable.idle.mean(),
            cable.busy.mean(),
            cable.busy.lost(),
        ));
        for carrier in ["lanes", "udp"] {
            let Measured { goodput, idle, busy } = measure(Contender::Shoal(carrier), megabits, time);
            let (base, mean, late) = (idle.mean(), busy.mean(), busy.quantile(0.99));
            let figure = format!("{mean:.2} ms, idle {base:.2} ms, p99 {late:.2} ms, {} lost", busy.lost());
            let what = format!("{carrier}, {megabits} Mb/s, voice beside {FLOWS} flows");
            judged(&what, &figure, mean - base, "ms more", Limit::AtMost(limit));
            let share = goodput / f64::from(megabits) * 100.0;
            let figure = format!("{goodput:.2} Mb/s, {share:.1} % of the rate, the cable alone {:.2}", cable.goodput);
            let what = format!("{carrier}, {megabits} Mb/s, goodput");
            judged(&what, &figure, goodput / cable.goodput, "of the cable's", Limit::AtLeast(GOODPUT_LIMIT));
        }
    }
    context(&format!(
        "tbf on both ends of the cable, queue of {LATENCY}; means of pings of {EVERY_MS} ms for {time:?}"
    ));
}
