//! The control lane: one stream each way per connection, many requests at a time, answers in any order.
//! It never reads a body and never decides who may ask: that is the owner of [`crate::Inbound`].

pub(crate) mod client;
pub mod codec;
#[cfg(feature = "test-utils")]
pub mod probe;
pub(crate) mod server;
pub(crate) mod wire;
