//! The one thread that runs every background job of the node, a step at a time, as the schedule decides.
//! It never holds the shared table while a job is called, so that status and commands never wait for a step.
//! It never ends on account of a job: a job that panics is failed for good and the others go on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::schedule::{Due, Next, Schedule};
use super::{Command, Progress, Rest, RunError, Step, Worker, WorkerStatus};

/// The longest single sleep (1 hour): keeps an absurd wake time away from the limits of the system's timers.
const SLEEP_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Gives milliseconds since 1970.
pub(super) type Wall = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What is shown of a job besides its schedule.
struct Shown {
    /// Its name.
    name: &'static str,
    /// Its progress as of its latest step.
    progress: Progress,
}

/// What the thread and the handles share; locked for moments only.
struct Table {
    /// Who runs next, and when.
    schedule: Schedule,
    /// One entry for each job, at its place in the schedule.
    shown: Vec<Shown>,
    /// The thread is to end, or has ended.
    stopping: bool,
}

/// The table with its clock and its bells.
pub(super) struct Shared {
    /// The table.
    table: Mutex<Table>,
    /// Rung for the thread: a command came in.
    wake: Condvar,
    /// Rung for callers that wait for a job to rest.
    rested: Condvar,
    /// Origin of the schedule's times.
    origin: Instant,
}

impl Shared {
    /// The table of a thread about to start; nothing is due before it does. The times in `jobs` (name, progress, until
    /// the first step, tranquility) count from now.
    pub(super) fn new(jobs: impl Iterator<Item = (&'static str, Result<Progress, String>, Duration, u32)>) -> Self {
        let mut table = Table { schedule: Schedule::default(), shown: Vec::new(), stopping: false };
        for (name, progress, first, tranquility) in jobs {
            let job = table.schedule.add(first, tranquility);
            let progress = progress.unwrap_or_else(|text| {
                table.schedule.bury(job, text, None);
                Progress::default()
            });
            table.shown.push(Shown { name, progress });
        }
        Self { table: Mutex::new(table), wake: Condvar::new(), rested: Condvar::new(), origin: Instant::now() }
    }

    /// Locks the table. A poisoned lock is taken as it is: no job is called under it, so it is never left half changed.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the origin.
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// The status of every job, in the order they were given.
    pub(super) fn status(&self) -> Vec<WorkerStatus> {
        let table = self.lock();
        let now = self.now();
        let each = table.shown.iter().enumerate();
        each.filter_map(|(job, shown)| {
            table.schedule.status(job, now, shown.name.to_owned(), shown.progress.clone().into_owned())
        })
        .collect()
    }

    /// Gives the job called `name` a command; `None` if there is no such job.
    pub(super) fn command(&self, name: &str, command: Command) -> Option<()> {
        let mut table = self.lock();
        let job = table.shown.iter().position(|shown| shown.name == name)?;
        let now = self.now();
        table.schedule.command(job, command, now);
        self.wake.notify_all();
        Some(())
    }

    /// Has the thread run the job called `name` without pauses and waits until it rests; `None` if there is no such
    /// job.
    pub(super) fn run_to_idle(&self, name: &str) -> Option<Result<Rest, RunError>> {
        let mut table = self.lock();
        let job = table.shown.iter().position(|shown| shown.name == name)?;
        let now = self.now();
        let ticket = table.schedule.hurry(job, now);
        self.wake.notify_all();
        loop {
            if let Some(rest) = table.schedule.rested(job, ticket) {
                return Some(Ok(rest.clone()));
            }
            if table.stopping {
                return Some(Err(RunError::Stopped));
            }
            table = self.rested.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Asks the thread to end, and frees whoever waits for a job.
    pub(super) fn ask_to_stop(&self) {
        self.lock().stopping = true;
        self.wake.notify_all();
        self.rested.notify_all();
    }

    /// Sleeps until something is due; `None` when the thread is to end.
    fn due(&self) -> Option<Due> {
        let mut table = self.lock();
        while !table.stopping {
            let now = self.now();
            match table.schedule.next(now) {
                Next::Now(due) => return Some(due),
                Next::Sleep(time) => {
                    let time = time.unwrap_or(SLEEP_LIMIT).min(SLEEP_LIMIT);
                    table = self.wake.wait_timeout(table, time).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        None
    }

    /// Enters what a call of `job` came to: a step (`None` for a cancellation) and its progress, or a panic's text.
    fn enter(&self, job: usize, came_to: Result<(Option<Step>, Progress), String>, began: Option<Duration>) {
        let mut table = self.lock();
        let now = self.now();
        let took = began.map(|began| now.saturating_sub(began));
        match came_to {
            Ok((step, progress)) => {
                if let Some(step) = step {
                    table.schedule.finish(job, step, took.unwrap_or_default(), now);
                }
                if let Some(shown) = table.shown.get_mut(job) {
                    shown.progress = progress;
                }
            }
            Err(text) => table.schedule.bury(job, text, took),
        }
        self.rested.notify_all();
    }
}

/// Frees whoever waits for a job, however the thread comes to its end.
struct Farewell<'a>(&'a Shared);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        self.0.ask_to_stop();
    }
}

/// The body of the thread: runs `workers`, named and in the order of the table, until asked to stop.
pub(super) fn run(shared: &Shared, mut workers: Vec<(&'static str, Box<dyn Worker>)>, wall: &Wall) {
    let _farewell = Farewell(shared);
    while let Some(due) = shared.due() {
        let (Due::Cancel { job } | Due::Step { job, .. }) = due;
        let Some((name, worker)) = workers.get_mut(job) else { continue };
        match due {
            Due::Cancel { .. } => {
                let came_to = guarded(|| {
                    worker.cancel();
                    (None, worker.progress())
                });
                report(name, &came_to);
                shared.enter(job, came_to, None);
            }
            Due::Step { begin, .. } => {
                let began = shared.now();
                let came_to = guarded(|| {
                    let wall_ms = wall();
                    if begin {
                        worker.begin(wall_ms);
                    }
                    (Some(worker.step(wall_ms)), worker.progress())
                });
                report(name, &came_to);
                shared.enter(job, came_to, Some(began));
            }
        }
    }
}

/// Logs a failed step or a panic of the job called `name`.
fn report(name: &str, came_to: &Result<(Option<Step>, Progress), String>) {
    match came_to {
        Ok((Some(Step::Failed { text, again }), _)) => {
            tracing::warn!(worker = name, error = %text, again_s = again.as_secs(), "background job failed");
        }
        Ok(_) => {}
        Err(text) => tracing::error!(worker = name, error = %text, "background job panicked, it will not run again"),
    }
}

/// Calls into a job; a panic becomes its text. The job is not called again after a panic, so whatever it left half
/// changed is never seen.
pub(super) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| panic_text(payload.as_ref()))
}

/// The text of a panic.
fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("no text"))
}
