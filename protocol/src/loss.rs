//! What a node says of itself when its disk failed it: which shards it holds no more. Signed, so that it counts against
//! nobody else, and so that those who repair need not wait for an audit.

use minicbor::{Decode, Encode};

use crate::codec::{Bounded, ensure};
use crate::id::{BootEpoch, Nonce, ShardId};
use crate::limits::LOSSES_PAGE_MAX;
use crate::signed::Statement;
use crate::units::UnixMillis;

/// One shard that was kept, and found damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Loss {
    /// Which.
    #[n(0)]
    pub shard: ShardId,
    /// When it was found.
    #[n(1)]
    pub found: UnixMillis,
}

/// Node-signed: these shards were found damaged here and were not stored again since. One page of them.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LossStatement {
    /// Ascending by shard.
    #[n(0)]
    pub losses: Vec<Loss>,
    /// Run of the node that signed.
    #[n(1)]
    pub boot_epoch: BootEpoch,
    /// The asker's own nonce.
    #[n(2)]
    pub nonce: Nonce,
    /// When it was signed.
    #[n(3)]
    pub time: UnixMillis,
}

impl Bounded for LossStatement {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.losses.len() <= LOSSES_PAGE_MAX, "count of losses")?;
        ensure(self.losses.is_sorted_by(|a, b| a.shard < b.shard), "order of losses")
    }
}

impl Statement for LossStatement {
    const CONTEXT: &'static str = "shoal loss v1";
    const LIMIT: usize = 16 * 1024;
}
