//! What two Shoal machines, or two releases, must agree on: ids, signed messages, frames, pages, records, limits.
//!
//! Pure: no clock, socket, file, thread or random source is named here; time and randomness arrive as arguments.
//! It compiles for wasm. `docs/PROTOCOL.md` is the normative text; the golden files in `protocol/golden` hold the bytes.
//!
//! Map of the wire, outermost first:
//! - [`network`]: which group two machines belong to; part of every protocol name and every signature.
//! - [`lane`]: the frames of the shard lane; [`control`]: the messages of the control lane.
//! - [`signed`]: the one envelope for everything that carries a signature.
//! - [`receipt`], [`loss`], [`group`], [`peer_record`], [`audit`]: what is signed by nodes, owners and auditors.
//! - [`page`], [`record`], [`capability`]: how a file describes itself to those who hold a key.
//! - [`buffer`]: what shards are held in on both sides, without a word about their bytes.
//! - [`local`]: what programs of the same machine ask a running node; not the wire.
//! - [`refusal`]: one word per kind of "no", shared by wire, log, metric and command line.

pub mod audit;
pub mod buffer;
pub mod capability;
pub mod codec;
pub mod control;
pub mod group;
pub mod hash;
pub mod id;
pub mod lane;
pub mod layout;
pub mod limits;
pub mod link;
pub mod local;
pub mod loss;
pub mod mesh;
pub mod network;
pub mod page;
pub mod peer_record;
pub mod receipt;
pub mod record;
pub mod refusal;
pub mod sealing;
pub mod signed;
pub mod subnet;
pub mod suite;
pub mod units;

pub use id::{BootEpoch, FileId, GroupId, NodeId, Nonce, PublicKey, RecordKey, ReservationId, ShardId};
pub use network::NetworkId;
pub use refusal::Refusal;
pub use signed::{Signed, Verified};
pub use suite::Suite;
pub use units::{ByteCount, SegmentNumber, UnixMillis};
