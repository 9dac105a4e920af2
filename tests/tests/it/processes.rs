//! Real programs: six nodes, files in, nodes killed, files out; every exit code a user can meet; signals.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_tests::process::{Shoal, Shoald};
use shoal_tests::sample::bytes;

const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
const SHOAL: &str = env!("CARGO_BIN_EXE_test-shoal");

fn nodes(room: &Path, count: usize, more: &[&str]) -> Vec<Shoald> {
    let mut nodes: Vec<Shoald> = Vec::new();
    for n in 0..count {
        let first = nodes.first().map(|node| node.address.clone());
        let mut arguments = more.to_vec();
        arguments.extend(["--quota", "1GB"]);
        if let Some(first) = &first {
            arguments.extend(["--bootstrap", first]);
        }
        nodes.push(Shoald::start(SHOALD, &room.join(format!("node{n}")), &arguments).unwrap());
    }
    // Ready means that a node listens; who bootstraps from the first is known there a little later.
    let visitor = Shoal::new(SHOAL, &room.join("visitor"));
    let known = || {
        let output = visitor.run(&["plan", "--json", "--peer", &nodes[0].address]).unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["details"]["live_nodes"].as_u64()
    };
    let begun = Instant::now();
    while known() != Some(count as u64) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the first node never heard of the others");
        std::thread::sleep(Duration::from_millis(50));
    }
    nodes
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn expect(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout: {}\nstderr: {}",
        stdout(output),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_file_survives_two_dead_nodes_and_a_fresh_machine_gets_it_back() {
    let room = tempfile::tempdir().unwrap();
    let mut nodes = nodes(room.path(), 6, &["--open"]);
    let file = room.path().join("in.bin");
    let content = bytes(1, 20_000_000);
    std::fs::write(&file, &content).unwrap();
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let manifest = room.path().join("in.shoal");
    let uploaded = shoal
        .run(&["upload", text(&file), "--peer", &nodes[3].address, "--code", "4+2", "--manifest-out", text(&manifest)])
        .unwrap();
    expect(&uploaded, 0);
    let capability = stdout(&uploaded).trim().to_owned();
    assert!(capability.starts_with("shoal1") && !capability.contains(char::is_whitespace), "{capability}");

    nodes[1].kill().unwrap();
    nodes[4].kill().unwrap();
    let fresh = Shoal::new(SHOAL, &room.path().join("fresh"));
    let out = room.path().join("out.bin");
    let retrieved = fresh.run(&["retrieve", &capability, "--peer", &nodes[5].address, "--out", text(&out)]).unwrap();
    expect(&retrieved, 0);
    assert!(std::fs::read(&out).unwrap() == content);
    expect(&fresh.run(&["retrieve", &capability, "--peer", &nodes[5].address, "--out", text(&out)]).unwrap(), 2);
    expect(&fresh.run(&["retrieve", text(&manifest), "--out", text(&out), "--force"]).unwrap(), 0);
    let range = fresh.run(&["cat", &capability, "--range", "65000-66000"]).unwrap();
    expect(&range, 0);
    assert!(range.stdout == content[65_000..66_000]);

    nodes[0].kill().unwrap();
    let gone = room.path().join("gone.bin");
    let begun = Instant::now();
    let failed = fresh.run(&["retrieve", &capability, "--peer", &nodes[5].address, "--out", text(&gone)]).unwrap();
    expect(&failed, 13);
    assert!(begun.elapsed() < Duration::from_secs(10), "took {:?}", begun.elapsed());
    assert!(!gone.exists());
    let left: Vec<_> = std::fs::read_dir(room.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("gone")), "left behind: {left:?}");
}

