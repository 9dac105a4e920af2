//! Five thousand nodes claim addresses, and two halves of a network that did not know each other meet: no two keep one
//! address, and who has used one for a day keeps it. Deterministic, without clock or socket.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ed25519_dalek::SigningKey;
use shoal_engine::mesh::claims::{ClaimEffect, Claims, Membership};
use shoal_protocol::mesh::address::Pool;
use shoal_protocol::mesh::claim::VerifiedClaim;
use shoal_protocol::{NetworkId, NodeId, Signed, UnixMillis};

const WALL: u64 = 1_700_000_000_000;
const HOUR: u64 = 3600 * 1000;
const COUNT: usize = 5_000;
/// Nodes that hear every claim; the others hear those of their own candidates, for no other claim can move them.
const WITNESSES: usize = 4;
/// Candidates whose claims a node hears: in the smallest pool nobody needs as many.
const CANDIDATES: u32 = 16;

struct Member {
    key: SigningKey,
    claims: Claims,
    candidates: BTreeSet<Ipv4Addr>,
    last: Option<VerifiedClaim>,
}

struct Crowd {
    pool: Pool,
    members: Vec<Member>,
    /// Who has a candidate.
    interested: BTreeMap<Ipv4Addr, Vec<usize>>,
    rehashes: usize,
}

fn network() -> NetworkId {
    NetworkId::from_bytes([7; 32])
}

impl Crowd {
    /// Each joined `age` hours before the world begins; `age` says so by number.
    fn new(pool: Pool, age: impl Fn(usize) -> u64) -> Self {
        let mut crowd = Self { pool, members: vec![], interested: BTreeMap::new(), rehashes: 0 };
        for n in 0..COUNT {
            let mut bytes = [0x5e; 32];
            bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
            let key = SigningKey::from_bytes(&bytes);
            let id = NodeId::from_bytes(key.verifying_key().to_bytes());
            let issued = UnixMillis(WALL - age(n) * HOUR);
            let claims = Claims::new(id, network(), pool, issued, None, UnixMillis(WALL));
            let candidates: BTreeSet<_> =
                (0..CANDIDATES).map(|attempt| pool.candidate(&network(), &id, attempt)).collect();
            for address in &candidates {
                crowd.interested.entry(*address).or_default().push(n);
            }
            crowd.members.push(Member { key, claims, candidates, last: None });
        }
        crowd
    }

    /// Claims what is to be claimed, and lets everybody within one `side` hear of it, until nobody moves.
    fn settle(&mut self, wall: UnixMillis, side: impl Fn(usize) -> usize) {
        for round in 0.. {
            assert!(round < 50, "claims do not come to rest");
            let mut news = vec![];
            for n in 0..COUNT {
                let member = &mut self.members[n];
                while let Some(effect) = member.claims.poll() {
                    if let ClaimEffect::Publish(claim) = effect {
                        self.rehashes += usize::from(claim.attempt > 0);
                        let signed = Signed::seal(&claim, &member.key, &network());
                        let claim = VerifiedClaim::verify(signed, &network()).unwrap();
                        member.last = Some(claim.clone());
                        news.push((n, claim));
                    }
                }
            }
            if news.is_empty() {
                return;
            }
            for (from, claim) in news {
                self.spread(from, &claim, wall, &side);
            }
        }
    }

    fn spread(&mut self, from: usize, claim: &VerifiedClaim, wall: UnixMillis, side: &impl Fn(usize) -> usize) {
        let address = claim.address(&network(), &self.pool);
        let interested = self.interested.get(&address).cloned().unwrap_or_default();
        let hearers: BTreeSet<usize> = (0..WITNESSES).chain(interested).collect();
        for to in hearers.into_iter().filter(|to| *to != from && side(*to) == side(from)) {
            self.members[to].claims.handle_claim(claim.clone(), Membership::Unticketed, wall).unwrap();
        }
    }

    fn pass(&mut self, wall: UnixMillis) {
        for member in &mut self.members {
            member.claims.handle_timeout(wall);
        }
    }

    fn addresses(&self) -> Vec<Ipv4Addr> {
        self.members.iter().map(|member| member.claims.own_address().unwrap()).collect()
    }

