//! Audits: what is asked, which leaves that means, and what is signed. Anyone with id and length can ask and judge.

use minicbor::{Decode, Encode};

use crate::codec::{Bounded, bytes_array, ensure};
use crate::hash::{AUDIT_ANSWER, AUDIT_POSITIONS, AUDIT_WHOLE, derive, deriver};
use crate::id::{BootEpoch, NodeId, Nonce, ShardId};
use crate::limits::{AUDIT_SLICES_MAX, SHARD_MAX};
use crate::network::NetworkId;
use crate::receipt::ByteRange;
use crate::signed::Statement;
use crate::units::UnixMillis;

/// Bytes of one provable leaf: a BLAKE3 chunk.
pub const LEAF: u32 = 1024;

/// What an auditor wants proved.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Challenge {
    /// `count` distinct random leaves with their paths.
    #[n(0)]
    Slices {
        /// Random, never used before.
        #[cbor(n(0), with = "bytes_array")]
        seed: [u8; 32],
        /// Leaves asked for.
        #[n(1)]
        count: u8,
    },
    /// Keyed BLAKE3 of the whole shard: proves full possession in 32 bytes.
    #[n(1)]
    Whole {
        /// The key; its answer is known to whoever held the shard.
        #[cbor(n(0), with = "bytes_array")]
        challenge: [u8; 32],
    },
}

/// Body of an AUDIT request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct AuditRequest {
    /// Which shard.
    #[n(0)]
    pub shard: ShardId,
    /// Its length by the manifest; the answer's length is never believed.
    #[n(1)]
    pub length: u32,
    /// What to prove.
    #[n(2)]
    pub challenge: Challenge,
    /// The auditor's own nonce.
    #[n(3)]
    pub nonce: Nonce,
}

impl Bounded for AuditRequest {
    fn check(&self) -> Result<(), &'static str> {
        ensure((1..=SHARD_MAX).contains(&self.length), "shard length")?;
        match self.challenge {
            Challenge::Slices { count, .. } => {
                ensure((1..=AUDIT_SLICES_MAX).contains(&usize::from(count)), "count of slices")
            }
            Challenge::Whole { .. } => Ok(()),
        }
    }
}

/// Node-signed: this answer belongs to that request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct AuditStatement {
    /// The request as received.
    #[n(0)]
    pub request: AuditRequest,
    /// [`answer_digest`] of the answer's bytes.
    #[cbor(n(1), with = "bytes_array")]
    pub digest: [u8; 32],
    /// Who asked.
    #[n(2)]
    pub auditor: NodeId,
    /// Run of the node that signed.
    #[n(3)]
    pub boot_epoch: BootEpoch,
    /// When.
    #[n(4)]
    pub time: UnixMillis,
}

impl Bounded for AuditStatement {
    fn check(&self) -> Result<(), &'static str> {
        self.request.check()
    }
}

impl Statement for AuditStatement {
    const CONTEXT: &'static str = "shoal audit v1";
    const LIMIT: usize = 1024;
}

/// Digest of an answer's bytes, as [`AuditStatement`] carries it.
#[must_use]
pub fn answer_digest(answer: &[u8]) -> [u8; 32] {
    derive(AUDIT_ANSWER, &[answer])
}

/// The answer to [`Challenge::Whole`]: BLAKE3 keyed with derive('audit whole', challenge) over the shard's bytes. An
/// audit token is its first 16 bytes, minted by whoever holds the shard.
#[must_use]
pub fn whole_answer(challenge: &[u8; 32], shard: &[u8]) -> [u8; 32] {
    *whole_hasher(challenge).update(shard).finalize().as_bytes()
}

/// The hasher behind [`whole_answer`], for a shard that is not in memory.
#[must_use]
pub fn whole_hasher(challenge: &[u8; 32]) -> blake3::Hasher {
    blake3::Hasher::new_keyed(&derive(AUDIT_WHOLE, &[challenge]))
}

/// Most bytes of an answer: 32 to [`Challenge::Whole`]; to [`Challenge::Slices`] every leaf with a path of its own.
#[must_use]
pub fn answer_bytes_max(length: u32, challenge: &Challenge) -> u64 {
    match challenge {
        Challenge::Whole { .. } => 32,
        Challenge::Slices { count, .. } => {
            let leaves = length.div_ceil(LEAF);
            // Parents above a leaf: the height of the tree.
            let height = u64::from(leaves.max(1).next_power_of_two().trailing_zeros());
            let each = u64::from(LEAF).saturating_add(height.saturating_mul(64));
            u64::from(*count).min(u64::from(leaves)).saturating_mul(each)
        }
    }
}

