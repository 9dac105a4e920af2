//! The swarm against itself and against stock libp2p peers, over real sockets on loopback.

mod control;
mod peers;
mod shards;
mod support;
