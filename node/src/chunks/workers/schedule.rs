//! Decides which background job runs next and when: every wake time and state change of a job is worked out here.
//! Pure: it never reads a clock, never sleeps, never starts a thread and never calls a job.
//! A time is a `Duration` since one origin the caller picks and keeps; it must not run backwards.

use std::time::Duration;

use super::{Command, Progress, Rest, State, Step, WorkerStatus};

/// A paused job resumes by itself this long after it was paused (24 hours), so that a forgotten pause does not leave
/// a node without its upkeep for good.
pub const PAUSE_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest pause between two steps of a busy job (10 seconds), however slow the step and high the tranquility.
pub const TRANQUIL_LIMIT: Duration = Duration::from_secs(10);

/// How much of its time a busy job leaves free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tranquilizer {
    /// The pause after a step, in multiples of what the step took; 0 is no pause.
    pub tranquility: u32,
}

impl Tranquilizer {
    /// The pause after a step that took `took`: never longer than [`TRANQUIL_LIMIT`].
    pub(super) fn pause(self, took: Duration) -> Duration {
        took.saturating_mul(self.tranquility).min(TRANQUIL_LIMIT)
    }
}

/// Something to do with a job at once; a job is named by its place in the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Tell the job that its run was given up; no step comes with it.
    Cancel {
        /// Place of the job.
        job: usize,
    },
    /// Let the job do one step, then report it with [`Schedule::finish`].
    Step {
        /// Place of the job.
        job: usize,
        /// A person asked for the run: the job is told so before the step.
        begin: bool,
    },
}

/// What the thread should do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// This, at once.
    Now(Due),
    /// Nothing for this long, unless a command comes in; `None` means until a command comes in.
    Sleep(Option<Duration>),
}

/// What the last step of a job came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// More to do. The two times are kept so that a new speed also applies to the pause under way.
    Busy {
        /// When the step ended.
        ended: Duration,
        /// How long it took.
        took: Duration,
    },
    /// Nothing to do until the wake time (also: no step so far).
    Idle,
    /// The step failed; it is tried again at the wake time.
    Failed,
    /// The job panicked and is never called again.
    Dead,
}

/// All that is known of one job.
#[derive(Debug)]
struct Slot {
    /// When the next step is due, leaving aside a pause by a person.
    at: Duration,
    /// Paused by a person until then.
    paused_until: Option<Duration>,
    /// What the last step came to.
    phase: Phase,
    /// A step is under way.
    stepping: bool,
    /// A person asked for a run that has not begun.
    begin: bool,
    /// A person gave up the run and the job has not been told.
    cancel: bool,
    /// The speed.
    speed: Tranquilizer,
    /// All pauses are skipped until a step numbered higher than this leaves the job at rest.
    hurry: Option<u64>,
    /// Steps begun: the number of the latest step.
    begun: u64,
    /// Turn of the whole schedule at which the latest step began: breaks ties between wake times.
    turn: u64,
    /// The latest step that left the job at rest: its number and what it came to.
    rest: Option<(u64, Rest)>,
    /// Steps ended.
    steps: u64,
    /// Time spent in steps.
    busy: Duration,
    /// Failures, panics included.
    failures: u64,
    /// Text of the latest failure.
    last_error: Option<String>,
}

impl Slot {
    /// A job without a step so far, first due at `at`.
    fn new(at: Duration, tranquility: u32) -> Self {
        Self {
            at,
            paused_until: None,
            phase: Phase::Idle,
            stepping: false,
            begin: false,
            cancel: false,
            speed: Tranquilizer { tranquility },
            hurry: None,
            begun: 0,
            turn: 0,
            rest: None,
            steps: 0,
            busy: Duration::ZERO,
            failures: 0,
            last_error: None,
        }
    }

    /// When the job is next to step; `None` for a job that never will.
    fn wake(&self) -> Option<Duration> {
        match (self.phase, self.hurry, self.paused_until) {
            (Phase::Dead, _, _) => None,
            (_, None, Some(until)) => Some(self.at.max(until)),
            _ => Some(self.at),
        }
    }

