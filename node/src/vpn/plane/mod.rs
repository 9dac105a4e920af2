//! The packet half at work: packets from the device sealed to carriers, frames from carriers opened to the device. It
//! reads what the control half published and decides nothing that outlives a packet.
//!
//! - [`device`]: where packets come from and go to. [`link`]: one other member.
//! - [`batch`], [`lane`]: what waits to be sent on a socket, on a lane.
//! - [`reader`]: who reads packets. [`outbound`]: a packet to its link. [`send`]: a link's frames to its carriers.
//! - [`detour`]: a word by a neighbour that the routes would not take.
//! - [`limit`]: what waits because its peer has a limit. [`queue`]: whose turn it is where a link is full.
//! - [`inbound`]: a frame to a packet, to the next hop, or to the control half.
//! - [`threads`]: who calls them. [`counters`]: what was passed and what was not.
//!
//! One way out: [`threads`] has [`reader`] read -> [`outbound`] (parse, rules, route) -> [`send`] (cut, seal) -> socket or
//! lane. One way in: socket or lane -> [`inbound`] (open, rebuild, rules) -> the device.

pub(crate) mod batch;
pub(crate) mod counters;
mod detour;
pub(crate) mod device;
pub(crate) mod inbound;
pub(crate) mod lane;
mod limit;
pub(crate) mod link;
mod outbound;
mod queue;
mod reader;
pub(crate) mod send;
pub(crate) mod threads;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use shoal_engine::mesh::flow::{FlowSeed, FlowTable};
use shoal_engine::mesh::network::{PlaneCommand, Tables};
use shoal_engine::mesh::qos::Bucket;
use shoal_engine::mesh::qos::bucket::Rate;
use shoal_engine::mesh::relay::Relay;
use shoal_engine::path::{Carrier, Choice};
use shoal_protocol::NodeId;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::content::Control;
use tokio::sync::mpsc;

pub(crate) use self::outbound::NoPass;

use self::counters::Counters;
use self::device::Device;
use self::link::Link;
use self::queue::Socket;
use self::reader::Reader;
use self::send::Outlet;
use crate::vpn::system::udp::UdpSocket;
use crate::vpn::system::wake::Wake;

/// What the control half is told by the packet half. Bounded by the channel; what finds no room is lost, and all of it is
/// said again where it matters.
#[derive(Debug)]
pub(crate) enum Report {
    /// A handshake message came.
    Handshake { bytes: Vec<u8>, from: Carrier, via: Option<PeerHash> },
    /// The first frame of a session, or one that came another way than the one before.
    Opened { index: SessionIndex, from: Carrier },
    /// A word of the peer.
    Control { index: SessionIndex, from: Carrier, control: Control },
    /// Packets wait for a session with this peer.
    Want { peer: PeerHash },
}

/// Reports that may wait.
pub(crate) const REPORTS_MAX: usize = 4096;
/// What a member may have relayed: a gigabit a second.
const RELAY_RATE: Rate = Rate { bytes_per_second: 125_000_000, burst: 1_250_000 };
/// Answers to packets that do not fit, a second: as kernels limit theirs.
const ANSWERS: Rate = Rate { bytes_per_second: 100, burst: 100 };
/// Cookie replies that the control half is told of, a second: nothing in them shows that they are for this node before the
/// session that awaits one tried it. An honest one answers an own initiation, of which a peer gets one a second at most.
const COOKIES: Rate = Rate { bytes_per_second: 200, burst: 200 };

/// What a plane is made of.
pub(crate) struct Parts {
    pub(crate) own: PeerHash,
    pub(crate) device: Option<Device>,
    pub(crate) sockets: Vec<UdpSocket>,
    pub(crate) tables: Tables,
    pub(crate) seed: FlowSeed,
    /// Longest data frame in a datagram.
    pub(crate) reports: mpsc::Sender<Report>,
    pub(crate) wake: Wake,
}

