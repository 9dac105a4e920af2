//! `shoald store` as people use it: beside a running node, without one, on damaged, missing and foreign files.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_tests::process::{NETWORK, Shoal, Shoald};
use shoal_tests::sample::bytes;

const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
const SHOAL: &str = env!("CARGO_BIN_EXE_test-shoal");
const WAIT: Duration = Duration::from_secs(20);

/// A directory with a node that holds one upload.
struct Room {
    place: tempfile::TempDir,
    data: PathBuf,
}

impl Room {
    fn new() -> (Self, Shoald) {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("node");
        let node = Shoald::start(SHOALD, &data, &["--open", "--quota", "1GB"]).unwrap();
        let file = place.path().join("in.bin");
        std::fs::write(&file, bytes(11, 3_000_000)).unwrap();
        let shoal = Shoal::new(SHOAL, &place.path().join("home"));
        let upload = ["upload", file.to_str().unwrap(), "--peer", &node.address, "--code", "1+1", "--allow-colocate"];
        expect(&shoal.run(&upload).unwrap(), 0);
        (Self { place, data }, node)
    }

    /// `shoald store` with these words on the node's directory.
    fn store(&self, words: &[&str]) -> Output {
        store(&self.data, words)
    }

    fn status(&self) -> Value {
        let status = self.store(&["status", "--json"]);
        expect(&status, 0);
        serde_json::from_slice(&status.stdout).unwrap()
    }

    fn job(&self, name: &str) -> Value {
        let status = self.status();
        status["jobs"].as_array().unwrap().iter().find(|job| job["name"] == name).unwrap().clone()
    }

