//! A frame on its way in: opened with its session, then given to the device as a packet, to the next hop as it is, or to
//! the control half as a word. Nothing of it is believed that its session does not prove.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shoal_engine::mesh::network::Tables;
use shoal_engine::mesh::packet::ecn::{self, Ecn};
use shoal_engine::mesh::packet::join::{Join, Joined};
use shoal_engine::mesh::packet::offload::rebuild;
use shoal_engine::mesh::packet::virtio::VirtioHeader;
use shoal_engine::mesh::packet::{Parsed, Tcp, Tuple};
use shoal_engine::mesh::policy::Direction;
use shoal_engine::mesh::qos::classify;
use shoal_engine::mesh::relay::RelayStep;
use shoal_engine::mesh::routing::snapshot::Lookup;
use shoal_engine::mesh::session::{Content, RxHalf};
use shoal_engine::path::{Carrier, Judgement};
use shoal_protocol::mesh::meta::Meta;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::relay::RelayHeader;
use shoal_protocol::mesh::session::MessageKind;
use shoal_protocol::mesh::session::content::Control;
use shoal_protocol::mesh::session::frame::{BEFORE_BODY, DATA_TAG, PathId};

use super::counters::Lost;
use super::device::Device;
use super::link::{Held, Link};
use super::send::Outlet;
use super::{Plane, Report};
use crate::vpn::system::tun::{BUFFER_LENGTH, FORM};

/// Where a packet begins in the frame it came in.
const PACKET_AT: usize = BEFORE_BODY + Meta::LEN;
const _: () = assert!(PACKET_AT >= FORM.length());

/// What one thread receives into.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    pub(super) out: Outlet,
    /// What the datagram says of congestion whose frames come; of a lane nothing.
    pub(super) outer: Ecn,
    join: Join,
    /// A virtio header and the packet that is being joined.
    memory: Vec<u8>,
    /// Whose packet that is.
    peer: Option<PeerHash>,
    /// The device was given packets since the last look for answers.
    gave: bool,
    /// The flow that the rules were last asked about, and by which rules.
    allowed: Option<(PeerHash, Tuple, u64)>,
}

/// What an authentic frame turned out to be.
enum Opened {
    Packet(PathId),
    Relayed,
    Word(PathId, Control),
}

impl Plane {
    /// Takes a frame that came on a carrier; `via` is the neighbour whose lane it was.
    pub(crate) fn handle_frame(&self, frame: &mut [u8], from: Carrier, via: Option<PeerHash>, sink: &mut Sink) {
        if let Err(reason) = self.try_frame(frame, (from, via), None, sink) {
            self.counters.drop(reason);
        }
    }

    fn try_frame(
        &self,
        frame: &mut [u8],
        (from, via): (Carrier, Option<PeerHash>),
        header: Option<RelayHeader>,
        sink: &mut Sink,
    ) -> Result<(), Lost> {
        match frame.first().copied().and_then(MessageKind::of_first_byte) {
            Some(MessageKind::Data) => {}
            Some(_) => return self.report_handshake(frame, (from, via)),
            None => return Err("malformed".into()),
        }
        let index = RxHalf::index_of(frame)?;
        let link = self.session(index).ok_or("no-session")?;
        if header.is_some_and(|header| header.source != link.peer) {
            return Err("wrong-peer".into());
        }
        let aad = header.map(|header| header.aad());
        let aad = aad.as_ref().map_or(&[][..], |aad| &aad[..]);
        let mut receiving = link.receiving();
        let opener = receiving.opener(index)?;
        let opened = opener.open(frame, aad)?;
        let opened = match opened.content {
            Content::Packet(_) => Opened::Packet(opened.path),
            Content::Relayed(_) => Opened::Relayed,
            Content::Control(word) => Opened::Word(opened.path, word),
        };
        if receiving.note(index, from) {
            self.report(Report::Opened { index, from });
        }
        let now_ms = self.uptime_ms();
        match opened {
            Opened::Packet(path) => match receiving.gate.judge(path, now_ms) {
                Judgement::Pass => {
                    drop(receiving);
                    self.deliver(&link, frame, sink)
                }
                Judgement::Hold => {
                    receiving.hold(path, frame, sink.outer);
                    self.holds.store(true, Ordering::Release);
                    Ok(())
                }
                Judgement::Release => {
                    let held = receiving.release(path);
                    drop(receiving);
                    self.deliver_held(&link, held, sink);
                    self.deliver(&link, frame, sink)
                }
            },
            Opened::Word(path, Control::Fence(fence)) => {
                let freed = receiving.gate.handle_fence(path, fence, now_ms);
                let held = freed.map(|path| receiving.release(path)).unwrap_or_default();
                drop(receiving);
                self.deliver_held(&link, held, sink);
                Ok(())
            }
            Opened::Word(_, control) => {
                drop(receiving);
                self.report(Report::Control { index, from, control });
                Ok(())
            }
            Opened::Relayed if header.is_some() => Err("nested".into()),
            Opened::Relayed => {
                drop(receiving);
                let end = frame.len().saturating_sub(DATA_TAG);
                let relayed = frame.get_mut(BEFORE_BODY..end).ok_or("malformed")?;
                self.relay_frame(&link, relayed, sink)
            }
        }
    }

