//! `cargo demo [FILE] [--once]`: six real nodes on loopback, a file goes in, two nodes are killed, the same file comes
//! out of the rest. It starts only programs it built, talks to loopback only, and removes everything it made.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const NODES: usize = 6;
const NETWORK: &str = "demo";
const SAMPLE_BYTES: usize = 64 << 20;
const READY: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match demo().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    file: Option<PathBuf>,
    once: bool,
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments { file: None, once: false };
    for argument in std::env::args_os().skip(1) {
        match argument.to_str() {
            Some("--once") => arguments.once = true,
            Some("--") => {}
            Some("-h" | "--help") => {
                println!("usage: cargo demo [FILE] [-- --once]");
                std::process::exit(0);
            }
            Some(flag) if flag.starts_with('-') => bail!("unknown option {flag}; usage: cargo demo [FILE] [-- --once]"),
            _ => arguments.file = Some(argument.into()),
        }
    }
    Ok(arguments)
}

async fn demo() -> Result<()> {
    let Arguments { file, once } = arguments()?;
    let programs = build().await?;
    let room = tempfile::Builder::new().prefix("shoal-demo-").tempdir()?;
    let mut nodes = start_nodes(&programs, room.path()).await?;
    let file = match file {
        Some(file) => file,
        None => sample_file(room.path())?,
    };
    let bytes = std::fs::metadata(&file).with_context(|| format!("cannot read {}", file.display()))?.len();
    let password = room.path().join("password");
    std::fs::write(&password, "correct horse battery staple\n")?;

    let owner = Shoal { program: &programs.shoal, home: room.path().join("owner"), password: &password };
    let begun = Instant::now();
    let upload = owner.run(&["upload", text(&file)?, "--peer", &nodes[0].address, "--json"]).await?;
    let capability = upload["details"]["capability"].as_str().context("upload printed no capability")?.to_owned();
    say("uploaded", &format!("{} in {} ({})", megabytes(bytes), seconds(begun), rate(bytes, begun)));
    println!("    capability  {}", shortened(&capability));

    let holders = show_shards(&owner, &capability, &nodes).await?;
    let victims: Vec<usize> = holders.iter().copied().filter(|at| *at != 0).take(2).collect();
    ensure!(victims.len() == 2, "fewer than two nodes hold shards");
    for at in &victims {
        nodes[*at].child.kill().await?;
    }
    say("killed", &format!("node {} and node {} with SIGKILL", victims[0] + 1, victims[1] + 1));

    let stranger = Shoal { program: &programs.shoal, home: room.path().join("fresh"), password: &password };
    let survivor = (0..NODES).rev().find(|at| !victims.contains(at)).context("nobody is left")?;
    let back = room.path().join("back.bin");
    let begun = Instant::now();
    stranger
        .run(&["retrieve", &capability, "--peer", &nodes[survivor].address, "--out", text(&back)?, "--json"])
        .await?;
    say(
        "retrieved",
        &format!(
            "with capability, password and node {} only, in {} ({})",
            survivor + 1,
            seconds(begun),
            rate(bytes, begun)
        ),
    );
    compare(&file, &back)?;
    say("compared", &format!("{} byte for byte: identical", megabytes(bytes)));
    if once {
        return Ok(());
    }
    println!("\n{} nodes stay up until Ctrl-C. Try, in another terminal:", NODES - victims.len());
    let shoal = programs.shoal.display();
    println!("  export SHOAL_NETWORK={NETWORK} SHOAL_PEERS={}", nodes[survivor].address);
    println!("  {shoal} ls '{capability}' --password-file {}", password.display());
    println!("  {shoal} upload README.md");
    tokio::signal::ctrl_c().await?;
    Ok(())
}

struct Programs {
    shoald: PathBuf,
    shoal: PathBuf,
}

