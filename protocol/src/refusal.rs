//! One word per kind of "no": the wire, the log, the metric and the command line use the same.

use core::fmt;

use minicbor::{Decode, Encode};

/// Why a node did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Refusal {
    /// The request is not well-formed.
    #[n(1)]
    Malformed,
    /// This version of the node does not know the request.
    #[n(2)]
    Unsupported,
    /// No room for more work right now; ask again later.
    #[n(3)]
    Busy,
    /// The caller is not a member, not on the allowlist and shows no voucher.
    #[n(4)]
    Denied,
    /// The node does not hold what was named.
    #[n(5)]
    NotFound,
    /// The quota or the disk is full.
    #[n(6)]
    NoSpace,
    /// The reservation is unknown, used or expired.
    #[n(7)]
    NoReservation,
    /// The bytes do not hash to the id, or have another length.
    #[n(8)]
    Mismatch,
    /// The message is too old or too new.
    #[n(9)]
    Stale,
    /// The message was for an earlier run of this node.
    #[n(10)]
    WrongEpoch,
    /// The nonce was seen before.
    #[n(11)]
    Replayed,
    /// A signature is wrong or by the wrong key.
    #[n(12)]
    Forged,
    /// The record is not the successor of the one held; the answer carries that one.
    #[n(13)]
    Conflict,
    /// Over a limit of the protocol.
    #[n(14)]
    TooLarge,
    /// The lease group is unknown, expired or over its byte ceiling.
    #[n(15)]
    NoLease,
    /// Stored bytes did not verify: the node found its own copy damaged.
    #[n(16)]
    Damaged,
    /// The disk failed; the node serves reads only.
    #[n(17)]
    ReadOnly,
    /// Cancelled by the caller.
    #[n(18)]
    Cancelled,
    /// The node is stopping.
    #[n(19)]
    Stopping,
    /// Too slow or silent for too long.
    #[n(20)]
    TimedOut,
}

/// Who has to change something before the answer can be another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The caller sent something wrong or is not allowed.
    Caller,
    /// The node cannot, through no fault of the caller.
    Node,
    /// Nobody: load or time.
    Nobody,
}

impl Refusal {
    /// Every refusal, for tables and tests.
    pub const ALL: [Self; 20] = [
        Self::Malformed,
        Self::Unsupported,
        Self::Busy,
        Self::Denied,
        Self::NotFound,
        Self::NoSpace,
        Self::NoReservation,
        Self::Mismatch,
        Self::Stale,
        Self::WrongEpoch,
        Self::Replayed,
        Self::Forged,
        Self::Conflict,
        Self::TooLarge,
        Self::NoLease,
        Self::Damaged,
        Self::ReadOnly,
        Self::Cancelled,
        Self::Stopping,
        Self::TimedOut,
    ];

    /// The one word for log, metric and command line.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::Busy => "busy",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::NoSpace => "no_space",
            Self::NoReservation => "no_reservation",
            Self::Mismatch => "mismatch",
            Self::Stale => "stale",
            Self::WrongEpoch => "wrong_epoch",
            Self::Replayed => "replayed",
            Self::Forged => "forged",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::NoLease => "no_lease",
            Self::Damaged => "damaged",
            Self::ReadOnly => "read_only",
            Self::Cancelled => "cancelled",
            Self::Stopping => "stopping",
            Self::TimedOut => "timed_out",
        }
    }

    /// The number after an abort marker on a shard lane: the CBOR index.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Malformed => 1,
            Self::Unsupported => 2,
            Self::Busy => 3,
            Self::Denied => 4,
            Self::NotFound => 5,
            Self::NoSpace => 6,
            Self::NoReservation => 7,
            Self::Mismatch => 8,
            Self::Stale => 9,
            Self::WrongEpoch => 10,
            Self::Replayed => 11,
            Self::Forged => 12,
            Self::Conflict => 13,
            Self::TooLarge => 14,
            Self::NoLease => 15,
            Self::Damaged => 16,
            Self::ReadOnly => 17,
            Self::Cancelled => 18,
            Self::Stopping => 19,
            Self::TimedOut => 20,
        }
    }

    /// The refusal of an abort marker's number; one this version does not know reads as [`Refusal::Unsupported`].
    #[must_use]
    pub fn from_number(number: u16) -> Self {
        Self::ALL.into_iter().find(|refusal| refusal.number() == number).unwrap_or(Self::Unsupported)
    }

    /// Whether the same request may succeed later on the same node.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(self, Self::Busy | Self::NoReservation | Self::WrongEpoch | Self::TimedOut | Self::Cancelled)
    }

    /// Who has to change something.
    #[must_use]
    pub const fn blame(self) -> Blame {
        match self {
            Self::Malformed
            | Self::Unsupported
            | Self::Denied
            | Self::Mismatch
            | Self::Stale
            | Self::Replayed
            | Self::Forged
            | Self::Conflict
            | Self::TooLarge
            | Self::NoLease
            | Self::Cancelled => Blame::Caller,
            Self::NotFound | Self::NoSpace | Self::Damaged | Self::ReadOnly | Self::Stopping => Blame::Node,
            Self::Busy | Self::NoReservation | Self::WrongEpoch | Self::TimedOut => Blame::Nobody,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn numbers_and_labels_are_one_to_one() {
        let labels: std::collections::BTreeSet<_> = Refusal::ALL.iter().map(|refusal| refusal.label()).collect();
        assert_eq!(labels.len(), Refusal::ALL.len());
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_number(refusal.number()), refusal);
            assert_eq!(codec::encode(&refusal), codec::encode(&refusal.number()), "{refusal}");
        }
        assert_eq!(Refusal::from_number(999), Refusal::Unsupported);
    }
}
