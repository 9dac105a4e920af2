//! What the storage loop costs from file to file: cipher and code alone, uploads and retrievals over real nodes, their
//! memory, a node at rest, and Tahoe-LAFS beside it where that is installed.
//!
//! It never fails because a bar is missed: it measures, a person judges.
//!
//! `cargo bench -p shoal-tests --bench loop -- [ROW..] [--small]`; the rows are those of [`ROWS`], all of them without a
//! name. `SHOAL_BENCH_DIR` says where the nodes keep their bytes, else it is the temporary directory; `TAHOE` names the
//! `tahoe` command where it is not on the path.

#![allow(clippy::unwrap_used, reason = "a row that cannot be measured stops where something is wrong")]

mod codec;
mod crowd;
mod idle;
mod lanes;
mod memory;
mod roundtrip;
mod source;
mod swarm;
mod tahoe;
mod transfer;

use std::env;

use shoal_tests::bench::{Row, run};

/// Every row.
const ROWS: [Row; 5] = [
    ("codec", codec::row),
    ("loop", roundtrip::row),
    ("tahoe", tahoe::row),
    ("memory", memory::row),
    ("idle", idle::row),
];

/// First argument of a process that this program starts of itself, to be measured against or talked to.
const CHILD: &str = "--child";

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [CHILD, "sink"] => lanes::sink(),
        [CHILD, "crowd", count] => crowd::run(count.parse().unwrap()),
        _ => run(&ROWS, &arguments),
    }
}
