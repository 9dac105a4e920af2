//! What every member has to hear (claims of addresses, mesh keys), passed from neighbour to neighbour: numbered,
//! acknowledged, bounded. It carries signed bytes with a kind and looks into none of them.

use minicbor::{Decode, Encode};

use crate::codec::{Bounded, ensure};
use crate::id::BootEpoch;

/// Most statements in one message: with [`FLOOD_ITEM_MAX`] it fits a control frame of 64 KiB.
pub const FLOOD_ITEMS_MAX: usize = 60;
/// Most bytes of one signed statement, with its envelope.
pub const FLOOD_ITEM_MAX: usize = 1024;
/// Largest message, bytes.
pub const FLOOD_MESSAGE_MAX: usize = 63 * 1024;
/// Most messages to one neighbour that wait to be acknowledged. With [`FLOOD_PACE_MS`] it bounds what anybody can make
/// a neighbour verify.
pub const FLOOD_WINDOW: u64 = 4;
/// Least time between two messages with statements to one neighbour, milliseconds: at most 600 statements a second, which
/// costs who verifies them about 3 % of one core.
pub const FLOOD_PACE_MS: u64 = 100;

/// What a flooded statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum FloodKind {
    /// A [claim](super::claim::Claim) of an IPv4 address.
    #[n(1)]
    Claim,
    /// A mesh key record.
    #[n(2)]
    MeshKey,
}

/// One signed statement, not looked into.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FloodItem {
    /// What it is.
    #[n(0)]
    pub kind: FloodKind,
    /// Its envelope, 1 to [`FLOOD_ITEM_MAX`] bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signed: Vec<u8>,
}

impl Bounded for FloodItem {
    fn check(&self) -> Result<(), &'static str> {
        ensure((1..=FLOOD_ITEM_MAX).contains(&self.signed.len()), "length of a statement")
    }
}

/// How far the messages of the other side's run were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FloodAck {
    /// The run of the one that is answered.
    #[n(0)]
    pub epoch: BootEpoch,
    /// All of its messages up to this number were taken.
    #[n(1)]
    pub through: u64,
}

impl Bounded for FloodAck {}

/// Statements, an acknowledgement, or both. Messages with statements are numbered from 1 for each neighbour and run, and
/// taken in that order without gaps; one that holds an acknowledgement only has number 0.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FloodMessage {
    /// The run of the sender.
    #[n(0)]
    pub epoch: BootEpoch,
    /// Number of this message.
    #[n(1)]
    pub number: u64,
    /// The statements.
    #[n(2)]
    pub items: Vec<FloodItem>,
    /// What was taken of the other side's.
    #[n(3)]
    pub ack: Option<FloodAck>,
}

impl Bounded for FloodMessage {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.items.len() <= FLOOD_ITEMS_MAX, "count of statements")?;
        ensure((self.number == 0) == self.items.is_empty(), "number of a message")?;
        ensure(self.number > 0 || self.ack.is_some(), "empty message")?;
        self.items.iter().try_for_each(FloodItem::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn message(number: u64, items: usize) -> FloodMessage {
        let item = FloodItem { kind: FloodKind::MeshKey, signed: vec![0xff; FLOOD_ITEM_MAX] };
        let ack = Some(FloodAck { epoch: BootEpoch(u64::MAX), through: u64::MAX });
        FloodMessage { epoch: BootEpoch(u64::MAX), number, items: vec![item; items], ack }
    }

    #[test]
    fn the_largest_message_fits_its_limit() {
        let largest = message(u64::MAX, FLOOD_ITEMS_MAX);
        let bytes = codec::encode(&largest);
        assert!(bytes.len() <= FLOOD_MESSAGE_MAX, "{}", bytes.len());
        assert_eq!(codec::decode::<FloodMessage>(&bytes, FLOOD_MESSAGE_MAX), Ok(largest));
    }

    #[test]
    fn only_messages_with_statements_have_numbers() {
        assert!(message(0, 0).check().is_ok() && message(1, 1).check().is_ok());
        assert!(message(0, 1).check().is_err() && message(1, 0).check().is_err());
        assert!(message(1, FLOOD_ITEMS_MAX + 1).check().is_err());
        assert!(FloodMessage { ack: None, ..message(0, 0) }.check().is_err());
        let empty = FloodItem { kind: FloodKind::Claim, signed: vec![] };
        assert!(FloodMessage { items: vec![empty], ..message(1, 1) }.check().is_err());
    }
}
