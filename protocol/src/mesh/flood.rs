//! What every member has to hear (claims of addresses and names, mesh keys), passed from neighbour to neighbour: numbered,
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
    /// A [claim](super::name::NameClaim) of a name.
    #[n(3)]
    Name,
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

/// How far a series of the other side was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FloodAck {
    /// The series that is answered, from 1.
    #[n(0)]
    pub series: u64,
    /// All of its messages up to this number were taken. 0 where some were taken before: they are forgotten, and all has to
    /// be told again in another series.
    #[n(1)]
    pub through: u64,
}

impl Bounded for FloodAck {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.series > 0, "series that is answered")
    }
}

/// Statements, an acknowledgement, or both, between one run of a node and one of its neighbour. Messages with statements
/// are numbered from 1 in a series, and taken in that order without gaps; one that holds an acknowledgement only has
/// series and number 0.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FloodMessage {
    /// The run of the sender.
    #[n(0)]
    pub from: BootEpoch,
    /// The run of the receiver that it is meant for: what comes late, after a restart, is not taken for the new run's.
    #[n(1)]
    pub to: BootEpoch,
    /// Which telling of everything it belongs to: greater than every one before it in the run of the sender.
    #[n(2)]
    pub series: u64,
    /// Number of this message in its series.
    #[n(3)]
    pub number: u64,
    /// The statements.
    #[n(4)]
    pub items: Vec<FloodItem>,
    /// What was taken of the other side's.
    #[n(5)]
    pub ack: Option<FloodAck>,
}

impl Bounded for FloodMessage {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.items.len() <= FLOOD_ITEMS_MAX, "count of statements")?;
        ensure((self.number == 0) == self.items.is_empty(), "number of a message")?;
        ensure((self.number == 0) == (self.series == 0), "series of a message")?;
        ensure(self.number > 0 || self.ack.is_some(), "empty message")?;
        self.ack.iter().try_for_each(FloodAck::check)?;
        self.items.iter().try_for_each(FloodItem::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn message(number: u64, items: usize) -> FloodMessage {
        let item = FloodItem { kind: FloodKind::MeshKey, signed: vec![0xff; FLOOD_ITEM_MAX] };
        let (run, series) = (BootEpoch(u64::MAX), if number > 0 { u64::MAX } else { 0 });
        let ack = Some(FloodAck { series: u64::MAX, through: u64::MAX });
        FloodMessage { from: run, to: run, series, number, items: vec![item; items], ack }
    }

    #[test]
    fn the_largest_message_fits_its_limit() {
        let largest = message(u64::MAX, FLOOD_ITEMS_MAX);
        let bytes = codec::encode(&largest);
        assert!(bytes.len() <= FLOOD_MESSAGE_MAX, "{}", bytes.len());
        assert_eq!(codec::decode::<FloodMessage>(&bytes, FLOOD_MESSAGE_MAX), Ok(largest));
    }

    #[test]
    fn only_messages_with_statements_have_numbers_and_series() {
        assert!(message(0, 0).check().is_ok() && message(1, 1).check().is_ok());
        assert!(message(0, 1).check().is_err() && message(1, 0).check().is_err());
        assert!(message(1, FLOOD_ITEMS_MAX + 1).check().is_err());
        assert!(FloodMessage { ack: None, ..message(0, 0) }.check().is_err());
        assert!(FloodMessage { series: 0, ..message(1, 1) }.check().is_err());
        assert!(FloodMessage { series: 1, ..message(0, 0) }.check().is_err());
        let ack = Some(FloodAck { series: 0, through: 1 });
        assert!(FloodMessage { ack, ..message(1, 1) }.check().is_err());
        let empty = FloodItem { kind: FloodKind::Claim, signed: vec![] };
        assert!(FloodMessage { items: vec![empty], ..message(1, 1) }.check().is_err());
    }
}
