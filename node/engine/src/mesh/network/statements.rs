//! What this node signs and what others signed: mesh keys, claims, origins. It signs nothing itself; it verifies
//! everything once before it is used or passed on.

use std::sync::Arc;

use shoal_protocol::mesh::claim::VerifiedClaim;
use shoal_protocol::mesh::flood::{FloodItem, FloodKind};
use shoal_protocol::mesh::key::MeshKey;
use shoal_protocol::mesh::message::{MESH_KEY_MAX, MeshMessage};
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::route::VerifiedOrigin;
use shoal_protocol::{NodeId, Signed, UnixMillis};
use zeroize::Zeroizing;

use super::Network;
use super::effect::{Env, NetworkEffect, Setup, Unsigned};
use super::peer::Standing;
use super::untimely::{Untimely, Word};
use crate::mesh::claims::{ClaimEffect, Membership};
use crate::mesh::flood::{self, STATEMENTS_MAX, Statement};
use crate::mesh::routing::{NotHeard, RoutingEffect};
use crate::mesh::session::{OwnKey, Pair, Party, Sessions};

/// Most mesh keys remembered.
pub(super) const KEYS_MAX: usize = STATEMENTS_MAX;
/// A mesh key is replaced after this long, milliseconds: a day.
pub(super) const KEY_RENEW_MS: u64 = 24 * 3600 * 1000;
/// A mesh key ends after this long, milliseconds: seven days, so that a week without contact still leaves a usable one.
const KEY_LIFE_MS: u64 = 7 * KEY_RENEW_MS;

/// Why something that was said was not used. One word each for metric and log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refused {
    /// Its sender or signer is no member.
    #[error("not-member")]
    NotMember,
    /// A signature is wrong.
    #[error("forged")]
    Forged,
    /// It is over, or ends too late.
    #[error("expired")]
    Expired,
    /// There is no place for another peer or key.
    #[error("full")]
    Full,
    /// See [`NotHeard`].
    #[error("routes")]
    Routes(NotHeard),
    /// See [`flood::NotTaken`].
    #[error("flood")]
    Flood(flood::NotTaken),
    /// A claim that contradicts itself, its ticket or an earlier one.
    #[error("claim")]
    Claim,
}

/// A mesh key record whose signature was checked.
#[derive(Clone, Debug)]
pub(super) struct KnownKey {
    node: NodeId,
    epoch: u64,
    not_after: UnixMillis,
    signed: Signed,
}

impl KnownKey {
    pub(super) const fn node(&self) -> NodeId {
        self.node
    }

    pub(super) const fn not_after(&self) -> UnixMillis {
        self.not_after
    }
}

/// A key of random bytes, newer than `epoch`.
pub(super) fn fresh_key(setup: &Setup, epoch: u64, env: &mut Env<'_>) -> Arc<OwnKey> {
    let mut secret = Zeroizing::new([0; 32]);
    (env.random)(&mut secret[..]);
    // Milliseconds of the wall clock, so that a run that kept nothing is believed too; and above every epoch that is known,
    // so that one whose clock was set back is.
    let epoch = env.now.wall.0.max(epoch.saturating_add(1));
    let not_after = env.now.wall.saturating_add(KEY_LIFE_MS);
    Arc::new(OwnKey::new(secret, epoch, not_after, setup.suites.clone()))
}

impl Network {
    /// [`Unsigned::Key`] was signed.
    pub fn handle_signed_key(&mut self, signed: Signed, env: &mut Env<'_>) {
        let Ok(key) = signed.verify::<MeshKey>(&self.setup.network) else { return };
        if NodeId::from(*key.signer()) != self.setup.local || *key != *self.key.record() {
            return;
        }
        self.spread(FloodKind::MeshKey, key.epoch, key.not_after, &signed, env);
        self.key_record = Some(signed);
        self.greet_all();
        self.settle(env);
    }

    /// [`Unsigned::Claim`] was signed.
    pub fn handle_signed_claim(&mut self, signed: Signed, env: &mut Env<'_>) {
        let Ok(claim) = VerifiedClaim::verify(signed.clone(), &self.setup.network) else { return };
        if *claim.node() == self.setup.local {
            let said = claim.claim();
            self.spread(FloodKind::Claim, said.time.0, said.expires, &signed, env);
        }
        self.settle(env);
    }

    /// [`Unsigned::Origin`] was signed.
    pub fn handle_signed_origin(&mut self, signed: Signed, env: &mut Env<'_>) {
        if let Ok(origin) = VerifiedOrigin::verify(signed, &self.setup.network) {
            self.routing.handle_signed(origin, env.now);
        }
        self.settle(env);
    }

    pub(super) fn spread(
        &mut self,
        kind: FloodKind,
        version: u64,
        expires: UnixMillis,
        signed: &Signed,
        env: &Env<'_>,
    ) {
        let statement = Statement { kind, signer: self.setup.local, version, expires, signed: signed.to_bytes() };
        // What is not kept was newer already, which cannot be of the own word, or has no place: then neighbours hear it
        // from the hello, and others not at all.
        let _ = self.flood.handle_news(statement, None, env.now);
    }