    /// Tells the control half of a handshake message that is for this node: who does not know this node's mesh key takes no
    /// place in its queue, however much is sent.
    fn report_handshake(&self, message: &[u8], (from, via): (Carrier, Option<PeerHash>)) -> Result<(), Lost> {
        let kind = self.tables().sieve.examine(message)?;
        if kind == MessageKind::CookieReply && !self.takes_cookie() {
            return Err("cookies-full".into());
        }
        self.report(Report::Handshake { bytes: message.to_vec(), from, via });
        Ok(())
    }

    /// A frame behind a relay header, which a neighbour brought: for this node, or for the next hop.
    fn relay_frame(&self, previous: &Link, relayed: &mut [u8], sink: &mut Sink) -> Result<(), Lost> {
        let tables = self.tables();
        let route = |destination: &PeerHash, label: u16| match tables.routes.lookup_peer(destination, u64::from(label))
        {
            Lookup::To { hop, .. } => Some(hop.peer),
            Lookup::Local | Lookup::Unreachable(_) => None,
        };
        let step = self.relay().handle_frame(relayed, &previous.peer, self.uptime_us(), route);
        match step? {
            RelayStep::Ours(header) => {
                let frame = relayed.get_mut(RelayHeader::LEN..).unwrap_or_default();
                self.try_frame(frame, (Carrier::Routed, Some(header.source)), Some(header), sink)
            }
            RelayStep::Forward { next, header } => {
                let next = self.link(&next).ok_or("no-carrier")?;
                let sent =
                    self.submit_relayed(&next, (header.class, header.flow_label), (relayed, sink.outer), &mut sink.out);
                Ok(sent?)
            }
        }
    }

    /// Frames whose order had to be waited for.
    fn deliver_held(&self, link: &Arc<Link>, held: Vec<Held>, sink: &mut Sink) {
        let outer = sink.outer;
        for Held { mut frame, outer, .. } in held {
            sink.outer = outer;
            if let Err(reason) = self.deliver(link, &mut frame, sink) {
                self.counters.drop(reason);
            }
        }
        sink.outer = outer;
    }

    /// Frames that were waited for long enough.
    pub(super) fn release_due(&self, sink: &mut Sink) {
        // What is kept from here on is seen by the next look.
        self.holds.store(false, Ordering::Release);
        for link in self.links() {
            loop {
                let now_ms = self.uptime_ms();
                let held = {
                    let mut receiving = link.receiving();
                    match receiving.gate.due(now_ms) {
                        Some(path) => receiving.release(path),
                        None => {
                            if receiving.holds() {
                                self.holds.store(true, Ordering::Release);
                            }
                            break;
                        }
                    }
                };
                self.deliver_held(&link, held, sink);
            }
        }
        self.finish(sink);
    }

