//! The node of this machine: where its control socket is, and one question to it. It starts no node, and changes nothing
//! of one.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use shoal_client::client::Failure;
use shoal_protocol::local::{
    ANSWER_MAX, Answer, Code, Complaint, Envelope, PATH_MAX, PATIENCE_MS, PREFIX, REQUEST_MAX, Reply, Request, SOCKET,
    WORK_MS, frame, length,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::exit::Problem;
use crate::output::parent;

/// How long an answer is waited for: the node's time to read, to work and to write, and as long for those before.
const PATIENCE: Duration = Duration::from_millis(2 * (2 * PATIENCE_MS + WORK_MS));
/// Where `shoald` keeps its node when it is run by root.
const OF_ROOT: &str = "/var/lib/shoal";
const START: &str = "start it with `shoald run`, or name its directory with --node or SHOAL_NODE";

/// A node of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalNode {
    socket: PathBuf,
    /// Which of its networks is asked about; the main one, or the only one, where none is named.
    network: Option<String>,
}

impl LocalNode {
    /// The one named, else that of SHOAL_NODE, else the one where `shoald` keeps it by itself.
    ///
    /// # Errors
    /// If nothing says where that is.
    pub(crate) fn find(named: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Problem> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let place = named.map(Path::to_path_buf).or_else(|| set("SHOAL_NODE"));
        let place = match place {
            Some(place) => place,
            None if rustix::process::geteuid().is_root() => PathBuf::from(OF_ROOT),
            None => set("XDG_DATA_HOME")
                .or_else(|| set("HOME").map(|home| home.join(".local/share")))
                .map(|base| base.join("shoal"))
                .ok_or_else(|| {
                    let cause = "neither SHOAL_NODE, XDG_DATA_HOME nor HOME is set";
                    Problem::usage("there is no default place of a node", cause, "pass --node DIR")
                })?,
        };
        let socket = if place.is_dir() { place.join(SOCKET) } else { place };
        Ok(Self { socket, network: None })
    }

    /// The same, to be asked about its network of this name.
    pub(crate) fn about(self, network: Option<String>) -> Self {
        Self { network, ..self }
    }

    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// What the user is told: nobody there, no right to ask, or what the node complains of.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, request: Request) -> Result<T, Problem> {
        let answer = timeout(PATIENCE, self.converse(request)).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", PATIENCE.as_secs())))
        });
        let json = answer.map_err(|error| self.unreachable(&error))?;
        match serde_json::from_slice(&json) {
            Ok(Reply { answer: Answer::Ok(told), .. }) => Ok(told),
            Ok(Reply { answer: Answer::Error(complaint), .. }) => Err(complaint.into()),
            Err(_) => {
                let what = format!("the answer from {} makes no sense", self.socket.display());
                let cause = "the node is of another release than this program";
                Err(Problem::new(Failure::Other, what, cause, "use the shoal that came with the shoald that runs"))
            }
        }
    }

    async fn converse(&self, request: Request) -> io::Result<Vec<u8>> {
        let (mut stream, _directory) = self.connect().await?;
        let json = serde_json::to_vec(&Envelope::of(self.network.clone(), request))?;
        stream.write_all(&frame(&json, REQUEST_MAX).ok_or(io::ErrorKind::InvalidInput)?).await?;
        let mut prefix = [0; PREFIX];
        stream.read_exact(&mut prefix).await?;
        let length = length(prefix, ANSWER_MAX).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut answer = Vec::new();
        // It grows by what comes, not by what was said.
        stream.take(length as u64).read_to_end(&mut answer).await?;
        if answer.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
    }

    /// A path too long for the system is reached by its directory's descriptor, which is kept meanwhile.
    async fn connect(&self) -> io::Result<(UnixStream, Option<File>)> {
        if self.socket.as_os_str().len() <= PATH_MAX {
            return Ok((UnixStream::connect(&self.socket).await?, None));
        }
        let directory = File::open(parent(&self.socket))?;
        let name = self.socket.file_name().ok_or(io::ErrorKind::NotFound)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        Ok((UnixStream::connect(path).await?, Some(directory)))
    }

    fn unreachable(&self, error: &io::Error) -> Problem {
        let place = self.socket.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let cause = "no shoald runs there, or it keeps its data elsewhere";
                Problem::new(Failure::Network, format!("no node answers at {place}"), cause, START)
            }
            io::ErrorKind::PermissionDenied => {
                let what = format!("cannot ask the node at {place}: {error}");
                Problem::new(
                    Failure::Denied,
                    what,
                    "the node belongs to somebody else",
                    "repeat as its owner or as root",
                )
            }
            _ => {
                let what = format!("cannot ask the node at {place}: {error}");
                let cause = "it is starting, ending or overloaded, or this is no control socket";
                Problem::new(Failure::Network, what, cause, "wait a moment and repeat")
            }
        }
    }
}

