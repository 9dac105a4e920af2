//! Who has which IPv4 address: the table of claims, and which address this node claims itself. It signs nothing and sends
//! nothing; the order of two claims is the protocol's ([`Claim::rank`]), so every member comes to the same holder.
//!
//! A node claims its first candidate and uses it. If somebody's claim of the same address ranks before its own, it takes
//! its next free candidate. A claim is signed again every six hours; one that was not for two days frees its address.

use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::limits::FRESHNESS_MS;
use shoal_protocol::mesh::address::Pool;
use shoal_protocol::mesh::claim::{ATTEMPT_MAX, CLAIM_LIFE_MAX_MS, Claim, Rank, VerifiedClaim};
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::{NetworkId, NodeId, Signed, UnixMillis};

/// Most members whose claims are remembered: eight times the largest network we test, about 5 MiB.
pub const CLAIMS_MAX: usize = 8192;
/// A node signs its claim again after this long, milliseconds: an eighth of its life.
pub const RENEW_MS: u64 = 6 * 3600 * 1000;

/// Since when somebody is a member, as far as the caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It is none.
    None,
    /// By a ticket of this issue time; a claim must name exactly it.
    Ticket(UnixMillis),
    /// There are no tickets here: its own word counts.
    Unticketed,
}

/// Why a claim was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NotClaimed {
    /// The claimer is no member.
    #[error("claim of somebody who is no member")]
    NoMember,
    /// It names another issue time than the claimer's ticket.
    #[error("claim names another issue time than the ticket")]
    WrongIssueTime,
    /// It says it used its binding before the claimer's last word of another one, or for longer than that did.
    #[error("claim is backdated")]
    Backdated,
    /// Signed more than two minutes from now.
    #[error("claim is from the future")]
    Future,
    /// It no longer counts.
    #[error("claim is over")]
    Expired,
    /// The table is full.
    #[error("no place for another claim")]
    Full,
}

impl NotClaimed {
    /// Whether only a liar sends such a claim. Clocks differ, tables fill, and tickets travel on their own.
    #[must_use]
    pub const fn is_lie(self) -> bool {
        matches!(self, Self::Backdated | Self::WrongIssueTime)
    }
}

/// What has to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimEffect {
    /// Sign this and flood it; it replaces what was signed before. It is to be kept durably as [`Saved`] too.
    Publish(Claim),
    /// The own address is this from now on; `None` when all candidates are taken.
    OwnAddress(Option<Ipv4Addr>),
    /// The claim of this member ended then, and nothing took its place.
    Ended(NodeId, UnixMillis),
    /// Somebody's address changed: snapshots made of [`Claims::bindings`] are out of date.
    BindingsChanged,
}

/// What a node remembers of its own claim between two runs: the last one it published.
pub type Saved = Claim;

#[derive(Debug)]
struct Own {
    attempt: u32,
    bound: UnixMillis,
    /// The last one published, or to be published.
    claim: Claim,
    address: Option<Ipv4Addr>,
}

#[derive(Debug)]
struct Member {
    claim: VerifiedClaim,
    address: Ipv4Addr,
}

/// All claims, and the own one.
#[derive(Debug)]
pub struct Claims {
    local: NodeId,
    network: NetworkId,
    pool: Pool,
    issued: UnixMillis,
    own: Own,
    /// Others, at most [`CLAIMS_MAX`].
    members: BTreeMap<NodeId, Member>,
    /// Who claims an address, best first; the own claim among them.
    contenders: BTreeMap<Ipv4Addr, BTreeSet<(Rank, NodeId)>>,
    expiries: BTreeSet<(UnixMillis, NodeId)>,
    /// Whose claims ended, until it is polled; at most [`CLAIMS_MAX`].
    ended: Vec<(NodeId, UnixMillis)>,
    publish: bool,
    told_address: Option<Option<Ipv4Addr>>,
    changed: bool,
}

