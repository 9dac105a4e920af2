//! The private network on the wire: what two members of one network must agree on so that packets find their way and
//! nobody on it can read them. Pure like all of this crate.
//!
//! - [`peer_hash`]: a node in ten bytes.
//! - [`prefix`]: address prefixes in their only form.
//! - [`address`]: which addresses a node has or may claim.
//! - [`claim`]: a signed claim of an IPv4 address, and the order of two.
//! - [`name`]: a signed claim of a name, and what may be one.
//! - [`key`]: the key a node takes part with.
//! - [`route`]: what origins sign, what neighbours tell each other.
//! - [`flood`]: signed statements for everybody.
//! - [`message`]: what neighbours say to each other.
//! - [`session`]: handshakes and sealed frames.
//! - [`class`]: the four classes of service.
//! - [`credit`]: what a lane's receiver tells its sender.
//! - [`meta`]: what is said about a packet before its bytes.
//! - [`offloads`]: what a machine takes unfinished.
//! - [`relay`]: the header with which frames cross relays.

pub mod address;
pub mod claim;
pub mod class;
pub mod credit;
pub mod flood;
pub mod key;
pub mod message;
pub mod meta;
pub mod name;
pub mod offloads;
pub mod peer_hash;
pub mod prefix;
pub mod relay;
pub mod route;
pub mod session;
