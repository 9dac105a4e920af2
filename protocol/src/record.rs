//! Records: the small mutable objects of a file, signed by its own keys, sealed against the nodes that keep them.
//!
//! A node sees kind, index, version, the hash of the previous version and a sealed body. It keeps the two newest and
//! accepts a version above the stored one whose `previous` names the stored one. Bodies are always sealed with
//! ChaCha20-Poly1305: their reader does not know the upload's suite yet.

use minicbor::{Decode, Encode};

use crate::codec::{Bounded, ensure};
use crate::hash::{RECORD_KEY, RECORD_LINK, derive};
use crate::id::{FileId, NodeId, PublicKey, RecordKey};
use crate::layout::Code;
use crate::limits::{
    ADDRESS_MAX, ADDRESSES_MAX, CODE_MAX, DOMAIN_MAX, PREVIOUS_ROOTS_MAX, RECORD_MAX, REPLICAS_MAX, SLOTS_MAX,
};
use crate::network::NetworkId;
use crate::page::PageRef;
use crate::sealing::{KdfParams, KeySlot, SealedBox};
use crate::signed::{ENVELOPE, Statement};
use crate::suite::Suite;
use crate::units::SegmentNumber;

/// What a record is for; part of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum RecordKind {
    /// Key slots, code and page root; signed by the owner key, sealed under the locator secret.
    #[n(1)]
    Owner,
    /// Which node holds which slot; signed by the steward key, sealed under the verify key.
    #[n(2)]
    Placement,
}

impl RecordKind {
    /// The number in the record key.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Owner => 1,
            Self::Placement => 2,
        }
    }

    /// Where the record of `signer` with this kind and index lives.
    #[must_use]
    pub fn key(self, network: &NetworkId, signer: &PublicKey, index: u32) -> RecordKey {
        let parts: [&[u8]; 4] = [network.as_bytes(), &[self.number()], signer.as_bytes(), &index.to_le_bytes()];
        RecordKey::from_bytes(derive(RECORD_KEY, &parts))
    }
}

/// What a node keeps and judges.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Record {
    /// What it is for.
    #[n(0)]
    pub kind: RecordKind,
    /// 0, or further placement records of very large files.
    #[n(1)]
    pub index: u32,
    /// Counts from 1.
    #[n(2)]
    pub version: u64,
    /// [`link`] of the signed bytes of the version before; absent in version 1 only.
    #[cbor(n(3), with = "optional_hash")]
    pub previous: Option<[u8; 32]>,
    /// Sealed body.
    #[n(4)]
    pub body: SealedBox,
}

mod optional_hash {
    use minicbor::{Decoder, Encoder};

    pub(super) fn encode<C, W: minicbor::encode::Write>(
        value: &Option<[u8; 32]>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        match value {
            Some(hash) => e.bytes(hash)?.ok(),
            None => e.null()?.ok(),
        }
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Option<[u8; 32]>, minicbor::decode::Error> {
        if d.datatype()? == minicbor::data::Type::Null {
            d.null()?;
            return Ok(None);
        }
        d.bytes()?.try_into().map(Some).map_err(|_| minicbor::decode::Error::message("length of a hash"))
    }
}

/// Hash of a record's signed bytes, as its successor names it.
#[must_use]
pub fn link(signed: &[u8]) -> [u8; 32] {
    derive(RECORD_LINK, &[signed])
}

impl Bounded for Record {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.version >= 1, "record version")?;
        ensure((self.version == 1) == self.previous.is_none(), "link to the previous record")
    }
}

impl Statement for Record {
    const CONTEXT: &'static str = "shoal record v1";
    const LIMIT: usize = RECORD_MAX - ENVELOPE;
}

/// Version of [`OwnerRecord`] and [`PlacementRecord`].
pub const RECORD_FORMAT: u8 = 1;

/// Body of a [`RecordKind::Owner`] record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OwnerRecord {
    /// [`RECORD_FORMAT`].
    #[n(0)]
    pub format: u8,
    /// The file.
    #[n(1)]
    pub file: FileId,
    /// Its cipher pair.
    #[n(2)]
    pub suite: Suite,
    /// Its code, also of its pages.
    #[n(3)]
    pub code: Code,
    /// Copies of every shard, 1 or more.
    #[n(4)]
    pub replicas: u8,
    /// Password-hash settings of all slots.
    #[n(5)]
    pub kdf: KdfParams,
    /// One per password.
    #[n(6)]
    pub slots: Vec<KeySlot>,
    /// The root page.
    #[n(7)]
    pub root: PageRef,
    /// Who signs the placement record.
    #[n(8)]
    pub steward: PublicKey,
    /// Roots of earlier versions, newest first.
    #[n(9)]
    pub previous_roots: Vec<PageRef>,
}

impl Bounded for OwnerRecord {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.format == RECORD_FORMAT, "owner record format")?;
        self.code.check()?;
        ensure((1..=REPLICAS_MAX).contains(&self.replicas), "replica factor")?;
        self.kdf.check()?;
        ensure((1..=SLOTS_MAX).contains(&self.slots.len()), "count of key slots")?;
        ensure(self.previous_roots.len() <= PREVIOUS_ROOTS_MAX, "count of earlier roots")?;
        let shards = self.code.n() * usize::from(self.replicas);
        core::iter::once(&self.root).chain(&self.previous_roots).try_for_each(|root| {
            root.check()?;
            ensure(root.segment.shards.len() == shards, "shards of a root page")
        })
    }
}

