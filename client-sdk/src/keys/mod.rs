//! The keys of one upload, from the root key down. It never draws randomness (salts are arguments), never compares
//! secrets in variable time and never shows a key in `Debug`; every key is wiped when dropped.
//!
//! Three capabilities: R (owner: delete, change slots), Kr (read), Kv (verify and steward: audit, repair, renew, write
//! the placement, read nothing). Each is derived from the one before, none leads back. Every key is
//! `derive(context, parts)` of [`shoal_protocol::hash`]: BLAKE3 `derive_key`, each part preceded by its length as
//! u64 LE. `file` is the 32 bytes of the [`FileId`], `segment` its number as u32 LE, `index` and `replica` one byte
//! each, `salt` the 32 fresh bytes stored beside the sealing.
//!
//! | key | context | parts | held by |
//! |---|---|---|---|
//! | owner signing seed | `shoal owner v1` | R | owner |
//! | Kr, read key | `shoal read v1` | R | owner |
//! | L, locator secret | `shoal locator v1` | R | owner |
//! | journal entry | `shoal journal v1` | R, salt | owner |
//! | journal marks | `shoal journal mark v1` | R | owner |
//! | Kv, verify key | `shoal verify v1` | Kr | reader |
//! | data segment | `shoal segment v1` | Kr, file, segment, salt | reader |
//! | page read section box | `shoal page read v1` | Kr, file, segment, salt | reader |
//! | steward signing seed | `shoal steward v1` | Kv | steward |
//! | page segment | `shoal page v1` | Kv, file, segment, salt | steward |
//! | shard mask | `shoal mask v1` | Kv, file, segment, index, replica | steward |
//! | placement record box | `shoal placement record v1` | Kv, salt | steward |
//! | cached page of a manifest file | `shoal manifest page v1` | Kv, salt | steward |
//! | audit token key | `shoal audit token v1` | Kv, file | steward |
//! | owner record box | `shoal owner record v1` | L, salt | who holds the capability string |
//! | KEK | `shoal kek v1` | argon2id output | who knows the password |
//! | slot | `shoal slot key v1` | KEK, salt | who knows the password |
//! | slot commitment | `shoal slot commitment v1` | KEK, salt | public |

mod sealed_box;
mod slot;

use core::fmt;

use ed25519_dalek::SigningKey;
use shoal_protocol::hash::{self, Context, derive};
use shoal_protocol::sealing::Salt;
use shoal_protocol::{FileId, SegmentNumber};
use zeroize::Zeroizing;

pub use sealed_box::{BoxError, BoxKey};
pub use slot::{KdfError, Kek, SlotError, kek, make_slot, open_slots};

