//! What the packets of connections tell of losses, and hints to the stack that it sends again what was lost. The stack
//! counts answers said again only while no data comes between them, begins to count anew for each loss within one window,
//! and looks by itself after a second at least, twice as long each time and without forgetting that when it goes on. A
//! hint is an answer the other side gave, said as often as the stack needs to hear it. Nothing here is sent to others, and
//! nothing is confirmed that the other side did not.

use std::collections::{HashMap, VecDeque};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{IpAddress, IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use super::port::Ends;
use super::segment::Segment;

/// Answers said again after which a segment counts as lost (RFC 5681 3.2).
const DUPLICATES: u8 = 3;
/// How long a first answer may take while no time was measured (RFC 6298 2.1).
const FIRST: Duration = Duration::from_secs(1);
/// How long an answer may take at least: as kernels have it, and longer than any of them waits before it answers.
const LEAST: Duration = Duration::from_millis(200);
/// How long it may take at most before the first hint.
const MOST: Duration = Duration::from_secs(10);
/// Hints because of time alone while nothing goes on, each after twice as long: 13 seconds or more. After that the stack is
/// left to its own clock, so that a connection without the other side ends when it is to end.
const TRIES_MAX: u32 = 6;

/// Connections that are watched, and hints the stack has not taken yet: at most [`Watch::HINT`] for each packet that came
/// in and each connection.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// None until this side said its beginning.
    watches: HashMap<Ends, Option<Watch>>,
    hints: VecDeque<Vec<u8>>,
}

impl Losses {
    /// A connection begins.
    pub(super) fn begin(&mut self, ends: Ends) {
        self.watches.insert(ends, None);
    }

    /// A connection is over.
    pub(super) fn end(&mut self, ends: &Ends) {
        self.watches.remove(ends);
    }

    /// A packet of the stack leaves.
    pub(super) fn leaves(&mut self, packet: &[u8], now: Instant) {
        let Some(segment) = Segment::of(packet) else { return };
        let Some(watch) = self.watches.get_mut(&segment.of_sender()) else { return };
        match watch {
            _ if segment.control == TcpControl::Syn => *watch = Some(Watch::new(&segment, now)),
            // Ends are said when nothing before them is under way, and said again by others.
            Some(_) if matches!(segment.control, TcpControl::Fin | TcpControl::Rst) => *watch = None,
            Some(watch) => watch.leaves(&segment, now),
            None => {}
        }
    }

    /// A packet comes in. Says what the stack is to see in its place, if it would not see it as what it is.
    pub(super) fn comes(&mut self, packet: &[u8], now: Instant) -> Option<Vec<u8>> {
        let segment = Segment::of(packet)?;
        let ends = segment.of_receiver();
        let watch = self.watches.get_mut(&ends)?.as_mut()?;
        if watch.comes(&segment, now) {
            self.hints.extend(watch.hint(&ends));
        }
        watch.is_at_edge(&segment).then(|| watch.answer(&ends, segment.window))
    }

    /// Whether there are hints for the stack.
    pub(super) fn has_hints(&self) -> bool {
        !self.hints.is_empty()
    }

    /// The next hint for the stack.
    pub(super) fn hint(&mut self) -> Option<Vec<u8>> {
        self.hints.pop_front()
    }

    /// Makes hints for the connections that have waited for an answer for too long. Says when it is to be asked again.
    pub(super) fn look(&mut self, now: Instant) -> Option<Instant> {
        for (ends, watch) in &mut self.watches {
            if let Some(watch) = watch
                && watch.due().is_some_and(|due| due <= now)
            {
                watch.is_late(now);
                self.hints.extend(watch.hint(ends));
            }
        }
        self.watches.values().flatten().filter_map(Watch::due).min()
    }
}

