//! Row `loop`: 1 GiB to six real nodes and back, code 4+2, beside the raw rate of the same lanes in the same run. Both
//! take turns, so that what else the machine does falls on both.

use std::time::Duration;

use shoal_protocol::Suite;
use shoal_protocol::layout::Code;
use shoal_tests::bench::Setting;
use shoal_tests::bench::machine::{Work, cores};
use shoal_tests::bench::report::{Limit, context, judged, median, rate};

use crate::codec;
use crate::lanes::{Lanes, Moved, Way};
use crate::transfer::{CODE, Leg, NODES, Turn, file_bytes, make_input, times, turn};

/// Shares of the raw rate: of what a retrieval has to move, and of what an upload has to, which is parity as well.
const LIMIT: f64 = 0.60;
const ROUNDS: usize = 3;
/// File, shards of a turn, what came back, and as much again for whoever else writes.
const COPIES: f64 = 5.0;

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    let Some(bytes) = file_bytes(setting, "loop", COPIES) else { return };
    let place = setting.fresh();
    let input = place.path().join("in");
    let hash = make_input(&input, bytes);
    let lanes = Lanes::new(NODES);
    // The first connections pay for lanes and for the first touch of memory.
    lanes.run(Way::Up, bytes / 8);
    lanes.run(Way::Down, bytes / 8);
    let (mut turns, mut up, mut down): (Vec<Turn>, Vec<Moved>, Vec<Moved>) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        up.push(lanes.run(Way::Up, bytes));
        turns.push(turn(setting, &input, hash, || down.push(lanes.run(Way::Down, bytes))));
    }
    let stretch = (CODE.0 + CODE.1) as f64 / CODE.0 as f64;
    let mib = bytes >> 20;
    let raw = |moved: &[Moved]| moved.iter().map(|moved| moved.took).collect::<Vec<_>>();
    let (raw_up, raw_down) = (raw(&up), raw(&down));

    let what = format!("upload {mib} MiB, {NODES} nodes, {}+{}", CODE.0, CODE.1);
    say(&what, bytes, &times(&turns, |turn| &turn.upload), &raw_up, stretch);
    cost("upload", bytes, &turns, |turn| &turn.upload);
    cost_of_lanes("up", bytes, &up);
    stages(setting, bytes, &turns);

    say(&format!("retrieve {mib} MiB into a file"), bytes, &times(&turns, |turn| &turn.retrieve), &raw_down, 1.0);
    cost("retrieve", bytes, &turns, |turn| &turn.retrieve);
    say(&format!("retrieve {mib} MiB into a pipe"), bytes, &times(&turns, |turn| &turn.stream), &raw_down, 1.0);
    cost("retrieve", bytes, &turns, |turn| &turn.stream);
    cost_of_lanes("down", bytes, &down);
}

/// One figure beside the raw rate; each byte of the file is `stretch` bytes on the lanes.
fn say(what: &str, bytes: u64, ours: &[Duration], raw: &[Duration], stretch: f64) {
    let (speed, lanes) = (rate(bytes, median(ours)), rate(bytes, median(raw)));
    let figure = format!("{speed:.0} MB/s, raw lanes {lanes:.0} MB/s in the same run");
    let unit = if stretch > 1.0 { format!("of raw / {stretch}") } else { "of raw".to_owned() };
    judged(what, &figure, speed * stretch / lanes, &unit, Limit::AtLeast(LIMIT));
    let pairs: Vec<String> = ours
        .iter()
        .zip(raw)
        .map(|(ours, raw)| format!("{:.2}", raw.as_secs_f64() * stretch / ours.as_secs_f64()))
        .collect();
    context(&format!("turns {}", pairs.join(", ")));
}

/// What the programs had of the processors in the turn of the median time.
fn cost(what: &str, bytes: u64, turns: &[Turn], pick: impl Fn(&Turn) -> &Leg) {
    let middle = median(&turns.iter().map(|turn| pick(turn).client.took).collect::<Vec<_>>());
    let Some(leg) = turns.iter().map(&pick).find(|leg| leg.client.took == middle) else { return };
    let all: Work = leg.nodes.iter().copied().sum();
    let least = leg.nodes.iter().map(|work| per_gb(work.seconds(), bytes)).fold(f64::MAX, f64::min);
    let most = leg.nodes.iter().map(|work| per_gb(work.seconds(), bytes)).fold(0.0, f64::max);
    context(&format!(
        "{what}: processor seconds per GB: client {}, all nodes {}, one node {least:.2} to {most:.2}",
        both(leg.client.work, bytes),
        both(all, bytes),
    ));
    let used = (leg.client.work.seconds() + all.seconds()) / (middle.as_secs_f64() * cores() as f64);
    context(&format!(
        "{what}: client and nodes used {:.0} % of the processors; client peak {:.0} MiB",
        used * 100.0,
        leg.client.peak as f64 / f64::from(1 << 20),
    ));
}

fn cost_of_lanes(way: &str, bytes: u64, moved: &[Moved]) {
    let middle = median(&moved.iter().map(|moved| moved.took).collect::<Vec<_>>());
    let Some(moved) = moved.iter().find(|moved| moved.took == middle) else { return };
    context(&format!(
        "raw lanes {way}: processor seconds per GB moved: client {}, all peers {}",
        both(moved.client, bytes),
        both(moved.peers, bytes),
    ));
}

/// What of the client's work in an upload is known by the speeds of its stages, measured alone just now.
fn stages(setting: &Setting, bytes: u64, turns: &[Turn]) {
    // What the client takes by itself where the processor has instructions for it; else this line says too little.
    let suite = if has_aes() { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
    let (speeds, _) = codec::measure(setting, Code::new(CODE.0, CODE.1).unwrap(), suite);
    let [seal, code, mask, hash, rest] = speeds.seconds_per_gb();
    let mut client: Vec<Duration> =
        turns.iter().map(|turn| turn.upload.client.work.user + turn.upload.client.work.system).collect();
    client.sort_unstable();
    let all = per_gb(median(&client).as_secs_f64(), bytes);
    let others = all - seal - code - mask - hash - rest;
    context(&format!(
        "upload: of the client's {all:.2} s: seal {seal:.2}, code {code:.2}, mask {mask:.2}, hash {hash:.2}, between \
         them {rest:.2} ({suite}, by the speeds of the codec alone); read, cut, send, password {others:.2}"
    ));
}

fn has_aes() -> bool {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().any(|line| (line.starts_with("flags") || line.starts_with("Features")) && line.contains(" aes"))
}

fn per_gb(seconds: f64, bytes: u64) -> f64 {
    seconds * 1e9 / bytes as f64
}

fn both(work: Work, bytes: u64) -> String {
    let share = |time: Duration| per_gb(time.as_secs_f64(), bytes);
    format!("{:.2} user + {:.2} system", share(work.user), share(work.system))
}
