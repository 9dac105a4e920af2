//! What a relay does with a frame that is for somebody else: nothing but lower its hop limit and name the next hop, or say
//! why not. It opens no frame, cuts none, answers none. Who brought a frame is known from the session of that hop; who is
//! said to have sealed it is a claim, and nothing is charged to it.

use std::collections::BTreeMap;

use shoal_protocol::mesh::peer_hash::PeerHash;
use shoal_protocol::mesh::relay::{HOP_LIMIT_RELAYED_MAX, RelayHeader, RelayHeaderError};

use super::qos::{Bucket, Rate};

/// Neighbours whose frames are relayed: as many as links are kept track of.
pub const HOPS_MAX: usize = crate::directory::LINKS_MAX;

/// Destinations that are noted between two looks; one whose place is taken is noted after the next.
pub const NOTED_MAX: usize = 64;

/// Why a frame goes no further. One word each for metric and log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum RelayDrop {
    /// No header, or one that means nothing.
    #[error("relay-header")]
    Header,
    /// Nobody lets this neighbour relay.
    #[error("relay-not-granted")]
    NotGranted,
    /// It has crossed as many links as it may.
    #[error("relay-hop-limit")]
    HopLimit,
    /// It has been here, or says so: we are its source.
    #[error("relay-loop")]
    Loop,
    /// There is no route to its destination, or it leads to us.
    #[error("relay-no-route")]
    NoRoute,
    /// The route leads to where it came from.
    #[error("relay-back")]
    Back,
    /// The neighbour sends more than it may.
    #[error("relay-rate")]
    Rate,
}

impl RelayDrop {
    /// All reasons, in the order of counters.
    pub const ALL: [Self; 7] =
        [Self::Header, Self::NotGranted, Self::HopLimit, Self::Loop, Self::NoRoute, Self::Back, Self::Rate];
}

impl From<RelayHeaderError> for RelayDrop {
    fn from(_: RelayHeaderError) -> Self {
        Self::Header
    }
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayStep {
    /// It is for us: to be opened with the session of its source, over these associated data.
    Ours(RelayHeader),
    /// To this neighbour; the hop limit is lowered.
    Forward {
        /// The next hop.
        next: PeerHash,
        /// The header as it goes on.
        header: RelayHeader,
    },
}

/// What was relayed for one neighbour, or refused it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Frames sent on.
    pub frames: u64,
    /// Their bytes, header included.
    pub bytes: u64,
    /// Frames dropped, in the order of [`RelayDrop::ALL`].
    pub dropped: [u64; RelayDrop::ALL.len()],
}

#[derive(Clone, Copy, Debug)]
struct Hop {
    usage: Usage,
    bucket: Bucket,
}

/// A relay and its accounts, by previous hop.
#[derive(Clone, Debug)]
pub struct Relay {
    own: PeerHash,
    hops: BTreeMap<PeerHash, Hop>,
    /// Frames of neighbours that have no account.
    not_granted: u64,
    /// Where frames went over a further neighbour, by a byte of the hash.
    noted: [Option<PeerHash>; NOTED_MAX],
}

impl Relay {
    /// Relays for nobody yet.
    #[must_use]
    pub const fn new(own: PeerHash) -> Self {
        Self { own, hops: BTreeMap::new(), not_granted: 0, noted: [None; NOTED_MAX] }
    }

    /// Lets a neighbour relay at this rate; what it used so far stays counted. Says whether there was room.
    pub fn grant(&mut self, neighbour: PeerHash, rate: Rate, now_us: u64) -> bool {
        let bucket = Bucket::new(rate, now_us);
        if let Some(hop) = self.hops.get_mut(&neighbour) {
            hop.bucket = bucket;
            return true;
        }
        let room = self.hops.len() < HOPS_MAX;
        if room {
            self.hops.insert(neighbour, Hop { usage: Usage::default(), bucket });
        }
        room
    }

    /// The neighbour is gone, or may not relay any more: its account, if it had one.
    pub fn revoke(&mut self, neighbour: &PeerHash) -> Option<Usage> {
        self.hops.remove(neighbour).map(|hop| hop.usage)
    }

    /// The accounts, in the order of the neighbours.
    pub fn usage(&self) -> impl Iterator<Item = (&PeerHash, &Usage)> {
        self.hops.iter().map(|(neighbour, hop)| (neighbour, &hop.usage))
    }

