//! What nodes that lie do with routes and with frames. They keep to the form of every message, so that nothing but what
//! they say and do is wrong: digests fit, signatures are the origins' own.

use std::collections::BTreeMap;

use shoal_protocol::mesh::message::MeshMessage;
use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::relay::RelayHeader;
use shoal_protocol::mesh::route::{
    FRAME_MAX, Origin, Reach, RouteMessage, RouteUpdate, Router, Told, UPDATES_MAX, told_digest,
};
use shoal_protocol::{NodeId, Signed};

use super::{World, network};

/// What a liar does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vice {
    /// Tells everybody a short way to everybody, and drops what comes.
    BlackHole,
    /// Tells short ways, sends what comes to anybody with a full hop limit, and again later.
    Misroute,
    /// Tells ways with the oldest words of their origins, takes them back, tells them again; and drops what comes.
    OldWords,
    /// Tells short ways and passes on short frames alone.
    ShortOnly,
    /// Tells what is true and drops what comes.
    Silent,
}

/// A liar's own memory, beside the engine it uses as a mask.
#[derive(Debug)]
pub(crate) struct Liar {
    /// None while it is honest still.
    pub(crate) vice: Option<Vice>,
    /// The first and the last word of each prefix it heard.
    words: BTreeMap<Prefix, (Signed, Signed)>,
    /// What each neighbour was told.
    told: BTreeMap<usize, BTreeMap<Prefix, (Signed, Told)>>,
    reach: BTreeMap<usize, Reach>,
    messages: u64,
    /// What was verified already.
    verified: Verified,
    /// Frames to be sent once more.
    kept: Vec<(PeerHash, Vec<u8>)>,
}

/// Short frames, as a liar sees them: all that is there without packets.
const SHORT: usize = 300;
/// Frames that are kept to be sent again.
const KEPT_MAX: usize = 32;

impl Liar {
    pub(crate) const fn new() -> Self {
        Self {
            vice: None,
            words: BTreeMap::new(),
            told: BTreeMap::new(),
            reach: BTreeMap::new(),
            messages: 0,
            verified: BTreeMap::new(),
            kept: Vec::new(),
        }
    }

    /// Remembers the words of origins.
    pub(super) fn listen(&mut self, message: &MeshMessage) {
        let MeshMessage::Routes(routes) = message else { return };
        for update in &routes.updates {
            let (prefix, ..) = read(&mut self.verified, &update.origin);
            let known = self.words.entry(prefix).or_insert_with(|| (update.origin.clone(), update.origin.clone()));
            known.1 = update.origin.clone();
        }
    }

    /// Makes a lie of what its engine says to a neighbour.
    pub(super) fn rewrite(&mut self, to: usize, message: &mut RouteMessage) {
        self.messages += 1;
        if let Some(reach) = &message.reach {
            self.reach.insert(to, reach.clone());
        }
        let told = self.told.entry(to).or_default();
        for prefix in &message.retracted {
            told.remove(prefix);
        }
        for update in &message.updates {
            let (prefix, entry) = entry(&mut self.verified, &update.origin, update.metric, update.max_frame);
            told.insert(prefix, entry);
        }
        let Some(vice) = self.vice else { return };
        message.retracted.clear();
        let turn = self.messages.is_multiple_of(4);
        match vice {
            Vice::Silent => {}
            Vice::OldWords if turn => {
                message.updates.clear();
                message.retracted = told.keys().copied().collect();
                message.retracted.truncate(64);
                for prefix in &message.retracted {
                    told.remove(prefix);
                }
            }
            _ => {
                let old = vice == Vice::OldWords;
                for (first, last) in self.words.values() {
                    let (prefix, entry) = entry(&mut self.verified, if old { first } else { last }, 1, FRAME_MAX);
                    told.insert(prefix, entry);
                }
            }
        }
        if vice != Vice::OldWords || !turn {
            message.updates.clear();
            for (word, told) in told.values().take(UPDATES_MAX) {
                let Told { metric, max_frame, relayed, .. } = *told;
                message.updates.push(RouteUpdate { origin: word.clone(), metric, max_frame, relayed });
            }
        }
        let sum = told.iter().fold(0_u64, |sum, (prefix, (_, told))| sum.wrapping_add(told_digest(prefix, told)));
        message.digest = sum.wrapping_add(self.reach.get(&to).cloned().unwrap_or_default().digest());
    }
}

