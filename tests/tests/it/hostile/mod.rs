//! Hostile load on real nodes: what strangers offer, and what hostile connections do, neither harms a node nor keeps
//! its members from it. The attackers live in the test's process and speak only to nodes that the test started.

mod connections;
mod kinds;
mod places;
mod strangers;
mod wire;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use shoal_client::net::LaneTransport;
use shoal_client::transfer::{Expected, check_receipt};
use shoal_client::transport::{Meter, RetrieveJob, ShardTransport, StoreJob};
use shoal_protocol::buffer::Buffer;
use shoal_protocol::control::{Hello, Request, Reserve, Response};
use shoal_protocol::group::Group;
use shoal_protocol::limits::{LEASE_MS_DEFAULT, TRANSFER_SILENCE_MS};
use shoal_protocol::receipt::ByteRange;
use shoal_protocol::{
    BootEpoch, ByteCount, GroupId, NetworkId, NodeId, Nonce, PublicKey, ReservationId, ShardId, Signed,
};
use shoal_tests::process::{NETWORK, Shoald, lanes_of};
use shoal_tests::sample::{bytes, clock};

use self::kinds::Target;

const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
const WAIT: Duration = Duration::from_secs(10);

fn network() -> NetworkId {
    NetworkId::derive(None, NETWORK).unwrap()
}

fn id_of(seed: [u8; 32]) -> NodeId {
    NodeId::from_bytes(SigningKey::from_bytes(&seed).verifying_key().to_bytes())
}

/// A node on TCP and QUIC that knows these members.
fn node(data: &Path, members: &[[u8; 32]], more: &[&str]) -> Shoald {
    let members: Vec<String> = members.iter().map(|seed| id_of(*seed).to_string()).collect();
    let mut words = vec!["--quota", "1GB", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
    words.extend(members.iter().flat_map(|member| ["--allow-peer", member]));
    words.extend(more);
    Shoald::start(SHOALD, data, &words).unwrap()
}

fn target(node: &Shoald) -> Target {
    let port = |part: &str| -> SocketAddr {
        let texts = node.addresses.iter().filter_map(|text| text.split_once(part));
        let port = texts.map(|(_, rest)| rest.split('/').next().unwrap().parse::<u16>().unwrap()).next().unwrap();
        ([127, 0, 0, 1], port).into()
    };
    let tag = network().tag();
    let name = |lane: &str| format!("/shoal/{tag}/{lane}/1");
    Target { tcp: port("/tcp/"), quic: port("/udp/"), control: name("ctl"), shard: name("shard") }
}

/// Who speaks to a node by the rules.
struct Peer {
    lanes: Arc<LaneTransport>,
    node: NodeId,
    boot_epoch: BootEpoch,
    group: Signed,
    group_id: GroupId,
}

impl Peer {
    /// Connects within so long, as often as it takes.
    async fn connect(seed: [u8; 32], node: &Shoald, within: Duration) -> Result<Self> {
        let begun = Instant::now();
        let lanes = lanes_of(seed).await?;
        loop {
            match Self::greet(&lanes, node).await {
                Ok((id, boot_epoch)) => {
                    let owner = SigningKey::from_bytes(&[77; 32]);
                    let public = PublicKey::from_bytes(owner.verifying_key().to_bytes());
                    let (group, group_id) = (group(&owner), GroupId::of_owner(&network(), &public));
                    return Ok(Self { lanes, node: id, boot_epoch, group, group_id });
                }
                Err(error) if begun.elapsed() > within => bail!("not let in after {:?}: {error:#}", begun.elapsed()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn greet(lanes: &LaneTransport, node: &Shoald) -> Result<(NodeId, BootEpoch)> {
        let id = lanes.connect(None, vec![node.address.clone()], WAIT).await?;
        let (versions, time) = (vec![1], clock());
        let hello = Hello { versions, boot_epoch: BootEpoch(1), free: ByteCount(0), domain: None, time, record: None };
        let Response::Hello(hello) = lanes.request(id, Request::Hello(hello), WAIT).await? else { bail!("no HELLO") };
        Ok((id, hello.boot_epoch))
    }

    fn reserve_request(&self, lengths: Vec<u32>, voucher: Option<Signed>) -> Request {
        Request::Reserve(Reserve { boot_epoch: self.boot_epoch, group: self.group.clone(), lengths, voucher })
    }

    async fn reserve(&self, lengths: Vec<u32>, voucher: Option<Signed>) -> Result<Vec<ReservationId>> {
        match self.lanes.request(self.node, self.reserve_request(lengths, voucher), WAIT).await? {
            Response::Reserved(reserved) => Ok(reserved.ids),
            other => bail!("{other:?}"),
        }
    }

    fn store_job(&self, reservation: ReservationId, payload: Bytes) -> StoreJob {
        let (shard, nonce) = (ShardId::of(&payload), Nonce::from_bytes([7; 16]));
        StoreJob {
            reservation,
            boot_epoch: self.boot_epoch,
            nonce,
            shard,
            bytes: payload,
            silence_ms: TRANSFER_SILENCE_MS,
        }
    }

    /// Stores sample `seed` and checks the receipt.
    async fn store(&self, seed: u64, length: u32) -> Result<ShardId> {
        let payload = Bytes::from(bytes(seed, length as usize));
        let id = *self.reserve(vec![length], None).await?.first().context("no place")?;
        let job = self.store_job(id, payload);
        let (shard, nonce) = (job.shard, job.nonce);
        let receipt = self.lanes.store(self.node, job).await?;
        let (node, group, boot_epoch) = (self.node, self.group_id, self.boot_epoch);
        check_receipt(&receipt, &Expected { node, shard, length, group, nonce, boot_epoch }, &network(), clock())
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        Ok(shard)
    }

    async fn retrieve(&self, shard: ShardId, length: u32, end: u32) -> Result<Buffer> {
        let (ranges, nonce) = (vec![ByteRange { start: 0, end }], Nonce::from_bytes([1; 16]));
        let job = RetrieveJob { shard, length, ranges, nonce, meter: Meter::default() };
        Ok(self.lanes.retrieve(self.node, job).await?)
    }
}

fn group(owner: &SigningKey) -> Signed {
    let public = PublicKey::from_bytes(owner.verifying_key().to_bytes());
    let issued = clock();
    let (ceiling, expires) = (ByteCount(1 << 40), issued.saturating_add(LEASE_MS_DEFAULT));
    Signed::seal(&Group { steward: public, payer: public, ceiling, issued, expires, serial: 1 }, owner, &network())
}
