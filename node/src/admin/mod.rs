//! The control socket of a running node: `control.sock` in its data directory, where programs of its owner on this
//! machine ask how store and private network are and tell jobs of the store what to do. It never opens a store, touches a
//! shard or speaks to the network, and whoever is not the owner or root is not answered.
//!
//! One connection carries one request and one answer, each a frame of JSON as [`shoal_protocol::local`] says.
//! [`frames`] reads and writes them, [`act`] answers.
//!
//! Started by [`crate::node::Node::start`], ended by its shutdown; lost then are requests under way, and none of them
//! changes what is stored.

mod act;
pub(crate) mod frames;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::local::{Answer, Code, Complaint, PATH_MAX, SOCKET, WORK_MS};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

pub(crate) use act::{Desk, NodeStatus};
use frames::{PATIENCE, encode};

/// Connections at a time; others wait in the queue of the system.
const CONNECTIONS_MAX: usize = 16;
/// How long one request may be worked on.
const WORK: Duration = Duration::from_millis(WORK_MS);
/// Before the next attempt when the system gives no connection, out of descriptors for example.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

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
        if path.as_os_str().len() <= PATH_MAX {
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
    pub(crate) fn start(data: &Path, desk: Desk) -> io::Result<Self> {
        let path = data.join(SOCKET);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(&path)?,
            Ok(_) => return Err(io::Error::other("something that is no socket has its name")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(Address::new(data)?.path())?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self { path, task: tokio::spawn(serve(listener, desk)) })
    }

    /// Ends serving and removes the socket. The caller still has the store's lock, so it is no other node's.
    pub(crate) fn stop(self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve(listener: UnixListener, desk: Desk) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let desk = desk.clone();
                connections.spawn(async move {
                    if let Err(error) = converse(stream, &desk).await {
                        tracing::debug!(%error, "a connection of the control socket failed");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket gives no connection");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// Reads one request, answers it, closes.
async fn converse(mut stream: UnixStream, desk: &Desk) -> io::Result<()> {
    // The mode of the socket says the same, but not between its creation and its change.
    let user = stream.peer_cred()?.uid();
    if user != 0 && user != rustix::process::geteuid().as_raw() {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    let answer = match frames::request(&mut stream).await {
        Ok(request) => timeout(WORK, desk.answer(request)).await.unwrap_or_else(|_| {
            let what = format!("no answer within {} s", WORK.as_secs());
            encode(Answer::<()>::Error(Complaint::new(Code::Busy, what, "the node is overloaded", "repeat")))
        }),
        Err(Some(complaint)) => encode(Answer::<()>::Error(complaint)),
        Err(None) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
    };
    timeout(PATIENCE, stream.write_all(&answer)).await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunks::vfs_os::OsVfs;
    use crate::chunks::{Store, StoreConfig};
    use crate::networks::seats::{Seat, Seats};
    use crate::vpn::running::VpnPlace;
    use serde_json::Value;
    use shoal_protocol::local::{REQUEST_MAX, frame};
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as Client;
    use std::time::Instant;

    fn store(data: &Path) -> Store {
        Store::open(Arc::new(OsVfs), data, StoreConfig::new(crate::chunks::QUOTA_MIN), [1; 32]).unwrap().0
    }

    fn networks(place: VpnPlace) -> Seats {
        Seats::new(Seat { name: "shoal".to_owned(), place, running: None }, [])
    }

    fn desk(store: &Store) -> Desk {
        Desk { store: store.clone(), refusals: Arc::new(BTreeMap::new), networks: networks(VpnPlace::default()) }
    }

    /// What is answered to these bytes until the end of the connection.
    fn say(data: &Path, bytes: &[u8]) -> Value {
        let mut client = Client::connect(Address::new(data).unwrap().path()).unwrap();
        client.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // After the answer the connection breaks if not all of this was read.
        let _ = client.read_to_end(&mut answer);
        let (length, json) = answer.split_first_chunk().unwrap();
        assert_eq!(u32::from_be_bytes(*length) as usize, json.len());
        serde_json::from_slice(json).unwrap()
    }

    fn ask(data: &Path, request: &str) -> Value {
        say(data, &frame(format!(r#"{{"version":1,"request":{request}}}"#).as_bytes(), REQUEST_MAX).unwrap())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_private_replaces_a_dead_one_and_goes_at_the_end() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("long".repeat(40));
        let store = store(&data);
        drop(std::os::unix::net::UnixListener::bind(Address::new(&data).unwrap().path()).unwrap());
        assert!(data.join(SOCKET).exists());
        let admin = Admin::start(&data, desk(&store)).unwrap();
        let mode = fs::metadata(data.join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let there = data.clone();
        let answers = tokio::task::spawn_blocking(move || {
            let of = |name: &str| ask(&there, &format!(r#"{{"{name}":{{}}}}"#));
            let unknown = ask(&there, r#"{"store.job":{"name":"fish","command":"start"}}"#);
            let told = ask(&there, r#"{"store.job":{"name":"scrub","command":"start"}}"#);
            (of("store.status"), unknown, told, of("vpn.status"), of("fish"))
        });
        let (status, unknown, told, vpn, garbage) = answers.await.unwrap();
        assert_eq!((status["version"].as_u64(), status["ok"]["health"].as_str()), (Some(1), Some("good")));
        assert_eq!(unknown["error"]["code"], "not-found", "{unknown}");
        assert!(unknown["error"]["what"].as_str().unwrap().contains("no background job is called"), "{unknown}");
        assert!(told.get("ok").is_some_and(Value::is_null) || told["error"]["code"] == "not-found", "{told}");
        assert_eq!((&vpn["error"]["code"], &garbage["error"]["code"]), (&"no-vpn".into(), &"malformed".into()));
        for line in ["what", "why", "try"] {
            assert!(vpn["error"][line].as_str().is_some_and(|line| !line.is_empty()), "{vpn}");
        }
        admin.stop();
        assert!(!data.join(SOCKET).exists());
        store.close();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_network_that_failed_is_told_from_one_that_was_not_asked_for() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().to_path_buf();
        let store = store(&data);
        let failed = Desk { networks: networks(VpnPlace::failed("no TUN")), ..desk(&store) };
        let admin = Admin::start(&data, failed).unwrap();
        let answer = tokio::task::spawn_blocking(move || ask(&data, r#"{"vpn.stats":{}}"#)).await.unwrap();
        assert_eq!(answer["error"]["code"], "vpn-failed");
        assert!(answer["error"]["what"].as_str().unwrap().contains("no TUN"), "{answer}");
        admin.stop();
        store.close();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn another_file_of_its_name_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let store = store(place.path());
        fs::write(place.path().join(SOCKET), b"mine").unwrap();
        assert!(Admin::start(place.path(), desk(&store)).is_err());
        assert_eq!(fs::read(place.path().join(SOCKET)).unwrap(), b"mine");
        store.close();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn lengths_and_bytes_that_are_no_frame_get_an_error() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().to_path_buf();
        let store = store(&data);
        let admin = Admin::start(&data, desk(&store)).unwrap();
        let answers = tokio::task::spawn_blocking(move || {
            let long = [&(REQUEST_MAX as u32 + 1).to_be_bytes()[..]].concat();
            // A line of text has a length of its own: 2,066,968,865 bytes.
            [&b"\0\0\0\0"[..], &long, b"{\"status\":{}}\n", b"\0\0\0\x02\xff\xfe"].map(|bytes| say(&data, bytes))
        });
        for answer in answers.await.unwrap() {
            assert_eq!(answer["error"]["code"], "malformed", "{answer}");
        }
        admin.stop();
        store.close();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn silent_and_slow_connections_end_and_free_their_places() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().to_path_buf();
        let store = store(&data);
        let admin = Admin::start(&data, desk(&store)).unwrap();
        let asked = tokio::task::spawn_blocking(move || {
            let mut silent: Vec<Client> =
                (0..CONNECTIONS_MAX).map(|_| Client::connect(data.join(SOCKET)).unwrap()).collect();
            // This one begins, and never ends.
            silent[1].write_all(&[0, 0, 0, 99, b'{']).unwrap();
            let begun = Instant::now();
            let answer = ask(&data, r#"{"store.status":{}}"#);
            let mut said = [String::new(), String::new()];
            for (client, said) in silent.iter_mut().zip(&mut said) {
                let mut bytes = Vec::new();
                client.read_to_end(&mut bytes).unwrap();
                *said = String::from_utf8_lossy(&bytes).into_owned();
            }
            (answer, said, begun.elapsed())
        });
        let (answer, said, took) = asked.await.unwrap();
        assert_eq!(answer["ok"]["health"], "good", "{answer}");
        for said in said {
            assert!(said.contains("within 5 s") && said.contains("\"late\""), "{said}");
        }
        assert!(took < PATIENCE + PATIENCE, "{took:?}");
        admin.stop();
        store.close();
    }
}
