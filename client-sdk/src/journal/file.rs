//! The bytes of a journal: header, then sealed entries, each bound to its place. It reads as far as the entries are
//! whole, and never fails because the last of them was cut.

use minicbor::{Decode, Encode};
use shoal_protocol::codec::{Bounded, CodecError, decode, encode};
use shoal_protocol::limits::{PAGE_MAX, TAG};
use shoal_protocol::sealing::{KdfParams, KeySlot, Salt, SealedBox};
use shoal_protocol::{FileId, NetworkId, PublicKey, Suite};

use super::entry::EntryBody;
use super::{Entry, JournalState};
use crate::keys::{Kek, RootKey, SlotError, open_slots};

/// First bytes of every journal.
const MAGIC: &[u8; 8] = b"SHOALUJ1";
/// Version of the header.
pub const JOURNAL_FORMAT: u8 = 1;
/// Largest journal, bytes: about 2 million receipts, which are about 4 TiB of shards.
pub const JOURNAL_MAX: usize = 256 << 20;
/// Largest CBOR of an entry: a segment reference fits a page, and what is beside it is less than a key slot.
const ENTRY_MAX: usize = PAGE_MAX;
/// Bytes before the header.
const PREFIX: usize = MAGIC.len() + 1 + 2;
/// Bytes of the salt of an entry.
const SALT: usize = 32;

/// Why bytes are no journal that can be gone on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Not a journal at all, or cut before the end of its header.
    #[error("not a Shoal upload journal")]
    Magic,
    /// A newer format.
    #[error("journal of format {0}, this version knows {JOURNAL_FORMAT}")]
    Version(u8),
    /// The header is not in order.
    #[error("header of the journal is malformed")]
    Header(#[source] CodecError),
    /// The password is another, or the slot was altered.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The key in the slot is of another file or network.
    #[error("key slot of the journal holds the key of another file")]
    ForeignRoot,
    /// Its first entry does not say how the upload is made.
    #[error("journal without a beginning")]
    NoBegin,
}

/// What can be read without the password.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct JournalHeader {
    /// Id of the network it goes to.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub network: [u8; 32],
    /// The upload.
    #[n(1)]
    pub file: FileId,
    /// Its ciphers.
    #[n(2)]
    pub suite: Suite,
    /// How the password is hashed.
    #[n(3)]
    pub kdf: KdfParams,
    /// The root key behind the password: the slot that the owner record will have.
    #[n(4)]
    pub slot: KeySlot,
}

impl Bounded for JournalHeader {
    fn check(&self) -> Result<(), &'static str> {
        self.kdf.check()
    }
}

impl JournalHeader {
    /// The header at the front of `bytes`, and where the entries begin. No secret is needed.
    ///
    /// # Errors
    /// [`JournalError::Magic`], [`JournalError::Version`], [`JournalError::Header`].
    pub fn read(bytes: &[u8]) -> Result<(Self, usize), JournalError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(JournalError::Magic)?;
        let (&format, rest) = rest.split_first().ok_or(JournalError::Magic)?;
        if format != JOURNAL_FORMAT {
            return Err(JournalError::Version(format));
        }
        let (length, rest) = rest.split_first_chunk::<2>().ok_or(JournalError::Magic)?;
        let length = usize::from(u16::from_le_bytes(*length));
        let body = rest.get(..length).ok_or(JournalError::Magic)?;
        let header = decode(body, length).map_err(JournalError::Header)?;
        Ok((header, PREFIX.saturating_add(length)))
    }

    /// The root key, if `kek` is of the password the upload was begun with.
    ///
    /// # Errors
    /// [`JournalError::Slot`], [`JournalError::ForeignRoot`].
    pub fn unlock(&self, kek: &Kek) -> Result<RootKey, JournalError> {
        let root = open_slots(kek, self.suite, &self.file, std::slice::from_ref(&self.slot))?;
        let owner = PublicKey::from_bytes(root.owner_signer().verifying_key().to_bytes());
        if FileId::of_owner(&NetworkId::from_bytes(self.network), &owner) == self.file {
            Ok(root)
        } else {
            Err(JournalError::ForeignRoot)
        }
    }

    /// The first bytes of the file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = encode(self);
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
        [MAGIC.as_slice(), &[JOURNAL_FORMAT], &length.to_le_bytes(), &body].concat()
    }
}

/// Seals entries, each for its place.
#[derive(Debug)]
pub struct JournalWriter {
    root: RootKey,
    suite: Suite,
    file: FileId,
    next: u64,
}

impl JournalWriter {
    /// A writer of the entries after `header`, from the first on.
    #[must_use]
    pub fn new(header: &JournalHeader, root: RootKey) -> Self {
        Self { root, suite: header.suite, file: header.file, next: 0 }
    }

    /// The bytes of the next entry; `salt` is fresh.
    #[must_use]
    pub fn entry(&mut self, entry: Entry, salt: Salt) -> Vec<u8> {
        let plain = encode(&EntryBody::from(entry));
        let SealedBox { salt, sealed } = self.root.journal_key(salt).seal(self.suite, &self.file, self.next, &plain);
        self.next = self.next.saturating_add(1);
        let length = u32::try_from(SALT.saturating_add(sealed.len())).unwrap_or(u32::MAX);
        [length.to_le_bytes().as_slice(), &salt, &sealed].concat()
    }
}

/// What the entries say, as far as they are whole. `entries` is what follows the header.
///
/// # Errors
/// [`JournalError::NoBegin`].
pub fn replay(header: &JournalHeader, root: &RootKey, mut entries: &[u8]) -> Result<JournalState, JournalError> {
    let mut place = 0;
    let mut next = || {
        let entry = read_entry(header, root, place, &mut entries)?;
        place += 1;
        Some(entry)
    };
    let Some(Entry::Begin(begin)) = next() else { return Err(JournalError::NoBegin) };
    let mut state = JournalState::new(begin);
    while let Some(entry) = next() {
        if !state.apply(entry) {
            break;
        }
    }
    Ok(state)
}

fn read_entry(header: &JournalHeader, root: &RootKey, place: u64, entries: &mut &[u8]) -> Option<Entry> {
    let (length, rest) = entries.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if length > SALT + ENTRY_MAX + TAG {
        return None;
    }
    let (frame, rest) = rest.split_at_checked(length)?;
    let (salt, sealed) = frame.split_first_chunk::<SALT>()?;
    let sealed = SealedBox { salt: *salt, sealed: sealed.to_vec() };
    let plain = root.journal_key(*salt).open(header.suite, &header.file, place, &sealed).ok()?;
    let entry = decode::<EntryBody>(&plain, ENTRY_MAX).ok()?.entry()?;
    *entries = rest;
    Some(entry)
}
