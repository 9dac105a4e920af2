//! Super-packets cut, completed and rebuilt, byte for byte against packets that were made one at a time.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

mod common;

use std::num::NonZeroU16;

use common::{Ip, Segment, slow_sum, udp};
use proptest::prelude::*;
use shoal_engine::mesh::packet::offload::{complete, ingest, rebuild};
use shoal_engine::mesh::packet::split::{Limits, Prepared, piece_limit, prepare};
use shoal_engine::mesh::packet::virtio::{Form, VirtioHeader};
use shoal_engine::mesh::packet::{PacketDrop, Parsed};
use shoal_protocol::mesh::meta::{Meta, SEGMENTS_MAX, SuperKind};
use shoal_protocol::mesh::offloads::Offloads;

const PENDING: Meta = Meta::Single { checksum_pending: true };

fn super_of(kind: SuperKind, size: usize) -> Meta {
    Meta::Super { kind, segment_size: NonZeroU16::new(size as u16).unwrap() }
}

/// One flow's data: a TCP segment of any length, or datagrams.
#[derive(Clone, Debug)]
enum Flow {
    Tcp(Segment),
    Udp(Vec<u8>),
}

impl Flow {
    fn kind(&self, ip: &Ip) -> SuperKind {
        match self {
            Self::Udp(_) => SuperKind::Udp,
            Self::Tcp(_) if ip.source.is_ipv4() => SuperKind::Tcp4,
            Self::Tcp(_) => SuperKind::Tcp6,
        }
    }

    fn header(&self, ip: &Ip) -> usize {
        ip.network() + if let Self::Tcp(segment) = self { segment.header() } else { 8 }
    }

    fn payload(&self) -> &[u8] {
        match self {
            Self::Tcp(segment) => &segment.payload,
            Self::Udp(payload) => payload,
        }
    }

    /// As a kernel hands it over: one packet, its checksum half made.
    fn half_made(&self, ip: &Ip) -> Vec<u8> {
        match self {
            Self::Tcp(segment) => segment.packets(ip).1,
            Self::Udp(payload) => udp(ip, (1000, 2000), payload).1,
        }
    }

    /// What is on the wire in the end, each packet made from nothing: whole, and with a half-made checksum.
    fn segments(&self, ip: &Ip, size: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let count = self.payload().len().div_ceil(size);
        let one = |(at, chunk): (usize, &[u8])| {
            let ip = Ip { identification: ip.identification.wrapping_add(at as u16), ..ip.clone() };
            let offset = at * size;
            match self {
                Self::Udp(_) => udp(&ip, (1000, 2000), chunk),
                Self::Tcp(whole) => {
                    let mut flags = whole.flags;
                    if at + 1 < count {
                        flags &= !0x09;
                    }
                    if at > 0 {
                        flags &= !0x80;
                    }
                    let mut urgent = whole.urgent;
                    if whole.flags & 0x20 != 0 {
                        urgent = urgent.saturating_sub(offset as u16);
                        if offset > 0 && usize::from(whole.urgent) <= offset {
                            flags &= !0x20;
                        }
                    }
                    let sequence = whole.sequence.wrapping_add(offset as u32);
                    let payload = chunk.to_vec();
                    Segment { sequence, flags, urgent, payload, ..whole.clone() }.packets(&ip)
                }
            }
        };
        self.payload().chunks(size).enumerate().map(one).collect()
    }
}

fn flow() -> impl Strategy<Value = Flow> {
    let payload = proptest::collection::vec(any::<u8>(), 1..9000);
    let tcp = (any::<u32>(), 0u8..64, any::<u16>(), 0usize..11).prop_map(|(sequence, bits, urgent, words)| {
        // ACK always; CWR, ECE, URG, PSH, FIN as drawn.
        let flags = 0x10 | (bits & 0x30) << 2 | (bits & 4) << 3 | (bits & 2) << 2 | bits & 1;
        Segment { sequence, flags, urgent, options: vec![1; words * 4], payload: vec![] }
    });
    (payload, prop::option::of(tcp)).prop_map(|(payload, tcp)| match tcp {
        Some(segment) => Flow::Tcp(Segment { payload, ..segment }),
        None => Flow::Udp(payload),
    })
}

