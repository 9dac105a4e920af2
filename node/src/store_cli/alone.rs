//! What this process does with a store that no node has open: opens it, runs a job to its end, closes it. It never
//! makes a store.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::{of_job, print_json, table};
use crate::chunks::vfs_os::OsVfs;
use crate::chunks::workers::{Command, Rest, RunError};
use crate::chunks::{OpenError, RecoveryReport, Store, StoreStatus};
use crate::cli::{no_node, print_lines, start_problem};
use crate::node::{self, StartError};
use crate::problem::{Failure, Problem};

/// How often a terminal is shown how far a job is.
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// The status of a store that is opened for it.
pub(super) fn status(data: &Path, quota: Option<u64>) -> Result<StoreStatus, Problem> {
    with_store(data, quota, |store, _| Ok(store.status()))
}

/// Runs a job to its end and says what it did.
pub(super) fn job(data: &Path, quota: Option<u64>, name: &'static str, json: bool) -> Result<(), Problem> {
    let done = with_store(data, quota, |store, _| {
        run_to_end(store, name)?;
        of_job(store.status(), name)
    })?;
    if json {
        print_json(&done)?;
    } else {
        print_lines(&[vec![format!("{name} is done")], table::notes(&done)].concat())?;
    }
    let damaged = done.progress.notes.iter().find(|(note, _)| note == "damaged").map_or(0, |(_, count)| *count);
    if damaged == 0 {
        return Ok(());
    }
    Err(Problem::new(
        Failure::Integrity,
        format!("damaged places found: {damaged}"),
        "the disk changed bytes after they were written; what is damaged is out of use now",
        "the swarm's other holders repair; run `shoald store fsck` for the list, and check the disk",
    ))
}

/// Opens the store in `data`, works with it, closes it.
pub(super) fn with_store<T>(
    data: &Path,
    quota: Option<u64>,
    work: impl FnOnce(&Store, &RecoveryReport) -> Result<T, Problem>,
) -> Result<T, Problem> {
    is_store(data)?;
    let (store, report) = node::open(Arc::new(OsVfs), data, quota).map_err(open_problem)?;
    let done = work(&store, &report);
    store.close();
    done
}

/// Refuses a directory in which nothing was ever stored: opening it would make a new store.
pub(super) fn is_store(data: &Path) -> Result<(), Problem> {
    let exists = |name: &str| data.join(name).try_exists().unwrap_or(true);
    let has_segments = || std::fs::read_dir(data.join("segments")).is_ok_and(|mut names| names.next().is_some());
    if exists("store.key") || exists("store.key.copy") || has_segments() { Ok(()) } else { Err(no_node(data)) }
}

fn open_problem(error: StartError) -> Problem {
    match error {
        StartError::Store(error @ OpenError::Locked(_)) => Problem::new(
            Failure::Denied,
            error,
            "a node that is starting or ending, or another `shoald store`, has it, and answers no questions",
            "wait until it is done and repeat, or stop it",
        ),
        other => start_problem(other),
    }
}

fn run_to_end(store: &Store, name: &str) -> Result<(), Problem> {
    let failed = |error: String| {
        let what = format!("{name} failed: {error}");
        Problem::new(Failure::Other, what, "the disk is full or broken", "check the disk, and repeat")
    };
    store.command(name, Command::Start).map_err(|error| failed(error.to_string()))?;
    let rest = shown(store, name).map_err(|error| failed(error.to_string()))?;
    match rest {
        Rest::Idle { .. } => Ok(()),
        Rest::Failed { text, .. } => Err(failed(text)),
    }
}

/// Runs the job on another thread, and shows on a terminal how far it is.
fn shown(store: &Store, name: &str) -> Result<Rest, RunError> {
    if !io::stderr().is_terminal() {
        return store.run_job(name);
    }
    std::thread::scope(|scope| {
        let (done, ended) = sync_channel(1);
        scope.spawn(move || done.send(store.run_job(name)));
        loop {
            match ended.recv_timeout(SHOW_EVERY) {
                Ok(result) => {
                    table::clear_line();
                    return result;
                }
                Err(RecvTimeoutError::Disconnected) => return Err(RunError::Stopped),
                Err(RecvTimeoutError::Timeout) => show(store, name),
            }
        }
    })
}

fn show(store: &Store, name: &str) {
    if let Ok(job) = of_job(store.status(), name) {
        let mut stderr = io::stderr().lock();
        let _ = write!(stderr, "\r\x1b[K{name} {}", table::progress(&job)).and_then(|()| stderr.flush());
    }
}
