//! AUDIT over the wire: what a node proves, to whom, and how it says that it cannot. It believes no answer it has not
//! computed itself.

use shoal_protocol::audit::{
    AuditParties, AuditRequest, AuditStatement, Challenge, answer_digest, leaf_ranges, positions, whole_answer,
};

use super::*;

const LENGTH: u32 = 300_000;

fn content() -> Vec<u8> {
    (0..LENGTH).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn request(shard: ShardId, challenge: Challenge) -> AuditRequest {
    AuditRequest { shard, length: LENGTH, challenge, nonce: Nonce::from_bytes([6; 16]) }
}

async fn audit(visitor: &Visitor, request: &AuditRequest) -> Result<Vec<u8>, Refusal> {
    let begun = now();
    match visitor.ask(Request::Audit(request.clone())).await {
        Response::Audit { statement, answer } => {
            let statement = statement.verify_by::<AuditStatement>(&visitor.node.into(), &network()).unwrap();
            assert_eq!((&statement.request, statement.auditor), (request, visitor_id()));
            assert_eq!((statement.digest, statement.boot_epoch), (answer_digest(&answer), visitor.epoch));
            assert!((begun..=now()).contains(&statement.time));
            Ok(answer)
        }
        Response::Refused { reason, .. } => Err(reason),
        other => panic!("{other:?}"),
    }
}

async fn store_content(visitor: &Visitor, lane: &mut ShardLane) -> (Vec<u8>, ShardId) {
    let bytes = content();
    let id = ShardId::of(&bytes);
    let reservation = visitor.reserve(LENGTH).await;
    let header = Header::Store { reservation, boot_epoch: visitor.epoch, nonce: Nonce::from_bytes([7; 16]) };
    assert!(matches!(store(lane, &header, &bytes, id).await, StoreReply::Kept(_)));
    (bytes, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_proves_leaves_and_wholes_and_refuses_by_name() {
    let place = tempfile::tempdir().unwrap();
    let node = node(place.path(), vec![visitor_id()], vec![]).await;
    let visitor = Visitor::connect(&node).await;
    let mut lane = visitor.lane().await;
    let (bytes, id) = store_content(&visitor, &mut lane).await;
    let slices = |seed: u8, count| request(id, Challenge::Slices { seed: [seed; 32], count });

    let id_of_node = node.id();
    let parties = AuditParties { network: &network(), auditor: &visitor_id(), node: &id_of_node };
    for (seed, count) in [(1, 1), (2, 32), (3, 32)] {
        let answer = audit(&visitor, &slices(seed, count)).await.unwrap();
        let ranges = leaf_ranges(&positions(parties, &[seed; 32], &id, LENGTH, count), LENGTH);
        // The very bytes a RETRIEVE of these ranges sends.
        let nonce = Nonce::from_bytes([3; 16]);
        send(&mut lane, &encode_message(&Header::Retrieve { shard: id, ranges, nonce })).await;
        let mut sent = Vec::new();
        loop {
            let mut word = [0; 4];
            lane.read_exact(&mut word).await.unwrap();
            let length = u32::from_be_bytes(word);
            if length == END {
                message::<RetrieveTrailer>(&mut lane).await;
                break;
            }
            let start = sent.len();
            sent.resize(start + length as usize, 0);
            lane.read_exact(&mut sent[start..]).await.unwrap();
        }
        send(&mut lane, &encode_abort(Refusal::Cancelled)).await;
        assert!(answer == sent, "seed {seed}");
        for leaf in positions(parties, &[seed; 32], &id, LENGTH, count) {
            let start = leaf as usize * 1024;
            let leaf_bytes = &bytes[start..(start + 1024).min(bytes.len())];
            assert!(answer.windows(leaf_bytes.len()).any(|window| window == leaf_bytes), "leaf {leaf}");
        }
    }
    let whole = Challenge::Whole { challenge: [9; 32] };
    assert_eq!(audit(&visitor, &request(id, whole.clone())).await.unwrap(), whole_answer(&[9; 32], &bytes));

    assert_eq!(audit(&visitor, &request(ShardId::of(b"?"), whole)).await, Err(Refusal::NotFound));
    for length in [LENGTH - 1, LENGTH + 1, 1, 4 << 20] {
        let wrong = AuditRequest { length, ..slices(1, 4) };
        assert_eq!(audit(&visitor, &wrong).await, Err(Refusal::Mismatch), "{length}");
    }
    for malformed in [slices(1, 0), slices(1, 33), AuditRequest { length: (4 << 20) + 1, ..slices(1, 1) }] {
        assert_eq!(audit(&visitor, &malformed).await, Err(Refusal::Malformed), "{malformed:?}");
    }
    assert_eq!(audit(&visitor, &slices(4, 3)).await.map(|_| ()), Ok(()), "and it goes on");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_may_audit_and_rot_is_named_then_lost() {
    let place = tempfile::tempdir().unwrap();
    let first = node(place.path(), vec![visitor_id()], vec![]).await;
    let visitor = Visitor::connect(&first).await;
    let mut lane = visitor.lane().await;
    let (bytes, id) = store_content(&visitor, &mut lane).await;
    first.shutdown().await;
    drop(visitor);

    let node = node(place.path(), vec![], vec![]).await;
    let visitor = Visitor::connect(&node).await;
    let whole = request(id, Challenge::Whole { challenge: [1; 32] });
    assert_eq!(audit(&visitor, &whole).await.unwrap(), whole_answer(&[1; 32], &bytes), "a stranger is answered");
    let segment = place.path().join("segments/0000000000000000.seg");
    let log = std::fs::read(&segment).unwrap();
    let at = log.windows(500).position(|window| *window == bytes[200_000..200_500]).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[log[at] ^ 1], at as u64).unwrap();
    assert_eq!(audit(&visitor, &whole).await, Err(Refusal::Damaged));
    let begun = Instant::now();
    loop {
        match audit(&visitor, &whole).await {
            Err(Refusal::NotFound) => break,
            other => assert!(matches!(other, Err(Refusal::Damaged)), "{other:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it never says that it lost it");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_syncs_slowly_still_proves() {
    let place = tempfile::tempdir().unwrap();
    let disk = stalled::StalledVfs::default();
    let node = Node::start_on(config(place.path(), vec![visitor_id()], vec![]), Arc::new(disk.clone())).await.unwrap();
    let visitor = Visitor::connect(&node).await;
    let mut lane = visitor.lane().await;
    let (_, id) = store_content(&visitor, &mut lane).await;
    disk.stall();
    let slices = request(id, Challenge::Slices { seed: [1; 32], count: 4 });
    let begun = Instant::now();
    assert!(audit(&visitor, &slices).await.is_ok());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    disk.go_on();
    node.shutdown().await;
}
