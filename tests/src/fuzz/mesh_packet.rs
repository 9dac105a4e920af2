//! Inner packets and what stands before them: the parser, metas and virtio headers of others, relay headers, credits of
//! lanes, policies. Lengths and checksums can be made right around what the fuzzer chose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shoal_engine::mesh::flow::FlowSeed;
use shoal_engine::mesh::packet::offload::{ingest, rebuild};
use shoal_engine::mesh::packet::split::{Limits, Prepared, piece_limit, prepare};
use shoal_engine::mesh::packet::virtio::{Form, VirtioHeader};
use shoal_engine::mesh::packet::{Fragment, PacketDrop, Parsed, Transport, Tuple, checksum, ecn, icmp};
use shoal_engine::mesh::policy::{Direction, Document, Local, Snapshot};
use shoal_engine::mesh::qos::{Rate, classify};
use shoal_engine::mesh::relay::{Relay, RelayDrop, RelayStep};
use shoal_protocol::mesh::credit::{Credit, Followed, Follower};
use shoal_protocol::mesh::meta::{Meta, SEGMENTS_MAX};
use shoal_protocol::mesh::offloads::Offloads;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::relay::{HOP_LIMIT_RELAYED_MAX, RelayHeader};

use super::input::{Input, join};
use super::statements::node;

/// Largest IP packet.
const PACKET_MAX: usize = 65_535;

/// Bytes as a packet; with `fit` its IP lengths and the checksum of an IPv4 header are made right, so that what follows
/// is reached.
fn packet(bytes: &[u8], fit: bool) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let Some(first) = out.first().copied().filter(|_| fit) else { return out };
    let length = u16::try_from(out.len()).unwrap_or(u16::MAX);
    match first >> 4 {
        4 if out.len() >= 20 => {
            out[2..4].copy_from_slice(&length.to_be_bytes());
            out[10..12].fill(0);
            let header = usize::from(first & 0x0f) * 4;
            let sum = out.get(..header).map(|header| checksum::Sum::default().bytes(header).checksum());
            out[10..12].copy_from_slice(&sum.unwrap_or(0).to_be_bytes());
        }
        6 if out.len() >= 40 => out[4..6].copy_from_slice(&length.saturating_sub(40).to_be_bytes()),
        _ => {}
    }
    out
}

/// A packet: what is said of it lies within it, and everything that reads one agrees.
pub fn mesh_packet(data: &[u8]) -> bool {
    let Some((how, bytes)) = data.split_first() else { return false };
    let mut packet = packet(bytes, how & 1 != 0);
    let Ok(parsed) = Parsed::of(&packet) else { return false };
    assert!(parsed.length == packet.len() && parsed.network <= parsed.length && parsed.length <= PACKET_MAX);
    match parsed.transport {
        Transport::Tcp(tcp) => assert!(
            tcp.header >= 20 && parsed.network + tcp.header <= parsed.length || parsed.fragment == Fragment::First
        ),
        Transport::Udp { length, .. } => {
            assert!(length >= 8 && (length <= parsed.above_network() || parsed.fragment == Fragment::First))
        }
        Transport::Icmp { .. } | Transport::Opaque => {}
    }
    let tuple = parsed.tuple();
    assert_eq!(tuple.reversed().reversed(), tuple);
    assert!(tuple.ports.is_none() || parsed.fragment != Fragment::Later, "ports of a later fragment");
    let seed = FlowSeed::new([7; 16]);
    assert_eq!(seed.both_ways(&tuple), seed.both_ways(&tuple.reversed()));
    _ = classify(&parsed);
    if icmp::is_error(&parsed) {
        _ = icmp::quoted(&packet, &parsed);
    }
    let own: IpAddr =
        if tuple.source.is_ipv4() { Ipv4Addr::new(100, 64, 0, 1).into() } else { Ipv6Addr::LOCALHOST.into() };
    let mut out = [0; icmp::ANSWER_V6_MAX];
    if let Ok(length) = icmp::too_big(&packet, &parsed, own, 1280, &mut out) {
        let answer = Parsed::of(&out[..length]);
        assert!(answer.is_ok_and(|answer| answer.destination == tuple.source), "an answer that is none");
    }
    // A mark changes nothing but the mark.
    if ecn::mark(&mut packet) {
        let marked = Parsed::of(&packet);
        assert_eq!(marked.map(|marked| Parsed { traffic_class: parsed.traffic_class, ..marked }), Ok(parsed));
    }
    true
}

