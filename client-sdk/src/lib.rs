//! Bytes to shards and back: pipeline, manifest, placement and transfer sessions of a Shoal client.
//!
//! Pure without the feature `net`: no clock, socket, file, thread or random source is named; time and randomness are
//! arguments. With `net` it carries the sessions over real lanes. It never decides who is trusted and never sees a
//! password longer than it takes to hash it.

pub mod audit;
#[cfg(feature = "net")]
pub mod client;
pub mod durability;
pub mod journal;
pub mod keys;
pub mod manifest;
#[cfg(any(test, feature = "test-utils"))]
pub mod memory;
#[cfg(feature = "net")]
pub mod net;
pub mod pipeline;
pub mod placement;
pub mod transfer;
pub mod transport;
