//! The place of a peer's tunnel lane: one lane at a time, whoever opened it. It opens and closes nothing; who loses the
//! place sees its token cancelled.
//!
//! Opens that cross: both ends think there is no lane and open one. The one of the smaller node id stays. A later open
//! of the peer replaces a lane, because nobody opens a second one beside a lane he still has.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use libp2p::swarm::ConnectionId;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;

use super::lane::TunnelLane;
use crate::error::LaneError;
use crate::limits::TUNNEL_SETTLED;

/// What is known of the lane that has the place.
#[derive(Debug)]
struct Present {
    generation: u64,
    /// Whether we opened it.
    ours: bool,
    /// Of an accepted lane its connection.
    connection: Option<ConnectionId>,
    /// When the answer was read or written; none before.
    since: Option<Instant>,
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    present: Option<Present>,
    /// One caller that waits for the peer to open.
    waiter: Option<oneshot::Sender<TunnelLane>>,
}

/// The place.
#[derive(Debug, Default)]
pub(crate) struct TunnelSlot(Mutex<State>);

/// Who has the place, until dropped or replaced.
#[derive(Debug)]
pub(crate) struct Life {
    slot: Arc<TunnelSlot>,
    generation: u64,
    ended: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Life {
    /// Cancelled when the lane broke, or lost its place.
    pub(crate) const fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// The lane broke: the place is free, whoever still holds a half.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    /// The answer is known. False if the place is another's by now.
    pub(crate) fn settle(&self, now: Instant) -> bool {
        let mut state = self.slot.state();
        match state.present.as_mut().filter(|present| present.generation == self.generation) {
            Some(present) => {
                present.since = Some(now);
                !present.ended.is_cancelled()
            }
            None => false,
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.ended.cancel();
        let mut state = self.slot.state();
        if state.present.as_ref().is_some_and(|present| present.generation == self.generation) {
            state.present = None;
        }
    }
}

impl State {
    /// The lane that has the place, unless it broke.
    fn alive(&self) -> Option<&Present> {
        self.present.as_ref().filter(|present| !present.ended.is_cancelled())
    }
}

/// Whether a lane that the peer opens gets the place. `smaller`: whether our id is.
fn yields(present: Option<&Present>, connection: ConnectionId, smaller: bool, now: Instant) -> bool {
    match present {
        None => true,
        Some(theirs) if !theirs.ours => theirs.connection != Some(connection),
        Some(_) if !smaller => true,
        Some(ours) => ours.since.is_some_and(|since| now.saturating_duration_since(since) >= TUNNEL_SETTLED),
    }
}

impl TunnelSlot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(
        self: &Arc<Self>,
        state: &mut State,
        connection: Option<ConnectionId>,
        permit: OwnedSemaphorePermit,
    ) -> Life {
        state.next = state.next.wrapping_add(1);
        let (generation, ended) = (state.next, CancellationToken::new());
        let ours = connection.is_none();
        let present = Present { generation, ours, connection, since: None, ended: ended.clone() };
        if let Some(replaced) = state.present.replace(present) {
            replaced.ended.cancel();
        }
        Life { slot: Arc::clone(self), generation, ended, _permit: permit }
    }

    /// Takes the place for a lane that we open; none while there is a lane.
    pub(crate) fn open(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Option<Life> {
        let mut state = self.state();
        if state.alive().is_some() { None } else { Some(self.enter(&mut state, None, permit)) }
    }

    /// Takes the place for a lane that the peer opened on this connection; none if the present one stays.
    pub(crate) fn accept(
        self: &Arc<Self>,
        connection: ConnectionId,
        smaller: bool,
        permit: OwnedSemaphorePermit,
        now: Instant,
    ) -> Option<Life> {
        let mut state = self.state();
        let yields = yields(state.alive(), connection, smaller, now);
        yields.then(|| self.enter(&mut state, Some(connection), permit))
    }

    /// Lets one caller wait for a lane of the peer.
    pub(crate) fn wait(&self) -> Result<oneshot::Receiver<TunnelLane>, LaneError> {
        let mut state = self.state();
        if state.alive().is_some_and(|present| present.since.is_some()) {
            return Err(LaneError::TunnelOpen);
        }
        if state.waiter.as_ref().is_some_and(|waiter| !waiter.is_closed()) {
            return Err(LaneError::Busy);
        }
        let (waiter, lane) = oneshot::channel();
        state.waiter = Some(waiter);
        Ok(lane)
    }

    /// Whether somebody waits.
    pub(crate) fn is_awaited(&self) -> bool {
        self.state().waiter.as_ref().is_some_and(|waiter| !waiter.is_closed())
    }

    /// Gives an accepted lane to the caller that waits, or back.
    pub(crate) fn deliver(&self, lane: TunnelLane) -> Option<TunnelLane> {
        match self.state().waiter.take() {
            Some(waiter) => waiter.send(lane).err(),
            None => Some(lane),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    fn slot() -> (Arc<TunnelSlot>, impl Fn() -> OwnedSemaphorePermit) {
        let permits = Arc::new(Semaphore::new(16));
        (Arc::default(), move || Arc::clone(&permits).try_acquire_owned().unwrap())
    }

    fn connection(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    #[test]
    fn of_opens_that_cross_the_smaller_ids_stays() {
        let now = Instant::now();
        let (small, permit) = slot();
        let ours = small.open(permit()).unwrap();
        assert!(small.accept(connection(1), true, permit(), now).is_none());
        assert!(ours.settle(now));
        assert!(small.accept(connection(1), true, permit(), now).is_none(), "an open that was on its way");
        let (large, permit) = slot();
        let ours = large.open(permit()).unwrap();
        let theirs = large.accept(connection(1), false, permit(), now).unwrap();
        assert!(!ours.settle(now));
        assert!(ours.ended().is_cancelled());
        drop(ours);
        assert!(theirs.settle(now), "the end of the loser leaves the winner its place");
    }

    #[test]
    fn a_later_open_replaces_and_a_second_on_one_connection_does_not() {
        let now = Instant::now();
        let (slot, permit) = slot();
        let first = slot.accept(connection(1), true, permit(), now).unwrap();
        assert!(first.settle(now));
        assert!(slot.accept(connection(1), true, permit(), now).is_none());
        let second = slot.accept(connection(2), true, permit(), now).unwrap();
        assert!(first.ended().is_cancelled());
        second.end();
        assert!(slot.accept(connection(2), true, permit(), now).is_some(), "a broken lane has no place");
        drop(second);
        let ours = slot.open(permit()).unwrap();
        assert!(ours.settle(now));
        assert!(slot.open(permit()).is_none());
        assert!(slot.accept(connection(3), true, permit(), now + TUNNEL_SETTLED).is_some());
        assert!(ours.ended().is_cancelled());
    }

    #[test]
    fn one_caller_waits_and_none_beside_a_lane() {
        let now = Instant::now();
        let (slot, permit) = slot();
        let waiting = slot.wait().unwrap();
        assert!(slot.is_awaited());
        assert_eq!(slot.wait().err(), Some(LaneError::Busy));
        drop(waiting);
        assert!(!slot.is_awaited());
        assert!(slot.wait().is_ok());
        let lane = slot.accept(connection(1), true, permit(), now).unwrap();
        assert!(slot.wait().is_ok(), "while the answer is on its way");
        assert!(lane.settle(now));
        assert_eq!(slot.wait().err(), Some(LaneError::TunnelOpen));
    }
}
