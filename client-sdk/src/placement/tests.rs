//! Tests of the holder table: determinism, balance, weights, movement, domains, replicas.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::hash::{RENDEZVOUS, derive};
use shoal_protocol::layout::Code;
use shoal_protocol::{FileId, NodeId};

use super::*;

fn node(n: u16) -> NodeId {
    NodeId::from_bytes(derive(RENDEZVOUS, &[b"test node", &n.to_le_bytes()]))
}

fn file(n: u32) -> FileId {
    FileId::from_bytes(derive(RENDEZVOUS, &[b"test file", &n.to_le_bytes()]))
}

fn candidates(count: u16) -> Vec<Candidate> {
    let one = |n| Candidate { node: node(n), free_bytes: 1 << 40, standing: 1.0, domain: None, observed_ip: None };
    (0..count).map(one).collect()
}

fn code(k: usize, m: usize) -> Code {
    Code::new(k, m).unwrap()
}

fn simple(n: u32, code: Code, candidates: &[Candidate]) -> Placement {
    place(file(n), code, 1, candidates, 1 << 20, Rules::default()).unwrap()
}

fn nodes(placed: &[Placed]) -> Vec<NodeId> {
    placed.iter().map(|placed| placed.node).collect()
}

#[test]
fn table_is_the_same_everywhere() {
    let mut some = candidates(12);
    for (at, candidate) in some.iter_mut().enumerate() {
        candidate.free_bytes = (at as u64 + 1) << 33;
        candidate.standing = 1.0 - at as f64 / 40.0;
    }
    let first = simple(7, code(4, 2), &some);
    some.reverse();
    assert_eq!(simple(7, code(4, 2), &some), first);
    let order: Vec<u16> = nodes(&[first.slots, first.spares].concat())
        .iter()
        .map(|id| (0..12).find(|&n| node(n) == *id).unwrap())
        .collect();
    // Golden: a change here would place every file anew.
    assert_eq!(order, [7, 8, 4, 10, 9, 11, 2, 5, 6, 3, 1, 0]);
    let naive = |n: &u16| {
        let hash = derive(RENDEZVOUS, &[file(7).as_bytes(), node(*n).as_bytes()]);
        let u = u64::from_be_bytes(hash[..8].try_into().unwrap()) as f64 / 2f64.powi(64);
        let weight = f64::from(n + 1) * (1.0 - f64::from(*n) / 40.0);
        -weight / u.ln()
    };
    assert!(order.is_sorted_by(|left, right| naive(left) > naive(right)));
}

#[test]
fn equal_nodes_get_equal_shares() {
    let some = candidates(20);
    let files = 3000u32;
    let mut held: BTreeMap<NodeId, f64> = BTreeMap::new();
    for n in 0..files {
        for holder in nodes(&simple(n, code(4, 2), &some).slots) {
            *held.entry(holder).or_default() += 1.0;
        }
    }
    let expected = f64::from(files) * 6.0 / 20.0;
    let chi_square: f64 = some
        .iter()
        .map(|candidate| (held.get(&candidate.node).copied().unwrap_or(0.0) - expected).powi(2) / expected)
        .sum();
    // 19 degrees of freedom: 43.8 is exceeded once in a thousand times; drawing without replacement only lowers it.
    assert!(chi_square < 43.8, "{chi_square}");
}

#[test]
fn first_slot_follows_the_weights() {
    let mut some = candidates(4);
    some[1].free_bytes *= 3;
    some[2].standing = 0.5;
    some[3].standing = 0.0;
    let files = 9000u32;
    let mut first = BTreeMap::new();
    for n in 0..files {
        let placement = simple(n, code(1, 1), &some);
        assert!(!nodes(&placement.slots).contains(&some[3].node));
        *first.entry(placement.slots[0].node).or_insert(0u32) += 1;
    }
    for (at, share) in [(0, 1.0 / 4.5), (1, 3.0 / 4.5), (2, 0.5 / 4.5)] {
        let got = f64::from(first[&some[at].node]) / f64::from(files);
        assert!((got - share).abs() < 0.02, "candidate {at}: {got} of {share}");
    }
}

#[test]
fn one_more_node_takes_its_share_and_no_more() {
    let before = candidates(19);
    let after = candidates(20);
    let (files, mut moved) = (1000u32, 0);
    for n in 0..files {
        let old: BTreeSet<NodeId> = nodes(&simple(n, code(4, 2), &before).slots).into_iter().collect();
        let new: BTreeSet<NodeId> = nodes(&simple(n, code(4, 2), &after).slots).into_iter().collect();
        let arrived: Vec<_> = new.difference(&old).collect();
        assert!(arrived.is_empty() || arrived == [&node(19)]);
        moved += arrived.len();
    }
    let share = moved as f64 / (f64::from(files) * 6.0);
    assert!((share - 1.0 / 20.0).abs() < 0.01, "{share}");
}

