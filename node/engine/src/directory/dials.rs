//! Whom to connect to and when to try again. It knows addresses and moments, it never opens a connection.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::NodeId;
use shoal_protocol::link::LinkEffect;

use super::table::{Known, PeerTable};
use crate::time::Jitter;

/// Most bootstrap addresses.
pub const BOOTSTRAP_MAX: usize = 32;
/// Dials under way at a time.
pub const DIALS_MAX: usize = 8;
/// A node keeps a connection to every storing peer up to this many, beyond it to those of least rank.
pub const WANTED_MAX: usize = 64;
/// First wait before a dial is repeated, milliseconds, before jitter; doubled by each failure.
pub const REDIAL_FIRST_MS: u64 = 500;
/// Longest wait before a dial is repeated, milliseconds, before jitter.
pub const REDIAL_MAX_MS: u64 = 60_000;
/// A connection that lived this long counts as a success and ends the back-off, milliseconds.
pub const STEADY_MS: u64 = 30_000;
/// Most addresses one dial tries.
const DIAL_ADDRESSES_MAX: usize = shoal_protocol::limits::ADDRESSES_MAX;

/// What a dial is remembered by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// A peer.
    Node(NodeId),
    /// An address without an id.
    Address(String),
}

impl Target {
    pub(crate) fn of(node: Option<NodeId>, addresses: &[String]) -> Option<Self> {
        node.map(Self::Node).or_else(|| addresses.first().cloned().map(Self::Address))
    }
}

/// A configured address, with the peer behind it as far as known.
#[derive(Clone, Debug)]
pub(crate) struct Bootstrap {
    address: String,
    node: Option<NodeId>,
    /// Who answered there last.
    reached: Option<NodeId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Attempt {
    failures: u32,
    due_ms: u64,
    under_way: bool,
}

#[derive(Debug)]
pub(crate) struct Dials {
    /// At most [`BOOTSTRAP_MAX`].
    bootstrap: Vec<Bootstrap>,
    /// Peers to be connected to, at most [`WANTED_MAX`].
    wanted: BTreeSet<NodeId>,
    /// Only of wanted peers and bootstrap addresses, and of dials under way.
    attempts: BTreeMap<Target, Attempt>,
    jitter: Jitter,
    /// Also those who store nothing, if they listen.
    all: bool,
}

impl Dials {
    /// Addresses may end in `/p2p/ID`; those beyond [`BOOTSTRAP_MAX`] are not used.
    pub(crate) fn new(bootstrap: &[String], jitter: Jitter) -> Self {
        let bootstrap = bootstrap.iter().take(BOOTSTRAP_MAX).map(|text| parse(text)).collect();
        Self { bootstrap, wanted: BTreeSet::new(), attempts: BTreeMap::new(), jitter, all: false }
    }

    /// From now on whoever listens is dialled, whether it stores or not.
    pub(crate) const fn want_all(&mut self) {
        self.all = true;
    }

    /// Chooses again whom to stay connected to; call it when peers came or went.
    pub(crate) fn choose(&mut self, table: &PeerTable) {
        let is_wanted = |known: &Known| (self.all || known.record.stores) && !known.record.addresses.is_empty();
        let wanted = table.iter().filter(|(_, known)| is_wanted(known));
        let mut ranked: Vec<_> = wanted.map(|(node, known)| (known.rank(), *node)).collect();
        ranked.sort_unstable();
        self.wanted = ranked.into_iter().take(WANTED_MAX).map(|(_, node)| node).collect();
        let (wanted, bootstrap) = (&self.wanted, &self.bootstrap);
        self.attempts.retain(|target, attempt| {
            attempt.under_way
                || match target {
                    Target::Node(node) => {
                        wanted.contains(node) || bootstrap.iter().any(|entry| entry.node == Some(*node))
                    }
                    Target::Address(_) => true,
                }
        });
    }

