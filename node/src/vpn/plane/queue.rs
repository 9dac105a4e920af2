//! Whose turn it is where a link is full: packets wait in the queue of their next hop, unsealed, and the thread that reads
//! the device sends them as there is room. Where nothing waits, packets pass by.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_engine::mesh::packet::Parsed;
use shoal_engine::mesh::packet::ecn::{self, Ecn};
use shoal_engine::mesh::packet::split::{Limits, Prepared, piece_limit, prepare};
use shoal_engine::mesh::qos::{Pace, Queue, Taken, piece_bytes};
use shoal_engine::path::{Carrier, Ways};
use shoal_protocol::mesh::class::Class;
use shoal_protocol::mesh::meta::Meta;
use shoal_protocol::mesh::offloads::Offloads;
use shoal_protocol::mesh::peer_hash::PeerHash;

use super::Plane;
use super::lane::LaneQueue;
use super::link::{Link, Sending};
use super::send::{NotSent, Outlet, Packet};
use crate::vpn::system::udp::UdpSocket;

/// The rate of a link before it is known, bytes a second: a gigabit.
const RATE_UNKNOWN: u64 = 125_000_000;
/// Packets of one link that are sent in a turn, before that of the next.
const TURN: usize = 16;
/// A bound on what may wait in the kernel is set again when it is off by this part: a quarter.
const BELOW_PART: usize = 4;

/// What waits on a link.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A packet for the member behind a link, by this link, in frames of at most so many bytes.
    Packet { to: Arc<Link>, max_frame: usize, meta: Meta, bytes: Vec<u8>, class: Class, label: u16 },
    /// A relay header and a sealed frame, and what its datagram said of congestion.
    Relayed(Vec<u8>, Ecn),
}

/// A socket and what is known of its link.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) udp: UdpSocket,
    state: Mutex<State>,
    /// The kernel took no more, and the thread that reads the device waits to send the rest.
    is_full: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    pace: Pace,
    /// What may wait in the kernel, as it was last told.
    below: usize,
}

impl Socket {
    pub(super) fn new(udp: UdpSocket) -> Self {
        let socket = Self { udp, state: Mutex::default(), is_full: AtomicBool::new(false) };
        socket.limit(0);
        socket
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    pub(super) fn set_full(&self, full: bool) {
        self.is_full.store(full, Ordering::Release);
    }

    /// The kernel took so many bytes, and then perhaps no more.
    pub(super) fn note(&self, accepted: usize, refused: bool, now_us: u64) {
        let mut state = self.state();
        state.pace.accepted(accepted);
        if refused {
            state.pace.refused(now_us);
            drop(state);
            self.limit(now_us);
        }
    }

    /// Nothing waits for this socket.
    fn idle(&self) {
        self.state().pace.idle();
    }

    /// Bytes a second the link takes, as far as that is known.
    fn rate(&self, now_us: u64) -> Option<u64> {
        self.state().pace.rate(now_us)
    }

    /// Tells the kernel how much may wait in it, where that changed.
    fn limit(&self, now_us: u64) {
        let mut state = self.state();
        let below = state.pace.below(now_us);
        if below.abs_diff(state.below) > state.below / BELOW_PART {
            state.below = below;
            tracing::debug!(below, rate = state.pace.rate(now_us), "bytes that may wait in the kernel");
            if let Err(error) = self.udp.set_send_buffer(below) {
                tracing::debug!(%error, "what waits in the kernel is not bounded");
            }
        }
    }
}

impl Plane {
    /// Sends a packet to the member behind `link` by its next hop, or lets it wait for its turn there.
    pub(super) fn submit(
        &self,
        link: &Arc<Link>,
        route: (PeerHash, usize),
        packet: Packet<'_>,
        out: &mut Outlet,
    ) -> Result<(), NotSent> {
        let next =
            if route.0 == link.peer { Arc::clone(link) } else { self.link(&route.0).ok_or(NotSent::NoCarrier)? };
        if link.sending().far().is_none() {
            return Err(NotSent::NoSession);
        }
        let passes = {
            let sending = next.sending();
            // One that would hold a slow link for long is cut like those that wait.
            let is_short = packet.bytes.len() <= piece_bytes(self.rate_of(&sending));
            is_short && sending.queue.is_none() && self.has_room(&sending, out)
        };
        if passes {
            return self.send_packet(link, route, packet, out);
        }
        self.enqueue(link, &next, route.1, packet)
    }

