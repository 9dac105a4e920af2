//! Private networks beside the main one of a node: each has a swarm under its own protocol names, on its own ports and with
//! the node's key, members of its own, and files of its own in `networks/NAME`. None of them stores anything, and nothing
//! of one is heard in another.
//!
//! - [`config`]: what the file asks for, checked. [`seats`]: where commands find a network by its name.
//!
//! | task, of each network | started | ends | lost then |
//! |---|---|---|---|
//! | requests | at start | with the swarm's queue, or at shutdown | answers under way |
//! | tunnel lanes | at start | the same | lanes nobody took |
//! | peers ([`crate::peers`]) | at start | with the swarm's events, or at shutdown | dials and questions |

pub(crate) mod config;
pub(crate) mod seats;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use shoal_engine::admission::{Admission, Operation, Policy};
use shoal_engine::directory::Directory;
use shoal_engine::mesh::network::Members;
use shoal_protocol::control::{Request, Response};
use shoal_protocol::{BootEpoch, Refusal};
use shoal_swarm::{InboundRequest, Started, SwarmConfig, SwarmHandle};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::files::private_directory;
use crate::membership::{self, Membership, Peer};
use crate::peers::Peers;
use crate::vpn::VpnError;
use crate::vpn::machine::{Machine, Slot};
use crate::vpn::places::Overlays;
use crate::vpn::running::{Running, VpnPlace, hand_lanes};
use crate::vpn::start::{Host, VpnFacts};
use crate::vpn::system::Port;
use crate::{addresses, identity};

pub use config::NetworkConfig;
use seats::Seat;

/// Why a network beside the main one did not start. Only what keeps its swarm from listening: the rest is a [`VpnError`].
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Its directory cannot be made.
    #[error("cannot use {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// Its swarm does not start.
    #[error(transparent)]
    Swarm(shoal_swarm::StartError),
}

/// A network whose swarm listens, and in which nothing is served yet.
pub(crate) struct Bound {
    config: NetworkConfig,
    slot: Slot,
    data: PathBuf,
    started: Started,
    listening: Vec<String>,
}

/// What all networks of a node have from it.
pub(crate) struct Shared<'a> {
    pub(crate) key: &'a SigningKey,
    pub(crate) boot_epoch: BootEpoch,
    /// For jitter alone.
    pub(crate) seed: u64,
    pub(crate) machine: &'a Arc<Machine>,
}

impl Bound {
    /// Has the swarm of a network listen. No connection goes over `overlays`; those it begins have `mark`.
    ///
    /// # Errors
    /// [`BindError`]; nothing is left running.
    pub(crate) async fn new(
        config: NetworkConfig,
        slot: Slot,
        (data_dir, key): (&Path, &SigningKey),
        (overlays, mark): (&Overlays, Option<u32>),
    ) -> Result<Self, BindError> {
        let data = config::directory(data_dir, &config.name);
        private_directory(&data).map_err(|cause| BindError::Directory { path: data.clone(), cause })?;
        let mut swarm = SwarmConfig::new(Zeroizing::new(key.to_bytes()), config.network.tag());
        swarm.listen.clone_from(&config.listen);
        if !config.open {
            swarm.members.clone_from(&config.allow);
        }
        swarm.tunnel_strangers = config.open;
        let overlays = overlays.clone();
        swarm.address_filter = Some(Arc::new(move |address| overlays.contains(address)));
        swarm.mark = mark;
        let started = shoal_swarm::start(swarm).await.map_err(BindError::Swarm)?;
        let listening = started.handle.listening().await;
        Ok(Self { config, slot, data, started, listening })
    }

    /// Where it listens.
    pub(crate) fn ports(&self) -> BTreeSet<Port> {
        addresses::ports(&self.listening)
    }

    /// Ends it again.
    pub(crate) async fn close(self) {
        self.started.handle.shutdown().await;
    }

