//! One running node: opens what it needs, starts its tasks, ends them. The program and the tests start it alike.
//!
//! | task | started | ends | lost then |
//! |---|---|---|---|
//! | requests: one, and at most 256 answers | at start | with the swarm's queue, or at shutdown | answers under way; what they did is durable or not done |
//! | lanes: one, and one per open lane | at start | with the swarm's queue; a lane also by pace, rest, or shutdown | transfers under way: nothing was promised |
//! | peers ([`crate::peers`]): one | at start | with the swarm's events, or at shutdown | dials and questions |
//! | networks beside the main one ([`crate::networks`]): three each | at start | at shutdown | what theirs lose |
//! | control socket ([`crate::admin`]): one, and at most 16 connections | at start | at shutdown | requests under way; none changes what is stored |
//! | store upkeep, one thread | at start | with the store | the step under way; a scrub goes on at the next start |
//! | swarm driver, store writer | at start, by those | at shutdown, in this order | nothing acknowledged |

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use shoal_engine::admission::{Admission, Policy};
use shoal_engine::directory::Directory;
use shoal_engine::mesh::network::Members;
use shoal_engine::reservations::Reservations;
use shoal_engine::vouchers::Ledger;
use shoal_protocol::{BootEpoch, ByteCount, NodeId};
use shoal_swarm::{InboundRequest, SwarmConfig, SwarmHandle};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::addresses;
use crate::admin::{Admin, Desk};
use crate::chunks::vfs::Vfs;
use crate::chunks::vfs_os::OsVfs;
use crate::chunks::{OpenError, QUOTA_MIN, RecoveryReport, Store, StoreConfig};
use crate::clock;
use crate::config::Config;
use crate::files::private_directory;
use crate::identity::{self, IdentityError};
use crate::membership::{self, Membership};
use crate::networks::seats::{Seat, Seats};
use crate::networks::{BindError, Bound, Private, Shared};
use crate::peers::Peers;
use crate::service::context::{Engine, Parts};
use crate::service::{Context, control, lane};
use crate::vouchers::{VoucherLog, VoucherLogError};
use crate::vpn::VpnError;
use crate::vpn::machine::{Known, Machine, Slot};
use crate::vpn::places::Overlays;
use crate::vpn::running::{Running, VpnPlace, hand_lanes};
use crate::vpn::start::{Host, VpnFacts};

/// Default quota: 25 GB, or half the free space where that is less.
const DEFAULT_QUOTA: u64 = 25_000_000_000;
/// Requests answered at a time.
const ANSWERS: usize = 256;
/// After this long without a shard, twice as long at most, the memory kept for the next ones is given back.
const SHARDS_REST: Duration = Duration::from_secs(20);
/// How long transfers under way may take to end when the node stops; with the next two, less than two seconds.
const TRANSFERS_STOP: Duration = Duration::from_millis(300);
/// How long the swarm may take to say goodbye.
const SWARM_STOP: Duration = Duration::from_millis(900);
/// How long the store may take to finish what is queued.
const STORE_STOP: Duration = Duration::from_millis(700);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be made.
    #[error("cannot use {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// The identity cannot be read or made.
    #[error(transparent)]
    #[expect(private_interfaces, reason = "its text is all that leaves the crate")]
    Identity(IdentityError),
    /// The store does not open.
    #[error(transparent)]
    Store(OpenError),
    /// The background jobs of the store do not start.
    #[error("cannot start the upkeep of the store")]
    Upkeep(#[source] io::Error),
    /// What was spent of vouchers cannot be read or written.
    #[error(transparent)]
    Vouchers(VoucherLogError),
    /// The swarm does not start.
    #[error(transparent)]
    Swarm(shoal_swarm::StartError),
    /// The swarm of a network beside the main one does not start.
    #[error("network {name:?}: {error}")]
    Network {
        /// Which.
        name: String,
        /// Why.
        #[source]
        error: BindError,
    },
    /// The system gives no randomness.
    #[error("the system gives no randomness: {0}")]
    Random(getrandom::Error),
}

impl StartError {
    /// Whether the same configuration may start later without anybody's help.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Directory { .. } | Self::Identity(_) | Self::Upkeep(_) | Self::Vouchers(_) | Self::Random(_) => false,
            Self::Store(error) => error.retryable(),
            Self::Swarm(error) | Self::Network { error: BindError::Swarm(error), .. } => error.retryable(),
            Self::Network { error: BindError::Directory { .. }, .. } => false,
        }
    }
}

