//! How many connections each public network has here. It counts; who is refused is the guard's to say. Pure: it never sees a connection but by its key.

use std::collections::BTreeMap;
use std::net::IpAddr;

use shoal_protocol::subnet::Subnet;

/// Connections by network. As many entries as there are connections, which the connection limits bound.
#[derive(Debug)]
pub(crate) struct Subnets<K> {
    most: usize,
    of: BTreeMap<K, Subnet>,
    counts: BTreeMap<Subnet, usize>,
}

impl<K: Ord> Subnets<K> {
    /// With at most `most` connections a network.
    pub(crate) const fn new(most: usize) -> Self {
        Self { most, of: BTreeMap::new(), counts: BTreeMap::new() }
    }

    /// Whether the network of an address has its share. No network, no share.
    pub(crate) fn is_full(&self, ip: IpAddr) -> bool {
        Subnet::of(ip).is_some_and(|subnet| self.counts.get(&subnet).is_some_and(|count| *count >= self.most))
    }

    pub(crate) fn opened(&mut self, connection: K, ip: IpAddr) {
        let Some(subnet) = Subnet::of(ip) else { return };
        if self.of.insert(connection, subnet).is_none() {
            let count = self.counts.entry(subnet).or_default();
            *count = count.saturating_add(1);
        }
    }

    pub(crate) fn closed(&mut self, connection: &K) {
        let Some(subnet) = self.of.remove(connection) else { return };
        if let Some(count) = self.counts.get_mut(&subnet) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&subnet);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_has_its_share_and_gets_it_back() {
        let mut subnets = Subnets::new(2);
        subnets.opened(1, ip("9.9.9.1"));
        subnets.opened(1, ip("9.9.9.1"));
        assert!(!subnets.is_full(ip("9.9.9.200")), "one connection counts once");
        subnets.opened(2, ip("::ffff:9.9.9.2"));
        assert!(subnets.is_full(ip("9.9.9.200")));
        assert!(!subnets.is_full(ip("9.9.8.200")));
        subnets.closed(&7);
        subnets.closed(&1);
        subnets.closed(&1);
        assert!(!subnets.is_full(ip("9.9.9.200")));
        subnets.closed(&2);
        assert!(subnets.of.is_empty() && subnets.counts.is_empty());
    }

    #[test]
    fn sixty_five_thousand_lans_of_one_site_are_one_network_and_a_household_is_none() {
        let mut subnets = Subnets::new(2);
        subnets.opened(1, ip("2001:67c:1:1::1"));
        subnets.opened(2, ip("2001:67c:1:2::1"));
        assert!(subnets.is_full(ip("2001:67c:1:ffff::9")) && !subnets.is_full(ip("2001:67c:2::1")));
        for n in 3..100 {
            subnets.opened(n, ip("192.168.1.1"));
            subnets.opened(n + 100, ip("127.0.0.1"));
        }
        assert!(!subnets.is_full(ip("192.168.1.1")) && !subnets.is_full(ip("127.0.0.1")));
    }
}
