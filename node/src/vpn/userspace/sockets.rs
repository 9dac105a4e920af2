//! What the stack has: the interface, its sockets, who holds them, and one turn of work on them. It sleeps never and knows
//! no thread.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, CongestionControl, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};
use tokio::sync::mpsc;

use super::channel::{Channel, OUT_SPARE};
use super::port::{Ends, Port};
use super::stack::ConnectError;

/// Bytes of a connection that wait to be read: the most a window without scaling can say. With scaling the stack rounds its
/// window down, so that its right edge moves back by a few bytes; it then drops the end of what was sent rightly, and takes
/// the FIN behind it all the same.
const RECEIVED: usize = 65_535;
/// Bytes of a connection that wait to be sent: what a round trip of 20 ms needs at a hundred megabits.
const SENT: usize = 256 * 1024;
/// Connections there are at most, those included that only wait for late segments: 80 MiB if all of them are full.
const CONNECTIONS_MAX: usize = 256;
/// Of them at most so many may be half open: a member that only ever begins them leaves room for others.
const HALF_OPEN_MAX: usize = 64;
/// Sockets of datagrams there are at most.
pub(super) const DATAGRAMS_MAX: usize = 64;
/// Ports others may be let in by.
pub(crate) const PUBLISHED_MAX: usize = 32;
const _: () = assert!(CONNECTIONS_MAX + PUBLISHED_MAX + DATAGRAMS_MAX <= OUT_SPARE, "a pass finds no room");
/// Connections of others that wait to be taken up.
const ACCEPTED_MAX: usize = 64;
/// How long the other side may take to begin a connection.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(20);
/// After this long without a word the other side is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// After this long without an answer it is not: as long as kernels try (RFC 9293 3.8.3 asks for 100 s at least).
const SILENCE: Duration = Duration::from_secs(900);
/// The same once nobody on this side waits for it any more.
const ORPHAN_SILENCE: Duration = Duration::from_secs(60);
/// Packets taken in, and passes over all sockets, before others have the lock.
pub(super) const TURN: usize = 64;
/// How often an end that nobody confirmed is said again: more seldom than the stack does where it does not forget.
const AGAIN: Duration = Duration::from_secs(2);
/// The first of the ports that connections go out by (RFC 6335 6).
const EPHEMERAL: u16 = 49152;
/// Least sleep where the stack says that it has to do something and then did nothing.
pub(super) const LEAST_SLEEP: Duration = Duration::from_millis(1);
/// Longest sleep: clocks and timers are looked at.
pub(super) const MOST_SLEEP: Duration = Duration::from_secs(5);

/// See the head of this file.
pub(super) struct Sockets {
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    pub(super) port: Port,
    ipv4: Option<Ipv4Addr>,
    ipv6: Ipv6Addr,
    published: BTreeMap<u16, Published>,
    /// Begun by others and not finished yet.
    half_open: Vec<(Held, u16)>,
    /// Their own direction ends once everything they sent has arrived.
    closing: Vec<Held>,
    /// Nobody on this side holds them any more.
    orphans: Vec<Held>,
    /// When ends that nobody confirmed are said again.
    again: Instant,
    /// Connections, half open ones and orphans.
    connections: usize,
    pub(super) datagrams: usize,
    random: Random,
}

/// A port others may connect to.
struct Published {
    /// The socket that the next connection takes; none while there is no room for one.
    listener: Option<SocketHandle>,
    accepted: mpsc::Sender<Held>,
}

/// A connection's socket, and its ends, which the socket forgets before it is removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) handle: SocketHandle,
    pub(super) ends: Ends,
}

/// Numbers nobody has to guess right: ports and the like. The stack's secrets are drawn from the system.
struct Random(u64);

