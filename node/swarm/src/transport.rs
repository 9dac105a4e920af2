//! How bytes travel: TCP with Noise or TLS 1.3 and yamux, QUIC, names resolved by the system. It knows no protocol of
//! ours. Every failure is classified here, where its type is still known.

use std::convert::identity;
use std::io;

use futures::future::{BoxFuture, Either, FutureExt, TryFutureExt};
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::{TransportTimeout, TransportTimeoutError};
use libp2p::core::transport::{Boxed, OptionalTransport};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version};
use libp2p::core::{Transport, transport::TransportError};
use libp2p::identity::Keypair;
use libp2p::{PeerId, dns, noise, quic, tls, yamux};

use crate::handshakes::Handshakes;
use crate::limits::{CONNECT_TIMEOUT, QUIC_CONNECTION_WINDOW, QUIC_IDLE_MS, QUIC_STREAM_WINDOW, STREAMS_MAX};
use crate::listened::Listened;
use crate::marked::MarkedTcp;
use crate::muxer::Muxing;
use crate::socket::Socket;

/// Depth to which the causes of an error are followed.
const SOURCES_MAX: usize = 8;

/// Why a connection was not made, by kind. Found inside the [`io::Error`] that the Swarm reports.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CarryError {
    #[error("timed out")]
    Timeout,
    #[error("gave way to a newer handshake")]
    Displaced,
    #[error("connection refused")]
    Refused,
    #[error("unreachable")]
    Unreachable,
    #[error("address not supported")]
    NotSupported,
    #[error("name not resolved: {0}")]
    Resolve(String),
    #[error("handshake failed: {0}")]
    Handshake(String),
    #[error("{0}")]
    System(String),
}

impl CarryError {
    /// Of an error the operating system gave.
    fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
                Self::Unreachable
            }
            _ => Self::System(error.to_string()),
        }
    }

    /// Of what the Swarm reports for one address.
    pub(crate) fn of_report(error: &TransportError<io::Error>) -> Self {
        match error {
            TransportError::MultiaddrNotSupported(_) => Self::NotSupported,
            TransportError::Other(error) => {
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Self>());
                inner.cloned().unwrap_or_else(|| Self::of_io(error))
            }
        }
    }
}

/// Noise first, TLS 1.3 also offered.
#[derive(Clone)]
struct Security {
    noise: noise::Config,
    tls: tls::Config,
}

type SecureStream<C> = Either<noise::Output<C>, tls::TlsStream<C>>;

impl UpgradeInfo for Security {
    type Info = &'static str;
    type InfoIter = std::iter::Chain<std::iter::Once<&'static str>, std::iter::Once<&'static str>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.noise.protocol_info().chain(self.tls.protocol_info())
    }
}

