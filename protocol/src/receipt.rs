//! What nodes and clients sign about a transfer: receipt, refusal, serve statement, delivery receipt.

use minicbor::{Decode, Encode};

use crate::codec::{Bounded, ensure};
use crate::id::{BootEpoch, GroupId, NodeId, Nonce, ShardId};
use crate::limits::{RANGES_MAX, SHARD_MAX};
use crate::refusal::Refusal;
use crate::signed::Statement;
use crate::units::UnixMillis;

/// Node-signed: these bytes are on stable media here, for this group.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Receipt {
    /// What is kept.
    #[n(0)]
    pub shard: ShardId,
    /// Its bytes.
    #[n(1)]
    pub length: u32,
    /// For which lease group.
    #[n(2)]
    pub group: GroupId,
    /// Until when, unless renewed.
    #[n(3)]
    pub expires: UnixMillis,
    /// Run of the node that signed.
    #[n(4)]
    pub boot_epoch: BootEpoch,
    /// The client's own nonce.
    #[n(5)]
    pub nonce: Nonce,
    /// When it was signed, after the sync.
    #[n(6)]
    pub time: UnixMillis,
}

impl Bounded for Receipt {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.length <= SHARD_MAX, "shard length")
    }
}

impl Statement for Receipt {
    const CONTEXT: &'static str = "shoal receipt v1";
    const LIMIT: usize = 512;
}

/// Node-signed: this was not done, and why. Another type than [`Receipt`], so one can never pass for the other.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RefusalStatement {
    /// Why.
    #[n(0)]
    pub reason: Refusal,
    /// Ask again after this many milliseconds; 0 where it makes no difference.
    #[n(1)]
    pub retry_after_ms: u32,
    /// Run of the node that signed.
    #[n(2)]
    pub boot_epoch: BootEpoch,
    /// The client's own nonce.
    #[n(3)]
    pub nonce: Nonce,
    /// When.
    #[n(4)]
    pub time: UnixMillis,
}

impl Bounded for RefusalStatement {}

impl Statement for RefusalStatement {
    const CONTEXT: &'static str = "shoal refusal v1";
    const LIMIT: usize = 256;
}

/// Bytes `start..end` of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ByteRange {
    /// First byte.
    #[n(0)]
    pub start: u32,
    /// One past the last byte.
    #[n(1)]
    pub end: u32,
}

/// Ranges are non-empty, ascending, apart from each other, within the largest shard.
pub(crate) fn check_ranges(ranges: &[ByteRange]) -> Result<(), &'static str> {
    ensure((1..=RANGES_MAX).contains(&ranges.len()), "count of ranges")?;
    ensure(ranges.iter().all(|range| range.start < range.end && range.end <= SHARD_MAX), "range")?;
    ensure(ranges.is_sorted_by(|a, b| a.end < b.start), "order of ranges")
}

/// Node-signed, at the end of a RETRIEVE: these ranges were sent to that requester.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ServeStatement {
    /// What was served.
    #[n(0)]
    pub shard: ShardId,
    /// Which ranges.
    #[n(1)]
    pub ranges: Vec<ByteRange>,
    /// Encoded bytes sent.
    #[n(2)]
    pub sent: u64,
    /// To whom.
    #[n(3)]
    pub requester: NodeId,
    /// Run of the node that signed.
    #[n(4)]
    pub boot_epoch: BootEpoch,
    /// The requester's own nonce.
    #[n(5)]
    pub nonce: Nonce,
    /// When.
    #[n(6)]
    pub time: UnixMillis,
}

impl Bounded for ServeStatement {
    fn check(&self) -> Result<(), &'static str> {
        check_ranges(&self.ranges)
    }
}

impl Statement for ServeStatement {
    const CONTEXT: &'static str = "shoal serve v1";
    const LIMIT: usize = 4096;
}

/// Requester-signed: these ranges arrived and verified. What billing counts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DeliveryReceipt {
    /// What arrived.
    #[n(0)]
    pub shard: ShardId,
    /// Which ranges.
    #[n(1)]
    pub ranges: Vec<ByteRange>,
    /// Who served it.
    #[n(2)]
    pub node: NodeId,
    /// The nonce of the request.
    #[n(3)]
    pub nonce: Nonce,
    /// When.
    #[n(4)]
    pub time: UnixMillis,
}

impl Bounded for DeliveryReceipt {
    fn check(&self) -> Result<(), &'static str> {
        check_ranges(&self.ranges)
    }
}

impl Statement for DeliveryReceipt {
    const CONTEXT: &'static str = "shoal delivery v1";
    const LIMIT: usize = 4096;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_ascending_and_apart() {
        let range = |start, end| ByteRange { start, end };
        assert!(check_ranges(&[range(0, 1), range(2, 5)]).is_ok());
        for bad in [
            vec![],
            vec![range(1, 1)],
            vec![range(2, 1)],
            vec![range(0, 2), range(2, 4)],
            vec![range(5, 6), range(0, 1)],
            vec![range(0, SHARD_MAX + 1)],
            vec![range(0, 1); RANGES_MAX + 1],
        ] {
            assert!(check_ranges(&bad).is_err(), "{bad:?}");
        }
    }
}
