//! Names in a private network: claims of them, rightly signed around what the fuzzer chose, and questions of DNS from
//! anybody, with what other servers answer.

use shoal_engine::mesh::claims::Membership;
use shoal_engine::mesh::names::answer::{ANSWER_MAX, refusal};
use shoal_engine::mesh::names::{Member, Names, Over, Reply, Zone, answer};
use shoal_protocol::mesh::address::{Pool, overlay};
use shoal_protocol::mesh::claim::CLAIM_LIFE_MAX_MS;
use shoal_protocol::mesh::name::{HostLabel, NameClaim, VerifiedName};
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::signed::Statement;
use shoal_protocol::{Signed, UnixMillis, codec};
use std::net::Ipv4Addr;

use super::input::{Input, golden, sized};
use super::statements::{envelope, key, network, node};

const ROUTES: &str = include_str!("../../../protocol/golden/routes.hex");
const WALL: UnixMillis = UnixMillis(1_700_000_000_000);
/// The node whose state it is.
const OWN: u8 = 100;
/// Few enough that claims are for the same ones.
const LABELS: [&str; 3] = ["nas", "box", "a-1"];

fn label(choice: u8) -> Option<HostLabel> {
    LABELS.get(usize::from(choice % 4)).and_then(|text| text.parse().ok())
}

fn claim(input: &mut Input<'_>) -> NameClaim {
    let label = label(input.byte());
    let mut at = WALL.0 - 100_000_000;
    let [issued, bound, time] = [(); 3].map(|()| {
        at += u64::from(input.short()) * 1_000;
        UnixMillis(at)
    });
    let life = u64::from(input.short()) * CLAIM_LIFE_MAX_MS / 60_000;
    NameClaim { label, issued, bound, time, expires: time.saturating_add(life) }
}

/// Name claims: raw payloads or well-formed claims, rightly signed and sometimes changed then, as the table of a node that
/// would like a name itself takes them. At any time a label has one holder, who claims it, and whom nobody ranks before.
pub fn mesh_name(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let mut names = Names::new(node(OWN));
    names.claim(label(input.byte()), None, UnixMillis(WALL.0 - 50_000_000), WALL);
    let (mut at, mut taken) = (0, 0);
    for _ in 0..12 {
        if input.is_empty() {
            break;
        }
        let (how, signer) = (input.byte(), input.byte() % 8);
        at += u64::from(input.byte()) * 100_000;
        let edits = input.bytes(8);
        let payload = if how & 1 == 0 { input.bytes(160).to_vec() } else { codec::encode(&claim(&mut input)) };
        let mut bytes = envelope(NameClaim::CONTEXT, &network(), &payload, &key(signer));
        let changed = Input::new(edits).edit(&mut bytes, 1);
        let Ok(signed) = Signed::from_bytes(&bytes, 1024) else { continue };
        let verified = VerifiedName::verify(signed, &network());
        let good = codec::decode::<NameClaim>(&payload, NameClaim::LIMIT);
        assert_eq!(verified.is_ok(), !changed && good.is_ok(), "believed what was not signed so");
        let (Ok(verified), Ok(good)) = (verified, good) else { continue };
        assert_eq!(codec::encode(&good), payload, "a second spelling");
        let membership = match how / 2 % 3 {
            0 => Membership::Unticketed,
            1 => Membership::Ticket(good.issued),
            _ => Membership::None,
        };
        let now = WALL.saturating_add(at);
        let is_news = names.handle_claim(verified, membership, now);
        assert!(is_news != Ok(true) || (membership != Membership::None && good.expires > now), "news of nobody");
        taken += u32::from(is_news == Ok(true));
        names.handle_timeout(now);
        while names.poll().is_some() {}
        for (label, holder) in names.holders() {
            assert_eq!(names.label_of(&holder), Some(label), "who has a label claims it");
        }
        if let Some((label, holder)) = names.own() {
            assert_eq!(names.holder(label), Some(holder));
        }
    }
    taken > 0
}

