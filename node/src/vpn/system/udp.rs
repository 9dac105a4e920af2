//! One UDP socket of one family: batches of equal datagrams out in one call (GSO), batches in (GRO), into the caller's
//! buffers. It knows no peer, and reads no byte of a datagram.
//!
//! Datagrams are never fragmented on their way: a longer one than the path takes is [`Sent::TooLong`].
//!
//! How much the kernel has not sent yet cannot be asked without `unsafe` (SIOCOUTQ). What there is instead: the bound
//! [`UdpFacts::send_buffer`], [`Sent::Full`] when it is reached, and a poll for writing, which answers when half of it is
//! free.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket as StdSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use quinn_udp::{Transmit, UdpSocketState};
use rustix::io::Errno;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

pub use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta};

/// Bytes to ask for to send from: 1 ms at 10 Gb/s, twice. More would only be delay.
pub const SEND_BUFFER: usize = 2 << 20;
/// Bytes to ask for to receive into: 10 ms at 10 Gb/s, while the thread that reads does not run.
pub const RECEIVE_BUFFER: usize = 16 << 20;
/// Bytes a receive buffer needs so that no batch of the kernel's is cut off.
pub const BUFFER_LENGTH: usize = 65_535;

/// Bytes one call sends at most: the longest payload of a UDP datagram over either family, 65,535 less the headers of
/// IPv6 and UDP. The kernel builds a batch like one datagram.
const CALL_MAX: usize = 65_487;
/// Datagrams one call sends at most (UDP_MAX_SEGMENTS before Linux 6.6, 128 since).
const DATAGRAMS_MAX: usize = 64;

/// What is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// Where it is bound; its family is the socket's. Port 0 takes a free one.
    pub bind: SocketAddr,
    /// The mark of all its packets (SO_MARK), by which rules and the kill switch know them. Needs CAP_NET_ADMIN or, since
    /// Linux 5.17, CAP_NET_RAW.
    pub mark: Option<u32>,
    /// Bytes to send from.
    pub send_buffer: usize,
    /// Bytes to receive into.
    pub receive_buffer: usize,
    /// Whether to send in batches where the kernel can.
    pub batches: bool,
}

impl UdpOptions {
    /// No mark, large buffers, batches.
    #[must_use]
    pub const fn new(bind: SocketAddr) -> Self {
        Self { bind, mark: None, send_buffer: SEND_BUFFER, receive_buffer: RECEIVE_BUFFER, batches: true }
    }
}

/// What was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpFacts {
    /// Where it is bound.
    pub local: SocketAddr,
    /// Bytes to send from, half of what the kernel counts for its own use.
    pub send_buffer: usize,
    /// Bytes to receive into, likewise.
    pub receive_buffer: usize,
    /// Datagrams one call sends, as the kernel promised; [`UdpSocket::batch`] says what came of it.
    pub batch: usize,
    /// Datagrams one buffer may hold when received; 1 without GRO.
    pub received_batch: usize,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// Another socket has the port.
    #[error("UDP port {} is taken", .0.port())]
    PortTaken(SocketAddr),
    /// No link has the address.
    #[error("no link of this machine has the address {}", .0.ip())]
    NoSuchAddress(SocketAddr),
    /// The process may not mark packets, or not use the port (CAP_NET_BIND_SERVICE).
    #[error("the system does not let this process have UDP socket {0} with its mark")]
    NotPermitted(SocketAddr),
    /// The kernel knows no such family: IPv6 switched off, say.
    #[error("this system has no sockets like {0}")]
    NoFamily(SocketAddr),
    /// The kernel refuses or fails.
    #[error("no UDP socket for {at}")]
    Other {
        /// Where it should be.
        at: SocketAddr,
        /// Its reason.
        #[source]
        source: io::Error,
    },
}

impl UdpError {
    /// Whether the same request may succeed later with nothing changed by hand.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::PortTaken(_) | Self::NoSuchAddress(_))
    }

    fn of(source: io::Error, at: SocketAddr) -> Self {
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ADDRINUSE) => Self::PortTaken(at),
            Some(Errno::ADDRNOTAVAIL) => Self::NoSuchAddress(at),
            Some(Errno::PERM | Errno::ACCESS) => Self::NotPermitted(at),
            Some(Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT) => Self::NoFamily(at),
            _ => Self::Other { at, source },
        }
    }
}

/// Datagrams of one length, back to back; the last may be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Where all of them go.
    pub to: SocketAddr,
    /// The address they come from, on machines with several; the kernel's choice otherwise.
    pub from: Option<IpAddr>,
    /// What their IP headers say about congestion.
    pub ecn: Option<EcnCodepoint>,
    /// Their bytes.
    pub bytes: &'a [u8],
    /// Bytes of each but the last; 0 sends nothing.
    pub length: usize,
}