/// Builds both programs into the folder this one runs from.
async fn build() -> Result<Programs> {
    let begun = Instant::now();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let folder = std::env::current_exe()?.parent().context("no folder")?.to_path_buf();
    let built = Command::new(cargo)
        // The three together, so that dependencies have the features this program was built with and are not built again.
        .args(["build", "--quiet", "--bins", "-p", "shoal-tests", "-p", "shoal-node", "-p", "shoal-uploader"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .stdin(Stdio::null())
        .status()
        .await?;
    ensure!(built.success(), "building shoald and shoal failed");
    let programs = Programs { shoald: folder.join("shoald"), shoal: folder.join("shoal") };
    ensure!(programs.shoald.exists() && programs.shoal.exists(), "no programs in {}", folder.display());
    say("built", &format!("shoald and shoal in {}", seconds(begun)));
    Ok(programs)
}

struct Node {
    child: Child,
    id: String,
    address: String,
}

async fn start_nodes(programs: &Programs, room: &Path) -> Result<Vec<Node>> {
    let begun = Instant::now();
    let mut nodes: Vec<Node> = Vec::new();
    for n in 1..=NODES {
        let bootstrap = nodes.first().map(|first| first.address.clone());
        nodes.push(start_node(programs, &room.join(format!("node{n}")), bootstrap).await?);
    }
    say("started", &format!("{NODES} nodes on loopback in {}", seconds(begun)));
    for (at, node) in nodes.iter().enumerate() {
        println!("    node {}  {}", at + 1, node.address);
    }
    Ok(nodes)
}

async fn start_node(programs: &Programs, data: &Path, bootstrap: Option<String>) -> Result<Node> {
    let mut command = Command::new(&programs.shoald);
    command.args(["run", "--open", "--json", "--quota", "2GB", "--network", NETWORK]);
    command.args(["--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir", text(data)?]);
    if let Some(bootstrap) = bootstrap {
        command.args(["--bootstrap", &bootstrap]);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let stdout = child.stdout.take().context("no stdout")?;
    let line = tokio::time::timeout(READY, BufReader::new(stdout).lines().next_line()).await;
    let line = line.context("shoald was not ready in time")??.context("shoald stopped before it was ready")?;
    let ready: Value = serde_json::from_str(&line)?;
    let address = ready["addresses"][0].as_str().context("no address in the ready line")?.to_owned();
    Ok(Node { child, id: ready["peer_id"].as_str().unwrap_or_default().to_owned(), address })
}

/// The command line client with a home of its own.
struct Shoal<'a> {
    program: &'a Path,
    home: PathBuf,
    password: &'a Path,
}

impl Shoal<'_> {
    /// Runs one command and returns its JSON object; fails with what it said.
    async fn run(&self, arguments: &[&str]) -> Result<Value> {
        let output = Command::new(self.program)
            .args(arguments)
            .args(["--network", NETWORK, "--password-file", text(self.password)?])
            .env_clear()
            .env("SHOAL_HOME", &self.home)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "shoal {} failed ({}): {said}", arguments[0], output.status);
        serde_json::from_slice(&output.stdout).with_context(|| format!("shoal {} printed no JSON", arguments[0]))
    }
}

/// Prints how many shards each node holds; returns the nodes that hold any, most first.
async fn show_shards(owner: &Shoal<'_>, capability: &str, nodes: &[Node]) -> Result<Vec<usize>> {
    let shards = owner.run(&["shards", capability, "--peer", &nodes[0].address, "--json"]).await?;
    let rows = shards["details"]["nodes"].as_array().context("shards printed no nodes")?;
    let count = |node: &Node| {
        rows.iter()
            .find(|row| row["node"].as_str() == Some(&node.id))
            .and_then(|row| row["shards"].as_u64())
            .unwrap_or(0)
    };
    let code = shards["details"]["code"].as_str().unwrap_or("?");
    let counts: Vec<u64> = nodes.iter().map(count).collect();
    let shown: Vec<String> = counts.iter().enumerate().map(|(at, count)| format!("node {}: {count}", at + 1)).collect();
    say("shards", &format!("code {code}; {}", shown.join(", ")));
    let mut holders: Vec<usize> = (0..nodes.len()).filter(|at| counts[*at] > 0).collect();
    holders.sort_by_key(|at| std::cmp::Reverse(counts[*at]));
    Ok(holders)
}

fn sample_file(room: &Path) -> Result<PathBuf> {
    let path = room.join("sample.bin");
    std::fs::write(&path, shoal_tests::sample::bytes(1, SAMPLE_BYTES))?;
    Ok(path)
}

fn compare(one: &Path, other: &Path) -> Result<()> {
    let hash = |path: &Path| -> Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(std::fs::File::open(path)?)?;
        Ok(hasher.finalize())
    };
    ensure!(hash(one)? == hash(other)?, "what came back differs from what went in");
    Ok(())
}

fn say(what: &str, more: &str) {
    println!("{what:>10}  {more}");
}

fn seconds(begun: Instant) -> String {
    let took = begun.elapsed();
    if took.as_millis() < 1000 { format!("{} ms", took.as_millis()) } else { format!("{:.1} s", took.as_secs_f64()) }
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn rate(bytes: u64, begun: Instant) -> String {
    format!("{:.0} MB/s", bytes as f64 / 1e6 / begun.elapsed().as_secs_f64())
}

fn shortened(capability: &str) -> String {
    format!("{}..{} ({} characters)", &capability[..24], &capability[capability.len() - 6..], capability.len())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
