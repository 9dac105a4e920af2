//! What a store promises in good and bad days: acknowledged bytes come back, what is wrong is refused.

use super::*;

#[test]
fn what_is_stored_is_read_after_reopening_and_decodes_as_clients_do() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, report) = open(&vfs);
    assert!(report.created);
    let sizes = [1, 1000, 1024, 16_384, 16_385, 100_000, 300_001, 2 << 20];
    let shards: Vec<Bytes> = sizes.iter().map(|size| payload(*size as u64, *size)).collect();
    runtime.block_on(async {
        for shard in &shards {
            assert_eq!(put(&store, group(1), shard).await, Ok(Stored::New));
        }
    });
    let stored = store.usage().stored;
    kill(store, &vfs);

    let (store, report) = open(&vfs);
    assert_eq!((report.records, report.quarantined, report.torn_bytes), (8, 0, 0));
    assert_eq!((store.usage().stored, store.usage().reserved), (stored, 0));
    for shard in &shards {
        assert_reads(&store, shard, "reopened");
        assert_eq!(store.shard_length(&ShardId::of(shard)), Some(shard.len() as u32));
    }
    let big = &shards[7];
    let id = ShardId::of(big);
    let length = big.len() as u64;
    let sets: [&[Range<u64>]; 6] = [
        &[0..1],
        &[length - 1..length],
        &[70_000..70_001, 1_500_000..1_600_000],
        &[16_383..16_385],
        &[0..65_536, 65_536..131_072],
        &[900_000..900_100, 5..9],
    ];
    for ranges in sets {
        let stream = encoded(&store, &id, ranges).unwrap();
        assert!(decode(&id, big, ranges, &stream[..]) < 300_000);
    }
    for bad in [vec![], vec![5..5], vec![Range { start: 9, end: 5 }], vec![0..length + 1], vec![u64::MAX - 1..u64::MAX]]
    {
        assert!(matches!(encoded(&store, &id, &bad), Err(ReadError::Range { .. })), "{bad:?}");
    }
    assert!(matches!(encoded(&store, &id, &vec![0..1; 65]), Err(ReadError::Ranges(65))));
    assert!(matches!(encoded(&store, &ShardId::of(b"none"), &[0..1]), Err(ReadError::NotFound)));
    let mut pieces = 0;
    let mut stop = |_: Vec<u8>| {
        pieces += 1;
        ControlFlow::Break(())
    };
    assert_eq!(store.read_encoded(&id, &[0..length], &mut stop).unwrap(), ReadOutcome::Stopped);
    assert_eq!(pieces, 1);
}

#[test]
fn groups_and_records_keep_their_newest_versions() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open(&vfs);
    let key = RecordKey::from_bytes([7; 32]);
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    runtime.block_on(async {
        store.put_group(group(1), END, text("group a")).await.unwrap();
        store.put_group(group(1), END, text("group b")).await.unwrap();
        for (version, bytes) in [(1, "one"), (5, "five"), (9, "nine")] {
            store.put_record(key, group(1), version, text(bytes)).await.unwrap();
        }
        assert_eq!(store.put_record(key, group(1), 9, text("nine")).await, Ok(()));
        assert_eq!(store.put_record(key, group(1), 9, text("other")).await, Err(PutError::Stale { stored: 9 }));
        assert_eq!(store.put_record(key, group(1), 6, text("six")).await, Err(PutError::Stale { stored: 9 }));
        assert_eq!(store.put_group(group(2), END, Bytes::new()).await, Err(PutError::Length(0)));
        let long = Bytes::from(vec![0; RECORD_MAX + 1]);
        assert_eq!(store.put_group(group(2), END, long).await, Err(PutError::Length(RECORD_MAX as u64 + 1)));
    });
    for _ in 0..2 {
        assert_eq!(store.record(&key, 0).unwrap(), Some((9, text("nine"))));
    }
    kill(store, &vfs);
    let (store, _) = open(&vfs);
    assert_eq!(store.group(&group(1)).unwrap(), Some(text("group b")));
    assert_eq!(store.group(&group(2)).unwrap(), None);
    assert_eq!(store.record(&key, 0).unwrap(), Some((9, text("nine"))));
    assert_eq!(store.record(&key, 1).unwrap(), Some((5, text("five"))));
    assert_eq!(store.record(&key, 2).unwrap(), None);
}

