//! The private network as a node sees it at one moment, for tools and people. Nothing is decided by it, and no key or
//! packet is in it.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::request::ExitName;
use crate::NodeId;

/// Most rows of a list; what is left out is counted. Enough for 4,096 peers and two routes to each, with room for
/// prefixes.
pub const ROWS_MAX: usize = 9_000;

/// Ids as their text.
mod id {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::NodeId;

    pub(super) fn serialize<S: Serializer>(node: &NodeId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(node)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// An id that may be missing as its text, or null.
mod id_if_any {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::NodeId;

    pub(super) fn serialize<S: Serializer>(node: &Option<NodeId>, serializer: S) -> Result<S::Ok, S::Error> {
        match node {
            Some(node) => serializer.collect_str(node),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NodeId>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// Lists of ids as theirs.
mod ids {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::NodeId;

    pub(super) fn serialize<S: Serializer>(nodes: &[NodeId], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(nodes.iter().map(NodeId::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NodeId>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

/// It was done, and there is nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// The node and its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// This node.
    #[serde(with = "id")]
    pub node: NodeId,
    /// The network: the first 16 hexadecimal digits of its id.
    pub network: String,
    /// The interface; none of a relay without one, and in userspace.
    pub interface: Option<String>,
    /// Whether packets end in the process itself, without an interface.
    #[serde(default)]
    pub userspace: bool,
    /// This node's IPv4 address; none while another has it.
    pub ipv4: Option<Ipv4Addr>,
    /// This node's IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Where IPv4 addresses are, as `100.64.0.0/10`.
    pub pool: String,
    /// The label this node claims; none where it claims none.
    #[serde(default)]
    pub name: Option<String>,
    /// Who has that label, if it is another.
    #[serde(default, with = "id_if_any")]
    pub name_taken_by: Option<NodeId>,
    /// Which carriers may be used: `auto`, `lanes` or `udp`.
    pub carriers: String,
    /// Members that are known, this node left out.
    pub known: u64,
    /// Of them: with a connection on which they take part.
    pub neighbours: u64,
    /// Of them: with a session.
    pub sessions: u64,
    /// Of them: reached without another member in between.
    pub direct: u64,
    /// Of them: reached over others.
    pub routed: u64,
    /// What this node is for others, and others for it.
    pub roles: Roles,
    /// The other private networks of the node.
    #[serde(default)]
    pub networks: Vec<Beside>,
}

/// Another private network of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// Its name, by which it is asked about.
    pub name: String,
    /// Whether it runs.
    pub state: BesideState,
    /// Its interface; none of a relay without one, or while it does not run.
    pub interface: Option<String>,
    /// The node's IPv4 address in it.
    pub ipv4: Option<Ipv4Addr>,
    /// The node's IPv6 address in it.
    pub ipv6: Option<Ipv6Addr>,
    /// Why it does not run.
    pub problem: Option<String>,
}

/// Whether a private network runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BesideState {
    /// It does.
    On,
    /// It was switched off.
    #[default]
    Down,
    /// It did not start.
    Failed,
}

/// The roles of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// Networks that members reach through it, as `192.168.1.0/24`.
    pub advertised: Vec<String>,
    /// Whether members reach the internet through it.
    pub exit_node: bool,
    /// Through whom it is to reach the internet.
    pub exit: ExitName,
    /// Through whom it does; none where packets to the internet find nobody.
    #[serde(with = "id_if_any")]
    pub through: Option<NodeId>,
    /// Whether nothing leaves the machine but through the exit.
    pub kill_switch: bool,
    /// The policy's file; none where the built-in rule counts.
    pub policy: Option<String>,
    /// Why the system does not hold what these roles need.
    pub problem: Option<String>,
}

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// There is a connection, and it has not said that it takes part.
    Connected,
    /// It takes part on a connection to this node.
    Neighbour,
    /// No connection: known by what others passed on.
    Distant,
}

/// How packets reach a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Without another member in between.
    Direct,
    /// Over others.
    Routed,
    /// Not at all.
    None,
}

/// What takes frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// Streams of a connection.
    Lanes,
    /// Over other members.
    Routed,
    /// Datagrams.
    Udp,
}

/// A carrier in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Which kind.
    pub carrier: Carrier,
    /// Where datagrams go.
    pub address: Option<SocketAddr>,
    /// Smoothed round trip, milliseconds.
    pub rtt_ms: Option<u64>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Who.
    #[serde(with = "id")]
    pub node: NodeId,
    /// Its IPv4 address, if its claim is known.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// The label it has.
    #[serde(default)]
    pub name: Option<String>,
    /// Where it stands.
    pub standing: Standing,
    /// Whether keys are shared with it.
    pub session: bool,
    /// How it is reached.
    pub reach: Reach,
    /// The neighbours that lead there, itself where it is reached directly; as good as each other.
    #[serde(with = "ids")]
    pub next_hops: Vec<NodeId>,
    /// What frames go on now; two while one is in doubt.
    pub ways: Vec<Way>,
    /// Longest frame that gets there, bytes.
    pub max_frame: Option<u32>,
}

/// All members that are known, by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// The members.
    pub peers: Vec<Peer>,
    /// How many more there are.
    pub left_out: u64,
}

