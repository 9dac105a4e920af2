//! The queue of one link: four classes, flows inside them, CoDel on every flow. Items are the caller's, by value; all
//! memory is taken when the queue is made. It sends nothing and knows no clock.
//!
//! - Between classes: deficit round robin by bytes. In every round a class may send its share; the most urgent one with
//!   something left of its share goes first, so a voice packet waits for the packet under way and no more, and a class
//!   that sends too much waits for the round like all others.
//! - Inside a class: DRR++ of RFC 8290 4.2. A flow that was quiet is served once before those that have a backlog.
//! - In a flow: CoDel, which marks what can be marked and drops the rest.
//! - When it is full: the flow with the longest backlog loses half of it (RFC 8290 4.1.3).

use shoal_protocol::mesh::class::Class;

use super::QUANTUM;
use super::codel::{Codel, Settings};

/// Flow queues of a class: with 30 flows the chance that one shares a queue is 11 %.
const FLOWS: usize = 256;
/// Items of a queue: 5.7 ms of full packets at 10 Gb/s, where packets are 40 times as large.
pub const ITEMS_MAX: usize = 4096;
/// Least bytes a queue takes, four of the largest packets: less would drop bursts before CoDel has seen them.
pub const BYTES_MIN: usize = 256 * 1024;
/// Most bytes a queue takes.
pub const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Time of its link's rate a queue takes, milliseconds: two intervals of CoDel, which empties it long before.
const BYTES_MS: u64 = 200;
/// Items dropped at once from the longest flow, which pays for looking for it (RFC 8290 5.2.7).
const DROP_BATCH: usize = 64;
/// What a class may send in a round, in quanta, by class number: a quarter, a quarter, three eighths, an eighth.
const SHARES: [i64; 4] = [4, 4, 6, 2];
/// No index.
const NONE: u32 = u32::MAX;

/// Why an item left without being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum QueueDrop {
    /// CoDel: its flow's queue stands for too long.
    #[error("queue-delay")]
    Delay,
    /// The queue was full and its flow had the most.
    #[error("queue-full")]
    Full,
    /// Larger than a whole queue.
    #[error("queue-oversize")]
    Oversize,
}

/// An item whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken<T> {
    /// The item.
    pub item: T,
    /// Its bytes.
    pub length: usize,
    /// Its class.
    pub class: Class,
    /// How long it waited, microseconds.
    pub waited_us: u64,
}

#[derive(Debug)]
struct Slot<T> {
    item: Option<T>,
    length: usize,
    queued_us: u64,
    next: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Idle,
    Listed,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    head: u32,
    tail: u32,
    next: u32,
    standing: Standing,
    items: usize,
    bytes: usize,
    deficit: i64,
    codel: Codel,
}

/// Flows in the order of their turns.
#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

#[derive(Clone, Copy, Debug)]
struct Tin {
    new: List,
    old: List,
    items: usize,
    credit: i64,
}

/// All that waits for one link.
#[derive(Debug)]
pub struct Queue<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    flows: Vec<Flow>,
    tins: [Tin; 4],
    settings: Settings,
    bytes: usize,
    bytes_max: usize,
}

