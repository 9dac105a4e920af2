//! Highest-random-weight hashing: everybody who knows the nodes finds the same ones, without a directory.
//! It keeps no state and never uses a floating-point function that differs between machines.

use core::cmp::Reverse;

use shoal_protocol::NodeId;
use shoal_protocol::hash::{RENDEZVOUS, derive};

/// Fractional bits of [`negative_log2`].
const LOG_BITS: u32 = 48;

/// The `count` nodes that keep what lives at `key`, first choice first; each node once, fewer if there are fewer.
/// Unweighted: highest derive(RENDEZVOUS, key, node) first, as a big-endian number.
#[must_use]
pub fn rendezvous_first(key: &[u8; 32], nodes: impl IntoIterator<Item = NodeId>, count: usize) -> Vec<NodeId> {
    let mut ranked: Vec<([u8; 32], NodeId)> =
        nodes.into_iter().map(|node| (derive(RENDEZVOUS, &[key, node.as_bytes()]), node)).collect();
    ranked.sort_unstable_by_key(|&(hash, node)| (Reverse(hash), node));
    ranked.dedup();
    ranked.into_iter().take(count).map(|(_, node)| node).collect()
}

/// Weighted score of a node for a key, higher is better: `weight / -log2(u)`, u uniform in (0, 1) from the same hash.
///
/// `-ln(u) / weight` is exponentially distributed with rate `weight`; taking the smallest ones in order draws nodes
/// without replacement in proportion to their weights, and a node's score depends on no other node. The base of the
/// logarithm is a common factor. The logarithm is computed in integers; what remains is one division, which IEEE 754
/// defines to the bit.
#[must_use]
pub(super) fn score(key: &[u8; 32], node: &NodeId, weight: f64) -> f64 {
    let hash = derive(RENDEZVOUS, &[key, node.as_bytes()]);
    let [a, b, c, d, e, f, g, h, ..] = hash;
    let log = negative_log2(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
    #[expect(clippy::cast_precision_loss, reason = "the value has 54 bits and only its order counts")]
    let log = log as f64;
    weight / log
}

/// -log2(x / 2^64) with [`LOG_BITS`] fractional bits, at least 1. One bit of the fraction per squaring.
fn negative_log2(x: u64) -> u64 {
    let x = x.max(1);
    let whole = x.ilog2();
    // x / 2^whole in [1, 2), 63 fractional bits.
    let mut mantissa = x << (63 - whole);
    let mut log = u64::from(whole);
    for _ in 0..LOG_BITS {
        // 126 fractional bits; the product is in [1, 4).
        let square = u128::from(mantissa) * u128::from(mantissa);
        let carry = square >> 127 != 0;
        log = log << 1 | u64::from(carry);
        mantissa = u64::try_from(square >> if carry { 64 } else { 63 }).unwrap_or(u64::MAX);
    }
    ((64 << LOG_BITS) - log).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integer_logarithm_agrees_with_the_machine() {
        for x in [1u64, 2, 3, 1000, 1 << 32, 0x9e37_79b9_7f4a_7c15, u64::MAX - (1 << 40), u64::MAX] {
            let expected = 64.0 - (x as f64).log2();
            let got = negative_log2(x) as f64 / (1u64 << LOG_BITS) as f64;
            assert!((expected - got).abs() < 1e-9, "{x}: {expected} {got}");
        }
        assert_eq!(negative_log2(0), 64 << LOG_BITS);
        assert_eq!(negative_log2(1 << 63), 1 << LOG_BITS);
    }

    #[test]
    fn record_keepers_are_stable_and_distinct() {
        let nodes: Vec<NodeId> = (0..20).map(|n| NodeId::from_bytes([n; 32])).collect();
        let key = [9; 32];
        let five = rendezvous_first(&key, nodes.iter().copied(), 5);
        assert_eq!(five.len(), 5);
        let doubled = nodes.iter().rev().chain(&nodes).copied();
        assert_eq!(rendezvous_first(&key, doubled, 5), five);
        let without = nodes.iter().copied().filter(|node| *node != five[1]);
        let next = rendezvous_first(&key, without, 5);
        assert_eq!(next[..4], [five[0], five[2], five[3], five[4]]);
        assert_eq!(rendezvous_first(&key, nodes[..3].iter().copied(), 5).len(), 3);
        assert_eq!(rendezvous_first(&key, [], 5), []);
    }
}
