//! From a configuration to a running private network, and to its end. What was made is undone in the reverse order.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use shoal_engine::mesh::flow::FlowSeed;
use shoal_engine::mesh::network::{Carriers, Env, Members, Network, Setup};
use shoal_protocol::mesh::address;
use shoal_protocol::mesh::claim::Claim;
use shoal_protocol::mesh::message::Endpoint;
use shoal_protocol::mesh::meta::Meta;
use shoal_protocol::mesh::offloads::Offloads;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::relay::RelayHeader;
use shoal_protocol::mesh::session::frame::FRAME_OVERHEAD;
use shoal_protocol::mesh::session::handshake::Offer;
use shoal_protocol::{BootEpoch, NetworkId, NodeId, Suite, UnixMillis, codec};
use shoal_swarm::SwarmHandle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::clash::{self, Taken};
use super::config::VpnConfig;
use super::control::{Control, Interface, Parts, VpnEvent, VpnHandle};
use super::dns::{Desk, Dns, Told};
use super::key_epoch::KeyEpochFile;
use super::machine::{Machine, Slot};
use super::places::{Overlay, Places};
use super::plane::device::Device as PlaneDevice;
use super::plane::threads::Threads;
use super::plane::{self, Plane, REPORTS_MAX};
use super::roles::keeper::{self, Device, Keeper};
use super::roles::rules::{RuleBook, RulesError};
use super::roles::system::{System, SystemError};
use super::system::netlink::{Address, Netlink, NetlinkError, Watch};
use super::system::tun::{Tun, TunError, TunOptions};
use super::system::udp::{UdpError, UdpOptions, UdpSocket};
use super::system::wake::Wake;
use super::userspace::channel::Channel;
use super::userspace::stack::Stack;
use super::userspace::{Ports, Userspace, UserspaceError, UserspaceFacts};
use crate::clock;
use crate::files::read_bounded;
use crate::problem::with_causes;

