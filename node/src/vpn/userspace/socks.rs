//! SOCKS5 for programs of this machine: connections and datagrams into the private network, and nowhere else. What is said
//! is read and answered by `shoal_engine::mesh::socks`; this carries it.
//!
//! Started with the network, one task a program; ends with it. Lost then: connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use shoal_engine::mesh::packet::tuple;
use shoal_engine::mesh::socks::{self, Command, MESSAGE_MAX, Reply, Request, SocksError, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::config::Host;
use super::forward::accept;
use super::names::{Guide, NoWay};
use super::stack::ConnectError;
use super::{associate, relay};
use crate::vpn::plane::NoPass;

/// How long a program may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where a request that failed is bound.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The port, and who leads from there.
pub(super) struct Socks {
    pub(super) listener: TcpListener,
    pub(super) guide: Guide,
    /// Places of programs, shared by all ports.
    pub(super) places: Arc<Semaphore>,
}

impl Socks {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        let mut served = JoinSet::new();
        while let Some((local, from, place)) = accept(&self.listener, &self.places).await {
            while served.try_join_next().is_some() {}
            let guide = self.guide.clone();
            served.spawn(async move {
                if let Err(error) = serve(local, &guide).await {
                    tracing::debug!(%error, %from, "a program of SOCKS is left");
                }
                drop(place);
            });
        }
    }
}

/// Why a program is left before anything was carried.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error(transparent)]
    Socks(#[from] SocksError),
    #[error("it cannot go without authentication")]
    Method,
    #[error("it said nothing for too long")]
    Slow,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

async fn serve(mut local: TcpStream, guide: &Guide) -> Result<(), Left> {
    let asked = tokio::time::timeout(PATIENCE, asked(&mut local)).await.map_err(|_| Left::Slow)?;
    let request = match asked {
        Ok(request) => request,
        Err(Left::Socks(SocksError::AddressKind(kind))) => {
            local.write_all(&socks::reply(Reply::NoAddressKind, NOWHERE)).await?;
            return Err(SocksError::AddressKind(kind).into());
        }
        Err(left) => return Err(left),
    };
    match request.command {
        Command::Connect => connect(local, &request, guide).await,
        Command::Associate => associate::run(local, request.port, guide).await.map_err(Left::Io),
        Command::Bind | Command::Other(_) => Ok(local.write_all(&socks::reply(Reply::NoCommand, NOWHERE)).await?),
    }
}

/// Greets, and reads what is wanted.
async fn asked(local: &mut TcpStream) -> Result<Request, Left> {
    let mut bytes = Vec::with_capacity(MESSAGE_MAX);
    let is_offered = read(local, &mut bytes, socks::greeting).await?;
    local.write_all(&socks::method(is_offered)).await?;
    if !is_offered {
        return Err(Left::Method);
    }
    read(local, &mut bytes, socks::request).await
}

/// Reads a message and says where it ends; none while it is not all there.
type Reading<T> = fn(&[u8]) -> Result<Option<(T, usize)>, SocksError>;

/// Reads one message; what comes behind it stays in `bytes`.
async fn read<T>(local: &mut TcpStream, bytes: &mut Vec<u8>, message: Reading<T>) -> Result<T, Left> {
    loop {
        if let Some((said, end)) = message(bytes)? {
            bytes.drain(..end.min(bytes.len()));
            return Ok(said);
        }
        let mut more = [0; MESSAGE_MAX];
        // No message is longer: there is room until one is all there. A program waits for the answer to what it said, so
        // that nothing of what is carried later is read here.
        let room = more.get_mut(..MESSAGE_MAX.saturating_sub(bytes.len())).unwrap_or_default();
        match local.read(room).await? {
            0 => return Err(Left::Io(std::io::ErrorKind::UnexpectedEof.into())),
            length => bytes.extend_from_slice(room.get(..length).unwrap_or_default()),
        }
    }
}

async fn connect(mut local: TcpStream, request: &Request, guide: &Guide) -> Result<(), Left> {
    match guide.connect(&host(&request.target), request.port).await {
        Ok(far) => {
            local.write_all(&socks::reply(Reply::Succeeded, far.local())).await?;
            relay::join(local, far).await;
            Ok(())
        }
        Err(no) => {
            tracing::debug!(error = %no, "a connection of SOCKS is refused");
            Ok(local.write_all(&socks::reply(answer(no), NOWHERE)).await?)
        }
    }
}

/// Who is meant; an address that was written as a name is an address.
pub(super) fn host(target: &Target) -> Host {
    match target {
        Target::Address(address) => Host::Address(*address),
        Target::Name(name) => name.parse().map_or_else(|_| Host::Name(name.clone()), Host::Address),
    }
}

/// The word of the RFC for why not.
const fn answer(no: NoWay) -> Reply {
    match no {
        NoWay::Elsewhere | NoWay::Pass(NoPass::Denied(_)) => Reply::NotAllowed,
        NoWay::Nobody | NoWay::Pass(NoPass::Down) => Reply::HostUnreachable,
        NoWay::Pass(NoPass::NoWay) | NoWay::Connect(ConnectError::NoAddress) => Reply::NetworkUnreachable,
        NoWay::Connect(ConnectError::Refused) => Reply::Refused,
        NoWay::Connect(ConnectError::Silent) => Reply::Expired,
        NoWay::Connect(ConnectError::Busy) => Reply::Failure,
    }
}

/// Whether datagrams may go there.
pub(super) fn may_send(guide: &Guide, to: SocketAddr) -> bool {
    guide.may_send(to, tuple::UDP).is_ok()
}
