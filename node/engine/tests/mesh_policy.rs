//! Policy documents: which are read, what is said about the others, and what the compiled ones decide on both ends.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong, also in its helpers")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use shoal_engine::mesh::packet::Tuple;
use shoal_engine::mesh::policy::{
    Announce, Direction, Document, Floor, Local, PolicyError, PrefixTable, Reason, Snapshot, Subject, Verdict,
};
use shoal_engine::mesh::qos::limits::PeerRates;
use shoal_protocol::NodeId;
use shoal_protocol::mesh::prefix::Prefix;

const OFFICE: &str = include_str!("policy/office.toml");
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A peer of the examples; their documents write `@1` for the id of the first.
fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn spelled(text: &str) -> String {
    (1..=9).rev().fold(text.to_owned(), |text, n| text.replace(&format!("@{n}"), &node(n).to_string()))
}

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn local() -> Local {
    Local {
        addresses: vec!["203.0.113.5".parse().unwrap()],
        connected: prefixes(&["203.0.113.0/24"]),
        pools: prefixes(&["100.64.0.0/10", "fd11:2233:4455::/48"]),
    }
}

fn compile(text: &str) -> Result<Snapshot, PolicyError> {
    Snapshot::compile(&Document::parse(&spelled(text))?, local(), 7)
}

fn v4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 0, n)
}

fn v6(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd11, 0x2233, 0x4455, 0, 0, 0, 0, u16::from(n))
}

fn subject(snapshot: &Snapshot, n: u8) -> Subject {
    snapshot.subject(node(n), true, Some(v4(n)), v6(n))
}

fn tuple(source: &str, destination: &str, protocol: u8, port: u16) -> Tuple {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    Tuple { source, destination, protocol, ports: Some((40_000, port)) }
}

/// What both ends say about a packet from peer `from` to peer `to`; they must agree.
fn both(snapshot: &Snapshot, (from, to): (u8, u8), tuple: Tuple) -> Verdict {
    let (source, destination) = (subject(snapshot, from), subject(snapshot, to));
    let out = snapshot.decide(&source, &destination, &tuple, Direction::Outbound, false);
    assert_eq!(snapshot.decide(&source, &destination, &tuple, Direction::Inbound, false), out);
    out
}

/// Between the mesh addresses of two peers.
fn mesh(snapshot: &Snapshot, from: u8, to: u8, protocol: u8, port: u16) -> Verdict {
    both(snapshot, (from, to), tuple(&v4(from).to_string(), &v4(to).to_string(), protocol, port))
}

fn rule<'a>(snapshot: &'a Snapshot, verdict: &Verdict) -> Option<&'a str> {
    verdict.rule.and_then(|rule| snapshot.rule_name(rule))
}

#[test]
fn mistakes_are_named_with_their_line_and_what_was_meant() {
    let cases = include_str!("policy/mistakes.txt");
    let mut found = 0;
    for case in cases.split("=== ").skip(1) {
        let (message, text) = case.split_once('\n').unwrap();
        let error = compile(text).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), message, "of\n{text}");
        found += 1;
    }
    assert_eq!(found, 30);
}

#[test]
fn the_first_limit_that_fits_a_peer_counts() {
    let text = "version = 1\n[groups]\nstaff = [\"@1\"]\n[[limits]]\npeer = \"staff\"\nrate = \"20 Mbit\"\n\
                icmp = \"64 kbit\"\n[[limits]]\npeer = \"*\"\nother = \"1 Gbit\"\n";
    let snapshot = compile(text).unwrap();
    let rates = |n: u8| snapshot.limits_of(&subject(&snapshot, n));
    assert!(snapshot.has_limits() && !compile("version = 1\n").unwrap().has_limits());
    assert_eq!(rates(1), PeerRates { all: Some(2_500_000), protocols: [None, None, Some(8_000), None] });
    assert_eq!(rates(2), PeerRates { all: None, protocols: [None, None, None, Some(125_000_000)] });
}

