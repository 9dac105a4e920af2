//! What can go wrong for a user of the client, one enum per operation, each with the exit code people script against.

use std::io;

use shoal_protocol::{NodeId, Refusal};

use crate::transfer::TransferError;

/// The documented exit codes, by kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Anything else.
    Other = 1,
    /// The command cannot mean what it says.
    Usage = 2,
    /// Done, but not everything: see the report.
    Partial = 3,
    /// What was named does not exist.
    NotFound = 10,
    /// Nodes are overloaded.
    Busy = 11,
    /// Wrong password or key.
    Password = 12,
    /// Fewer than k shards are left.
    TooFewShards = 13,
    /// Bytes do not verify.
    Integrity = 14,
    /// No space where it was wanted.
    Quota = 15,
    /// Fewer nodes than the code needs.
    TooFewNodes = 16,
    /// Nobody could be reached.
    Network = 17,
    /// Not allowed.
    Denied = 18,
    /// Stopped by the user.
    Interrupted = 130,
}

impl Failure {
    /// The process exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The failure behind one node's answer.
    #[must_use]
    pub const fn of_transfer(error: &TransferError) -> Self {
        match error {
            TransferError::Refused { reason, .. } => match reason {
                Refusal::Busy | Refusal::TimedOut => Self::Busy,
                Refusal::Denied | Refusal::NoLease => Self::Denied,
                Refusal::NotFound => Self::NotFound,
                Refusal::NoSpace | Refusal::ReadOnly => Self::Quota,
                Refusal::Mismatch | Refusal::Damaged | Refusal::Forged => Self::Integrity,
                _ => Self::Other,
            },
            TransferError::Unreachable(_) | TransferError::Lost(_) | TransferError::TooSlow => Self::Network,
            TransferError::Lied(_) => Self::Integrity,
            TransferError::Protocol(_) => Self::Other,
        }
    }
}

/// Why the swarm could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address was given or remembered.
    #[error("no peer address is known")]
    NoPeers,
    /// None of the addresses led to a node of this network.
    #[error("none of {tried} peers answered{}", .last.as_ref().map(|last| format!("; the last said: {last}")).unwrap_or_default())]
    NobodyAnswered {
        /// Addresses tried.
        tried: usize,
        /// The last failure.
        last: Option<TransferError>,
    },
}

/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The source could not be read.
    #[error("cannot read {path}")]
    Source {
        /// What was read.
        path: String,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// A path that no entry may have.
    #[error("{0:?} cannot be stored: {1}")]
    Path(String, String),
    /// The swarm could not be entered.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Placement is impossible.
    #[error(transparent)]
    Placement(#[from] crate::placement::PlacementError),
    /// Too few nodes took their shards.
    #[error("only {have} nodes took shards, {need} are needed{}", worst(.failures))]
    TooFewHolders {
        /// Distinct holders of the weakest segment, or nodes still willing.
        have: usize,
        /// k + ceil(m/2).
        need: usize,
        /// What each failing node said.
        failures: Vec<(NodeId, TransferError)>,
    },
    /// The records could not be kept on enough nodes.
    #[error("the {what} record was kept by {have} nodes, {need} are needed{}", worst(.failures))]
    Records {
        /// Which record.
        what: &'static str,
        /// Nodes that kept it.
        have: usize,
        /// Nodes that should.
        need: usize,
        /// What each failing node said.
        failures: Vec<(NodeId, TransferError)>,
    },
    /// The password hash refused its settings, or sealing failed.
    #[error("cannot seal: {0}")]
    Seal(String),
    /// More than the format can hold.
    #[error("too large: {0}")]
    TooLarge(String),
    /// The caller stopped it.
    #[error("interrupted")]
    Interrupted,
}

fn worst(failures: &[(NodeId, TransferError)]) -> String {
    failures.first().map(|(node, error)| format!("; {node} said: {error}")).unwrap_or_default()
}

/// The failure most nodes agree on, if they all gave the same.
fn common(failures: &[(NodeId, TransferError)]) -> Option<Failure> {
    let mut kinds = failures.iter().map(|(_, error)| Failure::of_transfer(error));
    let first = kinds.next()?;
    kinds.all(|kind| kind == first).then_some(first)
}

impl UploadError {
    /// The kind of failure.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::Source { cause, .. } if cause.kind() == io::ErrorKind::NotFound => Failure::NotFound,
            Self::Source { .. } | Self::Seal(_) => Failure::Other,
            Self::Path(..) | Self::TooLarge(_) => Failure::Usage,
            Self::Connect(_) => Failure::Network,
            Self::Placement(_) => Failure::TooFewNodes,
            Self::TooFewHolders { failures, .. } | Self::Records { failures, .. } => match common(failures) {
                Some(kind @ (Failure::Denied | Failure::Quota | Failure::Busy)) => kind,
                _ => Failure::TooFewNodes,
            },
            Self::Interrupted => Failure::Interrupted,
        }
    }

    /// Whether the same command may work shortly.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(self.failure(), Failure::Busy | Failure::Network | Failure::TooFewNodes | Failure::Interrupted)
    }
}

/// Why a file could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum RetrieveError {
    /// The swarm could not be entered.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The capability or manifest is for another network.
    #[error("this belongs to network {found}, not to {expected}")]
    OtherNetwork {
        /// Tag in the capability.
        found: String,
        /// Tag of the network in use.
        expected: String,
    },
    /// No node knows the file.
    #[error("no node of {asked} knows the {what} record of this file")]
    NoRecord {
        /// Which record.
        what: &'static str,
        /// Nodes asked.
        asked: usize,
    },
    /// The password opens no slot.
    #[error("wrong password")]
    WrongPassword,
    /// A password is needed and none was given.
    #[error("a password is needed: this capability carries no key")]
    PasswordNeeded,
    /// The capability does not let its bearer read.
    #[error("this capability cannot read: it only verifies")]
    CannotRead,
    /// Something stored or received does not verify.
    #[error("damaged: {0}")]
    Integrity(String),
    /// Fewer than k shards of a segment could be had.
    #[error("segment {segment}: {have} of {need} needed shards could be had{}", worst(.failures))]
    TooFewShards {
        /// Which segment.
        segment: String,
        /// Shards that were or could be had.
        have: usize,
        /// k.
        need: usize,
        /// What each failing node said.
        failures: Vec<(NodeId, TransferError)>,
    },
    /// No such entry.
    #[error("no entry {0:?}")]
    NoEntry(String),
    /// A range outside the content.
    #[error("range {start}-{end} is outside the {size} bytes of content")]
    Range {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// Bytes there are.
        size: u64,
    },
    /// The output could not be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// The caller stopped it.
    #[error("interrupted")]
    Interrupted,
}

impl RetrieveError {
    /// The kind of failure.
    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::Connect(_) => Failure::Network,
            Self::OtherNetwork { .. } | Self::PasswordNeeded | Self::Range { .. } => Failure::Usage,
            Self::NoRecord { .. } | Self::NoEntry(_) => Failure::NotFound,
            Self::WrongPassword => Failure::Password,
            Self::CannotRead => Failure::Denied,
            Self::Integrity(_) => Failure::Integrity,
            Self::TooFewShards { .. } => Failure::TooFewShards,
            Self::Output(_) => Failure::Other,
            Self::Interrupted => Failure::Interrupted,
        }
    }

    /// Whether the same command may work shortly.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::NoRecord { .. } | Self::TooFewShards { .. } | Self::Interrupted)
    }
}

/// The error and its sources in one line, for people and for [`TransferError`] texts.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