type Verified = BTreeMap<Vec<u8>, (Prefix, Router, u32)>;

/// What an origin's word says, which is verified once.
fn read(verified: &mut Verified, word: &Signed) -> (Prefix, Router, u32) {
    *verified.entry(word.to_bytes()).or_insert_with(|| {
        let origin = word.verify::<Origin>(&network()).unwrap();
        let router = Router { node: NodeId::from(*origin.signer()), epoch: origin.epoch };
        (origin.prefix, router, origin.seqno)
    })
}

fn entry(verified: &mut Verified, word: &Signed, metric: u32, max_frame: u32) -> (Prefix, (Signed, Told)) {
    let (prefix, router, seqno) = read(verified, word);
    (prefix, (word.clone(), Told { router, seqno, metric, max_frame, relayed: false }))
}

impl World {
    /// `at` is going to lie: from now on it remembers what it hears and tells.
    pub(crate) fn suspect(&mut self, at: usize) {
        self.nodes[at].liar = Some(Liar::new());
    }

    /// From now on `at`, a suspect, lies; or no more.
    pub(crate) fn corrupt(&mut self, at: usize, vice: Option<Vice>) {
        self.nodes[at].liar.as_mut().unwrap().vice = vice;
    }

    /// What a liar does with a frame for somebody else.
    pub(super) fn misuse(&mut self, at: usize, previous: PeerHash, mut bytes: Vec<u8>) {
        let Some(liar) = &mut self.nodes[at].liar else { return };
        let Some(vice) = liar.vice else { return };
        if liar.kept.len() < KEPT_MAX {
            liar.kept.push((previous, bytes.clone()));
        }
        match vice {
            Vice::ShortOnly if bytes.len() <= SHORT => {
                // Duly, as far as anybody can tell.
                let destination = RelayHeader::parse(&bytes).unwrap().destination;
                let hop = self.hops(at, self.hashes[&destination]).first().copied();
                if let Some(hop) = hop {
                    bytes[RelayHeader::HOP_LIMIT_AT] -= 1;
                    self.send_relayed(at, self.nodes[hop].hash, &bytes, vec![]);
                }
            }
            Vice::Misroute => {
                // With a limit as if it were new; and where it goes is chance.
                bytes[RelayHeader::HOP_LIMIT_AT] = 255;
                self.counts.replayed += 1;
                let neighbours: Vec<usize> = (0..self.nodes.len()).filter(|to| self.is_wired(at, *to)).collect();
                let to = neighbours[self.chance.index(neighbours.len())];
                self.send_relayed(at, self.nodes[to].hash, &bytes, vec![]);
            }
            _ => self.counts.swallowed += 1,
        }
    }

    /// What a liar does of its own accord: it sends old frames again, where they came from and elsewhere.
    pub(super) fn lie(&mut self, at: usize) {
        let Some(liar) = &mut self.nodes[at].liar else { return };
        if liar.vice != Some(Vice::Misroute) || !self.now_ms.is_multiple_of(7) {
            return;
        }
        let Some((_, bytes)) = liar.kept.pop() else { return };
        let neighbours: Vec<usize> = (0..self.nodes.len()).filter(|to| self.is_wired(at, *to)).collect();
        for to in neighbours {
            self.counts.replayed += 1;
            self.send_relayed(at, self.nodes[to].hash, &bytes, vec![]);
        }
    }
}
