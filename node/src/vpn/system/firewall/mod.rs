//! Tables of nftables that are ours: made and removed whole, in one transaction each, by the program `nft`, which is what
//! distributions keep in step with their kernel. It touches no other table, and flushes nothing.
//!
//! A table outlives the process that made it, also one that was killed.

mod exit;
mod kill_switch;

pub use exit::ExitRules;
pub use kill_switch::KillSwitch;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};
use std::str::FromStr;

use shoal_protocol::mesh::prefix::Prefix;

use super::is_interface_name;

/// Where `nft` is looked for: the path of a service often lacks the last ones.
const PROGRAMS: [&str; 4] = ["nft", "/usr/sbin/nft", "/sbin/nft", "/usr/local/sbin/nft"];
/// What has to be installed where `nft` is missing, by the names of Debian, Fedora, Arch and Alpine.
pub const PACKAGE: &str = "nftables";
/// Elements of one list: far more than a policy document has, and loaded in well under a second.
const ELEMENTS_MAX: usize = 4096;
/// Characters of an error text of `nft` that are kept.
const SAID_MAX: usize = 500;
/// How the names of our tables begin.
const OURS: &str = "shoal_";
/// Characters of a table's name, ours included.
const NAME_MAX: usize = 40;

/// The name of a table of ours, in family `inet`: `shoal_` with lower-case letters, digits and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table(String);

impl Table {
    /// The exit's table of a network; `tag` tells networks of one machine apart.
    ///
    /// # Errors
    /// [`FirewallError::BadName`] if the tag is empty, long, or has more than lower-case letters and digits.
    pub fn exit(tag: &str) -> Result<Self, FirewallError> {
        format!("{OURS}exit_{tag}").parse()
    }

    /// The kill switch's table of a network.
    ///
    /// # Errors
    /// As for [`Self::exit`].
    pub fn kill_switch(tag: &str) -> Result<Self, FirewallError> {
        format!("{OURS}kill_{tag}").parse()
    }

    /// Whether it is that of a kill switch, which has to outlive a restart.
    #[must_use]
    pub fn is_kill_switch(&self) -> bool {
        self.0.strip_prefix(OURS).is_some_and(|rest| rest.starts_with("kill_"))
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Table {
    type Err = FirewallError;

    fn from_str(name: &str) -> Result<Self, FirewallError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let ours = name.strip_prefix(OURS).is_some_and(|rest| !rest.is_empty() && !rest.ends_with('_'));
        if ours && name.len() <= NAME_MAX && name.bytes().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(FirewallError::BadName(name.chars().take(NAME_MAX).collect()))
        }
    }
}

/// Why a table could not be made, removed or listed.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// There is no program `nft`.
    #[error("there is no program `nft`")]
    NoProgram,
    /// `nft` could not be run.
    #[error("the program `nft` cannot be run")]
    Run(#[source] io::Error),
    /// The process lacks CAP_NET_ADMIN.
    #[error("the system does not let this process change its firewall")]
    NotPermitted,
    /// The kernel refuses, for want of nf_tables or of one of its modules, say.
    #[error("nft refuses: {0}")]
    Refused(String),
    /// No name of a table of ours, or of an interface.
    #[error("`{0}` is no name for a table or interface of ours")]
    BadName(String),
    /// More than 4,096 elements in a list.
    #[error("a list of the firewall has more than {ELEMENTS_MAX} elements")]
    TooMany,
}

impl FirewallError {
    /// Whether the same request may succeed later with nothing changed by hand: `nft` could not be started just now.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Run(_))
    }
}

/// What a table holds, ready for `nft`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    table: Table,
    body: String,
}

impl Ruleset {
    fn new(table: Table) -> Self {
        Self { table, body: String::new() }
    }

    /// The table it is for.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// The transaction: whatever has the table's name goes, this takes its place. The first line is what lets the second
    /// succeed where there is none.
    fn transaction(&self) -> String {
        format!("{}table inet {} {{\n{}}}\n", removal(&self.table), self.table, self.body)
    }

    fn line(&mut self, line: &str) {
        self.body.push_str(line);
        self.body.push('\n');
    }

    /// The sets `name4` and `name6` of these prefixes.
    fn sets(&mut self, name: &str, prefixes: &[Prefix]) -> Result<(), FirewallError> {
        if prefixes.len() > ELEMENTS_MAX {
            return Err(FirewallError::TooMany);
        }
        for (digit, kind, v4) in [('4', "ipv4_addr", true), ('6', "ipv6_addr", false)] {
            let own: Vec<Prefix> = prefixes.iter().copied().filter(|prefix| prefix.address().is_ipv4() == v4).collect();
            let mut elements = String::new();
            for prefix in outermost(own) {
                let comma = if elements.is_empty() { "" } else { ", " };
                let _ = write!(elements, "{comma}{prefix}");
            }
            let elements = if elements.is_empty() { String::new() } else { format!(" elements = {{ {elements} }};") };
            self.line(&format!("set {name}{digit} {{ type {kind}; flags interval;{elements} }}"));
        }
        Ok(())
    }
}

