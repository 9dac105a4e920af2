//! One other member as the packet half sees it: the halves of its sessions, the ways in use, what waits to be sent. The
//! control half says what is in it; the threads that carry packets seal and open with it, one at a time each way.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shoal_engine::mesh::packet::ecn::Ecn;
use shoal_engine::mesh::qos::Queue;
use shoal_engine::mesh::session::{Dropped, Installed, RxHalf, Traffic, TxHalf};
use shoal_engine::path::fence::FenceGate;
use shoal_engine::path::{Carrier, Choice, Ways};
use shoal_protocol::NodeId;
use shoal_protocol::mesh::offloads::Offloads;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::frame::PathId;
use shoal_protocol::mesh::session::handshake::Offer;

use super::lane::LaneQueue;
use super::limit::Limits;
use super::queue::Waiting;

/// Packets that wait for a session: a few, for who asks first asks again soon.
const PARKED_MAX: usize = 32;
/// Bytes of them.
const PARKED_BYTES: usize = 256 * 1024;

/// A session that is wanted is asked for again after this long, milliseconds: sessions themselves try for longer.
const WANT_AGAIN_MS: u64 = 1_000;

/// A sealing half and what the far side takes.
#[derive(Debug)]
pub(super) struct Sealer {
    pub(super) tx: TxHalf,
    pub(super) offer: Offer,
}

/// What sends.
#[derive(Debug)]
pub(super) struct Sending {
    halves: BTreeMap<SessionIndex, Sealer>,
    using: Option<SessionIndex>,
    pub(super) ways: Ways,
    /// Longest frame of these ways, bytes.
    pub(super) frame: usize,
    pub(super) lane: Option<LaneQueue>,
    /// Carriers that packets went on since the control half last asked.
    pub(super) used: Vec<Carrier>,
    /// Packets whose turn on this link has not come; there while it is full.
    pub(super) queue: Option<Box<Queue<Waiting>>>,
    /// Packets, each with its virtio header, that wait for a session.
    parked: Vec<Vec<u8>>,
    parked_bytes: usize,
    /// When the control half was last told that a session is wanted, milliseconds of uptime.
    wanted_ms: Option<u64>,
}

impl Sending {
    /// Sends as this says from now on.
    pub(super) fn go(&mut self, choice: &Choice) {
        (self.ways, self.frame) = (choice.ways, usize::from(choice.frame));
    }

    /// The half that is sealed with.
    pub(super) fn sealer(&mut self) -> Option<&mut Sealer> {
        self.halves.get_mut(&self.using?)
    }

    /// The half of this session, or the one in use.
    pub(super) fn sealer_of(&mut self, index: Option<SessionIndex>) -> Option<&mut Sealer> {
        self.halves.get_mut(&index.or(self.using)?)
    }

    /// What the far side takes unfinished, and its longest frame.
    pub(super) fn far(&self) -> Option<(Offloads, u16)> {
        let sealer = self.halves.get(&self.using?)?;
        Some((sealer.offer.offloads, sealer.offer.max_frame))
    }

    /// Keeps a packet until there is a session; says whether there was room.
    pub(super) fn park(&mut self, packet: &[u8]) -> bool {
        let fits = self.parked.len() < PARKED_MAX && self.parked_bytes.saturating_add(packet.len()) <= PARKED_BYTES;
        if fits {
            self.parked_bytes = self.parked_bytes.saturating_add(packet.len());
            self.parked.push(packet.to_vec());
        }
        fits
    }

    /// Whether the control half is to be told that a session is wanted: at once, and again where none came of it.
    pub(super) fn wants_session(&mut self, now_ms: u64) -> bool {
        let again = self.wanted_ms.is_none_or(|told| now_ms.saturating_sub(told) >= WANT_AGAIN_MS);
        if again {
            self.wanted_ms = Some(now_ms);
        }
        again
    }

    /// Notes that packets went on a carrier.
    pub(super) fn note(&mut self, on: Carrier) {
        if !self.used.contains(&on) {
            self.used.push(on);
        }
    }
}

/// A frame, opened, whose turn has not come.
#[derive(Debug)]
pub(super) struct Held {
    path: PathId,
    pub(super) frame: Vec<u8>,
    /// What its datagram said of congestion.
    pub(super) outer: Ecn,
}

/// What receives.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    halves: BTreeMap<SessionIndex, RxHalf>,
    pub(super) gate: FenceGate,
    /// As many as the gate lets wait.
    held: Vec<Held>,
    /// The last session and carrier an authentic frame came by: another is told at once.
    pub(super) last: Option<(SessionIndex, Carrier)>,
    /// Carriers that frames came by since the control half last asked.
    pub(super) heard: Vec<Carrier>,
}

