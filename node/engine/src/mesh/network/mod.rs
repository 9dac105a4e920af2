//! One network as one node takes part in it: who is a member, who has which address, how each is reached, with whom keys
//! are shared. It joins the parts of the control half and holds what goes across them; it sends, signs and opens nothing.
//!
//! - [`effect`]: what comes in with every event, and what is to be done.
//! - `peer`: one other member. `neighbours`: connections, lanes and what is heard over them.
//! - `handshakes`: messages and frames of sessions. `statements`: what is signed here and what others signed;
//!   `names`: that of names.
//! - `watching`: whether frames for those that are reached over others arrive.
//! - [`untimely`]: what others signed that does not count because of its time.
//! - [`tables`]: what the packet half reads. [`view`]: the same for people, and what is asked of one peer.
//!
//! Flow of a packet's first way: [`Network::handle_want`] -> sessions -> [`PlaneCommand::Handshake`] -> the peer's
//! [`Network::handle_initiation`] -> response -> [`PlaneCommand::Install`] and [`PlaneCommand::Use`] on both sides.

pub mod effect;
mod handshakes;
mod names;
mod neighbours;
mod peer;
mod statements;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod untimely;
pub mod view;
mod watching;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::{NodeId, Signed, UnixMillis};

pub use effect::{Carriers, Env, Members, NetworkEffect, PlaneCommand, Setup, Unsigned};
pub use peer::Standing;
pub use statements::Refused;
pub use tables::Tables;
pub use untimely::{Untimely, Word};
pub use view::{NoPing, PeerView, Reach, RouteRow};

use crate::mesh::claims::Claims;
use crate::mesh::flood::Flood;
use crate::mesh::names::Names;
use crate::mesh::policy;
use crate::mesh::routing::snapshot::ExitUse;
use crate::mesh::routing::{Intake, Routing};
use crate::mesh::session::{Context, Drops, Gate, Indices, OwnKey, Party, Sessions};
use crate::mesh::watch::Watches;
use crate::path::{Carrier, Choice, Decision, PathEffect};
use peer::Peer;
use statements::KnownKey;
use untimely::UntimelyWords;

/// Most other members with a connection or a session.
pub const PEERS_MAX: usize = 4096;
/// Effects that wait to be polled. The owner drains after every event; one event makes at most a few for every peer.
const EFFECTS_MAX: usize = 16 * PEERS_MAX;
/// How often everything that is known is looked through for what ended, milliseconds, and rights to prefixes asked for again
/// where addresses went to others: a thousand members tell of theirs within a minute, and each right of ten thousand routes
/// costs a question.
const LOOK_MS: u64 = 1_000;

/// See the head of this file.
#[derive(Debug)]
pub struct Network {
    setup: Setup,
    own: Party,
    claims: Claims,
    routing: Routing,
    intake: Intake,
    policy: Arc<policy::Snapshot>,
    key: Arc<OwnKey>,
    /// The own mesh key record, once it is signed.
    key_record: Option<Signed>,
    gate: Gate,
    indices: Indices,
    /// At most [`PEERS_MAX`].
    peers: BTreeMap<PeerHash, Peer>,
    flood: Flood,
    watches: Watches,
    names: Names,
    /// The newest mesh key record of every member that is known of, this node's own left out. At most
    /// [`KEYS_MAX`](statements::KEYS_MAX).
    keys: BTreeMap<PeerHash, KnownKey>,
    /// When this node's mesh key is replaced.
    key_renewal: UnixMillis,
    /// What was refused before a peer was known.
    drops: Drops,
    refused: BTreeMap<Refused, u64>,
    untimely: UntimelyWords,
    publish: bool,
    /// Somebody else has another address than the last tables say.
    addresses_changed: bool,
    zone_changed: bool,
    /// Who has which address changed since rights were asked for.
    rights_due: bool,
    /// When [`Self::look_through`] is due.
    next_look_ms: u64,
    effects: VecDeque<NetworkEffect>,
}

