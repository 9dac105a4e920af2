//! AUDIT: leaves of a shard with their paths, or its keyed hash, read verified from the disk, and a signed statement that
//! this answers that request. It never answers about bytes it has not verified, and holds at most one answer or one
//! frame of a shard in memory.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bao_tree::ChunkRanges;
use bao_tree::iter::{BaoChunk, ResponseIter};
use shoal_protocol::audit::{
    AuditParties, AuditRequest, AuditStatement, Challenge, answer_bytes_max, answer_digest, leaf_ranges, positions,
    whole_hasher,
};
use shoal_protocol::control::Response;
use shoal_protocol::{NodeId, Refusal};

use super::{Context, control, send};
use crate::chunks::bao::{GROUP_BYTES, NODE_BYTES, tree};
use crate::chunks::{ReadError, ReadOutcome};
use crate::clock;

/// Bytes the disk reads for a request, at most: a leaf is verified within its group.
pub(super) fn bytes_read(request: &AuditRequest) -> u64 {
    let length = u64::from(request.length);
    match request.challenge {
        Challenge::Whole { .. } => length,
        Challenge::Slices { count, .. } => u64::from(count).saturating_mul(GROUP_BYTES as u64).min(length),
    }
}

/// Answers one AUDIT by `auditor`.
///
/// # Errors
/// `not_found`, `mismatch` where the stored shard has another length, `damaged`.
pub(super) async fn answer(
    context: &Arc<Context>,
    auditor: NodeId,
    request: AuditRequest,
) -> Result<Response, Refusal> {
    let asked = request.clone();
    let answer = control::blocking(context, move |context| prove(context, &auditor, &asked)).await??;
    if context.is_stopping() {
        return Err(Refusal::Stopping);
    }
    let digest = answer_digest(&answer);
    let (boot_epoch, time) = (context.boot_epoch(), clock::wall());
    let statement = AuditStatement { request, digest, auditor, boot_epoch, time };
    Ok(Response::Audit { statement: context.sign(&statement), answer })
}

/// The bytes of an answer. Blocks.
fn prove(context: &Context, auditor: &NodeId, request: &AuditRequest) -> Result<Vec<u8>, Refusal> {
    let AuditRequest { shard, length, challenge, .. } = request;
    let stored = context.store().shard_length(shard).ok_or(Refusal::NotFound)?;
    if stored != *length {
        return Err(Refusal::Mismatch);
    }
    match challenge {
        Challenge::Slices { seed, count } => {
            let parties = AuditParties { network: context.network(), auditor, node: &context.node() };
            let leaves = positions(parties, seed, shard, *length, *count);
            let most = answer_bytes_max(*length, challenge);
            slices(context, request, &leaves, usize::try_from(most).unwrap_or(usize::MAX))
        }
        Challenge::Whole { challenge } => {
            let mut payload = Payload::new(*length, whole_hasher(challenge));
            let mut sink = |piece: Vec<u8>| payload.take(&piece);
            read(context, request, &[0..u64::from(*length)], &mut sink)?;
            payload.finish().map(|hash| hash.to_vec()).ok_or(Refusal::Damaged)
        }
    }
}

fn slices(context: &Context, request: &AuditRequest, leaves: &[u32], most: usize) -> Result<Vec<u8>, Refusal> {
    let ranges: Vec<Range<u64>> =
        leaf_ranges(leaves, request.length).iter().map(|range| u64::from(range.start)..u64::from(range.end)).collect();
    let mut answer = Vec::new();
    let mut sink = |piece: Vec<u8>| {
        if answer.len().saturating_add(piece.len()) > most {
            return ControlFlow::Break(());
        }
        answer.extend_from_slice(&piece);
        ControlFlow::Continue(())
    };
    read(context, request, &ranges, &mut sink)?;
    Ok(answer)
}

fn read(
    context: &Context,
    request: &AuditRequest,
    ranges: &[Range<u64>],
    sink: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
) -> Result<(), Refusal> {
    match context.store().read_encoded(&request.shard, ranges, sink) {
        Ok(ReadOutcome::Complete { .. }) => Ok(()),
        // More than any answer has: it would not fit the frame.
        Ok(ReadOutcome::Stopped) => Err(Refusal::TooLarge),
        // The length was right a moment ago, so the range is: what was moved or removed since is not found.
        Err(ReadError::Range { .. }) => Err(Refusal::NotFound),
        Err(error) => Err(send::read_refusal(&error)),
    }
}

