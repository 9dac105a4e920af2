//! Which indices this node has told its peers: one table for all sessions of a node, so that an index names one session.
//! It holds no session.

use std::collections::BTreeMap;

use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::session::SessionIndex;

/// Most sessions and handshakes of one node at a time: 4,096 peers with three sessions and a handshake each. A session's
/// windows take 9 KiB, so this is also the bound of 150 MiB for all of them.
pub const INDICES_MAX: usize = 4 * 4096;
/// Draws before giving up: with a full table 2^14 of 2^32 indices are taken, so that eight in a row miss is a fault of the
/// random source.
const DRAWS_MAX: usize = 8;

/// The indices in use.
#[derive(Debug, Default)]
pub struct Indices {
    used: BTreeMap<SessionIndex, PeerHash>,
}

impl Indices {
    /// A random index nobody has, for a session with `peer`; none if the table is full.
    pub(super) fn claim(&mut self, peer: PeerHash, random: &mut dyn FnMut(&mut [u8])) -> Option<SessionIndex> {
        if self.used.len() >= INDICES_MAX {
            return None;
        }
        (0..DRAWS_MAX).find_map(|_| {
            let mut bytes = [0; 4];
            random(&mut bytes);
            let index = SessionIndex(u32::from_le_bytes(bytes));
            (!self.used.contains_key(&index)).then(|| {
                self.used.insert(index, peer);
                index
            })
        })
    }

    pub(super) fn release(&mut self, index: SessionIndex) {
        self.used.remove(&index);
    }

    /// With whom the session or handshake of this index is.
    #[must_use]
    pub fn peer(&self, index: SessionIndex) -> Option<PeerHash> {
        self.used.get(&index).copied()
    }

    /// How many are in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PEER: PeerHash = PeerHash::new([7; 10]);

    #[test]
    fn an_index_is_given_once_and_the_table_has_an_end() {
        let (mut indices, mut drawn) = (Indices::default(), 0_u32);
        let mut counting = |out: &mut [u8]| {
            // Each number twice, as a bad source might.
            out.copy_from_slice(&(drawn / 2).to_le_bytes());
            drawn += 1;
        };
        let all: BTreeSet<_> = (0..INDICES_MAX).map(|_| indices.claim(PEER, &mut counting).unwrap()).collect();
        assert_eq!(all.len(), INDICES_MAX);
        assert_eq!(indices.claim(PEER, &mut counting), None);
        assert_eq!((indices.peer(SessionIndex(7)), indices.peer(SessionIndex(u32::MAX))), (Some(PEER), None));
        indices.release(SessionIndex(7));
        assert_eq!(indices.peer(SessionIndex(7)), None);
        assert!(indices.claim(PEER, &mut counting).is_some());
        assert_eq!(Indices::default().claim(PEER, &mut |out| out.fill(1)), Some(SessionIndex(0x0101_0101)));
    }

    #[test]
    fn a_source_that_repeats_itself_is_given_up() {
        let mut indices = Indices::default();
        assert!(indices.claim(PEER, &mut |out| out.fill(1)).is_some());
        assert_eq!(indices.claim(PEER, &mut |out| out.fill(1)), None);
    }
}
