//! Files go in and come out over the in-memory swarm: all sizes at the edges, all subsets of dead nodes.

use futures::TryStreamExt;
use shoal_client::client::{Failure, RetrieveError};
use shoal_client::memory::Fault;
use shoal_tests::budget::{SPARSE_BYTES, SUBSETS_8_8};
use shoal_tests::sample::{MemoryWorld, PASSWORD, bytes, file, one_file, options};
use std::io::{self, Read};
use std::pin::pin;

const P: usize = 65_520;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_at_every_edge_come_back() {
    let world = MemoryWorld::new(1, 6).await.unwrap();
    let options = options(4, 2);
    let segment = 32 * 4 * P;
    let row = 4 * P;
    for size in [
        0,
        1,
        2048,
        2049,
        P - 1,
        P,
        P + 1,
        row - 1,
        row,
        row + 1,
        7 * P - 1,
        7 * P + 1,
        segment - 1,
        segment,
        segment + 1,
    ] {
        let content = bytes(size as u64, size);
        let uploaded = world.upload(one_file(content.clone()), &options).await.unwrap();
        assert!(uploaded.is_complete() && uploaded.bytes == size as u64);
        let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
        let back = world.read(&opened, "file.bin").await.unwrap();
        assert!(back == content, "{size} bytes differ");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_fifteen_pairs_of_dead_nodes_for_4_2() {
    let world = MemoryWorld::new(2, 6).await.unwrap();
    let content = bytes(2, 3 * 4 * P + 12_345);
    let uploaded = world.upload(one_file(content.clone()), &options(4, 2)).await.unwrap();
    let ids = world.swarm.ids();
    let mut pairs = 0;
    for first in 0..6 {
        for second in first + 1..6 {
            for (at, id) in ids.iter().enumerate() {
                world.swarm.set(*id, if at == first || at == second { Fault::Down } else { Fault::None });
            }
            let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
            assert!(world.read(&opened, "file.bin").await.unwrap() == content, "dead: {first} {second}");
            pairs += 1;
        }
    }
    assert_eq!(pairs, 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_subsets_of_eight_dead_nodes_for_8_8() {
    let world = MemoryWorld::new(3, 16).await.unwrap();
    let content = bytes(3, 2 * 8 * P + 777);
    let uploaded = world.upload(one_file(content.clone()), &options(8, 8)).await.unwrap();
    let ids = world.swarm.ids();
    for round in 0..SUBSETS_8_8.take() {
        let mut order: Vec<usize> = (0..16).collect();
        order.sort_by_key(|at| blake3::hash(&[round.to_le_bytes(), at.to_le_bytes()].concat()).to_hex().to_string());
        for (place, at) in order.iter().enumerate() {
            world.swarm.set(ids[*at], if place < 8 { Fault::Down } else { Fault::None });
        }
        let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
        assert!(world.read(&opened, "file.bin").await.unwrap() == content, "round {round}: dead {:?}", &order[..8]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_node_too_many_is_exit_13() {
    let world = MemoryWorld::new(4, 6).await.unwrap();
    let uploaded = world.upload(one_file(bytes(4, 500_000)), &options(4, 2)).await.unwrap();
    let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
    for id in &world.swarm.ids()[..3] {
        world.swarm.set(*id, Fault::Down);
    }
    let error = world.read(&opened, "file.bin").await.unwrap_err();
    assert!(matches!(error, RetrieveError::TooFewShards { need: 4, .. }), "{error}");
    assert_eq!(error.failure().code(), 13);
    let error = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap_err();
    assert_eq!(error.failure(), Failure::TooFewShards, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_range_is_read_from_few_units() {
    let world = MemoryWorld::new(5, 6).await.unwrap();
    let content = bytes(5, 2 * 32 * 4 * P + 100_001);
    let uploaded = world.upload(one_file(content.clone()), &options(4, 2)).await.unwrap();
    let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
    let segment = 32 * 4 * P;
    for (start, end) in [
        (0, 1),
        (P - 1, P + 1),
        (4 * P - 10, 4 * P + 10),
        (segment - 5, segment + 5),
        (1000, 1000),
        (123_456, 5_000_000),
        (content.len() - 1, content.len()),
    ] {
        let back = world.read_range(&opened, "file.bin", start as u64..end as u64).await.unwrap();
        assert!(back == content[start..end], "{start}..{end}");
    }
    let before = world.swarm.moved().served;
    world.read_range(&opened, "file.bin", 300_000..365_536).await.unwrap();
    let moved = world.swarm.moved().served - before;
    assert!(moved <= 160 * 1024, "64 KiB moved {moved} bytes");
    let unit_holder = opened.placement().holder(shoal_protocol::SegmentNumber(0), 0).unwrap().node;
    world.swarm.set(unit_holder, Fault::Down);
    let before = world.swarm.moved().served;
    let back = world.read_range(&opened, "file.bin", 100..1100).await.unwrap();
    assert!(back == content[100..1100]);
    let moved = world.swarm.moved().served - before;
    assert!(moved <= 5 * 80 * 1024, "a range with one holder gone moved {moved} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_small_files_cost_what_their_bytes_cost() {
    let world = MemoryWorld::new(6, 6).await.unwrap();
    let content = |n: usize| bytes(n as u64, 500 + n * 7 % 20_000);
    let total: usize = (0..2_000).map(|n| content(n).len()).sum();
    let source = (0..2_000).map(move |n| Ok(file(&format!("dir/{n:05}.txt"), io::Cursor::new(content(n)))));
    let uploaded = world.upload(Box::new(source), &options(4, 2)).await.unwrap();
    let stored = world.swarm.stored_bytes();
    let bare = total as u64 * 6 / 4;
    println!(
        "2,000 files of {total} bytes: {stored} stored, {bare} by the code alone, {} stores",
        world.swarm.moved().offered.len()
    );
    assert!(stored * 100 <= bare * 115, "{stored} stored for {bare}");
    let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
    assert_eq!(opened.tree().entries.len(), 2_000);
    for n in [0, 1, 999, 1_999] {
        assert!(world.read(&opened, &format!("dir/{n:05}.txt")).await.unwrap() == content(n), "file {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_sparse_file_comes_back() {
    let size = SPARSE_BYTES.take() as u64;
    let world = MemoryWorld::new(7, 6).await.unwrap();
    let source = Box::new(std::iter::once(Ok(file("sparse", io::repeat(0).take(size)))));
    let uploaded = world.upload(source, &options(4, 2)).await.unwrap();
    let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
    let pieces = opened.tree().pieces(&opened.tree().entries[0], 0..size).unwrap();
    let (mut seen, mut zero) = (0u64, true);
    let fleet = world.fleet();
    let mut read = pin!(world.client.read(&opened, &fleet, &pieces));
    while let Some(piece) = read.try_next().await.unwrap() {
        seen += piece.bytes.len() as u64;
        zero &= piece.bytes.iter().all(|byte| *byte == 0);
    }
    assert_eq!(seen, size);
    assert!(zero);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_one_index_are_different_bytes() {
    let world = MemoryWorld::new(8, 8).await.unwrap();
    let mut options = options(2, 2);
    options.replicas = 2;
    let content = bytes(8, 300_000);
    let uploaded = world.upload(one_file(content.clone()), &options).await.unwrap();
    let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
    let ids: std::collections::BTreeSet<_> = opened.shard_places().into_iter().map(|place| place.shard).collect();
    assert_eq!(ids.len(), opened.shard_places().len());
    assert_eq!(ids.len() % 8, 0);
    assert!(world.read(&opened, "file.bin").await.unwrap() == content);
}
