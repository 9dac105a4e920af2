//! The kernel's tables of links, addresses, routes and rules, asked over one rtnetlink socket. It blocks on nothing: the
//! kernel has answered a request before `send` returns, and an answer that is not there is an error. Adding what is there
//! and removing what is gone succeed; what others made is never changed or removed.
//!
//! What is ours is known by its protocol number, [`PROTOCOL`], which the kernel keeps with every route and rule.
//!
//! One socket belongs to the network namespace its thread was in when it was opened.

mod channel;
mod features;
pub mod links;
pub mod routes;
pub mod rules;
pub mod watch;

pub use links::{Address, Link};
pub use routes::{Route, Via};
pub use rules::{Family, Rule};
pub use watch::{Change, Watch};

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;

use channel::Channel;

/// The number routes and rules of ours carry (RTPROT_*, FRA_PROTOCOL): free in iproute2's `rt_protos`, and beyond the
/// numbers below 17 that user space may not take.
pub const PROTOCOL: u8 = 83;

/// Why the kernel's tables could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket to the kernel.
    #[error("the kernel's network tables cannot be reached")]
    Open(#[source] io::Error),
    /// The process lacks CAP_NET_ADMIN.
    #[error("not permitted: {doing}")]
    NotPermitted {
        /// What was asked for.
        doing: &'static str,
    },
    /// What this needs is not there: a link without which a route makes no sense, say.
    #[error("nothing there to work on: {doing}")]
    Missing {
        /// What was asked for.
        doing: &'static str,
    },
    /// Somebody else's entry is in its place.
    #[error("somebody else's is in its place: {doing}")]
    Occupied {
        /// What was asked for.
        doing: &'static str,
    },
    /// The kernel refuses or fails.
    #[error("the kernel refuses: {doing}")]
    Refused {
        /// What was asked for.
        doing: &'static str,
        /// Its reason.
        #[source]
        source: io::Error,
    },
    /// An answer nobody can read, or none.
    #[error("the kernel's answer makes no sense: {doing}")]
    Answer {
        /// What was asked for.
        doing: &'static str,
    },
}

impl NetlinkError {
    /// Whether the same request may succeed later with nothing changed: memory and buffers run out and come back.
    #[must_use]
    pub fn retryable(&self) -> bool {
        let Self::Refused { source, .. } = self else { return false };
        let codes = [Errno::NOBUFS, Errno::NOMEM, Errno::BUSY, Errno::INTR, Errno::AGAIN];
        source.raw_os_error().is_some_and(|code| codes.iter().any(|errno| errno.raw_os_error() == code))
    }

    fn of(errno: i32, doing: &'static str) -> Self {
        match Errno::from_raw_os_error(errno) {
            Errno::PERM | Errno::ACCESS => Self::NotPermitted { doing },
            Errno::NODEV | Errno::NOENT | Errno::SRCH => Self::Missing { doing },
            Errno::EXIST => Self::Occupied { doing },
            _ => Self::Refused { doing, source: io::Error::from_raw_os_error(errno) },
        }
    }
}

/// A socket to the kernel's tables.
#[derive(Debug)]
pub struct Netlink {
    channel: Channel,
}

/// How an entry is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Make {
    /// Only if there is none in its place.
    New,
    /// In place of the one that is there.
    Instead,
    /// Changes what is there, or removes it.
    Change,
}

impl Make {
    const fn flags(self) -> u16 {
        match self {
            Self::New => NLM_F_CREATE | NLM_F_EXCL,
            Self::Instead => NLM_F_REPLACE,
            Self::Change => 0,
        }
    }
}

impl Netlink {
    /// A socket to the namespace this thread is in.
    ///
    /// # Errors
    /// [`NetlinkError::Open`] if the kernel gives none.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { channel: Channel::open(NETLINK_ROUTE)? })
    }

    /// Sends a change and reads the kernel's yes.
    fn change(&mut self, body: RouteNetlinkMessage, make: Make, doing: &'static str) -> Result<(), NetlinkError> {
        self.channel.send(body, NLM_F_ACK | make.flags(), doing)?;
        self.channel.receive(doing, |_: RouteNetlinkMessage| ())
    }

    /// Asks for one entry by its key; `None` if the kernel has none.
    fn ask(
        &mut self,
        body: RouteNetlinkMessage,
        doing: &'static str,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        self.channel.send(body, NLM_F_ACK, doing)?;
        let mut found = None;
        match self.channel.receive(doing, |message| found = Some(message)) {
            Ok(()) => Ok(found),
            Err(NetlinkError::Missing { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Hands every entry of a table to `each`.
    fn dump(
        &mut self,
        body: RouteNetlinkMessage,
        doing: &'static str,
        each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), NetlinkError> {
        self.channel.send(body, NLM_F_DUMP, doing)?;
        self.channel.receive(doing, each)
    }
}
