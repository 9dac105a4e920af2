//! Packets joined to super-packets: cut again they are the same bytes, and what a kernel would not join is not joined.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

mod common;

use std::num::NonZeroU16;

use common::{Ip, Segment, slow_sum, udp};
use proptest::prelude::*;
use shoal_engine::mesh::packet::Parsed;
use shoal_engine::mesh::packet::join::{JOIN_BYTES, Join, Joined};
use shoal_engine::mesh::packet::offload::{complete, ingest, rebuild};
use shoal_engine::mesh::packet::split::{Limits, Prepared, prepare};
use shoal_engine::mesh::packet::virtio::VirtioHeader;
use shoal_protocol::mesh::meta::{Meta, SEGMENTS_MAX, SuperKind};
use shoal_protocol::mesh::offloads::Offloads;

const PENDING: Meta = Meta::Single { checksum_pending: true };
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6];

/// One packet of a stream or of datagrams, with its right checksum.
#[derive(Clone, Debug)]
enum Piece {
    Tcp(Segment),
    Udp(Vec<u8>),
}

fn tcp(sequence: u32, flags: u8, payload: Vec<u8>) -> Segment {
    Segment { sequence, flags, urgent: 0, options: TIMESTAMPS.to_vec(), payload }
}

fn bytes(ip: &Ip, piece: &Piece) -> Vec<u8> {
    match piece {
        Piece::Tcp(segment) => segment.packets(ip).0,
        Piece::Udp(payload) => udp(ip, (1000, 2000), payload).0,
    }
}

