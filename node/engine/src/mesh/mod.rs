//! The decisions of the private network. The control half takes events and gives effects; the packet half is functions
//! over memory of the caller, without allocation or lock, which read what the control half published.
//!
//! - [`claims`]: who has which IPv4 address.
//! - [`routing`]: the way to every peer and prefix.

pub mod claims;
pub mod routing;