#[test]
fn a_second_put_adds_a_group_or_nothing_and_gives_its_space_back() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open(&vfs);
    let shard = payload(1, 50_000);
    let id = ShardId::of(&shard);
    runtime.block_on(async {
        assert_eq!(put(&store, group(1), &shard).await, Ok(Stored::New));
        let one = store.usage().stored;
        assert_eq!(put(&store, group(1), &shard).await, Ok(Stored::Already));
        assert_eq!(store.usage().stored, one);
        assert_eq!(put(&store, group(2), &shard).await, Ok(Stored::Referenced));
        assert_eq!(store.usage().stored, one + record_size(0, 0));
        assert_eq!(store.usage().reserved, 0);
        // Many at once, in one batch: one PUT, and one REF per further group.
        let other = payload(2, 50_000);
        let puts: Vec<_> = (0..12)
            .map(|n| {
                let (store, other) = (store.clone(), other.clone());
                tokio::spawn(async move { put(&store, group(n % 3), &other).await.unwrap() })
            })
            .collect();
        let mut results = Vec::new();
        for put in puts {
            results.push(put.await.unwrap());
        }
        let count = |wanted| results.iter().filter(|stored| **stored == wanted).count();
        assert_eq!((count(Stored::New), count(Stored::Referenced), count(Stored::Already)), (1, 2, 9));
        let space = store.reserve(10).unwrap();
        let refused = store.put_shard(space, id, group(1), payload(3, 10)).await;
        assert_eq!(refused, Err(PutError::Mismatch));
        let space = store.reserve(10).unwrap();
        let refused = store.put_shard(space, id, group(1), shard.clone()).await;
        assert_eq!(refused, Err(PutError::Reservation { length: 50_000, reserved: 10 }));
        assert_eq!(store.usage().reserved, 0);
    });
    kill(store, &vfs);
    assert_eq!(open(&vfs).0.shard_groups(&id), [group(1), group(2)]);
}

#[test]
fn marks_are_honoured_by_recovery_in_scans_and_footers() {
    for config in [config(), small_segments()] {
        let (runtime, vfs) = (runtime(), MemVfs::default());
        let (store, _) = open_with(&vfs, config).unwrap();
        let shards: Vec<Bytes> = (0..4).map(|n| payload(n, 90_000)).collect();
        let ids: Vec<ShardId> = shards.iter().map(|shard| ShardId::of(shard)).collect();
        runtime.block_on(async {
            for shard in &shards {
                put(&store, group(1), shard).await.unwrap();
            }
            store.put_mark(&ids[0], Mark::Tombstone).await.unwrap();
            store.put_mark(&ids[1], Mark::Ref(group(2))).await.unwrap();
            store.put_mark(&ids[1], Mark::Drop { group: group(1), at: UnixMillis(5) }).await.unwrap();
            store.put_mark(&ids[2], Mark::Tombstone).await.unwrap();
            put(&store, group(5), &shards[2]).await.unwrap();
            let gone = store.put_mark(&ids[0], Mark::Ref(group(1))).await;
            assert_eq!(gone, Err(PutError::NotFound));
            for n in 10..14 {
                put(&store, group(1), &payload(n, 90_000)).await.unwrap();
            }
        });
        let check = |store: &Store| {
            assert_eq!(store.shard_length(&ids[0]), None);
            assert_eq!(store.shard_groups(&ids[1]), [group(2)]);
            assert_eq!(store.shard_groups(&ids[2]), [group(5)]);
            assert_eq!(store.shard_groups(&ids[3]), [group(1)]);
            assert_eq!(store.shards(), 7);
        };
        check(&store);
        let usage = store.usage();
        kill(store, &vfs);
        let (store, report) = open_with(&vfs, config).unwrap();
        check(&store);
        assert_eq!(store.usage().stored, usage.stored);
        assert_eq!(report.sealed > 0, config == small_segments());
    }
}

