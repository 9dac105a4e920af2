//! The queue of a link: what a simulated link makes of voice under bulk flows, shares of classes, bounds, and no item lost
//! or out of order.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BinaryHeap};

use proptest::prelude::*;
use shoal_engine::mesh::qos::queue::{BYTES_MIN, ITEMS_MAX};
use shoal_engine::mesh::qos::{QUANTUM, Queue, QueueDrop, piece_bytes, split_at};
use shoal_protocol::mesh::class::Class;

/// Round trip of every bulk flow without queues, microseconds.
const RTT_US: u64 = 20_000;
/// What a carrier may hold below the queue, microseconds.
const CARRIER_US: u64 = 2_000;
/// A speech packet and how often one is sent.
const SPEECH: usize = 200;
const SPEECH_EVERY_US: u64 = 20_000;

/// A sender that does what CUBIC does (RFC 9438): slow start, a third less after a loss, then back along a cubic.
#[derive(Default)]
struct Sender {
    window: f64,
    in_flight: usize,
    slow_start_over: bool,
    highest: f64,
    lost_us: u64,
}

impl Sender {
    fn delivered(&mut self, bytes: usize, now_us: u64) {
        self.in_flight -= bytes;
        if !self.slow_start_over {
            self.window += bytes as f64;
            return;
        }
        let packets = |bytes: f64| bytes / QUANTUM as f64;
        let seconds = (now_us - self.lost_us) as f64 / 1e6;
        let recovery = (packets(self.highest) * 0.3 / 0.4).cbrt();
        let target = (0.4 * (seconds - recovery).powi(3) + packets(self.highest)) * QUANTUM as f64;
        // Never slower than a packet a round trip, and never above half as much again at once.
        let least = QUANTUM as f64 * bytes as f64 / self.window;
        let step = (target.min(1.5 * self.window) - self.window) * bytes as f64 / self.window;
        self.window += step.max(least);
    }

    fn congested(&mut self, now_us: u64) {
        if !self.slow_start_over || now_us > self.lost_us + RTT_US {
            self.highest = self.window;
            self.window = (self.window * 0.7).max(2.0 * QUANTUM as f64);
            self.lost_us = now_us;
            self.slow_start_over = true;
        }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Speech,
    Acknowledged(usize, usize, bool),
    Lost(usize, usize),
    LinkFree,
}

#[derive(Clone, Copy)]
struct Item {
    flow: usize,
    length: usize,
    sent_us: u64,
    marked: bool,
}

/// What a simulation found.
struct Found {
    worst_speech_us: u64,
    /// Of the link's bytes, in thousandths.
    goodput: u64,
    speech_lost: u64,
}

struct Simulation {
    rate: u64,
    queue: Queue<Item>,
    senders: Vec<Sender>,
    events: BinaryHeap<(std::cmp::Reverse<u64>, Event)>,
    marks: bool,
    speech_class: Class,
    /// Whether the link is already to be looked at again.
    waking: bool,
}

impl Simulation {
    fn at(&mut self, us: u64, event: Event) {
        self.events.push((std::cmp::Reverse(us), event));
    }

