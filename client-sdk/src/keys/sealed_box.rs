//! Small things sealed in one piece: record bodies, read sections of pages, the journal. It never seals twice under
//! one key: a [`BoxKey`] is spent by sealing, and it carries the salt it was derived from.
//!
//! Bytes: ciphertext || 16-byte tag; nonce 0; AAD = `single_aad(suite, file, number)`, where the number is a record's
//! version or a page's segment number. Records are always ChaCha20-Poly1305 (their reader does not know the suite
//! yet), read sections and journals follow the upload's suite.

use core::fmt;

use shoal_protocol::FileId;
use shoal_protocol::Suite;
use shoal_protocol::limits::TAG;
use shoal_protocol::sealing::{Salt, SealedBox, nonce, single_aad};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::KEY;
use crate::pipeline::seal::Aead;

/// The key of one sealing, with its salt.
pub struct BoxKey {
    key: Zeroizing<[u8; KEY]>,
    salt: Salt,
}

/// Why a sealed box does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BoxError {
    /// The key was derived from another salt than the box carries.
    #[error("key and sealed bytes have different salts")]
    Salt,
    /// Wrong key, other bytes, or sealed for another file, number or suite.
    #[error("sealed bytes do not open with this key")]
    Tag,
}

impl BoxKey {
    pub(super) fn new(key: [u8; KEY], salt: Salt) -> Self {
        Self { key: Zeroizing::new(key), salt }
    }

    /// Seals `plain`; the key is spent.
    #[must_use]
    pub fn seal(self, suite: Suite, file: &FileId, number: u64, plain: &[u8]) -> SealedBox {
        let mut sealed = Vec::with_capacity(plain.len() + TAG);
        sealed.extend_from_slice(plain);
        sealed.resize(plain.len() + TAG, 0);
        Aead::new(suite, &self.key).seal(&nonce(0), &single_aad(suite, file, number), &mut sealed);
        SealedBox { salt: self.salt, sealed }
    }

    /// Opens `sealed`.
    ///
    /// # Errors
    /// [`BoxError`]; nothing of the plaintext is returned then.
    pub fn open(
        &self,
        suite: Suite,
        file: &FileId,
        number: u64,
        sealed: &SealedBox,
    ) -> Result<Zeroizing<Vec<u8>>, BoxError> {
        if !bool::from(self.salt.ct_eq(&sealed.salt)) {
            return Err(BoxError::Salt);
        }
        let mut plain = Zeroizing::new(sealed.sealed.clone());
        let length = Aead::new(suite, &self.key)
            .open(&nonce(0), &single_aad(suite, file, number), &mut plain)
            .map_err(|_| BoxError::Tag)?
            .len();
        plain.truncate(length);
        Ok(plain)
    }

    #[cfg(test)]
    pub(super) fn key_bytes(&self) -> &[u8; KEY] {
        &self.key
    }
}

impl fmt::Debug for BoxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::RootKey;

    const FILE: FileId = FileId::from_bytes([1; 32]);

    #[test]
    fn a_box_opens_only_as_it_was_sealed() {
        let locator = RootKey::new([7; 32]).locator();
        for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
            for plain in [&b""[..], b"record body"] {
                let sealed = locator.owner_record_key([3; 32]).seal(suite, &FILE, 9, plain);
                assert_eq!(sealed.sealed.len(), plain.len() + 16);
                let key = locator.owner_record_key(sealed.salt);
                assert_eq!(key.open(suite, &FILE, 9, &sealed).unwrap().as_slice(), plain);
                assert_eq!(key.open(suite, &FILE, 8, &sealed), Err(BoxError::Tag));
                assert_eq!(key.open(suite, &FileId::from_bytes([2; 32]), 9, &sealed), Err(BoxError::Tag));
                assert_eq!(locator.owner_record_key([4; 32]).open(suite, &FILE, 9, &sealed), Err(BoxError::Salt));
                for at in 0..sealed.sealed.len() {
                    let mut bad = sealed.clone();
                    bad.sealed[at] ^= 1;
                    assert_eq!(key.open(suite, &FILE, 9, &bad), Err(BoxError::Tag));
                }
                for length in 0..sealed.sealed.len() {
                    let bad = SealedBox { salt: sealed.salt, sealed: sealed.sealed[..length].to_vec() };
                    assert_eq!(key.open(suite, &FILE, 9, &bad), Err(BoxError::Tag));
                }
            }
        }
    }
}
