//! Control messages: one request, one response, each at most 64 KiB of deterministic CBOR.
//!
//! The control lane's own framing (lengths, request ids, deadlines, CANCEL) is the swarm's and carries these as bodies.
//! Who asks is known from the connection, so requests are not signed; what must outlive the connection is.

use minicbor::{Decode, Encode};

use crate::audit::AuditRequest;
use crate::codec::{self, Bounded, CodecError, ensure};
use crate::id::{BootEpoch, GroupId, NodeId, Nonce, RecordKey, ReservationId, ShardId};
use crate::limits::{
    CONTROL_FRAME_MAX, DOMAIN_MAX, LOCATE_MAX, PEERS_PAGE_MAX, RECORD_MAX, RESERVE_MAX, SHARD_MAX, STAT_MAX,
    VERSIONS_MAX,
};
use crate::mesh::message::MeshMessage;
use crate::record::is_plain_text;
use crate::refusal::Refusal;
use crate::signed::Signed;
use crate::units::{ByteCount, UnixMillis};

/// The version of this protocol.
pub const PROTOCOL_VERSION: u16 = 1;

/// Both ways, first on every connection.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// Versions spoken, best first.
    #[n(0)]
    pub versions: Vec<u16>,
    /// The sender's current run; requests that name another are void.
    #[n(1)]
    pub boot_epoch: BootEpoch,
    /// Room it offers, bytes; 0 for a visitor.
    #[n(2)]
    pub free: ByteCount,
    /// Declared failure domain.
    #[n(3)]
    pub domain: Option<String>,
    /// The sender's clock.
    #[n(4)]
    pub time: UnixMillis,
    /// The sender's own signed peer record, if it wants to be found.
    #[n(5)]
    pub record: Option<Signed>,
}

/// RESERVE: room for a batch of shards of one group, for 60 s.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Reserve {
    /// The run of the node this is for.
    #[n(0)]
    pub boot_epoch: BootEpoch,
    /// A signed [`crate::group::Group`].
    #[n(1)]
    pub group: Signed,
    /// Bytes of each shard.
    #[n(2)]
    pub lengths: Vec<u32>,
    /// A signed [`crate::group::Voucher`], where the caller is no member.
    #[n(3)]
    pub voucher: Option<Signed>,
}

/// PUT_RECORD.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PutRecord {
    /// The run of the node this is for.
    #[n(0)]
    pub boot_epoch: BootEpoch,
    /// A signed [`crate::group::Group`]: its lease keeps the record.
    #[n(1)]
    pub group: Signed,
    /// A signed [`crate::record::Record`].
    #[n(2)]
    pub record: Signed,
    /// A signed [`crate::group::Voucher`], where the caller is no member.
    #[n(3)]
    pub voucher: Option<Signed>,
    /// Echoed in the receipt.
    #[n(4)]
    pub nonce: Nonce,
}