/// Bytes of every symmetric key.
pub const KEY: usize = 32;

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Zeroizing<[u8; KEY]>);

        impl $name {
            /// Takes the key's bytes.
            #[must_use]
            pub fn new(bytes: [u8; KEY]) -> Self {
                Self(Zeroizing::new(bytes))
            }

            /// The bytes, for those who must write them into a capability.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; KEY] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

secret! {
    /// R: 32 random bytes per upload. Everything an owner may do.
    RootKey
}
secret! {
    /// Kr: opens every segment and the read section of every page.
    ReadKey
}
secret! {
    /// Kv: opens pages, unmasks and repairs shards, signs as steward. Reads no file.
    VerifyKey
}
secret! {
    /// L: opens the stored owner record, so that no holder can try a password.
    Locator
}
secret! {
    /// The AEAD key of one segment's one sealing.
    SealKey
}
secret! {
    /// The keystream key of one shard: file, segment, index and replica.
    MaskKey
}
secret! {
    /// The key a journal knows plaintext segments again by.
    MarkKey
}
secret! {
    /// The key audit tokens of one file are made with.
    AuditTokenKey
}

impl RootKey {
    /// The key that signs as owner; its public half names the file.
    #[must_use]
    pub fn owner_signer(&self) -> SigningKey {
        signer(hash::OWNER, &self.0)
    }

    /// Kr.
    #[must_use]
    pub fn read(&self) -> ReadKey {
        ReadKey::new(derive(hash::READ, &[self.as_bytes()]))
    }

    /// L, the secret part of a capability string.
    #[must_use]
    pub fn locator(&self) -> Locator {
        Locator::new(derive(hash::LOCATOR, &[self.as_bytes()]))
    }

    /// Seals one entry of the upload journal.
    #[must_use]
    pub fn journal_key(&self, salt: Salt) -> BoxKey {
        BoxKey::new(derive(hash::JOURNAL, &[self.as_bytes(), &salt]), salt)
    }

    /// Marks the plaintext segments of the upload.
    #[must_use]
    pub fn mark_key(&self) -> MarkKey {
        MarkKey::new(derive(hash::JOURNAL_MARK, &[self.as_bytes()]))
    }
}

impl ReadKey {
    /// Kv.
    #[must_use]
    pub fn verify(&self) -> VerifyKey {
        VerifyKey::new(derive(hash::VERIFY, &[self.as_bytes()]))
    }

    /// Seals the frames of one data segment.
    #[must_use]
    pub fn segment_key(&self, file: &FileId, segment: SegmentNumber, salt: &Salt) -> SealKey {
        SealKey::new(derive(hash::SEGMENT, &[self.as_bytes(), file.as_bytes(), &segment.0.to_le_bytes(), salt]))
    }

    /// Seals the read section of the page with this number.
    #[must_use]
    pub fn page_read_key(&self, file: &FileId, number: SegmentNumber, salt: Salt) -> BoxKey {
        let parts: [&[u8]; 4] = [self.as_bytes(), file.as_bytes(), &number.0.to_le_bytes(), &salt];
        BoxKey::new(derive(hash::PAGE_READ, &parts), salt)
    }
}

impl VerifyKey {
    /// The key that signs as steward: placement records, renewals.
    #[must_use]
    pub fn steward_signer(&self) -> SigningKey {
        signer(hash::STEWARD, &self.0)
    }

    /// Seals the frames of one page segment.
    #[must_use]
    pub fn page_key(&self, file: &FileId, number: SegmentNumber, salt: &Salt) -> SealKey {
        SealKey::new(derive(hash::PAGE, &[self.as_bytes(), file.as_bytes(), &number.0.to_le_bytes(), salt]))
    }

    /// Masks shard `index` (0..k+m) of replica `replica` (0..r) of one segment.
    #[must_use]
    pub fn mask_key(&self, file: &FileId, segment: SegmentNumber, index: u8, replica: u8) -> MaskKey {
        let parts: [&[u8]; 5] = [self.as_bytes(), file.as_bytes(), &segment.0.to_le_bytes(), &[index], &[replica]];
        MaskKey::new(derive(hash::MASK, &parts))
    }

    /// Seals one version of a placement record.
    #[must_use]
    pub fn placement_record_key(&self, salt: Salt) -> BoxKey {
        BoxKey::new(derive(hash::PLACEMENT_RECORD, &[self.as_bytes(), &salt]), salt)
    }

    /// Seals one cached page of a local manifest file.
    #[must_use]
    pub fn manifest_page_key(&self, salt: Salt) -> BoxKey {
        BoxKey::new(derive(hash::MANIFEST_PAGE, &[self.as_bytes(), &salt]), salt)
    }

    /// Makes and checks the audit tokens of this file.
    #[must_use]
    pub fn audit_token_key(&self, file: &FileId) -> AuditTokenKey {
        AuditTokenKey::new(derive(hash::AUDIT_TOKEN, &[self.as_bytes(), file.as_bytes()]))
    }
}

impl Locator {
    /// Seals one version of the owner record.
    #[must_use]
    pub fn owner_record_key(&self, salt: Salt) -> BoxKey {
        BoxKey::new(derive(hash::OWNER_RECORD, &[self.as_bytes(), &salt]), salt)
    }
}

fn signer(context: Context, key: &[u8; KEY]) -> SigningKey {
    SigningKey::from_bytes(&Zeroizing::new(derive(context, &[key])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt::Write as _;
    use shoal_protocol::ShardId;

    const FILE: FileId = FileId::from_bytes([0xf1; 32]);
    const SALT: Salt = [0x5a; 32];

    #[test]
    fn key_table_matches_the_golden_file() {
        let root = RootKey::new(core::array::from_fn(|i| i as u8));
        let (read, page) = (root.read(), SegmentNumber::page(3).unwrap());
        let verify = read.verify();
        let number = SegmentNumber(7);
        let (token, shard) = (verify.audit_token_key(&FILE), ShardId::from_bytes([0x5d; 32]));
        let rows: [(&str, [u8; KEY]); 17] = [
            ("owner public", root.owner_signer().verifying_key().to_bytes()),
            ("read", *read.as_bytes()),
            ("locator", *root.locator().as_bytes()),
            ("journal", *root.journal_key(SALT).key_bytes()),
            ("journal mark", *root.mark_key().as_bytes()),
            ("verify", *verify.as_bytes()),
            ("segment 7", *read.segment_key(&FILE, number, &SALT).as_bytes()),
            ("page read 3", *read.page_read_key(&FILE, page, SALT).key_bytes()),
            ("steward public", verify.steward_signer().verifying_key().to_bytes()),
            ("page 3", *verify.page_key(&FILE, page, &SALT).as_bytes()),
            ("mask 7 5 1", *verify.mask_key(&FILE, number, 5, 1).as_bytes()),
            ("mask 7 1 5", *verify.mask_key(&FILE, number, 1, 5).as_bytes()),
            ("placement record", *verify.placement_record_key(SALT).key_bytes()),
            ("manifest page", *verify.manifest_page_key(SALT).key_bytes()),
            ("audit token", *token.as_bytes()),
            ("audit challenge 63", crate::audit::challenge(&token, &shard, 63)),
            ("owner record", *root.locator().owner_record_key(SALT).key_bytes()),
        ];
        let mut text = String::new();
        for (name, key) in rows {
            writeln!(text, "{name} = {}", FileId::from_bytes(key).to_hex()).unwrap();
        }
        assert_eq!(text, include_str!("../../golden/keys.txt"));
    }

    #[test]
    fn debug_shows_no_key() {
        let root = RootKey::new([0xab; 32]);
        let shown = format!("{root:?} {:?} {:?}", root.read(), root.journal_key(SALT));
        assert_eq!(shown, "RootKey(..) ReadKey(..) BoxKey(..)");
    }
}
