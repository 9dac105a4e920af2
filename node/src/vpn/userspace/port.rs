//! The stack's side of the channel: one packet in at a time, packets out where room was asked for before, the resets that
//! are kept back, the ends that are said again and the hints at losses. It knows which connections there are and were, and
//! nothing of what is in them.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_engine::mesh::packet::{Parsed, Tcp, tuple};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::channel::Channel;
use super::losses::Losses;

/// How long the segments of a connection that ended may be under way: two minutes, the longest life of a segment
/// (RFC 9293 3.4.2).
const LATE: Duration = Duration::from_secs(120);
/// Connections that ended and are remembered.
const ENDED_MAX: usize = 4096;

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Port {
    channel: Arc<Channel>,
    mtu: usize,
    /// Connections there are, and those that ended lately, with when those are forgotten.
    known: HashMap<Ends, Option<Instant>>,
    /// Those that ended, the oldest first.
    ended: VecDeque<(Instant, Ends)>,
    /// The end of its own direction that a connection there is said last: one packet without data each.
    said: HashMap<Ends, Vec<u8>>,
    losses: Losses,
}

impl Port {
    pub(super) fn new(channel: Arc<Channel>, mtu: u16) -> Self {
        let (known, ended, said) = (HashMap::new(), VecDeque::new(), HashMap::new());
        Self { channel, mtu: usize::from(mtu), known, ended, said, losses: Losses::default() }
    }

    /// Bytes of the longest packet.
    pub(super) const fn mtu(&self) -> usize {
        self.mtu
    }

    /// Whether these ends are of a connection that is or was lately.
    pub(super) fn knows(&self, ends: &Ends) -> bool {
        self.known.contains_key(ends)
    }

    /// A connection begins.
    pub(super) fn begin(&mut self, ends: Ends) {
        self.known.insert(ends, None);
        self.losses.begin(ends);
    }

    /// A connection ended: what is still under way of it is answered by nobody.
    pub(super) fn end(&mut self, ends: Ends, now: Instant) {
        self.said.remove(&ends);
        self.losses.end(&ends);
        let until = now + LATE.into();
        self.known.insert(ends, Some(until));
        self.ended.push_back((until, ends));
        while self.ended.front().is_some_and(|(until, _)| *until <= now) || self.ended.len() > ENDED_MAX {
            let Some((until, ends)) = self.ended.pop_front() else { break };
            // One that began and ended again since then has another end.
            if self.known.get(&ends) == Some(&Some(until)) {
                self.known.remove(&ends);
            }
        }
    }

    /// Says the end of a connection's own direction once more, if it was said and there is room.
    pub(super) fn say_end_again(&self, ends: &Ends) {
        if let Some(packet) = self.said.get(ends)
            && self.channel.has_room()
        {
            self.channel.leave(packet.clone());
        }
    }

    /// Looks for connections that have waited for an answer for too long. Says when it is to look again.
    pub(super) fn look_for_losses(&mut self, now: Instant) -> Option<Instant> {
        self.losses.look(now)
    }

    /// Whether the stack has something to take in.
    pub(super) fn has_arrived(&self) -> bool {
        self.losses.has_hints() || self.channel.has_arrived()
    }

    fn leaving(&mut self, answer: Answer, now: Instant) -> Leaving<'_> {
        let Self { channel, said, losses, .. } = self;
        Leaving { channel, answer, said, losses, now }
    }

    /// Whether a packet that came in is to be seen by the stack at all, and what its answer may be.
    fn judge(&self, packet: &[u8]) -> Option<Answer> {
        let Ok(parsed) = Parsed::of(packet) else { return Some(Answer::Any) };
        let tuple = parsed.tuple();
        let (Some(flags), Some((from, to))) = (parsed.tcp_flags(), tuple.ports) else { return Some(Answer::Any) };
        let ends = Ends { local: SocketAddr::new(tuple.destination, to), remote: SocketAddr::new(tuple.source, from) };
        let known = self.known.get(&ends);
        match (flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN, known) {
            // Said again: whoever listens would take it for another connection between the same ends.
            (true, Some(None)) => None,
            (true, _) | (false, None) => Some(Answer::Any),
            (false, Some(_)) => Some(Answer::NoReset),
        }
    }
}

/// What may be answered to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Any,
    /// A late segment of a connection that went well must not destroy what the other side has not read yet.
    NoReset,
}

impl Device for Port {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, now: Instant) -> Option<(Arrived, Leaving<'_>)> {
        if !self.channel.has_answer_room() {
            return None;
        }
        if let Some(hint) = self.losses.hint() {
            return Some((Arrived(hint), self.leaving(Answer::NoReset, now)));
        }
        loop {
            let packet = self.channel.arrived()?;
            if let Some(answer) = self.judge(&packet) {
                let instead = self.losses.comes(&packet, now);
                return Some((Arrived(instead.unwrap_or(packet)), self.leaving(answer, now)));
            }
        }
    }

    /// There is room: nothing is asked to send where [`Channel::has_room`] did not say so before.
    fn transmit(&mut self, now: Instant) -> Option<Leaving<'_>> {
        Some(self.leaving(Answer::Any, now))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// A packet that came in.
pub(super) struct Arrived(Vec<u8>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

/// A place on the way out.
pub(super) struct Leaving<'a> {
    channel: &'a Channel,
    answer: Answer,
    said: &'a mut HashMap<Ends, Vec<u8>>,
    losses: &'a mut Losses,
    now: Instant,
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        let flags = flags_of(&packet);
        if self.answer == Answer::NoReset && flags & Tcp::RST != 0 {
            return result;
        }
        if flags & Tcp::FIN != 0
            && let Some(ends) = own_ends(&packet)
        {
            self.said.insert(ends, packet.clone());
        }
        self.losses.leaves(&packet, self.now);
        self.channel.leave(packet);
        result
    }
}

