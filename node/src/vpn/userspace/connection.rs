//! One connection of the userspace stack, to be read and written like a socket of the system. Dropped before both sides
//! said that they are done, it is reset.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{self, RecvError, State};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::port::Ends;
use super::sockets::keep;
use super::stack::Stack;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Connection {
    stack: Arc<Stack>,
    handle: SocketHandle,
    ends: Ends,
    /// Everything of the other side was read.
    is_read: bool,
    /// Nothing more will be written.
    is_closed: bool,
}

impl Connection {
    pub(super) const fn new(stack: Arc<Stack>, handle: SocketHandle, ends: Ends) -> Self {
        Self { stack, handle, ends, is_read: false, is_closed: false }
    }

    /// The address it has on this side.
    pub(crate) const fn local(&self) -> SocketAddr {
        self.ends.local
    }

    /// The other side.
    pub(crate) const fn remote(&self) -> SocketAddr {
        self.ends.remote
    }

    fn with<R>(&self, act: impl FnOnce(&mut tcp::Socket<'static>) -> R) -> R {
        act(self.stack.lock().sockets.get_mut::<tcp::Socket<'static>>(self.handle))
    }

    /// Waits until it is open, and says whether it is; else the other side does not want it.
    pub(super) async fn established(&self) -> bool {
        poll_fn(|context| {
            self.with(|socket| match socket.state() {
                State::SynSent | State::SynReceived => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
                State::Closed | State::Listen => Poll::Ready(false),
                _ => {
                    keep(socket);
                    Poll::Ready(true)
                }
            })
        })
        .await
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.with(|socket| {
            match socket.recv_slice(target.initialize_unfilled()) {
                Ok(0) if target.remaining() > 0 => socket.register_recv_waker(context.waker()),
                other => return Poll::Ready(other),
            }
            Poll::Pending
        });
        match read {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(length)) => {
                target.advance(length);
                // The other side may be told that there is room again.
                self.stack.call();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(RecvError::Finished)) => {
                self.is_read = true;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(RecvError::InvalidState)) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = self.with(|socket| {
            let written = socket.send_slice(bytes);
            if written == Ok(0) && !bytes.is_empty() {
                socket.register_send_waker(context.waker());
                return Poll::Pending;
            }
            Poll::Ready(written)
        });
        match written {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(length)) => {
                self.stack.call();
                Poll::Ready(Ok(length))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// What was written is on its way by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The end goes behind everything that was written.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_closed {
            self.is_closed = true;
            self.stack.close(self.handle, self.ends);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stack.release(self.handle, self.ends, self.is_read && self.is_closed);
    }
}
