//! Who has which label: the table of name claims, and what this node claims itself. It signs nothing and sends nothing; the
//! order of two claims is the protocol's ([`NameClaim::rank`]), so every member comes to the same holder.
//!
//! Unlike an address, a label is no node's to choose another instead: whoever's claim does not rank first keeps claiming,
//! is told who has the label, and gets it when the holder's claim ends. A claim is signed again as often as that of an
//! address, and ends like it.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::limits::FRESHNESS_MS;
use shoal_protocol::mesh::claim::{CLAIM_LIFE_MAX_MS, Rank};
use shoal_protocol::mesh::name::{HostLabel, NameClaim, VerifiedName};
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::{NodeId, UnixMillis};

use crate::mesh::claims::{CLAIMS_MAX, Membership, NotClaimed, RENEW_MS};

/// Most members whose names are remembered: as many as of addresses; 4 MiB.
pub const NAMES_MAX: usize = CLAIMS_MAX;

/// What has to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameEffect {
    /// Sign this, flood it and keep it durably; it replaces what was signed before.
    Publish(NameClaim),
    /// Somebody's name changed: zones made before are out of date.
    Changed,
}

/// All name claims, and the own one.
#[derive(Debug)]
pub struct Names {
    local: NodeId,
    /// The last one published, or to be published; none while this node never had a name.
    own: Option<NameClaim>,
    /// Others, at most [`NAMES_MAX`].
    members: BTreeMap<NodeId, VerifiedName>,
    /// Who claims a label, best first; the own claim among them.
    contenders: BTreeMap<HostLabel, BTreeSet<(Rank, NodeId)>>,
    expiries: BTreeSet<(UnixMillis, NodeId)>,
    publish: bool,
    changed: bool,
}

impl Names {
    /// Nobody has a name.
    #[must_use]
    pub const fn new(local: NodeId) -> Self {
        Self {
            local,
            own: None,
            members: BTreeMap::new(),
            contenders: BTreeMap::new(),
            expiries: BTreeSet::new(),
            publish: false,
            changed: false,
        }
    }

    /// This node would like `label`, or none. `saved` is the last claim of the run before: the same label is gone on with
    /// while that counts, another one or none takes its place with everybody. `issued` is when this node became a member.
    pub fn claim(&mut self, label: Option<HostLabel>, saved: Option<NameClaim>, issued: UnixMillis, wall: UnixMillis) {
        let issued = issued.min(wall);
        let before = self.own.take().or(saved).filter(|claim| claim.expires > wall);
        self.leave_own(before.as_ref());
        let had_one = before.as_ref().is_some_and(|claim| claim.label.is_some());
        if label.is_none() && !had_one {
            return;
        }
        // Signed at a later time than the one before, also where the clock was set back.
        let time = before.as_ref().map_or(wall, |claim| time_after(claim, wall)).max(issued);
        let bound = match &before {
            Some(claim) if claim.label == label => claim.bound.clamp(issued, time),
            _ => time,
        };
        self.enter_own(signed_at(label, issued, bound, time));
    }

    /// Who has `label`.
    #[must_use]
    pub fn holder(&self, label: &HostLabel) -> Option<NodeId> {
        self.contenders.get(label)?.first().map(|(_, node)| *node)
    }

    /// The label `node` has.
    #[must_use]
    pub fn label_of(&self, node: &NodeId) -> Option<&HostLabel> {
        let claim = if node == &self.local { self.own.as_ref()? } else { self.members.get(node)?.claim() };
        claim.label.as_ref().filter(|label| self.holder(label) == Some(*node))
    }

    /// The label this node claims, and who has it.
    #[must_use]
    pub fn own(&self) -> Option<(&HostLabel, NodeId)> {
        let label = self.own.as_ref()?.label.as_ref()?;
        Some((label, self.holder(label)?))
    }

    /// Every label that somebody has, in order.
    pub fn holders(&self) -> impl Iterator<Item = (&HostLabel, NodeId)> {
        self.contenders.iter().filter_map(|(label, set)| set.first().map(|(_, node)| (label, *node)))
    }

