//! `kill -9` of a real node under load: no shard whose receipt the parent has seen may be missing afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use futures::stream::{FuturesUnordered, StreamExt};
use shoal_client::net::LaneTransport;
use shoal_client::transfer::{Expected, check_receipt};
use shoal_client::transport::{Meter, RetrieveJob, ShardTransport, StoreJob};
use shoal_protocol::control::{Hello, Request, Reserve, Response};
use shoal_protocol::group::Group;
use shoal_protocol::limits::{LEASE_MS_DEFAULT, TRANSFER_SILENCE_MS};
use shoal_protocol::receipt::ByteRange;
use shoal_protocol::{BootEpoch, ByteCount, GroupId, NetworkId, NodeId, Nonce, PublicKey, ShardId, Signed};
use shoal_tests::budget::{KILLS, say};
use shoal_tests::process::{NETWORK, Shoald, lane_client};
use shoal_tests::sample::{bytes, clock};

const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
const WAIT: Duration = Duration::from_secs(10);
/// Shards under way at once.
const LOAD: usize = 8;

struct Writer {
    transport: Arc<LaneTransport>,
    network: NetworkId,
    group: Signed,
    group_id: GroupId,
    node: NodeId,
    boot_epoch: BootEpoch,
}

fn content(n: u64) -> Vec<u8> {
    bytes(n, 1 + (n as usize * 7919) % 200_000)
}

impl Writer {
    async fn connect(node: &Shoald, transport: Arc<LaneTransport>) -> Self {
        let network = NetworkId::derive(None, NETWORK).unwrap();
        let owner = SigningKey::from_bytes(&[77; 32]);
        let public = PublicKey::from_bytes(owner.verifying_key().to_bytes());
        let issued = clock();
        let group = Group {
            steward: public,
            payer: public,
            ceiling: ByteCount(1 << 40),
            issued,
            expires: issued.saturating_add(LEASE_MS_DEFAULT),
            serial: 1,
        };
        let id = transport.connect(None, vec![node.address.clone()], WAIT).await.unwrap();
        let hello = Hello {
            versions: vec![1],
            boot_epoch: BootEpoch(1),
            free: ByteCount(0),
            domain: None,
            time: clock(),
            record: None,
        };
        let Response::Hello(hello) = transport.request(id, Request::Hello(hello), WAIT).await.unwrap() else {
            panic!("no HELLO")
        };
        Self {
            transport,
            network,
            group: Signed::seal(&group, &owner, &network),
            group_id: GroupId::of_owner(&network, &public),
            node: id,
            boot_epoch: hello.boot_epoch,
        }
    }

    /// Stores sample `n`; true once its receipt is checked.
    async fn store(&self, n: u64) -> Option<ShardId> {
        let payload = Bytes::from(content(n));
        let length = u32::try_from(payload.len()).unwrap();
        let reserve =
            Reserve { boot_epoch: self.boot_epoch, group: self.group.clone(), lengths: vec![length], voucher: None };
        let Response::Reserved(reserved) =
            self.transport.request(self.node, Request::Reserve(reserve), WAIT).await.ok()?
        else {
            return None;
        };
        let shard = ShardId::of(&payload);
        let nonce = Nonce::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes().first_chunk().unwrap());
        let job = StoreJob {
            reservation: *reserved.ids.first()?,
            boot_epoch: self.boot_epoch,
            nonce,
            shard,
            bytes: payload,
            silence_ms: TRANSFER_SILENCE_MS,
        };
        let receipt = self.transport.store(self.node, job).await.ok()?;
        let expected =
            Expected { node: self.node, shard, length, group: self.group_id, nonce, boot_epoch: self.boot_epoch };
        check_receipt(&receipt, &expected, &self.network, clock()).unwrap();
        Some(shard)
    }

    async fn verify(&self, n: u64, shard: ShardId) {
        let want = content(n);
        let length = u32::try_from(want.len()).unwrap();
        let job = RetrieveJob {
            shard,
            length,
            ranges: vec![ByteRange { start: 0, end: length }],
            nonce: Nonce::from_bytes([1; 16]),
            meter: Meter::default(),
        };
        let back = self.transport.retrieve(self.node, job).await;
        assert!(back.as_ref().is_ok_and(|back| **back == *want), "acknowledged shard {n} is lost: {:?}", back.err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_shard_is_lost() {
    let kills = KILLS.take();
    let room = tempfile::tempdir().unwrap();
    let data = room.path().join("node");
    let start = || Shoald::start(SHOALD, &data, &["--open", "--quota", "20GB"]).unwrap();
    let (_, transport) = lane_client(200).await.unwrap();
    let mut acknowledged: BTreeMap<u64, ShardId> = BTreeMap::new();
    let mut next = 0u64;
    let mut node = start();
    for kill in 0..kills {
        let writer = Writer::connect(&node, Arc::clone(&transport)).await;
        let recent: Vec<(u64, ShardId)> = acknowledged.iter().rev().take(60).map(|(n, shard)| (*n, *shard)).collect();
        for (n, shard) in recent {
            writer.verify(n, shard).await;
        }
        let mut flights = FuturesUnordered::new();
        let wait = Duration::from_millis(20 + blake3::hash(&kill.to_le_bytes()).as_bytes()[0] as u64);
        let deadline = tokio::time::sleep(wait);
        tokio::pin!(deadline);
        loop {
            while flights.len() < LOAD {
                let n = next;
                next += 1;
                let writer = &writer;
                flights.push(async move { (n, writer.store(n).await) });
            }
            tokio::select! {
                () = &mut deadline => break,
                Some((n, stored)) = flights.next() => {
                    if let Some(shard) = stored {
                        acknowledged.insert(n, shard);
                    }
                }
            }
        }
        node.kill().unwrap();
        // Receipts that had already arrived still count.
        while let Some((n, stored)) = flights.next().await {
            if let Some(shard) = stored {
                acknowledged.insert(n, shard);
            }
        }
        drop(flights);
        node = start();
    }
    let writer = Writer::connect(&node, transport).await;
    for (n, shard) in &acknowledged {
        writer.verify(*n, *shard).await;
    }
    say(&format!("{kills} kills, {} acknowledged shards, {next} offered, none lost", acknowledged.len()));
    assert!(acknowledged.len() > kills, "too little was acknowledged to mean anything");
}