/// What one connection's packets told.
#[derive(Debug)]
struct Watch {
    /// Where the data ends that this side sent.
    sent: TcpSeqNumber,
    /// Up to where the other side has it.
    confirmed: TcpSeqNumber,
    /// The window as the other side said it last.
    window: u16,
    /// Where the data ends that the other side sent, as far as this side has room for it.
    theirs: TcpSeqNumber,
    /// Up to where this side has it, as it said last, and its window.
    own: (TcpSeqNumber, u16),
    /// Answers said again since the last new one.
    duplicates: u8,
    /// A loss was seen when data was sent up to here: answers before it show another (RFC 6582).
    recover: Option<TcpSeqNumber>,
    /// When it went on, or was hinted at, last.
    since: Instant,
    /// Hints because of time alone since it went on.
    tries: u32,
    /// When data was sent that ends there, and nothing was sent again since.
    asked: Option<(Instant, TcpSeqNumber)>,
    /// How long answers take, and how far that varies (RFC 6298).
    round_trip: Option<(Duration, Duration)>,
}

impl Watch {
    /// Answers that make the stack send again: one with another window and one with the right one, which have it count from
    /// nothing whatever it counted before, and as many as it counts.
    const HINT: usize = 2 + DUPLICATES as usize;

    /// With the beginning that this side said.
    fn new(beginning: &Segment, now: Instant) -> Self {
        let sent = beginning.sequence + 1;
        Self {
            sent,
            confirmed: sent,
            window: 0,
            theirs: beginning.acknowledged,
            own: (beginning.acknowledged, beginning.window),
            duplicates: 0,
            recover: None,
            since: now,
            tries: 0,
            asked: None,
            round_trip: None,
        }
    }

    fn is_waiting(&self) -> bool {
        self.confirmed < self.sent && self.window > 0
    }

    fn leaves(&mut self, segment: &Segment, now: Instant) {
        self.own = (segment.acknowledged, segment.window);
        let end = segment.end();
        if segment.length == 0 || end <= self.sent {
            return;
        }
        if self.confirmed == self.sent {
            (self.since, self.tries) = (now, 0);
        }
        self.sent = end;
        self.asked.get_or_insert((now, end));
    }

    /// Whether a hint is to be given.
    fn comes(&mut self, segment: &Segment, now: Instant) -> bool {
        if segment.control == TcpControl::Syn {
            self.theirs = segment.end();
            self.own.0 = self.theirs;
        } else if self.theirs < segment.end() && segment.end() <= self.edge() {
            self.theirs = segment.end();
        }
        let answer = segment.acknowledged;
        if segment.control == TcpControl::Rst || answer < self.confirmed || answer > self.sent {
            return false;
        }
        let same_window = std::mem::replace(&mut self.window, segment.window) == segment.window;
        if answer > self.confirmed {
            return self.goes_on(answer, now);
        }
        // One with options says what came behind a gap (RFC 2018): nothing else has options here.
        let is_again = segment.is_pure() && (same_window || segment.has_options);
        if !is_again || !self.is_waiting() {
            return false;
        }
        self.duplicates = self.duplicates.saturating_add(1);
        let is_lost = self.duplicates == DUPLICATES && self.recover.is_none();
        if is_lost {
            self.is_lost(now);
        }
        is_lost
    }

    /// The other side has more. Whether that shows another loss.
    fn goes_on(&mut self, answer: TcpSeqNumber, now: Instant) -> bool {
        self.confirmed = answer;
        (self.duplicates, self.since, self.tries) = (0, now, 0);
        if let Some((at, end)) = self.asked
            && end <= answer
        {
            self.measured(now - at);
            self.asked = None;
        }
        self.recover = self.recover.filter(|recover| answer < *recover);
        let is_lost = self.recover.is_some() && self.is_waiting();
        if is_lost {
            // What is sent again tells nothing about how long an answer takes.
            self.asked = None;
        }
        is_lost
    }

    fn is_lost(&mut self, now: Instant) {
        self.recover = Some(self.sent);
        self.since = now;
        self.asked = None;
    }

    /// The time for an answer is over.
    fn is_late(&mut self, now: Instant) {
        self.is_lost(now);
        self.tries = self.tries.saturating_add(1);
    }

    /// When an answer is late; never if none is waited for.
    fn due(&self) -> Option<Instant> {
        let longest = match self.round_trip {
            None => FIRST,
            Some((smooth, varies)) => (smooth + varies * 4).clamp(LEAST, MOST),
        };
        (self.is_waiting() && self.tries < TRIES_MAX).then(|| self.since + longest * (1 << self.tries))
    }

