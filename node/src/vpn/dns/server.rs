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
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use shoal_engine::mesh::names::answer::{QUERY_MAX, refusal};
use shoal_engine::mesh::names::{Asked, Over, Reply, Zone, answer};
use shoal_engine::mesh::qos::bucket::{Bucket, Rate};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{PORT, Told, forward};

/// Questions to others under way at once: with 64 KiB each for an answer 4 MiB.
const FORWARDS_MAX: usize = 64;
/// Connections at once, those that are to be refused among them.
const CONNECTIONS_MAX: usize = 32;
/// How long a connection may be silent (RFC 7766 §6.2.3 speaks of seconds).
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a connection may last, and how much it may ask: nobody keeps a place for good.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// See [`LIFE_MAX`].
const ASKED_MAX: usize = 256;
/// Datagrams of this machine that are answered: a second's worth of a busy resolver's, and a tenth of a core.
const OWN_RATE: Rate = Rate { bytes_per_second: 5_000, burst: 5_000 };
/// Datagrams of others that are refused with a word; the rest is refused without one.
const OTHER_RATE: Rate = Rate { bytes_per_second: 20, burst: 20 };
/// How long after an error of a socket it is asked again: it may be out of memory or descriptors.
const AGAIN: Duration = Duration::from_millis(100);

/// What all tasks of one server share.
#[derive(Debug)]
struct Shared {
    own: Ipv6Addr,
    zone: watch::Receiver<Arc<Zone>>,
    v4: watch::Receiver<Option<Ipv4Addr>>,
    others: watch::Receiver<Vec<SocketAddr>>,
    forwards: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Shared {
    /// Whether somebody on this machine asks. A member cannot send under these addresses: the packet half drops what is not
    /// from its sender's own. Whoever does on another network gets no answer: it goes to the address, which is here.
    fn is_own(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        source == IpAddr::V6(self.own) || Some(source) == self.v4.borrow().map(IpAddr::V4) || source.is_loopback()
    }

    fn answer(&self, query: &[u8], over: Over) -> Reply {
        let zone = Arc::clone(&self.zone.borrow());
        answer(query, &zone, over)
    }

    /// What the asker is told about another domain.
    async fn ask_others(&self, asked: &Asked, over: Over) -> Option<Vec<u8>> {
        let servers = self.others.borrow().clone();
        if servers.is_empty() {
            return asked.refused();
        }
        // Nothing waits for a place: a resolver repeats what is not answered.
        let Ok(_place) = self.forwards.try_acquire() else { return asked.failed() };
        match forward::ask(asked, &servers, over).await {
            Some(answer) => Some(answer),
            None => asked.failed(),
        }
    }
}

/// The server before it runs: the sockets of the address that is certain are open.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    sockets: (UdpSocket, TcpListener),
}

impl Server {
    /// Opens the sockets.
    ///
    /// # Errors
    /// Of the system: the port is taken, or not for this process.
    pub(super) fn open(own: Ipv6Addr, told: Told, others: watch::Receiver<Vec<SocketAddr>>) -> io::Result<Self> {
        let sockets = sockets(IpAddr::V6(own))?;
        let shared = Shared {
            own,
            zone: told.zone,
            v4: told.v4,
            others,
            forwards: Arc::new(Semaphore::new(FORWARDS_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        };
        Ok(Self { shared: Arc::new(shared), sockets })
    }

    /// Answers until it is aborted; on the IPv4 address as long as it is this node's.
    pub(super) async fn run(self) {
        let Self { shared, sockets: (udp, tcp) } = self;
        let mut always = JoinSet::new();
        always.spawn(datagrams(Arc::clone(&shared), udp));
        always.spawn(connections(Arc::clone(&shared), tcp));
        let mut v4 = shared.v4.clone();
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
    let (mut own, mut other) = (Bucket::new(OWN_RATE, 0), Bucket::new(OTHER_RATE, 0));
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
        let is_own = shared.is_own(source.ip());
        // A bucket counts in units of its rate; here a unit is a datagram.
        let bucket = if is_own { &mut own } else { &mut other };
        if bucket.take(1, now_us).is_err() {
            continue;
        }
        let reply =
            if is_own { shared.answer(query, Over::Udp) } else { refusal(query).map_or(Reply::Silence, Reply::Answer) };
        match reply {
            // What does not leave at once is asked again.
            Reply::Answer(bytes) => drop(socket.try_send_to(&bytes, source)),
            Reply::Elsewhere(asked) => {
                let (shared, socket) = (Arc::clone(&shared), Arc::clone(&socket));
                asking.spawn(async move {
                    if let Some(bytes) = shared.ask_others(&asked, Over::Udp).await {
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
        // The listener waits for a place, not the connection: so a full server takes none that it drops.
        let Ok(place) = Arc::clone(&shared.connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, source)) if shared.is_own(source.ip()) => {
                let shared = Arc::clone(&shared);
                open.spawn(async move {
                    // However it ends, it ends.
                    let _ = timeout(LIFE_MAX, connection(&shared, stream)).await;
                    drop(place);
                });
            }
            // Somebody else's is closed at once.
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a connection to a name server is not taken");
                sleep(AGAIN).await;
            }
        }
    }
}

/// One question after the other.
async fn connection(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    for _ in 0..ASKED_MAX {
        let query = timeout(SILENCE_MAX, forward::read(&mut stream, QUERY_MAX)).await??;
        let told = match shared.answer(&query, Over::Tcp) {
            Reply::Answer(bytes) => Some(bytes),
            Reply::Elsewhere(asked) => shared.ask_others(&asked, Over::Tcp).await,
            Reply::Silence => None,
        };
        let Some(bytes) = told else { return Ok(()) };
        timeout(SILENCE_MAX, forward::write(&mut stream, &bytes)).await??;
    }
    Ok(())
}
