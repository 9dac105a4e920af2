//! Ways that cost more because frames by them do not arrive: they are left, taken again, and keep nobody else out.

use super::*;

const PENALTY: u32 = 1 << 21;

fn host() -> Prefix {
    host_prefix(&network(), &id(9))
}

/// `from` tells that node 9 is at `metric`.
fn tell(lab: &mut Lab, from: u8, seqno: u32, metric: u32, ms: u64) {
    let told = RouteUpdate { origin: origin(9, host(), seqno), metric, max_frame: FRAME_MAX, relayed: false };
    let message = lab.message(from, vec![told]);
    assert_eq!(lab.hear(from, message, ms), Ok(()));
}

fn hops(lab: &Lab, ms: u64) -> Vec<NodeId> {
    let all = lab.routing.candidates(&id(9), 8, at(ms));
    all.into_iter().filter(|candidate| candidate.in_use).map(|candidate| candidate.hop).collect()
}

#[test]
fn a_way_that_costs_more_is_left_and_taken_again_when_it_does_not() {
    let mut lab = Lab::new(&[2, 3, 4]);
    tell(&mut lab, 2, 1, 100, 10);
    tell(&mut lab, 3, 1, 150, 20);
    assert_eq!(lab.routing.candidates(&id(9), 8, at(20)).len(), 2);
    assert_eq!(hops(&lab, 20), [id(2)]);
    lab.wait(120, 400);
    lab.routing.handle_penalty(&id(9), id(2), PENALTY, at(500));
    lab.drain(500);
    assert_eq!(hops(&lab, 500), [id(3)]);
    lab.routing.handle_penalty(&id(9), id(2), 0, at(600));
    lab.drain(600);
    assert_eq!(hops(&lab, 600), [id(2)]);
    assert!(lab.routing.destinations[&host()].marks.is_empty());
}

#[test]
fn a_liars_short_way_keeps_honest_ones_out_only_until_their_router_counts_on() {
    let mut lab = Lab::new(&[2, 3, 4]);
    // A liar tells of one point; this node tells it on, and what is farther is not feasible from then on.
    tell(&mut lab, 2, 1, 1, 10);
    lab.wait(120, 400);
    tell(&mut lab, 3, 1, 500, 450);
    assert_eq!(lab.routing.candidates(&id(9), 8, at(460)).len(), 1);
    lab.routing.handle_penalty(&id(9), id(2), PENALTY, at(500));
    lab.wait(550, 900);
    // It is asked for a newer number, and the one who knows is asked too.
    let asked = lab.sent_to(3).flat_map(|message| &message.requests).last();
    assert!(asked.is_some_and(|request| (request.prefix, request.seqno) == (host(), 2)), "{asked:?}");
    // With it the liar is as near as ever, and is not believed.
    tell(&mut lab, 2, 2, 1, 1_000);
    lab.wait(1_050, 1_300);
    tell(&mut lab, 3, 2, 500, 1_400);
    assert_eq!(hops(&lab, 1_400), [id(3)]);
    lab.wait(1_450, 1_700);
    let told = lab.sent_to(4).flat_map(|message| &message.updates).last().unwrap();
    assert!((500..2_000).contains(&told.metric), "{}", told.metric);
}

#[test]
fn marks_are_bounded_and_end_with_their_last() {
    let mut lab = Lab::new(&[2]);
    lab.routing.handle_penalty(&id(9), id(2), PENALTY, at(5));
    assert!(!lab.routing.destinations.contains_key(&host()), "nothing is known of it");
    tell(&mut lab, 2, 1, 100, 10);
    for n in 10..60 {
        lab.routing.handle_penalty(&id(9), id(n), PENALTY, at(20));
    }
    assert_eq!(lab.routing.destinations[&host()].marks.len(), crate::mesh::watch::HOPS_MAX);
    for n in 10..60 {
        lab.routing.handle_penalty(&id(9), id(n), 0, at(30));
    }
    assert!(lab.routing.destinations[&host()].marks.is_empty());
}

#[test]
fn a_request_goes_by_another_neighbour_each_time() {
    let mut lab = Lab::new(&[2, 3, 4, 5]);
    tell(&mut lab, 2, 1, 100, 10);
    tell(&mut lab, 3, 1, 300, 20);
    tell(&mut lab, 4, 1, 400, 30);
    lab.wait(150, 400);
    lab.ask(5, host(), router(9), 2, 500);
    lab.wait(550, 5_500);
    let asked = |n: u8| lab.sent_to(n).flat_map(|message| &message.requests).filter(|asked| asked.seqno == 2).count();
    assert_eq!([asked(2), asked(3), asked(4)], [2, 1, 1], "the way packets go, then the others, then again");
}
