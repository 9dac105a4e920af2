//! The swarm against itself and against stock libp2p peers, over real sockets on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops where something is wrong, also in its helpers"
)]

mod control;
mod peers;
mod shards;
mod support;
mod tunnels;
