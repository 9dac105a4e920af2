//! Those who act on a statement: it counts only as it was asked for, for whom, in its network, and in its time to the
//! millisecond. What is rightly signed and about anything else is refused, and so is a statement that was good before.

use std::collections::{BTreeMap, BTreeSet};

use shoal_client::audit::{Outcome, Question, Timing, Verdict, judge};
use shoal_client::net::probe;
use shoal_client::pipeline::encode_ranges;
use shoal_client::transfer::{Expected, TransferError, check_receipt};
use shoal_client::transport::{Meter, RetrieveJob, StoreJob};
use shoal_engine::vouchers::Ledger;
use shoal_engine::{Directory, Now, leases, records, vouchers};
use shoal_protocol::audit::{AuditParties, AuditRequest, Challenge, answer_digest, leaf_ranges, positions};
use shoal_protocol::control::Hello;
use shoal_protocol::lane::{
    DeliveryReply, Header, RetrieveTrailer, StoreReply, encode_abort, encode_end, encode_message,
};
use shoal_protocol::limits::{FRESHNESS_MS, LANE_FRAME_MAX, TRANSFER_SILENCE_MS};
use shoal_protocol::peer_record::PEER_RECORD_AGE_MAX_MS;
use shoal_protocol::receipt::ByteRange;
use shoal_protocol::record::{RecordKind, link};
use shoal_protocol::sealing::SealedBox;
use shoal_protocol::{BootEpoch, ByteCount, GroupId, Nonce, Refusal, ReservationId, ShardId, UnixMillis};
use shoal_tests::budget::say;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::cbor::{Item, parse};
use super::*;

/// When everything here was said.
const SAID: UnixMillis = UnixMillis(1_700_000_000_000);
const EPOCH: BootEpoch = BootEpoch(7);

/// Whether a statement counts to the request of this number at this time.
type Counts = Box<dyn Fn(&Signed, u64, UnixMillis) -> bool>;

