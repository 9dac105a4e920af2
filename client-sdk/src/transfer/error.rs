//! Why one exchange with one node failed, and what that says about the node.

use shoal_protocol::Refusal;
use shoal_protocol::refusal::Blame;

/// One exchange with one node did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The node said no.
    #[error("refused: {reason}")]
    Refused {
        /// Its reason.
        reason: Refusal,
        /// When it may be asked again, milliseconds; 0 where waiting changes nothing.
        retry_after_ms: u32,
    },
    /// No connection could be made.
    #[error("not reachable: {0}")]
    Unreachable(String),
    /// The connection broke during the exchange.
    #[error("connection lost: {0}")]
    Lost(String),
    /// Below 8 KiB/s over 20 s, or silent for 15 s.
    #[error("too slow or silent")]
    TooSlow,
    /// The node sent something that does not verify.
    #[error("sent bytes that do not verify: {0}")]
    Lied(String),
    /// The node broke the protocol.
    #[error("broke the protocol: {0}")]
    Protocol(String),
}

impl TransferError {
    /// Whether the same exchange with the same node may work shortly.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Refused { reason, .. } => reason.retryable(),
            Self::Lost(_) => true,
            Self::Unreachable(_) | Self::TooSlow | Self::Lied(_) | Self::Protocol(_) => false,
        }
    }

    /// Who has to change something.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Refused { reason, .. } => reason.blame(),
            Self::Unreachable(_) | Self::Lost(_) | Self::TooSlow => Blame::Nobody,
            Self::Lied(_) | Self::Protocol(_) => Blame::Node,
        }
    }

    /// A plain refusal.
    #[must_use]
    pub const fn refused(reason: Refusal) -> Self {
        Self::Refused { reason, retry_after_ms: 0 }
    }
}