/// Picks the shard's bytes out of its verified encoding and hashes them, whatever pieces it comes in.
struct Payload {
    plan: ResponseIter,
    /// Bytes left of the part under way, and whether they are the shard's.
    part: Option<(usize, bool)>,
    hasher: blake3::Hasher,
}

impl Payload {
    fn new(length: u32, hasher: blake3::Hasher) -> Self {
        let mut plan = ResponseIter::new(tree(length), ChunkRanges::all());
        let part = plan.next().map(part_of);
        Self { plan, part, hasher }
    }

    fn take(&mut self, mut piece: &[u8]) -> ControlFlow<()> {
        while !piece.is_empty() {
            let Some((left, is_payload)) = self.part else { return ControlFlow::Break(()) };
            let (now, rest) = piece.split_at_checked(left).unwrap_or((piece, &[]));
            if is_payload {
                self.hasher.update(now);
            }
            let left = left.saturating_sub(now.len());
            self.part = if left == 0 { self.plan.next().map(part_of) } else { Some((left, is_payload)) };
            piece = rest;
        }
        ControlFlow::Continue(())
    }

    /// The hash, once the last byte was there.
    fn finish(self) -> Option<[u8; 32]> {
        self.part.is_none().then(|| *self.hasher.finalize().as_bytes())
    }
}

fn part_of(item: BaoChunk) -> (usize, bool) {
    match item {
        BaoChunk::Parent { .. } => (NODE_BYTES, false),
        BaoChunk::Leaf { size, .. } => (size, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bao_tree::io::outboard::PreOrderMemOutboard;
    use bao_tree::io::sync::encode_ranges_validated;
    use shoal_protocol::audit::whole_answer;
    use shoal_protocol::{Nonce, ShardId};

    use crate::chunks::bao::BLOCK_SIZE;

    #[test]
    fn a_hash_over_the_encoding_is_that_of_the_shard() {
        let data: Vec<u8> = (0..150_000_u32).map(|n| (n % 251) as u8).collect();
        for length in [1, 1024, 16_384, 16_385, 65_536, 131_073, 150_000] {
            let data = &data[..length];
            let outboard = PreOrderMemOutboard::create(data, BLOCK_SIZE);
            let mut encoded = Vec::new();
            encode_ranges_validated(data, &outboard, &ChunkRanges::all(), &mut encoded).unwrap();
            for step in [1, 63, 1000, 65_536] {
                let mut payload = Payload::new(u32::try_from(length).unwrap(), whole_hasher(&[7; 32]));
                assert!(encoded.chunks(step).all(|piece| payload.take(piece).is_continue()), "{length} by {step}");
                assert_eq!(payload.finish(), Some(whole_answer(&[7; 32], data)), "{length} by {step}");
            }
            let mut short = Payload::new(u32::try_from(length).unwrap(), whole_hasher(&[7; 32]));
            let _ = short.take(&encoded[..encoded.len() - 1]);
            assert_eq!(short.finish(), None, "{length}");
            let mut long = Payload::new(u32::try_from(length).unwrap(), whole_hasher(&[7; 32]));
            encoded.push(0);
            assert!(long.take(&encoded).is_break(), "{length}");
        }
    }

    #[test]
    fn budgets_count_what_the_disk_reads() {
        let request = |length, challenge| AuditRequest {
            shard: ShardId::of(b"x"),
            length,
            challenge,
            nonce: Nonce::from_bytes([0; 16]),
        };
        let slices = |count| Challenge::Slices { seed: [0; 32], count };
        assert_eq!(bytes_read(&request(4 << 20, slices(3))), 3 * 16 * 1024);
        assert_eq!(bytes_read(&request(5000, slices(32))), 5000);
        assert_eq!(bytes_read(&request(4 << 20, Challenge::Whole { challenge: [0; 32] })), 4 << 20);
    }
}
