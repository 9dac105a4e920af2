//! The status of a store as a table for people. It reads no clock and prints nothing but, on a terminal, the end of a
//! line of progress.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, Write};

use shoal_protocol::ByteCount;

use crate::chunks::workers::{State, WorkerStatus};
use crate::chunks::{Health, StoreStatus};

/// Longest text of an error that is shown, characters.
const ERROR_MAX: usize = 120;
/// Units of time as they are shown, largest first: milliseconds and name.
const SPANS: [(u64, &str); 4] = [(86_400_000, "days"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];

/// The lines of a status at the time `now_ms`, milliseconds since 1970.
pub(super) fn lines(status: &StoreStatus, now_ms: u64) -> Vec<String> {
    let usage = status.usage;
    let (quota, stored, free) = (ByteCount(usage.quota), ByteCount(usage.stored), ByteCount(usage.free));
    let mut lines = vec![
        format!("health    {}", health(status.health)),
        format!("space     {stored} stored of {quota}, {} live, {free} free", ByteCount(status.live)),
        format!("segments  {}, {} of them damaged or given up", status.segments, status.suspect),
        format!("shards    {}, {} in the trash, {} lost", status.shards, status.trash, status.losses),
        format!(
            "groups    {}, {} signed records, {} waiting to be written",
            status.groups, status.records, status.queued
        ),
    ];
    if status.reserve_missing > 0 {
        lines.push(format!("reserve   {} missing: the disk is full", ByteCount(status.reserve_missing)));
    }
    lines.extend(status.jobs.iter().filter_map(|job| last_pass(job, now_ms)));
    lines.push(String::new());
    lines.extend(jobs(&status.jobs));
    lines
}

/// What a running node refused, if anything: `refused   12 denied, 3 busy`, the most frequent first.
pub(super) fn refused(counts: &BTreeMap<String, u64>) -> Option<String> {
    let mut counts: Vec<(&String, &u64)> = counts.iter().collect();
    counts.sort_by_key(|(word, count)| (Reverse(**count), *word));
    let words: Vec<String> = counts.into_iter().map(|(word, count)| format!("{count} {word}")).collect();
    (!words.is_empty()).then(|| format!("refused   {}", words.join(", ")))
}

/// The counts of a job, one a line.
pub(super) fn notes(job: &WorkerStatus) -> Vec<String> {
    let counts = job.progress.notes.iter().filter(|(name, _)| !name.ends_with("_ms"));
    let line = |(name, count): &(String, u64)| {
        let count = if name.starts_with("bytes") { ByteCount(*count).to_string() } else { count.to_string() };
        format!("  {:<17} {count}", name.replace('_', " "))
    };
    counts.map(line).collect()
}

/// How far a job is, in a word or two.
pub(super) fn progress(job: &WorkerStatus) -> String {
    let progress = &job.progress;
    if !matches!(job.state, State::Running | State::Paused) || progress.total == 0 {
        return "-".to_owned();
    }
    // Compaction does not know all that is before it, only what is left in one segment.
    if progress.unit.starts_with("bytes left") {
        return format!("{} left", ByteCount(progress.total));
    }
    format!("{} %", percent(progress.done, progress.total))
}

/// How many hundredths of `total` are done.
pub(super) fn percent(done: u64, total: u64) -> u64 {
    let hundredths = u128::from(done).saturating_mul(100).checked_div(u128::from(total)).unwrap_or(100);
    u64::try_from(hundredths).unwrap_or(100).min(100)
}

/// Takes a line of progress off the terminal.
pub(super) fn clear_line() {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "\r\x1b[K").and_then(|()| stderr.flush());
}

const fn health(health: Health) -> &'static str {
    match health {
        Health::Good => "good",
        Health::Degraded => "degraded: the disk failed once; nothing promised was lost",
        Health::ReadOnly => "read-only: the disk failed twice; nothing is accepted any more",
        Health::Detached => "detached: another disk is mounted where the store was; nothing is accepted",
    }
}

/// When a scrub ended last, and what it found.
fn last_pass(job: &WorkerStatus, now_ms: u64) -> Option<String> {
    let note = |wanted: &str| job.progress.notes.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
    let (ended, begun) = (note("ended_ms")?, note("begun_ms")?);
    if job.name != "scrub" {
        return None;
    }
    let found = (note("records")?, note("damaged")?, note("lost")?);
    let (records, damaged, lost) = found;
    Some(match (ended, records) {
        (ended, _) if begun > ended => format!("scrubbing {records} records so far, {damaged} damaged, {lost} lost"),
        (0, _) | (_, 0) => "scrubbed  never".to_owned(),
        _ => format!(
            "scrubbed  {} ago: {records} records, {damaged} damaged, {lost} lost",
            span(now_ms.saturating_sub(ended))
        ),
    })
}

fn jobs(jobs: &[WorkerStatus]) -> Vec<String> {
    let mut rows = vec![["job", "state", "progress", "speed", "next", "last error"].map(str::to_owned)];
    rows.extend(jobs.iter().map(row));
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..6).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn row(job: &WorkerStatus) -> [String; 6] {
    let state = match job.state {
        State::Running => "running",
        State::Waiting => "waiting",
        State::Paused => "paused",
        State::Failed => "failed",
    };
    let next = match job.next_ms {
        None => "never".to_owned(),
        Some(0) => "now".to_owned(),
        Some(wait) => format!("in {}", span(wait)),
    };
    let error = job.last_error.as_deref().map_or_else(|| "-".to_owned(), one_line);
    [job.name.clone(), state.to_owned(), progress(job), job.tranquility.to_string(), next, error]
}

