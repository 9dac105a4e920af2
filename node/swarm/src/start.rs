//! From a configuration to a running swarm: key, transport, behaviours, listeners, driver. It returns only when every
//! listener is bound.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::{self, Swarm, SwarmEvent as Libp2pEvent};
use libp2p::{Multiaddr, PeerId};
use shoal_protocol::NodeId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::address;
use crate::behaviour::{Admission, Behaviour};
use crate::control::server::InboundRequest;
use crate::dials::Dials;
use crate::driver::{Driver, Listening};
use crate::error::StartError;
use crate::event::{EventSink, SwarmEvent};
use crate::guard::{AddressFilter, Bans};
use crate::handle::SwarmHandle;
use crate::lanes::upgrade::LaneProtocols;
use crate::lanes::{Shared, Who, node_of};
use crate::limits::{
    BIND_TIMEOUT, COMMANDS_MAX, EVENTS_MAX, IDLE_TIMEOUT, INBOUND_LANES_MAX, INBOUND_REQUESTS_MAX,
    LISTEN_ADDRESSES_MAX, LISTENERS_MAX, NEGOTIATING_MAX, TUNNELS_MAX,
};
use crate::shard::InboundLane;
use crate::transport;
use crate::tunnel::lane::TunnelLane;

/// What a swarm needs to start.
pub struct SwarmConfig {
    /// Seed of the node's Ed25519 key.
    pub keypair_seed: Zeroizing<[u8; 32]>,
    /// First 16 hexadecimal digits of the network id: part of every protocol name.
    pub network_tag: String,
    /// Multiaddrs to listen on, such as `/ip4/0.0.0.0/tcp/4001`; none for a client.
    pub listen: Vec<String>,
    /// Shown to peers, such as `shoal/0.1.0`.
    pub agent: String,
    /// If given, only these peers may connect.
    pub allowed: Option<Vec<NodeId>>,
    /// Peers that find a place when strangers have taken theirs; empty where nobody is told apart.
    pub members: Vec<NodeId>,
    /// Whether others than members may have tunnel lanes: of an open node alone.
    pub tunnel_strangers: bool,
    /// If given, says of which IP addresses no connection is made or taken.
    pub address_filter: Option<AddressFilter>,
    /// The mark (`SO_MARK`) of the TCP connections the node begins, for rules of the system. With one, QUIC is dialled only
    /// where the node listens on QUIC too: its sockets are known by their port alone.
    pub mark: Option<u32>,
}

impl SwarmConfig {
    /// A configuration that listens nowhere and admits everyone.
    #[must_use]
    pub fn new(keypair_seed: Zeroizing<[u8; 32]>, network_tag: String) -> Self {
        let agent = concat!("shoal/", env!("CARGO_PKG_VERSION")).to_owned();
        let (listen, members) = (Vec::new(), Vec::new());
        Self {
            keypair_seed,
            network_tag,
            listen,
            agent,
            allowed: None,
            members,
            tunnel_strangers: false,
            address_filter: None,
            mark: None,
        }
    }
}

impl std::fmt::Debug for SwarmConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SwarmConfig").field("network_tag", &self.network_tag).finish_non_exhaustive()
    }
}

/// A started swarm.
#[derive(Debug)]
pub struct Started {
    /// To ask it.
    pub handle: SwarmHandle,
    /// What peers ask of us.
    pub inbound: Inbound,
    /// Facts; at most [`EVENTS_MAX`] wait here, later ones are lost and counted.
    pub events: mpsc::Receiver<SwarmEvent>,
}

/// What peers ask of us. The queues are bounded; drop one to serve nothing of its kind.
#[derive(Debug)]
pub struct Inbound {
    /// Control requests, at most 256 waiting and 64 unanswered per connection.
    pub requests: mpsc::Receiver<InboundRequest>,
    /// Shard lanes, at most 8 per peer and 256 in all, waiting or open.
    pub lanes: mpsc::Receiver<InboundLane>,
    /// Tunnel lanes that peers opened while nobody waited in [`SwarmHandle::tunnel`], one a peer and at most 128 in all.
    pub tunnels: mpsc::Receiver<TunnelLane>,
}

