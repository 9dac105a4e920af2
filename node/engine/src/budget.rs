//! How much strangers may ask and read: one budget for each, one for each public network they come from, one for all of
//! them together. A thousand identities cost their maker nothing and so get no thousand budgets. It knows no members.

use core::net::IpAddr;
use std::collections::BTreeMap;

use shoal_protocol::NodeId;
use shoal_protocol::subnet::Subnet;

/// Peers, and networks, whose budgets are remembered; beyond it the one that has rested longest is forgotten, which
/// refills it. What it could gain by that is bounded by the budget of all.
pub const BUDGETS_MAX: usize = 4096;

/// What one budget holds when full, and how fast it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Operations in a burst.
    pub operations_burst: u64,
    /// Operations a second in the long run.
    pub operations_per_second: u64,
    /// Bytes in a burst.
    pub bytes_burst: u64,
    /// Bytes a second in the long run.
    pub bytes_per_second: u64,
}

/// One stranger: 200 operations and 64 MiB a second.
pub const PEER: Rate =
    Rate { operations_burst: 2_000, operations_per_second: 200, bytes_burst: 1 << 30, bytes_per_second: 64 << 20 };
/// All strangers of one public network: a household or an office, twice one of them.
pub const SUBNET: Rate = PEER.times(2);
/// All strangers: five of them at full speed, which a disk and a line still carry beside what members do.
pub const ALL: Rate = PEER.times(5);

impl Rate {
    /// As much for so many.
    const fn times(self, factor: u64) -> Self {
        Self {
            operations_burst: self.operations_burst * factor,
            operations_per_second: self.operations_per_second * factor,
            bytes_burst: self.bytes_burst * factor,
            bytes_per_second: self.bytes_per_second * factor,
        }
    }
}

/// A token bucket: `level` tokens, refilled continuously.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: u64,
    filled_ms: u64,
}

impl Bucket {
    /// Refills, then says how long until `amount` could be taken, milliseconds. What is larger than the whole bucket is
    /// let through when it is full and empties it.
    fn wait_ms(&mut self, amount: u64, burst: u64, per_second: u64, now_ms: u64) -> u64 {
        let refill = now_ms.saturating_sub(self.filled_ms).saturating_mul(per_second) / 1000;
        if refill > 0 {
            self.level = self.level.saturating_add(refill).min(burst);
            self.filled_ms = now_ms;
        }
        amount.min(burst).saturating_sub(self.level).saturating_mul(1000).div_ceil(per_second.max(1))
    }

    fn take(&mut self, amount: u64) {
        self.level = self.level.saturating_sub(amount);
    }
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    operations: Bucket,
    bytes: Bucket,
    used_ms: u64,
}

impl Budget {
    const fn full(rate: Rate, now_ms: u64) -> Self {
        Self {
            operations: Bucket { level: rate.operations_burst, filled_ms: now_ms },
            bytes: Bucket { level: rate.bytes_burst, filled_ms: now_ms },
            used_ms: now_ms,
        }
    }

    fn wait_ms(&mut self, rate: Rate, bytes: u64, now_ms: u64) -> u64 {
        self.used_ms = now_ms;
        let operations = self.operations.wait_ms(1, rate.operations_burst, rate.operations_per_second, now_ms);
        operations.max(self.bytes.wait_ms(bytes, rate.bytes_burst, rate.bytes_per_second, now_ms))
    }

    fn take(&mut self, bytes: u64) {
        self.operations.take(1);
        self.bytes.take(bytes);
    }
}

/// The budgets of all strangers.
#[derive(Clone, Debug)]
pub struct Budgets {
    peers: BTreeMap<NodeId, Budget>,
    subnets: BTreeMap<Subnet, Budget>,
    all: Budget,
}

impl Default for Budgets {
    /// All full.
    fn default() -> Self {
        Self { peers: BTreeMap::new(), subnets: BTreeMap::new(), all: Budget::full(ALL, 0) }
    }
}

/// Whose budget is spent. One word for log and metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spent {
    /// The peer's own.
    Peer,
    /// That of the network it comes from.
    Subnet,
    /// That of all strangers.
    All,
}

impl Budgets {
    /// Takes one operation and so many bytes from all three budgets, or from none.
    ///
    /// # Errors
    /// The narrowest budget that has too little, and the milliseconds until all have enough.
    pub fn spend(
        &mut self,
        peer: NodeId,
        address: Option<IpAddr>,
        bytes: u64,
        now_ms: u64,
    ) -> Result<(), (Spent, u64)> {
        let own = entry(&mut self.peers, peer, PEER, now_ms);
        let mut network = address.and_then(Subnet::of).map(|subnet| entry(&mut self.subnets, subnet, SUBNET, now_ms));
        let waits = [
            (Spent::Peer, own.wait_ms(PEER, bytes, now_ms)),
            (Spent::Subnet, network.as_mut().map_or(0, |network| network.wait_ms(SUBNET, bytes, now_ms))),
            (Spent::All, self.all.wait_ms(ALL, bytes, now_ms)),
        ];
        let longest = waits.iter().map(|(_, wait_ms)| *wait_ms).max().unwrap_or(0);
        if let Some((spent, _)) = waits.iter().find(|(_, wait_ms)| *wait_ms > 0) {
            return Err((*spent, longest));
        }
        own.take(bytes);
        if let Some(network) = network {
            network.take(bytes);
        }
        self.all.take(bytes);
        Ok(())
    }
}

