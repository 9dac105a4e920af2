//! What goes through a tunnel in tests: TCP whose bytes are compared at its end, and datagrams that come back. Sockets are
//! made in their namespaces, the rest happens in threads of the test. Nothing waits without an end.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::sample::bytes;
use crate::space::Space;

/// How long a connection may take, and how long one may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes written at once.
const PIECE: usize = 64 * 1024;
/// How long a datagram may take to come back.
const ECHO_MAX: Duration = Duration::from_secs(2);
/// Times a datagram is sent before it is given up: IP promises none.
const ECHO_TRIES: usize = 5;

fn any_of(address: IpAddr) -> SocketAddr {
    let any = if address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, 0)
}

/// A connection from one namespace to `address` in another: both ends.
fn connect(from: &Space, to: &Space, address: IpAddr) -> Result<(TcpStream, TcpStream)> {
    let listener = to.inside(|| Ok(TcpListener::bind(any_of(address))?))?;
    let target = SocketAddr::new(address, listener.local_addr()?.port());
    let near = from.inside(|| TcpStream::connect_timeout(&target, PATIENCE).context("no connection"))?;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_read_timeout(Some(PATIENCE))?;
        end.set_write_timeout(Some(PATIENCE))?;
    }
    Ok((near, far))
}

/// Sends `length` bytes over TCP and compares their BLAKE3 hash with that of what came; how long it took.
///
/// # Errors
/// If they do not arrive, or not as they were.
pub fn transfer(from: &Space, to: &Space, address: IpAddr, length: usize) -> Result<Duration> {
    let (mut near, mut far) = connect(from, to, address)?;
    let content = bytes(length as u64, length);
    let expected = blake3::hash(&content);
    let begun = Instant::now();
    let sender = std::thread::spawn(move || {
        near.write_all(&content)?;
        near.shutdown(Shutdown::Write)
    });
    let (mut hasher, mut piece, mut got) = (blake3::Hasher::new(), vec![0; PIECE], 0);
    loop {
        let read = far.read(&mut piece).with_context(|| format!("after {got} of {length} bytes"))?;
        if read == 0 {
            break;
        }
        got += read;
        hasher.update(&piece[..read]);
    }
    let took = begun.elapsed();
    sender.join().map_err(|_| anyhow!("the sender panicked"))??;
    ensure!(got == length && hasher.finalize() == expected, "{got} of {length} bytes came, or others than were sent");
    Ok(took)
}

/// Sends datagrams of these sizes to somebody who sends them back; how many had to be sent again.
///
/// # Errors
/// If one does not come back, or not as it was.
pub fn echo(from: &Space, to: &Space, address: IpAddr, sizes: &[usize]) -> Result<usize> {
    let server = to.inside(|| Ok(UdpSocket::bind(any_of(address))?))?;
    let client = from.inside(|| Ok(UdpSocket::bind(any_of(address))?))?;
    client.connect(SocketAddr::new(address, server.local_addr()?.port()))?;
    client.set_read_timeout(Some(ECHO_MAX))?;
    server.set_read_timeout(Some(Duration::from_millis(100)))?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, sender)) = server.recv_from(&mut buffer) {
                    // One that cannot be sent back is missed by who waits for it.
                    let _ = server.send_to(&buffer[..length], sender);
                }
            }
        });
        let again = sizes.iter().map(|size| echo_one(&client, *size)).sum();
        stop.store(true, Ordering::Relaxed);
        again
    })
}

fn echo_one(client: &UdpSocket, size: usize) -> Result<usize> {
    let (sent, mut back) = (bytes(size as u64, size), vec![0; 65_536]);
    for again in 0..ECHO_TRIES {
        client.send(&sent).with_context(|| format!("a datagram of {size} bytes"))?;
        match client.recv(&mut back) {
            Ok(length) => {
                ensure!(back[..length] == sent, "a datagram of {size} bytes came back as another one of {length}");
                return Ok(again);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).with_context(|| format!("a datagram of {size} bytes")),
        }
    }
    Err(anyhow!("a datagram of {size} bytes never came back"))
}

/// A TCP connection that carries a few megabytes a second until it is ended.
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<blake3::Hash>>,
    receiver: JoinHandle<Result<blake3::Hash>>,
    /// One a read, and its bytes.
    arrivals: Arc<Mutex<Vec<(Instant, usize)>>>,
}

impl Flow {
    /// Begins.
    ///
    /// # Errors
    /// If there is no connection.
    pub fn start(from: &Space, to: &Space, address: IpAddr) -> Result<Self> {
        let (mut near, mut far) = connect(from, to, address)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = std::thread::spawn(move || {
            let (mut hasher, piece) = (blake3::Hasher::new(), bytes(3, PIECE));
            for number in 0u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // No piece is like another, so that one that came twice or not at all changes the hash.
                for part in [number.to_le_bytes().as_slice(), &piece] {
                    near.write_all(part)?;
                    hasher.update(part);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            near.shutdown(Shutdown::Write)?;
            Ok(hasher.finalize())
        });
        let arrivals = Arc::<Mutex<Vec<(Instant, usize)>>>::default();
        let arrived = Arc::clone(&arrivals);
        let receiver = std::thread::spawn(move || {
            let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; PIECE]);
            loop {
                let read = far.read(&mut piece)?;
                if read == 0 {
                    return Ok(hasher.finalize());
                }
                hasher.update(&piece[..read]);
                arrived.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), read));
            }
        });
        Ok(Self { stop, sender, receiver, arrivals })
    }

    /// The longest time without a byte since `since`, until now.
    #[must_use]
    pub fn longest_stall(&self, since: Instant) -> Duration {
        let seen = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let moments = seen.iter().map(|(moment, _)| *moment).filter(|moment| *moment > since).chain([Instant::now()]);
        let mut before = since;
        let stalls = moments.map(|moment| moment.saturating_duration_since(std::mem::replace(&mut before, moment)));
        stalls.max().unwrap_or_default()
    }

    /// Bytes that came since `since`.
    #[must_use]
    pub fn bytes_since(&self, since: Instant) -> usize {
        let seen = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|(moment, _)| *moment > since).map(|(_, bytes)| bytes).sum()
    }

    /// Ends it and compares the hashes of both sides.
    ///
    /// # Errors
    /// If the connection broke, or what came is not what was sent.
    pub fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow!("an end of the flow panicked");
        let (sent, came) = (self.sender.join().map_err(panicked)??, self.receiver.join().map_err(panicked)??);
        ensure!(sent == came, "what came is not what was sent");
        Ok(())
    }
}
