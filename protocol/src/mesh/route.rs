//! Routes on the wire: what an origin signs, what each hop says beside it, and the one message in which neighbours tell
//! each other. It decides nothing about which route is taken.
//!
//! After RFC 8966 (Babel), with three differences: what the origin says is signed by it; the router id is node and boot
//! epoch, so a sequence number never has to survive a restart and needs no wrap-around; and messages are numbered and end
//! with a digest of all that was told, in place of periodic full updates.

use minicbor::{Decode, Encode};

use crate::codec::{Bounded, ensure};
use crate::hash::{MESH_ROUTES, derive};
use crate::id::{BootEpoch, NodeId};
use crate::mesh::peer_hash::PeerHash;
use crate::mesh::prefix::Prefix;
use crate::network::NetworkId;
use crate::signed::{Forged, Signed, Statement};
use crate::units::UnixMillis;

/// Longest an origin's word counts, milliseconds: ten minutes. It bounds for how long somebody may pass on the word of a
/// node that is gone, and for how long feasibility distances have to be remembered.
pub const ORIGIN_LIFE_MAX_MS: u64 = 600_000;
/// Most routes in one message: 192 of at most 188 bytes each, so that with everything else it fits a control frame.
pub const UPDATES_MAX: usize = 192;
/// Most retractions in one message: 19 bytes each.
pub const RETRACTIONS_MAX: usize = 256;
/// Most sequence number requests in one message: 72 bytes each.
pub const REQUESTS_MAX: usize = 64;
/// Most direct peers a node may list: as many as it keeps connections, 11 bytes each.
pub const DIRECT_MAX: usize = 1024;
/// Largest message, bytes: a control frame of 64 KiB less the room around it.
pub const ROUTE_MESSAGE_MAX: usize = 63 * 1024;
/// Largest finite metric. Costs of links are at most 65,535, so 256 of the worst fit.
pub const METRIC_MAX: u32 = 0x00ff_ffff;
/// Least frame a route may carry, bytes: an IPv6 packet of the least MTU, 1,280 (RFC 8200 §5), less the outer IPv6 and
/// UDP headers (48) and room for our own.
pub const FRAME_MIN: u32 = 1_024;
/// Largest frame a route may carry, bytes: the longest there is.
pub const FRAME_MAX: u32 = super::session::frame::FRAME_MAX as u32;
/// Most hops a sequence number request travels (RFC 8966 §3.8.2.1 proposes 64).
pub const REQUEST_HOPS_MAX: u8 = 64;
/// Most bytes of one signed origin statement, with its envelope.
pub const ORIGIN_MAX: usize = 176;

/// Who a route leads to: a node in one of its runs. After a restart it is another router, to whom no distance that anybody
/// remembers applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(map)]
pub struct Router {
    /// The node.
    #[n(0)]
    pub node: NodeId,
    /// Its run.
    #[n(1)]
    pub epoch: BootEpoch,
}

impl Bounded for Router {}

/// Signed by the router itself: it can be reached under this prefix. The network is in the signature, the node is the
/// signer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Origin {
    /// What it can be reached under.
    #[n(0)]
    pub prefix: Prefix,
    /// Its run.
    #[n(1)]
    pub epoch: BootEpoch,
    /// Counts from 0 in each run; a greater one makes all distances of smaller ones void.
    #[n(2)]
    pub seqno: u32,
    /// Until when this may be believed, at most [`ORIGIN_LIFE_MAX_MS`] ahead.
    #[n(3)]
    pub expires: UnixMillis,
}

impl Bounded for Origin {}

impl Statement for Origin {
    const CONTEXT: &'static str = "shoal mesh origin v1";
    const LIMIT: usize = 48;
}

/// An origin's word whose signature was checked, with its envelope to be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedOrigin {
    signed: Signed,
    origin: Origin,
    router: Router,
}

impl VerifiedOrigin {
    /// Checks an envelope.
    ///
    /// # Errors
    /// [`Forged`] if it is not the word of its signer for this network.
    pub fn verify(signed: Signed, network: &NetworkId) -> Result<Self, Forged> {
        let verified = signed.verify::<Origin>(network)?;
        let node = NodeId::from(*verified.signer());
        let origin = verified.into_inner();
        Ok(Self { router: Router { node, epoch: origin.epoch }, origin, signed })
    }

    /// The envelope.
    #[must_use]
    pub const fn signed(&self) -> &Signed {
        &self.signed
    }

    /// What it says.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Who says it.
    #[must_use]
    pub const fn router(&self) -> Router {
        self.router
    }
}

