//! The name server of one node: it answers programs of its own machine, on its own addresses in the private network, and
//! nobody else. What it answers is decided by `shoal_engine::mesh::names`; this carries it.
//!
//! - `desk`: what the control task tells it of names and addresses, and what is kept of the own name.
//! - `server`: sockets, datagrams, connections, their bounds. `forward`: what is asked of others.
//! - `leads`, with [`super::system::resolver`]: how programs come to ask here.
//!
//! Where a node is in several networks, each has its server, and each answers programs for all of them.
//!
//! Programs reach it by the IPv6 address, which never changes, and by the IPv4 address while there is one; what they send
//! there never leaves the machine. Members reach it under these addresses as well, and are refused: a member has a name
//! server of its own, and the servers this one asks are nobody else's to use. Only those whose packets may leave through
//! this machine, as an exit, are told about other domains: what they look for is then as little seen by the network they
//! are in as what they send there.

mod desk;
mod forward;
mod leads;
mod server;

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use shoal_engine::mesh::names::Zone;
use shoal_protocol::mesh::name::HostLabel;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) use desk::Desk;
use leads::Before;
pub(crate) use leads::{Leads, Led};
use server::Server;

use super::machine::{Machine, Slot};
use super::system::netlink::Netlink;
use super::system::resolver::{self, Asks, Nameserver};
use crate::problem::with_causes;

/// Where servers of the system answer.
const PORT: u16 = 53;

/// What is asked of names by flags and file, checked.
#[derive(Clone, Debug)]
pub struct NamesConfig {
    /// Whether programs of this machine are answered.
    pub serve: bool,
    /// What this node would like to be called.
    pub label: Option<HostLabel>,
    /// The network's name as a label, if it makes one.
    pub network: Option<String>,
}

/// Whom other domains are asked of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Others {
    /// The servers this machine asked before.
    #[default]
    Before,
    /// The exit everything goes through, under its address in this network.
    Exit(Ipv6Addr),
    /// Nobody: all goes through an exit, and there is none.
    Nobody,
}

/// What the name server is told as it changes.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// What to answer from.
    pub(crate) zone: watch::Receiver<Arc<Zone>>,
    /// This node's IPv4 address.
    pub(crate) v4: watch::Receiver<Option<std::net::Ipv4Addr>>,
    /// Whom other domains are asked of.
    pub(crate) others: watch::Receiver<Others>,
}

/// The running name server, and what was done so that programs ask it.
#[derive(Debug)]
pub(crate) struct Dns {
    /// The server, and who leads programs anew.
    tasks: Vec<JoinHandle<()>>,
    machine: Arc<Machine>,
    slot: Slot,
}

impl Dns {
    /// Opens the sockets and leads programs here. What cannot be had is said in the log, and costs names alone: none where
    /// the port is taken or the process may not have it; no programs that ask by themselves where the system has no way.
    pub(crate) fn start(
        (interface, own): (&str, Ipv6Addr),
        told: Told,
        (machine, slot): (&Arc<Machine>, Slot),
    ) -> Option<Self> {
        let domains = told.zone.borrow().domains();
        let (zone, others) = (told.zone.clone(), told.others.clone());
        let server = match Server::open(own, told, (Arc::clone(machine), slot)) {
            Ok(server) => server,
            Err(error) => {
                tracing::warn!(
                    %error, address = %own,
                    "no names in the private network: port 53 is not to be had; look with `ss -lnp 'sport = :53'`, give \
                     the service AmbientCapabilities=CAP_NET_BIND_SERVICE, or switch it off with --no-dns"
                );
                return None;
            }
        };
        machine.set_zone(slot, Some(zone));
        let led = Led { interface: interface.to_owned(), own, domains, asks: asks(*others.borrow()) };
        let led = machine.leads().add(slot, led, machine);
        let before = match led {
            Ok(Before::Resolved) => vec![resolver::RESOLVED],
            Ok(Before::Servers(servers)) => places(&servers),
            Err(error) => {
                tracing::warn!(
                    error = %with_causes(&error), server = %own,
                    "programs of this machine are not led to the names of the private network; name the server in your \
                     resolver's own configuration, for the domain shoal.internal"
                );
                Vec::new()
            }
        };
        let before = before.into_iter().filter(|server| server.ip() != own).collect();
        let follows = follow((Arc::clone(machine), slot), others);
        let tasks = vec![tokio::spawn(server.run(before)), tokio::spawn(follows)];
        Some(Self { tasks, machine: Arc::clone(machine), slot })
    }

    /// Leads programs back to where they asked before, or to the servers of other networks, then closes the sockets. Blocks.
    pub(crate) fn stop(self) {
        self.machine.leads().remove(self.slot, &self.machine);
        self.machine.set_zone(self.slot, None);
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What programs ask here: everything, where nobody else may see what they ask.
const fn asks(others: Others) -> Asks {
    match others {
        Others::Before => Asks::Ours,
        Others::Exit(_) | Others::Nobody => Asks::Everything,
    }
}

/// Leads programs anew whenever it changes what they are to ask here.
async fn follow((machine, slot): (Arc<Machine>, Slot), mut others: watch::Receiver<Others>) {
    let mut now = asks(*others.borrow_and_update());
    while others.changed().await.is_ok() {
        let new = asks(*others.borrow_and_update());
        if std::mem::replace(&mut now, new) == new {
            continue;
        }
        let machine = Arc::clone(&machine);
        let leading = tokio::task::spawn_blocking(move || machine.leads().ask(slot, new));
        if let Ok(Err(error)) = leading.await {
            tracing::warn!(
                error = %with_causes(&error),
                "programs of this machine may ask others than the exit about names; see `cat /etc/resolv.conf`"
            );
        }
    }
}

/// Where these servers are.
fn places(servers: &[Nameserver]) -> Vec<SocketAddr> {
    match Netlink::open() {
        Ok(mut netlink) => servers.iter().filter_map(|server| place(server, &mut netlink)).collect(),
        Err(error) => {
            tracing::warn!(error = %with_causes(&error), "the servers of other domains are not found");
            Vec::new()
        }
    }
}

/// Where a server is; none where its interface is gone.
fn place(server: &Nameserver, netlink: &mut Netlink) -> Option<SocketAddr> {
    let Some(name) = &server.interface else { return Some(SocketAddr::new(server.address, PORT)) };
    let link = netlink.link(name).ok()??;
    match server.address {
        std::net::IpAddr::V6(address) => Some(SocketAddrV6::new(address, PORT, 0, link.index).into()),
        std::net::IpAddr::V4(_) => None,
    }
}
