//! One running node: opens what it needs, starts its tasks, ends them. The program and the tests start it alike.
//!
//! Tasks: requests (one, spawning a bounded number of answers), lanes (one, spawning one per lane, bounded by the
//! swarm), peers ([`crate::peers`], owner of all dials and questions). All end when the swarm's queues close or the node
//! is shut down; what they were doing then was acknowledged or is lost.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shoal_engine::admission::Admission;
use shoal_engine::directory::Directory;
use shoal_engine::reservations::Reservations;
use shoal_protocol::limits::ADDRESSES_MAX;
use shoal_protocol::{BootEpoch, ByteCount, NodeId};
use shoal_swarm::{InboundRequest, SwarmConfig, SwarmHandle};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::chunks::vfs_os::OsVfs;
use crate::chunks::{OpenError, QUOTA_MIN, Store, StoreConfig};
use crate::clock;
use crate::config::Config;
use crate::files::{private_directory, read_bounded, write_private};
use crate::identity::{self, IdentityError};
use crate::peers::Peers;
use crate::service::context::{Engine, Parts};
use crate::service::{Context, control, lane};

/// Default quota: 25 GB, or half the free space where that is less.
const DEFAULT_QUOTA: u64 = 25_000_000_000;
/// Requests answered at a time.
const ANSWERS: usize = 256;
/// How long the tasks of a stopping node may take before they are cut off.
const STOP_WAIT: Duration = Duration::from_secs(1);
/// Longest address file, bytes.
const ADDRESS_FILE_MAX: u64 = 64 * 1024;

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
    /// The swarm does not start.
    #[error(transparent)]
    Swarm(shoal_swarm::StartError),
    /// The system gives no randomness.
    #[error("the system gives no randomness: {0}")]
    Random(getrandom::Error),
}

/// A running node.
pub struct Node {
    context: Arc<Context>,
    swarm: SwarmHandle,
    addresses: Vec<String>,
    tasks: Vec<JoinHandle<()>>,
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
        let data = config.data_dir.clone();
        private_directory(&data).map_err(|cause| StartError::Directory { path: data.clone(), cause })?;
        let key = identity::load_or_make(&data).map_err(StartError::Identity)?;
        let store = open_store(&data, config.quota).await?;
        let boot_epoch = BootEpoch(u64::from_le_bytes(clock::random().map_err(StartError::Random)?));
        let seed = u64::from_le_bytes(clock::random().map_err(StartError::Random)?);

        let mut swarm_config = SwarmConfig::new(Zeroizing::new(key.to_bytes()), config.network.tag());
        swarm_config.listen = config.listen.clone();
        let started = shoal_swarm::start(swarm_config).await.map_err(StartError::Swarm)?;
        let addresses = started.handle.listening().await;
        let addresses = ordered(addresses);
        let node = identity::node_id(&key);
        let directory = Directory::new(node, config.network, &config.bootstrap, seed);
        let context = Arc::new(Context::new(Parts {
            store,
            network: config.network,
            key,
            boot_epoch,
            domain: config.domain,
            engine: Engine {
                admission: Admission::new(config.open, config.allow),
                reservations: Reservations::default(),
                directory,
            },
            addresses: addresses.iter().filter_map(|text| without_id(text)).take(ADDRESSES_MAX).collect(),
        }));
        if let Err(error) = write_private(&data.join("addresses"), (addresses.join("\n") + "\n").as_bytes()) {
            tracing::warn!(%error, "cannot note the addresses for `shoald address`");
        }
        let tasks = vec![
            tokio::spawn(answer_requests(Arc::clone(&context), started.inbound.requests)),
            tokio::spawn(serve_lanes(Arc::clone(&context), started.inbound.lanes)),
            tokio::spawn(Peers::new(Arc::clone(&context), started.handle.clone()).run(started.events)),
        ];
        Ok(Self { context, swarm: started.handle, addresses, tasks })
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

    /// Bytes it offers.
    #[must_use]
    pub fn quota(&self) -> ByteCount {
        ByteCount(self.context.store().usage().quota)
    }

    /// Stops serving, closes connections and store. Done in less than two seconds.
    pub async fn shutdown(self) {
        let _ = tokio::time::timeout(STOP_WAIT, self.swarm.shutdown()).await;
        for task in &self.tasks {
            task.abort();
        }
        let store = self.context.store().clone();
        let _ = tokio::time::timeout(STOP_WAIT, tokio::task::spawn_blocking(move || store.close())).await;
    }

    /// Where the node of this directory listens, or listened last.
    pub(crate) fn last_addresses(data: &Path) -> Option<Vec<String>> {
        let bytes = read_bounded(&data.join("addresses"), ADDRESS_FILE_MAX).ok()??;
        let text = std::str::from_utf8(&bytes).ok()?;
        Some(text.lines().map(str::to_owned).collect())
    }
}

async fn open_store(data: &Path, quota: Option<u64>) -> Result<Store, StartError> {
    let data = data.to_path_buf();
    let seed = clock::random().map_err(StartError::Random)?;
    let opening = tokio::task::spawn_blocking(move || {
        let quota = match quota {
            Some(quota) => quota,
            None => default_quota(&data).map_err(|cause| StartError::Directory { path: data.clone(), cause })?,
        };
        let opened = Store::open(Arc::new(OsVfs), &data, StoreConfig::new(quota), seed);
        let (store, report) = opened.map_err(StartError::Store)?;
        tracing::info!(?report, "store opened");
        Ok(store)
    });
    let stopped = |_| StartError::Directory { path: PathBuf::new(), cause: io::Error::other("the store did not open") };
    opening.await.map_err(stopped)?
}

/// min(25 GB, half the free space), but never below what a store needs.
fn default_quota(data: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(data)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    Ok(DEFAULT_QUOTA.min(free / 2).max(QUOTA_MIN))
}

/// Addresses others may reach before loopback, TCP before QUIC: the order in which they are tried and shown.
fn ordered(mut addresses: Vec<String>) -> Vec<String> {
    addresses.sort_by_key(|address| {
        let loopback = shoal_swarm::ip_of(address).is_some_and(|ip| ip.is_loopback());
        (loopback, address.contains("/quic"), address.clone())
    });
    addresses
}

fn without_id(address: &str) -> Option<String> {
    shoal_swarm::peer_address(address).ok().map(|parsed| parsed.address)
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
    while let Some(inbound) = lanes.recv().await {
        tokio::spawn(lane::serve(Arc::clone(&context), inbound));
    }
}