/// One route as one neighbour tells it: the origin's word, and beside it what the way there is like.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RouteUpdate {
    /// The origin's word, passed on as it is: an [`Origin`].
    #[n(0)]
    pub origin: Signed,
    /// Transit metric from the teller to the router: nobody's signature covers it. 0 only from the router itself, else at
    /// least the cost of the teller's link and 1; at most [`METRIC_MAX`].
    #[n(1)]
    pub metric: u32,
    /// Largest frame that passes all links of the way, bytes.
    #[n(2)]
    pub max_frame: u32,
    /// Whether some link of the way goes through somebody else's relay.
    #[n(3)]
    pub relayed: bool,
}

impl Bounded for RouteUpdate {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.origin.to_bytes().len() <= ORIGIN_MAX, "length of an origin")?;
        ensure(self.metric <= METRIC_MAX, "metric")?;
        ensure((FRAME_MIN..=FRAME_MAX).contains(&self.max_frame), "frame")
    }
}

/// Asks that a router counts on, because none of the routes to it that are known may be used (RFC 8966 §3.8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SeqnoRequest {
    /// The prefix without a usable route.
    #[n(0)]
    pub prefix: Prefix,
    /// Whose number is asked for.
    #[n(1)]
    pub router: Router,
    /// The least number that helps.
    #[n(2)]
    pub seqno: u32,
    /// How many more hops it may travel, 1 to [`REQUEST_HOPS_MAX`].
    #[n(3)]
    pub hops: u8,
}

impl Bounded for SeqnoRequest {
    fn check(&self) -> Result<(), &'static str> {
        ensure((1..=REQUEST_HOPS_MAX).contains(&self.hops), "hops of a request")
    }
}

/// What one neighbour tells the other. Messages of one run are numbered from 1 and taken in ascending order only: what
/// comes late is not used, what was lost shows in the digest.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RouteMessage {
    /// The run of the teller.
    #[n(0)]
    pub epoch: BootEpoch,
    /// Number of this message, greater than that of any message this neighbour was sent before in this run.
    #[n(1)]
    pub number: u64,
    /// Routes that are new or different.
    #[n(2)]
    pub updates: Vec<RouteUpdate>,
    /// Prefixes there is no route to any more.
    #[n(3)]
    pub retracted: Vec<Prefix>,
    /// Sequence numbers asked for.
    #[n(4)]
    pub requests: Vec<SeqnoRequest>,
    /// Whom the teller reaches, whenever that changed.
    #[n(5)]
    pub reach: Option<Reach>,
    /// Sum, modulo 2^64, of [`told_digest`] of every route told and not retracted, and of [`Reach::digest`].
    #[n(6)]
    pub digest: u64,
    /// Whether the digest of the other side did not fit: everything is asked for again.
    #[n(7)]
    pub resync: bool,
}

impl Bounded for RouteMessage {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.number > 0, "number of a message")?;
        ensure(self.updates.len() <= UPDATES_MAX, "count of updates")?;
        ensure(self.retracted.len() <= RETRACTIONS_MAX, "count of retractions")?;
        ensure(self.requests.len() <= REQUESTS_MAX, "count of requests")?;
        for update in &self.updates {
            update.check()?;
        }
        self.requests.iter().try_for_each(SeqnoRequest::check)?;
        self.reach.iter().try_for_each(Reach::check)
    }
}

/// Whom a node has links to: it need not be told how to reach them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Reach {
    /// The peers it has a link to that does not go through a relay, ascending, at most [`DIRECT_MAX`].
    #[n(0)]
    pub direct: Vec<PeerHash>,
    /// Whether it has other links besides, to peers it would rather reach in another way.
    #[n(1)]
    pub others: bool,
}

impl Bounded for Reach {
    fn check(&self) -> Result<(), &'static str> {
        ensure(self.direct.len() <= DIRECT_MAX, "count of direct peers")?;
        ensure(self.direct.is_sorted_by(|a, b| a < b), "order of direct peers")
    }
}

impl Reach {
    /// First 8 bytes, LE, of `derive('shoal mesh routes v1', others u8, hash, hash, ..)`. Before it was told, that of the
    /// default counts.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let others = [u8::from(self.others)];
        let hashes = self.direct.iter().map(|peer| &peer.as_bytes()[..]);
        let parts: Vec<&[u8]> = core::iter::once(&others[..]).chain(hashes).collect();
        head(derive(MESH_ROUTES, &parts))
    }

    /// Whether `peer` is among the direct ones.
    #[must_use]
    pub fn contains(&self, peer: &PeerHash) -> bool {
        self.direct.binary_search(peer).is_ok()
    }
}

