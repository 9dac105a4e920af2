//! The private network on the wire: what two members of one network must agree on so that packets find their way and
//! nobody on it can read them. Pure like all of this crate.
//!
//! - [`peer_hash`]: a node in ten bytes.
//! - [`prefix`]: address prefixes in their only form.
//! - [`address`]: which addresses a node has or may claim.
//! - [`claim`]: a signed claim of an IPv4 address, and the order of two.
//! - [`route`]: what origins sign, what neighbours tell each other.
//! - [`flood`]: signed statements for everybody.

pub mod address;
pub mod claim;
pub mod flood;
pub mod peer_hash;
pub mod prefix;
pub mod route;
