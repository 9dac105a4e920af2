//! Real nodes and the real client, as programs of their own, and what they took: time, processors, memory. It knows
//! nothing of what is measured with them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use shoal_tests::bench::machine::{Work, memory_of};
use shoal_tests::process::{Shoal, Shoald};

pub(crate) const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
const SHOAL: &str = env!("CARGO_BIN_EXE_test-shoal");
/// How often the memory of a client is looked at. Its peak is kept by the system, so only what grows in its last
/// moments is missed.
const LOOK: Duration = Duration::from_millis(5);
/// How long nodes may take to hear of each other.
const MET_MAX: Duration = Duration::from_secs(30);

/// Nodes on loopback that store for everybody.
pub(crate) struct Nodes(Vec<Shoald>);

impl Nodes {
    /// Starts `count` of them, which offer `quota` bytes each.
    pub(crate) fn start(dir: &Path, count: usize, quota: u64) -> Self {
        let mut nodes: Vec<Shoald> = Vec::new();
        let quota = quota.to_string();
        for number in 0..count {
            let mut arguments = vec!["--open", "--quota", &quota];
            let first = nodes.first().map(|node| node.address.clone());
            if let Some(first) = &first {
                arguments.extend(["--bootstrap", first]);
            }
            nodes.push(Shoald::start(SHOALD, &dir.join(format!("node{number}")), &arguments).unwrap());
        }
        Self(nodes)
    }

    /// Where the first one listens.
    pub(crate) fn address(&self) -> &str {
        &self.0[0].address
    }

    /// What each had of the processors so far.
    pub(crate) fn work(&self) -> Vec<Work> {
        self.0.iter().map(|node| Work::of(node.pid())).collect()
    }
}

/// What a run of the client took.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub(crate) took: Duration,
    pub(crate) work: Work,
    /// Most bytes in memory at a time.
    pub(crate) peak: u64,
}

/// What a client reads, on a thread of its own.
pub(crate) type Feed = Box<dyn FnOnce(ChildStdin) + Send>;
/// What becomes of what it writes, on a thread of its own.
pub(crate) type Drain = Box<dyn FnOnce(ChildStdout) + Send>;

/// A client with a home of its own.
pub(crate) struct Client {
    shoal: Shoal,
    peer: String,
}

impl Client {
    pub(crate) fn new(dir: &Path, nodes: &Nodes) -> Self {
        Self { shoal: Shoal::new(SHOAL, &dir.join("home")), peer: nodes.address().to_owned() }
    }

    /// Whether an upload with `code` would find as many nodes as it needs.
    fn finds_enough(&self, dir: &Path, code: &str) -> bool {
        let file = dir.join("anything");
        fs::write(&file, "x").unwrap();
        let arguments = ["upload", text(&file), "--code", code, "--dry-run", "--quiet", "--peer", &self.peer];
        self.shoal.run(&arguments).unwrap().status.success()
    }

    /// Uploads a file: the capability, and what it took from start to end of the program.
    pub(crate) fn upload(&self, file: &Path, code: &str) -> (String, Ran) {
        let (drain, said) = kept();
        let ran = self.run(&["upload", text(file), "--code", code, "--quiet"], None, drain);
        (capability(&said), ran)
    }

    /// The same with what `feed` writes.
    pub(crate) fn upload_from(&self, feed: Feed, code: &str) -> (String, Ran) {
        let (drain, said) = kept();
        let ran = self.run(&["upload", "-", "--code", code, "--quiet"], Some(feed), drain);
        (capability(&said), ran)
    }

    /// Retrieves into a file.
    pub(crate) fn retrieve(&self, capability: &str, file: &Path) -> Ran {
        let (drain, _) = kept();
        self.run(&["retrieve", capability, "--out", text(file), "--quiet"], None, drain)
    }

    /// Retrieves into a pipe.
    pub(crate) fn retrieve_to(&self, capability: &str, drain: Drain) -> Ran {
        self.run(&["retrieve", capability, "--out", "-", "--quiet"], None, drain)
    }

    fn run(&self, arguments: &[&str], feed: Option<Feed>, drain: Drain) -> Ran {
        let mut command: Command = self.shoal.command(arguments);
        command.args(["--peer", &self.peer]).stdout(Stdio::piped());
        command.stdin(if feed.is_some() { Stdio::piped() } else { Stdio::null() });
        let (before, since) = (Work::of_ended_children(), Instant::now());
        let mut child = command.spawn().unwrap();
        let feeding = feed.zip(child.stdin.take()).map(|(feed, input)| thread::spawn(move || feed(input)));
        let output = child.stdout.take().unwrap();
        let draining = thread::spawn(move || drain(output));
        let (pid, ended) = (child.id().to_string(), Arc::new(AtomicBool::new(false)));
        let looking = {
            let ended = Arc::clone(&ended);
            thread::spawn(move || {
                let mut peak = 0;
                while !ended.load(Ordering::Relaxed) {
                    peak = memory_of(&pid, "VmHWM").unwrap_or(0).max(peak);
                    thread::sleep(LOOK);
                }
                peak
            })
        };
        let status = child.wait().unwrap();
        let (took, work) = (since.elapsed(), Work::of_ended_children().since(before));
        ended.store(true, Ordering::Relaxed);
        feeding.into_iter().for_each(|feeding| feeding.join().unwrap());
        draining.join().unwrap();
        assert!(status.success(), "shoal {}: {status}", arguments[0]);
        Ran { took, work, peak: looking.join().unwrap() }
    }
}

/// Keeps all that is written.
fn kept() -> (Drain, Arc<Mutex<String>>) {
    let said = Arc::new(Mutex::new(String::new()));
    let keep = Arc::clone(&said);
    let drain = move |output| *keep.lock().unwrap() = io::read_to_string(output).unwrap();
    (Box::new(drain), said)
}

fn capability(said: &Mutex<String>) -> String {
    let said = said.lock().unwrap();
    assert!(said.starts_with("shoal1"), "no capability: {said:?}");
    said.trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A directory of nodes with its client, for as long as it is needed.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) nodes: Nodes,
    pub(crate) dir: PathBuf,
    /// Removed last.
    _place: tempfile::TempDir,
}

impl World {
    /// Starts `count` nodes in a fresh directory, and waits until an upload with `code` finds as many as it needs.
    pub(crate) fn new(place: tempfile::TempDir, count: usize, quota: u64, code: &str) -> Self {
        let dir = place.path().to_owned();
        let nodes = Nodes::start(&dir, count, quota);
        let client = Client::new(&dir, &nodes);
        let since = Instant::now();
        while !client.finds_enough(&dir, code) {
            assert!(since.elapsed() < MET_MAX, "after {MET_MAX:?} not all nodes have met");
            thread::sleep(Duration::from_millis(200));
        }
        Self { client, nodes, dir, _place: place }
    }
}
