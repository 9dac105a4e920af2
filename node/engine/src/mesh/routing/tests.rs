//! Routing, rule by rule: one node and neighbours whose messages are made by hand. The mistakes other implementations made
//! each have a test of their name. No socket, a clock of numbers.

mod marks;

use super::snapshot::{Bindings, ExitUse, Lookup, Unreachable};
use super::*;
use ed25519_dalek::SigningKey;
use shoal_protocol::mesh::address::Pool;
use shoal_protocol::mesh::route::{FRAME_MAX, RouteUpdate, SeqnoRequest, VerifiedOrigin};
use shoal_protocol::{Signed, UnixMillis};

const WALL: u64 = 1_700_000_000_000;
const SUBNET: &str = "10.1.0.0/16";

fn network() -> NetworkId {
    NetworkId::from_bytes([7; 32])
}

fn signer(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn id(n: u8) -> NodeId {
    NodeId::from_bytes(signer(n).verifying_key().to_bytes())
}

fn router(n: u8) -> Router {
    Router { node: id(n), epoch: BootEpoch(1) }
}

fn subnet() -> Prefix {
    SUBNET.parse().unwrap()
}

fn at(ms: u64) -> Now {
    Now { wall: UnixMillis(WALL + ms), uptime_ms: ms }
}

fn facts() -> LinkFacts {
    LinkFacts { epoch: BootEpoch(1), max_frame: 9_000, relayed: false }
}

/// Node 1 and what it said.
struct Lab {
    routing: Routing,
    intake: Intake,
    numbers: u64,
    sent: Vec<(NodeId, RouteMessage)>,
    /// What each neighbour said it told, for the digests.
    sums: BTreeMap<NodeId, BTreeMap<Prefix, Told>>,
}

impl Lab {
    /// Links to `neighbours`, each of which costs 96 and a millisecond.
    fn new(neighbours: &[u8]) -> Self {
        let routing = Routing::new(id(1), BootEpoch(1), network());
        let (intake, sums) = (Intake::new(network()), BTreeMap::new());
        let mut lab = Self { routing, intake, numbers: 0, sent: vec![], sums };
        for n in neighbours {
            lab.routing.handle_link(id(*n), facts(), at(0));
            lab.measure(*n, 1_000, 0);
        }
        lab.drain(0);
        lab
    }

    fn measure(&mut self, n: u8, rtt_us: u32, ms: u64) {
        let sample = LinkSample { rtt_us: Some(rtt_us), reliability_permille: 1000, ..LinkSample::default() };
        self.routing.handle_sample(id(n), sample, at(ms));
    }

    fn drain(&mut self, ms: u64) -> Vec<Origin> {
        let mut signed = vec![];
        while let Some(effect) = self.routing.poll() {
            match effect {
                RoutingEffect::Send { to, message } => self.sent.push((to, message)),
                RoutingEffect::Sign(origin) => {
                    signed.push(origin.clone());
                    let word = VerifiedOrigin::verify(Signed::seal(&origin, &signer(1), &network()), &network());
                    self.routing.handle_signed(word.unwrap(), at(ms));
                }
                RoutingEffect::Changed => {}
            }
        }
        signed
    }

    /// Time passes in steps.
    fn wait(&mut self, from: u64, until: u64) -> Vec<Origin> {
        let mut signed = vec![];
        for ms in (from..=until).step_by(50) {
            self.routing.handle_timeout(at(ms));
            signed.extend(self.drain(ms));
        }
        signed
    }

    fn message(&mut self, from: u8, updates: Vec<RouteUpdate>) -> RouteMessage {
        self.numbers += 1;
        let told = self.sums.entry(id(from)).or_default();
        for update in &updates {
            let word = update.origin.verify::<Origin>(&network()).unwrap();
            let router = Router { node: NodeId::from(*word.signer()), epoch: word.epoch };
            let RouteUpdate { metric, max_frame, relayed, .. } = *update;
            told.insert(word.prefix, Told { router, seqno: word.seqno, metric, max_frame, relayed });
        }
        let sum = told.iter().fold(0_u64, |sum, (prefix, told)| sum.wrapping_add(told_digest(prefix, told)));
        let digest = sum.wrapping_add(Reach::default().digest());
        let (number, epoch) = (self.numbers, BootEpoch(1));
        RouteMessage { epoch, number, updates, retracted: vec![], requests: vec![], reach: None, digest, resync: false }
    }

    fn hear(&mut self, from: u8, message: RouteMessage, ms: u64) -> Result<(), NotHeard> {
        let heard = self.intake.verify(message).unwrap();
        let policy = |node: &NodeId, prefix: &Prefix| *node == id(9) && *prefix == subnet();
        let result = self.routing.handle_message(id(from), heard, &policy, at(ms));
        self.drain(ms);
        result
    }

    /// `from` tells that router 9 is at `metric`.
    fn tell(&mut self, from: u8, seqno: u32, metric: u32, ms: u64) {
        let message = self.message(from, vec![update(9, seqno, metric)]);
        assert_eq!(self.hear(from, message, ms), Ok(()));
    }

    fn retract(&mut self, from: u8, ms: u64) {
        self.sums.entry(id(from)).or_default().remove(&subnet());
        let message = RouteMessage { retracted: vec![subnet()], ..self.message(from, vec![]) };
        assert_eq!(self.hear(from, message, ms), Ok(()));
    }

    fn ask(&mut self, from: u8, prefix: Prefix, router: Router, seqno: u32, ms: u64) {
        let request = SeqnoRequest { prefix, router, seqno, hops: 5 };
        let message = RouteMessage { requests: vec![request], ..self.message(from, vec![]) };
        assert_eq!(self.hear(from, message, ms), Ok(()));
    }

    fn via(&self) -> Vec<u8> {
        let best = self.routing.destinations.get(&subnet()).and_then(|destination| destination.best.as_ref());
        let hops = best.map(|best| best.hops.clone()).unwrap_or_default();
        (2..9).filter(|n| hops.contains(&id(*n))).collect()
    }

    fn state(&self, via: u8, ms: u64) -> Option<RouteState> {
        self.routing.view(at(ms)).find(|view| view.via == id(via) && view.prefix == subnet()).map(|view| view.state)
    }

    fn snapshot(&self) -> Snapshot {
        self.routing.snapshot(Bindings { v4: &[], pool: Pool::default().prefix(), exit: ExitUse::Auto })
    }

    fn sent_to(&self, n: u8) -> impl Iterator<Item = &RouteMessage> {
        self.sent.iter().filter(move |(to, _)| *to == id(n)).map(|(_, message)| message)
    }
}

fn origin(n: u8, prefix: Prefix, seqno: u32) -> Signed {
    let expires = UnixMillis(WALL + ORIGIN_LIFE_MAX_MS);
    Signed::seal(&Origin { prefix, epoch: BootEpoch(1), seqno, expires }, &signer(n), &network())
}

fn update(n: u8, seqno: u32, metric: u32) -> RouteUpdate {
    RouteUpdate { origin: origin(n, subnet(), seqno), metric, max_frame: FRAME_MAX, relayed: false }
}

#[test]
fn missing_feasibility_entry_every_route_that_was_told_has_one() {
    let mut lab = Lab::new(&[2, 3]);
    lab.tell(2, 1, 500, 100);
    assert_eq!(lab.via(), [2]);
    lab.wait(150, 400);
    let told = lab.sent_to(3).flat_map(|message| &message.updates).last().unwrap();
    assert!(told.metric > 500 + 96);
    // The way is lost; a farther one with the same number might lead back here.
    lab.retract(2, 500);
    lab.tell(3, 1, told_metric(&lab) + 200, 600);
    assert_eq!((lab.via(), lab.state(3, 600)), (vec![], Some(RouteState::Unfeasible)));
    // It is asked for a newer number, and with that it is used.
    lab.wait(650, 900);
    let request = lab.sent_to(3).flat_map(|message| &message.requests).last().unwrap();
    assert_eq!((request.router, request.seqno), (router(9), 2));
    lab.tell(3, 2, 5_000, 1_000);
    assert_eq!(lab.via(), [3]);
}

fn told_metric(lab: &Lab) -> u32 {
    lab.sent_to(3).flat_map(|message| &message.updates).last().unwrap().metric
}

#[test]
fn feasibility_entry_collected_too_early_it_outlives_every_word_it_was_for() {
    let mut lab = Lab::new(&[2, 3]);
    lab.tell(2, 1, 500, 100);
    lab.wait(150, 400);
    lab.retract(2, 500);
    let told_ms = 200;
    // Words end after ten minutes; this one is as good as any as long as clocks differ by what they may.
    let late = told_ms + ORIGIN_LIFE_MAX_MS + 2 * FRESHNESS_MS;
    lab.wait(late - 100, late);
    assert!(!lab.routing.sources.is_feasible(subnet(), router(9), 1, 5_000), "forgotten after {late} ms");
    lab.wait(late + 3 * FRESHNESS_MS, late + 3 * FRESHNESS_MS + 1_100);
    assert!(lab.routing.sources.is_feasible(subnet(), router(9), 1, 5_000), "kept for ever");
}

#[test]
fn stale_seqno_request_accepted_only_the_next_number_makes_a_router_count_on() {
    let mut lab = Lab::new(&[2]);
    lab.routing.announce(subnet(), at(100));
    lab.drain(100);
    let own = lab.routing.origins.seqno(&subnet()).unwrap();
    lab.wait(150, 2_000);
    let told = |lab: &Lab| lab.sent_to(2).map(|message| message.updates.len()).sum::<usize>();
    let before = told(&lab);
    for (seqno, stale) in [(own, true), (own - 1, true), (own + 2, false), (u32::MAX, false)] {
        lab.ask(2, subnet(), router(1), seqno, 2_100);
        assert_eq!(lab.wait(2_150, 2_600), [], "{seqno} of {own}");
        let reason = if stale { Ignored::Stale } else { Ignored::Invented };
        assert!(lab.routing.ignored().any(|(ignored, _)| ignored == reason));
    }
    assert!(told(&lab) > before, "who asked for what is there is told it");
    let former = Router { epoch: BootEpoch(0), ..router(1) };
    lab.ask(2, subnet(), former, own + 1, 3_000);
    assert_eq!(lab.wait(3_050, 3_600), [], "a number of another run");
    lab.ask(2, subnet(), router(1), own + 1, 4_000);
    assert_eq!(lab.routing.origins.seqno(&subnet()), Some(own + 1));
}

#[test]
fn expired_route_kept_as_feasible_what_nobody_stands_by_is_not_used() {
    let mut lab = Lab::new(&[2, 3]);
    lab.tell(2, 1, 150, 100);
    lab.tell(3, 1, 100, 200);
    assert_eq!((lab.via(), lab.state(2, 300)), (vec![3], Some(RouteState::Feasible)));
    // Neighbour 2 falls silent; 3 says every five seconds that all is as it was.
    for ms in (5_000..=30_000).step_by(5_000) {
        let message = lab.message(3, vec![]);
        assert_eq!(lab.hear(3, message, ms), Ok(()));
    }
    assert_eq!(lab.state(2, 100 + HOLD_MS), Some(RouteState::Expired));
    // Even before anybody looked for what ended, it is not what remains.
    lab.retract(3, 100 + HOLD_MS);
    assert_eq!(lab.via(), Vec::<u8>::new());
    lab.wait(31_000, 32_000);
    assert_eq!(lab.state(2, 32_000), None);
    // And an origin's word ends with its time, whoever stands by it.
    lab.tell(3, 2, 100, 33_000);
    assert_eq!(lab.via(), [3]);
    for ms in (35_000..=ORIGIN_LIFE_MAX_MS + 5_000).step_by(5_000) {
        let message = lab.message(3, vec![]);
        assert_eq!(lab.hear(3, message, ms), Ok(()));
        lab.wait(ms, ms + 50);
    }
    assert_eq!(lab.via(), Vec::<u8>::new());
}

#[test]
fn update_from_a_neighbour_that_is_gone_is_not_heard() {
    let mut lab = Lab::new(&[2]);
    let late = lab.message(2, vec![update(9, 1, 500)]);
    lab.tell(2, 1, 400, 100);
    assert_eq!(lab.hear(2, late.clone(), 150), Err(NotHeard::Late));
    lab.routing.handle_link_lost(id(2), at(200));
    lab.drain(200);
    assert_eq!(lab.via(), Vec::<u8>::new());
    let message = lab.message(2, vec![update(9, 1, 400)]);
    assert_eq!(lab.hear(2, message, 300), Err(NotHeard::NoLink));
    lab.routing.handle_link(id(2), LinkFacts { epoch: BootEpoch(2), ..facts() }, at(400));
    let message = lab.message(2, vec![update(9, 1, 400)]);
    assert_eq!(lab.hear(2, message, 500), Err(NotHeard::OtherRun));
    assert!(lab.routing.destinations.get(&subnet()).is_none_or(|destination| destination.heard.is_empty()));
    // A neighbour that restarted takes nothing over from its former run.
    lab.routing.handle_link(id(2), facts(), at(600));
    lab.tell(2, 1, 400, 700);
    lab.routing.handle_link(id(2), LinkFacts { epoch: BootEpoch(3), ..facts() }, at(800));
    assert_eq!(lab.via(), Vec::<u8>::new());
}

#[test]
fn a_prefix_without_a_right_is_shown_and_never_used() {
    let mut lab = Lab::new(&[2, 3]);
    let foreign = RouteUpdate { origin: origin(8, subnet(), 1), ..update(9, 1, 100) };
    let address = RouteUpdate { origin: origin(8, host_prefix(&network(), &id(7)), 1), ..update(9, 1, 100) };
    let message = lab.message(2, vec![foreign, address]);
    assert_eq!(lab.hear(2, message, 100), Ok(()));
    let states: Vec<_> = lab.routing.view(at(100)).map(|view| view.state).collect();
    assert_eq!(states, [RouteState::Unauthorised; 2]);
    lab.wait(150, 400);
    assert!(lab.sent_to(3).all(|message| message.updates.is_empty()), "nor told");
    let everybody = |_: &NodeId, _: &Prefix| true;
    lab.routing.handle_policy(&everybody, at(500));
    assert_eq!((lab.via(), lab.state(2, 500)), (vec![2], Some(RouteState::Used)));
    let used = lab.routing.view(at(500)).filter(|view| view.state == RouteState::Used).count();
    assert_eq!(used, 1, "nobody has a right to the address of another");
    lab.routing.handle_policy(&|_, _| false, at(600));
    assert_eq!(lab.via(), Vec::<u8>::new());
}

#[test]
fn ways_that_are_as_good_share_and_the_smallest_frame_counts() {
    let mut lab = Lab::new(&[2, 3, 4]);
    lab.routing.handle_link(id(3), LinkFacts { max_frame: 2_000, ..facts() }, at(50));
    lab.tell(2, 1, 500, 100);
    lab.wait(150, 200);
    lab.tell(3, 1, 510, 220);
    lab.tell(4, 1, 700, 300);
    assert_eq!(lab.via(), [2, 3]);
    lab.wait(350, 600);
    let told = lab.sent_to(4).flat_map(|message| &message.updates).last().unwrap();
    assert_eq!(told.max_frame, 2_000);
    assert!(lab.sent_to(2).all(|message| message.updates.is_empty()), "not told back");
    let taken_back = lab.sent_to(3).flat_map(|message| &message.retracted).last();
    assert_eq!(taken_back, Some(&subnet()), "a route through it is taken back");
    // A better one that is hardly better changes nothing; a much better one does.
    lab.tell(4, 1, 480, 700);
    assert!(lab.via().contains(&2));
    lab.tell(4, 1, 100, 800);
    assert_eq!(lab.via(), [4]);
}

#[test]
fn a_way_as_good_whose_teller_is_not_nearer_is_not_shared() {
    let mut lab = Lab::new(&[2, 3]);
    // All within the pause behind the first messages: nothing was told yet, so every distance is feasible.
    lab.tell(2, 1, 5_000, 10);
    lab.tell(3, 1, 5_150, 20);
    // By 2 it is 5,101, by 3 hardly more; but 3 may be about to hear of this node that it is nearer.
    assert_eq!(lab.via(), [2]);
    lab.tell(3, 1, 5_050, 30);
    assert_eq!(lab.via(), [2, 3]);
}

#[test]
fn somebody_elses_prefix_at_no_distance_is_a_lie() {
    let mut lab = Lab::new(&[2]);
    let message = lab.message(2, vec![update(9, 1, 0)]);
    let result = lab.hear(2, message, 100);
    assert!(result == Err(NotHeard::TooNear) && NotHeard::TooNear.is_lie());
    assert_eq!(lab.state(2, 100), None);
    let far = Origin {
        prefix: subnet(),
        epoch: BootEpoch(1),
        seqno: 1,
        expires: UnixMillis(WALL + ORIGIN_LIFE_MAX_MS + FRESHNESS_MS + 200),
    };
    let far = RouteUpdate { origin: Signed::seal(&far, &signer(9), &network()), ..update(9, 1, 100) };
    let message = lab.message(2, vec![far]);
    assert_eq!(lab.hear(2, message, 150), Ok(()));
    assert!(lab.routing.ignored().any(|(reason, _)| reason == Ignored::Future));
}

#[test]
fn a_digest_that_does_not_fit_has_everything_told_again_and_ever_less_often() {
    let mut lab = Lab::new(&[2]);
    lab.tell(2, 1, 500, 100);
    lab.wait(150, 5_200);
    assert!(lab.sent_to(2).all(|message| !message.resync));
    let asked = |lab: &Lab| lab.sent_to(2).filter(|message| message.resync).count();
    let message = RouteMessage { digest: 1, ..lab.message(2, vec![]) };
    assert_eq!(lab.hear(2, message, 6_000), Ok(()));
    lab.wait(6_000, 11_000);
    assert!((8..=12).contains(&asked(&lab)), "asked {} times without an answer", asked(&lab));
    let (mut before, mut answers) = (asked(&lab), 0);
    for ms in (11_050..60_000).step_by(50) {
        lab.wait(ms, ms);
        if asked(&lab) > before {
            (before, answers) = (asked(&lab), answers + 1);
            let reach = Some(Reach::default());
            let message = RouteMessage { digest: 1, reach, ..lab.message(2, vec![]) };
            assert_eq!(lab.hear(2, message, ms), Ok(()));
        }
    }
    assert!((5..=9).contains(&answers), "{answers} answers that did not help");
    // And who is asked tells all again.
    lab.routing.announce(subnet(), at(60_000));
    lab.drain(60_000);
    lab.wait(60_050, 60_500);
    let told = |lab: &Lab| lab.sent_to(2).map(|message| message.updates.len()).sum::<usize>();
    let before = told(&lab);
    let message = RouteMessage { resync: true, ..lab.message(2, vec![]) };
    assert_eq!(lab.hear(2, message, 61_000), Ok(()));
    lab.wait(61_050, 61_500);
    assert_eq!(told(&lab), before + 1);
    let again = lab.sent_to(2).filter(|message| !message.updates.is_empty()).last();
    assert!(again.is_some_and(|message| message.reach.is_some()));
}

#[test]
fn who_talks_too_much_is_not_listened_to() {
    let mut lab = Lab::new(&[2]);
    let results: Vec<_> = (0..200)
        .map(|_| {
            let message = lab.message(2, vec![]);
            lab.hear(2, message, 100)
        })
        .collect();
    assert!(results[..100].iter().all(Result::is_ok));
    assert_eq!(results[199], Err(NotHeard::TooMany));
    let message = lab.message(2, vec![]);
    assert_eq!(lab.hear(2, message, 1_100), Ok(()));
}

#[test]
fn a_lost_route_is_held_and_does_not_fall_to_a_shorter_prefix() {
    let mut lab = Lab::new(&[2, 9]);
    lab.tell(2, 1, 500, 100);
    let inside = "10.1.2.3".parse().unwrap();
    assert!(matches!(lab.snapshot().lookup(inside, 1), Lookup::To { peer, .. } if peer.node == id(9)));
    let outside = "192.0.2.1".parse().unwrap();
    assert_eq!(lab.snapshot().lookup(outside, 1), Lookup::Unreachable(Unreachable::NoRoute));
    lab.retract(2, 200);
    assert_eq!(lab.snapshot().lookup(inside, 1), Lookup::Unreachable(Unreachable::Held));
    lab.wait(200 + HOLD_MS, 2_000 + HOLD_MS);
    assert_eq!(lab.snapshot().lookup(inside, 1), Lookup::Unreachable(Unreachable::NoRoute));
    let own = shoal_protocol::mesh::address::overlay(&network(), &PeerHash::of(&id(1)));
    assert_eq!(lab.snapshot().lookup(own.into(), 1), Lookup::Local);
    let unclaimed = "100.64.9.9".parse().unwrap();
    assert_eq!(lab.snapshot().lookup(unclaimed, 1), Lookup::Unreachable(Unreachable::NoRoute));
    let claimed = [("100.64.9.9".parse().unwrap(), id(9))];
    let snapshot = lab.routing.snapshot(Bindings { v4: &claimed, pool: Pool::default().prefix(), exit: ExitUse::Auto });
    assert!(matches!(snapshot.lookup(unclaimed, 1), Lookup::To { hop, .. } if hop.node == id(9)));
}
