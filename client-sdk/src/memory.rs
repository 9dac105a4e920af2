//! A swarm in memory: nodes that keep, serve, refuse, lie or are gone, behind the same trait as real lanes. For tests;
//! it opens no socket and keeps nothing. Bytes go through the real encoder and the real verifier.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use shoal_protocol::audit::{
    AuditParties, AuditRequest, AuditStatement, Challenge, answer_digest, leaf_ranges, positions, whole_answer,
};
use shoal_protocol::buffer::Buffer;
use shoal_protocol::control::{Hello, PROTOCOL_VERSION, Request, Reserved, Response};
use shoal_protocol::group::Group;
use shoal_protocol::peer_record::PeerRecord;
use shoal_protocol::receipt::Receipt;
use shoal_protocol::record::{Record, link};
use shoal_protocol::{
    BootEpoch, ByteCount, GroupId, NetworkId, NodeId, RecordKey, Refusal, ReservationId, ShardId, Signed, UnixMillis,
};

use crate::pipeline::verify::{SliceVerifier, encode_ranges};
use crate::transfer::{TransferError, append_wanted};
use crate::transport::{RetrieveJob, ShardTransport, StoreJob};

/// The id of the one client: a swarm in memory has no connections that would tell.
pub const MEMORY_CLIENT: NodeId = NodeId::from_bytes([250; 32]);

/// What is wrong with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// It cannot be reached.
    Down,
    /// It refuses every store and retrieve.
    Refuses(Refusal),
    /// It flips a bit in what it serves.
    Corrupts,
    /// It ends its answers early.
    Truncates,
    /// It serves a shard that was not asked for, of the same length.
    ServesAnother,
    /// It closes the lane in the middle of its answers.
    Closes,
    /// It begins to answer and never goes on.
    Stalls,
    /// It takes this many more stores, then it is down.
    DiesAfter(u32),
    /// It acknowledges with a receipt about something else.
    ForgesReceipts,
    /// It has dropped every shard, and says so.
    Forgets,
    /// It signs its first answer to an audit again and again.
    ReplaysAudits,
}

#[derive(Debug)]
struct MemoryNode {
    signer: SigningKey,
    boot_epoch: BootEpoch,
    shards: BTreeMap<ShardId, Bytes>,
    records: BTreeMap<RecordKey, Signed>,
    reservations: BTreeMap<ReservationId, (u32, GroupId, UnixMillis)>,
    next: u64,
    /// The first answer to an audit, for [`Fault::ReplaysAudits`].
    first_audit: Option<(AuditStatement, Vec<u8>)>,
    fault: Fault,
}

/// Nodes by id, and what moved.
#[derive(Debug)]
pub struct MemorySwarm {
    network: NetworkId,
    clock: fn() -> UnixMillis,
    nodes: Mutex<BTreeMap<NodeId, MemoryNode>>,
    moved: Mutex<Moved>,
}

/// What moved over the transport.
#[derive(Debug, Default, Clone)]
pub struct Moved {
    /// Every store that was offered, in order, whether acknowledged or not.
    pub offered: Vec<(NodeId, ShardId)>,
    /// Encoded bytes served.
    pub served: u64,
}

impl MemorySwarm {
    /// `count` healthy nodes.
    #[must_use]
    pub fn new(network: NetworkId, count: u8, clock: fn() -> UnixMillis) -> Self {
        let node = |n: u8| {
            let signer = SigningKey::from_bytes(&[n.saturating_add(1); 32]);
            let node = MemoryNode {
                boot_epoch: BootEpoch(u64::from(n) + 100),
                shards: BTreeMap::new(),
                records: BTreeMap::new(),
                reservations: BTreeMap::new(),
                next: 0,
                first_audit: None,
                fault: Fault::None,
                signer,
            };
            (node_of(&node.signer), node)
        };
        Self { network, clock, nodes: Mutex::new((0..count).map(node).collect()), moved: Mutex::default() }
    }

    /// All node ids, in order.
    #[must_use]
    pub fn ids(&self) -> Vec<NodeId> {
        self.lock().keys().copied().collect()
    }

