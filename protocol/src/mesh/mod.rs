//! The private network on the wire: what two members of one network must agree on so that packets find their way and
//! nobody on it can read them. Pure like all of this crate.
//!
//! - [`key`]: the key a node takes part with.
//! - [`session`]: handshakes and sealed frames.

pub mod key;
pub mod session;