/// A running node. Dropping it stops nothing: see [`Self::shutdown`].
pub struct Node {
    context: Arc<Context>,
    swarm: SwarmHandle,
    addresses: Vec<String>,
    admin: Option<Admin>,
    tasks: Vec<JoinHandle<()>>,
    /// What switches the private network; none where none was asked for.
    running: Option<Arc<Running>>,
    /// How it started, or why it did not.
    vpn: Option<Result<Option<VpnFacts>, VpnError>>,
    /// Private networks beside the main one.
    networks: Vec<Private>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.id())
    }
}

impl Node {
    /// Opens the store, binds all listeners and starts serving. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_on(config, Arc::new(OsVfs)).await
    }

    /// As [`Self::start`], with the store on another file system than the system's.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start_on(config: Config, vfs: Arc<dyn Vfs>) -> Result<Self, StartError> {
        let data = config.data_dir.clone();
        private_directory(&data).map_err(|cause| StartError::Directory { path: data.clone(), cause })?;
        let key = identity::load_or_make(&data).map_err(StartError::Identity)?;
        let store = open_store(&data, config.quota, vfs).await?;
        let (voucher_log, ledger) = voucher_log(&data, &config)?;
        let boot_epoch = BootEpoch(u64::from_le_bytes(clock::random().map_err(StartError::Random)?));
        let seed = u64::from_le_bytes(clock::random().map_err(StartError::Random)?);

        let known = known(&config);
        let (overlays, mark) = (Machine::overlays(&known), Machine::mark(&known));
        let started = shoal_swarm::start(swarm_config(&config, &key, &overlays, mark)).await;
        let started = started.map_err(StartError::Swarm)?;
        let beside = bind_networks(&config, &key, (&overlays, mark), &started.handle).await?;
        let listening = started.handle.listening().await;
        let ports = beside.iter().flat_map(Bound::ports).chain(addresses::ports(&listening)).collect();
        let machine = Arc::new(Machine::new(&data, &known, ports));
        let addresses = addresses::ordered(listening);
        addresses::note(&data, &addresses);
        let place = VpnPlace::default();
        let advertised = addresses::advertised(&addresses, &overlays);
        let membership = membership(&config, &key, (boot_epoch, seed), (&store, advertised, place.clone()));
        let context = Arc::new(Context::new(Parts {
            store,
            membership: Arc::clone(&membership),
            engine: Engine { reservations: Reservations::default(), ledger },
            voucher_log,
        }));
        let host = |members| Host {
            node: membership.node(),
            key: key.clone(),
            network: config.network,
            members,
            data_dir: data.clone(),
            swarm: started.handle.clone(),
            machine: Arc::clone(&machine),
            slot: Slot::MAIN,
        };
        let running = config.vpn.clone().map(|vpn| Arc::new(Running::new(vpn, host(members(&config)), place.clone())));
        let vpn = match &running {
            Some(running) => Some(running.up(boot_epoch).await),
            None => None,
        };
        let mut networks = Vec::new();
        for bound in beside {
            networks.push(bound.start(&Shared { key: &key, boot_epoch, seed, machine: &machine }).await);
        }
        let main = Seat { name: config.name.clone(), place: place.clone(), running: running.clone() };
        let seats = Seats::new(main, networks.iter().map(|network| network.seat.clone()));
        let admin = administration(&data, &context, &started.handle, seats);
        let tasks = vec![
            tokio::spawn(answer_requests(Arc::clone(&context), started.inbound.requests)),
            tokio::spawn(serve_lanes(Arc::clone(&context), started.inbound.lanes)),
            tokio::spawn(hand_lanes(place, started.inbound.tunnels)),
            tokio::spawn(Peers::new(membership, started.handle.clone(), data, overlays).run(started.events)),
        ];
        Ok(Self { context, swarm: started.handle, addresses, admin, tasks, running, vpn, networks })
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.context.node()
    }

    /// Where it listens, the best first, each with the node's id.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// What is to be said of the private network, if this node takes part.
    #[must_use]
    pub fn vpn(&self) -> Option<&VpnFacts> {
        self.vpn.as_ref()?.as_ref().ok()?.as_ref()
    }

    /// Why it does not, though it was asked to; said once. With the name of each network beside the main one that does not.
    pub fn take_vpn_errors(&mut self) -> Vec<(Option<String>, VpnError)> {
        let main = self.vpn.take_if(|vpn| vpn.is_err()).and_then(Result::err).map(|error| (None, error));
        let beside = self.networks.iter_mut();
        let beside = beside.filter_map(|network| Some((Some(network.seat.name.clone()), network.take_error()?)));
        main.into_iter().chain(beside).collect()
    }

    /// The private networks beside the main one.
    pub(crate) fn networks(&self) -> &[Private] {
        &self.networks
    }

    /// Bytes it offers.
    #[must_use]
    pub fn quota(&self) -> ByteCount {
        ByteCount(self.context.store().usage().quota)
    }

    /// Stops serving, ends transfers, closes connections and store. Done in less than two seconds; what was not
    /// acknowledged by then is lost.
    pub async fn shutdown(self) {
        for network in &self.networks {
            network.down().await;
        }
        if let Some(running) = &self.running {
            running.down().await;
        }
        self.context.stop(TRANSFERS_STOP).await;
        let networks = futures::future::join_all(self.networks.into_iter().map(Private::stop));
        let _ = tokio::time::timeout(SWARM_STOP, futures::future::join(self.swarm.shutdown(), networks)).await;
        for task in &self.tasks {
            task.abort();
        }
        if let Some(admin) = self.admin {
            admin.stop();
        }
        let store = self.context.store().clone();
        let _ = tokio::time::timeout(STORE_STOP, tokio::task::spawn_blocking(move || store.close())).await;
    }
}

