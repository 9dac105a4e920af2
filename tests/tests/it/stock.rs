//! Peers that know nothing of Shoal: js-libp2p from npm and py-libp2p from PyPI, pinned in `tests/stock`, connect to a real
//! node and are connected to by one. Packages are fetched once into the target directory; the traffic stays on loopback.
//!
//! Without an interpreter that can run them this is skipped, loudly, but fails where `CI` is set. Without any way to the
//! registry it is skipped, loudly, also there: that is nobody's change. An installation that fails although the registry
//! answers is a failure everywhere.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use shoal_protocol::NetworkId;
use shoal_tests::budget::say;
use shoal_tests::process::{NETWORK, Shoald};

const SHOALD: &str = env!("CARGO_BIN_EXE_test-shoald");
/// What any libp2p peer speaks.
const STANDARD: [&str; 2] = ["/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"];
/// Longest round trip on one machine that does other work too, milliseconds.
const RTT_MS_MAX: f64 = 10_000.0;

/// How one kind of peer is installed and looked for.
struct Stock {
    /// Its folder in `tests/stock`.
    name: &'static str,
    /// What says which packages: others mean another installation.
    pins: &'static [&'static str],
    /// What is run.
    scripts: &'static [&'static str],
    /// Exits with 0 where the interpreter is there and new enough.
    interpreter: &'static [&'static str],
    /// Run one after the other in the folder.
    install: &'static [&'static [&'static str]],
    /// Exits with 0 if the registry answers at all.
    registry: &'static [&'static str],
}