/// Bits of the network that IPv6 addresses share.
const V6_LENGTH: u8 = 48;
/// The own claim, between two runs.
const CLAIM_FILE: &str = "vpn-claim";
/// Bytes of IP and UDP headers around a frame in a datagram, IPv6 taken: 40 and 8.
const UDP_OVERHEAD: u16 = 48;
/// Bytes a frame has around a packet where it is passed on by others: its own, a meta, and a hop's session and header.
#[expect(clippy::cast_possible_truncation, reason = "two frames' overhead and a header are some hundred bytes")]
const PACKET_OVERHEAD: u16 = (2 * FRAME_OVERHEAD + Meta::LEN + RelayHeader::LEN) as u16;
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
    /// Addresses of the network are somebody else's on this machine.
    #[error("the pool {} overlaps {} of the interface {}", .0.wanted, .0.found, .0.interface)]
    PoolTaken(Taken),
    /// Another network of the node leads everything through an exit.
    #[error("the network {0} leads everything through an exit already")]
    ExitTaken(String),
    /// The socket.
    #[error(transparent)]
    Udp(#[from] UdpError),
    /// Threads or descriptors.
    #[error("the system has no more threads or descriptors")]
    System(#[from] io::Error),
    /// The policy.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// What the roles of this node need of the system.
    #[error(transparent)]
    Roles(#[from] SystemError),
    /// The network in this process.
    #[error(transparent)]
    Userspace(#[from] UserspaceError),
}

impl VpnError {
    /// Whether the same may succeed later with nothing changed by hand.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Tun(error) => error.retryable(),
            Self::Netlink(error) => error.retryable(),
            Self::Udp(error) => error.retryable(),
            Self::System(_) | Self::Userspace(_) => true,
            Self::PoolTaken(_) | Self::ExitTaken(_) => false,
            Self::Rules(error) => error.retryable(),
            Self::Roles(error) => error.retryable(),
        }
    }
}

/// What the node brings along, each time the network is switched on.
pub(crate) struct Host {
    pub(crate) node: NodeId,
    pub(crate) key: SigningKey,
    pub(crate) network: NetworkId,
    pub(crate) members: Members,
    pub(crate) data_dir: PathBuf,
    pub(crate) swarm: SwarmHandle,
    /// What this network shares with others of the node, and its place among them.
    pub(crate) machine: Arc<Machine>,
    pub(crate) slot: Slot,
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
    /// How programs get in where there is no device.
    pub userspace: Option<UserspaceFacts>,
}

/// A running private network.
pub(crate) struct Vpn {
    pub(crate) facts: VpnFacts,
    pub(crate) handle: VpnHandle,
    threads: Threads,
    task: JoinHandle<()>,
    /// None for a relay.
    system: Option<Arc<Mutex<System>>>,
    /// None where no names are answered.
    names: Option<Dns>,
    /// None where there is a device, and of a relay.
    userspace: Option<Userspace>,
}

impl Vpn {
    /// Makes device and sockets, gives the device its addresses and begins to talk to members.
    ///
    /// # Errors
    /// [`VpnError`]; nothing is left.
    pub(crate) fn start(config: &VpnConfig, host: &Host, epoch: BootEpoch) -> Result<Self, VpnError> {
        let own = PeerHash::of(&host.node);
        let ports = config.userspace.as_ref().map(Ports::open).transpose()?;
        let mut netlink = Netlink::open()?;
        let overlay = Overlay::new(config.pool.prefix(), &host.network);
        check_pool(config, &mut netlink, &overlay)?;
        let tun = match &config.tun_name {
            Some(name) => Some(Tun::open(&TunOptions::new(name, config.mtu), &mut netlink)?),
            None => None,
        };
        let mark = host.machine.socket_mark();
        let sockets = if config.carriers == Carriers::Lanes { Vec::new() } else { sockets(config.port, mark)? };
        let places = Places::new(&sockets, host.machine.all_overlays());
        let endpoints = places.endpoints(&mut netlink)?;
        let watch = Watch::open()?;
        let claim_file = host.data_dir.join(CLAIM_FILE);
        let now = clock::now();
        let saved = saved_claim(&claim_file);
        let key_epoch = KeyEpochFile::new(&host.data_dir);
        let setup =
            setup(config, host, (epoch, endpoints), (saved, now.wall, key_epoch.load()), offer(tun.as_ref(), config));
        let mut rules = RuleBook::new(host.node, keeper::local(&mut netlink, &overlay)?);
        let compiled = rules.compile(&config.roles)?;
        let mut env = Env { now, random: &mut clock::fill_random };
        let mut network = Network::new(setup, compiled, &mut env);
        network.handle_name(config.names.label.clone(), Desk::saved(&host.data_dir), &mut env);
        let others = config.roles.ask_others(None, &host.network);
        let names = Desk::new(&network, config.names.network.clone(), others, &host.data_dir);
        let told = names.told();
        let (reports_in, reports) = mpsc::channel(REPORTS_MAX);
        let ipv6 = address::overlay(&host.network, &own);
        let interface = tun.as_ref().map(|tun| bring_up(tun, &mut netlink, config, ipv6)).transpose()?;
        let ifname = tun.as_ref().map(|tun| tun.facts().name.clone());
        let device = tun.as_ref().map(|tun| device(tun, config, host)).transpose()?;
        let system = device.as_ref().map(|device| Arc::clone(&device.system));
        let place = (Arc::clone(&host.machine), host.slot);
        let keeper = Keeper::new(config.roles.clone(), rules, overlay, place, device);
        let (device, stack) = entrance(tun, config, (network.own_ipv4(), ipv6))?;
        let plane = Arc::new(Plane::new(plane::Parts {
            own,
            device,
            sockets,
            tables: network.tables(),
            seed: FlowSeed::new(seed()),
            reports: reports_in,
            wake: Wake::new()?,
        }));
        let (handle, events) = VpnHandle::new();
        let mut control = Control::new(Parts {
            network,
            id: host.network,
            plane: Arc::clone(&plane),
            key: host.key.clone(),
            swarm: host.swarm.clone(),
            netlink,
            interface,
            places,
            claim_file,
            key_epoch,
            names,
            handle: handle.clone(),
            keeper,
            stack: stack.clone(),
        });
        let begun = control.prepare().map_err(VpnError::from).and_then(|()| Ok(Threads::start(&plane)?));
        let begun = begun.and_then(|threads| inward(threads, ports.zip(stack), &plane, &told));
        let (threads, userspace) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                undo(system.as_ref());
                return Err(error);
            }
        };
        let names = ifname.as_deref().filter(|_| config.names.serve);
        let names = names.and_then(|name| Dns::start((name, ipv6), told, (&host.machine, host.slot)));
        let inside = userspace.as_ref().map(|inside| inside.facts.clone());
        let facts = VpnFacts { ifname, ipv4: control.address(), ipv6, userspace: inside };
        let task = tokio::spawn(control.run(events, reports, watch));
        Ok(Self { facts, handle, threads, task, system, names, userspace })
    }

    /// Says goodbye, ends threads and tasks; the device goes with them.
    pub(crate) async fn stop(self) {
        if let Some(userspace) = self.userspace {
            // First: what it says to others at the end still goes out.
            let _ = tokio::task::spawn_blocking(|| userspace.stop()).await;
        }
        let (done, said) = oneshot::channel();
        if self.handle.tell(VpnEvent::Stop(done)) {
            // Whether they were said in time or not, this is the end.
            let _ = tokio::time::timeout(STOP_MAX, said).await;
        }
        self.task.abort();
        let (threads, system, names) = (self.threads, self.system, self.names);
        let ending = tokio::task::spawn_blocking(move || {
            // Before the device goes: its routes would go with it, and what they held back would leave; and programs ask on
            // it for names.
            if let Some(dns) = names {
                dns.stop();
            }
            undo(system.as_ref());
            threads.stop();
        });
        let _ = ending.await;
    }
}