/// The private networks of a node, each with its place: that of the main one is kept for it also where it has none.
fn known(config: &Config) -> Vec<Known<'_>> {
    let main = config.vpn.as_ref().map(|vpn| (Slot::MAIN, config.name.as_str(), &config.network, vpn));
    let beside = Slot::beside().zip(&config.networks);
    let beside = beside.map(|(slot, network)| (slot, network.name.as_str(), &network.network, &network.vpn));
    let all = main.into_iter().chain(beside);
    all.map(|(slot, name, network, config)| Known { slot, name, network, config }).collect()
}

fn swarm_config(config: &Config, key: &SigningKey, overlays: &Overlays, mark: Option<u32>) -> SwarmConfig {
    let mut swarm = SwarmConfig::new(Zeroizing::new(key.to_bytes()), config.network.tag());
    swarm.listen.clone_from(&config.listen);
    if !config.open {
        swarm.members.clone_from(&config.allow);
    }
    swarm.tunnel_strangers = config.open;
    if config.vpn.is_some() || !config.networks.is_empty() {
        let overlays = overlays.clone();
        swarm.address_filter = Some(Arc::new(move |address| overlays.contains(address)));
    }
    swarm.mark = mark;
    swarm
}

/// Has the swarms of the networks beside the main one listen; all or none, and then the main one's `swarm` ends too.
async fn bind_networks(
    config: &Config,
    key: &SigningKey,
    (overlays, mark): (&Overlays, Option<u32>),
    swarm: &SwarmHandle,
) -> Result<Vec<Bound>, StartError> {
    let mut bound = Vec::new();
    for (slot, network) in Slot::beside().zip(&config.networks) {
        match Bound::new(network.clone(), slot, (&config.data_dir, key), (overlays, mark)).await {
            Ok(listening) => bound.push(listening),
            Err(error) => {
                for listening in bound {
                    listening.close().await;
                }
                swarm.shutdown().await;
                return Err(StartError::Network { name: network.name.clone(), error });
            }
        }
    }
    Ok(bound)
}

fn members(config: &Config) -> Members {
    if config.open { Members::Everybody } else { Members::Listed(config.allow.iter().copied().collect()) }
}

/// Who belongs to the main network.
fn membership(
    config: &Config,
    key: &SigningKey,
    (boot_epoch, seed): (BootEpoch, u64),
    (store, addresses, vpn): (&Store, Vec<String>, VpnPlace),
) -> Arc<Membership> {
    let store = store.clone();
    Arc::new(Membership::new(membership::Parts {
        network: config.network,
        key: key.clone(),
        boot_epoch,
        domain: config.domain.clone(),
        room: Some(Arc::new(move || ByteCount(store.usage().free))),
        admission: Admission::new(Policy {
            open: config.open,
            members_only: config.members_only,
            members: config.allow.iter().copied().collect(),
            issuers: config.voucher_issuers.iter().copied().collect(),
        }),
        directory: Directory::new(identity::node_id(key), config.network, &config.bootstrap, seed),
        addresses,
        vpn,
    }))
}

