//! Background jobs of a storage node: what a job is, what is shown of it, and the handle that commands them all.
//! Jobs take turns on one thread, a short step at a time, and rest between steps as much as their speed asks.
//! A handle never runs a job on the caller's thread, and asking for the status never waits for a step.

mod schedule;
mod thread;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, ThreadId, current};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use schedule::{PAUSE_LIMIT, TRANQUIL_LIMIT};
pub use shoal_protocol::local::JobCommand as Command;
use thread::Shared;

/// What a step of a job came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// More to do at once (after the tranquil pause).
    Busy,
    /// Nothing to do for now.
    Idle {
        /// Until this long from now; `Duration::MAX` waits for a person.
        again: Duration,
    },
    /// The step failed.
    Failed {
        /// What went wrong, for a person to read.
        text: String,
        /// Try again after this long.
        again: Duration,
    },
}

/// How a job came to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// It has nothing to do.
    Idle {
        /// Until this long after the step.
        again: Duration,
    },
    /// It failed.
    Failed {
        /// What went wrong, for a person to read.
        text: String,
        /// It tries again this long after the step; `None` if it panicked and never does.
        again: Option<Duration>,
    },
}

/// A job that does its work in short steps (tens of milliseconds at most) on the worker thread.
pub trait Worker: Send {
    /// The name it is commanded by: always the same, and unlike that of any other job.
    fn name(&self) -> &'static str;

    /// Does a little of the work. `wall_ms` is the time, in milliseconds since 1970.
    fn step(&mut self, wall_ms: u64) -> Step;

    /// How far it has come. Called on the worker thread after every step and cancellation, and once by
    /// [`Workers::start`].
    fn progress(&self) -> Progress;

    /// A person asked for a run now. Called right before the step; `wall_ms` is in milliseconds since 1970.
    fn begin(&mut self, wall_ms: u64) {
        let _ = wall_ms;
    }

    /// A person gave up the run under way. Called between steps, also while the job is paused.
    fn cancel(&mut self) {}
}

/// How far a job has come. A job gives the unit as a constant; a program that reads it back owns it (`U = String`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress<U = &'static str> {
    /// Work done, in `unit`.
    pub done: u64,
    /// All the work, in `unit`; 0 if not known.
    pub total: u64,
    /// What `done` and `total` count, such as "blocks".
    pub unit: U,
    /// Further counts: name and value.
    pub notes: Vec<(String, u64)>,
}

impl Progress {
    /// The same, owning its unit.
    pub fn into_owned(self) -> Progress<String> {
        let Self { done, total, unit, notes } = self;
        Progress { done, total, unit: unit.to_owned(), notes }
    }
}

/// What a job is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has work: in a step, or in the tranquil pause between two.
    Running,
    /// It has nothing to do until its wake time.
    Waiting,
    /// A person paused it.
    Paused,
    /// Its last step failed; it tries again at its wake time, or never if that is `None`.
    Failed,
}

/// What is shown of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// What it is at.
    pub state: State,
    /// Its pause after each step, in multiples of what the step took.
    pub tranquility: u32,
    /// Milliseconds until its next step, 0 if due or under way; `None` if no time will wake it.
    pub next_ms: Option<u64>,
    /// Steps ended since the thread started.
    pub steps: u64,
    /// Milliseconds spent in steps since the thread started.
    pub busy_ms: u64,
    /// Failures since the thread started, panics included.
    pub failures: u64,
    /// Text of its latest failure; kept when later steps do well.
    pub last_error: Option<String>,
    /// How far it had come after its latest step.
    pub progress: Progress<String>,
}

/// A job for [`Workers::start`].
pub struct Job {
    /// What does the work.
    pub worker: Box<dyn Worker>,
    /// Its pause after each step, in multiples of what the step took; 0 is no pause.
    pub tranquility: u32,
    /// Until its first step.
    pub first: Duration,
}

/// There is no job of this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownWorker {
    /// The name asked for.
    pub name: String,
}

impl fmt::Display for UnknownWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no background job is called {:?}", self.name)
    }
}

impl std::error::Error for UnknownWorker {}

