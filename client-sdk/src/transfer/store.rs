//! An upload's decisions: which node gets which shard, who replaces a node that fails, when a segment is safe.
//!
//! Shard unit `u` of segment `s` goes to slot `(u + s) mod slots`; every slot has one node at a time. A node that fails
//! for good is dropped from the upload and the next spare takes its slot for everything not yet receipted. What
//! happened, not what was planned, becomes the placement: it is folded from the receipts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use shoal_protocol::layout::Code;
use shoal_protocol::limits::TRANSFER_SILENCE_MS;
use shoal_protocol::record::{PlacementRange, slot_of};
use shoal_protocol::{NodeId, SegmentNumber};

use super::{Crowd, TransferError, Window};

/// Silence after which a node is given up while another can take its place, milliseconds.
const SILENCE_WITH_SPARE_MS: u64 = 8_000;

/// Bounds of one upload.
#[derive(Debug, Clone, Copy)]
pub struct StoreLimits {
    /// Segments under way at once.
    pub segments: usize,
    /// Times a shard is offered to one node when the node says "later" or the connection breaks.
    pub attempts: u32,
}

impl Default for StoreLimits {
    /// Two segments (at most 128 MiB of shards), five attempts.
    fn default() -> Self {
        Self { segments: 2, attempts: 5 }
    }
}

/// One shard on its way to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreTask {
    /// Segment.
    pub segment: SegmentNumber,
    /// Shard unit: replica x n + index.
    pub unit: usize,
    /// To whom.
    pub node: NodeId,
    /// 0 the first time.
    pub attempt: u32,
}

/// What a receipt cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of the shard.
    pub bytes: u64,
    /// From its first byte to the receipt.
    pub took: Duration,
    /// When the receipt came, milliseconds of any monotone clock.
    pub now_ms: u64,
}

/// What the session wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAction {
    /// Send this shard, after waiting `delay_ms`.
    Send {
        /// Which, to whom.
        task: StoreTask,
        /// Milliseconds to wait first.
        delay_ms: u64,
        /// Silence after which it has failed, milliseconds: less where another node stands by.
        silence_ms: u64,
    },
    /// Every shard of the segment is receipted or given up: its bytes may be dropped.
    Release(SegmentNumber),
}

/// How an upload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOutcome {
    /// All nodes that hold something, in the order the placement names them.
    pub holders: Vec<NodeId>,
    /// Who holds what.
    pub ranges: Vec<PlacementRange>,
    /// Shards nobody took: segment and unit.
    pub missing: Vec<(SegmentNumber, usize)>,
    /// Nodes that failed, and why.
    pub failed: BTreeMap<NodeId, TransferError>,
    /// Shard bytes sent and receipted.
    pub sent: u64,
}

#[derive(Debug)]
struct Segment {
    /// Who receipted each unit.
    held: Vec<Option<NodeId>>,
    /// Units neither receipted nor given up.
    open: BTreeSet<usize>,
}

/// The state of one upload.
#[derive(Debug)]
pub struct StoreSession {
    code: Code,
    limits: StoreLimits,
    slots: Vec<Option<NodeId>>,
    spares: VecDeque<NodeId>,
    colocate: bool,
    open: BTreeMap<SegmentNumber, Segment>,
    waiting: BTreeMap<NodeId, VecDeque<StoreTask>>,
    flying: BTreeMap<NodeId, usize>,
    windows: BTreeMap<NodeId, Window>,
    crowd: Crowd,
    done: Vec<(SegmentNumber, Vec<Option<NodeId>>)>,
    failed: BTreeMap<NodeId, TransferError>,
    sent: u64,
    actions: VecDeque<StoreAction>,
}

impl StoreSession {
    /// An upload with this code to these slots; `spares` replace nodes that fail, in order. With `colocate` a node may
    /// stand in several slots.
    #[must_use]
    pub fn new(code: Code, slots: Vec<NodeId>, spares: Vec<NodeId>, colocate: bool, limits: StoreLimits) -> Self {
        Self {
            code,
            limits,
            slots: slots.into_iter().map(Some).collect(),
            spares: spares.into(),
            colocate,
            open: BTreeMap::new(),
            waiting: BTreeMap::new(),
            flying: BTreeMap::new(),
            windows: BTreeMap::new(),
            crowd: Crowd::default(),
            done: Vec::new(),
            failed: BTreeMap::new(),
            sent: 0,
            actions: VecDeque::new(),
        }
    }

    /// Whether there is room for another segment.
    #[must_use]
    pub fn wants_segment(&self) -> bool {
        self.open.len() < self.limits.segments
    }