    /// Verifies what a neighbour passed on, and passes on what is news.
    pub(super) fn take_items(&mut self, from: NodeId, items: Vec<FloodItem>, env: &mut Env<'_>) {
        for item in items {
            let Ok(signed) = Signed::from_bytes(&item.signed, item.signed.len()) else {
                self.refuse(Refused::Forged);
                continue;
            };
            let claimed = NodeId::from(*signed.claimed_signer());
            if self.flood.handle_repeated(item.kind, claimed, &item.signed, from) {
                continue;
            }
            match item.kind {
                FloodKind::Claim => self.take_claim(from, signed, env),
                FloodKind::MeshKey => self.take_key(from, &signed, env),
                FloodKind::Name => self.take_name(from, signed, env),
            }
        }
    }

    pub(super) fn take_claim(&mut self, from: NodeId, signed: Signed, env: &mut Env<'_>) {
        let Ok(claim) = VerifiedClaim::verify(signed, &self.setup.network) else {
            return self.refuse(Refused::Forged);
        };
        let (node, said) = (*claim.node(), claim.claim().clone());
        let envelope = claim.signed().clone();
        let is_member = self.setup.members.has(&node);
        let membership = if is_member { Membership::Unticketed } else { Membership::None };
        match self.claims.handle_claim(claim, membership, env.now.wall) {
            Ok(true) => {
                self.untimely.forget(node, Word::Claim);
                let statement = Statement {
                    kind: FloodKind::Claim,
                    signer: node,
                    version: said.time.0,
                    expires: said.expires,
                    signed: envelope.to_bytes(),
                };
                if self.flood.handle_news(statement, Some(from), env.now).is_err() {
                    self.refuse(Refused::Full);
                }
            }
            Ok(false) => self.flood.handle_known(FloodKind::Claim, node, said.time.0, from),
            Err(reason) => {
                self.refuse(Refused::Claim);
                if is_member {
                    self.note_claim(node, (said.time, said.expires), (from, envelope), reason);
                }
            }
        }
    }

    fn take_key(&mut self, from: NodeId, signed: &Signed, env: &mut Env<'_>) {
        // Whether the claim is true is seen where the record is taken.
        let node = NodeId::from(*signed.claimed_signer());
        self.learn_key(node, signed, Some(from), env);
    }

    /// Takes the mesh key record of `node`, which must be its own, a member's and usable; says whether it may be used.
    /// `from` told it.
    pub(super) fn learn_key(&mut self, node: NodeId, signed: &Signed, from: Option<NodeId>, env: &mut Env<'_>) -> bool {
        let Ok(key) = signed.verify::<MeshKey>(&self.setup.network) else {
            self.refuse(Refused::Forged);
            return false;
        };
        if NodeId::from(*key.signer()) != node {
            self.refuse(Refused::Forged);
            return false;
        }
        if node == self.setup.local {
            self.hear_own_key(key.epoch, env);
            return false;
        }
        if !self.setup.members.has(&node) {
            self.refuse(Refused::NotMember);
            return false;
        }
        if !key.is_usable(env.now.wall) {
            self.refuse(Refused::Expired);
            self.note_key(node, &key, (from, signed), env.now.wall);
            return false;
        }
        let (hash, epoch, not_after) = (PeerHash::of(&node), key.epoch, key.not_after);
        match self.keys.get(&hash) {
            Some(known) if known.node != node => return false,
            Some(known) if known.epoch >= epoch => {
                if let Some(from) = from {
                    self.flood.handle_known(FloodKind::MeshKey, node, epoch, from);
                }
                return known.epoch == epoch;
            }
            None if self.keys.len() >= KEYS_MAX => {
                self.refuse(Refused::Full);
                return false;
            }
            _ => {}
        }
        let is_new = self.keys.insert(hash, KnownKey { node, epoch, not_after, signed: signed.clone() }).is_none();
        self.zone_changed |= is_new;
        self.untimely.forget(node, Word::Key);
        if let Some(sessions) = self.peers.get_mut(&hash).and_then(|peer| peer.sessions.as_mut()) {
            // An older one was ruled out above.
            let _ = sessions.set_peer_key(key);
        }
        let statement = Statement {
            kind: FloodKind::MeshKey,
            signer: node,
            version: epoch,
            expires: not_after,
            signed: signed.to_bytes(),
        };
        if self.flood.handle_news(statement, from, env.now).is_err() {
            self.refuse(Refused::Full);
        }
        true
    }

