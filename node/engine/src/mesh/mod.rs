//! The decisions of the private network. The control half takes events and gives effects; the packet half is functions
//! over memory of the caller, without allocation or lock, which read what the control half published.
//!
//! - [`session`]: keys two members share, and frames sealed with them.

pub mod session;
