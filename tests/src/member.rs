//! A real `shoald` that takes part in a private network, in a namespace of its own. It ends with its value.

use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::Shoald;
use crate::space::Space;

/// What it logs: what was dropped and why it was, when it ends.
const LOG: &str = "warn,shoal_node::vpn=debug";

/// The running node.
#[derive(Debug)]
pub struct Member {
    /// The process.
    pub node: Shoald,
    /// Its device, unless it only relays.
    pub device: Option<String>,
    /// Its address of IPv4.
    pub v4: Ipv4Addr,
    /// Its address of IPv6.
    pub v6: Ipv6Addr,
    log: PathBuf,
}

impl Member {
    /// Starts `program` in `space` with `--vpn` and these arguments, and waits until it is ready.
    ///
    /// # Errors
    /// If it is not, or has no private network or no addresses in it.
    pub fn start(program: &str, space: &Space, data: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_as(space.command(program), data, arguments)
    }

    /// The same, started as `command`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_as(mut command: Command, data: &Path, arguments: &[&str]) -> Result<Self> {
        let log = data.with_extension("log");
        command.stderr(OpenOptions::new().create(true).append(true).open(&log)?);
        let always = ["--vpn", "--quota", "64MB", "--log-level", LOG];
        let started = Shoald::start_with(command, data, &[&always, arguments].concat());
        let node = started.with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        let text = |name: &str| node.vpn[name].as_str().with_context(|| format!("no {name} in {}", node.vpn));
        let (v4, v6) = (text("ipv4")?.parse()?, text("ipv6")?.parse()?);
        let device = node.vpn["ifname"].as_str().map(str::to_owned);
        Ok(Self { node, device, v4, v6, log })
    }

    /// Both addresses.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// What it logged until now.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it, and says what it counted: the line it logs last.
    ///
    /// # Errors
    /// If it does not end, or ends with an error.
    pub fn counted(&mut self) -> Result<String> {
        self.node.terminate()?;
        let log = self.log();
        let line = log.lines().rev().find(|line| line.contains("the private network ends"));
        Ok(line.unwrap_or("nothing counted").to_owned())
    }
}

/// Addresses of a device, each with the length of its prefix, that may be used at once.
///
/// # Errors
/// If there is no such device.
pub fn addresses_of(space: &Space, device: &str) -> Result<Vec<String>> {
    let said: Value = serde_json::from_str(&space.ip(&format!("-j address show dev {device}"))?)?;
    let all = said[0]["addr_info"].as_array().context("no addresses")?.iter();
    let ready = all.filter(|address| address["tentative"] != Value::Bool(true));
    Ok(ready
        .map(|address| format!("{}/{}", address["local"].as_str().unwrap_or_default(), address["prefixlen"]))
        .collect())
}