/// Whether the network's addresses are free on this machine. A relay has none there.
fn check_pool(config: &VpnConfig, netlink: &mut Netlink, overlay: &Overlay) -> Result<(), VpnError> {
    if config.tun_name.is_none() {
        return Ok(());
    }
    clash::find(netlink, overlay)?.map_or(Ok(()), |taken| Err(VpnError::PoolTaken(taken)))
}

/// What the network is made of; without a claim of the run before this node is a member since `wall`.
fn setup(
    config: &VpnConfig,
    host: &Host,
    (epoch, endpoints): (BootEpoch, Vec<Endpoint>),
    (saved, wall, key_epoch): (Option<Claim>, UnixMillis, u64),
    offer: Offer,
) -> Setup {
    Setup {
        local: host.node,
        network: host.network,
        epoch,
        members: host.members.clone(),
        pool: config.pool,
        issued: saved.as_ref().map_or(wall, |claim| claim.issued),
        saved,
        key_epoch,
        offer,
        full_frame: PATH_MTU - UDP_OVERHEAD,
        least_frame: config.mtu.saturating_add(PACKET_OVERHEAD),
        advertised: config.roles.announced(),
        exit: config.roles.exit,
        endpoints,
        carriers: config.carriers,
        suites: vec![Suite::ChaCha20Poly1305, Suite::Aes256Gcm],
    }
}

/// The device, with the system around it as an earlier run of this directory did not leave it.
fn device(tun: &Tun, config: &VpnConfig, host: &Host) -> Result<Device, VpnError> {
    let (name, index) = (tun.facts().name.clone(), tun.facts().index);
    let system = System::open((&host.machine, host.slot), &host.network, index)?;
    // Given back with the system.
    let holds = config.roles.holds_default_route();
    host.machine.hold_default_route(host.slot, holds).map_err(VpnError::ExitTaken)?;
    Ok(Device { name, index, system: Arc::new(Mutex::new(system)) })
}

