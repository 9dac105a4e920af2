//! Questions about other domains, asked of the servers this machine asked before. What goes out carries no mark of the
//! node's own sockets: it is a program's question, and goes where the packets of programs go, through an exit if one is
//! used. It decides neither who may ask nor what is an answer.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use shoal_engine::mesh::names::{Asked, Over};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::clock;

/// Servers asked for one question: as many as a resolver reads from its file.
pub(super) const SERVERS_MAX: usize = 3;
/// How long one server is waited for: with three of them less than the ten seconds after which resolvers give up.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Longest answer, bytes: of a datagram and of a stream (RFC 1035 §4.2.2).
const LENGTH_MAX: usize = 65_535;

/// The answer of the first of these servers that gives one, ready for the asker.
pub(super) async fn ask(asked: &Asked, servers: &[SocketAddr], over: Over) -> Option<Vec<u8>> {
    for server in servers.iter().take(SERVERS_MAX) {
        let answer = match over {
            Over::Udp => timeout(ANSWER_MAX, by_datagram(asked, *server)).await,
            Over::Tcp => timeout(ANSWER_MAX, by_stream(asked, *server)).await,
        };
        match answer {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%server, %error, "a name server is not to be asked"),
            Err(_) => tracing::debug!(%server, "a name server does not answer"),
        }
    }
    None
}

/// A port and a number of its own for every question, both random: who cannot see the question has to guess them.
async fn by_datagram(asked: &Asked, server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let number = number();
    socket.send(&asked.forwarded(number)).await?;
    let mut buffer = vec![0; LENGTH_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What is no answer to this is somebody's guess: the right one may still come.
        if let Some(answer) = buffer.get(..length).and_then(|bytes| asked.answered(bytes, number)) {
            return Ok(answer);
        }
    }
}

async fn by_stream(asked: &Asked, server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let number = number();
    write(&mut stream, &asked.forwarded(number)).await?;
    let answer = read(&mut stream, LENGTH_MAX).await?;
    asked.answered(&answer, number).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

fn number() -> u16 {
    let mut bytes = [0; 2];
    clock::fill_random(&mut bytes);
    u16::from_be_bytes(bytes)
}

/// Reads one message of a stream: length u16 BE || message, at most `most` bytes.
pub(super) async fn read(stream: &mut TcpStream, most: usize) -> std::io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes one message; what is too long for one is none.
pub(super) async fn write(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData))?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await
}