    /// An opened frame with a packet: asked of the rules, then to the device.
    fn deliver(&self, link: &Arc<Link>, frame: &mut [u8], sink: &mut Sink) -> Result<(), Lost> {
        let end = frame.len().saturating_sub(DATA_TAG);
        let (head, packet) = match frame.get_mut(BEFORE_BODY..end).and_then(|body| body.split_first_chunk_mut()) {
            Some((meta, packet)) => (*meta, packet),
            None => return Err("truncated".into()),
        };
        let meta = Meta::from_bytes(head).map_err(|_| "bad-meta")?;
        let parsed = combine(packet, sink.outer)?;
        let tables = self.tables();
        self.allow_inbound(&tables, link, &parsed, sink)?;
        self.counters.received.add(classify(&parsed), packet.len());
        if sink.peer != Some(link.peer) {
            self.finish(sink);
        }
        if self.holds_inbound(&tables, link, (&parsed, meta, &mut *packet))? {
            // What came before it goes before it.
            self.finish(sink);
            return Ok(());
        }
        loop {
            match self.join(packet, &parsed, meta, sink)? {
                Joined::Open => {
                    sink.peer = Some(link.peer);
                    return Ok(());
                }
                Joined::Last => {
                    self.finish(sink);
                    return Ok(());
                }
                Joined::Other => self.finish(sink),
                Joined::Alone => break,
            }
        }
        let (_, header) = rebuild(meta, packet)?;
        // What stood before the packet is of no use any more; the device's header takes its place.
        let bytes = frame.get_mut(PACKET_AT - FORM.length()..end).ok_or("truncated")?;
        sink.gave = true;
        self.give(&header, bytes)
    }

    /// Whether the device cuts such packets again that were joined.
    fn joins(&self, parsed: &Parsed) -> bool {
        let offloads = self.device.as_ref().map(Device::offloads).unwrap_or_default();
        parsed.super_kind().is_some_and(|kind| offloads.takes(kind))
    }

    fn join(&self, packet: &[u8], parsed: &Parsed, meta: Meta, sink: &mut Sink) -> Result<Joined, Lost> {
        if !self.joins(parsed) {
            return Ok(if sink.join.is_empty() { Joined::Alone } else { Joined::Other });
        }
        if sink.memory.is_empty() {
            sink.memory.resize(BUFFER_LENGTH, 0);
        }
        let memory = sink.memory.get_mut(FORM.length()..).unwrap_or_default();
        Ok(sink.join.push(packet, parsed, meta, memory)?)
    }

    /// Gives the device what was joined, if anything was.
    pub(super) fn finish(&self, sink: &mut Sink) {
        sink.peer = None;
        let memory = sink.memory.get_mut(FORM.length()..).unwrap_or_default();
        match sink.join.finish(memory) {
            Ok(None) => {}
            Ok(Some((length, header))) => {
                sink.gave = true;
                let bytes = sink.memory.get_mut(..FORM.length().saturating_add(length)).unwrap_or_default();
                if let Err(reason) = self.give(&header, bytes) {
                    self.counters.drop(reason);
                }
            }
            Err(reason) => self.counters.drop(reason),
        }
    }

    /// Sends what relaying left in the batch, gives the device what was joined, and sends what that was answered with.
    pub(crate) fn settle(&self, sink: &mut Sink) {
        self.finish(sink);
        self.flush(&mut sink.out);
        if std::mem::take(&mut sink.gave) {
            self.send_answers();
        }
    }

    pub(super) fn give(&self, header: &VirtioHeader, bytes: &mut [u8]) -> Result<(), Lost> {
        header.write(FORM, bytes)?;
        self.write_device(bytes);
        Ok(())
    }

    /// As [`Plane::allow`]; segments of one flow in a row ask once, but for those that begin or end it.
    fn allow_inbound(&self, tables: &Tables, link: &Link, parsed: &Parsed, sink: &mut Sink) -> Result<(), Lost> {
        const MATTERS: u8 = Tcp::SYN | Tcp::FIN | Tcp::RST;
        let key = (link.peer, parsed.tuple(), tables.policy.generation());
        let changes = parsed.tcp_flags().is_some_and(|flags| flags & MATTERS != 0);
        if !changes && sink.allowed == Some(key) && !sink.join.is_empty() {
            return Ok(());
        }
        self.allow(tables, &link.peer, parsed, Direction::Inbound)?;
        sink.allowed = Some(key);
        Ok(())
    }
}

/// A packet as it goes on, with what its datagram met on its way (RFC 6040 4.2).
fn combine(packet: &mut [u8], outer: Ecn) -> Result<Parsed, Lost> {
    let parsed = Parsed::of(packet)?;
    let own = Ecn::of(parsed.traffic_class);
    match ecn::inner(own, outer) {
        None => Err("not-ecn-capable".into()),
        Some(now) if now == own => Ok(parsed),
        Some(now) => {
            ecn::set(packet, now)?;
            Ok(Parsed::of(packet)?)
        }
    }
}