/// What became of a batch. What the kernel took it may still lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The kernel took all of it.
    All,
    /// Its buffer is full: it took so many bytes, of whole datagrams. Poll for writing before the rest.
    Full(usize),
    /// After so many bytes came a datagram that is longer than the link or path takes.
    TooLong(usize),
}

/// An open UDP socket. Sends and receives may run side by side on two threads.
#[derive(Debug)]
pub struct UdpSocket {
    socket: StdSocket,
    state: UdpSocketState,
    /// Datagrams a call; 1 once batches turned out not to work.
    batch: AtomicUsize,
    facts: UdpFacts,
}

impl UdpSocket {
    /// Opens and binds a socket. An IPv6 one takes no IPv4 packets.
    ///
    /// # Errors
    /// [`UdpError`].
    pub fn open(options: &UdpOptions) -> Result<Self, UdpError> {
        Self::try_open(options).map_err(|error| UdpError::of(error, options.bind))
    }

    fn try_open(options: &UdpOptions) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(options.bind), Type::DGRAM, Some(Protocol::UDP))?;
        if options.bind.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if let Some(mark) = options.mark {
            socket.set_mark(mark)?;
        }
        // Beyond the system's bound (net.core.*mem_max) only with CAP_NET_ADMIN; without, as much as it gives.
        if sockopt::set_socket_send_buffer_size_force(&socket, options.send_buffer).is_err() {
            socket.set_send_buffer_size(options.send_buffer)?;
        }
        if sockopt::set_socket_recv_buffer_size_force(&socket, options.receive_buffer).is_err() {
            socket.set_recv_buffer_size(options.receive_buffer)?;
        }
        socket.bind(&options.bind.into())?;
        let (send_buffer, receive_buffer) = (socket.send_buffer_size()? / 2, socket.recv_buffer_size()? / 2);
        let socket = StdSocket::from(socket);
        // This makes it non-blocking, asks for GRO, ECN and addresses with every datagram, and forbids fragments.
        let state = UdpSocketState::new((&socket).into())?;
        if state.may_fragment() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let batch = if options.batches { state.max_gso_segments().clamp(1, DATAGRAMS_MAX) } else { 1 };
        let received_batch = state.gro_segments();
        let facts = UdpFacts { local: socket.local_addr()?, send_buffer, receive_buffer, batch, received_batch };
        Ok(Self { socket, state, batch: AtomicUsize::new(batch), facts })
    }

    /// What was opened.
    #[must_use]
    pub const fn facts(&self) -> &UdpFacts {
        &self.facts
    }

    /// Datagrams one call sends now: 1 where the kernel or a driver turned out not to do more.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch.load(Ordering::Relaxed)
    }

    /// Sends a batch, in as few calls as the kernel allows.
    ///
    /// # Errors
    /// Of the kernel: no way to that address, forbidden by a firewall (EPERM), the link is down.
    pub fn send(&self, batch: &Batch<'_>) -> io::Result<Sent> {
        let mut allowed = self.batch();
        let sent = send_with(batch.bytes, batch.length, &mut allowed, |contents, segment_size| {
            let transmit =
                Transmit { destination: batch.to, ecn: batch.ecn, contents, segment_size, src_ip: batch.from };
            self.state.try_send((&self.socket).into(), &transmit)
        });
        if allowed == 1 && self.batch.swap(1, Ordering::Relaxed) > 1 {
            tracing::info!("this system sends no batches of datagrams, going on one by one");
        }
        sent
    }

    /// Changes how many bytes may wait to be sent; the kernel has a least number of its own.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        sockopt::set_socket_send_buffer_size(&self.socket, bytes)?;
        Ok(())
    }

    /// Receives into as many buffers as there are and the kernel fills, [`BATCH_SIZE`] at most, and says how many; 0 if
    /// there is nothing just now. Buffers should have [`BUFFER_LENGTH`] bytes; [`datagrams`] finds what is in each.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn receive(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> io::Result<usize> {
        let count = buffers.len().min(metas.len());
        let (Some(buffers), Some(metas)) = (buffers.get_mut(..count), metas.get_mut(..count)) else { return Ok(0) };
        if count == 0 {
            return Ok(0);
        }
        match self.state.recv((&self.socket).into(), buffers, metas) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The datagrams of one received buffer.
pub fn datagrams<'a>(buffer: &'a [u8], meta: &RecvMeta) -> impl Iterator<Item = &'a [u8]> {
    let filled = buffer.get(..meta.len).unwrap_or_default();
    filled.chunks(meta.stride.max(1))
}