    /// Whether every segment handed in is receipted or given up.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// A sealed segment is ready; `held` says for each unit who has it already.
    pub fn add(&mut self, segment: SegmentNumber, mut held: Vec<Option<NodeId>>) {
        held.resize(self.slots.len(), None);
        let open: BTreeSet<usize> =
            held.iter().enumerate().filter(|(_, holder)| holder.is_none()).map(|(unit, _)| unit).collect();
        self.open.insert(segment, Segment { held, open: open.clone() });
        for unit in open {
            self.assign(segment, unit);
        }
        self.release(segment);
        self.dispatch();
    }

    /// The node receipted the shard.
    pub fn stored(&mut self, task: StoreTask, sent: Sent) {
        self.landed(task.node);
        self.sent = self.sent.saturating_add(sent.bytes);
        self.windows.entry(task.node).or_default().finished(sent.bytes, sent.took);
        let took_ms = u64::try_from(sent.took.as_millis()).unwrap_or(u64::MAX);
        self.crowd.finished(sent.bytes, took_ms, sent.now_ms);
        if let Some(segment) = self.open.get_mut(&task.segment)
            && segment.open.remove(&task.unit)
            && let Some(held) = segment.held.get_mut(task.unit)
        {
            *held = Some(task.node);
        }
        self.release(task.segment);
        self.dispatch();
    }

    /// The node did not take the shard.
    pub fn failed(&mut self, task: StoreTask, error: TransferError) {
        self.landed(task.node);
        self.windows.entry(task.node).or_default().failed();
        let again = task.attempt.saturating_add(1);
        if error.retryable() && again < self.limits.attempts && !self.failed.contains_key(&task.node) {
            let hint =
                if let TransferError::Refused { retry_after_ms, .. } = error { u64::from(retry_after_ms) } else { 0 };
            let delay_ms = hint.clamp(100 << again.min(6), 10_000);
            *self.flying.entry(task.node).or_default() += 1;
            let task = StoreTask { attempt: again, ..task };
            self.actions.push_back(StoreAction::Send { task, delay_ms, silence_ms: self.silence_ms() });
            return;
        }
        self.drop_node(task.node, error);
        self.assign(task.segment, task.unit);
        self.release(task.segment);
        self.dispatch();
    }

    /// What to do next.
    pub fn poll(&mut self) -> Option<StoreAction> {
        self.actions.pop_front()
    }

    /// Distinct nodes that can still take shards; below [`Code::happy`] the upload cannot succeed.
    #[must_use]
    pub fn live_nodes(&self) -> usize {
        let live: BTreeSet<NodeId> = self.slots.iter().flatten().copied().collect();
        live.len()
    }

    /// Nodes dropped so far, and why.
    #[must_use]
    pub const fn failures(&self) -> &BTreeMap<NodeId, TransferError> {
        &self.failed
    }

    /// Fewest distinct holders of any finished segment.
    #[must_use]
    pub fn weakest(&self) -> Option<usize> {
        let distinct = |held: &[Option<NodeId>]| held.iter().flatten().collect::<BTreeSet<_>>().len();
        self.done.iter().map(|(_, held)| distinct(held)).min()
    }

    /// Whether every finished segment has enough distinct holders, k + ceil(m/2), or all its shards where nodes share.
    #[must_use]
    pub fn is_happy(&self) -> bool {
        let complete = |held: &[Option<NodeId>]| held.iter().all(Option::is_some);
        let enough =
            |held: &[Option<NodeId>]| held.iter().flatten().collect::<BTreeSet<_>>().len() >= self.code.happy();
        self.done.iter().all(|(_, held)| enough(held) || (self.colocate && complete(held)))
    }

    /// What became of everything handed in so far.
    #[must_use]
    pub fn outcome(&self) -> StoreOutcome {
        let mut done: Vec<_> = self.done.iter().collect();
        done.sort_by_key(|(segment, _)| *segment);
        let mut holders: Vec<NodeId> = Vec::new();
        let mut ranges: Vec<PlacementRange> = Vec::new();
        let mut missing = Vec::new();
        for (segment, held) in done {
            let mut slots = vec![None; held.len()];
            for (unit, node) in held.iter().enumerate() {
                let Some(node) = node else {
                    missing.push((*segment, unit));
                    continue;
                };
                let place = holders.iter().position(|holder| holder == node).unwrap_or_else(|| {
                    holders.push(*node);
                    holders.len() - 1
                });
                if let Some(slot) = slot_of(*segment, unit, held.len()).and_then(|slot| slots.get_mut(slot)) {
                    *slot = u16::try_from(place).ok();
                }
            }
            match ranges.last_mut() {
                Some(last) if last.slots == slots && last.last.0.checked_add(1) == Some(segment.0) => {
                    last.last = *segment
                }
                _ => ranges.push(PlacementRange { first: *segment, last: *segment, slots }),
            }
        }
        StoreOutcome { holders, ranges, missing, failed: self.failed.clone(), sent: self.sent }
    }

