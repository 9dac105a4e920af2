//! Questions as resolvers ask them, and as nobody should: each answer is read back and compared whole.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;
use shoal_protocol::mesh::address::{Pool, overlay};
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::{NetworkId, NodeId};

use super::answer::{ANSWER_MAX, NEGATIVE_TTL_S, QUERY_MAX, TTL_S, refusal};
use super::*;

fn network() -> NetworkId {
    NetworkId::from_bytes([7; 32])
}

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn v4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 80, 3, n)
}

fn v6(n: u8) -> Ipv6Addr {
    overlay(&network(), &PeerHash::of(&node(n)))
}

fn member(n: u8, has_v4: bool, label: Option<&str>) -> Member {
    let label = label.map(|text| text.parse().unwrap());
    Member { node: node(n), v4: has_v4.then(|| v4(n)), v6: v6(n), label, is_guest: false }
}

/// 1 is this node, 2 has all there is, 3 has an IPv6 address alone.
fn zone() -> Zone {
    let members = vec![member(1, true, None), member(2, true, Some("nas")), member(3, false, None)];
    Zone::new(&network(), Some("home"), &Pool::default(), &node(1), members, 77)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

#[test]
fn a_machine_in_two_networks_answers_for_both_and_each_says_no_for_itself() {
    let other = NetworkId::from_bytes([9; 32]);
    let pool = Pool::new("10.9.0.0/16".parse().unwrap()).unwrap();
    let there = Member {
        node: node(5),
        v4: Some(Ipv4Addr::new(10, 9, 0, 5)),
        v6: overlay(&other, &PeerHash::of(&node(5))),
        label: Some("box".parse().unwrap()),
        is_guest: false,
    };
    let others = [std::sync::Arc::new(Zone::new(&other, Some("work"), &pool, &node(1), vec![there.clone()], 3))];
    let told = |name: &str, kind, others: &[std::sync::Arc<Zone>]| {
        let bytes = query(name, kind).to_vec().unwrap();
        match answer_among(&bytes, &zone(), others, Over::Udp) {
            Reply::Answer(bytes) => Some(Message::from_vec(&bytes).unwrap()),
            Reply::Elsewhere(_) | Reply::Silence => None,
        }
    };
    let data = |name: &str, kind| told(name, kind, &others).unwrap().answers[0].data.clone();
    let own = |name: &str, kind| told(name, kind, &[]).unwrap().answers[0].data.clone();
    assert_eq!(data("box.work.shoal.internal.", RecordType::AAAA), RData::AAAA(there.v6.into()));
    assert_eq!(data("nas.home.shoal.internal.", RecordType::A), own("nas.home.shoal.internal.", RecordType::A));
    for address in [IpAddr::V4(there.v4.unwrap()), IpAddr::V6(there.v6)] {
        let name = Name::from(address).to_ascii();
        assert_eq!(data(&name, RecordType::PTR).to_string(), "box.work.shoal.internal.");
        assert!(told(&name, RecordType::PTR, &[]).is_none(), "nobody's without that network");
    }
    for name in ["nas.work.shoal.internal.", "box.home.shoal.internal.", "box.third.shoal.internal."] {
        let code = told(name, RecordType::A, &others).unwrap().metadata.response_code;
        assert_eq!(code, ResponseCode::NXDomain, "{name}");
    }
    let code = told("box.work.shoal.internal.", RecordType::A, &[]).unwrap().metadata.response_code;
    assert_eq!(code, ResponseCode::NXDomain, "who is not in the network");
    assert!(told("www.example.com.", RecordType::A, &others).is_none());
}

fn replied(message: &Message, over: Over) -> Reply {
    answer(&message.to_vec().unwrap(), &zone(), over)
}

fn asked(name: &str, kind: RecordType) -> Message {
    let Reply::Answer(bytes) = replied(&query(name, kind), Over::Udp) else { panic!("{name} is not ours") };
    assert!(bytes.len() <= ANSWER_MAX, "{name}: {} bytes", bytes.len());
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!((message.metadata.id, message.metadata.message_type), (0x1234, MessageType::Response));
    assert!(message.metadata.recursion_desired && !message.metadata.recursion_available);
    assert_eq!(message.queries[0].name().to_ascii(), format!("{}.", name.trim_end_matches('.')), "as it was written");
    message
}

/// What is answered, in order; the code is no error.
fn found(name: &str, kind: RecordType) -> Vec<RData> {
    let message = asked(name, kind);
    assert_eq!(message.metadata.response_code, ResponseCode::NoError, "{name}");
    assert!(message.metadata.authoritative);
    assert!(message.answers.iter().all(|record| record.ttl == TTL_S && record.name == *message.queries[0].name()));
    message.answers.into_iter().map(|record| record.data).collect()
}

/// The code and the zone that says so, where there is no answer.
fn missing(name: &str, kind: RecordType) -> (ResponseCode, String) {
    let message = asked(name, kind);
    assert!(message.answers.is_empty() && message.authorities.len() == 1, "{name}");
    let record = &message.authorities[0];
    let RData::SOA(soa) = &record.data else { panic!("{name}: {record:?}") };
    assert_eq!((record.ttl, soa.minimum, soa.serial), (NEGATIVE_TTL_S, NEGATIVE_TTL_S, 77));
    assert!(soa.mname.to_ascii().ends_with(".home.shoal.internal."));
    (message.metadata.response_code, record.name.to_ascii())
}

fn addresses(n: u8) -> [RData; 2] {
    [RData::A(v4(n).into()), RData::AAAA(v6(n).into())]
}

fn is_elsewhere(name: &str) -> bool {
    matches!(replied(&query(name, RecordType::A), Over::Udp), Reply::Elsewhere(_))
}

#[test]
fn a_member_is_found_by_id_hash_and_label_under_both_names_of_the_network() {
    let (id, hash, tag) = (node(2).to_string(), PeerHash::of(&node(2)).to_string(), network().tag());
    for host in [&id, &id.to_ascii_lowercase(), &id.to_ascii_uppercase(), &hash, "nas", "NaS"] {
        for net in ["home", "HOME", &tag] {
            for end in ["shoal.internal", "Shoal.Internal."] {
                let name = format!("{host}.{net}.{end}");
                let [a, aaaa] = addresses(2);
                assert_eq!(found(&name, RecordType::A), std::slice::from_ref(&a), "{name}");
                assert_eq!(found(&name, RecordType::AAAA), std::slice::from_ref(&aaaa), "{name}");
                assert_eq!(found(&name, RecordType::ANY), [a, aaaa], "{name}");
            }
        }
    }
    let own = format!("{}.home.shoal.internal", node(1));
    assert_eq!(found(&own, RecordType::AAAA), addresses(1)[1..]);
}

#[test]
fn what_is_there_without_such_a_record_is_no_error_and_what_is_not_is_no_name() {
    let third = format!("{}.home.shoal.internal", node(3));
    let zone = || "home.shoal.internal.".to_owned();
    assert_eq!(missing(&third, RecordType::A), (ResponseCode::NoError, zone()), "it has no IPv4 address");
    assert_eq!(missing("nas.home.shoal.internal", RecordType::MX), (ResponseCode::NoError, zone()));
    assert_eq!(missing("home.shoal.internal", RecordType::A), (ResponseCode::NoError, zone()));
    let stranger = format!("{}.home.shoal.internal", node(9));
    let short = format!("{}.home.shoal.internal", &node(2).to_string()[..16]);
    for name in ["box.home.shoal.internal", "a.nas.home.shoal.internal", &stranger, &short] {
        assert_eq!(missing(name, RecordType::A), (ResponseCode::NXDomain, zone()), "{name}");
    }
    let top = || "shoal.internal.".to_owned();
    assert_eq!(missing("shoal.internal", RecordType::A), (ResponseCode::NoError, top()));
    assert_eq!(missing("nas.work.shoal.internal", RecordType::A), (ResponseCode::NXDomain, top()), "never elsewhere");
    let RData::SOA(soa) = &found("home.shoal.internal", RecordType::SOA)[0] else { panic!("no SOA") };
    let server = format!("{}.home.shoal.internal.", node(1).to_string().to_ascii_lowercase());
    assert_eq!(soa.mname.to_ascii(), server);
    let RData::NS(ns) = &found("home.shoal.internal", RecordType::NS)[0] else { panic!("no NS") };
    assert_eq!(ns.0.to_ascii(), server);
}

#[test]
fn addresses_of_the_network_lead_back_to_names() {
    let reverse = |address: IpAddr| Name::from(address).to_ascii();
    let pointer = |address: IpAddr| match &found(&reverse(address), RecordType::PTR)[..] {
        [RData::PTR(ptr)] => ptr.0.to_ascii(),
        other => panic!("{other:?}"),
    };
    for address in [IpAddr::V4(v4(2)), IpAddr::V6(v6(2))] {
        assert_eq!(pointer(address), "nas.home.shoal.internal.");
    }
    assert_eq!(pointer(IpAddr::V6(v6(3))), format!("{}.home.shoal.internal.", node(3)));
    let whole = reverse(IpAddr::V6(v6(2)));
    let labels: Vec<&str> = whole.trim_end_matches('.').split('.').collect();
    let ends = |count: usize| labels[labels.len() - count..].join(".");
    let apex = || format!("{}.", ends(14));
    assert_eq!(missing(&ends(14), RecordType::PTR), (ResponseCode::NoError, apex()));
    assert_eq!(missing(&ends(20), RecordType::PTR), (ResponseCode::NoError, apex()), "members are below it");
    assert_eq!(missing(&format!("0.{whole}"), RecordType::PTR), (ResponseCode::NXDomain, apex()));
    let absent = overlay(&network(), &PeerHash::new([0xee; 10]));
    assert_eq!(missing(&reverse(absent.into()), RecordType::PTR), (ResponseCode::NXDomain, apex()));
    assert_eq!(missing(&format!("x.{}", ends(14)), RecordType::PTR), (ResponseCode::NXDomain, apex()));
    assert!(is_elsewhere(&ends(13)), "a /44 is somebody else's too");

    let pool = || "80.100.in-addr.arpa.".to_owned();
    assert_eq!(missing("9.3.80.100.in-addr.arpa", RecordType::PTR), (ResponseCode::NXDomain, pool()));
    assert_eq!(missing("3.80.100.in-addr.arpa", RecordType::PTR), (ResponseCode::NoError, pool()));
    assert_eq!(missing("4.80.100.in-addr.arpa", RecordType::PTR), (ResponseCode::NXDomain, pool()));
    assert_eq!(missing("80.100.in-addr.arpa", RecordType::PTR), (ResponseCode::NoError, pool()));
    assert_eq!(missing("02.3.80.100.in-addr.arpa", RecordType::PTR).0, ResponseCode::NXDomain, "no second spelling");
    for name in ["100.in-addr.arpa", "1.0.128.100.in-addr.arpa", "63.100.in-addr.arpa", "8.8.8.8.in-addr.arpa"] {
        assert!(is_elsewhere(name), "{name}");
    }
}

#[test]
fn the_domains_a_system_is_told_are_those_that_are_answered() {
    for (pool, count) in [("100.64.0.0/10", 64), ("10.0.0.0/8", 1), ("10.9.0.0/16", 1), ("10.128.0.0/9", 128)] {
        let pool = Pool::new(pool.parse().unwrap()).unwrap();
        let zone = Zone::new(&network(), Some("home"), &pool, &node(1), vec![], 1);
        let domains = zone.domains();
        assert_eq!(domains.len(), 4 + count, "{domains:?}");
        for domain in &domains {
            let bytes = query(domain, RecordType::SOA).to_vec().unwrap();
            let Reply::Answer(answer) = answer(&bytes, &zone, Over::Udp) else { panic!("{domain} is not ours") };
            let message = Message::from_vec(&answer).unwrap();
            assert!(matches!(message.answers[..], [ref record] if record.record_type() == RecordType::SOA), "{domain}");
        }
    }
}

#[test]
fn names_of_networks_become_labels() {
    for (name, label) in [
        ("home", Some("home")),
        ("My_Home.2", Some("my-home-2")),
        ("--a--", Some("a")),
        ("...", None),
        (&"x".repeat(64), Some(&*"x".repeat(63))),
    ] {
        assert_eq!(network_label(name).as_deref(), label, "{name}");
    }
    let bare = Zone::new(&network(), None, &Pool::default(), &node(1), vec![], 1);
    assert_eq!((bare.network(), bare.is_network("home")), (&*network().tag(), false));
}

#[test]
fn ids_that_differ_in_capitals_alone_mean_nobody() {
    // Two members of one id stand for two whose ids are alike to DNS: such keys cannot be made for a test.
    let twice = vec![member(2, true, Some("nas")), Member { v4: None, ..member(2, true, Some("box")) }];
    let zone = Zone::new(&network(), Some("home"), &Pool::default(), &node(1), twice, 1);
    assert!(zone.host(&node(2).to_string().to_ascii_lowercase()).is_none());
    assert!(zone.host("nas").is_some() && zone.host("box").is_some());
}

#[test]
fn other_zones_are_asked_elsewhere_and_only_their_answer_is_passed_on() {
    let query = query("www.Example.com.", RecordType::A);
    let bytes = query.to_vec().unwrap();
    let Reply::Elsewhere(asked) = replied(&query, Over::Udp) else { panic!("www.example.com is ours") };
    let sent = asked.forwarded(0xbeef);
    assert_eq!((&sent[..2], &sent[2..]), (&[0xbe, 0xef][..], &bytes[2..]));
    let mut good = Message::from_vec(&sent).unwrap();
    good.metadata.message_type = MessageType::Response;
    let told = asked.answered(&good.to_vec().unwrap(), 0xbeef).unwrap();
    assert_eq!((&told[..2], &told[2..]), (&[0x12, 0x34][..], &good.to_vec().unwrap()[2..]));
    let refuses = |change: fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        asked.answered(&message.to_vec().unwrap(), 0xbeef).is_none()
    };
    assert!(refuses(|message| message.metadata.id = 0x1234));
    assert!(refuses(|message| message.metadata.message_type = MessageType::Query));
    assert!(refuses(|message| message.metadata.op_code = OpCode::Notify));
    assert!(refuses(|message| {
        message.queries[0].set_name(Name::from_ascii("www.example.org.").unwrap());
    }));
    assert!(refuses(|message| {
        message.queries[0].set_query_type(RecordType::AAAA);
    }));
    assert!(refuses(|message| message.queries.clear()));
    for (bytes, code) in [(asked.refused(), ResponseCode::Refused), (asked.failed(), ResponseCode::ServFail)] {
        let message = Message::from_vec(&bytes.unwrap()).unwrap();
        assert_eq!((message.metadata.response_code, message.queries), (code, query.queries.clone()));
    }
}

