//! What a holder of keys reads back from nodes it does not trust: records, sealed boxes and key slots.

use std::sync::OnceLock;

use shoal_client::keys::{Kek, RootKey, kek, make_slot, open_slots};
use shoal_client::manifest::{RecordError, open_owner, open_placement};
use shoal_protocol::codec;
use shoal_protocol::limits::{KDF_MEMORY_KIB_MIN, RECORD_MAX};
use shoal_protocol::record::{OwnerRecord, PlacementRecord, Record, RecordKind};
use shoal_protocol::sealing::{KdfParams, KeySlot, SealedBox};
use shoal_protocol::signed::{ENVELOPE, Statement};
use shoal_protocol::{FileId, PublicKey, Suite};

use super::input::{Input, golden, join};
use super::messages::canonical;
use super::statements::{envelope, network};

const PAGES: &str = include_str!("../../../protocol/golden/pages.hex");

/// The root key of every file here.
pub(super) fn root() -> RootKey {
    RootKey::new([0x51; 32])
}

pub(super) fn owner() -> PublicKey {
    PublicKey::from_bytes(root().owner_signer().verifying_key().to_bytes())
}

fn steward() -> PublicKey {
    PublicKey::from_bytes(root().read().verify().steward_signer().verifying_key().to_bytes())
}

/// The file of [`root`].
pub(super) fn file() -> FileId {
    FileId::of_owner(&network(), &owner())
}

/// Any bytes as the body of a record: the first says of which.
pub fn record_body(data: &[u8]) -> bool {
    let Some((which, body)) = data.split_first() else { return false };
    match which % 3 {
        0 => canonical::<OwnerRecord>(body, RECORD_MAX),
        1 => canonical::<PlacementRecord>(body, RECORD_MAX),
        _ => canonical::<KdfParams>(body, 256),
    }
}

