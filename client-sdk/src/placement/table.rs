//! The holder table of one file: weighted rendezvous, one slot a node, a cap on what fails together.
//! It decides once, at upload; repair replaces single slots later and never calls this for a whole file again.

use core::cmp::Reverse;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::layout::Code;
use shoal_protocol::{FileId, NodeId};

use super::rendezvous::score;
use super::{Domain, PlacementError, Warning};

/// A live node that may hold shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Who.
    pub node: NodeId,
    /// Bytes it offers.
    pub free_bytes: u64,
    /// 0..=1: how far it is trusted to keep what it takes; 1 for a node nobody knows yet.
    pub standing: f64,
    /// Failure domain declared by its operator.
    pub domain: Option<String>,
    /// Address others see it at.
    pub observed_ip: Option<IpAddr>,
}

impl Candidate {
    /// Free bytes times standing; 0 where either is missing or the standing is no number.
    fn weight(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "weights need no more than 53 bits")]
        let free = self.free_bytes as f64;
        if self.standing > 0.0 { free * self.standing.min(1.0) } else { 0.0 }
    }
}

/// What may be bent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Several slots on one node where nodes are few: for tests, worthless as protection.
    pub allow_colocate: bool,
}

/// A node with the domain it was placed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Who.
    pub node: NodeId,
    /// What it fails together with.
    pub domain: Domain,
}

/// Who holds what of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Holder of each slot: `(k+m) x replicas`; unit `u` of segment `s` sits in slot `(u+s) mod slots`.
    pub slots: Vec<Placed>,
    /// Who steps in when a holder refuses, best first.
    pub spares: Vec<Placed>,
    /// Copies placed, at least 1 and at most what was asked for.
    pub replicas: u8,
    /// Most slots the table allows one domain.
    pub domain_cap: usize,
    /// What the owner should know.
    pub warnings: Vec<Warning>,
}

/// The table of `file` among `candidates`, the same for every order they come in.
///
/// A candidate counts if its weight (free bytes x standing) is above 0 and it has room for `slot_bytes`, the bytes one
/// slot of this file takes. A domain holds at most `floor(m/2) x replicas` slots, or the smallest count that works.
///
/// # Errors
/// [`PlacementError::NotEnoughNodes`] below k+m distinct usable nodes, or below one with `allow_colocate`.
pub fn place(
    file: FileId,
    code: Code,
    replicas: u8,
    candidates: &[Candidate],
    slot_bytes: u64,
    rules: Rules,
) -> Result<Placement, PlacementError> {
    let ranked = rank(file, candidates, slot_bytes);
    let have = ranked.len();
    let least = if rules.allow_colocate { 1 } else { code.n() };
    if have < least {
        return Err(PlacementError::NotEnoughNodes { have, need: least });
    }
    let wanted = replicas.max(1);
    let mut warnings = Vec::new();
    let mut replicas = wanted;
    if have < code.n() * usize::from(wanted) && !rules.allow_colocate {
        replicas = u8::try_from(have / code.n()).unwrap_or(wanted);
        warnings.push(Warning::FewerReplicas { wanted, replicas });
    }
    let count = code.n() * usize::from(replicas);
    let (slots, spares, domain_cap) = if have < count {
        warnings.push(Warning::Colocated { nodes: have, slots: count });
        let slots: Vec<Placed> = ranked.iter().cycle().take(count).cloned().collect();
        (slots, Vec::new(), count.div_ceil(have))
    } else {
        let (wanted_cap, cap) = domain_cap(&ranked, code, replicas);
        if cap > wanted_cap {
            warnings.push(Warning::DomainCapRaised { wanted: wanted_cap, cap });
        }
        let (slots, spares) = fill(ranked, count, cap);
        (slots, spares, cap)
    };
    warnings.extend(fatal_domains(&slots, code));
    if spares.is_empty() {
        warnings.push(Warning::NoSpare);
    }
    Ok(Placement { slots, spares, replicas, domain_cap, warnings })
}

/// Usable candidates, best score first, ties by node id; of several with one id the first counts.
pub(super) fn rank(file: FileId, candidates: &[Candidate], slot_bytes: u64) -> Vec<Placed> {
    let mut seen = BTreeSet::new();
    let mut ranked: Vec<(f64, Placed)> = candidates
        .iter()
        .filter(|candidate| seen.insert(candidate.node))
        .filter(|candidate| candidate.free_bytes >= slot_bytes && candidate.weight() > 0.0)
        .map(|candidate| {
            let node = candidate.node;
            let domain = Domain::of(node, candidate.domain.as_deref(), candidate.observed_ip);
            (score(file.as_bytes(), &node, candidate.weight()), Placed { node, domain })
        })
        .collect();
    ranked.sort_unstable_by(|(a, left), (b, right)| b.total_cmp(a).then(left.node.cmp(&right.node)));
    ranked.into_iter().map(|(_, placed)| placed).collect()
}

/// Slots one domain should hold at most, and the smallest count from there up that works.
pub(super) fn domain_cap(ranked: &[Placed], code: Code, replicas: u8) -> (usize, usize) {
    let wanted = (code.m() / 2 * usize::from(replicas)).max(1);
    (wanted, feasible_cap(ranked, code.n() * usize::from(replicas), wanted))
}

/// The smallest cap from `wanted` up under which `count` slots find holders; there are at least `count` nodes.
fn feasible_cap(ranked: &[Placed], count: usize, wanted: usize) -> usize {
    let mut sizes: BTreeMap<&Domain, usize> = BTreeMap::new();
    for placed in ranked {
        *sizes.entry(&placed.domain).or_default() += 1;
    }
    let room = |cap: usize| sizes.values().map(|&size| size.min(cap)).sum::<usize>();
    (wanted..count).find(|&cap| room(cap) >= count).unwrap_or_else(|| count.max(wanted))
}

/// The first `count` in order that their domain has room for, and all others, in order.
fn fill(ranked: Vec<Placed>, count: usize, cap: usize) -> (Vec<Placed>, Vec<Placed>) {
    let mut held: BTreeMap<Domain, usize> = BTreeMap::new();
    let mut slots = Vec::with_capacity(count);
    let mut spares = Vec::new();
    for placed in ranked {
        let in_domain = held.entry(placed.domain.clone()).or_default();
        if slots.len() < count && *in_domain < cap {
            *in_domain += 1;
            slots.push(placed);
        } else {
            spares.push(placed);
        }
    }
    (slots, spares)
}

/// Domains whose loss takes more than m shard indices with all their copies. Slots that are equal mod n hold copies of
/// one index in every segment, because the table turns by one slot a segment and n divides its length.
fn fatal_domains(slots: &[Placed], code: Code) -> Vec<Warning> {
    let mut domains: BTreeMap<&Domain, usize> = BTreeMap::new();
    for placed in slots {
        *domains.entry(&placed.domain).or_default() += 1;
    }
    let lost = |domain: &Domain| {
        let all_copies = |&index: &usize| slots.iter().skip(index).step_by(code.n()).all(|slot| slot.domain == *domain);
        (0..code.n()).filter(all_copies).count()
    };
    let mut fatal: Vec<(&Domain, usize)> = domains.into_iter().filter(|(domain, _)| lost(domain) > code.m()).collect();
    fatal.sort_by_key(|&(domain, slots)| (Reverse(slots), domain));
    fatal.into_iter().map(|(domain, slots)| Warning::LosesFile { domain: domain.clone(), slots }).collect()
}
