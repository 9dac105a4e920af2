//! Somebody who sends handshake messages of the right kind and length, and knows nobody's key: so many a second, from a
//! thread of its own, each datagram by itself. It reads no answer.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rustix::io::Errno;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use shoal_protocol::mesh::session::handshake::{COOKIE_REPLY, INITIATION, RESPONSE};
use shoal_protocol::mesh::session::{MessageKind, SESSION_VERSION};

use crate::sample::bytes;
use crate::space::Space;

/// Different messages, sent again and again: more than anybody could be thought to remember.
const MESSAGES: usize = 4096;
/// Messages handed to the kernel at once.
const BATCH: usize = 64;

/// The forger at work.
#[derive(Debug)]
pub struct Forger {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    begun: Instant,
    thread: JoinHandle<Result<()>>,
}

impl Forger {
    /// Begins to send to `to` out of `from`: messages of these kinds in turn, `rate` a second if the machine can.
    ///
    /// # Errors
    /// If there is no socket.
    pub fn start(from: &Space, to: SocketAddr, kinds: &[MessageKind], rate: u64) -> Result<Self> {
        let socket = from.inside(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
        socket.connect(to)?;
        let kinds = kinds.iter().cycle().take(MESSAGES);
        let messages: Vec<Vec<u8>> = kinds.zip(0..).map(|(kind, seed)| forged(*kind, seed)).collect();
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, count, begun) = (Arc::clone(&stop), Arc::clone(&sent), Instant::now());
        let thread = std::thread::spawn(move || send(&socket, &messages, rate, begun, &stopped, &count));
        Ok(Self { stop, sent, begun, thread })
    }

    /// Messages sent until now.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Messages a second until now.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.sent() as f64 / self.begun.elapsed().as_secs_f64()
    }

    /// Ends it; messages sent.
    ///
    /// # Errors
    /// If it could not go on sending.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the forger panicked"))??;
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

/// A message of this kind, of random bytes but for those that say what it is.
fn forged(kind: MessageKind, seed: u64) -> Vec<u8> {
    let length = match kind {
        MessageKind::Initiation => INITIATION,
        MessageKind::Response => RESPONSE,
        MessageKind::CookieReply | MessageKind::Data => COOKIE_REPLY,
    };
    let mut message = bytes(seed, length);
    message[0] = kind.first_byte();
    if kind == MessageKind::Initiation {
        message[1] = SESSION_VERSION;
    }
    message
}

fn send(
    socket: &UdpSocket,
    messages: &[Vec<u8>],
    rate: u64,
    begun: Instant,
    stop: &AtomicBool,
    count: &AtomicU64,
) -> Result<()> {
    let slices: Vec<[IoSlice<'_>; 1]> = messages.iter().map(|message| [IoSlice::new(message)]).collect();
    let mut batches = slices.chunks(BATCH).cycle();
    while !stop.load(Ordering::Relaxed) {
        let due = begun.elapsed().as_micros().saturating_mul(u128::from(rate)) / 1_000_000;
        if u128::from(count.load(Ordering::Relaxed)) >= due {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        let batch = batches.next().unwrap_or_default();
        let mut controls: [SendAncillaryBuffer<'_, '_, '_>; BATCH] =
            std::array::from_fn(|_| SendAncillaryBuffer::default());
        let mut headers: Vec<MMsgHdr<'_>> =
            batch.iter().zip(&mut controls).map(|(slice, control)| MMsgHdr::new(slice, control)).collect();
        match sendmmsg(socket, &mut headers, SendFlags::empty()) {
            Ok(sent) => count.fetch_add(sent as u64, Ordering::Relaxed),
            // Nobody is there just now, or there is no room: neither stops whoever wants to do harm.
            Err(Errno::CONNREFUSED | Errno::NOBUFS | Errno::AGAIN | Errno::INTR | Errno::PERM) => 0,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(())
}