    /// The state to show at `now`.
    fn state(&self, now: Duration) -> State {
        // A step under way comes first: a pause takes effect only after it.
        if self.stepping {
            return State::Running;
        }
        let paused = self.hurry.is_none() && self.paused_until.is_some_and(|until| until > now);
        match self.phase {
            Phase::Dead => State::Failed,
            _ if paused => State::Paused,
            Phase::Busy { .. } => State::Running,
            Phase::Idle => State::Waiting,
            Phase::Failed => State::Failed,
        }
    }

    /// Milliseconds from `now` until the next step, rounded up so that 0 means due; `None` if no time will wake it.
    fn next_ms(&self, now: Duration) -> Option<u64> {
        if self.stepping {
            return Some(0);
        }
        let at = self.wake().filter(|at| *at < Duration::MAX)?;
        Some(u64::try_from(at.saturating_sub(now).as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    /// Carries out a command given at `now`, or notes it for the thread where the job itself has to be told.
    fn command(&mut self, command: Command, now: Duration) {
        if self.phase == Phase::Dead {
            return;
        }
        match command {
            Command::Start => {
                self.begin = true;
                self.paused_until = None;
                self.at = self.at.min(now);
            }
            Command::Pause => self.paused_until = Some(now.saturating_add(PAUSE_LIMIT)),
            Command::Resume => self.paused_until = None,
            Command::Cancel => {
                // A run asked for earlier and not begun is given up too.
                self.begin = false;
                self.cancel = true;
            }
            Command::Speed(tranquility) => self.set_speed(Tranquilizer { tranquility }),
        }
    }

    /// Takes a new speed, which also applies to a tranquil pause under way.
    fn set_speed(&mut self, speed: Tranquilizer) {
        self.speed = speed;
        let pausing = !self.stepping && !self.begin && self.hurry.is_none();
        if let (true, Phase::Busy { ended, took }) = (pausing, self.phase) {
            self.at = ended.saturating_add(speed.pause(took));
        }
    }

    /// The job is being told at `now` that its run was given up.
    fn take_cancel(&mut self, now: Duration) {
        self.cancel = false;
        // A busy job steps at once, so that it says soon that it has nothing more to do.
        if matches!(self.phase, Phase::Busy { .. }) {
            self.phase = Phase::Busy { ended: now, took: Duration::ZERO };
            self.at = self.at.min(now);
        }
    }

    /// A step begins, the `turn`th of the whole schedule; tells whether a person asked for it.
    fn take_step(&mut self, turn: u64) -> bool {
        self.stepping = true;
        self.turn = turn;
        self.begun = self.begun.saturating_add(1);
        std::mem::take(&mut self.begin)
    }

    /// The step under way ended at `now` with `step`, after `took`.
    fn finish(&mut self, step: Step, took: Duration, now: Duration) {
        self.stepping = false;
        self.steps = self.steps.saturating_add(1);
        self.busy = self.busy.saturating_add(took);
        let (wait, rest) = match step {
            Step::Busy => {
                self.phase = Phase::Busy { ended: now, took };
                (if self.hurry.is_some() { Duration::ZERO } else { self.speed.pause(took) }, None)
            }
            Step::Idle { again } => {
                self.phase = Phase::Idle;
                (again, Some(Rest::Idle { again }))
            }
            Step::Failed { text, again } => {
                self.phase = Phase::Failed;
                self.failures = self.failures.saturating_add(1);
                self.last_error = Some(text.clone());
                (again, Some(Rest::Failed { text, again: Some(again) }))
            }
        };
        // A run asked for during the step is still to come: the job is not at rest before it.
        if self.begin {
            self.at = now;
            return;
        }
        self.at = now.saturating_add(wait);
        if let Some(rest) = rest {
            self.rest = Some((self.begun, rest));
            self.hurry = self.hurry.filter(|after| self.begun <= *after);
            // Whoever asked during the step waits for a later step, which must not wait in turn.
            if self.hurry.is_some() {
                self.at = now;
            }
        }
    }

    /// The job panicked with `text`: it is never called again.
    fn bury(&mut self, text: String) {
        self.phase = Phase::Dead;
        self.stepping = false;
        self.begin = false;
        self.cancel = false;
        self.hurry = None;
        self.paused_until = None;
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(text.clone());
        self.rest = Some((self.begun, Rest::Failed { text, again: None }));
    }

    /// Asks at `now` that the job run without pauses until it rests; the ticket is for [`Slot::rested`].
    fn hurry(&mut self, now: Duration) -> u64 {
        if self.phase != Phase::Dead {
            self.hurry = Some(self.begun);
            self.at = self.at.min(now);
        }
        self.begun
    }

    /// What a step begun after the `ticket` was given out came to, once one left the job at rest.
    fn rested(&self, ticket: u64) -> Option<&Rest> {
        let (number, rest) = self.rest.as_ref()?;
        (self.phase == Phase::Dead || *number > ticket).then_some(rest)
    }
}

/// The jobs of one thread. A place that was not given out by [`Schedule::add`] is ignored throughout.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// One slot for each job, in the order added.
    slots: Vec<Slot>,
    /// Steps begun, over all jobs.
    turn: u64,
}

impl Schedule {
    /// Adds a job, first due at `at`; returns its place.
    pub(super) fn add(&mut self, at: Duration, tranquility: u32) -> usize {
        self.slots.push(Slot::new(at, tranquility));
        self.slots.len().saturating_sub(1)
    }

    /// What to do at `now`. A step or cancellation handed out counts as taken on.
    ///
    /// Cancellations come first, as they also reach paused jobs. Then the job with the earliest wake time steps; of
    /// several, the one whose latest step lies furthest back.
    pub(super) fn next(&mut self, now: Duration) -> Next {
        if let Some((job, slot)) = self.slots.iter_mut().enumerate().find(|(_, slot)| slot.cancel) {
            slot.take_cancel(now);
            return Next::Now(Due::Cancel { job });
        }
        let candidates = self.slots.iter_mut().enumerate();
        let earliest = candidates
            .filter_map(|(job, slot)| Some((slot.wake()?, slot.turn, job, slot)))
            .min_by_key(|(at, turn, job, _)| (*at, *turn, *job));
        match earliest {
            Some((at, _, job, slot)) if at <= now => {
                self.turn = self.turn.saturating_add(1);
                Next::Now(Due::Step { job, begin: slot.take_step(self.turn) })
            }
            Some((at, ..)) => Next::Sleep(Some(at.saturating_sub(now))),
            None => Next::Sleep(None),
        }
    }

    /// The step of `job` ended at `now`, after `took`.
    pub(super) fn finish(&mut self, job: usize, step: Step, took: Duration, now: Duration) {
        if let Some(slot) = self.slots.get_mut(job) {
            slot.finish(step, took, now);
        }
    }

    /// `job` panicked with `text`, in a step that took `took` or (`None`) outside of one. It is failed for good.
    pub(super) fn bury(&mut self, job: usize, text: String, took: Option<Duration>) {
        if let Some(slot) = self.slots.get_mut(job) {
            if let Some(took) = took {
                slot.steps = slot.steps.saturating_add(1);
                slot.busy = slot.busy.saturating_add(took);
            }
            slot.bury(text);
        }
    }

    /// A person gave `job` a command at `now`. It has no effect on a job failed for good.
    pub(super) fn command(&mut self, job: usize, command: Command, now: Duration) {
        if let Some(slot) = self.slots.get_mut(job) {
            slot.command(command, now);
        }
    }

    /// Asks at `now` that `job` run without pauses until it rests. The ticket is for [`Schedule::rested`].
    pub(super) fn hurry(&mut self, job: usize, now: Duration) -> u64 {
        self.slots.get_mut(job).map_or(0, |slot| slot.hurry(now))
    }

    /// What `job` came to, once a step begun after the `ticket` was given out left it idle or failed.
    pub(super) fn rested(&self, job: usize, ticket: u64) -> Option<&Rest> {
        self.slots.get(job)?.rested(ticket)
    }

    /// The status of `job` at `now`, completed by its name and progress, which the schedule does not know.
    pub(super) fn status(
        &self,
        job: usize,
        now: Duration,
        name: String,
        progress: Progress<String>,
    ) -> Option<WorkerStatus> {
        let slot = self.slots.get(job)?;
        Some(WorkerStatus {
            name,
            state: slot.state(now),
            tranquility: slot.speed.tranquility,
            next_ms: slot.next_ms(now),
            steps: slot.steps,
            busy_ms: u64::try_from(slot.busy.as_millis()).unwrap_or(u64::MAX),
            failures: slot.failures,
            last_error: slot.last_error.clone(),
            progress,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Row::*;

    const BUSY: Step = Step::Busy;
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn idle(again: u64) -> Step {
        Step::Idle { again: ms(again) }
    }

    fn failed(again: u64) -> Step {
        Step::Failed { text: "no".to_owned(), again: ms(again) }
    }

    /// One row of a table: something that happens, or something that must be so.
    enum Row {
        /// A job steps; the flag: asked for by a person.
        Steps(usize, bool),
        /// A job is told of a cancellation.
        Cancelled(usize),
        /// Nothing to do for this many ms.
        Sleep(u64),
        /// Nothing to do for good.
        Forever,
        /// The step of a job ends after this many ms.
        Ends(usize, u64, Step),
        /// A job panics in a step that took a millisecond.
        Panics(usize),
        /// A person gives a job a command.
        Told(usize, Command),
        /// The state of a job and the ms until its next step.
        Is(usize, State, Option<u64>),
    }

    /// Plays a table of (time in ms, what) against jobs of (first step in ms, tranquility).
    fn play(jobs: &[(u64, u32)], rows: Vec<(u64, Row)>) -> Schedule {
        let mut schedule = Schedule::default();
        for (place, (first, tranquility)) in jobs.iter().enumerate() {
            assert_eq!(schedule.add(ms(*first), *tranquility), place);
        }
        for (number, (at, row)) in rows.into_iter().enumerate() {
            let now = ms(at);
            let expected = match row {
                Steps(job, begin) => Next::Now(Due::Step { job, begin }),
                Cancelled(job) => Next::Now(Due::Cancel { job }),
                Sleep(time) => Next::Sleep(Some(ms(time))),
                Forever => Next::Sleep(None),
                Ends(job, took, step) => {
                    schedule.finish(job, step, ms(took), now);
                    continue;
                }
                Panics(job) => {
                    schedule.bury(job, "boom".to_owned(), Some(ms(1)));
                    continue;
                }
                Told(job, command) => {
                    schedule.command(job, command, now);
                    continue;
                }
                Is(job, state, next_ms) => {
                    let status = status(&schedule, job, at);
                    assert_eq!((status.state, status.next_ms), (state, next_ms), "row {number}");
                    continue;
                }
            };
            assert_eq!(schedule.next(now), expected, "row {number}");
        }
        schedule
    }

    fn status(schedule: &Schedule, job: usize, at: u64) -> WorkerStatus {
        schedule.status(job, ms(at), "job".to_owned(), Progress::default()).unwrap()
    }

    #[test]
    fn tranquil_pauses() {
        let rows = [
            (0, 50, 0),
            (1, 50, 50),
            (3, 50, 150),
            (200, 50, 10_000),
            (201, 50, 10_000),
            (u32::MAX, u64::MAX / 2, 10_000),
            (u32::MAX, 0, 0),
            (1, 20_000, 10_000),
        ];
        for (tranquility, took, pause) in rows {
            assert_eq!(Tranquilizer { tranquility }.pause(ms(took)), ms(pause), "{tranquility} x {took}");
        }
    }

    #[test]
    fn steps_decide_the_next_wake() {
        play(
            &[(100, 2)],
            vec![
                (0, Is(0, State::Waiting, Some(100))),
                (0, Sleep(100)),
                (99, Sleep(1)),
                (100, Steps(0, false)),
                (105, Is(0, State::Running, Some(0))),
                (110, Ends(0, 10, BUSY)),
                (110, Is(0, State::Running, Some(20))),
                (110, Sleep(20)),
                (130, Steps(0, false)),
                (140, Ends(0, 10, idle(1000))),
                (140, Is(0, State::Waiting, Some(1000))),
                (1140, Is(0, State::Waiting, Some(0))),
                (1140, Steps(0, false)),
                (1150, Ends(0, 10, failed(500))),
                (1150, Is(0, State::Failed, Some(500))),
                (1650, Steps(0, false)),
                (1650, Is(0, State::Running, Some(0))),
                (1660, Ends(0, 10, idle(u64::MAX))),
            ],
        );
        play(&[], vec![(0, Forever)]);
    }

    #[test]
    fn an_endless_wait_has_no_wake_time() {
        let mut schedule = play(&[(0, 0)], vec![(0, Steps(0, false))]);
        schedule.finish(0, Step::Idle { again: Duration::MAX }, ms(1), ms(1));
        assert_eq!(status(&schedule, 0, 1).next_ms, None);
        schedule.command(0, Command::Start, ms(5));
        assert_eq!(schedule.next(ms(5)), Next::Now(Due::Step { job: 0, begin: true }));
    }

    #[test]
    fn the_earliest_wake_goes_first_and_ties_take_turns() {
        play(
            &[(0, 0), (0, 0), (5, 1)],
            vec![
                (0, Steps(0, false)),
                (10, Ends(0, 10, BUSY)),
                (10, Steps(1, false)),
                (20, Ends(1, 10, BUSY)),
                // Woke at 5, before the two that ended at 10 and 20.
                (20, Steps(2, false)),
                (30, Ends(2, 10, BUSY)),
                (30, Steps(0, false)),
                (30, Ends(0, 0, BUSY)),
                (30, Steps(1, false)),
                (30, Ends(1, 0, BUSY)),
                // Both woke at 30: the one that stepped longer ago.
                (30, Steps(0, false)),
                (30, Ends(0, 0, BUSY)),
                (30, Steps(1, false)),
                (30, Ends(1, 0, idle(1000))),
                // The tranquil job does not hold up the other.
                (30, Steps(0, false)),
                (39, Ends(0, 9, BUSY)),
                (39, Steps(0, false)),
                (45, Ends(0, 6, BUSY)),
                (45, Steps(2, false)),
            ],
        );
    }

    #[test]
    fn pause_and_resume() {
        play(
            &[(0, 0)],
            vec![
                (0, Steps(0, false)),
                (5, Told(0, Command::Pause)),
                (5, Is(0, State::Running, Some(0))),
                (10, Ends(0, 10, BUSY)),
                (10, Is(0, State::Paused, Some(DAY_MS - 5))),
                (10, Sleep(DAY_MS - 5)),
                (20, Told(0, Command::Resume)),
                (20, Is(0, State::Running, Some(0))),
                (20, Steps(0, false)),
                (30, Ends(0, 10, idle(100))),
                (40, Told(0, Command::Pause)),
                (50, Told(0, Command::Resume)),
                // The wait the job asked for goes on.
                (50, Is(0, State::Waiting, Some(80))),
                (60, Told(0, Command::Pause)),
                (60 + DAY_MS - 1, Is(0, State::Paused, Some(1))),
                (60 + DAY_MS - 1, Sleep(1)),
                (60 + DAY_MS, Is(0, State::Waiting, Some(0))),
                (60 + DAY_MS, Steps(0, false)),
                // A wait longer than the pause outlasts it.
                (70 + DAY_MS, Ends(0, 10, idle(2 * DAY_MS))),
                (70 + DAY_MS, Told(0, Command::Pause)),
                (70 + DAY_MS, Is(0, State::Paused, Some(2 * DAY_MS))),
                (70 + 2 * DAY_MS, Is(0, State::Waiting, Some(DAY_MS))),
                (71 + 2 * DAY_MS, Told(0, Command::Pause)),
                (80 + 2 * DAY_MS, Told(0, Command::Pause)),
                (71 + 3 * DAY_MS, Sleep(9)),
            ],
        );
    }

    #[test]
    fn start_ends_waits_and_pauses() {
        play(
            &[(1000, 0)],
            vec![
                (10, Told(0, Command::Start)),
                (10, Is(0, State::Waiting, Some(0))),
                (10, Steps(0, true)),
                // Asked for during a step: carried out after it.
                (15, Told(0, Command::Start)),
                (20, Ends(0, 10, idle(1000))),
                (20, Steps(0, true)),
                (30, Ends(0, 10, failed(1000))),
                (40, Told(0, Command::Start)),
                (40, Told(0, Command::Start)),
                (40, Steps(0, true)),
                (50, Ends(0, 10, idle(1000))),
                (50, Told(0, Command::Pause)),
                (60, Told(0, Command::Start)),
                (60, Steps(0, true)),
                (70, Ends(0, 10, idle(1000))),
                // A pause that follows holds the run back, and does not forget it.
                (80, Told(0, Command::Start)),
                (80, Told(0, Command::Pause)),
                (80, Sleep(DAY_MS)),
                (90, Told(0, Command::Resume)),
                (90, Steps(0, true)),
                (95, Ends(0, 5, idle(1000))),
                (95, Sleep(1000)),
            ],
        );
    }

    #[test]
    fn cancel_is_told_once_and_first() {
        play(
            &[(0, 100), (0, 0)],
            vec![
                (0, Steps(0, false)),
                (5, Told(0, Command::Cancel)),
                (5, Told(0, Command::Cancel)),
                (10, Ends(0, 10, BUSY)),
                (10, Cancelled(0)),
                (10, Steps(1, false)),
                (20, Ends(1, 10, idle(1000))),
                // Not kept waiting for the second its tranquility asks for, whatever its speed now.
                (20, Told(0, Command::Speed(5000))),
                (20, Steps(0, false)),
                (30, Ends(0, 10, idle(1000))),
                (40, Told(0, Command::Pause)),
                (40, Told(0, Command::Cancel)),
                (40, Cancelled(0)),
                (40, Is(0, State::Paused, Some(DAY_MS))),
                (40, Sleep(980)),
                // Gives up a start that has not begun.
                (50, Told(1, Command::Start)),
                (50, Told(1, Command::Cancel)),
                (50, Cancelled(1)),
                (50, Steps(1, false)),
                (60, Ends(1, 10, idle(1000))),
                (60, Told(1, Command::Cancel)),
                (60, Told(1, Command::Start)),
                (60, Cancelled(1)),
                (60, Steps(1, true)),
            ],
        );
    }

    #[test]
    fn speed_applies_to_the_pause_under_way() {
        play(
            &[(0, 10)],
            vec![
                (0, Steps(0, false)),
                (10, Ends(0, 10, BUSY)),
                (10, Sleep(100)),
                (20, Told(0, Command::Speed(5))),
                (20, Sleep(40)),
                (30, Told(0, Command::Speed(2))),
                (30, Steps(0, false)),
                (35, Told(0, Command::Speed(1))),
                (40, Ends(0, 10, BUSY)),
                (40, Sleep(10)),
                (45, Told(0, Command::Start)),
                (45, Told(0, Command::Speed(1000))),
                (45, Steps(0, true)),
                (55, Ends(0, 10, idle(500))),
                // A wait is not a tranquil pause.
                (60, Told(0, Command::Speed(0))),
                (60, Sleep(495)),
                (555, Steps(0, false)),
                (565, Ends(0, 10, BUSY)),
                (565, Steps(0, false)),
            ],
        );
    }

    #[test]
    fn a_panic_is_for_good() {
        let schedule = play(
            &[(0, 0), (100, 0)],
            vec![
                (0, Steps(0, false)),
                (0, Told(0, Command::Start)),
                (0, Told(0, Command::Cancel)),
                (1, Panics(0)),
                (1, Is(0, State::Failed, None)),
                (1, Sleep(99)),
                (2, Told(0, Command::Start)),
                (2, Told(0, Command::Cancel)),
                (2, Told(0, Command::Pause)),
                (2, Is(0, State::Failed, None)),
                (2, Sleep(98)),
                (100, Steps(1, false)),
                (101, Panics(1)),
                (101, Forever),
            ],
        );
        let status = status(&schedule, 0, 200);
        assert_eq!((status.steps, status.busy_ms, status.failures), (1, 1, 1));
        assert_eq!(status.last_error.as_deref(), Some("boom"));
    }

    #[test]
    fn counts_add_up() {
        let schedule = play(
            &[(0, 4)],
            vec![
                (0, Steps(0, false)),
                (7, Ends(0, 7, failed(1))),
                (8, Steps(0, false)),
                (20, Ends(0, 12, failed(1))),
                (21, Steps(0, false)),
                (30, Ends(0, 9, idle(1))),
            ],
        );
        let status = status(&schedule, 0, 30);
        assert_eq!((status.steps, status.busy_ms, status.failures, status.tranquility), (3, 28, 2, 4));
        assert_eq!(status.last_error.as_deref(), Some("no"));
        assert_eq!(schedule.status(1, ms(0), String::new(), Progress::default()), None);
    }

    #[test]
    fn parts_of_a_millisecond_round_up() {
        let mut schedule = Schedule::default();
        schedule.add(Duration::from_micros(1500), 0);
        for (micros, next_ms) in [(0, 2), (499, 2), (500, 1), (1499, 1), (1500, 0), (9000, 0)] {
            let now = Duration::from_micros(micros);
            let status = schedule.status(0, now, String::new(), Progress::default()).unwrap();
            assert_eq!(status.next_ms, Some(next_ms), "at {micros} us");
        }
    }

    #[test]
    fn hurry_skips_pauses_until_a_later_step_rests() {
        let mut schedule = play(&[(1000, 50)], vec![(0, Told(0, Command::Pause))]);
        let ticket = schedule.hurry(0, ms(10));
        assert_eq!(status(&schedule, 0, 10).state, State::Waiting);
        let step = Next::Now(Due::Step { job: 0, begin: false });
        assert_eq!(schedule.next(ms(10)), step);
        // A second caller, during the step: not served by it.
        let second = schedule.hurry(0, ms(15));
        schedule.finish(0, BUSY, ms(10), ms(20));
        schedule.command(0, Command::Speed(60), ms(20));
        assert_eq!((schedule.rested(0, ticket).cloned(), schedule.next(ms(20))), (None, step));
        let third = schedule.hurry(0, ms(25));
        schedule.finish(0, idle(500), ms(10), ms(30));
        let rest = Rest::Idle { again: ms(500) };
        assert_eq!((schedule.rested(0, ticket), schedule.rested(0, second)), (Some(&rest), Some(&rest)));
        assert_eq!((schedule.rested(0, third).cloned(), schedule.next(ms(30))), (None, step));
        schedule.finish(0, failed(700), ms(10), ms(40));
        let rest = Rest::Failed { text: "no".to_owned(), again: Some(ms(700)) };
        assert_eq!(schedule.rested(0, third), Some(&rest));
        // The pause by the person was only suspended.
        assert_eq!(status(&schedule, 0, 40).state, State::Paused);
        assert_eq!(schedule.next(ms(40)), Next::Sleep(Some(ms(DAY_MS - 40))));
    }

    #[test]
    fn hurry_waits_for_a_run_asked_for_and_ends_with_a_panic() {
        let mut schedule = play(&[(1000, 50)], vec![(0, Sleep(1000))]);
        let ticket = schedule.hurry(0, ms(0));
        assert_eq!(schedule.next(ms(0)), Next::Now(Due::Step { job: 0, begin: false }));
        schedule.command(0, Command::Start, ms(5));
        schedule.finish(0, idle(500), ms(10), ms(10));
        assert_eq!(schedule.rested(0, ticket), None);
        assert_eq!(schedule.next(ms(10)), Next::Now(Due::Step { job: 0, begin: true }));
        schedule.bury(0, "boom".to_owned(), Some(ms(1)));
        let rest = Rest::Failed { text: "boom".to_owned(), again: None };
        assert_eq!(schedule.rested(0, ticket), Some(&rest));
        // Asked for later still: answered at once.
        let late = schedule.hurry(0, ms(20));
        assert_eq!((schedule.rested(0, late).cloned(), schedule.next(ms(20))), (Some(rest), Next::Sleep(None)));
    }
}
