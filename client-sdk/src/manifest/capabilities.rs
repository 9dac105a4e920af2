//! The four capabilities of an upload. Only the first may be shown or logged; it needs a password beside it.

use shoal_protocol::capability::{Capability, CapabilityKind, Hint};
use shoal_protocol::{NetworkId, PublicKey};

use crate::keys::RootKey;

/// What may be handed on, by what its receiver may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// `shoal1..`: find it; with the password, everything.
    pub locate: Capability,
    /// `shoalr1..`: read.
    pub read: Capability,
    /// `shoalv1..`: audit, repair, renew, place.
    pub verify: Capability,
    /// `shoalo1..`: everything.
    pub owner: Capability,
}

/// All capabilities of the file behind `root`, each with the same hints.
#[must_use]
pub fn capabilities(root: &RootKey, network: &NetworkId, hints: &[Hint]) -> Capabilities {
    let owner = PublicKey::from_bytes(root.owner_signer().verifying_key().to_bytes());
    let (locator, read) = (root.locator(), root.read());
    let make =
        |kind, secret: &[u8; 32]| Capability::new(kind, network, owner, *locator.as_bytes(), *secret, hints.to_vec());
    Capabilities {
        locate: make(CapabilityKind::Locate, &[0; 32]),
        read: make(CapabilityKind::Read, read.as_bytes()),
        verify: make(CapabilityKind::Verify, read.verify().as_bytes()),
        owner: make(CapabilityKind::Owner, root.as_bytes()),
    }
}
