//! Limits of peers at work: what is over one waits here, in the direction it goes, and the thread that reads the device lets
//! it go when its time has come. The rules say what is limited; what nothing limits passes by.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_engine::mesh::network::Tables;
use shoal_engine::mesh::packet::offload::rebuild;
use shoal_engine::mesh::packet::split::{Limits as Cut, Prepared, piece_limit, prepare};
use shoal_engine::mesh::packet::{Parsed, ecn};
use shoal_engine::mesh::policy::Direction;
use shoal_engine::mesh::qos::limits::{Limited, Limiter, Protocol};
use shoal_engine::mesh::qos::{classify, piece_bytes};
use shoal_protocol::mesh::class::Class;
use shoal_protocol::mesh::meta::Meta;
use shoal_protocol::mesh::offloads::Offloads;
use shoal_protocol::mesh::peer_hash::PeerHash;

use super::Plane;
use super::counters::Lost;
use super::link::Link;
use super::send::{NotSent, Outlet, Packet};
use crate::vpn::system::tun::FORM;

/// Packets of one link that go in a turn, before those of the next.
const TURN: usize = 64;
/// Limits are looked at no more often: they let packets go ahead by more than this.
const LOOK_LEAST: Duration = Duration::from_millis(1);
/// And as often as this while something waits.
const LOOK_MOST: Duration = Duration::from_millis(500);

/// A packet that waits, and where it goes.
#[derive(Debug)]
pub(super) struct Held {
    meta: Meta,
    /// With room for the device's header before the packet.
    bytes: Vec<u8>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// To the peer, by this next hop and in frames of at most so many bytes.
    Out { route: (PeerHash, usize), class: Class, label: u16 },
    /// To the device.
    In,
}

/// The limits of one peer.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// By which rules.
    generation: u64,
    out: Limiter<Held>,
    inward: Limiter<Held>,
    /// The link is in the list of those whose packets wait.
    is_listed: bool,
}

impl Limits {
    /// Packets and bytes that wait, both ways.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let (out, inward) = (self.out.waiting(), self.inward.waiting());
        (out.0.saturating_add(inward.0), out.1.saturating_add(inward.1))
    }

    fn limiter(&mut self, direction: Direction) -> &mut Limiter<Held> {
        match direction {
            Direction::Outbound => &mut self.out,
            Direction::Inbound => &mut self.inward,
        }
    }
}

