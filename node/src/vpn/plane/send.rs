//! Frames of a link to its carriers: packets cut to what fits, sealed where they are sent from. It knows no rule and no
//! route beyond the next hop it is given.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shoal_engine::mesh::packet::ecn::{self, Ecn};
use shoal_engine::mesh::packet::split::{Limits, Prepared, prepare};
use shoal_engine::mesh::packet::{PacketDrop, Parsed};
use shoal_engine::path::{Carrier, Ways};
use shoal_protocol::mesh::class::Class;
use shoal_protocol::mesh::meta::Meta;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::relay::{HOP_LIMIT, RelayHeader};
use shoal_protocol::mesh::session::SessionIndex;
use shoal_protocol::mesh::session::content::{ContentKind, Control};
use shoal_protocol::mesh::session::frame::{BEFORE_BODY, DATA_TAG, FRAME_MAX, FRAME_OVERHEAD, PathId};

use super::Plane;
use super::batch::{Added, Batch, Target};
use super::lane::LaneFrame;
use super::link::{Link, Sending};
use crate::vpn::system::udp::{self, EcnCodepoint, Sent};

/// How long a full socket is waited for at a time, and how often: what is left then is lost, as on any full link.
const FULL_WAIT: Duration = Duration::from_millis(2);
/// See [`FULL_WAIT`].
const FULL_WAITS: usize = 5;

/// What one thread sends from.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    batch: Batch,
    /// Of the longest frame; made when first needed.
    pub(super) scratch: Vec<u8>,
    /// Keeps what a full socket did not take, and says so; else it is waited for a little, and then lost.
    is_patient: bool,
}

/// A packet to be sent.
pub(super) struct Packet<'a> {
    pub(super) parsed: Parsed,
    pub(super) meta: Meta,
    pub(super) bytes: &'a mut [u8],
    pub(super) class: Class,
    pub(super) label: u16,
}

/// Why something was not sent. One word each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum NotSent {
    /// There is no session yet.
    #[error("no-session")]
    NoSession,
    /// No carrier is up.
    #[error("no-carrier")]
    NoCarrier,
    /// The packet is longer than this fits, and must not be cut.
    #[error("too-big")]
    TooBig {
        /// What would fit, bytes.
        mtu: usize,
    },
    /// Its parts contradict each other.
    #[error("bad-offload")]
    BadOffload,
    /// It met congestion, of which the next link can tell nobody.
    #[error("congested")]
    Congested,
    /// The session carries nothing more.
    #[error("exhausted")]
    Exhausted,
}

impl From<PacketDrop> for NotSent {
    fn from(_: PacketDrop) -> Self {
        Self::BadOffload
    }
}

/// Writes the body of a frame into the room it is given, and says how long it is; nothing when there is none left.
type Body<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<Option<usize>, NotSent>;

impl Plane {
    /// Sends a packet to the member behind `link`, by this next hop and in frames of at most this many bytes.
    pub(super) fn send_packet(
        &self,
        link: &Link,
        (hop, max_frame): (PeerHash, usize),
        packet: Packet<'_>,
        out: &mut Outlet,
    ) -> Result<(), NotSent> {
        let Packet { parsed, meta, bytes, class, label } = packet;
        let is_direct = hop == link.peer;
        // Seen by every link on the way; what is inside is not told but for these two bits (RFC 6040 4.1).
        let mark = ecn::outer(Ecn::of(parsed.traffic_class));
        let mut sending = link.sending();
        let (offloads, far_max) = sending.far().ok_or(NotSent::NoSession)?;
        let (carrier_max, nested) = match sending.ways {
            Ways::None => return Err(NotSent::NoCarrier),
            _ if !is_direct => (max_frame, FRAME_OVERHEAD.saturating_add(RelayHeader::LEN)),
            _ => (sending.frame, 0),
        };
        let overhead = FRAME_OVERHEAD.saturating_add(Meta::LEN);
        let frame = carrier_max.min(usize::from(far_max)).saturating_sub(nested);
        let max_packet = frame.saturating_sub(overhead);
        let prepared = prepare(bytes, &parsed, meta, Limits { max_packet, far: offloads });
        let prepared = prepared.map_err(|reason| match reason {
            PacketDrop::TooBig => NotSent::TooBig { mtu: max_packet },
            other => other.into(),
        })?;
        let bytes: &[u8] = bytes;
        let mut left = Some(prepared);
        let most = match prepared {
            Prepared::Whole(_) => bytes.len(),
            Prepared::Split(split) => split.largest(),
        };
        let mut body = |room: &mut [u8]| -> Result<Option<usize>, NotSent> {
            let (head, rest) = room.split_first_chunk_mut::<{ Meta::LEN }>().ok_or(NotSent::BadOffload)?;
            let (length, meta) = match left.take() {
                None => return Ok(None),
                Some(Prepared::Whole(meta)) => {
                    rest.get_mut(..bytes.len()).ok_or(NotSent::BadOffload)?.copy_from_slice(bytes);
                    (bytes.len(), meta)
                }
                Some(Prepared::Split(mut split)) => {
                    let Some(piece) = split.next(bytes, rest)? else { return Ok(None) };
                    left = Some(Prepared::Split(split));
                    piece
                }
            };
            *head = meta.to_bytes();
            Ok(Some(length.saturating_add(Meta::LEN)))
        };
        let most = most.saturating_add(Meta::LEN);
        if is_direct {
            while self.emit(&mut sending, (ContentKind::Packet, mark), most, &mut body, out)? {}
            return Ok(());
        }
        let header =
            RelayHeader { class, hop_limit: HOP_LIMIT, flow_label: label, destination: link.peer, source: self.own };
        let next = self.link(&hop).ok_or(NotSent::NoCarrier)?;
        loop {
            let length = {
                let mut scratch = out.take_scratch();
                let sealed = nest(&mut sending, &header, &mut scratch, &mut body);
                out.scratch = scratch;
                match sealed? {
                    Some(length) => length,
                    None => return Ok(()),
                }
            };
            sending.note(Carrier::Routed);
            // Two links are never locked at once: each may be the other's next hop.
            drop(sending);
            self.send_relayed(&next, mark, length, out)?;
            sending = link.sending();
        }
    }

