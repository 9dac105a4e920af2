//! Dials in progress: who waits for which, and what a failure means. It starts no dial itself.

use std::collections::BTreeMap;

use libp2p::swarm::{ConnectionId, DialError as Libp2pError};
use libp2p::{Multiaddr, connection_limits, memory_connection_limits};
use shoal_protocol::NodeId;
use tokio::sync::oneshot;

use crate::address::AddressError;
use crate::error::DialError;
use crate::guard::DoorReason;
use crate::lanes::node_of;
use crate::limits::{DIAL_WAITERS_MAX, PENDING_OUTBOUND_MAX};
use crate::transport::CarryError;

/// Where the result of a dial goes.
pub(crate) type DialReply = oneshot::Sender<Result<NodeId, DialError>>;

/// One caller's wish.
#[derive(Debug)]
pub(crate) struct DialRequest {
    pub(crate) target: Option<NodeId>,
    /// Without `/p2p`; at most [`crate::limits::DIAL_ADDRESSES_MAX`].
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) reply: DialReply,
}

/// One running dial and those who wait for it; the first waiter's addresses are being dialled.
#[derive(Debug)]
struct Running {
    target: Option<NodeId>,
    waiters: Vec<DialRequest>,
}

/// All running dials, at most [`PENDING_OUTBOUND_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Dials {
    running: BTreeMap<ConnectionId, Running>,
}

impl Dials {
    /// Lets a request wait for a dial to the same peer or address. Gives the request back if there is none.
    pub(crate) fn join(&mut self, request: DialRequest) -> Option<DialRequest> {
        let same = |running: &&mut Running| match (running.target, request.target) {
            (Some(a), Some(b)) => a == b,
            (None, None) => running.waiters.first().is_some_and(|first| first.addresses == request.addresses),
            _ => false,
        };
        let Some(running) = self.running.values_mut().find(same) else { return Some(request) };
        if running.waiters.len() < DIAL_WAITERS_MAX {
            running.waiters.push(request);
        } else {
            let _ = request.reply.send(Err(DialError::Busy));
        }
        None
    }

    pub(crate) fn is_full(&self) -> bool {
        self.running.len() >= PENDING_OUTBOUND_MAX as usize
    }

    /// A dial for these waiters runs under this connection id.
    pub(crate) fn started(&mut self, connection: ConnectionId, target: Option<NodeId>, waiters: Vec<DialRequest>) {
        self.running.insert(connection, Running { target, waiters });
    }

    /// A connection to a peer exists, by this dial or any other way.
    pub(crate) fn connected(&mut self, connection: ConnectionId, peer: Option<NodeId>) {
        if let Some(running) = self.running.remove(&connection) {
            for waiter in running.waiters {
                let _ = waiter.reply.send(peer.ok_or(DialError::KeyKind));
            }
        }
        if peer.is_some() {
            for running in self.running.values_mut().filter(|running| running.target == peer) {
                for waiter in running.waiters.drain(..) {
                    let _ = waiter.reply.send(peer.ok_or(DialError::KeyKind));
                }
            }
        }
    }

    /// A dial failed. The first waiter is told, unless it has another address to try; the waiters that remain are
    /// returned for a new dial.
    pub(crate) fn failed(&mut self, connection: ConnectionId, error: DialError) -> Vec<DialRequest> {
        let Some(running) = self.running.remove(&connection) else { return Vec::new() };
        let mut waiters = running.waiters;
        if let Some(first) = waiters.first_mut() {
            // Without a peer id only one address is dialled at a time.
            let more = running.target.is_none() && first.addresses.len() > 1 && !first.reply.is_closed();
            if more {
                first.addresses.remove(0);
            } else {
                let first = waiters.remove(0);
                let _ = first.reply.send(Err(error));
            }
        }
        waiters.retain(|waiter| !waiter.reply.is_closed());
        waiters
    }

    /// The swarm stops.
    pub(crate) fn stop(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            for waiter in running.waiters {
                let _ = waiter.reply.send(Err(DialError::Stopped));
            }
        }
    }
}

/// What a failure reported by libp2p means to the caller.
pub(crate) fn explain(error: &Libp2pError, target: Option<NodeId>) -> DialError {
    match error {
        // The Swarm drops addresses it listens on before it dials.
        Libp2pError::LocalPeerId { .. } | Libp2pError::NoAddresses => DialError::Ourselves,
        Libp2pError::DialPeerConditionFalse(_) | Libp2pError::Aborted => DialError::Busy,
        Libp2pError::WrongPeerId { obtained, .. } => match target {
            Some(expected) => DialError::WrongPeer { expected, obtained: node_of(obtained) },
            None => DialError::KeyKind,
        },
        Libp2pError::Denied { cause } => {
            let limit = cause.downcast_ref::<connection_limits::Exceeded>().is_some()
                || cause.downcast_ref::<memory_connection_limits::MemoryUsageLimitExceeded>().is_some();
            match cause.downcast_ref::<DoorReason>() {
                Some(reason) => DialError::Denied(reason.to_string()),
                None if limit => DialError::Busy,
                None => DialError::Denied(cause.to_string()),
            }
        }
        Libp2pError::Transport(errors) => {
            let all = errors.iter().map(|(address, error)| of_carry(CarryError::of_report(error), address));
            all.min_by_key(rank).unwrap_or(DialError::NoAddress)
        }
    }
}

fn of_carry(error: CarryError, address: &Multiaddr) -> DialError {
    match error {
        CarryError::Timeout => DialError::Timeout,
        CarryError::Refused => DialError::Refused,
        CarryError::Unreachable => DialError::Unreachable,
        CarryError::NotSupported => DialError::BadAddress(AddressError::Unsupported(address.to_string())),
        CarryError::Resolve(cause) => DialError::Resolve(cause),
        // Of an inbound handshake only, so of no dial; the match has to be whole.
        CarryError::Displaced => DialError::Handshake(CarryError::Displaced.to_string()),
        CarryError::Handshake(cause) | CarryError::System(cause) => DialError::Handshake(cause),
    }
}

/// Of several addresses' failures the one that says most: who answered wrongly before who did not answer.
const fn rank(error: &DialError) -> u8 {
    match error {
        DialError::Handshake(_) => 0,
        DialError::Refused => 1,
        DialError::Timeout => 2,
        DialError::Unreachable => 3,
        DialError::Resolve(_) => 4,
        _ => 5,
    }
}