    fn clashes(&self, members: impl Iterator<Item = usize>) -> usize {
        let addresses: Vec<_> = members.map(|n| self.members[n].claims.own_address().unwrap()).collect();
        addresses.len() - addresses.iter().collect::<BTreeSet<_>>().len()
    }

    /// Everybody has an address of its own, and those who hear everything agree whose each is.
    fn assert_settled(&self) {
        assert_eq!(self.clashes(0..COUNT), 0);
        let mut known = self.members[..WITNESSES].iter().map(|member| member.claims.bindings().collect::<Vec<_>>());
        let first = known.next().unwrap();
        assert_eq!(first.len(), COUNT);
        assert!(known.all(|other| other == first));
        for (member, address) in self.members.iter().zip(self.addresses()) {
            assert!(member.candidates.contains(&address), "more candidates were needed than are heard of");
        }
    }
}

fn small() -> Pool {
    Pool::new("10.9.0.0/16".parse().unwrap()).unwrap()
}

#[test]
fn five_thousand_find_addresses_of_their_own() {
    for (pool, least) in [(Pool::default(), 1), (small(), 100)] {
        let mut crowd = Crowd::new(pool, |n| (n % 97) as u64);
        assert!(crowd.clashes(0..COUNT) >= least, "nothing to decide");
        crowd.settle(UnixMillis(WALL), |_| 0);
        crowd.assert_settled();
        assert!(crowd.rehashes >= least, "{} rehashes", crowd.rehashes);
    }
}

#[test]
fn two_halves_that_meet_have_no_clash_left_and_bindings_of_a_day_stay() {
    // The even half has run for two days when the odd half, which did so too, and newcomers with old tickets meet it.
    let newcomer = |n: usize| n % 5 == 4;
    let mut crowd = Crowd::new(small(), |n| if newcomer(n) { 1_000 } else { 100 + (n % 89) as u64 });
    let side = |n: usize| if newcomer(n) { 2 + n } else { n % 2 };
    crowd.settle(UnixMillis(WALL), side);
    for hours in 1..=48 {
        let wall = UnixMillis(WALL + hours * HOUR);
        crowd.pass(wall);
        if hours < 48 {
            crowd.settle(wall, side);
        }
    }
    let wall = UnixMillis(WALL + 48 * HOUR);
    // The newcomers come now: their binding is of this hour.
    for n in (0..COUNT).filter(|n| newcomer(*n)) {
        let (key, issued) = (crowd.members[n].key.clone(), UnixMillis(WALL - 1_000 * HOUR));
        let id = NodeId::from_bytes(key.verifying_key().to_bytes());
        crowd.members[n].claims = Claims::new(id, network(), small(), issued, None, wall);
        crowd.members[n].last = None;
    }
    crowd.settle(wall, side);
    let halves = |rest| (0..COUNT).filter(move |n| !newcomer(*n) && n % 2 == rest);
    assert_eq!((crowd.clashes(halves(0)), crowd.clashes(halves(1))), (0, 0));
    let (before, met) = (crowd.addresses(), crowd.clashes(0..COUNT));
    assert!(met > 100, "only {met} clashes");

    // They meet: everybody hears everybody's last claim.
    let all: Vec<(usize, VerifiedClaim)> =
        crowd.members.iter().enumerate().map(|(n, member)| (n, member.last.clone().unwrap())).collect();
    for (from, claim) in &all {
        crowd.spread(*from, claim, wall, &|_| 0);
    }
    crowd.settle(wall, |_| 0);
    crowd.assert_settled();

    // Whoever gave way did so to one of a day's standing that comes before it, never to a newcomer.
    let holders: BTreeMap<Ipv4Addr, usize> = crowd.addresses().into_iter().zip(0..).collect();
    let mut moved = 0;
    for n in (0..COUNT).filter(|n| crowd.members[*n].claims.own_address() != Some(before[*n])) {
        moved += 1;
        let winner = holders.get(&before[n]).copied().unwrap();
        if !newcomer(n) {
            assert!(!newcomer(winner), "{n} of a day's standing gave way to newcomer {winner}");
            assert_eq!(before[winner], before[n], "{winner} moved to where {n} was");
        }
    }
    assert!(moved > 100, "{moved} moved");
}
