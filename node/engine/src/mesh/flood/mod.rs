//! Signed statements for everybody, told from neighbour to neighbour: claims of addresses and names, mesh keys. It verifies
//! nothing: what comes in goes out of [`Flood::handle_message`] to be verified, and what was verified and news comes back
//! by [`Flood::handle_news`]. It sends nothing either: [`Flood::poll`] says what to send.
//!
//! The newest statement of each kind and signer is kept until it ends, in the order in which they became news. A neighbour
//! is a place in that order: what is behind it still has to be told, less what the neighbour said itself. So a newer
//! statement takes the place of an older one in all queues at once, a queue costs eight bytes, and a new neighbour, whose
//! place is the beginning, hears everything once.
//!
//! Messages of a series are numbered, at most [`FLOOD_WINDOW`](shoal_protocol::mesh::flood::FLOOD_WINDOW) in flight, and
//! sent again from the first one that was not acknowledged, as they were. When a link goes, numbers and flights stay for
//! the case that it comes back between the same two runs; where there is no room for that, a new series tells everything
//! again.

mod kept;
mod neighbour;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use shoal_protocol::mesh::flood::{FLOOD_ITEMS_MAX, FloodItem, FloodKind, FloodMessage};
use shoal_protocol::{BootEpoch, NodeId};

pub use kept::Statement;

use crate::Now;
use kept::Kept;
use neighbour::Neighbour;

/// Most statements of one kind: as many members as [claims](super::claims::CLAIMS_MAX) are remembered of. With envelopes of
/// about 250 bytes and three kinds, 15 MiB.
pub const STATEMENTS_MAX: usize = super::claims::CLAIMS_MAX;
/// Most neighbours, those counted whose link is gone but may come back: twice as many as there can be links.
pub const NEIGHBOURS_MAX: usize = 2 * crate::directory::LINKS_MAX;
/// First wait for an acknowledgement, milliseconds: more than a round trip round the world. A slower neighbour gets twice
/// its last round trip.
pub const RESEND_FIRST_MS: u64 = 500;
/// Longest such wait, milliseconds. Doubled from the first it is reached after 4 tries in vain.
pub const RESEND_MAX_MS: u64 = 8_000;
/// How long an acknowledgement waits for others, or for a message that takes it along, milliseconds. It bounds what
/// somebody can make us send by repeating itself.
pub const ACK_MS: u64 = 20;
/// How often ended statements are looked for, milliseconds: they are only a burden until then, for everybody checks ends.
pub const SWEEP_MS: u64 = 60_000;

/// Why nothing of a message's statements is to be verified. Its acknowledgement may have counted all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NotTaken {
    /// There is no link to its sender.
    #[error("statements of somebody who is no neighbour")]
    NoLink,
    /// It names other runs than the two the link is between.
    #[error("statements of or for another run")]
    OtherRun,
    /// It was taken before, or is of a series that is over.
    #[error("message came again")]
    Late,
    /// One before it is missing.
    #[error("message before this one is missing")]
    Gap,
    /// More messages than a neighbour may send.
    #[error("too many messages")]
    TooMany,
}

/// Why a statement is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NotKept {
    /// One that is as new is known.
    #[error("statement is not news")]
    Old,
    /// It is over.
    #[error("statement is over")]
    Expired,
    /// It is empty, or longer than one may be.
    #[error("length of a statement")]
    Length,
    /// There is no place for another signer.
    #[error("no place for another statement")]
    Full,
}

/// What has to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// The neighbour.
    pub to: NodeId,
    /// What to send.
    pub message: FloodMessage,
}

/// What one node knows of everybody's statements and tells its neighbours.
#[derive(Debug)]
pub struct Flood {
    local: NodeId,
    epoch: BootEpoch,
    kept: Kept,
    /// At most [`NEIGHBOURS_MAX`].
    neighbours: BTreeMap<NodeId, Neighbour>,
    /// Of the last series that began; none is used twice in a run.
    last_series: u64,
    next_sweep_ms: u64,
    /// Whose turn it was last in this round of [`poll`](Self::poll).
    turn: Option<NodeId>,
}

impl Flood {
    /// Nothing is known. `epoch` MUST never have been used by this node before.
    #[must_use]
    pub fn new(local: NodeId, epoch: BootEpoch) -> Self {
        Self {
            local,
            epoch,
            kept: Kept::default(),
            neighbours: BTreeMap::new(),
            last_series: 0,
            next_sweep_ms: 0,
            turn: None,
        }
    }

    /// There is a link to `node`, which is in the run `epoch`. Said twice, it changes nothing. `false` if there are too many
    /// links.
    pub fn handle_link(&mut self, node: NodeId, epoch: BootEpoch) -> bool {
        if node == self.local {
            return false;
        }
        match self.neighbours.get_mut(&node) {
            Some(neighbour) if neighbour.epoch == epoch => {
                if neighbour.lost_ms.is_some() {
                    neighbour.resume();
                }
                return true;
            }
            Some(_) => self.forget(&node),
            None => {}
        }
        if self.neighbours.len() >= NEIGHBOURS_MAX && !self.forget_lost() {
            return false;
        }
        let taken: BTreeSet<u16> = self.neighbours.values().map(|neighbour| neighbour.slot).collect();
        let Some(slot) = (0..=u16::MAX).find(|slot| !taken.contains(slot)) else { return false };
        let series = self.next_series();
        self.neighbours.insert(node, Neighbour::new(epoch, slot, series));
        true
    }

    /// The link to `node` is gone.
    pub fn handle_link_lost(&mut self, node: NodeId, now: Now) {
        if let Some(neighbour) = self.neighbours.get_mut(&node) {
            neighbour.lost_ms = neighbour.lost_ms.or(Some(now.uptime_ms));
        }
    }