fn ip() -> impl Strategy<Value = Ip> {
    (any::<bool>(), any::<bool>(), any::<u8>(), any::<u16>()).prop_map(
        |(v4, options, traffic_class, identification)| {
            let ip = Ip { traffic_class, identification, ..if v4 { Ip::v4() } else { Ip::v6() } };
            if options { ip.with_options() } else { ip }
        },
    )
}

fn offloads() -> impl Strategy<Value = Offloads> {
    any::<[bool; 4]>().prop_map(|[tso4, tso6, uso, checksum]| Offloads { tso4, tso6, uso, checksum })
}

/// All pieces of what was prepared, each with its meta.
fn pieces(mut packet: Vec<u8>, meta: Meta, limits: Limits) -> Result<Vec<(Vec<u8>, Meta)>, PacketDrop> {
    let parsed = Parsed::of(&packet).unwrap();
    match prepare(&mut packet, &parsed, meta, limits)? {
        Prepared::Whole(meta) => Ok(vec![(packet, meta)]),
        Prepared::Split(mut split) => {
            let (mut out, mut buffer) = (vec![], vec![0xee; split.largest()]);
            let expected = split.left();
            while let Some((length, meta)) = split.next(&packet, &mut buffer)? {
                out.push((buffer[..length].to_vec(), meta));
            }
            assert_eq!((out.len(), split.left()), (expected, 0));
            Ok(out)
        }
    }
}