#[test]
fn a_tail_torn_at_any_byte_keeps_all_records_before_it() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open(&vfs);
    let shards: Vec<Bytes> = [700, 20_000, 300].iter().map(|size| payload(*size as u64, *size)).collect();
    runtime.block_on(async {
        for shard in &shards {
            put(&store, group(1), shard).await.unwrap();
        }
    });
    kill(store, &vfs);
    let whole = first_segment(&vfs);
    let start = 64 + record_size(700, 0) + record_size(20_000, 64);
    let end = (start + record_size(300, 0)) as usize;
    let start = start as usize;
    for cut in start..end {
        for zeros in [false, true] {
            let mut bytes = whole[..cut].to_vec();
            if zeros {
                bytes.resize(whole.len(), 0);
            }
            let torn = vfs.fork();
            set_first_segment(&torn, &bytes);
            let (store, report) = open(&torn);
            // Padding is no part of the promise: once the checksum is there the record is whole.
            let body = start + HEADER_BYTES + 300 + 4;
            let whole = cut >= body || (zeros && whole[cut..body].iter().all(|byte| *byte == 0));
            assert_eq!(report.records, if whole { 3 } else { 2 }, "cut at {cut}, zeros {zeros}");
            assert_eq!(report.quarantined, 0);
            if cut % 97 == 0 {
                assert_reads(&store, &shards[0], "first");
                assert_reads(&store, &shards[1], "second");
                runtime.block_on(put(&store, group(1), &shards[2])).unwrap();
                assert_reads(&store, &shards[2], "third again");
                kill(store, &torn);
                assert_eq!(open(&torn).1.records, 3);
            }
        }
    }
}

#[test]
fn rot_in_the_middle_is_quarantined_and_its_neighbours_survive() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open(&vfs);
    let shards: Vec<Bytes> = (0..3).map(|n| payload(n, 30_000)).collect();
    runtime.block_on(async {
        for shard in &shards {
            put(&store, group(1), shard).await.unwrap();
        }
    });
    let stored = store.usage().stored;
    kill(store, &vfs);
    let second = 64 + record_size(30_000, 64) as usize;
    let body = HEADER_BYTES + 30_000 + 64 + 4;
    for at in (0..HEADER_BYTES).chain((HEADER_BYTES..body).step_by(991)).chain([body - 1, body - 5]) {
        let rotten = vfs.fork();
        let mut bytes = first_segment(&rotten);
        bytes[second + at] ^= 0x10;
        set_first_segment(&rotten, &bytes);
        let (store, report) = open(&rotten);
        assert_eq!((report.records, report.quarantined), (2, 1), "byte {at}");
        assert_eq!(report.quarantined_bytes, record_size(30_000, 64));
        assert_eq!(report.torn_bytes, 0);
        assert_eq!(store.usage().stored, stored, "quarantined bytes still take space");
        assert_reads(&store, &shards[0], "before");
        assert_reads(&store, &shards[2], "behind");
        assert!(store.shard_length(&ShardId::of(&shards[1])).is_none());
    }
}

#[test]
fn rot_under_an_open_store_is_an_error_and_never_wrong_bytes() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open(&vfs);
    let shard = payload(1, 200_000);
    let id = ShardId::of(&shard);
    runtime.block_on(put(&store, group(1), &shard)).unwrap();
    let good = first_segment(&vfs);
    let all = encoded(&store, &id, &[0..200_000]).unwrap();
    let outboard = 64 + HEADER_BYTES + 200_000;
    for at in (64 + HEADER_BYTES..outboard).step_by(9973).chain((outboard..outboard + 12 * 64).step_by(31)) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        set_first_segment(&vfs, &bytes);
        let mut out = Vec::new();
        let mut sink = |bytes: Vec<u8>| {
            out.extend_from_slice(&bytes);
            ControlFlow::Continue(())
        };
        let result = store.read_encoded(&id, &[0..200_000], &mut sink);
        assert!(matches!(result, Err(ReadError::Rot)), "byte {at}: {result:?}");
        assert!(all.starts_with(&out), "a wrong byte reached the sink");
    }
    // A put of a shard whose stored copy is damaged writes it anew instead of vouching for the damage.
    assert_eq!(runtime.block_on(put(&store, group(1), &shard)), Ok(Stored::New));
    assert_reads(&store, &shard, "stored anew");
    assert_eq!(runtime.block_on(put(&store, group(1), &shard)), Ok(Stored::Already));
}

