//! Routes of ours, over the socket of [`Netlink`]. It never changes, lists or removes a route with another protocol
//! number than [`PROTOCOL`].

use std::num::NonZeroU32;

use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};
use shoal_protocol::mesh::prefix::Prefix;

use super::links::{family, gone_is_fine};
use super::{Make, Netlink, NetlinkError, PROTOCOL};
use std::net::IpAddr;

/// Where packets to a prefix go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// Into the link of this number.
    Link(u32),
    /// Nowhere: the sender is told that there is no way (EHOSTUNREACH, ICMP).
    Unreachable,
    /// As if the table had nothing for them: the next rule is asked.
    Throw,
}

/// One route of ours. Prefix, table and metric are its key: there is one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Which packets it is for.
    #[serde(with = "crate::vpn::system::state::text")]
    pub to: Prefix,
    /// Where they go.
    pub via: Via,
    /// The table it is in; 254 is main.
    pub table: u32,
    /// The smaller one wins within a table. Not 0: IPv6 makes 1024 of it.
    pub metric: NonZeroU32,
    /// Bytes of the longest packet that goes this way; the link's if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<NonZeroU32>,
    /// The address packets of this machine have that were given none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

impl Route {
    fn is_in_place_of(&self, other: &Self) -> bool {
        (self.to, self.table, self.metric) == (other.to, other.table, other.metric)
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(self.to.address());
        header.destination_prefix_length = self.to.length();
        header.protocol = RouteProtocol::Other(PROTOCOL);
        // Beyond 255 the table is only in its attribute, which is always there.
        header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(self.table));
        attributes.push(RouteAttribute::Priority(self.metric.get()));
        if !self.to.is_default() {
            attributes.push(RouteAttribute::Destination(self.to.address().into()));
        }
        match self.via {
            Via::Link(index) => {
                header.kind = RouteType::Unicast;
                // IPv4 takes a route without a gateway for nothing wider.
                header.scope = if self.to.address().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
                attributes.push(RouteAttribute::Oif(index));
            }
            Via::Unreachable => {
                header.kind = RouteType::Unreachable;
                header.scope = RouteScope::Universe;
            }
            Via::Throw => {
                header.kind = RouteType::Throw;
                header.scope = RouteScope::Universe;
            }
        }
        if let Some(mtu) = self.mtu {
            attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu.get())]));
        }
        if let Some(source) = self.source {
            attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        message
    }

    /// A route of ours as the kernel tells it; none of somebody else's, and of no kind we make.
    fn of(message: &RouteMessage) -> Option<Self> {
        if message.header.protocol != RouteProtocol::Other(PROTOCOL) {
            return None;
        }
        let to = destination(message)?;
        let (mut link, mut metric, mut mtu, mut source) = (None, None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => link = Some(*index),
                RouteAttribute::Priority(number) => metric = NonZeroU32::new(*number),
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(IpAddr::V4(*address)),
                RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => source = Some(IpAddr::V6(*address)),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => NonZeroU32::new(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        let via = match message.header.kind {
            RouteType::Unicast => Via::Link(link?),
            // IPv6 names the loopback link here.
            RouteType::Unreachable => Via::Unreachable,
            RouteType::Throw => Via::Throw,
            _ => return None,
        };
        Some(Self { to, via, table: table(message), metric: metric?, mtu, source })
    }
}

/// The prefix a route is for; everything if it names none.
pub(super) fn destination(message: &RouteMessage) -> Option<Prefix> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    let everything = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    Some(Prefix::around(address.unwrap_or(everything), message.header.destination_prefix_length))
}

/// The link a route leads to, the first of several.
fn link(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
        _ => None,
    })
}

/// The table a route is in.
pub(super) fn table(message: &RouteMessage) -> u32 {
    let named = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    named.unwrap_or_else(|| message.header.table.into())
}

impl Netlink {
    /// Adds a route. The same one is fine; one of ours with its key and another way, MTU or source is replaced; somebody
    /// else's with its key is left alone.
    ///
    /// # Errors
    /// [`NetlinkError`]; `Occupied` where somebody else's is in its place.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let doing = "add a route";
        match self.change(RouteNetlinkMessage::NewRoute(route.message()), Make::New, doing) {
            Err(NetlinkError::Occupied { doing }) => {
                let ours = self.routes()?;
                let Some(there) = ours.iter().find(|other| route.is_in_place_of(other)) else {
                    return Err(NetlinkError::Occupied { doing });
                };
                if there == route {
                    return Ok(());
                }
                self.change(RouteNetlinkMessage::NewRoute(route.message()), Make::Instead, doing)
            }
            other => other,
        }
    }

    /// Removes a route of ours with the key of this one; none there is fine.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn remove_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        // The protocol number is compared by the kernel, the way and what comes with it need not be the same.
        let mut message = Route { mtu: None, source: None, ..*route }.message();
        message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Oif(_)));
        message.header.kind = RouteType::Unspec;
        message.header.scope = RouteScope::NoWhere;
        gone_is_fine(self.change(RouteNetlinkMessage::DelRoute(message), Make::Change, "remove a route"))
    }

    /// All routes of ours, of every table and family, in the kernel's order.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel does not say.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            self.dump(RouteNetlinkMessage::GetRoute(message), "list routes", |message| {
                if let RouteNetlinkMessage::NewRoute(message) = message {
                    routes.extend(Route::of(&message));
                }
            })?;
        }
        Ok(routes)
    }

    /// What routes of anybody's, in every table, lead packets to a link for, each with the link's number. Not what leads
    /// nowhere, and not the machine's own addresses.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel does not say.
    pub fn networks(&mut self) -> Result<Vec<(Prefix, u32)>, NetlinkError> {
        let mut networks = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            self.dump(RouteNetlinkMessage::GetRoute(message), "list routes", |message| {
                if let RouteNetlinkMessage::NewRoute(message) = message
                    && message.header.kind == RouteType::Unicast
                {
                    networks.extend(destination(&message).zip(link(&message)));
                }
            })?;
        }
        Ok(networks)
    }

    /// Removes every route of ours in a table and says how many there were.
    ///
    /// # Errors
    /// [`NetlinkError`], at the first that fails.
    pub fn remove_table(&mut self, table: u32) -> Result<usize, NetlinkError> {
        let ours: Vec<Route> = self.routes()?.into_iter().filter(|route| route.table == table).collect();
        ours.iter().try_for_each(|route| self.remove_route(route))?;
        Ok(ours.len())
    }
}