/// What is thought of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteState {
    /// Packets go this way.
    Used,
    /// They could.
    Feasible,
    /// Not before its router counts on: it might lead back here.
    Unfeasible,
    /// Its router has no right to the prefix; never installed.
    Unauthorised,
    /// Nobody stands by it any more.
    Expired,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads, as `100.64.0.7/32`.
    pub prefix: String,
    /// To whom packets are sealed.
    #[serde(with = "id")]
    pub to: NodeId,
    /// The neighbours that packets go by.
    #[serde(with = "ids")]
    pub next_hops: Vec<NodeId>,
    /// Less is nearer.
    pub metric: u32,
    /// Longest frame of the way, bytes.
    pub max_frame: u32,
    /// What is thought of it.
    pub state: RouteState,
}

/// All routes, those in use first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// The routes.
    pub routes: Vec<Route>,
    /// How many more there are.
    pub left_out: u64,
}

/// A carrier that is known, in use or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which.
    #[serde(flatten)]
    pub way: Way,
    /// Whether frames go on it.
    pub in_use: bool,
    /// How far it is proven, in words.
    pub state: String,
    /// When something authentic was heard on it, milliseconds ago.
    pub heard_ms_ago: Option<u64>,
}

/// A choice of carriers that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When, milliseconds ago.
    pub ms_ago: u64,
    /// What was used before, in words.
    pub before: String,
    /// What was used then, in words.
    pub after: String,
    /// Why, in words.
    pub why: String,
}

/// Why a member is reached as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The member.
    pub peer: Peer,
    /// How it is reached, and if it is not why, in words.
    pub verdict: String,
    /// Every carrier that is known.
    pub candidates: Vec<Candidate>,
    /// The last decisions, oldest first.
    pub decisions: Vec<Decision>,
}

/// One probe inside a session and its echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// What the probe went on.
    pub carrier: Carrier,
    /// Where it went as a datagram.
    pub address: Option<SocketAddr>,
    /// Whether it went without another member in between.
    pub direct: bool,
    /// There and back, microseconds; none if nothing came back within a second.
    pub rtt_us: Option<u64>,
}

/// Answers of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pings {
    /// The member.
    #[serde(with = "id")]
    pub node: NodeId,
    /// One after the other.
    pub pings: Vec<Ping>,
}

/// Packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Packets.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

/// What waits for one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// For the link to whom.
    #[serde(with = "id")]
    pub node: NodeId,
    /// For its turn on a full link.
    pub queued: Amount,
    /// For a session.
    pub parked: Amount,
    /// For the member's limit, to it and from it.
    #[serde(default)]
    pub limited: Amount,
}

/// Counts since the network started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Packets of this machine that were sent on, by class.
    pub sent: BTreeMap<String, Amount>,
    /// Packets that came for this machine, by class.
    pub received: BTreeMap<String, Amount>,
    /// Frames that were passed on for others, and their bytes.
    pub relayed: Amount,
    /// Packets and frames that went no further, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// What neighbours said and was not used, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Handshakes and words of sessions that were not used, by reason.
    pub handshakes: BTreeMap<String, u64>,
    /// Every link and what waits on it.
    pub waiting: Vec<Waiting>,
    /// How many more links there are.
    pub left_out: u64,
}
