//! The table of the kill switch: nothing leaves this machine but through the tunnel, on loopback, and what carries the
//! tunnel. It stops nothing that comes in or is passed on for others, and closes no connection: they starve.

use std::collections::BTreeSet;

use shoal_protocol::mesh::prefix::Prefix;

use super::{ELEMENTS_MAX, FirewallError, Ruleset, Table, quoted};
use crate::vpn::system::Port;

/// What the table of a kill switch says. Everything else that this machine sends is dropped, IPv4 and IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KillSwitch {
    /// The TUN devices whose packets may leave. They need not be there yet, nor stay.
    pub tuns: Vec<String>,
    /// The mark of the sockets that carry the tunnel.
    pub mark: u32,
    /// Ports of sockets that carry the tunnel and cannot be marked.
    pub ports: BTreeSet<Port>,
    /// Addresses that may be reached: the local network, say.
    pub allow: Vec<Prefix>,
}

impl KillSwitch {
    /// The table as nft takes it.
    ///
    /// # Errors
    /// [`FirewallError`]: a bad name, a list that is too long.
    pub fn ruleset(&self, table: Table) -> Result<Ruleset, FirewallError> {
        if self.tuns.len().max(self.ports.len()) > ELEMENTS_MAX {
            return Err(FirewallError::TooMany);
        }
        let mut ruleset = Ruleset::new(table);
        ruleset.sets("allow", &self.allow)?;
        ruleset.line("chain output {");
        ruleset.line("type filter hook output priority filter - 5; policy drop;");
        ruleset.line("oifname \"lo\" accept");
        for tun in &self.tuns {
            ruleset.line(&format!("oifname {} accept", quoted(tun)?));
        }
        // 0 is the mark of every socket that has none.
        if self.mark != 0 {
            ruleset.line(&format!("meta mark {:#x} accept", self.mark));
        }
        for port in &self.ports {
            ruleset.line(&match port {
                Port::Tcp(port) => format!("tcp sport {port} accept"),
                Port::Udp(port) => format!("udp sport {port} accept"),
            });
        }
        KEPT.iter().for_each(|line| ruleset.line(line));
        ruleset.line("counter");
        ruleset.line("}");
        Ok(ruleset)
    }
}

/// What a link needs to keep its addresses and find its neighbours: DHCP, DHCPv6, and the ICMPv6 of RFC 4861 and RFC 3810
/// that never leaves the link; then the list.
const KEPT: [&str; 5] = [
    "udp sport 68 udp dport 67 accept",
    "udp sport 546 udp dport 547 accept",
    "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } accept",
    "ip daddr @allow4 accept",
    "ip6 daddr @allow6 accept",
];