/// Undoes what the roles made. What stays is in the journal, for the next start or `shoald vpn cleanup`.
fn undo(system: Option<&Arc<Mutex<System>>>) {
    let Some(system) = system else { return };
    if let Err(error) = system.lock().unwrap_or_else(PoisonError::into_inner).undo() {
        tracing::warn!(error = with_causes(&error), "not everything is undone; `shoald vpn cleanup` tries again");
    }
}

/// Bytes drawn from the system.
fn seed<const N: usize>() -> [u8; N] {
    let mut seed = [0; N];
    clock::fill_random(&mut seed);
    seed
}

/// What the plane takes packets from; the stack, not running yet, where that is in this process.
fn entrance(
    tun: Option<Tun>,
    config: &VpnConfig,
    addresses: (Option<Ipv4Addr>, Ipv6Addr),
) -> io::Result<(Option<PlaneDevice>, Option<Arc<Stack>>)> {
    if config.userspace.is_none() {
        return Ok((tun.map(PlaneDevice::Tun), None));
    }
    let channel = Arc::new(Channel::new()?);
    let stack = Stack::new(Arc::clone(&channel), config.mtu, addresses, u64::from_le_bytes(seed()));
    Ok((Some(PlaneDevice::Stack(channel)), Some(stack)))
}

/// Lets programs in where there is no device. What fails ends the threads.
fn inward(
    threads: Threads,
    parts: Option<(Ports, Arc<Stack>)>,
    plane: &Arc<Plane>,
    told: &Told,
) -> Result<(Threads, Option<Userspace>), VpnError> {
    let start = |(ports, stack)| Userspace::start(ports, stack, Arc::clone(plane), told.zone.clone());
    match parts.map(start).transpose() {
        Ok(userspace) => Ok((threads, userspace)),
        Err(error) => {
            threads.stop();
            Err(error.into())
        }
    }
}

/// Switches the device on and gives it the address that is certain.
fn bring_up(tun: &Tun, netlink: &mut Netlink, config: &VpnConfig, ipv6: Ipv6Addr) -> Result<Interface, VpnError> {
    let index = tun.facts().index;
    netlink.set_up(index, true)?;
    netlink.add_address(&Address { link: index, address: ipv6.into(), prefix_length: V6_LENGTH })?;
    Ok(Interface { index, pool_length: config.pool.prefix().length() })
}

/// A relay opens nothing; the stack in this process finishes nothing.
fn offer(tun: Option<&Tun>, config: &VpnConfig) -> Offer {
    let otherwise = if config.userspace.is_some() { Offloads::default() } else { Offloads::ALL };
    let offloads = tun.map_or(otherwise, |tun| tun.facts().offloads);
    Offer { offloads, max_frame: u16::MAX }
}

/// One socket a family, both on one port where that can be had; a system without IPv6 has one.
fn sockets(port: u16, mark: Option<u32>) -> Result<Vec<UdpSocket>, UdpError> {
    let open = |address: IpAddr, port| UdpSocket::open(&UdpOptions { mark, ..UdpOptions::new((address, port).into()) });
    let v4 = open(Ipv4Addr::UNSPECIFIED.into(), port)?;
    let same = v4.facts().local.port();
    let v6 = open(Ipv6Addr::UNSPECIFIED.into(), same).or_else(|_| open(Ipv6Addr::UNSPECIFIED.into(), 0));
    Ok([Some(v4), v6.ok()].into_iter().flatten().collect())
}

/// The claim of the run before. One that cannot be read is none: the address may be another one then.
fn saved_claim(file: &Path) -> Option<Claim> {
    let bytes = read_bounded(file, 256).ok()??;
    codec::decode::<Claim>(&bytes, 256).ok()
}
