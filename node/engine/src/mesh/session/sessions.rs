//! All sessions with one peer: events in through `handle_*`, effects out through [`Sessions::poll`]. It sends nothing,
//! reads no clock, and keeps no key of a session: those leave with [`Effect::Install`].
//!
//! At most three sessions and one own handshake exist at a time: *next* (made as responder, not yet used by its
//! initiator), *current* (what is sealed with), *previous* (frames under way). A frame of *next* makes it current.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use shoal_protocol::mesh::key::MeshKey;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::content::{CloseReason, Control};
use shoal_protocol::mesh::session::handshake::{Offer, Stamp};
use shoal_protocol::{NetworkId, NodeId, Verified};
use zeroize::Zeroizing;

use super::drops::{Dropped, Drops};
use super::effect::{Context, Down, Effect, Traffic};
use super::gate::OwnKey;
use super::keys::Secret;
use super::live::{Live, UNCONFIRMED_MS};
use super::noise::{PSK, PublicKeyOperations};
use super::pending::Pending;
use super::roaming::Roaming;
use crate::path::{CARRIERS_MAX, Carrier};

/// Effects kept until they are polled. One event makes at most [`EVENT_EFFECTS`]; an owner who does not drain after each
/// event is refused further ones rather than given half of what they cause.
pub const EFFECTS_MAX: usize = 64;
/// Effects of one event: an initiation on every carrier, and what becomes of four sessions.
pub const EVENT_EFFECTS: usize = CARRIERS_MAX + 12;

/// A node as handshakes name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// Its id.
    pub node: NodeId,
    /// Its peer hash (§16); the smaller of two initiates.
    pub hash: PeerHash,
}

impl From<NodeId> for Party {
    fn from(node: NodeId) -> Self {
        Self { node, hash: PeerHash::of(&node) }
    }
}

/// Who talks to whom, in which network.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The network.
    pub network: NetworkId,
    /// This node.
    pub own: Party,
    /// The other one.
    pub peer: Party,
    /// What this node takes in.
    pub offer: Offer,
}

/// Why a mesh key record of the peer was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefused {
    /// Signed by another node.
    #[error("mesh key of another node")]
    WrongNode,
    /// Not newer than the known one.
    #[error("mesh key is not newer")]
    NotNewer,
}

/// The sessions with one peer.
#[derive(Debug)]
pub struct Sessions {
    pub(super) pair: Pair,
    pub(super) own: Arc<OwnKey>,
    pub(super) peer_key: MeshKey,
    /// Zeros until the control lane has given a secret.
    pub(super) psk: Secret,
    /// Carriers that are up, at most [`CARRIERS_MAX`].
    pub(super) carriers: BTreeSet<Carrier>,
    pub(super) pending: Option<Box<Pending>>,
    pub(super) next: Option<Live>,
    pub(super) current: Option<Live>,
    pub(super) previous: Option<Live>,
    /// Which way the last authentic message came.
    pub(super) last_from: Option<Carrier>,
    pub(super) roaming: Roaming,
    /// Greatest stamp of the peer's newest key.
    pub(super) heard: Option<(u64, Stamp)>,
    pub(super) accepted_ms: Option<u64>,
    pub(super) last_stamp: Stamp,
    /// Packets wait for a session.
    pub(super) wanted: bool,
    /// Own initiations since a session was last put in use.
    pub(super) tries: u32,
    /// No own handshake before, after one could not be begun.
    pub(super) rest_until_ms: u64,
    pub(super) effects: VecDeque<Effect>,
    pub(super) drops: Drops,
    pub(super) operations: PublicKeyOperations,
}

impl Sessions {
    /// No session yet, with a peer whose mesh key record was verified.
    ///
    /// # Errors
    /// [`KeyRefused::WrongNode`] if the record is not the peer's own.
    pub fn new(pair: Pair, own: Arc<OwnKey>, peer_key: Verified<MeshKey>) -> Result<Self, KeyRefused> {
        if NodeId::from(*peer_key.signer()) != pair.peer.node {
            return Err(KeyRefused::WrongNode);
        }
        Ok(Self {
            pair,
            own,
            peer_key: peer_key.into_inner(),
            psk: Secret(Zeroizing::new([0; PSK])),
            carriers: BTreeSet::new(),
            pending: None,
            next: None,
            current: None,
            previous: None,
            last_from: None,
            roaming: Roaming::default(),
            heard: None,
            accepted_ms: None,
            last_stamp: Stamp::default(),
            wanted: false,
            tries: 0,
            rest_until_ms: 0,
            effects: VecDeque::new(),
            drops: Drops::default(),
            operations: PublicKeyOperations::default(),
        })
    }

