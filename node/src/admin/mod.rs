//! The administration socket of a running node: `control.sock` in its data directory, where programs of its owner on
//! this machine ask how the store is and tell its jobs what to do. It never opens a store, touches a shard or speaks to
//! the network, and whoever is not the owner is not answered.
//!
//! One connection carries one request and one answer, each a line of JSON of at most 64 KiB:
//!
//! | request | answer |
//! |---|---|
//! | `{"status":{}}` | `{"ok":{..}}`, the status of the store, and what was refused by its word |
//! | `{"job":{"name":"scrub","command":"start"}}`; also `pause`, `resume`, `cancel`, `{"speed":4}` | `{"ok":null}` |
//! | anything else | `{"error":"text"}` |
//!
//! Started by [`crate::node::Node::start`], ended by its shutdown; lost then are requests under way, and none of them
//! changes what is stored.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::chunks::workers::Command;
use crate::chunks::{Store, StoreStatus};

/// Name of the socket in the data directory.
pub(crate) const SOCKET: &str = "control.sock";
/// Longest request and longest answer, bytes: a status has less than 4 KiB.
pub(crate) const LINE_MAX: usize = 64 * 1024;
/// How long a request may take to arrive, and an answer to leave.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at a time; others wait in the queue of the system.
const CONNECTIONS_MAX: usize = 16;
/// Before the next attempt when the system gives no connection, out of descriptors for example.
const AFTER_FAILURE: Duration = Duration::from_millis(200);
/// Longest address of a socket every system takes: the shortest has 104 bytes with the zero behind it.
const ADDRESS_MAX: usize = 100;
/// Characters of an error that are told: it may quote what was sent.
const ERROR_MAX: usize = 300;

/// What can be asked of a running node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// How the store is.
    Status {},
    /// A command for a job of the store.
    Job {
        /// Which job.
        name: String,
        /// What it is to do.
        command: Command,
    },
}

/// What a running node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It was done; the status if that was asked for.
    Ok(Option<Box<NodeStatus>>),
    /// It was not done, and why.
    Error(String),
}

/// A node at one moment: its store, and what it refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeStatus {
    /// The store.
    #[serde(flatten)]
    pub(crate) store: StoreStatus,
    /// Refusals since the start by their word, those that never happened left out; empty of a stopped node.
    #[serde(default)]
    pub(crate) refused: BTreeMap<String, u64>,
}

/// What was refused since the start, by its word.
pub(crate) type Refusals = Arc<dyn Fn() -> BTreeMap<String, u64> + Send + Sync>;

/// An address of the socket that the system takes, however long the path of the directory is.
#[derive(Debug)]
pub(crate) struct Address {
    path: PathBuf,
    /// The directory by its descriptor, which a long path is replaced by.
    _directory: Option<File>,
}

impl Address {
    /// Of the socket in `data`.
    ///
    /// # Errors
    /// The system's, if the directory does not open.
    pub(crate) fn new(data: &Path) -> io::Result<Self> {
        let path = data.join(SOCKET);
        if path.as_os_str().len() <= ADDRESS_MAX {
            return Ok(Self { path, _directory: None });
        }
        let directory = File::open(data)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
        Ok(Self { path, _directory: Some(directory) })
    }

    /// Where to connect.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The socket of a running node. Dropping it stops nothing: see [`Self::stop`].
#[derive(Debug)]
pub(crate) struct Admin {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Admin {
    /// Binds the socket and serves it. The caller has the store's lock: a socket found here is a dead node's and goes.
    ///
    /// # Errors
    /// The system's, or that something else has the name.
    pub(crate) fn start(data: &Path, store: Store, refusals: Refusals) -> io::Result<Self> {
        let path = data.join(SOCKET);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(&path)?,
            Ok(_) => return Err(io::Error::other("something that is no socket has its name")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(Address::new(data)?.path())?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self { path, task: tokio::spawn(serve(listener, store, refusals)) })
    }