impl Random {
    /// The next one (xorshift64*).
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn duration(time: Duration) -> smoltcp::time::Duration {
    smoltcp::time::Duration::from_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// A socket of TCP as all are.
fn socket() -> tcp::Socket<'static> {
    let buffer = |length| tcp::SocketBuffer::new(vec![0; length]);
    let mut socket = tcp::Socket::new(buffer(RECEIVED), buffer(SENT));
    socket.set_congestion_control(CongestionControl::Cubic);
    // Whoever writes little by little means it.
    socket.set_nagle_enabled(false);
    socket
}

impl Sockets {
    /// Without any connection; `seed` is drawn from the system.
    pub(super) fn new(mut port: Port, (ipv4, ipv6): (Option<Ipv4Addr>, Ipv6Addr), seed: u64) -> Self {
        let interface = interface(&mut port, seed);
        let mut inner = Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            port,
            ipv4,
            ipv6,
            published: BTreeMap::new(),
            half_open: Vec::new(),
            closing: Vec::new(),
            orphans: Vec::new(),
            again: Instant::ZERO,
            connections: 0,
            datagrams: 0,
            random: Random(seed | 1),
        };
        inner.set_addresses();
        inner
    }

    /// This node has another IPv4 address, or none.
    pub(super) fn set_ipv4(&mut self, address: Option<Ipv4Addr>) {
        if self.ipv4 != address {
            self.ipv4 = address;
            self.set_addresses();
        }
    }

    /// Lets others connect to a port; their connections go there.
    pub(super) fn publish(&mut self, port: u16) -> mpsc::Receiver<Held> {
        let (accepted, waiting) = mpsc::channel(ACCEPTED_MAX);
        self.published.insert(port, Published { listener: None, accepted });
        self.listen();
        waiting
    }

