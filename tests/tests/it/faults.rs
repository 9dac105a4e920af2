//! Nodes that lie, refuse, die; passwords that are wrong; bytes that were changed. Nothing wrong is ever returned.

use std::collections::BTreeMap;

use shoal_client::client::{Failure, RetrieveError, Secret, UploadError};
use shoal_client::manifest::{ManifestFile, ValidateError, validate};
use shoal_client::memory::Fault;
use shoal_client::transfer::TransferError;
use shoal_protocol::{Refusal, Signed};
use shoal_tests::budget::{FAULTED_UPLOADS, say};
use shoal_tests::sample::{MemoryWorld, PASSWORD, bytes, one_file, options};
use zeroize::Zeroizing;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_password_is_exit_12_and_shows_nothing() {
    let world = MemoryWorld::new(20, 6).await.unwrap();
    let uploaded = world.upload(one_file(bytes(20, 100_000)), &options(4, 2)).await.unwrap();
    let served = world.swarm.moved().served;
    let error = world.open(&uploaded.capabilities.locate, b"incorrect horse").await.unwrap_err();
    assert!(matches!(error, RetrieveError::WrongPassword));
    assert_eq!(error.failure().code(), 12);
    assert_eq!(world.swarm.moved().served, served, "no shard is fetched for a wrong password");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capabilities_open_as_far_as_they_may() {
    let world = MemoryWorld::new(21, 6).await.unwrap();
    let content = bytes(21, 100_000);
    let uploaded = world.upload(one_file(content.clone()), &options(4, 2)).await.unwrap();
    let caps = &uploaded.capabilities;
    for capability in [&caps.read, &caps.owner] {
        let opened = world.client.open(capability, None, &Secret::None, &mut world.fleet()).await.unwrap();
        assert!(world.read(&opened, "file.bin").await.unwrap() == content);
    }
    let opened = world.client.open(&caps.verify, None, &Secret::None, &mut world.fleet()).await.unwrap();
    assert!(!opened.can_read() && opened.tree().entries.is_empty() && !opened.shard_places().is_empty());
    let error = world.client.open(&caps.locate, None, &Secret::None, &mut world.fleet()).await.unwrap_err();
    assert!(matches!(error, RetrieveError::PasswordNeeded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn liars_are_skipped_and_named() {
    let world = MemoryWorld::new(22, 6).await.unwrap();
    let content = bytes(22, 3_000_000);
    let uploaded = world.upload(one_file(content.clone()), &options(4, 2)).await.unwrap();
    let ids = world.swarm.ids();
    for (first, second) in [
        (Fault::Corrupts, Fault::Truncates),
        (Fault::Corrupts, Fault::Down),
        (Fault::Refuses(Refusal::NotFound), Fault::Corrupts),
    ] {
        world.swarm.set(ids[1], first);
        world.swarm.set(ids[4], second);
        let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
        assert!(world.read(&opened, "file.bin").await.unwrap() == content, "{first:?} {second:?}");
        let lied = opened.shunned().iter().filter(|(_, error)| matches!(error, TransferError::Lied(_))).count();
        let expected =
            [first, second].iter().filter(|fault| matches!(fault, Fault::Corrupts | Fault::Truncates)).count();
        assert_eq!(lied, expected, "{first:?} {second:?}: {:?}", opened.shunned());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusing_swarms_have_exit_codes_of_their_own() {
    let world = MemoryWorld::new(23, 6).await.unwrap();
    for (refusal, failure) in
        [(Refusal::Denied, Failure::Denied), (Refusal::NoSpace, Failure::Quota), (Refusal::Busy, Failure::Busy)]
    {
        for id in world.swarm.ids() {
            world.swarm.set(id, Fault::Refuses(refusal));
        }
        let error = world.upload(one_file(bytes(23, 10_000)), &options(4, 2)).await.unwrap_err();
        assert_eq!(error.failure(), failure, "{error}");
    }
    for id in world.swarm.ids() {
        world.swarm.set(id, Fault::None);
    }
    let error = world.upload(one_file(bytes(23, 10_000)), &options(5, 2)).await.unwrap_err();
    assert!(matches!(error, UploadError::Placement(_)) && error.failure().code() == 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn happy_but_incomplete_is_named_and_still_readable() {
    let world = MemoryWorld::new(24, 6).await.unwrap();
    let content = bytes(24, 2_000_000);
    let ids = world.swarm.ids();
    world.swarm.set(ids[2], Fault::DiesAfter(0));
    let fleet = world.fleet();
    let uploaded = world.client.upload(one_file(content.clone()), &options(4, 2), &fleet, &|_| {}).await.unwrap();
    assert!(!uploaded.is_complete() && !uploaded.missing.is_empty());
    assert!(uploaded.failed.contains_key(&ids[2]));
    let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
    assert!(world.read(&opened, "file.bin").await.unwrap() == content);
    world.swarm.set(ids[3], Fault::Down);
    let opened = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap();
    assert!(world.read(&opened, "file.bin").await.unwrap() == content);
}

/// Whatever fails and is sent again, the bytes offered for one place of one upload never change: a second sealing
/// under the same key would show as a second shard id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_is_never_sealed_twice() {
    let mut replaced = 0;
    let mut failed = 0;
    for round in 0..FAULTED_UPLOADS.take() as u64 {
        let world = MemoryWorld::new(1_000 + round, 8).await.unwrap();
        let fleet = world.fleet();
        let draw = blake3::hash(&round.to_le_bytes());
        let ids = world.swarm.ids();
        for (at, fault) in draw.as_bytes().iter().take(3).enumerate() {
            let node = ids[usize::from(draw.as_bytes()[at + 8]) % ids.len()];
            world.swarm.set(
                node,
                match fault % 4 {
                    0 => Fault::DiesAfter(u32::from(fault / 64)),
                    1 => Fault::ForgesReceipts,
                    2 => Fault::Refuses(Refusal::NoSpace),
                    _ => Fault::Down,
                },
            );
        }
        let size = 3_000 + usize::from(draw.as_bytes()[20]) * 1_000;
        let mut options = options(4, 2);
        options.suite =
            if round % 2 == 0 { shoal_protocol::Suite::Aes256Gcm } else { shoal_protocol::Suite::ChaCha20Poly1305 };
        let result = world.client.upload(one_file(bytes(round, size)), &options, &fleet, &|_| {}).await;
        let offered = world.swarm.moved().offered;
        let distinct: std::collections::BTreeSet<_> = offered.iter().map(|(_, shard)| *shard).collect();
        match result {
            Ok(uploaded) => {
                // Every shard that was ever offered is one that the final pages name, or a page itself: exactly one
                // ciphertext for each (segment, unit).
                let opened =
                    world.client.open(&uploaded.capabilities.owner, None, &Secret::None, &mut world.fleet()).await;
                let Ok(opened) = opened else {
                    failed += 1;
                    continue;
                };
                let mut by_place: BTreeMap<_, _> = BTreeMap::new();
                for place in opened.shard_places() {
                    assert!(by_place.insert((place.segment, place.unit), place.shard).is_none());
                }
                let named: std::collections::BTreeSet<_> = by_place.values().copied().collect();
                assert!(distinct.is_subset(&named), "round {round}: a shard was offered that no page names");
                replaced += usize::from(!uploaded.failed.is_empty());
            }
            Err(_) => failed += 1,
        }
    }
    say(&format!("uploads with replaced nodes: {replaced}, failed uploads: {failed}"));
    assert!(replaced > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flipped_bit_of_a_manifest_is_refused_before_the_password_is_tried() {
    let world = MemoryWorld::new(26, 6).await.unwrap();
    let uploaded = world.upload(one_file(bytes(26, 1_500)), &options(4, 2)).await.unwrap();
    let good = uploaded.manifest.encode().unwrap();
    assert!(validate(&good, PASSWORD).is_ok());
    assert!(matches!(validate(&good, b"wrong"), Err(ValidateError::WrongPassword)));
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(ManifestFile::decode(&bad).is_err(), "bit {bit}");
    }
    println!("{} bits of a manifest flipped", good.len() * 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_records_are_refused() {
    let world = MemoryWorld::new(27, 6).await.unwrap();
    let uploaded = world.upload(one_file(bytes(27, 50_000)), &options(4, 2)).await.unwrap();
    let other = MemoryWorld::new(28, 6).await.unwrap();
    let stranger = other.upload(one_file(bytes(28, 50_000)), &options(4, 2)).await.unwrap();
    let foreign = Signed::from_bytes(&stranger.manifest.owner_record, 65_536).unwrap();
    world.swarm.alter_records(|_| Some(foreign.clone()));
    let error = world.open(&uploaded.capabilities.locate, PASSWORD).await.unwrap_err();
    assert_eq!(error.failure(), Failure::Integrity, "{error}");
    let secret = Secret::Password(Zeroizing::new(PASSWORD.to_vec()));
    let cached =
        world.client.open(&uploaded.capabilities.locate, Some(&uploaded.manifest), &secret, &mut world.fleet()).await;
    assert!(cached.is_ok(), "the cached records still lead to the file");
}