/// What is spent of vouchers; nothing is read or made where nobody's count.
fn voucher_log(data: &Path, config: &Config) -> Result<(Option<VoucherLog>, Ledger), StartError> {
    if config.voucher_issuers.is_empty() {
        return Ok((None, Ledger::default()));
    }
    let (log, ledger) = VoucherLog::open(data, clock::wall()).map_err(StartError::Vouchers)?;
    Ok((Some(log), ledger))
}

async fn open_store(data: &Path, quota: Option<u64>, vfs: Arc<dyn Vfs>) -> Result<Store, StartError> {
    let data = data.to_path_buf();
    let opening = tokio::task::spawn_blocking(move || {
        let (store, report) = open(vfs, &data, quota)?;
        tracing::info!(?report, "store opened");
        Ok(store)
    });
    let stopped = |_| StartError::Directory { path: PathBuf::new(), cause: io::Error::other("the store did not open") };
    opening.await.map_err(stopped)?
}

/// Opens the store in `data` and starts its upkeep; without a quota under the default one. Blocks.
///
/// # Errors
/// [`StartError`] of directory, randomness, store or upkeep.
pub(crate) fn open(vfs: Arc<dyn Vfs>, data: &Path, quota: Option<u64>) -> Result<(Store, RecoveryReport), StartError> {
    let seed = clock::random().map_err(StartError::Random)?;
    let quota = match quota {
        Some(quota) => quota,
        None => default_quota(data).map_err(|cause| StartError::Directory { path: data.to_path_buf(), cause })?,
    };
    let opened = Store::open(vfs, data, StoreConfig::new(quota), seed);
    let (store, report) = opened.map_err(StartError::Store)?;
    store.start_upkeep(Arc::new(|| clock::wall().0)).map_err(StartError::Upkeep)?;
    Ok((store, report))
}

/// The control socket. A node that cannot have one, on a file system without sockets for example, works as well.
fn administration(data: &Path, context: &Arc<Context>, swarm: &SwarmHandle, networks: Seats) -> Option<Admin> {
    let (counted, swarm) = (Arc::clone(context), swarm.clone());
    let refusals = Arc::new(move || refusals(&counted, &swarm));
    Admin::start(data, Desk { store: context.store().clone(), refusals, networks })
        .inspect_err(|error| tracing::warn!(%error, "no control socket: no command will reach this node"))
        .ok()
}

/// What this node refused, by its word, and what its swarm did before the node saw it.
fn refusals(context: &Context, swarm: &SwarmHandle) -> BTreeMap<String, u64> {
    let (mut words, counters) = (context.membership().refusals(), swarm.counters());
    let of_swarm =
        [("lane_busy", counters.lanes_busy), ("lane_reset", counters.lanes_reset), ("violation", counters.violations)];
    for (word, count) in of_swarm.into_iter().filter(|(_, count)| *count > 0) {
        words.insert(word.to_owned(), count as u64);
    }
    words
}

/// min(25 GB, half of what is free or already the store's), but never below what a store needs.
fn default_quota(data: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(data)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let half = free.saturating_add(stored(data)) / 2;
    Ok(DEFAULT_QUOTA.min(half).max(QUOTA_MIN))
}

/// Bytes the segments of an earlier run take; else the default would shrink as the store grows.
fn stored(data: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(data.join("segments")) else { return 0 };
    let sizes = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
    sizes.fold(0, u64::saturating_add)
}

async fn answer_requests(context: Arc<Context>, mut requests: mpsc::Receiver<InboundRequest>) {
    let answers = Arc::new(Semaphore::new(ANSWERS));
    while let Some(request) = requests.recv().await {
        let Ok(permit) = Arc::clone(&answers).acquire_owned().await else { return };
        let context = Arc::clone(&context);
        tokio::spawn(async move {
            control::serve(context, request).await;
            drop(permit);
        });
    }
}

async fn serve_lanes(context: Arc<Context>, mut lanes: mpsc::Receiver<shoal_swarm::InboundLane>) {
    let mut rest = tokio::time::interval(SHARDS_REST);
    loop {
        tokio::select! {
            lane = lanes.recv() => match lane {
                Some(inbound) => drop(tokio::spawn(lane::serve(Arc::clone(&context), inbound))),
                None => return,
            },
            _ = rest.tick() => context.shards().rest(),
        }
    }
}