impl Network {
    /// Nobody is known. `policy` holds the rules that count.
    #[must_use]
    pub fn new(setup: Setup, policy: Arc<policy::Snapshot>, env: &mut Env<'_>) -> Self {
        let key = statements::fresh_key(&setup, setup.key_epoch, env);
        let claims =
            Claims::new(setup.local, setup.network, setup.pool, setup.issued, setup.saved.clone(), env.now.wall);
        let mut network = Self {
            own: Party::from(setup.local),
            claims,
            routing: Routing::new(setup.local, setup.epoch, setup.network),
            intake: Intake::new(setup.network),
            policy,
            gate: Gate::new(setup.network, Arc::clone(&key)),
            key_record: None,
            indices: Indices::default(),
            peers: BTreeMap::new(),
            flood: Flood::new(setup.local, setup.epoch),
            watches: Watches::default(),
            names: Names::new(setup.local),
            keys: BTreeMap::new(),
            key_renewal: env.now.wall.saturating_add(statements::KEY_RENEW_MS),
            drops: Drops::default(),
            refused: BTreeMap::new(),
            untimely: UntimelyWords::default(),
            publish: true,
            addresses_changed: false,
            zone_changed: true,
            rights_due: false,
            next_look_ms: 0,
            effects: VecDeque::new(),
            key,
            setup,
        };
        network.sign_key();
        let advertised: Vec<Prefix> = network.setup.advertised.clone();
        for prefix in advertised {
            network.routing.announce(prefix, env.now);
        }
        network.settle(env);
        network
    }

    /// Packets for this peer wait.
    pub fn handle_want(&mut self, peer: PeerHash, env: &mut Env<'_>) {
        self.ensure_routed(peer, env);
        self.watch_wanted(peer, env);
        self.with_sessions(peer, env, |sessions, cx| sessions.handle_want(cx));
        self.settle(env);
    }

    /// The rules changed: all rights are asked for again.
    pub fn handle_policy(&mut self, policy: Arc<policy::Snapshot>, env: &mut Env<'_>) {
        self.policy = policy;
        (self.publish, self.zone_changed) = (true, true);
        self.routing.handle_policy(&rights(&self.policy, &self.claims, &self.setup), env.now);
        self.settle(env);
    }

    /// Packets to the internet go through somebody else from now on.
    pub fn handle_exit(&mut self, exit: ExitUse) {
        self.publish |= self.setup.exit != exit;
        self.setup.exit = exit;
    }

    /// This node leads to a prefix from now on, or no longer.
    pub fn handle_advertised(&mut self, prefix: Prefix, is_led_to: bool, env: &mut Env<'_>) {
        self.setup.advertised.retain(|known| *known != prefix);
        if is_led_to {
            self.setup.advertised.push(prefix);
            self.routing.announce(prefix, env.now);
        } else {
            self.routing.withdraw(prefix, env.now);
        }
        self.publish = true;
        self.settle(env);
    }

    /// Time passed. To be called every 50 ms while packets go, else a few times a second.
    pub fn handle_timeout(&mut self, env: &mut Env<'_>) {
        self.claims.handle_timeout(env.now.wall);
        self.names.handle_timeout(env.now.wall);
        self.renew_key(env);
        self.flood.handle_timeout(env.now);
        self.look_through(env);
        if self.routing.due_ms() <= env.now.uptime_ms {
            self.routing.handle_timeout(env.now);
        }
        let all: Vec<PeerHash> = self.peers.keys().copied().collect();
        for peer in all {
            if let Some(state) = self.peers.get_mut(&peer) {
                state.path.handle_timeout(env.now);
            }
            self.with_sessions(peer, env, |sessions, cx| sessions.handle_timeout(cx));
            self.drain_path(peer, env);
            self.forget_if_gone(peer);
        }
        self.look_at_watches(env);
        self.settle(env);
        // Once for all of a tick: a thousand members may tell of theirs.
        self.publish |= std::mem::take(&mut self.addresses_changed);
    }

    /// What takes a look at everything that is known, and has time.
    fn look_through(&mut self, env: &mut Env<'_>) {
        if env.now.uptime_ms < self.next_look_ms {
            return;
        }
        self.next_look_ms = env.now.uptime_ms.saturating_add(LOOK_MS);
        self.intake.forget_expired(env.now.wall);
        self.take_timely(env);
        if std::mem::take(&mut self.rights_due) {
            self.routing.handle_policy(&rights(&self.policy, &self.claims, &self.setup), env.now);
        }
    }