#[test]
fn payloads_with_forged_records_have_no_effect() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open(&vfs);
    let victim = payload(1, 5000);
    runtime.block_on(put(&store, group(1), &victim)).unwrap();
    // A true record of this very log, copied, and headers of a stranger's own key with the right place in them.
    let segment = first_segment(&vfs);
    let mut forged = segment[64..64 + record_size(5000, 0) as usize].to_vec();
    let begin = 64 + record_size(5000, 0) + HEADER_BYTES as u64;
    let stranger = record::tests::codec();
    for n in 0..200_u64 {
        let offset = begin + forged.len() as u64;
        let entry = Entry {
            kind: Kind::Tombstone,
            key: *ShardId::of(&victim).as_bytes(),
            group: [0; 32],
            payload: 0,
            outboard: 0,
            number: 0,
            sequence: n,
            offset,
        };
        forged.extend_from_slice(&stranger.header(&entry, 0));
        forged.extend_from_slice(&[0; ALIGN as usize]);
    }
    let forged = Bytes::from(forged);
    let last = payload(2, 100);
    runtime.block_on(async {
        put(&store, group(1), &forged).await.unwrap();
        put(&store, group(1), &last).await.unwrap();
    });
    kill(store, &vfs);
    for damage_header in [false, true] {
        let vfs = vfs.fork();
        if damage_header {
            let mut bytes = first_segment(&vfs);
            bytes[begin as usize - HEADER_BYTES] ^= 1;
            set_first_segment(&vfs, &bytes);
        }
        let (store, report) = open(&vfs);
        assert_reads(&store, &victim, "victim");
        assert_reads(&store, &last, "last");
        let wanted = if damage_header { (2, 1) } else { (3, 0) };
        assert_eq!((report.records, report.quarantined), wanted);
    }
}

/// One life of a store until the power fails somewhere; returns what was acknowledged.
fn live(runtime: &Runtime, store: &Store, random: &mut Random) -> (Vec<Bytes>, Vec<(u64, Bytes)>) {
    let key = RecordKey::from_bytes([1; 32]);
    let count = 3 + random.below(10);
    let seeds: Vec<u64> = (0..count).map(|_| random.next_u64()).collect();
    runtime.block_on(async {
        let puts: Vec<_> = seeds
            .iter()
            .map(|seed| {
                let (store, seed) = (store.clone(), *seed);
                tokio::spawn(async move {
                    let shard = payload(seed, 1 + (seed % 60_000) as usize);
                    put(&store, group((seed % 3) as u8), &shard).await.ok().map(|_| shard)
                })
            })
            .collect();
        let mut records = Vec::new();
        for _ in 0..3 {
            let newest = store.record(&key, 0).ok().flatten().map_or(0, |(version, _)| version);
            let version = newest + 1;
            let bytes = payload(random.next_u64(), 200);
            if store.put_record(key, group(0), version, bytes.clone()).await.is_ok() {
                records.push((version, bytes));
            }
        }
        let mut acknowledged = Vec::new();
        for put in puts {
            acknowledged.extend(put.await.unwrap());
        }
        (acknowledged, records)
    })
}