    /// Sets what is wrong with a node.
    pub fn set(&self, node: NodeId, fault: Fault) {
        if let Some(node) = self.lock().get_mut(&node) {
            node.fault = fault;
        }
    }

    /// What moved so far.
    #[must_use]
    pub fn moved(&self) -> Moved {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes of shards kept, over all nodes.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.lock().values().flat_map(|node| node.shards.values()).map(|bytes| bytes.len() as u64).sum()
    }

    /// Changes a kept record of every node by `change`, which gets its signed bytes.
    pub fn alter_records(&self, change: impl Fn(&[u8]) -> Option<Signed>) {
        for node in self.lock().values_mut() {
            for record in node.records.values_mut() {
                if let Some(changed) = change(&record.to_bytes()) {
                    *record = changed;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, MemoryNode>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        node: NodeId,
        act: impl FnOnce(&mut MemoryNode) -> Result<T, TransferError>,
    ) -> Result<T, TransferError> {
        let mut nodes = self.lock();
        let found = nodes.get_mut(&node).filter(|node| !matches!(node.fault, Fault::Down | Fault::DiesAfter(0)));
        act(found.ok_or_else(|| TransferError::Unreachable("down".into()))?)
    }

    fn peer_records(&self) -> Vec<Signed> {
        let record = |node: &MemoryNode| {
            let record = PeerRecord {
                addresses: vec![],
                boot_epoch: node.boot_epoch,
                free: ByteCount(1 << 40),
                domain: None,
                stores: true,
                time: (self.clock)(),
            };
            Signed::seal(&record, &node.signer, &self.network)
        };
        self.lock().values().map(record).collect()
    }
}

/// Whether a record is the next version of the one held.
fn succeeds(record: &Record, held: &Signed, network: &NetworkId) -> bool {
    let version = held.verify::<Record>(network).map_or(0, |held| held.version);
    record.version > version && record.previous == Some(link(&held.to_bytes()))
}

impl MemoryNode {
    fn answer(
        &mut self,
        request: &Request,
        swarm: &MemorySwarm,
        records: Vec<Signed>,
    ) -> Result<Response, TransferError> {
        let auditor = MEMORY_CLIENT;
        let own = node_of(&self.signer);
        Ok(match request {
            // A client's swarm has no private network.
            Request::Mesh(_) => return Err(TransferError::refused(Refusal::Unsupported)),
            Request::Hello(_) => Response::Hello(Hello {
                versions: vec![PROTOCOL_VERSION],
                boot_epoch: self.boot_epoch,
                free: ByteCount(1 << 40),
                domain: None,
                time: (swarm.clock)(),
                record: records.into_iter().find(|record| NodeId::from(*record.claimed_signer()) == own),
            }),
            Request::Peers { after } => {
                let rest = records.into_iter().filter(|record| Some(NodeId::from(*record.claimed_signer())) > *after);
                let rest: Vec<Signed> = rest.collect();
                let more = rest.len() > 32;
                Response::Peers { records: rest.into_iter().take(32).collect(), more }
            }
            Request::Reserve(reserve) => {
                if let Fault::Refuses(reason) = self.fault {
                    return Err(TransferError::refused(reason));
                }
                let group = reserve.group.verify::<Group>(&swarm.network);
                let group = group.map_err(|_| TransferError::refused(Refusal::Forged))?;
                let id = group.id(&swarm.network);
                let mut ids = Vec::new();
                for length in &reserve.lengths {
                    self.next += 1;
                    self.reservations.insert(ReservationId(self.next), (*length, id, group.expires));
                    ids.push(ReservationId(self.next));
                }
                Response::Reserved(Reserved { ids, valid_ms: 60_000, group: id })
            }
            Request::Stat { shards } => {
                let length = |shard| self.shards.get(shard).and_then(|bytes| u32::try_from(bytes.len()).ok());
                let held = |shard| shoal_protocol::control::Held { length: length(shard) };
                Response::Stat { held: shards.iter().map(held).collect() }
            }
            Request::PutRecord(put) => {
                let record = put.record.verify::<Record>(&swarm.network);
                let record = record.map_err(|_| TransferError::refused(Refusal::Forged))?;
                let group = put.group.verify::<Group>(&swarm.network);
                let group = group.map_err(|_| TransferError::refused(Refusal::Forged))?;
                let key = record.kind.key(&swarm.network, record.signer(), record.index);
                let bytes = put.record.to_bytes();
                if let Some(held) = self.records.get(&key)
                    && held.to_bytes() != bytes
                    && !succeeds(&record, held, &swarm.network)
                {
                    return Ok(Response::Conflict { held: held.clone() });
                }
                self.records.insert(key, put.record.clone());
                let shard = ShardId::of(&bytes);
                let receipt = self.receipt(
                    swarm,
                    shard,
                    bytes.len(),
                    group.id(&swarm.network),
                    group.expires,
                    *put.nonce.as_bytes(),
                );
                Response::RecordKept { receipt }
            }
            Request::GetRecord { key, .. } => match self.records.get(key) {
                Some(record) => Response::Record { record: record.clone(), more: false },
                None => return Err(TransferError::refused(Refusal::NotFound)),
            },
            Request::Audit(request) => self.audit(request, auditor, swarm)?,
            Request::Locate { .. } | Request::Losses { .. } => {
                return Err(TransferError::refused(Refusal::Unsupported));
            }
        })
    }

    fn audit(
        &mut self,
        request: &AuditRequest,
        auditor: NodeId,
        swarm: &MemorySwarm,
    ) -> Result<Response, TransferError> {
        match self.fault {
            Fault::Refuses(reason) => return Err(TransferError::refused(reason)),
            Fault::Forgets => return Err(TransferError::refused(Refusal::NotFound)),
            _ => {}
        }
        let shard = self.shards.get(&request.shard).ok_or(TransferError::refused(Refusal::NotFound))?;
        let malformed = |_| TransferError::refused(Refusal::Malformed);
        let mut answer = match &request.challenge {
            Challenge::Whole { challenge } => whole_answer(challenge, shard).to_vec(),
            Challenge::Slices { seed, count } => {
                let parties = AuditParties { network: &swarm.network, auditor: &auditor, node: &node_of(&self.signer) };
                let leaves = positions(parties, seed, &request.shard, request.length, *count);
                let ranges = leaf_ranges(&leaves, request.length);
                let ranges: Vec<Range<u64>> =
                    ranges.iter().map(|range| u64::from(range.start)..u64::from(range.end)).collect();
                encode_ranges(shard, &ranges).map_err(malformed)?
            }
        };
        match self.fault {
            // The first: of a whole answer no more than its token is compared.
            Fault::Corrupts => answer.first_mut().into_iter().for_each(|byte| *byte ^= 1),
            Fault::Truncates => answer.truncate(answer.len() / 2),
            _ => {}
        }
        let mut statement = AuditStatement {
            request: request.clone(),
            digest: answer_digest(&answer),
            auditor,
            boot_epoch: self.boot_epoch,
            time: (swarm.clock)(),
        };
        if self.fault == Fault::ReplaysAudits {
            let first = self.first_audit.get_or_insert((statement, answer)).clone();
            // As clever as it gets: the statement is about the new request, the answer is the old one.
            statement = AuditStatement { request: request.clone(), ..first.0 };
            answer = first.1;
        }
        Ok(Response::Audit { statement: Signed::seal(&statement, &self.signer, &swarm.network), answer })
    }

    fn receipt(
        &self,
        swarm: &MemorySwarm,
        shard: ShardId,
        length: usize,
        group: GroupId,
        expires: UnixMillis,
        nonce: [u8; 16],
    ) -> Signed {
        let receipt = Receipt {
            shard,
            length: u32::try_from(length).unwrap_or(u32::MAX),
            group,
            expires,
            boot_epoch: self.boot_epoch,
            nonce: shoal_protocol::Nonce::from_bytes(nonce),
            time: (swarm.clock)(),
        };
        Signed::seal(&receipt, &self.signer, &swarm.network)
    }

    fn store(&mut self, swarm: &MemorySwarm, job: &StoreJob) -> Result<Signed, TransferError> {
        let (length, group, expires) =
            self.reservations.remove(&job.reservation).ok_or(TransferError::refused(Refusal::NoReservation))?;
        if job.bytes.len() > length as usize || ShardId::of(&job.bytes) != job.shard {
            return Err(TransferError::refused(Refusal::Mismatch));
        }
        if let Fault::DiesAfter(left) = &mut self.fault {
            *left -= 1;
        }
        self.shards.insert(job.shard, job.bytes.clone());
        let shard = if self.fault == Fault::ForgesReceipts { ShardId::of(b"another") } else { job.shard };
        Ok(self.receipt(swarm, shard, job.bytes.len(), group, expires, *job.nonce.as_bytes()))
    }
}

fn node_of(signer: &SigningKey) -> NodeId {
    NodeId::from_bytes(signer.verifying_key().to_bytes())
}

impl ShardTransport for MemorySwarm {
    async fn connect(
        &self,
        node: Option<NodeId>,
        addresses: Vec<String>,
        _: Duration,
    ) -> Result<NodeId, TransferError> {
        let named = addresses.first().and_then(|address| address.strip_prefix("/memory/")?.parse::<NodeId>().ok());
        let node = node.or(named).ok_or_else(|| TransferError::Unreachable("no such address".into()))?;
        self.with(node, |_| Ok(node))
    }

    async fn request(&self, node: NodeId, request: Request, _: Duration) -> Result<Response, TransferError> {
        let records = self.peer_records();
        let request =
            Request::from_bytes(&request.to_bytes()).map_err(|error| TransferError::Protocol(error.to_string()))?;
        self.with(node, |node| node.answer(&request, self, records))
    }

    async fn store(&self, node: NodeId, job: StoreJob) -> Result<Signed, TransferError> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).offered.push((node, job.shard));
        self.with(node, |node| node.store(self, &job))
    }

    async fn retrieve(&self, node: NodeId, job: RetrieveJob) -> Result<Buffer, TransferError> {
        let ranges: Vec<Range<u64>> =
            job.ranges.iter().map(|range| u64::from(range.start)..u64::from(range.end)).collect();
        let (mut encoded, fault) = self.with(node, |node| {
            if let Fault::Refuses(reason) = node.fault {
                return Err(TransferError::refused(reason));
            }
            let mut shard = node.shards.get(&job.shard).cloned().ok_or(TransferError::refused(Refusal::NotFound))?;
            if node.fault == Fault::ServesAnother {
                shard = shard.iter().rev().copied().collect();
            }
            let mut encoded = encode_ranges(&shard, &ranges).map_err(|_| TransferError::refused(Refusal::Malformed))?;
            match node.fault {
                Fault::Corrupts => {
                    let middle = encoded.len() / 2;
                    encoded.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
                }
                Fault::Truncates => encoded.truncate(encoded.len() / 2),
                Fault::Closes => return Err(TransferError::Lost("closed within an answer".into())),
                _ => {}
            }
            Ok((encoded, node.fault))
        })?;
        job.meter.add(encoded.len() as u64 / 2);
        if fault == Fault::Stalls {
            return std::future::pending().await;
        }
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).served += encoded.len() as u64;
        let lied = |error: &dyn std::error::Error| TransferError::Lied(error.to_string());
        let mut verifier = SliceVerifier::new(job.shard, u64::from(job.length), &ranges)
            .map_err(|error| TransferError::Protocol(error.to_string()))?;
        let mut input = Bytes::from(std::mem::take(&mut encoded));
        let mut out = Vec::new();
        while let Some(piece) = verifier.push(&mut input).map_err(|error| lied(&error))? {
            append_wanted(&piece, &ranges, &mut out);
        }
        verifier.finish().map_err(|error| lied(&error))?;
        Ok(out.into())
    }
}
