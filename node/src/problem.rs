//! What a user is told when something fails: what happened, the likely cause, the next command; and the exit code.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::chunks::OpenError;

/// Kinds of failure with their documented exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Anything else.
    Other = 1,
    /// The command or configuration cannot mean what it says.
    Usage = 2,
    /// What was asked for is not there.
    NotFound = 10,
    /// Stored bytes are damaged.
    Integrity = 14,
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

    /// The same, about one thing of several.
    pub(crate) fn about(mut self, whom: &str) -> Self {
        self.what = format!("{whom}: {}", self.what);
        self
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

impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        let what = with_causes(&error);
        let (failure, cause, next) = match error {
            OpenError::Locked(_) => {
                let cause = "another shoald runs on this directory";
                (Failure::Denied, cause, "stop it, or pass another --data-dir")
            }
            OpenError::Io { ref source, .. } => {
                let cause = "permissions, or a disk that is full or broken";
                (Failure::of(source), cause, "check --data-dir, its owner and the space on its disk")
            }
            OpenError::Newer { .. } => {
                (Failure::Other, "this shoald is older than the one before", "run the newer one")
            }
            OpenError::Missing(_) => (
                Failure::Denied,
                "the disk of the segments is not mounted, or they were removed",
                "mount it, or bring them back; if they are lost for good, begin anew with another --data-dir",
            ),
            OpenError::Foreign(_) => (
                Failure::Denied,
                "another store's disk is mounted here, or another node's files were copied here",
                "mount the disk of this node, or pass the --data-dir these files belong to",
            ),
            OpenError::MarkerDamaged(_) => (
                Failure::Other,
                "the disk changed bytes, or the file was edited",
                "check the disk, and bring the file back from a copy of this directory",
            ),
            OpenError::Quota(_) => {
                (Failure::Usage, "a node needs room for its largest shard and a reserve", "offer at least 8 MiB")
            }
            OpenError::Thread(_) => (Failure::Other, "the system is out of threads", "free some, and repeat"),
            OpenError::KeyMissing(_) | OpenError::KeyDamaged(_) => (
                Failure::Other,
                "files of the store were changed, lost or copied from another node",
                "bring the directory back as it was, or begin anew with another --data-dir",
            ),
        };
        Self::new(failure, what, cause, next)
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