/// The byte ranges of ascending leaves, neighbours joined: the answer to [`Challenge::Slices`] is their encoding as a
/// RETRIEVE of the same ranges would send it.
#[must_use]
pub fn leaf_ranges(leaves: &[u32], length: u32) -> Vec<ByteRange> {
    let mut out: Vec<ByteRange> = Vec::new();
    for leaf in leaves {
        let start = leaf.saturating_mul(LEAF);
        let end = start.saturating_add(LEAF).min(length);
        match out.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => out.push(ByteRange { start, end }),
        }
    }
    out
}

/// Who asks whom, in which network: makes answers for one pair useless for another.
#[derive(Clone, Copy, Debug)]
pub struct AuditParties<'a> {
    /// The swarm.
    pub network: &'a NetworkId,
    /// Who asks.
    pub auditor: &'a NodeId,
    /// Who answers.
    pub node: &'a NodeId,
}

/// The leaves of a slices audit: `count` distinct numbers below ceil(length / 1 KiB), ascending; all of them when the
/// shard has fewer. XOF of derive(seed, network, auditor, node, id, length), 8 bytes a draw, rejecting repeats and the
/// biased tail.
#[must_use]
pub fn positions(parties: AuditParties<'_>, seed: &[u8; 32], shard: &ShardId, length: u32, count: u8) -> Vec<u32> {
    let leaves = u64::from(length.div_ceil(LEAF));
    if u64::from(count) >= leaves {
        return (0..length.div_ceil(LEAF)).collect();
    }
    let parts: [&[u8]; 6] = [
        seed,
        parties.network.as_bytes(),
        parties.auditor.as_bytes(),
        parties.node.as_bytes(),
        shard.as_bytes(),
        &length.to_le_bytes(),
    ];
    let mut output = deriver(AUDIT_POSITIONS, &parts).finalize_xof();
    let unbiased = u64::MAX - u64::MAX % leaves;
    let mut chosen = std::collections::BTreeSet::new();
    while chosen.len() < usize::from(count) {
        let mut draw = [0; 8];
        output.fill(&mut draw);
        let draw = u64::from_le_bytes(draw);
        if draw < unbiased {
            // Below `leaves`, which came from a u32.
            chosen.insert(u32::try_from(draw % leaves).unwrap_or(0));
        }
    }
    chosen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_distinct_and_bound_to_the_parties() {
        let network = NetworkId::derive(None, "a").unwrap();
        let (a, b) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let shard = ShardId::from_bytes([3; 32]);
        let pair = AuditParties { network: &network, auditor: &a, node: &b };
        let first = positions(pair, &[9; 32], &shard, 2 << 20, 32);
        assert_eq!(first.len(), 32);
        assert!(first.is_sorted_by(|a, b| a < b) && first.iter().all(|&leaf| leaf < 2048));
        let swapped = AuditParties { network: &network, auditor: &b, node: &a };
        assert_ne!(first, positions(swapped, &[9; 32], &shard, 2 << 20, 32));
        assert_eq!(positions(pair, &[9; 32], &shard, 3000, 32), [0, 1, 2]);
    }

    #[test]
    fn neighbouring_leaves_are_one_range_and_the_last_is_cut() {
        let range = |start, end| ByteRange { start, end };
        assert_eq!(leaf_ranges(&[0, 1, 3], 3500), [range(0, 2048), range(3072, 3500)]);
        assert_eq!(leaf_ranges(&[], 3500), []);
    }

    #[test]
    fn a_whole_answer_needs_every_byte_and_the_challenge() {
        let shard = vec![7; 5000];
        let answer = whole_answer(&[1; 32], &shard);
        assert_ne!(answer, whole_answer(&[2; 32], &shard));
        assert_ne!(answer, whole_answer(&[1; 32], &shard[..4999]));
        assert_ne!(answer, ShardId::of(&shard).as_bytes()[..]);
    }

    #[test]
    fn answers_of_any_shard_fit_a_control_frame() {
        let slices = |count| Challenge::Slices { seed: [0; 32], count };
        let most = answer_bytes_max(SHARD_MAX, &slices(32));
        assert!(most + 2048 <= crate::limits::CONTROL_FRAME_MAX as u64, "{most}");
        assert_eq!(answer_bytes_max(3000, &slices(32)), 3 * (1024 + 128));
        assert_eq!(answer_bytes_max(1, &slices(1)), 1024);
        assert_eq!(answer_bytes_max(SHARD_MAX, &Challenge::Whole { challenge: [0; 32] }), 32);
    }
}
