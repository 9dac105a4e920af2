//! Row `tahoe`: the same file over a Tahoe-LAFS grid of as many nodes with the same code, on loopback, in turns with
//! ours. It needs the command `tahoe`, which it neither installs nor builds; without it the row says so.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use shoal_tests::bench::Setting;
use shoal_tests::bench::report::{Limit, context, judged, median, rate};

use crate::source;
use crate::transfer::{CODE, NODES, Turn, file_bytes, make_input, times, touch_memory, turn};

const ROUNDS: usize = 2;
/// File, shares of a turn, what came back, and as much again for whoever else writes.
const COPIES: f64 = 5.0;
/// Times its speed that ours has at least.
const UPLOAD_LIMIT: f64 = 5.0;
const RETRIEVE_LIMIT: f64 = 10.0;
/// How long a grid may take to be there.
const READY: Duration = Duration::from_secs(120);

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    let Some((program, version)) = installed() else {
        println!("tahoe: not measured: tahoe-lafs is not installed");
        return;
    };
    let Some(bytes) = file_bytes(setting, "tahoe", COPIES) else { return };
    let place = setting.fresh();
    let input = place.path().join("in");
    let hash = make_input(&input, bytes);
    let (mut ours, mut up, mut down): (Vec<Turn>, Vec<Duration>, Vec<Duration>) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        ours.push(turn(setting, &input, hash, || {}));
        let grid = Grid::start(&program, setting.fresh());
        touch_memory(place.path(), bytes * NODES as u64 / CODE.0 as u64);
        let (capability, took) = grid.upload(&input);
        up.push(took);
        let out = place.path().join("out");
        touch_memory(place.path(), bytes);
        down.push(grid.download(&capability, &out));
        assert_eq!(source::hash_of(&mut File::open(&out).unwrap()).unwrap().0, hash, "what came back differs");
        fs::remove_file(&out).unwrap();
    }
    let mib = bytes >> 20;
    let say = |what: &str, ours: &[Duration], theirs: &[Duration], limit: f64| {
        let (mine, other) = (rate(bytes, median(ours)), rate(bytes, median(theirs)));
        let what = format!("{what} {mib} MiB, {NODES} nodes, {}+{}", CODE.0, CODE.1);
        let figure = format!("{mine:.0} MB/s, {version} {other:.1} MB/s in the same run");
        judged(&what, &figure, mine / other, "x", Limit::AtLeast(limit));
    };
    say("upload", &times(&ours, |turn| &turn.upload), &up, UPLOAD_LIMIT);
    say("retrieve into a file", &times(&ours, |turn| &turn.retrieve), &down, RETRIEVE_LIMIT);
    context(&format!("medians of {ROUNDS} turns each"));
}

/// The command and what it calls itself.
fn installed() -> Option<(PathBuf, String)> {
    let on_path = || env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join("tahoe")).find(|path| path.is_file());
    let program = env::var_os("TAHOE").map(PathBuf::from).or_else(on_path)?;
    let run = Command::new(&program).arg("--version").stderr(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&run.stdout).lines().next().unwrap_or_default().replace("tahoe-lafs", "");
    run.status.success().then(|| (program, format!("Tahoe-LAFS {}", said.trim_matches([':', '/', ' ']))))
}

/// An introducer, the storage nodes and a gateway, ended and removed when dropped.
struct Grid {
    running: Vec<Child>,
    gateway: u16,
    _place: tempfile::TempDir,
}

