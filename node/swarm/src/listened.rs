//! A transport that dials only from sockets it listens on: QUIC makes a socket of its own for a family it has no listener
//! of, and nobody could tell that one from a program's, so that it would go into the tunnel it carries. It changes nothing
//! else.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};

use crate::address::ip_of_multiaddr;

/// See the head of this file.
pub(crate) struct Listened<T> {
    inner: T,
    /// Whether each listener is one of IPv4.
    listeners: HashMap<ListenerId, bool>,
}

impl<T> Listened<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, listeners: HashMap::new() }
    }

    /// Whether a dial leaves by a socket that is known; what stays on this machine may leave by any.
    fn is_known(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.listeners.values().any(|is_v4| *is_v4 == ip.is_ipv4())
    }
}

impl<T: Transport + Unpin> Transport for Listened<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        let family = ip_of_multiaddr(&address).map(|ip| ip.is_ipv4());
        self.inner.listen_on(id, address)?;
        self.listeners.extend(family.map(|is_v4| (id, is_v4)));
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.listeners.remove(&id);
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<T::Error>> {
        match ip_of_multiaddr(&address) {
            Some(ip) if !self.is_known(ip) => Err(TransportError::MultiaddrNotSupported(address)),
            _ => self.inner.dial(address, options),
        }
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        Pin::new(&mut self.inner).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::Endpoint;
    use libp2p::core::transport::PortUse;

    /// Listens anywhere, and says of every dial that it got there.
    struct Anywhere;

    impl Transport for Anywhere {
        type Output = ();
        type Error = std::io::Error;
        type ListenerUpgrade = std::future::Ready<Result<(), std::io::Error>>;
        type Dial = std::future::Ready<Result<(), std::io::Error>>;

        fn listen_on(&mut self, _: ListenerId, _: Multiaddr) -> Result<(), TransportError<Self::Error>> {
            Ok(())
        }

        fn remove_listener(&mut self, _: ListenerId) -> bool {
            true
        }

        fn dial(&mut self, _: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<Self::Error>> {
            Ok(std::future::ready(Ok(())))
        }

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
            Poll::Pending
        }
    }

    #[test]
    fn only_families_with_a_listener_are_dialled_and_this_machine() {
        let mut transport = Listened::new(Anywhere);
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
        let dials = |transport: &mut Listened<Anywhere>, ip: &str| {
            transport.dial(format!("{ip}/udp/4700/quic-v1").parse().unwrap(), options).is_ok()
        };
        assert!(!dials(&mut transport, "/ip4/192.0.2.1") && !dials(&mut transport, "/ip6/2001:db8::1"));
        assert!(dials(&mut transport, "/ip4/127.0.0.1") && dials(&mut transport, "/ip6/::1"));
        let id = ListenerId::next();
        transport.listen_on(id, "/ip4/0.0.0.0/udp/4700/quic-v1".parse().unwrap()).unwrap();
        assert!(dials(&mut transport, "/ip4/192.0.2.1") && !dials(&mut transport, "/ip6/2001:db8::1"));
        assert!(transport.remove_listener(id));
        assert!(!dials(&mut transport, "/ip4/192.0.2.1"));
    }
}
