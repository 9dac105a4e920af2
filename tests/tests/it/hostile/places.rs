//! Strangers take every place they can get and keep it: members still find theirs.

use std::time::{Duration, Instant};

use shoal_protocol::lane::{Header, encode_message};
use shoal_protocol::receipt::ByteRange;
use shoal_protocol::{Nonce, ShardId};
use shoal_swarm::ShardLane;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Peer, WAIT, node};

const MEMBER: [u8; 32] = [1; 32];
/// A member that comes when all is taken.
const LATE: [u8; 32] = [2; 32];
/// More than the windows of a stream and the frames before it hold.
const LENGTH: u32 = 4 << 20;
/// Strangers with four lanes each: more than all lanes of a node, or all its readers.
const SITTERS: u8 = 80;
const READERS: u8 = 12;

/// Four lanes that said this, and do not read.
async fn lanes(stranger: &Peer, said: &[u8]) -> Vec<ShardLane> {
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut lane = stranger.lanes.swarm().lane(stranger.node, WAIT).await.unwrap();
        lane.write_all(said).await.unwrap();
        lane.flush().await.unwrap();
        held.push(lane);
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_that_rest_and_readers_that_do_not_read_keep_no_member_out() {
    let room = tempfile::tempdir().unwrap();
    let node = node(room.path(), &[MEMBER, LATE], &[]);
    let member = Peer::connect(MEMBER, &node, WAIT).await.unwrap();
    let shard = member.store(1, LENGTH).await.unwrap();

    // All of them ask for the whole shard and read none of it.
    let header = Header::Retrieve {
        shard,
        ranges: vec![ByteRange { start: 0, end: LENGTH }],
        nonce: Nonce::from_bytes([9; 16]),
    };
    let (mut strangers, mut held) = (Vec::new(), Vec::new());
    for number in 0..READERS {
        let stranger = Peer::connect([100 + number; 32], &node, WAIT).await.unwrap();
        held.extend(lanes(&stranger, &encode_message(&header)).await);
        strangers.push(stranger);
    }
    // The first are served: those whose first frame came.
    let first = tokio::time::timeout(WAIT, held[0].read_u32()).await.unwrap().unwrap();
    assert!(first > 0 && first <= 65_536, "{first:#x}");
    let begun = Instant::now();
    member.store(2, 100_000).await.unwrap();
    assert_eq!(member.retrieve(shard, LENGTH, 100_000).await.unwrap().len(), 100_000);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    drop((strangers, held));

    let (mut strangers, mut held) = (Vec::new(), Vec::new());
    for number in 0..SITTERS {
        let stranger = Peer::connect([100 + number; 32], &node, WAIT).await.unwrap();
        held.extend(lanes(&stranger, &[]).await);
        strangers.push(stranger);
    }
    let late = Peer::connect(LATE, &node, WAIT).await.unwrap();
    let another: ShardId = late.store(3, 100_000).await.unwrap();
    assert_eq!(late.retrieve(another, 100_000, 100_000).await.unwrap().len(), 100_000);
}