impl<T> Queue<T> {
    /// An empty queue for a link of this rate, with all its memory: [`ITEMS_MAX`] slots.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        let slot = |at: usize| {
            let next = if at + 1 < ITEMS_MAX { u32::try_from(at + 1).unwrap_or(NONE) } else { NONE };
            Slot { item: None, length: 0, queued_us: 0, next }
        };
        let flow = Flow {
            head: NONE,
            tail: NONE,
            next: NONE,
            standing: Standing::Idle,
            items: 0,
            bytes: 0,
            deficit: 0,
            codel: Codel::default(),
        };
        let list = List { head: NONE, tail: NONE };
        let mut queue = Self {
            slots: (0..ITEMS_MAX).map(slot).collect(),
            free: 0,
            flows: vec![flow; FLOWS * Class::ALL.len()],
            tins: [Tin { new: list, old: list, items: 0, credit: 0 }; 4],
            settings: Settings::for_rate(bytes_per_second),
            bytes: 0,
            bytes_max: 0,
        };
        queue.set_rate(bytes_per_second);
        queue
    }

    /// The link is faster or slower than it was thought to be.
    pub fn set_rate(&mut self, bytes_per_second: u64) {
        self.settings = Settings::for_rate(bytes_per_second);
        let wanted = bytes_per_second.saturating_mul(BYTES_MS) / 1000;
        self.bytes_max = usize::try_from(wanted).unwrap_or(BYTES_MAX).clamp(BYTES_MIN, BYTES_MAX);
    }

    /// It takes so many bytes at most, until another rate is set.
    pub const fn set_most(&mut self, bytes: usize) {
        self.bytes_max = bytes;
    }

    /// Items that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tins.iter().map(|tin| tin.items).sum()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that wait.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues an item of `length` bytes behind its flow. What has to go for it is given to `dropped`, which may be the item
    /// itself.
    pub fn push(
        &mut self,
        item: T,
        (class, flow_hash, length): (Class, u64, usize),
        now_us: u64,
        mut dropped: impl FnMut(T, QueueDrop),
    ) {
        if length > self.bytes_max {
            return dropped(item, QueueDrop::Oversize);
        }
        while self.free == NONE || self.bytes.saturating_add(length) > self.bytes_max {
            if !self.shorten_longest(&mut dropped) {
                return dropped(item, QueueDrop::Full);
            }
        }
        let slot = self.free;
        let place = &mut self.slots[slot as usize];
        self.free = place.next;
        *place = Slot { item: Some(item), length, queued_us: now_us, next: NONE };
        let tin = usize::from(class.number());
        let at = tin * FLOWS + (flow_hash % FLOWS as u64) as usize;
        let flow = &mut self.flows[at];
        match flow.tail {
            NONE => flow.head = slot,
            tail => self.slots[tail as usize].next = slot,
        }
        flow.tail = slot;
        flow.items += 1;
        flow.bytes += length;
        self.bytes += length;
        self.tins[tin].items += 1;
        if flow.standing == Standing::Idle {
            flow.standing = Standing::Listed;
            flow.deficit = QUANTUM as i64;
            append(&mut self.tins[tin].new, &mut self.flows, at as u32);
        }
    }

    /// The item whose turn it is. `mark` is asked to mark one that met congestion and says whether it could; what it could
    /// not mark is given to `dropped`.
    pub fn pop(
        &mut self,
        now_us: u64,
        mut mark: impl FnMut(&mut T) -> bool,
        mut dropped: impl FnMut(T, QueueDrop),
    ) -> Option<Taken<T>> {
        loop {
            let class = self.pick()?;
            let tin = usize::from(class.number());
            if let Some((item, length, queued_us)) = self.pop_tin(tin, now_us, &mut mark, &mut dropped) {
                self.tins[tin].credit -= length as i64;
                return Some(Taken { item, length, class, waited_us: now_us.saturating_sub(queued_us) });
            }
        }
    }

    /// The most urgent class that has something to send and something left of its share. If none has, a new round begins,
    /// or as many as the first of them needs to come out of its debt.
    fn pick(&mut self) -> Option<Class> {
        let ready = |tin: &Tin| tin.items > 0 && tin.credit > 0;
        if !self.tins.iter().any(ready) {
            let share = |(tin, share): (&Tin, i64)| {
                (tin.items > 0).then(|| (share * QUANTUM as i64 - tin.credit) / (share * QUANTUM as i64))
            };
            let rounds = self.tins.iter().zip(SHARES).filter_map(share).min()?;
            for (tin, share) in self.tins.iter_mut().zip(SHARES) {
                let most = share * QUANTUM as i64;
                tin.credit = (tin.credit + rounds * most).min(most);
            }
        }
        Class::ALL.into_iter().zip(&self.tins).find(|(_, tin)| ready(tin)).map(|(class, _)| class)
    }

    /// The next item of a class (RFC 8290 4.2); none once it is empty.
    fn pop_tin(
        &mut self,
        tin: usize,
        now_us: u64,
        mark: &mut impl FnMut(&mut T) -> bool,
        dropped: &mut impl FnMut(T, QueueDrop),
    ) -> Option<(T, usize, u64)> {
        loop {
            let lists = &mut self.tins[tin];
            let is_new = lists.new.head != NONE;
            let at = if is_new { lists.new.head } else { lists.old.head };
            if at == NONE {
                return None;
            }
            let flow = &mut self.flows[at as usize];
            let spent = flow.deficit <= 0;
            if spent {
                flow.deficit += QUANTUM as i64;
            } else if let Some(found) = self.pop_flow(at as usize, now_us, mark, dropped) {
                self.flows[at as usize].deficit -= found.1 as i64;
                return Some(found);
            }
            let lists = &mut self.tins[tin];
            remove_first(if is_new { &mut lists.new } else { &mut lists.old }, &self.flows);
            // A new flow that is empty stays for a turn, or it could be new again at once (RFC 8290 4.2).
            if spent || (is_new && lists.old.head != NONE) {
                append(&mut lists.old, &mut self.flows, at);
            } else {
                self.flows[at as usize].standing = Standing::Idle;
            }
        }
    }

    /// The next item of a flow that CoDel lets go.
    fn pop_flow(
        &mut self,
        at: usize,
        now_us: u64,
        mark: &mut impl FnMut(&mut T) -> bool,
        dropped: &mut impl FnMut(T, QueueDrop),
    ) -> Option<(T, usize, u64)> {
        while let Some((mut item, length, queued_us)) = self.unlink(at) {
            let flow = &mut self.flows[at];
            let waited_us = now_us.saturating_sub(queued_us);
            if !flow.codel.is_told(waited_us, flow.bytes, now_us, self.settings) || mark(&mut item) {
                return Some((item, length, queued_us));
            }
            dropped(item, QueueDrop::Delay);
        }
        self.flows[at].codel.emptied();
        None
    }

    /// Takes the first item of a flow out of its slot.
    fn unlink(&mut self, at: usize) -> Option<(T, usize, u64)> {
        let flow = &mut self.flows[at];
        let slot = flow.head;
        let place = self.slots.get_mut(slot as usize)?;
        let item = place.item.take()?;
        flow.head = place.next;
        if flow.head == NONE {
            flow.tail = NONE;
        }
        place.next = self.free;
        self.free = slot;
        let (length, queued_us) = (place.length, place.queued_us);
        flow.items -= 1;
        flow.bytes -= length;
        self.bytes -= length;
        self.tins[at / FLOWS].items -= 1;
        Some((item, length, queued_us))
    }

    /// Drops half of the longest backlog, at most [`DROP_BATCH`] items, oldest first. False if nothing waits.
    fn shorten_longest(&mut self, dropped: &mut impl FnMut(T, QueueDrop)) -> bool {
        let longest = self.flows.iter().enumerate().max_by_key(|(_, flow)| flow.bytes);
        let Some((at, flow)) = longest.filter(|(_, flow)| flow.items > 0) else { return false };
        for _ in 0..flow.items.div_ceil(2).min(DROP_BATCH) {
            if let Some((item, ..)) = self.unlink(at) {
                dropped(item, QueueDrop::Full);
            }
        }
        true
    }
}

fn append(list: &mut List, flows: &mut [Flow], at: u32) {
    flows[at as usize].next = NONE;
    match list.tail {
        NONE => list.head = at,
        tail => flows[tail as usize].next = at,
    }
    list.tail = at;
}

fn remove_first(list: &mut List, flows: &[Flow]) {
    list.head = flows[list.head as usize].next;
    if list.head == NONE {
        list.tail = NONE;
    }
}