    /// Sends a relay header and frame, the first `length` bytes of the scratch memory, to a neighbour.
    pub(super) fn send_relayed(&self, next: &Link, mark: Ecn, length: usize, out: &mut Outlet) -> Result<(), NotSent> {
        let scratch = out.take_scratch();
        let relayed = scratch.get(..length).unwrap_or_default();
        let done = self.send_body(next, mark, relayed, out);
        out.scratch = scratch;
        done
    }

    /// Sends a relay header and frame to a neighbour.
    pub(super) fn send_body(&self, next: &Link, mark: Ecn, bytes: &[u8], out: &mut Outlet) -> Result<(), NotSent> {
        let mut is_left = true;
        let mut body = |room: &mut [u8]| -> Result<Option<usize>, NotSent> {
            if !std::mem::take(&mut is_left) {
                return Ok(None);
            }
            room.get_mut(..bytes.len()).ok_or(NotSent::BadOffload)?.copy_from_slice(bytes);
            Ok(Some(bytes.len()))
        };
        let mut sending = next.sending();
        let most = sending.frame;
        if bytes.len().saturating_add(FRAME_OVERHEAD) > most {
            return Err(NotSent::TooBig { mtu: most });
        }
        self.emit(&mut sending, (ContentKind::Relayed, mark), bytes.len(), &mut body, out).map(|_| ())
    }

    /// Seals and sends the next frame; says whether there was one. Its body has at most `most` bytes.
    fn emit(
        &self,
        sending: &mut Sending,
        (kind, mark): (ContentKind, Ecn),
        most: usize,
        body: Body<'_>,
        out: &mut Outlet,
    ) -> Result<bool, NotSent> {
        let memory = most.saturating_add(FRAME_OVERHEAD);
        match sending.ways {
            Ways::None | Ways::One { on: Carrier::Routed, .. } => Err(NotSent::NoCarrier),
            Ways::One { on: Carrier::Lanes, path } => {
                let lane = sending.lane.as_ref().ok_or(NotSent::NoCarrier)?;
                let mut frame = LaneFrame { memory: lane.memory(memory), length: 0 };
                let Some(length) = seal(sending, path, kind, &mut frame.memory, body)? else { return Ok(false) };
                frame.length = length;
                if let Some(lane) = &sending.lane {
                    lane.push(frame);
                }
                sending.note(Carrier::Lanes);
                Ok(true)
            }
            Ways::One { on: Carrier::Udp(to), path } => {
                if !out.batch.takes((to, mark), memory) {
                    self.empty(out);
                }
                let at = out.batch.end();
                let Some(length) = seal(sending, path, kind, out.batch.room(), body)? else { return Ok(false) };
                self.added(at, (to, mark), length, out);
                sending.note(Carrier::Udp(to));
                Ok(true)
            }
            Ways::Both { doubted, spare } => {
                let mut scratch = out.take_scratch();
                let sealed = seal(sending, PathId::DUAL, kind, &mut scratch, body);
                let bytes = scratch.get(..sealed.ok().flatten().unwrap_or_default()).unwrap_or_default();
                if !bytes.is_empty() {
                    for on in [doubted, spare] {
                        self.send_sealed(sending, on, bytes, out);
                        sending.note(on);
                    }
                }
                out.scratch = scratch;
                sealed.map(|sealed| sealed.is_some())
            }
        }
    }