/// IPv4 with "may not be cut".
fn atomic(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] |= 0x40;
    packet[10..12].fill(0);
    let checksum = !slow_sum(&packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Gives packets one by one, as a reader of a carrier does; what is written to the device, in order.
fn written(packets: &[(Vec<u8>, Meta)]) -> Vec<(Vec<u8>, VirtioHeader)> {
    let (mut join, mut out, mut device) = (Join::new(), vec![0xee; JOIN_BYTES], vec![]);
    for (packet, meta) in packets {
        let parsed = Parsed::of(packet).unwrap();
        let mut joined = join.push(packet, &parsed, *meta, &mut out).unwrap();
        if joined == Joined::Other {
            device.extend(finish(&mut join, &mut out));
            joined = join.push(packet, &parsed, *meta, &mut out).unwrap();
        }
        match joined {
            Joined::Open => {}
            Joined::Last => device.extend(finish(&mut join, &mut out)),
            Joined::Alone => {
                let mut packet = packet.clone();
                let (_, header) = rebuild(*meta, &mut packet).unwrap();
                device.push((packet, header));
            }
            Joined::Other => panic!("nothing was held"),
        }
    }
    device.extend(finish(&mut join, &mut out));
    assert!(join.is_empty());
    device
}

fn finish(join: &mut Join, out: &mut [u8]) -> Option<(Vec<u8>, VirtioHeader)> {
    let (length, header) = join.finish(out).unwrap()?;
    Some((out[..length].to_vec(), header))
}

/// What the kernel makes of it: whole packets with their checksums.
fn cut((packet, header): &(Vec<u8>, VirtioHeader)) -> Vec<Vec<u8>> {
    let mut packet = packet.clone();
    let (parsed, meta) = ingest(header, &mut packet).unwrap();
    let limits = Limits { max_packet: JOIN_BYTES, far: Offloads::default() };
    match prepare(&mut packet, &parsed, meta, limits).unwrap() {
        Prepared::Whole(meta) => {
            assert_eq!(meta, Meta::COMPLETE);
            vec![packet]
        }
        Prepared::Split(mut split) => {
            let (mut all, mut buffer) = (vec![], vec![0; split.largest()]);
            while let Some((length, _)) = split.next(&packet, &mut buffer).unwrap() {
                all.push(buffer[..length].to_vec());
            }
            all
        }
    }
}

fn complete_all(packets: &[Vec<u8>]) -> Vec<(Vec<u8>, Meta)> {
    packets.iter().map(|packet| (packet.clone(), Meta::COMPLETE)).collect()
}

/// A stream of segments of `size` bytes; identifications count on.
fn stream(ip: &Ip, size: usize, payload: &[u8], last_flags: u8) -> Vec<Vec<u8>> {
    let count = payload.chunks(size).count();
    let one = |(at, chunk): (usize, &[u8])| {
        let ip = Ip { identification: ip.identification.wrapping_add(at as u16), ..ip.clone() };
        let flags = if at + 1 == count { 0x10 | last_flags } else { 0x10 };
        bytes(&ip, &Piece::Tcp(tcp(7u32.wrapping_add((at * size) as u32), flags, chunk.to_vec())))
    };
    payload.chunks(size).enumerate().map(one).collect()
}

#[test]
fn a_stream_becomes_one_packet_and_the_same_again() {
    for ip in [Ip::v4(), Ip::v6()] {
        let payload: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
        let packets = stream(&ip, 1_340, &payload, 0x08);
        let device = written(&complete_all(&packets));
        assert_eq!(device.len(), 1, "15 segments at once");
        let (packet, header) = &device[0];
        let kind = if ip.source.is_ipv4() { 1 } else { 4 };
        assert_eq!((header.flags, header.gso_type, header.segment_size), (1, kind, 1_340));
        assert_eq!(usize::from(header.header_length), ip.network() + 32);
        // The same as if the sender's kernel had handed it over whole.
        let whole = tcp(7, 0x18, payload).packets(&ip).1;
        assert_eq!(*packet, whole);
        assert_eq!(cut(&device[0]), packets);
    }
}

#[test]
fn datagrams_of_one_length_and_a_shorter_one_are_joined() {
    let lengths = [500, 500, 500, 20, 500];
    let one = |(at, length): (usize, &usize)| {
        bytes(&Ip { identification: 9 + at as u16, ..Ip::v4() }, &Piece::Udp(vec![at as u8; *length]))
    };
    let packets: Vec<Vec<u8>> = lengths.iter().enumerate().map(one).collect();
    let device = written(&complete_all(&packets));
    assert_eq!(device.iter().map(|entry| cut(entry).len()).collect::<Vec<_>>(), [4, 1]);
    assert_eq!(device.iter().flat_map(cut).collect::<Vec<_>>(), packets);
    assert_eq!(device[0].1.gso_type, 5);
    assert_eq!(device[1].1, VirtioHeader::default(), "one alone is written as it came");
}

#[test]
fn what_differs_in_a_header_is_not_joined() {
    let base = |at: u16| (Ip { identification: at, ..Ip::v4() }, tcp(7 + 100 * u32::from(at), 0x10, vec![1; 100]));
    let packet = |(ip, segment): (Ip, Segment)| bytes(&ip, &Piece::Tcp(segment));
    let first = packet(base(0));
    let both = |second: Vec<u8>| written(&complete_all(&[first.clone(), second])).len();
    assert_eq!(both(packet(base(1))), 1, "what is alike");
    type Change = fn(&mut (Ip, Segment));
    let changes: [(&str, Change); 12] = [
        ("source", |(ip, _)| ip.source = "10.0.0.3".parse().unwrap()),
        ("destination", |(ip, _)| ip.destination = "10.0.0.3".parse().unwrap()),
        ("traffic class", |(ip, _)| ip.traffic_class = 3),
        ("identification", |(ip, _)| ip.identification = 2),
        ("same identification", |(ip, _)| ip.identification = 0),
        ("options", |(ip, _)| ip.options = vec![1, 1, 1, 0]),
        ("a gap", |(_, segment)| segment.sequence += 1),
        ("the same bytes again", |(_, segment)| segment.sequence = 7),
        ("more bytes than before", |(_, segment)| segment.payload.push(1)),
        ("other timestamps", |(_, segment)| segment.options[7] = 9),
        ("no timestamps", |(_, segment)| segment.options.clear()),
        ("no data", |(_, segment)| segment.payload.clear()),
    ];
    for (what, change) in changes {
        let mut second = base(1);
        change(&mut second);
        assert_eq!(both(packet(second)), 2, "{what}");
    }
    for flags in [0x11 | 0x04, 0x12, 0x30, 0x90, 0x50, 0x00] {
        let (ip, segment) = base(1);
        assert_eq!(both(packet((ip, Segment { flags, ..segment }))), 2, "flags {flags:#x}");
    }
    // Hop limit, ports, acknowledgement, window: the bytes themselves, with the checksum made again.
    for at in [8, 20, 23, 28, 34] {
        let mut second = packet(base(1));
        second[at] ^= 1;
        second[10..12].fill(0);
        let checksum = !slow_sum(&second[..20]);
        second[10..12].copy_from_slice(&checksum.to_be_bytes());
        let parsed = Parsed::of(&second).unwrap();
        complete(&mut second, &parsed).unwrap();
        assert_eq!(both(second), 2, "byte {at}");
    }
    for options in [vec![1; 12], vec![1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2], [&TIMESTAMPS[..], &[1; 4]].concat()] {
        let with = |(ip, segment): (Ip, Segment)| packet((ip, Segment { options: options.clone(), ..segment }));
        assert_eq!(written(&complete_all(&[with(base(0)), with(base(1))])).len(), 2, "{options:?}");
    }
}

#[test]
fn push_and_fin_end_it_and_cwr_begins_it() {
    let one = |at: u16, flags: u8| {
        let ip = Ip { identification: at, ..Ip::v4() };
        bytes(&ip, &Piece::Tcp(tcp(100 * u32::from(at), flags, vec![1; 100])))
    };
    let counts = |packets: &[Vec<u8>]| {
        let device = written(&complete_all(packets));
        assert_eq!(device.iter().flat_map(cut).collect::<Vec<_>>(), packets);
        device.iter().map(|entry| cut(entry).len()).collect::<Vec<_>>()
    };
    assert_eq!(counts(&[one(0, 0x10), one(1, 0x18), one(2, 0x10), one(3, 0x10)]), [2, 2]);
    assert_eq!(counts(&[one(0, 0x18), one(1, 0x10), one(2, 0x11)]), [1, 2]);
    assert_eq!(counts(&[one(0, 0x90), one(1, 0x10), one(2, 0x90), one(3, 0x10)]), [2, 2]);
    let device = written(&complete_all(&[one(0, 0x90), one(1, 0x10)]));
    assert_eq!(device[0].1.gso_type, 0x81, "the first alone has CWR");
}

#[test]
fn nothing_follows_the_last_before_it_is_written() {
    let packets = stream(&Ip::v4(), 100, &[7; 200], 0x08);
    let (mut join, mut out) = (Join::new(), vec![0; JOIN_BYTES]);
    let mut push = |packet: &[u8]| join.push(packet, &Parsed::of(packet).unwrap(), Meta::COMPLETE, &mut out);
    assert_eq!((push(&packets[0]), push(&packets[1])), (Ok(Joined::Open), Ok(Joined::Last)));
    let next = bytes(&Ip { identification: 3, ..Ip::v4() }, &Piece::Tcp(tcp(207, 0x10, vec![7; 100])));
    assert_eq!(push(&next), Ok(Joined::Other));
}

#[test]
fn a_wrong_checksum_stays_wrong_and_a_missing_one_missing() {
    let packets = stream(&Ip::v4(), 100, &[7; 300], 0);
    let mut damaged = packets.clone();
    damaged[1][60] ^= 1;
    let device = written(&complete_all(&damaged));
    assert_eq!(device.len(), 3);
    assert_eq!(device.iter().flat_map(cut).collect::<Vec<_>>(), damaged);
    // What is still to be made is nobody's word yet.
    damaged.iter_mut().for_each(|packet| packet[36..38].fill(0x55));
    let pending: Vec<(Vec<u8>, Meta)> = damaged.iter().map(|packet| (packet.clone(), PENDING)).collect();
    let device = written(&pending);
    assert_eq!((device.len(), cut(&device[0]).len()), (1, 3));
    let mut none = bytes(&Ip::v4(), &Piece::Udp(vec![1; 50]));
    none[26..28].fill(0);
    let device = written(&complete_all(&[none.clone(), none.clone()]));
    assert_eq!(device, [(none.clone(), VirtioHeader::default()), (none, VirtioHeader::default())]);
}

#[test]
fn identifications_that_mean_nothing_may_stay() {
    let one = |identification: u16, at: u32| {
        let ip = Ip { identification, ..Ip::v4() };
        bytes(&ip, &Piece::Tcp(tcp(100 * at, 0x10, vec![at as u8; 100])))
    };
    let same: Vec<Vec<u8>> = (0..3).map(|at| one(0, at)).collect();
    assert_eq!(written(&complete_all(&same)).len(), 3);
    let same: Vec<Vec<u8>> = same.into_iter().map(atomic).collect();
    assert_eq!(written(&complete_all(&same)).len(), 1);
    let mixed: Vec<Vec<u8>> = [(5, 0), (6, 1), (5, 2), (6, 3)].map(|(id, at)| atomic(one(id, at))).to_vec();
    assert_eq!(written(&complete_all(&mixed)).len(), 2, "the first two, the last two");
    assert_eq!(written(&complete_all(&[atomic(one(0, 0)), one(1, 1)])).len(), 2, "one may be cut and one not");
}

#[test]
fn segments_and_bytes_have_their_bounds() {
    let small = stream(&Ip::v6(), 10, &[3; 10 * 300], 0);
    let device = written(&complete_all(&small));
    assert_eq!(device.iter().map(|entry| cut(entry).len()).collect::<Vec<_>>(), [SEGMENTS_MAX, SEGMENTS_MAX, 44]);
    assert_eq!(device.iter().flat_map(cut).collect::<Vec<_>>(), small);
    let large = stream(&Ip::v4(), 9_000, &[3; 90_000], 0);
    let device = written(&complete_all(&large));
    assert!(device.iter().all(|(packet, _)| packet.len() <= JOIN_BYTES));
    assert_eq!(device.iter().map(|entry| cut(entry).len()).collect::<Vec<_>>(), [7, 3]);
    // A buffer that is too short takes what fits, and nothing else.
    let (mut join, mut out) = (Join::new(), vec![0; 200]);
    let parsed = |packet: &[u8]| Parsed::of(packet).unwrap();
    assert!(join.push(&large[0], &parsed(&large[0]), Meta::COMPLETE, &mut out).is_err() && join.is_empty());
    let tight = stream(&Ip::v4(), 100, &[3; 200], 0);
    assert_eq!(join.push(&tight[0], &parsed(&tight[0]), Meta::COMPLETE, &mut out), Ok(Joined::Open));
    assert_eq!(join.push(&tight[1], &parsed(&tight[1]), Meta::COMPLETE, &mut out), Ok(Joined::Other));
}

#[test]
fn what_is_no_data_of_a_flow_is_left_alone() {
    let super_packet = tcp(0, 0x10, vec![0; 3_000]).packets(&Ip::v4()).1;
    let size = NonZeroU16::new(1_000).unwrap();
    let meta = Meta::Super { kind: SuperKind::Tcp4, segment_size: size };
    let ping = common::icmp(&Ip::v4(), 8, 0, &[0; 40]);
    let mut piece = bytes(&Ip::v4(), &Piece::Udp(vec![0; 40]));
    piece[6] |= 0x20;
    piece[10..12].fill(0);
    let checksum = !slow_sum(&piece[..20]);
    piece[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut out = vec![0; JOIN_BYTES];
    for (packet, meta) in [(super_packet, meta), (ping, Meta::COMPLETE), (piece, Meta::COMPLETE)] {
        let joined = Join::new().push(&packet, &Parsed::of(&packet).unwrap(), meta, &mut out);
        assert_eq!(joined, Ok(Joined::Alone));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn whatever_is_joined_is_cut_into_the_same_packets(
        pieces in proptest::collection::vec((0usize..3, 0u8..8, prop::option::of(any::<u8>()), any::<bool>(), any::<bool>()), 1..60),
        identification: u16,
        sequence: u32,
        v4: bool,
        atomically: bool,
    ) {
        // Mostly streams and datagrams that go on, with lengths, flags, gaps, other flows and damage between them.
        let (mut packets, mut next, mut count) = (vec![], sequence, identification);
        for (length, odd, damage, is_tcp, is_pending) in pieces {
            let payload = vec![odd; [100, 100, 40][length]];
            let flags = if odd == 7 { 0x18 } else if odd == 6 { 0x90 } else { 0x10 };
            next = if odd == 5 { next.wrapping_add(1) } else { next };
            let ip = Ip { identification: count, ..if v4 { Ip::v4() } else { Ip::v6() } };
            let piece = if is_tcp || odd < 4 { Piece::Tcp(tcp(next, flags, payload.clone())) } else { Piece::Udp(payload.clone()) };
            let mut packet = bytes(&ip, &piece);
            if matches!(piece, Piece::Tcp(_)) {
                next = next.wrapping_add(payload.len() as u32);
            }
            count = count.wrapping_add(1);
            if v4 && atomically {
                packet = atomic(packet);
            }
            let last = packet.len() - 1;
            if let Some(damage) = damage.filter(|damage| *damage < 20 && !is_pending) {
                packet[last] ^= damage;
            }
            packets.push((packet, if is_pending { PENDING } else { Meta::COMPLETE }));
        }
        let device = written(&packets);
        let again: Vec<Vec<u8>> = device.iter().flat_map(cut).collect();
        let before: Vec<Vec<u8>> = packets.iter().map(|(packet, _)| packet.clone()).collect();
        prop_assert_eq!(again, before);
        prop_assert!(device.len() <= packets.len());
    }
}
