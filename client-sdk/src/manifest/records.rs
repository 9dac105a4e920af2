//! The two records of a file: made, opened, and the newest of several chosen. Nothing is believed before its signature
//! is checked; no password is hashed outside [`unlock`], and there once.
//!
//! ```text
//! signed record = Signed(Record { kind, index, version, previous = link(signed bytes before), body = SealedBox })
//! owner         : signed by the owner key,   body sealed under derive(owner record, locator, salt)
//! placement     : signed by the steward key, body sealed under derive(placement record, Kv, salt)
//! both          : ChaCha20-Poly1305, nonce 0, AAD = single_aad(ChaCha20-Poly1305, file, version)
//! ```

use core::ops::Deref;

use ed25519_dalek::SigningKey;
use minicbor::{Decode, Encode};
use shoal_protocol::codec::{Bounded, CodecError, decode, encode};
use shoal_protocol::limits::RECORD_MAX;
use shoal_protocol::record::{OwnerRecord, PlacementRecord, Record, RecordKind, link};
use shoal_protocol::sealing::{Salt, SealedBox};
use shoal_protocol::signed::Forged;
use shoal_protocol::{FileId, NetworkId, PublicKey, Signed, Suite, Verified};

use crate::keys::{BoxKey, KdfError, Locator, RootKey, SlotError, VerifyKey, kek, open_slots};

/// Record bodies are read before the upload's suite is known.
const RECORD_SUITE: Suite = Suite::ChaCha20Poly1305;

/// A record whose signature, kind, file and body were checked. Only opening makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened<T> {
    body: T,
    index: u32,
    version: u64,
    signer: PublicKey,
    signed: Vec<u8>,
}

impl<T> Opened<T> {
    /// Its number among records of its kind and signer.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Counts from 1.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Who signed it.
    #[must_use]
    pub const fn signer(&self) -> &PublicKey {
        &self.signer
    }

    /// The envelope as it was received.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }
}

impl<T> Deref for Opened<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.body
    }
}

/// Why a record cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MakeError {
    /// A field of the body is out of its bounds, or does not belong to the keys.
    #[error("record refused: {0}")]
    Body(&'static str),
    /// Too many holders, addresses, slots or roots.
    #[error("record of {bytes} bytes is over the limit of {RECORD_MAX}")]
    TooLarge {
        /// Its signed size.
        bytes: usize,
    },
    /// The version before is the last there can be.
    #[error("no version after {0}")]
    LastVersion(u64),
}

/// Why a record is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Envelope, signer, network or signature.
    #[error(transparent)]
    Forged(#[from] Forged),
    /// Rightly signed, but of another kind or index.
    #[error("record of another kind or index")]
    Kind,
    /// The body does not open with this key.
    #[error("record does not open with this key")]
    Sealed,
    /// The body is malformed.
    #[error("body of the record is malformed")]
    Body(#[source] CodecError),
    /// The body is about another file.
    #[error("record of another file")]
    File,
}

impl From<CodecError> for RecordError {
    fn from(error: CodecError) -> Self {
        Self::Forged(error.into())
    }
}

/// Signs and seals an owner record: the first version, or the successor of `previous`.
///
/// # Errors
/// [`MakeError`]; the body must be of this root key's file and name its steward.
pub fn make_owner(
    body: &OwnerRecord,
    root: &RootKey,
    network: &NetworkId,
    previous: Option<&Opened<OwnerRecord>>,
    salt: Salt,
) -> Result<Vec<u8>, MakeError> {
    let signer = root.owner_signer();
    belongs_to(body, root, network).map_err(MakeError::Body)?;
    let draft = Draft { kind: RecordKind::Owner, index: 0, file: body.file, signer: &signer, network };
    draft.make(body, previous, root.locator().owner_record_key(salt))
}

/// Signs and seals placement record `index`: the first version, or the successor of `previous`.
///
/// # Errors
/// [`MakeError`].
pub fn make_placement(
    body: &PlacementRecord,
    index: u32,
    verify: &VerifyKey,
    network: &NetworkId,
    previous: Option<&Opened<PlacementRecord>>,
    salt: Salt,
) -> Result<Vec<u8>, MakeError> {
    let signer = verify.steward_signer();
    let draft = Draft { kind: RecordKind::Placement, index, file: body.file, signer: &signer, network };
    draft.make(body, previous, verify.placement_record_key(salt))
}

/// Opens the owner record of the file that `owner` names.
///
/// # Errors
/// [`RecordError`] with the first reason found.
pub fn open_owner(
    signed: &[u8],
    network: &NetworkId,
    owner: &PublicKey,
    locator: &Locator,
) -> Result<Opened<OwnerRecord>, RecordError> {
    let file = FileId::of_owner(network, owner);
    let record = believe(signed, network, owner, RecordKind::Owner, 0)?;
    let key = locator.owner_record_key(record.body.salt);
    open(signed, record, &key, &file, |body: &OwnerRecord| body.file)
}

/// Opens placement record `index` of `file`, signed by `steward` as the owner record names it.
///
/// # Errors
/// [`RecordError`] with the first reason found.
pub fn open_placement(
    signed: &[u8],
    index: u32,
    network: &NetworkId,
    file: &FileId,
    steward: &PublicKey,
    verify: &VerifyKey,
) -> Result<Opened<PlacementRecord>, RecordError> {
    let record = believe(signed, network, steward, RecordKind::Placement, index)?;
    let key = verify.placement_record_key(record.body.salt);
    open(signed, record, &key, file, |body: &PlacementRecord| body.file)
}

/// The highest version among those that open; of two with one version the one with the higher link, so that all
/// readers agree. Those that do not open are passed over: any holder may lie.
pub fn newest<'a, T>(
    candidates: impl IntoIterator<Item = &'a [u8]>,
    open: impl Fn(&[u8]) -> Result<Opened<T>, RecordError>,
) -> Option<Opened<T>> {
    let opened = candidates.into_iter().filter_map(|signed| open(signed).ok());
    opened.max_by_key(|record| (record.version, link(&record.signed)))
}