/// Why a job could not be run until idle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunError {
    /// There is no such job.
    Unknown(UnknownWorker),
    /// The thread was stopped first.
    Stopped,
    /// A job asked for it from within the worker thread, which would wait for itself.
    OnWorkerThread,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(unknown) => unknown.fmt(f),
            Self::Stopped => f.write_str("the background jobs were stopped"),
            Self::OnWorkerThread => f.write_str("a background job cannot wait for a background job"),
        }
    }
}

impl std::error::Error for RunError {}

/// The thread, as its handles own it: ends with the last of them.
struct Owner {
    /// What is shared with the thread.
    shared: Arc<Shared>,
    /// To wait for the thread's end; taken by the first who does.
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Which thread it is.
    id: ThreadId,
}

impl Owner {
    /// Asks the thread to end, and waits for it unless called on it.
    fn stop(&self) {
        self.shared.ask_to_stop();
        if current().id() == self.id {
            return;
        }
        // Held while waiting, so that whoever stops second also returns only after the thread has ended.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the background jobs panicked");
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Handle to the background jobs; clones command the same thread, which stops with the last of them.
#[derive(Clone)]
pub struct Workers {
    /// The thread.
    owner: Arc<Owner>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("thread", &self.owner.id).finish_non_exhaustive()
    }
}

impl Workers {
    /// Starts the thread. `wall` gives milliseconds since 1970. Fails if two jobs share a name or the system gives no
    /// thread.
    pub fn start(jobs: Vec<Job>, wall: Arc<dyn Fn() -> u64 + Send + Sync>) -> io::Result<Self> {
        let jobs: Vec<(&'static str, Job)> = jobs.into_iter().map(|job| (job.worker.name(), job)).collect();
        let mut names = HashSet::new();
        if let Some((twice, _)) = jobs.iter().find(|(name, _)| !names.insert(*name)) {
            let text = format!("two background jobs are called {twice:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let shared = Arc::new(Shared::new(jobs.iter().map(|(name, job)| {
            let progress = thread::guarded(|| job.worker.progress());
            (*name, progress, job.first, job.tranquility)
        })));
        let workers: Vec<_> = jobs.into_iter().map(|(name, job)| (name, job.worker)).collect();
        let theirs = Arc::clone(&shared);
        let thread = Builder::new().name("workers".to_owned()).spawn(move || thread::run(&theirs, workers, &wall))?;
        let id = thread.thread().id();
        Ok(Self { owner: Arc::new(Owner { shared, thread: Mutex::new(Some(thread)), id }) })
    }

    /// The status of every job, in the order they were given. Never waits for a step: it shows the progress as of the
    /// latest one that ended. Still answers once stopped.
    pub fn status(&self) -> Vec<WorkerStatus> {
        self.owner.shared.status()
    }

    /// Gives the job called `name` a command and returns at once. A start or a cancellation given twice before the
    /// thread gets to it is carried out once. No effect on a job that panicked, nor once stopped.
    pub fn command(&self, name: &str, command: Command) -> Result<(), UnknownWorker> {
        self.owner.shared.command(name, command).ok_or_else(|| UnknownWorker { name: name.to_owned() })
    }

    /// Runs one job until it is idle or failed, ignoring its wait, its tranquil pauses and a pause by a person (which
    /// goes on afterwards).
    ///
    /// The steps run on the worker thread, in turn with other jobs that are due; the caller waits. Only a step begun
    /// after this call counts, so whatever was handed to the job before it has been seen. [`Worker::begin`] is not
    /// called on this account: give [`Command::Start`] first for a run as asked for by a person. Returns at once for a
    /// job that panicked, and with [`RunError::Stopped`] when the thread stops first; otherwise it waits for as long as
    /// the job has work.
    pub fn run_to_idle(&self, name: &str) -> Result<Rest, RunError> {
        if current().id() == self.owner.id {
            return Err(RunError::OnWorkerThread);
        }
        let unknown = || RunError::Unknown(UnknownWorker { name: name.to_owned() });
        self.owner.shared.run_to_idle(name).ok_or_else(unknown)?
    }