/// What can be asked. Numbers 8 (RENEW) and 9 (DELETE) are reserved; CANCEL is a frame of the control
/// lane.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Who are you; answered with the other's own.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Peers you know, from the first one after `after` in id order.
    #[n(1)]
    Peers {
        /// Where the page before ended; absent for the first.
        #[n(0)]
        after: Option<NodeId>,
    },
    /// What you know of these nodes.
    #[n(2)]
    Locate {
        /// Whom to look for.
        #[n(0)]
        nodes: Vec<NodeId>,
    },
    /// Room for shards.
    #[n(3)]
    Reserve(#[n(0)] Reserve),
    /// Which of these you hold.
    #[n(4)]
    Stat {
        /// The shards.
        #[n(0)]
        shards: Vec<ShardId>,
    },
    /// Prove that you hold this.
    #[n(5)]
    Audit(#[n(0)] AuditRequest),
    /// Keep this record.
    #[n(6)]
    PutRecord(#[n(0)] PutRecord),
    /// Give that record back.
    #[n(7)]
    GetRecord {
        /// Which.
        #[n(0)]
        key: RecordKey,
        /// 0 the newest, 1 the one before.
        #[n(1)]
        back: u8,
    },
    /// Which shards you lost, from the first one after `after` in id order.
    #[n(10)]
    Losses {
        /// Where the page before ended; absent for the first.
        #[n(0)]
        after: Option<ShardId>,
        /// Echoed in the statement.
        #[n(1)]
        nonce: Nonce,
    },
    /// Something about the private network.
    #[n(11)]
    Mesh(#[n(0)] Box<MeshMessage>),
}

/// A promise of room.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Reserved {
    /// One per length asked for, in order.
    #[n(0)]
    pub ids: Vec<ReservationId>,
    /// Milliseconds until they are void.
    #[n(1)]
    pub valid_ms: u32,
    /// The group they are for.
    #[n(2)]
    pub group: GroupId,
}

/// One shard of a STAT answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Held {
    /// Its bytes; absent where it is not held.
    #[n(0)]
    pub length: Option<u32>,
}

/// The answers, by request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Response {
    /// To HELLO.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// To PEERS and LOCATE: signed [`crate::peer_record::PeerRecord`]s.
    #[n(1)]
    Peers {
        /// In id order.
        #[n(0)]
        records: Vec<Signed>,
        /// Whether there are more after the last of these.
        #[n(1)]
        more: bool,
    },
    /// To RESERVE.
    #[n(2)]
    Reserved(#[n(0)] Reserved),
    /// To STAT, in the order asked.
    #[n(3)]
    Stat {
        /// One per shard.
        #[n(0)]
        held: Vec<Held>,
    },
    /// To AUDIT.
    #[n(4)]
    Audit {
        /// A signed [`crate::audit::AuditStatement`].
        #[n(0)]
        statement: Signed,
        /// The slices with their paths, or 32 bytes.
        #[cbor(n(1), with = "minicbor::bytes")]
        answer: Vec<u8>,
    },
    /// To PUT_RECORD: it is on stable media. A signed [`crate::receipt::Receipt`] whose shard is the BLAKE3 hash of the
    /// signed record's bytes and whose length is theirs.
    #[n(5)]
    RecordKept {
        /// The receipt.
        #[n(0)]
        receipt: Signed,
    },
    /// To PUT_RECORD: not the successor of this one.
    #[n(6)]
    Conflict {
        /// The newest record held.
        #[n(0)]
        held: Signed,
    },
    /// To GET_RECORD.
    #[n(7)]
    Record {
        /// The record.
        #[n(0)]
        record: Signed,
        /// Whether an older one is held too.
        #[n(1)]
        more: bool,
    },
    /// To anything.
    #[n(8)]
    Refused {
        /// Why.
        #[n(0)]
        reason: Refusal,
        /// Ask again after this many milliseconds; 0 where it makes no difference.
        #[n(1)]
        retry_after_ms: u32,
    },
    /// To LOSSES.
    #[n(9)]
    Losses {
        /// A signed [`crate::loss::LossStatement`].
        #[n(0)]
        statement: Signed,
        /// Whether there are more after the last of these.
        #[n(1)]
        more: bool,
    },
    /// To MESH: read, whatever became of it.
    #[n(10)]
    Taken,
}

impl Hello {
    fn check(&self) -> Result<(), &'static str> {
        ensure((1..=VERSIONS_MAX).contains(&self.versions.len()), "count of versions")?;
        ensure(self.domain.as_ref().is_none_or(|domain| is_plain_text(domain, DOMAIN_MAX)), "domain")
    }
}

impl Bounded for Request {
    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Hello(hello) => hello.check(),
            Self::Peers { .. } => Ok(()),
            Self::Locate { nodes } => ensure((1..=LOCATE_MAX).contains(&nodes.len()), "count of nodes"),
            Self::Reserve(reserve) => {
                ensure((1..=RESERVE_MAX).contains(&reserve.lengths.len()), "count of lengths")?;
                ensure(reserve.lengths.iter().all(|length| (1..=SHARD_MAX).contains(length)), "shard length")
            }
            Self::Stat { shards } => ensure((1..=STAT_MAX).contains(&shards.len()), "count of shards"),
            Self::Audit(audit) => audit.check(),
            Self::PutRecord(put) => ensure(put.record.to_bytes().len() <= RECORD_MAX, "record length"),
            Self::GetRecord { back, .. } => ensure(*back <= 1, "age of a record"),
            Self::Losses { .. } => Ok(()),
            Self::Mesh(message) => message.check(),
        }
    }
}

impl Bounded for Response {
    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Hello(hello) => hello.check(),
            Self::Peers { records, .. } => ensure(records.len() <= PEERS_PAGE_MAX, "count of peer records"),
            Self::Reserved(reserved) => ensure((1..=RESERVE_MAX).contains(&reserved.ids.len()), "count of ids"),
            Self::Stat { held } => ensure((1..=STAT_MAX).contains(&held.len()), "count of shards"),
            Self::Audit { .. }
            | Self::RecordKept { .. }
            | Self::Conflict { .. }
            | Self::Record { .. }
            | Self::Losses { .. }
            | Self::Taken
            | Self::Refused { .. } => Ok(()),
        }
    }
}

impl Request {
    /// The request in a control body.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, CONTROL_FRAME_MAX)
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The word for logs and metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Peers { .. } => "peers",
            Self::Locate { .. } => "locate",
            Self::Reserve(_) => "reserve",
            Self::Stat { .. } => "stat",
            Self::Audit(_) => "audit",
            Self::PutRecord(_) => "put_record",
            Self::GetRecord { .. } => "get_record",
            Self::Losses { .. } => "losses",
            Self::Mesh(_) => "mesh",
        }
    }
}

impl Response {
    /// The response in a control body.
    ///
    /// # Errors
    /// [`CodecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, CONTROL_FRAME_MAX)
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// A refusal that waiting does not change.
    #[must_use]
    pub const fn refused(reason: Refusal) -> Self {
        Self::Refused { reason, retry_after_ms: 0 }
    }
}
