//! Places for inbound connections in their handshake. A new one always gets a place; if none is left, the oldest of the
//! network with the most handshakes gives way. It never looks at what a handshake says, and never touches a dial.
//!
//! Why the newcomer wins: whoever opens connections and says nothing keeps a place until the handshake times out, so that
//! a handful of silent connections would lock out everybody. An honest handshake takes a few round trips and is gone
//! before [`HANDSHAKES_MAX`] others arrived.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::channel::oneshot;
use futures::future::{BoxFuture, Either, FutureExt, select};
use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use shoal_protocol::subnet::Subnet;

use crate::address::ip_of_multiaddr;
use crate::limits::HANDSHAKES_MAX;
use crate::transport::CarryError;

/// Who is in a handshake: pure, in order of arrival.
#[derive(Debug)]
struct Places<T> {
    most: usize,
    next: u64,
    taken: BTreeMap<u64, (Option<Subnet>, T)>,
}

impl<T> Places<T> {
    const fn new(most: usize) -> Self {
        Self { most, next: 0, taken: BTreeMap::new() }
    }

    /// Takes a place. The second is who gave way for it.
    fn enter(&mut self, ip: Option<IpAddr>, value: T) -> (u64, Option<T>) {
        let displaced = if self.taken.len() >= self.most { self.give_way() } else { None };
        let place = self.next;
        self.next = self.next.wrapping_add(1);
        self.taken.insert(place, (ip.and_then(Subnet::of), value));
        (place, displaced)
    }

    fn leave(&mut self, place: u64) {
        self.taken.remove(&place);
    }

    /// The oldest of the network with the most places. Addresses of no public network are one such network here: they
    /// are this machine's or its owner's, and must not push out the rest of the world.
    fn give_way(&mut self) -> Option<T> {
        let mut counts: BTreeMap<Option<Subnet>, usize> = BTreeMap::new();
        for (subnet, _) in self.taken.values() {
            let count = counts.entry(*subnet).or_default();
            *count = count.saturating_add(1);
        }
        let (crowd, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        let oldest = self.taken.iter().find(|(_, (subnet, _))| *subnet == crowd).map(|(place, _)| *place)?;
        self.taken.remove(&oldest).map(|(_, value)| value)
    }
}

type Shared = Arc<Mutex<Places<oneshot::Sender<()>>>>;

fn locked(places: &Shared) -> MutexGuard<'_, Places<oneshot::Sender<()>>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place, given back when the handshake ends in any way.
struct Place {
    places: Shared,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.places).leave(self.number);
    }
}

/// A transport whose inbound handshakes have places.
pub(crate) struct Handshakes<T> {
    inner: T,
    places: Shared,
}

impl<T> Handshakes<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, places: Arc::new(Mutex::new(Places::new(HANDSHAKES_MAX))) }
    }
}

impl<T> Transport for Handshakes<T>
where
    T: Transport<Error = CarryError> + Unpin,
    T::Output: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
{
    type Output = T::Output;
    type Error = CarryError;
    type ListenerUpgrade = BoxFuture<'static, Result<T::Output, CarryError>>;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<CarryError>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<CarryError>> {
        self.inner.dial(address, options)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, CarryError>> {
        let Poll::Ready(event) = Pin::new(&mut self.inner).poll(cx) else { return Poll::Pending };
        let ip = match &event {
            TransportEvent::Incoming { send_back_addr, .. } => ip_of_multiaddr(send_back_addr),
            _ => None,
        };
        Poll::Ready(event.map_upgrade(|upgrade| in_place(upgrade, ip, &self.places)))
    }
}

/// The handshake, for as long as it keeps its place.
fn in_place<O: Send + 'static>(
    upgrade: impl Future<Output = Result<O, CarryError>> + Send + 'static,
    ip: Option<IpAddr>,
    places: &Shared,
) -> BoxFuture<'static, Result<O, CarryError>> {
    let (keep, displaced) = oneshot::channel();
    let (number, _gone) = locked(places).enter(ip, keep);
    let place = Place { places: Arc::clone(places), number };
    async move {
        let _place = place;
        match select(displaced, Box::pin(upgrade)).await {
            Either::Left(_) => Err(CarryError::Displaced),
            Either::Right((done, _)) => done,
        }
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_oldest_of_the_largest_crowd_gives_way() {
        let mut places = Places::new(4);
        assert_eq!(places.enter(ip("9.9.9.1"), "first").1, None);
        assert_eq!(places.enter(ip("8.8.8.1"), "lonely").1, None);
        assert_eq!(places.enter(ip("9.9.9.2"), "second").1, None);
        let (third, none) = places.enter(ip("9.9.9.3"), "third");
        assert_eq!(none, None);
        assert_eq!(places.enter(ip("9.9.9.4"), "fourth").1, Some("first"), "not the lonely one, though it is old");
        places.leave(third);
        assert_eq!(places.enter(ip("7.7.7.7"), "fifth").1, None, "a place that was left is free");
        assert_eq!(places.enter(ip("7.7.7.7"), "sixth").1.map(|name| name != "lonely"), Some(true));
        assert_eq!(places.taken.len(), 4);
    }

    #[test]
    fn addresses_of_no_network_are_one_crowd() {
        let mut places = Places::new(3);
        places.enter(ip("1.2.3.4"), 0);
        places.enter(ip("127.0.0.1"), 1);
        places.enter(ip("192.168.0.7"), 2);
        for n in 3..50 {
            assert_eq!(places.enter(ip("127.0.0.1"), n).1, Some(n - 2), "the world keeps its place");
        }
        assert!(places.taken.values().any(|(_, n)| *n == 0));
    }

    #[tokio::test]
    async fn a_handshake_that_gives_way_ends_and_the_rest_go_on() {
        let places: Shared = Arc::new(Mutex::new(Places::new(2)));
        let never = || futures::future::pending::<Result<(), CarryError>>();
        let first = in_place(never(), ip("127.0.0.1"), &places);
        let second = in_place(async { Ok(()) }, ip("127.0.0.1"), &places);
        let third = in_place(never(), ip("127.0.0.1"), &places);
        assert!(matches!(first.await, Err(CarryError::Displaced)));
        assert!(second.await.is_ok());
        assert_eq!(locked(&places).taken.len(), 1);
        drop(third);
        assert!(locked(&places).taken.is_empty(), "a dropped handshake gives its place back");
    }
}
