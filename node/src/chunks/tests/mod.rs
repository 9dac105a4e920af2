//! The store as a whole on a simulated disk: what its suites share. Each suite says in its header what it proves.

mod crash;
mod eio;
mod formats;
mod model;
mod rot;
mod sectors;
mod store;
mod upkeep;
mod world;

use std::io::Read;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use ::bytes::Bytes;
use bao_tree::io::BaoContentItem;
use bao_tree::io::sync::DecodeResponseIter;
use bao_tree::{ChunkNum, ChunkRanges};
use shoal_protocol::limits::RECORD_MAX;
use shoal_protocol::{GroupId, RecordKey, ShardId, UnixMillis};
use tokio::runtime::Runtime;

use super::bao::tree;
use super::random::Random;
use super::record::{ALIGN, Codec, Entry, HEADER_BYTES, TRAILER_BYTES, record_size};
use super::segment::segment_path;
use super::vfs::Vfs as _;
use super::vfs_mem::MemVfs;
use super::vfs_os::OsVfs;
use super::*;

pub(super) const DATA: &str = "/data";
pub(super) const QUOTA: u64 = 16 * 1024 * 1024;
/// When the groups of the tests are over.
pub(super) const END: UnixMillis = UnixMillis(u64::MAX);

pub(super) fn data() -> &'static Path {
    Path::new(DATA)
}

pub(super) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub(super) fn config() -> StoreConfig {
    StoreConfig { segment_bytes: SEGMENT_BYTES, ..StoreConfig::new(QUOTA) }
}

pub(super) fn small_segments() -> StoreConfig {
    StoreConfig { segment_bytes: 200 * 1024, ..config() }
}

pub(super) fn open_with(vfs: &MemVfs, config: StoreConfig) -> Result<(Store, RecoveryReport), OpenError> {
    Store::open(Arc::new(vfs.clone()), data(), config, [3; 32])
}

pub(super) fn open(vfs: &MemVfs) -> (Store, RecoveryReport) {
    open_with(vfs, config()).unwrap()
}

pub(super) fn group(n: u8) -> GroupId {
    GroupId::from_bytes([n; 32])
}

pub(super) fn payload(seed: u64, length: usize) -> Bytes {
    let mut random = Random::new(seed);
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        out.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    out.truncate(length);
    out.into()
}

pub(super) async fn put(store: &Store, group: GroupId, bytes: &Bytes) -> Result<Stored, PutError> {
    let space = store.reserve(bytes.len() as u64)?;
    store.put_shard(space, ShardId::of(bytes), group, bytes.clone()).await
}

pub(super) fn encoded(store: &Store, id: &ShardId, ranges: &[Range<u64>]) -> Result<Vec<u8>, ReadError> {
    let mut out = Vec::new();
    let mut sink = |bytes: Vec<u8>| {
        assert!(bytes.len() <= 64 * 1024);
        out.extend_from_slice(&bytes);
        ControlFlow::Continue(())
    };
    let outcome = store.read_encoded(id, ranges, &mut sink)?;
    assert_eq!(outcome, ReadOutcome::Complete { bytes: out.len() as u64 });
    Ok(out)
}

/// Decodes as a client does and compares with what was stored.
pub(super) fn decode(id: &ShardId, bytes: &[u8], ranges: &[Range<u64>], encoded: impl Read) -> u64 {
    let mut chunks = ChunkRanges::empty();
    for range in ranges {
        chunks |= ChunkRanges::from(ChunkNum::full_chunks(range.start)..ChunkNum::chunks(range.end));
    }
    let root = blake3::Hash::from_bytes(*id.as_bytes());
    let mut read = 0;
    for item in DecodeResponseIter::new(root, tree(bytes.len() as u32), encoded, &chunks) {
        if let BaoContentItem::Leaf(leaf) = item.unwrap() {
            let start = leaf.offset as usize;
            assert_eq!(leaf.data, bytes[start..start + leaf.data.len()]);
            read += leaf.data.len() as u64;
        }
    }
    read
}

pub(super) fn assert_reads(store: &Store, bytes: &Bytes, what: &str) {
    let id = ShardId::of(bytes);
    let all = [0..bytes.len() as u64];
    let stream = encoded(store, &id, &all).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(decode(&id, bytes, &all, &stream[..]), bytes.len() as u64, "{what}");
}

pub(super) fn first_segment(vfs: &MemVfs) -> Vec<u8> {
    vfs.contents(&segment_path(data(), 0)).unwrap()
}

pub(super) fn set_first_segment(vfs: &MemVfs, bytes: &[u8]) {
    vfs.set_contents(&segment_path(data(), 0), bytes);
}

/// Ends a store as `kill -9` does: nothing is sealed or saved, and the system's memory of the disk lives on.
pub(super) fn kill(store: Store, vfs: &MemVfs) {
    vfs.cut_power_after(0);
    store.close();
    vfs.restore_power();
}