    /// Frames of neighbours without an account.
    #[must_use]
    pub const fn not_granted(&self) -> u64 {
        self.not_granted
    }

    /// The destinations of frames that went on since this was last asked, those left out to whom they were handed
    /// themselves: whether they arrive is to be asked.
    pub fn take_destinations(&mut self) -> impl Iterator<Item = PeerHash> + use<> {
        core::mem::replace(&mut self.noted, [None; NOTED_MAX]).into_iter().flatten()
    }

    /// Takes a frame, header in front, that `previous` brought over its own session. `route` names the next hop to a
    /// destination, for this flow label. A frame that goes on has its hop limit lowered in place: min(received - 1, 15).
    ///
    /// # Errors
    /// [`RelayDrop`], which is counted for `previous`.
    pub fn handle_frame(
        &mut self,
        frame: &mut [u8],
        previous: &PeerHash,
        now_us: u64,
        route: impl FnOnce(&PeerHash, u16) -> Option<PeerHash>,
    ) -> Result<RelayStep, RelayDrop> {
        let step = self.step(frame, previous, now_us, route);
        match (self.hops.get_mut(previous), step) {
            (Some(hop), Ok(RelayStep::Forward { .. })) => {
                hop.usage.frames = hop.usage.frames.saturating_add(1);
                hop.usage.bytes = hop.usage.bytes.saturating_add(frame.len() as u64);
            }
            (Some(hop), Err(reason)) => {
                for (count, known) in hop.usage.dropped.iter_mut().zip(RelayDrop::ALL) {
                    *count = count.saturating_add(u64::from(known == reason));
                }
            }
            (None, Err(_)) => self.not_granted = self.not_granted.saturating_add(1),
            (_, Ok(_)) => {}
        }
        step
    }

