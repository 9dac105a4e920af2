//! Who is known, who is dialled, who is asked: from one known peer to all of them.
//!
//! Every connection begins with a HELLO, whose signed record is learnt; then the peer is asked for the records it
//! knows, page by page, now and then again. Storing peers learnt that way are dialled, all of them up to a bound. The
//! directory connects to nobody itself: it hands out [`LinkEffect`]s and is told what became of them.

mod dials;
mod table;

use std::collections::{BTreeMap, VecDeque};

use shoal_protocol::control::Hello;
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
/// Longest wait before a peer that did not answer is asked again, milliseconds, before jitter.
pub const ASK_MAX_MS: u64 = 16 * ASK_AGAIN_MS;
/// Pages taken from one peer in a row: [`KNOWN_MAX`] records of the largest size, 14 to a page.
pub const PAGES_MAX: u32 = 300;
/// Connected peers that are kept track of; more are not asked anything.
pub const LINKS_MAX: usize = 1024;
/// Effects that wait to be taken: two questions a link and all dials. Beyond it a question waits for its next turn.
const EFFECTS_MAX: usize = 2 * LINKS_MAX + DIALS_MAX;

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
    /// When it is asked next.
    ask_due_ms: u64,
    /// Whether an answer is awaited.
    asking: bool,
    /// Whether HELLOs were exchanged.
    greeted: bool,
    /// Questions in a row without an answer.
    failures: u32,
    /// Where the last page ended, and how many there were.
    after: Option<NodeId>,
    pages: u32,
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
    /// Whether peers came or went since it was last chosen whom to connect to.
    changed: bool,
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
            changed: false,
            effects: VecDeque::new(),
        }
    }

    /// As [`Self::new`], of a network in which nobody need store: whoever listens is dialled.
    #[must_use]
    pub fn of_all(local: NodeId, network: NetworkId, bootstrap: &[String], seed: u64) -> Self {
        let mut directory = Self::new(local, network, bootstrap, seed);
        directory.dials.want_all();
        directory
    }

    /// The node's own record, passed on with the others.
    pub fn set_own(&mut self, signed: Signed) {
        self.own = Some(signed);
    }

    /// Who is known, in the order of their ids.
    pub fn known(&self) -> impl Iterator<Item = (&NodeId, &Known)> {
        self.table.iter()
    }

    /// A connection to `peer` was made, by either side. Said twice, it changes nothing.
    pub fn connected(&mut self, peer: NodeId, now: Now) {
        if peer == self.local || self.links.len() >= LINKS_MAX || self.links.contains_key(&peer) {
            return;
        }
        let link = Link {
            since_ms: now.uptime_ms,
            ask_due_ms: now.uptime_ms,
            asking: true,
            greeted: false,
            failures: 0,
            after: None,
            pages: 0,
        };
        self.links.insert(peer, link);
        self.push(LinkEffect::Greet { node: peer });
    }

    /// The last connection to `peer` ended.
    pub fn disconnected(&mut self, peer: NodeId, now: Now) {
        if let Some(link) = self.links.remove(&peer) {
            self.dials.lost(peer, now.uptime_ms.saturating_sub(link.since_ms), now.uptime_ms);
        }
    }

    /// This machine has another network than before, or was asleep: whom it lost is dialled at once.
    pub fn network_changed(&mut self, now: Now) {
        self.dials.hurry(now.uptime_ms);
        self.handle_timeout(now);
    }

    /// Exactly these peers are connected: for when single events were lost.
    pub fn reconcile(&mut self, connected: &[NodeId], now: Now) {
        let gone: Vec<NodeId> = self.links.keys().filter(|node| !connected.contains(node)).copied().collect();
        for node in gone {
            self.disconnected(node, now);
        }
        for node in connected {
            self.connected(*node, now);
        }
    }

    /// A dial that was asked for ended. `node` and `addresses` are those of the effect.
    pub fn dial_ended(&mut self, node: Option<NodeId>, addresses: &[String], outcome: DialOutcome, now: Now) {
        let Some(target) = Target::of(node, addresses) else { return };
        match outcome {
            DialOutcome::Reached(reached) if reached == self.local => self.dials.ours(&target),
            DialOutcome::Reached(reached) => self.dials.succeeded(&target, reached, now.uptime_ms),
            DialOutcome::Failed => self.dials.failed(&target, now.uptime_ms),
            DialOutcome::Ourselves => self.dials.ours(&target),
        }
    }

    /// A HELLO of `peer`, in either direction: its record is learnt if it has one.
    ///
    /// # Errors
    /// [`NotLearned`] if the record is not believed.
    pub fn heard_hello(&mut self, peer: NodeId, hello: Hello, now: Now) -> Result<(), NotLearned> {
        if let Some(link) = self.links.get_mut(&peer).filter(|link| !link.greeted) {
            (link.greeted, link.asking, link.failures, link.ask_due_ms) = (true, false, 0, now.uptime_ms);
        }
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
        let Some(link) = self.links.get_mut(&peer).filter(|link| link.asking) else { return lie };
        // Pages that do not move on, or never end, are not followed.
        if more && lie.is_ok() && last > link.after && link.pages < PAGES_MAX {
            (link.after, link.pages) = (last, link.pages.saturating_add(1));
            self.push(LinkEffect::AskPeers { node: peer, after: last });
        } else {
            link.failures = 0;
            self.rest(peer, now);
        }
        lie
    }

    /// `peer` did not answer a HELLO or a question.
    pub fn ask_failed(&mut self, peer: NodeId, now: Now) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.failures = link.failures.saturating_add(1);
        }
        self.rest(peer, now);
    }

    /// Time passed: what is due becomes effects. To be called a few times a second.
    pub fn handle_timeout(&mut self, now: Now) {
        self.changed |= self.table.forget_stale(now.wall);
        if std::mem::take(&mut self.changed) {
            self.dials.choose(&self.table);
        }
        let links = &self.links;
        for effect in self.dials.due(&self.table, |node| links.contains_key(node), now.uptime_ms) {
            self.push(effect);
        }
        let due = self.links.iter_mut().filter(|(_, link)| !link.asking && link.ask_due_ms <= now.uptime_ms);
        let mut questions = Vec::new();
        for (node, link) in due {
            if !link.greeted {
                questions.push(LinkEffect::Greet { node: *node });
            } else if self.table.get(node).is_some() {
                (link.after, link.pages) = (None, 0);
                questions.push(LinkEffect::AskPeers { node: *node, after: None });
            } else {
                // A visitor without a record knows nobody.
                link.ask_due_ms = now.uptime_ms.saturating_add(ASK_AGAIN_MS);
                continue;
            }
            link.asking = true;
        }
        for question in questions {
            self.push(question);
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
        match self.table.learn(record, presenter, now.wall)? {
            Learned::Same => {}
            Learned::Newer => self.changed = true,
            Learned::New => {
                self.changed = true;
                self.last_new_ms = Some(now.uptime_ms);
                self.hurry(now);
            }
        }
        Ok(())
    }

    /// Whether it pays to ask around quickly: a small network, and somebody new a moment ago. In a large one nobody is
    /// asked more often for a newcomer's sake, so inventing newcomers makes no work.
    fn is_learning(&self, now: Now) -> bool {
        self.table.len() <= WANTED_MAX
            && self.last_new_ms.is_some_and(|last| now.uptime_ms.saturating_sub(last) < LEARNING_MS)
    }

    /// Somebody new was heard of: others may have heard of more.
    fn hurry(&mut self, now: Now) {
        if !self.is_learning(now) {
            return;
        }
        let soon = now.uptime_ms.saturating_add(self.dials.around(ASK_SOON_MS));
        for link in self.links.values_mut().filter(|link| link.failures == 0) {
            link.ask_due_ms = link.ask_due_ms.min(soon);
        }
    }

    fn rest(&mut self, peer: NodeId, now: Now) {
        let learning = self.is_learning(now);
        let Some(link) = self.links.get_mut(&peer) else { return };
        let wait = match link.failures {
            0 if learning => ASK_SOON_MS,
            0 => ASK_AGAIN_MS,
            1 => ASK_SOON_MS,
            more => ASK_AGAIN_MS.saturating_mul(1 << more.min(16)).min(ASK_MAX_MS),
        };
        link.asking = false;
        link.ask_due_ms = now.uptime_ms.saturating_add(self.dials.around(wait));
    }

    fn push(&mut self, effect: LinkEffect) {
        if self.effects.len() < EFFECTS_MAX {
            self.effects.push_back(effect);
        }
    }
}

#[cfg(test)]
mod tests;