    /// The dials that are due, at most as many as may be under way at a time.
    pub(crate) fn due(
        &mut self,
        table: &PeerTable,
        is_connected: impl Fn(&NodeId) -> bool,
        uptime_ms: u64,
    ) -> Vec<LinkEffect> {
        let mut free = DIALS_MAX.saturating_sub(self.attempts.values().filter(|attempt| attempt.under_way).count());
        let mut out = Vec::new();
        let entries = self.bootstrap.iter().filter(|entry| {
            !entry.reached.as_ref().is_some_and(&is_connected) && !entry.node.as_ref().is_some_and(&is_connected)
        });
        let first = entries.map(|entry| {
            let target = entry.node.map_or_else(|| Target::Address(entry.address.clone()), Target::Node);
            (target, entry.node, Some(entry.address.clone()))
        });
        let then = self.wanted.iter().filter(|node| !is_connected(node));
        let all: Vec<_> = first.chain(then.map(|node| (Target::Node(*node), Some(*node), None))).collect();
        for (target, node, address) in all {
            if free == 0 {
                break;
            }
            let attempt = self.attempts.entry(target).or_default();
            if attempt.under_way || attempt.due_ms > uptime_ms {
                continue;
            }
            attempt.under_way = true;
            free = free.saturating_sub(1);
            let known = node.and_then(|node| table.get(&node)).map(|known| known.record.addresses.as_slice());
            let mut addresses: Vec<String> =
                address.into_iter().chain(known.unwrap_or_default().iter().cloned()).collect();
            addresses.truncate(DIAL_ADDRESSES_MAX);
            out.push(LinkEffect::Dial { node, addresses });
        }
        out
    }

    /// A dial led to `reached`. Before the connection is reported too, it is not dialled again.
    pub(crate) fn succeeded(&mut self, target: &Target, reached: NodeId, uptime_ms: u64) {
        if let Some(attempt) = self.attempts.get_mut(target) {
            attempt.under_way = false;
            attempt.due_ms = uptime_ms.saturating_add(REDIAL_FIRST_MS);
        }
        if let Target::Address(address) = target {
            for entry in self.bootstrap.iter_mut().filter(|entry| entry.address == *address) {
                entry.reached = Some(reached);
            }
        }
    }

    /// A dial failed; it is repeated later.
    pub(crate) fn failed(&mut self, target: &Target, uptime_ms: u64) {
        if let Some(attempt) = self.attempts.get_mut(target) {
            attempt.under_way = false;
            back_off(attempt, &mut self.jitter, uptime_ms);
        }
    }

    /// The address leads to this node itself: it is not dialled again.
    pub(crate) fn ours(&mut self, target: &Target) {
        self.attempts.remove(target);
        self.bootstrap.retain(|entry| match target {
            Target::Address(address) => entry.address != *address,
            Target::Node(node) => entry.node != Some(*node),
        });
    }

    /// A connection ended after `lived_ms`.
    pub(crate) fn lost(&mut self, node: NodeId, lived_ms: u64, uptime_ms: u64) {
        let reached = self.bootstrap.iter().filter(|entry| entry.node.is_none() && entry.reached == Some(node));
        let mut targets: Vec<Target> = reached.map(|entry| Target::Address(entry.address.clone())).collect();
        if self.wanted.contains(&node) || self.bootstrap.iter().any(|entry| entry.node == Some(node)) {
            targets.push(Target::Node(node));
        }
        for target in targets {
            let attempt = self.attempts.entry(target).or_default();
            if lived_ms >= STEADY_MS {
                attempt.failures = 0;
            }
            back_off(attempt, &mut self.jitter, uptime_ms);
        }
    }

    /// What failed before may succeed now: everything that waits is due, and begins with the first wait again.
    pub(crate) fn hurry(&mut self, uptime_ms: u64) {
        for attempt in self.attempts.values_mut() {
            attempt.failures = 0;
            attempt.due_ms = attempt.due_ms.min(uptime_ms);
        }
    }