#[test]
fn counts_beyond_their_bounds_are_refused() {
    let refused = |text: String| compile(&text).unwrap_err().to_string();
    let groups: String = (0..65).map(|n| format!("g{n} = []\n")).collect();
    assert_eq!(refused(format!("version = 1\n[groups]\n{groups}")), "65 groups; 64 are possible");
    let rule = "[[rules]]\nname = \"r\"\naction = \"allow\"\nfrom = [\"*\"]\nto = [\"*\"]\n";
    assert_eq!(refused(format!("version = 1\n{}", rule.repeat(257))), "257 rules; 256 are possible");
    let ports = "\"1\",".repeat(65);
    assert_eq!(refused(format!("version = 1\n{rule}ports = [{ports}]")), "65 ports of a rule; 64 are possible");
    assert!(refused(" ".repeat((1 << 20) + 1)).starts_with("a policy of 1048577 bytes"));
}

#[test]
fn without_a_document_members_talk_and_nobody_else_does() {
    let snapshot = Snapshot::compile(&Document::built_in(), local(), 7).unwrap();
    let verdict = mesh(&snapshot, 1, 2, TCP, 22);
    assert_eq!(verdict, Verdict { is_allowed: true, rule: None, reason: Reason::Default });
    let stranger = snapshot.subject(node(3), false, Some(v4(3)), v6(3));
    let flow = tuple("100.64.0.3", "100.64.0.1", TCP, 22);
    let verdict = snapshot.decide(&stranger, &subject(&snapshot, 1), &flow, Direction::Inbound, true);
    assert_eq!((verdict.is_allowed, verdict.reason), (false, Reason::NotMember));
    let denied = both(&snapshot, (1, 2), tuple("100.64.0.1", "8.8.8.8", UDP, 53));
    assert_eq!((denied.is_allowed, denied.reason), (false, Reason::ForeignDestination));
    let old = Snapshot::compile(&Document::built_in(), local(), 6).unwrap();
    let flow = tuple("100.64.0.1", "100.64.0.2", TCP, 22);
    let verdict = snapshot.decide(&subject(&old, 1), &subject(&snapshot, 2), &flow, Direction::Outbound, true);
    assert_eq!((verdict.is_allowed, verdict.reason), (false, Reason::Stale));
}

#[test]
fn the_first_rule_that_fits_decides() {
    let snapshot = compile(OFFICE).unwrap();
    let named = |from, to, protocol, port| {
        let verdict = mesh(&snapshot, from, to, protocol, port);
        (verdict.is_allowed, rule(&snapshot, &verdict))
    };
    assert_eq!(named(1, 2, TCP, 22), (true, Some("ssh for admins")));
    assert_eq!(named(3, 2, TCP, 22), (false, Some("no ssh for others")));
    assert_eq!(named(3, 2, TCP, 8050), (true, Some("web")));
    assert_eq!(named(3, 2, TCP, 8101), (false, None), "the default of this document");
    assert_eq!(named(3, 2, UDP, 8050), (false, None));
    assert_eq!(named(4, 4, 1, 0), (true, Some("ping")));
    assert_eq!((snapshot.serial(), snapshot.generation()), (12, 7));
}

#[test]
fn unknown_ports_are_denied_what_ports_are_denied_and_not_allowed_what_ports_are_allowed() {
    let snapshot = compile(OFFICE).unwrap();
    let piece = |from: u8| {
        let flow = Tuple { ports: None, ..tuple(&v4(from).to_string(), "100.64.0.2", TCP, 0) };
        let verdict = both(&snapshot, (from, 2), flow);
        (verdict.is_allowed, rule(&snapshot, &verdict))
    };
    assert_eq!(piece(1), (false, Some("no ssh for others")));
    assert_eq!(piece(3), (false, Some("no ssh for others")));
}

