//! What the benchmarks share: rows by name, sizes, the facts of the machine, how a figure is said. It measures nothing
//! itself and judges nobody's exit code: a missed limit is printed, a person judges.

pub mod machine;
pub mod report;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use machine::Ticks;

/// Name of a row on the command line, and what measures and prints it.
pub type Row = (&'static str, fn(&Setting));

/// Where and how much.
#[derive(Debug)]
pub struct Setting {
    /// Everything is made in fresh directories below this one: `SHOAL_BENCH_DIR`, else the temporary directory.
    pub dir: PathBuf,
    /// A sixteenth of everything: whether it runs at all, not how fast.
    pub small: bool,
}

impl Setting {
    /// `full`, or a sixteenth of it.
    #[must_use]
    pub fn size(&self, full: u64) -> u64 {
        if self.small { full / 16 } else { full }
    }

    /// A fresh directory, removed when dropped.
    #[must_use]
    pub fn fresh(&self) -> tempfile::TempDir {
        tempfile::Builder::new().prefix("shoal-bench-").tempdir_in(&self.dir).unwrap()
    }
}

/// Prints the facts of the machine, then runs the rows that `arguments` name, all of them without a name. A row that
/// cannot be measured says so, and the next one follows.
pub fn run(rows: &[Row], arguments: &[String]) {
    // Cargo says by `--bench` what it runs; that is no row.
    let named: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| !["--bench", "--small"].contains(argument)).collect();
    let small = arguments.iter().any(|argument| argument == "--small");
    let dir = env::var_os("SHOAL_BENCH_DIR").map_or_else(env::temp_dir, PathBuf::from);
    let setting = Setting { dir, small };
    for name in named.iter().filter(|name| !rows.iter().any(|(row, _)| row == *name)) {
        let known: Vec<&str> = rows.iter().map(|(row, _)| *row).collect();
        eprintln!("there is no row {name:?}; the rows are {}", known.join(", "));
    }
    machine::print_facts(&setting.dir);
    if small {
        println!("--small: a sixteenth of everything; the figures say little");
    }
    for (name, row) in rows {
        if named.is_empty() || named.contains(name) {
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