#[test]
fn everything_acknowledged_survives_crashes_of_any_kind() {
    let runtime = runtime();
    let mut total = 0;
    for seed in 0..300 {
        let vfs = MemVfs::default();
        let mut random = Random::new(seed);
        let mut acknowledged: Vec<Bytes> = Vec::new();
        let mut newest = None;
        for life in 0..3 {
            if life > 0 || random.below(4) == 0 {
                vfs.cut_power_after(random.below(60));
            }
            if let Ok((store, report)) = open_with(&vfs, small_segments()) {
                assert_eq!(report.quarantined_bytes % ALIGN, 0);
                let (shards, records) = live(&runtime, &store, &mut random);
                acknowledged.extend(shards);
                newest = records.last().cloned().or(newest);
                drop(store);
            }
            vfs.crash(random.next_u64());
        }
        let (store, _) = open_with(&vfs, small_segments()).unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        for shard in &acknowledged {
            assert_reads(&store, shard, &format!("seed {seed}"));
        }
        if let Some((version, bytes)) = newest {
            let (found, read) = store.record(&RecordKey::from_bytes([1; 32]), 0).unwrap().unwrap();
            assert!(found > version || (found, &read) == (version, &bytes), "seed {seed}");
        }
        total += acknowledged.len();
    }
    assert!(total > 2000, "the simulation stores too little: {total}");
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_poisons_the_segment_and_a_second_one_ends_writing() {
    for write in [false, true] {
        let (runtime, vfs) = (runtime(), MemVfs::default());
        let (store, _) = open(&vfs);
        let shards: Vec<Bytes> = (0..5).map(|n| payload(n, 9000)).collect();
        let fail = || if write { vfs.fail_write_after(0) } else { vfs.fail_sync_after(0) };
        runtime.block_on(async {
            put(&store, group(1), &shards[0]).await.unwrap();
            fail();
            let refused = put(&store, group(1), &shards[1]).await.unwrap_err();
            assert!(matches!(refused, PutError::Io(_)) && refused.retryable(), "{refused:?}");
            assert_eq!((store.health(), store.usage().reserved), (Health::Degraded, 0));
            assert_eq!(store.shard_length(&ShardId::of(&shards[1])), None);
            put(&store, group(1), &shards[2]).await.unwrap();
            assert!(vfs.contents(&segment_path(data(), 1)).is_some(), "a new segment was begun");
            fail();
            assert!(matches!(put(&store, group(1), &shards[3]).await, Err(PutError::Io(_))));
            assert_eq!(store.health(), Health::ReadOnly);
            assert_eq!(put(&store, group(1), &shards[4]).await, Err(PutError::Space(ReserveError::ReadOnly)));
            assert_reads(&store, &shards[0], "read-only still reads");
        });
        kill(store, &vfs);
        // The process ends, the machine does not: the unsynced records are still to be seen, but do not count.
        let (store, report) = open(&vfs.fork());
        assert_eq!(store.shard_length(&ShardId::of(&shards[1])), None, "write {write}");
        assert!(report.records >= 2);
        assert_reads(&store, &shards[0], "before the poison");
        assert_reads(&store, &shards[2], "in the new segment");
    }
}

#[test]
fn a_full_disk_is_a_typed_refusal_and_the_store_recovers_when_there_is_space() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open(&vfs);
    let (first, big, later) = (payload(1, 10_000), payload(2, 3 << 20), payload(3, 10_000));
    runtime.block_on(async {
        put(&store, group(1), &first).await.unwrap();
        let used = first_segment(&vfs).len() as u64 + (1 << 20) + 96;
        let held = store.reserve(big.len() as u64).unwrap();
        // Another program takes the space after it was promised.
        vfs.set_capacity(Some(used + 1000));
        let refused = store.put_shard(held, ShardId::of(&big), group(1), big.clone()).await;
        assert_eq!(refused, Err(PutError::DiskFull));
        assert!(PutError::DiskFull.retryable());
        assert_eq!((store.health(), store.usage().reserved), (Health::Good, 0));
        assert!(matches!(store.reserve(big.len() as u64), Err(ReserveError::Disk { .. })));
        put(&store, group(1), &later).await.unwrap();
        vfs.set_capacity(None);
        store.inner.shared.space.refresh();
        // Without preallocation it is the write that finds the disk full, after a part of the bytes.
        vfs.fill_at_write_after(0);
        assert_eq!(put(&store, group(1), &big).await, Err(PutError::DiskFull));
        assert_eq!(store.health(), Health::Good);
        put(&store, group(1), &big).await.unwrap();
    });
    kill(store, &vfs);
    let (store, report) = open(&vfs);
    assert_eq!((report.records, report.quarantined, report.torn_bytes), (3, 0, 0));
    [&first, &big, &later].into_iter().for_each(|shard| assert_reads(&store, shard, "after the full disk"));
}

#[test]
fn records_found_unsynced_at_open_are_durable_before_they_count() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open(&vfs);
    let (first, shard) = (payload(1, 9000), payload(2, 9000));
    runtime.block_on(async {
        put(&store, group(1), &first).await.unwrap();
        // The process dies between write and sync; the machine and its page cache live on.
        vfs.cut_power_after(1);
        assert!(put(&store, group(1), &shard).await.is_err());
    });
    let mut found = 0;
    for seed in 0..40 {
        let disk = vfs.fork();
        let (store, _) = open(&disk);
        found += u32::from(runtime.block_on(put(&store, group(1), &shard)) == Ok(Stored::Already));
        disk.crash(seed);
        assert_reads(&open(&disk).0, &shard, &format!("seed {seed}"));
    }
    assert_eq!(found, 40, "the record was whole in the page cache");
}

#[test]
fn what_a_failed_sync_left_in_memory_is_written_again_before_it_counts() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open(&vfs);
    let (first, shard) = (payload(1, 9000), payload(2, 9000));
    runtime.block_on(async {
        put(&store, group(1), &first).await.unwrap();
        vfs.fail_sync_after(0);
        assert!(matches!(put(&store, group(1), &shard).await, Err(PutError::Io(_))));
    });
    // The process ends before it can say so on disk. The system shows the record, and calls it clean.
    kill(store, &vfs);
    for seed in 0..20 {
        let disk = vfs.fork();
        let (store, _) = open(&disk);
        assert_eq!(runtime.block_on(put(&store, group(1), &shard)), Ok(Stored::Already), "seed {seed}");
        disk.crash(seed);
        let (store, _) = open(&disk);
        [&first, &shard].into_iter().for_each(|shard| assert_reads(&store, shard, &format!("seed {seed}")));
    }
}

