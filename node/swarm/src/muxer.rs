//! Yamux with a gauge: it knows how many bytes of a connection wait between its streams and the system, and lets a
//! tunnel wait while that is too much. It never changes a byte and never holds one.
//!
//! Without it some 350 KiB would wait there: ten frames of 16 KiB in the muxer, and what the encryption takes while the
//! socket takes nothing. The gauge counts what streams give the muxer, less what the muxer passes on as bodies of data
//! frames (known by reading the headers that go by), plus what was passed on since everything was flushed last: that
//! part is counted too high while the socket is slow, never too low.
//!
//! Only vectored writes wait: a tunnel lane writes so and nothing else does. The kind of a write is the one mark that
//! passes through the boxed stream the Swarm hands out, and with it a tunnel needs no table of connections.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::future::{MapOk, TryFutureExt};
use futures::task::AtomicWaker;
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::yamux;

use crate::limits::UNSENT_FLOOR;
use crate::unsent::UnsentLimit;

/// Bytes of a yamux frame header: version, type, flags u16, stream u32, length u32, big-endian.
const HEADER_BYTES: usize = 12;
/// The type of a frame that has a body.
const DATA: u8 = 0;

/// What waits below the streams of one connection.
#[derive(Debug)]
pub(crate) struct Gauge {
    /// Given to the muxer and not passed on. Below zero for a moment when the muxer is faster than the counting.
    queued: AtomicI64,
    /// Passed on since the last full flush.
    passed: AtomicI64,
    limit: AtomicUsize,
    gone: AtomicBool,
    /// The one tunnel lane of the connection.
    waiter: AtomicWaker,
}

impl Gauge {
    fn new() -> Self {
        Self {
            queued: AtomicI64::new(0),
            passed: AtomicI64::new(0),
            limit: AtomicUsize::new(UNSENT_FLOOR),
            gone: AtomicBool::new(false),
            waiter: AtomicWaker::new(),
        }
    }

    fn waiting(&self) -> usize {
        let queued = self.queued.load(Ordering::Acquire).max(0);
        let passed = self.passed.load(Ordering::Acquire).max(0);
        usize::try_from(queued.saturating_add(passed)).unwrap_or(usize::MAX)
    }

    fn has_room(&self) -> bool {
        self.waiting() < self.limit.load(Ordering::Acquire) || self.gone.load(Ordering::Acquire)
    }

    fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        self.waiter.register(cx.waker());
        // Room that came before the waker was registered woke nobody.
        if self.has_room() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn wake(&self) {
        if self.has_room() {
            self.waiter.wake();
        }
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Follows the frames that go by. Pure.
#[derive(Debug, Default)]
struct Headers {
    header: [u8; HEADER_BYTES],
    have: usize,
    /// Bytes of the present body still to come.
    body: usize,
}

impl Headers {
    /// How many of these bytes are bodies of data frames.
    fn pass(&mut self, mut bytes: &[u8]) -> usize {
        let mut data = 0_usize;
        while !bytes.is_empty() {
            let wanted = if self.body > 0 { self.body } else { HEADER_BYTES.saturating_sub(self.have) };
            let (now, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
            if self.body > 0 {
                self.body = self.body.saturating_sub(now.len());
                data = data.saturating_add(now.len());
            } else {
                for (place, byte) in self.header.iter_mut().skip(self.have).zip(now) {
                    *place = *byte;
                }
                self.have = self.have.saturating_add(now.len());
                if self.have == HEADER_BYTES {
                    let [_, kind, _, _, _, _, _, _, a, b, c, d] = self.header;
                    let length = u32::from_be_bytes([a, b, c, d]);
                    self.body = if kind == DATA { usize::try_from(length).unwrap_or(usize::MAX) } else { 0 };
                    self.have = 0;
                }
            }
            bytes = rest;
        }
        data
    }
}

/// What the muxer writes to.
#[derive(Debug)]
pub(crate) struct Below<C> {
    inner: C,
    headers: Headers,
    limit: UnsentLimit,
    gauge: Arc<Gauge>,
}

impl<C> Drop for Below<C> {
    fn drop(&mut self) {
        self.gauge.gone.store(true, Ordering::Release);
        self.gauge.wake();
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Below<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, space)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Below<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        let data = self.headers.pass(bytes.get(..count).unwrap_or(bytes));
        // First the one that grows: a reader in between sees too much, not too little.
        self.gauge.passed.fetch_add(signed(count), Ordering::AcqRel);
        self.gauge.queued.fetch_sub(signed(data), Ordering::AcqRel);
        if self.limit.left(count, Instant::now()) {
            self.gauge.limit.store(self.limit.limit(), Ordering::Release);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.gauge.passed.store(0, Ordering::Release);
        self.gauge.wake();
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Yamux as an upgrade, with a gauge for each connection.
#[derive(Clone)]
pub(crate) struct Muxing(pub(crate) yamux::Config);

impl UpgradeInfo for Muxing {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

type Gauged<F, C> = MapOk<F, Box<dyn FnOnce(yamux::Muxer<Below<C>>) -> Muxer<C> + Send>>;

fn below<C>(inner: C) -> (Below<C>, Arc<Gauge>) {
    let gauge = Arc::new(Gauge::new());
    let below = Below { inner, headers: Headers::default(), limit: UnsentLimit::new(), gauge: Arc::clone(&gauge) };
    (below, gauge)
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Muxing {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Gauged<<yamux::Config as InboundConnectionUpgrade<Below<C>>>::Future, C>;

    fn upgrade_inbound(self, socket: C, info: Self::Info) -> Self::Future {
        let (socket, gauge) = below(socket);
        self.0.upgrade_inbound(socket, info).map_ok(Box::new(move |inner| Muxer { inner, gauge }))
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Muxing {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Gauged<<yamux::Config as OutboundConnectionUpgrade<Below<C>>>::Future, C>;

    fn upgrade_outbound(self, socket: C, info: Self::Info) -> Self::Future {
        let (socket, gauge) = below(socket);
        self.0.upgrade_outbound(socket, info).map_ok(Box::new(move |inner| Muxer { inner, gauge }))
    }
}

/// The muxer of one connection.
#[derive(Debug)]
pub(crate) struct Muxer<C> {
    inner: yamux::Muxer<Below<C>>,
    gauge: Arc<Gauge>,
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> Muxer<C> {
    fn gauged(&self, stream: yamux::Stream) -> GaugedStream {
        GaugedStream { inner: stream, gauge: Arc::clone(&self.gauge) }
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> StreamMuxer for Muxer<C> {
    type Substream = GaugedStream;
    type Error = yamux::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<GaugedStream, yamux::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        Poll::Ready(Ok(self.gauged(stream)))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<GaugedStream, yamux::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        Poll::Ready(Ok(self.gauged(stream)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), yamux::Error>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, yamux::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// A stream whose bytes are counted.
#[derive(Debug)]
pub(crate) struct GaugedStream {
    inner: yamux::Stream,
    gauge: Arc<Gauge>,
}

impl AsyncRead for GaugedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, space)
    }
}

impl AsyncWrite for GaugedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.gauge.queued.fetch_add(signed(count), Ordering::AcqRel);
        Poll::Ready(Ok(count))
    }

    /// Waits for room, then writes the first part that holds anything. Of nothing it only waits.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.gauge.poll_room(cx));
        match parts.iter().find(|part| !part.is_empty()) {
            Some(part) => self.poll_write(cx, part),
            None => Poll::Ready(Ok(0)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::task::Waker;

    use futures::AsyncWriteExt;

    use super::*;

    /// A socket that takes so many bytes and no more, until it is given more room.
    #[derive(Debug, Clone)]
    struct Tap(Arc<Mutex<(usize, usize, Option<Waker>)>>);

    impl Tap {
        fn new(room: usize) -> Self {
            Self(Arc::new(Mutex::new((room, 0, None))))
        }

        fn taken(&self) -> usize {
            self.0.lock().unwrap().1
        }

        fn open(&self, more: usize) {
            let mut tap = self.0.lock().unwrap();
            tap.0 += more;
            if let Some(waker) = tap.2.take() {
                waker.wake();
            }
        }
    }

    impl AsyncRead for Tap {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Tap {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let mut tap = self.0.lock().unwrap();
            let count = bytes.len().min(tap.0 - tap.1);
            if count == 0 {
                tap.2 = Some(cx.waker().clone());
                return Poll::Pending;
            }
            tap.1 += count;
            Poll::Ready(Ok(count))
        }

        /// A socket that takes nothing has not flushed what it took.
        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let mut tap = self.0.lock().unwrap();
            if tap.1 < tap.0 {
                return Poll::Ready(Ok(()));
            }
            tap.2 = Some(cx.waker().clone());
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn muxer(tap: &Tap) -> Muxer<Tap> {
        let upgrade = Muxing(yamux::Config::default()).upgrade_outbound(tap.clone(), "/yamux/1.0.0");
        futures::executor::block_on(upgrade).unwrap()
    }

    /// Writes until it has to wait, with the muxer turning. Bytes that were taken.
    fn fill(muxer: &mut Muxer<Tap>, stream: &mut GaugedStream, vectored: bool) -> usize {
        let (mut cx, mut taken) = (Context::from_waker(Waker::noop()), 0);
        let block = [7; 8 * 1024];
        loop {
            let parts = [io::IoSlice::new(&block)];
            let wrote = if vectored {
                Pin::new(&mut *stream).poll_write_vectored(&mut cx, &parts)
            } else {
                Pin::new(&mut *stream).poll_write(&mut cx, &block)
            };
            let _ = Pin::new(&mut *muxer).poll(&mut cx);
            match wrote {
                Poll::Ready(count) => taken += count.unwrap(),
                Poll::Pending => return taken,
            }
        }
    }

    #[test]
    fn a_vectored_write_waits_where_a_plain_one_goes_on() {
        let tap = Tap::new(1000);
        let mut muxer = muxer(&tap);
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(mut stream)) = Pin::new(&mut muxer).poll_outbound(&mut cx) else { panic!("no stream") };
        let taken = fill(&mut muxer, &mut stream, true);
        assert!((UNSENT_FLOOR..=UNSENT_FLOOR + 1000 + 16 * 1024).contains(&taken), "{taken} wait");
        assert!(stream.gauge.waiting() >= UNSENT_FLOOR);
        let more = fill(&mut muxer, &mut stream, false);
        assert!(more > UNSENT_FLOOR, "{more}: the muxer itself has more room");
        // A second turns until the socket took all; then there is room again.
        tap.open(1 << 20);
        for _ in 0..64 {
            let _ = Pin::new(&mut muxer).poll(&mut cx);
        }
        assert!(tap.taken() > taken + more, "bytes and headers: {}", tap.taken());
        assert_eq!(stream.gauge.waiting(), 0, "every byte was counted in and out");
        assert!(stream.gauge.has_room());
    }

    #[test]
    fn the_end_of_a_connection_lets_waiters_go() {
        let tap = Tap::new(1000);
        let mut muxer = muxer(&tap);
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(mut stream)) = Pin::new(&mut muxer).poll_outbound(&mut cx) else { panic!("no stream") };
        fill(&mut muxer, &mut stream, true);
        drop(muxer);
        let written = futures::executor::block_on(stream.write_vectored(&[io::IoSlice::new(&[1])]));
        assert!(written.is_err());
    }

    #[test]
    fn headers_are_followed_in_any_pieces() {
        let frame = |kind: u8, length: u32, body: usize| {
            let mut bytes = vec![0, kind, 0, 0, 0, 0, 0, 1];
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend(std::iter::repeat_n(9, body));
            bytes
        };
        let all = [frame(0, 5, 5), frame(1, 70_000, 0), frame(0, 0, 0), frame(2, 1, 0), frame(0, 30, 30)].concat();
        for step in 1..all.len() {
            let mut headers = Headers::default();
            let data: usize = all.chunks(step).map(|piece| headers.pass(piece)).sum();
            assert_eq!((data, headers.have, headers.body), (35, 0, 0), "in pieces of {step}");
        }
    }
}
