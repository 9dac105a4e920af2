//! Golden bytes and properties of what the private network says about packets: peer hashes, metas, relay headers, credits.
//! `UPDATE_GOLDEN=1` writes the file and then fails, so that nobody passes by rewriting.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

use std::num::NonZeroU16;
use std::path::Path;

use data_encoding::HEXLOWER;
use proptest::prelude::*;
use shoal_protocol::NodeId;
use shoal_protocol::mesh::class::Class;
use shoal_protocol::mesh::credit::{Credit, Followed, Follower};
use shoal_protocol::mesh::meta::{Meta, MetaError, SuperKind};
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::relay::{HOP_LIMIT, RelayHeader, RelayHeaderError};

fn peer(n: u8) -> PeerHash {
    PeerHash::of(&NodeId::from_bytes([n; 32]))
}

fn header() -> RelayHeader {
    let (destination, source) = (peer(1), peer(2));
    RelayHeader { class: Class::Interactive, hop_limit: HOP_LIMIT, flow_label: 0xbeef, destination, source }
}

fn super_packet(kind: SuperKind, size: u16) -> Meta {
    Meta::Super { kind, segment_size: NonZeroU16::new(size).unwrap() }
}

#[test]
fn golden_bytes() {
    let mut cases = vec![
        ("peer hash of 01..".to_owned(), peer(1).to_string()),
        ("peer hash of 02..".to_owned(), peer(2).to_string()),
    ];
    let metas = [
        ("meta of a complete packet", Meta::COMPLETE),
        ("meta of a packet with a pending checksum", Meta::Single { checksum_pending: true }),
        ("meta of tcp4 1240", super_packet(SuperKind::Tcp4, 1240)),
        ("meta of tcp6 1220", super_packet(SuperKind::Tcp6, 1220)),
        ("meta of udp 1", super_packet(SuperKind::Udp, 1)),
    ];
    for (name, meta) in metas {
        assert_eq!(Meta::from_bytes(meta.to_bytes()), Ok(meta));
        cases.push((name.to_owned(), HEXLOWER.encode(&meta.to_bytes())));
    }
    assert_eq!(RelayHeader::parse(&header().to_bytes()), Ok(header()));
    cases.push(("relay header".to_owned(), HEXLOWER.encode(&header().to_bytes())));
    cases.push(("associated data of the relay header".to_owned(), HEXLOWER.encode(&header().aad())));
    cases.push((
        "credit of 0x0102030405060708 bytes".to_owned(),
        HEXLOWER.encode(&Credit(0x0102_0304_0506_0708).to_bytes()),
    ));
    let now: String = cases.iter().map(|(name, shown)| format!("{name} = {shown}\n")).collect();

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/mesh_packet.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::write(&path, now).unwrap();
        panic!("mesh_packet.txt was written; read the difference, then run again without UPDATE_GOLDEN");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), now);
}

#[test]
fn every_meta_has_one_spelling() {
    let mut known = 0;
    for first in 0..=u8::MAX {
        for size in 0..=u16::MAX {
            let [high, low] = size.to_be_bytes();
            let bytes = [first, high, low];
            if let Ok(meta) = Meta::from_bytes(bytes) {
                assert_eq!(meta.to_bytes(), bytes);
                known += 1;
            }
        }
    }
    assert_eq!(known, 2 + 3 * 65_535);
    assert_eq!(Meta::from_bytes([8, 0, 0]), Err(MetaError::Bits(8)));
    assert_eq!(Meta::from_bytes([0, 0, 1]), Err(MetaError::SizeOfSingle(1)));
    assert_eq!(Meta::from_bytes([5, 0, 0]), Err(MetaError::NoSize));
    assert_eq!(Meta::from_bytes([1, 0, 1]), Err(MetaError::Finished));
}

#[test]
fn headers_that_mean_nothing_are_refused() {
    let with = |at: usize, byte: u8| {
        let mut bytes = header().to_bytes();
        bytes[at] = byte;
        RelayHeader::parse(&bytes)
    };
    assert_eq!(with(0, 0x21), Err(RelayHeaderError::Version(2)));
    assert_eq!(with(0, 0x14), Err(RelayHeaderError::Class(4)));
    assert_eq!(with(1, 0), Err(RelayHeaderError::HopLimit));
    assert_eq!(RelayHeader::parse(&header().to_bytes()[..23]), Err(RelayHeaderError::Short));
    let own = RelayHeader { source: peer(1), ..header() };
    assert_eq!(RelayHeader::parse(&own.to_bytes()), Err(RelayHeaderError::SameEnds));
}

#[test]
fn the_ends_authenticate_all_that_no_relay_changes() {
    let aad = header().aad();
    let relayed = RelayHeader { hop_limit: 3, class: Class::Background, ..header() };
    assert_eq!(relayed.aad(), aad);
    for other in [
        RelayHeader { flow_label: 0, ..header() },
        RelayHeader { destination: peer(3), ..header() },
        RelayHeader { source: peer(3), ..header() },
    ] {
        assert_ne!(other.aad(), aad);
    }
    assert_eq!(aad, header().to_bytes()[RelayHeader::AAD]);
}

/// Frames and credits as a lane has them: the bytes, how many are of frames, and the last credit.
fn lane(parts: &[Result<Vec<u8>, u64>]) -> (Vec<u8>, Followed) {
    let (mut bytes, mut followed) = (Vec::new(), Followed::default());
    for part in parts {
        match part {
            Ok(frame) => {
                bytes.extend_from_slice(&u16::try_from(frame.len()).unwrap().to_be_bytes());
                bytes.extend_from_slice(frame);
                followed.bytes += frame.len() as u64 + 2;
            }
            Err(credit) => {
                bytes.extend_from_slice(&Credit(*credit).to_bytes());
                followed.credit = Some(Credit(*credit));
            }
        }
    }
    (bytes, followed)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10_000) })]

    #[test]
    fn credits_are_found_between_frames_in_any_pieces(
        parts in prop::collection::vec(
            prop_oneof![prop::collection::vec(any::<u8>(), 1..40).prop_map(Ok), any::<u64>().prop_map(Err)],
            0..12,
        ),
        step in 1..60_usize,
    ) {
        let (bytes, wanted) = lane(&parts);
        let (mut follower, mut found) = (Follower::default(), Followed::default());
        for piece in bytes.chunks(step) {
            let Followed { bytes, credit } = follower.pass(piece);
            found.bytes += bytes;
            found.credit = credit.or(found.credit);
        }
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn relay_headers_have_one_spelling(mut bytes in proptest::collection::vec(any::<u8>(), 0..40), likely in any::<bool>()) {
        if likely && let Some(first) = bytes.first_mut() {
            *first = 0x10 | (*first & 3);
        }
        if let Ok(header) = RelayHeader::parse(&bytes) {
            prop_assert_eq!(&header.to_bytes()[..], &bytes[..RelayHeader::LEN]);
        }
    }

    #[test]
    fn relay_headers_round_trip(
        class in 0u8..4, hop_limit in 1u8.., flow_label: u16, ends in any::<([u8; 10], [u8; 10])>(), rest: Vec<u8>,
    ) {
        prop_assume!(ends.0 != ends.1);
        let (destination, source) = (PeerHash::new(ends.0), PeerHash::new(ends.1));
        let class = Class::from_number(class).unwrap();
        let header = RelayHeader { class, hop_limit, flow_label, destination, source };
        let mut frame = header.to_bytes().to_vec();
        frame.extend(rest);
        prop_assert_eq!(RelayHeader::parse(&frame), Ok(header));
    }
}