#[test]
fn a_write_cut_short_by_a_full_disk_leaves_no_record_behind() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open(&vfs);
    let text = Bytes::from_static(b"statement");
    let refused = runtime.block_on(async {
        store.put_group(group(0), END, text.clone()).await.unwrap();
        vfs.fill_at_write_after(0);
        tokio::join!(store.put_group(group(1), END, text.clone()), store.put_group(group(2), END, text.clone()))
    });
    kill(store, &vfs);
    let (store, report) = open(&vfs);
    for (id, put) in [(1, refused.0), (2, refused.1)] {
        assert_eq!(store.group(&group(id)).unwrap().is_some(), put.is_ok());
    }
    assert_eq!((report.quarantined, report.torn_bytes), (0, 0));
}

#[test]
fn the_quota_counts_the_log_and_marks_that_free_space_pass_it() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open_with(&vfs, StoreConfig { quota: QUOTA_MIN, ..config() }).unwrap();
    runtime.block_on(async {
        let mut last = None;
        for n in 0.. {
            let shard = payload(n, 1 << 20);
            match put(&store, group(1), &shard).await {
                Ok(_) => last = Some(ShardId::of(&shard)),
                Err(error) => {
                    assert!(matches!(error, PutError::Space(ReserveError::Quota { .. })), "{error:?}");
                    break;
                }
            }
        }
        while store.put_group(group(9), END, Bytes::from(vec![1; 50_000])).await.is_ok() {}
        while store.put_group(group(9), END, Bytes::from_static(b"x")).await.is_ok() {}
        assert!(store.usage().stored <= QUOTA_MIN && store.usage().free < 192, "{:?}", store.usage());
        assert_eq!(store.put_mark(&last.unwrap(), Mark::Tombstone).await, Ok(Stored::New));
    });
    assert!(matches!(open_with(&MemVfs::default(), StoreConfig::new(QUOTA_MIN - 1)), Err(OpenError::Quota(_))));
}

#[test]
fn the_index_is_bounded() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open_with(&vfs, StoreConfig { shards_max: 70, ..config() }).unwrap();
    let results: Vec<_> = (0..10).map(|n| runtime.block_on(put(&store, group(1), &payload(n, 10)))).collect();
    assert_eq!(results.iter().filter(|result| **result == Ok(Stored::New)).count(), 7);
    assert_eq!(results[9], Err(PutError::IndexFull));
    assert_eq!((store.shards(), store.usage().reserved), (7, 0));
}

#[test]
fn sealed_segments_are_read_by_footer_and_a_lost_footer_costs_only_a_scan() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open_with(&vfs, small_segments()).unwrap();
    let shards: Vec<Bytes> = (0..20).map(|n| payload(n, 40_000)).collect();
    runtime.block_on(async {
        for shard in &shards {
            put(&store, group(1), shard).await.unwrap();
        }
    });
    kill(store, &vfs);
    let (store, report) = open_with(&vfs.fork(), small_segments()).unwrap();
    assert_eq!((report.segments, report.sealed, report.records), (4, 3, 20));
    shards.iter().for_each(|shard| assert_reads(&store, shard, "footers"));
    let good = first_segment(&vfs);
    for at in [good.len() - 1, good.len() - TRAILER_BYTES, good.len() - TRAILER_BYTES - 20] {
        let damaged = vfs.fork();
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        set_first_segment(&damaged, &bytes);
        let (store, report) = open_with(&damaged, small_segments()).unwrap();
        assert_eq!((report.sealed, report.records, report.quarantined), (2, 20, 0));
        shards.iter().for_each(|shard| assert_reads(&store, shard, "scan"));
    }
}

#[test]
fn one_batch_is_one_sync() {
    let (runtime, vfs) = (runtime(), MemVfs::default());
    let (store, _) = open(&vfs);
    runtime.block_on(async {
        put(&store, group(1), &payload(0, 100)).await.unwrap();
        let before = vfs.syncs();
        let puts: Vec<_> = (1..65)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move { put(&store, group(1), &payload(n, 100)).await.unwrap() })
            })
            .collect();
        for put in puts {
            put.await.unwrap();
        }
        let syncs = vfs.syncs() - before;
        assert!(syncs < 32, "64 puts took {syncs} syncs");
    });
}

