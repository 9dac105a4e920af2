//! What fails together: nodes behind one declared label, or one public network. It never trusts an address for more.

use core::fmt;
use core::net::IpAddr;

use shoal_protocol::NodeId;
use shoal_protocol::limits::DOMAIN_MAX;
use shoal_protocol::record::is_plain_text;
use shoal_protocol::subnet::Subnet;

/// A failure domain. Two nodes are in one domain if and only if their values are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Domain {
    /// Declared by the node's operator.
    Label(String),
    /// The network of a public address.
    Subnet(Subnet),
    /// No label and no public address: the node is a domain of its own.
    Own(NodeId),
}

impl Domain {
    /// The domain of a node: its label if that is printable ASCII of at most [`DOMAIN_MAX`] bytes, else the network of
    /// the address others see it at, if that is a public one.
    #[must_use]
    pub fn of(node: NodeId, label: Option<&str>, observed: Option<IpAddr>) -> Self {
        if let Some(label) = label.filter(|label| is_plain_text(label, DOMAIN_MAX)) {
            return Self::Label(label.into());
        }
        let network = observed.map(|address| address.to_canonical()).filter(is_unicast).and_then(Subnet::of);
        network.map_or(Self::Own(node), Self::Subnet)
    }

    /// The text a placement record keeps; none for a node on its own.
    #[must_use]
    pub fn record_text(&self) -> Option<String> {
        match self {
            Self::Label(_) | Self::Subnet(_) => Some(self.to_string()),
            Self::Own(_) => None,
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => f.write_str(label),
            Self::Subnet(network) => network.fmt(f),
            Self::Own(node) => write!(f, "node {node}"),
        }
    }
}

/// Whether a machine can be at this address: it is neither multicast nor of the reserved 240.0.0.0/4.
fn is_unicast(address: &IpAddr) -> bool {
    let reserved = matches!(address, IpAddr::V4(address) if address.octets()[0] >= 240);
    !reserved && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(label: Option<&str>, address: &str) -> String {
        Domain::of(NodeId::from_bytes([1; 32]), label, address.parse().ok()).record_text().unwrap_or_default()
    }

    #[test]
    fn label_wins_over_address() {
        assert_eq!(of(Some("cellar"), "203.0.113.9"), "cellar");
        assert_eq!(of(Some("two words"), "203.0.113.9"), "203.0.113.0/24");
        assert_eq!(of(Some(""), "203.0.113.9"), "203.0.113.0/24");
        assert_eq!(of(Some(&"x".repeat(65)), ""), "");
    }

    #[test]
    fn public_networks_are_domains() {
        assert_eq!(of(None, "203.0.113.255"), "203.0.113.0/24");
        assert_eq!(of(None, "::ffff:203.0.113.1"), "203.0.113.0/24");
        assert_eq!(of(None, "2001:67c:1::5"), "2001:67c:1::/48");
        assert_eq!(of(None, "100.63.0.1"), "100.63.0.0/24");
        assert_eq!(of(None, "100.128.0.1"), "100.128.0.0/24");
    }

    #[test]
    fn addresses_that_say_nothing_form_no_domain() {
        for address in [
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.3.4",
            "100.64.0.1",
            "100.127.255.255",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "fc00::1",
            "ff02::1",
            "::ffff:192.168.0.1",
        ] {
            assert_eq!(of(None, address), "", "{address}");
        }
        let own = Domain::of(NodeId::from_bytes([1; 32]), None, None);
        assert_ne!(own, Domain::of(NodeId::from_bytes([2; 32]), None, None));
        assert!(own.to_string().starts_with("node 12D3KooW"));
    }
}
