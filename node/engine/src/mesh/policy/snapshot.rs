//! The decision about one packet, on either end of the tunnel, from a policy that does not change any more. It allocates
//! nothing, keeps no state and changes no packet.
//!
//! In this order: both are members; the source address belongs to the sending peer and the destination to the receiving
//! one; what leaves does so by an exit its sender may use, above the floor; segments; replies; the first rule that fits;
//! the default. Both ends ask, and with one document both say the same, but for what only an exit knows of itself.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeMap;

use shoal_protocol::NodeId;
use shoal_protocol::mesh::prefix::Prefix;

use super::compile::Local;
use super::document::{Action, DefaultRule, Mode};
use super::floor::{self, Floor, FloorFacts};
use super::prefix_table::PrefixTable;
use crate::mesh::packet::Tuple;
use crate::mesh::packet::tuple::{ICMP, ICMPV6, TCP, UDP};
use crate::mesh::qos::limits::PeerRates;

/// Whom a list of a document means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    pub(super) everyone: bool,
    pub(super) internet: bool,
    pub(super) groups: u64,
    /// In order.
    pub(super) peers: Vec<NodeId>,
}

impl Selector {
    fn has(&self, subject: &Subject) -> bool {
        self.everyone || self.groups & subject.groups != 0 || self.peers.binary_search(&subject.node).is_ok()
    }
}

/// Which protocols a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Any,
    /// Both of them.
    Icmp,
    Number(u8),
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) action: Action,
    pub(super) from: Selector,
    pub(super) to: Selector,
    pub(super) protocol: Protocol,
    /// First and last; none means any.
    pub(super) ports: Vec<(u16, u16)>,
    /// None means any.
    pub(super) addresses: Vec<Prefix>,
}

impl Rule {
    fn fits(&self, source: &Subject, destination: &Subject, tuple: &Tuple, leaves: bool) -> bool {
        let to = if leaves { self.to.internet || self.to.everyone } else { self.to.has(destination) };
        let protocol = match self.protocol {
            Protocol::Any => self.ports.is_empty() || matches!(tuple.protocol, TCP | UDP),
            Protocol::Icmp => matches!(tuple.protocol, ICMP | ICMPV6),
            Protocol::Number(number) => number == tuple.protocol,
        };
        let within = |prefix: &Prefix| prefix.contains(tuple.destination);
        let addresses = self.addresses.is_empty() || self.addresses.iter().any(within);
        to && protocol && addresses && self.from.has(source) && self.fits_port(tuple)
    }

    /// The ports of a later fragment are unknown: what denies ports denies it, what allows ports does not allow it.
    fn fits_port(&self, tuple: &Tuple) -> bool {
        match tuple.ports {
            _ if self.ports.is_empty() => true,
            Some((_, port)) => self.ports.iter().any(|(first, last)| (*first..=*last).contains(&port)),
            None => self.action == Action::Deny,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Exit {
    pub(super) peers: Selector,
    pub(super) users: Selector,
    pub(super) allow_lan: Vec<Prefix>,
    pub(super) deny: Vec<Prefix>,
}

#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) members: Selector,
}

/// A peer as one snapshot sees it: made once a session, used for every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    node: NodeId,
    is_member: bool,
    groups: u64,
    segments: u64,
    v4: Option<Ipv4Addr>,
    v6: Ipv6Addr,
    generation: u64,
}

/// On which end it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From this machine into the tunnel.
    Outbound,
    /// Out of the tunnel to this machine.
    Inbound,
}

/// Why a packet may pass or not. One word each for metric and log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A rule fits; which one is in the verdict.
    Rule,
    /// No rule fits, and the default decides.
    Default,
    /// It answers what was allowed.
    Reply,
    /// It leaves by an exit, as granted.
    Exit,
    /// One of the two is no member.
    NotMember,
    /// A subject of another snapshot: to be made anew.
    Stale,
    /// The source address does not belong to the peer that sends it.
    SpoofedSource,
    /// The destination address does not belong to the peer it is for.
    ForeignDestination,
    /// The sender may not use this exit.
    ExitNotGranted,
    /// No exit reaches that address.
    Floor(Floor),
    /// From the internet, and no answer.
    Unsolicited,
    /// Out of or into a strict segment without a rule.
    Strict,
    /// From or to a member of a segment that only has the internet.
    InternetOnly,
    /// To or from the internet for a member of a segment that has none.
    LocalOnly,
}

