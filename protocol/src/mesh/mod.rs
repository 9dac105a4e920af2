//! The private network on the wire: what two members of one network must agree on so that packets find their way and
//! nobody on it can read them. Pure like all of this crate.
//!
//! - [`peer_hash`]: the short name of a peer in frame headers.
//! - [`class`]: the four classes of service.
//! - [`meta`]: what is said about a packet before its bytes.
//! - [`relay`]: the header with which frames cross relays.

pub mod class;
pub mod meta;
pub mod peer_hash;
pub mod relay;
