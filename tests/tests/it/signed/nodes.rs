//! Real nodes that are told the same thing a thousand times: again, by another peer, at another node, in another network,
//! and after a restart. What counts once counts once, what may be said again changes nothing, everything else is refused
//! by name, and the disk is byte for byte what it was.

use shoal_protocol::control::{PutRecord, Request, Response};
use shoal_protocol::lane::{DeliveryReply, Header, encode_message};
use shoal_protocol::receipt::ByteRange;
use shoal_protocol::record::{RecordKind, link};
use shoal_protocol::sealing::SealedBox;
use shoal_protocol::{BootEpoch, ByteCount, NodeId, Nonce, RecordKey, ShardId, UnixMillis};
use shoal_tests::budget::say;

use super::visitor::*;
use super::*;

/// Long enough for any of these tests.
const HOUR_MS: u64 = 3_600_000;

fn group_in(network: &NetworkId, serial: u64, ceiling: u64) -> Signed {
    let (steward, payer) = (public(&key(OWNER)), public(&key(OWNER)));
    let (issued, expires) = (now(), now().saturating_add(HOUR_MS));
    let group = Group { steward, payer, ceiling: ByteCount(ceiling), issued, expires, serial };
    Signed::seal(&group, &key(OWNER), network)
}

fn group(serial: u64, ceiling: u64) -> Signed {
    group_in(&network(), serial, ceiling)
}

fn voucher(node: NodeId, serial: u64) -> Signed {
    let expires = now().saturating_add(HOUR_MS);
    let voucher = Voucher { holder: node_of(&key(HOLDER)), node, bytes: ByteCount(10_000), expires, serial };
    Signed::seal(&voucher, &key(ISSUER), &network())
}

fn record_in(network: &NetworkId, version: u64, previous: Option<&Signed>, body: u8) -> Signed {
    let record = Record {
        kind: RecordKind::Owner,
        index: 0,
        version,
        previous: previous.map(|signed| link(&signed.to_bytes())),
        body: SealedBox { salt: [0; 32], sealed: vec![body; 40] },
    };
    Signed::seal(&record, &key(OWNER), network)
}

fn record(version: u64, previous: Option<&Signed>, body: u8) -> Signed {
    record_in(&network(), version, previous, body)
}

fn record_place() -> RecordKey {
    RecordKind::Owner.key(&network(), &public(&key(OWNER)), 0)
}

fn put(boot_epoch: BootEpoch, group: &Signed, record: &Signed, voucher: Option<&Signed>) -> Request {
    let nonce = Nonce::from_bytes([8; 16]);
    let (group, record, voucher) = (group.clone(), record.clone(), voucher.cloned());
    Request::PutRecord(PutRecord { boot_epoch, group, record, voucher, nonce })
}