    /// Who has neither a connection nor a session takes no room: whoever comes and goes under many names, as clients do,
    /// must not keep out others.
    fn forget_if_gone(&mut self, peer: PeerHash) {
        let is_gone = self.peers.get(&peer).is_some_and(|state| {
            let is_idle = state.sessions.as_ref().is_none_or(Sessions::is_idle);
            state.standing == Standing::Distant && is_idle && !state.has_lane
        });
        if is_gone {
            self.peers.remove(&peer);
            self.publish = true;
            self.push(NetworkEffect::Plane(PlaneCommand::Forget { peer }));
        }
    }

    /// The next thing to be done; drain it after every event.
    pub fn poll(&mut self) -> Option<NetworkEffect> {
        if let Some(effect) = self.effects.pop_front() {
            return Some(effect);
        }
        if std::mem::take(&mut self.zone_changed) {
            return Some(NetworkEffect::Names);
        }
        std::mem::take(&mut self.publish).then_some(NetworkEffect::Publish)
    }

    /// What was refused of messages nobody could be asked about.
    #[must_use]
    pub const fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Why a peer is reached as it is: the last decisions, oldest first.
    pub fn why(&self, peer: &PeerHash) -> impl Iterator<Item = &Decision> {
        self.peers.get(peer).into_iter().flat_map(|peer| peer.path.why())
    }

    fn push(&mut self, effect: NetworkEffect) {
        if self.effects.len() < EFFECTS_MAX {
            self.effects.push_back(effect);
        }
    }

    /// Lets `event` at the sessions of a peer and passes on what they want.
    fn with_sessions(
        &mut self,
        peer: PeerHash,
        env: &mut Env<'_>,
        event: impl FnOnce(&mut Sessions, &mut Context<'_>),
    ) {
        let Some(sessions) = self.peers.get_mut(&peer).and_then(|peer| peer.sessions.as_mut()) else { return };
        let mut cx = Context { now: env.now, random: &mut *env.random, indices: &mut self.indices };
        event(sessions, &mut cx);
        self.drain_sessions(peer, env);
    }

    /// Passes on what the path agent of a peer wants.
    fn drain_path(&mut self, peer: PeerHash, env: &mut Env<'_>) {
        let mut chosen = false;
        while let Some(effect) = self.peers.get_mut(&peer).and_then(|state| state.path.poll()) {
            match effect {
                // Nobody could read it.
                PathEffect::Probe { .. } if !self.peers.get(&peer).is_some_and(Peer::has_session) => {}
                PathEffect::Probe { on, path, probe } => {
                    let command = PlaneCommand::Control { peer, index: None, on, path, control: probe };
                    self.push(NetworkEffect::Plane(command));
                }
                PathEffect::Choose(choice) => {
                    chosen = true;
                    self.push(NetworkEffect::Plane(PlaneCommand::Choose { peer, choice }));
                    self.lanes_needed(peer, &choice);
                }
            }
        }
        if chosen {
            self.link_changed(peer, env);
        }
    }

    /// With datagrams alone, lanes serve until the first address is proven.
    fn lanes_needed(&mut self, peer: PeerHash, choice: &Choice) {
        let on_udp = choice.ways.carriers().any(|carrier| matches!(carrier, Carrier::Udp(_)));
        if self.setup.carriers == Carriers::Udp
            && on_udp
            && let Some(state) = self.peers.get(&peer).filter(|state| state.has_lane)
        {
            let node = state.node;
            self.push(NetworkEffect::CloseLane(node));
        }
    }

    /// Passes on what claims and routing want.
    fn settle(&mut self, env: &mut Env<'_>) {
        self.drain_claims();
        self.drain_names();
        self.drain_routing();
        self.drain_flood(env);
    }
}

/// The policy as routing asks it: whether a node may announce a prefix.
fn rights<'a>(
    policy: &'a policy::Snapshot,
    claims: &'a Claims,
    setup: &'a Setup,
) -> impl Fn(&NodeId, &Prefix) -> bool + 'a {
    move |node, prefix| {
        let subject = tables::subject(policy, claims, setup, node);
        policy.may_announce(&subject, prefix) != policy::Announce::Unauthorised
    }
}