    /// Ends serving and removes the socket. The caller still has the store's lock, so it is no other node's.
    pub(crate) fn stop(self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve(listener: UnixListener, store: Store, refusals: Refusals) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let (store, refusals) = (store.clone(), Arc::clone(&refusals));
                connections.spawn(async move {
                    if let Err(error) = converse(stream, &store, &refusals).await {
                        tracing::debug!(%error, "an administration connection failed");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the administration socket gives no connection");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// Reads one request, answers it, closes.
async fn converse(mut stream: UnixStream, store: &Store, refusals: &Refusals) -> io::Result<()> {
    // The mode of the socket says the same, but not between its creation and its change.
    let user = stream.peer_cred()?.uid();
    if user != 0 && user != rustix::process::geteuid().as_raw() {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    let (reader, mut writer) = stream.split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(LINE_MAX as u64 + 1));
    let answer = match timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await {
        Ok(read) => {
            read?;
            parse(&line).map_or_else(Answer::Error, |request| act(request, store, refusals))
        }
        Err(_) => Answer::Error(format!("no whole line came within {} s", PATIENCE.as_secs())),
    };
    timeout(PATIENCE, writer.write_all(&encode(&answer))).await?
}

pub(crate) fn parse(line: &[u8]) -> Result<Request, String> {
    if line.len() > LINE_MAX {
        return Err(format!("the request has more than {LINE_MAX} bytes"));
    }
    let wrong = |error: serde_json::Error| format!("not a request: {error}").chars().take(ERROR_MAX).collect();
    serde_json::from_slice(line).map_err(wrong)
}

fn act(request: Request, store: &Store, refusals: &Refusals) -> Answer {
    match request {
        Request::Status {} => Answer::Ok(Some(Box::new(NodeStatus { store: store.status(), refused: refusals() }))),
        Request::Job { name, command } => match store.command(&name, command) {
            Ok(()) => {
                tracing::info!(name, ?command, "a job was told");
                Answer::Ok(None)
            }
            Err(error) => Answer::Error(error.to_string().chars().take(ERROR_MAX).collect()),
        },
    }
}

fn encode(answer: &Answer) -> Vec<u8> {
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    if line.is_empty() || line.len() >= LINE_MAX {
        line = br#"{"error":"the answer is too long"}"#.to_vec();
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunks::StoreConfig;
    use crate::chunks::vfs_os::OsVfs;
    use std::io::{BufRead, Read, Write};
    use std::os::unix::net::UnixStream as Client;
    use std::time::Instant;

    #[test]
    fn requests_read_in_their_only_form() {
        let job = |command| Request::Job { name: "scrub".into(), command };
        for (text, request) in [
            (r#"{"status":{}}"#, Request::Status {}),
            (r#"{"job":{"name":"scrub","command":"start"}}"#, job(Command::Start)),
            (r#"{"job":{"name":"scrub","command":"pause"}}"#, job(Command::Pause)),
            (r#"{"job":{"name":"scrub","command":"resume"}}"#, job(Command::Resume)),
            (r#"{"job":{"name":"scrub","command":"cancel"}}"#, job(Command::Cancel)),
            (r#"{"job":{"name":"scrub","command":{"speed":7}}}"#, job(Command::Speed(7))),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(request.clone()), "{text}");
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
        }
    }

    #[test]
    fn anything_else_is_refused_with_a_short_text() {
        let deep = "[".repeat(60_000);
        let unknown = format!("{{\"{}\":{{}}}}", "x".repeat(5_000));
        let long = format!("{{\"status\":{{}}}}{}", " ".repeat(LINE_MAX));
        for text in [
            "",
            "\n",
            "fish",
            "{}",
            "null",
            "\"status\"",
            r#"{"status":{"a":1}}"#,
            r#"{"status":{}} {"status":{}}"#,
            r#"{"status":{},"job":{}}"#,
            r#"{"job":{"name":"scrub"}}"#,
            r#"{"job":{"name":"scrub","command":"explode"}}"#,
            r#"{"job":{"name":"scrub","command":{"speed":-1}}}"#,
            r#"{"job":{"name":"scrub","command":"start","now":true}}"#,
            &deep,
            &unknown,
            &long,
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.chars().count() <= ERROR_MAX, "{error}");
        }
        assert!(parse(b"\xff\xfe\n").is_err());
    }

    fn store(data: &Path) -> Store {
        Store::open(Arc::new(OsVfs), data, StoreConfig::new(crate::chunks::QUOTA_MIN), [1; 32]).unwrap().0
    }

    fn none() -> Refusals {
        Arc::new(BTreeMap::new)
    }

    fn ask(data: &Path, text: &[u8]) -> String {
        let mut client = Client::connect(Address::new(data).unwrap().path()).unwrap();
        client.write_all(text).unwrap();
        let mut line = String::new();
        io::BufReader::new(client).read_line(&mut line).unwrap();
        line
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_private_replaces_a_dead_one_and_goes_at_the_end() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("long".repeat(40));
        let store = store(&data);
        drop(std::os::unix::net::UnixListener::bind(Address::new(&data).unwrap().path()).unwrap());
        assert!(data.join(SOCKET).exists());
        let admin = Admin::start(&data, store.clone(), none()).unwrap();
        let mode = fs::metadata(data.join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let there = data.clone();
        let answers = tokio::task::spawn_blocking(move || {
            [&b"{\"status\":{}}\n"[..], b"fish\n", b"{\"job\":{\"name\":\"fish\",\"command\":\"start\"}}\n"]
                .map(|text| ask(&there, text))
        });
        let [status, garbage, unknown] = answers.await.unwrap();
        assert!(status.starts_with(r#"{"ok":{"health":"good""#), "{status}");
        assert!(garbage.starts_with(r#"{"error":"not a request"#), "{garbage}");
        assert!(unknown.contains("no background job is called"), "{unknown}");
        admin.stop();
        assert!(!data.join(SOCKET).exists());
        store.close();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn another_file_of_its_name_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let store = store(place.path());
        fs::write(place.path().join(SOCKET), b"mine").unwrap();
        assert!(Admin::start(place.path(), store.clone(), none()).is_err());
        assert_eq!(fs::read(place.path().join(SOCKET)).unwrap(), b"mine");
        store.close();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn silent_connections_end_and_free_their_places() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().to_path_buf();
        let store = store(&data);
        let admin = Admin::start(&data, store.clone(), none()).unwrap();
        let asked = tokio::task::spawn_blocking(move || {
            let mut silent: Vec<Client> =
                (0..CONNECTIONS_MAX).map(|_| Client::connect(data.join(SOCKET)).unwrap()).collect();
            let begun = Instant::now();
            let answer = ask(&data, b"{\"status\":{}}\n");
            let mut said = String::new();
            silent[0].read_to_string(&mut said).unwrap();
            (answer, said, begun.elapsed())
        });
        let (answer, said, took) = asked.await.unwrap();
        assert!(answer.starts_with(r#"{"ok":"#), "{answer}");
        assert!(said.contains("within 5 s"), "{said}");
        assert!(took < PATIENCE + PATIENCE, "{took:?}");
        admin.stop();
        store.close();
    }
}