/// A node that holds shards of a file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Holder {
    /// Who.
    #[n(0)]
    pub node: NodeId,
    /// Where it was reachable, multiaddr texts without the node id.
    #[n(1)]
    pub addresses: Vec<String>,
    /// The failure domain it was placed by, if any.
    #[n(2)]
    pub domain: Option<String>,
}

/// Slots of a run of segments.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PlacementRange {
    /// First segment.
    #[n(0)]
    pub first: SegmentNumber,
    /// Last segment, included.
    #[n(1)]
    pub last: SegmentNumber,
    /// For each slot the holder's place in [`PlacementRecord::holders`], or none where the upload found no node.
    #[n(2)]
    pub slots: Vec<Option<u16>>,
}

/// Body of a [`RecordKind::Placement`] record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PlacementRecord {
    /// [`RECORD_FORMAT`].
    #[n(0)]
    pub format: u8,
    /// The file.
    #[n(1)]
    pub file: FileId,
    /// Every holder once.
    #[n(2)]
    pub holders: Vec<Holder>,
    /// Ascending, without overlap.
    #[n(3)]
    pub ranges: Vec<PlacementRange>,
}

impl PlacementRecord {
    /// The holder of shard `unit` (replica x n + index) of `segment`: slot (unit + segment) mod slots.
    #[must_use]
    pub fn holder(&self, segment: SegmentNumber, unit: usize) -> Option<&Holder> {
        let after = self.ranges.partition_point(|range| range.last < segment);
        let range = self.ranges.get(after).filter(|range| range.first <= segment)?;
        let slot = slot_of(segment, unit, range.slots.len())?;
        let holder = (*range.slots.get(slot)?)?;
        self.holders.get(usize::from(holder))
    }
}

/// (unit + segment) mod slots; none when there are no slots.
#[must_use]
pub fn slot_of(segment: SegmentNumber, unit: usize, slots: usize) -> Option<usize> {
    let slots_wide = u64::try_from(slots).ok()?;
    let sum = u64::try_from(unit).ok()?.checked_add(u64::from(segment.0))?;
    usize::try_from(sum.checked_rem(slots_wide)?).ok()
}

/// Whether `text` may be an address or domain in a signed object: printable ASCII within `limit`.
#[must_use]
pub fn is_plain_text(text: &str, limit: usize) -> bool {
    !text.is_empty() && text.len() <= limit && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Holder {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.addresses.len() <= ADDRESSES_MAX, "count of addresses")?;
        ensure(self.addresses.iter().all(|address| is_plain_text(address, ADDRESS_MAX)), "address")?;
        ensure(self.domain.as_ref().is_none_or(|domain| is_plain_text(domain, DOMAIN_MAX)), "domain")
    }
}

impl Bounded for PlacementRecord {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.format == RECORD_FORMAT, "placement record format")?;
        let most = CODE_MAX * usize::from(REPLICAS_MAX);
        ensure(self.holders.len() <= most, "count of holders")?;
        self.holders.iter().try_for_each(Holder::check)?;
        let mut free = 0u64;
        for range in &self.ranges {
            ensure(range.first <= range.last && u64::from(range.first.0) >= free, "order of placement ranges")?;
            free = u64::from(range.last.0) + 1;
            ensure((2..=most).contains(&range.slots.len()), "count of slots")?;
            let known = |slot: &Option<u16>| slot.is_none_or(|holder| usize::from(holder) < self.holders.len());
            ensure(range.slots.iter().all(known), "holder of a slot")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_rotate_by_segment() {
        assert_eq!(slot_of(SegmentNumber(0), 5, 6), Some(5));
        assert_eq!(slot_of(SegmentNumber(1), 5, 6), Some(0));
        assert_eq!(
            slot_of(SegmentNumber(u32::MAX), 5, 6),
            Some(usize::try_from((u64::from(u32::MAX) + 5) % 6).unwrap())
        );
        assert_eq!(slot_of(SegmentNumber(0), 0, 0), None);
    }

    #[test]
    fn holder_of_a_missing_slot_or_segment_is_none() {
        let holder = Holder { node: NodeId::from_bytes([1; 32]), addresses: vec![], domain: None };
        let record = PlacementRecord {
            format: 1,
            file: FileId::from_bytes([0; 32]),
            holders: vec![holder.clone()],
            ranges: vec![PlacementRange {
                first: SegmentNumber(2),
                last: SegmentNumber(3),
                slots: vec![Some(0), None],
            }],
        };
        assert_eq!(record.check(), Ok(()));
        assert_eq!(record.holder(SegmentNumber(2), 0), Some(&holder));
        assert_eq!(record.holder(SegmentNumber(3), 0), None);
        assert_eq!(record.holder(SegmentNumber(4), 0), None);
        assert_eq!(record.holder(SegmentNumber(1), 0), None);
    }
}