fn once(refused: &str) -> Tally {
    Tally::from([("accepted".to_owned(), 1), (refused.to_owned(), REPLAYS - 1)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_counts_once_for_its_holder_on_its_node() {
    let mut place = Place::start(network()).await;
    let other = Place::start(network()).await;
    let foreign = Place::start(other_networks()[0]).await;
    let (good, unspent) = (voucher(place.id(), 1), voucher(place.id(), 2));
    let group = group(1, 1 << 30);
    let ask = |epoch, voucher| reserve(epoch, &group, 10_000, Some(voucher));

    let holder = place.visitor(HOLDER).await;
    assert_eq!(holder.replay(&ask(holder.epoch, &good)).await, once("denied"), "the first thousand, at once");
    let (before, others, foreigners) = (place.disk(), other.disk(), foreign.disk());
    let thief = place.visitor(45).await;
    assert_eq!(thief.replay(&ask(thief.epoch, &unspent)).await, all("denied"), "by another peer");
    let thief = place.visitor(46).await;
    let recorded = record(1, None, 0);
    assert_eq!(thief.replay(&put(thief.epoch, &group, &recorded, Some(&unspent))).await, all("denied"), "for a record");
    let elsewhere = other.visitor(HOLDER).await;
    assert_eq!(elsewhere.replay(&ask(elsewhere.epoch, &unspent)).await, all("denied"), "at another node");
    assert_eq!(elsewhere.repeat(&ask(holder.epoch, &unspent), 1).await.keys().next().unwrap(), "wrong_epoch");
    let abroad = foreign.visitor(HOLDER).await;
    assert_eq!(abroad.replay(&ask(abroad.epoch, &unspent)).await, all("forged"), "in another network");
    assert_eq!((place.disk(), other.disk(), foreign.disk()), (before, others, foreigners));

    let old = holder.epoch;
    drop((holder, thief));
    place.restart().await;
    let before = place.disk();
    let holder = place.visitor(HOLDER).await;
    assert_eq!(holder.replay(&ask(old, &good)).await, all("wrong_epoch"), "as it was sent before the restart");
    assert_eq!(holder.repeat(&ask(holder.epoch, &good), REPLAYS / 2).await, halves("denied"), "in this run");
    let record = put(holder.epoch, &group, &recorded, Some(&good));
    assert_eq!(holder.repeat(&record, REPLAYS / 4).await.keys().collect::<Vec<_>>(), ["denied"], "for a record");
    assert_eq!(place.disk(), before);
    assert_eq!(holder.repeat(&ask(holder.epoch, &unspent), 2).await.get("accepted"), Some(&1), "nobody spent of it");
    say("signed: Voucher sent 2,750 times, 1 accepted; another one whole after 4,001 misuses");
    drop(holder);
    place.stop().await;
}

fn halves(word: &str) -> Tally {
    Tally::from([(word.to_owned(), REPLAYS / 2)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_counts_once_and_the_same_shard_again_writes_nothing() {
    let mut place = Place::start(network()).await;
    let other = Place::start(network()).await;
    let (group, bytes) = (group(1, 1 << 30), vec![5; 3_000]);
    let member = place.visitor(MEMBER).await;
    let reservation = member.reserve(&group, 3_000).await;
    let header = store_header(reservation, member.epoch);
    let mut lane = member.lane().await;
    assert_eq!(member.store(&mut lane, &header, &bytes).await, "accepted");
    let before = place.disk();
    let again = store_header(member.reserve(&group, 3_000).await, member.epoch);
    assert_eq!(member.store(&mut lane, &again, &bytes).await, "accepted", "the same shard, asked for anew");
    assert_eq!(place.disk(), before, "it is kept already");

    assert_eq!(member.replay_store(&header, &bytes).await, all("no_reservation"), "again");
    let promised = store_header(member.reserve(&group, 3_000).await, member.epoch);
    let thief = place.visitor(OTHER_MEMBER).await;
    assert_eq!(thief.replay_store(&promised, &[6; 3_000]).await, all("no_reservation"), "by another peer");
    let elsewhere = other.visitor(MEMBER).await;
    let others = other.disk();
    assert_eq!(elsewhere.replay_store(&promised, &[6; 3_000]).await, all("wrong_epoch"), "at another node");
    assert_eq!((place.disk(), other.disk()), (before.clone(), others));

    // What is said last of a RETRIEVE changes nothing either, however often.
    let (shard, ranges, nonce) =
        (ShardId::of(&bytes), vec![ByteRange { start: 0, end: 3_000 }], Nonce::from_bytes([1; 16]));
    let delivery = DeliveryReceipt { shard, ranges: ranges.clone(), node: place.id(), nonce, time: now() };
    let receipt = Signed::seal(&delivery, &key(MEMBER), &network());
    let (last_word, asked) = (encode_message(&DeliveryReply { receipt }), Header::Retrieve { shard, ranges, nonce });
    for _ in 0..REPLAYS {
        let said = member.retrieve(&mut lane, &asked, &last_word).await;
        assert_eq!((said.requester, said.nonce), (node_of(&key(MEMBER)), nonce));
    }
    assert_eq!(place.disk(), before);

    drop((lane, member, thief));
    place.restart().await;
    let before = place.disk();
    let member = place.visitor(MEMBER).await;
    for header in [&header, &promised] {
        assert_eq!(member.replay_store(header, &[6; 3_000]).await, all("wrong_epoch"), "after a restart");
    }
    assert_eq!(place.disk(), before);
    say("signed: STORE sent again 5,000 times, 0 accepted; DeliveryReceipt 1,000 times, nothing changed");
    drop(member);
    place.stop().await;
}

async fn newest(visitor: &Visitor) -> Option<Signed> {
    match visitor.ask(Request::GetRecord { key: record_place(), back: 0 }).await {
        Response::Record { record, .. } => Some(record),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_replaced_never_comes_back() {
    let mut place = Place::start(network()).await;
    let foreign = Place::start(other_networks()[0]).await;
    let group = group(1, 1 << 30);
    let first = record(1, None, 0);
    let (second, rival) = (record(2, Some(&first), 0), record(2, Some(&first), 1));
    // Newer than what is held, and the successor of something else.
    let usurper = record(3, Some(&first), 0);
    let member = place.visitor(MEMBER).await;
    for record in [&first, &second] {
        assert_eq!(member.repeat(&put(member.epoch, &group, record, None), 1).await["accepted"], 1);
    }
    let before = place.disk();
    let other = place.visitor(OTHER_MEMBER).await;
    for visitor in [&member, &other] {
        for other in [&first, &rival, &usurper] {
            assert_eq!(visitor.replay(&put(visitor.epoch, &group, other, None)).await, all("conflict"));
        }
        assert_eq!(visitor.replay(&put(visitor.epoch, &group, &second, None)).await, all("accepted"), "kept already");
    }
    let abroad = foreign.visitor(MEMBER).await;
    let foreigners = foreign.disk();
    assert_eq!(abroad.replay(&put(abroad.epoch, &group, &second, None)).await, all("forged"), "in another network");
    assert_eq!((place.disk(), foreign.disk()), (before, foreigners));

    let old = member.epoch;
    drop((member, other));
    place.restart().await;
    let before = place.disk();
    let member = place.visitor(MEMBER).await;
    assert_eq!(member.replay(&put(old, &group, &second, None)).await, all("wrong_epoch"));
    assert_eq!(member.replay(&put(member.epoch, &group, &first, None)).await, all("conflict"));
    assert_eq!(newest(&member).await, Some(second));
    assert_eq!(place.disk(), before);
    say(
        "signed: Record that does not follow, foreign or of another run sent 9,000 times, 0 accepted; the newest 2,000, nothing written",
    );
    drop(member);
    place.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_was_replaced_promises_nothing_any_more() {
    let mut place = Place::start(network()).await;
    let foreign = Place::start(other_networks()[0]).await;
    let (wide, narrow) = (group(1, 1 << 30), group(2, 500));
    let member = place.visitor(MEMBER).await;
    for group in [&wide, &narrow] {
        assert_eq!(member.repeat(&reserve(member.epoch, group, 100, None), 1).await["accepted"], 1);
    }
    let before = place.disk();
    // 100 of each are promised, and 500 are the most there may be.
    let other = place.visitor(OTHER_MEMBER).await;
    for visitor in [&member, &other] {
        assert_eq!(visitor.replay(&reserve(visitor.epoch, &wide, 301, None)).await, all("no_lease"), "the older one");
    }
    let last = Tally::from([("accepted".to_owned(), 3), ("no_lease".to_owned(), REPLAYS - 3)]);
    assert_eq!(member.replay(&reserve(member.epoch, &narrow, 100, None)).await, last, "no more than it says");
    let over = Group { expires: now(), issued: UnixMillis(now().0 - 1), ..content(&wide) };
    let ahead = Group { issued: now().saturating_add(HOUR_MS), expires: now().saturating_add(2 * HOUR_MS), ..over };
    for (group, word) in [(&over, "no_lease"), (&ahead, "no_lease")] {
        let group = Signed::seal(group, &key(OWNER), &network());
        assert_eq!(member.replay(&reserve(member.epoch, &group, 1, None)).await, all(word), "in its time");
    }
    let abroad = foreign.visitor(MEMBER).await;
    let foreigners = foreign.disk();
    assert_eq!(abroad.replay(&reserve(abroad.epoch, &narrow, 1, None)).await, all("forged"), "in another network");
    assert_eq!((place.disk(), foreign.disk()), (before, foreigners), "each was written down once");

    let old = member.epoch;
    drop((member, other));
    place.restart().await;
    let before = place.disk();
    let member = place.visitor(MEMBER).await;
    assert_eq!(member.replay(&reserve(old, &narrow, 1, None)).await, all("wrong_epoch"));
    assert_eq!(member.replay(&reserve(member.epoch, &wide, 501, None)).await, all("no_lease"), "after a restart");
    assert_eq!(place.disk(), before);
    say("signed: Group replaced, over, ahead, foreign or of another run sent 7,000 times, 0 accepted");
    drop(member);
    place.stop().await;
}

fn content(signed: &Signed) -> Group {
    signed.verify::<Group>(&network()).unwrap().into_inner()
}

fn peer_record(network: &NetworkId, signer: u8, time: UnixMillis) -> Signed {
    let record = PeerRecord {
        addresses: vec![],
        boot_epoch: BootEpoch(1),
        free: ByteCount(0),
        domain: None,
        stores: false,
        time,
    };
    Signed::seal(&record, &key(signer), network)
}

async fn located(visitor: &Visitor, seed: u8) -> Vec<Signed> {
    let Response::Peers { records, .. } = visitor.ask(Request::Locate { nodes: vec![node_of(&key(seed))] }).await
    else {
        panic!("no LOCATE")
    };
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_record_is_never_replaced_by_an_older_or_foreign_one() {
    const DAY_MS: u64 = 24 * HOUR_MS;
    let mut place = Place::start(network()).await;
    let said = now();
    let newest = peer_record(&network(), MEMBER, said);
    let kept = vec![newest.clone()];
    let bad = [
        ("an older one", peer_record(&network(), MEMBER, UnixMillis(said.0 - 1))),
        ("of yesterday", peer_record(&network(), MEMBER, UnixMillis(said.0 - DAY_MS - 1_000))),
        // An hour: a slow machine must not make it true.
        ("of later", peer_record(&network(), MEMBER, said.saturating_add(HOUR_MS))),
        ("of another network", peer_record(&other_networks()[0], MEMBER, said.saturating_add(1))),
        ("of another peer", peer_record(&network(), 50, said)),
    ];
    let member = place.visitor(MEMBER).await;
    let other = place.visitor(OTHER_MEMBER).await;
    member.ask(hello(Some(newest.clone()))).await;
    assert_eq!(located(&other, MEMBER).await, kept);
    for (what, record) in &bad {
        member.replay(&hello(Some(record.clone()))).await;
        assert_eq!(located(&other, MEMBER).await, kept, "{what}");
    }
    let newer = peer_record(&network(), MEMBER, said.saturating_add(1));
    other.replay(&hello(Some(newer))).await;
    assert_eq!((located(&other, MEMBER).await, located(&other, 50).await), (kept, vec![]));

    drop((member, other));
    place.restart().await;
    let (member, other) = (place.visitor(MEMBER).await, place.visitor(OTHER_MEMBER).await);
    for (_, record) in &bad[1..] {
        member.repeat(&hello(Some(record.clone())), REPLAYS / 4).await;
    }
    other.replay(&hello(Some(newest))).await;
    assert_eq!((located(&other, MEMBER).await, located(&other, 50).await), (vec![], vec![]), "after a restart");
    say("signed: PeerRecord older, foreign or another's sent 8,000 times, 0 accepted");
    drop((member, other));
    place.stop().await;
}

/// Where a request carries a signed statement, and whose key it is believed by.
const SLOTS: [(&str, &str, u8); 5] = [
    ("the group of a RESERVE", "Group", OWNER),
    ("the voucher of a RESERVE", "Voucher", ISSUER),
    ("the group of a PUT_RECORD", "Group", OWNER),
    ("the record of a PUT_RECORD", "Record", OWNER),
    ("the voucher of a PUT_RECORD", "Voucher", ISSUER),
];

/// A request that is good but for what is in one slot.
fn with(slot: usize, statement: &Signed, epoch: BootEpoch) -> Request {
    let (group, record) = (group(1, 1 << 30), record(1, None, 0));
    match slot {
        0 => reserve(epoch, statement, 100, None),
        1 => reserve(epoch, &group, 100, Some(statement)),
        2 => put(epoch, statement, &record, None),
        3 => put(epoch, &group, statement, None),
        _ => put(epoch, &group, &record, Some(statement)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_kind_is_taken_in_the_place_of_another_by_a_node() {
    let mut place = Place::start(network()).await;
    let member = place.visitor(MEMBER).await;
    // The group is known, so that what is refused cannot hide behind a first statement of it.
    assert_eq!(member.repeat(&with(0, &group(1, 1 << 30), member.epoch), 1).await["accepted"], 1);
    let before = place.disk();
    let mut sent = 0;
    for (number, kind) in ALL.iter().enumerate() {
        let payload = kind.payloads().swap_remove(0);
        // A stranger each, within the budget of one.
        let stranger = place.visitor(100 + u8::try_from(number).unwrap()).await;
        for (slot, (what, right, signer)) in SLOTS.iter().enumerate() {
            if *right == kind.name {
                continue;
            }
            let statement = sealed(kind.context, &network(), &payload, &key(*signer));
            let visitor = if *right == "Voucher" { &stranger } else { &member };
            let tally = visitor.repeat(&with(slot, &statement, visitor.epoch), REPLAYS / 4).await;
            assert_eq!(tally, Tally::from([("forged".to_owned(), REPLAYS / 4)]), "{} as {what}", kind.name);
            sent += REPLAYS / 4;
        }
        if kind.name != "PeerRecord" {
            let own = sealed(kind.context, &network(), &payload, &key(MEMBER));
            member.repeat(&hello(Some(own)), REPLAYS / 4).await;
            assert!(located(&member, MEMBER).await.is_empty(), "{} as a peer record", kind.name);
            sent += REPLAYS / 4;
        }
    }
    assert_eq!(place.disk(), before);
    assert_eq!(newest(&member).await, None);
    say(&format!("signed: {} kinds in the place of others sent {sent} times, 0 accepted", ALL.len()));
    drop(member);
    place.stop().await;
}
