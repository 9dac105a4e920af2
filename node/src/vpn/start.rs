//! From a configuration to a running private network, and to its end. What was made is undone in the reverse order.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use shoal_engine::mesh::flow::FlowSeed;
use shoal_engine::mesh::network::{Carriers, Env, Members, Network, Setup};
use shoal_engine::mesh::policy;
use shoal_protocol::mesh::address::{network_prefix, overlay};
use shoal_protocol::mesh::claim::Claim;
use shoal_protocol::mesh::offloads::Offloads;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::session::handshake::Offer;
use shoal_protocol::{BootEpoch, NetworkId, NodeId, Suite, codec};
use shoal_swarm::{SwarmHandle, TunnelLane};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::config::VpnConfig;
use super::control::{Control, Interface, Parts, VpnEvent, VpnHandle, v6_address};
use super::key_epoch::KeyEpochFile;
use super::places::{Overlay, Places};
use super::plane::threads::Threads;
use super::plane::{self, Plane, REPORTS_MAX};
use super::system::netlink::{Netlink, NetlinkError, Watch};
use super::system::tun::{Tun, TunError, TunOptions};
use super::system::udp::{UdpError, UdpOptions, UdpSocket};
use super::system::wake::Wake;
use crate::clock;
use crate::files::read_bounded;

/// The own claim, between two runs.
const CLAIM_FILE: &str = "vpn-claim";
/// Bytes of IP and UDP headers around a frame in a datagram, IPv6 taken: 40 and 8.
const UDP_OVERHEAD: u16 = 48;
/// MTU that a datagram may have on its way: what Ethernet takes.
const PATH_MTU: u16 = 1500;
/// How long goodbyes may take.
const STOP_MAX: Duration = Duration::from_millis(100);

/// Why the private network did not start. The storage side runs on.
#[derive(Debug, thiserror::Error)]
pub enum VpnError {
    /// The device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// Addresses or links.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The socket.
    #[error(transparent)]
    Udp(#[from] UdpError),
    /// Threads or descriptors.
    #[error("the system has no more threads or descriptors")]
    System(#[from] io::Error),
    /// The rules do not compile.
    #[error(transparent)]
    Policy(#[from] policy::PolicyError),
}

impl VpnError {
    /// Whether the same may succeed later with nothing changed by hand.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Tun(error) => error.retryable(),
            Self::Netlink(error) => error.retryable(),
            Self::Udp(error) => error.retryable(),
            Self::System(_) => true,
            Self::Policy(_) => false,
        }
    }
}

/// What the node brings along.
pub(crate) struct Host<'a> {
    pub(crate) node: NodeId,
    pub(crate) key: SigningKey,
    pub(crate) network: NetworkId,
    pub(crate) epoch: BootEpoch,
    pub(crate) members: Members,
    pub(crate) data_dir: &'a Path,
    pub(crate) swarm: SwarmHandle,
    pub(crate) tunnels: mpsc::Receiver<TunnelLane>,
}

/// What others are told of a network that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VpnFacts {
    /// The device's name.
    pub ifname: Option<String>,
    /// This node's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// This node's IPv6 address.
    pub ipv6: Ipv6Addr,
}

/// A running private network.
pub(crate) struct Vpn {
    pub(crate) facts: VpnFacts,
    pub(crate) handle: VpnHandle,
    threads: Threads,
    task: JoinHandle<()>,
}

