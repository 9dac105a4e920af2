//! Shard bytes are verified as they arrive: BLAKE3 verified streaming with 16 KiB groups. It never hands out a byte
//! before the path from the shard id down to it was checked, never buffers more than one group, and after the first
//! wrong byte it refuses everything.
//!
//! Wire form: bao pre-order, parent (64 bytes: left and right chaining value) before its children, only what the ranges
//! need, no length in front; ranges are rounded out to 1 KiB chunks, a group that is wanted whole comes without its
//! inner parents. It is what `bao_tree::io::sync::encode_ranges_validated` writes with groups of 16 chunks.
//! Source: <https://github.com/oconnor663/bao/blob/master/docs/spec.md>, chunk groups as in the bao-tree crate.

use core::ops::Range;

use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::{encode_ranges_validated, truncate_ranges};
use bao_tree::iter::{BaoChunk, ResponseIter};
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};
use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::{Buf as _, Bytes, BytesMut};
use shoal_protocol::ShardId;
use shoal_protocol::limits::{RANGES_MAX, SHARD_MAX};

/// Groups of 16 chunks of 1 KiB: the leaves of a stored outboard.
pub const GROUP: BlockSize = BlockSize::from_chunk_log(4);
/// Bytes of a parent: two chaining values.
const PARENT: usize = 64;

/// Why ranges are not ranges of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    /// None, or more than 64.
    #[error("{0} ranges, not 1 to {RANGES_MAX}")]
    Count(usize),
    /// Empty, reversed or past the end.
    #[error("range {start}..{end} is not within {length} bytes")]
    Bounds {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// Bytes of the shard.
        length: u64,
    },
    /// A shard of no bytes or more than a node stores.
    #[error("shard of {0} bytes")]
    Length(u64),
}

/// Why arriving bytes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Bytes that do not hash to what the id asks for.
    #[error("shard bytes near {offset} are not those of its id")]
    Wrong {
        /// First byte of the chunk, group or subtree that failed.
        offset: u64,
    },
    /// More bytes than the ranges need.
    #[error("bytes after the end of the answer")]
    Excess,
    /// The answer ended before its ranges were complete.
    #[error("answer ended early")]
    Early,
}

/// Verified bytes of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where they begin within the shard.
    pub offset: u64,
    /// At most 16 KiB.
    pub bytes: Bytes,
}

/// Checks one answer.
pub struct SliceVerifier {
    plan: ResponseIter,
    next: Option<BaoChunk>,
    /// Chaining values still to be met, the next on top.
    expected: Vec<[u8; 32]>,
    pending: BytesMut,
    refused: Option<VerifyError>,
}

impl core::fmt::Debug for SliceVerifier {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SliceVerifier")
            .field("next", &self.next)
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

impl SliceVerifier {
    /// A verifier for `ranges` of the shard `id`; its length comes from the manifest, never from the answer.
    ///
    /// # Errors
    /// [`RangesError`] if these are not ranges of such a shard.
    pub fn new(id: ShardId, shard_length: u64, ranges: &[Range<u64>]) -> Result<Self, RangesError> {
        let chunks = chunk_ranges(shard_length, ranges)?;
        let mut plan = ResponseIter::new(BaoTree::new(shard_length, GROUP), chunks);
        let next = plan.next();
        Ok(Self { plan, next, expected: vec![*id.as_bytes()], pending: BytesMut::new(), refused: None })
    }

    /// Takes bytes from the front of `input` until a piece is verified or the input is used up; call again while
    /// `input` is not empty. Pieces come in ascending order, do not overlap and cover the ranges rounded out to whole
    /// chunks of 1 KiB. A piece that lies in `input` as a whole shares its memory.
    ///
    /// # Errors
    /// [`VerifyError`] at the first wrong group or excess byte, and again on every later call.
    pub fn push(&mut self, input: &mut Bytes) -> Result<Option<Piece>, VerifyError> {
        if let Some(error) = self.refused {
            return Err(error);
        }
        let result = self.take(input);
        self.refused = result.as_ref().err().copied();
        result
    }

    /// Whether every byte asked for was verified.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.next.is_none() && self.refused.is_none()
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// [`VerifyError::Early`] if bytes are missing, or what was refused before.
    pub fn finish(self) -> Result<(), VerifyError> {
        match self.refused {
            Some(error) => Err(error),
            None if self.next.is_some() => Err(VerifyError::Early),
            None => Ok(()),
        }
    }

