//! Frames under attack: replays, mutations, other keys, other ways; and what is left of keys that were erased.

use shoal_protocol::mesh::session::content::ContentKind;
use shoal_protocol::mesh::session::frame::{FRAME_MAX, FRAME_OVERHEAD, PATH_IDS, PathId, SEQUENCES};

use super::super::*;
use super::world::*;
use crate::path::Carrier;

/// Attacks on one session.
const ATTACKS: u64 = 1_000_000;

fn path(number: u8) -> PathId {
    PathId::new(number).unwrap()
}

/// A world with a session, and the receiving half of the second member taken out of it.
fn pair() -> (World, RxHalf) {
    let mut world = World::new(9);
    world.want(0);
    world.run(100, &mut well);
    let index = world.members[1].using.unwrap();
    let (_, rx) = world.members[1].halves.remove(&index).unwrap();
    (world, rx)
}

fn packet(opened: Result<Opened<'_>, Dropped>) -> Result<Vec<u8>, Dropped> {
    opened.map(|opened| match opened.content {
        Content::Packet(packet) => packet.to_vec(),
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_million_replayed_and_mutated_frames_are_refused_and_counted_by_reason() {
    let (mut world, mut rx) = pair();
    let mut random = Bytes(1);
    let frames: Vec<Vec<u8>> =
        (0..12_000_u32).map(|at| world.members[0].seal(path((at % 3) as u8), &at.to_le_bytes()).unwrap()).collect();
    for frame in &frames {
        assert!(rx.open(&mut frame.clone(), AAD).is_ok());
    }
    let ahead: Vec<Vec<u8>> =
        (0..100_u32).map(|at| world.members[0].seal(path(7), &at.to_le_bytes()).unwrap()).collect();
    let before = rx.drops().clone();
    let mut scratch = [0; 64];
    let (mut replays, mut forged) = (0, 0);
    for attack in 0..ATTACKS {
        let replay = attack % 2 == 0;
        let source = if replay { &frames } else { &ahead };
        let frame = &source[random.next() as usize % source.len()];
        let length = frame.len();
        let bytes = &mut scratch[..length];
        bytes.copy_from_slice(frame);
        if !replay {
            // Any bit but those of first byte, index and counter, whose changes have tests of their own.
            let bit = 13 * 8 + random.next() as usize % ((length - 13) * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let reason = rx.open(bytes, AAD).expect_err("an attack");
        if replay {
            replays += 1
        } else {
            forged += 1
        }
        assert_eq!(matches!(reason, Dropped::Replayed | Dropped::TooOld), replay, "{reason}");
    }
    let drops = rx.drops();
    let since = |reason| drops.of(reason) - before.of(reason);
    assert_eq!(since(Dropped::Replayed) + since(Dropped::TooOld), replays);
    assert_eq!(since(Dropped::Forged), forged);
    assert_eq!(drops.total() - before.total(), ATTACKS);
    for (at, frame) in ahead.iter().enumerate() {
        assert_eq!(
            packet(rx.open(&mut frame.clone(), AAD)),
            Ok((at as u32).to_le_bytes().to_vec()),
            "numbers were not used up"
        );
    }
}

#[test]
fn every_bit_of_a_frame_and_its_associated_data_counts() {
    let (mut world, mut rx) = pair();
    let frame = world.members[0].seal(path(3), b"attack at dawn").unwrap();
    for bit in 0..frame.len() * 8 {
        let mut bad = frame.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let reason = rx.open(&mut bad, AAD).expect_err("a changed frame");
        let expected = match bit / 8 {
            0 => &[Dropped::Malformed][..],
            1..=4 => &[Dropped::NoSession],
            5..=12 => &[Dropped::Forged, Dropped::Malformed],
            _ => &[Dropped::Forged],
        };
        assert!(expected.contains(&reason), "bit {bit}: {reason}");
    }
    assert_eq!(rx.open(&mut frame.clone(), b"another destination").err(), Some(Dropped::Forged));
    for length in 0..FRAME_OVERHEAD {
        assert_eq!(rx.open(&mut frame[..length].to_vec(), AAD).err(), Some(Dropped::Malformed));
    }
    assert_eq!(packet(rx.open(&mut frame.clone(), AAD)), Ok(b"attack at dawn".to_vec()));
}

#[test]
fn a_frame_for_two_carriers_is_accepted_once() {
    let (mut world, mut rx) = pair();
    for _ in 0..3 {
        let frame = world.members[0].seal(PathId::DUAL, b"twice").unwrap();
        assert_eq!(packet(rx.open(&mut frame.clone(), AAD)), Ok(b"twice".to_vec()));
        assert_eq!(rx.open(&mut frame.clone(), AAD).err(), Some(Dropped::Replayed));
    }
}

#[test]
fn each_path_counts_and_is_reordered_for_itself() {
    let (mut world, mut rx) = pair();
    let slow = world.members[0].seal(path(0), b"slow").unwrap();
    for _ in 0..20_000 {
        let frame = world.members[0].seal(path(2), b"quick").unwrap();
        assert!(rx.open(&mut frame.clone(), AAD).is_ok());
    }
    assert_eq!(packet(rx.open(&mut slow.clone(), AAD)), Ok(b"slow".to_vec()), "quick frames do not age slow ones");
    let index = world.members[0].using.unwrap();
    let (tx, _) = &world.members[0].halves[&index];
    assert_eq!((tx.frames(path(2)), tx.payloads()), (20_000, 20_001));
}

#[test]
fn no_counter_comes_twice_over_paths_and_rekeys() {
    // The world itself refuses a second frame with one counter of one session; two sessions have two keys.
    let mut world = World::new(5);
    world.want(0);
    world.run(100, &mut well);
    let mut random = Bytes(7);
    for _ in 0..500 {
        for _ in 0..20 {
            let number = random.next() % u64::from(PATH_IDS + 1);
            let way = if number == u64::from(PATH_IDS) { PathId::DUAL } else { path(number as u8) };
            let member = (random.next() % 2) as usize;
            let frame = world.members[member].seal(way, b"same plaintext").unwrap();
            world.members[1 - member].receive(Carrier::Lanes, &frame, world.now_ms);
        }
        world.run(1_000, &mut well);
    }
    assert!(world.members[0].installs >= 4);
    let mut world = World::new(5);
    world.want(0);
    world.run(100, &mut well);
    let first = world.members[0].seal(path(4), b"same plaintext").unwrap();
    let back = world.members[1].seal(path(4), b"same plaintext").unwrap();
    assert_eq!(first[5..13], back[5..13], "the same counter");
    assert_ne!(first[13..], back[13..], "each direction has a key of its own");
    while world.members[0].installs == 1 {
        world.assert_works();
        world.run(1_000, &mut well);
    }
    let second = world.members[0].seal(path(4), b"same plaintext").unwrap();
    assert_eq!(first[5..13], second[5..13], "the same counter again");
    assert_ne!(first[13..], second[13..], "under another key");
}

#[test]
fn keys_of_later_epochs_open_nothing_of_earlier_ones() {
    let mut world = World::new(6);
    world.want(0);
    world.run(100, &mut well);
    let recorded = world.members[0].seal(path(4), b"from the first session").unwrap();
    let index = RxHalf::index_of(&recorded).unwrap();
    for second in 1..=310 {
        world.assert_works();
        world.run(1_000, &mut well);
        // The second session began after 120 s; the first one's frames under way are taken until its keys are 180 s old.
        let kept = world.members[1].halves.contains_key(&index);
        assert_eq!(kept, second < 180, "after {second} s");
    }
    assert_eq!(world.members[1].installs, 3);
    for (_, rx) in world.members[1].halves.values_mut() {
        // Even if the index were the same one.
        let mut frame = recorded.clone();
        frame[1..5].copy_from_slice(&rx.index().0.to_le_bytes());
        assert_eq!(rx.open(&mut frame, AAD).err(), Some(Dropped::Forged));
    }
}

#[test]
fn sealing_needs_its_room_and_uses_no_number_without_it() {
    let (mut world, _) = pair();
    let index = world.members[0].using.unwrap();
    let (tx, _) = world.members[0].halves.get_mut(&index).unwrap();
    let before = tx.frames(path(1));
    let mut buffer = vec![0; 70_000];
    let packet = ContentKind::Packet;
    for (what, body, expected) in [
        ("no headroom", 13..40, NotSealed::NoRoom),
        ("longer than a frame", 60..69_985, NotSealed::TooLong),
        ("outside", 69_990..69_999, NotSealed::NoRoom),
        ("far outside", usize::MAX - 3..usize::MAX, NotSealed::NoRoom),
        ("too long", 14..14 + FRAME_MAX - FRAME_OVERHEAD + 1, NotSealed::TooLong),
    ] {
        assert_eq!(tx.seal(path(1), packet, AAD, &mut buffer, body), Err(expected), "{what}");
    }
    let reversed = core::ops::Range { start: 60, end: 20 };
    assert_eq!(tx.seal(path(1), packet, AAD, &mut buffer, reversed), Err(NotSealed::NoRoom));
    assert_eq!(tx.frames(path(1)), before);
    assert_eq!(tx.seal(path(1), packet, AAD, &mut buffer, 14..14 + FRAME_MAX - FRAME_OVERHEAD), Ok(0..FRAME_MAX));
    tx.skip(0, SEQUENCES);
    assert_eq!(
        tx.seal(path(1), packet, AAD, &mut buffer, 20..30),
        Err(NotSealed::Exhausted),
        "the last number was used"
    );
}

#[test]
fn content_nobody_knows_is_refused_after_it_was_authenticated() {
    let (mut world, mut rx) = pair();
    let index = world.members[0].using.unwrap();
    let (tx, _) = world.members[0].halves.get_mut(&index).unwrap();
    let mut buffer = [0; 64];
    let kind = ContentKind::from_number(21).unwrap();
    let range = tx.seal(path(0), kind, AAD, &mut buffer, 20..21).unwrap();
    assert_eq!(rx.open(&mut buffer[range.clone()].to_vec(), AAD).err(), Some(Dropped::BadContent));
    assert_eq!(rx.open(&mut buffer[range].to_vec(), AAD).err(), Some(Dropped::Replayed));
}