#[test]
fn nobody_sends_from_an_address_of_somebody_else() {
    let snapshot = compile(OFFICE).unwrap();
    let reason = |from: u8, to: u8, source: &str, destination: &str| {
        let verdict = both(&snapshot, (from, to), tuple(source, destination, 1, 0));
        verdict.reason
    };
    for (peer, source) in [
        (1, "100.64.0.2"),
        (1, "fd11:2233:4455::2"),
        (1, "10.1.0.9"),
        (1, "8.8.8.8"),
        (1, "127.0.0.1"),
        (1, "::ffff:100.64.0.1"),
        (4, "10.1.0.9"),
        (5, "100.64.0.2"),
        (5, "fd11:2233:4455::2"),
        (2, "::ffff:10.1.0.9"),
        (5, "::ffff:8.8.8.8"),
    ] {
        assert_eq!(reason(peer, 3, source, "100.64.0.3"), Reason::SpoofedSource, "{peer} from {source}");
        assert_eq!(reason(3, peer, "100.64.0.3", source), Reason::ForeignDestination, "to {peer} at {source}");
    }
    assert_eq!(reason(2, 3, "10.1.0.9", "100.64.0.3"), Reason::Rule, "from behind its own prefix");
    assert_eq!(reason(4, 3, "10.1.200.9", "100.64.0.3"), Reason::Rule, "the longer prefix is another's");
    assert_eq!(reason(2, 3, "10.1.200.9", "100.64.0.3"), Reason::SpoofedSource);
}

#[test]
fn prefixes_are_announced_by_those_who_are_listed() {
    let snapshot = compile(OFFICE).unwrap();
    let may = |n: u8, text: &str| snapshot.may_announce(&subject(&snapshot, n), &text.parse().unwrap());
    assert_eq!(may(2, "10.1.0.0/16"), Announce::Listed);
    assert_eq!(may(2, "10.1.7.0/24"), Announce::Listed, "a part of it");
    assert_eq!(may(2, "10.1.200.0/24"), Announce::Unauthorised, "the part of another");
    assert_eq!(may(4, "10.1.200.0/24"), Announce::Listed);
    assert_eq!(may(2, "10.0.0.0/8"), Announce::Unauthorised, "more than it");
    assert_eq!(may(1, "10.1.0.0/16"), Announce::Unauthorised);
    assert_eq!((may(1, "100.64.0.1/32"), may(1, "fd11:2233:4455::1/128")), (Announce::Own, Announce::Own));
    assert_eq!((may(1, "100.64.0.2/32"), may(1, "100.64.0.0/31")), (Announce::Unauthorised, Announce::Unauthorised));
    assert_eq!(
        (may(5, "0.0.0.0/0"), may(5, "::/0"), may(1, "::/0")),
        (Announce::Exit, Announce::Exit, Announce::Unauthorised)
    );
    let stranger = snapshot.subject(node(2), false, Some(v4(2)), v6(2));
    assert_eq!(snapshot.may_announce(&stranger, &"10.1.0.0/16".parse().unwrap()), Announce::Unauthorised);
    assert_eq!(snapshot.may_announce(&stranger, &"100.64.0.2/32".parse().unwrap()), Announce::Unauthorised);
}

#[test]
fn exits_serve_their_users_above_the_floor() {
    let snapshot = compile(OFFICE).unwrap();
    let reach = |user: u8, address: &str| {
        let flow = tuple(&v4(user).to_string(), address, TCP, 443);
        let verdict = both(&snapshot, (user, 5), flow);
        (verdict.is_allowed, verdict.reason)
    };
    assert_eq!(reach(1, "8.8.8.8"), (true, Reason::Exit));
    assert_eq!(reach(3, "8.8.8.8"), (false, Reason::ExitNotGranted));
    assert_eq!(reach(1, "192.168.7.9"), (true, Reason::Exit), "let in by name");
    assert_eq!(reach(1, "192.168.8.9"), (false, Reason::Floor(Floor::Private)));
    assert_eq!(reach(1, "169.254.169.254"), (false, Reason::Floor(Floor::Never)));
    assert_eq!(reach(1, "198.51.100.1"), (false, Reason::Floor(Floor::Added)));
    let flow = tuple("fd11:2233:4455::1", "2002:c633:6401::1", TCP, 443);
    assert_eq!(both(&snapshot, (1, 5), flow).reason, Reason::Floor(Floor::Added));
    let mail = both(&snapshot, (1, 5), tuple("100.64.0.1", "8.8.8.8", TCP, 25));
    assert_eq!((mail.is_allowed, rule(&snapshot, &mail)), (false, Some("no mail to the internet")));
    assert!(!both(&snapshot, (1, 2), tuple("100.64.0.1", "8.8.8.8", TCP, 443)).is_allowed, "2 is no exit");
}

