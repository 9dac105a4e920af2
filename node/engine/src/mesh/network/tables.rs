//! What the packet half reads: routes, rules, each peer as the rules see it, and which handshake messages are for this
//! node. Immutable; a new one replaces it whole.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_protocol::NodeId;
use shoal_protocol::mesh::address::overlay;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;

use super::Network;
use super::effect::Setup;
use crate::mesh::claims::Claims;
use crate::mesh::policy::{self, Subject};
use crate::mesh::routing::snapshot::Bindings;
use crate::mesh::routing::{self};
use crate::mesh::session::Sieve;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Where packets go.
    pub routes: routing::Snapshot,
    /// Which may.
    pub policy: Arc<policy::Snapshot>,
    /// This node as the rules see it.
    pub own: Subject,
    /// All others there is a way to, or that have a session.
    pub subjects: BTreeMap<PeerHash, Subject>,
    /// This node's addresses.
    pub addresses: Vec<IpAddr>,
    /// Which handshake messages the control half may be told of.
    pub sieve: Arc<Sieve>,
}

impl Network {
    /// The tables as they are now.
    #[must_use]
    pub fn tables(&self) -> Tables {
        let routes = self.snapshot();
        let of_routes = routes.peers().iter().map(|peer| (peer.hash, peer.node));
        let of_peers = self.peers.iter().map(|(hash, peer)| (*hash, peer.node));
        let see = |node: &NodeId| subject(&self.policy, &self.claims, &self.setup, node);
        let subjects = of_routes.chain(of_peers).map(|(hash, node)| (hash, see(&node))).collect();
        let v6 = IpAddr::V6(overlay(&self.setup.network, &self.own.hash));
        let addresses = self.claims.own_address().map(IpAddr::V4).into_iter().chain([v6]).collect();
        Tables {
            routes,
            policy: Arc::clone(&self.policy),
            own: see(&self.setup.local),
            subjects,
            addresses,
            sieve: Arc::clone(self.gate.sieve()),
        }
    }
}

impl Network {
    /// Where packets go, as it is now.
    pub(super) fn snapshot(&self) -> routing::Snapshot {
        let v4: Vec<_> = self.claims.bindings().collect();
        self.routing.snapshot(Bindings { v4: &v4, pool: self.setup.pool.prefix(), exit: self.setup.exit })
    }

    /// Private networks this node may reach as an exit all the same, and what it may not reach in addition.
    #[must_use]
    pub fn own_exit_lists(&self) -> (Vec<Prefix>, Vec<Prefix>) {
        self.policy.exit_lists(&subject(&self.policy, &self.claims, &self.setup, &self.setup.local))
    }
}

/// A node as the rules see it.
pub(super) fn subject(policy: &policy::Snapshot, claims: &Claims, setup: &Setup, node: &NodeId) -> Subject {
    let is_member = *node == setup.local || setup.members.has(node);
    let v6 = overlay(&setup.network, &PeerHash::of(node));
    policy.subject(*node, is_member, claims.address_of(node), v6)
}