    /// As [`Self::submit`], of a frame for somebody else.
    pub(super) fn submit_relayed(
        &self,
        next: &Arc<Link>,
        (class, label): (Class, u16),
        (relayed, mark): (&[u8], Ecn),
        out: &mut Outlet,
    ) -> Result<(), NotSent> {
        let mut sending = next.sending();
        if sending.queue.is_none() && self.has_room(&sending, out) {
            drop(sending);
            return self.forward(next, mark, relayed, out);
        }
        let item = Waiting::Relayed(relayed.to_vec(), mark);
        self.push(next, &mut sending, item, (class, u64::from(label), relayed.len()));
        Ok(())
    }

    /// Sends a frame on for somebody else, with the mark it came with: nobody here can write it inside. A link that carries
    /// no marks would hide that congestion was met, so there the frame is lost instead (RFC 6040 4.2, RFC 9599).
    fn forward(&self, next: &Link, mark: Ecn, relayed: &[u8], out: &mut Outlet) -> Result<(), NotSent> {
        if mark == Ecn::Congested && !carries_marks(&next.sending()) {
            return Err(NotSent::Congested);
        }
        self.send_body(next, mark, relayed, out)
    }

    /// Whether a frame can go now.
    fn has_room(&self, sending: &Sending, out: &Outlet) -> bool {
        match sending.ways {
            Ways::One { on: Carrier::Lanes, .. } => sending.lane.as_ref().is_none_or(LaneQueue::has_room),
            Ways::One { on: Carrier::Udp(to), .. } => {
                !out.is_stuck() && self.socket(to).is_none_or(|socket| !socket.is_full())
            }
            Ways::One { on: Carrier::Routed, .. } | Ways::Both { .. } | Ways::None => true,
        }
    }

    /// Bytes a second of a link, as far as that is known.
    fn rate_of(&self, sending: &Sending) -> u64 {
        let rate = sending.ways.carriers().find_map(|on| match on {
            Carrier::Udp(to) => self.socket(to)?.rate(self.uptime_us()),
            Carrier::Lanes => sending.lane.as_ref()?.rate(),
            Carrier::Routed => None,
        });
        rate.unwrap_or(RATE_UNKNOWN)
    }

    fn enqueue(&self, link: &Arc<Link>, next: &Arc<Link>, max_frame: usize, packet: Packet<'_>) -> Result<(), NotSent> {
        let Packet { parsed, meta, bytes, class, label } = packet;
        let flow = self.seed.one_way(&parsed.tuple());
        let mut sending = next.sending();
        let limit = piece_limit(&parsed, meta, piece_bytes(self.rate_of(&sending)));
        let mut piece = |meta: Meta, bytes: Vec<u8>| {
            let length = bytes.len();
            let item = Waiting::Packet { to: Arc::clone(link), max_frame, meta, bytes, class, label };
            self.push(next, &mut sending, item, (class, flow, length));
        };
        match prepare(bytes, &parsed, meta, Limits { max_packet: limit, far: Offloads::ALL })? {
            Prepared::Whole(meta) => piece(meta, bytes.to_vec()),
            Prepared::Split(mut split) => loop {
                let mut memory = vec![0; split.largest()];
                let Some((length, meta)) = split.next(bytes, &mut memory)? else { break };
                memory.truncate(length);
                piece(meta, memory);
            },
        }
        Ok(())
    }