impl Vpn {
    /// Makes device and sockets, gives the device its addresses and begins to talk to members.
    ///
    /// # Errors
    /// [`VpnError`]; nothing is left.
    pub(crate) fn start(config: &VpnConfig, host: Host<'_>) -> Result<Self, VpnError> {
        let own = PeerHash::of(&host.node);
        let mut netlink = Netlink::open()?;
        let tun = match &config.tun_name {
            Some(name) => Some(Tun::open(&TunOptions::new(name, config.mtu), &mut netlink)?),
            None => None,
        };
        let sockets = if config.carriers == Carriers::Lanes { Vec::new() } else { sockets(config.port)? };
        let places = Places::new(&sockets, Overlay::new(config.pool.prefix(), &host.network));
        let endpoints = places.endpoints(&mut netlink)?;
        let watch = Watch::open()?;
        let claim_file = host.data_dir.join(CLAIM_FILE);
        let now = clock::now();
        let saved = saved_claim(&claim_file);
        let key_epoch = KeyEpochFile::new(host.data_dir);
        let full_frame = PATH_MTU - UDP_OVERHEAD;
        let setup = Setup {
            local: host.node,
            network: host.network,
            epoch: host.epoch,
            members: host.members,
            pool: config.pool,
            issued: saved.as_ref().map_or(now.wall, |claim| claim.issued),
            saved,
            key_epoch: key_epoch.load(),
            offer: offer(tun.as_ref()),
            full_frame,
            advertised: Vec::new(),
            endpoints,
            carriers: config.carriers,
            suites: vec![Suite::ChaCha20Poly1305, Suite::Aes256Gcm],
        };
        let rules = rules(config, &host.network)?;
        let network = Network::new(setup, rules, &mut Env { now, random: &mut clock::fill_random });
        let mut seed = [0; 16];
        clock::fill_random(&mut seed);
        let (reports_in, reports) = mpsc::channel(REPORTS_MAX);
        let ipv6 = overlay(&host.network, &own);
        let interface = tun.as_ref().map(|tun| bring_up(tun, &mut netlink, config, ipv6)).transpose()?;
        let ifname = tun.as_ref().map(|tun| tun.facts().name.clone());
        let plane = Arc::new(Plane::new(plane::Parts {
            own,
            tun,
            sockets,
            tables: network.tables(),
            seed: FlowSeed::new(seed),
            full_frame,
            reports: reports_in,
            wake: Wake::new()?,
        }));
        let (handle, events) = VpnHandle::new();
        let mut control = Control::new(Parts {
            network,
            id: host.network,
            plane: Arc::clone(&plane),
            key: host.key,
            swarm: host.swarm,
            netlink,
            interface,
            places,
            claim_file,
            key_epoch,
            handle: handle.clone(),
        });
        control.prepare();
        let facts = VpnFacts { ifname, ipv4: control.address(), ipv6 };
        let threads = Threads::start(&plane)?;
        let task = tokio::spawn(control.run(events, reports, host.tunnels, watch));
        Ok(Self { facts, handle, threads, task })
    }

    /// Says goodbye, ends threads and tasks; the device goes with them.
    pub(crate) async fn stop(self) {
        let (done, said) = oneshot::channel();
        if self.handle.tell(VpnEvent::Stop(done)) {
            // Whether they were said in time or not, this is the end.
            let _ = tokio::time::timeout(STOP_MAX, said).await;
        }
        self.task.abort();
        let threads = self.threads;
        let _ = tokio::task::spawn_blocking(move || threads.stop()).await;
    }
}

/// The rules that count while there is no policy: members may talk.
fn rules(config: &VpnConfig, network: &NetworkId) -> Result<Arc<policy::Snapshot>, VpnError> {
    let pools = vec![config.pool.prefix(), network_prefix(network)];
    let local = policy::Local { pools, ..policy::Local::default() };
    Ok(Arc::new(policy::Snapshot::compile(&policy::Document::built_in(), local, 1)?))
}

/// Switches the device on and gives it the address that is certain.
fn bring_up(tun: &Tun, netlink: &mut Netlink, config: &VpnConfig, ipv6: Ipv6Addr) -> Result<Interface, VpnError> {
    let index = tun.facts().index;
    netlink.set_up(index, true)?;
    netlink.add_address(&v6_address(index, ipv6))?;
    Ok(Interface { index, pool_length: config.pool.prefix().length() })
}

fn offer(tun: Option<&Tun>) -> Offer {
    let offloads = tun.map_or(Offloads::ALL, |tun| tun.facts().offloads);
    Offer { offloads, max_frame: u16::MAX }
}

/// One socket a family, both on one port where that can be had; a system without IPv6 has one.
fn sockets(port: u16) -> Result<Vec<UdpSocket>, UdpError> {
    let v4 = UdpSocket::open(&UdpOptions::new((Ipv4Addr::UNSPECIFIED, port).into()))?;
    let same = v4.facts().local.port();
    let v6 = UdpSocket::open(&UdpOptions::new((Ipv6Addr::UNSPECIFIED, same).into()))
        .or_else(|_| UdpSocket::open(&UdpOptions::new((Ipv6Addr::UNSPECIFIED, 0).into())));
    Ok([Some(v4), v6.ok()].into_iter().flatten().collect())
}

/// The claim of the run before. One that cannot be read is none: the address may be another one then.
fn saved_claim(file: &Path) -> Option<Claim> {
    let bytes = read_bounded(file, 256).ok()??;
    codec::decode::<Claim>(&bytes, 256).ok()
}
