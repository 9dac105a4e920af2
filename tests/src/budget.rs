//! How much a suite runs: quick by default, long with `SHOAL_LONG=1`. The one place where both figures stand.

use std::fmt;
use std::io::{self, Write};

/// A count that depends on the budget, printed when it is taken.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    name: &'static str,
    quick: usize,
    long: usize,
}

impl Budget {
    /// The count for this run; says what it is, past the test runner's capture of output.
    #[must_use]
    pub fn take(self) -> usize {
        let count = if is_long() { self.long } else { self.quick };
        say(&format!("budget: {self}, running {count}"));
        count
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} quick {} / long {}", self.name, self.quick, self.long)
    }
}

/// One line that is seen whether the test passes or not.
pub fn say(line: &str) {
    // Not eprintln!, which the test runner keeps to itself; a closed stderr is nobody's problem.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether the long budget was asked for.
#[must_use]
pub fn is_long() -> bool {
    std::env::var_os("SHOAL_LONG").is_some_and(|value| value == "1")
}

/// Uploads with random faults, none of which may seal a segment twice.
pub const FAULTED_UPLOADS: Budget = Budget { name: "faulted uploads", quick: 1_000, long: 10_000 };
/// Random subsets of dead nodes for 8+8.
pub const SUBSETS_8_8: Budget = Budget { name: "subsets of dead nodes for 8+8", quick: 200, long: 2_000 };
/// `kill -9` of a real node under load.
pub const KILLS: Budget = Budget { name: "kill -9 under load", quick: 40, long: 1_000 };
/// Bytes of the sparse file.
pub const SPARSE_BYTES: Budget = Budget { name: "bytes of a sparse file", quick: 256 << 20, long: 1 << 30 };
/// Times a small disk is filled and freed.
pub const FULL_DISK_CYCLES: Budget = Budget { name: "cycles of a full disk", quick: 100, long: 300 };
/// Bytes sent over an uplink of 5 Mb/s, twice that with parity.
pub const UPLINK_BYTES: Budget = Budget { name: "bytes over a slow uplink", quick: 4 << 20, long: 32 << 20 };
/// Points at which an upload is interrupted and gone on with.
pub const INTERRUPTIONS: Budget = Budget { name: "interrupted uploads", quick: 24, long: 400 };
/// Hostile connections that are there at a time, or try to be.
pub const HOSTILE_CONNECTIONS: Budget = Budget { name: "hostile connections", quick: 1_000, long: 5_000 };
/// Strangers that try to store.
pub const STRANGERS: Budget = Budget { name: "strangers", quick: 40, long: 1_000 };
/// What each of them offers.
pub const STRANGER_STORES: Budget = Budget { name: "STOREs of each stranger", quick: 100, long: 1_000 };
/// Mutations of the corpus of each fuzz target.
pub const FUZZ_MUTATIONS: Budget = Budget { name: "mutations of each fuzz corpus", quick: 2_000, long: 100_000 };
/// Changes of eight flows from lanes to datagrams, and as many back.
pub const PROMOTIONS: Budget = Budget { name: "promotions under eight flows", quick: 2, long: 20 };
