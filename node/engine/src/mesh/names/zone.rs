//! All names and addresses of one network at one moment, immutable: what questions are answered from. It reads no message
//! and knows nothing of DNS but labels.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeMap;

use shoal_protocol::mesh::address::{Pool, network_prefix};
use shoal_protocol::mesh::name::{HostLabel, LABEL_MAX};
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::{NetworkId, NodeId};

/// The domain all networks are under: `internal` is reserved for private use and is in no public DNS.
pub const DOMAIN: [&str; 2] = ["shoal", "internal"];

/// One member as it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// Its IPv4 address, if it has one.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// The label it has.
    pub label: Option<HostLabel>,
    /// It may reach the internet through this node, and asks it about other domains then.
    pub is_guest: bool,
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Labels of the network: its name if it makes one, then its 16 hexadecimal digits. Never empty.
    networks: Vec<String>,
    /// The /48 of the network.
    v6: Prefix,
    pool: Prefix,
    local: String,
    members: Vec<Member>,
    /// Members by label, in small letters; none where two have it.
    hosts: BTreeMap<String, Option<usize>>,
    addresses: BTreeMap<IpAddr, usize>,
    serial: u32,
}

impl Zone {
    /// A zone of these members, this node among them. `label` is what [`network_label`] made of the network's name;
    /// `serial` is greater than that of the zone before.
    #[must_use]
    pub fn new(
        network: &NetworkId,
        label: Option<&str>,
        pool: &Pool,
        local: &NodeId,
        members: Vec<Member>,
        serial: u32,
    ) -> Self {
        let tag = network.tag();
        let mut networks: Vec<String> = label.map(str::to_owned).into_iter().collect();
        if !networks.contains(&tag) {
            networks.push(tag);
        }
        let mut zone = Self {
            networks,
            v6: network_prefix(network),
            pool: pool.prefix(),
            local: local.to_string().to_ascii_lowercase(),
            hosts: BTreeMap::new(),
            addresses: BTreeMap::new(),
            members,
            serial,
        };
        zone.index();
        zone
    }

    fn index(&mut self) {
        for (at, member) in self.members.iter().enumerate() {
            let id = member.node.to_string().to_ascii_lowercase();
            let hash = PeerHash::of(&member.node).to_string();
            let label = member.label.as_ref().map(|label| label.as_str().to_owned());
            for name in [Some(id), Some(hash), label].into_iter().flatten() {
                // Peer ids that differ in the size of letters alone are one to DNS: then nobody is meant.
                self.hosts.entry(name).and_modify(|place| *place = None).or_insert(Some(at));
            }
            let all = [member.v4.map(IpAddr::V4), Some(IpAddr::V6(member.v6))];
            self.addresses.extend(all.into_iter().flatten().map(|address| (address, at)));
        }
    }

    /// Whether this label, in small letters, is one of the network.
    #[must_use]
    pub fn is_network(&self, label: &str) -> bool {
        self.networks.iter().any(|network| network == label)
    }

    /// The label of the network that answers name it by.
    #[must_use]
    pub fn network(&self) -> &str {
        self.networks.first().map_or("", String::as_str)
    }

    /// All its domains, without a dot at the end: of names, and of addresses. What a resolver of the system has to ask here.
    #[must_use]
    pub fn domains(&self) -> Vec<String> {
        let [domain, top] = DOMAIN;
        let mut out = vec![format!("{domain}.{top}")];
        out.extend(self.networks.iter().map(|network| format!("{network}.{domain}.{top}")));
        if let IpAddr::V6(first) = self.v6.address() {
            let nibbles = first.octets().into_iter().take(6).rev();
            let text: String = nibbles.map(|byte| format!("{:x}.{:x}.", byte & 15, byte >> 4)).collect();
            out.push(format!("{text}ip6.arpa"));
        }
        if let IpAddr::V4(first) = self.pool.address() {
            let [a, b, ..] = first.octets();
            if self.pool.length() <= 8 {
                out.push(format!("{a}.in-addr.arpa"));
            } else {
                // At most 128: a longer prefix than 8 leaves seven bits of the second byte at most.
                let count = 1_u8.checked_shl(u32::from(16_u8.saturating_sub(self.pool.length()))).unwrap_or(0);
                out.extend((0..count).map(|more| format!("{}.{a}.in-addr.arpa", b.saturating_add(more))));
            }
        }
        out
    }

    /// The member of this label, in small letters.
    #[must_use]
    pub fn host(&self, label: &str) -> Option<&Member> {
        self.members.get((*self.hosts.get(label)?)?)
    }

    /// Whose address this is.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<&Member> {
        self.members.get(*self.addresses.get(&address)?)
    }

    /// Whether anybody's address is in this range, ends included.
    #[must_use]
    pub fn has_any(&self, first: IpAddr, last: IpAddr) -> bool {
        first <= last && self.addresses.range(first..=last).next().is_some()
    }

    /// The /48 of the network.
    #[must_use]
    pub const fn v6(&self) -> Prefix {
        self.v6
    }

    /// Where its IPv4 addresses are.
    #[must_use]
    pub const fn pool(&self) -> Prefix {
        self.pool
    }

    /// The label of this node's peer id, in small letters.
    #[must_use]
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The number of this snapshot.
    #[must_use]
    pub const fn serial(&self) -> u32 {
        self.serial
    }

    /// Everybody.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }
}

/// What the name of a network is as a label: small letters, `-` for every other character than letters and digits, none of
/// them at the ends, cut to [`LABEL_MAX`]; none where nothing is left.
#[must_use]
pub fn network_label(name: &str) -> Option<String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let text: String = name.chars().map(plain).skip_while(|c| *c == '-').take(LABEL_MAX).collect();
    let text = text.trim_end_matches('-');
    (!text.is_empty()).then(|| text.to_owned())
}