/// What a kernel does with a packet and its virtio header: makes the checksum from where it is told to begin.
fn kernel(header: VirtioHeader, mut packet: Vec<u8>) -> Vec<u8> {
    if header.flags & 1 != 0 {
        let start = usize::from(header.checksum_start);
        let place = start + usize::from(header.checksum_offset);
        let checksum = match !slow_sum(&packet[start..]) {
            0 if header.checksum_offset == 6 => 0xffff,
            checksum => checksum,
        };
        packet[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

#[test]
fn two_datagrams_spelled_by_hand() {
    // 10.0.0.1:1 to 10.0.0.2:2, "abc" in pieces of two. Sums by hand: headers 9933; UDP 758d and 7729.
    let packet = udp(&Ip::v4(), (1, 2), b"abc").1;
    let none = Limits { max_packet: 1500, far: Offloads::default() };
    let found = pieces(packet, super_of(SuperKind::Udp, 2), none).unwrap();
    let first = [
        0x45, 0, 0, 0x1e, 0, 1, 0, 0, 0x40, 0x11, 0x66, 0xcc, 10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2, 0, 10, 0x8a, 0x72,
        0x61, 0x62,
    ];
    let second = [
        0x45, 0, 0, 0x1d, 0, 2, 0, 0, 0x40, 0x11, 0x66, 0xcc, 10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2, 0, 9, 0x88, 0xd6,
        0x63,
    ];
    assert_eq!(found, [(first.to_vec(), Meta::COMPLETE), (second.to_vec(), Meta::COMPLETE)]);
}

#[test]
fn checksums_made_by_hand_agree() {
    // UDP 10.0.0.1:1 to 10.0.0.2:2, empty: 0a00 0001 0a00 0002 0011 0008 0001 0002 0008 sum to 1427.
    let mut packet = udp(&Ip::v4(), (1, 2), b"").1;
    let parsed = Parsed::of(&packet).unwrap();
    complete(&mut packet, &parsed).unwrap();
    assert_eq!(&packet[26..28], &[0xeb, 0xd8]);
    // TCP fd00::1 port 1 to fd00::2 port 2, only ACK: fd00 0001 fd00 0002 0014 0006 0001 0002 5010 sum to 4a32.
    let above = [0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0xab, 0xcd, 0, 0];
    let mut packet = Ip::v6().packet(6, &above);
    let parsed = Parsed::of(&packet).unwrap();
    complete(&mut packet, &parsed).unwrap();
    assert_eq!(&packet[56..58], &[0xb5, 0xcd]);
}

#[test]
fn a_udp_checksum_is_never_zero() {
    // Two bytes that bring the sum to ffff: 1427 plus 4 for the two lengths, plus ebd4.
    let (good, half) = udp(&Ip::v4(), (1, 2), &[0xeb, 0xd4]);
    assert_eq!(&good[26..28], &[0xff, 0xff]);
    let mut packet = half.clone();
    let parsed = Parsed::of(&packet).unwrap();
    complete(&mut packet, &parsed).unwrap();
    assert_eq!(packet, good);
    let header = VirtioHeader { flags: 1, checksum_start: 20, checksum_offset: 6, ..VirtioHeader::default() };
    assert_eq!(ingest(&header, &mut half.clone()).unwrap().1, PENDING);
}

#[test]
fn the_virtio_header_has_the_bytes_of_the_standard() {
    let header = VirtioHeader {
        flags: 1,
        gso_type: 0x84,
        header_length: 0x0102,
        segment_size: 0x0304,
        checksum_start: 0x0506,
        checksum_offset: 0x0708,
    };
    let spelled = [1, 0x84, 2, 1, 4, 3, 6, 5, 8, 7, 0, 0, 0xaa];
    for form in [Form::Short, Form::Long] {
        let mut out = vec![0xee; form.length()];
        header.write(form, &mut out).unwrap();
        assert_eq!(out, spelled[..form.length()]);
        let (read, rest) = VirtioHeader::parse(&spelled, form).unwrap();
        assert_eq!((read, rest), (header, &spelled[form.length()..]));
        assert_eq!(header.write(form, &mut out[1..]), Err(PacketDrop::NoRoom));
        assert_eq!(VirtioHeader::parse(&spelled[..form.length() - 1], form), Err(PacketDrop::Truncated));
    }
}

#[test]
fn claims_that_a_packet_does_not_bear_out_are_refused() {
    let segment = Segment { sequence: 0, flags: 0x10, urgent: 0, options: vec![], payload: vec![1; 1000] };
    let with = |flags: u8| Segment { flags, ..segment.clone() };
    let tcp4 = segment.packets(&Ip::v4()).1;
    let udp4 = udp(&Ip::v4(), (1, 2), &[1; 1000]).1;
    let empty = Segment { payload: vec![], ..segment.clone() }.packets(&Ip::v4()).1;
    // Length 1000 of 1008: options behind a datagram.
    let mut surplus = udp4.clone();
    surplus[24..26].copy_from_slice(&1000u16.to_be_bytes());
    let authenticated =
        [&[6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1][..], &[0; 12], &segment.packets(&Ip::v6()).1[40..]].concat();
    let authenticated = Ip::v6().packet(51, &authenticated);
    let first_piece = {
        let above = udp(&Ip::v6(), (1, 2), &[1; 1000]).1[40..].to_vec();
        Ip::v6().packet(44, &[&[17, 0, 0, 1, 0, 0, 0, 1][..], &above].concat())
    };
    let cases = [
        ("of the other version", &tcp4, SuperKind::Tcp6, 100),
        ("of the other protocol", &tcp4, SuperKind::Udp, 100),
        ("of the other protocol", &udp4, SuperKind::Tcp4, 100),
        ("too many segments", &tcp4, SuperKind::Tcp4, 1000 / (SEGMENTS_MAX + 1)),
        ("no payload", &empty, SuperKind::Tcp4, 100),
        ("a SYN", &with(0x12).packets(&Ip::v4()).1, SuperKind::Tcp4, 100),
        ("a RST", &with(0x14).packets(&Ip::v4()).1, SuperKind::Tcp4, 100),
        ("bytes behind the datagram", &surplus, SuperKind::Udp, 100),
        ("authenticated", &authenticated, SuperKind::Tcp6, 100),
        ("a piece", &first_piece, SuperKind::Udp, 100),
    ];
    for (what, packet, kind, size) in cases {
        let meta = super_of(kind, size);
        assert_eq!(rebuild(meta, &mut packet.clone()).unwrap_err(), PacketDrop::BadOffload, "{what}");
        let parsed = Parsed::of(packet).unwrap();
        let limits = Limits { max_packet: 65_535, far: Offloads::ALL };
        assert_eq!(prepare(&mut packet.clone(), &parsed, meta, limits), Err(PacketDrop::BadOffload), "{what}");
        let gso_type = match kind {
            SuperKind::Tcp4 => 1,
            SuperKind::Tcp6 => 4,
            SuperKind::Udp => 5,
        };
        let header = VirtioHeader { flags: 1, gso_type, segment_size: size as u16, ..VirtioHeader::default() };
        assert_eq!(ingest(&header, &mut packet.clone()).unwrap_err(), PacketDrop::BadOffload, "{what}");
    }
    for packet in [&surplus, &authenticated, &first_piece] {
        assert_eq!(rebuild(PENDING, &mut packet.clone()).unwrap_err(), PacketDrop::BadOffload);
        assert!(rebuild(Meta::COMPLETE, &mut packet.clone()).is_ok());
    }
    for header in [
        VirtioHeader { flags: 1, gso_type: 3, segment_size: 100, ..VirtioHeader::default() },
        VirtioHeader { flags: 1, gso_type: 1, ..VirtioHeader::default() },
        VirtioHeader { flags: 1, checksum_start: 1020, checksum_offset: 20, ..VirtioHeader::default() },
        VirtioHeader { flags: 1, checksum_start: 65_535, checksum_offset: 65_535, ..VirtioHeader::default() },
        VirtioHeader { flags: 1, checksum_start: 12, checksum_offset: 0, ..VirtioHeader::default() },
    ] {
        assert_eq!(ingest(&header, &mut tcp4.clone()).unwrap_err(), PacketDrop::BadOffload, "{header:?}");
    }
}

#[test]
fn a_checksum_inside_a_tunnel_is_made_before_it_is_sent() {
    let (inner, inner_half) = udp(&Ip::v4(), (1, 2), b"inner");
    let wrap = |inner: &[u8]| Ip::v4().packet(4, inner);
    let (mut packet, expected) = (wrap(&inner_half), wrap(&inner));
    let header = VirtioHeader { flags: 1, checksum_start: 40, checksum_offset: 6, ..VirtioHeader::default() };
    assert_eq!(ingest(&header, &mut packet).unwrap().1, Meta::COMPLETE);
    assert_eq!(packet, expected);
}

#[test]
fn a_checksum_is_never_written_over_what_was_decided_about() {
    // Ports and length of the datagram, the type of an echo, the ports of a stream.
    let stream = Segment { sequence: 0, flags: 0x10, urgent: 0, options: vec![], payload: vec![1; 40] };
    let packets =
        [udp(&Ip::v4(), (1, 2), &[7; 40]).0, common::icmp(&Ip::v4(), 8, 0, &[7; 40]), stream.packets(&Ip::v4()).0];
    for (packet, offset) in [(0, 0), (0, 2), (0, 4), (1, 0), (1, 4), (2, 0), (2, 12)] {
        let header = VirtioHeader { flags: 1, checksum_start: 20, checksum_offset: offset, ..VirtioHeader::default() };
        let found = ingest(&header, &mut packets[packet].clone()).map(|(_, meta)| meta);
        assert!(
            found == Err(PacketDrop::BadOffload) || found == Err(PacketDrop::Transport),
            "{packet} {offset}: {found:?}"
        );
    }
}

#[test]
fn datagrams_are_never_cut_smaller_and_tcp_is() {
    let limits = |max_packet| Limits { max_packet, far: Offloads::default() };
    let datagrams = udp(&Ip::v4(), (1, 2), &[1; 1000]).1;
    assert_eq!(pieces(datagrams.clone(), super_of(SuperKind::Udp, 500), limits(527)), Err(PacketDrop::TooBig));
    assert_eq!(pieces(datagrams.clone(), super_of(SuperKind::Udp, 500), limits(528)).unwrap().len(), 2);
    assert_eq!(pieces(datagrams.clone(), Meta::COMPLETE, limits(1027)), Err(PacketDrop::TooBig));
    assert_eq!(pieces(datagrams, Meta::COMPLETE, limits(1028)).unwrap().len(), 1);
    let segment = Segment { sequence: 0, flags: 0x10, urgent: 0, options: vec![], payload: vec![1; 1000] };
    let stream = segment.packets(&Ip::v4()).1;
    let cut = |max_packet| pieces(stream.clone(), super_of(SuperKind::Tcp4, 500), limits(max_packet));
    assert_eq!((cut(539).unwrap().len(), cut(140).unwrap().len(), cut(48).unwrap().len()), (3, 10, 125));
    assert_eq!(
        (cut(47), cut(40), cut(0)),
        (Err(PacketDrop::BadOffload), Err(PacketDrop::TooBig), Err(PacketDrop::TooBig))
    );
}

#[test]
fn pieces_for_a_queue_hold_a_segment_at_least() {
    let segment = Segment { sequence: 0, flags: 0x10, urgent: 0, options: vec![], payload: vec![1; 9000] };
    let packet = segment.packets(&Ip::v6()).1;
    let parsed = Parsed::of(&packet).unwrap();
    let meta = super_of(SuperKind::Tcp6, 1200);
    for (wanted, expected, count) in [(100, 1260, 8), (1514, 1514, 8), (2460, 2460, 4), (10_000, 10_000, 1)] {
        let max_packet = piece_limit(&parsed, meta, wanted);
        assert_eq!(max_packet, expected);
        let cut = pieces(packet.clone(), meta, Limits { max_packet, far: Offloads::ALL }).unwrap();
        assert_eq!(cut.len(), count);
    }
    assert_eq!(piece_limit(&parsed, PENDING, 100), packet.len(), "what is one packet is never cut");
}

#[test]
fn a_first_segment_keeps_its_urgent_flag_wherever_it_points() {
    let ip = Ip {
        source: "10.0.0.1".parse().unwrap(),
        destination: "10.0.0.2".parse().unwrap(),
        traffic_class: 0,
        identification: 1,
        options: vec![],
        first_extension: None,
    };
    for urgent in [0, 1, 2_000] {
        let segment = Segment { sequence: 7, flags: 0x30, urgent, options: vec![], payload: vec![1; 1_500] };
        let flow = Flow::Tcp(segment);
        let limits = Limits { max_packet: 65_535, far: Offloads::default() };
        let cut = pieces(flow.half_made(&ip), super_of(flow.kind(&ip), 1_000), limits).unwrap();
        assert_eq!(cut[0].0[33] & 0x20, 0x20, "{urgent}");
        assert_eq!(cut[1].0[33] & 0x20 != 0, urgent > 1_000, "{urgent}");
        let mut whole = flow.half_made(&ip);
        let parsed = Parsed::of(&whole).unwrap();
        complete(&mut whole, &parsed).unwrap();
        assert_eq!(whole, flow.segments(&ip, 9_000)[0].0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn cut_for_a_far_side_without_offloads(flow in flow(), ip in ip(), size in 1usize..2000) {
        prop_assume!(flow.payload().len().div_ceil(size) <= SEGMENTS_MAX);
        let limits = Limits { max_packet: 65_535, far: Offloads::default() };
        let cut = pieces(flow.half_made(&ip), super_of(flow.kind(&ip), size), limits).unwrap();
        let expected: Vec<_> = flow.segments(&ip, size).into_iter().map(|(whole, _)| (whole, Meta::COMPLETE)).collect();
        prop_assert_eq!(cut, expected);
    }

    #[test]
    fn whatever_is_cut_where_the_same_packets_arrive(
        flow in flow(), ip in ip(), size in 1usize..2000, far in offloads(), max_packet in 60usize..12_000,
    ) {
        let kind = flow.kind(&ip);
        let header = flow.header(&ip);
        let room = max_packet.saturating_sub(header);
        let effective = if kind == SuperKind::Udp { size } else { size.min(room) };
        let cut = pieces(flow.half_made(&ip), super_of(kind, size), Limits { max_packet, far });
        let too_many = |size: usize| flow.payload().len().div_ceil(size) > SEGMENTS_MAX;
        if too_many(size) {
            prop_assert_eq!(cut, Err(PacketDrop::BadOffload));
            return Ok(());
        }
        if effective == 0 || room < effective {
            prop_assert_eq!(cut, Err(PacketDrop::TooBig));
            return Ok(());
        }
        if too_many(effective) {
            prop_assert_eq!(cut, Err(PacketDrop::BadOffload));
            return Ok(());
        }
        let mut arrived = vec![];
        for (piece, meta) in cut.unwrap() {
            prop_assert!(piece.len() <= max_packet);
            match meta {
                Meta::Super { kind, segment_size } => {
                    prop_assert!(far.takes(kind) && usize::from(segment_size.get()) == effective);
                    // The far kernel cuts it: the same function, which the test above holds to the definition.
                    let last = Limits { max_packet: 65_535, far: Offloads::default() };
                    arrived.extend(pieces(piece, meta, last).unwrap().into_iter().map(|(packet, _)| packet));
                }
                Meta::Single { checksum_pending } => {
                    prop_assert!(!checksum_pending || far.checksum);
                    let mut packet = piece;
                    let (_, header) = rebuild(meta, &mut packet).unwrap();
                    arrived.push(kernel(header, packet));
                }
            }
        }
        let expected: Vec<_> = flow.segments(&ip, effective).into_iter().map(|(whole, _)| whole).collect();
        prop_assert_eq!(arrived, expected);
    }

    #[test]
    fn a_super_packet_crosses_and_is_rebuilt(flow in flow(), ip in ip(), size in 1usize..2000, hint: u16, seed: [u8; 2]) {
        let (kind, segments) = (flow.kind(&ip), flow.payload().len().div_ceil(size));
        let (gso, offset) = match kind {
            SuperKind::Tcp4 => (1, 16),
            SuperKind::Tcp6 => (4, 16),
            SuperKind::Udp => (5, 6),
        };
        let handed = VirtioHeader {
            flags: 1,
            gso_type: gso,
            header_length: hint,
            segment_size: size as u16,
            checksum_start: ip.network() as u16,
            checksum_offset: offset,
        };
        let original = flow.half_made(&ip);
        let mut packet = original.clone();
        let taken = ingest(&handed, &mut packet);
        if segments > SEGMENTS_MAX {
            prop_assert_eq!(taken, Err(PacketDrop::BadOffload));
            return Ok(());
        }
        let (_, meta) = taken.unwrap();
        prop_assert_eq!(meta, if segments == 1 { PENDING } else { super_of(kind, size) });
        // Whatever a peer writes into the checksum field, the kernel gets the seed.
        let place = ip.network() + usize::from(offset);
        packet[place..place + 2].copy_from_slice(&seed);
        let (_, header) = rebuild(meta, &mut packet).unwrap();
        prop_assert_eq!(&packet, &original);
        prop_assert_eq!((header.flags, header.checksum_start, header.checksum_offset), (1, handed.checksum_start, offset));
        if segments == 1 {
            prop_assert_eq!((header.gso_type, header.segment_size, header.header_length), (0, 0, 0));
        } else {
            let marked = matches!(&flow, Flow::Tcp(segment) if segment.flags & 0x80 != 0);
            prop_assert_eq!(header.gso_type, gso | if marked { 0x80 } else { 0 });
            prop_assert_eq!((header.segment_size, usize::from(header.header_length)), (size as u16, flow.header(&ip)));
        }
    }

    #[test]
    fn pending_checksums_are_completed(flow in flow(), ip in ip()) {
        let mut packet = flow.half_made(&ip);
        let parsed = Parsed::of(&packet).unwrap();
        complete(&mut packet, &parsed).unwrap();
        prop_assert_eq!(&packet, &flow.segments(&ip, 9000)[0].0);
    }
}