    fn take(&mut self, input: &mut Bytes) -> Result<Option<Piece>, VerifyError> {
        while !input.is_empty() {
            let Some(item) = self.next else {
                return Err(VerifyError::Excess);
            };
            let length = match item {
                BaoChunk::Parent { .. } => PARENT,
                BaoChunk::Leaf { size, .. } => size,
            };
            let Some(bytes) = self.fill(input, length) else {
                return Ok(None);
            };
            let piece = self.check(item, bytes)?;
            self.next = self.plan.next();
            if piece.is_some() {
                return Ok(piece);
            }
        }
        Ok(None)
    }

    /// `length` bytes from what is pending and `input`, once there are that many.
    fn fill(&mut self, input: &mut Bytes, length: usize) -> Option<Bytes> {
        if self.pending.is_empty() && input.len() >= length {
            return Some(input.split_to(length));
        }
        let count = length.saturating_sub(self.pending.len()).min(input.len());
        self.pending.extend_from_slice(input.get(..count)?);
        input.advance(count);
        (self.pending.len() == length).then(|| self.pending.split().freeze())
    }

    fn check(&mut self, item: BaoChunk, bytes: Bytes) -> Result<Option<Piece>, VerifyError> {
        match item {
            BaoChunk::Parent { node, is_root, left, right, .. } => {
                let wrong = VerifyError::Wrong { offset: node.chunk_range().start.to_bytes() };
                let (l, r) = bytes.split_first_chunk::<32>().ok_or(wrong)?;
                let r: &[u8; 32] = r.try_into().map_err(|_| wrong)?;
                let actual = if is_root {
                    merge_subtrees_root(l, r, Mode::Hash)
                } else {
                    blake3::Hash::from_bytes(merge_subtrees_non_root(l, r, Mode::Hash))
                };
                self.meet(actual, wrong)?;
                if right {
                    self.expected.push(*r);
                }
                if left {
                    self.expected.push(*l);
                }
                Ok(None)
            }
            BaoChunk::Leaf { start_chunk, is_root, .. } => {
                let offset = start_chunk.to_bytes();
                self.meet(hash_subtree(start_chunk, &bytes, is_root), VerifyError::Wrong { offset })?;
                Ok(Some(Piece { offset, bytes }))
            }
        }
    }

    fn meet(&mut self, actual: blake3::Hash, wrong: VerifyError) -> Result<(), VerifyError> {
        if self.expected.pop().is_some_and(|expected| actual == expected) { Ok(()) } else { Err(wrong) }
    }
}

/// The bytes a node answers with for `ranges` of a shard it holds whole in memory: for tests and in-memory transports.
///
/// # Errors
/// [`RangesError`] if these are not ranges of such a shard.
pub fn encode_ranges(shard: &[u8], ranges: &[Range<u64>]) -> Result<Vec<u8>, RangesError> {
    let chunks = chunk_ranges(shard.len() as u64, ranges)?;
    let outboard = PreOrderMemOutboard::create(shard, GROUP);
    let mut out = Vec::with_capacity(shard.len() + outboard.data.len());
    if encode_ranges_validated(shard, &outboard, &chunks, &mut out).is_err() {
        unreachable!("bytes and outboard are in memory and belong together");
    }
    Ok(out)
}

/// Byte ranges as bao-tree wants them: rounded out to chunks, united, open at the end when the last chunk is in.
fn chunk_ranges(length: u64, ranges: &[Range<u64>]) -> Result<ChunkRanges, RangesError> {
    if length == 0 || length > u64::from(SHARD_MAX) {
        return Err(RangesError::Length(length));
    }
    if ranges.is_empty() || ranges.len() > RANGES_MAX {
        return Err(RangesError::Count(ranges.len()));
    }
    let mut chunks = ChunkRanges::empty();
    for &Range { start, end } in ranges {
        if start >= end || end > length {
            return Err(RangesError::Bounds { start, end, length });
        }
        chunks |= ChunkRanges::from(ChunkNum::full_chunks(start)..ChunkNum::chunks(end));
    }
    let boundaries = truncate_ranges(&chunks, length).boundaries().len();
    let mut inner = chunks.into_inner();
    inner.truncate(boundaries);
    Ok(ChunkRanges::new_unchecked(inner))
}

fn hash_subtree(start: ChunkNum, bytes: &[u8], is_root: bool) -> blake3::Hash {
    if is_root {
        return blake3::hash(bytes);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start.to_bytes());
    hasher.update(bytes);
    blake3::Hash::from_bytes(hasher.finalize_non_root())
}