impl Security {
    fn is_noise(&self, info: &str) -> bool {
        self.noise.protocol_info().any(|name| name == info)
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<C> for Security {
    type Output = (PeerId, SecureStream<C>);
    type Error = CarryError;
    type Future = BoxFuture<'static, Result<Self::Output, CarryError>>;

    fn upgrade_inbound(self, socket: C, info: Self::Info) -> Self::Future {
        if self.is_noise(info) {
            let done = self.noise.upgrade_inbound(socket, info).map_ok(|(peer, stream)| (peer, Either::Left(stream)));
            done.map_err(handshake).boxed()
        } else {
            let done = self.tls.upgrade_inbound(socket, info).map_ok(|(peer, stream)| (peer, Either::Right(stream)));
            done.map_err(handshake).boxed()
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<C> for Security {
    type Output = (PeerId, SecureStream<C>);
    type Error = CarryError;
    type Future = BoxFuture<'static, Result<Self::Output, CarryError>>;

    fn upgrade_outbound(self, socket: C, info: Self::Info) -> Self::Future {
        if self.is_noise(info) {
            let done = self.noise.upgrade_outbound(socket, info).map_ok(|(peer, stream)| (peer, Either::Left(stream)));
            done.map_err(handshake).boxed()
        } else {
            let done = self.tls.upgrade_outbound(socket, info).map_ok(|(peer, stream)| (peer, Either::Right(stream)));
            done.map_err(handshake).boxed()
        }
    }
}

/// The innermost reason says most; the layers around it only name themselves.
fn handshake(error: impl std::error::Error) -> CarryError {
    let mut text = error.to_string();
    let mut source = error.source();
    for _ in 0..SOURCES_MAX {
        let Some(inner) = source else { break };
        text = inner.to_string();
        source = inner.source();
    }
    CarryError::Handshake(text)
}

fn of_quic(error: quic::Error) -> CarryError {
    match error {
        quic::Error::Io(error) => CarryError::of_io(&error),
        quic::Error::HandshakeTimedOut => CarryError::Timeout,
        other => CarryError::Handshake(other.to_string()),
    }
}

fn of_dns(error: dns::Error<CarryError>) -> CarryError {
    match error {
        dns::Error::Transport(error) => error,
        dns::Error::ResolveError(error) => CarryError::Resolve(error.to_string()),
        dns::Error::MultiaddrNotSupported(_) => CarryError::NotSupported,
        dns::Error::TooManyLookups => CarryError::Resolve("too many lookups".into()),
        dns::Error::Dial(errors) => {
            let last = errors.into_iter().map(of_dns).last();
            last.unwrap_or_else(|| CarryError::Resolve("no address".into()))
        }
    }
}

/// A transport as the Swarm takes it.
pub(crate) type Carrier = Boxed<(PeerId, StreamMuxerBox)>;

/// Builds the transport of a node. `mark` is that of connections the node begins. The sockets of QUIC cannot be marked: with
/// a mark it dials from those it listens on alone, whose ports are known.
pub(crate) fn build(keypair: &Keypair, mark: Option<u32>) -> Result<Carrier, String> {
    let security = Security {
        noise: noise::Config::new(keypair).map_err(|error| error.to_string())?,
        tls: tls::Config::new(keypair).map_err(|error| error.to_string())?,
    };
    let mut muxer = yamux::Config::default();
    muxer.set_max_num_streams(STREAMS_MAX);
    let muxer = Muxing(muxer);

    // A function, because a resolver that cannot start consumes the transport it is given.
    let base = || {
        let tcp = MarkedTcp::new(mark)
            .map(|stream, _| Socket::new(stream))
            .map_err(|error| CarryError::of_io(&error))
            .upgrade(Version::V1Lazy)
            .authenticate(security.clone())
            .multiplex(muxer.clone())
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .map_err(|error| error.either(|error| error.either(identity, handshake), handshake));
        let quic = || quic::tokio::Transport::new(quic_config(keypair));
        let free = mark.is_none().then(quic).map_or_else(OptionalTransport::none, OptionalTransport::some);
        let bound = mark.map(|_| Listened::new(quic()));
        let bound = bound.map_or_else(OptionalTransport::none, OptionalTransport::some);
        let quic = free
            .or_transport(bound)
            .map(|either, _| either.into_inner())
            .map_err(|error| error.into_inner())
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .map_err(of_quic);
        let base = tcp.or_transport(quic).map(|either, _| either.into_inner()).map_err(|error| error.into_inner());
        #[cfg(feature = "test-utils")]
        let base = base
            .or_transport(memory(security.clone(), muxer.clone()))
            .map(|either, _| either.into_inner())
            .map_err(|error| error.into_inner());
        base
    };
    match dns::tokio::Transport::system(base()) {
        Ok(named) => Ok(with_timeout(named.map_err(of_dns))),
        Err(error) => {
            tracing::warn!(%error, "no system resolver: only numeric addresses can be dialled");
            Ok(with_timeout(base()))
        }
    }
}

/// Streams inside one process, for tests with many nodes.
#[cfg(feature = "test-utils")]
fn memory(
    security: Security,
    muxer: Muxing,
) -> impl Transport<Output = (PeerId, StreamMuxerBox), Error = CarryError, Dial = impl Send, ListenerUpgrade = impl Send>
+ Send
+ Unpin {
    libp2p::core::transport::MemoryTransport::default()
        .map_err(|_| CarryError::Refused)
        .upgrade(Version::V1Lazy)
        .authenticate(security)
        .multiplex(muxer)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .map_err(|error| error.either(|error| error.either(identity, handshake), handshake))
}

fn quic_config(keypair: &Keypair) -> quic::Config {
    let mut config = quic::Config::new(keypair);
    config.max_concurrent_stream_limit = u32::try_from(STREAMS_MAX).unwrap_or(u32::MAX);
    config.max_idle_timeout = QUIC_IDLE_MS;
    config.max_stream_data = QUIC_STREAM_WINDOW;
    config.max_connection_data = QUIC_CONNECTION_WINDOW;
    config
}

fn with_timeout<T>(base: T) -> Carrier
where
    T: Transport<Output = (PeerId, StreamMuxerBox), Error = CarryError> + Send + Unpin + 'static,
    T::Dial: Send,
    T::ListenerUpgrade: Send,
{
    let timed = TransportTimeout::new(base, CONNECT_TIMEOUT);
    let plain = timed.map_err(|error| match error {
        TransportTimeoutError::Timeout => CarryError::Timeout,
        TransportTimeoutError::TimerError(error) => CarryError::of_io(&error),
        TransportTimeoutError::Other(error) => error,
    });
    Handshakes::new(plain).boxed()
}
