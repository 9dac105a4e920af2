//! Checking and re-reading a store that nobody has open. A check changes nothing; a new index is made from the log
//! alone.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use shoal_protocol::ByteCount;

use super::alone::{is_store, with_store};
use super::{print_json, table};
use crate::chunks::OpenError;
use crate::chunks::fsck::{self, FsckReport};
use crate::chunks::vfs::Vfs;
use crate::chunks::vfs_os::OsVfs;
use crate::cli::print_lines;
use crate::clock;
use crate::problem::{Failure, Problem};

/// Checks every file and says what is damaged.
pub(super) fn fsck(data: &Path, json: bool) -> Result<(), Problem> {
    is_store(data)?;
    let report = fsck::fsck(&vfs(), data, &mut progress()).map_err(closed_problem);
    if io::stderr().is_terminal() {
        table::clear_line();
    }
    let report = report?;
    if json {
        print_json(&report)?;
    } else {
        print_lines(&lines(&report))?;
    }
    if report.damaged == 0 {
        return Ok(());
    }
    let next = if report.places.is_empty() {
        "`shoald store rebuild-index` makes the index anew"
    } else {
        "`shoald store scrub` takes it out of use, `shoald store compact` moves what is good away from it"
    };
    let what = format!("damaged places found: {}", report.damaged);
    Err(Problem::new(Failure::Other, what, "the disk changed bytes after they were written", next))
}

/// Lets go of the index, and makes it anew by reading the log.
pub(super) fn rebuild_index(data: &Path, quota: Option<u64>) -> Result<(), Problem> {
    is_store(data)?;
    let begun = clock::now().uptime_ms;
    fsck::forget_index(&vfs(), data).map_err(closed_problem)?;
    let (records, shards) = with_store(data, quota, |store, report| Ok((report.records, store.shards())))?;
    let took = clock::now().uptime_ms.saturating_sub(begun);
    print_lines(&[format!("the index is made anew: {records} records, {shards} shards, {took} ms")])
}

fn vfs() -> Arc<dyn Vfs> {
    Arc::new(OsVfs)
}

fn closed_problem(error: OpenError) -> Problem {
    match error {
        OpenError::Locked(_) => Problem::new(
            Failure::Denied,
            error,
            "this works only while nobody has the store open, and a node or another command has",
            "stop shoald first, and repeat",
        ),
        other => other.into(),
    }
}

/// Shows on a terminal, at each percent, how far a check is.
fn progress() -> impl FnMut(u64, u64) {
    let (is_terminal, mut shown) = (io::stderr().is_terminal(), None);
    move |done, total| {
        let percent = table::percent(done, total);
        if is_terminal && shown != Some(percent) {
            shown = Some(percent);
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[Kfsck {percent} % of {}", ByteCount(total)).and_then(|()| stderr.flush());
        }
    }
}

fn lines(report: &FsckReport) -> Vec<String> {
    let snapshot = match report.snapshot {
        Some(true) => "whole",
        Some(false) => "damaged",
        None => "absent: the next start reads the log",
    };
    let mut lines = vec![
        format!("segments  {}", report.segments),
        format!("records   {} good, {}", report.records, ByteCount(report.bytes)),
        format!("index     {snapshot}"),
        format!("torn      {} at the end, never promised", ByteCount(report.torn_bytes)),
        format!("damaged   {}", report.damaged),
    ];
    lines.extend(report.places.iter().map(|place| {
        let key = place.key.as_deref().unwrap_or("unknown");
        format!("  segment {:016x} offset {}: {}, key {key}", place.segment, place.offset, place.damage)
    }));
    let listed = report.places.len() as u64 + u64::from(report.snapshot == Some(false));
    if listed < report.damaged {
        lines.push(format!("  and {} more", report.damaged - listed));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunks::fsck::DamagedPlace;

    #[test]
    fn a_report_names_the_places_it_lists_and_counts_the_others() {
        let clean =
            FsckReport { segments: 2, records: 7, bytes: 4_200_000, snapshot: Some(true), ..Default::default() };
        assert_eq!(
            lines(&clean),
            [
                "segments  2",
                "records   7 good, 4.2 MB",
                "index     whole",
                "torn      0 B at the end, never promised",
                "damaged   0"
            ]
        );
        let place = DamagedPlace { segment: 26, offset: 640, damage: "Body".into(), key: Some("ab".into()) };
        let damaged = FsckReport { damaged: 5, snapshot: Some(false), places: vec![place], ..clean };
        let text = lines(&damaged).join("\n");
        assert!(text.contains("index     damaged"), "{text}");
        assert!(text.contains("  segment 000000000000001a offset 640: Body, key ab\n  and 3 more"), "{text}");
    }
}
