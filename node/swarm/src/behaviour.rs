//! The composed behaviour. Order matters: fields are asked in turn, those that deny come before those that keep state.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{PeerId, connection_limits, identify, memory_connection_limits};

use crate::guard::{AddressFilter, Bans, Guard};
use crate::lanes::{Lanes, Shared};
use crate::limits;
use crate::ping::Ping;

/// The `protocolVersion` of our identify messages. Informative: stock peers show it.
const PROTOCOL_VERSION: &str = "/shoal/1";
/// Identify asks again this often; protocol support does not change while a node runs.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// Everything a node does on every connection.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    connection_limits: connection_limits::Behaviour,
    memory_limits: memory_connection_limits::Behaviour,
    pub(crate) guard: Guard,
    lanes: Lanes,
    identify: identify::Behaviour,
    ping: Ping,
}

/// Who may connect.
pub(crate) struct Admission {
    pub(crate) bans: Bans,
    pub(crate) allowed: Option<BTreeSet<PeerId>>,
    pub(crate) filter: Option<AddressFilter>,
    /// For whom places are kept.
    pub(crate) members: BTreeSet<PeerId>,
}

impl Behaviour {
    pub(crate) fn new(keypair: &Keypair, agent: String, admission: Admission, shared: Arc<Shared>) -> Self {
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(limits::PENDING_INBOUND_MAX))
            .with_max_pending_outgoing(Some(limits::PENDING_OUTBOUND_MAX))
            .with_max_established_incoming(Some(limits::INBOUND_CONNECTIONS_MAX))
            .with_max_established_outgoing(Some(limits::OUTBOUND_CONNECTIONS_MAX))
            .with_max_established(Some(limits::CONNECTIONS_MAX))
            .with_max_established_per_peer(Some(limits::CONNECTIONS_PER_PEER_MAX));
        let identify = identify::Config::new(PROTOCOL_VERSION.to_owned(), keypair.public())
            .with_agent_version(agent)
            .with_interval(IDENTIFY_INTERVAL)
            .with_cache_size(0)
            .with_hide_listen_addrs(true);
        Self {
            connection_limits: connection_limits::Behaviour::new(limits),
            memory_limits: memory_connection_limits::Behaviour::with_max_percentage(limits::MEMORY_SHARE_MAX),
            guard: Guard::new(admission.bans, admission.allowed, admission.filter).with_members(admission.members),
            lanes: Lanes::new(shared),
            identify: identify::Behaviour::new(identify),
            ping: Ping::standard(),
        }
    }
}
