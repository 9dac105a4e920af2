//! Who may do what, over real sockets: vouchers and their end, members only, and what was refused in the status.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use shoal_protocol::group::Voucher;
use shoal_protocol::local::{self, ANSWER_MAX, Envelope, PREFIX, REQUEST_MAX, frame, length};

use super::*;

fn issuer() -> SigningKey {
    SigningKey::from_bytes(&[77; 32])
}

fn voucher(node: NodeId, bytes: u64, serial: u64) -> Signed {
    let expires = now().saturating_add(600_000);
    let voucher = Voucher { holder: visitor_id(), node, bytes: ByteCount(bytes), expires, serial };
    Signed::seal(&voucher, &issuer(), &network())
}

async fn reserve(visitor: &Visitor, length: u32, voucher: Option<&Signed>) -> Result<ReservationId, Refusal> {
    let group = group(1, 60_000);
    let reserve = Reserve { boot_epoch: visitor.epoch, group, lengths: vec![length], voucher: voucher.cloned() };
    match visitor.ask(Request::Reserve(reserve)).await {
        Response::Reserved(Reserved { ids, .. }) => Ok(ids[0]),
        Response::Refused { reason, .. } => Err(reason),
        other => panic!("{other:?}"),
    }
}

async fn refusals(data: &Path) -> BTreeMap<String, u64> {
    let socket = data.join("control.sock");
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(socket).unwrap();
        let question = serde_json::to_vec(&Envelope::new(local::Request::StoreStatus {})).unwrap();
        stream.write_all(&frame(&question, REQUEST_MAX).unwrap()).unwrap();
        let mut prefix = [0; PREFIX];
        stream.read_exact(&mut prefix).unwrap();
        let mut answer = vec![0; length(prefix, ANSWER_MAX).unwrap()];
        stream.read_exact(&mut answer).unwrap();
        answer
    });
    let answer: serde_json::Value = serde_json::from_slice(&asked.await.unwrap()).unwrap();
    serde_json::from_value(answer["ok"]["refused"].clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_lets_a_stranger_store_so_much_and_not_again_after_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let issuers = vec![NodeId::from_bytes(issuer().verifying_key().to_bytes())];
    let start = || Node::start(Config { voucher_issuers: issuers.clone(), ..config(place.path(), vec![], vec![]) });
    let node = start().await.unwrap();
    let visitor = Visitor::connect(&node).await;
    let good = voucher(node.id(), 10_000, 1);
    assert_eq!(reserve(&visitor, 6_000, None).await, Err(Refusal::Denied));
    let elsewhere = voucher(visitor_id(), 10_000, 1);
    assert_eq!(reserve(&visitor, 6_000, Some(&elsewhere)).await, Err(Refusal::Denied), "for another node");
    let own = Voucher { holder: visitor_id(), node: node.id(), bytes: ByteCount(9), expires: now(), serial: 1 };
    let own = Signed::seal(&own, &SigningKey::from_bytes(&SEED), &network());
    assert_eq!(reserve(&visitor, 9, Some(&own)).await, Err(Refusal::Denied), "of its own making");

    assert!(reserve(&visitor, 6_000, Some(&good)).await.is_ok());
    assert_eq!(reserve(&visitor, 6_000, Some(&good)).await, Err(Refusal::Denied));
    assert!(reserve(&visitor, 3_000, Some(&good)).await.is_ok());
    assert_eq!(refusals(place.path()).await, BTreeMap::from([("denied".to_owned(), 4)]));
    // Room that is not there costs nothing of a voucher.
    let large = voucher(node.id(), 1 << 40, 2);
    let group = group(1, 60_000);
    let many = Reserve { boot_epoch: visitor.epoch, group, lengths: vec![4 << 20; 20], voucher: Some(large.clone()) };
    assert_eq!(visitor.ask(Request::Reserve(many)).await, Response::refused(Refusal::NoSpace));
    drop(visitor);
    node.shutdown().await;

    let node = start().await.unwrap();
    let visitor = Visitor::connect(&node).await;
    assert_eq!(reserve(&visitor, 1_001, Some(&good)).await, Err(Refusal::Denied), "9,000 of 10,000 were spent before");
    assert!(reserve(&visitor, 1_000, Some(&good)).await.is_ok());
    assert!(reserve(&visitor, 1_000, Some(&large)).await.is_ok());
    drop(visitor);
    node.shutdown().await;
    let log = std::fs::read(place.path().join("vouchers.log")).unwrap();
    // One line of serial 1 from the first run, and one for each of this run.
    assert_eq!(log.len(), 8 + 3 * 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_only_greets_strangers_and_nothing_more() {
    let place = tempfile::tempdir().unwrap();
    let key = RecordKind::Owner.key(&network(), &owner_key(), 0);
    for (allow, expected) in [(vec![], Refusal::Denied), (vec![visitor_id()], Refusal::NotFound)] {
        let config = Config { members_only: true, ..config(place.path(), allow, vec![]) };
        let node = Node::start(config).await.unwrap();
        let visitor = Visitor::connect(&node).await;
        assert_eq!(visitor.ask(Request::GetRecord { key, back: 0 }).await, Response::refused(expected));
        assert!(matches!(visitor.ask(Request::Peers { after: None }).await, Response::Peers { .. }));
        let mut lane = visitor.lane().await;
        let shard = ShardId::from_bytes([1; 32]);
        let ranges = vec![ByteRange { start: 0, end: 10 }];
        let header = Header::Retrieve { shard, ranges, nonce: Nonce::from_bytes([1; 16]) };
        lane.write_all(&encode_message(&header)).await.unwrap();
        let mut words = [0; 6];
        lane.read_exact(&mut words).await.unwrap();
        assert_eq!(words.to_vec(), encode_abort(expected).to_vec(), "RETRIEVE ends the same way");
        assert_eq!(refusals(place.path()).await, BTreeMap::from([(expected.label().to_owned(), 2)]));
        drop((lane, visitor));
        node.shutdown().await;
    }
}

/// A group of its own for the test, with this ceiling.
fn small_group(ceiling: u64) -> Signed {
    let owner = SigningKey::from_bytes(&[10; 32]);
    let key = PublicKey::from_bytes(owner.verifying_key().to_bytes());
    let (issued, expires) = (UnixMillis(now().0 - 1000), now().saturating_add(60_000));
    let group = Group { steward: key, payer: key, ceiling: ByteCount(ceiling), issued, expires, serial: 1 };
    Signed::seal(&group, &owner, &network())
}

async fn reserve_of(visitor: &Visitor, group: &Signed, lengths: Vec<u32>) -> Result<Vec<ReservationId>, Refusal> {
    let reserve = Reserve { boot_epoch: visitor.epoch, group: group.clone(), lengths, voucher: None };
    match visitor.ask(Request::Reserve(reserve)).await {
        Response::Reserved(Reserved { ids, .. }) => Ok(ids),
        Response::Refused { reason, .. } => Err(reason),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_keeps_no_more_than_its_ceiling_promised_or_stored_also_after_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let node_of = || node(place.path(), vec![visitor_id()], vec![]);
    let group = small_group(10_000);
    let running = node_of().await;
    let visitor = Visitor::connect(&running).await;
    assert_eq!(reserve_of(&visitor, &group, vec![5_000, 5_001]).await, Err(Refusal::NoLease), "all or none");
    let id = reserve_of(&visitor, &group, vec![6_000]).await.unwrap()[0];
    assert_eq!(reserve_of(&visitor, &group, vec![4_001]).await, Err(Refusal::NoLease));
    assert!(reserve_of(&visitor, &super::group(1, 60_000), vec![9_000]).await.is_ok(), "groups are apart");

    let bytes = vec![5; 6_000];
    let header = Header::Store { reservation: id, boot_epoch: visitor.epoch, nonce: Nonce::from_bytes([1; 16]) };
    let mut lane = visitor.lane().await;
    assert!(matches!(store(&mut lane, &header, &bytes, ShardId::of(&bytes)).await, StoreReply::Kept(_)));
    assert_eq!(reserve_of(&visitor, &group, vec![4_001]).await, Err(Refusal::NoLease));
    let id = reserve_of(&visitor, &group, vec![4_000]).await.unwrap()[0];
    assert_eq!(reserve_of(&visitor, &group, vec![1]).await, Err(Refusal::NoLease));
    // A promise that comes to nothing is given back.
    let header = Header::Store { reservation: id, boot_epoch: visitor.epoch, nonce: Nonce::from_bytes([2; 16]) };
    let failed = store(&mut lane, &header, &bytes[..4_000], ShardId::of(&bytes)).await;
    assert_eq!(refusal(&failed, running.id()), Refusal::Mismatch);
    assert!(reserve_of(&visitor, &group, vec![4_000]).await.is_ok());
    drop((lane, visitor));
    running.shutdown().await;

    let running = node_of().await;
    let visitor = Visitor::connect(&running).await;
    assert_eq!(reserve_of(&visitor, &group, vec![4_001]).await, Err(Refusal::NoLease), "6,000 are stored");
    assert!(reserve_of(&visitor, &group, vec![4_000]).await.is_ok(), "what was only promised is forgotten");
    drop(visitor);
    running.shutdown().await;
}