    /// Puts a frame that was sealed at `at` into the batch.
    fn added(&self, at: usize, to: Target, length: usize, out: &mut Outlet) {
        match out.batch.add(to, length) {
            Added::Open => {}
            Added::Full => self.flush(out),
            Added::Longer { length } => {
                self.empty(out);
                out.batch.begin_with(at, to, length);
            }
        }
    }

    /// Sends bytes that are sealed already on one carrier.
    fn send_sealed(&self, sending: &Sending, on: Carrier, bytes: &[u8], out: &mut Outlet) {
        match on {
            Carrier::Lanes => {
                if let Some(lane) = sending.lane.as_ref() {
                    let mut memory = lane.memory(bytes.len());
                    if let Some(target) = memory.get_mut(..bytes.len()) {
                        target.copy_from_slice(bytes);
                    }
                    lane.push(LaneFrame { memory, length: bytes.len() });
                }
            }
            Carrier::Udp(to) => {
                self.empty(out);
                if let Some(room) = out.batch.room().get_mut(..bytes.len()) {
                    room.copy_from_slice(bytes);
                    out.batch.add((to, Ecn::NotCapable), bytes.len());
                }
                self.flush(out);
            }
            // What is routed is sealed for its next hop by whoever sends it.
            Carrier::Routed => {}
        }
    }

    /// Sends a handshake message as it is.
    pub(super) fn send_handshake(&self, peer: Option<PeerHash>, on: Carrier, bytes: &[u8], out: &mut Outlet) {
        let link = peer.and_then(|peer| self.link(&peer));
        match (on, link) {
            (Carrier::Routed, Some(link)) => {
                let header = self.header_to(&link);
                self.send_routed(&link, &header, bytes, out);
            }
            (Carrier::Udp(to), None) => {
                self.empty(out);
                if let Some(room) = out.batch.room().get_mut(..bytes.len()) {
                    room.copy_from_slice(bytes);
                    out.batch.add((to, Ecn::NotCapable), bytes.len());
                }
                self.flush(out);
            }
            (on, Some(link)) => {
                let sending = link.sending();
                self.send_sealed(&sending, on, bytes, out);
            }
            (_, None) => {}
        }
    }

    pub(super) fn header_to(&self, link: &Link) -> RelayHeader {
        let destination = link.peer;
        RelayHeader { class: Class::Interactive, hop_limit: HOP_LIMIT, flow_label: 0, destination, source: self.own }
    }

    /// Sends bytes for a member that is reached over others, behind `header`.
    fn send_routed(&self, link: &Link, header: &RelayHeader, bytes: &[u8], out: &mut Outlet) {
        use shoal_engine::mesh::routing::snapshot::Lookup;
        let tables = self.tables();
        let Lookup::To { hop, .. } = tables.routes.lookup_peer(&link.peer, u64::from(header.flow_label)) else {
            return self.counters.drop("no-way");
        };
        let Some(next) = self.link(&hop.peer).filter(|next| next.peer != link.peer) else {
            return self.counters.drop("no-carrier");
        };
        self.send_behind(&next, header, bytes, out);
    }

    /// Seals a word for the peer and sends it on one carrier.
    pub(super) fn send_control(
        &self,
        link: &Link,
        index: Option<SessionIndex>,
        (on, path): (Carrier, PathId),
        control: &Control,
        out: &mut Outlet,
    ) {
        let header = self.header_to(link);
        let aad = header.aad();
        let aad: &[u8] = if on == Carrier::Routed { &aad } else { &[] };
        let mut sending = link.sending();
        let mut scratch = out.take_scratch();
        let sealed = sending.sealer_of(index).map(|sealer| sealer.tx.seal_control(path, control, aad, &mut scratch));
        let mut frame = scratch;
        if let Some(Ok(length)) = sealed {
            let bytes = frame.get(..length).unwrap_or_default();
            if on == Carrier::Routed {
                let bytes = bytes.to_vec();
                out.scratch = std::mem::take(&mut frame);
                drop(sending);
                self.send_routed(link, &header, &bytes, out);
                return;
            }
            self.send_sealed(&sending, on, bytes, out);
        }
        out.scratch = frame;
    }

    /// Sends what is in the batch, and if the socket is full waits for it a little: there is room for other frames then.
    fn empty(&self, out: &mut Outlet) {
        let was_patient = std::mem::replace(&mut out.is_patient, false);
        if let Some(socket) = out.batch.contents().filter(|_| out.is_stuck()).and_then(|((to, _), ..)| self.socket(to))
        {
            socket.set_full(false);
        }
        self.flush(out);
        out.is_patient = was_patient;
    }