    pub(crate) fn around(&mut self, milliseconds: u64) -> u64 {
        self.jitter.around(milliseconds)
    }
}

fn back_off(attempt: &mut Attempt, jitter: &mut Jitter, uptime_ms: u64) {
    let wait = REDIAL_FIRST_MS.saturating_mul(1 << attempt.failures.min(16)).min(REDIAL_MAX_MS);
    attempt.failures = attempt.failures.saturating_add(1);
    attempt.due_ms = uptime_ms.saturating_add(jitter.around(wait));
}

fn parse(text: &str) -> Bootstrap {
    let split = text.rsplit_once("/p2p/").and_then(|(address, id)| Some((address, id.parse::<NodeId>().ok()?)));
    match split {
        Some((address, node)) if !address.is_empty() => {
            Bootstrap { address: address.to_owned(), node: Some(node), reached: None }
        }
        _ => Bootstrap { address: text.to_owned(), node: None, reached: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::NetworkId;

    fn table() -> PeerTable {
        PeerTable::new(NodeId::from_bytes([1; 32]), NetworkId::from_bytes([0; 32]))
    }

    #[test]
    fn waits_double_up_to_a_minute_and_restart_after_a_steady_link() {
        let address = vec!["/ip4/10.0.0.1/tcp/1".to_owned()];
        let mut dials = Dials::new(&address, Jitter::new(1));
        let (target, mut now, mut waits) = (Target::of(None, &address).unwrap(), 0, Vec::new());
        for _ in 0..12 {
            let start = now;
            while dials.due(&table(), |_| false, now).is_empty() {
                now += 50;
            }
            waits.push(now - start);
            dials.failed(&target, now);
        }
        assert_eq!(waits[0], 0);
        assert!((375..=650).contains(&waits[1]), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= 75_050), "{waits:?}");
        assert!(waits[11] >= 45_000, "{waits:?}");

        let node = NodeId::from_bytes([9; 32]);
        while dials.due(&table(), |_| false, now).is_empty() {
            now += 50;
        }
        dials.failed(&target, now);
        dials.hurry(now);
        assert_eq!(dials.due(&table(), |_| false, now).len(), 1, "another network is tried at once");
        dials.succeeded(&target, node, now);
        assert!(dials.due(&table(), |peer| *peer == node, now).is_empty(), "connected is not dialled");
        dials.lost(node, STEADY_MS, now);
        assert!(dials.due(&table(), |_| false, now).is_empty());
        assert_eq!(dials.due(&table(), |_| false, now + 700).len(), 1);
    }

    #[test]
    fn an_address_of_ours_is_dropped_and_an_id_is_split_off() {
        let node = NodeId::from_bytes([9; 32]);
        let bootstrap = [format!("/ip4/10.0.0.1/tcp/1/p2p/{node}"), "/dns4/x/tcp/2".to_owned()];
        let mut dials = Dials::new(&bootstrap, Jitter::new(1));
        let effects = dials.due(&table(), |_| false, 0);
        assert_eq!(
            effects.first(),
            Some(&LinkEffect::Dial { node: Some(node), addresses: vec!["/ip4/10.0.0.1/tcp/1".into()] })
        );
        dials.ours(&Target::Node(node));
        dials.ours(&Target::Address("/dns4/x/tcp/2".into()));
        assert!(dials.due(&table(), |_| false, 1_000_000).is_empty());
    }

    #[test]
    fn no_more_dials_than_allowed_are_under_way() {
        let bootstrap: Vec<_> = (0..20).map(|port| format!("/ip4/10.0.0.1/tcp/{port}")).collect();
        let mut dials = Dials::new(&bootstrap, Jitter::new(1));
        assert_eq!(dials.due(&table(), |_| false, 0).len(), DIALS_MAX);
        assert!(dials.due(&table(), |_| false, 0).is_empty());
        dials.failed(&Target::Address(bootstrap[0].clone()), 0);
        assert_eq!(dials.due(&table(), |_| false, 0).len(), 1);
    }
}
