//! Uploads that are interrupted and gone on with: what is in place is not sent again, no key sees two plaintexts, and
//! whatever the journal says, the file that comes out is the one that went in last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use shoal_client::client::{JournalNote, Secret, UploadOptions, UploadProgress, Uploaded};
use shoal_client::journal::JournalHeader;
use shoal_client::memory::Fault;
use shoal_protocol::{SegmentNumber, ShardId};
use shoal_tests::budget::{INTERRUPTIONS, say};
use shoal_tests::netns::{Lab, NODES};
use shoal_tests::process::{Shoal, Shoald};
use shoal_tests::sample::{MemoryJournal, MemoryWorld, PASSWORD, bytes, one_file, options};

const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
const SHOAL: &str = env!("CARGO_BIN_EXE_test-shoal");

/// Five segments of 4 MiB as 2+1, the last of them short.
const LENGTH: usize = 17_500_000;
/// Shards of a segment.
const UNITS: usize = 3;
/// Shards under way at once: of two segments.
const WINDOW: usize = 2 * UNITS;

fn settings() -> UploadOptions {
    UploadOptions { size_hint: Some(LENGTH as u64), ..options(2, 1) }
}

async fn go_on(world: &MemoryWorld, journal: &MemoryJournal, content: Vec<u8>) -> Uploaded {
    let (fleet, store) = (world.fleet(), Box::new(journal.clone()));
    world.client.upload_noted(one_file(content), &settings(), &fleet, store, &|_| {}).await.unwrap()
}

/// Uploads until `receipts` shards are receipted, the last of them not noted: then nothing of it is left but what the
/// nodes have, and the journal as it is returned.
async fn interrupt(world: &MemoryWorld, content: Vec<u8>, receipts: usize) -> MemoryJournal {
    let (client, fleet, journal) = (world.client.clone(), world.fleet(), MemoryJournal::default());
    let store = Box::new(journal.clone());
    let upload = tokio::spawn(async move {
        let count = AtomicUsize::new(0);
        let progress = |at: UploadProgress| {
            let sent = matches!(at, UploadProgress::Sent { .. });
            assert!(!sent || count.fetch_add(1, Ordering::Relaxed) + 1 < receipts, "interrupted on purpose");
        };
        client.upload_noted(one_file(content), &settings(), &fleet, store, &progress).await.map(drop)
    });
    let ended = upload.await;
    assert!(ended.is_err_and(|error| error.is_panic()), "done before {receipts} receipts");
    // The sealing thread may still be writing to the other one.
    let left = MemoryJournal::default();
    left.set(journal.bytes());
    left
}

async fn check(world: &MemoryWorld, uploaded: &Uploaded, content: &[u8]) {
    assert!(uploaded.is_complete(), "{:?} {:?}", uploaded.missing, uploaded.records_missing);
    let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
    assert!(world.read(&opened, "file.bin").await.unwrap() == content);
    let mut by_segment: BTreeMap<SegmentNumber, BTreeSet<_>> = BTreeMap::new();
    for place in opened.shard_places() {
        assert!(by_segment.entry(place.segment).or_default().insert(place.node), "two shards of {}", place.segment);
    }
}