    /// The peer's newer mesh key: later handshakes use it.
    ///
    /// # Errors
    /// [`KeyRefused`]; nothing changes.
    pub fn set_peer_key(&mut self, record: Verified<MeshKey>) -> Result<(), KeyRefused> {
        if NodeId::from(*record.signer()) != self.pair.peer.node {
            return Err(KeyRefused::WrongNode);
        }
        if record.epoch <= self.peer_key.epoch {
            return Err(KeyRefused::NotNewer);
        }
        self.peer_key = record.into_inner();
        self.rest_until_ms = 0;
        Ok(())
    }

    /// This node's newer mesh key: later initiations use it.
    pub fn set_own_key(&mut self, own: Arc<OwnKey>) {
        self.own = own;
        self.last_stamp = Stamp::default();
    }

    /// The secret both have from their control lane; it counts from the next handshake on.
    pub fn set_psk(&mut self, psk: Zeroizing<[u8; PSK]>) {
        self.psk = Secret(psk);
    }

    /// A carrier came up or went down. Beyond [`CARRIERS_MAX`] carriers none is taken.
    pub fn handle_carrier(&mut self, carrier: Carrier, up: bool) {
        if !up {
            self.carriers.remove(&carrier);
            self.roaming.forget(carrier);
            if self.last_from == Some(carrier) {
                self.last_from = None;
            }
        } else if self.carriers.len() < CARRIERS_MAX {
            self.carriers.insert(carrier);
        }
    }

    /// Packets for the peer wait.
    pub fn handle_want(&mut self, cx: &mut Context<'_>) {
        if !self.has_room() {
            return;
        }
        self.wanted = self.current.is_none();
        self.begin_if_needed(cx);
    }

    /// An authentic frame of session `index` came `from` there. To be called for the first frame of a session, whenever
    /// it comes another way than the one before, and otherwise as often as is convenient.
    pub fn handle_opened(&mut self, index: SessionIndex, from: Carrier, cx: &mut Context<'_>) {
        if !self.has_room() {
            return;
        }
        let now_ms = cx.now.uptime_ms;
        if self.next.as_ref().is_some_and(|live| live.index == index) {
            self.confirm(from, cx);
        }
        let Some(live) = self.in_use(index) else {
            return self.drops.add(Dropped::NoSession);
        };
        live.heard();
        if let Some(token) = self.roaming.heard(from, now_ms, cx.random) {
            self.push(Effect::Control { index, on: from, control: Control::Challenge(token) });
        }
        if self.roaming.is_validated(from) {
            self.last_from = Some(from);
        }
    }

    /// A word of the peer, opened in a frame of session `index` that came `from` there, after [`Self::handle_opened`].
    /// Fences, probes and echoes are the path agent's and change nothing here.
    pub fn handle_control(&mut self, index: SessionIndex, from: Carrier, control: Control, cx: &mut Context<'_>) {
        if !self.has_room() {
            return;
        }
        match control {
            Control::Challenge(token) => {
                self.push(Effect::Control { index, on: from, control: Control::Answer(token) })
            }
            Control::Answer(token) => {
                if let Some(carrier) = self.roaming.answered(&token, cx.now.uptime_ms) {
                    self.push(Effect::Validated { carrier });
                }
            }
            Control::Close(reason) => self.end(Down::Closed(reason), cx),
            Control::Keepalive | Control::Fence(_) | Control::Probe { .. } | Control::Echo { .. } => {}
        }
    }

    /// What session `index` has carried until now. To be told at least once a second while it carries anything.
    pub fn handle_traffic(&mut self, index: SessionIndex, traffic: Traffic, cx: &mut Context<'_>) {
        if !self.has_room() {
            return;
        }
        if let Some(live) = self.in_use(index) {
            live.count(traffic, cx.now.uptime_ms);
        }
        self.begin_if_needed(cx);
    }