impl From<Complaint> for Problem {
    fn from(complaint: Complaint) -> Self {
        let failure = match complaint.code {
            Code::NotFound | Code::NoVpn => Failure::NotFound,
            Code::Busy | Code::Late => Failure::Busy,
            Code::Unreachable => Failure::Network,
            Code::Refused => Failure::Denied,
            Code::Malformed | Code::Version | Code::VpnFailed | Code::TooLong | Code::Other => Failure::Other,
        };
        Self::new(failure, complaint.what, complaint.why, complaint.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    fn at(socket: &Path) -> LocalNode {
        LocalNode { socket: socket.to_path_buf(), network: None }
    }

    /// Answers one question with these bytes.
    fn node(socket: &Path, answer: Vec<u8>) -> std::thread::JoinHandle<String> {
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut prefix = [0; PREFIX];
            stream.read_exact(&mut prefix).unwrap();
            let mut json = vec![0; u32::from_be_bytes(prefix) as usize];
            stream.read_exact(&mut json).unwrap();
            stream.write_all(&answer).unwrap();
            String::from_utf8(json).unwrap()
        })
    }

    async fn answered(answer: Vec<u8>) -> Result<u8, Problem> {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join(SOCKET);
        let node = node(&socket, answer);
        let result = at(&socket).ask(Request::VpnStats {}).await;
        assert_eq!(node.join().unwrap(), r#"{"version":1,"request":{"vpn.stats":{}}}"#);
        result
    }

    fn framed(json: &str) -> Vec<u8> {
        frame(json.as_bytes(), ANSWER_MAX).unwrap()
    }

    #[test]
    fn it_is_found_where_it_is_named_and_where_shoald_keeps_it() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join(SOCKET);
        let of = |set: &'static str, value: PathBuf| move |name: &str| (name == set).then(|| value.clone().into());
        let nothing = |_: &str| None;
        assert_eq!(LocalNode::find(Some(place.path()), nothing).unwrap(), at(&socket));
        assert_eq!(LocalNode::find(Some(&socket), nothing).unwrap(), at(&socket));
        assert_eq!(LocalNode::find(None, of("SHOAL_NODE", place.path().into())).unwrap(), at(&socket));
        let named = LocalNode::find(Some(Path::new("/x")), of("SHOAL_NODE", place.path().into())).unwrap();
        assert_eq!(named, at(Path::new("/x")));
        let default = LocalNode::find(None, of("XDG_DATA_HOME", place.path().into())).unwrap();
        let expected = if rustix::process::geteuid().is_root() { OF_ROOT.into() } else { place.path().join("shoal") };
        assert!(default.socket.starts_with(expected), "{default:?}");
    }

    #[tokio::test]
    async fn who_is_not_there_or_speaks_nonsense_is_told_in_three_lines() {
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join(SOCKET);
        let nobody = at(&socket).ask::<u8>(Request::VpnStatus {}).await.unwrap_err();
        assert_eq!((nobody.failure, nobody.text().lines().count()), (Failure::Network, 3));
        drop(UnixListener::bind(&socket).unwrap());
        let dead = at(&socket).ask::<u8>(Request::VpnStatus {}).await.unwrap_err();
        assert_eq!((dead.failure, dead.failure.code()), (Failure::Network, 17));
        assert_eq!(answered(framed(r#"{"version":1,"ok":7}"#)).await, Ok(7));
        let cut = framed(r#"{"version":1,"ok":7}"#)[..12].to_vec();
        let huge = [&[0xff; 4][..], b"{}"].concat();
        for (nonsense, failure) in [
            (framed("{}"), Failure::Other),
            (framed(r#"{"version":1,"ok":"x"}"#), Failure::Other),
            (vec![], Failure::Network),
            (cut, Failure::Network),
            (huge, Failure::Network),
        ] {
            assert_eq!(answered(nonsense).await.unwrap_err().failure, failure);
        }
    }

    #[tokio::test]
    async fn complaints_keep_their_lines_and_have_documented_codes() {
        for (code, exit) in [
            ("malformed", 1),
            ("version", 1),
            ("late", 11),
            ("busy", 11),
            ("not-found", 10),
            ("no-vpn", 10),
            ("vpn-failed", 1),
            ("unreachable", 17),
            ("too-long", 1),
            ("of-a-later-release", 1),
        ] {
            let json = format!(r#"{{"version":1,"error":{{"code":"{code}","what":"a","why":"b","try":"c"}}}}"#);
            let problem = answered(framed(&json)).await.unwrap_err();
            assert_eq!((problem.failure.code(), problem.text().as_str()), (exit, "error: a\n  why: b\n  try: c"));
        }
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_is_reached_all_the_same() {
        let place = tempfile::tempdir().unwrap();
        let deep = place.path().join("long".repeat(40));
        std::fs::create_dir(&deep).unwrap();
        let directory = File::open(&deep).unwrap();
        let short = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
        let node = node(&short, framed(r#"{"version":1,"ok":9}"#));
        assert_eq!(LocalNode::find(Some(&deep), |_| None).unwrap().ask(Request::VpnStatus {}).await, Ok(9));
        node.join().unwrap();
    }
}
