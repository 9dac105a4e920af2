//! Audits from the auditor's side: what to ask, how long an answer may take, whether it proves anything, and how it is
//! kept. Pure: it never sends, waits, reads a clock or draws randomness.
//!
//! Flow: [`pick`] and [`slices_for`] (what to ask) -> a question to a node -> [`judge`] (a [`Verdict`]) ->
//! [`Transcript`] (evidence that can be judged again).

mod deadline;
mod judge;
mod sample;
mod tokens;
mod transcript;

#[cfg(test)]
mod tests;

pub use deadline::{DISK_MS, FLOOR_BYTES_PER_SECOND, READ_BYTES_PER_SECOND, RTT_MAX_MS, RTTS, allowed_ms};
pub use judge::{Doubt, Lie, Outcome, Question, Timing, Verdict, judge, outcome_of};
pub use sample::{LEAVES_ASKED, SAMPLE_DEFAULT, pick, slices_for};
pub use tokens::{challenge, mint};
pub use transcript::{
    ENTRIES_MAX, Entry, TRANSCRIPT_FORMAT, TRANSCRIPT_MAX, Transcript, TranscriptBuilder, TranscriptError,
};