/// A text without line breaks or other characters a terminal acts on.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ERROR_MAX).collect()
}

fn span(ms: u64) -> String {
    let unit = SPANS.iter().find(|(unit, _)| ms >= unit.saturating_mul(2)).unwrap_or(&(1_000, "s"));
    let (unit, name) = unit;
    format!("{} {name}", ms.checked_div(*unit).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunks::Usage;
    use crate::chunks::workers::Progress;

    const DAY: u64 = 86_400_000;

    fn job(name: &str, state: State, done: u64, total: u64) -> WorkerStatus {
        let progress = Progress { done, total, unit: "bytes".to_owned(), ..Progress::default() };
        WorkerStatus {
            name: name.to_owned(),
            state,
            tranquility: 4,
            next_ms: Some(0),
            steps: 1,
            busy_ms: 1,
            failures: 0,
            last_error: None,
            progress,
        }
    }

    fn status(jobs: Vec<WorkerStatus>) -> StoreStatus {
        StoreStatus {
            health: Health::Good,
            usage: Usage { stored: 3_100_000, reserved: 0, quota: 25_000_000_000, free: 24_000_000_000 },
            live: 3_000_000,
            reserve_missing: 0,
            segments: 2,
            suspect: 1,
            shards: 24,
            trash: 3,
            losses: 1,
            groups: 1,
            records: 12,
            queued: 0,
            jobs,
        }
    }

    #[test]
    fn a_status_is_a_table() {
        let mut scrub = job("scrub", State::Running, 43, 100);
        scrub.progress.notes =
            ["records", "damaged", "lost", "begun_ms", "ended_ms"].map(|name| (name.to_owned(), 0)).to_vec();
        let mut compact = job("compact", State::Failed, 0, 0);
        compact.next_ms = Some(59_500);
        compact.last_error = Some("disk\ngone\x1b".to_owned());
        let mut broken = job("expire", State::Failed, 0, 0);
        broken.next_ms = None;
        let lines = lines(&status(vec![scrub, compact, broken]), 0);
        assert_eq!(
            lines,
            [
                "health    good",
                "space     3.1 MB stored of 25.0 GB, 3.0 MB live, 24.0 GB free",
                "segments  2, 1 of them damaged or given up",
                "shards    24, 3 in the trash, 1 lost",
                "groups    1, 12 signed records, 0 waiting to be written",
                "scrubbed  never",
                "",
                "job      state    progress  speed  next     last error",
                "scrub    running  43 %      4      now      -",
                "compact  failed   -         4      in 59 s  disk gone",
                "expire   failed   -         4      never    -",
            ]
        );
    }

    #[test]
    fn a_scrub_says_when_it_ended_and_what_it_found() {
        let mut scrub = job("scrub", State::Waiting, 0, 0);
        let mut at = |begun, ended| {
            let notes = [
                ("records", 9),
                ("bytes", 5_000),
                ("damaged", 2),
                ("lost", 1),
                ("begun_ms", begun),
                ("ended_ms", ended),
            ];
            scrub.progress.notes = notes.map(|(name, value)| (name.to_owned(), value)).to_vec();
            last_pass(&scrub, 10 * DAY).unwrap()
        };
        assert_eq!(at(6 * DAY, 7 * DAY), "scrubbed  3 days ago: 9 records, 2 damaged, 1 lost");
        assert_eq!(at(8 * DAY, 7 * DAY), "scrubbing 9 records so far, 2 damaged, 1 lost");
        let lines = notes(&scrub);
        assert_eq!(lines.first().unwrap(), "  records           9");
        assert_eq!(lines.get(1).unwrap(), "  bytes             5.0 kB");
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn progress_and_spans_are_short() {
        let mut compact = job("compact", State::Running, 0, 4_000_000);
        compact.progress.unit = "bytes left in this segment".to_owned();
        assert_eq!(progress(&compact), "4.0 MB left");
        assert_eq!(progress(&job("watch", State::Waiting, 1, 2)), "-");
        assert_eq!(progress(&job("scrub", State::Paused, 1, 3)), "33 %");
        assert_eq!((percent(7, 0), percent(9, 3), percent(u64::MAX, u64::MAX)), (100, 100, 100));
        let spans = [0, 900, 119_000, 120_000, 7_200_000, 2 * DAY].map(span);
        assert_eq!(spans, ["0 s", "0 s", "119 s", "2 min", "2 h", "2 days"]);
    }

    #[test]
    fn refusals_are_one_line_and_the_most_frequent_first() {
        let counts = [("busy", 3), ("denied", 12), ("conflict", 3)].map(|(word, count)| (word.to_owned(), count));
        assert_eq!(refused(&counts.into()).as_deref(), Some("refused   12 denied, 3 busy, 3 conflict"));
        assert_eq!(refused(&BTreeMap::new()), None);
    }

    #[test]
    fn a_missing_reserve_and_a_bad_disk_are_said() {
        let bad = StoreStatus { health: Health::Detached, reserve_missing: 1_000_000, ..status(Vec::new()) };
        let text = lines(&bad, 0).join("\n");
        assert!(text.contains("detached: another disk") && text.contains("reserve   1.0 MB missing"), "{text}");
    }
}