    /// Queues a unit for the node in its slot, or gives it up where the slot is empty, or its node has another unit of
    /// the segment from an earlier run.
    fn assign(&mut self, segment: SegmentNumber, unit: usize) {
        let slot = slot_of(segment, unit, self.slots.len());
        let node = slot.and_then(|slot| self.slots.get(slot).copied()).flatten();
        let has_one = |node: &NodeId| self.open.get(&segment).is_some_and(|open| open.held.contains(&Some(*node)));
        match node.filter(|node| self.colocate || !has_one(node)) {
            Some(node) => {
                self.waiting.entry(node).or_default().push_back(StoreTask { segment, unit, node, attempt: 0 });
            }
            None => {
                if let Some(segment) = self.open.get_mut(&segment) {
                    segment.open.remove(&unit);
                }
            }
        }
    }

    /// Takes a node out of every slot, puts a spare in, and moves what waited for it.
    fn drop_node(&mut self, node: NodeId, error: TransferError) {
        if self.failed.insert(node, error).is_some() {
            return;
        }
        for slot in &mut self.slots {
            if *slot == Some(node) {
                *slot = self.spares.pop_front();
            }
        }
        self.spares.retain(|spare| *spare != node);
        let moved = self.waiting.remove(&node).unwrap_or_default();
        for task in moved {
            self.assign(task.segment, task.unit);
            self.release(task.segment);
        }
    }

    fn landed(&mut self, node: NodeId) {
        if let Some(flying) = self.flying.get_mut(&node) {
            *flying = flying.saturating_sub(1);
        }
    }

    fn release(&mut self, number: SegmentNumber) {
        if self.open.get(&number).is_some_and(|segment| segment.open.is_empty())
            && let Some(segment) = self.open.remove(&number)
        {
            self.done.push((number, segment.held));
            self.actions.push_back(StoreAction::Release(number));
        }
    }

    /// Sends what waits, the nodes in turns, as far as their windows and the uplink allow.
    fn dispatch(&mut self) {
        let silence_ms = self.silence_ms();
        let mut flying: usize = self.flying.values().sum();
        let mut more = true;
        while more {
            more = false;
            for (node, queue) in &mut self.waiting {
                let there = self.flying.entry(*node).or_default();
                let window = self.windows.get(node).map_or_else(|| Window::default().size(), Window::size);
                if *there >= window || flying >= self.crowd.limit() {
                    continue;
                }
                let Some(task) = queue.pop_front() else { continue };
                *there += 1;
                flying += 1;
                more = true;
                self.actions.push_back(StoreAction::Send { task, delay_ms: 0, silence_ms });
            }
        }
        self.waiting.retain(|_, queue| !queue.is_empty());
    }

    fn silence_ms(&self) -> u64 {
        if self.spares.is_empty() { TRANSFER_SILENCE_MS } else { SILENCE_WITH_SPARE_MS }
    }
}

#[cfg(test)]
mod tests {
    use super::super::CROWD_MIN;
    use super::*;
    use shoal_protocol::Refusal;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    /// Runs the session against nodes that all answer by `answer`, and returns the outcome.
    fn run(
        session: &mut StoreSession,
        segments: u32,
        mut answer: impl FnMut(StoreTask) -> Result<(), TransferError>,
    ) -> StoreOutcome {
        let mut next = 0;
        loop {
            while next < segments && session.wants_segment() {
                session.add(SegmentNumber(next), vec![]);
                next += 1;
            }
            match session.poll() {
                Some(StoreAction::Send { task, .. }) => match answer(task) {
                    Ok(()) => session.stored(task, Sent { bytes: 1 << 20, took: Duration::from_millis(10), now_ms: 0 }),
                    Err(error) => session.failed(task, error),
                },
                Some(StoreAction::Release(_)) => {}
                None if session.is_idle() && next == segments => return session.outcome(),
                None => panic!("stuck"),
            }
        }
    }

    fn session(nodes: u8, spares: u8) -> StoreSession {
        let slots = (1..=nodes).map(node).collect();
        let spares = (nodes + 1..=nodes + spares).map(node).collect();
        StoreSession::new(Code::new(usize::from(nodes) - 2, 2).unwrap(), slots, spares, false, StoreLimits::default())
    }

    #[test]
    fn a_clean_upload_is_one_range() {
        let mut session = session(6, 0);
        let outcome = run(&mut session, 9, |_| Ok(()));
        assert_eq!(outcome.ranges.len(), 1);
        assert_eq!(outcome.holders.len(), 6);
        assert!(outcome.missing.is_empty() && session.is_happy());
    }

