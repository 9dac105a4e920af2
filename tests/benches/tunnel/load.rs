//! What goes through: TCP flows, datagrams and pings between two machines, the same for every contender. Sockets are made
//! in their namespaces, threads of this program carry the bytes; the first second of each load is not counted.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use shoal_tests::space::Space;

/// Bytes handed to the kernel at once.
const PIECE: usize = 128 * 1024;
/// What a connection takes to be as fast as it gets.
const WARM: Duration = Duration::from_secs(1);
/// How often who receives looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);
/// Packets under way: 1.4 MB, less than what sockets and devices hold.
const AHEAD: u64 = 1024;
/// Packets of which nothing comes for so long are lost.
const LOST: Duration = Duration::from_millis(5);
/// IPv4 and UDP headers of a packet.
const UDP_HEADERS: usize = 28;

/// Bytes in the time they took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
}

impl Rate {
    /// Megabits a second.
    pub(crate) fn megabits(self) -> f64 {
        self.bytes as f64 * 8e-6 / self.took.as_secs_f64()
    }

    /// Gigabits.
    pub(crate) fn gigabits(self) -> f64 {
        self.bytes as f64 * 8e-9
    }
}

/// TCP flows at work, from one machine to an address of another.
pub(crate) struct Flows {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    ends: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Flows {
    /// Begins so many.
    pub(crate) fn start(from: &Space, to: &Space, address: Ipv4Addr, count: usize) -> Self {
        let listener = to.inside(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?)).unwrap();
        let target = SocketAddr::new(address.into(), listener.local_addr().unwrap().port());
        let (stop, received) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (mut ends, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let connect = || Ok(TcpStream::connect_timeout(&target, Duration::from_secs(20))?);
            let mut near = from.inside(connect).unwrap();
            let (mut far, _) = listener.accept().unwrap();
            far.set_read_timeout(Some(LOOK)).unwrap();
            near.set_write_timeout(Some(LOOK)).unwrap();
            ends.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
            let stopped = Arc::clone(&stop);
            threads.push(std::thread::spawn(move || {
                let piece = vec![7; PIECE];
                while !stopped.load(Ordering::Relaxed) {
                    match near.write(&piece) {
                        Ok(_) => {}
                        Err(error) if is_patience(&error) => {}
                        // The receiver counts what came.
                        Err(_) => return,
                    }
                }
            }));
            let (stopped, count) = (Arc::clone(&stop), Arc::clone(&received));
            threads.push(std::thread::spawn(move || {
                let mut piece = vec![0; PIECE];
                while !stopped.load(Ordering::Relaxed) {
                    match far.read(&mut piece) {
                        Ok(0) => return,
                        Ok(got) => count.fetch_add(got as u64, Ordering::Relaxed),
                        Err(error) if is_patience(&error) => 0,
                        Err(_) => return,
                    };
                }
            }));
        }
        Self { stop, received, ends, threads }
    }

    /// What comes within this time.
    pub(crate) fn during(&self, time: Duration) -> Rate {
        let (before, begun) = (self.received.load(Ordering::Relaxed), Instant::now());
        sleep(time);
        Rate { bytes: self.received.load(Ordering::Relaxed) - before, took: begun.elapsed() }
    }

    /// The same, once they are as fast as they get; `around` is asked right before and right after.
    pub(crate) fn measured<T>(&self, time: Duration, around: impl Fn() -> T) -> (Rate, T, T) {
        sleep(WARM);
        let before = around();
        let rate = self.during(time);
        (rate, before, around())
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for end in &self.ends {
            // One that is closed already needs it no more.
            let _ = end.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Whether it is only that nothing could be read or written for a while.
fn is_patience(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Packets of `size` bytes with their headers that come in a second. One thread sends them, one a call, and stays at most
/// [`AHEAD`] of what came: a sender without a bound takes the processors that its packets need at the other end, and what
/// comes then says who was scheduled, not what the tunnel can.
pub(crate) fn packets(from: &Space, to: &Space, address: Ipv4Addr, size: usize, time: Duration) -> f64 {
    let bind = || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?);
    let (near, far) = (from.inside(bind).unwrap(), to.inside(bind).unwrap());
    near.connect((address, far.local_addr().unwrap().port())).unwrap();
    near.set_write_timeout(Some(LOOK)).unwrap();
    far.set_read_timeout(Some(LOOK)).unwrap();
    let (stop, came) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (packet, mut ahead, mut seen, mut waited) = (vec![7; size - UDP_HEADERS], 0, 0, Instant::now());
            while !stop.load(Ordering::Relaxed) {
                let now = came.load(Ordering::Relaxed);
                if now != seen {
                    (ahead, seen, waited) = (u64::saturating_sub(ahead, now - seen), now, Instant::now());
                }
                if ahead < AHEAD {
                    ahead += u64::from(near.send(&packet).is_ok());
                } else if waited.elapsed() > LOST {
                    ahead = 0;
                } else {
                    sleep(Duration::from_micros(20));
                }
            }
        });
        scope.spawn(|| {
            let mut packet = vec![0; size];
            while !stop.load(Ordering::Relaxed) {
                came.fetch_add(u64::from(far.recv(&mut packet).is_ok()), Ordering::Relaxed);
            }
        });
        sleep(WARM);
        let (before, begun) = (came.load(Ordering::Relaxed), Instant::now());
        sleep(time);
        let rate = (came.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        rate
    })
}

/// Round trips of echo requests.
pub(crate) struct Pings {
    asked: usize,
    /// Milliseconds, shortest first.
    times: Vec<f64>,
}

impl Pings {
    /// `count` of them, one every so many milliseconds, with this DSCP byte.
    pub(crate) fn send(from: &Space, address: IpAddr, count: usize, every_ms: u32, tos: u8) -> Self {
        let (every, counted) = (format!("{:.3}", f64::from(every_ms) / 1e3), count.to_string());
        let words = ["-n", "-i", &every, "-c", &counted, "-Q", &tos.to_string(), "-W", "5", &address.to_string()];
        let said = from.command("ping").args(words).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let after = |line: &str| line.split_once("time=")?.1.split(' ').next()?.parse().ok();
        let mut times: Vec<f64> = said.lines().filter_map(after).collect();
        times.sort_unstable_by(f64::total_cmp);
        Self { asked: count, times }
    }

    pub(crate) fn mean(&self) -> f64 {
        self.times.iter().sum::<f64>() / self.times.len() as f64
    }

    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let at = (self.times.len().saturating_sub(1) as f64 * share).round() as usize;
        self.times.get(at).copied().unwrap_or(f64::NAN)
    }

    /// Of them without an answer.
    pub(crate) fn lost(&self) -> usize {
        self.asked - self.times.len()
    }
}

/// The middle one of some figures.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
