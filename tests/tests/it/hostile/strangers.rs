//! A thousand strangers with a thousand STOREs each: not a byte of it reaches the disk, every no has its word and is
//! counted, and members go on.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use futures::stream::{self, StreamExt};
use serde_json::Value;
use shoal_client::transfer::TransferError;
use shoal_client::transport::ShardTransport;
use shoal_protocol::control::{Request, Response};
use shoal_protocol::group::Voucher;
use shoal_protocol::{ByteCount, NodeId, ReservationId, Signed};
use shoal_tests::budget::{STRANGER_STORES, STRANGERS, say};
use shoal_tests::process::{Shoald, footprint, forget_peak};
use shoal_tests::sample::{bytes, clock};

use super::{Peer, SHOALD, WAIT, id_of, network, node};

const MEMBER: [u8; 32] = [1; 32];
const HOLDER: [u8; 32] = [3; 32];
const ISSUER: [u8; 32] = [4; 32];
/// Strangers at a time: with four lanes each, and those of others that just ended, fewer than find a place.
const AT_A_TIME: usize = 20;
/// Requests of one stranger at a time: fewer than a control lane carries.
const IN_FLIGHT: usize = 32;
/// Of each ten offers, how many are RESERVE with a forged voucher and how many STORE without a reservation; the others
/// are RESERVE without a voucher.
const FORGED: usize = 2;
const UNRESERVED: usize = 2;
/// Places the holder of a voucher has, all of which it exceeds.
const PLACES: usize = 64;
/// What resident memory may grow by.
const MEMORY_KIB: u64 = 64 * 1024;

/// How often each word was said.
type Words = BTreeMap<String, u64>;

/// Every file with its length, the blocks it takes, and the hash of what is in it: files that were made at their full
/// length do not grow.
fn files(data: &Path) -> BTreeMap<PathBuf, (u64, u64, String)> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![data.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let (path, about) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
            if about.is_dir() {
                folders.push(path.clone());
            }
            let content = if about.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
            found.insert(path, (about.len(), about.blocks(), blake3::hash(&content).to_string()));
        }
    }
    found
}