#[test]
fn slots_and_spares_are_all_usable_candidates_once() {
    let mut some = candidates(10);
    some[3].free_bytes = 1000;
    some[4].standing = f64::NAN;
    some[5].standing = -1.0;
    some.push(some[0].clone());
    let placement = simple(1, code(3, 2), &some);
    let all = nodes(&[placement.slots.clone(), placement.spares.clone()].concat());
    assert_eq!(all.len(), 7);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 7);
    assert_eq!((placement.slots.len(), placement.warnings.len()), (5, 0));
}

#[test]
fn too_few_nodes_are_an_error_below_n_only() {
    let error = place(file(1), code(4, 2), 1, &candidates(5), 0, Rules::default()).unwrap_err();
    assert_eq!(error, PlacementError::NotEnoughNodes { have: 5, need: 6 });
    assert!(error.retryable());
    assert_eq!(simple(1, code(4, 2), &candidates(6)).warnings, [Warning::NoSpare]);
    assert!(place(file(1), code(4, 2), 1, &[], 0, Rules { allow_colocate: true }).is_err());
}

#[test]
fn copies_shrink_to_the_nodes_there_are() {
    let place = |count, rules| place(file(1), code(2, 1), 3, &candidates(count), 0, rules).unwrap();
    let full = place(9, Rules::default());
    assert_eq!((full.slots.len(), full.replicas, full.warnings), (9, 3, vec![Warning::NoSpare]));
    let less = place(8, Rules::default());
    assert_eq!((less.slots.len(), less.replicas, less.spares.len()), (6, 2, 2));
    assert_eq!(less.warnings, [Warning::FewerReplicas { wanted: 3, replicas: 2 }]);
    let shared = place(8, Rules { allow_colocate: true });
    assert_eq!((shared.slots.len(), shared.replicas), (9, 3));
    assert_eq!(shared.slots[8], shared.slots[0]);
}

#[test]
fn colocation_wraps_around_and_says_so() {
    let placement = place(file(1), code(4, 2), 1, &candidates(2), 0, Rules { allow_colocate: true }).unwrap();
    assert_eq!(placement.slots[0], placement.slots[4]);
    assert!(placement.warnings.contains(&Warning::Colocated { nodes: 2, slots: 6 }));
    let fatal = placement.warnings.iter().filter(|warning| matches!(warning, Warning::LosesFile { slots: 3, .. }));
    assert_eq!(fatal.count(), 2);
}

fn in_domains(sizes: &[u16]) -> Vec<Candidate> {
    let mut some = candidates(sizes.iter().sum());
    let labels = sizes.iter().enumerate().flat_map(|(at, &size)| (0..size).map(move |_| format!("site{at}")));
    for (candidate, label) in some.iter_mut().zip(labels) {
        candidate.domain = Some(label);
    }
    some
}

fn most_in_one_domain(placement: &Placement) -> usize {
    let mut held: BTreeMap<&Domain, usize> = BTreeMap::new();
    for placed in &placement.slots {
        *held.entry(&placed.domain).or_default() += 1;
    }
    held.values().copied().max().unwrap_or(0)
}

#[test]
fn domains_are_capped_where_feasible() {
    for n in 0..50 {
        // 4+4: two a domain are wanted.
        let roomy = simple(n, code(4, 4), &in_domains(&[5, 5, 5, 5]));
        assert_eq!((roomy.domain_cap, most_in_one_domain(&roomy), roomy.warnings.len()), (2, 2, 0));
        // Two domains: four each is the smallest count that works, and still no domain takes the file with it.
        let tight = simple(n, code(4, 4), &in_domains(&[9, 9]));
        assert_eq!((tight.domain_cap, most_in_one_domain(&tight)), (4, 4));
        assert_eq!(tight.warnings, [Warning::DomainCapRaised { wanted: 2, cap: 4 }]);
        // One large and one small: six in the large one.
        let lopsided = simple(n, code(4, 4), &in_domains(&[9, 2]));
        let loss = Warning::LosesFile { domain: Domain::Label("site0".into()), slots: 6 };
        assert_eq!(lopsided.warnings, [Warning::DomainCapRaised { wanted: 2, cap: 6 }, loss.clone()]);
        assert_eq!(loss.to_string(), "losing site0 loses this file (6 slots there)");
        // Nodes at home addresses are domains of their own.
        assert_eq!(simple(n, code(4, 4), &candidates(9)).warnings, []);
    }
}

#[test]
fn one_parity_shard_still_spreads() {
    let spread = simple(1, code(2, 1), &in_domains(&[4, 4, 4]));
    assert_eq!((spread.domain_cap, most_in_one_domain(&spread), spread.warnings.len()), (1, 1, 0));
}

#[test]
fn copies_in_one_domain_count_by_index() {
    // Two copies of 1+1 over two sites: a site is lost with at most one index complete, unless it has both.
    let placement = place(file(3), code(1, 1), 2, &in_domains(&[2, 2]), 0, Rules::default()).unwrap();
    assert_eq!(placement.slots.len(), 4);
    assert!(placement.warnings.iter().all(|warning| !matches!(warning, Warning::LosesFile { .. })));
    let one_site = place(file(3), code(1, 1), 2, &in_domains(&[4]), 0, Rules::default()).unwrap();
    assert!(one_site.warnings.iter().any(|warning| matches!(warning, Warning::LosesFile { slots: 4, .. })));
}