#[test]
fn a_store_is_opened_once_and_only_under_its_own_identity() {
    let vfs = MemVfs::default();
    let (store, _) = open(&vfs);
    assert!(matches!(open_with(&vfs, config()), Err(OpenError::Locked(_))));
    runtime().block_on(put(&store, group(1), &payload(1, 100))).unwrap();
    let other = store.clone();
    kill(store, &vfs);
    let refused = other.reserve(1).map(|space| {
        let bytes = payload(9, 1);
        runtime().block_on(other.put_shard(space, ShardId::of(&bytes), group(1), bytes))
    });
    assert_eq!(refused.unwrap(), Err(PutError::Closed));
    let (store, report) = open(&vfs);
    assert!(!report.created);
    store.close();

    let keys = [data().join("store.key"), data().join("store.key.copy")];
    let with = |change: &dyn Fn(&MemVfs, &Path), count: usize| {
        let disk = vfs.fork();
        keys.iter().rev().take(count).for_each(|key| change(&disk, key));
        disk
    };
    let remove: &dyn Fn(&MemVfs, &Path) = &|disk, key| disk.remove(key).unwrap();
    let damage: &dyn Fn(&MemVfs, &Path) = &|disk, key| disk.rot(key, 40, 1);
    let replace: &dyn Fn(&MemVfs, &Path) =
        &|disk, key| disk.set_contents(key, &record::StoreKey::from_seed(&[1; 32]).encode());
    for change in [remove, damage] {
        let disk = with(change, 1);
        open(&disk).0.close();
        for key in &keys {
            assert_eq!(disk.contents(key), vfs.contents(key), "the other copy is enough, and is copied");
        }
    }
    assert!(matches!(open_with(&with(remove, 2), config()), Err(OpenError::KeyMissing(_))));
    assert!(matches!(open_with(&with(damage, 2), config()), Err(OpenError::KeyDamaged(_))));
    let foreign = with(replace, 2);
    assert!(matches!(open_with(&foreign, config()), Err(OpenError::Foreign(_))));
    let unmounted = vfs.fork();
    for path in unmounted.paths().iter().filter(|path| path.starts_with(data().join("segments"))) {
        unmounted.remove(path).unwrap();
    }
    assert!(matches!(open_with(&unmounted, config()), Err(OpenError::Missing(_))));
    assert_eq!(first_segment(&foreign), first_segment(&vfs), "a refused store is left as it was");
}

#[test]
fn a_record_of_a_newer_version_refuses_to_open() {
    let vfs = MemVfs::default();
    let (store, _) = open(&vfs);
    runtime().block_on(put(&store, group(1), &payload(1, 100))).unwrap();
    kill(store, &vfs);
    let codec = Codec::new(&record::StoreKey::from_seed(&[3; 32]));
    let offset = 64 + record_size(100, 0);
    let mut bytes = first_segment(&vfs)[..offset as usize].to_vec();
    bytes.extend_from_slice(&codec.header_of_unknown_kind(0, offset));
    bytes.resize(bytes.len() + 64, 0);
    set_first_segment(&vfs, &bytes);
    assert!(matches!(open_with(&vfs, config()), Err(OpenError::Newer { .. })));
}

#[test]
fn the_real_disk_behaves_like_the_simulated_one() {
    let (runtime, dir) = (runtime(), tempfile::tempdir().unwrap());
    let open = || Store::open(Arc::new(OsVfs), dir.path(), small_segments(), [3; 32]);
    let (store, _) = open().unwrap();
    assert!(matches!(open(), Err(OpenError::Locked(_))));
    let shards: Vec<Bytes> = (0..8).map(|n| payload(n, 90_000)).collect();
    runtime.block_on(async {
        for shard in &shards {
            put(&store, group(1), shard).await.unwrap();
        }
    });
    store.close();
    let (store, report) = open().unwrap();
    assert_eq!((report.from_snapshot, report.records, report.torn_bytes), (true, 0, 0));
    shards.iter().for_each(|shard| assert_reads(&store, shard, "disk"));
    assert!(std::fs::metadata(dir.path().join("reserve")).unwrap().len() >= 1 << 20);
}
