//! The suites that need more than one crate: one binary, one module a subject.

mod audits;
mod faults;
mod full_disk;
mod hostile;
mod kills;
mod memory_loop;
mod mutations;
mod plans;
mod processes;
mod resume;
mod signed;
mod stalls;
mod stock;
mod store_commands;
mod uplink;
mod vpn;
