//! One neighbour: what it was told, what is to be told next and when, and what it said of itself. It decides no route.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::{FRAME_MAX, FRAME_MIN, REQUESTS_MAX, Reach, SeqnoRequest, Told, told_digest};
use shoal_protocol::{BootEpoch, NodeId};

use super::cost::LinkCost;
use super::{DIGEST_SOON_MS, HOLD_MS, PACE_MS, PERIOD_MS, RESYNC_FIRST_MS, RESYNC_MAX_MS};

/// Messages a neighbour may send in a row; afterwards [`MESSAGES_A_SECOND`].
const MESSAGES_BURST: u64 = 128;
/// Messages a second that are read of one neighbour: three times what an honest one sends.
const MESSAGES_A_SECOND: u64 = 30;
/// Seqno requests that wait to be sent to one neighbour: two messages full.
const REQUESTS_WAITING_MAX: usize = 2 * REQUESTS_MAX;

/// What a link is, as the path agent sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// The run of the neighbour.
    pub epoch: BootEpoch,
    /// Largest frame of this link, bytes.
    pub max_frame: u32,
    /// Whether it goes through somebody else's relay.
    pub relayed: bool,
}

/// What a neighbour was told of one prefix.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    /// This, with its digest.
    Told(Told, u64),
    /// That there is no route any more; repeated on a resync until then.
    Retracted(u64),
}

/// Everything about one neighbour.
#[derive(Debug)]
pub(super) struct Link {
    /// Of the neighbour.
    pub(super) hash: PeerHash,
    pub(super) epoch: BootEpoch,
    pub(super) max_frame: u32,
    pub(super) relayed: bool,
    pub(super) cost: LinkCost,
    /// Whom the neighbour reaches, once it said so.
    pub(super) reach: Option<Reach>,
    reach_digest: u64,
    /// Number of the last message taken.
    pub(super) heard_number: u64,
    /// Sum of the digests of what it told and this node remembers; how many there are.
    pub(super) heard_sum: u64,
    pub(super) heard_count: usize,
    /// When its digest last fitted: all that it told is as good as told then.
    pub(super) confirmed_ms: u64,
    pub(super) told: BTreeMap<Prefix, Mark>,
    told_sum: u64,
    /// Prefixes to be told, or retracted, in the next messages.
    pub(super) dirty: BTreeSet<Prefix>,
    pub(super) requests: VecDeque<SeqnoRequest>,
    /// Whether it has to be told whom this node reaches.
    pub(super) reach_due: bool,
    /// When it is asked to tell everything again, while its digest does not fit.
    resync_at_ms: Option<u64>,
    /// Whether it was asked and did not answer yet.
    resync_asked: bool,
    /// How long after its next answer it is asked again, if that did not help.
    resync_wait_ms: u64,
    /// When it was last told everything because it asked.
    pub(super) resynced_ms: Option<u64>,
    next_send_ms: u64,
    next_period_ms: u64,
    /// How long after the next message without news another follows.
    quiet_wait_ms: u64,
    credit: u64,
    credit_ms: u64,
}

impl Link {
    pub(super) fn new(node: &NodeId, facts: LinkFacts, now_ms: u64) -> Self {
        Self {
            hash: PeerHash::of(node),
            epoch: facts.epoch,
            max_frame: facts.max_frame.clamp(FRAME_MIN, FRAME_MAX),
            relayed: facts.relayed,
            cost: LinkCost::new(facts.relayed),
            reach: None,
            reach_digest: Reach::default().digest(),
            heard_number: 0,
            heard_sum: 0,
            heard_count: 0,
            confirmed_ms: now_ms,
            told: BTreeMap::new(),
            told_sum: 0,
            dirty: BTreeSet::new(),
            requests: VecDeque::new(),
            reach_due: true,
            resync_at_ms: None,
            resync_asked: false,
            resync_wait_ms: RESYNC_FIRST_MS,
            resynced_ms: None,
            next_send_ms: now_ms,
            next_period_ms: now_ms,
            quiet_wait_ms: DIGEST_SOON_MS,
            credit: MESSAGES_BURST.saturating_mul(1000),
            credit_ms: now_ms,
        }
    }

    /// The link is like this now; its run stays. Says whether anything of it differs.
    pub(super) fn set_facts(&mut self, facts: LinkFacts) -> bool {
        // A neighbour refuses a route with a frame outside of these bounds.
        let max_frame = facts.max_frame.clamp(FRAME_MIN, FRAME_MAX);
        let differs = (self.max_frame, self.relayed) != (max_frame, facts.relayed);
        (self.max_frame, self.relayed) = (max_frame, facts.relayed);
        self.cost.set_relayed(facts.relayed) || differs
    }

    /// Whether one more message is read.
    pub(super) fn may_speak(&mut self, now_ms: u64) -> bool {
        let earned = now_ms.saturating_sub(self.credit_ms).saturating_mul(MESSAGES_A_SECOND);
        self.credit = self.credit.saturating_add(earned).min(MESSAGES_BURST.saturating_mul(1000));
        self.credit_ms = now_ms;
        let may = self.credit >= 1000;
        if may {
            self.credit = self.credit.saturating_sub(1000);
        }
        may
    }

