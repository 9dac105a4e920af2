//! The signed peer records a node believes. It never dials and never believes anything unsigned.
//!
//! At most [`KNOWN_MAX`] peers. When it is full, a newcomer takes the place of the peer with the oldest record, peers
//! that never spoke for themselves on a connection of ours first. A newcomer known by hearsay alone never displaces a
//! peer that did: a flood of made-up identities cannot push out those we met.

use std::collections::BTreeMap;
use std::ops::Bound;

use shoal_protocol::hash::{RENDEZVOUS, derive};
use shoal_protocol::limits::{FRESHNESS_MS, PEERS_PAGE_MAX};
use shoal_protocol::peer_record::{PEER_RECORD_AGE_MAX_MS, PeerRecord};
use shoal_protocol::signed::Forged;
use shoal_protocol::{NetworkId, NodeId, Signed, UnixMillis};

/// Most peers remembered.
pub const KNOWN_MAX: usize = 4096;
/// Most bytes of records in one answer: leaves room for the response around them in a control frame of 64 KiB.
pub const PAGE_BYTES_MAX: usize = 60 * 1024;
/// CBOR bytes around one record in an answer, at most.
const RECORD_OVERHEAD: usize = 8;

/// Why a peer record was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLearned {
    /// The signature, the network or the form is wrong.
    #[error("peer record is not believed")]
    Forged(#[from] Forged),
    /// The record speaks for somebody else than the peer that presented it as its own.
    #[error("peer record of {found}, presented by {presenter}")]
    NotItsOwn {
        /// Who presented it.
        presenter: NodeId,
        /// Whom it describes.
        found: NodeId,
    },
    /// Older than a day.
    #[error("peer record is too old")]
    Stale,
    /// Signed more than two minutes from now.
    #[error("peer record is from the future")]
    Future,
    /// The table is full of better known peers.
    #[error("no place for another peer")]
    Full,
}

impl NotLearned {
    /// Whether only a liar sends such a record. Clocks differ and tables fill without anybody's fault.
    #[must_use]
    pub const fn is_lie(&self) -> bool {
        matches!(self, Self::Forged(_) | Self::NotItsOwn { .. })
    }

    /// Whether the same record may be taken later.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Future | Self::Full)
    }
}

/// What a record changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// A peer not known before; perhaps in the place of another.
    New,
    /// A newer record of a known peer.
    Newer,
    /// Nothing.
    Same,
}

/// A believed record.
#[derive(Clone, Debug)]
pub struct Known {
    signed: Signed,
    size: usize,
    met: bool,
    rank: u64,
    /// What the peer says of itself.
    pub record: PeerRecord,
}

impl Known {
    /// Where the peer stands in this node's own order of peers to connect to; smaller comes first.
    pub(crate) const fn rank(&self) -> u64 {
        self.rank
    }
}

#[derive(Debug)]
pub(crate) struct PeerTable {
    local: NodeId,
    network: NetworkId,
    /// At most [`KNOWN_MAX`].
    known: BTreeMap<NodeId, Known>,
}

impl PeerTable {
    pub(crate) const fn new(local: NodeId, network: NetworkId) -> Self {
        Self { local, network, known: BTreeMap::new() }
    }

    /// Takes a record if it is signed, fresh and newer than the one held. `presenter` is set where a connected peer
    /// hands over the record as its own.
    pub(crate) fn learn(
        &mut self,
        signed: Signed,
        presenter: Option<NodeId>,
        wall: UnixMillis,
    ) -> Result<Learned, NotLearned> {
        let node = NodeId::from(*signed.claimed_signer());
        if let Some(presenter) = presenter.filter(|presenter| *presenter != node) {
            return Err(NotLearned::NotItsOwn { presenter, found: node });
        }
        // The cheap check first: most records of a page are those of the page before.
        if let Some(known) = self.known.get_mut(&node).filter(|known| known.signed == signed) {
            known.met |= presenter.is_some();
            return Ok(Learned::Same);
        }
        let record = signed.verify::<PeerRecord>(&self.network)?.into_inner();
        fresh(record.time, wall)?;
        if node == self.local {
            return Ok(Learned::Same);
        }
        let met = presenter.is_some();
        let size = signed.to_bytes().len().saturating_add(RECORD_OVERHEAD);
        if let Some(known) = self.known.get_mut(&node) {
            known.met |= met;
            if record.time <= known.record.time {
                return Ok(Learned::Same);
            }
            (known.signed, known.size, known.record) = (signed, size, record);
            return Ok(Learned::Newer);
        }
        if self.known.len() >= KNOWN_MAX {
            self.make_room(met)?;
        }
        let rank = rank(&self.local, &node);
        self.known.insert(node, Known { signed, size, met, rank, record });
        Ok(Learned::New)
    }

