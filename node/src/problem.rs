//! What a user is told when something fails: what happened, the likely cause, the next command; and the exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// Kinds of failure with their documented exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Anything else.
    Other = 1,
    /// The command or configuration cannot mean what it says.
    Usage = 2,
    /// What was asked for is not there.
    NotFound = 10,
    /// The network refuses: an address in use, say.
    Network = 17,
    /// The system refuses: permissions, a directory in use.
    Denied = 18,
}

impl Failure {
    /// Whether the system refused or failed.
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied,
            _ => Self::Other,
        }
    }
}

/// One failure in three lines.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) failure: Failure,
    what: String,
    cause: String,
    next: String,
}

impl Problem {
    pub(crate) fn new(failure: Failure, what: impl fmt::Display, cause: &str, next: &str) -> Self {
        Self { failure, what: what.to_string(), cause: cause.to_owned(), next: next.to_owned() }
    }

    /// The process exit code.
    pub(crate) fn exit(&self) -> ExitCode {
        ExitCode::from(self.failure as u8)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.what)?;
        writeln!(f, "  why: {}", self.cause)?;
        write!(f, "  try: {}", self.next)
    }
}

/// The error and its sources in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
