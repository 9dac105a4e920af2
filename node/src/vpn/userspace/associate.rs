//! Datagrams of one SOCKS program: from a port of this machine to members and back, for as long as the program keeps its
//! connection open. Nobody but who keeps it is listened to.

use std::io;
use std::net::{IpAddr, SocketAddr};

use shoal_engine::mesh::socks::{self, DATAGRAM_HEADER_MAX, Reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::datagrams::{DATAGRAM_MAX, Datagrams};
use super::names::Guide;
use super::socks::{host, may_send};

/// Carries until the program closes its connection; `port` is where it will send from, if it knows.
pub(super) async fn run(mut local: TcpStream, port: u16, guide: &Guide) -> io::Result<()> {
    let (own, from) = (local.local_addr()?.ip(), local.peer_addr()?.ip());
    let Some(datagrams) = Datagrams::open(&guide.stack) else {
        return local.write_all(&socks::reply(Reply::Failure, SocketAddr::new(own, 0))).await;
    };
    let near = UdpSocket::bind(SocketAddr::new(own, 0)).await?;
    local.write_all(&socks::reply(Reply::Succeeded, near.local_addr()?)).await?;
    let mut client = (port > 0).then(|| SocketAddr::new(from, port));
    let mut bytes = vec![0; DATAGRAM_HEADER_MAX + DATAGRAM_MAX];
    let mut back = vec![0; DATAGRAM_MAX];
    let mut word = [0; 64];
    loop {
        tokio::select! {
            // Whatever it says there means nothing; that it ends means that this ends.
            said = local.read(&mut word) => if !matches!(said, Ok(length) if length > 0) { return Ok(()) },
            got = near.recv_from(&mut bytes) => match got {
                Ok((length, sender)) if is_client(&mut client, from, sender) => {
                    outward(bytes.get(..length).unwrap_or_default(), &datagrams, guide);
                }
                // Of somebody else, or the system's word about one that was sent before.
                Ok(_) | Err(_) => {}
            },
            (length, sender) = datagrams.receive(&mut back) => if let Some(client) = client {
                let payload = back.get(..length).unwrap_or_default();
                // Lost like any datagram, if the program does not read.
                let _ = near.try_send_to(&[&socks::datagram_header(sender)[..], payload].concat(), client);
            },
        }
    }
}

/// Whether a datagram is of who keeps the connection: the first port that sends from its address counts.
fn is_client(client: &mut Option<SocketAddr>, from: IpAddr, sender: SocketAddr) -> bool {
    sender.ip() == from && *client.get_or_insert(sender) == sender
}

/// What may not go or finds no room is lost, as datagrams are.
fn outward(bytes: &[u8], datagrams: &Datagrams, guide: &Guide) {
    let Ok((target, port, at)) = socks::datagram(bytes) else { return };
    let addresses = guide.addresses(&host(&target)).unwrap_or_default();
    let places = addresses.into_iter().map(|address| SocketAddr::new(address, port));
    if let Some(to) = places.into_iter().find(|to| may_send(guide, *to)) {
        datagrams.send(bytes.get(at..).unwrap_or_default(), to);
    }
}
