//! Journals as bytes: what is read back, what a cut or changed file still gives, and which slots are gone on with.

use proptest::prelude::*;
use shoal_protocol::layout::Code;
use shoal_protocol::limits::KDF_MEMORY_KIB_MIN;
use shoal_protocol::page::{SegmentRef, ShardIds};
use shoal_protocol::record::slot_of;
use shoal_protocol::sealing::KdfParams;
use shoal_protocol::{FileId, NetworkId, NodeId, PublicKey, SegmentNumber, ShardId, Suite};

use super::*;
use crate::keys::{Kek, RootKey, SlotError, kek, make_slot};

const NETWORK: NetworkId = NetworkId::from_bytes([7; 32]);
const CODE: Code = Code { data: 2, parity: 1 };

fn params() -> KdfParams {
    KdfParams { salt: [6; 16], memory_kib: KDF_MEMORY_KIB_MIN, passes: 1, lanes: 1 }
}

fn header(root: &RootKey, kek: &Kek) -> JournalHeader {
    let owner = PublicKey::from_bytes(root.owner_signer().verifying_key().to_bytes());
    let file = FileId::of_owner(&NETWORK, &owner);
    let suite = Suite::ChaCha20Poly1305;
    let slot = make_slot(kek, suite, &file, root, [2; 32]);
    JournalHeader { network: *NETWORK.as_bytes(), file, suite, kdf: params(), slot }
}

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn begin() -> Begin {
    Begin { code: CODE, replicas: 1, audit_rounds: 0, serial: 3 }
}

fn sealed(number: u32, salt: u8) -> Entry {
    let shards: Vec<ShardId> = (0..3).map(|unit| ShardId::from_bytes([salt.wrapping_add(unit); 32])).collect();
    let reference =
        SegmentRef { salt: [salt; 32], plain: 100, shards: ShardIds::new(&shards), last: false, tokens: None };
    Entry::Sealed(SealedSegment { number: SegmentNumber(number), mark: [salt; 32], reference })
}

fn held(number: u32, unit: u16, by: u8) -> Entry {
    Entry::Held(HeldUnit { number: SegmentNumber(number), unit, node: node(by) })
}

fn story() -> Vec<Entry> {
    vec![Entry::Begin(begin()), sealed(0, 10), held(0, 2, 1), sealed(1, 20), held(1, 0, 2), held(0, 0, 3)]
}

/// The journal of `entries`, and where each of them ends.
fn written(header: &JournalHeader, root: &RootKey, entries: Vec<Entry>) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = header.to_bytes();
    let mut writer = JournalWriter::new(header, root.clone());
    let ends = entries.into_iter().zip(1u8..).map(|(entry, salt)| {
        bytes.extend(writer.entry(entry, [salt; 32]));
        bytes.len()
    });
    let ends = ends.collect();
    (bytes, ends)
}

fn state_of(entries: &[Entry]) -> JournalState {
    let mut state = JournalState::new(begin());
    assert!(entries.iter().skip(1).all(|entry| state.apply(entry.clone())));
    state
}

fn read(bytes: &[u8], root: &RootKey) -> Result<JournalState, JournalError> {
    let (header, entries) = JournalHeader::read(bytes)?;
    replay(&header, root, &bytes[entries..])
}

#[test]
fn bytes_match_the_golden_file() {
    let (root, kek) = (RootKey::new([0x11; 32]), kek(b"correct horse", &params()).unwrap());
    let (bytes, _) = written(&header(&root, &kek), &root, story());
    let lines: Vec<String> =
        bytes.chunks(64).map(|chunk| chunk.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    let text = lines.join("\n") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/journal.txt"), &text).unwrap();
    }
    assert_eq!(text, include_str!("../../golden/journal.txt"));
}

#[test]
fn a_cut_journal_gives_what_is_whole() {
    let (root, kek) = (RootKey::new([0x11; 32]), kek(b"correct horse", &params()).unwrap());
    let (bytes, ends) = written(&header(&root, &kek), &root, story());
    for length in 0..=bytes.len() {
        let whole = ends.iter().filter(|end| **end <= length).count();
        let found = read(&bytes[..length], &root);
        match whole {
            0 => assert!(matches!(found, Err(JournalError::Magic | JournalError::NoBegin)), "{length}: {found:?}"),
            _ => assert_eq!(found.unwrap(), state_of(&story()[..whole]), "{length}"),
        }
    }
}

