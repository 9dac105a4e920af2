//! The private network without a device of the system: a TCP/IP stack in this process, behind the same packet half, rules
//! and queues as a device would be. It needs no right and no driver, and leaves nothing behind.
//!
//! - [`channel`]: packets between the packet half and the stack. `port`: the stack's side of it. `losses`, `segment`: what
//!   packets tell of losses, and hints to the stack.
//! - [`stack`]: the stack and its thread. `sockets`: what it has, and one turn of work. [`connection`], `datagrams`: what programs have of it.
//! - [`config`]: what was asked for. `names`: who is meant, and whether they may be spoken to.
//! - `socks`, `associate`: programs that speak SOCKS5. `forward`: local ports that lead to members.
//! - `publish`: members that reach local services. `relay`: two connections joined.
//!
//! | task | started | ends | lost then |
//! |---|---|---|---|
//! | the stack, one thread | with the network | with it, told to | connections, each with a reset |
//! | a port of SOCKS, a forwarded or published one, one each | with the network | with it | nothing |
//! | a program or connection, one each, at most 256 and 256 | when it comes | with either side | bytes under way |

mod associate;
pub(crate) mod channel;
pub(crate) mod config;
pub(crate) mod connection;
mod datagrams;
mod forward;
mod losses;
mod names;
mod port;
mod publish;
mod relay;
mod segment;
mod sockets;
mod socks;
pub(crate) mod stack;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use shoal_engine::mesh::names::Zone;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use self::config::UserspaceConfig;
use self::forward::Forwarder;
use self::names::Guide;
use self::publish::Publisher;
use self::socks::Socks;
use self::stack::Stack;
use super::plane::Plane;

/// Programs of this machine that are let in at a time: as many as there may be connections.
const PROGRAMS_MAX: usize = 256;

/// Why there is no userspace network.
#[derive(Debug, thiserror::Error)]
pub enum UserspaceError {
    /// A local port cannot be had.
    #[error("cannot listen on {address} for {flag}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What for.
        flag: &'static str,
        /// The system's reason.
        #[source]
        cause: io::Error,
    },
    /// Threads or descriptors.
    #[error("the system has no more threads or descriptors")]
    System(#[from] io::Error),
}

/// Where programs of this machine get in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserspaceFacts {
    /// Where SOCKS5 is spoken.
    pub socks: Option<SocketAddr>,
    /// Ports that lead to members, in the order they were asked for.
    pub forwards: Vec<SocketAddr>,
}

/// The local ports, opened.
#[derive(Debug)]
pub(crate) struct Ports {
    config: UserspaceConfig,
    socks: Option<TcpListener>,
    forwards: Vec<TcpListener>,
    pub(crate) facts: UserspaceFacts,
}

impl Ports {
    /// Opens all local ports. Inside a tokio runtime.
    ///
    /// # Errors
    /// [`UserspaceError::Listen`].
    pub(crate) fn open(config: &UserspaceConfig) -> Result<Self, UserspaceError> {
        let socks = config.socks.map(|address| listen(address, "--socks")).transpose()?;
        let forwards = config.forwards.iter().map(|forward| listen(forward.local, "--forward"));
        let forwards = forwards.collect::<Result<Vec<_>, _>>()?;
        let facts = UserspaceFacts {
            socks: socks.as_ref().map(|(_, address)| *address),
            forwards: forwards.iter().map(|(_, address)| *address).collect(),
        };
        let without = |(listener, _)| listener;
        let (socks, forwards) = (socks.map(without), forwards.into_iter().map(without).collect());
        Ok(Self { config: config.clone(), socks, forwards, facts })
    }
}

fn listen(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), UserspaceError> {
    let open = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let own = listener.local_addr()?;
        Ok((TcpListener::from_std(listener)?, own))
    };
    open().map_err(|cause| UserspaceError::Listen { address, flag, cause })
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Userspace {
    pub(crate) facts: UserspaceFacts,
    stack: Arc<Stack>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    /// Ends with this.
    _tasks: JoinSet<()>,
}

impl Userspace {
    /// Starts the stack, and lets programs and members in. Inside a tokio runtime.
    ///
    /// # Errors
    /// [`UserspaceError::System`]
    pub(crate) fn start(
        ports: Ports,
        stack: Arc<Stack>,
        plane: Arc<Plane>,
        zone: watch::Receiver<Arc<Zone>>,
    ) -> Result<Self, UserspaceError> {
        let guide = Guide { stack: Arc::clone(&stack), plane, zone };
        let places = Arc::new(Semaphore::new(PROGRAMS_MAX));
        let mut tasks = JoinSet::new();
        for publish in ports.config.published {
            let listener = stack.publish(publish.port);
            tasks.spawn(Publisher { stack: Arc::clone(&stack), listener, publish }.run());
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (running, stopped) = (Arc::clone(&stack), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("shoal-vpn-stack".to_owned()).spawn(move || {
            if let Err(error) = running.run(&stopped) {
                tracing::error!(%error, "the thread of the userspace stack ended");
            }
        })?;
        for (listener, forward) in ports.forwards.into_iter().zip(ports.config.forwards) {
            tasks.spawn(Forwarder { listener, forward, guide: guide.clone(), places: Arc::clone(&places) }.run());
        }
        if let Some(listener) = ports.socks {
            tasks.spawn(Socks { listener, guide, places }.run());
        }
        Ok(Self { facts: ports.facts, stack, stop, thread, _tasks: tasks })
    }

    /// Resets all connections and ends the stack. Blocks, for as long as a turn of it takes.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.stack.call();
        let _ = self.thread.join();
    }
}
