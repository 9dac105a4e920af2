//! The harness: budgets, sample data and in-memory swarms that the suites share, and what the benchmarks share. It
//! contains no test and is never linked into a shipped program.

pub mod asked;
pub mod bench;
pub mod budget;
pub mod datagrams;
pub mod forger;
pub mod fuzz;
pub mod member;
pub mod netns;
pub mod process;
pub mod resolver;
pub mod sample;
pub mod socks;
pub mod space;
pub mod traffic;
