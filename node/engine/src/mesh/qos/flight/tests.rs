//! A lane over a simulated narrow place: how much of it the window lets it use, and how long a queue that leaves.

use std::collections::VecDeque;

use super::*;

/// As the receiver of a lane tells: at once after a pause, for many bytes, else with the pause.
const CREDIT_US: u64 = 1_000;
const CREDIT_BYTES: u64 = 128 * 1024;
/// What waits below a lane before it takes no more.
const BELOW: u64 = 128 * 1024;

/// A stream with a window of its own as TCP has one: it doubles until something is lost and
/// adds a packet a round trip then, and halves where something is lost.
struct Stream {
    window: f64,
    under_way: u64,
    /// Bytes that wait to be sent; what has no end has always some.
    waiting: u64,
    halved_us: u64,
}

impl Stream {
    fn new() -> Self {
        Self { window: 10.0 * QUANTUM as f64, under_way: 0, waiting: 0, halved_us: 0 }
    }
}

/// The narrow place with a lane and flows of others, which fill what it holds.
struct Path {
    rate: u64,
    base_us: u64,
    /// Bytes that it holds before it drops.
    holds: u64,
    step_us: u64,
    now_us: u64,
    flight: Flight,
    /// The lane's stream, then those of others.
    streams: Vec<Stream>,
    queue: VecDeque<(usize, u64)>,
    queued: u64,
    /// Parts of a byte that the link could not send yet, millionths.
    rest: u64,
    came: VecDeque<(u64, usize, u64)>,
    received: u64,
    told: (u64, u64),
    credits: VecDeque<(u64, u64)>,
    /// Of the queue, a step: the sum and the number, and what the lane received.
    waited: (u64, u64),
}

impl Path {
    fn new(megabits: u64, base_us: u64, others: usize) -> Self {
        let rate = megabits * 125_000;
        Self {
            rate,
            base_us,
            holds: rate / 10,
            step_us: if megabits > 100 { 50 } else { 200 },
            now_us: 0,
            flight: Flight::default(),
            streams: (0..=others).map(|_| Stream::new()).collect(),
            queue: VecDeque::new(),
            queued: 0,
            rest: 0,
            came: VecDeque::new(),
            received: 0,
            told: (0, 0),
            credits: VecDeque::new(),
            waited: (0, 0),
        }
    }

    /// Frames are cut to a millisecond of the rate, as where packets wait for their turn.
    fn frame(&self) -> u64 {
        let rate = self.flight.rate(self.now_us).unwrap_or(125_000_000);
        (super::super::piece_bytes(rate) as u64).min(65_000)
    }

    fn step(&mut self) {
        self.now_us += self.step_us;
        let (now_us, frame) = (self.now_us, self.frame());
        while self.flight.has_room() && self.streams[0].waiting < BELOW {
            self.flight.sent(frame, now_us);
            self.streams[0].waiting += frame;
        }
        self.flight.missed();
        for at in 0..self.streams.len() {
            self.send(at);
        }
        self.rest += self.rate * self.step_us;
        while let Some((owner, bytes)) = self.queue.front().copied()
            && bytes * 1_000_000 <= self.rest
        {
            self.rest -= bytes * 1_000_000;
            self.queue.pop_front();
            self.queued -= bytes;
            self.came.push_back((now_us + self.base_us / 2, owner, bytes));
        }
        if self.queue.is_empty() {
            self.rest = 0;
        }
        self.waited.0 += self.queued * 1_000_000 / self.rate;
        self.waited.1 += 1;
        while let Some((_, owner, bytes)) = self.came.pop_front_if(|(due_us, ..)| *due_us <= now_us) {
            let stream = &mut self.streams[owner];
            // The way back of its acknowledgement is not waited for: the window is as much larger.
            stream.under_way -= bytes;
            let doubles = stream.halved_us == 0;
            stream.window += if doubles { bytes as f64 } else { QUANTUM as f64 * bytes as f64 / stream.window };
            if owner == 0 {
                self.received += bytes;
            }
        }
        let owed = self.received - self.told.0;
        if owed >= CREDIT_BYTES || (owed > 0 && now_us >= self.told.1 + CREDIT_US) {
            self.told = (self.received, now_us);
            self.credits.push_back((now_us + self.base_us / 2, self.received));
        }
        while let Some((_, received)) = self.credits.pop_front_if(|(due_us, _)| *due_us <= now_us) {
            self.flight.credit(received, now_us).unwrap();
        }
    }

    fn send(&mut self, at: usize) {
        let stream = &mut self.streams[at];
        if at > 0 {
            stream.waiting = 1 << 20;
        }
        while stream.waiting > 0 && (stream.under_way as f64) < stream.window {
            if self.queued >= self.holds {
                if self.now_us > stream.halved_us + self.base_us + self.holds * 1_000_000 / self.rate {
                    stream.window = (stream.window / 2.0).max(2.0 * QUANTUM as f64);
                    stream.halved_us = self.now_us;
                }
                return;
            }
            let bytes = stream.waiting.min(QUANTUM as u64);
            stream.waiting -= bytes;
            stream.under_way += bytes;
            self.queued += bytes;
            self.queue.push_back((at, bytes));
        }
    }

