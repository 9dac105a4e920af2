//! The decisions of the private network. The control half takes events and gives effects; the packet half is functions
//! over memory of the caller, without allocation or lock, which read what the control half published.
//!
//! - [`claims`]: who has which IPv4 address.
//! - [`flood`]: signed statements for everybody.
//! - [`routing`]: the way to every peer and prefix.
//! - [`session`]: keys two members share, and frames sealed with them.
//! - [`names`]: who has which name, and what questions of DNS are answered.
//! - [`network`]: all of it together, for one network.
//! - [`packet`]: inner packets read, checked, cut, completed and answered.
//! - [`policy`]: who may send what to whom, announce what, and leave where.
//! - [`flow`]: hashes of flows, and which of them were allowed, so that replies are.
//! - [`qos`]: whose turn it is on a link.
//! - [`relay`]: what becomes of a frame for somebody else.
//! - [`socks`]: messages of SOCKS5, for programs that come in without an interface.
//! - [`watch`]: whether frames arrive, asked end to end.

pub mod claims;
pub mod flood;
pub mod flow;
pub mod names;
pub mod network;
pub mod packet;
pub mod policy;
pub mod qos;
pub mod relay;
pub mod routing;
pub mod session;
pub mod socks;
pub mod watch;
