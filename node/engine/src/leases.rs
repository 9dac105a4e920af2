//! Whether a lease group counts: signed by its owner, not over, not from the future, not older than the one held. It
//! never stores a group and does not count bytes.

use shoal_protocol::group::Group;
use shoal_protocol::{GroupId, NetworkId, PublicKey, Refusal, Signed, UnixMillis, Verified};

/// How far in the future a group may have been issued: clocks differ, milliseconds.
pub const ISSUED_AHEAD_MAX_MS: u64 = 10 * 60 * 1000;

/// A group worth keeping bytes for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: GroupId,
    /// What it says.
    pub group: Verified<Group>,
}

/// What to do with a group that came with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseDecision {
    /// It is the one held, or an older one that is still good.
    Known(Lease),
    /// It is new or newer: keep it before anything is promised under it.
    Keep(Lease),
}

impl LeaseDecision {
    /// The lease that counts.
    #[must_use]
    pub const fn lease(&self) -> &Lease {
        match self {
            Self::Known(lease) | Self::Keep(lease) => lease,
        }
    }
}

/// Judges a group by itself.
///
/// # Errors
/// [`Refusal::Forged`] for a wrong signature, [`Refusal::NoLease`] if it is over or from the future.
pub fn judge(signed: &Signed, network: &NetworkId, wall: UnixMillis) -> Result<Lease, Refusal> {
    let group = signed.verify::<Group>(network).map_err(|_| Refusal::Forged)?;
    if group.expires <= wall || group.issued > wall.saturating_add(ISSUED_AHEAD_MAX_MS) {
        return Err(Refusal::NoLease);
    }
    Ok(Lease { id: GroupId::of_owner(network, group.signer()), group })
}

/// Judges a group against the one held under the same id: the higher serial counts.
///
/// # Errors
/// As [`judge`]; a held group that cannot be read any more is replaced.
pub fn decide(
    signed: &Signed,
    held: Option<&Signed>,
    network: &NetworkId,
    wall: UnixMillis,
) -> Result<LeaseDecision, Refusal> {
    let lease = judge(signed, network, wall)?;
    let owner: PublicKey = *lease.group.signer();
    let held = held.and_then(|held| held.verify_by::<Group>(&owner, network).ok());
    match held {
        Some(held) if held.serial >= lease.group.serial => {
            if held.expires <= wall {
                return Err(Refusal::NoLease);
            }
            Ok(LeaseDecision::Known(Lease { id: lease.id, group: held }))
        }
        Some(_) | None => Ok(LeaseDecision::Keep(lease)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;
    use shoal_protocol::ByteCount;

    fn signed(serial: u64, issued: u64, expires: u64, signer: u8) -> Signed {
        let key = PublicKey::from_bytes([1; 32]);
        let group = Group {
            steward: key,
            payer: key,
            ceiling: ByteCount(1000),
            issued: UnixMillis(issued),
            expires: UnixMillis(expires),
            serial,
        };
        Signed::seal(&group, &SigningKey::from_bytes(&[signer; 32]), &network())
    }

    fn network() -> NetworkId {
        NetworkId::from_bytes([9; 32])
    }

    #[test]
    fn only_living_groups_count() {
        let now = UnixMillis(1_000_000);
        assert!(judge(&signed(1, 999_000, 2_000_000, 1), &network(), now).is_ok());
        assert_eq!(judge(&signed(1, 999_000, 1_000_000, 1), &network(), now), Err(Refusal::NoLease));
        let ahead = 1_000_001 + ISSUED_AHEAD_MAX_MS;
        assert_eq!(judge(&signed(1, ahead, ahead + 1, 1), &network(), now), Err(Refusal::NoLease));
        let other = NetworkId::from_bytes([8; 32]);
        assert_eq!(judge(&signed(1, 999_000, 2_000_000, 1), &other, now), Err(Refusal::Forged));
    }

    #[test]
    fn the_higher_serial_counts() {
        let now = UnixMillis(1_000_000);
        let (one, two) = (signed(1, 1, 2_000_000, 1), signed(2, 1, 3_000_000, 1));
        let decide = |new: &Signed, held: Option<&Signed>| decide(new, held, &network(), now).unwrap();
        assert!(matches!(decide(&one, None), LeaseDecision::Keep(_)));
        assert!(matches!(decide(&one, Some(&one)), LeaseDecision::Known(_)));
        assert!(matches!(decide(&two, Some(&one)), LeaseDecision::Keep(_)));
        let known = decide(&one, Some(&two));
        assert!(matches!(known, LeaseDecision::Known(_)));
        assert_eq!(known.lease().group.expires, UnixMillis(3_000_000));
        let foreign = signed(7, 1, 3_000_000, 2);
        assert!(
            matches!(decide(&one, Some(&foreign)), LeaseDecision::Keep(_)),
            "a held group of another owner is none"
        );
    }
}
