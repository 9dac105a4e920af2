//! Room promised for a minute: who may use it, for what, once. It counts promises, not bytes: those are the store's.

use std::collections::BTreeMap;

use shoal_protocol::limits::RESERVATION_MS;
use shoal_protocol::{NodeId, Refusal, ReservationId};

/// Reservations one peer may hold at a time.
pub const PER_PEER_MAX: usize = 256;
/// Reservations all peers may hold at a time.
pub const TOTAL_MAX: usize = 4096;

/// Promises by id. `T` is whatever the shell keeps with one, such as the space itself: dropped with it.
#[derive(Debug)]
pub struct Reservations<T> {
    held: BTreeMap<ReservationId, Held<T>>,
    per_peer: BTreeMap<NodeId, usize>,
}

#[derive(Debug)]
struct Held<T> {
    peer: NodeId,
    until_ms: u64,
    value: T,
}

impl<T> Default for Reservations<T> {
    fn default() -> Self {
        Self { held: BTreeMap::new(), per_peer: BTreeMap::new() }
    }
}

impl<T> Reservations<T> {
    /// Whether `peer` may hold `count` more.
    ///
    /// # Errors
    /// [`Refusal::Busy`] beyond a bound.
    pub fn room(&mut self, peer: &NodeId, count: usize, uptime_ms: u64) -> Result<(), Refusal> {
        self.expire(uptime_ms);
        let own = self.per_peer.get(peer).copied().unwrap_or(0);
        let fits = own.saturating_add(count) <= PER_PEER_MAX && self.held.len().saturating_add(count) <= TOTAL_MAX;
        if fits { Ok(()) } else { Err(Refusal::Busy) }
    }

    /// Promises `value` to `peer` under `id`, drawn at random by the caller; an id in use is refused.
    ///
    /// # Errors
    /// [`Refusal::Busy`] beyond a bound or for an id in use.
    pub fn add(&mut self, id: ReservationId, peer: NodeId, value: T, uptime_ms: u64) -> Result<(), Refusal> {
        self.room(&peer, 1, uptime_ms)?;
        if self.held.contains_key(&id) {
            return Err(Refusal::Busy);
        }
        let until_ms = uptime_ms.saturating_add(RESERVATION_MS);
        self.held.insert(id, Held { peer, until_ms, value });
        let own = self.per_peer.entry(peer).or_default();
        *own = own.saturating_add(1);
        Ok(())
    }

    /// Whether `peer` holds this promise; it stays his.
    ///
    /// # Errors
    /// [`Refusal::NoReservation`] if it is unknown, used, expired or another peer's.
    pub fn check(&mut self, id: ReservationId, peer: &NodeId, uptime_ms: u64) -> Result<(), Refusal> {
        self.expire(uptime_ms);
        let own = self.held.get(&id).is_some_and(|held| held.peer == *peer);
        if own { Ok(()) } else { Err(Refusal::NoReservation) }
    }

    /// What was promised, once, to the peer it was promised to.
    ///
    /// # Errors
    /// [`Refusal::NoReservation`] if it is unknown, used, expired or another peer's.
    pub fn take(&mut self, id: ReservationId, peer: &NodeId, uptime_ms: u64) -> Result<T, Refusal> {
        self.check(id, peer, uptime_ms)?;
        let held = self.held.remove(&id).ok_or(Refusal::NoReservation)?;
        self.forget(&held.peer);
        Ok(held.value)
    }

    /// Drops what is over.
    pub fn expire(&mut self, uptime_ms: u64) {
        let over: Vec<(ReservationId, NodeId)> = self
            .held
            .iter()
            .filter(|(_, held)| held.until_ms <= uptime_ms)
            .map(|(id, held)| (*id, held.peer))
            .collect();
        for (id, peer) in over {
            self.held.remove(&id);
            self.forget(&peer);
        }
    }

    /// How many are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn forget(&mut self, peer: &NodeId) {
        if let Some(own) = self.per_peer.get_mut(peer) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                self.per_peer.remove(peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn used_once_by_its_own_peer_within_a_minute() {
        let mut reservations = Reservations::default();
        for id in 0..3 {
            reservations.add(ReservationId(id), peer(1), id, 0).unwrap();
        }
        assert_eq!(reservations.add(ReservationId(0), peer(1), 9, 0), Err(Refusal::Busy));
        assert_eq!(reservations.take(ReservationId(0), &peer(2), 1), Err(Refusal::NoReservation));
        assert_eq!(reservations.check(ReservationId(0), &peer(2), 1), Err(Refusal::NoReservation));
        assert_eq!(reservations.check(ReservationId(0), &peer(1), 1), Ok(()));
        assert_eq!(reservations.take(ReservationId(0), &peer(1), 1), Ok(0));
        assert_eq!(reservations.take(ReservationId(0), &peer(1), 1), Err(Refusal::NoReservation));
        assert_eq!(reservations.take(ReservationId(1), &peer(1), RESERVATION_MS - 1), Ok(1));
        assert_eq!(reservations.take(ReservationId(2), &peer(1), RESERVATION_MS), Err(Refusal::NoReservation));
        assert!(reservations.is_empty());
    }

    #[test]
    fn one_peer_cannot_take_all() {
        let mut reservations = Reservations::default();
        for id in 0..PER_PEER_MAX as u64 {
            reservations.add(ReservationId(id), peer(1), (), 0).unwrap();
        }
        assert_eq!(reservations.add(ReservationId(9999), peer(1), (), 0), Err(Refusal::Busy));
        assert_eq!(reservations.add(ReservationId(9999), peer(2), (), 0), Ok(()));
        assert_eq!(reservations.len(), PER_PEER_MAX + 1);
        assert_eq!(
            reservations.add(ReservationId(10_000), peer(1), (), RESERVATION_MS),
            Ok(()),
            "the old ones are over"
        );
    }
}