    fn push(&mut self, item: Item, class: Class, now_us: u64, speech_lost: &mut u64) {
        let lost = RefCell::new(vec![]);
        let hash = (item.flow as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.queue.push(item, (class, hash, item.length), now_us, |item, _| lost.borrow_mut().push(item));
        self.lose(lost.into_inner(), now_us, speech_lost);
    }

    fn lose(&mut self, items: Vec<Item>, now_us: u64, speech_lost: &mut u64) {
        for item in items {
            match item.flow < self.senders.len() {
                true => self.at(now_us + RTT_US, Event::Lost(item.flow, item.length)),
                false => *speech_lost += 1,
            }
        }
    }

    /// Senders send what their windows allow, in pieces that the link accepts.
    fn fill(&mut self, now_us: u64, speech_lost: &mut u64) {
        for flow in 0..self.senders.len() {
            loop {
                let sender = &mut self.senders[flow];
                let room = (sender.window as usize).saturating_sub(sender.in_flight);
                let length = (sender.window as usize / 8).clamp(QUANTUM, piece_bytes(self.rate)).min(65_535);
                if room < length {
                    break;
                }
                sender.in_flight += length;
                let item = Item { flow, length, sent_us: now_us, marked: false };
                self.push(item, Class::Bulk, now_us, speech_lost);
            }
        }
    }

    fn run(mut self, seconds: u64) -> Found {
        let mut found = Found { worst_speech_us: 0, goodput: 0, speech_lost: 0 };
        let (mut free_us, mut bulk) = (0u64, 0u64);
        self.at(0, Event::Speech);
        let warm_us = 2_000_000;
        while let Some((std::cmp::Reverse(now_us), event)) = self.events.pop() {
            if now_us > warm_us + seconds * 1_000_000 {
                break;
            }
            match event {
                Event::Speech => {
                    let item = Item { flow: usize::MAX - 1, length: SPEECH, sent_us: now_us, marked: false };
                    self.push(item, self.speech_class, now_us, &mut found.speech_lost);
                    self.at(now_us + SPEECH_EVERY_US, Event::Speech);
                }
                Event::Acknowledged(flow, bytes, marked) => {
                    self.senders[flow].delivered(bytes, now_us);
                    if marked {
                        self.senders[flow].congested(now_us);
                    }
                }
                Event::Lost(flow, bytes) => {
                    self.senders[flow].in_flight -= bytes;
                    self.senders[flow].congested(now_us);
                }
                Event::LinkFree => self.waking = false,
            }
            self.fill(now_us, &mut found.speech_lost);
            // The carrier takes more while it holds less than it may.
            while free_us < now_us + CARRIER_US {
                let (lost, marks) = (RefCell::new(vec![]), self.marks);
                let mark = |item: &mut Item| {
                    item.marked = marks;
                    marks
                };
                let taken = self.queue.pop(now_us, mark, |item, _| lost.borrow_mut().push(item));
                self.lose(lost.into_inner(), now_us, &mut found.speech_lost);
                let Some(taken) = taken else { break };
                let item = taken.item;
                free_us = free_us.max(now_us) + taken.length as u64 * 1_000_000 / self.rate;
                if item.flow < self.senders.len() {
                    self.at(free_us + RTT_US, Event::Acknowledged(item.flow, item.length, item.marked));
                    bulk += if now_us >= warm_us { taken.length as u64 } else { 0 };
                } else {
                    let own_us = taken.length as u64 * 1_000_000 / self.rate;
                    found.worst_speech_us = found.worst_speech_us.max(free_us - item.sent_us - own_us);
                }
            }
            if !self.queue.is_empty() && !self.waking {
                self.waking = true;
                self.at(free_us.saturating_sub(CARRIER_US - 1).max(now_us + 1), Event::LinkFree);
            }
        }
        found.goodput = bulk * 1000 / (self.rate * seconds);
        found
    }
}

fn simulate(megabits: u64, marks: bool, speech_class: Class) -> Found {
    let rate = megabits * 125_000;
    let sender = || Sender { window: 10.0 * QUANTUM as f64, ..Sender::default() };
    let senders = (0..4).map(|_| sender()).collect();
    let queue = Queue::new(rate);
    Simulation { rate, queue, senders, events: BinaryHeap::new(), marks, speech_class, waking: false }.run(10)
}

#[test]
fn voice_is_not_held_up_by_four_bulk_flows_and_they_fill_the_link() {
    for (megabits, most_us) in [(5, 15_000), (50, 8_000), (500, 5_000)] {
        for marks in [false, true] {
            // As voice, and as a quiet flow that nothing is known of.
            for class in [Class::Voice, Class::Bulk] {
                let found = simulate(megabits, marks, class);
                println!(
                    "{megabits} Mb/s, marks {marks}, {class:?}: worst {} us, goodput {} permille",
                    found.worst_speech_us, found.goodput
                );
                assert!(found.worst_speech_us <= most_us, "{megabits} {marks} {class:?}: {} us", found.worst_speech_us);
                assert!(found.goodput >= 900, "{megabits} {marks} {class:?}: {} permille", found.goodput);
                assert_eq!(found.speech_lost, 0, "{megabits} {marks} {class:?}");
            }
        }
    }
}

/// Bytes of each class in the first `bytes` that leave a queue that never lacks any.
fn shares(lengths: [Option<usize>; 4], bytes: usize) -> [usize; 4] {
    let mut queue = Queue::new(125_000_000);
    let mut sent = [0; 4];
    let mut waiting = [0; 4];
    while sent.iter().sum::<usize>() < bytes {
        for (at, class) in Class::ALL.into_iter().enumerate() {
            let Some(length) = lengths[at] else { continue };
            while waiting[at] < 8 {
                queue.push(class, (class, 1, length), 0, |_, _| panic!("dropped"));
                waiting[at] += 1;
            }
        }
        let taken = queue.pop(0, |_| false, |_, _| panic!("dropped")).unwrap();
        assert_eq!(taken.item, taken.class);
        sent[usize::from(taken.class.number())] += taken.length;
        waiting[usize::from(taken.class.number())] -= 1;
    }
    sent
}

#[test]
fn no_class_starves_another_whatever_its_packets_are() {
    let total = 20_000_000;
    for lengths in [[1514; 4], [200, 1514, 64_000, 9000], [64_000, 200, 200, 1514]] {
        let sent = shares(lengths.map(Some), total);
        for (bytes, share) in sent.into_iter().zip([4, 4, 6, 2]) {
            let fair = total * share / 16;
            assert!(bytes.abs_diff(fair) < total / 100, "{sent:?} of {lengths:?}");
        }
    }
    let alone = shares([None, None, Some(1514), None], 1_000_000);
    assert!(alone[2] >= 1_000_000, "nobody waits for a class that has nothing: {alone:?}");
    let two = shares([Some(1514), None, Some(64_000), None], total);
    assert!(two[0].abs_diff(total * 4 / 10) < total / 100, "{two:?}");
}

#[test]
fn the_most_urgent_goes_first_and_a_quiet_flow_before_a_busy_one() {
    let mut queue = Queue::new(1_250_000);
    for n in 0..20 {
        queue.push((Class::Background, n), (Class::Background, 1, 1000), 0, |_, _| {});
        queue.push((Class::Bulk, n), (Class::Bulk, 1, 1000), 0, |_, _| {});
    }
    let pop = |queue: &mut Queue<(Class, i32)>| queue.pop(0, |_| false, |_, _| {}).unwrap().item;
    assert_eq!(
        [pop(&mut queue), pop(&mut queue), pop(&mut queue)],
        [(Class::Bulk, 0), (Class::Bulk, 1), (Class::Bulk, 2)]
    );
    queue.push((Class::Bulk, 100), (Class::Bulk, 2, 1000), 0, |_, _| {});
    queue.push((Class::Voice, 200), (Class::Voice, 3, 1000), 0, |_, _| {});
    assert_eq!((pop(&mut queue), pop(&mut queue)), ((Class::Voice, 200), (Class::Bulk, 100)));
}

#[test]
fn the_fattest_flow_pays_for_a_full_queue() {
    let mut queue = Queue::new(0);
    let mut dropped = BTreeMap::new();
    for n in 0..10_000u32 {
        queue.push(7u64, (Class::Bulk, 7, 1000), 0, |flow, reason| *dropped.entry((flow, reason)).or_insert(0) += 1);
        if n % 100 == 0 {
            queue.push(9, (Class::Voice, 9, 100), 0, |flow, reason| *dropped.entry((flow, reason)).or_insert(0) += 1);
        }
        assert!(queue.bytes() <= BYTES_MIN && queue.len() <= ITEMS_MAX);
    }
    assert!(dropped.keys().all(|key| *key == (7, QueueDrop::Full)), "{dropped:?}");
    assert_eq!(dropped.values().sum::<usize>() + queue.len(), 10_100);
    let mut oversize = None;
    queue.push(1, (Class::Voice, 1, BYTES_MIN + 1), 0, |item, reason| oversize = Some((item, reason)));
    assert_eq!(oversize, Some((1, QueueDrop::Oversize)));
}

#[test]
fn long_packets_are_split_for_slow_links_only() {
    assert_eq!(split_at(65_535, 625_000), Some(QUANTUM));
    assert_eq!(split_at(65_535, 6_250_000), Some(6250));
    assert_eq!(split_at(65_535, 62_500_000), Some(62_500));
    assert_eq!((split_at(65_535, 125_000_000), split_at(1400, 1)), (None, None));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn nothing_is_lost_or_overtakes_its_flow(
        steps in proptest::collection::vec((0u8..4, 0u64..6, 1usize..70_000, 0usize..5, 0u64..30_000), 1..300), marks: bool, rate in 0u64..200_000_000,
    ) {
        let mut queue = Queue::new(rate);
        let seen: RefCell<Vec<usize>> = RefCell::default();
        let mut now_us = 0;
        let mut last = BTreeMap::new();
        let (mut bytes, mut expected) = (BTreeMap::new(), 0);
        for (number, (class, flow, length, pops, pause_us)) in steps.iter().copied().enumerate() {
            let class = Class::from_number(class).unwrap();
            bytes.insert(number, length);
            queue.push((number, class, flow), (class, flow, length), now_us, |item, _| seen.borrow_mut().push(item.0));
            for _ in 0..pops {
                if let Some(taken) = queue.pop(now_us, |_| marks, |item, _| seen.borrow_mut().push(item.0)) {
                    let (number, class, flow) = taken.item;
                    prop_assert_eq!((bytes[&number], class), (taken.length, taken.class));
                    prop_assert!(last.insert((class, flow), number).is_none_or(|before| before < number));
                    seen.borrow_mut().push(number);
                }
            }
            expected += 1;
            prop_assert_eq!(seen.borrow().len() + queue.len(), expected);
            let gone: usize = seen.borrow().iter().map(|number| bytes[number]).sum();
            let waiting = bytes.values().sum::<usize>() - gone;
            prop_assert_eq!(queue.bytes(), waiting);
            now_us += pause_us;
        }
        while let Some(taken) = queue.pop(now_us, |_| true, |_, _| {}) {
            seen.borrow_mut().push(taken.item.0);
        }
        let mut all = seen.into_inner();
        all.sort_unstable();
        prop_assert_eq!(all, (0..steps.len()).collect::<Vec<_>>());
        prop_assert_eq!((queue.len(), queue.bytes()), (0, 0));
    }
}
