//! Who is known, who is dialled, who is asked: from one known peer to all of them.
//!
//! Every connection begins with a HELLO, whose signed record is learnt; then the peer is asked for the records it
//! knows, page by page, now and then again. Storing peers learnt that way are dialled, all of them up to a bound. The
//! directory connects to nobody itself: it hands out [`LinkEffect`]s and is told what became of them.

mod dials;
mod table;

use std::collections::{BTreeMap, VecDeque};

use shoal_protocol::control::{Hello, Request};
use shoal_protocol::link::LinkEffect;
use shoal_protocol::{NetworkId, NodeId, Signed, UnixMillis};

pub use dials::{BOOTSTRAP_MAX, DIALS_MAX, REDIAL_FIRST_MS, REDIAL_MAX_MS, STEADY_MS, WANTED_MAX};
pub use table::{KNOWN_MAX, Known, NotLearned, PAGE_BYTES_MAX};

use crate::Now;
use crate::time::Jitter;
use dials::{Dials, Target};
use table::{Learned, PeerTable};

/// A peer is asked for its peers again after this long, milliseconds, before jitter.
pub const ASK_AGAIN_MS: u64 = 30_000;
/// While peers were still being learnt a moment ago, they are asked again sooner: milliseconds, before jitter.
pub const ASK_SOON_MS: u64 = 1_000;
/// How long after the last new peer the directory counts as still learning, milliseconds.
pub const LEARNING_MS: u64 = 10_000;
/// Connected peers that are kept track of; more are not asked anything.
pub const LINKS_MAX: usize = 1024;
/// Effects that wait to be taken; beyond it none are added until some were.
const EFFECTS_MAX: usize = 4096;

/// What became of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialOutcome {
    /// Connected to this peer.
    Reached(NodeId),
    /// Nobody, or somebody else, answered.
    Failed,
    /// The address is our own.
    Ourselves,
}

#[derive(Debug)]
struct Link {
    since_ms: u64,
    ask_due_ms: u64,
    asking: bool,
}

/// All that a node knows of others.
#[derive(Debug)]
pub struct Directory {
    local: NodeId,
    own: Option<Signed>,
    table: PeerTable,
    dials: Dials,
    links: BTreeMap<NodeId, Link>,
    last_new_ms: Option<u64>,
    effects: VecDeque<LinkEffect>,
}

impl Directory {
    /// Knows nobody but the bootstrap addresses. `seed` is for jitter only.
    #[must_use]
    pub fn new(local: NodeId, network: NetworkId, bootstrap: &[String], seed: u64) -> Self {
        Self {
            local,
            own: None,
            table: PeerTable::new(local, network),
            dials: Dials::new(bootstrap, Jitter::new(seed)),
            links: BTreeMap::new(),
            last_new_ms: None,
            effects: VecDeque::new(),
        }
    }

    /// The node's own record, passed on with the others.
    pub fn set_own(&mut self, signed: Signed) {
        self.own = Some(signed);
    }

    /// How many peers are known.
    pub fn known(&self) -> impl Iterator<Item = (&NodeId, &Known)> {
        self.table.iter()
    }

    /// A connection to `peer` was made, by either side.
    pub fn connected(&mut self, peer: NodeId, now: Now) {
        if peer == self.local || (self.links.len() >= LINKS_MAX && !self.links.contains_key(&peer)) {
            return;
        }
        self.links.entry(peer).or_insert(Link { since_ms: now.uptime_ms, ask_due_ms: now.uptime_ms, asking: false });
        self.push(LinkEffect::Greet { node: peer });
    }

    /// The last connection to `peer` ended.
    pub fn disconnected(&mut self, peer: NodeId, now: Now) {
        if let Some(link) = self.links.remove(&peer) {
            self.dials.lost(peer, now.uptime_ms.saturating_sub(link.since_ms), now.uptime_ms);
        }
    }

    /// A dial that was asked for ended. `node` and `addresses` are those of the effect.
    pub fn dial_ended(&mut self, node: Option<NodeId>, addresses: &[String], outcome: DialOutcome, now: Now) {
        let Some(target) = Target::of(node, addresses) else { return };
        match outcome {
            DialOutcome::Reached(reached) if reached == self.local => self.dials.ours(&target),
            DialOutcome::Reached(reached) => self.dials.succeeded(&target, reached),
            DialOutcome::Failed => self.dials.failed(&target, now.uptime_ms),
            DialOutcome::Ourselves => self.dials.ours(&target),
        }
    }

