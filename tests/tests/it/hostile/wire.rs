//! What an attacker needs of the wire, by hand, because no library would send it: names of multistream-select, headers of
//! yamux, frames of ours, each as wrong as asked. It keeps no rule but to read what it is told to.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::core::upgrade::OutboundConnectionUpgrade;
use libp2p::identity::Keypair;
use libp2p::{noise, tls};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

pub(super) const SELECT: &str = "/multistream/1.0.0";
pub(super) const NOISE: &str = "/noise";
pub(super) const TLS: &str = "/tls/1.0.0";
pub(super) const YAMUX: &str = "/yamux/1.0.0";

/// Kinds and flags of yamux frames.
pub(super) const DATA: u8 = 0;
pub(super) const WINDOW: u8 = 1;
pub(super) const PING: u8 = 2;
pub(super) const SYN: u16 = 1;
pub(super) const ACK: u16 = 2;
pub(super) const FIN: u16 = 4;

/// Bytes both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A connection from one of 250 * 250 addresses of loopback, so that ports do not run out.
pub(super) async fn tcp(to: SocketAddr, number: usize) -> io::Result<Compat<TcpStream>> {
    let [a, b] = [number / 250 % 250, number % 250].map(|part| u8::try_from(part).unwrap_or(0) + 1);
    let socket = TcpSocket::new_v4()?;
    socket.set_zero_linger()?;
    socket.bind((Ipv4Addr::new(127, 1, a, b), 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream.compat())
}

/// A message of multistream-select.
pub(super) fn name(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).expect("short names only");
    [&[length], text.as_bytes(), b"\n"].concat()
}

/// What an opener says first.
pub(super) fn proposal(protocol: &str) -> Vec<u8> {
    [name(SELECT), name(protocol)].concat()
}

/// Agrees on a protocol.
pub(super) async fn select(stream: &mut dyn Duplex, protocol: &str) -> io::Result<()> {
    let wanted = proposal(protocol);
    stream.write_all(&wanted).await?;
    stream.flush().await?;
    let mut answer = vec![0; wanted.len()];
    stream.read_exact(&mut answer).await?;
    if answer == wanted { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// A secured connection of a fresh identity, at yamux.
pub(super) async fn muxed(to: SocketAddr, number: usize, security: &str) -> io::Result<Box<dyn Duplex>> {
    let mut stream = tcp(to, number).await?;
    select(&mut stream, security).await?;
    let key = Keypair::generate_ed25519();
    let mut secured: Box<dyn Duplex> = if security == NOISE {
        let config = noise::Config::new(&key).map_err(io::Error::other)?;
        Box::new(config.upgrade_outbound(stream, NOISE).await.map_err(io::Error::other)?.1)
    } else {
        let config = tls::Config::new(&key).map_err(io::Error::other)?;
        Box::new(config.upgrade_outbound(stream, TLS).await.map_err(io::Error::other)?.1)
    };
    select(&mut *secured, YAMUX).await?;
    Ok(secured)
}

/// The header of a yamux frame.
pub(super) fn header(kind: u8, flags: u16, stream: u32, length: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[1] = kind;
    out[2..4].copy_from_slice(&flags.to_be_bytes());
    out[4..8].copy_from_slice(&stream.to_be_bytes());
    out[8..].copy_from_slice(&length.to_be_bytes());
    out
}

/// A yamux frame with these bytes.
pub(super) fn data(flags: u16, stream: u32, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short frames only");
    [&header(DATA, flags, stream, length)[..], bytes].concat()
}

/// Opens a stream that proposes a protocol and says this on it.
pub(super) fn open(stream: u32, protocol: &str, bytes: &[u8]) -> Vec<u8> {
    data(SYN, stream, &[&proposal(protocol), bytes].concat())
}

/// A control request of ours.
pub(super) fn request(id: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(13 + body.len()).expect("short bodies only");
    [&length.to_be_bytes()[..], &[0], &id.to_be_bytes(), &10_000_u32.to_be_bytes(), body].concat()
}

/// Reads and forgets until the other side is gone.
pub(super) async fn until_gone(stream: &mut dyn Duplex) -> io::Result<()> {
    let mut sink = vec![0; 16 * 1024];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

/// Sends, then reads until the other side is gone.
pub(super) async fn say_and_stay(stream: &mut dyn Duplex, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await?;
    until_gone(stream).await
}