impl Reason {
    /// The word for logs and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Default => "default",
            Self::Reply => "reply",
            Self::Exit => "exit",
            Self::NotMember => "not-member",
            Self::Stale => "stale",
            Self::SpoofedSource => "spoofed-source",
            Self::ForeignDestination => "foreign-destination",
            Self::ExitNotGranted => "exit-not-granted",
            Self::Floor(Floor::Never) => "floor-never",
            Self::Floor(Floor::Private) => "floor-private",
            Self::Floor(Floor::Own) => "floor-own",
            Self::Floor(Floor::Connected) => "floor-connected",
            Self::Floor(Floor::Added) => "floor-added",
            Self::Unsolicited => "unsolicited",
            Self::Strict => "segment-strict",
            Self::InternetOnly => "segment-internet-only",
            Self::LocalOnly => "segment-local-only",
        }
    }
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may pass.
    pub is_allowed: bool,
    /// The rule that decided, for [`Snapshot::rule_name`].
    pub rule: Option<u16>,
    /// Why.
    pub reason: Reason,
}

impl Verdict {
    const fn allow(reason: Reason) -> Self {
        Self { is_allowed: true, rule: None, reason }
    }

    const fn deny(reason: Reason) -> Self {
        Self { is_allowed: false, rule: None, reason }
    }
}

/// Whether a peer may announce a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announce {
    /// One of its own mesh addresses.
    Own,
    /// A prefix the document lists for it, or a part of one.
    Listed,
    /// Everything, as an exit.
    Exit,
    /// To be shown as unauthorised, never installed.
    Unauthorised,
}

/// Where an address is, seen from a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Mesh,
    Site,
    Internet,
}

/// A compiled policy. It does not change: a new document is a new snapshot.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(super) generation: u64,
    pub(super) serial: u64,
    pub(super) default: DefaultRule,
    pub(super) groups_of: BTreeMap<NodeId, u64>,
    pub(super) rules: Vec<Rule>,
    pub(super) prefixes: PrefixTable<Selector>,
    pub(super) exits: Vec<Exit>,
    pub(super) segments: Vec<Segment>,
    pub(super) segment_prefixes: PrefixTable<u64>,
    pub(super) limits: Vec<(Selector, PeerRates)>,
    pub(super) local: Local,
}

impl Snapshot {
    /// Which snapshot of a run it is.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Which document it is of.
    #[must_use]
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether any peer has a limit.
    #[must_use]
    pub const fn has_limits(&self) -> bool {
        !self.limits.is_empty()
    }

    /// How much may go to a peer, and come from it: what the first limit says that fits.
    #[must_use]
    pub fn limits_of(&self, subject: &Subject) -> PeerRates {
        self.limits.iter().find(|(peers, _)| peers.has(subject)).map(|(_, rates)| *rates).unwrap_or_default()
    }

    /// The name of a rule that a verdict holds.
    #[must_use]
    pub fn rule_name(&self, rule: u16) -> Option<&str> {
        self.rules.get(usize::from(rule)).map(|rule| rule.name.as_str())
    }

    /// The names of the segments a peer is in.
    pub fn segments_of(&self, subject: &Subject) -> impl Iterator<Item = &str> {
        let bits = subject.segments;
        let is_in = move |at: u32| bits & bit(at) != 0;
        (0u32..).zip(&self.segments).filter(move |(at, _)| is_in(*at)).map(|(_, segment)| segment.name.as_str())
    }

