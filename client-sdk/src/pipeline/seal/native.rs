//! The ciphers of native targets, from aws-lc. It never runs in wasm and has the same functions as `portable`.

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use shoal_protocol::Suite;
use shoal_protocol::limits::TAG;

use super::TagMismatch;

pub(super) struct Aead(LessSafeKey);

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

    pub(super) fn seal(&self, nonce: &[u8; 12], aad: &[u8], in_out: &mut [u8]) -> [u8; TAG] {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let Ok(tag) = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), in_out) else {
            unreachable!("a unit is far below the AEAD's length limit");
        };
        let mut out = [0; TAG];
        out.copy_from_slice(tag.as_ref());
        out
    }

    pub(super) fn seal_into(&self, nonce: &[u8; 12], aad: &[u8], plain: &[u8], out: &mut [u8], tag: &mut [u8; TAG]) {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        if self.0.seal_out_of_place_scatter(nonce, Aad::from(aad), plain, out, &[], tag).is_err() {
            unreachable!("plaintext and ciphertext are of one length, far below the AEAD's limit");
        }
    }

    pub(super) fn open(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), TagMismatch> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0.open_in_place_separate_tag(nonce, Aad::from(aad), tag, in_out).map(|_| ()).map_err(|_| TagMismatch)
    }

    pub(super) fn open_into(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        sealed: &[u8],
        tag: &[u8; TAG],
        plain: &mut [u8],
    ) -> Result<(), TagMismatch> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0.open_separate_gather(nonce, Aad::from(aad), sealed, tag, plain).map_err(|_| TagMismatch)
    }
}

/// AES-256 in counter mode.
pub(crate) struct Ctr(EncryptingKey);

impl Ctr {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let Ok(key) = UnboundCipherKey::new(&AES_256, key).and_then(EncryptingKey::ctr) else {
            unreachable!("AES-256 takes 32-byte keys");
        };
        Self(key)
    }

    /// XORs `data` with the keystream that starts at counter block `block`.
    pub(super) fn apply(&self, block: u128, data: &mut [u8]) {
        let context = EncryptionContext::Iv128(FixedLength::from(block.to_be_bytes()));
        if self.0.less_safe_encrypt(data, context).is_err() {
            unreachable!("counter mode takes any length");
        }
    }
}
