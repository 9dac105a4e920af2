//! What the store of a node costs: figure, ratio and limit of every row, measured on the machine at hand.
//!
//! It never fails because a limit is missed: it measures, a person judges.
//!
//! `cargo bench -p shoal-node --bench store -- [ROW..] [--small]`; the rows are those of [`ROWS`], all of them without a
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
mod machine;
mod recovery;
mod report;
mod scrub;
mod timed;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use machine::Ticks;

/// Name of a row on the command line, and what measures and prints it.
type Row = (&'static str, fn(&Setting));

/// Every row.
const ROWS: [Row; 6] = [
    ("durable", durable::row),
    ("index", index::row),
    ("recovery", recovery::row),
    ("scrub", scrub::row),
    ("compact", compact::row),
    ("foreground", foreground::row),
];

/// Where and how much.
struct Setting {
    /// Stores are made in fresh directories below this one.
    dir: PathBuf,
    /// A sixteenth of everything: whether it runs at all, not how fast.
    small: bool,
}

impl Setting {
    /// `full`, or a sixteenth of it.
    fn size(&self, full: u64) -> u64 {
        if self.small { full / 16 } else { full }
    }

    /// A fresh directory, removed when dropped.
    fn fresh(&self) -> tempfile::TempDir {
        tempfile::Builder::new().prefix("shoal-bench-").tempdir_in(&self.dir).unwrap()
    }
}

fn main() {
    // Cargo says by `--bench` what it runs; that is no row.
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some((child::FLAG, rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return child::run(rest);
    }
    let small = arguments.iter().any(|argument| argument == "--small");
    let dir = env::var_os("SHOAL_BENCH_DIR").map_or_else(env::temp_dir, PathBuf::from);
    let setting = Setting { dir, small };
    let named: Vec<&String> = arguments.iter().filter(|argument| *argument != "--small").collect();
    let known = |name: &str| ROWS.iter().any(|(row, _)| *row == name);
    for name in named.iter().filter(|name| !known(name)) {
        eprintln!("there is no row {name:?}; the rows are {}", ROWS.map(|(row, _)| row).join(", "));
    }
    machine::print_facts(&setting.dir);
    if small {
        println!("--small: a sixteenth of everything; the figures say little");
    }
    for (name, row) in ROWS {
        if named.is_empty() || named.iter().any(|wanted| *wanted == name) {
            println!("\n{name}");
            let before = Ticks::now();
            if catch_unwind(AssertUnwindSafe(|| row(&setting))).is_err() {
                println!("{name}: NOT MEASURED, see the error above");
            }
            let others = Ticks::now().others_since(&before);
            report::context(&format!("meanwhile others had {:.0} % of the processors", others * 100.0));
        }
    }
}