pub(super) fn claims() -> Vec<Vec<u8>> {
    let payloads = golden(ROUTES, |name| name.starts_with("name claim payload"));
    let raw = payloads.iter().map(|payload| [&[1, 0, 1, 0, 0, 0][..], &sized(payload)].concat());
    // How, signer, time, edits; label, issued, bound, time, life: in units of `claim`.
    let one = |how: u8, signer: u8, label: u8, at: [u16; 4]| {
        let numbers: Vec<u8> = at.iter().flat_map(|number| number.to_le_bytes()).collect();
        [&[how, signer, 1, 0, 0, label][..], &numbers].concat()
    };
    let good = [1_000, 2_000, 50_000, 40_000];
    let later = [1_000, 2_000, 50_001, 40_000];
    let many = vec![
        [vec![0], one(1, 1, 0, good), one(1, 2, 0, good), one(1, 1, 3, later)].concat(),
        [vec![3], one(1, 1, 0, good), one(1, 1, 1, [1_000, 1, 50_002, 40_000]), one(3, 3, 1, good)].concat(),
        [vec![1], one(5, 1, 0, good), one(1, OWN % 8, 1, good)].concat(),
    ];
    raw.chain(many).collect()
}

fn zone() -> Zone {
    let member = |n: u8| Member {
        node: node(n),
        v4: (n < 3).then(|| Ipv4Addr::new(100, 64, 7, n)),
        v6: overlay(&network(), &PeerHash::of(&node(n))),
        label: label(n),
        is_guest: false,
    };
    Zone::new(&network(), Some("home"), &Pool::default(), &node(OWN), [0, 1, 2, 3, OWN].map(member).into(), 1)
}

/// Questions as they come from programs, and what another server says to those that go on: an answer is one, brief, and
/// under the number of its question; of other servers' words only those about the question are passed on.
pub fn mesh_dns(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let (over, number) = (if input.byte() & 1 == 0 { Over::Udp } else { Over::Tcp }, input.short());
    let query = input.bytes(600).to_vec();
    let answered = match answer(&query, &zone(), over) {
        Reply::Answer(bytes) => {
            assert!(bytes.len() <= ANSWER_MAX, "{} bytes", bytes.len());
            assert_eq!(bytes.get(..2), query.get(..2), "another number");
            assert!(bytes[2] & 0x80 != 0 && query[2] & 0x80 == 0, "an answer is answered, or with a question");
            true
        }
        Reply::Elsewhere(asked) => {
            let sent = asked.forwarded(number);
            assert_eq!((&sent[..2], &sent[2..]), (&number.to_be_bytes()[..], &query[2..]));
            for bytes in [asked.refused(), asked.failed()] {
                assert_eq!(bytes.as_ref().and_then(|bytes| bytes.get(..2)), query.get(..2));
            }
            let other = input.rest();
            let told = asked.answered(other, number);
            assert!(told.is_none() || other.starts_with(&number.to_be_bytes()), "somebody's guess");
            if let Some(told) = told {
                assert_eq!((told.get(..2), told.get(2..)), (query.get(..2), other.get(2..)));
            }
            true
        }
        Reply::Silence => false,
    };
    // What may not ask hears one word at most, whatever it says.
    if let Some(refused) = refusal(&query) {
        assert!(refused.len() <= query.len().max(ANSWER_MAX), "more than was asked");
    }
    answered
}

pub(super) fn questions() -> Vec<Vec<u8>> {
    let name = |text: &str| {
        let labels = text.split('.').flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat());
        labels.chain([0]).collect::<Vec<u8>>()
    };
    let asked = |text: &str, kind: u8, edns: bool| {
        let head = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
        let opt: &[u8] = if edns { &[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0] } else { &[] };
        [&head[..], &name(text), &[0, kind, 0, 1], opt].concat()
    };
    let whole = |over: u8, query: Vec<u8>, other: &[u8]| [&[over, 0xef, 0xbe][..], &sized(&query), other].concat();
    let id = format!("{}.home.shoal.internal", node(2));
    let elsewhere = asked("www.example.com", 1, false);
    let mut other = elsewhere.clone();
    other[..3].copy_from_slice(&[0xbe, 0xef, 0x81]);
    vec![
        whole(0, asked("nas.home.shoal.internal", 1, false), &[]),
        whole(1, asked(&id, 28, true), &[]),
        whole(0, asked("7.64.100.in-addr.arpa", 12, false), &[]),
        whole(0, asked("shoal.internal", 6, true), &[]),
        whole(0, asked("nobody.home.shoal.internal", 255, false), &[]),
        whole(1, elsewhere, &other),
    ]
}