/// The budget of a key; where there is no room for one more the one that has rested longest goes.
fn entry<K: Ord + Copy>(budgets: &mut BTreeMap<K, Budget>, key: K, rate: Rate, now_ms: u64) -> &mut Budget {
    if !budgets.contains_key(&key) && budgets.len() >= BUDGETS_MAX {
        let rested = budgets.iter().min_by_key(|(_, budget)| budget.used_ms).map(|(key, _)| *key);
        rested.map(|key| budgets.remove(&key));
    }
    budgets.entry(key).or_insert(Budget::full(rate, now_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_le_bytes());
        NodeId::from_bytes(bytes)
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn one_stranger_is_held_to_a_budget_and_recovers() {
        let mut budgets = Budgets::default();
        for _ in 0..PEER.operations_burst {
            assert_eq!(budgets.spend(peer(1), None, 0, 0), Ok(()));
        }
        assert_eq!(budgets.spend(peer(1), None, 0, 0), Err((Spent::Peer, 5)));
        assert_eq!(budgets.spend(peer(2), None, 0, 0), Ok(()), "others are not affected");
        assert_eq!(budgets.spend(peer(1), None, 0, 5), Ok(()));
        assert!(budgets.spend(peer(1), None, 0, 5).is_err());
        assert_eq!(budgets.spend(peer(3), None, u64::MAX, 5), Ok(()), "more than a bucket empties it");
        assert!(budgets.spend(peer(3), None, 1 << 20, 6).is_err());
        assert_eq!(budgets.spend(peer(3), None, 1 << 20, 1005), Ok(()));
    }

    #[test]
    fn a_thousand_identities_get_no_thousand_budgets() {
        let mut budgets = Budgets::default();
        let taken = (0..20_000u64).filter(|n| budgets.spend(peer((n % 1000) as u16), None, 0, 0).is_ok()).count();
        assert_eq!(taken as u64, ALL.operations_burst);
        let (spent, wait_ms) = budgets.spend(peer(5000), None, 0, 0).unwrap_err();
        assert_eq!((spent, wait_ms), (Spent::All, 1));
        // Also of bytes: ten seconds bring what ten seconds may, not a thousand times that.
        let mut budgets = Budgets::default();
        let mut read = 0;
        for now_ms in (0..10_000).step_by(10) {
            for n in 0..50 {
                read += u64::from(budgets.spend(peer((now_ms + n) as u16), None, 8 << 20, now_ms).is_ok()) * (8 << 20);
            }
        }
        assert!(read <= ALL.bytes_burst + 10 * ALL.bytes_per_second, "{read}");
    }

    #[test]
    fn one_network_shares_a_budget() {
        let mut budgets = Budgets::default();
        let taken = |budgets: &mut Budgets, address: fn(u64) -> String| {
            let ask = |n: &u64| budgets.spend(peer((n % 300) as u16), ip(&address(*n)), 0, 0).is_ok();
            (0..6000u64).filter(ask).count() as u64
        };
        assert_eq!(taken(&mut budgets, |n| format!("203.0.113.{}", n % 250)), SUBNET.operations_burst);
        assert_eq!(budgets.spend(peer(1), ip("203.0.113.9"), 0, 0), Err((Spent::Subnet, 3)));
        assert_eq!(budgets.spend(peer(1), ip("203.0.114.9"), 0, 0), Ok(()));
        let mut budgets = Budgets::default();
        assert_eq!(taken(&mut budgets, |n| format!("2001:67c:1:{n:x}::1")), SUBNET.operations_burst);
        let mut budgets = Budgets::default();
        assert_eq!(taken(&mut budgets, |n| format!("192.168.1.{}", n % 250)), 6000, "a household is no network");
    }

    #[test]
    fn what_one_budget_refuses_costs_the_others_nothing() {
        let mut budgets = Budgets::default();
        while budgets.spend(peer(1), ip("203.0.113.1"), 0, 0).is_ok() {}
        let all_left = budgets.all.operations.level;
        for _ in 0..1000 {
            assert!(budgets.spend(peer(1), ip("203.0.113.1"), 0, 0).is_err());
        }
        assert_eq!(budgets.all.operations.level, all_left);
        assert_eq!(all_left, ALL.operations_burst - PEER.operations_burst);
    }

    #[test]
    fn budgets_are_bounded() {
        let mut budgets = Budgets::default();
        for n in 0..6000u16 {
            let [a, b] = n.to_be_bytes();
            let _ = budgets.spend(peer(n), ip(&format!("9.{a}.{b}.1")), 0, u64::from(n) * 10);
        }
        assert_eq!((budgets.peers.len(), budgets.subnets.len()), (BUDGETS_MAX, BUDGETS_MAX));
    }
}