#[test]
fn what_is_no_question_gets_a_code_or_nothing() {
    let code = |message: &Message| match replied(message, Over::Udp) {
        Reply::Answer(bytes) => Some(Message::from_vec(&bytes).unwrap().metadata.response_code),
        Reply::Silence => None,
        Reply::Elsewhere(_) => panic!("{message} goes elsewhere"),
    };
    let good = query("nas.home.shoal.internal", RecordType::A);
    let with = |change: fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        code(&message)
    };
    assert_eq!(with(|_| ()), Some(ResponseCode::NoError));
    assert_eq!(with(|message| message.metadata.message_type = MessageType::Response), None);
    assert_eq!(with(|message| message.metadata.op_code = OpCode::Update), Some(ResponseCode::NotImp));
    assert_eq!(with(|message| message.queries.clear()), Some(ResponseCode::FormErr));
    assert_eq!(with(|message| message.queries.push(message.queries[0].clone())), Some(ResponseCode::FormErr));
    assert_eq!(
        with(|message| {
            message.queries[0].set_query_class(DNSClass::CH);
        }),
        Some(ResponseCode::Refused)
    );
    let edns = |version| {
        let mut message = good.clone();
        let mut edns = Edns::new();
        edns.set_version(version).set_max_payload(4096).set_dnssec_ok(true);
        message.set_edns(edns);
        let Reply::Answer(bytes) = replied(&message, Over::Udp) else { panic!("no answer") };
        Message::from_vec(&bytes).unwrap()
    };
    let plain = edns(0);
    assert_eq!(plain.metadata.response_code, ResponseCode::NoError);
    assert!(plain.edns.is_some_and(|edns| edns.max_payload() == 1232 && edns.flags().dnssec_ok));
    // 16, the number BADSIG has elsewhere (RFC 6891 §9).
    assert_eq!(u16::from(edns(1).metadata.response_code), 16);

    let bytes = good.to_vec().unwrap();
    assert_eq!(answer(&bytes[..11], &zone(), Over::Udp), Reply::Silence, "not even a header");
    let long = [bytes.clone(), vec![0; QUERY_MAX]].concat();
    assert_eq!(answer(&long, &zone(), Over::Tcp), Reply::Silence);
    // Counts that nothing stands behind: 65,535 of each.
    for place in [4, 6, 8, 10] {
        let mut lie = bytes.clone();
        lie[place..place + 2].fill(0xff);
        let Reply::Answer(told) = answer(&lie, &zone(), Over::Udp) else { panic!("no answer") };
        assert_eq!(Message::from_vec(&told).unwrap().metadata.response_code, ResponseCode::FormErr, "count at {place}");
    }
    let refused = Message::from_vec(&refusal(&bytes).unwrap()).unwrap();
    assert_eq!((refused.metadata.response_code, refused.answers.len()), (ResponseCode::Refused, 0));
    assert!(refusal(&bytes[..11]).is_none());
}

