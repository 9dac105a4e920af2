//! What a node does for its peers: control requests, and shards on lanes. Every decision is the engine's; here it is
//! carried to the store and back.

mod audit;
pub(crate) mod context;
pub(crate) mod control;
pub(crate) mod lane;
mod receive;
mod send;
pub(crate) mod stream;

pub(crate) use context::Context;
