//! What an entry of a journal says. It is only read and written sealed.

use minicbor::{Decode, Encode};
use shoal_protocol::codec::Bounded;
use shoal_protocol::layout::Code;
use shoal_protocol::limits::{AUDIT_ROUNDS_MAX, REPLICAS_MAX};
use shoal_protocol::page::SegmentRef;
use shoal_protocol::{NodeId, SegmentNumber};

use super::Mark;

/// How the upload is made. A journal goes on with the code it began with.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Begin {
    /// Code of all segments.
    #[n(0)]
    pub code: Code,
    /// Copies of every shard.
    #[n(1)]
    pub replicas: u8,
    /// Rounds that audit tokens are minted for.
    #[n(2)]
    pub audit_rounds: u8,
    /// Serial of the group the upload stores under: one more at each continuation.
    #[n(3)]
    pub serial: u64,
}

/// A segment was sealed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SealedSegment {
    /// Which; never a page's.
    #[n(0)]
    pub number: SegmentNumber,
    /// Its plaintext.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub mark: Mark,
    /// Its entry in a page, tokens included.
    #[n(2)]
    pub reference: SegmentRef,
}

/// A shard was receipted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct HeldUnit {
    /// Of which segment.
    #[n(0)]
    pub number: SegmentNumber,
    /// replica x n + index.
    #[n(1)]
    pub unit: u16,
    /// By whom.
    #[n(2)]
    pub node: NodeId,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// How the upload is made.
    Begin(Begin),
    /// A segment was sealed.
    Sealed(SealedSegment),
    /// A shard was receipted.
    Held(HeldUnit),
}

/// An entry as it is spelled: exactly one of the three.
#[derive(Debug, Encode, Decode)]
#[cbor(map)]
pub(super) struct EntryBody {
    #[n(0)]
    begin: Option<Begin>,
    #[n(1)]
    sealed: Option<SealedSegment>,
    #[n(2)]
    held: Option<HeldUnit>,
}

impl Bounded for EntryBody {
    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self { begin: Some(begin), sealed: None, held: None } => begin.check(),
            Self { begin: None, sealed: Some(sealed), held: None } if sealed.number.is_page() => {
                Err("page in a journal")
            }
            Self { begin: None, sealed: Some(sealed), held: None } => sealed.reference.check(),
            Self { begin: None, sealed: None, held: Some(held) } if held.number.is_page() => Err("page in a journal"),
            Self { begin: None, sealed: None, held: Some(_) } => Ok(()),
            _ => Err("count of things in an entry"),
        }
    }
}

impl Begin {
    fn check(&self) -> Result<(), &'static str> {
        let replicas = (1..=REPLICAS_MAX).contains(&self.replicas);
        let code = Code::new(self.code.k(), self.code.m()).is_ok();
        if replicas && code && self.audit_rounds <= AUDIT_ROUNDS_MAX { Ok(()) } else { Err("beginning of a journal") }
    }
}

impl From<Entry> for EntryBody {
    fn from(entry: Entry) -> Self {
        let none = Self { begin: None, sealed: None, held: None };
        match entry {
            Entry::Begin(begin) => Self { begin: Some(begin), ..none },
            Entry::Sealed(sealed) => Self { sealed: Some(sealed), ..none },
            Entry::Held(held) => Self { held: Some(held), ..none },
        }
    }
}

impl EntryBody {
    /// The entry; none where [`Bounded::check`] was not asked.
    pub(super) fn entry(self) -> Option<Entry> {
        let begin = self.begin.map(Entry::Begin);
        begin.or(self.sealed.map(Entry::Sealed)).or(self.held.map(Entry::Held))
    }
}