#[test]
fn every_exit_code_a_user_can_meet() {
    let room = tempfile::tempdir().unwrap();
    let nodes = nodes(room.path(), 3, &["--open"]);
    let file = room.path().join("a.txt");
    std::fs::write(&file, bytes(2, 5_000)).unwrap();
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let peer = nodes[0].address.as_str();
    let manifest = room.path().join("a.shoal");
    let uploaded =
        shoal.run(&["upload", text(&file), "--peer", peer, "--manifest-out", text(&manifest), "--json"]).unwrap();
    expect(&uploaded, 0);
    let report: Value = serde_json::from_slice(&uploaded.stdout).unwrap();
    assert_eq!(
        (report["operation"].as_str(), report["ok"].as_bool(), report["exit"].as_i64()),
        (Some("upload"), Some(true), Some(0))
    );
    let capability = report["details"]["capability"].as_str().unwrap().to_owned();

    let wrong = |arguments: &[&str]| shoal.command(arguments).env("SHOAL_PASSWORD", "wrong").output().unwrap();
    expect(&wrong(&["ls", &capability]), 12);
    expect(&wrong(&["validate", text(&manifest)]), 12);
    expect(&shoal.run(&["validate", text(&manifest)]).unwrap(), 0);
    let mut damaged = std::fs::read(&manifest).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 4;
    std::fs::write(room.path().join("bad.shoal"), damaged).unwrap();
    expect(&shoal.run(&["validate", text(&room.path().join("bad.shoal"))]).unwrap(), 14);
    expect(&shoal.run(&["upload", text(&file), "--code", "4+2"]).unwrap(), 16);
    expect(&shoal.run(&["upload", text(&room.path().join("nothing"))]).unwrap(), 10);
    expect(&shoal.run(&["upload", text(&file), "--code", "fish"]).unwrap(), 2);
    expect(&shoal.run(&["nonsense"]).unwrap(), 2);
    expect(
        &Shoal::new(SHOAL, &room.path().join("x")).run(&["ls", &capability, "--peer", "/ip4/127.0.0.1/tcp/1"]).unwrap(),
        17,
    );
    expect(&shoal.run(&["ls", &capability[..capability.len() - 1]]).unwrap(), 2);

    let failed = wrong(&["retrieve", &capability, "--json", "--out", text(&room.path().join("o"))]);
    expect(&failed, 12);
    let report: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!((report["ok"].as_bool(), report["exit"].as_i64()), (Some(false), Some(12)));
    let listed = shoal.run(&["files", "--json"]).unwrap();
    expect(&listed, 0);
    assert!(stdout(&listed).contains(&capability));
}

#[test]
fn strangers_are_refused_and_members_are_not() {
    let room = tempfile::tempdir().unwrap();
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let id = stdout(&shoal.run(&["id"]).unwrap()).trim().to_owned();
    let mut members = nodes(&room.path().join("m"), 2, &["--allow-peer", &id]);
    let strangers = nodes(&room.path().join("s"), 2, &[]);
    let file = room.path().join("a.bin");
    std::fs::write(&file, bytes(3, 100_000)).unwrap();
    expect(&shoal.run(&["upload", text(&file), "--peer", &strangers[0].address]).unwrap(), 18);
    expect(&shoal.run(&["upload", text(&file), "--peer", &members[0].address]).unwrap(), 0);
    for member in &mut members {
        let took = member.terminate().unwrap();
        assert!(took < Duration::from_secs(2), "SIGTERM took {took:?}");
    }
}

#[test]
fn a_full_swarm_is_exit_15() {
    let room = tempfile::tempdir().unwrap();
    let mut nodes: Vec<Shoald> = Vec::new();
    for n in 0..2 {
        let first = nodes.first().map(|node| node.address.clone());
        let mut arguments = vec!["--open", "--quota", "12MB"];
        arguments.extend(first.iter().flat_map(|first| ["--bootstrap", first]));
        nodes.push(Shoald::start(SHOALD, &room.path().join(format!("n{n}")), &arguments).unwrap());
    }
    let file = room.path().join("big");
    std::fs::write(&file, bytes(4, 40_000_000)).unwrap();
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let output = shoal.command(&["upload", "-", "--peer", &nodes[0].address, "--code", "1+1"]);
    let mut output = output;
    let output = output.stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
    expect(&output, 15);
}