    /// A claim came in. `true` if it is news and to be passed on.
    ///
    /// # Errors
    /// [`NotClaimed`] if it is not taken.
    pub fn handle_claim(
        &mut self,
        claim: VerifiedName,
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
            let before = known.claim();
            if said.time <= before.time {
                return Ok(false);
            }
            let earliest = if said.label == before.label { before.bound } else { before.time };
            if said.bound < earliest {
                return Err(NotClaimed::Backdated);
            }
        } else if self.members.len() >= NAMES_MAX {
            return Err(NotClaimed::Full);
        }
        self.forget(&node);
        if let Some(label) = &said.label {
            let contender = (said.rank(PeerHash::of(&node)), node);
            self.contenders.entry(label.clone()).or_default().insert(contender);
        }
        self.expiries.insert((said.expires, node));
        self.members.insert(node, claim);
        self.changed = true;
        Ok(true)
    }

    /// Time passed: claims end, the own one is signed again. To be called at least once a minute.
    pub fn handle_timeout(&mut self, wall: UnixMillis) {
        while let Some((expires, node)) = self.expiries.first().copied().filter(|(expires, _)| *expires <= wall) {
            self.forget(&node);
            self.expiries.remove(&(expires, node));
            self.changed = true;
        }
        // What gives up a name need not be said again: the claim it replaced ends no later.
        let is_old = |own: &NameClaim| wall.0.saturating_sub(own.time.0) >= RENEW_MS || is_of_future(own, wall);
        if let Some(own) = self.own.take_if(|own| own.label.is_some() && is_old(own)) {
            self.leave_own(Some(&own));
            let time = time_after(&own, wall);
            self.enter_own(signed_at(own.label, own.issued.min(time), own.bound.min(time), time));
        }
    }

    /// The next thing to be done; drain it after every event.
    pub fn poll(&mut self) -> Option<NameEffect> {
        if std::mem::take(&mut self.publish)
            && let Some(own) = &self.own
        {
            return Some(NameEffect::Publish(own.clone()));
        }
        std::mem::take(&mut self.changed).then_some(NameEffect::Changed)
    }

    fn enter_own(&mut self, claim: NameClaim) {
        if let Some(label) = &claim.label {
            let contender = (claim.rank(PeerHash::of(&self.local)), self.local);
            self.contenders.entry(label.clone()).or_default().insert(contender);
        }
        self.own = Some(claim);
        (self.publish, self.changed) = (true, true);
    }

    fn leave_own(&mut self, claim: Option<&NameClaim>) {
        if let Some(claim) = claim {
            self.leave(claim, self.local);
        }
    }

    /// Takes the claim of `node` out of everything.
    fn forget(&mut self, node: &NodeId) {
        let Some(member) = self.members.remove(node) else { return };
        self.expiries.remove(&(member.claim().expires, *node));
        self.leave(member.claim(), *node);
    }

    fn leave(&mut self, claim: &NameClaim, node: NodeId) {
        if let Some(label) = &claim.label
            && let Some(set) = self.contenders.get_mut(label)
        {
            set.remove(&(claim.rank(PeerHash::of(&node)), node));
            if set.is_empty() {
                self.contenders.remove(label);
            }
        }
    }
}

/// As of claims of addresses: whether nobody takes it, for it was signed with a clock that has been set back since.
fn is_of_future(claim: &NameClaim, wall: UnixMillis) -> bool {
    claim.time > wall.saturating_add(FRESHNESS_MS)
}

/// As of claims of addresses: when the one after this is signed.
fn time_after(before: &NameClaim, wall: UnixMillis) -> UnixMillis {
    if is_of_future(before, wall) { wall } else { wall.max(before.time.saturating_add(1)) }
}

