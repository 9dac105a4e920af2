//! Password slots: from a password to the root key. It never keeps the password, runs the password hash once however
//! many slots there are (opening takes the [`Kek`], not the password) and never tries the AEAD of a slot whose
//! commitment differs.
//!
//! ```text
//! KEK        = derive(kek, argon2id(password, params))          one run for all slots
//! commitment = derive(slot commitment, KEK, slot salt)           compared in constant time first
//! sealed     = AEAD(derive(slot key, KEK, slot salt), nonce 0, R), AAD = single_aad(suite, file, 0)
//! ```
//! Without the commitment a 32-byte ciphertext could be made to open under two passwords, because neither AEAD commits
//! to its key. Source: Len, Grubbs, Ristenpart, "Partitioning Oracle Attacks", USENIX Security 2021.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use shoal_protocol::codec::Bounded as _;
use shoal_protocol::hash::{self, derive};
use shoal_protocol::limits::TAG;
use shoal_protocol::sealing::{KdfParams, KeySlot, Salt, nonce, single_aad};
use shoal_protocol::{FileId, Suite};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{KEY, RootKey};
use crate::pipeline::seal::Aead;

/// The key-encryption key: what a password becomes.
pub struct Kek(Zeroizing<[u8; KEY]>);

impl core::fmt::Debug for Kek {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Kek(..)")
    }
}

/// Why a password was not hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KdfError {
    /// The settings are outside their bounds; nothing was run.
    #[error("password-hash settings refused: {0}")]
    Params(&'static str),
    /// The memory the settings ask for is not to be had.
    #[error("not enough memory for the password hash: {0} KiB")]
    Memory(u32),
    /// A password of 4 GiB or more.
    #[error("password too long")]
    Password,
}

/// Why no slot gives the root key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// No slot belongs to this password.
    #[error("wrong password")]
    WrongPassword,
    /// A slot belongs to this password, but its sealed key was altered or belongs to another file or suite.
    #[error("password is right, but key slot {slot} is damaged")]
    Damaged {
        /// Which slot, from 0.
        slot: usize,
    },
}

/// Hashes the password: argon2id version 1.3 (RFC 9106), 32 bytes of output. The working memory is wiped.
///
/// # Errors
/// [`KdfError`]; settings out of bounds are refused before anything is allocated.
pub fn kek(password: &[u8], params: &KdfParams) -> Result<Kek, KdfError> {
    params.check().map_err(KdfError::Params)?;
    let settings = Params::new(params.memory_kib, params.passes, params.lanes, Some(KEY))
        .map_err(|_| KdfError::Params("password-hash settings"))?;
    let count = settings.block_count();
    let mut memory: Zeroizing<Vec<Block>> = Zeroizing::new(Vec::new());
    memory.try_reserve_exact(count).map_err(|_| KdfError::Memory(params.memory_kib))?;
    memory.resize(count, Block::new());
    let mut output = Zeroizing::new([0; KEY]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, settings)
        .hash_password_into_with_memory(password, &params.salt, output.as_mut_slice(), memory.as_mut_slice())
        .map_err(|_| KdfError::Password)?;
    Ok(Kek(Zeroizing::new(derive(hash::KEK, &[output.as_slice()]))))
}

/// Seals the root key for one password; `salt` is fresh for this slot.
#[must_use]
pub fn make_slot(kek: &Kek, suite: Suite, file: &FileId, root: &RootKey, salt: Salt) -> KeySlot {
    let mut sealed = [0; KEY + TAG];
    sealed[..KEY].copy_from_slice(root.as_bytes());
    slot_aead(kek, suite, &salt).seal(&nonce(0), &single_aad(suite, file, 0), &mut sealed);
    KeySlot { salt, commitment: commitment(kek, &salt), sealed }
}

/// The root key from whichever slot belongs to this password.
///
/// # Errors
/// [`SlotError::WrongPassword`] if no commitment matches, [`SlotError::Damaged`] if one does and its slot still fails
/// to open (the first such, when no other slot opens).
pub fn open_slots(kek: &Kek, suite: Suite, file: &FileId, slots: &[KeySlot]) -> Result<RootKey, SlotError> {
    let mut error = SlotError::WrongPassword;
    for (index, slot) in slots.iter().enumerate() {
        if !bool::from(commitment(kek, &slot.salt).ct_eq(&slot.commitment)) {
            continue;
        }
        let mut sealed = Zeroizing::new(slot.sealed);
        let opened =
            slot_aead(kek, suite, &slot.salt).open(&nonce(0), &single_aad(suite, file, 0), sealed.as_mut_slice());
        if let Some(root) = opened.ok().and_then(|plain| <[u8; KEY]>::try_from(&*plain).ok()) {
            return Ok(RootKey::new(root));
        }
        if error == SlotError::WrongPassword {
            error = SlotError::Damaged { slot: index };
        }
    }
    Err(error)
}

