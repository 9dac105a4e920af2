//! Keys: the AEADs of frames from aws-lc, and how a handshake becomes the two keys of a session. A key is never shown,
//! copied or kept beside what uses it.

use core::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use shoal_protocol::hash::{MESH_DATA, derive};
use shoal_protocol::limits::TAG;
use shoal_protocol::{NetworkId, Suite};
use zeroize::Zeroizing;

use super::noise::Secrets;

/// An AEAD under one key. aws-lc wipes the key when it frees it.
pub(super) struct Aead(LessSafeKey);

impl fmt::Debug for Aead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aead(..)")
    }
}

/// Thirty-two secret bytes, wiped when dropped and shown to nobody.
#[derive(Clone)]
pub(super) struct Secret(pub(super) Zeroizing<[u8; 32]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The tag does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TagMismatch;

impl Aead {
    pub(super) fn new(suite: Suite, key: &[u8; 32]) -> Self {
        let algorithm = match suite {
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Suite::Aes256Gcm => &AES_256_GCM,
        };
        let Ok(key) = UnboundKey::new(algorithm, key) else {
            unreachable!("both AEADs take 32-byte keys");
        };
        Self(LessSafeKey::new(key))
    }

    /// Seals in place. The caller never gives one nonce twice.
    pub(super) fn seal(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; TAG] {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let Ok(tag) = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), text) else {
            unreachable!("a frame is far below the AEAD's length limit");
        };
        let mut out = [0; TAG];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Opens in place; what is there after a mismatch is not to be read.
    pub(super) fn open(
        &self,
        nonce: [u8; 12],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), TagMismatch> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place_separate_tag(nonce, Aad::from(aad), tag, text).map(|_| ()).map_err(|_| TagMismatch)
    }
}

/// The keys of one session, for sealing and for opening: `derive('shoal mesh data v1', network, handshake hash, suite u8,
/// direction u8, key of the Noise split for that direction)`; direction 1 is from the initiator, 2 from the responder.
pub(super) fn frame_keys(network: &NetworkId, suite: Suite, secrets: Secrets, initiator: bool) -> (Aead, Aead) {
    let key = |direction: u8, split: &[u8; 32]| {
        let parts: [&[u8]; 5] = [network.as_bytes(), &secrets.hash, &[suite.number()], &[direction], split];
        Aead::new(suite, &Zeroizing::new(derive(MESH_DATA, &parts)))
    };
    let from_initiator = key(1, &secrets.from_initiator);
    let from_responder = key(2, &secrets.from_responder);
    if initiator { (from_initiator, from_responder) } else { (from_responder, from_initiator) }
}
