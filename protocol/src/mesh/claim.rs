//! An IPv4 claim: which of its candidate addresses a node uses, since when, until when. It decides nothing; the order of
//! two claims for one address is here because every member must come to the same one.
//!
//! The network is in the signature and the peer is its signer, so neither can be said wrongly.

use core::net::Ipv4Addr;

use minicbor::{Decode, Encode};

use crate::codec::{Bounded, ensure};
use crate::id::NodeId;
use crate::mesh::address::Pool;
use crate::mesh::peer_hash::PeerHash;
use crate::network::NetworkId;
use crate::signed::{Forged, Signed, Statement};
use crate::units::UnixMillis;

/// Most tries of one node. With a pool three quarters full, a 1,024th try is needed with a chance of 2^-425.
pub const ATTEMPT_MAX: u32 = 1023;
/// Longest a claim counts without being signed again, milliseconds: two days, so that a machine that is off for a night
/// and a day comes back to its address.
pub const CLAIM_LIFE_MAX_MS: u64 = 48 * 3600 * 1000;
/// A binding that was used for this long stays when a newcomer claims its address, milliseconds: one day.
pub const ESTABLISHED_MS: u64 = 24 * 3600 * 1000;

/// Signed by the node that claims.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Claim {
    /// Which candidate of the pool: 0 and upwards, at most [`ATTEMPT_MAX`].
    #[n(0)]
    pub attempt: u32,
    /// When the node became a member: the issue time of its ticket, or, where there are no tickets, when it first joined.
    #[n(1)]
    pub issued: UnixMillis,
    /// Since when it has used this candidate without a break longer than the life of a claim. Not before `issued`.
    #[n(2)]
    pub bound: UnixMillis,
    /// When this was signed. Of two claims of one node the newer counts.
    #[n(3)]
    pub time: UnixMillis,
    /// Until when it counts, at most [`CLAIM_LIFE_MAX_MS`] after `time`.
    #[n(4)]
    pub expires: UnixMillis,
}

impl Bounded for Claim {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.attempt <= ATTEMPT_MAX, "attempt")?;
        ensure(self.issued <= self.bound && self.bound <= self.time && self.time < self.expires, "order of times")?;
        ensure(self.expires.0.saturating_sub(self.time.0) <= CLAIM_LIFE_MAX_MS, "life of a claim")
    }
}

impl Statement for Claim {
    const CONTEXT: &'static str = "shoal mesh claim v1";
    const LIMIT: usize = 128;
}

impl Claim {
    /// Whether its binding had been used for a day when this was signed. It is measured at the signature, not at the
    /// reader's clock: so all readers agree, and nobody's binding grows old while its node is off.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        self.time.0.saturating_sub(self.bound.0) >= ESTABLISHED_MS
    }

    /// Where this claim of `peer` stands among those for one address; the smallest has the address. Established ones come
    /// first, then the earlier member, then the smaller hash: a total order, and the same for everybody.
    #[must_use]
    pub const fn rank(&self, peer: PeerHash) -> Rank {
        Rank { newcomer: !self.is_established(), issued: self.issued, peer }
    }
}

/// See [`Claim::rank`]. Fields are compared in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Whether the binding had not yet been used for a day.
    pub newcomer: bool,
    /// When the claimer became a member.
    pub issued: UnixMillis,
    /// The claimer.
    pub peer: PeerHash,
}

/// A claim whose signature was checked, with its envelope to be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedClaim {
    signed: Signed,
    claim: Claim,
    node: NodeId,
}

impl VerifiedClaim {
    /// Checks an envelope.
    ///
    /// # Errors
    /// [`Forged`] if it is not a claim of its signer for this network.
    pub fn verify(signed: Signed, network: &NetworkId) -> Result<Self, Forged> {
        let verified = signed.verify::<Claim>(network)?;
        let node = NodeId::from(*verified.signer());
        Ok(Self { claim: verified.into_inner(), node, signed })
    }

    /// The envelope.
    #[must_use]
    pub const fn signed(&self) -> &Signed {
        &self.signed
    }

    /// What it says.
    #[must_use]
    pub const fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Who says it.
    #[must_use]
    pub const fn node(&self) -> &NodeId {
        &self.node
    }

    /// The address it claims.
    #[must_use]
    pub fn address(&self, network: &NetworkId, pool: &Pool) -> Ipv4Addr {
        pool.candidate(network, &self.node, self.claim.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn claim(issued: u64, bound: u64, time: u64) -> Claim {
        let at = |day: u64| UnixMillis(day * DAY);
        Claim { attempt: 0, issued: at(issued), bound: at(bound), time: at(time), expires: at(time + 2) }
    }

    #[test]
    fn the_order_of_claims_is_that_of_the_rules() {
        let (low, high) = (PeerHash::new([1; 10]), PeerHash::new([2; 10]));
        // A newcomer with an older ticket does not take the address of who has used it for a day.
        assert!(claim(5, 10, 11).rank(high) < claim(1, 11, 11).rank(low));
        // Both used theirs for a day, in two halves of a network: the earlier member keeps it.
        assert!(claim(1, 10, 11).rank(high) < claim(5, 6, 11).rank(low));
        // Both are new: the earlier member, then the smaller hash.
        assert!(claim(1, 11, 11).rank(high) < claim(2, 11, 11).rank(low));
        assert!(claim(1, 11, 11).rank(low) < claim(1, 11, 11).rank(high));
        // It is not the reader's clock that makes a binding old.
        assert!(!claim(1, 11, 11).is_established());
    }

    #[test]
    fn times_out_of_order_and_long_lives_are_refused() {
        assert_eq!(claim(1, 2, 3).check(), Ok(()));
        for bad in [
            Claim { bound: UnixMillis(0), ..claim(1, 2, 3) },
            Claim { time: UnixMillis(0), ..claim(1, 2, 3) },
            Claim { expires: UnixMillis(3 * DAY), ..claim(1, 2, 3) },
            Claim { expires: UnixMillis(5 * DAY + 1), ..claim(1, 2, 3) },
            Claim { attempt: ATTEMPT_MAX + 1, ..claim(1, 2, 3) },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