/// A statement and who acts on it.
struct Scene {
    name: &'static str,
    /// As it was asked for by request 0.
    good: Signed,
    counts: Counts,
    /// The first and the last millisecond of its time, where it has one.
    time: (Option<u64>, Option<u64>),
    /// Whether it answers one request and no later one.
    is_answer: bool,
    /// Rightly signed by the right party, and about something else.
    wrong: Vec<(&'static str, Signed)>,
}

fn nonce(ask: u64) -> Nonce {
    Nonce::from_bytes((u128::from(ask) + 1).to_le_bytes())
}

fn fresh() -> (Option<u64>, Option<u64>) {
    (Some(SAID.0 - FRESHNESS_MS), Some(SAID.0 + FRESHNESS_MS))
}

/// Signed by the node that is asked: key 1. The client is key 2, everybody else is higher.
fn by_node<T: Statement>(statement: &T) -> Signed {
    Signed::seal(statement, &key(1), &network())
}

fn shard() -> Vec<u8> {
    (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

fn length() -> u32 {
    u32::try_from(shard().len()).unwrap()
}

fn receipt() -> Scene {
    let expected = |ask| Expected {
        node: node_of(&key(1)),
        shard: ShardId::of(&shard()),
        length: length(),
        group: GroupId::from_bytes([2; 32]),
        nonce: nonce(ask),
        boot_epoch: EPOCH,
    };
    let Expected { shard, length, group, nonce, boot_epoch, .. } = expected(0);
    let expires = SAID.saturating_add(1_000_000);
    let good = Receipt { shard, length, group, expires, boot_epoch, nonce, time: SAID };
    let wrong = [
        ("shard", Receipt { shard: ShardId::of(b"x"), ..good.clone() }),
        ("length", Receipt { length: length - 1, ..good.clone() }),
        ("group", Receipt { group: GroupId::from_bytes([3; 32]), ..good.clone() }),
        ("nonce", Receipt { nonce: self::nonce(9), ..good.clone() }),
        ("boot epoch", Receipt { boot_epoch: BootEpoch(8), ..good.clone() }),
        ("lease that is over", Receipt { expires: SAID, ..good.clone() }),
    ];
    Scene {
        name: "Receipt",
        good: by_node(&good),
        counts: Box::new(move |signed, ask, now| check_receipt(signed, &expected(ask), &network(), now).is_ok()),
        time: fresh(),
        is_answer: true,
        wrong: wrong.iter().map(|(what, receipt)| (*what, by_node(receipt))).collect(),
    }
}

/// What the client's half of a STORE makes of a refusal.
fn is_refusal(signed: &Signed, ask: u64, now: UnixMillis) -> bool {
    let shard = shard();
    let job = StoreJob {
        reservation: ReservationId(1),
        boot_epoch: EPOCH,
        nonce: nonce(ask),
        shard: ShardId::of(&shard),
        bytes: shard.into(),
        silence_ms: TRANSFER_SILENCE_MS,
    };
    run(async {
        let (mut near, mut far) = tokio::io::duplex(1 << 17);
        far.write_all(&encode_message(&StoreReply::Refused(signed.clone()))).await.unwrap();
        let parties = (&network(), node_of(&key(1)), &key(2), now);
        let (result, _) = probe::store(&mut near, &job, parties).await;
        matches!(result, Err(TransferError::Refused { reason: Refusal::NoSpace, retry_after_ms: 5 }))
    })
}

fn refusal() -> Scene {
    let (reason, boot_epoch) = (Refusal::NoSpace, EPOCH);
    let good = RefusalStatement { reason, retry_after_ms: 5, boot_epoch, nonce: nonce(0), time: SAID };
    Scene {
        name: "RefusalStatement",
        good: by_node(&good),
        counts: Box::new(is_refusal),
        time: fresh(),
        is_answer: true,
        wrong: vec![("nonce", by_node(&RefusalStatement { nonce: nonce(9), ..good }))],
    }
}

fn ranges() -> Vec<ByteRange> {
    vec![ByteRange { start: 0, end: 3_000 }, ByteRange { start: 10_000, end: 10_001 }]
}

fn served() -> Vec<u8> {
    let wide: Vec<_> = ranges().iter().map(|range| u64::from(range.start)..u64::from(range.end)).collect();
    encode_ranges(&shard(), &wide).unwrap()
}

/// Whether the client's half of a RETRIEVE believes a statement so far that it signs a receipt for it. The bytes are
/// verified by themselves: a statement at a wrong time costs none of them.
fn is_delivered(signed: &Signed, ask: u64, now: UnixMillis) -> bool {
    let meter = Meter::default();
    let job =
        RetrieveJob { shard: ShardId::of(&shard()), length: length(), ranges: ranges(), nonce: nonce(ask), meter };
    let header = encode_message(&Header::Retrieve { shard: job.shard, ranges: ranges(), nonce: job.nonce });
    let mut stream = Vec::new();
    for piece in served().chunks(LANE_FRAME_MAX) {
        stream.extend(u32::try_from(piece.len()).unwrap().to_be_bytes());
        stream.extend_from_slice(piece);
    }
    stream.extend(encode_end(&RetrieveTrailer { statement: signed.clone() }));
    run(async {
        let (mut near, mut far) = tokio::io::duplex(1 << 17);
        far.write_all(&stream).await.unwrap();
        let parties = (&network(), node_of(&key(1)), &key(2), now);
        let (result, _) = probe::retrieve(&mut near, &job, parties).await;
        drop(near);
        let mut said = Vec::new();
        far.read_to_end(&mut said).await.unwrap();
        let last = said.strip_prefix(&header[..]).unwrap();
        if last.is_empty() || last == encode_abort(Refusal::Stale) {
            assert!(result.is_ok() != last.is_empty(), "bytes are lost to a clock, or taken from a liar: {result:?}");
            return false;
        }
        let reply: DeliveryReply = codec::decode(&last[4..], LANE_FRAME_MAX).unwrap();
        let receipt = reply.receipt.verify_by::<DeliveryReceipt>(&public(&key(2)), &network()).unwrap();
        assert_eq!((receipt.nonce, receipt.time, receipt.node), (nonce(ask), now, node_of(&key(1))));
        assert!(result.is_ok(), "a receipt for bytes that did not come");
        true
    })
}

fn serve() -> Scene {
    let good = ServeStatement {
        shard: ShardId::of(&shard()),
        ranges: ranges(),
        sent: served().len() as u64,
        requester: node_of(&key(2)),
        boot_epoch: EPOCH,
        nonce: nonce(0),
        time: SAID,
    };
    let wrong = [
        ("shard", ServeStatement { shard: ShardId::of(b"x"), ..good.clone() }),
        ("ranges", ServeStatement { ranges: ranges()[..1].to_vec(), ..good.clone() }),
        ("more bytes than came", ServeStatement { sent: good.sent + 1, ..good.clone() }),
        ("requester", ServeStatement { requester: node_of(&key(3)), ..good.clone() }),
        ("nonce", ServeStatement { nonce: nonce(9), ..good.clone() }),
    ];
    Scene {
        name: "ServeStatement",
        good: by_node(&good),
        counts: Box::new(is_delivered),
        time: fresh(),
        is_answer: true,
        wrong: wrong.iter().map(|(what, statement)| (*what, by_node(statement))).collect(),
    }
}

fn audit_request(ask: u64) -> AuditRequest {
    // The seed stays, so that the answer would fit too: only the nonce tells two questions apart.
    let challenge = Challenge::Slices { seed: [5; 32], count: 3 };
    AuditRequest { shard: ShardId::of(&shard()), length: length(), challenge, nonce: nonce(ask) }
}

fn audit() -> Scene {
    let (auditor, node) = (node_of(&key(2)), node_of(&key(1)));
    let parties = AuditParties { network: &network(), auditor: &auditor, node: &node };
    let leaves = leaf_ranges(&positions(parties, &[5; 32], &ShardId::of(&shard()), length(), 3), length());
    let wide: Vec<_> = leaves.iter().map(|range| u64::from(range.start)..u64::from(range.end)).collect();
    let answer = encode_ranges(&shard(), &wide).unwrap();
    let digest = answer_digest(&answer);
    let good = AuditStatement { request: audit_request(0), digest, auditor, boot_epoch: EPOCH, time: SAID };
    let of = |change: fn(&mut AuditRequest)| {
        let mut request = audit_request(0);
        change(&mut request);
        AuditStatement { request, ..good.clone() }
    };
    let wrong = [
        ("shard", of(|request| request.shard = ShardId::of(b"x"))),
        ("length", of(|request| request.length -= 1)),
        ("challenge", of(|request| request.challenge = Challenge::Slices { seed: [5; 32], count: 4 })),
        ("nonce", of(|request| request.nonce = nonce(9))),
        ("answer", AuditStatement { digest: answer_digest(b"x"), ..good.clone() }),
        ("auditor", AuditStatement { auditor: node_of(&key(3)), ..good.clone() }),
    ];
    let counts = move |statement: &Signed, ask, now| {
        let (network, request) = (network(), audit_request(ask));
        let question = Question { network: &network, auditor: &auditor, node: &node, request: &request, token: None };
        let outcome = Outcome::Answered { statement: statement.clone(), answer: answer.clone() };
        judge(&question, &outcome, Timing { now, took_ms: 1, allowed_ms: 6_000 }) == Verdict::Proved
    };
    Scene {
        name: "AuditStatement",
        good: by_node(&good),
        counts: Box::new(counts),
        time: fresh(),
        is_answer: true,
        wrong: wrong.iter().map(|(what, statement)| (*what, by_node(statement))).collect(),
    }
}

fn peer_record() -> Scene {
    let record = PeerRecord {
        addresses: vec!["/ip4/192.0.2.1/tcp/4701".into()],
        boot_epoch: EPOCH,
        free: ByteCount(1),
        domain: None,
        stores: true,
        time: SAID,
    };
    let counts = |signed: &Signed, _, wall| {
        let now = Now { wall, uptime_ms: 1_000 };
        let (local, peer) = (node_of(&key(4)), node_of(&key(1)));
        let mut own = Directory::new(local, network(), &[], 1);
        own.connected(peer, now);
        let (boot_epoch, record) = (EPOCH, Some(signed.clone()));
        let hello = Hello { versions: vec![1], boot_epoch, free: ByteCount(0), domain: None, time: wall, record };
        let by_itself = own.heard_hello(peer, hello, now).is_ok() && own.peers(None, wall).0 == [signed.clone()];
        let mut heard = Directory::new(local, network(), &[], 1);
        heard.connected(node_of(&key(5)), now);
        let told = heard.heard_peers(node_of(&key(5)), vec![signed.clone()], false, now).is_ok();
        let by_others = told && heard.locate(&[peer], wall).0 == [signed.clone()];
        assert_eq!(by_itself, by_others, "by itself, by others");
        by_itself
    };
    Scene {
        name: "PeerRecord",
        good: by_node(&record),
        counts: Box::new(counts),
        time: (Some(SAID.0 - FRESHNESS_MS), Some(SAID.0 + PEER_RECORD_AGE_MAX_MS)),
        is_answer: false,
        wrong: vec![],
    }
}

fn group() -> Scene {
    let owner = public(&key(1));
    let (steward, payer, ceiling) = (owner, owner, ByteCount(1000));
    let (issued, expires) = (SAID, SAID.saturating_add(3_600_000));
    let id = GroupId::of_owner(&network(), &owner);
    let counts = move |signed: &Signed, _, now| {
        leases::decide(signed, None, &network(), now).is_ok_and(|decision| decision.lease().id == id)
    };
    Scene {
        name: "Group",
        good: by_node(&Group { steward, payer, ceiling, issued, expires, serial: 3 }),
        counts: Box::new(counts),
        time: (Some(issued.0 - leases::ISSUED_AHEAD_MAX_MS), Some(expires.0 - 1)),
        is_answer: false,
        wrong: vec![],
    }
}

fn voucher() -> Scene {
    let (holder, node) = (node_of(&key(2)), node_of(&key(4)));
    let issuers = BTreeSet::from([node_of(&key(1))]);
    let good = Voucher { holder, node, bytes: ByteCount(1000), expires: SAID, serial: 1 };
    let wrong = [
        ("holder", Voucher { holder: node_of(&key(3)), ..good.clone() }),
        ("node", Voucher { node: node_of(&key(3)), ..good.clone() }),
        ("both, exchanged", Voucher { holder: node, node: holder, ..good.clone() }),
    ];
    let counts = move |signed: &Signed, _, now| {
        let grant = vouchers::judge(signed, &network(), &issuers, holder, node, now);
        grant.is_ok_and(|grant| Ledger::default().charge(&grant, 1000, now).is_ok())
    };
    Scene {
        name: "Voucher",
        good: by_node(&good),
        counts: Box::new(counts),
        time: (None, Some(SAID.0 - 1)),
        is_answer: false,
        wrong: wrong.iter().map(|(what, voucher)| (*what, by_node(voucher))).collect(),
    }
}

fn record() -> Scene {
    let body = SealedBox { salt: [1; 32], sealed: vec![2; 40] };
    let first = Record { kind: RecordKind::Owner, index: 0, version: 1, previous: None, body };
    let held = by_node(&first);
    let good = Record { version: 2, previous: Some(link(&held.to_bytes())), ..first.clone() };
    let other_first = Record { body: SealedBox { salt: [9; 32], sealed: vec![2; 40] }, ..first.clone() };
    let wrong = [
        ("kind", Record { kind: RecordKind::Placement, ..good.clone() }),
        ("index", Record { index: 1, ..good.clone() }),
        ("link", Record { previous: Some([0; 32]), ..good.clone() }),
        ("version that is held", other_first),
    ];
    let place = RecordKind::Owner.key(&network(), &public(&key(1)), 0);
    let counts = move |signed: &Signed, _, _| {
        records::key_of(signed, &network()) == Ok(place)
            && records::decide(signed, Some(&held), &network()) == Ok(records::RecordDecision::Keep { version: 2 })
    };
    Scene {
        name: "Record",
        good: by_node(&good),
        counts: Box::new(counts),
        time: (None, None),
        is_answer: false,
        wrong: wrong.iter().map(|(what, record)| (*what, by_node(record))).collect(),
    }
}

fn scenes() -> Vec<Scene> {
    vec![receipt(), refusal(), serve(), audit(), peer_record(), group(), voucher(), record()]
}

fn run<R>(future: impl Future<Output = R>) -> R {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// A moment at which the good one counts.
fn moment(scene: &Scene) -> UnixMillis {
    UnixMillis(scene.time.1.unwrap_or(SAID.0).min(SAID.0))
}

#[test]
fn everybody_who_acts_on_a_kind_is_here() {
    let here: BTreeSet<&str> = scenes().iter().map(|scene| scene.name).collect();
    let acts = |kind: &&Kind| matches!(kind.acts, Acts::Node | Acts::Client);
    let acted: BTreeSet<&str> = ALL.iter().filter(acts).map(|kind| kind.name).collect();
    assert_eq!(here, acted);
}

#[test]
fn a_statement_counts_in_its_time_to_the_millisecond() {
    for scene in scenes() {
        let counts = |at: u64| (scene.counts)(&scene.good, 0, UnixMillis(at));
        assert!(counts(moment(&scene).0), "{}", scene.name);
        let (from, until) = scene.time;
        assert!(counts(from.unwrap_or(0)) && counts(until.unwrap_or(u64::MAX)), "{}: at its bounds", scene.name);
        assert!(!from.is_some_and(|from| counts(from - 1)), "{}: too new", scene.name);
        assert!(!until.is_some_and(|until| counts(until + 1)), "{}: too old", scene.name);
    }
}

#[test]
fn a_statement_about_anything_else_is_refused_by_those_who_act_on_it() {
    let scenes = scenes();
    let mut tried = BTreeMap::new();
    for scene in &scenes {
        let kind = ALL.iter().find(|kind| kind.name == scene.name).unwrap();
        let now = moment(scene);
        let mut refused = |what: &str, signed: &Signed| {
            assert!(!(scene.counts)(signed, 0, now), "{}: {what}", scene.name);
            *tried.entry(scene.name).or_insert(0) += 1;
        };
        for (what, signed) in &scene.wrong {
            refused(what, signed);
        }
        let Item::Map(pairs) = parse(&scene.good.to_bytes()) else { panic!("no envelope") };
        let Item::Bytes(payload) = &pairs[0].1 else { panic!("no payload") };
        for thief in 2..9 {
            refused("signed by another", &sealed(kind.context, &network(), payload, &key(thief)));
        }
        for network in other_networks() {
            refused("of another network", &sealed(kind.context, &network, payload, &key(1)));
        }
        for other in &ALL {
            if other.context != kind.context {
                refused("under another context", &sealed(other.context, &network(), payload, &key(1)));
            }
        }
        for other in scenes.iter().filter(|other| other.name != scene.name) {
            refused("a good statement of another kind", &other.good);
        }
    }
    say(&format!("signed: refused by those who act on them: {tried:?}; 0 accepted"));
}

#[test]
fn an_answer_to_one_request_is_none_to_a_thousand_later_ones() {
    for scene in scenes().iter().filter(|scene| scene.is_answer) {
        assert!((scene.counts)(&scene.good, 0, SAID), "{}", scene.name);
        let accepted = (1..=REPLAYS as u64).filter(|ask| (scene.counts)(&scene.good, *ask, SAID)).count();
        assert_eq!(accepted, 0, "{}", scene.name);
        say(&format!("signed: {} to {REPLAYS} later requests, {accepted} accepted", scene.name));
    }
}
