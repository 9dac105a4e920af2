//! The local manifest file: a cache of what the swarm holds about one upload, so that a file can be found and checked
//! without asking anybody. It holds no password and no key beyond the locator; pages in it are sealed under the verify
//! key. It never decides whether it is newest: commands ask the swarm for newer records first.
//!
//! ```text
//! file = "SHOALMF1" || format u8 = 1 || body CBOR || checksum 32        whole file at most 64 MiB
//! body = { 0: network 32, 1: owner key 32, 2: locator 32, 3: hints [{ 0: node 32, 1: address text }],
//!          4: signed owner record, 5: [signed placement record, by index], 6: [{ 0: page number, 1: sealed box }] }
//! checksum = derive(manifest file, all bytes before)       found wrong before anything else is looked at
//! sealed box of a page = its CBOR under derive(manifest page, Kv, fresh salt), AAD number = its segment number
//! ```
//! Pages are all there or none: the largest uploads keep theirs in the swarm only.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use shoal_protocol::capability::{HINT_ADDRESS_MAX, Hint};
use shoal_protocol::codec::{Bounded, CodecError, decode, encode};
use shoal_protocol::hash::{MANIFEST_FILE, derive};
use shoal_protocol::limits::{HINTS_MAX, PAGE_MAX, RECORD_MAX, TAG};
use shoal_protocol::page::PageRef;
use shoal_protocol::record::is_plain_text;
use shoal_protocol::sealing::{Salt, SealedBox};
use shoal_protocol::{NetworkId, NodeId, PublicKey, SegmentNumber};
use zeroize::Zeroizing;

use super::build::PAGE_BODY_MAX;
use crate::keys::{BoxError, Locator, ReadKey, VerifyKey};
use crate::pipeline::{FileLayout, PlainSegment};

/// First bytes of every manifest file.
const MAGIC: &[u8; 8] = b"SHOALMF1";
/// Version of the body.
pub const MANIFEST_FORMAT: u8 = 1;
/// Largest manifest file, bytes.
pub const MANIFEST_MAX: usize = 64 * 1024 * 1024;
/// Most placement records of one file.
pub const PLACEMENTS_MAX: usize = 64;
/// Bytes of the checksum.
const CHECKSUM: usize = 32;

/// Why bytes are no manifest file, or a manifest makes none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Not a manifest file at all.
    #[error("not a Shoal manifest file")]
    Magic,
    /// A newer format.
    #[error("manifest file of format {0}, this version knows {MANIFEST_FORMAT}")]
    Version(u8),
    /// Cut, or a bit is not as it was written.
    #[error("manifest file is damaged: its checksum does not match")]
    Checksum,
    /// Over the limit.
    #[error("manifest file of {0} bytes is over the limit of {MANIFEST_MAX}")]
    TooLarge(usize),
    /// The checksum matches, what it covers is not in order.
    #[error("manifest file is malformed")]
    Body(#[source] CodecError),
    /// A field is out of its bounds.
    #[error("manifest refused: {0}")]
    Field(&'static str),
}

/// One page of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CachedPage {
    #[n(0)]
    number: SegmentNumber,
    #[n(1)]
    sealed: SealedBox,
}

impl CachedPage {
    /// Seals the CBOR of a page; `salt` is fresh.
    #[must_use]
    pub fn seal(layout: &FileLayout, verify: &VerifyKey, number: SegmentNumber, body: &[u8], salt: Salt) -> Self {
        let key = verify.manifest_page_key(salt);
        Self { number, sealed: key.seal(layout.suite(), layout.file(), u64::from(number.0), body) }
    }

    /// Which page.
    #[must_use]
    pub const fn number(&self) -> SegmentNumber {
        self.number
    }

    /// The CBOR of the page as it is in the file; [`Self::open_as`] also tells whether it is the one wanted.
    ///
    /// # Errors
    /// [`BoxError`] if the key is of another file.
    pub fn open(&self, layout: &FileLayout, verify: &VerifyKey) -> Result<Zeroizing<Vec<u8>>, BoxError> {
        let key = verify.manifest_page_key(self.sealed.salt);
        key.open(layout.suite(), layout.file(), u64::from(self.number.0), &self.sealed)
    }

    /// The CBOR of the page, if sealing it again under its own salt gives the shards that `wanted` names: then it is the
    /// page the swarm holds, not a stale one and not one that somebody with the verify key put into the file.
    #[must_use]
    pub fn open_as(&self, wanted: &PageRef, layout: &FileLayout, read: &ReadKey) -> Option<Zeroizing<Vec<u8>>> {
        let body = self.open(layout, &read.verify()).ok().filter(|_| self.number == wanted.number)?;
        let plain = PlainSegment::page(wanted.number, layout.code(), &body).ok()?;
        let again = plain.seal(layout, read, wanted.segment.salt).ok()?.reference;
        (again.plain == wanted.segment.plain && again.shards == wanted.segment.shards).then_some(body)
    }
}

