//! The hash tree of a shard: 16 KiB groups, inner nodes in pre-order. It never touches a file.

use bao_tree::{BaoTree, BlockSize};
use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use shoal_protocol::ShardId;

/// Bytes of one group, the unit the outboard can verify alone.
pub const GROUP_BYTES: usize = 16 * 1024;
/// [`GROUP_BYTES`] as the bao crate counts it: 2^4 chunks of 1 KiB. Both sides of the wire use it.
pub const BLOCK_SIZE: BlockSize = BlockSize::from_chunk_log(4);
/// Bytes of one inner node in the outboard: the hashes of its two children.
pub const NODE_BYTES: usize = 64;

/// The tree over a shard of `length` bytes.
#[must_use]
pub fn tree(length: u32) -> BaoTree {
    BaoTree::new(u64::from(length), BLOCK_SIZE)
}

/// Bytes of the outboard of a shard of `length` bytes: one node less than groups.
#[must_use]
pub const fn outboard_length(length: u32) -> u32 {
    let groups = length.div_ceil(GROUP_BYTES as u32);
    groups.saturating_sub(1).saturating_mul(NODE_BYTES as u32)
}

/// Hash and outboard of a shard in one pass over its bytes, without a copy of them.
#[must_use]
pub fn outboard(payload: &[u8]) -> (ShardId, Vec<u8>) {
    if payload.len() <= GROUP_BYTES {
        return (ShardId::of(payload), Vec::new());
    }
    let nodes = payload.len().div_ceil(GROUP_BYTES).saturating_sub(1);
    let mut out = Vec::with_capacity(nodes.saturating_mul(NODE_BYTES));
    let (left, right) = children(payload, 0, &mut out);
    let root = merge_subtrees_root(&left, &right, Mode::Hash);
    (ShardId::from_bytes(*root.as_bytes()), out)
}

/// Appends the node over `data` and all nodes below it, and returns the hashes of its children.
fn children(data: &[u8], offset: u64, out: &mut Vec<u8>) -> (ChainingValue, ChainingValue) {
    let split = usize::try_from(left_subtree_len(data.len() as u64)).unwrap_or(data.len()).min(data.len());
    let (left, right) = data.split_at(split);
    let node = out.len();
    out.extend_from_slice(&[0; NODE_BYTES]);
    let left = subtree(left, offset, out);
    let right = subtree(right, offset.saturating_add(split as u64), out);
    let hashes = left.iter().chain(&right);
    for (place, byte) in out.iter_mut().skip(node).zip(hashes) {
        *place = *byte;
    }
    (left, right)
}

fn subtree(data: &[u8], offset: u64, out: &mut Vec<u8>) -> ChainingValue {
    if data.len() <= GROUP_BYTES {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset);
        return hasher.update(data).finalize_non_root();
    }
    let (left, right) = children(data, offset, out);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bao_tree::io::outboard::PreOrderMemOutboard;

    #[test]
    fn equals_the_bao_crate_at_every_edge() {
        let data: Vec<u8> = (0..400_000_u32).map(|n| (n % 251) as u8).collect();
        for length in [1, 1023, 1024, 1025, 16_383, 16_384, 16_385, 32_768, 32_769, 49_153, 65_536, 262_145, 400_000] {
            let data = &data[..length];
            let theirs = PreOrderMemOutboard::create(data, BLOCK_SIZE);
            let (id, ours) = outboard(data);
            assert_eq!(id, ShardId::of(data), "{length}");
            assert_eq!(theirs.root, *id.as_bytes(), "{length}");
            assert_eq!(theirs.data, ours, "{length}");
            assert_eq!(outboard_length(length as u32) as usize, ours.len(), "{length}");
        }
    }
}
