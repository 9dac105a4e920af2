//! Audits over the in-memory swarm with nodes that forget, lie, replay and are gone, and with the real programs: bytes
//! changed under a running node, the verify capability alone, transcripts judged again.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use shoal_client::audit::{Doubt, Lie, Verdict};
use shoal_client::client::{AuditOptions, Audited, Failure, OpenFile, Secret};
use shoal_client::memory::Fault;
use shoal_protocol::audit::Challenge;
use shoal_protocol::{NodeId, Refusal};
use shoal_tests::process::{Shoal, Shoald};
use shoal_tests::sample::{MemoryWorld, bytes, one_file, options};

const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
const SHOAL: &str = env!("CARGO_BIN_EXE_test-shoal");

/// A swarm of six with one upload of 4+2, opened with the verify capability.
async fn world(seed: u64, audit_rounds: u8) -> (MemoryWorld, OpenFile) {
    let world = MemoryWorld::new(seed, 6).await.unwrap();
    let mut options = options(4, 2);
    options.audit_rounds = audit_rounds;
    let uploaded = world.upload(one_file(bytes(seed, 9_000_000)), &options).await.unwrap();
    let verify = &uploaded.capabilities.verify;
    let file = world.client.open(verify, None, &Secret::None, &mut world.fleet()).await.unwrap();
    assert!(!file.can_read());
    (world, file)
}

async fn audit(world: &MemoryWorld, file: &OpenFile, options: &AuditOptions) -> Vec<Audited> {
    let mut all = Vec::new();
    let nowhere = world.client.audit(file, &world.fleet(), options, &mut |audited| all.push(audited)).await;
    assert!(nowhere.is_empty());
    all
}