/// A manifest file, its parts not yet opened.
#[derive(Clone, Debug)]
pub struct ManifestFile {
    /// The network it belongs to.
    pub network: NetworkId,
    /// The owner's public key: names the file.
    pub owner: PublicKey,
    /// Opens the owner record.
    pub locator: Locator,
    /// Nodes that may know more, at most [`HINTS_MAX`].
    pub hints: Vec<Hint>,
    /// The signed owner record.
    pub owner_record: Vec<u8>,
    /// The signed placement records, index 0 first, 1 to [`PLACEMENTS_MAX`].
    pub placement_records: Vec<Vec<u8>>,
    /// All pages in ascending order, or none.
    pub pages: Vec<CachedPage>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct HintBody {
    #[n(0)]
    node: NodeId,
    #[n(1)]
    address: String,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Body {
    #[cbor(n(0), with = "minicbor::bytes")]
    network: [u8; 32],
    #[n(1)]
    owner: PublicKey,
    #[cbor(n(2), with = "minicbor::bytes")]
    locator: [u8; 32],
    #[n(3)]
    hints: Vec<HintBody>,
    #[n(4)]
    owner_record: ByteVec,
    #[n(5)]
    placement_records: Vec<ByteVec>,
    #[n(6)]
    pages: Vec<CachedPage>,
}

impl Bounded for Body {
    fn check(&self) -> Result<(), &'static str> {
        let hint = |hint: &HintBody| hint.address.is_empty() || is_plain_text(&hint.address, HINT_ADDRESS_MAX);
        ensure(self.hints.len() <= HINTS_MAX && self.hints.iter().all(hint), "hints")?;
        ensure(self.owner_record.len() <= RECORD_MAX, "length of the owner record")?;
        ensure((1..=PLACEMENTS_MAX).contains(&self.placement_records.len()), "count of placement records")?;
        ensure(self.placement_records.iter().all(|record| record.len() <= RECORD_MAX), "length of a placement record")?;
        let page = |page: &CachedPage| page.number.is_page() && page.sealed.sealed.len() <= PAGE_BODY_MAX + TAG;
        ensure(self.pages.iter().all(page), "page")?;
        ensure(self.pages.is_sorted_by(|a, b| a.number < b.number), "order of pages")
    }
}

impl ManifestFile {
    /// The bytes of the file; to be written readable by its owner alone, for they hold the locator.
    ///
    /// # Errors
    /// [`FileError::Field`] and [`FileError::TooLarge`]; without `pages` it always fits.
    pub fn encode(&self) -> Result<Vec<u8>, FileError> {
        let hint = |hint: &Hint| HintBody { node: hint.node, address: hint.address.clone() };
        let body = Body {
            network: *self.network.as_bytes(),
            owner: self.owner,
            locator: *self.locator.as_bytes(),
            hints: self.hints.iter().map(hint).collect(),
            owner_record: self.owner_record.clone().into(),
            placement_records: self.placement_records.iter().map(|record| record.clone().into()).collect(),
            pages: self.pages.clone(),
        };
        body.check().map_err(FileError::Field)?;
        let mut out = MAGIC.to_vec();
        out.push(MANIFEST_FORMAT);
        out.append(&mut encode(&body));
        let checksum = derive(MANIFEST_FILE, &[&out]);
        out.extend_from_slice(&checksum);
        if out.len() <= MANIFEST_MAX { Ok(out) } else { Err(FileError::TooLarge(out.len())) }
    }

    /// Reads the bytes of a file: length, magic and checksum before anything is parsed; no password is involved.
    ///
    /// # Errors
    /// [`FileError`] with the first reason found.
    pub fn decode(bytes: &[u8]) -> Result<Self, FileError> {
        if bytes.len() > MANIFEST_MAX {
            return Err(FileError::TooLarge(bytes.len()));
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or(FileError::Magic)?;
        let (covered, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(FileError::Checksum)?;
        if derive(MANIFEST_FILE, &[covered]) != *checksum {
            return Err(FileError::Checksum);
        }
        let (&format, rest) = rest.split_first().ok_or(FileError::Checksum)?;
        if format != MANIFEST_FORMAT {
            return Err(FileError::Version(format));
        }
        let (body, _) = rest.split_last_chunk::<CHECKSUM>().ok_or(FileError::Checksum)?;
        let body: Body = decode(body, MANIFEST_MAX).map_err(FileError::Body)?;
        Ok(Self {
            network: NetworkId::from_bytes(body.network),
            owner: body.owner,
            locator: Locator::new(body.locator),
            hints: body.hints.into_iter().map(|HintBody { node, address }| Hint { node, address }).collect(),
            owner_record: body.owner_record.into(),
            placement_records: body.placement_records.into_iter().map(Into::into).collect(),
            pages: body.pages,
        })
    }
}

const _: () = assert!(PAGE_MAX + PLACEMENTS_MAX * RECORD_MAX < MANIFEST_MAX);

fn ensure(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}
