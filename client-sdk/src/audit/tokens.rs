//! Tokens of whole-shard audits: minted while the shards are at hand, compared when a node answers. It never shows a
//! challenge before it is asked: what was shown once is spent.

use shoal_protocol::ShardId;
use shoal_protocol::audit::whole_answer;
use shoal_protocol::hash::{AUDIT_CHALLENGE, derive};
use shoal_protocol::limits::AUDIT_TOKEN;

use crate::keys::AuditTokenKey;
use crate::pipeline::Shard;

/// The challenge of round `round` for one shard.
#[must_use]
pub fn challenge(key: &AuditTokenKey, shard: &ShardId, round: u8) -> [u8; 32] {
    derive(AUDIT_CHALLENGE, &[key.as_bytes(), shard.as_bytes(), &[round]])
}

/// Tokens of all `shards` of a segment for `rounds` rounds, as [`shoal_protocol::page::SegmentRef`] lists them: round by
/// round, in the order of the shards. Hashes every shard once a round. None for no rounds.
#[must_use]
pub fn mint(key: &AuditTokenKey, shards: &[Shard], rounds: u8) -> Option<Vec<u8>> {
    if rounds == 0 || shards.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(shards.len().saturating_mul(AUDIT_TOKEN).saturating_mul(usize::from(rounds)));
    for round in 0..rounds {
        for shard in shards {
            let answer = whole_answer(&challenge(key, &shard.id, round), &shard.bytes);
            out.extend(answer.into_iter().take(AUDIT_TOKEN));
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use shoal_protocol::page::{SegmentRef, ShardIds};

    #[test]
    fn tokens_are_found_where_they_were_minted() {
        let key = AuditTokenKey::new([5; 32]);
        let shards: Vec<Shard> = (0..4u8)
            .map(|n| Bytes::from(vec![n; 5000]))
            .enumerate()
            .map(|(unit, bytes)| Shard { unit, id: ShardId::of(&bytes), bytes })
            .collect();
        let ids: Vec<ShardId> = shards.iter().map(|shard| shard.id).collect();
        let tokens = mint(&key, &shards, 3);
        let segment = SegmentRef { salt: [0; 32], plain: 1, shards: ShardIds::new(&ids), last: true, tokens };
        assert_eq!(segment.audit_rounds(), 3);
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..3 {
            for shard in &shards {
                let answer = whole_answer(&challenge(&key, &shard.id, round), &shard.bytes);
                assert_eq!(segment.audit_token(round, shard.unit).unwrap()[..], answer[..16], "{round} {}", shard.unit);
                assert!(seen.insert(answer), "every round and shard has a challenge of its own");
            }
        }
        assert_eq!(mint(&key, &shards, 0), None);
        assert_ne!(challenge(&key, &ids[0], 0), challenge(&AuditTokenKey::new([6; 32]), &ids[0], 0));
    }
}
