//! The client: uploads and retrievals as a user means them, over any transport.
//!
//! Flow of an upload, one way: [`ground`] (keys, plan, what an earlier run left) -> source -> [`source`] (pack, cut, seal, code, mask on a thread of its own) -> a channel of
//! one segment -> [`send`] (sessions, reservations, lanes) -> receipts -> placement and owner record -> capability.
//! Flow of a retrieval: capability -> records -> pages -> [`read`] (fetch sessions, verified bytes, decode) -> output.
//! It keeps no state between calls and writes no file; the journal of an upload goes to a [`JournalStore`].

mod audit;
mod desk;
mod error;
mod fetch;
mod fleet;
mod ground;
mod journal;
mod open;
mod peers;
mod read;
mod records;
mod send;
mod source;
mod upload;

use std::sync::Arc;

use shoal_protocol::{BootEpoch, NetworkId, NodeId, Nonce, UnixMillis};

use crate::transport::ShardTransport;

pub use audit::{AuditOptions, Audited};
pub use error::{ConnectError, Failure, RetrieveError, UploadError, with_causes};
pub use fleet::{FLEET_MAX, Fleet, LiveNode};
pub use journal::{JournalNote, JournalStore};
pub use open::{Held, HeldState, OpenFile, Secret, ShardPlace};
pub use read::ReadPiece;
pub use source::{SourceContent, SourceEntry, UploadSource};
pub use upload::{UploadOptions, UploadPlan, UploadProgress, Uploaded};

/// Fills a buffer with randomness fit for keys.
pub type Entropy = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// What the client takes from the machine it runs on.
#[derive(Clone)]
pub struct Environment {
    /// The wall clock.
    pub clock: fn() -> UnixMillis,
    /// Randomness fit for keys.
    pub entropy: Entropy,
}

impl Environment {
    /// `N` random bytes.
    #[must_use]
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        (self.entropy)(&mut out);
        out
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Environment(..)")
    }
}

/// A member or visitor of one swarm. Cheap to clone.
#[derive(Debug)]
pub struct Client<T> {
    transport: Arc<T>,
    network: NetworkId,
    node: NodeId,
    boot_epoch: BootEpoch,
    environment: Environment,
}

impl<T> Clone for Client<T> {
    fn clone(&self) -> Self {
        Self {
            transport: Arc::clone(&self.transport),
            network: self.network,
            node: self.node,
            boot_epoch: self.boot_epoch,
            environment: self.environment.clone(),
        }
    }
}

impl<T: ShardTransport> Client<T> {
    /// A client that is `node` in `network`.
    #[must_use]
    pub fn new(transport: Arc<T>, network: NetworkId, node: NodeId, environment: Environment) -> Self {
        let boot_epoch = BootEpoch(u64::from_le_bytes(environment.random()));
        Self { transport, network, node, boot_epoch, environment }
    }

    /// The network it is in.
    #[must_use]
    pub const fn network(&self) -> &NetworkId {
        &self.network
    }

    /// Who it is.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The transport underneath.
    #[must_use]
    pub const fn transport(&self) -> &Arc<T> {
        &self.transport
    }

    fn nonce(&self) -> Nonce {
        Nonce::from_bytes(self.environment.random())
    }

    fn now(&self) -> UnixMillis {
        (self.environment.clock)()
    }
}