    fn make_room(&mut self, newcomer_met: bool) -> Result<(), NotLearned> {
        let oldest = self.known.iter().min_by_key(|(_, known)| (known.met, known.record.time));
        let (node, known) = oldest.ok_or(NotLearned::Full)?;
        if known.met && !newcomer_met {
            return Err(NotLearned::Full);
        }
        let node = *node;
        self.known.remove(&node);
        Ok(())
    }

    /// Forgets records that have become too old and says whether there were any.
    pub(crate) fn forget_stale(&mut self, wall: UnixMillis) -> bool {
        let before = self.known.len();
        self.known.retain(|_, known| fresh(known.record.time, wall) != Err(NotLearned::Stale));
        self.known.len() != before
    }

    pub(crate) fn get(&self, node: &NodeId) -> Option<&Known> {
        self.known.get(node)
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Known)> {
        self.known.iter()
    }

    /// Fresh records after `after` in id order, `own` among them, as many as fit one answer, and whether more follow.
    pub(crate) fn page(&self, after: Option<NodeId>, own: Option<&Signed>, wall: UnixMillis) -> (Vec<Signed>, bool) {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut others =
            self.known.range((start, Bound::Unbounded)).filter(|(_, known)| is_fresh(known, wall)).peekable();
        let mut own = own.filter(|_| after.is_none_or(|after| after < self.local));
        let mut page = Page::default();
        loop {
            let own_is_next = own.is_some() && others.peek().is_none_or(|(node, _)| **node > self.local);
            let fits = if own_is_next {
                own.take()
                    .is_none_or(|signed| page.add(signed, signed.to_bytes().len().saturating_add(RECORD_OVERHEAD)))
            } else if let Some((_, known)) = others.next() {
                page.add(&known.signed, known.size)
            } else {
                return (page.records, false);
            };
            if !fits {
                return (page.records, true);
            }
        }
    }

    /// Fresh records of `nodes` in id order, as many as fit, and whether some did not.
    pub(crate) fn locate(&self, nodes: &[NodeId], own: Option<&Signed>, wall: UnixMillis) -> (Vec<Signed>, bool) {
        let wanted: std::collections::BTreeSet<_> = nodes.iter().copied().collect();
        let mut page = Page::default();
        for node in wanted {
            let fits = if node == self.local {
                own.is_none_or(|signed| page.add(signed, signed.to_bytes().len().saturating_add(RECORD_OVERHEAD)))
            } else {
                let known = self.known.get(&node).filter(|known| is_fresh(known, wall));
                known.is_none_or(|known| page.add(&known.signed, known.size))
            };
            if !fits {
                return (page.records, true);
            }
        }
        (page.records, false)
    }
}

#[derive(Default)]
struct Page {
    records: Vec<Signed>,
    bytes: usize,
}

impl Page {
    /// Adds a record of `size` bytes unless the page is full.
    fn add(&mut self, signed: &Signed, size: usize) -> bool {
        let bytes = self.bytes.saturating_add(size);
        let fits = self.records.len() < PEERS_PAGE_MAX && bytes <= PAGE_BYTES_MAX;
        if fits {
            self.bytes = bytes;
            self.records.push(signed.clone());
        }
        fits
    }
}

fn is_fresh(known: &Known, wall: UnixMillis) -> bool {
    fresh(known.record.time, wall).is_ok()
}

fn fresh(said: UnixMillis, wall: UnixMillis) -> Result<(), NotLearned> {
    if said > wall.saturating_add(FRESHNESS_MS) {
        Err(NotLearned::Future)
    } else if said.saturating_add(PEER_RECORD_AGE_MAX_MS) < wall {
        Err(NotLearned::Stale)
    } else {
        Ok(())
    }
}

/// Different for every pair, so that the subsets large networks connect to form a random graph.
fn rank(local: &NodeId, node: &NodeId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = derive(RENDEZVOUS, &[b"connect", local.as_bytes(), node.as_bytes()]);
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
