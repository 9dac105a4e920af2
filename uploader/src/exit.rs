//! What a failed command tells: an exit code to script against and three short lines to act on. It prints nothing.

use std::io;

use shoal_client::client::{ConnectError, Failure, RetrieveError, UploadError, with_causes};

/// The table in `--help`: every exit code there is.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0  done                             13  fewer shards left than needed
    1  anything else                    14  bytes do not verify
    2  the command cannot mean that     15  no space
    3  done in part: see the report     16  fewer nodes than the code needs
   10  not found                        17  nobody could be reached
   11  nodes are busy                   18  not allowed
   12  wrong password or key           130  interrupted";

/// Why a command failed: what happened, the likely cause, what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) failure: Failure,
    pub(crate) what: String,
    pub(crate) cause: String,
    pub(crate) next: String,
}

impl Problem {
    pub(crate) fn new(
        failure: Failure,
        what: impl Into<String>,
        cause: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { failure, what: what.into(), cause: cause.into(), next: next.into() }
    }

    /// The command cannot mean what it says.
    pub(crate) fn usage(what: impl Into<String>, cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Failure::Usage, what, cause, next)
    }

    /// Ctrl-C.
    pub(crate) fn interrupted() -> Self {
        Self::new(
            Failure::Interrupted,
            "interrupted",
            "the command was stopped before it was done; no partial output was left",
            "repeat the command",
        )
    }

    /// The three lines, without a newline at the end.
    pub(crate) fn text(&self) -> String {
        format!("error: {}\n  why: {}\n  try: {}", self.what, self.cause, self.next)
    }
}

/// What an error of the local file system means for the exit code.
pub(crate) fn failure_of_io(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => Failure::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::Quota,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Failure::Denied,
        _ => Failure::Other,
    }
}

const PEERS: &str = "pass --peer /ip4/ADDRESS/tcp/PORT of a node of this network, or set SHOAL_PEERS";

impl From<ConnectError> for Problem {
    fn from(error: ConnectError) -> Self {
        let (cause, next) = match error {
            ConnectError::NoPeers => ("none was given, remembered, or named by the capability", PEERS),
            ConnectError::NobodyAnswered { .. } => {
                ("the addresses are wrong, the nodes are down, or they are of another network", PEERS)
            }
        };
        Self::new(Failure::Network, error.to_string(), cause, next)
    }
}

impl From<UploadError> for Problem {
    fn from(error: UploadError) -> Self {
        let failure = error.failure();
        let (cause, next) = match &error {
            UploadError::Connect(_) => ("no node of this network could be asked", PEERS),
            UploadError::Source { .. } => {
                ("it vanished, changed or is not readable by you", "check the path and repeat")
            }
            UploadError::Path(..) => {
                ("stored paths are relative, up to 4096 bytes, links up to 4096", "rename it and repeat")
            }
            UploadError::TooLarge(_) => ("one upload has an upper bound of shards and records", "upload it in parts"),
            UploadError::Seal(_) => ("memory is short, or the cipher is not supported here", "free 64 MiB and repeat"),
            UploadError::Placement(_) => (
                "every shard of a segment needs a node of its own",
                "add nodes, or choose a smaller code such as --code 1+1",
            ),
            UploadError::TooFewHolders { .. } | UploadError::Records { .. } => of_nodes(failure),
            UploadError::Interrupted => ("the upload was stopped", "repeat the command"),
        };
        Self::new(failure, with_causes(&error), cause, next)
    }
}

/// Cause and next step where nodes refused.
const fn of_nodes(failure: Failure) -> (&'static str, &'static str) {
    match failure {
        Failure::Denied => (
            "the nodes do not know this identity as a member",
            "have the id that `shoal id` prints allowed on the nodes, and repeat",
        ),
        Failure::Quota => ("the nodes have no room left", "add room or nodes, and repeat"),
        Failure::Busy => ("the nodes are overloaded", "wait a minute and repeat"),
        _ => ("nodes went away or refused", "repeat; with --dry-run you see who is there"),
    }
}

