//! TCP whose own connections carry a mark (`SO_MARK`), so that rules of the system can tell them from what goes into a
//! tunnel that they carry. What others connect to cannot be marked here: it is known by its port.
//!
//! A connection begins at the port the node listens on where that can be had, as the transport inside does it: behind a
//! translator this is what others can reach.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::tcp::tokio::{TcpStream, Transport as Plain};
use libp2p::{Multiaddr, Transport, tcp};
use socket2::{Domain, Protocol, Socket, Type};

use crate::address::socket_of;

/// See the head of this file.
pub(crate) struct MarkedTcp {
    inner: Plain,
    mark: Option<u32>,
    /// Where it listens.
    listening: BTreeSet<SocketAddr>,
}

impl MarkedTcp {
    /// With this mark, or as it is.
    pub(crate) fn new(mark: Option<u32>) -> Self {
        let inner = Plain::new(tcp::Config::default().nodelay(true));
        Self { inner, mark, listening: BTreeSet::new() }
    }

    /// Where a connection to `remote` begins, if it can at a port we listen on.
    fn local(&self, remote: IpAddr) -> Option<SocketAddr> {
        let fits =
            |own: &&SocketAddr| own.is_ipv4() == remote.is_ipv4() && own.ip().is_loopback() == remote.is_loopback();
        let port = self.listening.iter().find(fits)?.port();
        let any = if remote.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        Some(SocketAddr::new(any, port))
    }
}

/// A socket with the mark, bound where it is told.
fn socket(remote: SocketAddr, local: Option<SocketAddr>, mark: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
    if remote.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    set_mark(&socket, mark);
    if let Some(local) = local {
        socket.set_reuse_port(true)?;
        socket.bind(&local.into())?;
    }
    Ok(socket)
}

/// Without the right to mark there is no tunnel either: the connection is worth more than the mark.
#[cfg(target_os = "linux")]
fn set_mark(socket: &Socket, mark: u32) {
    if let Err(error) = socket.set_mark(mark) {
        tracing::debug!(%error, "a connection has no mark");
    }
}

/// Elsewhere there are no marks.
#[cfg(not(target_os = "linux"))]
fn set_mark(_: &Socket, _: u32) {}

/// Begins to connect; whether the address it begins at is in use for the same remote one.
fn begin(socket: &Socket, remote: SocketAddr) -> io::Result<bool> {
    match socket.connect(&remote.into()) {
        Ok(()) => Ok(true),
        // Nonblocking sockets are connected later.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_in_progress(&error) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}

async fn connect(remote: SocketAddr, local: Option<SocketAddr>, mark: u32) -> io::Result<TcpStream> {
    let mut chosen = socket(remote, local, mark)?;
    if !begin(&chosen, remote)? {
        // There is such a connection already: this one begins elsewhere.
        chosen = socket(remote, None, mark)?;
        if !begin(&chosen, remote)? {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
    }
    let stream = tokio::net::TcpStream::from_std(chosen.into())?;
    // Writable once it is connected, or has failed.
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(TcpStream(stream)),
    }
}

impl Transport for MarkedTcp {
    type Output = TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = <Plain as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<TcpStream>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let Some(mark) = self.mark else { return self.inner.dial(address, options) };
        match socket_of(&address).filter(|remote| remote.port() != 0 && !remote.ip().is_unspecified()) {
            Some(remote) => {
                let local = self.local(remote.ip()).filter(|_| options.port_use == PortUse::Reuse);
                Ok(Box::pin(connect(remote, local, mark)))
            }
            None => Err(TransportError::MultiaddrNotSupported(address)),
        }
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let event = Pin::new(&mut self.inner).poll(cx);
        match &event {
            Poll::Ready(TransportEvent::NewAddress { listen_addr, .. }) => {
                self.listening.extend(socket_of(listen_addr));
            }
            Poll::Ready(TransportEvent::AddressExpired { listen_addr, .. }) => {
                if let Some(gone) = socket_of(listen_addr) {
                    self.listening.remove(&gone);
                }
            }
            _ => {}
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use libp2p::core::Endpoint;

    use super::*;

    async fn listen(transport: &mut MarkedTcp) -> Multiaddr {
        transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        match poll_fn(|cx| Pin::new(&mut *transport).poll(cx)).await {
            TransportEvent::NewAddress { listen_addr, .. } => listen_addr,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_connection_begins_at_the_listening_port_and_the_next_one_elsewhere() {
        let (mut near, mut far) = (MarkedTcp::new(Some(7)), MarkedTcp::new(None));
        let (own, remote) = (listen(&mut near).await, listen(&mut far).await);
        let own = socket_of(&own).unwrap();
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
        let mut begun = Vec::new();
        for _ in 0..2 {
            let dial = near.dial(remote.clone(), options).unwrap();
            let (stream, _) = futures::join!(dial, poll_fn(|cx| Pin::new(&mut far).poll(cx)));
            begun.push(stream.unwrap());
        }
        let ports: Vec<u16> = begun.iter().map(|stream| stream.0.local_addr().unwrap().port()).collect();
        assert_eq!(ports[0], own.port());
        assert_ne!(ports[1], own.port());
        let refused = near.dial("/ip4/127.0.0.1/tcp/1".parse().unwrap(), options).unwrap().await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        for bad in ["/ip4/0.0.0.0/tcp/1", "/ip4/1.1.1.1/tcp/0", "/ip4/1.1.1.1/udp/1", "/dns/a/tcp/1"] {
            assert!(near.dial(bad.parse().unwrap(), options).is_err(), "{bad}");
        }
    }
}