fn signed_at(label: Option<HostLabel>, issued: UnixMillis, bound: UnixMillis, time: UnixMillis) -> NameClaim {
    NameClaim { label, issued, bound, time, expires: time.saturating_add(CLAIM_LIFE_MAX_MS) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;
    use shoal_protocol::{NetworkId, Signed};

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

    fn label(text: &str) -> HostLabel {
        text.parse().unwrap()
    }

    fn said(text: &str, issued: u64, bound: u64, time: u64) -> NameClaim {
        signed_at(Some(label(text)), at(issued), at(bound), at(time))
    }

    fn sealed(n: u8, claim: &NameClaim) -> VerifiedName {
        VerifiedName::verify(Signed::seal(claim, &signer(n), &network()), &network()).unwrap()
    }

    fn hear(names: &mut Names, n: u8, claim: &NameClaim, wall: u64) -> Result<bool, NotClaimed> {
        names.handle_claim(sealed(n, claim), Membership::Unticketed, at(wall))
    }

    fn published(names: &mut Names) -> Vec<NameClaim> {
        let mut out = vec![];
        while let Some(effect) = names.poll() {
            if let NameEffect::Publish(claim) = effect {
                out.push(claim);
            }
        }
        out
    }

    #[test]
    fn everybody_comes_to_the_same_holder_whatever_order_claims_come_in() {
        let claims = [(2, said("nas", 5, 9, 11)), (3, said("nas", 1, 11, 11)), (4, said("nas", 2, 9, 11))];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
            let mut names = Names::new(node(1));
            for at in order {
                let (n, claim) = &claims[at];
                assert_eq!(hear(&mut names, *n, claim, 11), Ok(true));
            }
            // 3 is the earliest member, but has claimed it since today only; of the others 4 is earlier.
            assert_eq!(names.holder(&label("nas")), Some(node(4)));
            assert_eq!(names.label_of(&node(4)), Some(&label("nas")));
            assert_eq!((names.label_of(&node(2)), names.label_of(&node(3))), (None, None));
            // It takes another one: the next in the order has it.
            assert_eq!(hear(&mut names, 4, &said("box", 2, 12, 12), 12), Ok(true));
            assert_eq!(names.holder(&label("nas")), Some(node(2)));
            assert_eq!(names.holders().count(), 2);
        }
    }

    #[test]
    fn who_loses_a_label_is_told_and_gets_it_when_the_holder_is_gone() {
        let mut names = Names::new(node(1));
        names.claim(Some(label("nas")), None, at(3), at(12));
        assert_eq!(published(&mut names).len(), 1);
        assert_eq!(names.own(), Some((&label("nas"), node(1))));
        assert_eq!(hear(&mut names, 2, &said("nas", 1, 10, 12), 12), Ok(true));
        assert_eq!(names.own(), Some((&label("nas"), node(2))));
        assert_eq!(names.label_of(&node(1)), None);
        assert!(published(&mut names).is_empty(), "it says nothing else instead");
        names.handle_timeout(at(14));
        assert_eq!(names.own(), Some((&label("nas"), node(1))));
        let again = published(&mut names).pop().unwrap();
        assert_eq!((again.bound, again.time), (at(12), at(14)), "signed again with its first day");
    }

    #[test]
    fn a_restart_goes_on_with_its_label_and_another_or_none_replaces_it() {
        let saved = said("nas", 0, 1, 5);
        let run = |text: Option<&str>, wall| {
            let mut names = Names::new(node(1));
            names.claim(text.map(label), Some(saved.clone()), at(0), at(wall));
            published(&mut names).pop()
        };
        let back = run(Some("nas"), 6).unwrap();
        assert_eq!((back.bound, back.time), (at(1), at(6)));
        assert_eq!(run(Some("nas"), 8).unwrap().bound, at(8), "it was away for too long");
        let other = run(Some("box"), 6).unwrap();
        assert_eq!((other.label, other.bound), (Some(label("box")), at(6)));
        let none = run(None, 6).unwrap();
        assert_eq!((none.label.as_ref(), none.time), (None, at(6)));
        assert_eq!(run(None, 8), None, "what ended need not be given up");
        // Heard by somebody else, it frees the label.
        let mut names = Names::new(node(2));
        assert_eq!(hear(&mut names, 1, &saved, 5), Ok(true));
        assert_eq!(hear(&mut names, 1, &none, 6), Ok(true));
        assert_eq!(names.holders().count(), 0);
        assert_eq!(hear(&mut names, 1, &saved, 6), Ok(false), "and the claim before is no news again");
    }

    #[test]
    fn what_is_old_backdated_foreign_or_from_the_future_is_not_taken() {
        let mut names = Names::new(node(1));
        let mut hear = |claim: &NameClaim, membership| names.handle_claim(sealed(2, claim), membership, at(12));
        let good = said("nas", 1, 10, 11);
        assert_eq!(hear(&good, Membership::None), Err(NotClaimed::NoMember));
        assert_eq!(hear(&good, Membership::Ticket(at(2))), Err(NotClaimed::WrongIssueTime));
        assert_eq!(hear(&good, Membership::Ticket(at(1))), Ok(true));
        assert_eq!(hear(&good, Membership::Unticketed), Ok(false), "no news");
        assert_eq!(hear(&said("box", 1, 10, 12), Membership::Unticketed), Err(NotClaimed::Backdated));
        assert_eq!(hear(&said("nas", 1, 9, 12), Membership::Unticketed), Err(NotClaimed::Backdated));
        assert_eq!(hear(&said("nas", 1, 12, 13), Membership::Unticketed), Err(NotClaimed::Future));
        assert_eq!(hear(&said("nas", 1, 9, 10), Membership::Unticketed), Err(NotClaimed::Expired));
        assert_eq!(hear(&said("box", 1, 11, 12), Membership::Unticketed), Ok(true), "it took another one");
        assert_eq!(names.holders().map(|(label, _)| label.as_str()).collect::<Vec<_>>(), ["box"]);
    }
}
