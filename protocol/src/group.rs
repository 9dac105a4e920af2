//! Lease groups: how long an owner wants bytes kept, who may renew, how much may be used. Vouchers: room given away.

use minicbor::{Decode, Encode};

use crate::codec::{Bounded, ensure};
use crate::id::{GroupId, NodeId, PublicKey};
use crate::limits::LEASE_MS_MAX;
use crate::network::NetworkId;
use crate::signed::{Statement, Verified};
use crate::units::{ByteCount, UnixMillis};

/// Owner-signed: the bytes of this group live on a node while its newest serial has not expired.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Group {
    /// Who may renew besides the owner.
    #[n(0)]
    pub steward: PublicKey,
    /// Who pays; the uploading node's key until billing knows better.
    #[n(1)]
    pub payer: PublicKey,
    /// Most bytes one node keeps for this group.
    #[n(2)]
    pub ceiling: ByteCount,
    /// When it was signed.
    #[n(3)]
    pub issued: UnixMillis,
    /// Until when the bytes are wanted.
    #[n(4)]
    pub expires: UnixMillis,
    /// A higher serial replaces a lower one.
    #[n(5)]
    pub serial: u64,
}

impl Bounded for Group {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.issued < self.expires, "expiry of a group")?;
        ensure(self.issued.distance(self.expires) <= LEASE_MS_MAX, "length of a lease")
    }
}

impl Statement for Group {
    const CONTEXT: &'static str = "shoal group v1";
    const LIMIT: usize = 512;
}

impl Verified<Group> {
    /// The id of the group: a function of its signer alone.
    #[must_use]
    pub fn id(&self, network: &NetworkId) -> GroupId {
        GroupId::of_owner(network, self.signer())
    }
}

/// Issuer-signed: `holder` may store up to `bytes` on `node` until `expires`. Used up durably, by serial.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Voucher {
    /// Who may use it.
    #[n(0)]
    pub holder: NodeId,
    /// Where.
    #[n(1)]
    pub node: NodeId,
    /// How much, over all uses.
    #[n(2)]
    pub bytes: ByteCount,
    /// Until when.
    #[n(3)]
    pub expires: UnixMillis,
    /// Never used twice by one issuer for one node.
    #[n(4)]
    pub serial: u64,
}

impl Bounded for Voucher {}

impl Statement for Voucher {
    const CONTEXT: &'static str = "shoal voucher v1";
    const LIMIT: usize = 512;
}