fn status(node: &Shoald) -> Value {
    let mut command = Command::new(SHOALD);
    command.args(["store", "status", "--json", "--data-dir"]).arg(&node.data).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(status: &Value) -> Words {
    serde_json::from_value(status["refused"].clone()).unwrap()
}

fn voucher(issuer: [u8; 32], holder: NodeId, node: NodeId, serial: u64) -> Signed {
    let (bytes, expires) = (ByteCount(1 << 20), clock().saturating_add(600_000));
    let voucher = Voucher { holder, node, bytes, expires, serial };
    Signed::seal(&voucher, &SigningKey::from_bytes(&issuer), &network())
}

fn seed_of(number: usize) -> [u8; 32] {
    *blake3::hash(&[&b"stranger"[..], &number.to_le_bytes()].concat()).as_bytes()
}

/// The vouchers a stranger tries: of its own making, for another, and with a wrong signature under the issuer's name.
fn forged(own: [u8; 32], node: NodeId) -> [Signed; 3] {
    let holder = id_of(own);
    let elsewhere = voucher(ISSUER, id_of(HOLDER), node, 9);
    let mut broken = voucher(ISSUER, holder, node, 10).to_bytes();
    *broken.last_mut().unwrap() ^= 1;
    let broken = Signed::from_bytes(&broken, 4096).unwrap();
    [voucher(own, holder, node, 8), elsewhere, broken]
}

/// One stranger's offers; the words it was refused with.
async fn offers(number: usize, count: usize, node: &Shoald, foreign: ReservationId) -> Words {
    let seed = seed_of(number);
    let peer = Peer::connect(seed, node, Duration::from_secs(60)).await.unwrap();
    let vouchers = forged(seed, peer.node);
    let payload = Bytes::from(bytes(number as u64, 512));
    let offer = |n: usize| {
        let (peer, vouchers, payload) = (&peer, &vouchers, payload.clone());
        async move {
            let (tenth, guessed) = (n % 10, ReservationId((number * 1_000_003 + n) as u64));
            if tenth < UNRESERVED {
                let reservation = if n % 20 < 10 { foreign } else { guessed };
                return peer.lanes.store(peer.node, peer.store_job(reservation, payload)).await.map(drop);
            }
            let voucher = (tenth < UNRESERVED + FORGED).then(|| vouchers[n % vouchers.len()].clone());
            let request = peer.reserve_request(vec![512], voucher);
            peer.lanes.request(peer.node, request, WAIT).await.map(drop)
        }
    };
    let answers: Vec<Result<(), TransferError>> =
        stream::iter(0..count).map(offer).buffer_unordered(IN_FLIGHT).collect().await;
    let mut words = Words::new();
    for answer in answers {
        let word = match answer {
            Err(TransferError::Refused { reason, .. }) => reason.label(),
            // So many lanes were told BUSY at a time that this one was not told.
            Err(TransferError::Lost(_)) => "lane_reset",
            other => panic!("stranger {number}: {other:?}"),
        };
        *words.entry(word.to_owned()).or_default() += 1;
    }
    words
}

/// Somebody whose voucher is good, and who sends more than it has places for.
async fn exceed(holder: &Peer, places: Vec<ReservationId>) -> Words {
    let mut words = Words::new();
    for place in places {
        let job = holder.store_job(place, Bytes::from(bytes(place.0, 4096)));
        let answer = holder.lanes.store(holder.node, job).await;
        let Err(TransferError::Refused { reason, .. }) = answer else { panic!("{answer:?}") };
        *words.entry(reason.label().to_owned()).or_default() += 1;
    }
    words
}

fn add(sum: &mut Words, more: Words) {
    for (word, count) in more {
        *sum.entry(word).or_default() += count;
    }
}

async fn besiege(name: &str, strangers: usize, stores: usize, more: &[&str]) {
    let room = tempfile::tempdir().unwrap();
    let issuer = id_of(ISSUER).to_string();
    let words: Vec<&str> = ["--voucher-issuer", &issuer].into_iter().chain(more.iter().copied()).collect();
    let node = Arc::new(node(room.path(), &[MEMBER], &words));
    let member = Peer::connect(MEMBER, &node, WAIT).await.unwrap();
    let shard = member.store(1, 100_000).await.unwrap();
    let holder = Peer::connect(HOLDER, &node, WAIT).await.unwrap();
    let good = voucher(ISSUER, id_of(HOLDER), holder.node, 1);
    let places = holder.reserve(vec![100; PLACES], Some(good)).await.unwrap();
    let foreign = member.reserve(vec![4096], None).await.unwrap()[0];
    let (before, files_before) = (status(&node), files(&node.data));
    let memory = footprint(node.pid()).unwrap();
    forget_peak(node.pid()).unwrap();

    let begun = Instant::now();
    let mut said = exceed(&holder, places).await;
    assert_eq!(said, Words::from([("mismatch".to_owned(), PLACES as u64)]));
    let besieging = stream::iter(0..strangers)
        .map(|number| {
            let node = Arc::clone(&node);
            async move { tokio::spawn(async move { offers(number, stores, &node, foreign).await }).await.unwrap() }
        })
        .buffer_unordered(AT_A_TIME);
    let mut besieging = std::pin::pin!(besieging);
    while let Some(words) = besieging.next().await {
        add(&mut said, words);
    }
    let took = begun.elapsed();
    let grown = footprint(node.pid()).unwrap().peak_kib.saturating_sub(memory.rss_kib);
    say(&format!("{name}: {strangers} strangers x {stores} STOREs in {took:.1?}, +{grown} KiB at most: {said:?}"));

    assert_eq!(files(&node.data), files_before, "a byte reached the disk");
    let after = status(&node);
    assert_eq!((&after["shards"], &after["usage"]["stored"]), (&before["shards"], &before["usage"]["stored"]));
    let (mut counted, earlier) = (refused(&after), refused(&before));
    for (word, count) in &mut counted {
        *count -= earlier.get(word).copied().unwrap_or(0);
    }
    assert_eq!(said.values().sum::<u64>(), (strangers * stores + PLACES) as u64);
    let mut take = |word: &str| (counted.remove(word).unwrap_or(0), said.remove(word).unwrap_or(0));
    let ((busy, busy_said), (lanes_busy, _)) = (take("busy"), take("lane_busy"));
    // Those who were told to wait before they had introduced themselves came again.
    assert!(busy + lanes_busy >= busy_said, "{busy} + {lanes_busy} of {busy_said}");
    let (reset, reset_said) = take("lane_reset");
    assert!(reset >= reset_said, "{reset} of {reset_said} were reset without a word");
    assert_eq!(counted, said, "every no is counted under its word");
    assert!(grown <= MEMORY_KIB, "resident memory grew by {grown} KiB");

    let another = member.store(2, 100_000).await.unwrap();
    for (shard, seed) in [(shard, 1), (another, 2)] {
        assert_eq!(*member.retrieve(shard, 100_000, 100_000).await.unwrap(), bytes(seed, 100_000));
    }
    assert_ne!(files(&node.data), files_before, "what a member stores is seen by this comparison");
    let asked = member.lanes.request(member.node, Request::Peers { after: None }, WAIT).await.unwrap();
    assert!(matches!(asked, Response::Peers { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_strangers_with_a_thousand_stores_each_leave_no_byte_on_disk() {
    let (strangers, stores) = (STRANGERS.take(), STRANGER_STORES.take());
    besiege("default", strangers, stores, &[]).await;
    besiege("members only", strangers, stores, &["--members-only"]).await;
}
