//! Shard lanes: long-lived streams that carry one transfer at a time. The frames, and what a transfer says.
//!
//! ```text
//! message  = length u32 BE (1..=16,384) || CBOR                  header, trailer, reply
//! data     = length u32 BE (1..=65,536) || bytes                  any number of them
//! end      = 0 u32 BE, then one message: the trailer
//! abort    = 0xFFFFFFFF u32 BE || refusal number u16 BE           instead of the end; the lane stays usable
//!
//! STORE    client: header, data*, end + StoreTrailer | abort      node: one StoreReply, at any time after the header
//! RETRIEVE client: header                                         node: data*, end + RetrieveTrailer | abort
//!          client, after the node's end or abort, or to stop it: one DeliveryReply | abort
//! ```
//! In both the side that sends data always ends it with end or abort and the other side always reads up to there, so
//! that the next header is found. A node that refuses a STORE early answers at once and discards what still comes.

use minicbor::{Decode, Encode};

use crate::codec::{self, Bounded, CodecError, ensure};
use crate::id::{BootEpoch, Nonce, ReservationId, ShardId};
use crate::limits::{LANE_FRAME_MAX, LANE_MESSAGE_MAX, SHARD_MAX};
use crate::receipt::{ByteRange, check_ranges};
use crate::refusal::Refusal;
use crate::signed::Signed;

/// The length word that ends the data.
pub const END: u32 = 0;
/// The length word that aborts a transfer.
pub const ABORT: u32 = u32::MAX;

/// First message of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Header {
    /// Bytes follow for a reserved place.
    #[n(0)]
    Store {
        /// The place.
        #[n(0)]
        reservation: ReservationId,
        /// The run of the node this is for.
        #[n(1)]
        boot_epoch: BootEpoch,
        /// Echoed in the receipt.
        #[n(2)]
        nonce: Nonce,
    },
    /// Send these ranges of that shard.
    #[n(1)]
    Retrieve {
        /// The shard.
        #[n(0)]
        shard: ShardId,
        /// Bytes wanted: ascending, apart.
        #[n(1)]
        ranges: Vec<ByteRange>,
        /// Echoed in the serve statement.
        #[n(2)]
        nonce: Nonce,
    },
}

impl Bounded for Header {
    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Store { .. } => Ok(()),
            Self::Retrieve { ranges, .. } => check_ranges(ranges),
        }
    }
}

/// After the bytes of a STORE.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct StoreTrailer {
    /// What the bytes hash to.
    #[n(0)]
    pub shard: ShardId,
    /// How many there were.
    #[n(1)]
    pub length: u32,
}

impl Bounded for StoreTrailer {
    fn check(&self) -> Result<(), &'static str> {
        ensure((1..=SHARD_MAX).contains(&self.length), "shard length")
    }
}

/// The node's answer to a STORE.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum StoreReply {
    /// A signed [`crate::receipt::Receipt`].
    #[n(0)]
    Kept(#[n(0)] Signed),
    /// A signed [`crate::receipt::RefusalStatement`].
    #[n(1)]
    Refused(#[n(0)] Signed),
}

impl Bounded for StoreReply {}

/// After the bytes of a RETRIEVE.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RetrieveTrailer {
    /// A signed [`crate::receipt::ServeStatement`].
    #[n(0)]
    pub statement: Signed,
}

impl Bounded for RetrieveTrailer {}

/// The requester's last word on a RETRIEVE.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DeliveryReply {
    /// A signed [`crate::receipt::DeliveryReceipt`].
    #[n(0)]
    pub receipt: Signed,
}

impl Bounded for DeliveryReply {}

/// What a length word of the data phase announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataWord {
    /// That many bytes, 1..=65,536.
    Data(usize),
    /// The trailer's message follows.
    End,
    /// A refusal number follows.
    Abort,
}

/// Why a lane cannot go on: it has to be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaneFault {
    /// A length word outside what may follow here.
    #[error("length {0} is not allowed here")]
    Length(u32),
    /// A message that is not what it should be.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl DataWord {
    /// Reads a length word.
    ///
    /// # Errors
    /// [`LaneFault::Length`] for a data length over the limit.
    pub fn parse(word: [u8; 4]) -> Result<Self, LaneFault> {
        match u32::from_be_bytes(word) {
            END => Ok(Self::End),
            ABORT => Ok(Self::Abort),
            length if length as usize <= LANE_FRAME_MAX => Ok(Self::Data(length as usize)),
            length => Err(LaneFault::Length(length)),
        }
    }
}

/// The length of a message after its word.
///
/// # Errors
/// [`LaneFault::Length`] for 0 or a length over the limit.
pub fn message_length(word: [u8; 4]) -> Result<usize, LaneFault> {
    let length = u32::from_be_bytes(word);
    let fits = length > 0 && length as usize <= LANE_MESSAGE_MAX;
    if fits { Ok(length as usize) } else { Err(LaneFault::Length(length)) }
}

/// A message with its length word.
#[must_use]
pub fn encode_message<T: Encode<()>>(message: &T) -> Vec<u8> {
    let body = codec::encode(message);
    // Messages of this module are under LANE_MESSAGE_MAX by their own limits.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(4 + body.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&body);
    out
}

/// The end word and the trailer.
#[must_use]
pub fn encode_end<T: Encode<()>>(trailer: &T) -> Vec<u8> {
    let mut out = END.to_be_bytes().to_vec();
    out.extend_from_slice(&encode_message(trailer));
    out
}

/// The abort word and its reason.
#[must_use]
pub fn encode_abort(reason: Refusal) -> [u8; 6] {
    let [a, b, c, d] = ABORT.to_be_bytes();
    let [e, f] = reason.number().to_be_bytes();
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_within_their_limits() {
        assert_eq!(DataWord::parse([0; 4]), Ok(DataWord::End));
        assert_eq!(DataWord::parse([255; 4]), Ok(DataWord::Abort));
        assert_eq!(DataWord::parse(65_536u32.to_be_bytes()), Ok(DataWord::Data(65_536)));
        for bad in [65_537, u32::MAX - 1] {
            assert_eq!(DataWord::parse(bad.to_be_bytes()), Err(LaneFault::Length(bad)));
        }
        assert!(message_length([0; 4]).is_err() && message_length(16_385u32.to_be_bytes()).is_err());
        assert_eq!(message_length(16_384u32.to_be_bytes()), Ok(16_384));
    }

    #[test]
    fn abort_carries_its_reason() {
        let bytes = encode_abort(Refusal::Busy);
        assert_eq!(bytes, [255, 255, 255, 255, 0, 3]);
    }
}