#[test]
fn every_flipped_bit_ends_the_journal_before_it() {
    let (root, kek) = (RootKey::new([0x11; 32]), kek(b"correct horse", &params()).unwrap());
    let (bytes, ends) = written(&header(&root, &kek), &root, story());
    let start = header(&root, &kek).to_bytes().len();
    for at in start..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            let whole = ends.iter().filter(|end| **end <= at).count();
            match read(&bad, &root) {
                Err(error) => assert_eq!((error, whole), (JournalError::NoBegin, 0)),
                Ok(state) => assert_eq!(state, state_of(&story()[..whole]), "{at} bit {bit}"),
            }
        }
    }
}

#[test]
fn a_changed_header_gives_no_key() {
    let (root, kek) = (RootKey::new([0x11; 32]), kek(b"correct horse", &params()).unwrap());
    let bytes = header(&root, &kek).to_bytes();
    assert_eq!(JournalHeader::read(&bytes).unwrap(), (header(&root, &kek), bytes.len()));
    assert_eq!(header(&root, &kek).unlock(&kek).unwrap().as_bytes(), root.as_bytes());
    let mut opened = 0;
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        // What changes the settings changes what the password gives: the caller runs the hash they ask for.
        let Ok((header, _)) = JournalHeader::read(&bad) else { continue };
        if header.kdf == params() {
            opened += 1;
            assert!(header.unlock(&kek).is_err(), "byte {at}");
        }
    }
    assert!(opened > 100, "{opened} headers were read");
    let wrong = crate::keys::kek(b"wrong", &params()).unwrap();
    assert_eq!(header(&root, &kek).unlock(&wrong).unwrap_err(), JournalError::Slot(SlotError::WrongPassword));
    let mut newer = bytes;
    newer[8] = 2;
    assert_eq!(JournalHeader::read(&newer), Err(JournalError::Version(2)));
}

#[test]
fn entries_count_only_in_their_place() {
    let (root, kek) = (RootKey::new([0x11; 32]), kek(b"correct horse", &params()).unwrap());
    let head = header(&root, &kek);
    let (bytes, ends) = written(&head, &root, story());
    let start = head.to_bytes().len();
    // The third and fourth entry change places; then the second comes twice; then an entry is left out.
    let swapped = [&bytes[..ends[1]], &bytes[ends[2]..ends[3]], &bytes[ends[1]..ends[2]], &bytes[ends[3]..]].concat();
    assert_eq!(read(&swapped, &root).unwrap(), state_of(&story()[..2]));
    let twice = [&bytes[..ends[1]], &bytes[ends[0]..]].concat();
    assert_eq!(read(&twice, &root).unwrap(), state_of(&story()[..2]));
    let left_out = [&bytes[..ends[1]], &bytes[ends[2]..]].concat();
    assert_eq!(read(&left_out, &root).unwrap(), state_of(&story()[..2]));
    assert_eq!(read(&[&bytes[..start], &bytes[ends[0]..]].concat(), &root), Err(JournalError::NoBegin));
    assert_eq!(read(&bytes, &RootKey::new([0x12; 32])), Err(JournalError::NoBegin), "the key of another upload");
}

#[test]
fn what_makes_no_sense_is_where_it_ends() {
    let (root, kek) = (RootKey::new([0x11; 32]), kek(b"correct horse", &params()).unwrap());
    let head = header(&root, &kek);
    let narrow = |mut entry: Entry| {
        if let Entry::Sealed(sealed) = &mut entry {
            sealed.reference.shards = ShardIds::new(&[ShardId::from_bytes([1; 32]); 2]);
        }
        entry
    };
    let of_page = |entry: Entry| match entry {
        Entry::Sealed(sealed) => Entry::Sealed(SealedSegment { number: SegmentNumber::page(0).unwrap(), ..sealed }),
        Entry::Held(held) => Entry::Held(HeldUnit { number: SegmentNumber::page(0).unwrap(), ..held }),
        begin @ Entry::Begin(_) => begin,
    };
    let bad = [
        Entry::Begin(begin()),
        held(7, 0, 1),
        held(0, 3, 1),
        narrow(sealed(2, 30)),
        of_page(sealed(2, 30)),
        of_page(held(0, 0, 1)),
    ];
    for bad in bad {
        let mut entries = story();
        entries.insert(2, bad.clone());
        let (bytes, _) = written(&head, &root, entries);
        assert_eq!(read(&bytes, &root).unwrap(), state_of(&story()[..2]), "{bad:?}");
    }
    let odd = Entry::Begin(Begin { replicas: 0, ..begin() });
    assert_eq!(read(&written(&head, &root, vec![odd]).0, &root), Err(JournalError::NoBegin));
}

