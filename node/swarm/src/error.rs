//! One error per operation of the swarm. Texts hold no address; `retryable` says whether the same call may work later.

use std::io;
use std::time::Duration;

use shoal_protocol::NodeId;

use crate::address::AddressError;

/// Why a swarm did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The network tag is not 16 lower-case hexadecimal digits.
    #[error("the network tag {0:?} is not 16 lower-case hexadecimal digits")]
    NetworkTag(String),
    /// The key could not be used.
    #[error("the node key cannot be used: {0}")]
    Key(String),
    /// More listen addresses than the limit.
    #[error("{0} listen addresses; at most {max} are allowed", max = crate::limits::LISTENERS_MAX)]
    TooManyListeners(usize),
    /// A listen address is not one.
    #[error("cannot listen on {address:?}")]
    ListenAddress {
        /// As configured.
        address: String,
        /// What is wrong with it.
        #[source]
        cause: AddressError,
    },
    /// The operating system refused a listen address.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// As configured.
        address: String,
        /// The system's reason.
        cause: io::Error,
    },
    /// A listener was not ready in time.
    #[error("listening on {address} was not ready after {} s", crate::limits::BIND_TIMEOUT.as_secs())]
    ListenTimeout {
        /// As configured.
        address: String,
    },
}

impl StartError {
    /// Whether the same configuration may start later: only what the operating system refused.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Listen { .. } | Self::ListenTimeout { .. })
    }
}

/// Why no connection to a peer was made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    /// An address is not one, or no transport here speaks it.
    #[error("cannot dial this address")]
    BadAddress(#[from] AddressError),
    /// No address was given and no connection exists.
    #[error("no address to dial")]
    NoAddress,
    /// A name could not be resolved.
    #[error("the name could not be resolved: {0}")]
    Resolve(String),
    /// Nobody answered in time.
    #[error("no answer in time")]
    Timeout,
    /// The host answered and no program listens there.
    #[error("connection refused")]
    Refused,
    /// The network has no way there.
    #[error("network or host unreachable")]
    Unreachable,
    /// Somebody answered, but not the peer that was asked for.
    #[error("another peer answered: expected {expected}")]
    WrongPeer {
        /// Who was asked for.
        expected: NodeId,
        /// Who answered, if it has an Ed25519 key.
        obtained: Option<NodeId>,
    },
    /// The address is our own.
    #[error("this address leads to ourselves")]
    Ourselves,
    /// The peer has a key that is not Ed25519.
    #[error("the peer has no Ed25519 key")]
    KeyKind,
    /// The peer is banned or not on the allowlist, or the address is filtered.
    #[error("denied here: {0}")]
    Denied(String),
    /// A connection or memory limit was reached, or the command queue is full.
    #[error("too many connections or dials")]
    Busy,
    /// The connection was made and the handshake failed.
    #[error("handshake failed: {0}")]
    Handshake(String),
    /// The swarm stopped.
    #[error("the swarm has stopped")]
    Stopped,
}

impl DialError {
    /// Whether the same dial may work later.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Resolve(_) | Self::Timeout | Self::Refused | Self::Unreachable | Self::Busy | Self::Handshake(_) => {
                true
            }
            Self::BadAddress(_)
            | Self::NoAddress
            | Self::WrongPeer { .. }
            | Self::Ourselves
            | Self::KeyKind
            | Self::Denied(_)
            | Self::Stopped => false,
        }
    }
}

/// Why a request got no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No connection to the peer.
    #[error("not connected to this peer")]
    NotConnected,
    /// The peer speaks libp2p, not our protocol or not our network's.
    #[error("the peer does not speak this network's control protocol")]
    Unsupported,
    /// 64 requests to this peer are in flight.
    #[error("too many requests to this peer in flight")]
    Busy,
    /// The body does not fit one frame.
    #[error("a request of {bytes} bytes; at most {max} fit one frame", max = crate::control::codec::REQUEST_BODY_MAX)]
    TooLarge {
        /// Bytes of the body.
        bytes: usize,
    },
    /// No response within the deadline.
    #[error("no response within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The connection ended before the response.
    #[error("the connection ended before the response")]
    Closed,
}

impl RequestError {
    /// Whether the same request may work later. The peer may have executed it after `Timeout` and `Closed`.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::NotConnected | Self::Busy | Self::Timeout(_) | Self::Closed)
    }
}

/// Why there is no shard or tunnel lane. Found inside the [`io::Error`] of a lane when the remote's answer arrives later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// No connection to the peer.
    #[error("not connected to this peer")]
    NotConnected,
    /// The peer speaks libp2p, not our protocol or not our network's.
    #[error("the peer does not speak this network's lane protocol")]
    Unsupported,
    /// Too many callers wait for a lane to this peer here, or no tunnel lane is left here.
    #[error("too many callers wait for a lane to this peer")]
    Busy,
    /// The peer answered BUSY: its lanes are all taken.
    #[error("the peer has no free lane")]
    RemoteBusy,
    /// No lane within the deadline.
    #[error("no lane within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The connection ended.
    #[error("the connection ended")]
    Closed,
    /// Of tunnels: the peer is a stranger here, or we are one there.
    #[error("no tunnel with a node that is no member")]
    Denied,
    /// A tunnel lane to this peer is open; there is one at a time, and its owner holds it.
    #[error("a tunnel lane to this peer is open already")]
    TunnelOpen,
}

impl LaneError {
    /// Whether the same call may work later.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        !matches!(self, Self::Unsupported | Self::Denied)
    }

    /// The lane error inside the I/O error of a [`crate::ShardLane`], if it is one.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()).copied()
    }
}

impl From<LaneError> for io::Error {
    fn from(error: LaneError) -> Self {
        let kind = match error {
            LaneError::Timeout(_) => io::ErrorKind::TimedOut,
            LaneError::Unsupported => io::ErrorKind::Unsupported,
            LaneError::Busy | LaneError::RemoteBusy => io::ErrorKind::ConnectionRefused,
            LaneError::Denied => io::ErrorKind::PermissionDenied,
            LaneError::TunnelOpen => io::ErrorKind::AlreadyExists,
            LaneError::NotConnected | LaneError::Closed => io::ErrorKind::NotConnected,
        };
        Self::new(kind, error)
    }
}

/// Why a frame was not read from or written to a tunnel lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// The lane ended: its connection did, the peer dropped it, or a newer lane took its place.
    #[error("the tunnel lane ended")]
    Closed,
    /// It ended within a frame.
    #[error("the tunnel lane ended within a frame")]
    Cut,
    /// A frame to be sent is empty or too long.
    #[error("a tunnel frame of {bytes} bytes; 1 to {max} are allowed", max = crate::limits::TUNNEL_FRAME_MAX)]
    FrameLength {
        /// Bytes of the frame.
        bytes: usize,
    },
    /// The frames of one call are too much.
    #[error("a batch of {bytes} bytes with lengths; at most {max} are written at once", max = crate::limits::TUNNEL_BATCH_MAX)]
    BatchTooLarge {
        /// Bytes of all frames, two more each.
        bytes: usize,
    },
}

impl TunnelError {
    /// Whether a new lane may carry the same frames.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Closed | Self::Cut)
    }
}

/// Why a reply was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The body does not fit one frame.
    #[error("a response of {bytes} bytes; at most {max} fit one frame", max = crate::control::codec::RESPONSE_BODY_MAX)]
    TooLarge {
        /// Bytes of the body.
        bytes: usize,
    },
    /// The connection ended.
    #[error("the connection ended before the reply")]
    Closed,
}

impl ReplyError {
    /// A reply can never be repeated: its request is gone.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        false
    }
}