#[test]
fn who_may_use_an_exit_is_known_before_the_first_packet() {
    let office = compile(OFFICE).unwrap();
    let may = |user: u8, exit: u8| office.may_use(&subject(&office, exit), &subject(&office, user));
    assert!(may(1, 5));
    assert!(!may(3, 5), "no user of it");
    assert!(!may(1, 2), "no exit");
    let stranger = office.subject(node(1), false, Some(v4(1)), v6(1));
    assert!(!office.may_use(&subject(&office, 5), &stranger));
    let local = format!(
        "version = 1\n[[exits]]\npeers = [\"{}\"]\nusers = [\"*\"]\n[[segments]]\nname = \"in\"\nmembers = [\"{}\"]\nmode = \"local_only\"\n",
        node(5),
        node(1)
    );
    let local = compile(&local).unwrap();
    assert!(local.may_use(&subject(&local, 5), &subject(&local, 2)));
    assert!(!local.may_use(&subject(&local, 5), &subject(&local, 1)), "its segment has no internet");
}

#[test]
fn what_only_the_exit_knows_counts_at_the_exit() {
    let snapshot = compile(OFFICE).unwrap();
    let (user, exit) = (subject(&snapshot, 1), subject(&snapshot, 5));
    for (address, hit) in [("203.0.113.5", Floor::Own), ("203.0.113.9", Floor::Connected)] {
        let flow = tuple("100.64.0.1", address, TCP, 443);
        let here = snapshot.decide(&user, &exit, &flow, Direction::Inbound, false);
        assert_eq!((here.is_allowed, here.reason), (false, Reason::Floor(hit)));
        let there = snapshot.decide(&user, &exit, &flow, Direction::Outbound, false);
        assert!(there.is_allowed, "the user's own neighbours are not the exit's");
        let back = snapshot.decide(&exit, &user, &flow.reversed(), Direction::Outbound, true);
        assert_eq!(back.reason, Reason::Floor(hit));
    }
}

#[test]
fn the_internet_only_ever_answers() {
    let snapshot = compile(OFFICE).unwrap();
    let (user, exit) = (subject(&snapshot, 1), subject(&snapshot, 5));
    let flow = tuple("8.8.8.8", "100.64.0.1", TCP, 443);
    for direction in [Direction::Inbound, Direction::Outbound] {
        let asked = snapshot.decide(&exit, &user, &flow, direction, true);
        assert_eq!((asked.is_allowed, asked.reason), (true, Reason::Reply));
        let unasked = snapshot.decide(&exit, &user, &flow, direction, false);
        assert_eq!((unasked.is_allowed, unasked.reason), (false, Reason::Unsolicited));
        let not_a_user =
            snapshot.decide(&exit, &subject(&snapshot, 3), &tuple("8.8.8.8", "100.64.0.3", TCP, 1), direction, true);
        assert_eq!(not_a_user.reason, Reason::ExitNotGranted);
        let through = snapshot.decide(&exit, &exit, &tuple("8.8.8.8", "9.9.9.9", TCP, 1), direction, true);
        assert_eq!(through.reason, Reason::ForeignDestination);
    }
}

#[test]
fn replies_pass_where_a_rule_would_not_let_them() {
    let snapshot = compile(OFFICE).unwrap();
    let flow = tuple("100.64.0.1", "100.64.0.2", TCP, 22).reversed();
    let (server, admin) = (subject(&snapshot, 2), subject(&snapshot, 1));
    assert!(!snapshot.decide(&server, &admin, &flow, Direction::Inbound, false).is_allowed);
    assert_eq!(snapshot.decide(&server, &admin, &flow, Direction::Inbound, true).reason, Reason::Reply);
    let forged = Tuple { source: IpAddr::V4(v4(3)), ..flow };
    assert_eq!(snapshot.decide(&server, &admin, &forged, Direction::Inbound, true).reason, Reason::SpoofedSource);
}

