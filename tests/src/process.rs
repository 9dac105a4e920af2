//! Real nodes and real clients: `shoald` processes on loopback, `shoal` commands, and a client in this process over
//! real lanes. Everything started here is ended here, by its own id.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ed25519_dalek::SigningKey;
use serde_json::Value;
use shoal_client::client::Client;
use shoal_client::net::LaneTransport;
use shoal_protocol::{NetworkId, NodeId};
use shoal_swarm::SwarmConfig;
use zeroize::Zeroizing;

use crate::sample::{clock, environment};

/// The network of all processes started here.
pub const NETWORK: &str = "test";

/// A running `shoald`.
#[derive(Debug)]
pub struct Shoald {
    child: Child,
    /// Its data folder.
    pub data: PathBuf,
    /// Its id.
    pub id: String,
    /// Its first address, with the id.
    pub address: String,
    /// All its addresses, each with the id.
    pub addresses: Vec<String>,
    /// What its ready line says of the private network; null where it takes no part in one.
    pub vpn: Value,
    /// What it says of the networks beside the main one; null where there is none.
    pub networks: Value,
}

impl Shoald {
    /// Starts `program run` on a free loopback port and waits until it is ready.
    ///
    /// # Errors
    /// If it does not start or says something else than its ready line.
    pub fn start(program: &str, data: &Path, more: &[&str]) -> Result<Self> {
        Self::start_as(Command::new(program), "127.0.0.1", data, more)
    }

    /// Starts `command run` on a free port of `address`, wherever the command runs, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not start or says something else than its ready line.
    pub fn start_as(command: Command, address: &str, data: &Path, more: &[&str]) -> Result<Self> {
        let listen = format!("/ip4/{address}/tcp/0");
        Self::start_with(command, data, &[&["--network", NETWORK, "--listen", &listen], more].concat())
    }

    /// Starts `command run` with these arguments beside the data folder, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not start or says something else than its ready line.
    pub fn start_with(mut command: Command, data: &Path, arguments: &[&str]) -> Result<Self> {
        let mut child = command
            .args(["run", "--json", "--data-dir"])
            .arg(data)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start shoald")?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).with_context(|| format!("ready line {line:?}"))?;
        ensure!(ready["ready"] == Value::Bool(true), "ready line {line:?}");
        let field = |value: &Value| value.as_str().map(str::to_owned).context("ready line lacks a field");
        let addresses = ready["addresses"].as_array().context("ready line lacks addresses")?;
        Ok(Self {
            child,
            data: data.to_path_buf(),
            id: field(&ready["peer_id"])?,
            address: field(&ready["addresses"][0])?,
            addresses: addresses.iter().map(field).collect::<Result<_>>()?,
            vpn: ready["vpn"].clone(),
            networks: ready["networks"].clone(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM; how long it took to end.
    ///
    /// # Errors
    /// If it is still there after ten seconds or ended with an error.
    pub fn terminate(&mut self) -> Result<Duration> {
        let pid = rustix::process::Pid::from_child(&self.child);
        let begun = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        while begun.elapsed() < Duration::from_secs(10) {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "shoald ended with {status}");
                return Ok(begun.elapsed());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        anyhow::bail!("shoald is still running ten seconds after SIGTERM")
    }
}

impl Drop for Shoald {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `shoal` with a home of its own.
#[derive(Debug, Clone)]
pub struct Shoal {
    program: String,
    /// Its home.
    pub home: PathBuf,
}

impl Shoal {
    /// Uses `home`, which may not exist yet.
    #[must_use]
    pub fn new(program: &str, home: &Path) -> Self {
        Self { program: program.to_owned(), home: home.to_path_buf() }
    }

    /// Runs one command without any environment but its home and the sample password.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments).stdin(Stdio::null()).output().context("cannot start shoal")
    }

    /// The command, for callers that pipe into it.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_as(Command::new(&self.program), arguments)
    }

    /// The same, started as `command`, wherever that runs.
    #[must_use]
    pub fn command_as(&self, mut command: Command, arguments: &[&str]) -> Command {
        command
            .args(arguments)
            .env_clear()
            .env("SHOAL_HOME", &self.home)
            .env("SHOAL_NETWORK", NETWORK)
            .env("SHOAL_PASSWORD", std::str::from_utf8(crate::sample::PASSWORD).unwrap_or_default());
        command
    }
}

/// A client in this process over real lanes.
///
/// # Errors
/// If the swarm does not start.
pub async fn lane_client(seed: u8) -> Result<(Client<LaneTransport>, Arc<LaneTransport>)> {
    let transport = lanes_of([seed; 32]).await?;
    let identity = SigningKey::from_bytes(&[seed; 32]);
    let node = NodeId::from_bytes(identity.verifying_key().to_bytes());
    let network = NetworkId::derive(None, NETWORK)?;
    let client = Client::new(Arc::clone(&transport), network, node, environment(u64::from(seed)));
    Ok((client, transport))
}

/// Real lanes of the identity with this seed.
///
/// # Errors
/// If the swarm does not start.
pub async fn lanes_of(seed: [u8; 32]) -> Result<Arc<LaneTransport>> {
    let network = NetworkId::derive(None, NETWORK)?;
    let started = shoal_swarm::start(SwarmConfig::new(Zeroizing::new(seed), network.tag())).await?;
    Ok(Arc::new(LaneTransport::new(started.handle, network, SigningKey::from_bytes(&seed), clock)))
}

/// What a running process takes of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Footprint {
    /// Resident memory now, KiB.
    pub rss_kib: u64,
    /// Most resident memory since the start, or since [`forget_peak`], KiB.
    pub peak_kib: u64,
    /// Open file descriptors.
    pub descriptors: usize,
}

/// Of the process with this id.
///
/// # Errors
/// If it is gone, or another user's.
pub fn footprint(pid: u32) -> Result<Footprint> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
        Ok::<u64, anyhow::Error>(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
    };
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok(Footprint { rss_kib: field("VmRSS")?, peak_kib: field("VmHWM")?, descriptors })
}

/// Processor time of a process, and what its threads waited for a processor they could have used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turns {
    /// It ran.
    pub ran: Duration,
    /// It waited for its turn.
    pub waited: Duration,
}

/// Of the process with this id, since its start.
///
/// # Errors
/// If it is gone, or the system does not say.
pub fn turns(pid: u32) -> Result<Turns> {
    let mut sum = Turns::default();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let mut fields = text.split_whitespace().map(|field| field.parse().map(Duration::from_nanos));
        sum.ran += fields.next().context("no time")??;
        sum.waited += fields.next().context("no time")??;
    }
    Ok(sum)
}

/// Lets the peak of a process begin at what it takes now.
///
/// # Errors
/// If it is gone, or another user's.
pub fn forget_peak(pid: u32) -> Result<()> {
    Ok(std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}
