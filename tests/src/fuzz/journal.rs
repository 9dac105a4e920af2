//! The journal of an upload, as whoever can write in a home directory might leave it.

use shoal_client::journal::{Begin, Entry, HeldUnit, JournalHeader, JournalWriter, SealedSegment, replay};
use shoal_client::keys::make_slot;
use shoal_protocol::layout::Code;
use shoal_protocol::page::{SegmentRef, ShardIds};
use shoal_protocol::{NodeId, SegmentNumber, ShardId, Suite};

use super::input::{Input, join};
use super::records::{file, password_key, root, settings};
use super::statements::network;

const SUITE: Suite = Suite::ChaCha20Poly1305;

fn header() -> Option<JournalHeader> {
    let slot = make_slot(password_key()?, SUITE, &file(), &root(), [3; 32]);
    Some(JournalHeader { network: *network().as_bytes(), file: file(), suite: SUITE, kdf: settings(), slot })
}

/// Any bytes as a journal, or any bytes as entries that are rightly sealed for their places, the last of them cut by as
/// much as the first byte says. What is read is the same when it is written again.
pub fn upload_journal(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let how = input.byte();
    let mut bytes = Vec::new();
    if how & 1 == 0 {
        bytes.extend_from_slice(input.rest());
    } else if let Some(header) = header() {
        bytes = header.to_bytes();
        for place in 0u8..=255 {
            if input.is_empty() {
                break;
            }
            let sealed = root().journal_key([place; 32]).seal(SUITE, &file(), u64::from(place), input.bytes(8192));
            let length = u32::try_from(32 + sealed.sealed.len()).unwrap_or(u32::MAX);
            bytes.extend([&length.to_le_bytes()[..], &sealed.salt, &sealed.sealed].concat());
        }
        bytes.truncate(bytes.len() - usize::from(how >> 1).min(bytes.len()));
    }
    let Ok((header, entries)) = JournalHeader::read(&bytes) else { return false };
    let (head, rest) = bytes.split_at(entries);
    assert!(header.to_bytes() == head, "a header with two spellings");
    let Ok(state) = replay(&header, &root(), rest) else { return false };
    let units = state.begin().code.n() * usize::from(state.begin().replicas);
    assert!(state.holdings().all(|(number, unit, ..)| !number.is_page() && unit < units), "a shard that cannot be");
    let mut writer = JournalWriter::new(&header, root());
    let again: Vec<u8> =
        state.entries(state.begin().serial).zip(0u64..).flat_map(|(entry, n)| writer.entry(entry, salt(n))).collect();
    assert_eq!(replay(&header, &root(), &again).as_ref(), Ok(&state), "not read as it was written");
    true
}

fn salt(n: u64) -> [u8; 32] {
    let mut salt = [0; 32];
    salt.iter_mut().zip(n.to_le_bytes()).for_each(|(to, from)| *to = from);
    salt
}

pub(super) fn journals() -> Vec<Vec<u8>> {
    let Some(header) = header() else { return vec![] };
    let begin = Begin { code: Code { data: 1, parity: 1 }, replicas: 1, audit_rounds: 0, serial: 1 };
    let shards = ShardIds::new(&[ShardId::from_bytes([1; 32]), ShardId::from_bytes([2; 32])]);
    let reference = SegmentRef { salt: [4; 32], plain: 9, shards, last: true, tokens: None };
    let number = SegmentNumber(0);
    let story = [
        Entry::Begin(begin),
        Entry::Sealed(SealedSegment { number, mark: [5; 32], reference }),
        Entry::Held(HeldUnit { number, unit: 1, node: NodeId::from_bytes([6; 32]) }),
    ];
    let mut writer = JournalWriter::new(&header, root());
    let mut plain = vec![];
    let mut sealed = header.to_bytes();
    for (place, entry) in (0u64..).zip(story) {
        let frame = writer.entry(entry, salt(place));
        let salt = salt(place);
        let parts = frame.get(36..).unwrap_or_default().to_vec();
        let opened = shoal_protocol::sealing::SealedBox { salt, sealed: parts };
        let inside = root().journal_key(salt).open(SUITE, &file(), place, &opened).unwrap_or_default();
        plain.extend(u16::try_from(inside.len()).unwrap_or(0).to_le_bytes());
        plain.extend_from_slice(&inside);
        sealed.extend(frame);
    }
    vec![join(&[0], &sealed), join(&[1], &plain), join(&[21], &plain), vec![1, 0, 0]]
}