    /// A HELLO of `peer` carried its record; in either direction.
    ///
    /// # Errors
    /// [`NotLearned`] if the record is not believed.
    pub fn heard_hello(&mut self, peer: NodeId, hello: Hello, now: Now) -> Result<(), NotLearned> {
        match hello.record {
            Some(record) => self.learn(record, Some(peer), now),
            None => Ok(()),
        }
    }

    /// A page of records came from `peer`; the next one is asked for where there is one.
    ///
    /// # Errors
    /// The first [`NotLearned`] that only a liar's record gives; the others are learnt.
    pub fn heard_peers(&mut self, peer: NodeId, records: Vec<Signed>, more: bool, now: Now) -> Result<(), NotLearned> {
        let last = records.last().map(|signed| NodeId::from(*signed.claimed_signer()));
        let mut lie = Ok(());
        for record in records {
            match self.learn(record, None, now) {
                Err(error) if error.is_lie() && lie.is_ok() => lie = Err(error),
                _ => {}
            }
        }
        let next = last.filter(|_| more && lie.is_ok());
        match (next, self.links.get_mut(&peer)) {
            (Some(after), Some(link)) if link.asking => {
                self.push(LinkEffect::Ask { node: peer, request: Request::Peers { after: Some(after) } });
            }
            _ => self.rest(peer, now),
        }
        lie
    }

    /// `peer` did not answer a question.
    pub fn ask_failed(&mut self, peer: NodeId, now: Now) {
        self.rest(peer, now);
    }

    /// Time passed: what is due becomes effects. To be called a few times a second.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.table.forget_stale(now.wall) {
            self.dials.choose(&self.table);
        }
        let links = &self.links;
        for effect in self.dials.due(&self.table, |node| links.contains_key(node), now.uptime_ms) {
            self.push(effect);
        }
        let due: Vec<NodeId> = self
            .links
            .iter_mut()
            .filter(|(_, link)| !link.asking && link.ask_due_ms <= now.uptime_ms)
            .map(|(node, link)| {
                link.asking = true;
                *node
            })
            .collect();
        for node in due {
            self.push(LinkEffect::Ask { node, request: Request::Peers { after: None } });
        }
    }

    /// The next thing to be done; drain it after every event.
    pub fn poll(&mut self) -> Option<LinkEffect> {
        self.effects.pop_front()
    }

    /// The answer to PEERS.
    #[must_use]
    pub fn peers(&self, after: Option<NodeId>, wall: UnixMillis) -> (Vec<Signed>, bool) {
        self.table.page(after, self.own.as_ref(), wall)
    }

    /// The answer to LOCATE, and whether some known records did not fit.
    #[must_use]
    pub fn locate(&self, nodes: &[NodeId], wall: UnixMillis) -> (Vec<Signed>, bool) {
        self.table.locate(nodes, self.own.as_ref(), wall)
    }

    fn learn(&mut self, record: Signed, presenter: Option<NodeId>, now: Now) -> Result<(), NotLearned> {
        let (_, learned) = self.table.learn(record, presenter, now.wall)?;
        match learned {
            Learned::Same => {}
            Learned::Newer => self.dials.choose(&self.table),
            Learned::New { .. } => {
                self.dials.choose(&self.table);
                self.last_new_ms = Some(now.uptime_ms);
                self.hurry(now);
            }
        }
        Ok(())
    }

    /// Somebody new was heard of: others may have heard of more.
    fn hurry(&mut self, now: Now) {
        let soon = now.uptime_ms.saturating_add(self.dials.around(ASK_SOON_MS));
        for link in self.links.values_mut() {
            link.ask_due_ms = link.ask_due_ms.min(soon);
        }
    }

    fn rest(&mut self, peer: NodeId, now: Now) {
        let learning = self.last_new_ms.is_some_and(|last| now.uptime_ms.saturating_sub(last) < LEARNING_MS);
        let wait = self.dials.around(if learning { ASK_SOON_MS } else { ASK_AGAIN_MS });
        if let Some(link) = self.links.get_mut(&peer) {
            link.asking = false;
            link.ask_due_ms = now.uptime_ms.saturating_add(wait);
        }
    }

    fn push(&mut self, effect: LinkEffect) {
        if self.effects.len() < EFFECTS_MAX {
            self.effects.push_back(effect);
        }
    }
}

#[cfg(test)]
mod tests;
