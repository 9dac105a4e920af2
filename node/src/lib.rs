//! `shoald`: the shell of a node. It reads files, clocks and sockets and carries what the engine decides; it decides
//! nothing about peers, leases or records itself, and names no libp2p.
//!
//! Flow of a request: swarm -> [`service::control`] -> engine -> [`chunks`] -> response.
//! Flow of a shard: swarm -> [`service::lane`] -> engine -> [`chunks`] -> signed receipt.

mod addresses;
mod admin;
pub mod chunks;
mod cli;
mod clock;
mod config;
mod files;
mod genesis;
mod identity;
mod membership;
mod networks;
mod node;
mod peers;
#[cfg(feature = "test-utils")]
pub mod probe;
mod problem;
mod service;
mod size;
mod store_cli;
mod vouchers;
pub mod vpn;

pub use cli::main_from;
pub use config::Config;
pub use networks::{BindError, NetworkConfig};
pub use node::{Node, StartError};
pub use vouchers::VoucherLogError;
