//! A program that speaks SOCKS5, in a namespace: what it says is written here once more, byte by byte, so that no mistake of
//! the node's own reader hides in both.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::space::Space;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where to.
#[derive(Clone, Debug)]
pub enum To {
    /// An address.
    Address(IpAddr),
    /// A name.
    Name(String),
}

impl To {
    fn written(&self, port: u16) -> Vec<u8> {
        let mut out = match self {
            Self::Address(IpAddr::V4(address)) => [&[1][..], &address.octets()].concat(),
            Self::Address(IpAddr::V6(address)) => [&[4][..], &address.octets()].concat(),
            Self::Name(name) => [&[3, name.len() as u8][..], name.as_bytes()].concat(),
        };
        out.extend(port.to_be_bytes());
        out
    }
}

/// Says what is wanted; the connection, and the number of the answer with the place it names.
///
/// # Errors
/// If the answer is none.
pub fn ask(space: &Space, socks: SocketAddr, command: u8, to: &To, port: u16) -> Result<(TcpStream, u8, SocketAddr)> {
    let mut stream = space.inside(|| TcpStream::connect_timeout(&socks, PATIENCE).context("no SOCKS"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&[5, 2, 2, 0])?;
    let mut method = [0; 2];
    stream.read_exact(&mut method).context("no method")?;
    ensure!(method == [5, 0], "{method:?}");
    stream.write_all(&[&[5, command, 0][..], &to.written(port)].concat())?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).context("no reply")?;
    ensure!(head[0] == 5 && head[2] == 0, "{head:?}");
    let mut place = vec![0; if head[3] == 4 { 18 } else { 6 }];
    stream.read_exact(&mut place)?;
    let (address, port) = place.split_at(place.len() - 2);
    let port = u16::from_be_bytes([port[0], port[1]]);
    let address = match <[u8; 4]>::try_from(address) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(address)?),
    };
    Ok((stream, head[1], SocketAddr::new(address, port)))
}

/// A connection to a member.
///
/// # Errors
/// If the answer is another than that it is there.
pub fn connect(space: &Space, socks: SocketAddr, to: &To, port: u16) -> Result<TcpStream> {
    let (stream, answer, _) = ask(space, socks, 1, to, port)?;
    ensure!(answer == 0, "{to:?}: answer {answer}");
    Ok(stream)
}

/// Datagrams to members, for as long as it is kept.
#[derive(Debug)]
pub struct Associated {
    /// Its end ends all.
    pub stream: TcpStream,
    socket: UdpSocket,
    node: SocketAddr,
}

/// Asks for datagrams.
///
/// # Errors
/// If they are not to be had.
pub fn associate(space: &Space, socks: SocketAddr) -> Result<Associated> {
    let (stream, answer, node) = ask(space, socks, 3, &To::Address([0, 0, 0, 0].into()), 0)?;
    ensure!(answer == 0, "answer {answer}");
    let socket = space.inside(|| Ok(UdpSocket::bind("127.0.0.1:0")?))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(Associated { stream, socket, node })
}

impl Associated {
    /// Sends one.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn send(&self, to: &To, port: u16, payload: &[u8]) -> Result<()> {
        self.socket.send_to(&[&[0; 3][..], &to.written(port), payload].concat(), self.node)?;
        Ok(())
    }

    /// Waits two seconds for one: who sent it, and what.
    ///
    /// # Errors
    /// If none comes, or one that is none.
    pub fn receive(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut buffer = vec![0; 65_536];
        let length = self.socket.recv(&mut buffer)?;
        let head = if buffer[3] == 4 { 22 } else { 10 };
        ensure!(length >= head && buffer[..3] == [0; 3], "{:?}", &buffer[..length]);
        Ok((buffer[3..head].to_vec(), buffer[head..length].to_vec()))
    }
}