fn lines(names: &[(u8, &'static str)]) -> Vec<Vec<u8>> {
    let of = |(which, name): &(u8, &'static str)| join(&[*which], &golden(PAGES, |found| found == *name).concat());
    names.iter().map(of).collect()
}

pub(super) fn record_bodies() -> Vec<Vec<u8>> {
    lines(&[(0, "owner record"), (1, "placement record"), (2, "password-hash settings")])
}

/// Kind, index, version, edits of the sealed bytes and of the envelope, then the body: a record rightly signed and sealed
/// around anything. It opens if and only if its body is one of that file and nothing was changed.
pub fn sealed_record(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let is_owner = input.byte().is_multiple_of(2);
    let (index, version) = (if is_owner { 0 } else { u32::from(input.byte() % 3) }, input.long());
    let (inner, outer) = (input.bytes(16), input.bytes(16));
    let mut plain = input.rest().to_vec();
    // The file's id stands in every body and no fuzzer guesses it: the golden one is replaced by ours.
    replace(&mut plain, golden_file().as_bytes(), file().as_bytes());
    let (root, suite) = (root(), Suite::ChaCha20Poly1305);
    let verify = root.read().verify();
    let key = if is_owner { root.locator().owner_record_key([7; 32]) } else { verify.placement_record_key([7; 32]) };
    let SealedBox { salt, mut sealed } = key.seal(suite, &file(), version, &plain);
    let mut changed = Input::new(inner).edit(&mut sealed, 2);
    let kind = if is_owner { RecordKind::Owner } else { RecordKind::Placement };
    let previous = (version > 1).then_some([9; 32]);
    let record = Record { kind, index, version, previous, body: SealedBox { salt, sealed } };
    let signer = if is_owner { root.owner_signer() } else { verify.steward_signer() };
    let mut bytes = envelope(Record::CONTEXT, &network(), &codec::encode(&record), &signer);
    changed |= Input::new(outer).edit(&mut bytes, 1);
    let length = bytes.len().max(codec::encode(&record).len() + ENVELOPE);
    let allowed = !changed && version > 0 && length <= RECORD_MAX;

    let (opened, good) = if is_owner {
        let opened = open_owner(&bytes, &network(), &owner(), &root.locator());
        (opened.map(|opened| codec::encode(&*opened)), of_file::<OwnerRecord>(&plain, |body| body.file))
    } else {
        let opened = open_placement(&bytes, index, &network(), &file(), &steward(), &verify);
        (opened.map(|opened| codec::encode(&*opened)), of_file::<PlacementRecord>(&plain, |body| body.file))
    };
    assert_eq!(opened.is_ok(), allowed && good, "{opened:?}");
    match opened {
        Ok(again) => assert_eq!(again, plain, "another body than was sealed"),
        Err(error) => assert!(!allowed || matches!(error, RecordError::Body(_) | RecordError::File), "{error}"),
    }
    allowed && good
}

fn of_file<T: codec::Message>(plain: &[u8], file_of: impl Fn(&T) -> FileId) -> bool {
    codec::decode::<T>(plain, RECORD_MAX).is_ok_and(|body| file_of(&body) == file())
}

fn golden_file() -> FileId {
    let body = golden(PAGES, |name| name == "placement record").concat();
    codec::decode::<PlacementRecord>(&body, RECORD_MAX).map_or(FileId::from_bytes([0; 32]), |body| body.file)
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let found = bytes.windows(from.len()).position(|window| window == from);
    if let Some(place) = found.and_then(|at| bytes.get_mut(at..at.saturating_add(from.len()))) {
        place.copy_from_slice(to);
    }
}

pub(super) fn sealed_records() -> Vec<Vec<u8>> {
    let body = |name: &'static str| golden(PAGES, move |found| found == name).concat();
    let head = |kind: u8, version: u8| {
        let mut head = vec![kind];
        head.extend((kind == 1).then_some(2));
        head.extend([version, 0, 0, 0, 0, 0, 0, 0]);
        head
    };
    let none = [0; 4];
    let edited = [5, 0, 1, 0, 3, 0, 0, 0, 0];
    vec![
        [&head(0, 1)[..], &none, &body("owner record")].concat(),
        [&head(1, 2)[..], &none, &body("placement record")].concat(),
        [&head(1, 1)[..], &edited[..7], &edited[7..], &body("placement record")].concat(),
        [&head(0, 9)[..], &none, b"no body"].concat(),
    ]
}

/// Suite, number, edits, then the plaintext: a box opens to what was sealed, and not at all once anything is changed.
pub fn sealed_box(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let suite = if input.byte().is_multiple_of(2) { Suite::ChaCha20Poly1305 } else { Suite::Aes256Gcm };
    let (number, salt) = (input.long(), input.array());
    let is_raw = input.byte().is_multiple_of(2);
    let edits = input.bytes(16);
    let plain = input.rest();
    let key = || root().locator().owner_record_key(salt);
    if is_raw {
        // Bytes that were never sealed.
        let opened = key().open(suite, &file(), number, &SealedBox { salt, sealed: plain.to_vec() });
        assert!(opened.is_err(), "opened what nobody sealed");
        return false;
    }
    let mut sealed = key().seal(suite, &file(), number, plain);
    let changed = Input::new(edits).edit(&mut sealed.sealed, 2);
    let opened = key().open(suite, &file(), number, &sealed);
    assert_eq!(opened.is_ok(), !changed);
    assert!(opened.is_err() || opened.is_ok_and(|opened| opened.as_slice() == plain), "another plaintext");
    let other = key().open(suite, &file(), number.wrapping_add(1), &sealed);
    assert!(other.is_err(), "under another number");
    !changed
}

pub(super) fn boxes() -> Vec<Vec<u8>> {
    let head = |suite: u8, raw: u8| [&[suite][..], &[0; 8], &[5; 32], &[raw, 0, 0]].concat();
    vec![join(&head(0, 1), b"plain"), join(&head(1, 1), b"plain"), join(&head(1, 0), &[7; 40]), head(0, 1)]
}

/// One run of the password hash serves all inputs.
pub(super) fn settings() -> KdfParams {
    KdfParams { salt: [6; 16], memory_kib: KDF_MEMORY_KIB_MIN, passes: 1, lanes: 1 }
}

pub(super) fn password_key() -> Option<&'static Kek> {
    static KEY: OnceLock<Option<Kek>> = OnceLock::new();
    KEY.get_or_init(|| kek(b"correct horse", &settings()).ok()).as_ref()
}

/// Suite, then slots: right ones, right ones with edits, and bytes that were never one. The root key comes out if and
/// only if a right one is among them.
pub fn key_slots(data: &[u8]) -> bool {
    let Some(kek) = password_key() else { return false };
    let mut input = Input::new(data);
    let suite = if input.byte().is_multiple_of(2) { Suite::ChaCha20Poly1305 } else { Suite::Aes256Gcm };
    let (mut slots, mut good) = (Vec::new(), false);
    while !input.is_empty() && slots.len() < 16 {
        let kind = input.byte() % 3;
        let salt = [input.byte(); 32];
        let mut slot = make_slot(kek, suite, &file(), &root(), salt);
        match kind {
            0 => good = true,
            1 => {
                let (at, mask) = (input.below(32 + 32 + 48), input.byte());
                let parts = slot.salt.iter_mut().chain(&mut slot.commitment).chain(&mut slot.sealed);
                parts.skip(at).take(1).for_each(|byte| *byte ^= mask);
                good |= mask == 0;
            }
            _ => slot = KeySlot { salt, commitment: input.array(), sealed: input.array() },
        }
        slots.push(slot);
    }
    let opened = open_slots(kek, suite, &file(), &slots);
    assert_eq!(opened.is_ok(), good, "{opened:?}");
    assert!(opened.is_err() || opened.is_ok_and(|found| found.as_bytes() == root().as_bytes()), "another root key");
    good
}

pub(super) fn slots() -> Vec<Vec<u8>> {
    let noise = [&[2, 9][..], &[1; 80]].concat();
    vec![vec![0, 0, 1], vec![1, 0, 1], join(&[0, 1, 1, 70, 0, 8], &noise), [&noise[..], &[0, 3]].concat()]
}