/// Starts a swarm. Must be called inside a tokio runtime; the swarm lives on it.
///
/// # Errors
/// [`StartError`] names the key, tag or listen address at fault.
pub async fn start(config: SwarmConfig) -> Result<Started, StartError> {
    let protocols = LaneProtocols::new(&config.network_tag).ok_or(StartError::NetworkTag(config.network_tag))?;
    let mut seed = config.keypair_seed;
    let keypair = Keypair::ed25519_from_bytes(seed.as_mut_slice()).map_err(|e| StartError::Key(e.to_string()))?;
    let own = keypair.public().to_peer_id();
    let local = node_of(&own).ok_or_else(|| StartError::Key("not an Ed25519 key".into()))?;

    let (requests, requests_end) = mpsc::channel(INBOUND_REQUESTS_MAX);
    let (lanes, lanes_end) = mpsc::channel(INBOUND_LANES_MAX);
    let (tunnels, tunnels_end) = mpsc::channel(TUNNELS_MAX);
    let (commands, commands_end) = mpsc::channel(COMMANDS_MAX);
    let (events, events_end) = mpsc::channel(EVENTS_MAX);
    let members = config.members.iter().copied().collect();
    let who = Who { local, members, tunnel_strangers: config.tunnel_strangers };
    let shared = Arc::new(Shared::new(protocols, requests, lanes, tunnels, who));
    let bans = Bans::new();
    let done = CancellationToken::new();

    let peers = |nodes: &[NodeId]| -> BTreeSet<PeerId> {
        nodes.iter().filter_map(|node| PeerId::from_bytes(&node.to_peer_id_bytes()).ok()).collect()
    };
    let allowed = config.allowed.as_deref().map(peers);
    let members = peers(&config.members);
    let admission = Admission { bans: bans.clone(), allowed, filter: config.address_filter, members };
    let behaviour = Behaviour::new(&keypair, config.agent, admission, Arc::clone(&shared));
    let carrier = transport::build(&keypair, config.mark).map_err(StartError::Key)?;
    let mut driver = Driver {
        swarm: Swarm::new(carrier, behaviour, own, swarm_config()),
        shared: Arc::clone(&shared),
        bans: bans.clone(),
        commands: commands_end,
        events: EventSink::new(events, Arc::clone(&shared.links)),
        dials: Dials::default(),
        tunnel_dials: std::collections::BTreeMap::new(),
        listening: Listening::default(),
        done: done.clone(),
    };
    bind(&mut driver, config.listen).await?;
    tokio::spawn(driver.run());

    let handle = SwarmHandle { local, commands, shared, bans, done };
    let inbound = Inbound { requests: requests_end, lanes: lanes_end, tunnels: tunnels_end };
    Ok(Started { handle, inbound, events: events_end })
}

fn swarm_config() -> swarm::Config {
    swarm::Config::with_tokio_executor()
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_max_negotiating_inbound_streams(NEGOTIATING_MAX)
        .with_idle_connection_timeout(IDLE_TIMEOUT)
}

/// Binds all listeners and waits until each has an address.
async fn bind(driver: &mut Driver, listen: Vec<String>) -> Result<(), StartError> {
    if listen.len() > LISTENERS_MAX {
        return Err(StartError::TooManyListeners(listen.len()));
    }
    let mut waiting: Vec<(ListenerId, String)> = Vec::with_capacity(listen.len());
    for text in listen {
        let parsed = address::parse(&text);
        let address: Multiaddr = match parsed {
            Ok((address, _)) => address,
            Err(cause) => return Err(StartError::ListenAddress { address: text, cause }),
        };
        match driver.swarm.listen_on(address) {
            Ok(listener) => waiting.push((listener, text)),
            Err(error) => return Err(refused(text, error)),
        }
    }
    let limit = tokio::time::sleep(BIND_TIMEOUT);
    tokio::pin!(limit);
    while let Some((_, address)) = waiting.first() {
        let event = tokio::select! {
            event = driver.swarm.select_next_some() => event,
            () = &mut limit => return Err(StartError::ListenTimeout { address: address.clone() }),
        };
        on_bind_event(driver, event, &mut waiting)?;
    }
    // A wildcard has one address per interface; those already known follow at once.
    for _ in 0..LISTEN_ADDRESSES_MAX {
        let Some(Some(event)) = driver.swarm.next().now_or_never() else { break };
        on_bind_event(driver, event, &mut waiting)?;
    }
    Ok(())
}

fn on_bind_event(
    driver: &mut Driver,
    event: Libp2pEvent<crate::behaviour::BehaviourEvent>,
    waiting: &mut Vec<(ListenerId, String)>,
) -> Result<(), StartError> {
    let failed = match event {
        Libp2pEvent::ListenerClosed { listener_id, reason: Err(cause), .. } => Some((listener_id, cause)),
        Libp2pEvent::ListenerError { listener_id, error } => Some((listener_id, error)),
        other => {
            driver.on_event(other);
            None
        }
    };
    waiting.retain(|(listener, _)| !driver.listening.has(*listener));
    match failed {
        Some((listener, cause)) => match waiting.iter().find(|(own, _)| *own == listener) {
            Some((_, address)) => Err(StartError::Listen { address: address.clone(), cause }),
            None => Ok(()),
        },
        None => Ok(()),
    }
}

fn refused(address: String, error: TransportError<std::io::Error>) -> StartError {
    match error {
        TransportError::MultiaddrNotSupported(_) => {
            let cause = address::AddressError::Unsupported(address.clone());
            StartError::ListenAddress { address, cause }
        }
        TransportError::Other(cause) => StartError::Listen { address, cause },
    }
}