/// The flags of a packet that the stack made, which has no options of IP; none of what is not TCP.
fn flags_of(packet: &[u8]) -> u8 {
    let at = match (packet.first().map(|first| first >> 4), packet.get(9), packet.get(6)) {
        (Some(4), Some(&tuple::TCP), _) => 33,
        (Some(6), _, Some(&tuple::TCP)) => 53,
        _ => return 0,
    };
    packet.get(at).copied().unwrap_or_default()
}

/// The ends of a packet that the stack made.
fn own_ends(packet: &[u8]) -> Option<Ends> {
    let tuple = Parsed::of(packet).ok()?.tuple();
    let (from, to) = tuple.ports?;
    Some(Ends { local: SocketAddr::new(tuple.source, from), remote: SocketAddr::new(tuple.destination, to) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vpn::system::tun::FORM;
    use shoal_engine::mesh::packet::checksum::Sum;

    const OWN: ([u8; 4], u16) = ([100, 64, 0, 1], 80);
    const OTHER: ([u8; 4], u16) = ([100, 64, 0, 2], 50_000);

    fn packet(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
        let mut out = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
        out.extend([from.0, to.0].concat());
        let checksum = Sum::default().bytes(&out).checksum().to_be_bytes();
        out[10..12].copy_from_slice(&checksum);
        out.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
        out.extend([0; 8]);
        out.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
        out
    }

    struct Bench {
        port: Port,
        channel: Arc<Channel>,
        ends: Ends,
    }

    impl Bench {
        fn new() -> Self {
            let channel = Arc::new(Channel::new().unwrap());
            let ends = Ends { local: OWN.into(), remote: OTHER.into() };
            Self { port: Port::new(Arc::clone(&channel), 1280), channel, ends }
        }

        /// What the stack sees of a segment of the other side.
        fn hears(&mut self, flags: u8) -> bool {
            let framed = [vec![0; FORM.length()], packet(OTHER, OWN, flags)].concat();
            self.channel.write(&framed).unwrap();
            self.port.receive(Instant::ZERO).is_some()
        }

        /// Whether an answer with these flags to a segment with those leaves.
        fn answers(&mut self, heard: u8, answer: u8) -> bool {
            let framed = [vec![0; FORM.length()], packet(OTHER, OWN, heard)].concat();
            self.channel.write(&framed).unwrap();
            let (_, leaving) = self.port.receive(Instant::ZERO).unwrap();
            leaving.consume(40, |out| out.copy_from_slice(&packet(OWN, OTHER, answer)));
            self.channel.read(&mut [0; 200]).unwrap().is_some()
        }
    }

    #[test]
    fn a_beginning_that_is_said_again_is_no_second_connection() {
        let mut bench = Bench::new();
        assert!(bench.hears(Tcp::SYN));
        bench.port.begin(bench.ends);
        assert!(!bench.hears(Tcp::SYN) && bench.hears(Tcp::ACK) && bench.hears(Tcp::SYN | Tcp::ACK));
        bench.port.end(bench.ends, Instant::ZERO);
        assert!(bench.hears(Tcp::SYN), "the same ends may meet again");
    }

    #[test]
    fn a_late_segment_of_a_known_connection_is_not_answered_with_a_reset() {
        let mut bench = Bench::new();
        assert!(bench.answers(Tcp::ACK, Tcp::RST), "of a connection nobody knows");
        bench.port.begin(bench.ends);
        assert!(!bench.answers(Tcp::ACK, Tcp::RST) && bench.answers(Tcp::ACK, Tcp::ACK));
        bench.port.end(bench.ends, Instant::ZERO);
        assert!(!bench.answers(Tcp::ACK | Tcp::FIN, Tcp::RST | Tcp::ACK));
        assert!(bench.answers(Tcp::SYN, Tcp::RST | Tcp::ACK), "who begins anew is told that nobody listens");
        let later = Instant::ZERO + LATE.into();
        bench.port.end(Ends { local: bench.ends.remote, remote: bench.ends.local }, later);
        assert!(bench.answers(Tcp::ACK, Tcp::RST), "long after it");
    }

    #[test]
    fn an_end_that_was_said_is_said_again_until_the_connection_is_over() {
        let mut bench = Bench::new();
        bench.port.begin(bench.ends);
        bench.port.say_end_again(&bench.ends);
        assert_eq!(bench.channel.read(&mut [0; 200]).unwrap(), None, "nothing was said");
        assert!(bench.answers(Tcp::ACK, Tcp::ACK | Tcp::FIN));
        let mut buffer = [0; 200];
        bench.port.say_end_again(&bench.ends);
        let length = bench.channel.read(&mut buffer).unwrap().unwrap();
        assert_eq!(buffer[FORM.length()..length], packet(OWN, OTHER, Tcp::ACK | Tcp::FIN));
        bench.port.end(bench.ends, Instant::ZERO);
        bench.port.say_end_again(&bench.ends);
        assert_eq!(bench.channel.read(&mut buffer).unwrap(), None);
    }

    #[test]
    fn what_ended_is_remembered_up_to_a_bound() {
        let mut bench = Bench::new();
        for port in 0..=u16::try_from(ENDED_MAX).unwrap() {
            let ends = Ends { local: bench.ends.local, remote: SocketAddr::from((OTHER.0, port)) };
            bench.port.begin(ends);
            bench.port.end(ends, Instant::ZERO);
        }
        assert_eq!((bench.port.known.len(), bench.port.ended.len()), (ENDED_MAX, ENDED_MAX));
        assert!(!bench.port.knows(&Ends { remote: SocketAddr::from((OTHER.0, 0)), ..bench.ends }), "the oldest goes");
    }
}