    /// Stops the thread and waits for its end: a sleep ends at once, a step under way ends first, commands not yet
    /// carried out are dropped. Called by a job, on the worker thread, it only asks. Stopping twice is harmless.
    pub fn stop(&self) {
        self.owner.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IntoDeserializer;
    use serde::de::value::StrDeserializer;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::sync::{MutexGuard, OnceLock};
    use std::thread::sleep;
    use std::time::Instant;

    const HOUR: Duration = Duration::from_secs(3600);
    const WALL_MS: u64 = 1_700_000_000_000;

    /// What a test job is to do and what it was asked.
    #[derive(Default)]
    struct Script {
        left: u64,
        lasts: Duration,
        fail: bool,
        panic: bool,
        /// Each step says that it began, then waits to be let go.
        gate: Option<(SyncSender<()>, Receiver<()>)>,
        hook: Option<Box<dyn FnMut() + Send>>,
        calls: Vec<String>,
        steps: u64,
        wall_ms: u64,
    }

    struct Scripted(&'static str, Arc<Mutex<Script>>);

    fn script(of: &Mutex<Script>) -> MutexGuard<'_, Script> {
        of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl Worker for Scripted {
        fn name(&self) -> &'static str {
            self.0
        }

        fn step(&mut self, wall_ms: u64) -> Step {
            let gate = script(&self.1).gate.take();
            if let Some((began, go)) = &gate {
                began.send(()).unwrap();
                go.recv().unwrap();
            }
            let hook = script(&self.1).hook.take();
            if let Some(mut hook) = hook {
                hook();
            }
            let mut script = script(&self.1);
            script.gate = gate;
            script.wall_ms = wall_ms;
            script.steps += 1;
            script.calls.push("step".to_owned());
            sleep(script.lasts);
            assert!(!script.panic, "broken at {}", script.left);
            if script.fail {
                return Step::Failed { text: "disk gone".to_owned(), again: HOUR };
            }
            if script.left == 0 {
                return Step::Idle { again: HOUR };
            }
            script.left -= 1;
            Step::Busy
        }

        fn progress(&self) -> Progress {
            let script = script(&self.1);
            Progress { done: script.steps, total: 0, unit: "steps", notes: Vec::new() }
        }

        fn begin(&mut self, wall_ms: u64) {
            script(&self.1).calls.push(format!("begin {wall_ms}"));
        }

        fn cancel(&mut self) {
            let mut script = script(&self.1);
            script.calls.push("cancel".to_owned());
            script.left = 0;
        }
    }

    /// A test job and its script.
    fn job(name: &'static str, tranquility: u32, first: Duration, with: Script) -> (Job, Arc<Mutex<Script>>) {
        let script = Arc::new(Mutex::new(with));
        (Job { worker: Box::new(Scripted(name, Arc::clone(&script))), tranquility, first }, script)
    }

    fn start(jobs: Vec<Job>) -> Workers {
        Workers::start(jobs, Arc::new(|| WALL_MS)).unwrap()
    }

    fn status(workers: &Workers, name: &str) -> WorkerStatus {
        workers.status().into_iter().find(|status| status.name == name).unwrap()
    }

    /// Waits until the status is as asked.
    fn wait_for(workers: &Workers, name: &str, wanted: impl Fn(&WorkerStatus) -> bool) -> WorkerStatus {
        let since = Instant::now();
        loop {
            let status = status(workers, name);
            if wanted(&status) {
                return status;
            }
            assert!(since.elapsed() < Duration::from_secs(8), "never came: {status:?}");
            sleep(Duration::from_millis(1));
        }
    }

    /// A script whose steps wait at a gate, with the test's ends of it.
    fn gated(left: u64) -> (Script, Receiver<()>, SyncSender<()>) {
        let (began, at_gate) = sync_channel(64);
        let (go, let_go) = sync_channel(64);
        (Script { left, gate: Some((began, let_go)), ..Script::default() }, at_gate, go)
    }

    #[test]
    fn first_step_comes_when_due_and_sees_the_wall_clock() {
        let (now, seen) = job("now", 0, Duration::ZERO, Script { left: 2, ..Script::default() });
        let (later, unseen) = job("later", 3, HOUR, Script::default());
        let workers = start(vec![now, later]);
        let idle = wait_for(&workers, "now", |status| status.steps == 3);
        assert_eq!((idle.state, idle.progress.done, idle.progress.unit.as_str()), (State::Waiting, 3, "steps"));
        assert!(idle.next_ms.is_some_and(|ms| ms > 3_500_000), "{idle:?}");
        assert_eq!(script(&seen).wall_ms, WALL_MS);
        let waiting = status(&workers, "later");
        assert_eq!((waiting.state, waiting.steps, waiting.tranquility), (State::Waiting, 0, 3));
        assert_eq!(script(&unseen).steps, 0);
        assert_eq!(workers.status().iter().map(|each| each.name.as_str()).collect::<Vec<_>>(), ["now", "later"]);
    }

    #[test]
    fn names_must_differ_and_be_known() {
        let (one, _) = job("same", 0, HOUR, Script::default());
        let (two, _) = job("same", 0, HOUR, Script::default());
        let refused = Workers::start(vec![one, two], Arc::new(|| 0)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        let workers = start(Vec::new());
        let unknown = UnknownWorker { name: "none".to_owned() };
        assert_eq!(workers.command("none", Command::Start), Err(unknown.clone()));
        assert_eq!(workers.run_to_idle("none"), Err(RunError::Unknown(unknown)));
        assert!(workers.status().is_empty());
    }

    #[test]
    fn start_wakes_a_waiting_and_a_paused_job() {
        let (job, seen) = job("job", 0, HOUR, Script::default());
        let workers = start(vec![job]);
        workers.command("job", Command::Start).unwrap();
        wait_for(&workers, "job", |status| status.steps == 1);
        workers.command("job", Command::Pause).unwrap();
        workers.command("job", Command::Start).unwrap();
        assert_eq!(wait_for(&workers, "job", |status| status.steps == 2).state, State::Waiting);
        let begin = format!("begin {WALL_MS}");
        assert_eq!(script(&seen).calls, [begin.as_str(), "step", begin.as_str(), "step"]);
    }

    #[test]
    fn a_tranquil_job_delays_no_other_and_a_new_speed_counts_at_once() {
        let slow = Script { left: 5, lasts: Duration::from_millis(15), ..Script::default() };
        let (calm, _) = job("calm", 1_000_000, Duration::ZERO, slow);
        let (brisk, _) = job("brisk", 0, Duration::from_millis(30), Script { left: 50, ..Script::default() });
        let workers = start(vec![calm, brisk]);
        wait_for(&workers, "brisk", |status| status.steps == 51);
        let calm = status(&workers, "calm");
        assert_eq!((calm.state, calm.steps), (State::Running, 1));
        assert!(calm.next_ms.is_some_and(|ms| (1_000..=10_000).contains(&ms)), "{calm:?}");
        assert!(calm.busy_ms >= 15);
        workers.command("calm", Command::Speed(0)).unwrap();
        let done = wait_for(&workers, "calm", |status| status.state == State::Waiting);
        assert_eq!((done.steps, done.tranquility), (6, 0));
    }

    #[test]
    fn pause_waits_for_the_step_and_status_does_not() {
        let (with, at_gate, go) = gated(2);
        let (job, _) = job("job", 0, Duration::ZERO, with);
        let workers = start(vec![job]);
        at_gate.recv().unwrap();
        workers.command("job", Command::Pause).unwrap();
        assert_eq!((status(&workers, "job").state, status(&workers, "job").steps), (State::Running, 0));
        go.send(()).unwrap();
        let paused = wait_for(&workers, "job", |status| status.state == State::Paused);
        assert_eq!(paused.steps, 1);
        assert!(paused.next_ms.is_some_and(|ms| ms > 23 * 3_600_000), "{paused:?}");
        sleep(Duration::from_millis(30));
        assert!(at_gate.try_recv().is_err());
        workers.command("job", Command::Resume).unwrap();
        for _ in 0..2 {
            at_gate.recv().unwrap();
            go.send(()).unwrap();
        }
        assert_eq!(wait_for(&workers, "job", |status| status.steps == 3).state, State::Waiting);
    }

    #[test]
    fn cancel_reaches_a_busy_and_a_paused_job() {
        let with = Script { left: u64::MAX, lasts: Duration::from_millis(2), ..Script::default() };
        let (busy, seen) = job("busy", 1_000_000, Duration::ZERO, with);
        let (paused, told) = job("paused", 0, HOUR, Script::default());
        let workers = start(vec![busy, paused]);
        wait_for(&workers, "busy", |status| status.steps == 1);
        workers.command("busy", Command::Cancel).unwrap();
        wait_for(&workers, "busy", |status| status.state == State::Waiting);
        assert_eq!(script(&seen).calls, ["step", "cancel", "step"]);
        workers.command("paused", Command::Pause).unwrap();
        workers.command("paused", Command::Cancel).unwrap();
        // The thread takes one thing at a time, the cancellation first: once this ran, it was delivered.
        workers.run_to_idle("busy").unwrap();
        assert_eq!(script(&told).calls, ["cancel"]);
        assert_eq!(status(&workers, "paused").state, State::Paused);
    }

    #[test]
    fn a_panic_fails_one_job_for_good() {
        let (bad, seen) = job("bad", 0, Duration::ZERO, Script { panic: true, ..Script::default() });
        let (good, _) = job("good", 0, HOUR, Script { left: 3, ..Script::default() });
        let workers = start(vec![bad, good]);
        let text = "panicked: broken at 0".to_owned();
        let failed = Ok(Rest::Failed { text: text.clone(), again: None });
        assert_eq!(workers.run_to_idle("bad"), failed);
        let status = status(&workers, "bad");
        assert_eq!((status.state, status.next_ms, status.steps, status.failures), (State::Failed, None, 1, 1));
        assert_eq!(status.last_error, Some(text));
        workers.command("bad", Command::Start).unwrap();
        workers.command("bad", Command::Cancel).unwrap();
        assert_eq!(workers.run_to_idle("good"), Ok(Rest::Idle { again: HOUR }));
        assert_eq!(workers.run_to_idle("bad"), failed);
        assert_eq!(script(&seen).calls, ["step"]);
    }

    #[test]
    fn stop_ends_a_sleep_at_once() {
        let (job, _) = job("job", 0, HOUR, Script::default());
        let workers = start(vec![job]);
        sleep(Duration::from_millis(20));
        let since = Instant::now();
        workers.stop();
        workers.clone().stop();
        assert!(since.elapsed() < Duration::from_secs(1));
        assert_eq!(workers.run_to_idle("job"), Err(RunError::Stopped));
        assert_eq!(workers.command("job", Command::Start), Ok(()));
        assert_eq!(status(&workers, "job").steps, 0);
    }

    #[test]
    fn stop_lets_a_step_end_and_frees_who_waits() {
        let (with, at_gate, go) = gated(u64::MAX);
        let (job, seen) = job("job", 0, Duration::ZERO, with);
        let workers = start(vec![job]);
        at_gate.recv().unwrap();
        let (waiting, stopping) = (workers.clone(), workers.clone());
        let waiter = std::thread::spawn(move || waiting.run_to_idle("job"));
        let stopper = std::thread::spawn(move || stopping.stop());
        assert_eq!(waiter.join().unwrap(), Err(RunError::Stopped));
        assert!(!stopper.is_finished());
        go.send(()).unwrap();
        stopper.join().unwrap();
        assert_eq!((script(&seen).steps, status(&workers, "job").steps), (1, 1));
    }

    #[test]
    fn the_last_handle_stops_the_thread() {
        let (job, seen) = job("job", 0, HOUR, Script::default());
        let workers = start(vec![job]);
        let other = workers.clone();
        drop(workers);
        assert!(other.run_to_idle("job").is_ok());
        assert_eq!(Arc::strong_count(&seen), 2);
        drop(other);
        assert_eq!(Arc::strong_count(&seen), 1);
    }

    #[test]
    fn run_to_idle_skips_every_pause() {
        let with = Script { left: 5, lasts: Duration::from_millis(2), ..Script::default() };
        let (job, seen) = job("job", 1_000_000, HOUR, with);
        let workers = start(vec![job]);
        workers.command("job", Command::Pause).unwrap();
        let since = Instant::now();
        assert_eq!(workers.run_to_idle("job"), Ok(Rest::Idle { again: HOUR }));
        assert!(since.elapsed() < Duration::from_secs(5));
        let after = status(&workers, "job");
        assert_eq!((after.state, after.steps), (State::Paused, 6));
        script(&seen).fail = true;
        let failed = Rest::Failed { text: "disk gone".to_owned(), again: Some(HOUR) };
        assert_eq!(workers.run_to_idle("job"), Ok(failed));
        workers.command("job", Command::Resume).unwrap();
        let after = status(&workers, "job");
        assert_eq!((after.state, after.failures), (State::Failed, 1));
        assert!(after.next_ms.is_some());
    }

    #[test]
    fn run_to_idle_counts_only_steps_begun_after_it() {
        let (with, at_gate, go) = gated(0);
        let (job, seen) = job("job", 0, Duration::ZERO, with);
        let workers = start(vec![job]);
        at_gate.recv().unwrap();
        let waiting = workers.clone();
        let waiter = std::thread::spawn(move || waiting.run_to_idle("job"));
        sleep(Duration::from_millis(50));
        go.send(()).unwrap();
        at_gate.recv().unwrap();
        assert!(!waiter.is_finished());
        go.send(()).unwrap();
        assert_eq!(waiter.join().unwrap(), Ok(Rest::Idle { again: HOUR }));
        assert_eq!(script(&seen).steps, 2);
    }

    #[test]
    fn a_job_may_use_the_handle() {
        let handle: Arc<OnceLock<Workers>> = Arc::default();
        let (told, heard) = sync_channel(64);
        let theirs = Arc::clone(&handle);
        let hook = Box::new(move || {
            let workers = theirs.get().unwrap();
            assert_eq!(status(workers, "job").state, State::Running);
            workers.command("job", Command::Speed(7)).unwrap();
            told.send(workers.run_to_idle("job")).unwrap();
            workers.stop();
        });
        let (job, _) = job("job", 0, HOUR, Script { hook: Some(hook), ..Script::default() });
        let workers = start(vec![job]);
        handle.set(workers.clone()).unwrap();
        workers.command("job", Command::Start).unwrap();
        assert_eq!(heard.recv().unwrap(), Err(RunError::OnWorkerThread));
        workers.stop();
        let status = status(&workers, "job");
        assert_eq!((status.steps, status.tranquility, status.failures), (1, 7, 0));
    }

    #[test]
    fn many_commands_come_to_few_calls() {
        let (with, at_gate, go) = gated(0);
        let (job, seen) = job("job", 0, Duration::ZERO, with);
        let workers = start(vec![job]);
        at_gate.recv().unwrap();
        for _ in 0..10_000 {
            workers.command("job", Command::Cancel).unwrap();
            workers.command("job", Command::Start).unwrap();
        }
        go.send(()).unwrap();
        at_gate.recv().unwrap();
        go.send(()).unwrap();
        wait_for(&workers, "job", |status| status.state == State::Waiting);
        assert_eq!(script(&seen).calls, ["step", "cancel", &format!("begin {WALL_MS}"), "step"]);
    }

    #[test]
    fn status_can_be_sent_and_read_back() {
        /// Writes a state as serde names it.
        struct Name(State);
        impl fmt::Display for Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.serialize(f)
            }
        }
        fn both_ways<T: Serialize + serde::de::DeserializeOwned>() {}
        both_ways::<WorkerStatus>();
        both_ways::<Command>();
        let names = [
            (State::Running, "running"),
            (State::Waiting, "waiting"),
            (State::Paused, "paused"),
            (State::Failed, "failed"),
        ];
        for (state, name) in names {
            assert_eq!(Name(state).to_string(), name);
            let read: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
            assert_eq!(State::deserialize(read), Ok(state));
        }
    }
}
