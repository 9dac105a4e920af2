//! The sockets of the name server and their bounds. It reads no message itself: who may ask is decided here by their
//! address, what is answered in `shoal_engine::mesh::names`.
//!
//! | task | started | ends | lost then |
//! |---|---|---|---|
//! | this one | with the server | with it | nothing |
//! | datagrams, connections: one each an address | with the address | with it, or the server | questions under way |
//! | a connection | when it comes | with it, after [`LIFE_MAX`] at the latest | what it asked |
//! | a question to others | when it is asked | with its answer, or none | that question; resolvers repeat it |

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use shoal_engine::mesh::names::answer::{QUERY_MAX, refusal};
use shoal_engine::mesh::names::{Asked, Over, Reply, answer_among};
use shoal_engine::mesh::qos::bucket::{Bucket, Rate};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Others, PORT, Told, forward};
use crate::vpn::machine::{Machine, Slot};

/// Questions to others under way at once: with 64 KiB each for an answer 4 MiB.
const FORWARDS_MAX: usize = 64;
/// Connections at once of this machine, and as many of members that leave through it.
const CONNECTIONS_MAX: usize = 32;
/// How long a connection may be silent (RFC 7766 §6.2.3 speaks of seconds).
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a connection may last, and how much it may ask: nobody keeps a place for good.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// See [`LIFE_MAX`].
const ASKED_MAX: usize = 256;
/// Datagrams of this machine that are answered: a second's worth of a busy resolver's, and a tenth of a core.
const OWN_RATE: Rate = Rate { bytes_per_second: 5_000, burst: 5_000 };
/// Datagrams of all members together that leave through this machine: what a house asks, and a fiftieth of a core.
const GUEST_RATE: Rate = Rate { bytes_per_second: 1_000, burst: 2_000 };
/// Datagrams of others that are refused with a word; the rest is refused without one.
const OTHER_RATE: Rate = Rate { bytes_per_second: 20, burst: 20 };
/// How long after an error of a socket it is asked again: it may be out of memory or descriptors.
const AGAIN: Duration = Duration::from_millis(100);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// A program of this machine.
    Own,
    /// A member whose packets may leave through this machine.
    Guest,
    /// Anybody else.
    Other,
}

/// What one kind of asker may have at once: members cannot take what programs of this machine need.
#[derive(Debug)]
struct Places {
    forwards: Semaphore,
    connections: Arc<Semaphore>,
}

