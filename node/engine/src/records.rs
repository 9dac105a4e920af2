//! Whether a record follows the one that is kept: the only rule by which anything in the swarm changes.

use shoal_protocol::record::{Record, link};
use shoal_protocol::{NetworkId, RecordKey, Refusal, Signed};

/// What to do with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordDecision {
    /// Keep it as this version.
    Keep {
        /// Its version.
        version: u64,
    },
    /// These very bytes are kept already.
    Kept,
    /// It does not follow; answer with the one held.
    Conflict,
}

/// Where a signed record belongs, if it is one.
///
/// # Errors
/// [`Refusal::Forged`] if signature or form are wrong.
pub fn key_of(signed: &Signed, network: &NetworkId) -> Result<RecordKey, Refusal> {
    let record = signed.verify::<Record>(network).map_err(|_| Refusal::Forged)?;
    Ok(record.kind.key(network, record.signer(), record.index))
}

/// Judges a record against the newest one held under its key: accepted is a first one of any version, or a higher
/// version that names the held one as its previous.
///
/// # Errors
/// [`Refusal::Forged`] if signature or form are wrong.
pub fn decide(signed: &Signed, held: Option<&Signed>, network: &NetworkId) -> Result<RecordDecision, Refusal> {
    let record = signed.verify::<Record>(network).map_err(|_| Refusal::Forged)?;
    let version = record.version;
    // A node that lost its copy, or comes late, takes what it is given: readers take the highest valid version.
    let Some(held) = held else { return Ok(RecordDecision::Keep { version }) };
    if held == signed {
        return Ok(RecordDecision::Kept);
    }
    let Ok(before) = held.verify::<Record>(network) else { return Ok(RecordDecision::Keep { version }) };
    let follows = version > before.version && record.previous == Some(link(&held.to_bytes()));
    Ok(if follows { RecordDecision::Keep { version } } else { RecordDecision::Conflict })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;
    use shoal_protocol::record::RecordKind;
    use shoal_protocol::sealing::SealedBox;

    fn network() -> NetworkId {
        NetworkId::from_bytes([9; 32])
    }

    fn record(version: u64, previous: Option<&Signed>, body: u8) -> Signed {
        let record = Record {
            kind: RecordKind::Owner,
            index: 0,
            version,
            previous: previous.map(|signed| link(&signed.to_bytes())),
            body: SealedBox { salt: [0; 32], sealed: vec![body] },
        };
        Signed::seal(&record, &SigningKey::from_bytes(&[4; 32]), &network())
    }

    #[test]
    fn only_successors_replace() {
        let first = record(1, None, 0);
        let second = record(2, Some(&first), 0);
        let decide = |new: &Signed, held: Option<&Signed>| decide(new, held, &network()).unwrap();
        assert_eq!(decide(&first, None), RecordDecision::Keep { version: 1 });
        assert_eq!(decide(&second, None), RecordDecision::Keep { version: 2 });
        assert_eq!(decide(&first, Some(&first)), RecordDecision::Kept);
        assert_eq!(decide(&second, Some(&first)), RecordDecision::Keep { version: 2 });
        assert_eq!(decide(&first, Some(&second)), RecordDecision::Conflict);
        assert_eq!(decide(&record(1, None, 1), Some(&first)), RecordDecision::Conflict, "another first version");
        let stranger = record(2, Some(&record(1, None, 7)), 0);
        assert_eq!(decide(&stranger, Some(&first)), RecordDecision::Conflict, "follows another first version");
        assert_eq!(decide(&record(4, Some(&second), 0), Some(&second)), RecordDecision::Keep { version: 4 });
    }

    #[test]
    fn a_forged_record_has_no_key() {
        let good = record(1, None, 0);
        assert!(key_of(&good, &network()).is_ok());
        assert_eq!(key_of(&good, &NetworkId::from_bytes([1; 32])), Err(Refusal::Forged));
    }
}
