//! The name server of one node: it answers programs of its own machine, on its own addresses in the private network, and
//! nobody else. What it answers is decided by `shoal_engine::mesh::names`; this carries it.
//!
//! - `desk`: what the control task tells it of names and addresses, and what is kept of the own name.
//! - `server`: sockets, datagrams, connections, their bounds. `forward`: what is asked of others.
//! - [`super::system::resolver`]: how programs come to ask here.
//!
//! Programs reach it by the IPv6 address, which never changes, and by the IPv4 address while there is one; what they send
//! there never leaves the machine. Members reach it under these addresses as well, and are refused: a member has a name
//! server of its own, and the servers this one asks are nobody else's to use. Only those whose packets may leave through
//! this machine, as an exit, are told about other domains: what they look for is then as little seen by the network they
//! are in as what they send there.

mod desk;
mod forward;
mod server;

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_engine::mesh::names::Zone;
use shoal_protocol::mesh::name::HostLabel;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) use desk::Desk;
use server::Server;

use super::system::netlink::Netlink;
use super::system::resolver::{self, Asks, Nameserver, ResolvConf, ResolverError, Way};
use super::system::state::{Journal, Made};
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

/// How programs are led here, until they are led back.
#[derive(Debug)]
struct Led {
    way: Way,
    interface: String,
    own: Ipv6Addr,
    domains: Vec<String>,
}

impl Led {
    /// Programs ask here about our domains, or about all. Blocks.
    fn lead(&self, asks: Asks) -> Result<(), ResolverError> {
        let server = resolver::Server { interface: &self.interface, address: self.own, domains: &self.domains };
        match &self.way {
            Way::Resolved(resolved) => resolved.register(&server, asks),
            Way::File(conf) => conf.install(self.own, asks),
        }
    }
}

/// Shared by whoever leads programs anew and whoever leads them back; none after the latter.
type LedOnce = Arc<Mutex<Option<Led>>>;

/// The running name server, and what was done so that programs ask it.
#[derive(Debug)]
pub(crate) struct Dns {
    /// The server, and who leads programs anew.
    tasks: Vec<JoinHandle<()>>,
    led: LedOnce,
}

impl Dns {
    /// Undoes what a run before left of this in the system; with the others of the journal where all is undone anyway.
    pub(crate) fn clear(journal: &mut Journal, netlink: &mut Netlink) {
        match journal.undo(netlink, |made| matches!(made, Made::Resolver(_))) {
            Ok(undone) => {
                for failed in undone.iter().filter_map(|one| one.result.as_ref().err()) {
                    tracing::warn!(error = %with_causes(failed), "the system's resolver is not as it was");
                }
            }
            Err(error) => {
                tracing::warn!(error = %with_causes(&error), "the system's resolver is not looked at");
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
        let others = told.others.clone();
        let server = match Server::open(own, told) {
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
        let led = Way::find(Path::new(ResolvConf::PATH), data).and_then(|way| {
            let led = Led { way, interface: interface.to_owned(), own, domains };
            let before = lead(&led, asks(*others.borrow()), journal, netlink)?;
            Ok((led, before))
        });
        let (led, before) = match led {
            Ok((led, before)) => (Some(led), before),
            Err(error) => {
                tracing::warn!(
                    error = %with_causes(&error), server = %own,
                    "programs of this machine are not led to the names of the private network; name the server in your \
                     resolver's own configuration, for the domain shoal.internal"
                );
                (None, Vec::new())
            }
        };
        let led = Arc::new(Mutex::new(led));
        let before = before.into_iter().filter(|server| server.ip() != own).collect();
        let tasks = vec![tokio::spawn(server.run(before)), tokio::spawn(follow(Arc::clone(&led), others))];
        Some(Self { tasks, led })
    }

    /// Leads programs back to where they asked before, then closes the sockets. Blocks. What systemd-resolved was told of
    /// the device goes with that.
    pub(crate) fn stop(self, journal: &mut Journal, netlink: &mut Netlink) {
        // Taken: nobody leads programs here again.
        let led = self.led.lock().unwrap_or_else(PoisonError::into_inner).take();
        if led.is_some_and(|led| matches!(led.way, Way::File(_))) {
            Self::clear(journal, netlink);
        }
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
async fn follow(led: LedOnce, mut others: watch::Receiver<Others>) {
    let mut now = asks(*others.borrow_and_update());
    while others.changed().await.is_ok() {
        let new = asks(*others.borrow_and_update());
        if std::mem::replace(&mut now, new) == new {
            continue;
        }
        let led = Arc::clone(&led);
        let leading = tokio::task::spawn_blocking(move || {
            let led = led.lock().unwrap_or_else(PoisonError::into_inner);
            led.as_ref().map_or(Ok(()), |led| led.lead(new))
        });
        if let Ok(Err(error)) = leading.await {
            tracing::warn!(
                error = %with_causes(&error),
                "programs of this machine may ask others than the exit about names; see `cat /etc/resolv.conf`"
            );
        }
    }
}

/// Leads programs to the server; the servers they asked before, where it has to ask those for them.
fn lead(led: &Led, asks: Asks, journal: &mut Journal, netlink: &mut Netlink) -> Result<Vec<SocketAddr>, ResolverError> {
    match &led.way {
        Way::Resolved(_) => {
            led.lead(asks)?;
            Ok(vec![resolver::RESOLVED])
        }
        Way::File(conf) => {
            let before = conf.nameservers()?;
            conf.keep()?;
            journal.note(&[Made::Resolver(conf.clone())])?;
            led.lead(asks).inspect_err(|_| Dns::clear(journal, netlink))?;
            Ok(before.iter().filter_map(|server| place(server, netlink)).collect())
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