impl Claims {
    /// Claims the candidate that was held in an earlier run if that claim still counts, else the first. `issued` is when
    /// this node became a member.
    #[must_use]
    pub fn new(
        local: NodeId,
        network: NetworkId,
        pool: Pool,
        issued: UnixMillis,
        saved: Option<Saved>,
        wall: UnixMillis,
    ) -> Self {
        let issued = issued.min(wall);
        let kept = saved.filter(|claim| wall < claim.expires && claim.attempt <= ATTEMPT_MAX);
        let time = kept.as_ref().map_or(wall, |claim| time_after(claim, wall));
        let (attempt, bound) = kept.map_or((0, time), |claim| (claim.attempt, claim.bound.clamp(issued, time)));
        let own = Own { attempt, bound, claim: claim(attempt, issued, bound, time), address: None };
        let mut claims = Self {
            local,
            network,
            pool,
            issued,
            own,
            members: BTreeMap::new(),
            contenders: BTreeMap::new(),
            expiries: BTreeSet::new(),
            ended: Vec::new(),
            publish: true,
            told_address: None,
            changed: false,
        };
        claims.enter_own();
        claims
    }

    /// The address this node uses now.
    #[must_use]
    pub const fn own_address(&self) -> Option<Ipv4Addr> {
        self.own.address
    }

    /// Who has `address`.
    #[must_use]
    pub fn holder(&self, address: Ipv4Addr) -> Option<NodeId> {
        self.contenders.get(&address)?.first().map(|(_, node)| *node)
    }

    /// The address `node` has.
    #[must_use]
    pub fn address_of(&self, node: &NodeId) -> Option<Ipv4Addr> {
        if *node == self.local {
            return self.own.address;
        }
        let address = self.members.get(node)?.address;
        (self.holder(address) == Some(*node)).then_some(address)
    }

    /// Every address that somebody has, this node's own among them, in order.
    pub fn bindings(&self) -> impl Iterator<Item = (Ipv4Addr, NodeId)> {
        self.contenders.iter().filter_map(|(address, set)| set.first().map(|(_, node)| (*address, *node)))
    }

    /// The claims of others as they were signed, for a neighbour that has none yet; in the order of their nodes.
    pub fn signed(&self) -> impl Iterator<Item = &Signed> {
        self.members.values().map(|member| member.claim.signed())
    }

    /// A claim came in. `true` if it is news and to be passed on.
    ///
    /// # Errors
    /// [`NotClaimed`] if it is not taken.
    pub fn handle_claim(
        &mut self,
        claim: VerifiedClaim,
        membership: Membership,
        wall: UnixMillis,
    ) -> Result<bool, NotClaimed> {
        let node = *claim.node();
        let said = claim.claim();
        match membership {
            Membership::None => return Err(NotClaimed::NoMember),
            Membership::Ticket(issued) if issued != said.issued => return Err(NotClaimed::WrongIssueTime),
            Membership::Ticket(_) | Membership::Unticketed => {}
        }
        if said.time > wall.saturating_add(FRESHNESS_MS) {
            return Err(NotClaimed::Future);
        }
        if said.expires <= wall {
            return Err(NotClaimed::Expired);
        }
        // The own word comes back from everywhere; what this node says is decided here.
        if node == self.local {
            return Ok(false);
        }
        if let Some(known) = self.members.get(&node) {
            let before = known.claim.claim();
            if said.time <= before.time {
                return Ok(false);
            }
            let earliest = if said.attempt == before.attempt { before.bound } else { before.time };
            if said.bound < earliest {
                return Err(NotClaimed::Backdated);
            }
        } else if self.members.len() >= CLAIMS_MAX {
            return Err(NotClaimed::Full);
        }
        self.forget(&node);
        let address = claim.address(&self.network, &self.pool);
        self.contenders.entry(address).or_default().insert((said.rank(PeerHash::of(&node)), node));
        self.expiries.insert((said.expires, node));
        self.members.insert(node, Member { claim, address });
        self.changed = true;
        self.yield_if_lost(wall);
        Ok(true)
    }

    /// Time passed: claims end, the own one is signed again. To be called at least once a minute.
    pub fn handle_timeout(&mut self, wall: UnixMillis) {
        while let Some((expires, node)) = self.expiries.first().copied().filter(|(expires, _)| *expires <= wall) {
            self.forget(&node);
            self.expiries.remove(&(expires, node));
            if self.ended.len() < CLAIMS_MAX {
                self.ended.push((node, expires));
            }
            self.changed = true;
        }
        // A node without an address tries again, for claims may have ended.
        if self.own.address.is_none() {
            self.rehash(wall);
        }
        if wall.0.saturating_sub(self.own.claim.time.0) >= RENEW_MS || is_of_future(&self.own.claim, wall) {
            self.leave_own();
            let time = time_after(&self.own.claim, wall);
            self.issued = self.issued.min(time);
            self.own.bound = self.own.bound.min(time);
            self.own.claim = claim(self.own.attempt, self.issued, self.own.bound, time);
            self.enter_own();
            self.publish = true;
            self.yield_if_lost(wall);
        }
    }

