//! What a command says when it is done: one JSON object for programs, or text for people. Never both on stdout.

use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};
use shoal_client::client::Failure;
use shoal_protocol::UnixMillis;

use crate::exit::Problem;
use crate::output::{OutputError, write_private};

/// What a command that ran to its end says.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Done, but not as wished: 3, 13, 15, 16 or 17.
    pub(crate) shortfall: Option<Failure>,
    /// For programs.
    pub(crate) details: Value,
    /// The result, on stdout.
    pub(crate) stdout: String,
    /// For people, on stderr; left out with --quiet.
    pub(crate) summary: Vec<String>,
    /// For people, on stderr, always.
    pub(crate) warnings: Vec<String>,
}

/// Where reports go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reporting<'a> {
    pub(crate) operation: &'a str,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) report_out: Option<&'a Path>,
}

/// The wall clock.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The one JSON object of a command.
#[derive(Debug, Serialize)]
struct Report<'a> {
    operation: &'a str,
    ok: bool,
    exit: u8,
    timestamp_ms: u64,
    details: Value,
}

impl<'a> Report<'a> {
    const fn new(operation: &'a str, exit: u8, timestamp: UnixMillis, details: Value) -> Self {
        Self { operation, ok: exit == 0, exit, timestamp_ms: timestamp.0, details }
    }

    /// On one line for a pipe, on several for a file.
    fn text(&self, lines: bool) -> String {
        let text = if lines { serde_json::to_string_pretty(self) } else { serde_json::to_string(self) };
        text.unwrap_or_default() + "\n"
    }
}

/// Details of a failure.
fn failure_details(problem: &Problem) -> Value {
    json!({ "error": problem.what, "cause": problem.cause, "next": problem.next })
}

impl Reporting<'_> {
    /// Prints and writes everything; the exit code. A reader who closed stdout is no error.
    pub(crate) fn finish(self, result: Result<Outcome, Problem>) -> u8 {
        let (mut exit, details, stdout) = match result {
            Ok(outcome) => {
                let lines = outcome.summary.iter().filter(|_| !self.quiet && !self.json);
                let warnings = outcome.warnings.iter().map(|warning| format!("warning: {warning}"));
                for line in warnings.chain(lines.cloned()) {
                    to_stderr(&line);
                }
                (outcome.shortfall.map_or(0, Failure::code), outcome.details, outcome.stdout)
            }
            Err(problem) => {
                to_stderr(&problem.text());
                (problem.failure.code(), failure_details(&problem), String::new())
            }
        };
        let report = Report::new(self.operation, exit, now(), details);
        if let Some(path) = self.report_out
            && let Err(error) = write_report(path, &report)
        {
            to_stderr(&Problem::from(error).text());
            exit = if exit == 0 { Failure::Other.code() } else { exit };
        }
        let text = if self.json { report.text(false) } else { stdout };
        match io::stdout().lock().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe && exit == 0 => Failure::Other.code(),
            _ => exit,
        }
    }
}

fn write_report(path: &Path, report: &Report<'_>) -> Result<(), OutputError> {
    write_private(path, report.text(true).as_bytes())
}

/// A line on stderr; nobody there to read it is no error.
pub(crate) fn to_stderr(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_five_members() {
        let text = Report::new("upload", 3, UnixMillis(7), json!({ "capability": "shoal1x" })).text(false);
        let again: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(again.as_object().unwrap().len(), 5);
        assert_eq!((&again["operation"], &again["ok"], &again["exit"]), (&json!("upload"), &json!(false), &json!(3)));
        assert_eq!((&again["timestamp_ms"], &again["details"]["capability"]), (&json!(7), &json!("shoal1x")));
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with(r#"{"operation":"upload","ok":false,"exit":3,"timestamp_ms":7,"details":"#), "{text}");
        let done = Report::new("ls", 0, UnixMillis(0), Value::Null);
        assert!(done.ok && done.text(true).lines().count() > 1);
    }

    #[test]
    fn failures_and_shortfalls_decide_the_exit_code() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("r.json");
        let reporting = Reporting { operation: "ls", json: false, quiet: true, report_out: Some(&path) };
        let written = || serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(reporting.finish(Err(Problem::usage("a", "b", "c"))), 2);
        assert_eq!(written()["details"], json!({ "error": "a", "cause": "b", "next": "c" }));
        let partial = Outcome { shortfall: Some(Failure::Partial), ..Outcome::default() };
        assert_eq!(reporting.finish(Ok(partial)), 3);
        assert_eq!((&written()["exit"], &written()["ok"]), (&json!(3), &json!(false)));
        assert_eq!(reporting.finish(Ok(Outcome::default())), 0);
        let nowhere = Path::new("/nonexistent/r.json");
        assert_eq!(Reporting { report_out: Some(nowhere), ..reporting }.finish(Ok(Outcome::default())), 1);
    }
}