/// The prefixes that no other one covers: a set takes no element twice.
fn outermost(mut prefixes: Vec<Prefix>) -> Vec<Prefix> {
    // In this order whatever covers a prefix is the last one kept before it.
    prefixes.sort_unstable_by_key(|prefix| (prefix.address(), prefix.length()));
    let mut kept: Vec<Prefix> = Vec::new();
    for prefix in prefixes {
        if !kept.last().is_some_and(|last| last.covers(&prefix)) {
            kept.push(prefix);
        }
    }
    kept
}

fn removal(table: &Table) -> String {
    format!("table inet {table}\ndelete table inet {table}\n")
}

/// An interface's name as nft reads it.
fn quoted(interface: &str) -> Result<String, FirewallError> {
    if is_interface_name(interface) {
        Ok(format!("\"{interface}\""))
    } else {
        Err(FirewallError::BadName(interface.chars().take(NAME_MAX).collect()))
    }
}

/// The program `nft`.
#[derive(Clone, Copy, Debug)]
pub struct Nft {
    program: &'static str,
}

impl Nft {
    /// Finds it.
    ///
    /// # Errors
    /// [`FirewallError::NoProgram`] where it is not installed.
    pub fn find() -> Result<Self, FirewallError> {
        let starts = |program: &&&str| {
            let mut command = Command::new(program);
            command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok()
        };
        let program = PROGRAMS.iter().find(starts).ok_or(FirewallError::NoProgram)?;
        Ok(Self { program })
    }

    /// Makes a table, in place of one that has its name. Either all of it stands or nothing has changed.
    ///
    /// # Errors
    /// [`FirewallError`].
    pub fn install(&self, ruleset: &Ruleset) -> Result<(), FirewallError> {
        self.run(&["-f", "-"], &ruleset.transaction()).map(drop)
    }

    /// Removes a table; one that is gone is fine.
    ///
    /// # Errors
    /// [`FirewallError`].
    pub fn remove(&self, table: &Table) -> Result<(), FirewallError> {
        self.run(&["-f", "-"], &removal(table)).map(drop)
    }

    /// The tables that begin like ours.
    ///
    /// # Errors
    /// [`FirewallError`].
    pub fn tables(&self) -> Result<Vec<Table>, FirewallError> {
        let output = self.run(&["list", "tables", "inet"], "")?;
        let said = String::from_utf8_lossy(&output.stdout);
        Ok(said.lines().filter_map(|line| line.strip_prefix("table inet ")?.parse().ok()).collect())
    }

    fn run(&self, arguments: &[&str], input: &str) -> Result<Output, FirewallError> {
        let mut command = Command::new(self.program);
        command.args(arguments).env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(FirewallError::Run)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends early says why, and closing the pipe is what ends its reading.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(FirewallError::Run)?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("Operation not permitted") {
            return Err(FirewallError::NotPermitted);
        }
        Err(FirewallError::Refused(said.trim().chars().take(SAID_MAX).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_are_ours_and_nothing_else() {
        for bad in
            ["shoal", "shoal_", "shoal_exit_", "filter", "shoal_a; flush ruleset", "shoal_A", "shoal_a\n", "shoal_ü"]
        {
            assert!(bad.parse::<Table>().is_err(), "{bad}");
        }
        assert!(Table::exit("").is_err() && Table::exit(&"a".repeat(60)).is_err() && Table::exit("a b").is_err());
        assert_eq!(Table::exit("home1").unwrap().to_string(), "shoal_exit_home1");
        assert!(Table::kill_switch("a").unwrap().is_kill_switch() && !Table::exit("a").unwrap().is_kill_switch());
    }

    #[test]
    fn sets_have_no_element_within_another() {
        let prefixes = ["fd00:ec2::254/128", "10.1.0.0/16", "10.0.0.0/8", "fc00::/7", "10.0.0.0/8", "11.0.0.0/8"];
        let prefixes: Vec<Prefix> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
        let mut ruleset = Ruleset::new(Table::exit("a").unwrap());
        ruleset.sets("deny", &prefixes).unwrap();
        ruleset.sets("none", &[]).unwrap();
        assert_eq!(
            ruleset.body,
            "set deny4 { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 11.0.0.0/8 }; }\n\
             set deny6 { type ipv6_addr; flags interval; elements = { fc00::/7 }; }\n\
             set none4 { type ipv4_addr; flags interval; }\nset none6 { type ipv6_addr; flags interval; }\n"
        );
        let many = vec![Prefix::around(std::net::Ipv4Addr::LOCALHOST.into(), 32); ELEMENTS_MAX + 1];
        assert!(matches!(ruleset.sets("many", &many), Err(FirewallError::TooMany)));
    }

    #[test]
    fn an_interface_cannot_end_its_own_quotes() {
        assert!(quoted("a\" accept; #").is_err());
        assert_eq!(quoted("shoal0").unwrap(), "\"shoal0\"");
    }
}