/// The longest names and the most records there can be.
#[test]
fn every_answer_fits_a_datagram_without_edns() {
    let label = format!("{}a", "a-".repeat(31));
    let full = vec![member(1, true, None), member(2, true, Some(&label))];
    let network_name = "n".repeat(63);
    let zone = Zone::new(&network(), Some(&network_name), &Pool::default(), &node(1), full, u32::MAX);
    let filled = format!("{0}.{0}.{1}.{2}.shoal.internal", "f".repeat(63), "g".repeat(46), network_name);
    assert_eq!(filled.len(), 253, "the longest there is");
    let host = format!("{label}.{network_name}.shoal.internal");
    for (name, kind) in [(&filled, RecordType::A), (&host, RecordType::ANY), (&host, RecordType::MX)] {
        for payload in [None, Some(512), Some(4096)] {
            let mut message = query(name, kind);
            message.edns = payload.map(|payload| {
                let mut edns = Edns::new();
                edns.set_max_payload(payload);
                edns
            });
            let Reply::Answer(bytes) = answer(&message.to_vec().unwrap(), &zone, Over::Udp) else { panic!("{name}") };
            assert!(bytes.len() <= ANSWER_MAX, "{name} {kind}: {} bytes", bytes.len());
            assert!(!Message::from_vec(&bytes).unwrap().metadata.truncation);
        }
    }
}