const JS: Stock = Stock {
    name: "js",
    pins: &["package.json", "package-lock.json"],
    scripts: &["older.mjs", "peer.mjs"],
    interpreter: &["sh", "-c", "npm --version && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'"],
    install: &[&["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]],
    registry: &["npm", "view", "libp2p", "version", "--fetch-retries=1"],
};

const PY: Stock = Stock {
    name: "py",
    pins: &["requirements.txt"],
    scripts: &["peer.py"],
    interpreter: &["python3", "-c", "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))"],
    install: &[
        &["python3", "-m", "venv", "--clear", "venv"],
        &["venv/bin/pip", "install", "--quiet", "--no-deps", "--no-cache-dir", "-r", "requirements.txt"],
    ],
    registry: &["python3", "-m", "pip", "--no-cache-dir", "download", "--quiet", "--no-deps", "--dest", "seen", "six"],
};

fn run(folder: &Path, line: &[&str]) -> Result<(), String> {
    let (program, arguments) = line.split_first().ok_or("nothing to run")?;
    let mut command = Command::new(if program.contains('/') { folder.join(program) } else { program.into() });
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    // Nothing is left in the home of whoever runs this.
    command.env("npm_config_cache", folder.join("cache")).env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {}", line.join(" "), said.trim())) }
}

/// The folder with everything in it, or nothing where it cannot be had and need not be.
fn installed(stock: &Stock) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stock").join(stock.name);
    fs::create_dir_all(&folder).unwrap();
    // Held to the end: two runs of the tests may share a target directory.
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    if let Err(error) = run(&folder, stock.interpreter) {
        assert!(std::env::var_os("CI").is_none(), "no interpreter: {error}");
        say(&format!("stock {}: SKIPPED, no interpreter that is new enough: {error}", stock.name));
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("stock").join(stock.name);
    let mut wanted = blake3::Hasher::new();
    for file in stock.pins.iter().chain(stock.scripts) {
        fs::copy(source.join(file), folder.join(file)).unwrap();
    }
    for file in stock.pins {
        let bytes = fs::read(source.join(file)).unwrap();
        wanted.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
    }
    let (mark, wanted) = (folder.join("installed"), wanted.finalize().to_hex().to_string());
    if fs::read_to_string(&mark).is_ok_and(|found| found == wanted) {
        return Some(folder);
    }
    let _ = fs::remove_file(&mark);
    let begun = std::time::Instant::now();
    for line in stock.install {
        if let Err(error) = run(&folder, line) {
            let registry = run(&folder, stock.registry);
            assert!(registry.is_err(), "the registry answers, and the installation fails: {error}");
            say(&format!("stock {}: SKIPPED, the registry is not reachable: {error}", stock.name));
            return None;
        }
    }
    for rest in ["cache", "seen"] {
        let _ = fs::remove_dir_all(folder.join(rest));
    }
    say(&format!("stock {}: installed in {:?}", stock.name, begun.elapsed()));
    fs::write(mark, wanted).unwrap();
    Some(folder)
}

/// What a peer says, a line at a time.
struct Peer {
    child: std::process::Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Peer {
    fn start(folder: &Path, program: impl AsRef<OsStr>, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: the peer said {line:?}"))
    }

    /// Its last line; it must end well.
    fn last(mut self) -> Value {
        let said = self.line();
        assert!(self.child.wait().unwrap().success(), "{said:#}");
        said
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connected, secured and multiplexed as agreed, identified, and answered.
fn saw(seen: &Value, node: &Shoald) {
    assert_eq!(seen["peer"], Value::String(node.id.clone()), "{seen:#}");
    assert_eq!((seen["security"].as_str(), seen["muxer"].as_str()), (Some("/noise"), Some("/yamux/1.0.0")), "{seen:#}");
    assert_eq!(seen["agent"].as_str(), Some(concat!("shoal/", env!("CARGO_PKG_VERSION"))), "{seen:#}");
    let spoken: Vec<&str> = seen["protocols"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(STANDARD.iter().all(|name| spoken.contains(name)), "{seen:#}");
    let tag = NetworkId::derive(None, NETWORK).unwrap().tag();
    let offered = ["ctl", "shard"].map(|lane| spoken.contains(&format!("/shoal/{tag}/{lane}/1").as_str()));
    assert_eq!(offered, [true; 2], "lanes are for everybody whose id is an Ed25519 key: {seen:#}");
    let pings: Vec<f64> = seen["pings"].as_array().unwrap().iter().map(|rtt| rtt.as_f64().unwrap()).collect();
    assert!(pings.len() == 3 && pings.iter().all(|rtt| (0.0..RTT_MS_MAX).contains(rtt)), "{seen:#}");
}

fn shoald(room: &Path, name: &str, more: &[&str]) -> Shoald {
    Shoald::start(SHOALD, &room.join(name), &[&["--quota", "1GB"], more].concat()).unwrap()
}

#[test]
fn a_stock_js_peer_connects_identifies_and_pings_and_is_connected_to() {
    let Some(folder) = installed(&JS) else { return };
    let room = tempfile::tempdir().unwrap();
    let node = shoald(room.path(), "dialled", &[]);
    let seen = Peer::start(&folder, "node", &["peer.mjs", "dial", &node.address]).last();
    saw(&seen, &node);
    assert_eq!((seen["direction"].as_str(), seen["identified"].as_str()), (Some("outbound"), Some(&*node.id)));

    let mut peer = Peer::start(&folder, "node", &["peer.mjs", "listen"]);
    let address = peer.line()["address"].as_str().unwrap().to_owned();
    let node = shoald(room.path(), "dialler", &["--bootstrap", &address]);
    let seen = peer.last();
    saw(&seen, &node);
    assert_eq!((seen["direction"].as_str(), seen["identified"].as_str()), (Some("inbound"), Some(&*node.id)));
    say("stock js: dialled and was dialled over TCP, Noise and Yamux, identified, 2 x 3 pings answered");
}

#[test]
fn a_stock_py_peer_connects_identifies_and_pings_with_an_ed25519_key_alone() {
    let Some(folder) = installed(&PY) else { return };
    let room = tempfile::tempdir().unwrap();
    let node = shoald(room.path(), "dialled", &[]);
    let seen_with = |key| Peer::start(&folder, folder.join("venv/bin/python"), &["peer.py", &node.address, key]).last();
    for key in ["ed25519", "secp256k1", "ed25519"] {
        let seen = seen_with(key);
        if key != "ed25519" {
            assert_eq!(seen["failed"].as_str(), Some("SwarmDialAllFailedError"), "refused in the handshake: {seen:#}");
            continue;
        }
        saw(&seen, &node);
        assert_eq!((seen["session"].as_str(), seen["secured"].as_str()), (Some("Yamux"), Some("SecureSession")));
        // The id of the node is its key, which identify says once more.
        let prefix = "08011220";
        assert!(seen["key"].as_str().is_some_and(|key| key.starts_with(prefix) && key.len() == 72), "{seen:#}");
    }
    say("stock py: dialled over TCP, Noise and Yamux, identified, 2 x 3 pings answered; another kind of key refused");
}
