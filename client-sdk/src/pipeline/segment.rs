//! A segment of plaintext becomes shards. It never draws the salt, and sealing consumes both plaintext and salt, so a
//! segment is sealed once.
//!
//! ```text
//! unit(row, c)    = AEAD(segment key, nonce row*k+c, aad(row*k+c), frame) || tag        c in 0..k
//! unit(row, k..n) = Reed-Solomon parity over the k sealed units (GF(2^8), 0x11D, systematic Vandermonde)
//! shard(rep, i)   = unit(0,i) || unit(1,i) || ...   XOR   keystream(mask key(file, segment, i, rep))
//! id              = BLAKE3(shard)
//! ```

use std::sync::Arc;

use bytes::Bytes;
use shoal_protocol::buffer::{Buffer, Pool};
use shoal_protocol::layout::{Code, SegmentShape};
use shoal_protocol::limits::{REPLICAS_MAX, SEGMENT_UNITS_MAX, UNIT};
use shoal_protocol::page::{SegmentRef, ShardIds};
use shoal_protocol::sealing::{FrameAad, Salt};
use shoal_protocol::{FileId, SegmentNumber, ShardId, Suite};
use sia_reed_solomon::ReedSolomon;

use super::pages::{PagePlainError, page_plain};
use super::row::{FrameSealer, PlainRow};
use super::seal::{Aead, Mask};
use crate::keys::{ReadKey, SealKey, VerifyKey};

/// Plaintext buffers kept for the next segment that is opened.
const OPENED_IDLE_MAX: usize = 2;

/// What all segments of one upload have in common. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FileLayout {
    file: FileId,
    suite: Suite,
    code: Code,
    replicas: u8,
    coder: Arc<ReedSolomon>,
    /// Shards of full segments; at most one segment's worth (64 MiB) lies unused.
    shards: Pool,
    /// Plaintext of full segments that were opened.
    opened: Pool,
}

/// Why settings make no layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// k or m out of range.
    #[error("code {0} is out of range")]
    Code(Code),
    /// Not 1 to 8.
    #[error("{0} replicas are out of range: 1 to {REPLICAS_MAX}")]
    Replicas(u8),
}

impl FileLayout {
    /// Computes the encoding matrix once for all segments.
    ///
    /// # Errors
    /// [`LayoutError`] for codes or replica counts out of range.
    pub fn new(file: FileId, suite: Suite, code: Code, replicas: u8) -> Result<Self, LayoutError> {
        if !(1..=REPLICAS_MAX).contains(&replicas) {
            return Err(LayoutError::Replicas(replicas));
        }
        let code = Code::new(code.k(), code.m()).map_err(|_| LayoutError::Code(code))?;
        let coder = ReedSolomon::new(code.k(), code.m()).map_err(|_| LayoutError::Code(code))?;
        let shards = Pool::new(code.rows_per_segment() * UNIT, code.n());
        let opened = Pool::new(code.segment_plain(), OPENED_IDLE_MAX);
        Ok(Self { file, suite, code, replicas, coder: Arc::new(coder), shards, opened })
    }

    /// The upload.
    #[must_use]
    pub fn file(&self) -> &FileId {
        &self.file
    }

    /// Its ciphers.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// How many differently masked copies there are of every shard.
    #[must_use]
    pub fn replicas(&self) -> u8 {
        self.replicas
    }

    /// Shards of one segment over all replicas. Shard `unit` is index `unit % n` of replica `unit / n`.
    #[must_use]
    pub fn units(&self) -> usize {
        self.code.n() * usize::from(self.replicas)
    }

    pub(super) fn coder(&self) -> &ReedSolomon {
        &self.coder
    }

    pub(super) fn opened(&self) -> &Pool {
        &self.opened
    }

    /// Index and replica of shard `unit`, if there is such a shard.
    pub(super) fn place(&self, unit: usize) -> Option<(u8, u8)> {
        let place = (u8::try_from(unit % self.code.n()).ok()?, u8::try_from(unit / self.code.n()).ok()?);
        (place.1 < self.replicas).then_some(place)
    }

    pub(super) fn mask(&self, verify: &VerifyKey, segment: SegmentNumber, (index, replica): (u8, u8)) -> Mask {
        Mask::new(self.suite, &verify.mask_key(&self.file, segment, index, replica))
    }

    pub(super) fn aead(&self, key: &SealKey) -> Aead {
        Aead::new(self.suite, key.as_bytes())
    }

    /// AAD of the frame at `row`, `column` of a segment.
    pub(super) fn aad(
        &self,
        segment: SegmentNumber,
        shape: &SegmentShape,
        last: bool,
        row: usize,
        column: usize,
    ) -> FrameAad {
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        FrameAad {
            suite: self.suite,
            file: self.file,
            segment,
            counter: narrow(row * self.code.k() + column),
            code: self.code,
            unit_length: narrow(shape.unit_length(row)),
            last,
        }
    }
}

/// Plaintext of one segment, padding included, not yet sealed.
#[derive(Debug)]
pub struct PlainSegment {
    pub(super) number: SegmentNumber,
    pub(super) last: bool,
    pub(super) shape: SegmentShape,
    pub(super) bytes: Buffer,
}