impl From<RetrieveError> for Problem {
    fn from(error: RetrieveError) -> Self {
        let mut failure = error.failure();
        let (cause, next) = match &error {
            RetrieveError::Connect(_) => ("no node of this network could be asked", PEERS),
            RetrieveError::OtherNetwork { .. } => {
                ("the capability was made in another network", "name that network with --network and --genesis")
            }
            RetrieveError::NoRecord { .. } => (
                "its holders are down, its lease ended, or these nodes are of another part of the swarm",
                "repeat with --peer of another node",
            ),
            RetrieveError::WrongPassword => ("it differs from the one of the upload", "repeat with the right password"),
            RetrieveError::PasswordNeeded => {
                ("a shoal1 capability or manifest needs its password", "use --password-file or SHOAL_PASSWORD")
            }
            RetrieveError::CannotRead => {
                ("a shoalv1 capability holds no key to the content", "use shoal1 with the password, or shoalr1")
            }
            RetrieveError::Integrity(_) => (
                "a node or disk changed bytes, or the capability is not for this file",
                "run `shoal shards` to see where",
            ),
            RetrieveError::TooFewShards { .. } => (
                "too many holders are gone at the same time",
                "run `shoal shards` to see which, bring nodes back, and repeat",
            ),
            RetrieveError::NoEntry(_) => ("the upload holds no file of that path", "run `shoal ls` for the paths"),
            RetrieveError::Range { .. } => {
                ("--range A-B is bytes A up to but not including B", "run `shoal ls` for the size")
            }
            RetrieveError::Output(cause) => {
                failure = match (cause.kind(), failure_of_io(cause)) {
                    (io::ErrorKind::InvalidData, _) => Failure::Integrity,
                    (_, Failure::NotFound) => Failure::Other,
                    (_, other) => other,
                };
                if failure == Failure::Integrity {
                    ("the upload contradicts itself: a hostile or broken program made it", "do not use this upload")
                } else {
                    ("the disk is full or the place is not writable", "free space or name another --out")
                }
            }
            RetrieveError::Interrupted => ("the retrieval was stopped", "repeat the command"),
        };
        Self::new(failure, with_causes(&error), cause, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_documented_ones_and_all_are_in_the_table() {
        let table = [
            (Failure::Other, 1),
            (Failure::Usage, 2),
            (Failure::Partial, 3),
            (Failure::NotFound, 10),
            (Failure::Busy, 11),
            (Failure::Password, 12),
            (Failure::TooFewShards, 13),
            (Failure::Integrity, 14),
            (Failure::Quota, 15),
            (Failure::TooFewNodes, 16),
            (Failure::Network, 17),
            (Failure::Denied, 18),
            (Failure::Interrupted, 130),
        ];
        for (failure, code) in table {
            assert_eq!(failure.code(), code);
            let listed = EXIT_CODES.split_whitespace().any(|word| word == code.to_string());
            assert!(listed, "{code} is not in the help");
        }
    }

    #[test]
    fn problems_have_three_lines() {
        let problems = [
            Problem::from(RetrieveError::WrongPassword),
            Problem::from(ConnectError::NoPeers),
            Problem::from(UploadError::TooFewHolders { have: 1, need: 3, failures: vec![] }),
            Problem::interrupted(),
        ];
        for problem in problems {
            let text = problem.text();
            assert_eq!(text.lines().count(), 3, "{text}");
            assert!(text.starts_with("error: "));
        }
        assert_eq!(Problem::from(RetrieveError::WrongPassword).failure, Failure::Password);
    }

    #[test]
    fn a_full_disk_is_no_space() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Problem::from(RetrieveError::Output(full())).failure, Failure::Quota);
        let odd = io::Error::from(io::ErrorKind::InvalidData);
        assert_eq!(Problem::from(RetrieveError::Output(odd)).failure, Failure::Integrity);
        let gone = UploadError::Source { path: "x".into(), cause: io::ErrorKind::NotFound.into() };
        assert_eq!(Problem::from(gone).failure, Failure::NotFound);
    }
}
