//! Peer records: what a node says of itself, signed, so that others may pass it on.

use minicbor::{Decode, Encode};

use crate::codec::{Bounded, ensure};
use crate::id::BootEpoch;
use crate::limits::{ADDRESS_MAX, ADDRESSES_MAX, DOMAIN_MAX};
use crate::record::is_plain_text;
use crate::signed::Statement;
use crate::units::{ByteCount, UnixMillis};

/// A peer record older than this is not passed on and not believed, milliseconds: one day.
pub const PEER_RECORD_AGE_MAX_MS: u64 = 24 * 3600 * 1000;

/// Signed by the node it describes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PeerRecord {
    /// Where it can be reached, multiaddr texts without the node id.
    #[n(0)]
    pub addresses: Vec<String>,
    /// Its current run.
    #[n(1)]
    pub boot_epoch: BootEpoch,
    /// Room it offers, bytes.
    #[n(2)]
    pub free: ByteCount,
    /// Declared failure domain.
    #[n(3)]
    pub domain: Option<String>,
    /// Whether it stores for others; clients that only visit do not.
    #[n(4)]
    pub stores: bool,
    /// When it was signed. The newest wins.
    #[n(5)]
    pub time: UnixMillis,
}

impl Bounded for PeerRecord {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.addresses.len() <= ADDRESSES_MAX, "count of addresses")?;
        ensure(self.addresses.iter().all(|address| is_plain_text(address, ADDRESS_MAX)), "address")?;
        ensure(self.domain.as_ref().is_none_or(|domain| is_plain_text(domain, DOMAIN_MAX)), "domain")
    }
}

impl Statement for PeerRecord {
    const CONTEXT: &'static str = "shoal peer v1";
    const LIMIT: usize = 4096;
}
