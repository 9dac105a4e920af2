//! What all services of one node share: the store, the key, the engine's tables behind one short lock, and the pools
//! that bound memory and threads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use shoal_engine::admission::{Admission, Denial, Operation};
use shoal_engine::ceilings::Claims;
use shoal_engine::counters::Counters;
use shoal_engine::directory::Directory;
use shoal_engine::leases::Lease;
use shoal_engine::pressure::retry_after_ms;
use shoal_engine::reservations::Reservations;
use shoal_engine::vouchers::{self, Grant, Ledger};
use shoal_protocol::buffer::Pool;
use shoal_protocol::limits::{ROWS_MAX, UNIT};
use shoal_protocol::peer_record::PeerRecord;
use shoal_protocol::signed::Statement;
use shoal_protocol::{
    BootEpoch, ByteCount, GroupId, NetworkId, NodeId, RecordKey, Refusal, ReservationId, Signed, UnixMillis,
};
use shoal_swarm::limits::INBOUND_LANES_MAX;
use tokio::sync::{Semaphore, watch};

use crate::chunks::{SpaceReservation, Store};
use crate::clock;
use crate::vouchers::VoucherLog;
use crate::vpn::control::VpnHandle;
use crate::vpn::running::VpnPlace;

/// Shards received at a time: 32 buffers of at most 4 MiB.
const BUFFERS: usize = 32;
/// Of those, kept for the next shards: 12 MiB of full ones.
const SHARDS_IDLE_MAX: usize = 6;
/// Requests that may wait for the disk at a time: fewer than are answered at a time, so that a slow disk never keeps
/// the node from answering those that need none.
const REQUESTS: usize = 128;
/// Shards and records read at a time.
const READERS: usize = 32;
/// Of those, RETRIEVEs of strangers: one that does not read what it asked for keeps its reader until it is given up, and
/// must not keep members from theirs.
const STRANGER_READERS: usize = READERS / 4 * 3;
/// Keys over which writes of records and groups are spread: two writes of one key never run at a time.
const KEY_LOCKS: usize = 64;

/// Who asks, and the IP address it is seen at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) address: Option<IpAddr>,
}

/// A promised place, taken up by a STORE.
#[derive(Debug)]
pub(super) struct Place {
    /// Room in the store.
    pub(super) space: SpaceReservation,
    /// Most bytes.
    pub(super) length: u32,
    /// For which group.
    pub(super) group: GroupId,
    /// Until when the group wants it.
    pub(super) expires: UnixMillis,
    /// Counts against the group's ceiling until it is dropped.
    pub(super) claim: Claim,
}

/// Bytes of a group's ceiling that are promised. Given back when dropped: by then they are stored, or given up.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Mutex<Claims>>,
    group: GroupId,
    bytes: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).release(&self.group, self.bytes);
    }
}

/// The engine's tables.
pub(crate) struct Engine {
    pub(crate) admission: Admission,
    pub(crate) reservations: Reservations<PlaceHeld>,
    pub(crate) directory: Directory,
    pub(crate) ledger: Ledger,
    pub(crate) refused: Counters,
}

/// What a reservation keeps.
#[derive(Debug)]
pub(crate) struct PlaceHeld(Place);

/// Shared by all services.
pub(crate) struct Context {
    store: Store,
    network: NetworkId,
    key: SigningKey,
    node: NodeId,
    boot_epoch: BootEpoch,
    domain: Option<String>,
    engine: Mutex<Engine>,
    /// Beside the engine, because promises are dropped while that is locked.
    claims: Arc<Mutex<Claims>>,
    own_record: Mutex<Signed>,
    addresses: Mutex<Vec<String>>,
    buffers: Arc<Semaphore>,
    /// What shards are received into.
    shards: Pool,
    requests: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    stranger_readers: Arc<Semaphore>,
    /// One permit a transfer under way; as many as there may be lanes, so taking one never waits.
    transfers: Semaphore,
    stopping: watch::Sender<bool>,
    record_locks: KeyLocks,
    group_locks: KeyLocks,
    /// Where what is spent of vouchers is written down; none where nobody's vouchers count.
    voucher_log: Option<Arc<Mutex<VoucherLog>>>,
    /// The private network, once it runs.
    vpn: VpnPlace,
}