    /// A message of `from`, which came over the link to it: the statements that are to be verified now.
    ///
    /// # Errors
    /// [`NotTaken`] if there are none to verify because of its number, its runs or its pace.
    pub fn handle_message(
        &mut self,
        from: NodeId,
        message: FloodMessage,
        now: Now,
    ) -> Result<Vec<FloodItem>, NotTaken> {
        let link = self.neighbours.get_mut(&from).filter(|neighbour| neighbour.lost_ms.is_none());
        let neighbour = link.ok_or(NotTaken::NoLink)?;
        if message.from != neighbour.epoch || message.to != self.epoch {
            return Err(NotTaken::OtherRun);
        }
        if message.ack.is_some_and(|ack| neighbour.acknowledged(ack, now.uptime_ms)) {
            self.last_series = self.last_series.saturating_add(1);
            neighbour.begin(self.last_series);
        }
        if message.number > 0 {
            neighbour.take(message.series, message.number, now.uptime_ms)?;
        }
        Ok(message.items)
    }

    /// A statement was verified and is news: it is kept and told to everybody but `from`, who said it; none said it where it
    /// is this node's own.
    ///
    /// # Errors
    /// [`NotKept`] if it is not passed on.
    pub fn handle_news(&mut self, statement: Statement, from: Option<NodeId>, now: Now) -> Result<(), NotKept> {
        let (kind, signer, version) = (statement.kind, statement.signer, statement.version);
        let kept = self.kept.keep(statement, now.wall);
        if let Some(from) = from {
            self.handle_known(kind, signer, version, from);
        }
        kept
    }

    /// `from` said a statement that is known already, and need not be told it.
    pub fn handle_known(&mut self, kind: FloodKind, signer: NodeId, version: u64, from: NodeId) {
        if let Some(neighbour) = self.neighbours.get(&from) {
            self.kept.mark(&(kind, signer), version, neighbour.slot);
        }
    }

    /// `from` said this: whether it is a statement that is kept, byte by byte, so that it was verified before and is no news.
    /// Each neighbour says everything once: without this question each signature would be checked as often as there are
    /// neighbours.
    pub fn handle_repeated(&mut self, kind: FloodKind, signer: NodeId, signed: &[u8], from: NodeId) -> bool {
        let Some(neighbour) = self.neighbours.get(&from) else { return false };
        self.kept.repeat(&(kind, signer), signed, neighbour.slot)
    }

    /// Time passed. To be called at [`due_ms`](Self::due_ms), or a few times a second, before [`poll`](Self::poll).
    pub fn handle_timeout(&mut self, now: Now) {
        if now.uptime_ms >= self.next_sweep_ms {
            self.next_sweep_ms = now.uptime_ms.saturating_add(SWEEP_MS);
            self.kept.expire(now.wall);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) and [`poll`](Self::poll) are needed next, milliseconds of uptime.
    #[must_use]
    pub fn due_ms(&self) -> u64 {
        let linked = self.neighbours.values().filter(|neighbour| neighbour.lost_ms.is_none());
        let due = linked.map(|neighbour| neighbour.due_ms(neighbour.told < self.kept.last_place())).min();
        due.unwrap_or(u64::MAX).min(self.next_sweep_ms)
    }

    /// The next thing to send. To be drained after every event, or after several: what became news in between goes in one
    /// message.
    pub fn poll(&mut self, now: Now) -> Option<Send> {
        let after = self.turn.map_or(Bound::Unbounded, Bound::Excluded);
        let linked = self.neighbours.range_mut((after, Bound::Unbounded));
        for (node, neighbour) in linked.filter(|(_, neighbour)| neighbour.lost_ms.is_none()) {
            if let Some(message) = next_message(self.epoch, &self.kept, neighbour, now.uptime_ms) {
                self.turn = Some(*node);
                return Some(Send { to: *node, message });
            }
        }
        self.turn = None;
        None
    }

    /// Every statement that is kept, in the order in which they became news.
    pub fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.kept.statements()
    }

    /// How many statements are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn next_series(&mut self) -> u64 {
        self.last_series = self.last_series.saturating_add(1);
        self.last_series
    }

    fn forget(&mut self, node: &NodeId) {
        if let Some(neighbour) = self.neighbours.remove(node) {
            self.kept.forget_slot(neighbour.slot);
        }
    }

    /// Forgets the neighbour whose link is gone for longest, if there is one.
    fn forget_lost(&mut self) -> bool {
        let lost = self.neighbours.iter().filter_map(|(node, neighbour)| Some((neighbour.lost_ms?, *node)));
        let oldest = lost.min().map(|(_, node)| node);
        oldest.inspect(|node| self.forget(node)).is_some()
    }
}

/// The message that goes to a neighbour now, if one does.
fn next_message(epoch: BootEpoch, kept: &Kept, neighbour: &mut Neighbour, now_ms: u64) -> Option<FloodMessage> {
    if neighbour.may_tell(now_ms) {
        let mut items: Vec<Arc<Statement>> = Vec::new();
        let mut told = neighbour.told;
        while items.len() < FLOOD_ITEMS_MAX
            && let Some((place, statement)) = kept.next(told, neighbour.slot)
        {
            told = place;
            items.push(Arc::clone(statement));
        }
        if items.is_empty() {
            // The rest is what it said itself.
            neighbour.told = kept.last_place();
        } else {
            neighbour.tell(items, told);
        }
    }
    let (series, number, items) = neighbour.send(now_ms).unwrap_or_default();
    let ack = neighbour.acknowledge(number > 0, now_ms);
    let message = FloodMessage { from: epoch, to: neighbour.epoch, series, number, items, ack };
    (message.number > 0 || message.ack.is_some()).then_some(message)
}

#[cfg(test)]
mod tests;
