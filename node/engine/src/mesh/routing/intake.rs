//! From a message as it came to one whose every origin was verified. It judges signatures only; what the routes in it are
//! worth is judged by [`Routing`](super::Routing).
//!
//! Each neighbour passes on the same bytes of an origin, so those that were verified are known by their hash until they
//! expire: a signature is checked once, not once a neighbour.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_protocol::hash::{MESH_ROUTES, derive};
use shoal_protocol::mesh::prefix::Prefix;
use shoal_protocol::mesh::route::{Reach, RouteMessage, RouteUpdate, SeqnoRequest, VerifiedOrigin};
use shoal_protocol::signed::Forged;
use shoal_protocol::{BootEpoch, NetworkId, Signed, UnixMillis};

use super::ROUTES_MAX;

/// Most origins remembered: each route's word of the last ten minutes, signed every three. Beyond it more is verified.
const ORIGINS_MAX: usize = 4 * ROUTES_MAX;

/// How often it is looked for origins that are over, milliseconds.
const LOOK_MS: u64 = 10_000;

/// A route a neighbour told, its origin verified.
#[derive(Clone, Debug)]
pub struct HeardUpdate {
    /// The origin's word.
    pub origin: Arc<VerifiedOrigin>,
    /// See [`RouteUpdate::metric`].
    pub metric: u32,
    /// See [`RouteUpdate::max_frame`].
    pub max_frame: u32,
    /// See [`RouteUpdate::relayed`].
    pub relayed: bool,
}

/// A [`RouteMessage`] all of whose origins are verified. Only [`Intake::verify`] makes one.
#[derive(Clone, Debug)]
pub struct HeardMessage {
    pub(super) epoch: BootEpoch,
    pub(super) number: u64,
    pub(super) updates: Vec<HeardUpdate>,
    pub(super) retracted: Vec<Prefix>,
    pub(super) requests: Vec<SeqnoRequest>,
    pub(super) reach: Option<Reach>,
    pub(super) digest: u64,
    pub(super) resync: bool,
}

/// Verifies messages, each signature once.
#[derive(Debug)]
pub struct Intake {
    network: NetworkId,
    /// At most [`ORIGINS_MAX`].
    origins: BTreeMap<[u8; 32], Arc<VerifiedOrigin>>,
    /// When it was last looked for what is over.
    looked: Option<UnixMillis>,
}

impl Intake {
    /// Nothing was verified yet.
    #[must_use]
    pub const fn new(network: NetworkId) -> Self {
        Self { network, origins: BTreeMap::new(), looked: None }
    }

    /// Checks every signature in `message`.
    ///
    /// # Errors
    /// [`Forged`] for the first that is wrong: an honest neighbour passes on none.
    pub fn verify(&mut self, message: RouteMessage) -> Result<HeardMessage, Forged> {
        let RouteMessage { epoch, number, updates, retracted, requests, reach, digest, resync } = message;
        let updates = updates.into_iter().map(|update| self.update(update)).collect::<Result<_, _>>()?;
        Ok(HeardMessage { epoch, number, updates, retracted, requests, reach, digest, resync })
    }

    /// Forgets what is over, if that was not done a moment ago: it only takes room.
    pub fn forget_expired(&mut self, wall: UnixMillis) {
        if self.looked.is_some_and(|looked| looked.0.abs_diff(wall.0) < LOOK_MS) {
            return;
        }
        self.looked = Some(wall);
        self.origins.retain(|_, origin| origin.origin().expires > wall);
    }

    fn update(&mut self, update: RouteUpdate) -> Result<HeardUpdate, Forged> {
        let RouteUpdate { origin, metric, max_frame, relayed } = update;
        Ok(HeardUpdate { origin: self.origin(origin)?, metric, max_frame, relayed })
    }

    fn origin(&mut self, signed: Signed) -> Result<Arc<VerifiedOrigin>, Forged> {
        let hash = derive(MESH_ROUTES, &[b"origin", &signed.to_bytes()]);
        if let Some(known) = self.origins.get(&hash) {
            return Ok(Arc::clone(known));
        }
        let verified = Arc::new(VerifiedOrigin::verify(signed, &self.network)?);
        if self.origins.len() < ORIGINS_MAX {
            self.origins.insert(hash, Arc::clone(&verified));
        }
        Ok(verified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;
    use shoal_protocol::mesh::route::Origin;

    fn message(network: &NetworkId, seqno: u32) -> RouteMessage {
        let signer = SigningKey::from_bytes(&[5; 32]);
        let origin =
            Origin { prefix: "10.1.0.0/16".parse().unwrap(), epoch: BootEpoch(1), seqno, expires: UnixMillis(9) };
        let origin = Signed::seal(&origin, &signer, network);
        RouteMessage {
            epoch: BootEpoch(2),
            number: 1,
            updates: vec![RouteUpdate { origin, metric: 0, max_frame: 9_000, relayed: false }],
            retracted: vec![],
            requests: vec![],
            reach: None,
            digest: 0,
            resync: false,
        }
    }

    #[test]
    fn equal_bytes_are_verified_once_and_forged_ones_never() {
        let network = NetworkId::from_bytes([7; 32]);
        let mut intake = Intake::new(network);
        let first = intake.verify(message(&network, 1)).unwrap();
        let again = intake.verify(message(&network, 1)).unwrap();
        assert!(Arc::ptr_eq(&first.updates[0].origin, &again.updates[0].origin));
        let newer = intake.verify(message(&network, 2)).unwrap();
        assert_eq!(newer.updates[0].origin.origin().seqno, 2);
        assert!(intake.verify(message(&NetworkId::from_bytes([8; 32]), 1)).is_err());
        intake.forget_expired(UnixMillis(9));
        assert!(intake.origins.is_empty());
    }
}