fn times_offered(world: &MemoryWorld) -> BTreeMap<ShardId, usize> {
    let mut times = BTreeMap::new();
    for (_, shard) in world.swarm.moved().offered {
        *times.entry(shard).or_default() += 1;
    }
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_one_window_is_sent_twice() {
    let content = bytes(60, LENGTH);
    let mut most = 0;
    for round in 0..INTERRUPTIONS.take() {
        let world = MemoryWorld::new(2_000 + round as u64, 4).await.unwrap();
        let journal = interrupt(&world, content.clone(), 1 + round % (4 * UNITS)).await;
        let uploaded = go_on(&world, &journal, content.clone()).await;
        assert!(uploaded.notes.is_empty(), "{:?}", uploaded.notes);
        let twice = times_offered(&world).values().filter(|times| **times > 1).count();
        most = most.max(twice);
        assert!(twice <= WINDOW, "round {round}: {twice} shards were sent twice");
        check(&world, &uploaded, &content).await;
    }
    say(&format!("shards sent twice after an interruption, at most: {most} of {}", 5 * UNITS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_in_part_is_sealed_to_the_same_shards() {
    let content = bytes(61, LENGTH);
    let world = MemoryWorld::new(61, 4).await.unwrap();
    let journal = interrupt(&world, content.clone(), 4).await;
    let before: BTreeSet<ShardId> = world.swarm.moved().offered.iter().map(|(_, shard)| *shard).collect();
    let uploaded = go_on(&world, &journal, content.clone()).await;
    let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
    let named: BTreeSet<ShardId> = opened.shard_places().iter().map(|place| place.shard).collect();
    assert!(before.len() >= 4 && before.is_subset(&named), "a shard of the first run is named by no page");
    check(&world, &uploaded, &content).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_content_is_sealed_afresh() {
    let content = bytes(62, LENGTH);
    let world = MemoryWorld::new(62, 4).await.unwrap();
    let journal = interrupt(&world, content.clone(), 9).await;
    let before: BTreeSet<ShardId> = world.swarm.moved().offered.iter().map(|(_, shard)| *shard).collect();
    // One bit of the first segment.
    let mut changed = content;
    changed[100] ^= 1;
    let uploaded = go_on(&world, &journal, changed.clone()).await;
    let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
    for place in opened.shard_places().iter().filter(|place| place.segment == SegmentNumber(0)) {
        assert!(!before.contains(&place.shard), "unit {} of the changed segment is as before", place.unit);
    }
    assert!(uploaded.kept > 0, "the segments after it are as they were");
    check(&world, &uploaded, &changed).await;

    // Longer by one byte: what was the last segment is not the last any more.
    let journal = interrupt(&world, changed.clone(), 9).await;
    changed.push(7);
    let uploaded = go_on(&world, &journal, changed.clone()).await;
    check(&world, &uploaded, &changed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nodes_lost_meanwhile_is_sent_again() {
    for fault in [Fault::Down, Fault::Forgets] {
        let content = bytes(63, LENGTH);
        let world = MemoryWorld::new(63, 5).await.unwrap();
        let journal = interrupt(&world, content.clone(), 9).await;
        let holder = world.swarm.moved().offered[0].0;
        world.swarm.set(holder, fault);
        world.discover().await.unwrap();
        let uploaded = go_on(&world, &journal, content.clone()).await;
        if fault == Fault::Down {
            assert!(uploaded.placement.holders.iter().all(|at| at.node != holder), "a dead node is counted on");
        }
        check(&world, &uploaded, &content).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_an_upload_that_was_all_but_done_are_succeeded() {
    let content = bytes(64, LENGTH);
    let world = MemoryWorld::new(64, 4).await.unwrap();
    let journal = MemoryJournal::default();
    let first = go_on(&world, &journal, content.clone()).await;
    // The capability was never printed: the journal is still there.
    let second = go_on(&world, &journal, content.clone()).await;
    assert_eq!(*first.capabilities.locate.to_text(), *second.capabilities.locate.to_text());
    assert!(second.kept >= LENGTH as u64 && second.sent < 1 << 20, "{} kept, {} sent", second.kept, second.sent);
    check(&world, &second, &content).await;
    let opened = world.open(&first.capabilities.locate, PASSWORD).await.unwrap();
    assert!(world.read(&opened, "file.bin").await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_of_no_use_is_said_so_and_replaced() {
    let content = bytes(65, LENGTH);
    let world = MemoryWorld::new(65, 4).await.unwrap();
    let journal = interrupt(&world, content.clone(), 6).await;
    let written = journal.bytes();
    let (_, entries) = JournalHeader::read(&written).unwrap();

    let other = UploadOptions { password: zeroize::Zeroizing::new(b"another".to_vec()), ..settings() };
    let wide = UploadOptions { profile: options(1, 1).profile, ..settings() };
    let rounds = UploadOptions { audit_rounds: 1, ..settings() };
    let mut flipped = written.clone();
    flipped[entries + 40] ^= 1;
    for (bytes, options) in [
        (written.clone(), &other),
        (written.clone(), &wide),
        (written.clone(), &rounds),
        (flipped, &settings()),
        (written[..entries - 1].to_vec(), &settings()),
        (b"something else".to_vec(), &settings()),
    ] {
        journal.set(bytes);
        let (fleet, store) = (world.fleet(), Box::new(journal.clone()));
        let uploaded =
            world.client.upload_noted(one_file(content.clone()), options, &fleet, store, &|_| {}).await.unwrap();
        assert_eq!((uploaded.notes.len(), uploaded.kept), (1, 0), "{:?}", uploaded.notes);
        assert!(matches!(uploaded.notes[0], JournalNote::Unusable(_) | JournalNote::Options), "{:?}", uploaded.notes);
        let opened = world
            .client
            .open(&uploaded.capabilities.locate, None, &Secret::Password(options.password.clone()), &mut world.fleet())
            .await
            .unwrap();
        assert!(world.read(&opened, "file.bin").await.unwrap() == content);
        assert_ne!(journal.bytes(), written, "the journal is that of the new upload");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_cannot_be_written_stops_nothing() {
    let content = bytes(66, LENGTH);
    let world = MemoryWorld::new(66, 4).await.unwrap();
    let mut journal = MemoryJournal::default();
    journal.room = Some(1_500);
    let uploaded = go_on(&world, &journal, content.clone()).await;
    assert!(matches!(uploaded.notes.as_slice(), [JournalNote::NotWritten(_)]), "{:?}", uploaded.notes);
    check(&world, &uploaded, &content).await;
    // What was noted until then is good for the next run.
    let again = go_on(&world, &journal, content.clone()).await;
    assert!(again.kept > 0);
    check(&world, &again, &content).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_journal_is_gone_on_with() {
    let content = bytes(67, LENGTH);
    let world = MemoryWorld::new(67, 4).await.unwrap();
    let journal = interrupt(&world, content.clone(), 12).await;
    let written = journal.bytes();
    let (_, entries) = JournalHeader::read(&written).unwrap();
    // The first entry is 63 bytes of CBOR at most, with salt, tag and length.
    let step = (written.len() - entries) / 9;
    for cut in (1..9).map(|at| entries + 200 + at * step).filter(|cut| *cut < written.len()) {
        journal.set(written[..cut].to_vec());
        let uploaded = go_on(&world, &journal, content.clone()).await;
        assert!(uploaded.notes.is_empty(), "{:?}", uploaded.notes);
        check(&world, &uploaded, &content).await;
    }
}

/// What leaves the client on the wire is counted; the client is killed at half, and the same command finishes.
#[test]
fn kill_9_at_half_and_the_same_command_again() {
    const FILE_BYTES: usize = 96 << 20;
    const KILOBITS: u32 = 160_000;
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(error) if std::env::var_os("CI").is_none() => {
            say(&format!("resume: SKIPPED, no network namespaces here: {error:#}"));
            return;
        }
        Err(error) => panic!("{error:#}"),
    };
    lab.limit_client(KILOBITS).unwrap();
    let room = tempfile::tempdir().unwrap();
    let mut nodes: Vec<Shoald> = Vec::new();
    for number in 0..6 {
        let mut more = vec!["--open".to_owned(), "--quota".to_owned(), "1GB".to_owned()];
        if let Some(first) = nodes.first() {
            more.extend(["--bootstrap".to_owned(), first.address.clone()]);
        }
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let data = room.path().join(number.to_string());
        nodes.push(Shoald::start_as(lab.on_nodes(SHOALD), NODES, &data, &more).unwrap());
    }
    let content = bytes(68, FILE_BYTES);
    let path = room.path().join("file.bin");
    std::fs::write(&path, &content).unwrap();
    let shoal = Shoal::new(SHOAL, &room.path().join("home"));
    let arguments = ["upload", path.to_str().unwrap(), "--json", "--code", "4+2", "--peer", &nodes[0].address];
    let coded = FILE_BYTES as u64 * 3 / 2;

    let mut first = shoal.command_as(lab.on_client(SHOAL), &arguments).spawn().unwrap();
    while lab.sent_by_client().unwrap() < coded / 2 {
        assert!(first.try_wait().unwrap().is_none(), "it ended before half was sent");
        std::thread::sleep(Duration::from_millis(20));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let journals = || std::fs::read_dir(shoal.home.join("journals")).unwrap().count();
    assert_eq!(journals(), 1);
    // What was in the air arrives, and is seen as such.
    std::thread::sleep(Duration::from_millis(300));
    let before = lab.sent_by_client().unwrap();

    let output = shoal.command_as(lab.on_client(SHOAL), &arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(output.status.code(), Some(0), "{report:#} {said}");
    let number = |name: &str| report["details"][name].as_u64().unwrap();
    let (sent, kept) = (lab.sent_by_client().unwrap(), number("kept_bytes"));
    // Two segments under way: 8 MiB of plaintext each, as 12 MiB of shards.
    let window = 2 * (12 << 20);
    let twice = sent.saturating_sub(number("coded_bytes"));
    say(&format!(
        "killed after {before} bytes on the wire, {sent} in all for {} of shards: {twice} too much, headers included; {} sent by the second run, {kept} bytes of the file kept",
        number("coded_bytes"),
        number("sent_bytes"),
    ));
    assert!(kept > 0 && kept >= (FILE_BYTES as u64) / 2 - window, "{kept}");
    // Headers of Ethernet, IP, TCP, Noise and Yamux are below one byte in twenty.
    assert!(twice <= window + number("coded_bytes") / 20, "{report:#}");
    assert_eq!(journals(), 0, "the journal is gone");

    let capability = report["details"]["capability"].as_str().unwrap();
    let out = room.path().join("out.bin");
    let arguments = ["retrieve", capability, "--out", out.to_str().unwrap(), "--peer", &nodes[0].address];
    let output = shoal.command_as(lab.on_client(SHOAL), &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read(&out).unwrap() == content);
}
