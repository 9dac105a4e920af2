//! A slow uplink and many nodes: shards share it without any of them being so slow that it is given up.

use serde_json::Value;
use shoal_tests::budget::{UPLINK_BYTES, say};
use shoal_tests::netns::{Lab, NODES};
use shoal_tests::process::{Shoal, Shoald};
use shoal_tests::sample::bytes;

const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
const SHOAL: &str = env!("CARGO_BIN_EXE_test-shoal");
const NODE_COUNT: usize = 30;
/// 5 Mb/s.
const UPLINK_KILOBITS: u32 = 5_000;

#[test]
fn a_slow_uplink_and_thirty_nodes_end_in_a_complete_upload() {
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(error) if std::env::var_os("CI").is_none() => {
            say(&format!("uplink: SKIPPED, no network namespaces here: {error:#}"));
            return;
        }
        Err(error) => panic!("{error:#}"),
    };
    lab.limit_client(UPLINK_KILOBITS).unwrap();
    let room = tempfile::tempdir().unwrap();
    let mut nodes: Vec<Shoald> = Vec::new();
    for number in 0..NODE_COUNT {
        let mut more = vec!["--open".to_owned(), "--quota".to_owned(), "1GB".to_owned()];
        if let Some(first) = nodes.first() {
            more.extend(["--bootstrap".to_owned(), first.address.clone()]);
        }
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let data = room.path().join(number.to_string());
        nodes.push(Shoald::start_as(lab.on_nodes(SHOALD), NODES, &data, &more).unwrap());
    }
    let length = UPLINK_BYTES.take();
    let path = room.path().join("file.bin");
    std::fs::write(&path, bytes(40, length)).unwrap();
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let mut arguments = vec!["upload", path.to_str().unwrap(), "--json", "--code", "8+8"];
    for node in &nodes {
        arguments.extend(["--peer", &node.address]);
    }
    let begun = std::time::Instant::now();
    let output = shoal.command_as(lab.on_client(SHOAL), &arguments).output().unwrap();
    let took = begun.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(output.status.code(), Some(0), "{report:#} {said}");
    assert_eq!(report["details"]["failed"].as_array().map(Vec::len), Some(0), "{report:#}");
    let coded = report["details"]["coded_bytes"].as_u64().unwrap();
    let least = coded as f64 * 8.0 / (f64::from(UPLINK_KILOBITS) * 1000.0);
    say(&format!("{coded} bytes of shards over 5 Mb/s to {NODE_COUNT} nodes: {took:?}, at least {least:.1} s"));
    // All of it went through that uplink, and none of it twice.
    assert!(took.as_secs_f64() > least * 0.9 && took.as_secs_f64() < least * 2.0 + 20.0, "{took:?}");
}
