//! The name server of one node: it answers programs of its own machine, on its own addresses in the private network, and
//! nobody else. What it answers is decided by `shoal_engine::mesh::names`; this carries it.
//!
//! - `desk`: what the control task tells it of names and addresses, and what is kept of the own name.
//! - `server`: sockets, datagrams, connections, their bounds. `forward`: what is asked of others.
//! - [`super::system::resolver`]: how programs come to ask here.
//!
//! Programs reach it by the IPv6 address, which never changes, and by the IPv4 address while there is one; what they send
//! there never leaves the machine. Whoever is reached by others under these addresses, the members, is refused: a member
//! has a name server of its own, and the servers this one asks are nobody else's to use.

mod desk;
mod forward;
mod server;

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;
use std::sync::Arc;

use shoal_engine::mesh::names::Zone;
use shoal_protocol::mesh::name::HostLabel;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) use desk::Desk;
use server::Server;

use super::system::netlink::Netlink;
use super::system::resolver::{self, Nameserver, ResolvConf, ResolverError, Way};
use super::system::state::{Journal, Made};

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

/// What the name server is told as it changes.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// What to answer from.
    pub(crate) zone: watch::Receiver<Arc<Zone>>,
    /// This node's IPv4 address.
    pub(crate) v4: watch::Receiver<Option<std::net::Ipv4Addr>>,
}

/// The running name server, and what was done so that programs ask it.
#[derive(Debug)]
pub(crate) struct Dns {
    task: JoinHandle<()>,
    way: Option<Way>,
    /// Whom other domains are asked of.
    upstreams: watch::Sender<Vec<SocketAddr>>,
}

impl Dns {
    /// Undoes what a run before left of this in the system; with the others of the journal where all is undone anyway.
    pub(crate) fn clear(journal: &mut Journal, netlink: &mut Netlink) {
        match journal.undo(netlink, |made| matches!(made, Made::Resolver(_))) {
            Ok(undone) => {
                for failed in undone.iter().filter_map(|one| one.result.as_ref().err()) {
                    tracing::warn!(error = %crate::problem::with_causes(failed), "the system's resolver is not as it was");
                }
            }
            Err(error) => {
                tracing::warn!(error = %crate::problem::with_causes(&error), "the system's resolver is not looked at");
            }
        }
    }

    /// Opens the sockets and leads programs here. What cannot be had is said in the log, and costs names alone: none where
    /// the port is taken or the process may not have it; no programs that ask by themselves where the system has no way.
    pub(crate) fn start(
        interface: &str,
        own: Ipv6Addr,
        told: Told,
        journal: &mut Journal,
        netlink: &mut Netlink,
        data: &Path,
    ) -> Option<Self> {
        let domains = told.zone.borrow().domains();
        let (upstreams, others) = watch::channel(Vec::new());
        let server = match Server::open(own, told, others) {
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
        let led = resolver::Server { interface, address: own, domains: &domains };
        let way = match lead(&led, journal, netlink, data) {
            Ok((way, servers)) => {
                upstreams.send_replace(servers.into_iter().filter(|server| server.ip() != own).collect());
                Some(way)
            }
            Err(error) => {
                tracing::warn!(
                    error = %crate::problem::with_causes(&error), server = %own,
                    "programs of this machine are not led to the names of the private network; name the server in your \
                     resolver's own configuration, for the domain shoal.internal"
                );
                None
            }
        };
        let task = tokio::spawn(server.run());
        Some(Self { task, way, upstreams })
    }

    /// Other domains are asked of these servers from now on, the first that answers; none: they are refused. So whoever
    /// sends this machine's packets through an exit leads its questions there too.
    #[expect(dead_code, reason = "for the exit, whose shell says when it is in use")]
    pub(crate) fn ask_others_of(&self, servers: Vec<SocketAddr>) {
        self.upstreams.send_replace(servers);
    }

    /// Leads programs back to where they asked before, then closes the sockets. Blocks. What systemd-resolved was told of
    /// the device goes with that.
    pub(crate) fn stop(self, journal: &mut Journal, netlink: &mut Netlink) {
        if let Some(Way::File(_)) = &self.way {
            Self::clear(journal, netlink);
        }
        self.task.abort();
    }
}

/// Leads programs to the server; the servers they asked before, where it has to ask those for them.
fn lead(
    server: &resolver::Server<'_>,
    journal: &mut Journal,
    netlink: &mut Netlink,
    data: &Path,
) -> Result<(Way, Vec<SocketAddr>), ResolverError> {
    let way = Way::find(Path::new(ResolvConf::PATH), data)?;
    let servers = match &way {
        Way::Resolved(resolved) => {
            resolved.register(server)?;
            Vec::new()
        }
        Way::File(conf) => {
            let before = conf.nameservers()?;
            conf.keep()?;
            journal.note(&[Made::Resolver(conf.clone())])?;
            conf.install(server.address).inspect_err(|_| Dns::clear(journal, netlink))?;
            before.iter().filter_map(|server| place(server, netlink)).collect()
        }
    };
    Ok((way, servers))
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
