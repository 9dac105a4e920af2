//! Row `memory`: the most memory a client holds while it uploads from a pipe and retrieves into one, by the length of
//! what passes. Code 8+1 over nine nodes, because it stores 1.125 bytes for each and the longest input is long.

use std::io::BufReader;
use std::sync::{Arc, Mutex};

use shoal_tests::bench::Setting;
use shoal_tests::bench::machine::free;
use shoal_tests::bench::report::{Limit, context, judged, rate};

use crate::source;
use crate::swarm::{Drain, Feed, Ran, World};

const NODES: usize = 9;
const CODE: &str = "8+1";
/// Bytes stored for each byte, in eighths.
const STORED_EIGHTHS: u64 = 9;
/// Bytes of the inputs.
const SIZES: [u64; 3] = [64 << 20, 1 << 30, 10 << 30];
/// What is left free of the disk: others use it too, and stores make their files longer before they fill them.
const SPARE: u64 = 4 << 30;
/// MiB at most.
const LIMIT: f64 = 256.0;
/// Times its peak at the second size that the longest may have: flat, but for a few buffers more or less.
const FLAT: f64 = 1.25;

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    let room = free(&setting.dir).saturating_sub(SPARE) * 8 / STORED_EIGHTHS;
    let mut peaks: Vec<(f64, f64)> = Vec::new();
    for full in SIZES {
        let wanted = setting.size(full);
        let bytes = wanted.min(room >> 20 << 20);
        if bytes < wanted {
            println!("memory, {}: SHORTER: the disk has room for {}, code {CODE}", size(wanted), size(bytes));
        }
        if bytes == 0 {
            return;
        }
        let (upload, retrieve) = there_and_back(setting, bytes);
        for (what, ran) in [("upload from a pipe", &upload), ("retrieve into a pipe", &retrieve)] {
            let figure = format!("{:.0} MB/s, code {CODE}", rate(bytes, ran.took));
            let what = format!("client memory, {what}, {}", size(bytes));
            judged(&what, &figure, mib(ran.peak), "MiB", Limit::AtMost(LIMIT));
        }
        peaks.push((mib(upload.peak), mib(retrieve.peak)));
        if bytes < wanted {
            break;
        }
    }
    let [.., second, last] = peaks.as_slice() else { return };
    for (what, before, after) in [("upload", second.0, last.0), ("retrieve", second.1, last.1)] {
        let figure = format!("{before:.0} MiB, then {after:.0} MiB");
        judged(
            &format!("client memory, {what}, the last two sizes"),
            &figure,
            after / before,
            "x",
            Limit::AtMost(FLAT),
        );
    }
    context("most memory of the process as the system counts it (VmHWM), the password hash included");
}

fn there_and_back(setting: &Setting, bytes: u64) -> (Ran, Ran) {
    // Every node holds an eighth of it, and as much again is only offered.
    let world = World::new(setting.fresh(), NODES, bytes / 4 + (1 << 30), CODE);
    let sent = Arc::new(Mutex::new(None));
    let feed: Feed = {
        let sent = Arc::clone(&sent);
        Box::new(move |mut input| *sent.lock().unwrap() = source::write_to(&mut input, bytes).ok())
    };
    let (capability, upload) = world.client.upload_from(feed, CODE);
    let back = Arc::new(Mutex::new(None));
    let drain: Drain = {
        let back = Arc::clone(&back);
        Box::new(move |output| *back.lock().unwrap() = Some(source::hash_of(&mut BufReader::new(output)).unwrap().0))
    };
    let retrieve = world.client.retrieve_to(&capability, drain);
    let (sent, back) = (sent.lock().unwrap().take(), back.lock().unwrap().take());
    assert!(sent.is_some() && sent == back, "what came back differs");
    (upload, retrieve)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn size(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