fn commitment(kek: &Kek, salt: &Salt) -> [u8; KEY] {
    derive(hash::SLOT_COMMITMENT, &[kek.0.as_slice(), salt])
}

fn slot_aead(kek: &Kek, suite: Suite, salt: &Salt) -> Aead {
    Aead::new(suite, &Zeroizing::new(derive(hash::SLOT_KEY, &[kek.0.as_slice(), salt])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write as _;
    use shoal_protocol::limits::{KDF_LANES_MAX, KDF_MEMORY_KIB_MAX, KDF_MEMORY_KIB_MIN, KDF_PASSES_MAX};

    const FILE: FileId = FileId::from_bytes([9; 32]);
    const PARAMS: KdfParams = KdfParams { salt: [6; 16], memory_kib: KDF_MEMORY_KIB_MIN, passes: 1, lanes: 1 };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn slots_match_the_golden_file() {
        let root = RootKey::new([0x11; 32]);
        let kek = kek("correct horse".as_bytes(), &PARAMS).unwrap();
        let mut text = format!("kek = {}\n", hex(kek.0.as_slice()));
        for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
            let slot = make_slot(&kek, suite, &FILE, &root, [0x22; 32]);
            writeln!(text, "{suite} commitment = {}", hex(&slot.commitment)).unwrap();
            writeln!(text, "{suite} sealed = {}", hex(&slot.sealed)).unwrap();
        }
        assert_eq!(text, include_str!("../../golden/slots.txt"));
    }

    #[test]
    fn the_right_password_opens_its_slot_and_a_wrong_one_none() {
        let root = RootKey::new([0x33; 32]);
        let (first, second, wrong) = (
            kek(b"first", &PARAMS).unwrap(),
            kek(b"second", &PARAMS).unwrap(),
            // One run of the hash answers for all slots: open_slots never sees a password.
            kek(b"wrong", &PARAMS).unwrap(),
        );
        for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
            let slots =
                [make_slot(&first, suite, &FILE, &root, [1; 32]), make_slot(&second, suite, &FILE, &root, [2; 32])];
            for kek in [&first, &second] {
                assert_eq!(open_slots(kek, suite, &FILE, &slots).unwrap().as_bytes(), root.as_bytes());
            }
            assert_eq!(open_slots(&wrong, suite, &FILE, &slots).unwrap_err(), SlotError::WrongPassword);
            assert_eq!(open_slots(&wrong, suite, &FILE, &[]).unwrap_err(), SlotError::WrongPassword);
            let mut damaged = slots.clone();
            damaged[1].sealed[40] ^= 1;
            assert_eq!(open_slots(&second, suite, &FILE, &damaged).unwrap_err(), SlotError::Damaged { slot: 1 });
            assert!(open_slots(&first, suite, &FILE, &damaged).is_ok());
            damaged[1].commitment[0] ^= 1;
            assert_eq!(open_slots(&second, suite, &FILE, &damaged).unwrap_err(), SlotError::WrongPassword);
            let other = FileId::from_bytes([8; 32]);
            assert_eq!(open_slots(&first, suite, &other, &slots).unwrap_err(), SlotError::Damaged { slot: 0 });
        }
    }

    #[test]
    fn settings_out_of_bounds_run_nothing() {
        for bad in [
            KdfParams { memory_kib: KDF_MEMORY_KIB_MIN - 1, ..PARAMS },
            KdfParams { memory_kib: KDF_MEMORY_KIB_MAX + 1, ..PARAMS },
            KdfParams { passes: 0, ..PARAMS },
            KdfParams { passes: KDF_PASSES_MAX + 1, ..PARAMS },
            KdfParams { lanes: 0, ..PARAMS },
            KdfParams { lanes: KDF_LANES_MAX + 1, ..PARAMS },
        ] {
            assert!(matches!(kek(b"x", &bad), Err(KdfError::Params(_))), "{bad:?}");
        }
    }
}
