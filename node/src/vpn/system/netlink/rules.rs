//! Rules of ours that choose a routing table, over the socket of [`Netlink`]. It never changes, lists or removes a rule
//! with another protocol number than [`PROTOCOL`].

use netlink_packet_route::route::{RouteHeader, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use super::links::gone_is_fine;
use super::{Make, Netlink, NetlinkError, PROTOCOL};
use crate::vpn::system::Port;

/// Which packets a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    const fn number(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }
}

/// One rule of ours: which packets look into which table. The kernel tells no two apart that differ in `inverted` or
/// `suppress_prefix_length` alone: such two need different priorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// IPv4 or IPv6.
    pub family: Family,
    /// The smaller one is asked first; `main` is 32766. Not 0, which is the kernel's `local`.
    pub priority: u32,
    /// The table that is looked into.
    pub table: u32,
    /// Only packets of sockets with this mark, all of its bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// Turns the condition round: packets it does not fit.
    #[serde(default)]
    pub inverted: bool,
    /// Routes of this many bits or fewer are passed over in the table: 0 leaves out its default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppress_prefix_length: Option<u32>,
    /// Only packets from this port (Linux 4.17). For sockets that cannot be marked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<Port>,
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.number();
        message.header.action = RuleAction::ToTable;
        // Beyond 255 the table is only in its attribute, which is always there.
        message.header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        if self.inverted {
            message.header.flags = RuleFlags::Invert;
        }
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
        attributes.push(RuleAttribute::Priority(self.priority));
        attributes.push(RuleAttribute::Table(self.table));
        if let Some(mark) = self.mark {
            attributes.extend([RuleAttribute::FwMark(mark), RuleAttribute::FwMask(u32::MAX)]);
        }
        if let Some(length) = self.suppress_prefix_length {
            attributes.push(RuleAttribute::SuppressPrefixLen(length));
        }
        if let Some(port) = self.source_port {
            let (protocol, port) = match port {
                Port::Tcp(port) => (IpProtocol::Tcp, port),
                Port::Udp(port) => (IpProtocol::Udp, port),
            };
            attributes.push(RuleAttribute::IpProtocol(protocol));
            attributes.push(RuleAttribute::SourcePortRange(RulePortRange { start: port, end: port }));
        }
        message
    }

    /// A rule of ours as the kernel tells it; none of somebody else's.
    fn of(message: &RuleMessage) -> Option<Self> {
        let ours = RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL));
        if !message.attributes.contains(&ours) {
            return None;
        }
        let mut rule = Self {
            family: if message.header.family == AddressFamily::Inet { Family::V4 } else { Family::V6 },
            priority: 0,
            table: message.header.table.into(),
            mark: None,
            inverted: message.header.flags.contains(RuleFlags::Invert),
            suppress_prefix_length: None,
            source_port: None,
        };
        let is_tcp = message.attributes.contains(&RuleAttribute::IpProtocol(IpProtocol::Tcp));
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(priority) => rule.priority = *priority,
                RuleAttribute::Table(table) => rule.table = *table,
                RuleAttribute::FwMark(mark) => rule.mark = Some(*mark),
                // The kernel says -1 where nothing is suppressed.
                RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => {
                    rule.suppress_prefix_length = Some(*length);
                }
                RuleAttribute::SourcePortRange(RulePortRange { start, .. }) => {
                    rule.source_port = Some(if is_tcp { Port::Tcp(*start) } else { Port::Udp(*start) });
                }
                _ => {}
            }
        }
        Some(rule)
    }
}

impl Netlink {
    /// Adds a rule; the same one of ours is fine, and is not added twice.
    ///
    /// # Errors
    /// [`NetlinkError`]; `Occupied` where the kernel holds another one for the same.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        // A second one that is the same in everything is no error, one that the kernel takes for the same is.
        if self.rules()?.contains(rule) {
            return Ok(());
        }
        self.change(RouteNetlinkMessage::NewRule(rule.message()), Make::New, "add a rule")
    }

    /// Removes a rule of ours; none there is fine.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn remove_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        // What a removal leaves out, and what the kernel does not compare, could make another of ours go in its place.
        if !self.rules()?.contains(rule) {
            return Ok(());
        }
        gone_is_fine(self.change(RouteNetlinkMessage::DelRule(rule.message()), Make::Change, "remove a rule"))
    }

    /// All rules of ours, in the order they are asked in, IPv4 first.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel does not say.
    pub fn rules(&mut self) -> Result<Vec<Rule>, NetlinkError> {
        let mut rules = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut message = RuleMessage::default();
            message.header.family = family.number();
            self.dump(RouteNetlinkMessage::GetRule(message), "list rules", |message| {
                if let RouteNetlinkMessage::NewRule(message) = message {
                    rules.extend(Rule::of(&message));
                }
            })?;
        }
        Ok(rules)
    }
}