    /// Makes the sessions with a peer whose key is known.
    pub(super) fn ensure_sessions(&mut self, peer: PeerHash) {
        let Some(known) = self.keys.get(&peer) else { return };
        let Ok(key) = known.signed.verify::<MeshKey>(&self.setup.network) else { return };
        let Some(state) = self.peers.get_mut(&peer).filter(|state| state.sessions.is_none()) else { return };
        let (network, offer) = (self.setup.network, self.setup.offer);
        let pair = Pair { network, own: self.own, peer: Party::from(state.node), offer };
        if let Ok(sessions) = Sessions::new(pair, Arc::clone(&self.key), key) {
            state.sessions = Some(sessions);
            state.tell_all_carriers();
        }
    }

    /// Makes what is needed to send to a member that is reached over others.
    pub(super) fn ensure_routed(&mut self, peer: PeerHash, env: &mut Env<'_>) {
        if !self.peers.contains_key(&peer)
            && let Some(known) = self.keys.get(&peer)
        {
            let node = known.node;
            self.peer_mut(node, Standing::Distant);
        }
        if let Some(state) = self.peers.get_mut(&peer)
            && !matches!(state.standing, Standing::Neighbour(_))
        {
            state.set_carrier(crate::path::Carrier::Routed, true, env.now);
            self.drain_path(peer, env);
        }
        self.ensure_sessions(peer);
    }

    /// This node's own signature over a mesh key of this epoch came from others. If it is a newer one than is known here,
    /// this run knows less than the one before and its clock was set back: nobody believes its key while they remember the
    /// other, so it makes one above that. Nobody else can make it do so.
    fn hear_own_key(&mut self, epoch: u64, env: &mut Env<'_>) {
        if epoch > self.key.record().epoch {
            self.replace_key(epoch, env);
        }
    }

    /// Replaces the own mesh key when it is time.
    pub(super) fn renew_key(&mut self, env: &mut Env<'_>) {
        // Where the clock was set back its end is later than any may be, and nobody takes it.
        if env.now.wall >= self.key_renewal || !self.key.record().is_usable(env.now.wall) {
            self.replace_key(self.key.record().epoch, env);
        }
    }

    /// A fresh own key of an epoch above `epoch`.
    fn replace_key(&mut self, epoch: u64, env: &mut Env<'_>) {
        self.key_renewal = env.now.wall.saturating_add(KEY_RENEW_MS);
        self.key = fresh_key(&self.setup, epoch, env);
        self.gate.set_own_key(Arc::clone(&self.key));
        // Messages to the new key pass once those who receive them know it.
        self.publish = true;
        for peer in self.peers.values_mut() {
            if let Some(sessions) = &mut peer.sessions {
                sessions.set_own_key(Arc::clone(&self.key));
            }
        }
        self.sign_key();
    }

    /// Has the own key signed, its epoch kept before.
    pub(super) fn sign_key(&mut self) {
        let record = self.key.record().clone();
        self.push(NetworkEffect::SaveKeyEpoch(record.epoch));
        self.push(NetworkEffect::Sign(Unsigned::Key(record)));
    }

    pub(super) fn drain_claims(&mut self) {
        while let Some(effect) = self.claims.poll() {
            match effect {
                ClaimEffect::Publish(claim) => {
                    self.push(NetworkEffect::SaveClaim(claim.clone()));
                    self.push(NetworkEffect::Sign(Unsigned::Claim(claim)));
                }
                ClaimEffect::OwnAddress(address) => {
                    (self.publish, self.zone_changed) = (true, true);
                    self.push(NetworkEffect::OwnAddress(address));
                }
                ClaimEffect::Ended(node, expires) => {
                    self.untimely.note(node, Word::Claim, Untimely::Over(expires), None);
                }
                ClaimEffect::BindingsChanged => {
                    // What a member may announce can hang on the address it has.
                    (self.addresses_changed, self.zone_changed, self.rights_due) = (true, true, true);
                }
            }
        }
    }

    pub(super) fn drain_routing(&mut self) {
        while let Some(effect) = self.routing.poll() {
            match effect {
                RoutingEffect::Send { to, message } => self.tell(to, MeshMessage::Routes(message)),
                RoutingEffect::Sign(origin) => self.push(NetworkEffect::Sign(Unsigned::Origin(origin))),
                // Before what is told of it: nobody takes this node for nearer than its packets go.
                RoutingEffect::Changed => {
                    self.publish = false;
                    self.push(NetworkEffect::Publish);
                }
            }
        }
    }

    pub(super) fn drain_flood(&mut self, env: &mut Env<'_>) {
        while let Some(flood::Send { to, message }) = self.flood.poll(env.now) {
            self.tell(to, MeshMessage::Flood(message));
        }
    }

    pub(super) fn refuse(&mut self, reason: Refused) {
        let count = self.refused.entry(reason).or_default();
        *count = count.saturating_add(1);
    }

    /// How often what neighbours said was refused, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (Refused, u64)> {
        self.refused.iter().map(|(reason, count)| (*reason, *count))
    }
}

const _: () = assert!(MESH_KEY_MAX <= shoal_protocol::mesh::flood::FLOOD_ITEM_MAX);
