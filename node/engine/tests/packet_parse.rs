//! What the packet parser says of good, odd and hostile packets, and what is answered to those that do not fit.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

mod common;

use common::{ICMPV6, Ip, Segment, TCP, UDP, icmp, slow_sum, udp};
use proptest::prelude::*;
use shoal_engine::mesh::packet::ecn::{self, Ecn};
use shoal_engine::mesh::packet::icmp::{ANSWER_V4_MAX, ANSWER_V6_MAX, NoAnswer, quoted, too_big};
use shoal_engine::mesh::packet::virtio::{Form, VirtioHeader};
use shoal_engine::mesh::packet::{Fragment, PacketDrop, Parsed, Transport, Tuple, Version};
use shoal_engine::mesh::packet::{offload, split};
use shoal_engine::mesh::qos::classify;
use shoal_protocol::mesh::class::Class;
use shoal_protocol::mesh::meta::Meta;
use shoal_protocol::mesh::offloads::Offloads;

fn plain(payload: usize) -> Segment {
    Segment { sequence: 7, flags: 0x10, urgent: 0, options: vec![], payload: vec![0x61; payload] }
}

/// A packet with some bytes changed, and of IPv4 its header checksum made good again.
fn changed(mut packet: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for (at, byte) in changes {
        packet[*at] = *byte;
    }
    if packet[0] >> 4 == 4 {
        let header = usize::from(packet[0] & 15) * 4;
        if header >= 20 && header <= packet.len() {
            packet[10..12].fill(0);
            let checksum = !slow_sum(&packet[..header]);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
    }
    packet
}

/// An IPv6 packet with these bytes behind its header, the first of them of this type.
fn chain(first: u8, bytes: &[u8]) -> Vec<u8> {
    Ip::v6().packet(first, bytes)
}

#[test]
fn the_fields_are_where_the_standards_say() {
    let ip = Ip { traffic_class: 0xb9, ..Ip::v4().with_options() };
    let parsed = Parsed::of(&plain(10).packets(&ip).0).unwrap();
    assert_eq!((parsed.version, parsed.source, parsed.destination), (Version::V4, ip.source, ip.destination));
    assert_eq!((parsed.traffic_class, parsed.protocol, parsed.network, parsed.length), (0xb9, TCP, 24, 54));
    assert_eq!((parsed.fragment, parsed.tuple().ports), (Fragment::Whole, Some((0x1234, 80))));
    let Transport::Tcp(tcp) = parsed.transport else { panic!("{parsed:?}") };
    assert_eq!((tcp.header, tcp.flags, tcp.sequence), (20, 0x10, 7));

    let ip = Ip { traffic_class: 0x5a, ..Ip::v6().with_options() };
    let parsed = Parsed::of(&udp(&ip, (53, 5353), b"hi").0).unwrap();
    assert_eq!((parsed.version, parsed.traffic_class, parsed.protocol, parsed.network), (Version::V6, 0x5a, UDP, 48));
    assert_eq!(parsed.transport, Transport::Udp { ports: (53, 5353), length: 10 });

    let echo = Parsed::of(&icmp(&Ip::v6(), 128, 0, &[0xab, 0xcd, 0, 1])).unwrap();
    assert_eq!(echo.transport, Transport::Icmp { kind: 128, code: 0, identifier: Some(0xabcd) });
    assert_eq!(echo.tuple().ports, Some((0xabcd, 0xabcd)));
}

#[test]
fn a_header_from_the_books_is_read() {
    // The example everybody computes: 192.168.0.1 to 192.168.0.199, UDP, 115 bytes, header checksum b861.
    let mut packet = vec![
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
        0x00, 0xc7, 0x00, 0x35, 0xe9, 0x7c, 0x00, 0x5f, 0x27, 0x9f,
    ];
    packet.resize(115, 0);
    let parsed = Parsed::of(&packet).unwrap();
    assert_eq!(parsed.transport, Transport::Udp { ports: (53, 0xe97c), length: 95 });
    packet[11] = 0x62;
    assert_eq!(Parsed::of(&packet), Err(PacketDrop::HeaderChecksum));
}

#[test]
fn lying_ipv4_packets_have_a_reason() {
    let good = plain(32).packets(&Ip::v4()).0;
    let optional = plain(32).packets(&Ip::v4().with_options()).0;
    let cases = [
        ("another version", changed(good.clone(), &[(0, 0x55)]), PacketDrop::Version),
        ("short header", changed(good.clone(), &[(0, 0x44)]), PacketDrop::HeaderLength),
        ("header beyond the packet", changed(good[..24].to_vec(), &[(0, 0x4f), (3, 24)]), PacketDrop::HeaderLength),
        ("length beyond the packet", changed(good.clone(), &[(2, 0xff)]), PacketDrop::Truncated),
        ("bytes behind the packet", [&good[..], &[0]].concat(), PacketDrop::TotalLength),
        ("option over its end", changed(optional.clone(), &[(22, 7), (23, 9)]), PacketDrop::Options),
        ("option of length 0", changed(optional.clone(), &[(20, 7), (21, 0)]), PacketDrop::Options),
        ("option without length", changed(optional.clone(), &[(23, 7)]), PacketDrop::Options),
        ("loose source route", changed(optional.clone(), &[(20, 131), (21, 3)]), PacketDrop::SourceRoute),
        ("strict source route", changed(optional, &[(20, 137), (21, 3)]), PacketDrop::SourceRoute),
        ("short TCP header", changed(good.clone(), &[(32, 0x40)]), PacketDrop::Transport),
        ("TCP header beyond the packet", changed(plain(0).packets(&Ip::v4()).0, &[(32, 0x60)]), PacketDrop::Transport),
        ("UDP length beyond", changed(udp(&Ip::v4(), (1, 2), b"x").0, &[(25, 10)]), PacketDrop::Transport),
        ("UDP length below", changed(udp(&Ip::v4(), (1, 2), b"x").0, &[(25, 7)]), PacketDrop::Transport),
        ("piece not cut at 8", changed(udp(&Ip::v4(), (1, 2), b"x").0, &[(6, 0x20)]), PacketDrop::Fragment),
        ("ping of death", changed(good.clone(), &[(6, 0x1f), (7, 0xff)]), PacketDrop::Fragment),
        ("flags of TCP again", changed(good.clone(), &[(6, 0), (7, 1)]), PacketDrop::TinyFragment),
        ("first piece without flags", changed(good[..28].to_vec(), &[(3, 28), (6, 0x20)]), PacketDrop::TinyFragment),
        ("nothing", vec![], PacketDrop::Truncated),
    ];
    for (what, packet, reason) in cases {
        assert_eq!(Parsed::of(&packet), Err(reason), "{what}");
    }
    for cut in 1..good.len() {
        assert_eq!(Parsed::of(&good[..cut]), Err(PacketDrop::Truncated), "cut to {cut}");
    }
}

#[test]
fn lying_ipv6_packets_have_a_reason() {
    let good = plain(32).packets(&Ip::v6()).0;
    let pad = [60, 0, 1, 4, 0, 0, 0, 0];
    let many = |count: usize| [pad.repeat(count - 1), vec![59, 0, 1, 4, 0, 0, 0, 0]].concat();
    let cases = [
        ("length beyond the packet", changed(good.clone(), &[(4, 0xff)]), PacketDrop::Truncated),
        ("bytes behind the packet", [&good[..], &[0]].concat(), PacketDrop::TotalLength),
        ("jumbogram", changed(good.clone(), &[(4, 0), (5, 0)]), PacketDrop::TotalLength),
        ("nine extension headers", chain(60, &many(9)), PacketDrop::Extensions),
        (
            "hop-by-hop in the middle",
            chain(60, &[&[0][..], &pad[1..], &[59], &pad[1..]].concat()),
            PacketDrop::Extensions,
        ),
        ("header over the end", chain(60, &[59, 1, 1, 4, 0, 0, 0, 0]), PacketDrop::Truncated),
        ("half a header", chain(60, &[59]), PacketDrop::Truncated),
        ("segments left", chain(43, &[59, 0, 4, 1, 0, 0, 0, 0]), PacketDrop::SourceRoute),
        ("routing type 0", chain(43, &[59, 0, 0, 0, 0, 0, 0, 0]), PacketDrop::SourceRoute),
        (
            "fragment of a fragment",
            chain(44, &[44, 0, 0, 0, 0, 0, 0, 1, 59, 0, 0, 0, 0, 0, 0, 1]),
            PacketDrop::Fragment,
        ),
        (
            "first piece without a header",
            chain(44, &[6, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]),
            PacketDrop::TinyFragment,
        ),
    ];
    for (what, packet, reason) in cases {
        assert_eq!(Parsed::of(&packet), Err(reason), "{what}");
    }
    assert_eq!(Parsed::of(&chain(60, &many(8))).unwrap().network, 40 + 64);
    for cut in 1..good.len() {
        assert_eq!(Parsed::of(&good[..cut]), Err(PacketDrop::Truncated), "cut to {cut}");
    }
}

#[test]
fn pieces_have_no_ports_but_the_first() {
    let whole = udp(&Ip::v4(), (53, 53), &[0; 24]).0;
    let first = Parsed::of(&changed(whole.clone(), &[(6, 0x20)])).unwrap();
    assert_eq!((first.fragment, first.tuple().ports), (Fragment::First, Some((53, 53))));
    let later = Parsed::of(&changed(whole, &[(7, 5)])).unwrap();
    assert_eq!((later.fragment, later.tuple().ports, later.protocol), (Fragment::Later, None, UDP));
    let atomic = [&[UDP, 0, 0, 0, 0, 0, 0, 1][..], &udp(&Ip::v6(), (53, 53), b"").0[40..]].concat();
    assert_eq!(Parsed::of(&chain(44, &atomic)).unwrap().fragment, Fragment::Whole);
    let later = chain(44, &[60, 0, 0, 9, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
    let later = Parsed::of(&later).unwrap();
    assert_eq!((later.fragment, later.protocol, later.network), (Fragment::Later, 60, 48));
}

#[test]
fn ecn_crosses_a_tunnel_as_rfc_6040_says() {
    use Ecn::{Capable0, Capable1, Congested, NotCapable};
    // Figure 4: rows by inner, columns by outer Not-ECT, ECT(0), ECT(1), CE.
    let rows = [
        (NotCapable, [Some(NotCapable), Some(NotCapable), Some(NotCapable), None]),
        (Capable0, [Some(Capable0), Some(Capable0), Some(Capable1), Some(Congested)]),
        (Capable1, [Some(Capable1), Some(Capable1), Some(Capable1), Some(Congested)]),
        (Congested, [Some(Congested); 4]),
    ];
    for (inner, row) in rows {
        for (outer, expected) in [NotCapable, Capable0, Capable1, Congested].into_iter().zip(row) {
            assert_eq!(ecn::inner(inner, outer), expected, "{inner:?} in {outer:?}");
        }
        assert_eq!(ecn::outer(inner), inner);
    }
    for ip in [Ip::v4(), Ip::v6()] {
        for (before, marked) in [(0xb8, false), (0xb9, true), (0xba, true), (0xbb, true)] {
            let mut packet = plain(4).packets(&Ip { traffic_class: before, ..ip.clone() }).0;
            assert_eq!(ecn::mark(&mut packet), marked);
            let after = if marked { 0xbb } else { before };
            assert_eq!(packet, plain(4).packets(&Ip { traffic_class: after, ..ip.clone() }).0);
        }
    }
    assert!(!ecn::mark(&mut []) && !ecn::mark(&mut [0x45; 8]) && !ecn::mark(&mut [0x11; 40]));
}

#[test]
fn classes_follow_dscp_then_ports_then_size() {
    let class = |packet: Vec<u8>| classify(&Parsed::of(&packet).unwrap());
    let marked = |traffic_class| Ip { traffic_class, ..Ip::v4() };
    assert_eq!(class(plain(1000).packets(&marked(46 << 2)).0), Class::Voice);
    assert_eq!(class(plain(1000).packets(&marked(34 << 2 | 3)).0), Class::Interactive);
    assert_eq!(class(plain(0).packets(&marked(10 << 2)).0), Class::Bulk);
    assert_eq!(class(plain(0).packets(&marked(8 << 2)).0), Class::Background);
    assert_eq!(class(plain(1000).packets(&Ip::v6()).0), Class::Bulk);
    assert_eq!(class(plain(0).packets(&Ip::v6()).0), Class::Interactive, "a bare acknowledgement");
    assert_eq!(class(udp(&Ip::v4(), (40_000, 53), &[0; 30]).0), Class::Interactive);
    assert_eq!(class(udp(&Ip::v4(), (5004, 40_000), &[0; 160]).0), Class::Voice);
    assert_eq!(class(udp(&Ip::v4(), (5004, 40_000), &[0; 1100]).0), Class::Interactive, "video");
    assert_eq!(class(udp(&Ip::v4(), (40_000, 6881), &[0; 30]).0), Class::Background);
    assert_eq!(class(udp(&Ip::v4(), (40_000, 40_001), &[0; 30]).0), Class::Bulk);
    assert_eq!(class(icmp(&Ip::v6(), 128, 0, &[0; 4])), Class::Interactive);
}

#[test]
fn what_does_not_fit_is_answered() {
    let (own4, own6) = ("100.64.0.9".parse().unwrap(), "fd00::9".parse().unwrap());
    let big = plain(1300).packets(&Ip::v4()).0;
    let mut out = [0xff; 2000];
    let length = too_big(&big, &Parsed::of(&big).unwrap(), own4, 1200, &mut out).unwrap();
    let answer = &out[..length];
    let parsed = Parsed::of(answer).unwrap();
    assert_eq!((length, parsed.source, parsed.destination), (ANSWER_V4_MAX, own4, Ip::v4().source));
    assert_eq!(parsed.transport, Transport::Icmp { kind: 3, code: 4, identifier: None });
    assert_eq!((slow_sum(&answer[20..]), &answer[24..28]), (0xffff, &[0, 0, 0x04, 0xb0][..]));
    assert_eq!(&answer[28..], &big[..length - 28]);
    assert_eq!(quoted(answer, &parsed), Some(Parsed::of(&big).unwrap().tuple()));

    let big = plain(1300).packets(&Ip::v6()).0;
    let length = too_big(&big, &Parsed::of(&big).unwrap(), own6, 1300, &mut out).unwrap();
    let answer = &out[..length];
    let parsed = Parsed::of(answer).unwrap();
    let ip = Ip { source: own6, destination: Ip::v6().source, ..Ip::v6() };
    assert_eq!((length, ip.pseudo_sum(ICMPV6, &answer[40..])), (ANSWER_V6_MAX, 0xffff));
    assert_eq!(parsed.transport, Transport::Icmp { kind: 2, code: 0, identifier: None });
    assert_eq!((&answer[44..48], &answer[48..]), (&1300u32.to_be_bytes()[..], &big[..length - 48]));
    assert_eq!(quoted(answer, &parsed), Some(Parsed::of(&big).unwrap().tuple()));

    let small = udp(&Ip::v6(), (1, 2), b"x").0;
    let length = too_big(&small, &Parsed::of(&small).unwrap(), own6, 5, &mut out).unwrap();
    assert_eq!((length, &out[44..48]), (48 + small.len(), &1280u32.to_be_bytes()[..]));
}

#[test]
fn no_answer_where_it_is_forbidden() {
    let mut out = [0; 2000];
    let mut ask = |packet: &[u8], own: &str, room: usize| {
        too_big(packet, &Parsed::of(packet).unwrap(), own.parse().unwrap(), 1280, &mut out[..room])
    };
    let error = icmp(&Ip::v4(), 11, 0, &[0; 40]);
    assert_eq!(ask(&error, "10.0.0.9", 2000), Err(NoAnswer::IcmpError));
    assert_eq!(ask(&icmp(&Ip::v6(), 2, 0, &[0; 40]), "fd00::9", 2000), Err(NoAnswer::IcmpError));
    assert!(ask(&icmp(&Ip::v6(), 128, 0, &[0; 40]), "fd00::9", 2000).is_ok());
    let later = changed(udp(&Ip::v4(), (1, 2), &[0; 24]).0, &[(7, 5)]);
    assert_eq!(ask(&later, "10.0.0.9", 2000), Err(NoAnswer::LaterFragment));
    for (source, destination) in
        [("10.0.0.1", "224.0.0.1"), ("10.0.0.1", "255.255.255.255"), ("0.0.0.0", "10.0.0.1"), ("127.0.0.1", "10.0.0.1")]
    {
        let ip = Ip { source: source.parse().unwrap(), destination: destination.parse().unwrap(), ..Ip::v4() };
        assert_eq!(
            ask(&udp(&ip, (1, 2), b"").0, "10.0.0.9", 2000),
            Err(NoAnswer::NotUnicast),
            "{source} {destination}"
        );
    }
    let good = udp(&Ip::v4(), (1, 2), &[0; 40]).0;
    assert_eq!(ask(&good, "fd00::9", 2000), Err(NoAnswer::OwnAddress));
    assert_eq!(ask(&good, "10.0.0.9", 28 + 67), Err(NoAnswer::NoRoom));
    assert_eq!(ask(&good, "10.0.0.9", 28 + 68), Ok(96));
}

#[test]
fn what_an_error_quotes_is_found_or_nothing() {
    let about = |quote: &[u8]| {
        let packet = icmp(&Ip::v4(), 3, 1, &[&[0; 4], quote].concat());
        quoted(&packet, &Parsed::of(&packet).unwrap())
    };
    let inner = udp(&Ip::v4(), (1000, 2000), &[0; 8]).0;
    let (source, destination) = (Ip::v4().source, Ip::v4().destination);
    assert_eq!(about(&inner[..28]), Some(Tuple { source, destination, protocol: UDP, ports: Some((1000, 2000)) }));
    assert_eq!(about(&inner[..22]), None);
    assert_eq!(about(&changed(inner.clone(), &[(7, 5)])), None, "a later piece shows no ports");
    assert_eq!(about(&udp(&Ip::v6(), (1, 2), b"").0), None, "of the other version");
    let echo = icmp(&Ip::v4(), 8, 0, &inner);
    assert_eq!(quoted(&echo, &Parsed::of(&echo).unwrap()), None);
}

/// Everything that takes bytes of others, one after the other.
fn touch_everything(bytes: &[u8], meta: [u8; 3]) {
    let mut copy = bytes.to_vec();
    ecn::mark(&mut copy);
    let _ = VirtioHeader::parse(bytes, Form::Long);
    if let Ok((header, packet)) = VirtioHeader::parse(bytes, Form::Short) {
        let _ = offload::ingest(&header, &mut packet.to_vec());
    }
    if let Ok(meta) = Meta::from_bytes(meta) {
        let _ = offload::rebuild(meta, &mut bytes.to_vec());
    }
    let Ok(parsed) = Parsed::of(bytes) else { return };
    let mut out = [0; 1400];
    let own = if parsed.version == Version::V4 { "10.0.0.9" } else { "fd00::9" };
    let _ = (too_big(bytes, &parsed, own.parse().unwrap(), 1280, &mut out), quoted(bytes, &parsed), classify(&parsed));
    let _ = offload::complete(&mut bytes.to_vec(), &parsed);
    if let Ok(meta) = Meta::from_bytes(meta) {
        let limits = split::Limits { max_packet: 60, far: Offloads::default() };
        if let Ok(split::Prepared::Split(mut pieces)) = split::prepare(&mut bytes.to_vec(), &parsed, meta, limits) {
            while let Ok(Some(_)) = pieces.next(bytes, &mut out) {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), meta: [u8; 3]) {
        touch_everything(&bytes, meta);
    }

    #[test]
    fn damaged_packets_never_panic(
        which in 0usize..8,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
        meta in (0u8..8, 0u8..2, any::<u8>()),
    ) {
        let packet = match which {
            0 => plain(100).packets(&Ip::v4()).0,
            1 => plain(100).packets(&Ip::v6().with_options()).0,
            2 => udp(&Ip::v4().with_options(), (1, 2), &[7; 99]).0,
            3 => udp(&Ip::v6(), (1, 2), &[7; 99]).0,
            4 => chain(44, &[UDP, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 2, 0, 16, 0, 0]),
            5 => icmp(&Ip::v4(), 3, 4, &udp(&Ip::v4(), (1, 2), &[7; 99]).0),
            6 => chain(43, &[51, 0, 4, 0, 0, 0, 0, 0, 59, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            _ => [&[1, 1, 0, 0, 20, 0, 20, 0, 16, 0][..], &plain(100).packets(&Ip::v4()).1].concat(),
        };
        let changes: Vec<(usize, u8)> = changes.iter().map(|(at, byte)| (at.index(packet.len()), *byte)).collect();
        let packet = changed(packet, &changes);
        let packet = if whole { &packet[..] } else { &packet[..cut.index(packet.len() + 1)] };
        touch_everything(packet, [meta.0, meta.1, meta.2]);
    }

    #[test]
    fn what_is_parsed_is_within_the_packet(bytes in proptest::collection::vec(any::<u8>(), 0..120), version in 0usize..2, first: u8) {
        let packet = if version == 0 { Ip::v4().packet(first, &bytes) } else { chain(first, &bytes) };
        if let Ok(parsed) = Parsed::of(&packet) {
            prop_assert!(parsed.network <= parsed.length && parsed.length == packet.len());
            match parsed.transport {
                Transport::Tcp(tcp) => prop_assert!(tcp.header >= 20 && parsed.network + tcp.header <= parsed.length),
                Transport::Udp { length, .. } => prop_assert!(
                    length >= 8 && (parsed.fragment != Fragment::Whole || parsed.network + length <= parsed.length)
                ),
                Transport::Icmp { .. } | Transport::Opaque => {}
            }
        }
    }
}
