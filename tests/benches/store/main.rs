//! What the store of a node costs: figure, ratio and limit of every row, measured on the machine at hand.
//!
//! It never fails because a limit is missed: it measures, a person judges.
//!
//! `cargo bench -p shoal-tests --bench store -- [ROW..] [--small]`; the rows are those of [`ROWS`], all of them without a
//! name. `SHOAL_BENCH_DIR` says on which disk, else it is the temporary directory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints, and a row that cannot be measured stops where something is wrong"
)]

mod child;
mod compact;
mod durable;
mod fixture;
mod foreground;
mod index;
mod recovery;
mod scrub;
mod timed;

use std::env;

use shoal_tests::bench::{Row, run};

/// Every row.
const ROWS: [Row; 6] = [
    ("durable", durable::row),
    ("index", index::row),
    ("recovery", recovery::row),
    ("scrub", scrub::row),
    ("compact", compact::row),
    ("foreground", foreground::row),
];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == child::FLAG => child::run(rest),
        _ => run(&ROWS, &arguments),
    }
}
