//! A data directory that is damaged, foreign, or made up record by record under the store's own key. It opens or is
//! refused; what it then serves is true, what it then acknowledges stays.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use shoal_client::pipeline::SliceVerifier;
use shoal_node::chunks::probe::{Probe, RecordSpec};
use shoal_node::chunks::vfs::{OpenMode, Vfs as _};
use shoal_node::chunks::vfs_mem::MemVfs;
use shoal_node::chunks::{Mark, QUOTA_MIN, ReadError, ReadOutcome, Store, StoreConfig};
use shoal_protocol::{GroupId, RecordKey, ShardId, UnixMillis};

use super::input::{Input, sized};
use super::log::probe;
use super::runtime;
use crate::sample;

/// Segments of a made-up log.
const SEGMENTS_MAX: usize = 4;
/// Records of one of them.
const RECORDS_MAX: usize = 8;
/// Shards in the good store that is damaged.
const SHARDS: u8 = 10;

fn data() -> &'static Path {
    Path::new("/data")
}

fn segment(number: usize) -> PathBuf {
    data().join(format!("segments/{number:016x}.seg"))
}

fn config() -> StoreConfig {
    StoreConfig { segment_bytes: 64 * 1024, ..StoreConfig::new(QUOTA_MIN) }
}

fn put(vfs: &MemVfs, path: &Path, bytes: &[u8]) {
    let _ = vfs.open(path, OpenMode::Create);
    vfs.set_contents(path, bytes);
}

fn group(number: u8) -> GroupId {
    GroupId::from_bytes([number; 32])
}

fn payload(number: u8) -> Bytes {
    sample::bytes(u64::from(number), 700 * usize::from(number) * usize::from(number) + 1).into()
}

fn record_key() -> RecordKey {
    RecordKey::from_bytes([0x4b; 32])
}

fn store(store: &Store, payload: &Bytes) -> bool {
    let Ok(space) = store.reserve(payload.len() as u64) else { return false };
    runtime().block_on(store.put_shard(space, ShardId::of(payload), group(1), payload.clone())).is_ok()
}

/// A store with shards, groups, records, marks and several segments, closed.
fn good() -> &'static MemVfs {
    static GOOD: OnceLock<MemVfs> = OnceLock::new();
    GOOD.get_or_init(|| {
        let vfs = MemVfs::default();
        let Ok((found, _)) = Store::open(Arc::new(vfs.clone()), data(), config(), [9; 32]) else { return vfs };
        runtime().block_on(async {
            let signed = Bytes::from_static(b"a signed statement");
            let _ = found.put_group(group(1), UnixMillis(u64::MAX), signed.clone()).await;
            let _ = found.put_record(record_key(), group(1), 1, signed.clone()).await;
            let _ = found.put_record(record_key(), group(1), 2, Bytes::from_static(b"the second")).await;
        });
        let all = (1..=SHARDS).all(|number| store(&found, &payload(number)));
        runtime().block_on(async {
            let id = |number| ShardId::of(&payload(number));
            let _ = found.put_mark(&id(1), Mark::Ref(group(2))).await;
            let _ = found.put_mark(&id(2), Mark::Drop { group: group(1), at: UnixMillis(1) }).await;
            let _ = found.put_mark(&id(3), Mark::Tombstone).await;
        });
        found.close();
        assert!(all, "the good store is not one");
        vfs
    })
}

/// Damages every kind of file of a good store, or makes one up of anything.
pub fn store_directory(data_bytes: &[u8]) -> bool {
    let mut input = Input::new(data_bytes);
    let (vfs, keys) = match input.byte() % 3 {
        0 => damaged(&mut input),
        1 => made_up(&mut input),
        _ => raw(&mut input),
    };
    opens_or_refuses(&vfs, &keys)
}