impl Receiving {
    /// The half of a session.
    pub(super) fn opener(&mut self, index: SessionIndex) -> Result<&mut RxHalf, Dropped> {
        self.halves.get_mut(&index).ok_or(Dropped::NoSession)
    }

    /// Keeps an opened frame until the gate lets it go.
    pub(super) fn hold(&mut self, path: PathId, frame: &[u8], outer: Ecn) {
        self.held.push(Held { path, frame: frame.to_vec(), outer });
    }

    /// The frames of a path that were kept, in their order.
    pub(super) fn release(&mut self, path: PathId) -> Vec<Held> {
        let (freed, kept) = std::mem::take(&mut self.held).into_iter().partition(|held| held.path == path);
        self.held = kept;
        freed
    }

    /// Whether any are kept.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Notes an authentic frame; says whether it came another way than the one before.
    pub(super) fn note(&mut self, index: SessionIndex, from: Carrier) -> bool {
        if !self.heard.contains(&from) {
            self.heard.push(from);
        }
        self.last.replace((index, from)) != Some((index, from))
    }
}

/// What one link did since the control half last asked.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    pub(crate) sent_on: Vec<Carrier>,
    pub(crate) heard_on: Vec<Carrier>,
    pub(crate) traffic: Vec<(SessionIndex, Traffic)>,
}

/// What waits on a link now, packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// For its turn.
    pub(crate) queued: (usize, usize),
    /// For a session.
    pub(crate) parked: (usize, usize),
    /// For a limit, both ways.
    pub(crate) limited: (usize, usize),
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerHash,
    pub(crate) node: NodeId,
    sending: Mutex<Sending>,
    receiving: Mutex<Receiving>,
    limits: Mutex<Limits>,
}

impl Link {
    pub(crate) fn new(peer: PeerHash, node: NodeId) -> Self {
        let sending = Sending {
            halves: BTreeMap::new(),
            using: None,
            ways: Ways::None,
            frame: 0,
            lane: None,
            used: Vec::new(),
            queue: None,
            parked: Vec::new(),
            parked_bytes: 0,
            wanted_ms: None,
        };
        Self { peer, node, sending: Mutex::new(sending), receiving: Mutex::default(), limits: Mutex::default() }
    }

    pub(super) fn sending(&self) -> MutexGuard<'_, Sending> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn receiving(&self) -> MutexGuard<'_, Receiving> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes both halves of a session.
    pub(super) fn install(&self, installed: Installed) {
        let Installed { index, tx, rx, offer, .. } = installed;
        self.receiving().halves.insert(index, rx);
        self.sending().halves.insert(index, Sealer { tx, offer });
    }

    /// Seals with this session from now on; gives back the packets that waited for it.
    pub(super) fn use_session(&self, index: SessionIndex) -> Vec<Vec<u8>> {
        let mut sending = self.sending();
        sending.using = Some(index);
        sending.wanted_ms = None;
        sending.parked_bytes = 0;
        std::mem::take(&mut sending.parked)
    }

    /// Wipes both halves of a session.
    pub(super) fn erase(&self, index: SessionIndex) {
        self.receiving().halves.remove(&index);
        let mut sending = self.sending();
        sending.halves.remove(&index);
        if sending.using == Some(index) {
            sending.using = None;
        }
    }

    /// What happened since this was last asked.
    pub(crate) fn take_activity(&self) -> Activity {
        let mut sending = self.sending();
        let sent_on = std::mem::take(&mut sending.used);
        let mut receiving = self.receiving();
        let heard_on = std::mem::take(&mut receiving.heard);
        let mut traffic = Vec::new();
        if !sent_on.is_empty() || !heard_on.is_empty() {
            for (index, sealer) in &sending.halves {
                if let Some(rx) = receiving.halves.get(index) {
                    traffic.push((*index, Traffic::of(&sealer.tx, rx)));
                }
            }
        }
        Activity { sent_on, heard_on, traffic }
    }

    /// What waits here.
    pub(crate) fn backlog(&self) -> Backlog {
        let limited = self.limits().waiting();
        let sending = self.sending();
        let queued = sending.queue.as_ref().map_or((0, 0), |queue| (queue.len(), queue.bytes()));
        Backlog { queued, parked: (sending.parked.len(), sending.parked_bytes), limited }
    }
}