    /// Waits until a job is as asked.
    fn wait_for(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let job = self.job(name);
            if wanted(&job) {
                return job;
            }
            assert!(begun.elapsed() < WAIT, "never came: {job}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Changes one bit in the bytes of a shard.
    fn damage(&self) {
        let segments = std::fs::read_dir(self.data.join("segments")).unwrap().map(|entry| entry.unwrap().path());
        let mut segments: Vec<PathBuf> = segments.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
        segments.sort();
        let mut content = std::fs::read(&segments[0]).unwrap();
        content[1_000_000] ^= 4;
        std::fs::write(&segments[0], content).unwrap();
    }
}

fn store(data: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(SHOALD);
    command.arg("store").args(words).arg("--data-dir").arg(data).stdin(Stdio::null());
    command.output().unwrap()
}

fn run(data: &Path) -> Output {
    let mut command = Command::new(SHOALD);
    command.args(["run", "--network", NETWORK, "--listen", "/ip4/127.0.0.1/tcp/0", "--quota", "1GB", "--data-dir"]);
    command.arg(data).stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn expect(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", stdout(output), stderr(output));
}

/// Its exit code, and that it says all of these in three lines.
#[track_caller]
fn refused(output: &Output, code: i32, texts: &[&str]) {
    expect(output, code);
    let said = stderr(output);
    for text in texts.iter().chain(&["error: ", "  why: ", "  try: "]) {
        assert!(said.contains(text), "{text:?} is not in {said}");
    }
}

fn note(job: &Value, name: &str) -> u64 {
    let notes = job["progress"]["notes"].as_array().unwrap();
    notes.iter().find(|note| note[0] == name).unwrap()[1].as_u64().unwrap()
}

/// What is answered to these bytes.
fn say(data: &Path, bytes: &[u8]) -> Value {
    let mut stream = UnixStream::connect(data.join("control.sock")).unwrap();
    // The node answers what is too long before it was sent to the end.
    let _ = stream.write_all(bytes);
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).unwrap();
    let mut json = vec![0; u32::from_be_bytes(prefix) as usize];
    stream.read_exact(&mut json).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// What is answered to a request of this text.
fn ask(data: &Path, json: &[u8]) -> Value {
    say(data, &[&(json.len() as u32).to_be_bytes()[..], json].concat())
}

#[test]
fn a_running_node_says_how_its_store_is_and_its_jobs_obey() {
    let (room, _node) = Room::new();
    let status = room.status();
    assert_eq!((status["health"].as_str(), status["losses"].as_u64()), (Some("good"), Some(0)));
    assert_eq!(status["usage"]["quota"].as_u64(), Some(1_000_000_000));
    assert!(status["shards"].as_u64().unwrap() > 1 && status["usage"]["stored"].as_u64().unwrap() > 6_000_000);
    let text = stdout(&room.store(&["status"]));
    for line in
        ["node      running", "health    good", "of 1.0 GB", "\nscrub ", "\ncompact ", "\nexpire ", "last error"]
    {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }

    expect(&room.store(&["scrub", "pause"]), 0);
    room.wait_for("scrub", |job| job["state"] == "paused");
    expect(&room.store(&["scrub", "resume", "--speed", "9"]), 0);
    let job = room.wait_for("scrub", |job| job["state"] != "paused");
    assert_eq!(job["tranquility"].as_u64(), Some(9));

    let started = room.store(&["scrub", "--speed", "0"]);
    expect(&started, 0);
    assert!(stdout(&started).contains("scrub is started") && stdout(&started).contains("shoald store status"));
    let done = |job: &Value| job["state"] == "waiting" && note(job, "records") > 0 && job["next_ms"] != 0;
    let job = room.wait_for("scrub", done);
    assert_eq!((job["tranquility"].as_u64(), note(&job, "damaged"), note(&job, "lost")), (Some(0), 0, 0));
    assert!(note(&job, "bytes") > 6_000_000 && note(&job, "ended_ms") >= note(&job, "begun_ms"));
    assert!(stdout(&room.store(&["status"])).contains("ago: "));

    for words in [&["compact"][..], &["expire"], &["compact", "pause"], &["expire", "cancel"], &["compact", "resume"]] {
        expect(&room.store(words), 0);
    }
    let answer = room.store(&["expire", "pause", "--json"]);
    expect(&answer, 0);
    let job: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(job["name"].as_str(), Some("expire"));
}

#[test]
fn what_needs_a_stopped_node_is_refused_while_one_runs() {
    let (room, _node) = Room::new();
    refused(&room.store(&["fsck"]), 18, &["in use", "stop shoald first"]);
    refused(&room.store(&["rebuild-index"]), 18, &["in use", "stop shoald first"]);
    refused(&run(&room.data), 18, &["in use by another process"]);
    // Without its socket the store stays locked, and a command does not get at it either.
    std::fs::remove_file(room.data.join("control.sock")).unwrap();
    refused(&room.store(&["status"]), 18, &["in use"]);
}

#[test]
fn nonsense_on_the_socket_gets_an_error_and_the_node_lives() {
    let (room, mut node) = Room::new();
    let long = [br#"{"version":1,"request":{"store.status":{}}}"#.to_vec(), vec![b' '; 100_000]].concat();
    let requests: [(&[u8], &str); 6] = [
        (b"fish", "malformed"),
        (b"\xff\x00", "malformed"),
        (br#"{"version":1,"request":{"store.status":7}}"#, "malformed"),
        (br#"{"version":9,"request":{"store.status":{}}}"#, "version"),
        (br#"{"version":1,"request":{"store.job":{"name":"fish","command":"start"}}}"#, "not-found"),
        (&long, "malformed"),
    ];
    for (request, code) in requests {
        let answer = ask(&room.data, request);
        assert_eq!((answer["version"].as_u64(), answer["error"]["code"].as_str()), (Some(1), Some(code)), "{answer}");
    }
    // Not even a length of four bytes that may be: a line of an earlier release.
    assert_eq!(say(&room.data, b"{\"status\":{}}\n")["error"]["code"].as_str(), Some("malformed"));
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(room.data.join("control.sock")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    // More than are served at a time, silent or gone at once.
    let silent: Vec<UnixStream> =
        (0..40).map(|_| UnixStream::connect(room.data.join("control.sock")).unwrap()).collect();
    drop(silent);
    let status = ask(&room.data, br#"{"version":1,"request":{"store.status":{}}}"#);
    assert_eq!(status["ok"]["health"].as_str(), Some("good"));
    assert!(node.terminate().unwrap() < Duration::from_secs(2));
    assert!(!room.data.join("control.sock").exists());
}

#[test]
fn a_stopped_store_is_looked_after_without_its_node() {
    let (room, mut node) = Room::new();
    let shards = room.status()["shards"].as_u64();
    // Killed, it leaves its socket behind: that is no node.
    node.kill().unwrap();
    assert!(room.data.join("control.sock").exists());
    let status = room.store(&["status", "--quota", "1GB"]);
    expect(&status, 0);
    assert!(stdout(&status).contains("node      stopped"), "{}", stdout(&status));
    assert_eq!(room.status()["shards"].as_u64(), shards);
    let scrub = room.store(&["scrub", "--quota", "1GB"]);
    expect(&scrub, 0);
    for line in
        ["scrub is done", "records", "bytes", "damaged           0", "lost              0", "repaired          0"]
    {
        assert!(stdout(&scrub).contains(line), "{line:?} is not in {}", stdout(&scrub));
    }
    expect(&room.store(&["compact", "--quota", "1GB"]), 0);
    expect(&room.store(&["expire", "--quota", "1GB", "--json"]), 0);
    refused(&room.store(&["scrub", "pause"]), 10, &["no node runs"]);
    refused(&room.store(&["compact", "--speed", "1"]), 10, &["no node runs"]);
    refused(&room.store(&["status", "--quota", "fish"]), 2, &["--quota 25GB"]);

    let fsck = room.store(&["fsck"]);
    expect(&fsck, 0);
    assert!(stdout(&fsck).contains("index     whole") && stdout(&fsck).contains("damaged   0"), "{}", stdout(&fsck));
    let rebuilt = room.store(&["rebuild-index", "--quota", "1GB"]);
    expect(&rebuilt, 0);
    assert!(stdout(&rebuilt).contains(&format!(" {} shards", shards.unwrap())), "{}", stdout(&rebuilt));
    let fsck = room.store(&["fsck", "--json"]);
    expect(&fsck, 0);
    let report: Value = serde_json::from_slice(&fsck.stdout).unwrap();
    assert_eq!((report["snapshot"].as_bool(), report["damaged"].as_u64()), (Some(true), Some(0)));

    let again = Shoald::start(SHOALD, &room.data, &["--open", "--quota", "1GB"]).unwrap();
    assert_eq!(room.status()["shards"].as_u64(), shards);
    drop(again);
}

#[test]
fn a_flipped_bit_is_found_taken_out_of_use_and_compacted_away() {
    let (room, mut node) = Room::new();
    let shards = room.status()["shards"].as_u64().unwrap();
    node.terminate().unwrap();
    room.damage();
    let fsck = room.store(&["fsck"]);
    refused(&fsck, 1, &["damaged places found: 1", "shoald store scrub"]);
    let listed = stdout(&fsck);
    assert!(listed.contains("  segment 0000000000000000 offset ") && listed.contains("Body, key "), "{listed}");
    let report = room.store(&["fsck", "--json"]);
    expect(&report, 1);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!((report["damaged"].as_u64(), report["places"].as_array().map(Vec::len)), (Some(1), Some(1)));

    let scrub = room.store(&["scrub", "--quota", "1GB"]);
    refused(&scrub, 14, &["damaged places found: 1", "other holders repair", "`shoald store fsck` for the list"]);
    assert!(stdout(&scrub).contains("lost              1"), "{}", stdout(&scrub));
    let status = room.status();
    assert_eq!((status["losses"].as_u64(), status["shards"].as_u64()), (Some(1), Some(shards - 1)));
    assert_eq!(status["suspect"].as_u64(), Some(1));
    let compact = room.store(&["compact", "--quota", "1GB"]);
    expect(&compact, 0);
    assert!(stdout(&compact).contains("segments removed  1"), "{}", stdout(&compact));
    expect(&room.store(&["fsck"]), 0);
    assert_eq!(room.status()["suspect"].as_u64(), Some(0));
    let again = room.store(&["scrub", "--quota", "1GB"]);
    expect(&again, 0);
    assert!(stdout(&again).contains("lost              0"), "{}", stdout(&again));
}

#[test]
fn a_damaged_index_is_found_and_made_anew() {
    let (room, mut node) = Room::new();
    node.terminate().unwrap();
    let index = room.data.join("index");
    let mut content = std::fs::read(&index).unwrap();
    content[150] ^= 1;
    std::fs::write(&index, content).unwrap();
    let fsck = room.store(&["fsck"]);
    refused(&fsck, 1, &["rebuild-index"]);
    assert!(stdout(&fsck).contains("index     damaged"), "{}", stdout(&fsck));
    expect(&room.store(&["rebuild-index", "--quota", "1GB"]), 0);
    expect(&room.store(&["fsck"]), 0);
}

#[test]
fn missing_and_foreign_segments_are_refused_and_nothing_is_made() {
    let (room, mut node) = Room::new();
    let (other, mut second) = Room::new();
    node.terminate().unwrap();
    second.terminate().unwrap();
    let (segments, aside) = (room.data.join("segments"), room.place.path().join("aside"));
    std::fs::rename(&segments, &aside).unwrap();
    std::fs::create_dir(&segments).unwrap();
    let name = segments.to_str().unwrap().to_owned();
    refused(&run(&room.data), 18, &[&name, "not mounted", "mount it"]);
    for words in [&["status"][..], &["scrub"], &["fsck"], &["rebuild-index"]] {
        refused(&room.store(words), 18, &[&name, "not mounted"]);
    }
    assert_eq!(std::fs::read_dir(&segments).unwrap().count(), 0);

    std::fs::remove_dir(&segments).unwrap();
    std::fs::rename(other.data.join("segments"), &segments).unwrap();
    refused(&run(&room.data), 18, &[&name, "belongs to another store", "mount the disk of this node"]);
    refused(&room.store(&["fsck"]), 18, &["belongs to another store"]);

    std::fs::remove_dir_all(&segments).unwrap();
    std::fs::rename(&aside, &segments).unwrap();
    expect(&room.store(&["fsck"]), 0);
    let nothing = room.place.path().join("nothing");
    for words in [&["status"][..], &["compact"], &["fsck"], &["rebuild-index"]] {
        refused(&store(&nothing, words), 10, &["holds no node"]);
    }
    assert!(!nothing.exists());
}
