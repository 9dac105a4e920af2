//! Names in this network: the own one, what others signed of theirs, and the snapshot that questions are answered from. It
//! answers none.

use std::collections::BTreeSet;

use shoal_protocol::mesh::address::overlay;
use shoal_protocol::mesh::flood::FloodKind;
use shoal_protocol::mesh::name::{HostLabel, NameClaim, VerifiedName};
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::{NodeId, Signed};

use super::Network;
use super::effect::{Env, NetworkEffect, Unsigned};
use super::statements::{KnownKey, Refused};
use super::tables::subject;
use crate::mesh::claims::Membership;
use crate::mesh::flood::Statement;
use crate::mesh::names::{Member, NameEffect, Zone};

impl Network {
    /// This node would like to be called `label`, or by no name; `saved` is the last claim of the run before. Said once,
    /// after [`Network::new`], and again when another is wanted.
    pub fn handle_name(&mut self, label: Option<HostLabel>, saved: Option<NameClaim>, env: &mut Env<'_>) {
        self.names.claim(label, saved, self.setup.issued, env.now.wall);
        self.settle(env);
    }

    /// [`Unsigned::Name`] was signed.
    pub fn handle_signed_name(&mut self, signed: Signed, env: &mut Env<'_>) {
        let Ok(claim) = VerifiedName::verify(signed, &self.setup.network) else { return };
        if *claim.node() == self.setup.local {
            let said = claim.claim();
            self.spread(FloodKind::Name, said.time.0, said.expires, claim.signed(), env);
        }
        self.settle(env);
    }

    /// The label this node claims and who has it: this node, unless another's claim ranks before its own.
    #[must_use]
    pub fn own_name(&self) -> Option<(&HostLabel, NodeId)> {
        self.names.own()
    }

    /// The label a member has.
    #[must_use]
    pub fn name_of(&self, node: &NodeId) -> Option<&HostLabel> {
        self.names.label_of(node)
    }

    /// Names and addresses of all members that are known, as they are now. `label` is that of the network's name, `serial`
    /// greater than before.
    #[must_use]
    pub fn zone(&self, label: Option<&str>, serial: u32) -> Zone {
        let told = self.keys.values().map(KnownKey::node);
        let bound = self.claims.bindings().map(|(_, node)| node);
        let named = self.names.holders().map(|(_, node)| node);
        let all: BTreeSet<NodeId> = told.chain(bound).chain(named).chain([self.setup.local]).collect();
        let is_member = |node: &NodeId| *node == self.setup.local || self.setup.members.has(node);
        let see = |node: &NodeId| subject(&self.policy, &self.claims, &self.setup, node);
        let own = see(&self.setup.local);
        let member = |node: NodeId| Member {
            v4: self.claims.address_of(&node),
            v6: overlay(&self.setup.network, &PeerHash::of(&node)),
            label: self.names.label_of(&node).cloned(),
            is_guest: node != self.setup.local && self.policy.may_use(&own, &see(&node)),
            node,
        };
        let members = all.into_iter().filter(is_member).map(member).collect();
        Zone::new(&self.setup.network, label, &self.setup.pool, &self.setup.local, members, serial)
    }

    pub(super) fn take_name(&mut self, from: NodeId, signed: Signed, env: &mut Env<'_>) {
        let Ok(claim) = VerifiedName::verify(signed, &self.setup.network) else {
            return self.refuse(Refused::Forged);
        };
        let (node, said, bytes) = (*claim.node(), claim.claim().clone(), claim.signed().to_bytes());
        let is_member = self.setup.members.has(&node);
        let membership = if is_member { Membership::Unticketed } else { Membership::None };
        match self.names.handle_claim(claim, membership, env.now.wall) {
            Ok(true) => {
                let (version, expires) = (said.time.0, said.expires);
                let statement = Statement { kind: FloodKind::Name, signer: node, version, expires, signed: bytes };
                if self.flood.handle_news(statement, Some(from), env.now).is_err() {
                    self.refuse(Refused::Full);
                }
            }
            Ok(false) => self.flood.handle_known(FloodKind::Name, node, said.time.0, from),
            Err(_) => self.refuse(Refused::Claim),
        }
    }

    pub(super) fn drain_names(&mut self) {
        while let Some(effect) = self.names.poll() {
            match effect {
                NameEffect::Publish(claim) => {
                    self.push(NetworkEffect::SaveName(claim.clone()));
                    self.push(NetworkEffect::Sign(Unsigned::Name(claim)));
                }
                NameEffect::Changed => self.zone_changed = true,
            }
        }
    }
}