#[test]
fn a_segment_sealed_anew_forgets_its_holders() {
    let mut state = state_of(&story());
    assert!(state.apply(sealed(0, 40)));
    assert_eq!(state.holdings().map(|(number, ..)| number.0).collect::<Vec<_>>(), [1]);
}

fn unit_in(segment: u32, slot: usize, slots: usize) -> u16 {
    let units = (0..slots).filter(|unit| slot_of(SegmentNumber(segment), *unit, slots) == Some(slot));
    u16::try_from(units.max().unwrap()).unwrap()
}

#[test]
fn slots_stay_with_whom_they_were() {
    let nodes = |ids: &[u8]| ids.iter().map(|id| node(*id)).collect::<Vec<_>>();
    // Slot 0 went from node 1 to node 4 at segment 1; slot 1 is node 2's; nobody got anything for slot 2.
    let story = [
        Entry::Begin(begin()),
        sealed(0, 10),
        held(0, unit_in(0, 0, 3), 1),
        held(0, unit_in(0, 1, 3), 2),
        sealed(1, 20),
        held(1, unit_in(1, 0, 3), 4),
    ];
    let state = state_of(&story);
    let left = |slots: &[u8], spares: &[u8]| slots_as_left(&nodes(slots), &nodes(spares), &state);
    assert_eq!(left(&[1, 2, 3], &[4, 5]), (nodes(&[4, 2, 3]), nodes(&[1, 5])));
    assert_eq!(left(&[3, 1, 2], &[4]), (nodes(&[4, 2, 3]), nodes(&[1])), "the plan has another order");
    assert_eq!(left(&[1, 2, 3], &[]), (nodes(&[1, 2, 3]), vec![]), "node 4 is gone");
    assert_eq!(left(&[5, 6, 7], &[]), (nodes(&[5, 6, 7]), vec![]), "everybody is gone");
    assert_eq!(left(&[2, 4, 5], &[6]), (nodes(&[4, 2, 5]), nodes(&[6])));
}

proptest! {
    #[test]
    fn a_journal_goes_on_as_it_was(
        events in prop::collection::vec((0u32..4, 0u16..3, any::<u8>(), any::<bool>()), 0..40),
        serial in any::<u64>(),
    ) {
        let (root, kek) = (RootKey::new([0x11; 32]), kek_once());
        let mut state = JournalState::new(begin());
        for (number, unit, byte, seals) in events {
            state.apply(if seals { sealed(number, byte) } else { held(number, unit, byte) });
        }
        let (bytes, _) = written(&header(&root, kek), &root, state.entries(serial).collect());
        let again = read(&bytes, &root).unwrap();
        prop_assert_eq!(again.begin(), &Begin { serial, ..begin() });
        prop_assert_eq!(again.into_segments(), state.into_segments());
    }

    #[test]
    fn slots_are_a_permutation(events in prop::collection::vec((0u32..6, 0u16..3, 0u8..8), 0..40), spares in 0u8..4) {
        let mut state = JournalState::new(begin());
        for number in 0..6 {
            state.apply(sealed(number, 1));
        }
        for (number, unit, by) in events {
            state.apply(held(number, unit, by));
        }
        let (slots, spares): (Vec<_>, Vec<_>) = ((0..3).map(node).collect(), (3..3 + spares).map(node).collect());
        let (table, left) = slots_as_left(&slots, &spares, &state);
        prop_assert_eq!(table.len(), slots.len());
        let mut all: Vec<_> = table.into_iter().chain(left).collect();
        all.sort();
        prop_assert_eq!(all, slots.into_iter().chain(spares).collect::<Vec<_>>());
    }
}

/// The password hash is not what is tested here.
fn kek_once() -> &'static Kek {
    static ONCE: std::sync::OnceLock<Kek> = std::sync::OnceLock::new();
    ONCE.get_or_init(|| kek(b"correct horse", &params()).unwrap())
}