impl Drop for Grid {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Grid {
    fn start(program: &Path, place: tempfile::TempDir) -> Self {
        let dir = place.path().to_owned();
        let ports = free_ports(NODES + 2);
        let gateway = ports[NODES + 1];
        let mut grid = Self { running: Vec::new(), gateway, _place: place };
        let make = |arguments: &[&str]| {
            let made = Command::new(program).args(arguments).current_dir(&dir).stdin(Stdio::null()).output().unwrap();
            assert!(made.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&made.stderr));
        };
        let port = |number: usize| format!("--port=tcp:{}:interface=127.0.0.1", ports[number]);
        let location = |number: usize| format!("--location=tcp:127.0.0.1:{}", ports[number]);
        make(&["create-introducer", "--listen=tcp", &port(NODES), &location(NODES), "introducer"]);
        grid.running.push(run(program, &dir, "introducer"));
        let introducer = format!("--introducer={}", wait_for(&dir.join("introducer/private/introducer.furl")));
        for number in 0..NODES {
            let name = format!("storage{number}");
            make(&["create-node", &port(number), &location(number), "--webport=none", &introducer, &name]);
            grid.running.push(run(program, &dir, &name));
        }
        let (needed, total) = (format!("--shares-needed={}", CODE.0), format!("--shares-total={NODES}"));
        let (happy, web) = (format!("--shares-happy={NODES}"), format!("--webport=tcp:{gateway}:interface=127.0.0.1"));
        make(&["create-client", &web, &introducer, &needed, &happy, &total, "gateway"]);
        grid.running.push(run(program, &dir, "gateway"));
        grid.wait();
        grid
    }

    /// Waits until the gateway is connected to all storage nodes.
    fn wait(&self) {
        let since = Instant::now();
        loop {
            let connected = self.connected();
            if connected.as_ref().is_ok_and(|connected| *connected >= NODES) {
                return;
            }
            assert!(since.elapsed() < READY, "the grid is not there after {READY:?}: {connected:?}");
            thread::sleep(Duration::from_millis(250));
        }
    }

    fn connected(&self) -> io::Result<usize> {
        let mut body = Vec::new();
        self.ask("GET", "/?t=json", &mut io::empty(), 0, &mut body)?;
        let status: Value = serde_json::from_slice(&body)?;
        let servers = status["servers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_connected = |server: &&Value| {
            server["connection_status"].as_str().is_some_and(|status| status.to_lowercase().starts_with("connected"))
        };
        Ok(servers.iter().filter(is_connected).count())
    }

    fn upload(&self, input: &Path) -> (String, Duration) {
        let mut file = File::open(input).unwrap();
        let length = file.metadata().unwrap().len();
        let (mut capability, since) = (Vec::new(), Instant::now());
        self.ask("PUT", "/uri", &mut file, length, &mut capability).unwrap();
        (String::from_utf8(capability).unwrap().trim().to_owned(), since.elapsed())
    }

    /// Into a file that is on the disk in the end, as ours is.
    fn download(&self, capability: &str, out: &Path) -> Duration {
        let since = Instant::now();
        let mut file = BufWriter::with_capacity(1 << 20, File::create(out).unwrap());
        self.ask("GET", &format!("/uri/{capability}"), &mut io::empty(), 0, &mut file).unwrap();
        file.into_inner().unwrap().sync_all().unwrap();
        since.elapsed()
    }

    /// One request of HTTP/1.0, whose answer ends with the connection.
    fn ask(&self, verb: &str, path: &str, body: &mut dyn Read, length: u64, out: &mut dyn Write) -> io::Result<()> {
        let stream = TcpStream::connect(("127.0.0.1", self.gateway))?;
        let mut writer = BufWriter::with_capacity(1 << 20, &stream);
        write!(writer, "{verb} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n")?;
        io::copy(body, &mut writer)?;
        writer.flush()?;
        let mut reader = BufReader::with_capacity(1 << 20, &stream);
        let mut status = String::new();
        reader.read_line(&mut status)?;
        if !status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) {
            return Err(io::Error::other(format!("{verb} {path}: {status:?}")));
        }
        let mut header = String::new();
        while reader.read_line(&mut header)? > 0 && header.trim() != "" {
            header.clear();
        }
        io::copy(&mut reader, out).map(drop)
    }
}

fn run(program: &Path, dir: &Path, name: &str) -> Child {
    let log = File::create(dir.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(program);
    command.args(["run", "--allow-stdin-close", name]).current_dir(dir).stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// Content of a small file that a node makes when it starts.
fn wait_for(path: &Path) -> String {
    let since = Instant::now();
    loop {
        match fs::read_to_string(path) {
            Ok(text) if !text.trim().is_empty() => return text.trim().to_owned(),
            _ => assert!(since.elapsed() < READY, "{} is not there after {READY:?}", path.display()),
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Ports that nobody listens on now.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