/// Why a segment was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Cut for one code, to be sealed with another.
    #[error("segment was cut for code {cut}, the file has {file}")]
    Code {
        /// Code of the chunker.
        cut: Code,
        /// Code of the layout.
        file: Code,
    },
}

/// One shard, ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// replica x n + index.
    pub unit: usize,
    /// BLAKE3 of `bytes`.
    pub id: ShardId,
    /// Masked bytes.
    pub bytes: Bytes,
}

/// All shards of one segment and what the pages say about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentShards {
    /// Which segment.
    pub number: SegmentNumber,
    /// Its entry in a page; audit tokens are not minted here.
    pub reference: SegmentRef,
    /// Replica by replica, index by index.
    pub shards: Vec<Shard>,
}

impl PlainSegment {
    /// A page as the one segment of its stream: [`page_plain`] of its encoding, marked last.
    ///
    /// # Errors
    /// [`PagePlainError`] if the number is not a page's or the page is too long.
    pub fn page(number: SegmentNumber, code: Code, page: &[u8]) -> Result<Self, PagePlainError> {
        if !number.is_page() {
            return Err(PagePlainError::Number(number));
        }
        let plain = page_plain(page)?;
        let shape = SegmentShape::new(code, plain.len()).map_err(|_| PagePlainError::TooLong(page.len()))?;
        let bytes = Buffer::from(plain);
        Ok(Self { number, last: true, shape, bytes })
    }

    /// Which segment.
    #[must_use]
    pub fn number(&self) -> SegmentNumber {
        self.number
    }

    /// Whether the stream ends with it.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.last
    }

    /// The plaintext, padding included.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Seals, codes, masks and hashes. Data segments are sealed under a key of `read`, pages under one of its verify
    /// key. `salt` must be fresh: 32 random bytes never used for another sealing. Peak memory: the plaintext and
    /// `replicas x n` shards of at most 2 MiB.
    ///
    /// # Errors
    /// [`SealError`] if the segment was cut for another code.
    pub fn seal(self, layout: &FileLayout, read: &ReadKey, salt: Salt) -> Result<SegmentShards, SealError> {
        let (code, shape) = (layout.code, self.shape);
        if shape.code() != code {
            return Err(SealError::Code { cut: shape.code(), file: code });
        }
        let verify = read.verify();
        let aead = layout.aead(&segment_key(layout, &verify, Some(read), self.number, &salt).unwrap_or_else(|| {
            unreachable!("with the read key every segment has a key");
        }));
        let masks: Vec<Mask> = (0..layout.units())
            .filter_map(|unit| layout.place(unit))
            .map(|place| layout.mask(&verify, self.number, place))
            .collect();
        let mut shards: Vec<Buffer> = masks.iter().map(|_| layout.shards.take(shape.shard_length())).collect();
        let mut hashers = vec![blake3::Hasher::new(); masks.len()];

        for (row, plain) in self.bytes.chunks(code.row_plain()).enumerate() {
            let sealer = FrameSealer { aead: &aead, first: layout.aad(self.number, &shape, self.last, row, 0) };
            let at = shape.shard_offset(row)..shape.shard_offset(row) + shape.unit_length(row);
            let (first, copies) = shards.split_at_mut(code.n());
            PlainRow::new(plain, first, code.k(), &at)
                .seal(&sealer)
                .code(layout.coder())
                .mask(copies, &masks, &at)
                .hash(&mut hashers);
        }
        Ok(self.finish(salt, shards, &hashers))
    }

    fn finish(self, salt: Salt, shards: Vec<Buffer>, hashers: &[blake3::Hasher]) -> SegmentShards {
        debug_assert!(shards.iter().all(|shard| shard.len() == self.shape.shard_length()));
        let shards: Vec<Shard> = shards
            .into_iter()
            .zip(hashers)
            .enumerate()
            .map(|(unit, (bytes, hasher))| {
                let id = ShardId::from_bytes(*hasher.finalize().as_bytes());
                Shard { unit, id, bytes: Bytes::from_owner(bytes) }
            })
            .collect();
        let ids: Vec<ShardId> = shards.iter().map(|shard| shard.id).collect();
        let reference = SegmentRef {
            salt,
            plain: u32::try_from(self.shape.plain()).unwrap_or(u32::MAX),
            shards: ShardIds::new(&ids),
            last: self.last,
            tokens: None,
        };
        SegmentShards { number: self.number, reference, shards }
    }
}

/// The key a segment is sealed under: from the verify key for pages, from the read key, if there is one, for data.
pub(super) fn segment_key(
    layout: &FileLayout,
    verify: &VerifyKey,
    read: Option<&ReadKey>,
    number: SegmentNumber,
    salt: &Salt,
) -> Option<SealKey> {
    if number.is_page() {
        return Some(verify.page_key(&layout.file, number, salt));
    }
    read.map(|read| read.segment_key(&layout.file, number, salt))
}

const _: () = assert!(SEGMENT_UNITS_MAX * UNIT <= u32::MAX as usize);
