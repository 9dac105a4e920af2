//! What members signed of themselves that does not count because of its time: kept until it does, or something newer comes,
//! and for people who ask why somebody is not reached. Nobody says it again when a clock is set right: to neighbours it was
//! told. It verifies nothing.

use std::collections::BTreeMap;

use shoal_protocol::limits::FRESHNESS_MS;
use shoal_protocol::mesh::key::{MESH_KEY_LIFE_MAX_MS, MeshKey};
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::{NodeId, Signed, UnixMillis};

use super::effect::Env;
use super::{Network, Standing};
use crate::mesh::claims::NotClaimed;

/// Most words remembered, about 80 KiB: as many as a network has whose every clock but this node's is right, of the usual
/// size. Beyond it none is noted before others are forgotten.
pub const UNTIMELY_MAX: usize = 256;

/// What was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// A mesh key record: without one there is no session.
    Key,
    /// The claim of an IPv4 address: without one the member has none.
    Claim,
}

/// Why a word does not count, and since or until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untimely {
    /// It ended then.
    Over(UnixMillis),
    /// It is of a time that is still to come: a claim signed then, or a key that ends then, which is later than any may.
    Early(UnixMillis),
}

#[derive(Clone, Debug)]
struct Noted {
    untimely: Untimely,
    /// Who said it, and what; none of what was known and ended.
    said: Option<(NodeId, Signed)>,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct UntimelyWords {
    /// At most [`UNTIMELY_MAX`].
    words: BTreeMap<(NodeId, Word), Noted>,
}

impl UntimelyWords {
    pub(super) fn note(&mut self, node: NodeId, word: Word, untimely: Untimely, said: Option<(NodeId, Signed)>) {
        if self.words.len() < UNTIMELY_MAX || self.words.contains_key(&(node, word)) {
            self.words.insert((node, word), Noted { untimely, said });
        }
    }

    /// A word that counts took its place.
    pub(super) fn forget(&mut self, node: NodeId, word: Word) {
        self.words.remove(&(node, word));
    }

    /// The words that count by this clock: their time came, or it was set right. They are forgotten.
    fn due(&mut self, wall: UnixMillis) -> Vec<(NodeId, Word, NodeId, Signed)> {
        let counts = |word: Word, untimely: Untimely| match (untimely, word) {
            (Untimely::Over(at), _) => at > wall,
            (Untimely::Early(at), Word::Claim) => at <= wall.saturating_add(FRESHNESS_MS),
            (Untimely::Early(at), Word::Key) => at <= wall.saturating_add(MESH_KEY_LIFE_MAX_MS),
        };
        let due = self.words.extract_if(.., |(_, word), noted| noted.said.is_some() && counts(*word, noted.untimely));
        due.filter_map(|((node, word), noted)| noted.said.map(|(from, signed)| (node, word, from, signed))).collect()
    }
}

impl Network {
    /// What `node` signed of itself last, if that does not count because of its time, and nothing else of the kind does. Of
    /// both kinds the key, for without one nothing goes.
    #[must_use]
    pub fn untimely(&self, node: &NodeId, wall: UnixMillis) -> Option<(Word, Untimely)> {
        let known = self.keys.get(&PeerHash::of(node)).filter(|known| known.node() == *node);
        let ended = known.filter(|known| known.not_after() <= wall).map(|known| Untimely::Over(known.not_after()));
        let noted = |word| Some((word, self.untimely.words.get(&(*node, word))?.untimely));
        noted(Word::Key).or_else(|| ended.map(|ended| (Word::Key, ended))).or_else(|| noted(Word::Claim))
    }

    /// A key record of `node`, which `from` said, may not be used now.
    pub(super) fn note_key(
        &mut self,
        node: NodeId,
        key: &MeshKey,
        (from, signed): (Option<NodeId>, &Signed),
        wall: UnixMillis,
    ) {
        // Somebody may pass on an old one although the newest is known.
        let known = self.keys.get(&PeerHash::of(&node));
        if known.is_none_or(|known| known.not_after() <= wall) {
            let is_over = key.not_after <= wall;
            let untimely = if is_over { Untimely::Over(key.not_after) } else { Untimely::Early(key.not_after) };
            let said = from.map(|from| (from, signed.clone()));
            self.untimely.note(node, Word::Key, untimely, said);
        }
    }

    /// A claim of `node`, signed and ending then, which `from` said, was not taken.
    pub(super) fn note_claim(
        &mut self,
        node: NodeId,
        (time, expires): (UnixMillis, UnixMillis),
        said: (NodeId, Signed),
        reason: NotClaimed,
    ) {
        let untimely = match reason {
            NotClaimed::Expired => Untimely::Over(expires),
            NotClaimed::Future => Untimely::Early(time),
            NotClaimed::NoMember | NotClaimed::WrongIssueTime | NotClaimed::Backdated | NotClaimed::Full => return,
        };
        if self.claims.address_of(&node).is_none() {
            self.untimely.note(node, Word::Claim, untimely, Some(said));
        }
    }

    /// Takes the words whose time has come.
    pub(super) fn take_timely(&mut self, env: &mut Env<'_>) {
        for (node, word, from, signed) in self.untimely.due(env.now.wall) {
            match word {
                Word::Claim => self.take_claim(from, signed, env),
                Word::Key if self.learn_key(node, &signed, Some(from), env) => self.begin(node, env),
                Word::Key => {}
            }
        }
    }

    /// The key of `node` counts now: what its hello could not begin. Addresses come with its next one, or from its probes.
    fn begin(&mut self, node: NodeId, env: &mut Env<'_>) {
        let peer = PeerHash::of(&node);
        let Some(state) = self.peers.get(&peer) else { return };
        let is_lane_missing = matches!(state.standing, Standing::Neighbour(_)) && !state.has_lane;
        self.ensure_sessions(peer);
        if is_lane_missing {
            self.want_lane(peer);
        }
        self.with_sessions(peer, env, |sessions, cx| sessions.handle_want(cx));
        self.drain_path(peer, env);
        self.link_changed(peer, env);
    }
}
