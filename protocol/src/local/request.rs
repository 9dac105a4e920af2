//! What can be asked on the control socket. Reading one is strict: no member too many, none too few. It answers nothing.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::VERSION;
use crate::NodeId;
use crate::mesh::prefix::Prefix;

/// Most pings of one request: each may take a second, and a request is not to hold its place for long.
pub const PINGS_MAX: u8 = 16;
/// Longest path in a request, bytes.
pub const PATH_MAX: usize = 2048;
/// Longest name of a peer, characters: an id has 52, an IPv6 address at most 45.
const NAME_MAX: usize = 64;

/// A request with its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// [`VERSION`].
    pub version: u64,
    /// Which private network of the node it is about, by its name; the main one, or the only one, where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// What is asked.
    pub request: Request,
}

impl Envelope {
    /// In the version of this program.
    #[must_use]
    pub const fn new(request: Request) -> Self {
        Self { version: VERSION, network: None, request }
    }

    /// The same, about the private network of this name.
    #[must_use]
    pub fn of(network: Option<String>, request: Request) -> Self {
        Self { network, ..Self::new(request) }
    }
}

/// Prefixes as their text.
mod prefix {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::mesh::prefix::Prefix;

    pub(super) fn serialize<S: Serializer>(prefix: &Prefix, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(prefix)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What can be asked of a running node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Request {
    /// How the store is.
    #[serde(rename = "store.status")]
    StoreStatus {},
    /// A command for a job of the store; nothing is answered.
    #[serde(rename = "store.job")]
    StoreJob {
        /// Which job.
        name: String,
        /// What it is to do.
        command: JobCommand,
    },
    /// [`super::view::Status`].
    #[serde(rename = "vpn.status")]
    VpnStatus {},
    /// [`super::view::Peers`].
    #[serde(rename = "vpn.peers")]
    VpnPeers {},
    /// [`super::view::Routes`].
    #[serde(rename = "vpn.routes")]
    VpnRoutes {},
    /// [`super::view::Why`].
    #[serde(rename = "vpn.why")]
    VpnWhy {
        /// Whom it is about.
        peer: PeerName,
    },
    /// [`super::view::Pings`].
    #[serde(rename = "vpn.ping")]
    VpnPing {
        /// Who is asked.
        peer: PeerName,
        /// How often, 1 to [`PINGS_MAX`]; others are taken as the nearer end.
        count: u8,
    },
    /// [`super::view::Stats`].
    #[serde(rename = "vpn.stats")]
    VpnStats {},
    /// The private network is switched on; answered when it runs.
    #[serde(rename = "vpn.up")]
    VpnUp {},
    /// The private network is switched off until it is switched on again; answered when all it made is undone.
    #[serde(rename = "vpn.down")]
    VpnDown {},
    /// Through whom the node reaches the internet from now on; answered when the system follows.
    #[serde(rename = "vpn.exit")]
    VpnExit {
        /// Who, or nobody.
        through: ExitName,
    },
    /// A network of the machine is announced from now on, or no longer; answered when the system follows.
    #[serde(rename = "vpn.route")]
    VpnRoute {
        /// The network, as `192.168.1.0/24`.
        #[serde(with = "prefix")]
        prefix: Prefix,
        /// Whether it is announced.
        advertise: bool,
    },
    /// The policy's file is read again; answered when its rules count, or with its first mistake.
    #[serde(rename = "vpn.policy.reload")]
    VpnPolicyReload {},
    /// Another file is read, and its first mistake answered; nothing changes.
    #[serde(rename = "vpn.policy.check")]
    VpnPolicyCheck {
        /// The file: a path from the root, at most [`PATH_MAX`] bytes.
        file: String,
    },
}

/// Through whom a node reaches the internet, as people say it: `off`, `auto` for the nearest exit, or a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitName {
    /// Nobody of the network.
    Off,
    /// The nearest exit.
    Auto,
    /// This one or nobody.
    Peer(PeerName),
}

impl FromStr for ExitName {
    type Err = PeerNameError;

    fn from_str(text: &str) -> Result<Self, PeerNameError> {
        match text {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Peer),
        }
    }
}

impl fmt::Display for ExitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Auto => f.write_str("auto"),
            Self::Peer(peer) => peer.fmt(f),
        }
    }
}

impl Serialize for ExitName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ExitName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a person can ask of a job of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobCommand {
    /// Run now: ends a pause and any wait, and begins anew before the step.
    Start,
    /// Take no step until resumed, or for a day. A step under way ends first. Pausing again starts the limit anew.
    Pause,
    /// End a pause; a wait the job itself asked for goes on.
    Resume,
    /// Give up the run under way, and a start not yet carried out. A pause goes on.
    Cancel,
    /// The tranquility: the pause after each step is this many times what the step took, within the node's limit. 0 is no
    /// pause. Applies to a pause under way too.
    Speed(u32),
}

/// A member of the private network as people name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerName {
    /// By its id.
    Node(NodeId),
    /// By one of its addresses in the network.
    Address(IpAddr),
}

/// What names no peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("neither a peer id nor an IPv4 or IPv6 address")]
pub struct PeerNameError;

impl FromStr for PeerName {
    type Err = PeerNameError;

    fn from_str(text: &str) -> Result<Self, PeerNameError> {
        if text.len() > NAME_MAX {
            return Err(PeerNameError);
        }
        let address = text.parse().map(Self::Address).map_err(|_| PeerNameError);
        address.or_else(|error| text.parse().map(Self::Node).map_err(|_| error))
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Serialize for PeerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_by_id_or_address() {
        let node = NodeId::from_bytes([7; 32]);
        for name in [PeerName::Node(node), PeerName::Address([100, 64, 0, 7].into())] {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        assert_eq!("fd00::1".parse(), Ok(PeerName::Address("fd00::1".parse().unwrap())));
        for bad in ["", "7", "100.64.0", "100.64.0.7/32", " 100.64.0.7", "fd00::1%eth0", &"1".repeat(65)] {
            assert_eq!(bad.parse::<PeerName>(), Err(PeerNameError), "{bad:?}");
        }
    }
}
