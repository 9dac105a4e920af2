//! What the tunnel costs: two machines and a cable as network namespaces, `shoald` on both, and beside it in the same run
//! the bare cable and every other tunnel that is installed. Needs root.
//!
//! It never fails because a bar is missed: it measures, a person judges.
//!
//! `cargo bench -p shoal-tests --bench tunnel -- [ROW..] [--small]`; the rows are those of [`ROWS`], all of them without a
//! name. `PEERS_BIN` is a folder with programs of rivals that are not on the path, `TUNNEL_ONLY` names contenders to be
//! measured alone, such as `cable,lanes,udp,nebula`.

#![allow(clippy::unwrap_used, reason = "a row that cannot be measured stops where something is wrong")]

mod compare;
mod contender;
mod forged;
mod load;
mod rivals;
mod shaped;

use std::env;

use shoal_tests::bench::{Row, run};

/// Every row.
const ROWS: [Row; 3] = [("compare", compare::row), ("shaped", shaped::row), ("forged", forged::row)];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    run(&ROWS, &arguments);
}