type KeyLocks = Vec<tokio::sync::Mutex<()>>;

fn key_locks() -> KeyLocks {
    (0..KEY_LOCKS).map(|_| tokio::sync::Mutex::new(())).collect()
}

async fn lock_key<'a>(locks: &'a KeyLocks, key: &[u8; 32]) -> Option<tokio::sync::MutexGuard<'a, ()>> {
    match locks.get(usize::from(key[0]) % KEY_LOCKS) {
        Some(lock) => Some(lock.lock().await),
        None => None,
    }
}

/// What a context is made of.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) network: NetworkId,
    pub(crate) key: SigningKey,
    pub(crate) boot_epoch: BootEpoch,
    pub(crate) domain: Option<String>,
    pub(crate) engine: Engine,
    pub(crate) voucher_log: Option<VoucherLog>,
    /// Where the node listens, without its id.
    pub(crate) addresses: Vec<String>,
    pub(crate) vpn: VpnPlace,
}

impl Context {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { store, network, key, boot_epoch, domain, engine, voucher_log, addresses, vpn } = parts;
        let record = own_record(&store, boot_epoch, domain.clone(), addresses.clone());
        let own_record = Signed::seal(&record, &key, &network);
        Self {
            store,
            network,
            node: NodeId::from_bytes(key.verifying_key().to_bytes()),
            key,
            boot_epoch,
            domain,
            engine: Mutex::new(engine),
            claims: Arc::default(),
            own_record: Mutex::new(own_record),
            addresses: Mutex::new(addresses),
            buffers: Arc::new(Semaphore::new(BUFFERS)),
            shards: Pool::new(ROWS_MAX * UNIT, SHARDS_IDLE_MAX),
            requests: Arc::new(Semaphore::new(REQUESTS)),
            readers: Arc::new(Semaphore::new(READERS)),
            stranger_readers: Arc::new(Semaphore::new(STRANGER_READERS)),
            transfers: Semaphore::new(INBOUND_LANES_MAX),
            stopping: watch::Sender::new(false),
            record_locks: key_locks(),
            group_locks: key_locks(),
            voucher_log: voucher_log.map(|log| Arc::new(Mutex::new(log))),
            vpn,
        }
    }

    /// The private network, if it runs.
    pub(crate) fn vpn(&self) -> Option<VpnHandle> {
        self.vpn.get()
    }

    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) const fn network(&self) -> &NetworkId {
        &self.network
    }

    pub(crate) const fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) const fn boot_epoch(&self) -> BootEpoch {
        self.boot_epoch
    }

    pub(crate) fn domain(&self) -> Option<String> {
        self.domain.clone()
    }

    /// Memory for shards that are received; a permit of [`Self::buffers`] is needed for each.
    pub(crate) const fn shards(&self) -> &Pool {
        &self.shards
    }

    pub(super) fn buffers(&self) -> Arc<Semaphore> {
        Arc::clone(&self.buffers)
    }

    /// Places for requests that wait for the disk.
    pub(super) fn requests(&self) -> Arc<Semaphore> {
        Arc::clone(&self.requests)
    }

    /// When somebody who is told BUSY may come again, milliseconds.
    pub(super) fn retry_after_ms(&self) -> u32 {
        let free = self.buffers.available_permits().min(self.requests.available_permits());
        retry_after_ms(BUFFERS.saturating_sub(free), BUFFERS)
    }

    pub(super) fn readers(&self) -> Arc<Semaphore> {
        Arc::clone(&self.readers)
    }

    /// What a RETRIEVE of this peer needs before a reader; nothing for members.
    pub(super) fn stranger_readers(&self, peer: &NodeId) -> Option<Arc<Semaphore>> {
        let is_member = self.engine().admission.is_member(peer);
        (!is_member).then(|| Arc::clone(&self.stranger_readers))
    }

    pub(super) const fn transfers(&self) -> &Semaphore {
        &self.transfers
    }

    /// Until it is dropped, nobody else decides about the record of this key.
    pub(super) async fn record_lock(&self, key: &RecordKey) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        lock_key(&self.record_locks, key.as_bytes()).await
    }

    /// Until it is dropped, nobody else decides about this group. Never taken while a record is locked.
    pub(super) async fn group_lock(&self, group: &GroupId) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        lock_key(&self.group_locks, group.as_bytes()).await
    }

    /// From now on nothing new is begun and transfers end; waits for those under way, but not long.
    pub(crate) async fn stop(&self, longest: Duration) {
        self.stopping.send_replace(true);
        let all = u32::try_from(INBOUND_LANES_MAX).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(longest, self.transfers.acquire_many(all)).await;
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Resolves when the node stops.
    pub(super) async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender is in `self`, so this cannot fail.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// The engine, for as long as a decision takes; nothing waits while holding it.
    pub(crate) fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sign<T: Statement>(&self, statement: &T) -> Signed {
        Signed::seal(statement, &self.key, &self.network)
    }

    /// Bytes this node can still take.
    pub(crate) fn free(&self) -> ByteCount {
        ByteCount(self.store.usage().free)
    }

    /// The node's own signed record.
    pub(crate) fn own_record(&self) -> Signed {
        self.own_record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on the node says it listens there; addresses without its id, the best first.
    pub(crate) fn set_addresses(&self, addresses: Vec<String>) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Signs the own record anew, with what is true now.
    pub(crate) fn renew_own_record(&self) -> Signed {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let signed = self.sign(&own_record(&self.store, self.boot_epoch, self.domain.clone(), addresses));
        *self.own_record.lock().unwrap_or_else(PoisonError::into_inner) = signed.clone();
        signed
    }

    pub(super) fn admit(&self, peer: Peer, operation: Operation) -> Result<(), Denial> {
        self.engine().admission.admit(peer.node, peer.address, operation, clock::now())
    }

    pub(super) fn admit_retrieve(&self, peer: Peer, bytes: u64) -> Result<(), Refusal> {
        self.admit(peer, Operation::Read { bytes }).map_err(|denial| denial.reason)
    }

    /// Counts a refusal that was answered.
    pub(super) fn refused(&self, reason: Refusal) {
        self.engine().refused.refused(reason);
    }

    /// Refusals since the start by their word, those that never happened left out.
    pub(crate) fn refusals(&self) -> BTreeMap<String, u64> {
        let engine = self.engine();
        let seen = engine.refused.by_reason().filter(|(_, count)| *count > 0);
        seen.map(|(word, count)| (word.to_owned(), count)).collect()
    }

    /// What a peer that is no member may still store by its voucher; none for a member, who needs no voucher.
    pub(super) fn judge_voucher(
        &self,
        peer: NodeId,
        voucher: Option<&Signed>,
        bytes: u64,
    ) -> Result<Option<Grant>, Refusal> {
        let issuers = {
            let engine = self.engine();
            if engine.admission.is_member(&peer) {
                return Ok(None);
            }
            engine.admission.issuers().clone()
        };
        let signed = voucher.ok_or(Refusal::Denied)?;
        let grant = vouchers::judge(signed, &self.network, &issuers, peer, self.node, clock::wall())?;
        self.engine().ledger.check(&grant, bytes)?;
        Ok(Some(grant))
    }

    /// Spends of a voucher; when this returns it is on stable media. Nothing may be promised for it before.
    pub(super) async fn charge(self: &Arc<Self>, grant: Option<Grant>, bytes: u64) -> Result<(), Refusal> {
        let Some(grant) = grant else { return Ok(()) };
        let log = Arc::clone(self.voucher_log.as_ref().ok_or(Refusal::Denied)?);
        let context = Arc::clone(self);
        // On a task of its own: what was charged is written down also if nobody waits for it any more.
        let written = tokio::task::spawn_blocking(move || {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            let wall = clock::wall();
            let spent = context.engine().ledger.charge(&grant, bytes, wall)?;
            let grown = log.is_long().then(|| context.engine().ledger.clone());
            let written = grown.map_or(Ok(()), |ledger| log.rewrite(&ledger, wall)).and_then(|()| log.append(&spent));
            written.map_err(|error| {
                tracing::error!(%error, "what is spent of vouchers cannot be written down: none counts until a restart");
                Refusal::ReadOnly
            })
        });
        written.await.map_err(|_| Refusal::Stopping)?
    }

    /// Takes promises back that were never told.
    pub(super) fn release(&self, peer: NodeId, ids: &[ReservationId]) {
        for id in ids {
            drop(self.take_place(peer, *id));
        }
    }

    /// Promises bytes of a group, within its ceiling.
    pub(super) fn claim(&self, lease: &Lease, bytes: u64) -> Result<Claim, Refusal> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        // Read while no claim can be given back: a promise that is stored now counts twice, never not at all.
        let stored = ByteCount(self.store.group_bytes(&lease.id));
        claims.claim(lease.id, bytes, stored, lease.group.ceiling)?;
        Ok(Claim { claims: Arc::clone(&self.claims), group: lease.id, bytes })
    }

    /// Promises places of these lengths, all or none.
    pub(super) fn promise(&self, peer: NodeId, lengths: &[u32], lease: &Lease) -> Result<Vec<ReservationId>, Refusal> {
        let (group, expires) = (lease.id, lease.group.expires);
        let uptime_ms = clock::now().uptime_ms;
        self.engine().reservations.room(&peer, lengths.len(), uptime_ms)?;
        let claims: Result<Vec<Claim>, _> =
            lengths.iter().map(|length| self.claim(lease, u64::from(*length))).collect();
        let claims = claims?;
        let spaces: Result<Vec<SpaceReservation>, _> =
            lengths.iter().map(|length| self.store.reserve(u64::from(*length))).collect();
        let spaces = spaces.map_err(|error| match error {
            crate::chunks::ReserveError::ReadOnly | crate::chunks::ReserveError::Io(_) => Refusal::ReadOnly,
            crate::chunks::ReserveError::Length(_) => Refusal::TooLarge,
            crate::chunks::ReserveError::Quota { .. } | crate::chunks::ReserveError::Disk { .. } => Refusal::NoSpace,
        })?;
        let draw = |_| clock::random().map(|bytes| ReservationId(u64::from_le_bytes(bytes))).map_err(|_| Refusal::Busy);
        let ids: Vec<ReservationId> = lengths.iter().map(draw).collect::<Result<_, _>>()?;
        let mut engine = self.engine();
        engine.reservations.room(&peer, lengths.len(), uptime_ms)?;
        for (((space, claim), length), id) in spaces.into_iter().zip(claims).zip(lengths).zip(&ids) {
            let place = PlaceHeld(Place { space, length: *length, group, expires, claim });
            engine.reservations.add(*id, peer, place, uptime_ms)?;
        }
        Ok(ids)
    }

    /// Whether a STORE may begin: a promise of this run to this peer.
    pub(super) fn check_place(&self, peer: NodeId, id: ReservationId, epoch: BootEpoch) -> Result<(), Refusal> {
        self.check_epoch(epoch)?;
        if self.is_stopping() {
            return Err(Refusal::Stopping);
        }
        self.engine().reservations.check(id, &peer, clock::now().uptime_ms)
    }

    /// Takes up a promise.
    pub(super) fn take_place(&self, peer: NodeId, id: ReservationId) -> Result<Place, Refusal> {
        let held = self.engine().reservations.take(id, &peer, clock::now().uptime_ms)?;
        Ok(held.0)
    }

    /// Requests for an earlier run of this node are void.
    pub(super) fn check_epoch(&self, epoch: BootEpoch) -> Result<(), Refusal> {
        if epoch == self.boot_epoch { Ok(()) } else { Err(Refusal::WrongEpoch) }
    }
}

fn own_record(store: &Store, boot_epoch: BootEpoch, domain: Option<String>, addresses: Vec<String>) -> PeerRecord {
    let free = ByteCount(store.usage().free);
    PeerRecord { addresses, boot_epoch, free, domain, stores: true, time: clock::wall() }
}
