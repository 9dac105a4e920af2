//! Bars on a terminal, one a stage. A bar is full only when the last receipt and record are in; it is never a result.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use shoal_client::client::UploadProgress;

const BAR: &str = "{prefix:<8} [{bar:30}] {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {msg}";
const SPINNER: &str = "{prefix:<8} {spinner} {bytes}  {bytes_per_sec}  {msg}";

/// Whether bars are shown: only to somebody who looks.
pub(crate) fn wanted(json: bool, quiet: bool) -> bool {
    !json && !quiet && io::stderr().is_terminal()
}

fn stages(shown: bool) -> MultiProgress {
    MultiProgress::with_draw_target(if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() })
}

fn bar(stages: &MultiProgress, prefix: &'static str, total: Option<u64>) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let style = ProgressStyle::with_template(if total.is_some() { BAR } else { SPINNER });
    let bar = stages.add(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
    bar.set_prefix(prefix);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Seal and store of an upload.
#[derive(Debug)]
pub(crate) struct UploadBars {
    total: Option<u64>,
    sealed: ProgressBar,
    stored: ProgressBar,
}

impl UploadBars {
    /// Bars for `total` bytes, where known.
    pub(crate) fn new(shown: bool, total: Option<u64>) -> Self {
        let stages = stages(shown);
        // One byte more than there is: it counts when the records are in.
        let stored = bar(&stages, "stored", total.map(|total| total.saturating_add(1)));
        Self { total, sealed: bar(&stages, "sealed", total), stored }
    }

    /// Something moved.
    pub(crate) fn on(&self, progress: UploadProgress) {
        let within = |bar: &ProgressBar, more: u64| {
            let at = bar.position().saturating_add(more);
            bar.set_position(self.total.map_or(at, |total| at.min(total)));
        };
        match progress {
            UploadProgress::Sealed { plain } => within(&self.sealed, plain),
            UploadProgress::Receipted { plain } => within(&self.stored, plain),
            UploadProgress::Records => {
                self.sealed.finish();
                self.stored.set_message("records");
            }
            UploadProgress::Sent { .. } => {}
        }
    }

    /// All is receipted.
    pub(crate) fn done(&self) {
        self.stored.set_message("");
        self.stored.finish();
    }
}

impl Drop for UploadBars {
    fn drop(&mut self) {
        for bar in [&self.sealed, &self.stored] {
            if !bar.is_finished() {
                bar.abandon();
            }
        }
    }
}

/// A retrieval.
#[derive(Debug)]
pub(crate) struct ReadBar(ProgressBar);

impl ReadBar {
    /// A bar for `total` bytes of content.
    pub(crate) fn new(shown: bool, total: u64) -> Self {
        Self(bar(&stages(shown), "read", Some(total)))
    }

    /// Bytes came.
    pub(crate) fn on(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// All is where it should be.
    pub(crate) fn done(&self) {
        self.0.finish();
    }
}

impl Drop for ReadBar {
    fn drop(&mut self) {
        if !self.0.is_finished() {
            self.0.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_only_when_receipts_and_records_are_in() {
        let bars = UploadBars::new(false, Some(1000));
        bars.on(UploadProgress::Sealed { plain: 1024 });
        bars.on(UploadProgress::Sent { bytes: 4096 });
        assert_eq!((bars.sealed.position(), bars.stored.position()), (1000, 0));
        bars.on(UploadProgress::Receipted { plain: 1024 });
        bars.on(UploadProgress::Records);
        assert!(bars.stored.position() < bars.stored.length().unwrap() && !bars.stored.is_finished());
        bars.done();
        assert_eq!(bars.stored.position(), bars.stored.length().unwrap());
    }

    #[test]
    fn unknown_totals_count_up() {
        let bars = UploadBars::new(false, None);
        bars.on(UploadProgress::Receipted { plain: 5 });
        bars.on(UploadProgress::Receipted { plain: 6 });
        assert_eq!(bars.stored.position(), 11);
    }

    #[test]
    fn json_and_quiet_show_nothing() {
        assert!(!wanted(true, false) && !wanted(false, true));
    }
}
