//! The files beside the segments: golden bytes, and that nothing but those bytes is taken for them.

use super::super::index::{Index, Place, SegmentUse, Slot};
use super::super::record::StoreKey;
use super::super::snapshot::{decode, encode};
use super::*;

fn codec() -> Codec {
    Codec::new(&StoreKey::from_seed(&[9; 32]))
}

/// One entry in each section.
fn small_index() -> Index {
    let mut index = Index { next_sequence: 77, ..Index::default() };
    let place = |number| Place { segment: 4, unit: 9, length: 300, group: 0, number };
    let slot = Slot { segment: 4, unit: 1, length: 5000, group: 0 };
    let handle = index.groups.handle(&[1; 32]);
    index.groups.set_place(handle, Some(place(1_000)));
    index.groups.handle(&[2; 32]);
    index.shards.entry([3; 16]).or_insert(slot);
    index.collided.insert([4; 32], Slot { unit: 90, ..slot });
    index.refs.insert(([4; 32], 1));
    index.records.insert([5; 32], [Some(place(8)), None]);
    index.trash.insert([6; 32], 123);
    index.losses.insert([7; 32], 456);
    *index.segments.entry(4) = SegmentUse {
        end: 100_000,
        marks: 192,
        records: 6,
        first: 3,
        last_mark: 70,
        sealed: true,
        suspect: false,
        ..SegmentUse::default()
    };
    index
}

#[test]
fn the_snapshot_and_the_marker_have_their_golden_bytes() {
    let mut all = codec().marker().to_vec();
    all.extend_from_slice(&encode(&small_index(), &codec()));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/store_files_v1.bin");
    if std::env::var_os("SHOAL_WRITE_GOLDEN").is_some() {
        std::fs::write(path, &all).unwrap();
    }
    assert!(std::fs::read(path).unwrap() == all, "a format changed: stores out there read their whole log again");
}

#[test]
fn a_snapshot_is_read_back_as_it_was_and_counts_anew() {
    let bytes = encode(&small_index(), &codec());
    let index = decode(&bytes, &codec()).unwrap();
    assert_eq!(encode(&index, &codec()), bytes);
    let live = record_size(5000, 0) * 2 + record_size(300, 0) * 2;
    assert_eq!((index.segments.live(), index.shards(), index.next_sequence), (live, 2, 77));
    let holds: Vec<u32> = index.groups.iter().map(|group| group.holds).collect();
    assert_eq!(holds, [3, 1]);
}

#[test]
fn every_flipped_bit_and_every_other_length_of_a_snapshot_is_refused() {
    let bytes = encode(&small_index(), &codec());
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bad, &codec()).is_none(), "bit {bit}");
    }
    (0..bytes.len()).for_each(|length| assert!(decode(&bytes[..length], &codec()).is_none(), "{length} bytes"));
    assert!(decode(&[&bytes[..], &[0]].concat(), &codec()).is_none());
    assert!(decode(&bytes, &Codec::new(&StoreKey::from_seed(&[8; 32]))).is_none(), "another store's");
}

proptest::proptest! {
    #[test]
    fn bytes_under_a_right_mac_never_panic(counts: [u8; 8], body in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        let mut bytes = encode(&Index::default(), &codec());
        bytes.truncate(104);
        for (at, count) in counts.iter().enumerate() {
            bytes[32 + at * 8] = count % 3;
        }
        bytes.extend_from_slice(&body);
        let mac = codec().long_mac(&bytes);
        bytes.extend_from_slice(&mac);
        let _ = decode(&bytes, &codec());
    }
}
