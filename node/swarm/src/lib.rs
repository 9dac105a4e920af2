//! The only package that names libp2p: transports, behaviours, lanes and the task that drives them.
//!
//! It decides nothing, it carries: who may store or ask is judged by its callers, per operation. Any stock libp2p
//! peer may connect, identify and ping; our lanes open only between nodes of one network. Peers are [`NodeId`]s and
//! addresses are text in this interface, so that no other package names libp2p.
//!
//! - [`start()`] binds the listeners and gives a [`SwarmHandle`], the [`Inbound`] queues and [`SwarmEvent`]s.
//! - Control lane: [`SwarmHandle::request`] and [`InboundRequest`]; frames in [`control::codec`].
//! - Shard lanes: [`SwarmHandle::lane`] and [`InboundLane`]; plain bytes, BUSY in [`BUSY_ANSWER`].
//! - Tunnel lanes: [`SwarmHandle::tunnel`] and [`Inbound::tunnels`]; whole frames, on a TCP connection of their own.
//! - Every bound is a constant of [`limits`].
//!
//! Flow of a request: `handle` -> `links` (choose) -> `control::client` -> wire -> `control::server` -> `Inbound`.
//! Flow of a lane: `handle` -> `pool` -> `links` (choose) -> `lanes::handler` (negotiate) -> caller.
//! Flow of a tunnel: `handle` -> `tunnel::open` -> `driver` (dial) -> `lanes::handler` -> `tunnel::accept` -> both callers.

pub mod address;
mod bans;
mod behaviour;
pub mod control;
mod dials;
mod driver;
mod error;
mod event;
mod guard;
mod handle;
mod handshakes;
mod lanes;
pub mod limits;
mod link;
mod links;
mod listened;
mod marked;
mod muxer;
mod ping;
mod pool;
mod shard;
mod socket;
mod start;
mod subnets;
mod transport;
mod tunnel;
mod unsent;

pub use address::{AddressError, PeerAddress, ip_of, peer_address};
pub use control::server::InboundRequest;
pub use error::{DialError, LaneError, ReplyError, RequestError, StartError, TunnelError};
pub use event::SwarmEvent;
pub use guard::AddressFilter;
pub use handle::{SwarmCounters, SwarmHandle};
pub use link::LinkKind;
pub use shard::{BUSY_ANSWER, InboundLane, LaneStream, ShardLane};
pub use shoal_protocol::NodeId;
pub use start::{Inbound, Started, SwarmConfig, start};
pub use tunnel::frames::FrameBuffer;
pub use tunnel::lane::{TunnelLane, TunnelReader, TunnelWriter};
