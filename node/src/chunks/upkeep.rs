//! The jobs of a running store, with their schedules: what runs when, how fast, and what is shown of it. The work itself
//! is in [`super::jobs`].
//!
//! | job | runs | pause after a step | a restart loses |
//! |---|---|---|---|
//! | `watch` | every 5 s; directories every 60 s | none | nothing |
//! | `compact` | every 60 s, and until no segment has less than half in use | three times the step | the segment under way |
//! | `expire` | every 60 s, if anything lapsed | as long as the step | the sweep |
//! | `scrub` | every 5 s for what readers found; a pass every 25 to 35 days | four times the step | the segment under way |
//! | `snapshot` | every 10 min, after 100,000 records | none | nothing |

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::jobs::Room;
use super::jobs::compact::{Compactor, Stepped};
use super::jobs::expire::Expirer;
use super::jobs::scrub::{Found, Scrubber};
use super::log::{Log, QueuedLog};
use super::segment::segments_dir;
use super::shared::Inner;
use super::vfs::{DirId, read_file, replace_file};
use super::workers::{Job, Progress, Step, Worker, Workers};
use super::{identity, snapshot};

/// The time, milliseconds since 1970.
pub(super) type Wall = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How often the free space is asked for.
const SPACE_EVERY: Duration = Duration::from_secs(5);
/// How often the directories are compared with those the store was opened in, in multiples of [`SPACE_EVERY`].
const DIRECTORIES_EVERY: u64 = 12;
/// How often the other jobs look whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often the scrub looks for shards that readers found damaged.
const SUSPECTS_EVERY: Duration = Duration::from_secs(5);
/// How long a job waits after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// How often a snapshot is considered.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(600);
/// New records that are worth a snapshot: reading them at open takes a tenth of a second.
const SNAPSHOT_RECORDS: u64 = 100_000;
/// Between the beginnings of two scrubs, days: the fewest, and by how many a store may differ from another.
const SCRUB_DAYS: u64 = 25;
const SCRUB_SPREAD_DAYS: u64 = 11;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// Between two sweeps that nobody asked for: one may leave behind what is over but still in use.
const SWEEP_EVERY_MS: u64 = 3600 * 1000;

/// Starts the jobs of a store.
pub(crate) fn start(inner: &Arc<Inner>, wall: Wall) -> io::Result<Workers> {
    let room = &inner.room;
    let log = || Box::new(QueuedLog(Arc::downgrade(inner)));
    let first = Duration::from_secs(1);
    let jobs = vec![
        Job { worker: Box::new(Watch::new(room)?), tranquility: 0, first },
        Job {
            worker: Box::new(Compact { room: room.clone(), log: log(), job: Compactor::default() }),
            tranquility: 3,
            first,
        },
        Job { worker: Box::new(Expire::new(room, log())), tranquility: 1, first },
        Job { worker: Box::new(Scrub::new(room, log())), tranquility: 4, first },
        Job { worker: Box::new(Snapshot::new(room)), tranquility: 0, first: SNAPSHOT_EVERY },
    ];
    Workers::start(jobs, wall)
}

fn failed(error: &io::Error) -> Step {
    Step::Failed { text: error.to_string(), again: AFTER_FAILURE }
}

fn note(name: &str, value: u64) -> (String, u64) {
    (name.to_owned(), value)
}

/// Free space, the reserve, and whether these are still the directories the store was opened in.
struct Watch {
    room: Room,
    directories: [DirId; 2],
    looks: u64,
}

impl Watch {
    fn new(room: &Room) -> io::Result<Self> {
        Ok(Self { directories: Self::directories(room)?, room: room.clone(), looks: 0 })
    }

    fn directories(room: &Room) -> io::Result<[DirId; 2]> {
        Ok([room.vfs.identity(&room.data)?, room.vfs.identity(&segments_dir(&room.data))?])
    }

    /// Whether other directories, or another store's segments, are found now.
    fn is_elsewhere(&self) -> bool {
        let same = Self::directories(&self.room).is_ok_and(|now| now == self.directories);
        let marker = identity::check_marker(self.room.vfs.as_ref(), &self.room.data, &self.room.shared.codec);
        let replaced = matches!(marker, Err(super::OpenError::Missing(_) | super::OpenError::Foreign(_)));
        !same || replaced
    }
}

