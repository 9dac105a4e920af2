//! Whom a program means: names of members to their addresses, from the private network's own table alone, and whether this
//! node may speak to them. It asks no name server: what is looked up says who is spoken to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use shoal_engine::mesh::names::{Member, Named, Zone, named};
use shoal_engine::mesh::packet::{Tuple, tuple};
use shoal_protocol::NodeId;
use tokio::sync::watch;

use super::config::Host;
use super::connection::Connection;
use super::stack::{ConnectError, Stack};
use crate::vpn::plane::{NoPass, Plane};

/// Why nobody is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoWay {
    /// The name is of another domain.
    #[error("the name is not of this network")]
    Elsewhere,
    /// Nobody has the name.
    #[error("nobody has the name")]
    Nobody,
    /// A way or a rule is missing.
    #[error(transparent)]
    Pass(#[from] NoPass),
    /// Nobody took the connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// What leads programs to members. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Guide {
    pub(super) stack: Arc<Stack>,
    pub(super) plane: Arc<Plane>,
    pub(super) zone: watch::Receiver<Arc<Zone>>,
}

impl Guide {
    /// The addresses of who is meant, the better first.
    ///
    /// # Errors
    /// [`NoWay`], for a name.
    pub(super) fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, NoWay> {
        let zone = Arc::clone(&self.zone.borrow());
        match host {
            Host::Address(address) => Ok(vec![address.to_canonical()]),
            Host::Peer(node) => peer(&zone, node),
            Host::Name(name) => match named(name, &zone) {
                Named::Member(member) => Ok(own(member)),
                Named::Nobody => Err(NoWay::Nobody),
                // A label alone is one of this network.
                Named::Elsewhere if !name.contains('.') => {
                    zone.host(&name.to_ascii_lowercase()).map(own).ok_or(NoWay::Nobody)
                }
                Named::Elsewhere => Err(NoWay::Elsewhere),
            },
        }
    }

    /// Whether packets from this node to `to` would be sent.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn may_send(&self, to: SocketAddr, protocol: u8) -> Result<(), NoWay> {
        let source = self.stack.own(to.ip()).ok_or(ConnectError::NoAddress)?;
        // The port on this side is not known yet, and rules do not look at it.
        let tuple = Tuple { source, destination: to.ip(), protocol, ports: Some((0, to.port())) };
        Ok(self.plane.may_send(&tuple)?)
    }

    /// A connection to the first address of who is meant that takes one: many services listen at IPv4 addresses alone.
    ///
    /// # Errors
    /// Why the last of them did not.
    pub(super) async fn connect(&self, host: &Host, port: u16) -> Result<Connection, NoWay> {
        let mut failed = NoWay::Nobody;
        for address in self.addresses(host)? {
            let to = SocketAddr::new(address, port);
            match self.may_send(to, tuple::TCP) {
                Ok(()) => match self.stack.connect(to).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => failed = error.into(),
                },
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

/// IPv6 first: that address is the member's for ever.
fn own(member: &Member) -> Vec<IpAddr> {
    [Some(IpAddr::V6(member.v6)), member.v4.map(IpAddr::V4)].into_iter().flatten().collect()
}

fn peer(zone: &Zone, node: &NodeId) -> Result<Vec<IpAddr>, NoWay> {
    zone.members().iter().find(|member| member.node == *node).map(own).ok_or(NoWay::Nobody)
}
