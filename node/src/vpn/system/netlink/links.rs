//! Links and their addresses, over the socket of [`Netlink`]. It makes no link: a TUN device is made by opening it.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Make, Netlink, NetlinkError};

/// What the kernel says of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number, never given twice while the namespace lives.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it was switched on.
    pub up: bool,
    /// Bytes of the longest packet.
    pub mtu: u32,
    /// Packets its queue takes.
    pub queue_length: u32,
    /// Segments the kernel puts in one super-packet at most.
    pub gso_max_segments: u32,
    /// Whether it is a TUN or TAP device.
    pub tun: bool,
}

impl Link {
    pub(super) fn of(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            mtu: 0,
            queue_length: 0,
            gso_max_segments: 0,
            tun: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::TxQueueLen(length) => link.queue_length = *length,
                LinkAttribute::GsoMaxSegs(segments) => link.gso_max_segments = *segments,
                LinkAttribute::LinkInfo(infos) => {
                    link.tun = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Tun)));
                }
                _ => {}
            }
        }
        link
    }
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The link's number.
    pub link: u32,
    /// The address itself, all of its bits.
    pub address: IpAddr,
    /// Bits that are the same for all on this link; the kernel makes a route of them.
    pub prefix_length: u8,
}

impl Address {
    pub(super) fn of(message: &AddressMessage) -> Option<Self> {
        let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
        let local = find(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        // IPv6 says it in `Address` alone; IPv4 says the far end there, if there is one.
        let address = local.or_else(|| {
            find(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        })?;
        Some(Self { link: message.header.index, address, prefix_length: message.header.prefix_len })
    }

    fn message(&self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family(self.address);
        message.header.index = self.link;
        message.header.prefix_len = self.prefix_length;
        message.header.scope = AddressScope::Universe;
        message.attributes = vec![AddressAttribute::Local(self.address), AddressAttribute::Address(self.address)];
        if self.address.is_ipv6() {
            // Nobody else is on the link to ask; without it the address is of no use for a second.
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        message
    }
}

pub(super) const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn by_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

impl Netlink {
    /// The link of this name, if there is one.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel does not say.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.ask(RouteNetlinkMessage::GetLink(message), "find a link by its name")? {
            Some(RouteNetlinkMessage::NewLink(message)) => Ok(Some(Link::of(&message))),
            _ => Ok(None),
        }
    }

    /// All links of the namespace.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel does not say.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut links = Vec::new();
        self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), "list links", |message| {
            if let RouteNetlinkMessage::NewLink(message) = message {
                links.push(Link::of(&message));
            }
        })?;
        Ok(links)
    }

    fn set(&mut self, message: LinkMessage, doing: &'static str) -> Result<(), NetlinkError> {
        self.change(RouteNetlinkMessage::SetLink(message), Make::Change, doing)
    }

    /// Switches a link on or off.
    ///
    /// # Errors
    /// [`NetlinkError`]; `Missing` without such a link.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let mut message = by_index(index);
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        self.set(message, "switch a link on or off")
    }

    /// Sets the bytes of a link's longest packet.
    ///
    /// # Errors
    /// [`NetlinkError`]; `Refused` beyond what the link can.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = by_index(index);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set(message, "set the MTU of a link")
    }

    /// Sets the packets a link's queue takes.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn set_queue_length(&mut self, index: u32, packets: u32) -> Result<(), NetlinkError> {
        let mut message = by_index(index);
        message.attributes.push(LinkAttribute::TxQueueLen(packets));
        self.set(message, "set the queue length of a link")
    }

    /// Sets the segments the kernel puts in one super-packet for this link at most (IFLA_GSO_MAX_SEGS, writable since
    /// Linux 4.16).
    ///
    /// # Errors
    /// [`NetlinkError`]; older kernels refuse.
    pub fn set_gso_max_segments(&mut self, index: u32, segments: u32) -> Result<(), NetlinkError> {
        let mut message = by_index(index);
        message.attributes.push(LinkAttribute::GsoMaxSegs(segments));
        self.set(message, "set the segments of a super-packet")
    }

    /// Keeps the kernel from giving a link an IPv6 address of its own making (fe80::), which nobody on a mesh can use and
    /// which the node would take for a way to reach it.
    ///
    /// # Errors
    /// [`NetlinkError`]; where IPv6 is switched off there is nothing to keep, and the kernel refuses.
    pub fn refuse_link_local(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = by_index(index);
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
        self.set(message, "keep a link from addresses of its own")
    }

    /// Removes a link; one that is gone already is fine.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn remove_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        gone_is_fine(self.change(RouteNetlinkMessage::DelLink(by_index(index)), Make::Change, "remove a link"))
    }

    /// Gives a link an address; one it has already is fine. IPv6 addresses are of use at once: nobody is asked whether
    /// they are taken.
    ///
    /// # Errors
    /// [`NetlinkError`]; `Missing` without such a link.
    pub fn add_address(&mut self, address: &Address) -> Result<(), NetlinkError> {
        let body = RouteNetlinkMessage::NewAddress(address.message());
        match self.change(body, Make::New, "add an address") {
            Err(NetlinkError::Occupied { .. }) if self.addresses(address.link)?.contains(address) => Ok(()),
            other => other,
        }
    }

    /// Takes an address from a link; one it has not is fine.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn remove_address(&mut self, address: &Address) -> Result<(), NetlinkError> {
        let body = RouteNetlinkMessage::DelAddress(address.message());
        gone_is_fine(self.change(body, Make::Change, "remove an address"))
    }

    /// The addresses of a link, in the kernel's order.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel does not say.
    pub fn addresses(&mut self, link: u32) -> Result<Vec<Address>, NetlinkError> {
        let mut addresses = self.all_addresses()?;
        addresses.retain(|address| address.link == link);
        Ok(addresses)
    }

    /// The addresses of all links of the namespace, in the kernel's order.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel does not say.
    pub fn all_addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let mut addresses = Vec::new();
        self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), "list addresses", |message| {
            if let RouteNetlinkMessage::NewAddress(message) = message {
                addresses.extend(Address::of(&message));
            }
        })?;
        Ok(addresses)
    }
}

/// A removal of what is not there has what it wanted. The kernel says EADDRNOTAVAIL of addresses.
pub(super) fn gone_is_fine(done: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    let gone = rustix::io::Errno::ADDRNOTAVAIL.raw_os_error();
    match done {
        Err(NetlinkError::Missing { .. }) => Ok(()),
        Err(NetlinkError::Refused { ref source, .. }) if source.raw_os_error() == Some(gone) => Ok(()),
        other => other,
    }
}