fn damaged(input: &mut Input<'_>) -> (MemVfs, Vec<[u8; 32]>) {
    let vfs = good().fork();
    for _ in 0..input.below(4) {
        let paths: Vec<PathBuf> = vfs.paths().into_iter().filter(|path| !path.ends_with("reserve")).collect();
        let Some(path) = paths.get(input.below(paths.len().max(1))) else { break };
        let Some(mut bytes) = vfs.contents(path) else { continue };
        match input.byte() % 6 {
            0 => drop(vfs.remove(path)),
            // Anywhere in the file, which has more bytes than two can count.
            1 => {
                let at = input.long().checked_rem(bytes.len() as u64).unwrap_or(0);
                let mask = input.byte();
                vfs.rot(path, at, mask);
            }
            2 => {
                let length = input.long().checked_rem(bytes.len() as u64 + 1).unwrap_or(0);
                bytes.truncate(usize::try_from(length).unwrap_or(0));
                put(&vfs, path, &bytes);
            }
            3 => {
                let from = usize::try_from(input.long().checked_rem(bytes.len() as u64 + 1).unwrap_or(0)).unwrap_or(0);
                let noise = input.bytes(256);
                bytes.iter_mut().skip(from).zip(noise).for_each(|(to, byte)| *to = *byte);
                put(&vfs, path, &bytes);
            }
            4 => {
                bytes.extend_from_slice(input.bytes(256));
                put(&vfs, path, &bytes);
            }
            _ => {
                let other = segment(input.below(6));
                put(&vfs, &other, &bytes);
            }
        }
    }
    let keys = (1..=SHARDS).map(|number| *ShardId::of(&payload(number)).as_bytes());
    (vfs, keys.collect())
}

/// What a store of [`probe`] needs to be taken for one.
fn identity(vfs: &MemVfs) {
    for name in ["store.key", "store.key.copy"] {
        put(vfs, &data().join(name), &probe().key_file());
    }
    put(vfs, &data().join("segments/store.id"), &probe().marker());
}

fn spec(input: &mut Input<'_>) -> RecordSpec {
    let kind = input.byte() % 8;
    let key = input.byte();
    RecordSpec {
        kind,
        key: (!key.is_multiple_of(4)).then_some([key % 8; 32]),
        group: [input.byte() % 4; 32],
        number: u64::from(input.byte()).wrapping_sub(1),
        sequence: u64::from(input.byte()).wrapping_sub(1),
        payload: input.bytes(40_000).to_vec(),
    }
}

fn made_up(input: &mut Input<'_>) -> (MemVfs, Vec<[u8; 32]>) {
    let vfs = MemVfs::default();
    identity(&vfs);
    let mut keys: Vec<[u8; 32]> = (0..8).map(|key| [key; 32]).collect();
    let maker: &Probe = probe();
    for at in 0..1 + input.below(SEGMENTS_MAX) {
        let number = if input.byte().is_multiple_of(8) { u32::MAX as usize } else { at };
        let previous = u32::from(input.byte()).wrapping_sub(1);
        let end = if input.byte().is_multiple_of(2) { u64::MAX } else { input.long() };
        let mut bytes = maker.segment_header_of(number as u64, previous, end);
        let mut records = Vec::new();
        for _ in 0..input.below(RECORDS_MAX) {
            let record = spec(input);
            let offset = bytes.len() as u64;
            // Some say that they are in another segment.
            let of = if input.byte() % 16 == 1 { 77 } else { number as u64 };
            let Some(made) = maker.record_of(&record, of, offset) else { continue };
            bytes.extend_from_slice(&made);
            keys.push(*ShardId::of(&record.payload).as_bytes());
            records.push((record, offset));
            if input.byte() % 4 == 1 {
                bytes.extend_from_slice(&[input.byte(); 64]);
            }
        }
        let records_end = bytes.len() as u64;
        match input.byte() % 4 {
            0 => bytes.extend(maker.footer_of(&records, number as u64, records_end)),
            // A footer that forgets a record, or promises more than there is.
            1 => bytes.extend(maker.footer_of(records.get(1..).unwrap_or_default(), number as u64, records_end)),
            2 => bytes.extend_from_slice(input.bytes(512)),
            _ => {}
        }
        put(&vfs, &segment(number), &bytes);
    }
    if input.byte() % 4 == 1 {
        let mut index = input.bytes(4096).to_vec();
        index.extend_from_slice(&[0; 32]);
        maker.long_mac(&mut index);
        put(&vfs, &data().join("index"), &index);
    }
    (vfs, keys)
}

fn raw(input: &mut Input<'_>) -> (MemVfs, Vec<[u8; 32]>) {
    let vfs = MemVfs::default();
    let has_identity = input.byte().is_multiple_of(2);
    if has_identity {
        identity(&vfs);
    }
    let names = ["store.key", "segments/store.id", "index", "scrub", "segments/0000000000000000.seg", "reserve"];
    while !input.is_empty() {
        let name = names[usize::from(input.byte()) % names.len()];
        put(&vfs, &data().join(name), input.bytes(4096));
    }
    (vfs, vec![[0; 32]])
}

