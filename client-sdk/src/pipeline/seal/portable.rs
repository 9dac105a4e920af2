//! The ciphers of wasm, from RustCrypto; native tests run it beside `native`. It has the same functions as that.

use aes::Aes256;
use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::ChaCha20Poly1305;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};
use shoal_protocol::Suite;
use shoal_protocol::limits::TAG;
use zeroize::Zeroizing;

use super::TagMismatch;

pub(super) enum Aead {
    ChaCha(Box<ChaCha20Poly1305>),
    Aes(Box<Aes256Gcm>),
}

impl Aead {
    pub(super) fn new(suite: Suite, key: &[u8; 32]) -> Self {
        match suite {
            Suite::ChaCha20Poly1305 => Self::ChaCha(Box::new(ChaCha20Poly1305::new(key.into()))),
            Suite::Aes256Gcm => Self::Aes(Box::new(Aes256Gcm::new(key.into()))),
        }
    }

    pub(super) fn seal(&self, nonce: &[u8; 12], aad: &[u8], in_out: &mut [u8]) -> [u8; TAG] {
        let tag = match self {
            Self::ChaCha(cipher) => cipher.encrypt_inout_detached(nonce.into(), aad, in_out.into()),
            Self::Aes(cipher) => cipher.encrypt_inout_detached(nonce.into(), aad, in_out.into()),
        };
        let Ok(tag) = tag else {
            unreachable!("a unit is far below the AEAD's length limit");
        };
        tag.into()
    }

    pub(super) fn seal_into(&self, nonce: &[u8; 12], aad: &[u8], plain: &[u8], out: &mut [u8], tag: &mut [u8; TAG]) {
        out.copy_from_slice(plain);
        *tag = self.seal(nonce, aad, out);
    }

    pub(super) fn open(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), TagMismatch> {
        match self {
            Self::ChaCha(cipher) => cipher.decrypt_inout_detached(nonce.into(), aad, in_out.into(), tag.into()),
            Self::Aes(cipher) => cipher.decrypt_inout_detached(nonce.into(), aad, in_out.into(), tag.into()),
        }
        .map_err(|_| TagMismatch)
    }

    pub(super) fn open_into(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        sealed: &[u8],
        tag: &[u8; TAG],
        plain: &mut [u8],
    ) -> Result<(), TagMismatch> {
        plain.copy_from_slice(sealed);
        self.open(nonce, aad, plain, tag)
    }
}

/// AES-256 in counter mode.
pub(crate) struct Ctr(Zeroizing<[u8; 32]>);

impl Ctr {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*key))
    }

    /// XORs `data` with the keystream that starts at counter block `block`.
    pub(super) fn apply(&self, block: u128, data: &mut [u8]) {
        Ctr128BE::<Aes256>::new((&*self.0).into(), &block.to_be_bytes().into()).apply_keystream(data);
    }
}
