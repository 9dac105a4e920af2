//! What programs of one machine say to a running node on its control socket: one request and one answer a connection,
//! each a frame of JSON. It is text for tools and people, never on the wire, and no socket is opened here.
//!
//! ```text
//! frame    = length u32 BE || JSON, length bytes of UTF-8
//! request  = {"version":1,"request":{"vpn.why":{"peer":"100.64.0.7"}}}
//! answer   = {"version":1,"ok":..} or {"version":1,"error":{"code","what","why","try"}}
//! ```
//!
//! - [`request`]: what can be asked. [`view`]: what is answered about the private network.

pub mod request;
pub mod view;

use serde::{Deserialize, Serialize};

pub use request::{Envelope, ExitName, JobCommand, PeerName, PeerNameError, Request};

/// Name of the socket in the data directory of a node.
pub const SOCKET: &str = "control.sock";
/// The version of requests and answers. Another one is refused, never guessed at.
pub const VERSION: u64 = 1;
/// Bytes of the length before the JSON.
pub const PREFIX: usize = 4;
/// Longest request, bytes of JSON: the longest there is names a file in [`request::PATH_MAX`] bytes.
pub const REQUEST_MAX: usize = 4096;
/// Longest answer, bytes of JSON: [`view::ROWS_MAX`] routes with eight next hops each, at most 900 bytes a row.
pub const ANSWER_MAX: usize = 8 * 1024 * 1024;
/// Longest path of a unix socket that every system takes, bytes: the shortest field has 104 with the zero behind it. A
/// longer one is reached by its directory's descriptor.
pub const PATH_MAX: usize = 100;
/// How long a request may take to arrive, and an answer to leave, milliseconds.
pub const PATIENCE_MS: u64 = 5_000;
/// How long a node may work on one request, milliseconds: [`request::PINGS_MAX`] pings of a second, and 3 s for a
/// session to be made.
pub const WORK_MS: u64 = 20_000;

/// The frame's length is none that may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {length} bytes, where 1 to {max} may be")]
pub struct LengthError {
    /// What was said.
    pub length: u32,
    /// What may be.
    pub max: usize,
}

/// How many bytes follow these four.
///
/// # Errors
/// [`LengthError`] for none or more than `max`.
pub fn length(prefix: [u8; PREFIX], max: usize) -> Result<usize, LengthError> {
    let length = u32::from_be_bytes(prefix);
    let fits = usize::try_from(length).ok().filter(|bytes| (1..=max).contains(bytes));
    fits.ok_or(LengthError { length, max })
}

/// The JSON with its length before it; none if there is nothing, or more than `max` bytes.
#[must_use]
pub fn frame(json: &[u8], max: usize) -> Option<Vec<u8>> {
    let length = u32::try_from(json.len()).ok().filter(|_| (1..=max).contains(&json.len()))?;
    Some([&length.to_be_bytes()[..], json].concat())
}

/// An answer with its version. `T` is what the request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply<T> {
    /// [`VERSION`].
    pub version: u64,
    /// What is answered.
    #[serde(flatten)]
    pub answer: Answer<T>,
}

impl<T> Reply<T> {
    /// In the version of this program.
    #[must_use]
    pub const fn new(answer: Answer<T>) -> Self {
        Self { version: VERSION, answer }
    }
}

/// Whether it was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// It was.
    Ok(T),
    /// It was not.
    Error(Complaint),
}

/// Why something was not done: a word for programs and three lines for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    /// The kind.
    pub code: Code,
    /// What happened.
    pub what: String,
    /// The likely cause.
    pub why: String,
    /// What to do next.
    #[serde(rename = "try")]
    pub next: String,
}

impl Complaint {
    /// One of these words and lines.
    #[must_use]
    pub fn new(code: Code, what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: why.into(), next: next.into() }
    }

    /// Whether the same request may be answered later with nothing changed by hand.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(self.code, Code::Busy | Code::Late | Code::Unreachable)
    }
}

/// The kinds of complaints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// It is no request.
    Malformed,
    /// It is of another version.
    Version,
    /// It did not come in time.
    Late,
    /// The node has too much to do.
    Busy,
    /// What it is about is not there.
    NotFound,
    /// The node takes no part in a private network.
    NoVpn,
    /// It was to take part, and that failed.
    VpnFailed,
    /// There is no way to the peer, or no answer from it.
    Unreachable,
    /// The node will not, or the system does not let it.
    Refused,
    /// The answer is longer than one may be.
    TooLong,
    /// One this program does not know.
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_big_endian_and_bounded() {
        assert_eq!(frame(b"{}", 2), Some(vec![0, 0, 0, 2, b'{', b'}']));
        assert_eq!((frame(b"{}", 1), frame(b"", 9)), (None, None));
        assert_eq!(length([0, 0, 1, 2], 4096), Ok(258));
        assert_eq!(length([0, 0, 16, 0], 4096), Ok(4096));
        for bad in [[0; 4], [0, 0, 16, 1], [0xff; 4], *b"{\"ve"] {
            assert!(length(bad, 4096).is_err(), "{bad:?}");
        }
    }
}
