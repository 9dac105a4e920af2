//! What a code would mean among these nodes for whatever file comes: the cap on domains, the spares, the worst draw.
//! It draws no table: `table.rs` does, for one file.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use shoal_protocol::FileId;
use shoal_protocol::layout::Code;

use super::table::{domain_cap, rank};
use super::{Candidate, Domain, PlacementError};

/// What holds for every file of one code among one set of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Distinct nodes with room and standing.
    pub usable: usize,
    /// Slots one domain should hold at most: floor(m/2), at least 1.
    pub wanted_cap: usize,
    /// Slots one domain may hold: the smallest count that works.
    pub domain_cap: usize,
    /// Domains that may hold more than m slots of a file, with the most they may hold; the largest first.
    pub fatal: Vec<(Domain, usize)>,
}

impl Outlook {
    /// Nodes that hold no slot of a file, and so can take a lost shard.
    #[must_use]
    pub const fn spares(&self, code: Code) -> usize {
        self.usable.saturating_sub(code.n())
    }

    /// Whether no domain holds more than it should.
    #[must_use]
    pub const fn is_spread(&self) -> bool {
        self.domain_cap <= self.wanted_cap
    }
}

/// What one copy of a file of `code` is in for, when one slot takes `slot_bytes`.
///
/// # Errors
/// [`PlacementError::NotEnoughNodes`] below k+m distinct usable nodes.
pub fn outlook(code: Code, candidates: &[Candidate], slot_bytes: u64) -> Result<Outlook, PlacementError> {
    // Who is usable does not depend on the file, only their order does.
    let usable = rank(FileId::from_bytes([0; 32]), candidates, slot_bytes);
    if usable.len() < code.n() {
        return Err(PlacementError::NotEnoughNodes { have: usable.len(), need: code.n() });
    }
    let (wanted_cap, domain_cap) = domain_cap(&usable, code, 1);
    let mut sizes: BTreeMap<&Domain, usize> = BTreeMap::new();
    for placed in &usable {
        let size = sizes.entry(&placed.domain).or_default();
        *size = size.saturating_add(1);
    }
    let most = sizes.into_iter().map(|(domain, size)| (domain.clone(), size.min(domain_cap)));
    let mut fatal: Vec<(Domain, usize)> = most.filter(|(_, slots)| *slots > code.m()).collect();
    fatal.sort_by(|(left, some), (right, more)| Reverse(some).cmp(&Reverse(more)).then(left.cmp(right)));
    Ok(Outlook { usable: usable.len(), wanted_cap, domain_cap, fatal })
}