fn opens_or_refuses(vfs: &MemVfs, keys: &[[u8; 32]]) -> bool {
    let open = || Store::open(Arc::new(vfs.clone()), data(), config(), [9; 32]);
    let Ok((found, report)) = open() else { return false };
    keys.iter().for_each(|key| serves_only_true(&found, key));
    for back in [0, 1] {
        if let Ok(Some((version, bytes))) = found.record(&record_key(), back) {
            assert!(bytes.len() <= shoal_protocol::limits::RECORD_MAX && version > 0, "a record out of its bounds");
        }
    }
    let _ = (found.status(), found.losses(None, 256), found.group(&group(1)));
    let fresh = Bytes::from_static(b"stored after the damage");
    let acknowledged = store(&found, &fresh);
    assert!(!acknowledged || complete(&found, &ShardId::of(&fresh)), "what was just stored is not served");
    found.close();
    let Ok((again, _)) = open() else { panic!("a store that opened does not open again") };
    assert!(!acknowledged || complete(&again, &ShardId::of(&fresh)), "an acknowledged shard is gone");
    keys.iter().for_each(|key| serves_only_true(&again, key));
    again.close();
    !report.created
}

/// Whatever leaves for this id hashes to it.
fn serves_only_true(store: &Store, key: &[u8; 32]) {
    complete(store, &ShardId::from_bytes(*key));
}

fn complete(store: &Store, id: &ShardId) -> bool {
    let Some(length) = store.shard_length(id) else { return false };
    let whole = [0..u64::from(length)];
    let mut out = Vec::new();
    let read = store.read_encoded(id, &whole, &mut |bytes| {
        out.extend_from_slice(&bytes);
        ControlFlow::Continue(())
    });
    let Ok(mut verifier) = SliceVerifier::new(*id, u64::from(length), &whole) else {
        assert!(read.is_err(), "serves a shard of {length} bytes");
        return false;
    };
    let mut sent = Bytes::from(out);
    while !sent.is_empty() {
        assert!(verifier.push(&mut sent).is_ok(), "a wrong byte left the store");
    }
    match read {
        Ok(ReadOutcome::Complete { .. }) => {
            assert!(verifier.finish().is_ok(), "an answer that is not whole");
            true
        }
        Ok(ReadOutcome::Stopped) | Err(ReadError::Rot | ReadError::NotFound | ReadError::Io(_)) => false,
        Err(error) => panic!("reading a whole shard: {error}"),
    }
}

pub(super) fn directories() -> Vec<Vec<u8>> {
    let rot = |file: u8, at: u64| [&[0, 1, 0, file, 0, 1][..], &at.to_le_bytes(), &[1]].concat();
    let mut out: Vec<Vec<u8>> = (0..8).map(|file| rot(file, 70 + u64::from(file) * 100)).collect();
    out.push(vec![0, 0, 0]);
    out.extend((0..8).map(|file| vec![0, 1, 0, file, 0, 0]));
    out.extend((0..8).map(|file| [&[0, 1, 0, file, 0, 2][..], &200u64.to_le_bytes()].concat()));
    out.push([&[0, 1, 0, 6, 0, 4][..], &sized(&[7; 100])].concat());
    out.push(vec![0, 1, 0, 5, 0, 5, 3, 0]);
    let record = |kind: u8, key: u8, sequence: u8, payload: &[u8]| {
        [&[kind, key, 1, 3, sequence][..], &sized(payload), &[0, 0]].concat()
    };
    let records =
        [record(4, 1, 1, b"group"), record(1, 0, 2, &[5; 300]), record(5, 2, 3, b"record"), record(2, 4, 4, &[])];
    for footer in 0..4u8 {
        let body = records.concat();
        out.push([&[1, 0, 0, 1, 0, 0, 4, 0][..], &body, &[footer, 0, 0, 0]].concat());
        out.push([&[1, 1, 0, 1, 0, 0, 4, 0][..], &body, &[footer, 1, 1, 0, 1, 0][..], &records[1], &[3]].concat());
    }
    out.push([&[2, 0, 4][..], &sized(&[0; 200]), &[2], &sized(b"no index")].concat());
    out.push([&[2, 1, 0][..], &sized(&probe().key_file()), &[1], &sized(&probe().marker())].concat());
    out
}
