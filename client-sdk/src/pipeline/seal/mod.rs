//! The ciphers: AEAD in place and the seekable mask keystream, for both suites. It never chooses a nonce and never
//! derives a key.
//!
//! | suite | AEAD | mask keystream |
//! |---|---|---|
//! | `chacha20-poly1305` | RFC 8439 | ChaCha20 (RFC 8439): nonce 0, 32-bit block counter from 0; byte `o` of the stream is byte `o % 64` of block `o / 64` |
//! | `aes-256-gcm` | NIST SP 800-38D, 96-bit nonce | AES-256-CTR: 128-bit big-endian counter block from 0; byte `o` is byte `o % 16` of block `o / 16` |
//!
//! On native targets AEADs and AES-CTR are aws-lc's (`native`), in wasm RustCrypto's (`portable`); the ChaCha20
//! keystream is RustCrypto's on both, because aws-lc-rs exposes none. A test holds both to the same golden bytes.

#[cfg(not(target_family = "wasm"))]
mod native;
#[cfg(any(target_family = "wasm", test))]
mod portable;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _, StreamCipherSeek as _};
use shoal_protocol::Suite;
use shoal_protocol::limits::{SHARD_MAX, TAG};
use zeroize::Zeroizing;

#[cfg(not(target_family = "wasm"))]
use native as backend;
#[cfg(target_family = "wasm")]
use portable as backend;

use crate::keys::{KEY, MaskKey};

/// A tag did not match: wrong key, wrong associated data or altered bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TagMismatch;

/// One AEAD key.
pub(crate) struct Aead(backend::Aead);

impl Aead {
    pub(crate) fn new(suite: Suite, key: &[u8; KEY]) -> Self {
        Self(backend::Aead::new(suite, key))
    }

    /// Seals `plain` into `unit`, which is 16 bytes longer.
    pub(crate) fn seal_into(&self, nonce: &[u8; 12], aad: &[u8], plain: &[u8], unit: &mut [u8]) {
        let Some((out, tag)) = unit.split_last_chunk_mut::<TAG>() else {
            unreachable!("callers leave room for the tag");
        };
        self.0.seal_into(nonce, aad, plain, out, tag);
    }

    /// Seals all but the last 16 bytes of `unit` in place and writes the tag into those.
    pub(crate) fn seal(&self, nonce: &[u8; 12], aad: &[u8], unit: &mut [u8]) {
        let Some((plain, tag)) = unit.split_last_chunk_mut::<TAG>() else {
            unreachable!("callers leave room for the tag");
        };
        *tag = self.0.seal(nonce, aad, plain);
    }

    /// Opens `unit` (ciphertext and tag) in place; returns the plaintext.
    pub(crate) fn open<'u>(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        unit: &'u mut [u8],
    ) -> Result<&'u mut [u8], TagMismatch> {
        let (sealed, tag) = unit.split_last_chunk_mut::<TAG>().ok_or(TagMismatch)?;
        self.0.open(nonce, aad, sealed, tag)?;
        Ok(sealed)
    }

    /// Opens `unit` (ciphertext and tag) into `plain`, which is 16 bytes shorter. After an error what is there counts
    /// for nothing.
    pub(crate) fn open_into(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        unit: &[u8],
        plain: &mut [u8],
    ) -> Result<(), TagMismatch> {
        let (sealed, tag) = unit.split_last_chunk::<TAG>().ok_or(TagMismatch)?;
        self.0.open_into(nonce, aad, sealed, tag, plain)
    }
}

/// The keystream of one shard.
pub(crate) enum Mask {
    ChaCha(Zeroizing<[u8; KEY]>),
    Aes(Box<backend::Ctr>),
}

/// Bytes of an AES block.
const AES_BLOCK: usize = 16;

impl Mask {
    pub(crate) fn new(suite: Suite, key: &MaskKey) -> Self {
        match suite {
            Suite::ChaCha20Poly1305 => Self::ChaCha(Zeroizing::new(*key.as_bytes())),
            Suite::Aes256Gcm => Self::Aes(Box::new(backend::Ctr::new(key.as_bytes()))),
        }
    }

    /// XORs `data`, which begins at byte `offset` of the shard, with the keystream. Masks and unmasks.
    pub(crate) fn apply(&self, offset: usize, data: &mut [u8]) {
        debug_assert!(offset + data.len() <= SHARD_MAX as usize);
        match self {
            Self::ChaCha(key) => {
                let mut stream = ChaCha20::new((&**key).into(), &[0; 12].into());
                stream.seek(offset);
                stream.apply_keystream(data);
            }
            Self::Aes(ctr) => apply_ctr(offset, data, |block, bytes| ctr.apply(block, bytes)),
        }
    }
}

/// Feeds `data` at byte `offset` to a keystream that starts at whole blocks.
fn apply_ctr(offset: usize, data: &mut [u8], apply: impl Fn(u128, &mut [u8])) {
    let skip = offset % AES_BLOCK;
    let head_length = if skip == 0 { 0 } else { data.len().min(AES_BLOCK - skip) };
    let (head, rest) = data.split_at_mut(head_length);
    if !head.is_empty() {
        let mut stream = Zeroizing::new([0; AES_BLOCK]);
        apply((offset / AES_BLOCK) as u128, stream.as_mut_slice());
        head.iter_mut().zip(&stream[skip..]).for_each(|(byte, key)| *byte ^= key);
    }
    if !rest.is_empty() {
        apply(offset.div_ceil(AES_BLOCK) as u128, rest);
    }
}

#[cfg(test)]
mod tests;