    fn push(&self, next: &Arc<Link>, sending: &mut Sending, item: Waiting, key: (Class, u64, usize)) {
        let rate = self.rate_of(sending);
        let is_first = sending.queue.is_none();
        let queue = sending.queue.get_or_insert_with(|| Box::new(Queue::new(rate)));
        queue.push(item, key, self.uptime_us(), |_, reason| self.counters.drop(reason));
        if is_first {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(Arc::clone(next));
            self.wake_sender();
        }
    }

    pub(super) fn wake_sender(&self) {
        if self.wake.wake().is_err() {
            tracing::debug!("packets wait, and nobody can be woken");
        }
    }

    /// What waits on a link may have found a way: nobody else says so where the one before ended while it was full.
    pub(super) fn look_again(&self, link: &Link) {
        if link.sending().queue.is_some() {
            self.wake_sender();
        }
    }

    /// Puts a lane to a peer in the place of the one before, or none.
    pub(crate) fn set_lane(&self, peer: &PeerHash, lane: Option<LaneQueue>) {
        if let Some(link) = self.link(peer) {
            link.sending().lane = lane;
            self.look_again(&link);
        }
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn serve_waiting(&self, out: &mut Outlet) {
        let turns = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len();
        let mut stuck = 0;
        let mut left = turns;
        while left > 0 {
            let Some(link) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else { break };
            match self.serve(&link, out) {
                Served::Empty => left = left.saturating_sub(1),
                Served::Full => {
                    self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(link);
                    stuck += 1;
                    left = left.saturating_sub(1);
                }
                Served::Turn => self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(link),
            }
        }
        self.flush(out);
        if stuck == 0 && !out.is_stuck() {
            for socket in &self.sockets {
                socket.idle();
            }
        }
    }

    /// One turn of a link.
    fn serve(&self, link: &Arc<Link>, out: &mut Outlet) -> Served {
        for _ in 0..TURN {
            let taken = {
                let mut sending = link.sending();
                if !self.has_room(&sending, out) {
                    return Served::Full;
                }
                let rate = self.rate_of(&sending);
                let can_mark = carries_marks(&sending);
                let Some(queue) = &mut sending.queue else { return Served::Empty };
                queue.set_rate(rate);
                let mark = |item: &mut Waiting| match item {
                    Waiting::Packet { bytes, .. } => ecn::mark(bytes),
                    Waiting::Relayed(_, mark) => {
                        let marks = can_mark && *mark != Ecn::NotCapable;
                        if marks {
                            *mark = Ecn::Congested;
                        }
                        marks
                    }
                };
                let drop = |_, reason: shoal_engine::mesh::qos::QueueDrop| self.counters.drop(reason);
                match queue.pop(self.uptime_us(), mark, drop) {
                    Some(Taken { item, .. }) => item,
                    None => {
                        sending.queue = None;
                        return Served::Empty;
                    }
                }
            };
            if let Err(reason) = self.send_waiting(link, taken, out) {
                self.counters.drop(reason);
            }
            // Each goes at once: what waits here can still be overtaken.
            self.flush(out);
        }
        Served::Turn
    }

    fn send_waiting(&self, link: &Arc<Link>, item: Waiting, out: &mut Outlet) -> Result<(), NotSent> {
        match item {
            Waiting::Packet { to, max_frame, meta, mut bytes, class, label } => {
                let parsed = Parsed::of(&bytes)?;
                let packet = Packet { parsed, meta, bytes: &mut bytes, class, label };
                self.send_packet(&to, (link.peer, max_frame), packet, out)
            }
            Waiting::Relayed(bytes, mark) => self.forward(link, mark, &bytes, out),
        }
    }

    /// The sockets that are to be polled for writing.
    pub(super) fn full_sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.sockets.iter().filter(|socket| socket.is_full()).map(|socket| &socket.udp)
    }
}

/// Whether what goes on a link now has an IP header of its own to mark.
const fn carries_marks(sending: &Sending) -> bool {
    matches!(sending.ways, Ways::One { on: Carrier::Udp(_), .. })
}

/// What became of a turn.
enum Served {
    /// Nothing waits any more.
    Empty,
    /// There is no room for the next.
    Full,
    /// It is somebody else's turn.
    Turn,
}
