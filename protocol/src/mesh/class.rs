//! The four classes of service of the private network. How a packet gets one is the sender's own decision.

/// A class of service, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// What is worthless when late: calls, games, clocks.
    Voice,
    /// What a person waits for: names, terminals, small packets.
    Interactive,
    /// All other traffic.
    Bulk,
    /// What may wait for everything else.
    Background,
}

impl Class {
    /// All classes in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Voice, Self::Interactive, Self::Bulk, Self::Background];

    /// The number on the wire, 0 to 3.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Voice => 0,
            Self::Interactive => 1,
            Self::Bulk => 2,
            Self::Background => 3,
        }
    }

    /// The class of a number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Voice),
            1 => Some(Self::Interactive),
            2 => Some(Self::Bulk),
            3 => Some(Self::Background),
            _ => None,
        }
    }

    /// The word for logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Voice => "voice",
            Self::Interactive => "interactive",
            Self::Bulk => "bulk",
            Self::Background => "background",
        }
    }
}