impl Worker for Watch {
    fn name(&self) -> &'static str {
        "watch"
    }

    fn begin(&mut self, _: u64) {
        self.looks = 0;
    }

    fn step(&mut self, _: u64) -> Step {
        let shared = &self.room.shared;
        shared.space.refresh();
        if !shared.is_detached() && self.looks.is_multiple_of(DIRECTORIES_EVERY) && self.is_elsewhere() {
            tracing::error!(data = %self.room.data.display(), "other directories are found here: nothing is accepted");
            shared.detach();
        }
        self.looks = self.looks.wrapping_add(1);
        if !shared.is_detached()
            && let Err(error) = shared.space.fill_reserve()
        {
            return failed(&error);
        }
        Step::Idle { again: SPACE_EVERY }
    }

    fn progress(&self) -> Progress {
        let usage = self.room.shared.space.usage();
        Progress { done: usage.stored, total: usage.quota, unit: "bytes", notes: Vec::new() }
    }
}

struct Compact {
    room: Room,
    log: Box<dyn Log>,
    job: Compactor,
}

impl Worker for Compact {
    fn name(&self) -> &'static str {
        "compact"
    }

    fn begin(&mut self, _: u64) {
        self.job.begin();
    }

    fn cancel(&mut self) {
        self.job.cancel();
    }

    fn step(&mut self, wall_ms: u64) -> Step {
        match self.job.step(&self.room, self.log.as_mut(), wall_ms) {
            Ok(Stepped::Busy) => Step::Busy,
            Ok(Stepped::Idle) => Step::Idle { again: LOOK_EVERY },
            Err(error) => failed(&error),
        }
    }

    fn progress(&self) -> Progress {
        let notes = vec![
            note("segments_removed", self.job.segments),
            note("bytes_copied", self.job.copied),
            note("bytes_removed", self.job.freed),
        ];
        Progress { done: 0, total: self.job.left(), unit: "bytes left in this segment", notes }
    }
}

struct Expire {
    room: Room,
    log: Box<dyn Log>,
    job: Expirer,
    swept_ms: u64,
    segments: u64,
}

impl Expire {
    fn new(room: &Room, log: Box<dyn Log>) -> Self {
        Self { room: room.clone(), log, job: Expirer::default(), swept_ms: 0, segments: 0 }
    }

    fn sweep(&mut self, wall_ms: u64) {
        self.swept_ms = wall_ms;
        self.job.begin(&self.room);
        self.segments = self.job.left();
    }
}

impl Worker for Expire {
    fn name(&self) -> &'static str {
        "expire"
    }

    fn begin(&mut self, wall_ms: u64) {
        self.sweep(wall_ms);
    }

    fn cancel(&mut self) {
        self.job.cancel();
    }

    fn step(&mut self, wall_ms: u64) -> Step {
        let trash_ms = self.room.shared.trash_ms;
        let rested = self.swept_ms.saturating_add(SWEEP_EVERY_MS) <= wall_ms;
        if self.job.left() == 0 && rested && Expirer::is_due(&self.room, wall_ms, trash_ms) {
            self.sweep(wall_ms);
        }
        match self.job.step(&self.room, self.log.as_mut(), wall_ms.saturating_sub(trash_ms)) {
            Ok(Stepped::Busy) => Step::Busy,
            Ok(Stepped::Idle) => Step::Idle { again: LOOK_EVERY },
            Err(error) => failed(&error),
        }
    }

    fn progress(&self) -> Progress {
        let done = self.segments.saturating_sub(self.job.left());
        let notes = vec![note("removed", self.job.removed)];
        Progress { done, total: self.segments, unit: "segments", notes }
    }
}

/// When the last pass of the scrub began and ended, the segment it is at, and what it found.
pub(super) type ScrubPlace = (u64, u64, u32, Found);

/// `shoal-scrub-1`, then begun, ended, segment, records, bytes, damaged, lost and repaired in decimal.
pub(super) fn parse_scrub(bytes: &[u8]) -> Option<ScrubPlace> {
    let numbers = std::str::from_utf8(bytes).ok()?.trim_end().strip_prefix("shoal-scrub-1 ")?;
    let numbers: Vec<u64> = numbers.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [begun, ended, segment, records, bytes, damaged, lost, repaired] = numbers.try_into().ok()?;
    Some((begun, ended, u32::try_from(segment).ok()?, Found { records, bytes, damaged, lost, repaired }))
}

/// What [`parse_scrub`] reads.
pub(super) fn scrub_text((begun_ms, ended_ms, segment, found): &ScrubPlace) -> String {
    let Found { records, bytes, damaged, lost, repaired } = found;
    format!("shoal-scrub-1 {begun_ms} {ended_ms} {segment} {records} {bytes} {damaged} {lost} {repaired}\n")
}

/// The scrub, and where it was when the node stopped.
struct Scrub {
    room: Room,
    log: Box<dyn Log>,
    job: Scrubber,
    /// What the last step saved.
    saved: Option<u32>,
}

