//! The task of the control half: events in from swarm, lanes, threads and clock, what the engine wants carried out. It
//! decides nothing itself.
//!
//! | task | started | ends | lost then |
//! |---|---|---|---|
//! | this one | with the network | when it is told to stop | nothing that is not said again |
//! | a neighbour's words | when there is something to say | with the connection | words under way |
//! | a lane's reader and writer | with the lane | with it | frames under way |

mod lanes;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures::StreamExt;
use shoal_engine::mesh::network::{Env, Network, NetworkEffect, NoPing, Unsigned};
use shoal_engine::mesh::session::Load;
use shoal_protocol::control::Request;
use shoal_protocol::local::{Complaint, PeerName};
use shoal_protocol::mesh::claim::Claim;
use shoal_protocol::mesh::message::MeshMessage;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::session::content::Control as SessionControl;
use shoal_protocol::signed::Statement;
use shoal_protocol::{NetworkId, NodeId, Signed, codec};
use shoal_swarm::{SwarmHandle, TunnelLane};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::asked::{self, Begun, Pings, Question, ReplyTo};
use super::dns::Desk;
use super::key_epoch::KeyEpochFile;
use super::neighbours::Words;
use super::places::Places;
use super::plane::send::Outlet;
use super::plane::{Plane, Report};
use super::roles::keeper::{Change, Keeper};
use super::roles::system::SystemError;
use super::system::netlink::{self, Address, Netlink, Watch};
use super::userspace::stack::Stack;
use super::views;
use crate::clock;
use crate::files::write_private;

/// How often the engine is told the time, and what the links did.
const TICK: Duration = Duration::from_millis(50);
/// Events that may wait for the task.
const EVENTS_MAX: usize = 1024;
/// Handshakes a tick may bring before initiators have to show that they receive: 2,000 a second, a fifth of a core.
const CALM_HANDSHAKES: usize = 100;

/// What the task is told from outside.
#[derive(Debug)]
pub(crate) enum VpnEvent {
    /// There is a connection to a peer.
    Connected(NodeId),
    /// There is none any more.
    Disconnected(NodeId),
    /// A peer said something on its control lane.
    Message { from: NodeId, seen: Option<IpAddr>, message: Box<MeshMessage> },
    /// A lane was opened.
    Lane(Box<TunnelLane>),
    /// Nobody opens this lane any more.
    NoLane(NodeId),
    /// A lane is gone, this one.
    LaneGone(NodeId, u64),
    /// Somebody asks on the control socket.
    Ask(Question, ReplyTo),
    /// The system was brought to what the roles need, or not.
    Made(Result<(), SystemError>),
    /// Say goodbye, and answer when it is said.
    Stop(oneshot::Sender<()>),
}

/// Where to tell the task something. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct VpnHandle {
    events: mpsc::Sender<VpnEvent>,
}

impl VpnHandle {
    /// A handle, and what is said to it.
    pub(crate) fn new() -> (Self, mpsc::Receiver<VpnEvent>) {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        (Self { events }, receiver)
    }

    /// Tells the task something; whether it had room to hear it.
    pub(crate) fn tell(&self, event: VpnEvent) -> bool {
        self.events.try_send(event).is_ok()
    }

    /// Whether the task has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.events.is_closed()
    }

    /// As [`Self::tell`], and waits for room.
    pub(crate) async fn tell_surely(&self, event: VpnEvent) {
        // The task is gone: then nobody needs to hear it.
        let _ = self.events.send(event).await;
    }
}

/// The device, to give it addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    /// Bits of the pool.
    pub(crate) pool_length: u8,
}

/// What the task is made of.
pub(crate) struct Parts {
    pub(crate) network: Network,
    pub(crate) id: NetworkId,
    pub(crate) plane: Arc<Plane>,
    pub(crate) key: SigningKey,
    pub(crate) swarm: SwarmHandle,
    pub(crate) netlink: Netlink,
    pub(crate) interface: Option<Interface>,
    /// Which addresses of this machine others may send datagrams to.
    pub(crate) places: Places,
    pub(crate) claim_file: PathBuf,
    pub(crate) key_epoch: KeyEpochFile,
    /// What the name server is told.
    pub(crate) names: Desk,
    pub(crate) handle: VpnHandle,
    /// The roles of this node.
    pub(crate) keeper: Keeper,
    /// The stack in this process, to give it addresses.
    pub(crate) stack: Option<Arc<Stack>>,
}