impl Places {
    fn new() -> Self {
        Self { forwards: Semaphore::new(FORWARDS_MAX), connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

/// What all tasks of one server share.
#[derive(Debug)]
struct Shared {
    own: Ipv6Addr,
    told: Told,
    /// Where the names of the other networks of this machine are, for its programs.
    machine: (Arc<Machine>, Slot),
    /// Whom this machine asked before.
    before: Vec<SocketAddr>,
    own_places: Places,
    guest_places: Places,
}

impl Shared {
    /// Who asks from this address. A member cannot send under those of another: the packet half drops what is not from its
    /// sender's own. Whoever does on another network gets no answer: it goes to the address, which is here or a member's.
    fn asker(&self, source: IpAddr) -> Asker {
        let source = source.to_canonical();
        let own_v4 = self.told.v4.borrow().map(IpAddr::V4);
        if source == IpAddr::V6(self.own) || Some(source) == own_v4 || source.is_loopback() {
            return Asker::Own;
        }
        let is_guest = self.told.zone.borrow().holder(source).is_some_and(|member| member.is_guest);
        if is_guest { Asker::Guest } else { Asker::Other }
    }

    /// What is said to whoever asks: to members nothing of this network, for they have servers of their own.
    fn answer(&self, query: &[u8], over: Over, asker: Asker) -> Reply {
        let refused = || refusal(query).map_or(Reply::Silence, Reply::Answer);
        if asker == Asker::Other {
            return refused();
        }
        let zone = Arc::clone(&self.told.zone.borrow());
        let (machine, slot) = &self.machine;
        let others = if asker == Asker::Own { machine.other_zones(*slot) } else { Vec::new() };
        match answer_among(query, &zone, &others, over) {
            Reply::Answer(_) if asker == Asker::Guest => refused(),
            reply => reply,
        }
    }

    const fn places(&self, asker: Asker) -> &Places {
        match asker {
            Asker::Own => &self.own_places,
            Asker::Guest | Asker::Other => &self.guest_places,
        }
    }

    /// Whom other domains are asked of, for this asker.
    fn servers(&self, asker: Asker) -> Vec<SocketAddr> {
        match *self.told.others.borrow() {
            Others::Exit(exit) if asker == Asker::Own => vec![SocketAddr::new(exit.into(), PORT)],
            Others::Nobody if asker == Asker::Own => Vec::new(),
            _ => self.before.clone(),
        }
    }

    /// What the asker is told about another domain.
    async fn ask_others(&self, asked: &Asked, over: Over, asker: Asker) -> Option<Vec<u8>> {
        let servers = self.servers(asker);
        if servers.is_empty() {
            return asked.refused();
        }
        // Nothing waits for a place: a resolver repeats what is not answered.
        let Ok(_place) = self.places(asker).forwards.try_acquire() else { return asked.failed() };
        match forward::ask(asked, &servers, over).await {
            Some(answer) => Some(answer),
            None => asked.failed(),
        }
    }
}

/// The server before it runs: the sockets of the address that is certain are open.
#[derive(Debug)]
pub(super) struct Server {
    own: Ipv6Addr,
    told: Told,
    machine: (Arc<Machine>, Slot),
    sockets: (UdpSocket, TcpListener),
}

impl Server {
    /// Opens the sockets.
    ///
    /// # Errors
    /// Of the system: the port is taken, or not for this process.
    pub(super) fn open(own: Ipv6Addr, told: Told, machine: (Arc<Machine>, Slot)) -> io::Result<Self> {
        Ok(Self { own, told, machine, sockets: sockets(IpAddr::V6(own))? })
    }

    /// Answers until it is aborted; on the IPv4 address as long as it is this node's. `before` is whom this machine asked
    /// before it asked here.
    pub(super) async fn run(self, before: Vec<SocketAddr>) {
        let Self { own, told, machine, sockets: (udp, tcp) } = self;
        let mut v4 = told.v4.clone();
        let (own_places, guest_places) = (Places::new(), Places::new());
        let shared = Arc::new(Shared { own, told, machine, before, own_places, guest_places });
        let mut always = JoinSet::new();
        always.spawn(datagrams(Arc::clone(&shared), udp));
        always.spawn(connections(Arc::clone(&shared), tcp));
        loop {
            let address = *v4.borrow_and_update();
            let mut tasks = JoinSet::new();
            if let Some(address) = address {
                match sockets(IpAddr::V4(address)) {
                    Ok((udp, tcp)) => {
                        tasks.spawn(datagrams(Arc::clone(&shared), udp));
                        tasks.spawn(connections(Arc::clone(&shared), tcp));
                    }
                    Err(error) => tracing::warn!(%error, %address, "names are not answered on this address"),
                }
            }
            if v4.changed().await.is_err() {
                return;
            }
            // With the tasks their sockets are closed.
            tasks.shutdown().await;
        }
    }
}

/// Sockets of an address of ours.
fn sockets(address: IpAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let place = SocketAddr::new(address, PORT);
    let udp = std::net::UdpSocket::bind(place)?;
    let tcp = std::net::TcpListener::bind(place)?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
}

async fn datagrams(shared: Arc<Shared>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let begun = Instant::now();
    let [mut own, mut guest, mut other] = [OWN_RATE, GUEST_RATE, OTHER_RATE].map(|rate| Bucket::new(rate, 0));
    let mut asking = JoinSet::new();
    // A byte more than a question has: what fills it is none.
    let mut buffer = vec![0; QUERY_MAX.saturating_add(1)];
    loop {
        while asking.try_join_next().is_some() {}
        let (length, source) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "a datagram of a name server is not received");
                sleep(AGAIN).await;
                continue;
            }
        };
        let Some(query) = buffer.get(..length) else { continue };
        let now_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let asker = shared.asker(source.ip());
        // A bucket counts in units of its rate; here a unit is a datagram.
        let bucket = match asker {
            Asker::Own => &mut own,
            Asker::Guest => &mut guest,
            Asker::Other => &mut other,
        };
        if bucket.take(1, now_us).is_err() {
            continue;
        }
        match shared.answer(query, Over::Udp, asker) {
            // What does not leave at once is asked again.
            Reply::Answer(bytes) => drop(socket.try_send_to(&bytes, source)),
            Reply::Elsewhere(asked) => {
                let (shared, socket) = (Arc::clone(&shared), Arc::clone(&socket));
                asking.spawn(async move {
                    if let Some(bytes) = shared.ask_others(&asked, Over::Udp, asker).await {
                        let _ = socket.try_send_to(&bytes, source);
                    }
                });
            }
            Reply::Silence => {}
        }
    }
}

async fn connections(shared: Arc<Shared>, listener: TcpListener) {
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, source)) => {
                let asker = shared.asker(source.ip());
                // Somebody else's is closed at once, and so is one too many.
                let Ok(place) = Arc::clone(&shared.places(asker).connections).try_acquire_owned() else { continue };
                if asker == Asker::Other {
                    continue;
                }
                let shared = Arc::clone(&shared);
                open.spawn(async move {
                    // However it ends, it ends.
                    let _ = timeout(LIFE_MAX, connection(&shared, stream, asker)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to a name server is not taken");
                sleep(AGAIN).await;
            }
        }
    }
}

/// One question after the other.
async fn connection(shared: &Shared, mut stream: TcpStream, asker: Asker) -> io::Result<()> {
    for _ in 0..ASKED_MAX {
        let query = timeout(SILENCE_MAX, forward::read(&mut stream, QUERY_MAX)).await??;
        let told = match shared.answer(&query, Over::Tcp, asker) {
            Reply::Answer(bytes) => Some(bytes),
            Reply::Elsewhere(asked) => shared.ask_others(&asked, Over::Tcp, asker).await,
            Reply::Silence => None,
        };
        let Some(bytes) = told else { return Ok(()) };
        timeout(SILENCE_MAX, forward::write(&mut stream, &bytes)).await??;
    }
    Ok(())
}
