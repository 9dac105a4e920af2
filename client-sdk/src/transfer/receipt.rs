//! What makes a receipt worth something: signed by the node it was asked of, for these bytes, this group, this request.

use shoal_protocol::receipt::Receipt;
use shoal_protocol::signed::{Forged, ensure_fresh};
use shoal_protocol::{BootEpoch, GroupId, NetworkId, NodeId, Nonce, ShardId, Signed, UnixMillis, Verified};

/// What was asked for when the receipt came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Who was asked.
    pub node: NodeId,
    /// What was sent.
    pub shard: ShardId,
    /// Its bytes.
    pub length: u32,
    /// For which group.
    pub group: GroupId,
    /// The nonce sent along.
    pub nonce: Nonce,
    /// The run of the node that was asked.
    pub boot_epoch: BootEpoch,
}

/// Why a receipt is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Signature, signer, form or time.
    #[error(transparent)]
    Forged(#[from] Forged),
    /// Well signed, but about something else.
    #[error("receipt is about another {0}")]
    Other(&'static str),
    /// The lease it grants is already over.
    #[error("receipt grants no time")]
    Expired,
}

/// The receipt, if it is by the node that was asked, about what was sent, and fresh.
///
/// # Errors
/// [`ReceiptError`] with the first difference.
pub fn check_receipt(
    signed: &Signed,
    expected: &Expected,
    network: &NetworkId,
    now: UnixMillis,
) -> Result<Verified<Receipt>, ReceiptError> {
    let receipt = signed.verify_by::<Receipt>(&expected.node.into(), network)?;
    let same = [
        (receipt.shard == expected.shard, "shard"),
        (receipt.length == expected.length, "length"),
        (receipt.group == expected.group, "lease group"),
        (receipt.nonce == expected.nonce, "request"),
        (receipt.boot_epoch == expected.boot_epoch, "run of the node"),
    ];
    if let Some((_, what)) = same.into_iter().find(|(same, _)| !same) {
        return Err(ReceiptError::Other(what));
    }
    ensure_fresh(receipt.time, now)?;
    if receipt.expires <= receipt.time {
        return Err(ReceiptError::Expired);
    }
    Ok(receipt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    #[test]
    fn only_the_receipt_that_was_asked_for_counts() {
        let network = NetworkId::derive(None, "a").unwrap();
        let signer = SigningKey::from_bytes(&[1; 32]);
        let expected = Expected {
            node: NodeId::from_bytes(signer.verifying_key().to_bytes()),
            shard: ShardId::of(b"x"),
            length: 1,
            group: GroupId::from_bytes([2; 32]),
            nonce: Nonce::from_bytes([3; 16]),
            boot_epoch: BootEpoch(4),
        };
        let good = Receipt {
            shard: expected.shard,
            length: 1,
            group: expected.group,
            expires: UnixMillis(2_000_000),
            boot_epoch: BootEpoch(4),
            nonce: expected.nonce,
            time: UnixMillis(1_000_000),
        };
        let check = |receipt: &Receipt, signer: &SigningKey, now| {
            check_receipt(&Signed::seal(receipt, signer, &network), &expected, &network, UnixMillis(now))
        };
        assert!(check(&good, &signer, 1_000_000).is_ok());
        assert!(check(&good, &SigningKey::from_bytes(&[9; 32]), 1_000_000).is_err());
        assert!(check(&good, &signer, 1_200_000).is_err(), "stale");
        assert!(check(&good, &signer, 800_000).is_err(), "future");
        for other in [
            Receipt { shard: ShardId::of(b"y"), ..good.clone() },
            Receipt { length: 2, ..good.clone() },
            Receipt { group: GroupId::from_bytes([9; 32]), ..good.clone() },
            Receipt { nonce: Nonce::from_bytes([9; 16]), ..good.clone() },
            Receipt { boot_epoch: BootEpoch(5), ..good.clone() },
            Receipt { expires: UnixMillis(999_999), ..good.clone() },
        ] {
            assert!(check(&other, &signer, 1_000_000).is_err(), "{other:?}");
        }
    }
}