/// The shared state of the packet half of one network.
pub(crate) struct Plane {
    own: PeerHash,
    device: Option<Device>,
    /// At most one a family.
    sockets: Vec<Socket>,
    /// Links with packets that wait for their turn, each once, in the order of their turns.
    waiting: Mutex<VecDeque<Arc<Link>>>,
    /// Links with packets that wait for a limit, each once.
    limited: Mutex<VecDeque<Arc<Link>>>,
    tables: RwLock<Arc<Tables>>,
    /// As many as the control half has peers.
    links: RwLock<HashMap<PeerHash, Arc<Link>>>,
    /// As many as the control half has indices.
    sessions: RwLock<HashMap<SessionIndex, Arc<Link>>>,
    flows: Mutex<FlowTable>,
    relay: Mutex<Relay>,
    answers: Mutex<Bucket>,
    cookies: Mutex<Bucket>,
    seed: FlowSeed,
    reports: mpsc::Sender<Report>,
    reader: Mutex<Reader>,
    /// Its thread waits for a packet.
    is_unread: AtomicBool,
    /// Some link keeps frames until their turn has come.
    holds: AtomicBool,
    /// Wakes the thread that reads the device.
    wake: Arc<Wake>,
    begun: Instant,
    pub(crate) counters: Counters,
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plane").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Plane {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            own: parts.own,
            reader: Mutex::new(Reader::new(parts.device.is_some())),
            is_unread: AtomicBool::new(false),
            device: parts.device,
            sockets: parts.sockets.into_iter().map(Socket::new).collect(),
            waiting: Mutex::default(),
            limited: Mutex::default(),
            tables: RwLock::new(Arc::new(parts.tables)),
            links: RwLock::default(),
            sessions: RwLock::default(),
            flows: Mutex::new(FlowTable::new(parts.seed)),
            relay: Mutex::new(Relay::new(parts.own)),
            answers: Mutex::new(Bucket::new(ANSWERS, 0)),
            cookies: Mutex::new(Bucket::new(COOKIES, 0)),
            seed: parts.seed,
            reports: parts.reports,
            holds: AtomicBool::new(false),
            wake: Arc::new(parts.wake),
            begun: Instant::now(),
            counters: Counters::default(),
        }
    }

    /// The device, if there is one.
    pub(crate) const fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }

    /// What the lanes wake when they have room again, and whoever stops the threads.
    pub(crate) const fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }

    /// New tables take the place of those before.
    pub(crate) fn publish(&self, tables: Tables) {
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tables);
    }

    fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The relay's accounts, to grant and to read.
    pub(crate) fn relay(&self) -> std::sync::MutexGuard<'_, Relay> {
        self.relay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flows(&self) -> std::sync::MutexGuard<'_, FlowTable> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All links there are.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The link to a peer, if there is one.
    pub(crate) fn link(&self, peer: &PeerHash) -> Option<Arc<Link>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).get(peer).cloned()
    }

    /// The link to a peer, made if there is none.
    pub(crate) fn ensure_link(&self, node: NodeId) -> Arc<Link> {
        let peer = PeerHash::of(&node);
        if let Some(link) = self.link(&peer) {
            return link;
        }
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(links.entry(peer).or_insert_with(|| Arc::new(Link::new(peer, node))))
    }

    fn session(&self, index: SessionIndex) -> Option<Arc<Link>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).get(&index).cloned()
    }

    fn socket(&self, to: SocketAddr) -> Option<&Socket> {
        self.sockets.iter().find(|socket| socket.udp.facts().local.is_ipv4() == to.is_ipv4())
    }

    pub(crate) fn uptime_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Whether frames wait for their turn somewhere.
    fn holds(&self) -> bool {
        self.holds.load(Ordering::Acquire)
    }

    fn uptime_ms(&self) -> u64 {
        self.uptime_us() / 1000
    }

    fn report(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            self.counters.drop("report-full");
        }
    }

    /// Whether the control half may be told of one more cookie reply.
    fn takes_cookie(&self) -> bool {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner).take(1, self.uptime_us()).is_ok()
    }

    /// Does what the control half says.
    pub(crate) fn obey(&self, command: PlaneCommand, out: &mut Outlet) {
        match command {
            PlaneCommand::Peer { node } => {
                let link = self.ensure_link(node);
                self.relay().grant(link.peer, RELAY_RATE, self.uptime_us());
            }
            PlaneCommand::Handshake { peer, on, bytes } => self.send_handshake(peer, on, &bytes, out),
            PlaneCommand::Install { peer, installed } => {
                let Some(link) = self.link(&peer) else { return };
                let index = installed.index;
                link.install(*installed);
                self.sessions.write().unwrap_or_else(PoisonError::into_inner).insert(index, link);
            }
            PlaneCommand::Use { peer, index } => {
                let Some(link) = self.link(&peer) else { return };
                for mut packet in link.use_session(index) {
                    self.handle_device(&mut packet, out);
                }
            }
            PlaneCommand::Control { peer, index, on, path, control } => {
                if let Some(link) = self.link(&peer) {
                    self.send_control(&link, index, (on, path), &control, out);
                }
            }
            PlaneCommand::RoutedControl { peer, index, hop, control } => {
                self.send_control_by(peer, index, hop, &control, out);
            }
            PlaneCommand::RoutedHandshake { peer, hop, bytes } => self.send_by(peer, hop, &bytes, out),
            PlaneCommand::Choose { peer, choice } => {
                if let Some(link) = self.link(&peer) {
                    self.change_ways(&link, &choice, out);
                }
            }
            PlaneCommand::Forget { peer } => {
                self.relay().revoke(&peer);
                self.links.write().unwrap_or_else(PoisonError::into_inner).remove(&peer);
            }
            PlaneCommand::Erase { peer, index } => {
                self.sessions.write().unwrap_or_else(PoisonError::into_inner).remove(&index);
                if let Some(link) = self.link(&peer) {
                    link.erase(index);
                }
            }
        }
        self.flush(out);
    }

    /// Sends as a choice says from now on; a fence goes as the last frame on the ways before and the first on the new ones.
    fn change_ways(&self, link: &Link, choice: &Choice, out: &mut Outlet) {
        let before = link.sending().ways;
        if let Some(fence) = choice.fence {
            for (carriers, path) in [(before, fence.from), (choice.ways, fence.to)] {
                for on in carriers.carriers() {
                    self.send_control(link, None, (on, path), &Control::Fence(fence), out);
                }
                self.flush(out);
                link.sending().go(choice);
            }
        }
        link.sending().go(choice);
        self.look_again(link);
    }
}