    /// Sends what is in the batch.
    pub(super) fn flush(&self, out: &mut Outlet) {
        if let Some((to, bytes, length)) = out.batch.contents() {
            match self.send_datagrams(to, bytes, length, out.is_patient) {
                Ok(None) => {}
                Ok(Some(taken)) => return out.batch.keep_after(taken),
                Err(reason) => self.counters.drop(reason),
            }
        }
        out.batch.clear();
    }

    /// Sends datagrams; says how many bytes a full socket took, if the rest is to be kept.
    fn send_datagrams(
        &self,
        (to, mark): Target,
        mut bytes: &[u8],
        length: usize,
        is_patient: bool,
    ) -> Result<Option<usize>, &'static str> {
        let socket = self.socket(to).ok_or("no-socket")?;
        let ecn = EcnCodepoint::from_bits(mark.bits());
        for _ in 0..FULL_WAITS {
            match socket.udp.send(&udp::Batch { to, from: None, ecn, bytes, length }) {
                Ok(Sent::All) => {
                    socket.note(bytes.len(), false, self.uptime_us());
                    if is_patient {
                        socket.set_full(false);
                    }
                    return Ok(None);
                }
                Ok(Sent::TooLong(_)) => return Err("datagram-too-long"),
                Ok(Sent::Full(taken)) => {
                    socket.note(taken, true, self.uptime_us());
                    if is_patient {
                        socket.set_full(true);
                        return Ok(Some(taken));
                    }
                    bytes = bytes.get(taken..).unwrap_or_default();
                    let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(FULL_WAIT.subsec_nanos()) };
                    // Whether it is writable then or not, it is tried again.
                    let _ = poll(&mut [PollFd::new(&socket.udp, PollFlags::OUT)], Some(&wait));
                }
                Err(error) => {
                    tracing::trace!(%error, %to, "datagrams not sent");
                    return Err("socket-error");
                }
            }
        }
        Err("socket-full")
    }
}

impl Outlet {
    /// Of the thread that waits for full sockets.
    pub(super) fn patient() -> Self {
        Self { is_patient: true, ..Self::default() }
    }

    /// Whether it holds what a full socket did not take.
    pub(super) const fn is_stuck(&self) -> bool {
        self.batch.is_stuck()
    }

    /// Takes the scratch memory out; it is to be put back.
    pub(super) fn take_scratch(&mut self) -> Vec<u8> {
        let mut scratch = std::mem::take(&mut self.scratch);
        if scratch.is_empty() {
            scratch.resize(FRAME_MAX, 0);
        }
        scratch
    }
}

/// Writes a body into `memory` and seals it there, from the start; says how long the frame is.
fn seal(
    sending: &mut Sending,
    path: PathId,
    kind: ContentKind,
    memory: &mut [u8],
    body: Body<'_>,
) -> Result<Option<usize>, NotSent> {
    let end = memory.len().checked_sub(DATA_TAG).ok_or(NotSent::BadOffload)?;
    let room = memory.get_mut(BEFORE_BODY..end).ok_or(NotSent::BadOffload)?;
    let Some(length) = body(room)? else { return Ok(None) };
    let sealer = sending.sealer().ok_or(NotSent::NoSession)?;
    let range = BEFORE_BODY..BEFORE_BODY.saturating_add(length);
    let frame = sealer.tx.seal(path, kind, &[], memory, range).map_err(|_| NotSent::Exhausted)?;
    Ok(Some(frame.len()))
}

/// Writes a relay header and, sealed end to end, the next body behind it; says how long both are.
fn nest(
    sending: &mut Sending,
    header: &RelayHeader,
    scratch: &mut [u8],
    body: Body<'_>,
) -> Result<Option<usize>, NotSent> {
    let path = sending.ways.path().ok_or(NotSent::NoCarrier)?;
    let end = scratch.len().saturating_sub(DATA_TAG);
    let start = RelayHeader::LEN.saturating_add(BEFORE_BODY);
    let room = scratch.get_mut(start..end).ok_or(NotSent::BadOffload)?;
    let Some(length) = body(room)? else { return Ok(None) };
    let sealer = sending.sealer().ok_or(NotSent::NoSession)?;
    let range = start..start.saturating_add(length);
    let sealed = sealer.tx.seal(path, ContentKind::Packet, &header.aad(), scratch, range);
    let frame = sealed.map_err(|_| NotSent::Exhausted)?;
    let head = scratch.first_chunk_mut::<{ RelayHeader::LEN }>().ok_or(NotSent::BadOffload)?;
    *head = header.to_bytes();
    Ok(Some(frame.end))
}
