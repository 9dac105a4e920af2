//! Outbound shard lanes of one peer: at most four, handed out one at a time, kept while healthy.
//! It never reads or writes a lane except to ask whether the remote closed it.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use shoal_protocol::NodeId;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::error::LaneError;
use crate::lanes::upgrade::LaneKind;
use crate::limits::{DEADLINE_MAX, IDLE_LANE_MAX, LANE_WAITERS_MAX, OUTBOUND_LANES_PER_PEER_MAX};
use crate::link::{Link, OpenLane, Support};
use crate::links::PeerLinks;
use crate::shard::{LaneStream, ShardLane};

#[derive(Debug)]
struct IdleLane {
    stream: LaneStream,
    link: Weak<Link>,
    since: Instant,
}

impl IdleLane {
    /// Open, young, and silent: an idle lane on which bytes or an end arrived is of no use.
    fn is_usable(&mut self) -> bool {
        if self.since.elapsed() > IDLE_LANE_MAX || !self.link.upgrade().is_some_and(|link| link.is_open()) {
            return false;
        }
        let mut byte = [0; 1];
        let mut context = Context::from_waker(Waker::noop());
        matches!(Pin::new(&mut self.stream).poll_read(&mut context, &mut ReadBuf::new(&mut byte)), Poll::Pending)
    }
}

/// The lanes of one peer.
#[derive(Debug)]
pub(crate) struct LanePool {
    permits: Arc<Semaphore>,
    /// At most [`OUTBOUND_LANES_PER_PEER_MAX`].
    idle: Mutex<Vec<IdleLane>>,
    waiters: AtomicUsize,
}

impl Default for LanePool {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(OUTBOUND_LANES_PER_PEER_MAX)),
            idle: Mutex::default(),
            waiters: AtomicUsize::new(0),
        }
    }
}

/// Counts one waiting caller until dropped.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn enter(waiters: &'a AtomicUsize) -> Result<Self, LaneError> {
        let waiter = Self(waiters);
        if waiters.fetch_add(1, Ordering::AcqRel) < LANE_WAITERS_MAX { Ok(waiter) } else { Err(LaneError::Busy) }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl LanePool {
    fn idle(&self) -> MutexGuard<'_, Vec<IdleLane>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A usable idle lane on a link as good as `best`. Others are closed on the way.
    fn take(&self, best: &Link) -> Option<(LaneStream, Weak<Link>)> {
        let mut idle = self.idle();
        while let Some(mut lane) = idle.pop() {
            let good = lane.link.upgrade().is_some_and(|link| link.rank() <= best.rank());
            if good && lane.is_usable() {
                return Some((lane.stream, lane.link));
            }
        }
        None
    }

    /// Keeps a healthy lane for the next caller.
    pub(crate) fn put(&self, stream: LaneStream, link: Weak<Link>) {
        let mut idle = self.idle();
        if idle.len() < OUTBOUND_LANES_PER_PEER_MAX {
            idle.push(IdleLane { stream, link, since: Instant::now() });
        }
    }

    /// Closes idle lanes that are old, dead or no longer silent.
    pub(crate) fn drop_stale(&self) {
        self.idle().retain_mut(IdleLane::is_usable);
    }
}

/// Waits for a free place among the peer's lanes, then reuses an idle lane or opens one on the best link.
pub(crate) async fn acquire(links: &PeerLinks, peer: &NodeId, deadline: Duration) -> Result<ShardLane, LaneError> {
    let deadline = deadline.min(DEADLINE_MAX);
    let shared = Arc::clone(&usable_link(links, peer)?.shared);
    let waiter = Waiter::enter(&shared.pool.waiters)?;
    let opened = tokio::time::timeout(deadline, async {
        let permit = Arc::clone(&shared.pool.permits).acquire_owned().await.map_err(|_| LaneError::Closed)?;
        open(links, peer, &shared.pool, permit).await
    });
    let lane = opened.await.unwrap_or(Err(LaneError::Timeout(deadline)));
    drop(waiter);
    lane
}

fn usable_link(links: &PeerLinks, peer: &NodeId) -> Result<Arc<Link>, LaneError> {
    let link = links.best(peer).ok_or(LaneError::NotConnected)?;
    if link.support() == Support::No { Err(LaneError::Unsupported) } else { Ok(link) }
}

async fn open(
    links: &PeerLinks,
    peer: &NodeId,
    pool: &Arc<LanePool>,
    permit: OwnedSemaphorePermit,
) -> Result<ShardLane, LaneError> {
    let link = usable_link(links, peer)?;
    if let Some((stream, link)) = pool.take(&link) {
        return Ok(ShardLane::new(*peer, stream, link, Arc::clone(pool), permit));
    }
    let (reply, opened) = oneshot::channel();
    link.open(OpenLane { kind: LaneKind::Shard, reply })?;
    let stream = opened.await.map_err(|_| LaneError::Closed)??;
    Ok(ShardLane::new(*peer, LaneStream::opened(stream), Arc::downgrade(&link), Arc::clone(pool), permit))
}