#[test]
fn segments_hold() {
    let snapshot = compile(include_str!("policy/segments.toml")).unwrap();
    let reason = |from, to| mesh(&snapshot, from, to, TCP, 443).reason;
    // 1 and 2 are strict, 3 has the internet only, 4 and what is behind 6 are local, 5 is the exit, 7 is in none.
    assert_eq!(snapshot.segments_of(&subject(&snapshot, 1)).collect::<Vec<_>>(), ["till"]);
    assert_eq!((reason(1, 2), reason(1, 7), reason(7, 1)), (Reason::Default, Reason::Strict, Reason::Strict));
    let named = mesh(&snapshot, 7, 1, TCP, 22);
    assert_eq!((named.is_allowed, rule(&snapshot, &named)), (true, Some("care")));
    assert_eq!(
        (reason(3, 7), reason(7, 3), reason(3, 3)),
        (Reason::InternetOnly, Reason::InternetOnly, Reason::InternetOnly)
    );
    assert_eq!((reason(4, 7), reason(7, 4)), (Reason::Default, Reason::Default));
    let out = |from: u8| both(&snapshot, (from, 5), tuple(&v4(from).to_string(), "8.8.8.8", TCP, 443)).reason;
    assert_eq!((out(1), out(3), out(4), out(7)), (Reason::Exit, Reason::Exit, Reason::LocalOnly, Reason::Exit));
    let from_site = |source: &str| both(&snapshot, (6, 5), tuple(source, "8.8.8.8", TCP, 443)).reason;
    assert_eq!((from_site("10.2.0.9"), from_site("10.3.0.9")), (Reason::LocalOnly, Reason::Exit));
}

#[test]
fn every_reason_has_a_word_of_its_own() {
    let reasons = [
        Reason::Rule,
        Reason::Default,
        Reason::Reply,
        Reason::Exit,
        Reason::NotMember,
        Reason::Stale,
        Reason::SpoofedSource,
        Reason::ForeignDestination,
        Reason::ExitNotGranted,
        Reason::Floor(Floor::Never),
        Reason::Floor(Floor::Private),
        Reason::Floor(Floor::Own),
        Reason::Floor(Floor::Connected),
        Reason::Floor(Floor::Added),
        Reason::Unsolicited,
        Reason::Strict,
        Reason::InternetOnly,
        Reason::LocalOnly,
    ];
    let words: std::collections::BTreeSet<&str> = reasons.iter().map(|reason| reason.label()).collect();
    assert_eq!(words.len(), reasons.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn arbitrary_documents_never_panic(text in any::<String>()) {
        let _ = compile(&text);
    }

    #[test]
    fn damaged_documents_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"\n\"[]=.-/*@1a ".to_vec())), 1..4),
    ) {
        let mut bytes = OFFICE.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(text) = String::from_utf8(bytes) {
            let _ = compile(&text);
        }
    }

    #[test]
    fn prefixes_have_one_spelling(v4: bool, bits: u128, length in 0u8..130, text in "[0-9a-f:./+]{0,24}") {
        let address = if v4 { IpAddr::V4((bits as u32).into()) } else { IpAddr::V6(bits.into()) };
        let prefix = Prefix::around(address, length);
        prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
        prop_assert!(prefix.contains(address));
        if let Ok(prefix) = text.parse::<Prefix>() {
            prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
        }
    }

    #[test]
    fn the_longest_prefix_is_found(
        rows in proptest::collection::vec((any::<u32>(), 0u8..33), 0..40), near in any::<prop::sample::Index>(), noise: u8,
    ) {
        // Few addresses, so that prefixes lie in each other.
        let rows: Vec<(Prefix, ())> =
            rows.into_iter().map(|(bits, length)| (Prefix::around(IpAddr::V4((bits & 0xc000_ff03).into()), length), ())).collect();
        let table = PrefixTable::new(rows.clone());
        let mut wanted = IpAddr::V4(u32::from(noise).into());
        if !rows.is_empty()
            && let IpAddr::V4(address) = near.get(&rows).0.address()
        {
            wanted = IpAddr::V4((address.to_bits() ^ u32::from(noise)).into());
        }
        let slow = rows.iter().map(|(prefix, ())| *prefix).filter(|prefix| prefix.contains(wanted)).max_by_key(Prefix::length);
        prop_assert_eq!(table.find(wanted).map(|(prefix, ())| *prefix), slow);
    }
}