/// UDP over IPv4, TCP with options over IPv6 behind an extension header, pieces, echoes, errors.
fn examples() -> Vec<Vec<u8>> {
    let v4 = |protocol: u8, fragment: [u8; 2], above: &[u8]| {
        let head = [0x45, 0, 0, 0, 0, 1, fragment[0], fragment[1], 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet(&join(&head, above), true)
    };
    let v6 = |next: u8, above: &[u8]| {
        let (source, destination) =
            (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
        let head = [&[0x60, 0, 0, 0, 0, 0, next, 64][..], &source.octets(), &destination.octets()].concat();
        packet(&join(&head, above), true)
    };
    let udp = |payload: &[u8]| {
        let length = u16::try_from(payload.len() + 8).unwrap_or(0).to_be_bytes();
        [&[3, 232, 7, 208, length[0], length[1], 0, 0][..], payload].concat()
    };
    let tcp = |flags: u8, payload: &[u8]| {
        let head = [
            3, 232, 7, 208, 0, 0, 0, 9, 0, 0, 0, 8, 0x80, flags, 255, 255, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0,
            0, 2,
        ];
        join(&head, payload)
    };
    vec![
        v4(17, [0x40, 0], &udp(b"payload of a datagram, and another one")),
        v4(6, [0x40, 0], &tcp(0x18, &[7; 300])),
        v6(6, &tcp(0x10, &[7; 300])),
        v6(17, &udp(&[9; 200])),
        v6(60, &join(&[6, 0, 1, 4, 0, 0, 0, 0], &tcp(0x02, b""))),
        v6(44, &join(&[17, 0, 0, 1, 0, 0, 0, 9], &udp(&[1; 64]))),
        v6(44, &join(&[17, 0, 0, 0x09, 0, 0, 0, 9], &[1; 64])),
        v4(17, [0x20, 0], &udp(&[1; 64])),
        v4(17, [0x00, 8], &[1; 64]),
        v4(1, [0, 0], &[8, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3]),
        v4(1, [0, 0], &join(&[3, 4, 0, 0, 0, 0, 5, 0], &v4(17, [0, 0], &udp(b"x")))),
        v6(58, &join(&[2, 0, 0, 0, 0, 0, 5, 0], &v6(6, &tcp(0x10, b"")))),
        v6(51, &[&[6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1][..], &[0; 12], &tcp(0x10, b"x")].concat()),
    ]
}

pub(super) fn packets() -> Vec<Vec<u8>> {
    examples().iter().map(|packet| join(&[1], packet)).collect()
}

/// A meta of a peer before a packet: what the own kernel is told of it lies within the packet, and when it is cut instead,
/// the pieces are packets that fit, of the same flow, with as many bytes together.
pub fn mesh_offload(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (how, most) = (input.byte(), input.short());
    let Ok(meta) = Meta::from_bytes(input.array()) else { return false };
    let packet = packet(input.rest(), how & 1 != 0);
    let mut told = packet.clone();
    let rebuilt = rebuild(meta, &mut told);
    if let Ok((parsed, header)) = &rebuilt {
        let end = usize::from(header.checksum_start) + usize::from(header.checksum_offset) + 2;
        assert!(header.flags == 0 || (end <= packet.len() && usize::from(header.checksum_start) == parsed.network));
        assert!(usize::from(header.header_length) <= packet.len() && told.len() == packet.len());
        // Told back by a kernel it is the same again.
        let mut back = told.clone();
        let again = ingest(header, &mut back);
        assert!(again.is_ok_and(|(again, _)| again.tuple() == parsed.tuple()), "a header no kernel would give");
    }
    let Ok(parsed) = Parsed::of(&packet) else { return false };
    let far = Offloads::from_byte(how >> 4).unwrap_or_default();
    let limits = Limits { max_packet: usize::from(most), far };
    let mut cut = packet.clone();
    assert!(piece_limit(&parsed, meta, 100) >= 100);
    match prepare(&mut cut, &parsed, meta, limits) {
        Ok(Prepared::Whole(meta)) => {
            assert!(cut.len() <= limits.max_packet && (far.checksum || !meta.checksum_pending()));
            assert!(Parsed::of(&cut).is_ok());
        }
        Ok(Prepared::Split(mut split)) => {
            assert!(split.left() <= SEGMENTS_MAX && rebuilt.is_ok(), "cut what cannot be rebuilt");
            let mut out = vec![0; split.largest()];
            let mut payload = 0;
            while let Ok(Some((length, meta))) = split.next(&cut, &mut out) {
                let piece = Parsed::of(&out[..length]);
                assert!(length <= limits.max_packet && piece.is_ok_and(|piece| piece.tuple() == parsed.tuple()));
                assert!(far.checksum || meta == Meta::COMPLETE, "left to who does not take it");
                let mut piece = out[..length].to_vec();
                assert!(rebuild(meta, &mut piece).is_ok(), "a piece that nobody takes");
                payload += length - header_of(&parsed);
            }
            assert_eq!((split.left(), payload), (0, packet.len() - header_of(&parsed)), "bytes were lost");
        }
        Err(reason) => assert_ne!(reason, PacketDrop::NoRoom),
    }
    rebuilt.is_ok()
}

fn header_of(parsed: &Parsed) -> usize {
    parsed.network + if let Transport::Tcp(tcp) = parsed.transport { tcp.header } else { 8 }
}

pub(super) fn offloads() -> Vec<Vec<u8>> {
    let one =
        |how: u8, most: u16, meta: [u8; 3], packet: &[u8]| [&[how][..], &most.to_le_bytes(), &meta, packet].concat();
    let mut seeds: Vec<Vec<u8>> = examples().iter().map(|packet| one(1, 1_400, [4, 0, 0], packet)).collect();
    let [udp4, tcp4, tcp6, udp6, ..] = &examples()[..] else { return seeds };
    for (meta, packet) in
        [([7, 0, 10], udp4), ([5, 0, 100], tcp4), ([6, 0, 100], tcp6), ([7, 0, 50], udp6), ([5, 0, 1], tcp4)]
    {
        for (how, most) in [(0xf1, 1_400), (0x81, 1_400), (0x01, 1_400), (0xf1, 200), (0x01, 120)] {
            seeds.push(one(how, most, meta, packet));
        }
    }
    seeds.push(one(1, 1_400, [0, 0, 0], tcp4));
    seeds
}

/// What a TUN device gave: header and packet. The header has one spelling, and nothing it says is believed of the packet.
pub fn mesh_virtio(data: &[u8]) -> bool {
    let Some((how, bytes)) = data.split_first() else { return false };
    let form = if how & 2 == 0 { Form::Short } else { Form::Long };
    let Ok((header, rest)) = VirtioHeader::parse(bytes, form) else { return false };
    let mut written = [0; 12];
    assert_eq!(header.write(form, &mut written), Ok(()));
    assert_eq!(written[..10], bytes[..10], "a second spelling");
    let mut packet = packet(rest, how & 1 != 0);
    let before = packet.clone();
    let Ok((parsed, meta)) = ingest(&header, &mut packet) else { return false };
    assert_eq!(Parsed::of(&packet), Ok(parsed), "another packet than was decided about");
    let changed = before.iter().zip(&packet).filter(|(one, other)| one != other).count();
    assert!(changed <= 2, "more than a checksum was written");
    // What goes out is taken on the other side.
    assert!(rebuild(meta, &mut packet).is_ok(), "a meta that no peer takes");
    true
}

pub(super) fn virtio_packets() -> Vec<Vec<u8>> {
    let one = |how: u8, header: [u8; 10], packet: &[u8]| {
        let more: &[u8] = if how & 2 == 0 { &[] } else { &[0, 0] };
        [&[how][..], &header, more, packet].concat()
    };
    let [udp4, tcp4, tcp6, udp6, ..] = &examples()[..] else { return vec![] };
    vec![
        one(1, [0; 10], udp4),
        one(3, [1, 0, 0, 0, 0, 0, 20, 0, 6, 0], udp4),
        one(3, [1, 1, 52, 0, 100, 0, 20, 0, 16, 0], tcp4),
        one(3, [1, 0x84, 72, 0, 100, 0, 40, 0, 16, 0], tcp6),
        one(3, [1, 5, 48, 0, 50, 0, 40, 0, 6, 0], udp6),
        one(1, [1, 0, 0, 0, 0, 0, 22, 0, 6, 0], udp4),
        one(1, [1, 3, 0, 0, 9, 0, 20, 0, 6, 0], udp4),
    ]
}

/// Frames that neighbours hand to a relay: it changes nothing but the hop limit, sends no frame back, and charges who
/// brought it.
pub fn mesh_relay(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let own = PeerHash::of(&node(100));
    let peer = |number: u8| PeerHash::of(&node(number % 4 + 1));
    let mut relay = Relay::new(own);
    let rate = Rate { bytes_per_second: 1_000, burst: 2_000 };
    assert!(relay.grant(peer(0), rate, 0) && relay.grant(peer(1), rate, 0));
    let (mut understood, mut forwarded) = (false, 0);
    for at in 0..8 {
        if input.is_empty() {
            break;
        }
        let (previous, next, shape) = (peer(input.byte()), input.byte(), input.byte());
        let mut frame = frame(&mut input, shape, own);
        let before = frame.clone();
        let route = |_: &PeerHash, _: u16| (next & 4 == 0).then(|| if next & 8 == 0 { peer(next) } else { own });
        let step = relay.handle_frame(&mut frame, &previous, at, route);
        let header = RelayHeader::parse(&before);
        if let Ok(header) = &header {
            assert!(
                before.starts_with(&header.to_bytes()) && header.aad()[..] == before[RelayHeader::AAD],
                "a second spelling"
            );
        }
        match step {
            Ok(RelayStep::Ours(ours)) => assert!(ours.destination == own && header == Ok(ours) && frame == before),
            Ok(RelayStep::Forward { next, header: sent }) => {
                assert!(next != previous && next != own && sent.source != own, "back, or in a circle");
                assert!((1..=HOP_LIMIT_RELAYED_MAX).contains(&sent.hop_limit));
                assert!(header.is_ok_and(|header| RelayHeader { hop_limit: sent.hop_limit, ..header } == sent
                    && sent.hop_limit < header.hop_limit));
                let mut expected = before.clone();
                expected[RelayHeader::HOP_LIMIT_AT] = sent.hop_limit;
                assert_eq!(frame, expected, "more than the hop limit was changed");
                forwarded += frame.len() as u64;
            }
            Err(reason) => assert!(frame == before && (header.is_ok() || reason == RelayDrop::Header)),
        }
        understood |= step.is_ok();
    }
    let charged: u64 = relay.usage().map(|(_, usage)| usage.bytes).sum();
    assert!(charged == forwarded && forwarded <= 2 * (rate.burst + rate.bytes_per_second));
    understood
}

/// Any bytes, or a good header with ends that are known before them.
fn frame(input: &mut Input<'_>, shape: u8, own: PeerHash) -> Vec<u8> {
    if shape & 1 == 0 {
        return input.bytes(512).to_vec();
    }
    let end = |number: u8| if number & 8 == 0 { PeerHash::of(&node(number % 4 + 1)) } else { own };
    let (hop_limit, source, destination) = (input.byte(), end(shape >> 1), end(shape >> 4));
    let class = shoal_protocol::mesh::class::Class::Bulk;
    let header = RelayHeader { class, hop_limit, flow_label: input.short(), destination, source };
    join(&header.to_bytes(), input.bytes(512))
}

pub(super) fn relayed() -> Vec<Vec<u8>> {
    let golden = {
        let class = shoal_protocol::mesh::class::Class::Voice;
        let (source, destination) = (PeerHash::new([1; 10]), PeerHash::new([2; 10]));
        RelayHeader { class, hop_limit: 16, flow_label: 7, destination, source }.to_bytes()
    };
    let raw = [&[0, 1, 0, 24, 0][..], &golden].concat();
    let made = |previous: u8, next: u8, shape: u8, hop_limit: u8| {
        vec![previous, next, shape, hop_limit, 0, 0, 4, 0, 1, 2, 3, 4]
    };
    vec![
        raw,
        [
            made(0, 2, 1 | 1 << 4, 16),
            made(0, 0, 1 | 1 << 4, 16),
            made(1, 3, 1 | 2 << 4, 255),
            made(0, 2, 1 | 1 << 4, 1),
        ]
        .concat(),
        [
            made(0, 2, 1 | 8 << 4, 3),
            made(0, 2, 1 | 8 << 1 | 1 << 4, 3),
            made(2, 1, 1 | 1 << 4, 3),
            made(0, 4, 1 | 1 << 4, 3),
        ]
        .concat(),
    ]
}

/// A policy as a text: a mistake has a line of it, and a compiled one decides alike on both ends and never lets in who is no
/// member.
pub fn mesh_policy(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let lines = text.lines().count().max(1);
    let pools = ["100.64.0.0/10", "fd11:2233:4455::/48"].iter().filter_map(|text| text.parse().ok()).collect();
    let local = Local { pools, ..Local::default() };
    let compiled = Document::parse(text).and_then(|document| Snapshot::compile(&document, local, 7));
    let snapshot = match compiled {
        Ok(snapshot) => snapshot,
        Err(error) => {
            assert!(error.line.is_none_or(|line| (1..=lines + 1).contains(&line)), "line {:?} of {lines}", error.line);
            assert!(error.to_string().chars().count() <= 2_000 + data.len(), "a mistake longer than the text");
            return false;
        }
    };
    let v4 = |n: u8| Ipv4Addr::new(100, 64, 0, n);
    let v6 = |n: u8| Ipv6Addr::new(0xfd11, 0x2233, 0x4455, 0, 0, 0, 0, u16::from(n));
    let subject = |n: u8, is_member: bool| snapshot.subject(node(n), is_member, Some(v4(n)), v6(n));
    let (one, other, stranger) = (subject(1, true), subject(2, true), subject(3, false));
    for address in [
        IpAddr::V4(v4(2)),
        IpAddr::V6(v6(2)),
        IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
        IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
    ] {
        let source = if address.is_ipv4() { IpAddr::V4(v4(1)) } else { IpAddr::V6(v6(1)) };
        for (protocol, ports) in [(6, Some((40_000, 22))), (17, None), (1, Some((1, 1)))] {
            let tuple = Tuple { source, destination: address, protocol, ports };
            let out = snapshot.decide(&one, &other, &tuple, Direction::Outbound, false);
            let back = snapshot.decide(&one, &other, &tuple, Direction::Inbound, false);
            assert_eq!(out, back, "the ends do not agree");
            assert!(out.rule.is_none_or(|rule| snapshot.rule_name(rule).is_some()));
            assert!(!snapshot.decide(&stranger, &other, &tuple, Direction::Inbound, false).is_allowed, "a stranger");
            assert!(
                !snapshot.decide(&other, &one, &tuple, Direction::Inbound, true).is_allowed,
                "from another's address"
            );
        }
    }
    true
}

pub(super) fn policies() -> Vec<Vec<u8>> {
    let spelled = |text: &str| {
        (1..=9).rev().fold(text.to_owned(), |text, n| text.replace(&format!("@{n}"), &node(n).to_string()))
    };
    let office = spelled(include_str!("../../../node/engine/tests/policy/office.toml"));
    let mistakes = include_str!("../../../node/engine/tests/policy/mistakes.txt");
    let mut seeds = vec![office.into_bytes(), b"version = 1\n".to_vec(), b"version = 1\ndefault = \"deny\"\n".to_vec()];
    // Every eighth: they are many, and mutations find the others.
    let texts = mistakes.split("=== ").step_by(8).filter_map(|mistake| mistake.split_once('\n'));
    seeds.extend(texts.map(|(_, text)| spelled(text).into_bytes()).filter(|text| text.len() < 4_096));
    seeds
}

/// Bytes of a lane, in pieces (first byte) and whole: the same frames and credits, and no byte is counted twice.
pub fn mesh_credit(data: &[u8]) -> bool {
    let Some((step, lane)) = data.split_first() else { return false };
    let whole = Follower::default().pass(lane);
    let (mut follower, mut found) = (Follower::default(), Followed::default());
    for piece in lane.chunks(usize::from(*step).max(1)) {
        let Followed { bytes, credit } = follower.pass(piece);
        found = Followed { bytes: found.bytes + bytes, credit: credit.or(found.credit) };
    }
    assert_eq!(found, whole, "in pieces of {step}");
    assert!(whole.bytes <= lane.len() as u64);
    let spelt = |credit: Credit| lane.windows(Credit::LEN).any(|bytes| bytes == credit.to_bytes());
    assert!(whole.credit.is_none_or(spelt), "a credit that nobody wrote");
    whole.credit.is_some()
}

/// Lanes: a credit alone, between frames, cut.
pub(super) fn lanes() -> Vec<Vec<u8>> {
    let credit = Credit(0x0102_0304_0506_0708).to_bytes();
    let frame = [0, 3, 7, 8, 9];
    let parts: [&[&[u8]]; 4] =
        [&[&credit], &[&frame, &credit, &frame], &[&credit, &credit, &[1]], &[&frame, &credit[..7]]];
    parts.iter().zip(1..).map(|(parts, step)| [&[step][..], &parts.concat()].concat()).collect()
}