    /// Private networks that exit `node` may reach all the same, and what it may not reach in addition.
    #[must_use]
    pub fn exit_lists(&self, node: &Subject) -> (Vec<Prefix>, Vec<Prefix>) {
        let entries = || self.exits.iter().filter(|entry| entry.peers.has(node));
        let allow_lan = entries().flat_map(|entry| entry.allow_lan.iter().copied()).collect();
        (allow_lan, entries().flat_map(|entry| entry.deny.iter().copied()).collect())
    }

    /// Whether `user` may reach anything of the internet through `exit`.
    #[must_use]
    pub fn may_use(&self, exit: &Subject, user: &Subject) -> bool {
        let local_only = self.segments_of_mode(Mode::LocalOnly);
        let is_granted = self.exits.iter().any(|entry| entry.peers.has(exit) && entry.users.has(user));
        is_granted && exit.is_member && user.is_member && (exit.segments | user.segments) & local_only == 0
    }

    /// A peer as this snapshot sees it, with the mesh addresses it has.
    #[must_use]
    pub fn subject(&self, node: NodeId, is_member: bool, v4: Option<Ipv4Addr>, v6: Ipv6Addr) -> Subject {
        let groups = self.groups_of.get(&node).copied().unwrap_or(0);
        let mut subject = Subject { node, is_member, groups, segments: 0, v4, v6, generation: self.generation };
        subject.segments = (0u32..)
            .zip(&self.segments)
            .filter(|(_, segment)| segment.members.has(&subject))
            .fold(0, |all, (at, _)| all | bit(at));
        subject
    }

    /// Whether a peer may announce a prefix. Of two listed prefixes around it the longer counts.
    #[must_use]
    pub fn may_announce(&self, subject: &Subject, prefix: &Prefix) -> Announce {
        let own = [subject.v4.map(IpAddr::V4), Some(IpAddr::V6(subject.v6))];
        let is_own = own.into_iter().flatten().any(|address| *prefix == Prefix::host(address));
        if is_own && subject.is_member {
            return Announce::Own;
        }
        if prefix.is_default() && subject.is_member && self.is_exit(subject) {
            return Announce::Exit;
        }
        match self.prefixes.longest(prefix) {
            Some((_, peers)) if subject.is_member && peers.has(subject) => Announce::Listed,
            _ => Announce::Unauthorised,
        }
    }

    /// Decides about a packet from `source` to `destination`, this machine being one of them by `direction`. `is_reply` says
    /// whether the flow table knows what it answers, see [`crate::mesh::flow::FlowTable`].
    #[must_use]
    pub fn decide(
        &self,
        source: &Subject,
        destination: &Subject,
        tuple: &Tuple,
        direction: Direction,
        is_reply: bool,
    ) -> Verdict {
        if source.generation != self.generation || destination.generation != self.generation {
            return Verdict::deny(Reason::Stale);
        }
        if !source.is_member || !destination.is_member {
            return Verdict::deny(Reason::NotMember);
        }
        let Some(from) = self.place(source, tuple.source) else { return Verdict::deny(Reason::SpoofedSource) };
        let Some(to) = self.place(destination, tuple.destination) else {
            return Verdict::deny(Reason::ForeignDestination);
        };
        let (inbound, outbound) = (direction == Direction::Inbound, direction == Direction::Outbound);
        let exit = match (from, to) {
            // Through two exits: neither end is inside.
            (Place::Internet, Place::Internet) => Err(Reason::ForeignDestination),
            (Place::Internet, _) if !is_reply => Err(Reason::Unsolicited),
            (Place::Internet, _) => self.check_exit(source, destination, tuple.source, outbound),
            (_, Place::Internet) => self.check_exit(destination, source, tuple.destination, inbound),
            _ => Ok(()),
        };
        let leaves = to == Place::Internet;
        let crosses = match exit.and_then(|()| self.check_segments((source, from), (destination, to), tuple)) {
            Ok(crosses) => crosses,
            Err(reason) => return Verdict::deny(reason),
        };
        if is_reply {
            return Verdict::allow(Reason::Reply);
        }
        let fits = |(_, rule): &(u16, &Rule)| rule.fits(source, destination, tuple, leaves);
        if let Some((at, rule)) = (0u16..).zip(&self.rules).find(fits) {
            let is_allowed = rule.action == Action::Allow;
            return Verdict { is_allowed, rule: Some(at), reason: Reason::Rule };
        }
        match self.default {
            _ if leaves => Verdict::allow(Reason::Exit),
            _ if crosses => Verdict::deny(Reason::Strict),
            DefaultRule::Members => Verdict::allow(Reason::Default),
            DefaultRule::Deny => Verdict::deny(Reason::Default),
        }
    }