    fn measured(&mut self, took: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => (took, took / 2),
            Some((smooth, varies)) => {
                let off = if took > smooth { took - smooth } else { smooth - took };
                ((smooth * 7 + took) / 8, (varies * 3 + off) / 4)
            }
        });
    }

    /// Behind the last byte that the other side may send.
    fn edge(&self) -> TcpSeqNumber {
        self.own.0 + usize::from(self.own.1)
    }

    /// Whether an answer is one of somebody who used up all room there is. Kernels take it for what it is, the stack for one
    /// from outside of its window, which it does not look into.
    fn is_at_edge(&self, segment: &Segment) -> bool {
        segment.is_pure() && self.own.1 > 0 && segment.sequence == self.edge()
    }

    /// What makes the stack send again what comes next.
    fn hint(&self, ends: &Ends) -> [Vec<u8>; Self::HINT] {
        let other = if self.window == u16::MAX { self.window - 1 } else { self.window + 1 };
        let again = self.answer(ends, self.window);
        [self.answer(ends, other), again.clone(), again.clone(), again.clone(), again]
    }

    /// The answer that the other side gave last, as one from within the window.
    fn answer(&self, ends: &Ends, window: u16) -> Vec<u8> {
        let last = if self.own.1 > 0 { self.edge() - 1 } else { self.own.0 };
        let tcp = TcpRepr {
            src_port: ends.remote.port(),
            dst_port: ends.local.port(),
            control: TcpControl::None,
            seq_number: self.theirs.max(self.own.0).min(last),
            ack_number: Some(self.confirmed),
            window_len: window,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let (from, to): (IpAddress, IpAddress) = (ends.remote.ip().into(), ends.local.ip().into());
        let ip = IpRepr::new(from, to, IpProtocol::Tcp, tcp.buffer_len(), 64);
        let mut packet = vec![0; ip.buffer_len()];
        let checksums = ChecksumCapabilities::default();
        ip.emit(&mut packet[..], &checksums);
        tcp.emit(&mut TcpPacket::new_unchecked(&mut packet[ip.header_len()..]), &from, &to, &checksums);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv6Addr, SocketAddr};

    /// Bytes of data in a segment here.
    const SEGMENT: usize = 100;
    /// What this side's data is counted from.
    const OWN: i32 = i32::MAX - 50;
    /// What the other side's is.
    const THEIRS: i32 = -50;
    const WINDOW: u16 = 5000;

    fn segment(ends: &Ends, control: TcpControl, (sequence, answer): (i32, Option<i32>), length: usize) -> Vec<u8> {
        with_window(ends, control, (sequence, answer), length, WINDOW)
    }

    fn with_window(
        ends: &Ends,
        control: TcpControl,
        (sequence, answer): (i32, Option<i32>),
        length: usize,
        window: u16,
    ) -> Vec<u8> {
        let payload = vec![7; length];
        let tcp = TcpRepr {
            src_port: ends.local.port(),
            dst_port: ends.remote.port(),
            control,
            seq_number: TcpSeqNumber(sequence),
            ack_number: answer.map(TcpSeqNumber),
            window_len: window,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &payload,
        };
        let (from, to): (IpAddress, IpAddress) = (ends.local.ip().into(), ends.remote.ip().into());
        let ip = IpRepr::new(from, to, IpProtocol::Tcp, tcp.buffer_len(), 64);
        let mut packet = vec![0; ip.buffer_len()];
        ip.emit(&mut packet[..], &ChecksumCapabilities::default());
        let mut body = TcpPacket::new_unchecked(&mut packet[ip.header_len()..]);
        tcp.emit(&mut body, &from, &to, &ChecksumCapabilities::default());
        packet
    }

    /// A connection that this side began and that stands.
    struct Bench {
        losses: Losses,
        ends: Ends,
        now: Instant,
    }

    impl Bench {
        fn new(is_v4: bool) -> Self {
            let address = |number: u8| match is_v4 {
                true => IpAddr::from([100, 64, 0, number]),
                false => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(),
            };
            let ends = Ends { local: SocketAddr::new(address(1), 50_000), remote: SocketAddr::new(address(2), 80) };
            let mut bench = Self { losses: Losses::default(), ends, now: Instant::ZERO };
            bench.losses.begin(ends);
            bench.losses.leaves(&segment(&ends, TcpControl::Syn, (OWN - 1, None), 0), bench.now);
            let there = bench.there();
            let greeting = segment(&there, TcpControl::Syn, (THEIRS - 1, Some(OWN)), 0);
            assert_eq!(bench.losses.comes(&greeting, bench.now), None);
            bench.losses.leaves(&segment(&ends, TcpControl::None, (OWN, Some(THEIRS)), 0), bench.now);
            bench
        }

        fn there(&self) -> Ends {
            Ends { local: self.ends.remote, remote: self.ends.local }
        }

        /// This side sends so many segments from that one on.
        fn sends(&mut self, from: usize, count: usize) {
            for number in from..from + count {
                let at = at(OWN, number);
                self.losses.leaves(&segment(&self.ends, TcpControl::None, (at, Some(THEIRS)), SEGMENT), self.now);
            }
        }

        /// The other side says that it has so many segments. How many packets the stack is given for it besides.
        fn hears(&mut self, segments: usize) -> usize {
            self.hears_with(segments, 0)
        }

        /// The same together with data.
        fn hears_with(&mut self, segments: usize, length: usize) -> usize {
            let answer = Some(at(OWN, segments));
            let packet = segment(&self.there(), TcpControl::None, (THEIRS, answer), length);
            assert_eq!(self.losses.comes(&packet, self.now), None);
            self.hints().len()
        }

        fn hints(&mut self) -> Vec<Segment> {
            std::iter::from_fn(|| self.losses.hint()).map(|packet| Segment::of(&packet).unwrap()).collect()
        }

        fn waits(&mut self, millis: u64) -> usize {
            self.now += Duration::from_millis(millis);
            self.losses.look(self.now);
            self.hints().len()
        }
    }

    fn at(from: i32, segments: usize) -> i32 {
        (TcpSeqNumber(from) + segments * SEGMENT).0
    }

    #[test]
    fn the_third_answer_said_again_is_a_hint_also_with_data_between_them() {
        for is_v4 in [true, false] {
            let mut bench = Bench::new(is_v4);
            bench.sends(0, 6);
            assert_eq!(bench.hears(1), 0);
            for _ in 0..2 {
                assert_eq!((bench.hears(1), bench.hears_with(1, SEGMENT)), (0, 0));
            }
            let again = segment(&bench.there(), TcpControl::None, (at(THEIRS, 1), Some(at(OWN, 1))), 0);
            assert_eq!(bench.losses.comes(&again, bench.now), None);
            let hints = bench.hints();
            assert_eq!(hints.len(), Watch::HINT);
            assert!(hints.iter().all(|hint| {
                hint.of_receiver() == bench.ends
                    && hint.is_pure()
                    && hint.acknowledged == TcpSeqNumber(at(OWN, 1))
                    && hint.sequence == TcpSeqNumber(at(THEIRS, 1))
            }));
            let windows: Vec<_> = hints.iter().map(|hint| hint.window).collect();
            assert_eq!(windows, [WINDOW + 1, WINDOW, WINDOW, WINDOW, WINDOW]);
            assert_eq!((bench.hears(1), bench.hears(1)), (0, 0), "once for each loss");
        }
    }

    #[test]
    fn another_window_is_no_answer_said_again_and_what_came_behind_a_gap_is_one() {
        let mut bench = Bench::new(true);
        bench.sends(0, 6);
        bench.hears(1);
        let there = bench.there();
        let wider = |window| with_window(&there, TcpControl::None, (THEIRS, Some(at(OWN, 1))), 0, window);
        for window in WINDOW + 1..WINDOW + 9 {
            bench.losses.comes(&wider(window), bench.now);
        }
        assert_eq!(bench.hints().len(), 0);
        for window in WINDOW + 20..WINDOW + 23 {
            let mut packet = wider(window);
            // Four bytes of options, as long as one is told of nothing else about them.
            packet.extend([1; 4]);
            packet[3] += 4;
            packet[32] += 0x10;
            bench.losses.comes(&packet, bench.now);
        }
        assert_eq!(bench.hints().len(), Watch::HINT);
    }

    #[test]
    fn each_loss_of_one_window_is_hinted_at_as_soon_as_the_one_before_is_mended() {
        let mut bench = Bench::new(true);
        bench.sends(0, 8);
        bench.hears(1);
        assert_eq!((0..3).map(|_| bench.hears(1)).sum::<usize>(), Watch::HINT);
        bench.sends(8, 1);
        assert_eq!((bench.hears(3), bench.hears(6)), (Watch::HINT, Watch::HINT));
        assert_eq!((bench.hears(8), bench.hears(9)), (0, 0), "what was sent after it is another matter");
    }

    #[test]
    fn an_answer_that_is_late_is_hinted_at_more_and_more_seldom_and_not_for_ever() {
        let mut bench = Bench::new(true);
        bench.sends(0, 1);
        assert_eq!((bench.waits(999), bench.waits(1)), (0, Watch::HINT), "no time was measured");
        bench.hears(1);
        bench.sends(1, 1);
        bench.now += Duration::from_millis(10);
        bench.hears(2);
        bench.sends(2, 9);
        assert_eq!(bench.losses.look(bench.now), Some(bench.now + LEAST));
        for tries in 0..TRIES_MAX {
            assert_eq!((bench.waits((200 << tries) - 1), bench.waits(1)), (0, Watch::HINT));
        }
        assert_eq!(bench.losses.look(bench.now), None);
        assert_eq!(bench.waits(1_000_000), 0);
        assert_eq!(bench.hears(3), Watch::HINT, "it goes on, and all that was under way is lost");
        assert_eq!((bench.waits(199), bench.waits(1)), (0, Watch::HINT));
    }

    #[test]
    fn nothing_is_hinted_at_where_nothing_is_waited_for() {
        let mut bench = Bench::new(true);
        assert_eq!((0..5).map(|_| bench.hears(0)).sum::<usize>() + bench.waits(5000), 0, "nothing was sent");
        bench.sends(0, 1);
        let closed = with_window(&bench.there(), TcpControl::None, (THEIRS, Some(OWN)), 0, 0);
        for _ in 0..5 {
            bench.losses.comes(&closed, bench.now);
        }
        assert_eq!(bench.waits(5000), 0, "the other side has no room");
        bench.hears(1);
        bench.losses.leaves(&segment(&bench.ends, TcpControl::Fin, (at(OWN, 1), Some(THEIRS)), 0), bench.now);
        assert_eq!((0..5).map(|_| bench.hears(1)).sum::<usize>() + bench.waits(5000), 0, "only its end is under way");
        bench.losses.end(&bench.ends);
        bench.sends(1, 5);
        assert_eq!((0..5).map(|_| bench.hears(1)).sum::<usize>() + bench.waits(5000), 0, "it is over");
    }

    #[test]
    fn an_answer_from_the_edge_of_the_window_is_seen_as_one_from_within() {
        let mut bench = Bench::new(true);
        bench.sends(0, 2);
        let (there, edge) = (bench.there(), (TcpSeqNumber(THEIRS) + usize::from(WINDOW)).0);
        let pure = segment(&there, TcpControl::None, (edge, Some(at(OWN, 1))), 0);
        let seen = Segment::of(&bench.losses.comes(&pure, bench.now).unwrap()).unwrap();
        assert!(seen.is_pure() && seen.of_receiver() == bench.ends);
        assert_eq!((seen.acknowledged, seen.window), (TcpSeqNumber(at(OWN, 1)), WINDOW));
        assert!(seen.sequence >= TcpSeqNumber(THEIRS) && seen.sequence < TcpSeqNumber(edge));
        let data = segment(&there, TcpControl::None, (edge, Some(at(OWN, 1))), 1);
        assert_eq!(bench.losses.comes(&data, bench.now), None);
    }

    #[test]
    fn what_nobody_sent_is_not_confirmed_by_others() {
        let mut bench = Bench::new(true);
        bench.sends(0, 2);
        assert_eq!((bench.hears(3), bench.hears(200_000)), (0, 0));
        assert_eq!((0..3).map(|_| bench.hears(0)).sum::<usize>(), Watch::HINT, "it counted for nothing");
    }
}
