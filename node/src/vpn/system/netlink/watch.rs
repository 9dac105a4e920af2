//! Changes of links, addresses and routes as the kernel tells them, as a stream on tokio. It reads no table: who wants to
//! know how things are asks [`super::Netlink`], after every [`Change::Missed`] anew.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, TokioSocket};
use rustix::io::Errno;
use shoal_protocol::mesh::prefix::Prefix;

use super::channel::messages;
use super::routes::{destination, table};
use super::{Address, Link, NetlinkError, PROTOCOL};

/// RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE of linux/rtnetlink.h.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

/// Bytes the kernel keeps for a reader that is late: about 500 changes. A machine that takes in a table of routes makes
/// more; its reader is told that it missed some.
const BUFFER: usize = 512 << 10;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A link is new or not as before.
    Link(Link),
    /// A link is gone.
    LinkGone(Link),
    /// An address is new or not as before.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route came, changed or went.
    Route {
        /// Which packets it is for.
        to: Prefix,
        /// Its table.
        table: u32,
        /// The link it goes through, if it is one.
        link: Option<u32>,
        /// Whether it is one of ours.
        ours: bool,
        /// Whether it went.
        gone: bool,
    },
    /// Some were lost, because nobody read for too long: nothing that was known is certain.
    Missed,
}

/// The changes of the namespace it was opened in, from then on. Ends only with an error.
pub struct Watch {
    socket: TokioSocket,
    /// What one read brought, bounded by what one read brings.
    waiting: VecDeque<Change>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl Watch {
    /// Begins to watch the namespace this thread is in.
    ///
    /// # Errors
    /// [`NetlinkError::Open`] if the kernel gives no socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut watch = TokioSocket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        let socket = watch.socket_mut();
        socket.bind_auto().map_err(NetlinkError::Open)?;
        socket.set_rx_buf_sz(BUFFER).map_err(NetlinkError::Open)?;
        for group in GROUPS {
            socket.add_membership(group).map_err(NetlinkError::Open)?;
        }
        Ok(Self { socket: watch, waiting: VecDeque::new() })
    }
}

impl Stream for Watch {
    type Item = io::Result<Change>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(change) = this.waiting.pop_front() {
                return Poll::Ready(Some(Ok(change)));
            }
            match ready!(this.socket.poll_recv_from_full(context)) {
                Ok((bytes, _)) => this.waiting.extend(changes(&bytes)),
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    this.waiting.push_back(Change::Missed);
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

/// What one message of the kernel tells; what cannot be read was missed.
fn changes(bytes: &[u8]) -> impl Iterator<Item = Change> {
    messages::<RouteNetlinkMessage>(bytes).filter_map(|message| {
        let Some(message) = message else { return Some(Change::Missed) };
        let NetlinkPayload::InnerMessage(body) = message.payload else { return None };
        match body {
            RouteNetlinkMessage::NewLink(message) => Some(Change::Link(Link::of(&message))),
            RouteNetlinkMessage::DelLink(message) => Some(Change::LinkGone(Link::of(&message))),
            RouteNetlinkMessage::NewAddress(message) => Address::of(&message).map(Change::Address),
            RouteNetlinkMessage::DelAddress(message) => Address::of(&message).map(Change::AddressGone),
            RouteNetlinkMessage::NewRoute(message) => route(&message, false),
            RouteNetlinkMessage::DelRoute(message) => route(&message, true),
            _ => None,
        }
    })
}

fn route(message: &RouteMessage, gone: bool) -> Option<Change> {
    let link = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let ours = message.header.protocol == RouteProtocol::Other(PROTOCOL);
    Some(Change::Route { to: destination(message)?, table: table(message), link, ours, gone })
}