    /// The next thing to be done; drain it after every event.
    pub fn poll(&mut self) -> Option<ClaimEffect> {
        if self.told_address != Some(self.own.address) {
            self.told_address = Some(self.own.address);
            return Some(ClaimEffect::OwnAddress(self.own.address));
        }
        if std::mem::take(&mut self.publish) && self.own.address.is_some() {
            return Some(ClaimEffect::Publish(self.own.claim.clone()));
        }
        if let Some((node, expires)) = self.ended.pop() {
            return Some(ClaimEffect::Ended(node, expires));
        }
        std::mem::take(&mut self.changed).then_some(ClaimEffect::BindingsChanged)
    }

    /// Takes the claim of `node` out of everything.
    fn forget(&mut self, node: &NodeId) {
        let Some(member) = self.members.remove(node) else { return };
        let said = member.claim.claim();
        self.expiries.remove(&(said.expires, *node));
        self.leave(member.address, (said.rank(PeerHash::of(node)), *node));
    }

    fn leave(&mut self, address: Ipv4Addr, contender: (Rank, NodeId)) {
        if let Some(set) = self.contenders.get_mut(&address) {
            set.remove(&contender);
            if set.is_empty() {
                self.contenders.remove(&address);
            }
        }
    }

    fn own_contender(&self) -> (Rank, NodeId) {
        (self.own.claim.rank(PeerHash::of(&self.local)), self.local)
    }

    fn enter_own(&mut self) {
        let address = self.pool.candidate(&self.network, &self.local, self.own.attempt);
        self.own.address = Some(address);
        let contender = self.own_contender();
        self.contenders.entry(address).or_default().insert(contender);
        self.changed = true;
    }

    fn leave_own(&mut self) {
        if let Some(address) = self.own.address.take() {
            self.leave(address, self.own_contender());
            self.changed = true;
        }
    }

    fn yield_if_lost(&mut self, wall: UnixMillis) {
        let lost = self.own.address.is_some_and(|address| self.holder(address) != Some(self.local));
        if lost {
            self.rehash(wall);
        }
    }

    /// The next candidate nobody has a better claim to; none when all are taken.
    fn rehash(&mut self, wall: UnixMillis) {
        self.leave_own();
        let time = time_after(&self.own.claim, wall);
        self.issued = self.issued.min(time);
        // Each candidate once, beginning behind the one that was lost.
        for step in 1..=ATTEMPT_MAX.saturating_add(1) {
            let attempt = self.own.attempt.saturating_add(step) % ATTEMPT_MAX.saturating_add(1);
            let claim = claim(attempt, self.issued, time, time);
            let address = self.pool.candidate(&self.network, &self.local, attempt);
            let rank = claim.rank(PeerHash::of(&self.local));
            let best = self.contenders.get(&address).and_then(BTreeSet::first);
            if best.is_none_or(|best| (rank, self.local) < *best) {
                (self.own.attempt, self.own.bound, self.own.claim) = (attempt, time, claim);
                self.enter_own();
                self.publish = true;
                return;
            }
        }
    }
}

/// Whether a claim is from so far ahead that nobody takes it: it was signed with a clock that has been set back since.
fn is_of_future(claim: &Claim, wall: UnixMillis) -> bool {
    claim.time > wall.saturating_add(FRESHNESS_MS)
}

/// When the claim after this one is signed. Of two claims of one node the newer counts, so it is at a later time; but what
/// nobody took need not be outdone, and would not be by another that nobody takes.
fn time_after(before: &Claim, wall: UnixMillis) -> UnixMillis {
    if is_of_future(before, wall) { wall } else { wall.max(before.time.saturating_add(1)) }
}

