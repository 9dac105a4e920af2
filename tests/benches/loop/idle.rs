//! Row `idle`: memory and processor of a node that knows a hundred peers, is connected to as many as it wants, is asked
//! by them as often as they ask, and stores nothing.

use std::thread;
use std::time::{Duration, Instant};

use shoal_tests::bench::Setting;
use shoal_tests::bench::machine::{Work, memory_of};
use shoal_tests::bench::report::{Limit, context, judged};
use shoal_tests::process::Shoald;

use crate::crowd::Crowd;
use crate::swarm::SHOALD;

const PEERS: usize = 100;
/// How long it may take until all are known.
const KNOWN_MAX: Duration = Duration::from_secs(60);
/// Learning goes on more quickly for a while: until then it is not idle.
const REST: Duration = Duration::from_secs(20);
const WATCHED: Duration = Duration::from_secs(60);
const WATCHED_SMALL: Duration = Duration::from_secs(10);
/// MiB at most.
const MEMORY_LIMIT: f64 = 60.0;
/// Hundredths of one core at most.
const WORK_LIMIT: f64 = 1.0;

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    let mut crowd = Crowd::start(PEERS);
    let place = setting.fresh();
    let arguments = ["--open", "--quota", "1GB", "--bootstrap", &crowd.address];
    let node = Shoald::start(SHOALD, &place.path().join("node"), &arguments).unwrap();
    let since = Instant::now();
    // The node gives its own record too.
    loop {
        let (connected, known) = crowd.ask(&node.id);
        if known > PEERS {
            break;
        }
        assert!(since.elapsed() < KNOWN_MAX, "after {KNOWN_MAX:?}: {connected} connected, {known} records");
        thread::sleep(Duration::from_millis(500));
    }
    let learnt = since.elapsed();
    thread::sleep(REST);
    let watched = if setting.small { WATCHED_SMALL } else { WATCHED };
    let (before, since) = (Work::of(node.pid()), Instant::now());
    thread::sleep(watched);
    let (work, took) = (Work::of(node.pid()).since(before), since.elapsed());
    let pid = node.pid().to_string();
    let mib = |name: &str| memory_of(&pid, name).unwrap() as f64 / f64::from(1 << 20);
    let (connected, known) = crowd.ask(&node.id);
    let peers = format!("{} peers known, {connected} connected", known - 1);
    judged("idle shoald, memory", &peers, mib("VmRSS"), "MiB", Limit::AtMost(MEMORY_LIMIT));
    let share = work.seconds() / took.as_secs_f64() * 100.0;
    let figure = format!("{peers}, {:.2} s of {:.0} s", work.seconds(), took.as_secs_f64());
    judged("idle shoald, processor", &figure, share, "% of one core", Limit::AtMost(WORK_LIMIT));
    context(&format!(
        "all known after {:.1} s; memory peak {:.1} MiB, of which program files now {:.1} MiB",
        learnt.as_secs_f64(),
        mib("VmHWM"),
        mib("RssFile"),
    ));
}
