//! The userspace stack: TCP and UDP over a channel to the packet half, on a thread of its own that sleeps until a packet,
//! a program or one of its timers wakes it. It knows no rule, no route and no peer.
//!
//! Started with the network, by [`super::Userspace`]; ends when it is told to. Lost then: connections, each with a reset.
//!
//! Whoever reads and writes connections does so under the stack's lock, for as long as a copy takes; the thread holds it
//! for a bounded number of packets and then lets others have it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use smoltcp::iface::SocketHandle;
use smoltcp::time::Instant;
use tokio::sync::mpsc;

use super::channel::Channel;
use super::connection::Connection;
use super::port::{Ends, Port};
use super::sockets::{HANDSHAKE, Held, LEAST_SLEEP, MOST_SLEEP, Sockets, TURN};

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectError {
    /// As many as may be are there.
    #[error("as many connections as may be are open")]
    Busy,
    /// This node has no address of that kind.
    #[error("this node has no address of that kind")]
    NoAddress,
    /// The other side does not want it.
    #[error("refused")]
    Refused,
    /// The other side says nothing.
    #[error("no answer")]
    Silent,
}

/// How long the last packets may wait for the packet half, which is busy at worst.
const LAST: Duration = Duration::from_millis(500);

/// See the head of this file.
pub(crate) struct Stack {
    channel: Arc<Channel>,
    inner: Mutex<Sockets>,
    /// Who would like to have the lock.
    waiting: AtomicUsize,
    /// The thread was woken and has not looked yet.
    is_called: AtomicBool,
    begun: std::time::Instant,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}

impl Stack {
    /// A stack with these addresses, whose packets have at most `mtu` bytes; `seed` is drawn from the system.
    pub(crate) fn new(
        channel: Arc<Channel>,
        mtu: u16,
        addresses: (Option<Ipv4Addr>, Ipv6Addr),
        seed: u64,
    ) -> Arc<Self> {
        let port = Port::new(Arc::clone(&channel), mtu);
        let inner = Sockets::new(port, addresses, seed);
        Arc::new(Self {
            channel,
            inner: Mutex::new(inner),
            waiting: AtomicUsize::new(0),
            is_called: AtomicBool::new(false),
            begun: std::time::Instant::now(),
        })
    }

    pub(super) fn now(&self) -> Instant {
        Instant::from_micros(i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    /// What the stack has, for whoever reads or writes some of it.
    pub(super) fn lock(&self) -> MutexGuard<'_, Sockets> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        inner
    }

    /// Has the thread look at all sockets.
    pub(super) fn call(&self) {
        if !self.is_called.swap(true, Ordering::AcqRel)
            && let Err(error) = self.channel.stack().wake()
        {
            tracing::error!(%error, "the userspace stack cannot be woken");
        }
    }

    /// This node has another IPv4 address, or none.
    pub(crate) fn set_ipv4(&self, address: Option<Ipv4Addr>) {
        self.lock().set_ipv4(address);
        self.call();
    }

    /// This node's address of the kind that `to` has.
    pub(super) fn own(&self, to: IpAddr) -> Option<IpAddr> {
        self.lock().own(to)
    }

    /// Opens a connection to a member.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(crate) async fn connect(self: &Arc<Self>, remote: SocketAddr) -> Result<Connection, ConnectError> {
        let (handle, ends) = {
            let mut inner = self.lock();
            let now = self.now();
            inner.connect(remote, now)?
        };
        let connection = Connection::new(Arc::clone(self), handle, ends);
        self.call();
        match tokio::time::timeout(HANDSHAKE, connection.established()).await {
            Ok(true) => Ok(connection),
            Ok(false) => Err(ConnectError::Refused),
            Err(_) => Err(ConnectError::Silent),
        }
    }

    /// Lets others connect to a port. Said once for each, before the thread runs.
    pub(super) fn publish(&self, port: u16) -> Listener {
        Listener(self.lock().publish(port))
    }

    /// The next connection that somebody opened; none once the stack ended.
    pub(super) async fn accept(self: &Arc<Self>, listener: &mut Listener) -> Option<Connection> {
        let Held { handle, ends } = listener.0.recv().await?;
        Some(Connection::new(Arc::clone(self), handle, ends))
    }

    /// Nothing more will be written to a connection.
    pub(super) fn close(&self, handle: SocketHandle, ends: Ends) {
        self.lock().close(Held { handle, ends });
        self.call();
    }

    /// Nobody on this side holds a connection any more; one that was not brought to its end is reset.
    pub(super) fn release(&self, handle: SocketHandle, ends: Ends, is_finished: bool) {
        self.lock().release(Held { handle, ends }, is_finished);
        self.call();
    }

    /// Runs until it is to stop; then every connection is reset.
    pub(super) fn run(&self, stop: &AtomicBool) -> io::Result<()> {
        while !stop.load(Ordering::Acquire) {
            self.is_called.store(false, Ordering::Release);
            // Before looking for work: what comes after that wakes again.
            self.channel.stack().take()?;
            let turn = catch_unwind(AssertUnwindSafe(|| {
                let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                inner.turn(self.now(), &self.channel)
            }));
            let sleep = turn.unwrap_or_else(|_| {
                self.lock().restart();
                Some(LEAST_SLEEP)
            });
            match sleep {
                Some(sleep) => self.sleep(sleep)?,
                None => self.let_others(),
            }
        }
        let mut inner = self.lock();
        inner.reset_all();
        inner.turn(self.now(), &self.channel);
        drop(inner);
        self.let_leave();
        Ok(())
    }

    /// Waits until the last packets are taken, before the network says goodbye: behind that nobody would hear the resets.
    fn let_leave(&self) {
        let begun = std::time::Instant::now();
        while self.channel.has_leaving() && begun.elapsed() < LAST {
            std::thread::sleep(LEAST_SLEEP);
        }
    }

    fn sleep(&self, longest: Duration) -> io::Result<()> {
        let longest = longest.min(MOST_SLEEP);
        let timeout = Timespec { tv_sec: longest.as_secs().cast_signed(), tv_nsec: i64::from(longest.subsec_nanos()) };
        match poll(&mut [PollFd::new(self.channel.stack(), PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// There is more to do: those who wait for the lock have it first. A lock goes to whoever is awake.
    fn let_others(&self) {
        let mut left = TURN;
        while self.waiting.load(Ordering::Acquire) > 0 && left > 0 {
            std::thread::yield_now();
            left = left.saturating_sub(1);
        }
    }
}

/// Where connections of others are taken up.
#[derive(Debug)]
pub(super) struct Listener(mpsc::Receiver<Held>);
