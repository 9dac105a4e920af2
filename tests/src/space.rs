//! One network namespace, for tests that lay cables between machines of their own. Needs root, `ip` and, for rules, `nft`;
//! it goes with its value. Nothing outside of the namespaces made here is changed.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::resolver::ResolvConf;
use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static SPACES: AtomicU32 = AtomicU32::new(0);

/// The namespace. Dropped after the processes in it, for it lives on without a name as long as they do.
#[derive(Debug)]
pub struct Space {
    name: String,
    resolver: ResolvConf,
}

impl Space {
    /// A namespace with nothing in it but its loopback, switched on. The name holds this process's id.
    ///
    /// # Errors
    /// If the system does not let this process make one.
    pub fn new() -> Result<Self> {
        let name = format!("shoal-s{}-{}", std::process::id(), SPACES.fetch_add(1, Ordering::Relaxed));
        said("ip", &["netns", "add", &name], None)?;
        let resolver = ResolvConf::new(&name).inspect_err(|_| drop(said("ip", &["netns", "delete", &name], None)))?;
        let space = Self { name, resolver };
        space.ip("link set lo up")?;
        Ok(space)
    }

    /// Its name, for `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where programs that run here ask for names.
    #[must_use]
    pub const fn resolver(&self) -> &ResolvConf {
        &self.resolver
    }

    /// A cable from here to `other`, with a plug and an address, such as `("left", "10.0.0.1/24")`, at each end. Plugs make
    /// no addresses of their own, so that what there is does not change by itself.
    ///
    /// # Errors
    /// If `ip` refuses.
    pub fn cable(&self, here: (&str, &str), other: &Self, there: (&str, &str)) -> Result<()> {
        self.ip(&format!("link add {} type veth peer name {} netns {}", here.0, there.0, other.name))?;
        for (space, (plug, address)) in [(self, here), (other, there)] {
            space.ip(&format!("link set {plug} addrgenmode none"))?;
            space.ip(&format!("address add {address} dev {plug}"))?;
            space.ip(&format!("link set {plug} up"))?;
        }
        Ok(())
    }

    /// What `ip` says to these words here.
    ///
    /// # Errors
    /// If it refuses.
    pub fn ip(&self, words: &str) -> Result<String> {
        let words: Vec<&str> = ["-n", &self.name].into_iter().chain(words.split_whitespace()).collect();
        said("ip", &words, None)
    }

    /// What `nft` says to these rules here.
    ///
    /// # Errors
    /// If it refuses.
    pub fn nft(&self, rules: &str) -> Result<String> {
        said("ip", &["netns", "exec", &self.name, "nft", "-f", "-"], Some(rules))
    }

    /// A command that runs here.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `body` on a thread that is here. A socket it makes stays here, wherever it is used.
    ///
    /// # Errors
    /// If the thread cannot come here, or what `body` says.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let door = File::open(format!("/run/netns/{}", self.name)).context("the namespace is gone")?;
        let thread = || {
            move_into_link_name_space(door.as_fd(), Some(LinkNameSpaceType::Network))?;
            body()
        };
        std::thread::scope(|scope| scope.spawn(thread).join())
            .map_err(|_| anyhow!("a thread in a namespace panicked"))?
    }

    /// Links, addresses, routes and rules here, to be compared with those of another moment.
    ///
    /// # Errors
    /// If `ip` does not say.
    pub fn tables(&self) -> Result<String> {
        let asked =
            ["-o -d link", "-o address", "-4 route show table all", "-6 route show table all", "rule", "-6 rule"];
        asked.into_iter().map(|words| self.ip(words)).collect()
    }

    /// What the kernel counted here under this name, `TCPOFOQueue` for segments that came out of order, say.
    ///
    /// # Errors
    /// If it counts no such thing.
    pub fn counted(&self, name: &str) -> Result<u64> {
        // Pairs of lines: names, then numbers.
        let files = ["netstat", "snmp"].map(|file| format!("/proc/thread-self/net/{file}"));
        let text = self.inside(|| Ok(std::fs::read_to_string(&files[0])? + &std::fs::read_to_string(&files[1])?))?;
        let lines: Vec<&str> = text.lines().collect();
        let words = |line: &'_ str| line.split_whitespace().map(str::to_owned).collect::<Vec<String>>();
        let found = lines.chunks_exact(2).find_map(|pair| {
            let at = words(pair[0]).iter().position(|word| word == name)?;
            words(pair[1]).get(at).cloned()
        });
        Ok(found.with_context(|| format!("nothing is counted as {name}"))?.parse()?)
    }

    /// Whether one echo request of so many bytes, never cut on its way, is answered within a second.
    ///
    /// # Errors
    /// If `ping` cannot be started.
    pub fn ping(&self, to: std::net::IpAddr, bytes: usize) -> Result<bool> {
        let (to, bytes) = (to.to_string(), bytes.to_string());
        let output = self.pings(&["-c", "1", "-W", "1", "-M", "do", "-s", &bytes, &to])?;
        Ok(output.status.success())
    }

    /// What `ping` with these words says.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn pings(&self, words: &[&str]) -> Result<Output> {
        self.command("ping").args(words).stdin(Stdio::null()).output().context("cannot start ping")
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = said("ip", &["netns", "delete", &self.name], None);
    }
}

/// What a program says that has to succeed.
fn said(program: &str, words: &[&str], input: Option<&str>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(words).stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("cannot start {program}"))?;
    if let (Some(mut pipe), Some(text)) = (child.stdin.take(), input) {
        pipe.write_all(text.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{program} {}: {}", words.join(" "), errors.trim());
    Ok(String::from_utf8(output.stdout)?)
}
