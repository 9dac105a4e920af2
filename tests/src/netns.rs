//! Two network namespaces joined by one cable, for tests that need a network of their own: nodes on one side, a client on
//! the other. Needs root and `ip` and `tc`; everything made here goes with it.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

use crate::resolver::ResolvConf;

/// Address of the nodes' side.
pub const NODES: &str = "10.77.0.1";
/// Address of the client's side.
pub const CLIENT: &str = "10.77.0.2";

static LABS: AtomicU32 = AtomicU32::new(0);

/// The two namespaces.
#[derive(Debug)]
pub struct Lab {
    nodes: String,
    client: String,
    /// Dropped with the namespaces: programs in them ask nobody for names, and change nothing of this machine's.
    _resolvers: [ResolvConf; 2],
}

impl Lab {
    /// Two namespaces and their cable.
    ///
    /// # Errors
    /// If the system does not let this process make them.
    pub fn new() -> Result<Self> {
        let mark = format!("{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let (nodes, client) = (format!("shoal-n{mark}"), format!("shoal-c{mark}"));
        let resolvers = [ResolvConf::new(&nodes)?, ResolvConf::new(&client)?];
        // Made first, so that what follows is undone if it fails half-way.
        let lab = Self { nodes, client, _resolvers: resolvers };
        run("ip", &["netns", "add", &lab.nodes])?;
        run("ip", &["netns", "add", &lab.client])?;
        let inside = |namespace: &str, arguments: &[&str]| run("ip", &[&["-n", namespace], arguments].concat());
        inside(&lab.nodes, &["link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &lab.client])?;
        for (namespace, address) in [(&lab.nodes, NODES), (&lab.client, CLIENT)] {
            inside(namespace, &["address", "add", &format!("{address}/24"), "dev", "cable"])?;
            inside(namespace, &["link", "set", "cable", "up"])?;
            inside(namespace, &["link", "set", "lo", "up"])?;
        }
        Ok(lab)
    }

    /// Limits what the client sends to so many kilobits a second.
    ///
    /// # Errors
    /// If `tc` refuses.
    pub fn limit_client(&self, kilobits: u32) -> Result<()> {
        let rate = format!("{kilobits}kbit");
        let tbf = ["tbf", "rate", &rate, "burst", "16kb", "latency", "100ms"];
        run("tc", &[&["-n", self.client.as_str(), "qdisc", "replace", "dev", "cable", "root"], &tbf[..]].concat())
    }

    /// Bytes that left the client's side so far, headers of every layer included.
    ///
    /// # Errors
    /// If the counter cannot be read.
    pub fn sent_by_client(&self) -> Result<u64> {
        let counter = self.on_client("cat").arg("/sys/class/net/cable/statistics/tx_bytes").output()?;
        Ok(String::from_utf8(counter.stdout)?.trim().parse()?)
    }

    /// A command on the nodes' side.
    #[must_use]
    pub fn on_nodes(&self, program: &str) -> Command {
        inside(&self.nodes, program)
    }

    /// A command on the client's side.
    #[must_use]
    pub fn on_client(&self, program: &str) -> Command {
        inside(&self.client, program)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.nodes, &self.client] {
            let _ = run("ip", &["netns", "delete", namespace]);
        }
    }
}

fn inside(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), said.trim());
    Ok(())
}