impl Scrub {
    fn new(room: &Room, log: Box<dyn Log>) -> Self {
        let mut scrub = Self { room: room.clone(), log, job: Scrubber::default(), saved: None };
        if let Some((begun_ms, ended_ms, segment, found)) = Self::load(room) {
            if begun_ms > ended_ms {
                scrub.job.begin(room, segment, begun_ms);
                scrub.saved = Some(segment);
            }
            (scrub.job.begun_ms, scrub.job.ended_ms, scrub.job.found) = (begun_ms, ended_ms, found);
        }
        scrub
    }

    fn load(room: &Room) -> Option<ScrubPlace> {
        parse_scrub(&read_file(room.vfs.as_ref(), &room.data.join("scrub"), 1024).ok()??)
    }

    /// Where the pass is, for the next start. On a full disk the pass goes on without: a restart then repeats a part.
    fn note_place(&mut self) {
        self.saved = self.job.segment();
        if let Err(error) = self.save() {
            tracing::warn!(%error, "where the scrub is was not saved");
        }
    }

    fn save(&self) -> io::Result<()> {
        let Scrubber { begun_ms, ended_ms, found, .. } = &self.job;
        let text = scrub_text(&(*begun_ms, *ended_ms, self.job.segment().unwrap_or(0), *found));
        replace_file(self.room.vfs.as_ref(), &self.room.data, &self.room.data.join("scrub"), text.as_bytes())
    }

    /// When the next pass is due: stores differ, so that not all nodes of a house read their disks on one day.
    fn due_ms(&self) -> u64 {
        let [spread, ..] = self.room.shared.codec.store;
        let days = SCRUB_DAYS.saturating_add(u64::from(spread) % SCRUB_SPREAD_DAYS);
        self.job.begun_ms.saturating_add(days.saturating_mul(DAY_MS))
    }
}

impl Worker for Scrub {
    fn name(&self) -> &'static str {
        "scrub"
    }

    fn begin(&mut self, wall_ms: u64) {
        if !self.job.is_under_way() {
            self.job.begin(&self.room, 0, wall_ms);
        }
    }

    fn cancel(&mut self) {
        self.job.cancel();
        self.job.ended_ms = self.job.begun_ms;
        self.note_place();
    }

    fn step(&mut self, wall_ms: u64) -> Step {
        if !self.job.is_under_way() && self.due_ms() <= wall_ms {
            if self.job.begun_ms == 0 {
                // A new store: its first pass is due a period from now.
                self.job.begun_ms = wall_ms;
                self.job.ended_ms = wall_ms;
            } else {
                self.job.begin(&self.room, 0, wall_ms);
            }
        }
        let was_under_way = self.job.is_under_way();
        let stepped = self.job.step(&self.room, self.log.as_mut(), wall_ms);
        let ended = was_under_way && !self.job.is_under_way();
        let moved_on = ended || (was_under_way && self.job.segment() != self.saved);
        if moved_on {
            self.note_place();
        }
        match stepped {
            Ok(Stepped::Busy) => Step::Busy,
            Ok(Stepped::Idle) => Step::Idle { again: SUSPECTS_EVERY },
            Err(error) => failed(&error),
        }
    }

    fn progress(&self) -> Progress {
        let (done, total) = self.job.progress();
        let Found { records, bytes, damaged, lost, repaired } = self.job.found;
        let notes = vec![
            note("records", records),
            note("bytes", bytes),
            note("damaged", damaged),
            note("lost", lost),
            note("repaired", repaired),
            note("begun_ms", self.job.begun_ms),
            note("ended_ms", self.job.ended_ms),
        ];
        Progress { done, total, unit: "bytes", notes }
    }
}

struct Snapshot {
    room: Room,
    /// The sequence number of the last snapshot.
    saved: u64,
    asked: bool,
}

impl Snapshot {
    fn new(room: &Room) -> Self {
        let saved = room.shared.index().next_sequence;
        Self { room: room.clone(), saved, asked: false }
    }

    fn save(&mut self) -> io::Result<()> {
        self.saved = snapshot::take(self.room.vfs.as_ref(), &self.room.data, &self.room.shared)?;
        Ok(())
    }
}

impl Worker for Snapshot {
    fn name(&self) -> &'static str {
        "snapshot"
    }

    fn begin(&mut self, _: u64) {
        self.asked = true;
    }

    fn step(&mut self, _: u64) -> Step {
        let new = self.room.shared.index().next_sequence.saturating_sub(self.saved);
        if (std::mem::take(&mut self.asked) || new >= SNAPSHOT_RECORDS)
            && let Err(error) = self.save()
        {
            return failed(&error);
        }
        Step::Idle { again: SNAPSHOT_EVERY }
    }

    fn progress(&self) -> Progress {
        let next = self.room.shared.index().next_sequence;
        Progress { done: self.saved, total: next, unit: "records", notes: Vec::new() }
    }
}
