//! One watch at a time: who answers is given, when who is left, when it is taken again, and that nothing grows.

use super::hop::{LEFT_PENALTY, PROOFS, PROVING_PENALTY};
use super::*;
use shoal_protocol::UnixMillis;

const FRAME: u32 = 65_535;

fn at(ms: u64) -> Now {
    Now { wall: UnixMillis(0), uptime_ms: ms }
}

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn peer(n: usize) -> PeerHash {
    PeerHash::new(core::array::from_fn(|at| n.to_le_bytes().get(at).copied().unwrap_or(0)))
}

fn candidate(n: u8, in_use: bool) -> Candidate {
    Candidate { hop: node(n), in_use, max_frame: FRAME }
}

/// A peer behind some neighbours, the first of which is used as long as it costs nothing.
struct Lab {
    watches: Watches,
    now_ms: u64,
    penalties: BTreeMap<NodeId, u32>,
    probes: Vec<(u64, NodeId, u16)>,
    /// Answers under way.
    echoes: VecDeque<(u64, u32)>,
}

impl Lab {
    fn new() -> Self {
        Self {
            watches: Watches::default(),
            now_ms: 0,
            penalties: BTreeMap::new(),
            probes: Vec::new(),
            echoes: VecDeque::new(),
        }
    }

    fn candidates(&self, hops: &[u8]) -> Vec<Candidate> {
        let mut order: Vec<(u32, u8)> =
            hops.iter().map(|n| (self.penalties.get(&node(*n)).copied().unwrap_or(0), *n)).collect();
        order.sort_unstable();
        order.iter().enumerate().map(|(place, (_, n))| candidate(*n, place == 0)).collect()
    }

    /// Packets go for so long; a probe of `length` by `hop` is answered after 20 ms where `answers` says so.
    fn run(&mut self, hops: &[u8], for_ms: u64, mut answers: impl FnMut(u64, NodeId, u16) -> bool) {
        let end = self.now_ms + for_ms;
        while self.now_ms < end {
            self.now_ms += 10;
            let now = at(self.now_ms);
            while let Some((_, number)) = self.echoes.pop_front_if(|(due_ms, _)| *due_ms <= self.now_ms) {
                self.watches.handle_echo(&peer(1), number, now);
            }
            if self.now_ms.is_multiple_of(50) {
                // Packets come back all the time, so that only probes tell.
                assert!(self.watches.handle_sent(peer(1), now));
                self.watches.handle_received(&peer(1));
                for due in self.watches.due(now) {
                    let candidates = self.candidates(hops);
                    self.watches.judge(due, &candidates, true, now);
                }
            }
            while let Some(effect) = self.watches.poll() {
                match effect {
                    WatchEffect::Probe { hop, probe: Control::Probe { number, padding }, .. } => {
                        assert!(Watches::is_own(number));
                        self.probes.push((self.now_ms, hop, padding));
                        if answers(self.now_ms, hop, padding) {
                            self.echoes.push_back((self.now_ms + 20, number));
                        }
                    }
                    WatchEffect::Probe { probe, .. } => panic!("{probe:?}"),
                    WatchEffect::Penalty { hop, penalty, .. } => {
                        self.penalties.insert(hop, penalty);
                    }
                }
            }
        }
    }

    fn penalty(&self, n: u8) -> u32 {
        self.penalties.get(&node(n)).copied().unwrap_or(0)
    }
}

#[test]
fn who_stops_to_answer_is_left_within_eight_seconds_and_others_are_asked_at_once() {
    let mut lab = Lab::new();
    lab.run(&[2, 3], 10_000, |_, _, _| true);
    assert_eq!((lab.penalty(2), lab.penalty(3)), (0, 0));
    let asked = lab.probes.len();
    assert!(asked <= 8, "{asked} probes in ten seconds of calm");
    let stopped = lab.now_ms;
    while lab.penalty(2) == 0 {
        lab.run(&[2, 3], 50, |_, hop, _| hop == node(3));
        assert!(lab.now_ms - stopped <= 8_000, "not left");
    }
    assert_eq!((lab.penalty(2), lab.penalty(3)), (LEFT_PENALTY, 0));
    let others = lab.probes.iter().filter(|(ms, hop, _)| *ms > stopped && *hop == node(3)).count();
    assert!(others >= 2, "{others} probes by the other one while there was doubt");
}

#[test]
fn who_answers_again_proves_itself_first_and_longer_each_time() {
    let mut lab = Lab::new();
    let mut waits = vec![];
    for _ in 0..3 {
        while lab.penalty(2) != LEFT_PENALTY {
            lab.run(&[2], 50, |_, _, _| false);
        }
        let healed = lab.now_ms;
        let mut proving = 0;
        while lab.penalty(2) != 0 {
            lab.run(&[2], 50, |_, _, _| true);
            proving += u64::from(lab.penalty(2) == PROVING_PENALTY);
            assert!(lab.now_ms - healed < 60_000);
        }
        assert!(proving > 0);
        waits.push((lab.now_ms - healed) / 1000);
    }
    let least = u64::from(PROOFS) - 1;
    assert!(waits[0] >= least && waits[1] >= 2 * least && waits[2] >= 4 * least, "{waits:?} s");
}