    pub(super) fn set_reach(&mut self, reach: Reach) {
        self.reach_digest = reach.digest();
        self.reach = Some(reach);
    }

    /// Compares what the neighbour says it told with what is remembered of it. `answered` is whether this message said
    /// whom it reaches, as the answer to a resync does. Questions are repeated soon until they are answered, for they may be
    /// lost; answers that do not help make them rarer.
    pub(super) fn check_digest(&mut self, digest: u64, answered: bool, now_ms: u64) {
        if self.heard_sum.wrapping_add(self.reach_digest) == digest {
            (self.confirmed_ms, self.resync_at_ms, self.resync_wait_ms) = (now_ms, None, RESYNC_FIRST_MS);
            self.resync_asked = false;
        } else if answered && self.resync_asked {
            self.resync_asked = false;
            self.resync_at_ms = Some(now_ms.saturating_add(self.resync_wait_ms));
            self.resync_wait_ms = self.resync_wait_ms.saturating_mul(2).min(RESYNC_MAX_MS);
        } else if self.resync_at_ms.is_none() {
            self.resync_at_ms = Some(now_ms);
        }
    }

    /// Whether a message that goes out now asks for everything again.
    pub(super) fn asks_resync(&self, now_ms: u64) -> bool {
        self.resync_at_ms.is_some_and(|at| at <= now_ms)
    }

    /// Queues a request unless it waits already or the queue is full.
    pub(super) fn request(&mut self, request: SeqnoRequest) {
        if self.requests.len() < REQUESTS_WAITING_MAX && !self.requests.contains(&request) {
            self.requests.push_back(request);
        }
    }

    /// Whether a message is due.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        self.due_ms() <= now_ms
    }

    /// When the next message is due.
    pub(super) fn due_ms(&self) -> u64 {
        let waiting = !self.dirty.is_empty() || !self.requests.is_empty() || self.reach_due;
        let news_ms = if waiting { self.next_send_ms } else { u64::MAX };
        let resync_ms = self.resync_at_ms.map_or(u64::MAX, |at| at.max(self.next_send_ms));
        news_ms.min(resync_ms).min(self.next_period_ms)
    }

    /// A message goes out now. Behind one with news a digest follows soon, so that a loss is noticed soon; then ever less
    /// often.
    pub(super) fn sent(&mut self, news: bool, now_ms: u64) {
        let wait_ms = if news { DIGEST_SOON_MS } else { self.quiet_wait_ms };
        self.next_send_ms = now_ms.saturating_add(PACE_MS);
        self.next_period_ms = now_ms.saturating_add(wait_ms);
        self.quiet_wait_ms = wait_ms.saturating_mul(2).min(PERIOD_MS);
        self.reach_due = false;
        if self.asks_resync(now_ms) {
            self.resync_at_ms = Some(now_ms.saturating_add(RESYNC_FIRST_MS));
            self.resync_asked = true;
        }
    }

    /// Notes that `told` is being told of `prefix`.
    pub(super) fn tell(&mut self, prefix: Prefix, told: Told) {
        let digest = told_digest(&prefix, &told);
        self.untell(prefix);
        self.told_sum = self.told_sum.wrapping_add(digest);
        self.told.insert(prefix, Mark::Told(told, digest));
    }

    /// Notes that `prefix` is being retracted, if it was told; `true` if that has to be said.
    pub(super) fn retract(&mut self, prefix: Prefix, now_ms: u64) -> bool {
        match self.told.get(&prefix) {
            None => false,
            Some(Mark::Retracted(_)) => true,
            Some(Mark::Told(..)) => {
                self.untell(prefix);
                self.told.insert(prefix, Mark::Retracted(now_ms.saturating_add(HOLD_MS)));
                true
            }
        }
    }

    fn untell(&mut self, prefix: Prefix) {
        if let Some(Mark::Told(_, digest)) = self.told.remove(&prefix) {
            self.told_sum = self.told_sum.wrapping_sub(digest);
        }
    }

    /// What it was told last, unless that was retracted.
    pub(super) fn last_told(&self, prefix: &Prefix) -> Option<&Told> {
        match self.told.get(prefix)? {
            Mark::Told(told, _) => Some(told),
            Mark::Retracted(_) => None,
        }
    }

    /// What a message ends with: `own_reach` is the digest of whom this node reaches.
    pub(super) const fn digest(&self, own_reach: u64) -> u64 {
        self.told_sum.wrapping_add(own_reach)
    }

    /// Retractions that every neighbour has heard, or whose routes ran out, are forgotten.
    pub(super) fn forget_retracted(&mut self, now_ms: u64) {
        let dirty = &self.dirty;
        self.told.retain(|prefix, mark| match mark {
            Mark::Told(..) => true,
            Mark::Retracted(until_ms) => *until_ms > now_ms || dirty.contains(prefix),
        });
    }
}
