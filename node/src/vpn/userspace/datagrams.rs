//! A port of the userspace stack that datagrams leave by and come back to. What finds no room is lost, as datagrams are.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::{self, PacketBuffer, PacketMetadata, UdpMetadata};

use super::sockets::DATAGRAMS_MAX;
use super::stack::Stack;

/// The longest datagram: what a packet of the largest MTU has room for.
pub(super) const DATAGRAM_MAX: usize = 9000;
/// Datagrams that wait each way.
const WAITING: usize = 128;
/// Bytes of them.
const BYTES: usize = 128 * 1024;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Datagrams {
    stack: Arc<Stack>,
    handle: SocketHandle,
}

impl Datagrams {
    /// Opens a port; none if there are too many.
    pub(super) fn open(stack: &Arc<Stack>) -> Option<Self> {
        let mut inner = stack.lock();
        if inner.datagrams >= DATAGRAMS_MAX {
            return None;
        }
        let port = inner.free_port(|inner, port| {
            inner.sockets.iter().any(
                |(_, socket)| matches!(socket, smoltcp::socket::Socket::Udp(socket) if socket.endpoint().port == port),
            )
        })?;
        let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; WAITING], vec![0; BYTES]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).ok()?;
        inner.datagrams = inner.datagrams.saturating_add(1);
        let handle = inner.sockets.add(socket);
        drop(inner);
        Some(Self { stack: Arc::clone(stack), handle })
    }

    /// Sends one.
    pub(super) fn send(&self, payload: &[u8], to: SocketAddr) {
        let mut inner = self.stack.lock();
        let Some(own) = inner.own(to.ip()) else { return };
        if payload.len() > inner.payload_max(to.ip()) {
            tracing::debug!(bytes = payload.len(), "a datagram is longer than a packet has room for");
            return;
        }
        let meta =
            UdpMetadata { local_address: Some(own.into()), ..UdpMetadata::from(smoltcp::wire::IpEndpoint::from(to)) };
        let socket = inner.sockets.get_mut::<udp::Socket<'_>>(self.handle);
        if let Err(error) = socket.send_slice(payload, meta) {
            tracing::debug!(%error, "a datagram found no room");
        }
        drop(inner);
        self.stack.call();
    }

    /// Waits for one, and says how long it is and who sent it.
    pub(super) async fn receive(&self, target: &mut [u8]) -> (usize, SocketAddr) {
        poll_fn(|context| {
            let mut inner = self.stack.lock();
            let socket = inner.sockets.get_mut::<udp::Socket<'_>>(self.handle);
            loop {
                match socket.recv_slice(target) {
                    Ok((length, meta)) => return Poll::Ready((length, SocketAddr::from(meta.endpoint))),
                    // Longer than any packet: there are none.
                    Err(udp::RecvError::Truncated) => {}
                    Err(udp::RecvError::Exhausted) => {
                        socket.register_recv_waker(context.waker());
                        return Poll::Pending;
                    }
                }
            }
        })
        .await
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        let mut inner = self.stack.lock();
        inner.sockets.remove(self.handle);
        inner.datagrams = inner.datagrams.saturating_sub(1);
    }
}