    /// So long: what part of the link the lane had, and how long the queue was on average, microseconds.
    fn run(&mut self, ms: u64) -> (f64, u64) {
        let (received, begun_us) = (self.received, self.now_us);
        self.waited = (0, 0);
        while self.now_us < begun_us + ms * 1000 {
            self.step();
        }
        let could = self.rate as f64 * (self.now_us - begun_us) as f64 / 1e6;
        ((self.received - received) as f64 / could, self.waited.0 / self.waited.1)
    }
}

#[test]
fn alone_it_fills_the_link_and_leaves_a_short_queue() {
    for megabits in [5, 50, 500, 5000] {
        for base_us in [200, 2_000, 10_000, 50_000] {
            let mut path = Path::new(megabits, base_us, 0);
            path.run(4_000);
            let (share, queue_us) = path.run(8_000);
            let three_us = 3 * QUANTUM as u64 * 1_000_000 / path.rate;
            let most_us = QUEUE_US.max(three_us) * 3 / 2 + 1_000;
            assert!(share > 0.9, "{share:.2} of {megabits} Mb/s at {base_us} us");
            assert!(queue_us < most_us, "{queue_us} us wait at {megabits} Mb/s and {base_us} us");
            let rate = path.flight.rate(path.now_us).unwrap();
            assert!(rate.abs_diff(path.rate) < path.rate / 7, "{rate} bytes a second at {megabits} Mb/s, {base_us} us");
        }
    }
}

#[test]
fn it_starts_fast_and_follows_the_rate() {
    let mut path = Path::new(5000, 200, 0);
    path.run(20);
    let (share, _) = path.run(50);
    assert!(share > 0.8, "{share:.2} after 20 ms");
    let mut path = Path::new(5, 10_000, 0);
    path.run(3_000);
    path.rate *= 10;
    path.run(1_500);
    let (share, _) = path.run(2_000);
    assert!(share > 0.85, "{share:.2} of a link that became ten times as fast");
    path.rate /= 10;
    path.run(3_000);
    let (share, queue_us) = path.run(2_000);
    assert!(share > 0.85 && queue_us < 15_000, "{share:.2} and {queue_us} us of one that became slow again");
}

#[test]
fn beside_flows_that_fill_the_queue_it_does_not_starve() {
    for (megabits, base_us) in [(5, 10_000), (50, 2_000), (50, 50_000), (500, 10_000)] {
        for others in [1, 3] {
            let mut path = Path::new(megabits, base_us, others);
            path.run(10_000);
            let (share, _) = path.run(60_000);
            let fair = 1.0 / (others + 1) as f64;
            assert!(share > fair / 4.0, "{share:.3} of {megabits} Mb/s beside {others} at {base_us} us");
        }
    }
}

#[test]
fn a_way_that_became_longer_is_learnt_and_a_shorter_one_at_once() {
    let mut path = Path::new(50, 5_000, 0);
    path.run(3_000);
    path.base_us = 40_000;
    path.run(8_000);
    let (share, queue_us) = path.run(5_000);
    assert!(share > 0.85 && queue_us < 6_000, "{share:.2} and {queue_us} us on the longer way");
    path.base_us = 5_000;
    // What is still on the longer way comes first.
    path.run(3_000);
    let (share, queue_us) = path.run(5_000);
    assert!(share > 0.85 && queue_us < 6_000, "{share:.2} and {queue_us} us on the shorter way");
}

#[test]
fn who_has_little_to_send_is_never_held_up() {
    let mut flight = Flight::default();
    for n in 0..10_000u64 {
        assert!(flight.has_room());
        flight.sent(202, n * 20_000);
        flight.credit((n + 1) * 202, n * 20_000 + 30_000 * (n % 2)).unwrap();
    }
    assert_eq!((flight.rate(200_000_000), flight.in_flight()), (None, 0));
}

#[test]
fn credits_that_cannot_be_are_refused_and_late_ones_hold_without_end() {
    let mut flight = Flight::default();
    flight.sent(1_000, 0);
    assert_eq!(flight.credit(1_001, 1), Err(CreditError::More { received: 1_001, sent: 1_000 }));
    flight.credit(600, 1).unwrap();
    assert_eq!(flight.credit(599, 2), Err(CreditError::Less { received: 599, before: 600 }));
    while flight.has_room() {
        flight.sent(1_000, 3);
    }
    assert!(flight.in_flight() < WINDOW_FIRST + 1_000);
    let sent = flight.in_flight() + 600;
    flight.missed();
    flight.credit(sent, 60_000_000).unwrap();
    assert!(flight.has_room() && flight.in_flight() == 0, "a minute later");
}

#[test]
fn times_of_frames_are_bounded() {
    let mut flight = Flight::default();
    for n in 0..100_000 {
        flight.sent(1, n);
    }
    assert!(flight.points.len() <= POINTS_MAX);
    flight.credit(100_000, 200_000).unwrap();
    assert!(flight.points.is_empty());
}