#[test]
fn one_that_passes_on_short_frames_alone_or_every_other_one_is_left() {
    let mut lab = Lab::new();
    lab.run(&[2, 3], 20_000, |_, hop, padding| hop == node(3) || padding == 0);
    assert!(lab.penalty(2) > 0 && lab.penalty(3) == 0, "short frames alone");
    let mut lab = Lab::new();
    let mut turn = false;
    lab.run(&[2, 3], 40_000, |_, hop, _| {
        turn ^= hop == node(2);
        hop == node(3) || turn
    });
    assert!(lab.penalty(2) > 0 && lab.penalty(3) == 0, "every other frame");
}

#[test]
fn a_single_loss_now_and_then_costs_nothing() {
    let mut lab = Lab::new();
    let mut count = 0;
    lab.run(&[2], 120_000, |_, _, _| {
        count += 1;
        count % 10 != 0
    });
    assert!(lab.penalties.is_empty(), "{:?}", lab.penalties);
}

#[test]
fn without_a_session_everybody_is_left_in_turn_and_asked_at_once_when_there_is_one() {
    let mut watches = Watches::default();
    let candidates = [candidate(2, true), candidate(3, false)];
    for ms in (0..=3_500).step_by(250) {
        watches.handle_want(peer(1), at(ms));
        watches.judge(peer(1), &candidates, false, at(ms));
    }
    let left: Vec<NodeId> = std::iter::from_fn(|| watches.poll())
        .map(|effect| match effect {
            WatchEffect::Penalty { hop, penalty: LEFT_PENALTY, .. } => hop,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(left, [node(2), node(3)]);
    assert!(watches.is_silent(&peer(1)));
    watches.handle_session(&peer(1));
    watches.judge(peer(1), &candidates, true, at(3_600));
    assert_eq!(std::iter::from_fn(|| watches.poll()).count(), 2, "a probe by each");
}

#[test]
fn nothing_is_asked_without_packets_and_what_was_found_out_is_forgotten_in_the_end() {
    let mut lab = Lab::new();
    lab.run(&[2], 10_000, |_, _, _| false);
    assert_eq!(lab.penalty(2), LEFT_PENALTY);
    let idle = at(lab.now_ms + ACTIVE_MS);
    assert!(lab.watches.due(idle).is_empty());
    assert_eq!(lab.watches.poll(), None, "remembered");
    assert!(lab.watches.due(at(lab.now_ms + REMEMBER_MS)).is_empty() && lab.watches.watches.is_empty());
    let penalty = WatchEffect::Penalty { peer: peer(1), hop: node(2), penalty: 0 };
    assert_eq!(lab.watches.poll(), Some(penalty), "and taken back");
}

#[test]
fn tables_are_bounded_and_others_do_not_keep_out_what_is_ours() {
    let mut watches = Watches::default();
    let taken = (0..4 * WATCHES_MAX).filter(|n| watches.handle_relayed(peer(*n), at(0))).count();
    assert_eq!(taken, RELAYED_MAX);
    let own = (10_000..10_000 + 4 * WATCHES_MAX).filter(|n| watches.handle_sent(peer(*n), at(1))).count();
    assert_eq!((own, watches.watches.len()), (WATCHES_MAX - RELAYED_MAX, WATCHES_MAX));
    assert!(watches.handle_sent(peer(5_000), at(ACTIVE_MS)), "those that rest make room");
    assert_eq!(watches.watches.len(), WATCHES_MAX);
    (0..4 * WATCHES_MAX).for_each(|n| {
        watches.is_repeated(peer(n), at(0));
    });
    assert_eq!(watches.handshakes.len(), WATCHES_MAX);
    let many: Vec<Candidate> = (0..100).map(|n| candidate(n, true)).collect();
    watches.judge(peer(5_000), &many, true, at(ACTIVE_MS));
    assert_eq!(watches.watches[&peer(5_000)].hops.len(), HOPS_MAX);
}

#[test]
fn a_handshake_is_repeated_if_one_went_a_moment_ago_and_led_to_nothing() {
    let mut watches = Watches::default();
    assert!(!watches.is_repeated(peer(1), at(0)));
    assert!(watches.is_repeated(peer(1), at(1_000)) && !watches.is_repeated(peer(2), at(1_000)));
    watches.handle_session(&peer(1));
    assert!(!watches.is_repeated(peer(1), at(2_000)));
    assert!(!watches.is_repeated(peer(1), at(2_000 + REPEATED_MS)));
}

#[test]
fn who_was_left_for_two_peers_has_to_answer_for_a_third_before_it_is_used() {
    let mut watches = Watches::default();
    let candidates = [candidate(2, true), candidate(3, false)];
    let left = |watches: &mut Watches, n: usize| {
        watches.handle_sent(peer(n), at(0));
        for ms in (0..=8_000).step_by(100) {
            watches.judge(peer(n), &candidates, true, at(ms));
            while let Some(effect) = watches.poll() {
                if let WatchEffect::Probe { hop, probe: Control::Probe { number, .. }, .. } = effect
                    && hop == node(3)
                {
                    watches.handle_echo(&peer(n), number, at(ms));
                }
            }
        }
    };
    let first = |watches: &mut Watches, n: usize| -> Vec<NodeId> {
        watches.handle_sent(peer(n), at(9_000));
        watches.judge(peer(n), &candidates, true, at(9_000));
        let all = std::iter::from_fn(|| watches.poll());
        let of = all.filter_map(|effect| match effect {
            WatchEffect::Penalty { hop, .. } => Some(hop),
            WatchEffect::Probe { .. } => None,
        });
        of.collect()
    };
    left(&mut watches, 1);
    assert_eq!(first(&mut watches, 10), [], "one may be the peer's own doing");
    left(&mut watches, 2);
    assert_eq!(first(&mut watches, 11), [node(2)]);
}
