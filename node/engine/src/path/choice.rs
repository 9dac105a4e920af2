//! A choice of carriers and why it was made, as data for the packet half, the log and the screen. It decides nothing.

use core::fmt;

use shoal_protocol::mesh::session::content::Fence;
use shoal_protocol::mesh::session::frame::PathId;

use super::Carrier;

/// What frames are sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    /// There is no carrier: frames are dropped.
    None,
    /// One.
    One {
        /// Which.
        on: Carrier,
        /// What its frames are counted under.
        path: PathId,
    },
    /// Each frame is sealed once, under [`PathId::DUAL`], and its bytes go both ways.
    Both {
        /// The one in doubt.
        doubted: Carrier,
        /// The other one.
        spare: Carrier,
    },
}

impl Ways {
    /// What frames are counted under.
    #[must_use]
    pub const fn path(&self) -> Option<PathId> {
        match self {
            Self::None => None,
            Self::One { path, .. } => Some(*path),
            Self::Both { .. } => Some(PathId::DUAL),
        }
    }

    /// The carriers, none to two.
    pub fn carriers(&self) -> impl Iterator<Item = Carrier> {
        let (first, second) = match *self {
            Self::None => (None, None),
            Self::One { on, .. } => (Some(on), None),
            Self::Both { doubted, spare } => (Some(doubted), Some(spare)),
        };
        first.into_iter().chain(second)
    }
}

/// Why a choice was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The first carrier there is.
    First,
    /// The carrier in use is gone.
    Gone,
    /// No carrier is left.
    NothingLeft,
    /// A better kind of carrier came up.
    Better,
    /// A datagram of this many bytes came through and back, twice.
    MtuConfirmed {
        /// The bytes.
        frame: u16,
        /// The way there and back, milliseconds.
        rtt_ms: u64,
    },
    /// An address of less delay, by more than the hysteresis.
    Faster {
        /// Its round trip, milliseconds.
        rtt_ms: u64,
        /// That of the one in use.
        than_ms: u64,
    },
    /// Data went out and nothing came back for too long: in doubt.
    Silent {
        /// For how long, milliseconds.
        for_ms: u64,
        /// After how long there is doubt.
        limit_ms: u64,
    },
    /// The one in doubt was heard again.
    HeardAgain,
    /// Nothing came back for so long, milliseconds, that it is given up.
    Dead {
        /// For how long.
        for_ms: u64,
    },
}

impl fmt::Display for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("nothing"),
            Self::One { on, .. } => on.fmt(f),
            Self::Both { doubted, spare } => write!(f, "{doubted} and {spare}"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("the first carrier there is"),
            Self::Gone => f.write_str("the carrier in use is gone"),
            Self::NothingLeft => f.write_str("no carrier is left"),
            Self::Better => f.write_str("a better kind of carrier came up"),
            Self::MtuConfirmed { frame, rtt_ms } => {
                write!(f, "datagrams of {frame} B came through and back twice, in {rtt_ms} ms")
            }
            Self::Faster { rtt_ms, than_ms } => write!(f, "faster: {rtt_ms} ms instead of {than_ms} ms"),
            Self::Silent { for_ms, limit_ms } => {
                write!(f, "in doubt: nothing came back for {for_ms} ms, {limit_ms} ms is the limit")
            }
            Self::HeardAgain => f.write_str("the one in doubt was heard again"),
            Self::Dead { for_ms } => write!(f, "given up: nothing came back for {for_ms} ms"),
        }
    }
}

/// A choice for the packet half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Longest data frame that all of these ways take, bytes; 0 without one.
    pub frame: u16,
    /// What to send on from now on.
    pub ways: Ways,
    /// To be sealed and sent as the last frame on the ways before and as the first on these; none if there is nothing to
    /// keep in order.
    pub fence: Option<Fence>,
    /// Why.
    pub why: Why,
}

/// A choice that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// When, milliseconds of uptime.
    pub at_ms: u64,
    /// What was used before.
    pub before: Ways,
    /// What was used then.
    pub after: Ways,
    /// Why.
    pub why: Why,
}