    /// Nobody on this side holds a connection any more; one that was not brought to its end is reset.
    pub(super) fn release(&mut self, held: Held, is_finished: bool) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(held.handle);
        if !is_finished {
            socket.abort();
        }
        socket.set_keep_alive(Some(duration(ORPHAN_SILENCE / 4)));
        socket.set_timeout(Some(duration(ORPHAN_SILENCE)));
        self.orphans.push(held);
    }

    /// Nothing more will be written: the end is said once everything before it has arrived. Said together with data that
    /// is still under way, it hides from the stack that the other side has room again, or that data was lost.
    pub(super) fn close(&mut self, held: Held) {
        self.closing.push(held);
    }

    fn say_ends(&mut self) {
        let Self { closing, sockets, .. } = self;
        closing.retain(|held| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(held.handle);
            let waits = socket.may_send() && socket.send_queue() > 0;
            if !waits {
                socket.close();
            }
            waits
        });
    }

    /// Says ends again that nobody confirmed: the stack itself forgets to where it heard an answer three times meanwhile.
    /// Whether some are left.
    fn say_ends_again(&mut self, now: Instant) -> bool {
        let waits = |socket: &tcp::Socket<'_>| {
            matches!(socket.state(), State::FinWait1 | State::Closing | State::LastAck) && socket.send_queue() == 0
        };
        let mut any = false;
        let is_due = now >= self.again;
        for (_, socket) in self.sockets.iter() {
            if let smoltcp::socket::Socket::Tcp(socket) = socket
                && waits(socket)
                && let (Some(local), Some(remote)) = (socket.local_endpoint(), socket.remote_endpoint())
            {
                any = true;
                if is_due {
                    self.port.say_end_again(&Ends { local: local.into(), remote: remote.into() });
                }
            }
        }
        if is_due || !any {
            self.again = now + AGAIN.into();
        }
        any
    }

    fn set_addresses(&mut self) {
        let addresses =
            [self.ipv4.map(|address| IpCidr::new(address.into(), 32)), Some(IpCidr::new(self.ipv6.into(), 128))];
        self.interface.update_ip_addrs(|own| {
            own.clear();
            for address in addresses.into_iter().flatten() {
                // There is room for one of each kind.
                let _ = own.push(address);
            }
        });
    }

    /// This node's address of the kind that `to` has.
    pub(super) fn own(&self, to: IpAddr) -> Option<IpAddr> {
        match to {
            IpAddr::V4(_) => self.ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => Some(IpAddr::V6(self.ipv6)),
        }
    }

    /// Bytes a datagram to `to` may have: nothing is sent in fragments.
    pub(super) const fn payload_max(&self, to: IpAddr) -> usize {
        /// Of IPv4 without options and of UDP; IPv6 has 20 more.
        const HEADERS: usize = 28;
        self.port.mtu().saturating_sub(if to.is_ipv4() { HEADERS } else { HEADERS + 20 })
    }

    /// A port of this node that no connection to `remote` has.
    pub(super) fn free_port(&mut self, is_taken: impl Fn(&Self, u16) -> bool) -> Option<u16> {
        /// Tries: with a few hundred of 16,384 taken the first is nearly always free.
        const TRIES: usize = 64;
        for _ in 0..TRIES {
            let offset = u16::try_from(self.random.next() >> 50).unwrap_or(0);
            let port = EPHEMERAL.saturating_add(offset);
            if !is_taken(self, port) {
                return Some(port);
            }
        }
        None
    }

    /// Begins a connection.
    ///
    /// # Errors
    /// [`ConnectError`], without waiting for anybody.
    pub(super) fn connect(&mut self, remote: SocketAddr, now: Instant) -> Result<(SocketHandle, Ends), ConnectError> {
        let own = self.own(remote.ip()).ok_or(ConnectError::NoAddress)?;
        if !self.make_room(now) {
            return Err(ConnectError::Busy);
        }
        let taken = |inner: &Self, port| inner.port.knows(&Ends { local: SocketAddr::new(own, port), remote });
        let local = SocketAddr::new(own, self.free_port(taken).ok_or(ConnectError::Busy)?);
        let mut socket = socket();
        socket.connect(self.interface.context(), remote, local).map_err(|_| ConnectError::Refused)?;
        let ends = Ends { local, remote };
        self.port.begin(ends);
        self.connections = self.connections.saturating_add(1);
        Ok((self.sockets.add(socket), ends))
    }

    /// Whether one more connection may be; the place of one that only waits for late segments is given away.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.connections < CONNECTIONS_MAX {
            return true;
        }
        let sockets = &self.sockets;
        let rests = |held: &Held| sockets.get::<tcp::Socket<'_>>(held.handle).state() == State::TimeWait;
        let Some(at) = self.orphans.iter().position(rests) else { return false };
        let held = self.orphans.remove(at);
        self.remove(held, now);
        true
    }

    fn remove(&mut self, held: Held, now: Instant) {
        // One that timed out may never have said its end.
        self.closing.retain(|other| other.handle != held.handle);
        self.sockets.remove(held.handle);
        self.port.end(held.ends, now);
        self.connections = self.connections.saturating_sub(1);
    }

    /// Every published port has a socket that the next connection takes, as far as there is room.
    fn listen(&mut self) {
        let room =
            CONNECTIONS_MAX.saturating_sub(self.connections).min(HALF_OPEN_MAX.saturating_sub(self.half_open.len()));
        if room == 0 {
            return;
        }
        for (port, published) in &mut self.published {
            if published.listener.is_none() {
                let mut socket = socket();
                socket.set_timeout(Some(duration(HANDSHAKE)));
                if socket.listen(*port).is_ok() {
                    published.listener = Some(self.sockets.add(socket));
                }
            }
        }
    }

    /// After a packet came in: sockets that listened and now have a connection begun are others' from here on, and those
    /// whose beginning was taken back are nobody's. Said before the next packet, which may be the same again.
    fn note_begun(&mut self) {
        let Self { half_open, sockets, published, orphans, port, connections, .. } = self;
        half_open.retain(|(held, _)| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(held.handle);
            let is_back = matches!(socket.state(), State::Listen | State::Closed);
            if is_back {
                socket.abort();
                orphans.push(*held);
            }
            !is_back
        });
        let mut any = false;
        for (number, published) in published {
            let Some(handle) = published.listener else { continue };
            let socket = sockets.get::<tcp::Socket<'_>>(handle);
            let (Some(local), Some(remote)) = (socket.local_endpoint(), socket.remote_endpoint()) else { continue };
            published.listener = None;
            let ends = Ends { local: local.into(), remote: remote.into() };
            port.begin(ends);
            half_open.push((Held { handle, ends }, *number));
            *connections = connections.saturating_add(1);
            any = true;
        }
        if any {
            self.listen();
        }
    }

    /// Connections that others began and finished are handed to whoever takes them up.
    fn hand_over(&mut self) {
        let Self { half_open, sockets, published, orphans, .. } = self;
        half_open.retain(|(held, port)| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(held.handle);
            let taken = match socket.state() {
                State::SynReceived => return true,
                State::Closed | State::Listen | State::SynSent => false,
                _ => published.get(port).is_some_and(|published| published.accepted.try_send(*held).is_ok()),
            };
            if taken {
                keep(socket);
            } else {
                socket.abort();
                orphans.push(*held);
            }
            false
        });
    }

    /// Removes what nobody holds and nothing is to be sent of any more.
    fn sweep(&mut self, now: Instant) {
        let is_over = |socket: &tcp::Socket<'_>| socket.state() == State::Closed && socket.remote_endpoint().is_none();
        let mut at = 0;
        while let Some(held) = self.orphans.get(at).copied() {
            if is_over(self.sockets.get::<tcp::Socket<'_>>(held.handle)) {
                self.orphans.swap_remove(at);
                self.remove(held, now);
            } else {
                at = at.saturating_add(1);
            }
        }
    }

    /// Takes packets in and sends what is to be sent, as far as a turn goes. Says how long there is nothing to do; `None`
    /// if there is more.
    pub(super) fn turn(&mut self, now: Instant, channel: &Channel) -> Option<Duration> {
        let mut did = false;
        self.port.look_for_losses(now);
        for _ in 0..TURN {
            match self.interface.poll_ingress_single(now, &mut self.port, &mut self.sockets) {
                PollIngressSingleResult::None => break,
                PollIngressSingleResult::PacketProcessed => {}
                PollIngressSingleResult::SocketStateChanged => self.note_begun(),
            }
            did = true;
        }
        self.say_ends();
        let mut is_stuck = false;
        let mut passes = 0;
        while passes < TURN {
            // Asked for all sockets together: see OUT_SPARE.
            if !channel.has_room() {
                is_stuck = true;
                break;
            }
            if self.interface.poll_egress(now, &mut self.port, &mut self.sockets) == PollResult::None {
                break;
            }
            did = true;
            passes = passes.saturating_add(1);
        }
        let ends = self.say_ends_again(now);
        self.hand_over();
        self.sweep(now);
        self.listen();
        if is_stuck {
            // Packets still come in while there is room for answers; without that, room is what wakes.
            let more = self.port.has_arrived() && channel.has_answer_room();
            return (!more).then_some(MOST_SLEEP);
        }
        let late = self.port.look_for_losses(now);
        if passes == TURN || self.port.has_arrived() {
            return None;
        }
        let longest = if ends { AGAIN } else { MOST_SLEEP };
        let due = self.interface.poll_at(now, &self.sockets).into_iter().chain(late).min();
        let wait = due.map_or(longest, |due| if due <= now { Duration::ZERO } else { (due - now).into() });
        match (wait.is_zero(), did) {
            (true, true) => None,
            (true, false) => Some(LEAST_SLEEP),
            (false, _) => Some(wait.min(longest)),
        }
    }

    /// Every connection is reset, with the next turn.
    pub(super) fn reset_all(&mut self) {
        for (_, socket) in self.sockets.iter_mut() {
            if let smoltcp::socket::Socket::Tcp(socket) = socket {
                socket.abort();
            }
        }
        // Whoever waits for connections hears that there are none any more.
        self.published.clear();
    }

    /// After a panic: whatever the stack was in the midst of, its connections are over.
    pub(super) fn restart(&mut self) {
        tracing::error!("the userspace stack failed and begins anew; its connections are reset");
        self.interface = interface(&mut self.port, self.random.next());
        self.set_addresses();
        for (_, socket) in self.sockets.iter_mut() {
            if let smoltcp::socket::Socket::Tcp(socket) = socket {
                socket.abort();
            }
        }
    }
}

/// The interface, without addresses; everything is reached through it.
fn interface(port: &mut Port, seed: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut interface = Interface::new(config, port, Instant::ZERO);
    // What the next hop is matters to nobody on a link without neighbours.
    let routes = interface.routes_mut();
    let _ = routes.add_default_ipv4_route(Ipv4Addr::new(100, 64, 0, 1));
    let _ = routes.add_default_ipv6_route(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
    interface
}

/// A connection that began stays while the other side is there.
pub(super) fn keep(socket: &mut tcp::Socket<'_>) {
    socket.set_keep_alive(Some(duration(KEEP_ALIVE)));
    socket.set_timeout(Some(duration(SILENCE)));
}