/// See the head of this file.
pub(crate) struct Control {
    parts: Parts,
    words: BTreeMap<NodeId, Words>,
    /// Lanes that somebody opens now.
    opening: BTreeSet<NodeId>,
    /// The lane of a neighbour, by number.
    lanes: BTreeMap<NodeId, u64>,
    next_lane: u64,
    /// Two of each lane; they hold the device, and end with this task.
    lane_tasks: JoinSet<()>,
    address: Option<Ipv4Addr>,
    handshakes: usize,
    /// An address of this machine came or went.
    moved: bool,
    /// Where packets go is otherwise than it was.
    published: bool,
    pings: Pings,
    ticks: u32,
    out: Outlet,
}

impl Control {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            words: BTreeMap::new(),
            opening: BTreeSet::new(),
            lanes: BTreeMap::new(),
            next_lane: 0,
            lane_tasks: JoinSet::new(),
            address: None,
            handshakes: 0,
            moved: false,
            published: false,
            pings: Pings::default(),
            ticks: 0,
            out: Outlet::default(),
        }
    }

    /// The first effects: keys are signed, the own addresses set and the system ready for the roles of this node, before
    /// anybody is told that the node is ready.
    ///
    /// # Errors
    /// [`SystemError`], if the system is not.
    pub(crate) fn prepare(&mut self) -> Result<(), SystemError> {
        self.carry_out();
        let now = clock::now();
        if let Some(job) = self.parts.keeper.due(&self.parts.network, now) {
            job.run()?;
            self.parts.keeper.made(Ok(()), now);
        }
        Ok(())
    }

    /// The IPv4 address of this node, if it has one.
    pub(crate) const fn address(&self) -> Option<Ipv4Addr> {
        self.address
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<VpnEvent>,
        mut reports: mpsc::Receiver<Report>,
        mut watch: Watch,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(VpnEvent::Stop(done)) => {
                        self.event(Network::leave);
                        let refused: Vec<_> = self.parts.network.refused().collect();
                        let (drops, dropped) = (self.parts.plane.counters.drops(), self.parts.network.drops());
                        tracing::debug!(?drops, ?dropped, ?refused, "the private network ends");
                        self.lane_tasks.shutdown().await;
                        drop(self);
                        // Whoever asked may be gone.
                        let _ = done.send(());
                        return;
                    }
                    Some(event) => self.heard(event),
                    None => return,
                },
                Some(report) = reports.recv() => self.reported(report),
                Some(change) = watch.next() => self.changed(&change),
                _ = tick.tick() => self.tick(),
            }
        }
    }

    fn heard(&mut self, event: VpnEvent) {
        match event {
            VpnEvent::Connected(node) => self.event(|network, env| network.handle_connected(node, env)),
            VpnEvent::Disconnected(node) => {
                self.words.remove(&node);
                // The engine takes its lane for gone: were it kept, the one asked for next would not be opened.
                if self.lanes.remove(&node).is_some() {
                    self.set_lane(node, None);
                }
                self.event(|network, env| network.handle_disconnected(node, env));
            }
            VpnEvent::Message { from, seen, message } => {
                self.event(|network, env| network.handle_message(from, seen, *message, env));
            }
            VpnEvent::Lane(lane) => self.lane_opened(*lane),
            VpnEvent::NoLane(node) => {
                self.opening.remove(&node);
                // A connection that came back meanwhile found somebody opening its lane.
                if self.parts.swarm.link(&node).is_some() {
                    self.open_lane(node);
                }
            }
            VpnEvent::LaneGone(node, number) => {
                if self.lanes.get(&node) == Some(&number) {
                    self.lanes.remove(&node);
                    self.set_lane(node, None);
                    self.event(|network, env| network.handle_lane(node, false, env));
                }
            }
            VpnEvent::Ask(question, reply) => self.asked(question, reply),
            VpnEvent::Made(result) => self.parts.keeper.made(result, clock::now()),
            VpnEvent::Stop(_) => {}
        }
    }

    fn asked(&mut self, question: Question, reply: ReplyTo) {
        let told = match question {
            Question::Ping(name) => match self.ping(name) {
                Ok((number, begun)) => return self.pings.wait(number, begun, reply),
                Err(complaint) => Err(complaint),
            },
            Question::Exit(name) => match views::exit(&self.parts.network, name) {
                Ok(exit) => return self.change(Change::Exit(exit), reply),
                Err(complaint) => Err(complaint),
            },
            Question::Change(change) => return self.change(change, reply),
            other => views::told((&self.parts.network, &self.parts.plane, &self.parts.keeper), &other, clock::now()),
        };
        // Whoever asked may be gone.
        let _ = reply.send(told);
    }

    /// Changes the roles of this node.
    fn change(&mut self, change: Change, reply: ReplyTo) {
        let Parts { keeper, network, .. } = &mut self.parts;
        let mut env = Env { now: clock::now(), random: &mut clock::fill_random };
        keeper.change(change, network, &mut env, reply);
        self.carry_out();
    }

    /// Has the system follow the roles of this node, where it has to.
    fn follow(&mut self) {
        let Some(job) = self.parts.keeper.due(&self.parts.network, clock::now()) else { return };
        let handle = self.parts.handle.clone();
        tokio::spawn(async move {
            let made = tokio::task::spawn_blocking(|| job.run()).await;
            let result = made.unwrap_or_else(|error| Err(SystemError::Ended(error)));
            handle.tell_surely(VpnEvent::Made(result)).await;
        });
    }

    /// Sends a probe; its number and what waits for it.
    fn ping(&mut self, name: PeerName) -> Result<(u32, Begun), Complaint> {
        let node = views::find(&self.parts.network, name)?;
        if self.pings.is_full() {
            return Err(asked::busy());
        }
        let (peer, number) = (PeerHash::of(&node), self.pings.next_number());
        let begun_us = self.parts.plane.uptime_us();
        let mut sent = Err(NoPing::Unknown);
        self.event(|network, env| sent = network.handle_ping(peer, number, env));
        let on = sent.map_err(|reason| asked::no_ping(&node, reason))?;
        Ok((number, Begun { node, peer, on, begun_us }))
    }

    fn reported(&mut self, report: Report) {
        match report {
            Report::Handshake { bytes, from, via } => {
                self.handshakes = self.handshakes.saturating_add(1);
                let load = if self.handshakes > CALM_HANDSHAKES { Load::High } else { Load::Calm };
                self.event(|network, env| network.handle_handshake(&bytes, from, via, load, env));
            }
            Report::Opened { index, from } => self.event(|network, env| network.handle_opened(index, from, env)),
            Report::Control { index, from, control } => {
                if let SessionControl::Echo { number } = control {
                    let peer = self.parts.network.peer_of(index);
                    self.pings.heard(number, peer, self.parts.plane.uptime_us());
                }
                self.event(|network, env| network.handle_control(index, from, control, env));
            }
            Report::Want { peer } => self.event(|network, env| network.handle_want(peer, env)),
        }
    }

    /// The network changed under this machine. What came of it is looked at with the next tick, once for all changes.
    fn changed(&mut self, change: &io::Result<netlink::Change>) {
        match change {
            Ok(netlink::Change::Address(_) | netlink::Change::AddressGone(_) | netlink::Change::Missed) => {
                self.moved = true
            }
            Ok(netlink::Change::Link(_) | netlink::Change::LinkGone(_) | netlink::Change::Route { .. }) => {}
            Err(error) => tracing::warn!(%error, "changes of this machine's addresses are not seen any more"),
        }
    }

    fn look_around(&mut self) {
        let Parts { keeper, netlink, network, .. } = &mut self.parts;
        let mut env = Env { now: clock::now(), random: &mut clock::fill_random };
        keeper.look(netlink, network, &mut env);
        match self.parts.places.endpoints(&mut self.parts.netlink) {
            Ok(endpoints) => self.event(|network, env| network.handle_endpoints(endpoints, env)),
            Err(error) => tracing::warn!(%error, "the addresses of this machine cannot be read"),
        }
    }

    fn tick(&mut self) {
        self.handshakes = 0;
        // Those that ended are forgotten.
        while self.lane_tasks.try_join_next().is_some() {}
        if std::mem::take(&mut self.moved) {
            self.look_around();
        }
        self.pings.give_up(self.parts.plane.uptime_us());
        self.look_at_round_trips();
        for link in self.parts.plane.links() {
            let activity = link.take_activity();
            let peer = link.peer;
            for on in activity.sent_on {
                self.event(|network, env| network.handle_sent(peer, on, env));
            }
            for on in activity.heard_on {
                self.event(|network, env| network.handle_received(peer, on, env));
            }
            for (index, traffic) in activity.traffic {
                self.event(|network, env| network.handle_traffic(index, traffic, env));
            }
        }
        let relayed: Vec<PeerHash> = self.parts.plane.relay().take_destinations().collect();
        self.event(|network, env| network.handle_relayed(relayed, env));
        self.event(Network::handle_timeout);
        self.follow();
        let Parts { keeper, network, names, id, .. } = &mut self.parts;
        if std::mem::take(&mut self.published) {
            names.ask(keeper.roles().ask_others(network.exit(), id));
        }
        names.tick(network);
    }

    /// Tells the engine something and carries out what it wants.
    fn event(&mut self, event: impl FnOnce(&mut Network, &mut Env<'_>)) {
        event(&mut self.parts.network, &mut Env { now: clock::now(), random: &mut clock::fill_random });
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.parts.network.poll() {
            match effect {
                NetworkEffect::Tell { to, message } => self.tell(to, message),
                NetworkEffect::OpenLane(node) => self.open_lane(node),
                NetworkEffect::CloseLane(node) => {
                    self.lanes.remove(&node);
                    self.set_lane(node, None);
                    self.event(|network, env| network.handle_lane(node, false, env));
                }
                NetworkEffect::Sign(unsigned) => self.sign(&unsigned),
                NetworkEffect::SaveClaim(claim) => self.save(&claim),
                NetworkEffect::SaveName(claim) => self.parts.names.save(&claim),
                NetworkEffect::Names => self.parts.names.changed(),
                NetworkEffect::SaveKeyEpoch(epoch) => self.save_key_epoch(epoch),
                NetworkEffect::OwnAddress(address) => {
                    self.set_address(address);
                    self.parts.keeper.note();
                }
                NetworkEffect::Publish => {
                    self.published = true;
                    self.parts.plane.publish(self.parts.network.tables());
                    self.parts.keeper.note();
                }
                NetworkEffect::Plane(command) => self.parts.plane.obey(command, &mut self.out),
            }
        }
    }

    fn tell(&mut self, to: NodeId, message: Box<MeshMessage>) {
        let swarm = &self.parts.swarm;
        let words = self.words.entry(to).or_insert_with(|| Words::to(to, swarm.clone()));
        if !words.say(Request::Mesh(message).to_bytes().into()) {
            self.parts.plane.counters.drop("words-full");
        }
    }

    fn sign(&mut self, unsigned: &Unsigned) {
        match unsigned {
            Unsigned::Key(said) => {
                let signed = self.seal(said);
                self.event(|network, env| network.handle_signed_key(signed, env));
            }
            Unsigned::Claim(said) => {
                let signed = self.seal(said);
                self.event(|network, env| network.handle_signed_claim(signed, env));
            }
            Unsigned::Name(said) => {
                let signed = self.seal(said);
                self.event(|network, env| network.handle_signed_name(signed, env));
            }
            Unsigned::Origin(said) => {
                let signed = self.seal(said);
                self.event(|network, env| network.handle_signed_origin(signed, env));
            }
        }
    }

    fn seal<T: Statement>(&self, said: &T) -> Signed {
        Signed::seal(said, &self.parts.key, &self.parts.id)
    }

    /// A claim that is not kept costs the address of the next run, perhaps.
    fn save(&self, claim: &Claim) {
        if let Err(error) = write_private(&self.parts.claim_file, &codec::encode(claim)) {
            tracing::warn!(%error, file = %self.parts.claim_file.display(), "the claim of the own address is not kept");
        }
    }

    /// An epoch that is not kept matters only where the clock is set back, and others tell of it then.
    fn save_key_epoch(&self, epoch: u64) {
        if let Err(error) = self.parts.key_epoch.save(epoch) {
            tracing::warn!(%error, "the epoch of the mesh key is not kept");
        }
    }

    fn set_address(&mut self, address: Option<Ipv4Addr>) {
        let before = std::mem::replace(&mut self.address, address);
        if let Some(stack) = &self.parts.stack {
            stack.set_ipv4(address);
            self.parts.names.moved(address);
        }
        let Some(Interface { index, pool_length }) = self.parts.interface else { return };
        let netlink = &mut self.parts.netlink;
        let of = |address: Ipv4Addr| Address { link: index, address: address.into(), prefix_length: pool_length };
        if let Some(address) = address
            && let Err(error) = netlink.add_address(&of(address))
        {
            tracing::error!(%error, %address, "the device did not get its address");
        }
        if let Some(before) = before.filter(|before| Some(*before) != address)
            && let Err(error) = netlink.remove_address(&of(before))
        {
            tracing::warn!(%error, address = %before, "the device keeps an address it no longer has");
        }
        self.parts.names.moved(address);
    }
}