    /// Where an address of a peer is; none if it is not that peer's.
    fn place(&self, subject: &Subject, address: IpAddr) -> Option<Place> {
        // An IPv4 address in an IPv6 header is nobody's (RFC 4291 2.5.5.2 keeps it inside machines): rules, sites and
        // floors would see one address and the machine behind the tunnel another.
        if address != address.to_canonical() {
            return None;
        }
        if subject.v4.is_some_and(|own| own == address) || subject.v6 == address {
            return Some(Place::Mesh);
        }
        if let Some((_, peers)) = self.prefixes.find(address) {
            return peers.has(subject).then_some(Place::Site);
        }
        let is_of_a_member = self.local.pools.iter().any(|pool| pool.contains(address));
        (!is_of_a_member && self.is_exit(subject)).then_some(Place::Internet)
    }

    fn is_exit(&self, subject: &Subject) -> bool {
        self.exits.iter().any(|exit| exit.peers.has(subject))
    }

    /// Whether `user` may reach `address` through `exit`. What only the exit knows of itself counts where it decides.
    fn check_exit(&self, exit: &Subject, user: &Subject, address: IpAddr, is_here: bool) -> Result<(), Reason> {
        let entries = || self.exits.iter().filter(|entry| entry.peers.has(exit));
        if entries().any(|entry| floor::is_within(address, &entry.deny)) {
            return Err(Reason::Floor(Floor::Added));
        }
        let (own, connected): (&[IpAddr], &[Prefix]) =
            if is_here { (&self.local.addresses, &self.local.connected) } else { (&[], &[]) };
        let mut refused = Reason::ExitNotGranted;
        for entry in entries().filter(|entry| entry.users.has(user)) {
            match floor::check(address, FloorFacts { own, connected, allow_lan: &entry.allow_lan }) {
                None => return Ok(()),
                Some(hit) => refused = Reason::Floor(hit),
            }
        }
        Err(refused)
    }

    /// Whether the packet goes beyond a strict segment, unless a segment forbids it altogether.
    fn check_segments(
        &self,
        (source, from): (&Subject, Place),
        (destination, to): (&Subject, Place),
        tuple: &Tuple,
    ) -> Result<bool, Reason> {
        if self.segments.is_empty() {
            return Ok(false);
        }
        let of = |subject: &Subject, place: Place, address: IpAddr| match place {
            Place::Mesh => subject.segments,
            Place::Site => subject.segments | self.segment_prefixes.find(address).map_or(0, |(_, bits)| *bits),
            Place::Internet => 0,
        };
        let (a, b) = (of(source, from, tuple.source), of(destination, to, tuple.destination));
        if from == Place::Internet || to == Place::Internet {
            return if (a | b) & self.segments_of_mode(Mode::LocalOnly) != 0 {
                Err(Reason::LocalOnly)
            } else {
                Ok(false)
            };
        }
        if (a | b) & self.segments_of_mode(Mode::InternetOnly) != 0 {
            return Err(Reason::InternetOnly);
        }
        Ok((a ^ b) & self.segments_of_mode(Mode::Strict) != 0)
    }

    fn segments_of_mode(&self, mode: Mode) -> u64 {
        let segments = (0u32..).zip(&self.segments).filter(|(_, segment)| segment.mode == mode);
        segments.fold(0, |all, (at, _)| all | bit(at))
    }
}

fn bit(at: u32) -> u64 {
    1u64.checked_shl(at).unwrap_or(0)
}
