//! What one run knows of its nodes, and their turns: a node gets as many transfers at once as its history says, the
//! others wait in line. It decides nothing; [`History`] does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_protocol::NodeId;
use tokio::sync::oneshot;

use crate::transfer::{Chance, History, TransferError};

/// The nodes of one run.
#[derive(Debug, Default)]
pub(super) struct Peers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Nodes that are of no use in this run, and why.
    shunned: BTreeMap<NodeId, TransferError>,
    history: History,
    lines: BTreeMap<NodeId, Line>,
}

/// Who has a turn with a node, and who waits for one. As long as the transfers that are asked for.
#[derive(Debug, Default)]
struct Line {
    taken: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// One of a node's turns; dropping it passes it on.
#[derive(Debug)]
pub(super) struct Turn {
    peers: Arc<Peers>,
    node: NodeId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(line) = self.peers.lock().lines.get_mut(&self.node) {
            line.taken = line.taken.saturating_sub(1);
        }
        self.peers.pass_on(self.node);
    }
}

impl Peers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never asks this node again in this run.
    pub(super) fn shun(&self, node: NodeId, error: TransferError) {
        self.lock().shunned.entry(node).or_insert(error);
    }

    /// Who was shunned, and why.
    pub(super) fn shunned(&self) -> Vec<(NodeId, TransferError)> {
        self.lock().shunned.iter().map(|(node, error)| (*node, error.clone())).collect()
    }

    /// What speaks for asking this node.
    pub(super) fn chance(&self, node: &NodeId) -> Chance {
        let state = self.lock();
        if state.shunned.contains_key(node) {
            Chance::None
        } else if state.history.is_stalled(node) {
            Chance::Poor
        } else {
            Chance::Good
        }
    }

    /// Runs `act` on the history.
    pub(super) fn history<R>(&self, act: impl FnOnce(&mut History) -> R) -> R {
        act(&mut self.lock().history)
    }

    /// Waits for a turn with `node`. Giving up the wait gives up the place in line.
    pub(super) async fn turn(self: &Arc<Self>, node: NodeId) -> Turn {
        let (grant, granted) = oneshot::channel();
        self.lock().lines.entry(node).or_default().waiting.push_back(grant);
        self.pass_on(node);
        // The line is never dropped with a waiter in it: that would be a turn nobody was refused.
        granted.await.unwrap_or_else(|_| Turn { peers: Arc::clone(self), node })
    }

    /// Gives free turns to those who wait.
    fn pass_on(self: &Arc<Self>, node: NodeId) {
        loop {
            let grant = {
                let mut state = self.lock();
                let window = state.history.window(&node);
                let Some(line) = state.lines.get_mut(&node) else { return };
                line.waiting.retain(|waiter| !waiter.is_closed());
                if line.taken >= window {
                    return;
                }
                let Some(grant) = line.waiting.pop_front() else { return };
                line.taken = line.taken.saturating_add(1);
                grant
            };
            // Who gave up in this very moment drops the turn, which passes it on.
            drop(grant.send(Turn { peers: Arc::clone(self), node }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[tokio::test]
    async fn turns_are_as_many_as_the_window_and_pass_in_order() {
        let peers = Arc::new(Peers::default());
        let window = peers.history(|history| history.window(&node(1)));
        let mut held: VecDeque<Turn> = VecDeque::new();
        for _ in 0..window {
            held.push_back(peers.turn(node(1)).await);
        }
        assert!(peers.turn(node(1)).now_or_never().is_none());
        assert!(peers.turn(node(2)).now_or_never().is_some(), "another node has its own");
        let mut first = Box::pin(peers.turn(node(1)));
        let mut second = Box::pin(peers.turn(node(1)));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        held.pop_front();
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        held.push_back(second.await);
        assert_eq!(peers.lock().lines[&node(1)].taken, window);
        held.clear();
        assert_eq!(peers.lock().lines[&node(1)].taken, 0);
    }

    #[test]
    fn a_shunned_node_has_no_chance_and_a_silent_one_a_poor_one() {
        let peers = Peers::default();
        assert_eq!(peers.chance(&node(1)), Chance::Good);
        peers.history(|history| history.stalled(node(1)));
        assert_eq!(peers.chance(&node(1)), Chance::Poor);
        peers.shun(node(1), TransferError::TooSlow);
        assert_eq!(peers.chance(&node(1)), Chance::None);
        assert_eq!(peers.shunned(), [(node(1), TransferError::TooSlow)]);
    }
}