/// A route as its teller and its hearer both remember it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whom it leads to.
    pub router: Router,
    /// The router's number.
    pub seqno: u32,
    /// Transit metric.
    pub metric: u32,
    /// Largest frame, bytes.
    pub max_frame: u32,
    /// Whether a relay is on the way.
    pub relayed: bool,
}

/// First 8 bytes, LE, of `derive('shoal mesh routes v1', prefix bytes, node, epoch u64 LE || seqno u32 LE || metric u32 LE
/// || max_frame u32 LE || relayed u8)`. It finds accidents only: a neighbour may say of itself what it likes.
#[must_use]
pub fn told_digest(prefix: &Prefix, told: &Told) -> u64 {
    let mut numbers = Vec::with_capacity(21);
    numbers.extend_from_slice(&told.router.epoch.0.to_le_bytes());
    numbers.extend_from_slice(&told.seqno.to_le_bytes());
    numbers.extend_from_slice(&told.metric.to_le_bytes());
    numbers.extend_from_slice(&told.max_frame.to_le_bytes());
    numbers.push(u8::from(told.relayed));
    head(derive(MESH_ROUTES, &[&prefix.to_bytes(), told.router.node.as_bytes(), &numbers]))
}

fn head(hash: [u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use ed25519_dalek::SigningKey;

    #[test]
    fn the_largest_message_fits_its_limit() {
        let signer = SigningKey::from_bytes(&[5; 32]);
        let prefix: Prefix = "fd00::1/128".parse().unwrap();
        let network = NetworkId::from_bytes([7; 32]);
        let origin = Origin { prefix, epoch: BootEpoch(u64::MAX), seqno: u32::MAX, expires: UnixMillis(u64::MAX) };
        assert!(codec::encode(&origin).len() <= Origin::LIMIT);
        let origin = Signed::seal(&origin, &signer, &network);
        assert!(origin.to_bytes().len() <= ORIGIN_MAX, "{}", origin.to_bytes().len());
        let update = RouteUpdate { origin, metric: METRIC_MAX, max_frame: FRAME_MAX, relayed: true };
        let router = Router { node: NodeId::from_bytes([9; 32]), epoch: BootEpoch(u64::MAX) };
        let request = SeqnoRequest { prefix, router, seqno: u32::MAX, hops: REQUEST_HOPS_MAX };
        let direct = (0..DIRECT_MAX).map(|n| {
            let [a, b] = u16::try_from(n).unwrap().to_be_bytes();
            PeerHash::new([a, b, 0, 0, 0, 0, 0, 0, 0, 0])
        });
        let message = RouteMessage {
            epoch: BootEpoch(u64::MAX),
            number: u64::MAX,
            updates: vec![update; UPDATES_MAX],
            retracted: vec![prefix; RETRACTIONS_MAX],
            requests: vec![request; REQUESTS_MAX],
            reach: Some(Reach { direct: direct.collect(), others: true }),
            digest: u64::MAX,
            resync: true,
        };
        let bytes = codec::encode(&message);
        assert!(bytes.len() <= ROUTE_MESSAGE_MAX, "{}", bytes.len());
        assert_eq!(codec::decode::<RouteMessage>(&bytes, ROUTE_MESSAGE_MAX), Ok(message));
    }

    #[test]
    fn every_field_counts_in_a_digest() {
        let prefix: Prefix = "10.0.0.0/8".parse().unwrap();
        let router = Router { node: NodeId::from_bytes([1; 32]), epoch: BootEpoch(1) };
        let told = Told { router, seqno: 1, metric: 1, max_frame: 2_000, relayed: false };
        let digest = told_digest(&prefix, &told);
        assert_ne!(digest, told_digest(&"11.0.0.0/8".parse().unwrap(), &told));
        let router = Router { epoch: BootEpoch(2), ..router };
        for other in [
            Told { router, ..told },
            Told { seqno: 2, ..told },
            Told { metric: 2, ..told },
            Told { max_frame: 2_001, ..told },
            Told { relayed: true, ..told },
        ] {
            assert_ne!(digest, told_digest(&prefix, &other), "{other:?}");
        }
        let others = Reach { direct: vec![], others: true };
        let direct = Reach { direct: vec![PeerHash::new([1; 10])], others: false };
        assert!(others.digest() != Reach::default().digest() && direct.digest() != Reach::default().digest());
        assert!(direct.contains(&PeerHash::new([1; 10])) && !others.contains(&PeerHash::new([1; 10])));
    }
}