/// Cuts a batch into calls of `allowed` datagrams. Where a call of several fails in the way kernels and drivers without
/// batches fail (EIO: a driver without checksums, on older kernels; EINVAL), its datagrams are sent one by one, and if the
/// first of them goes, `allowed` is 1 from then on. If not, the batch was not to blame.
fn send_with(
    bytes: &[u8],
    length: usize,
    allowed: &mut usize,
    mut call: impl FnMut(&[u8], Option<usize>) -> io::Result<()>,
) -> io::Result<Sent> {
    let Some(fitting) = CALL_MAX.checked_div(length) else { return Ok(Sent::All) };
    let mut taken: usize = 0;
    // Until here datagrams go one by one, without `allowed` having changed yet.
    let mut singly_until = 0;
    while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
        let count = if taken < singly_until { 1 } else { fitting.min(*allowed).max(1) };
        let end = count.saturating_mul(length).min(rest.len());
        let piece = rest.get(..end).unwrap_or_default();
        let several = piece.len() > length;
        match call(piece, several.then_some(length)) {
            Ok(()) => {
                if taken < singly_until {
                    *allowed = 1;
                }
                taken = taken.saturating_add(piece.len());
            }
            Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::AGAIN) => return Ok(Sent::Full(taken)),
                Some(Errno::MSGSIZE) => return Ok(Sent::TooLong(taken)),
                Some(Errno::IO | Errno::INVAL) if several => singly_until = taken.saturating_add(piece.len()),
                _ => return Err(error),
            },
        }
    }
    Ok(Sent::All)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends 10 datagrams of 100 bytes and one of 50 by a kernel that answers like this, and says what it was asked.
    fn calls(answer: impl Fn(usize, bool) -> Result<(), Errno>) -> (io::Result<Sent>, usize, Vec<(usize, bool)>) {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(1050).collect();
        let (mut allowed, mut asked, mut arrived) = (4, Vec::new(), Vec::new());
        let sent = send_with(&bytes, 100, &mut allowed, |piece, size| {
            asked.push((piece.len(), size.is_some()));
            answer(asked.len(), size.is_some()).map_err(io::Error::from)?;
            arrived.extend_from_slice(piece);
            Ok(())
        });
        assert!(bytes.starts_with(&arrived), "not in order, or twice");
        if let Ok(Sent::Full(taken) | Sent::TooLong(taken)) = sent {
            assert_eq!(taken, arrived.len());
        }
        (sent, allowed, asked)
    }

    #[test]
    fn a_batch_goes_in_as_few_calls_as_allowed() {
        let (sent, allowed, asked) = calls(|_, _| Ok(()));
        assert_eq!((sent.unwrap(), allowed), (Sent::All, 4));
        assert_eq!(asked, [(400, true), (400, true), (250, true)]);
        let mut allowed = DATAGRAMS_MAX;
        send_with(&[0; 200_000], 9000, &mut allowed, |piece, _| {
            assert!(piece.len() <= CALL_MAX);
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn where_batches_do_not_work_datagrams_go_one_by_one_from_then_on() {
        for errno in [Errno::IO, Errno::INVAL] {
            let (sent, allowed, asked) = calls(|_, several| if several { Err(errno) } else { Ok(()) });
            assert_eq!((sent.unwrap(), allowed), (Sent::All, 1));
            assert_eq!(asked.len(), 1 + 11, "{asked:?}");
        }
    }

    #[test]
    fn a_datagram_that_goes_neither_way_is_not_blamed_on_the_batch() {
        let (sent, allowed, _) = calls(|_, several| Err(if several { Errno::INVAL } else { Errno::MSGSIZE }));
        assert_eq!((sent.unwrap(), allowed), (Sent::TooLong(0), 4));
        let (sent, allowed, _) = calls(|_, several| Err(if several { Errno::INVAL } else { Errno::NETUNREACH }));
        assert_eq!((sent.unwrap_err().raw_os_error(), allowed), (Some(Errno::NETUNREACH.raw_os_error()), 4));
    }

    #[test]
    fn a_full_buffer_says_what_it_took() {
        let (sent, _, _) = calls(|call, _| if call == 3 { Err(Errno::AGAIN) } else { Ok(()) });
        assert_eq!(sent.unwrap(), Sent::Full(800));
    }

    #[test]
    fn a_batch_of_nothing_is_sent() {
        let mut allowed = 4;
        let never = |_: &[u8], _| panic!("called");
        assert_eq!(send_with(&[1, 2, 3], 0, &mut allowed, never).unwrap(), Sent::All);
        assert_eq!(send_with(&[], 100, &mut allowed, never).unwrap(), Sent::All);
        assert_eq!(datagrams(&[1, 2], &RecvMeta { len: 9, stride: 0, ..RecvMeta::default() }).count(), 0);
    }
}
