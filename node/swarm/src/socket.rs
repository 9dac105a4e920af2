//! A TCP socket in which little waits unsent: the system takes no more bytes than go out soon (`TCP_NOTSENT_LOWAT`), so
//! that a frame written now does not stand behind megabytes. It never holds a byte itself and changes none.
//!
//! Every TCP connection has it, for at this depth nothing tells a tunnel connection from another. It bounds what was
//! never sent, not what is on its way, and grows with the rate: bulk transfers keep their windows and their speed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::{AsyncRead, AsyncWrite};
use libp2p::tcp::tokio::TcpStream;

use crate::unsent::UnsentLimit;

/// The socket.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: TcpStream,
    limit: UnsentLimit,
    /// What the system was told.
    told: usize,
}

impl Socket {
    pub(crate) fn new(inner: TcpStream) -> Self {
        let limit = UnsentLimit::new();
        let told = limit.limit();
        tell(&inner, told);
        Self { inner, limit, told }
    }

    fn left(&mut self, bytes: usize) {
        if !self.limit.left(bytes, Instant::now()) {
            return;
        }
        let limit = self.limit.limit();
        // A call costs a microsecond: only for a change by a quarter.
        if limit.abs_diff(self.told) > self.told / 4 {
            self.told = limit;
            tell(&self.inner, limit);
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn tell(socket: &TcpStream, bytes: usize) {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    if let Err(error) = socket2::SockRef::from(&socket.0).set_tcp_notsent_lowat(bytes) {
        tracing::debug!(%error, "unsent bytes are not bounded");
    }
}

/// Elsewhere the system's own bound holds.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn tell(_: &TcpStream, _: usize) {}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, space)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.left(count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, parts))?;
        self.left(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use futures::AsyncWriteExt;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::limits::UNSENT_FLOOR;

    #[tokio::test]
    async fn the_system_is_told_and_the_limit_follows_the_rate() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let mut socket = Socket::new(TcpStream(dialled));
        let told = |socket: &Socket| {
            let now = socket2::SockRef::from(&socket.inner.0).tcp_notsent_lowat().unwrap();
            usize::try_from(now).unwrap()
        };
        assert_eq!(told(&socket), UNSENT_FLOOR);
        let reader = tokio::spawn(async move {
            let mut space = vec![0; 1 << 20];
            while far.read(&mut space).await.unwrap() > 0 {}
        });
        // At 100 MB/s, which loopback reaches anywhere, the limit is 500 KB.
        for _ in 0..1024 {
            socket.write_all(&[0; 256 * 1024]).await.unwrap();
        }
        assert!(told(&socket) > 2 * UNSENT_FLOOR, "{}", told(&socket));
        assert_eq!(told(&socket), socket.told);
        drop(socket);
        reader.await.unwrap();
    }
}