impl Plane {
    /// Whether an own packet of the link's peer may pass now.
    fn passes<'a>(
        &self,
        tables: &Tables,
        link: &'a Link,
        parsed: &Parsed,
        direction: Direction,
    ) -> Result<(), MutexGuard<'a, Limits>> {
        if !tables.policy.has_limits() {
            return Ok(());
        }
        let mut limits = link.limits();
        if limits.generation != tables.policy.generation() {
            let rates = tables.subjects.get(&link.peer).map(|subject| tables.policy.limits_of(subject));
            let rates = rates.unwrap_or_default();
            limits.generation = tables.policy.generation();
            limits.out.set(rates);
            limits.inward.set(rates);
        }
        let (protocol, now_us) = (Protocol::of(parsed.protocol), self.uptime_us());
        match limits.limiter(direction).passes(protocol, parsed.length, now_us) {
            true => Ok(()),
            false => Err(limits),
        }
    }

    /// Cuts a packet and lets its pieces wait.
    fn hold(
        &self,
        link: &Arc<Link>,
        mut limits: MutexGuard<'_, Limits>,
        (parsed, meta, packet): (&Parsed, Meta, &mut [u8]),
        mut way: impl FnMut() -> Way,
        direction: Direction,
    ) -> Result<(), NotSent> {
        let (flow, class) = (self.seed.one_way(&parsed.tuple()), classify(parsed));
        let protocol = Protocol::of(parsed.protocol);
        let limiter = limits.limiter(direction);
        let most = piece_limit(parsed, meta, piece_bytes(limiter.rate(protocol).unwrap_or(u64::MAX)));
        let mut piece = |meta: Meta, bytes: Vec<u8>| {
            let length = bytes.len().saturating_sub(FORM.length());
            let held = Held { meta, bytes, way: way() };
            let drop = |_, why: Limited| self.counters.drop(why);
            limiter.push(held, protocol, (class, flow, length), self.uptime_us(), drop);
        };
        let cut = match prepare(packet, parsed, meta, Cut { max_packet: most, far: Offloads::ALL })? {
            Prepared::Whole(meta) => {
                piece(meta, [&[0; FORM.length()][..], &*packet].concat());
                Ok(())
            }
            Prepared::Split(mut split) => loop {
                let mut memory = vec![0; FORM.length().saturating_add(split.largest())];
                let room = memory.get_mut(FORM.length()..).unwrap_or_default();
                match split.next(packet, room) {
                    Ok(Some((length, meta))) => {
                        memory.truncate(FORM.length().saturating_add(length));
                        piece(meta, memory);
                    }
                    Ok(None) => break Ok(()),
                    Err(reason) => break Err(reason.into()),
                }
            },
        };
        if !std::mem::replace(&mut limits.is_listed, true) {
            drop(limits);
            self.limited.lock().unwrap_or_else(PoisonError::into_inner).push_back(Arc::clone(link));
            self.wake_sender();
        }
        cut
    }

    /// Sends a packet, or lets it wait for the limit of the peer it is for.
    pub(super) fn submit_limited(
        &self,
        tables: &Tables,
        link: &Arc<Link>,
        route: (PeerHash, usize),
        packet: Packet<'_>,
        out: &mut Outlet,
    ) -> Result<(), NotSent> {
        let Err(limits) = self.passes(tables, link, &packet.parsed, Direction::Outbound) else {
            return self.submit(link, route, packet, out);
        };
        let Packet { parsed, meta, bytes, class, label } = packet;
        self.hold(link, limits, (&parsed, meta, bytes), || Way::Out { route, class, label }, Direction::Outbound)
    }

    /// Whether a packet from a peer is to wait for its limit: it is kept then.
    pub(super) fn holds_inbound(
        &self,
        tables: &Tables,
        link: &Arc<Link>,
        (parsed, meta, packet): (&Parsed, Meta, &mut [u8]),
    ) -> Result<bool, Lost> {
        let Err(limits) = self.passes(tables, link, parsed, Direction::Inbound) else { return Ok(false) };
        self.hold(link, limits, (parsed, meta, packet), || Way::In, Direction::Inbound)?;
        Ok(true)
    }

    /// Lets go what limits let go now; how long until the next.
    pub(super) fn serve_limited(&self, out: &mut Outlet) -> Option<Duration> {
        let mut next_us = None;
        let turns = self.limited.lock().unwrap_or_else(PoisonError::into_inner).len();
        for _ in 0..turns {
            let Some(link) = self.limited.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else { break };
            let wait_us = self.serve_limits(&link, out);
            if let Some(wait_us) = wait_us {
                next_us = Some(next_us.map_or(wait_us, |next: u64| next.min(wait_us)));
                self.limited.lock().unwrap_or_else(PoisonError::into_inner).push_back(link);
            }
        }
        self.flush(out);
        next_us.map(|wait_us| Duration::from_micros(wait_us).clamp(LOOK_LEAST, LOOK_MOST))
    }

    /// A turn of one link; none when nothing of it waits any more.
    fn serve_limits(&self, link: &Arc<Link>, out: &mut Outlet) -> Option<u64> {
        for _ in 0..TURN {
            let held = {
                let mut limits = link.limits();
                let now_us = self.uptime_us();
                let mark = |held: &mut Held| held.bytes.get_mut(FORM.length()..).is_some_and(ecn::mark);
                let drop = |_, why: Limited| self.counters.drop(why);
                let Limits { out: outward, inward, .. } = &mut *limits;
                outward.pop(now_us, mark, drop).or_else(|| inward.pop(now_us, mark, drop))
            };
            let Some(held) = held else { break };
            if let Err(reason) = self.let_go(link, held, out) {
                self.counters.drop(reason);
            }
        }
        let mut limits = link.limits();
        let now_us = self.uptime_us();
        let wait_us = limits.out.wait_us(now_us).into_iter().chain(limits.inward.wait_us(now_us)).min();
        limits.is_listed = wait_us.is_some();
        wait_us
    }

    fn let_go(&self, link: &Arc<Link>, held: Held, out: &mut Outlet) -> Result<(), Lost> {
        let Held { meta, mut bytes, way } = held;
        let packet = bytes.get_mut(FORM.length()..).unwrap_or_default();
        match way {
            Way::Out { route, class, label } => {
                let parsed = Parsed::of(packet)?;
                Ok(self.submit(link, route, Packet { parsed, meta, bytes: packet, class, label }, out)?)
            }
            Way::In => {
                let (_, header) = rebuild(meta, packet)?;
                self.give(&header, &mut bytes)
            }
        }
    }
}