    /// Time passed: what is due becomes effects. To be called a few times a second.
    pub fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        if !self.has_room() {
            return;
        }
        let now_ms = cx.now.uptime_ms;
        self.erase_if(|live| live.is_over(now_ms), Slot::Previous, cx);
        self.erase_if(|live| now_ms.saturating_sub(live.made_ms) >= UNCONFIRMED_MS, Slot::Next, cx);
        if let Some(live) = self.current.as_ref().filter(|live| live.is_over(now_ms)) {
            let why = if live.is_active(now_ms) { Down::Expired } else { Down::Idle };
            self.erase_if(|_| true, Slot::Current, cx);
            self.erase_if(|_| true, Slot::Previous, cx);
            self.wanted |= why == Down::Expired;
            self.push(Effect::Down(why));
        }
        let keepalive = self.current.as_mut().and_then(|live| live.take_keepalive(now_ms).then_some(live.index));
        if let Some(index) = keepalive {
            self.push_on_best(index, Control::Keepalive);
        }
        self.retry_if_due(cx);
        self.begin_if_needed(cx);
    }

    /// Ends everything with this peer: it left the network, or the program stops.
    pub fn close(&mut self, reason: CloseReason, cx: &mut Context<'_>) {
        if let Some(index) = self.current.as_ref().map(|live| live.index) {
            self.push_on_best(index, Control::Close(reason));
        }
        self.end(Down::Ended, cx);
    }

    /// The next thing to be done; drain it after every event.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The session that is sealed with.
    #[must_use]
    pub fn current(&self) -> Option<SessionIndex> {
        self.current.as_ref().map(|live| live.index)
    }

    /// Whether there is neither a session nor a handshake.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.current.is_none() && self.next.is_none() && self.previous.is_none() && self.pending.is_none()
    }

    /// What was refused, by reason; that of frames is counted by their [`super::RxHalf`].
    #[must_use]
    pub const fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Multiplications on the curve so far.
    #[must_use]
    pub const fn operations(&self) -> &PublicKeyOperations {
        &self.operations
    }

    /// Whether this node has the smaller hash.
    pub(super) fn is_younger(&self) -> bool {
        self.pair.own.hash < self.pair.peer.hash
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(super) fn has_room(&mut self) -> bool {
        let room = self.effects.len().saturating_add(EVENT_EFFECTS) <= EFFECTS_MAX;
        if !room {
            self.drops.add(Dropped::Busy);
        }
        room
    }

    /// Puts a session in use: what was current is kept for the frames under way.
    pub(super) fn promote(&mut self, live: Live, cx: &mut Context<'_>) {
        self.erase_if(|_| true, Slot::Previous, cx);
        let (index, before) = (live.index, self.current.replace(live));
        self.push(Effect::Use { index });
        if before.is_none() {
            self.push(Effect::Up);
        }
        self.previous = before;
        self.wanted = false;
        self.tries = 0;
    }

    pub(super) fn erase_if(&mut self, test: impl Fn(&Live) -> bool, slot: Slot, cx: &mut Context<'_>) {
        let slot = match slot {
            Slot::Next => &mut self.next,
            Slot::Current => &mut self.current,
            Slot::Previous => &mut self.previous,
        };
        if let Some(live) = slot.take_if(|live| test(live)) {
            cx.indices.release(live.index);
            self.push(Effect::Erase { index: live.index });
        }
    }

    pub(super) fn push_on_best(&mut self, index: SessionIndex, control: Control) {
        if let Some(on) = self.last_from.or_else(|| self.carriers.first().copied()) {
            self.push(Effect::Control { index, on, control });
        }
    }

    fn in_use(&mut self, index: SessionIndex) -> Option<&mut Live> {
        [self.current.as_mut(), self.previous.as_mut()].into_iter().flatten().find(|live| live.index == index)
    }

    /// The initiator uses the session it made with us: so do we, and say so.
    fn confirm(&mut self, from: Carrier, cx: &mut Context<'_>) {
        if let Some(live) = self.next.take() {
            let index = live.index;
            self.promote(live, cx);
            self.push(Effect::Control { index, on: from, control: Control::Keepalive });
        }
    }

    fn end(&mut self, why: Down, cx: &mut Context<'_>) {
        self.drop_pending(cx);
        let was_up = self.current.is_some();
        for slot in [Slot::Next, Slot::Previous, Slot::Current] {
            self.erase_if(|_| true, slot, cx);
        }
        self.wanted = false;
        if was_up {
            self.push(Effect::Down(why));
        }
    }
}

/// Where a session is kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    Next,
    Current,
    Previous,
}