#[test]
fn a_directory_and_standard_input_come_back() {
    let room = tempfile::tempdir().unwrap();
    let nodes = nodes(room.path(), 4, &["--open"]);
    let folder = room.path().join("folder");
    std::fs::create_dir_all(folder.join("sub/empty")).unwrap();
    for n in 0..200usize {
        std::fs::write(folder.join(format!("sub/f{n}")), bytes(n as u64, n * 97)).unwrap();
    }
    std::fs::write(folder.join("sub-a"), b"sorts before sub/").unwrap();
    std::os::unix::fs::symlink("sub/f3", folder.join("link")).unwrap();
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let uploaded = shoal.run(&["upload", text(&folder), "--peer", &nodes[0].address]).unwrap();
    expect(&uploaded, 0);
    let capability = stdout(&uploaded).trim().to_owned();
    let out = room.path().join("out");
    expect(&shoal.run(&["retrieve", &capability, "--out", text(&out)]).unwrap(), 0);
    let different =
        std::process::Command::new("diff").arg("-r").arg("--no-dereference").arg(&folder).arg(&out).output().unwrap();
    assert!(different.status.success(), "{}", stdout(&different));

    let mut command = shoal.command(&["upload", "-", "--peer", &nodes[0].address]);
    let file = room.path().join("in");
    std::fs::write(&file, bytes(9, 700_000)).unwrap();
    let uploaded = command.stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
    expect(&uploaded, 0);
    let back = shoal.run(&["cat", stdout(&uploaded).trim()]).unwrap();
    expect(&back, 0);
    assert!(back.stdout == bytes(9, 700_000));
}

#[test]
fn happy_but_incomplete_is_exit_3_and_says_what_is_missing() {
    let room = tempfile::tempdir().unwrap();
    let mut all = nodes(&room.path().join("open"), 2, &["--open"]);
    let closed = ["--quota", "1GB", "--bootstrap", &all[0].address];
    let closed = Shoald::start(SHOALD, &room.path().join("closed"), &closed).unwrap();
    let denying = closed.id.clone();
    all.push(closed);
    let file = room.path().join("a.bin");
    std::fs::write(&file, bytes(5, 300_000)).unwrap();
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let known: Vec<&str> = all.iter().flat_map(|node| ["--peer", node.address.as_str()]).collect();
    let arguments = [&["upload", text(&file), "--code", "1+2", "--json"], known.as_slice()].concat();
    let uploaded = shoal.run(&arguments).unwrap();
    expect(&uploaded, 3);
    let report: Value = serde_json::from_slice(&uploaded.stdout).unwrap();
    assert!(report["details"].to_string().contains(&denying), "{report}");
    let capability = report["details"]["capability"].as_str().unwrap();
    let back = shoal.run(&[&["cat", capability], known.as_slice()].concat()).unwrap();
    expect(&back, 0);
    assert!(back.stdout == bytes(5, 300_000));
}

#[test]
fn an_interrupted_upload_is_exit_130() {
    let room = tempfile::tempdir().unwrap();
    let nodes = nodes(room.path(), 2, &["--open"]);
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let mut command = shoal.command(&["upload", "-", "--peer", &nodes[0].address]);
    // A pipe that never ends: its writing end stays open until the child is gone.
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&bytes(6, 3_000_000)).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert!(child.try_wait().unwrap().is_none(), "it waits for more");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let begun = Instant::now();
    let output = child.wait_with_output().unwrap();
    expect(&output, 130);
    assert!(output.stdout.is_empty(), "no capability is printed");
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
    drop(pipe);
}

#[test]
fn two_nodes_suffice_for_a_wide_code_when_sharing_is_allowed() {
    let room = tempfile::tempdir().unwrap();
    let nodes = nodes(room.path(), 2, &["--open"]);
    let file = room.path().join("a.bin");
    std::fs::write(&file, bytes(7, 900_000)).unwrap();
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let peer = nodes[0].address.as_str();
    expect(&shoal.run(&["upload", text(&file), "--peer", peer, "--code", "4+2"]).unwrap(), 16);
    let uploaded = shoal.run(&["upload", text(&file), "--peer", peer, "--code", "4+2", "--allow-colocate"]).unwrap();
    expect(&uploaded, 0);
    let back = shoal.run(&["cat", stdout(&uploaded).trim(), "--peer", peer]).unwrap();
    expect(&back, 0);
    assert!(back.stdout == bytes(7, 900_000));
}