#[test]
fn a_whole_name_is_a_member_s_nobody_s_or_elsewhere() {
    let zone = zone();
    let who = |name: &str| match named(name, &zone) {
        Named::Member(member) => Some(Some(member.node)),
        Named::Nobody => Some(None),
        Named::Elsewhere => None,
    };
    assert_eq!(who("nas.home.shoal.internal"), who("NAS.home.Shoal.internal."));
    assert!(matches!(who("nas.home.shoal.internal"), Some(Some(_))));
    assert_eq!(who(&format!("{}.home.shoal.internal", node(2))), Some(Some(node(2))));
    assert_eq!(who("nobody.home.shoal.internal"), Some(None));
    assert_eq!(who("nas.other.shoal.internal"), Some(None));
    assert_eq!(who("home.shoal.internal"), Some(None));
    for elsewhere in ["example.org", "nas", "", ".", "internal", "shoal.internal.org"] {
        assert_eq!(who(elsewhere), None, "{elsewhere}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn whatever_comes_is_answered_briefly_or_not_at_all(
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
        changes in proptest::collection::vec((0..90_usize, any::<u8>()), 0..4),
        whole in any::<bool>(),
    ) {
        let mut message = if whole {
            query("nas.home.shoal.internal", RecordType::A).to_vec().unwrap()
        } else {
            bytes
        };
        for (place, byte) in changes {
            let length = message.len().max(1);
            if let Some(at) = message.get_mut(place % length) {
                *at = byte;
            }
        }
        for over in [Over::Udp, Over::Tcp] {
            match answer(&message, &zone(), over) {
                Reply::Answer(answer) => {
                    prop_assert!(answer.len() <= ANSWER_MAX);
                    prop_assert_eq!(&answer[..2], &message[..2], "another number");
                    prop_assert!(answer[2] & 0x80 != 0 && message[2] & 0x80 == 0, "answers answered");
                }
                Reply::Elsewhere(asked) => {
                    prop_assert_eq!(&asked.forwarded(7)[2..], &message[2..]);
                    prop_assert!(asked.refused().is_some() && asked.failed().is_some());
                }
                Reply::Silence => {}
            }
        }
    }

    #[test]
    fn names_mean_the_same_in_any_size_of_letters(seed in any::<u64>(), place in 0..3_usize) {
        let names = ["nas.home.shoal.internal".to_owned(), format!("{}.home.shoal.internal", node(2)), Name::from(IpAddr::V6(v6(2))).to_ascii()];
        let mixed: String = names[place].chars().enumerate().map(|(at, c)| {
            if seed >> (at % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }
        }).collect();
        let kind = if place == 2 { RecordType::PTR } else { RecordType::A };
        prop_assert_eq!(found(&mixed, kind), found(&names[place], kind));
    }
}