    fn step(
        &mut self,
        frame: &mut [u8],
        previous: &PeerHash,
        now_us: u64,
        route: impl FnOnce(&PeerHash, u16) -> Option<PeerHash>,
    ) -> Result<RelayStep, RelayDrop> {
        let mut header = RelayHeader::parse(frame)?;
        if header.source == self.own {
            return Err(RelayDrop::Loop);
        }
        if header.destination == self.own {
            return Ok(RelayStep::Ours(header));
        }
        let hop = self.hops.get_mut(previous).ok_or(RelayDrop::NotGranted)?;
        header.hop_limit = header.hop_limit.saturating_sub(1).min(HOP_LIMIT_RELAYED_MAX);
        if header.hop_limit == 0 {
            return Err(RelayDrop::HopLimit);
        }
        let next = route(&header.destination, header.flow_label).filter(|next| *next != self.own);
        let next = next.ok_or(RelayDrop::NoRoute)?;
        if next == *previous {
            return Err(RelayDrop::Back);
        }
        hop.bucket.take(frame.len(), now_us).map_err(|_| RelayDrop::Rate)?;
        let limit = frame.get_mut(RelayHeader::HOP_LIMIT_AT).ok_or(RelayDrop::Header)?;
        *limit = header.hop_limit;
        let [.., last] = *header.destination.as_bytes();
        if next != header.destination
            && let Some(place) = self.noted.get_mut(usize::from(last) % NOTED_MAX)
        {
            place.get_or_insert(header.destination);
        }
        Ok(RelayStep::Forward { next, header })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::mesh::class::Class;
    use shoal_protocol::mesh::relay::HOP_LIMIT;

    const RATE: Rate = Rate { bytes_per_second: 10_000, burst: 10_000 };

    fn peer(n: u8) -> PeerHash {
        PeerHash::new([n; 10])
    }

    fn frame(hop_limit: u8, source: u8, destination: u8) -> Vec<u8> {
        let (destination, source) = (peer(destination), peer(source));
        let header = RelayHeader { class: Class::Bulk, hop_limit, flow_label: 7, destination, source };
        [&header.to_bytes()[..], &[0xaa; 100]].concat()
    }

    /// Relay 1, which knows neighbours 2 and 3; 9 is behind 3.
    fn relay() -> Relay {
        let mut relay = Relay::new(peer(1));
        assert!(relay.grant(peer(2), RATE, 0) && relay.grant(peer(3), RATE, 0));
        relay
    }

    fn hand(relay: &mut Relay, frame: &mut [u8], previous: u8) -> Result<RelayStep, RelayDrop> {
        relay.handle_frame(frame, &peer(previous), 0, |destination, label| {
            assert_eq!(label, 7);
            (*destination == peer(9)).then_some(peer(3))
        })
    }

    #[test]
    fn a_frame_goes_on_with_a_lower_hop_limit_and_nothing_else_changed() {
        for (received, sent) in [(HOP_LIMIT, 15), (255, 15), (17, 15), (15, 14), (2, 1)] {
            let (mut relay, before) = (relay(), frame(received, 2, 9));
            let mut after = before.clone();
            let step = hand(&mut relay, &mut after, 2);
            assert!(
                matches!(step, Ok(RelayStep::Forward { next, header }) if next == peer(3) && header.hop_limit == sent)
            );
            assert_eq!(after[1], sent);
            assert_eq!((&after[..1], &after[2..]), (&before[..1], &before[2..]));
            assert_eq!(relay.usage().next().unwrap().1.bytes, 124);
        }
    }

    #[test]
    fn every_no_is_counted_for_who_brought_the_frame() {
        let mut relay = relay();
        let mut no = |bytes: &mut [u8], previous| hand(&mut relay, bytes, previous).unwrap_err();
        assert_eq!(no(&mut [0; 50], 2), RelayDrop::Header);
        assert_eq!(no(&mut frame(16, 4, 9), 4), RelayDrop::NotGranted);
        assert_eq!(no(&mut frame(1, 2, 9), 2), RelayDrop::HopLimit);
        assert_eq!(no(&mut frame(16, 1, 9), 2), RelayDrop::Loop);
        assert_eq!(no(&mut frame(16, 2, 8), 2), RelayDrop::NoRoute);
        assert_eq!(no(&mut frame(16, 2, 9), 3), RelayDrop::Back);
        let own = |_: &PeerHash, _| Some(peer(1));
        assert_eq!(relay.handle_frame(&mut frame(16, 2, 9), &peer(2), 0, own), Err(RelayDrop::NoRoute));
        let kept = frame(1, 2, 9);
        let mut same = kept.clone();
        assert!(hand(&mut relay, &mut same, 2).is_err() && same == kept, "what is dropped is not changed");
        assert_eq!(relay.revoke(&peer(2)).map(|usage| usage.dropped), Some([1, 0, 2, 1, 2, 0, 0]));
        assert_eq!(relay.revoke(&peer(3)).map(|usage| usage.dropped), Some([0, 0, 0, 0, 0, 1, 0]));
        assert_eq!(relay.not_granted(), 1);
    }

    #[test]
    fn a_neighbour_is_held_to_its_rate_whoever_it_says_the_source_is() {
        let mut relay = relay();
        let sent = (0..200).filter(|n| hand(&mut relay, &mut frame(16, 20 + n % 100, 9), 2).is_ok()).count();
        assert_eq!(sent, 10_000 / 124);
        assert_eq!(hand(&mut relay, &mut frame(16, 20, 9), 2), Err(RelayDrop::Rate));
        assert!(
            matches!(hand(&mut relay, &mut frame(16, 20, 1), 2), Ok(RelayStep::Ours(_))),
            "what is ours costs nothing"
        );
    }

    #[test]
    fn no_frame_lives_longer_than_its_hops() {
        // Two relays whose routes lead to third parties that send everything back to them: the limit ends it.
        let mut relay = relay();
        let mut bytes = frame(255, 9, 8);
        let mut hops = 0;
        while relay.handle_frame(&mut bytes, &peer(2), 0, |_, _| Some(peer(3))).is_ok() {
            hops += 1;
        }
        assert_eq!(hops, u32::from(HOP_LIMIT_RELAYED_MAX));
    }

    #[test]
    fn accounts_are_bounded() {
        let mut relay = Relay::new(peer(1));
        let hash = |n: usize| PeerHash::new(core::array::from_fn(|i| if i < 8 { n.to_le_bytes()[i] } else { 0 }));
        assert!((0..HOPS_MAX).all(|n| relay.grant(hash(n), RATE, 0)));
        assert!(!relay.grant(hash(HOPS_MAX), RATE, 0) && relay.grant(hash(0), RATE, 0));
        relay.revoke(&hash(0));
        assert!(relay.grant(hash(HOPS_MAX), RATE, 0));
    }
}