    #[test]
    fn a_dead_node_is_replaced_by_a_spare() {
        let mut session = session(6, 1);
        let mut sent = 0;
        let outcome = run(&mut session, 9, |task| {
            sent += 1;
            if task.node == node(3) && sent > 20 { Err(TransferError::Unreachable("gone".into())) } else { Ok(()) }
        });
        assert!(outcome.missing.is_empty());
        assert!(outcome.holders.contains(&node(7)));
        let placed = |segment: u32, unit: usize| {
            let range =
                outcome.ranges.iter().find(|range| range.first.0 <= segment && segment <= range.last.0).unwrap();
            outcome.holders[usize::from(range.slots[slot_of(SegmentNumber(segment), unit, 6).unwrap()].unwrap())]
        };
        let all: BTreeSet<_> = (0..6).map(|unit| placed(8, unit)).collect();
        assert!(!all.contains(&node(3)) && all.contains(&node(7)) && all.len() == 6);
    }

    #[test]
    fn without_spares_the_missing_are_named() {
        let mut session = session(6, 0);
        let outcome = run(&mut session, 4, |task| {
            if task.node == node(2) { Err(TransferError::refused(Refusal::NoSpace)) } else { Ok(()) }
        });
        assert_eq!(outcome.missing.len(), 4);
        assert_eq!(outcome.failed.get(&node(2)), Some(&TransferError::refused(Refusal::NoSpace)));
        assert!(session.is_happy(), "5 of 6 are k + ceil(m/2)");
        assert_eq!(session.weakest(), Some(5));
    }

    #[test]
    fn busy_is_tried_again_and_then_given_up() {
        let mut session = session(4, 0);
        let mut tries = 0;
        let outcome = run(&mut session, 1, |task| {
            if task.node != node(1) {
                return Ok(());
            }
            tries += 1;
            Err(TransferError::refused(Refusal::Busy))
        });
        assert_eq!(tries, 5);
        assert_eq!(outcome.missing.len(), 1);
    }

    #[test]
    fn few_are_sent_at_once_until_receipts_say_what_the_uplink_bears() {
        let mut session = session(30, 0);
        session.add(SegmentNumber(0), vec![]);
        let mut sent: Vec<StoreTask> = Vec::new();
        let poll = |session: &mut StoreSession| {
            let more = std::iter::from_fn(|| session.poll());
            let tasks = more.filter_map(|action| match action {
                StoreAction::Send { task, silence_ms, .. } => (silence_ms == TRANSFER_SILENCE_MS).then_some(task),
                StoreAction::Release(_) => None,
            });
            tasks.collect::<Vec<_>>()
        };
        sent.extend(poll(&mut session));
        assert_eq!(sent.len(), CROWD_MIN);
        assert_eq!(sent.iter().map(|task| task.node).collect::<BTreeSet<_>>().len(), CROWD_MIN, "a node each");
        // A megabyte in ten milliseconds: the uplink is no reason to wait.
        session.stored(sent[0], Sent { bytes: 1 << 20, took: Duration::from_millis(10), now_ms: 10 });
        assert_eq!(poll(&mut session).len(), 30 - CROWD_MIN);
    }

    #[test]
    fn silence_is_borne_for_less_long_where_a_spare_stands_by() {
        let mut session = session(6, 1);
        session.add(SegmentNumber(0), vec![]);
        let Some(StoreAction::Send { task, silence_ms, .. }) = session.poll() else { panic!("nothing to send") };
        assert_eq!(silence_ms, SILENCE_WITH_SPARE_MS);
        session.failed(task, TransferError::TooSlow);
        let rest: Vec<_> = std::iter::from_fn(|| session.poll()).collect();
        let to_spare = |action: &StoreAction| matches!(action, StoreAction::Send { task, silence_ms: TRANSFER_SILENCE_MS, .. } if task.node == node(7));
        assert!(rest.iter().any(to_spare), "{rest:?}");
    }

    #[test]
    fn every_failure_pattern_ends() {
        for dead in 0u32..256 {
            let mut session = session(6, 2);
            let outcome = run(&mut session, 5, |task| {
                let n = u32::from(task.node.as_bytes()[0]) - 1;
                if dead & (1 << n) == 0 { Ok(()) } else { Err(TransferError::TooSlow) }
            });
            let live = 8 - dead.count_ones() as usize;
            assert_eq!(outcome.missing.is_empty(), live >= 6, "{dead:08b}");
            assert_eq!(session.is_happy(), live.min(6) >= 5, "{dead:08b}");
            for range in &outcome.ranges {
                let named: Vec<_> = range.slots.iter().flatten().collect();
                assert_eq!(named.len(), named.iter().collect::<BTreeSet<_>>().len(), "one node in two slots");
            }
        }
    }
}
