//! The private network at work: what carries packets between the system, the engine and the swarm. It decides nothing
//! about peers, routes or packets; that is `shoal_engine::mesh`.
//!
//! - [`config`]: what was asked for. [`start`]: from that to a running network, and to its end;
//!   [`running`] switches it while the node runs.
//! - [`control`]: the one task that owns the control half and carries out what it wants.
//! - `key_epoch`: the number that keeps a clock that was set back from mattering.
//! - [`neighbours`]: words to neighbours, in order; lanes to them.
//! - [`dns`]: the name server of this machine.
//! - [`problem`]: what a user is told when it does not start.
//! - [`places`]: where others may send datagrams. [`clash`]: whether the network's addresses are free.
//! - [`asked`]: what is asked over the control socket; `views` has the answers.
//! - [`machine`]: what several networks of one node share on their machine.
//! - [`plane`]: the packet half and its threads.
//! - [`roles`]: subnet router, exit, user of an exit: what the system holds for them.
//! - [`system`]: device, sockets, addresses, firewall.
//! - [`userspace`]: the private network without a device: a stack in this process, SOCKS, forwarded and published ports.

pub(crate) mod asked;
pub(crate) mod clash;
pub(crate) mod config;
pub(crate) mod control;
pub(crate) mod dns;
mod key_epoch;
pub(crate) mod machine;
mod neighbours;
pub(crate) mod places;
pub(crate) mod plane;
pub(crate) mod problem;
pub mod roles;
pub(crate) mod running;
pub(crate) mod start;
pub mod system;
pub(crate) mod userspace;
mod views;

pub use config::VpnConfig;
pub use dns::NamesConfig;
pub use start::VpnError;
pub use userspace::{UserspaceConfig, UserspaceError, UserspaceFacts};
