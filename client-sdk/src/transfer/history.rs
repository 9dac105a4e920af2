//! What a run has seen of each node: how long it is silent when all is well, and how it bears several transfers at once.
//! Times are arguments; it asks nobody and starts nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_protocol::NodeId;

use super::window::Window;
use shoal_protocol::limits::TRANSFER_SILENCE_MS;

/// Silence that is never called a stall, milliseconds.
const PATIENCE_MIN_MS: u64 = 500;
/// Silence of a node that is called a stall while nothing at all is known, milliseconds.
const PATIENCE_FIRST_MS: u64 = 2_000;

/// Mean and mean deviation of the longest silence within a transfer, as RFC 6298 §2 keeps them for round trips.
#[derive(Debug, Clone, Copy, Default)]
struct Silence {
    seen: Option<(u64, u64)>,
}

impl Silence {
    fn sample(&mut self, ms: u64) {
        self.seen = Some(match self.seen {
            None => (ms, ms / 2),
            Some((mean, deviation)) => {
                let off = mean.abs_diff(ms);
                ((mean.saturating_mul(7).saturating_add(ms)) / 8, (deviation.saturating_mul(3).saturating_add(off)) / 4)
            }
        });
    }

    fn patience_ms(&self) -> Option<u64> {
        self.seen.map(|(mean, deviation)| mean.saturating_add(deviation.saturating_mul(4)))
    }
}

#[derive(Debug, Default)]
struct NodeHistory {
    silence: Silence,
    window: Window,
    stalled: bool,
    stalls: u32,
}

/// Every node of one run.
#[derive(Debug, Default)]
pub struct History {
    nodes: BTreeMap<NodeId, NodeHistory>,
    everyone: Silence,
}

impl History {
    /// Silence of a transfer after which another holder is asked as well: by this node's own past, by everybody's where
    /// it has none.
    #[must_use]
    pub fn patience_ms(&self, node: &NodeId) -> u64 {
        let own = self.nodes.get(node).and_then(|known| known.silence.patience_ms());
        let usual = own.or_else(|| self.everyone.patience_ms().map(|ms| ms.saturating_mul(2)));
        usual.unwrap_or(PATIENCE_FIRST_MS).clamp(PATIENCE_MIN_MS, TRANSFER_SILENCE_MS)
    }

    /// Transfers this node gets at once.
    #[must_use]
    pub fn window(&self, node: &NodeId) -> usize {
        self.nodes.get(node).map_or_else(|| Window::default().size(), |known| known.window.size())
    }

    /// Whether its last word was silence: such nodes are asked last.
    #[must_use]
    pub fn is_stalled(&self, node: &NodeId) -> bool {
        self.nodes.get(node).is_some_and(|known| known.stalled)
    }

    /// A transfer was silent beyond [`History::patience_ms`].
    pub fn stalled(&mut self, node: NodeId) {
        let known = self.nodes.entry(node).or_default();
        known.stalled = true;
        known.stalls = known.stalls.saturating_add(1);
    }

    /// Nodes for which others were asked, and how often, in id order.
    pub fn stalls(&self) -> impl Iterator<Item = (NodeId, u32)> {
        self.nodes.iter().filter(|(_, known)| known.stalls > 0).map(|(node, known)| (*node, known.stalls))
    }

    /// Bytes came from a node.
    pub fn moved(&mut self, node: &NodeId) {
        if let Some(known) = self.nodes.get_mut(node) {
            known.stalled = false;
        }
    }

    /// A transfer of `bytes` ended well after `took`, of which it was silent for `longest_ms` in a row.
    pub fn finished(&mut self, node: NodeId, bytes: u64, took: Duration, longest_ms: u64) {
        let known = self.nodes.entry(node).or_default();
        known.stalled = false;
        known.silence.sample(longest_ms);
        known.window.finished(bytes, took);
        self.everyone.sample(longest_ms);
    }

    /// A transfer failed.
    pub fn failed(&mut self, node: NodeId) {
        self.nodes.entry(node).or_default().window.failed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn patience_follows_the_node_and_not_the_clock() {
        let mut history = History::default();
        assert_eq!(history.patience_ms(&node(1)), PATIENCE_FIRST_MS);
        for _ in 0..20 {
            history.finished(node(1), 1 << 20, Duration::from_millis(50), 20);
            history.finished(node(2), 1 << 20, Duration::from_millis(9_000), 1_500);
        }
        assert_eq!(history.patience_ms(&node(1)), PATIENCE_MIN_MS);
        let slow = history.patience_ms(&node(2));
        assert!((1_500..2_500).contains(&slow), "{slow}");
        let unknown = history.patience_ms(&node(3));
        assert!(unknown > slow && unknown <= TRANSFER_SILENCE_MS, "{unknown}");
    }

    #[test]
    fn one_long_silence_widens_the_patience_and_is_forgotten() {
        let mut history = History::default();
        (0..20).for_each(|_| history.finished(node(1), 1 << 20, Duration::from_millis(50), 300));
        let before = history.patience_ms(&node(1));
        history.finished(node(1), 1 << 20, Duration::from_millis(5_000), 4_000);
        assert!(history.patience_ms(&node(1)) > 3 * before);
        (0..40).for_each(|_| history.finished(node(1), 1 << 20, Duration::from_millis(50), 300));
        assert!(history.patience_ms(&node(1)) < 2 * before);
    }

    #[test]
    fn a_stalled_node_is_trusted_again_when_it_moves() {
        let mut history = History::default();
        history.stalled(node(1));
        assert!(history.is_stalled(&node(1)) && !history.is_stalled(&node(2)));
        history.moved(&node(1));
        assert!(!history.is_stalled(&node(1)));
    }
}