/// Why a password does not give the root key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnlockError {
    /// The password hash could not be run.
    #[error(transparent)]
    Kdf(#[from] KdfError),
    /// Wrong password, or a damaged slot.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The password is right, but its slot holds the key of another file.
    #[error("key slot holds the root key of another file")]
    ForeignRoot,
}

/// The root key behind `password`: one run of the password hash, whatever the count of slots. The key is checked
/// against the signer of the record, which names the file, and against the steward it names.
///
/// # Errors
/// [`UnlockError`].
pub fn unlock(record: &Opened<OwnerRecord>, network: &NetworkId, password: &[u8]) -> Result<RootKey, UnlockError> {
    let root = open_slots(&kek(password, &record.kdf)?, record.suite, &record.file, &record.slots)?;
    belongs_to(record, &root, network).map_err(|_| UnlockError::ForeignRoot)?;
    Ok(root)
}

/// Whether the body is of the root key's file and names its steward.
fn belongs_to(body: &OwnerRecord, root: &RootKey, network: &NetworkId) -> Result<(), &'static str> {
    let owner = public(&root.owner_signer());
    let steward = public(&root.read().verify().steward_signer());
    if body.file != FileId::of_owner(network, &owner) {
        return Err("file of another owner key");
    }
    if body.steward == steward { Ok(()) } else { Err("steward of another file") }
}

fn public(signer: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(signer.verifying_key().to_bytes())
}

/// A record about to be made.
struct Draft<'a> {
    kind: RecordKind,
    index: u32,
    file: FileId,
    signer: &'a SigningKey,
    network: &'a NetworkId,
}

impl Draft<'_> {
    fn make<T: Encode<()> + Bounded>(
        &self,
        body: &T,
        previous: Option<&Opened<T>>,
        key: BoxKey,
    ) -> Result<Vec<u8>, MakeError> {
        body.check().map_err(MakeError::Body)?;
        let version = match previous {
            None => 1,
            Some(before) if before.index != self.index || before.signer != public(self.signer) => {
                return Err(MakeError::Body("predecessor is another record"));
            }
            Some(before) => before.version.checked_add(1).ok_or(MakeError::LastVersion(before.version))?,
        };
        let body: SealedBox = key.seal(RECORD_SUITE, &self.file, version, &encode(body));
        let previous = previous.map(|before| link(&before.signed));
        let record = Record { kind: self.kind, index: self.index, version, previous, body };
        let signed = Signed::seal(&record, self.signer, self.network).to_bytes();
        // The envelope is counted in full, as the reader's limit for the payload does.
        let bytes = encode(&record).len() + shoal_protocol::signed::ENVELOPE;
        if bytes.max(signed.len()) > RECORD_MAX {
            return Err(MakeError::TooLarge { bytes });
        }
        Ok(signed)
    }
}

/// Signature, signer, kind and index.
fn believe(
    signed: &[u8],
    network: &NetworkId,
    signer: &PublicKey,
    kind: RecordKind,
    index: u32,
) -> Result<Verified<Record>, RecordError> {
    let record = Signed::from_bytes(signed, RECORD_MAX)?.verify_by::<Record>(signer, network)?;
    if record.kind == kind && record.index == index { Ok(record) } else { Err(RecordError::Kind) }
}

/// The body of a believed record, if it opens and is about `file`.
fn open<T: Encode<()> + for<'b> Decode<'b, ()> + Bounded>(
    signed: &[u8],
    record: Verified<Record>,
    key: &BoxKey,
    file: &FileId,
    file_of: impl Fn(&T) -> FileId,
) -> Result<Opened<T>, RecordError> {
    let plain = key.open(RECORD_SUITE, file, record.version, &record.body).map_err(|_| RecordError::Sealed)?;
    let body: T = decode(&plain, RECORD_MAX).map_err(RecordError::Body)?;
    if file_of(&body) != *file {
        return Err(RecordError::File);
    }
    let Record { index, version, .. } = *record;
    Ok(Opened { body, index, version, signer: *record.signer(), signed: signed.to_vec() })
}