fn slices(rounds: u32) -> AuditOptions {
    AuditOptions { sample: 64, rounds, tokens: BTreeMap::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verify_capability_alone_has_everything_proved() {
    let (world, file) = world(60, 0).await;
    let all = audit(&world, &file, &slices(2)).await;
    assert_eq!(all.len(), 2 * file.shard_places().len());
    assert!(all.iter().all(|audited| audited.verdict == Verdict::Proved), "{all:?}");
    let mut seeds = std::collections::BTreeSet::new();
    for audited in &all {
        let Challenge::Slices { seed, .. } = audited.entry.request.challenge else { panic!("{audited:?}") };
        assert!(seeds.insert(seed), "every question has a seed of its own");
    }
    let few = audit(&world, &file, &AuditOptions { sample: 1, ..slices(3) }).await;
    let mut by_node: BTreeMap<(u32, NodeId), usize> = BTreeMap::new();
    few.iter().for_each(|audited| *by_node.entry((audited.round, audited.entry.node)).or_default() += 1);
    assert!(by_node.len() == 18 && by_node.values().all(|count| *count == 1), "{by_node:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_node_gets_its_verdict_and_no_other_node_does() {
    let (world, file) = world(61, 0).await;
    let ids = world.swarm.ids();
    let faults = [
        Fault::Forgets,
        Fault::Corrupts,
        Fault::Truncates,
        Fault::Down,
        Fault::Refuses(Refusal::Damaged),
        Fault::Refuses(Refusal::Busy),
        Fault::Refuses(Refusal::Unsupported),
        Fault::ReplaysAudits,
    ];
    for fault in faults {
        world.swarm.set(ids[2], fault);
        let all = audit(&world, &file, &slices(2)).await;
        let (bad, good): (Vec<_>, Vec<_>) = all.iter().partition(|audited| audited.entry.node == ids[2]);
        assert!(bad.len() > 2 && good.len() > 10);
        assert!(good.iter().all(|audited| audited.verdict == Verdict::Proved), "{fault:?}: {good:?}");
        let fits = |verdict: &Verdict| match fault {
            Fault::Forgets => *verdict == Verdict::Absent,
            Fault::Refuses(Refusal::Damaged) => *verdict == Verdict::Damaged,
            Fault::Refuses(reason) => *verdict == Verdict::Unknown(Doubt::Refused(reason)),
            Fault::Down => matches!(verdict, Verdict::Unknown(Doubt::Failed(_))),
            _ => matches!(verdict, Verdict::Lied(Lie::Slices(_) | Lie::Length(_))),
        };
        // The first answer that is replayed is a good one.
        let wrong = bad.iter().filter(|audited| !fits(&audited.verdict)).count();
        assert!(wrong <= usize::from(fault == Fault::ReplaysAudits), "{fault:?}: {bad:?}");
        world.swarm.set(ids[2], Fault::None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_prove_whole_shards_round_by_round() {
    let (world, file) = world(62, 2).await;
    assert_eq!(file.audit_rounds(), 2);
    let ids = world.swarm.ids();
    let tokens: BTreeMap<NodeId, Vec<u8>> = ids.iter().map(|node| (*node, vec![0, 1])).collect();
    world.swarm.set(ids[1], Fault::Corrupts);
    let all = audit(&world, &file, &AuditOptions { tokens, ..slices(3) }).await;
    world.swarm.set(ids[1], Fault::None);
    let mut challenges = std::collections::BTreeSet::new();
    for Audited { round, place, entry, verdict } in &all {
        let whole = *round < 2 && !place.segment.is_page();
        match &entry.request.challenge {
            Challenge::Whole { challenge } => {
                assert!(whole && challenges.insert(*challenge), "a challenge is shown once");
                let expected = if entry.node == ids[1] { Verdict::Lied(Lie::Whole) } else { Verdict::Proved };
                assert_eq!(*verdict, expected, "{place:?}");
            }
            Challenge::Slices { .. } => assert!(!whole, "{place:?} in round {round}"),
        }
    }
    let data = file.shard_places().iter().filter(|place| !place.segment.is_page()).count();
    assert_eq!(challenges.len(), 2 * data);

    let content = world.swarm.stored_bytes();
    let mut wide = options(8, 8);
    (wide.replicas, wide.allow_colocate, wide.audit_rounds) = (8, true, 64);
    let refused = world.upload(one_file(bytes(1, 100_000)), &wide).await.unwrap_err();
    assert_eq!(refused.failure(), Failure::Usage);
    assert_eq!(world.swarm.stored_bytes(), content, "nothing was stored");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn expect(output: &Output, code: i32) {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {stdout}\nstderr: {stderr}");
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Three nodes that each hold every segment of one upload, and an auditor who has nothing but the verify capability.
struct Room {
    place: tempfile::TempDir,
    nodes: Vec<Shoald>,
    auditor: Shoal,
    verify: PathBuf,
    capability: String,
}

impl Room {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut nodes: Vec<Shoald> = Vec::new();
        for n in 0..3 {
            let first = nodes.first().map(|node| node.address.clone());
            let mut arguments = vec!["--open", "--quota", "1GB"];
            arguments.extend(first.iter().flat_map(|first| ["--bootstrap", first]));
            nodes.push(Shoald::start(SHOALD, &place.path().join(format!("node{n}")), &arguments).unwrap());
        }
        let owner = Shoal::new(SHOAL, &place.path().join("owner"));
        let file = place.path().join("in.bin");
        std::fs::write(&file, bytes(70, 3_000_000)).unwrap();
        let all = place.path().join("all");
        let mut upload = vec!["upload", text(&file), "--peer", &nodes[0].address, "--code", "1+2"];
        upload.extend(["--audit-rounds", "2", "--capabilities-out", text(&all)]);
        let uploaded = owner.run(&upload).unwrap();
        expect(&uploaded, 0);
        let lines = std::fs::read_to_string(&all).unwrap();
        let verify = place.path().join("verify");
        std::fs::write(&verify, lines.lines().find(|line| line.starts_with("shoalv1")).unwrap()).unwrap();
        let auditor = Shoal::new(SHOAL, &place.path().join("auditor"));
        let capability = String::from_utf8(uploaded.stdout).unwrap().trim().to_owned();
        Self { place, nodes, auditor, verify, capability }
    }

    /// `shoal audit --json` with the verify capability and without a password.
    fn audit(&self, more: &[&str]) -> Output {
        let peer = self.nodes[0].address.as_str();
        let mut arguments = vec!["audit", "--capability-file", text(&self.verify), "--peer", peer, "--json"];
        arguments.extend(more);
        self.auditor.command(&arguments).env_remove("SHOAL_PASSWORD").output().unwrap()
    }

    /// Changes bytes of the first shard that a running node stored.
    fn damage(&self, node: usize) {
        let segment = self.nodes[node].data.join("segments/0000000000000000.seg");
        let content = std::fs::read(&segment).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
        for at in (100_000..1_900_000).step_by(8192) {
            file.write_all_at(&[content[at] ^ 0x20], at as u64).unwrap();
        }
    }
}

fn sum(report: &Value, what: &str) -> u64 {
    report["details"]["nodes"].as_array().unwrap().iter().map(|node| node[what].as_u64().unwrap()).sum()
}

#[test]
fn an_auditor_without_a_password_has_all_nodes_prove_and_finds_the_one_whose_disk_rots() {
    let mut room = Room::new();
    let good = room.audit(&[]);
    expect(&good, 0);
    let good = report(&good);
    assert_eq!((good["operation"].as_str(), sum(&good, "asked")), (Some("audit"), sum(&good, "proved")));
    assert_eq!(good["details"]["nodes"].as_array().unwrap().len(), 3);
    let transcript = PathBuf::from(good["details"]["transcript"].as_str().unwrap());
    assert_eq!(std::fs::metadata(&transcript).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(transcript.starts_with(room.place.path().join("auditor/audits")));

    room.damage(1);
    let bad = room.audit(&["--whole"]);
    expect(&bad, 14);
    let bad = report(&bad);
    let failing = bad["details"]["failing"].as_array().unwrap();
    assert!(!failing.is_empty() && failing.iter().all(|one| one["node"] == room.nodes[1].id.as_str()), "{bad}");
    let first = failing.iter().find(|one| one["verdict"] == "damaged").unwrap();
    assert!(first["shard"].as_str().unwrap().starts_with('b') && first["asked"] == "whole", "{first}");
    let others = bad["details"]["nodes"].as_array().unwrap().iter();
    let mut others = others.filter(|node| node["node"] != room.nodes[1].id.as_str());
    assert!(others.all(|node| node["proved"] == node["asked"]), "{bad}");

    // The node takes what rotted out of use: from then on it says honestly that it lost it.
    let begun = std::time::Instant::now();
    loop {
        let lost = room.audit(&[]);
        if lost.status.code() == Some(3) {
            let lost = report(&lost);
            assert!(sum(&lost, "absent") > 0 && sum(&lost, "damaged") == 0, "{lost}");
            break;
        }
        expect(&lost, 14);
        assert!(begun.elapsed().as_secs() < 60, "the node never says what it lost");
        std::thread::sleep(std::time::Duration::from_millis(300));
    }

    // A node that is away is unknown, and nothing else.
    room.nodes[2].kill().unwrap();
    let away = room.audit(&[]);
    expect(&away, 3);
    let away = report(&away);
    let gone = |node: &&Value| node["node"] == room.nodes[2].id.as_str();
    let gone = away["details"]["nodes"].as_array().unwrap().iter().find(gone).unwrap();
    assert!(gone["unknown"].as_u64() > Some(0) && gone["unknown"] == gone["asked"], "{gone}");

    // What was kept says the same again, without the swarm.
    let again = room.auditor.run(&["audit", "--verify-transcript", text(&transcript), "--json"]).unwrap();
    expect(&again, 0);
    let again = report(&again);
    assert_eq!(again["details"]["nodes"], good["details"]["nodes"]);
    let kept = PathBuf::from(bad["details"]["transcript"].as_str().unwrap());
    let again = room.auditor.run(&["audit", "--verify-transcript", text(&kept)]).unwrap();
    expect(&again, 14);
    assert!(String::from_utf8(again.stdout).unwrap().contains("damaged"));
}

#[test]
fn tokens_are_spent_once_and_wrong_arguments_are_told_apart() {
    let room = Room::new();
    let whole = |output: &Output| {
        let transcript = report(output)["details"]["transcript"].as_str().unwrap().to_owned();
        let bytes = std::fs::read(transcript).unwrap();
        let transcript = shoal_client::audit::Transcript::decode(&bytes).unwrap();
        let is_whole = |entry: &&shoal_client::audit::Entry| matches!(entry.request.challenge, Challenge::Whole { .. });
        transcript.entries.iter().filter(is_whole).count()
    };
    let all = room.audit(&["--whole", "--rounds", "3"]);
    expect(&all, 0);
    // Two segments of three shards, two rounds of tokens, then slices.
    assert_eq!(whole(&all), 12);
    assert!(String::from_utf8_lossy(&all.stderr).contains("2 of 3 rounds are whole"));
    let none = room.audit(&["--whole"]);
    expect(&none, 0);
    assert_eq!(whole(&none), 0, "no challenge is shown twice");

    // With the password, as the owner; a table for people.
    let table = room.auditor.run(&["audit", &room.capability, "--sample", "1"]).unwrap();
    expect(&table, 0);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(room.nodes.iter().all(|node| table.contains(&node.id)) && table.contains("proved"), "{table}");

    let run = |arguments: &[&str]| room.auditor.run(arguments).unwrap();
    expect(&run(&["audit"]), 2);
    expect(&run(&["audit", "--sample", "0", &room.capability]), 2);
    expect(&run(&["audit", "--rounds", "0", &room.capability]), 2);
    expect(&run(&["audit", &std::fs::read_to_string(&room.verify).unwrap()]), 2);
    expect(&run(&["audit", &room.capability, "--verify-transcript", text(&room.verify)]), 2);
    expect(&run(&["audit", "--verify-transcript", text(&room.verify)]), 14);
    expect(&run(&["audit", "--verify-transcript", "/nonexistent/x"]), 10);
    expect(&run(&["audit", text(&room.verify)]), 14);
    let wrong = room.auditor.command(&["audit", &room.capability]).env("SHOAL_PASSWORD", "wrong").output().unwrap();
    expect(&wrong, 12);
    expect(&run(&["ls", "--capability-file", text(&room.verify)]), 18);
}
