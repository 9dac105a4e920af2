//! A packet of this machine on its way out: parsed, its flow and route found, asked of the rules, handed to its link. What
//! may not pass is counted by reason and goes no further.

use shoal_engine::mesh::network::Tables;
use shoal_engine::mesh::packet::offload::ingest;
use shoal_engine::mesh::packet::virtio::VirtioHeader;
use shoal_engine::mesh::packet::{Parsed, Tuple, icmp};
use shoal_engine::mesh::policy::{Direction, Reason};
use shoal_engine::mesh::qos::classify;
use shoal_engine::mesh::routing::snapshot::{Lookup, Unreachable};
use shoal_protocol::mesh::peer_hash::PeerHash;

use super::counters::Lost;
use super::send::{NotSent, Outlet, Packet};
use super::{Plane, Report};
use crate::vpn::system::tun::{FORM, Written};

/// Bytes of the longest answer to a packet that does not fit, with its virtio header.
const ANSWER_MAX: usize = FORM.length() + icmp::ANSWER_V6_MAX;

/// Why a packet would not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPass {
    /// No way leads there.
    #[error("no way leads there")]
    NoWay,
    /// A way is known, and down just now.
    #[error("nobody is there just now")]
    Down,
    /// The rules forbid it.
    #[error("the rules forbid it: {}", .0.label())]
    Denied(Reason),
}

impl Plane {
    /// Whether the first packet of such a flow would be sent; it remembers nothing.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_send(&self, tuple: &Tuple) -> Result<(), NoPass> {
        let tables = self.tables();
        let peer = match tables.routes.lookup(tuple.destination, self.seed.one_way(tuple)) {
            Lookup::To { peer, .. } => peer,
            Lookup::Local | Lookup::Unreachable(Unreachable::NoRoute) => return Err(NoPass::NoWay),
            Lookup::Unreachable(_) => return Err(NoPass::Down),
        };
        let Some(subject) = tables.subjects.get(&peer.hash) else { return Err(NoPass::Denied(Reason::NotMember)) };
        let verdict = tables.policy.decide(&tables.own, subject, tuple, Direction::Outbound, false);
        if verdict.is_allowed { Ok(()) } else { Err(NoPass::Denied(verdict.reason)) }
    }

    /// Takes what the device gave: a virtio header and a packet.
    pub(super) fn handle_device(&self, bytes: &mut [u8], out: &mut Outlet) {
        if let Err(reason) = self.try_device(bytes, out) {
            self.counters.drop(reason);
        }
    }

    fn try_device(&self, bytes: &mut [u8], out: &mut Outlet) -> Result<(), Lost> {
        let (header, _) = VirtioHeader::parse(bytes, FORM)?;
        let whole: &mut [u8] = bytes;
        let packet = whole.get_mut(FORM.length()..).unwrap_or_default();
        let (parsed, meta) = ingest(&header, packet)?;
        let tables = self.tables();
        let tuple = parsed.tuple();
        let label = self.seed.label(&tuple);
        let (peer, hop) = match tables.routes.lookup(tuple.destination, self.seed.one_way(&tuple)) {
            Lookup::To { peer, hop, .. } => (peer, hop),
            // The kernel keeps its own addresses to itself; what comes here all the same came by a route of somebody's.
            Lookup::Local => return Err("local".into()),
            Lookup::Unreachable(why) => return Err(unreachable(why).into()),
        };
        self.allow(&tables, &peer.hash, &parsed, Direction::Outbound)?;
        let link = match self.link(&peer.hash) {
            Some(link) => link,
            None => self.ensure_link(peer.node),
        };
        let class = classify(&parsed);
        let length = packet.len();
        let route = (hop.peer, usize::try_from(peer.max_frame).unwrap_or(usize::MAX));
        let sent =
            self.submit_limited(&tables, &link, route, Packet { parsed, meta, bytes: packet, class, label }, out);
        match sent {
            Ok(()) => {
                self.counters.sent.add(class, length);
                Ok(())
            }
            Err(NotSent::NoSession) => {
                let mut sending = link.sending();
                let asks = sending.wants_session(self.uptime_ms());
                let parked = sending.park(whole);
                drop(sending);
                if asks {
                    self.report(Report::Want { peer: link.peer });
                }
                if parked { Ok(()) } else { Err("no-session".into()) }
            }
            Err(NotSent::TooBig { mtu }) => {
                self.answer_too_big(whole.get(FORM.length()..).unwrap_or_default(), &parsed, mtu);
                Err("too-big".into())
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Asks the rules about a packet to or from `peer`, and remembers its flow if they allow it.
    pub(super) fn allow(
        &self,
        tables: &Tables,
        peer: &PeerHash,
        parsed: &Parsed,
        direction: Direction,
    ) -> Result<(), Lost> {
        let Some(subject) = tables.subjects.get(peer) else { return Err("not-member".into()) };
        let (source, destination) = match direction {
            Direction::Outbound => (&tables.own, subject),
            Direction::Inbound => (subject, &tables.own),
        };
        let (tuple, flags, generation, now_ms) =
            (parsed.tuple(), parsed.tcp_flags(), tables.policy.generation(), self.uptime_ms());
        let mut flows = self.flows();
        let is_reply = flows.is_reply(*peer, &tuple, flags, generation, now_ms);
        let verdict = tables.policy.decide(source, destination, &tuple, direction, is_reply);
        if !verdict.is_allowed {
            return Err(verdict.reason.into());
        }
        if !is_reply {
            flows.allowed(*peer, &tuple, flags, generation, now_ms);
        }
        Ok(())
    }

    /// Tells the sender of a packet which size fits, so often as kernels do. The answer comes from where the packet goes: a
    /// kernel drops what comes in from one of its own addresses (RFC 1812 5.3.8), and believes whoever quotes the packet.
    fn answer_too_big(&self, packet: &[u8], parsed: &Parsed, mtu: usize) {
        let allowed = {
            let mut answers = self.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            answers.take(1, self.uptime_us()).is_ok()
        };
        if !allowed {
            return;
        }
        let from = parsed.tuple().destination;
        let mut answer = [0; ANSWER_MAX];
        let room = answer.get_mut(FORM.length()..).unwrap_or_default();
        let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
        if let Ok(length) = icmp::too_big(packet, parsed, from, mtu, room) {
            self.write_device(answer.get(..FORM.length().saturating_add(length)).unwrap_or_default());
        }
    }

    /// Gives the device a packet with its virtio header.
    pub(super) fn write_device(&self, bytes: &[u8]) {
        let Some(device) = &self.device else { return self.counters.drop("no-device") };
        match device.write(bytes) {
            Ok(Written::Taken) => {}
            Ok(Written::Full) => self.counters.drop("device-full"),
            Ok(Written::Refused) => self.counters.drop("device-refused"),
            Err(error) => {
                tracing::debug!(%error, "the device took no packet");
                self.counters.drop("device-error");
            }
        }
    }
}

const fn unreachable(why: Unreachable) -> &'static str {
    match why {
        Unreachable::NoRoute => "no-route",
        Unreachable::Held => "route-held",
        Unreachable::NoWay => "no-way",
    }
}