    /// Serves who belongs to the network, and switches the private network on.
    pub(crate) async fn start(self, shared: &Shared<'_>) -> Private {
        let Self { config, slot, data, started, listening } = self;
        let addresses = addresses::ordered(listening);
        let overlays = shared.machine.all_overlays();
        let node = identity::node_id(shared.key);
        let place = VpnPlace::default();
        let members = config.allow.iter().copied().collect::<BTreeSet<_>>();
        let membership = Arc::new(Membership::new(membership::Parts {
            network: config.network,
            key: shared.key.clone(),
            boot_epoch: shared.boot_epoch,
            domain: None,
            room: None,
            admission: Admission::new(Policy {
                open: config.open,
                members_only: !config.open,
                members: members.clone(),
                issuers: BTreeSet::new(),
            }),
            directory: Directory::of_all(node, config.network, &config.bootstrap, shared.seed),
            addresses: addresses::advertised(&addresses, &overlays),
            vpn: place.clone(),
        }));
        addresses::note(&data, &addresses);
        let host = Host {
            node,
            key: shared.key.clone(),
            network: config.network,
            members: if config.open { Members::Everybody } else { Members::Listed(members) },
            data_dir: data.clone(),
            swarm: started.handle.clone(),
            machine: Arc::clone(shared.machine),
            slot,
        };
        let running = Arc::new(Running::new(config.vpn, host, place.clone()));
        let vpn = running.up(shared.boot_epoch).await;
        let tasks = vec![
            tokio::spawn(answer_requests(Arc::clone(&membership), started.inbound.requests)),
            tokio::spawn(hand_lanes(place.clone(), started.inbound.tunnels)),
            tokio::spawn(Peers::new(membership, started.handle.clone(), data, overlays).run(started.events)),
        ];
        let seat = Seat { name: config.name, place, running: Some(running) };
        Private { seat, swarm: started.handle, addresses, tasks, vpn: Some(vpn) }
    }
}

/// A network that is served. Dropping it stops nothing: see [`Self::down`] and [`Self::stop`].
pub(crate) struct Private {
    pub(crate) seat: Seat,
    swarm: SwarmHandle,
    addresses: Vec<String>,
    tasks: Vec<JoinHandle<()>>,
    /// How its private network started, or why it did not.
    vpn: Option<Result<Option<VpnFacts>, VpnError>>,
}

impl Private {
    /// Where it listens, the best first, each with the node's id.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// What is to be said of it, if it runs.
    pub(crate) fn vpn(&self) -> Option<&VpnFacts> {
        self.vpn.as_ref()?.as_ref().ok()?.as_ref()
    }

    /// Why it does not; said once.
    pub(crate) fn take_error(&mut self) -> Option<VpnError> {
        self.vpn.take_if(|vpn| vpn.is_err())?.err()
    }

    /// Switches the private network off, and undoes what it made.
    pub(crate) async fn down(&self) {
        if let Some(running) = &self.seat.running {
            running.down().await;
        }
    }

    /// Says goodbye and ends its tasks.
    pub(crate) async fn stop(self) {
        self.swarm.shutdown().await;
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// No answer here needs a disk or waits, so one comes after the other.
async fn answer_requests(membership: Arc<Membership>, mut requests: mpsc::Receiver<InboundRequest>) {
    while let Some(inbound) = requests.recv().await {
        let from = Peer { node: inbound.peer, address: inbound.address };
        let response = answer(&membership, from, &inbound.body);
        if let Response::Refused { reason, .. } = &response {
            membership.refused(*reason);
            tracing::debug!(peer = %from.node, %reason, "request refused");
        }
        if let Err(error) = inbound.reply(response.to_bytes().into()) {
            tracing::debug!(peer = %from.node, %error, "response not sent");
        }
    }
}

fn answer(membership: &Membership, from: Peer, body: &[u8]) -> Response {
    let Ok(request) = Request::from_bytes(body) else { return Response::refused(Refusal::Malformed) };
    let operation = match &request {
        Request::Hello(_) | Request::Peers { .. } | Request::Mesh(_) => Operation::Greet,
        Request::Locate { .. } => Operation::Ask,
        // Whatever else there is, is about what is stored.
        _ => return Response::refused(Refusal::Unsupported),
    };
    if let Err(denial) = membership.admit(from, operation) {
        return Response::Refused { reason: denial.reason, retry_after_ms: denial.retry_after_ms };
    }
    match membership.answer(from, request) {
        Ok(Ok(response)) => response,
        Ok(Err(reason)) => Response::refused(reason),
        Err(_) => Response::refused(Refusal::Unsupported),
    }
}
