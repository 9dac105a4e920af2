//! What all services of one node share: the store, the key, the engine's tables behind one short lock, and the pools
//! that bound memory and threads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_engine::admission::{Denial, Operation};
use shoal_engine::ceilings::Claims;
use shoal_engine::leases::Lease;
use shoal_engine::pressure::retry_after_ms;
use shoal_engine::reservations::Reservations;
use shoal_engine::vouchers::{self, Grant, Ledger};
use shoal_protocol::buffer::Pool;
use shoal_protocol::limits::{ROWS_MAX, UNIT};
use shoal_protocol::signed::Statement;
use shoal_protocol::{
    BootEpoch, ByteCount, GroupId, NetworkId, NodeId, RecordKey, Refusal, ReservationId, Signed, UnixMillis,
};
use shoal_swarm::limits::INBOUND_LANES_MAX;
use tokio::sync::{Semaphore, watch};

use crate::chunks::{SpaceReservation, Store};
use crate::clock;
use crate::membership::{Membership, Peer};
use crate::vouchers::VoucherLog;

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

/// The engine's tables of what is stored; those of who belongs to the network are in [`Membership`].
pub(crate) struct Engine {
    pub(crate) reservations: Reservations<PlaceHeld>,
    pub(crate) ledger: Ledger,
}

/// What a reservation keeps.
#[derive(Debug)]
pub(crate) struct PlaceHeld(Place);

/// Shared by all services.
pub(crate) struct Context {
    store: Store,
    membership: Arc<Membership>,
    engine: Mutex<Engine>,
    /// Beside the engine, because promises are dropped while that is locked.
    claims: Arc<Mutex<Claims>>,
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
    pub(crate) membership: Arc<Membership>,
    pub(crate) engine: Engine,
    pub(crate) voucher_log: Option<VoucherLog>,
}

impl Context {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { store, membership, engine, voucher_log } = parts;
        Self {
            store,
            membership,
            engine: Mutex::new(engine),
            claims: Arc::default(),
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
        }
    }

    /// Who belongs to the network.
    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn network(&self) -> &NetworkId {
        self.membership.network()
    }

    pub(crate) fn node(&self) -> NodeId {
        self.membership.node()
    }

    pub(crate) fn boot_epoch(&self) -> BootEpoch {
        self.membership.boot_epoch()
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
        let is_member = self.membership.tables().admission.is_member(peer);
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
        self.membership.sign(statement)
    }

    pub(super) fn admit(&self, peer: Peer, operation: Operation) -> Result<(), Denial> {
        self.membership.admit(peer, operation)
    }

    pub(super) fn admit_retrieve(&self, peer: Peer, bytes: u64) -> Result<(), Refusal> {
        self.admit(peer, Operation::Read { bytes }).map_err(|denial| denial.reason)
    }

    /// Counts a refusal that was answered.
    pub(super) fn refused(&self, reason: Refusal) {
        self.membership.refused(reason);
    }

    /// What a peer that is no member may still store by its voucher; none for a member, who needs no voucher.
    pub(super) fn judge_voucher(
        &self,
        peer: NodeId,
        voucher: Option<&Signed>,
        bytes: u64,
    ) -> Result<Option<Grant>, Refusal> {
        let issuers = {
            let tables = self.membership.tables();
            if tables.admission.is_member(&peer) {
                return Ok(None);
            }
            tables.admission.issuers().clone()
        };
        let signed = voucher.ok_or(Refusal::Denied)?;
        let grant = vouchers::judge(signed, self.network(), &issuers, peer, self.node(), clock::wall())?;
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
        if epoch == self.boot_epoch() { Ok(()) } else { Err(Refusal::WrongEpoch) }
    }
}