fn claim(attempt: u32, issued: UnixMillis, bound: UnixMillis, time: UnixMillis) -> Claim {
    Claim { attempt, issued, bound, time, expires: time.saturating_add(CLAIM_LIFE_MAX_MS) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    const DAY: u64 = 24 * 3600 * 1000;
    const WALL: u64 = 1_700_000_000_000;

    fn network() -> NetworkId {
        NetworkId::from_bytes([7; 32])
    }

    fn signer(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes(signer(n).verifying_key().to_bytes())
    }

    fn at(days: u64) -> UnixMillis {
        UnixMillis(WALL + days * DAY)
    }

    fn sealed(n: u8, claim: &Claim) -> VerifiedClaim {
        VerifiedClaim::verify(Signed::seal(claim, &signer(n), &network()), &network()).unwrap()
    }

    fn table(n: u8, issued: UnixMillis, wall: UnixMillis) -> Claims {
        Claims::new(node(n), network(), Pool::default(), issued, None, wall)
    }

    fn published(claims: &mut Claims) -> Vec<Claim> {
        let mut out = vec![];
        while let Some(effect) = claims.poll() {
            if let ClaimEffect::Publish(claim) = effect {
                out.push(claim);
            }
        }
        out
    }

    /// An attempt of node `n` that gives one of the first candidates of `other`, in the smallest pool.
    fn clash(n: u8, other: u8) -> (Pool, u32, u32) {
        let pool = Pool::new("10.9.0.0/16".parse().unwrap()).unwrap();
        let theirs: BTreeMap<_, _> =
            (0..=ATTEMPT_MAX).map(|attempt| (pool.candidate(&network(), &node(other), attempt), attempt)).collect();
        let hit = (0..=ATTEMPT_MAX).find_map(|own| {
            let address = pool.candidate(&network(), &node(n), own);
            theirs.get(&address).map(|attempt| (own, *attempt))
        });
        let (own, attempt) = hit.unwrap();
        (pool, own, attempt)
    }

    /// Node 1 with a saved binding of `since`, and what node 2 claims of the same address.
    fn contest(own_issued: u64, own_since: u64, issued: u64, since: u64, wall: u64) -> (Claims, Ipv4Addr) {
        let (pool, own, attempt) = clash(1, 2);
        let saved = claim(own, at(own_issued), at(own_since), at(wall));
        let mut claims = Claims::new(node(1), network(), pool, at(own_issued), Some(saved), at(wall));
        let address = claims.own_address().unwrap();
        let other = claim(attempt, at(issued), at(since), at(wall));
        assert_eq!(claims.handle_claim(sealed(2, &other), Membership::Unticketed, at(wall)), Ok(true));
        (claims, address)
    }

    #[test]
    fn a_binding_of_a_day_stays_and_the_newcomer_goes() {
        let (claims, address) = contest(5, 10, 1, 12, 12);
        assert_eq!(claims.own_address(), Some(address));
        let (claims, address) = contest(1, 12, 5, 10, 12);
        assert_ne!(claims.own_address(), Some(address));
        assert_eq!(claims.holder(address), Some(node(2)));
        assert_eq!(claims.holder(claims.own_address().unwrap()), Some(node(1)));
    }

    #[test]
    fn after_a_partition_the_earlier_member_keeps_its_address() {
        let (claims, address) = contest(1, 2, 3, 4, 12);
        assert_eq!(claims.own_address(), Some(address));
        let (mut claims, address) = contest(3, 4, 1, 2, 12);
        assert_ne!(claims.own_address(), Some(address));
        let again = published(&mut claims).pop().unwrap();
        assert!(again.bound == again.time && again.time > at(12) && again.time < at(13), "{again:?}");
    }

    #[test]
    fn a_claim_that_ended_frees_its_address_and_renewal_keeps_it() {
        let (mut claims, address) = contest(3, 4, 1, 2, 12);
        claims.handle_timeout(UnixMillis(at(14).0 - 1));
        assert_eq!(claims.holder(address), Some(node(2)));
        claims.handle_timeout(at(14));
        assert_eq!(claims.holder(address), None);

        let mut claims = table(1, at(0), at(0));
        let first = published(&mut claims);
        assert_eq!(first.len(), 1);
        claims.handle_timeout(UnixMillis(at(0).0 + RENEW_MS - 1));
        assert!(published(&mut claims).is_empty());
        claims.handle_timeout(at(2));
        let again = published(&mut claims).pop().unwrap();
        assert_eq!((again.attempt, again.bound), (first[0].attempt, at(0)));
        assert!(again.is_established());
    }

    #[test]
    fn what_is_old_backdated_foreign_or_from_the_future_is_not_taken() {
        let mut claims = table(1, at(0), at(0));
        let mut hear = |claim: &Claim, membership| claims.handle_claim(sealed(2, claim), membership, at(12));
        let good = claim(0, at(1), at(10), at(11));
        assert_eq!(hear(&good, Membership::None), Err(NotClaimed::NoMember));
        assert_eq!(hear(&good, Membership::Ticket(at(2))), Err(NotClaimed::WrongIssueTime));
        assert_eq!(hear(&good, Membership::Ticket(at(1))), Ok(true));
        assert_eq!(hear(&good, Membership::Unticketed), Ok(false), "no news");
        let backdated = claim(1, at(1), at(10), at(12));
        assert_eq!(hear(&backdated, Membership::Unticketed), Err(NotClaimed::Backdated));
        let backdated = claim(0, at(1), at(9), at(12));
        assert_eq!(hear(&backdated, Membership::Unticketed), Err(NotClaimed::Backdated));
        assert_eq!(hear(&claim(1, at(1), at(12), at(13)), Membership::Unticketed), Err(NotClaimed::Future));
        assert_eq!(hear(&claim(0, at(1), at(9), at(10)), Membership::Unticketed), Err(NotClaimed::Expired));
        assert_eq!(hear(&claim(1, at(1), at(11), at(12)), Membership::Unticketed), Ok(true), "it moved");
        assert_eq!(claims.bindings().count(), 2);
    }

    #[test]
    fn a_claim_of_the_future_is_signed_again_once_the_clock_is_set_back() {
        // The clock was two days ahead, in the run before and in this one.
        let saved = claim(3, at(2), at(3), at(4));
        let mut claims = Claims::new(node(1), network(), Pool::default(), at(2), Some(saved.clone()), at(4));
        let ahead = published(&mut claims).pop().unwrap();
        assert_eq!(claims.handle_claim(sealed(1, &ahead), Membership::Unticketed, at(4)), Ok(false));
        claims.handle_timeout(at(2));
        let again = published(&mut claims).pop().unwrap();
        assert_eq!((again.attempt, again.issued, again.bound, again.time), (3, at(2), at(2), at(2)));
        claims.handle_timeout(at(1));
        let again = published(&mut claims).pop().unwrap();
        assert_eq!((again.issued, again.bound, again.time), (at(1), at(1), at(1)), "times in their order");
        assert_eq!(table(2, at(1), at(1)).handle_claim(sealed(1, &again), Membership::Unticketed, at(1)), Ok(true));
        claims.handle_timeout(at(1));
        assert!(published(&mut claims).is_empty(), "once");
        let back = published(&mut Claims::new(node(1), network(), Pool::default(), at(2), Some(saved), at(2)));
        assert_eq!((back[0].attempt, back[0].bound, back[0].time), (3, at(2), at(2)));
    }

    #[test]
    fn whose_claim_ended_is_said_once_with_its_end() {
        let (mut claims, _) = contest(3, 4, 1, 2, 12);
        while claims.poll().is_some() {}
        claims.handle_timeout(at(15));
        let said: Vec<_> = std::iter::from_fn(|| claims.poll()).collect();
        assert!(said.contains(&ClaimEffect::Ended(node(2), at(14))), "{said:?}");
        claims.handle_timeout(at(15));
        assert_eq!(claims.poll(), None);
    }

    #[test]
    fn a_restart_goes_on_with_its_binding_unless_it_was_away_too_long() {
        let saved = claim(3, at(0), at(1), at(5));
        let make = |wall| Claims::new(node(1), network(), Pool::default(), at(0), Some(saved.clone()), wall);
        let back = published(&mut make(at(6))).pop().unwrap();
        assert_eq!((back.attempt, back.bound), (3, at(1)));
        let back = published(&mut make(at(8))).pop().unwrap();
        assert_eq!((back.attempt, back.bound), (0, at(8)));
    }
}
