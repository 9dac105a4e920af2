//! The journal of what outlives a killed process: it is noted here, durably, before it is made, so that the next start or
//! `shoald vpn cleanup` undoes exactly that. It holds no secret and knows no peer.
//!
//! The file is `vpn.made` in the data directory, mode 0600, replaced as a whole: one line of JSON, `version` 1, the boot
//! and the network namespace it was written in, and what was made, in that order. After another boot all of it but files is
//! gone by itself; in another namespace none of it can be reached.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::firewall::{FirewallError, Nft, Table};
use super::netlink::{Netlink, NetlinkError, Route, Rule};
use super::resolver::{ResolvConf, ResolverError};
use super::sysctl::{Before, SysctlError};
use crate::files::{read_bounded, write_private};

/// The name of the file.
pub const FILE: &str = "vpn.made";
/// The version of its format.
const VERSION: u32 = 1;
/// Bytes of the largest file: [`MADE_MAX`] entries of up to 256 bytes.
const FILE_MAX: u64 = 1 << 20;
/// Entries it takes: some ten for a network, and single routes for those who do not note their table. Beyond that a note
/// is refused, and so is what would have been made.
const MADE_MAX: usize = 4096;

/// One thing outside of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Made {
    /// A TUN device; gone with its process, unless that lives. Noted once it has a number.
    Interface {
        /// Its name.
        name: String,
        /// Its number: another device of that name is somebody else's.
        index: u32,
    },
    /// One route.
    Route(Route),
    /// A routing table that is ours alone: every route of ours in it.
    RouteTable(u32),
    /// One rule.
    Rule(Rule),
    /// One table of nftables.
    Firewall(#[serde(with = "text")] Table),
    /// A switch, as it was before. The first note of a switch counts.
    Switch(Before),
    /// A block in a file of the system's, which is on disk: it outlives a boot.
    Resolver(ResolvConf),
}

impl Made {
    /// Whether it has to stand between two runs, so that nothing leaves the machine meanwhile.
    #[must_use]
    pub fn is_kill_switch(&self) -> bool {
        matches!(self, Self::Firewall(table) if table.is_kill_switch())
    }

    /// Whether it is still there after the system was started anew.
    #[must_use]
    pub const fn outlives_boot(&self) -> bool {
        matches!(self, Self::Resolver(_))
    }

    /// Whether a note of this is no news after `other`.
    fn is_noted_by(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Switch(this), Self::Switch(noted)) => this.switch == noted.switch,
            _ => self == other,
        }
    }

    fn undo(&self, netlink: &mut Netlink) -> Result<(), UndoError> {
        match self {
            Self::Interface { name, index } => match netlink.link(name)? {
                Some(link) if link.index == *index && link.tun => Ok(netlink.remove_link(*index)?),
                _ => Ok(()),
            },
            Self::Route(route) => Ok(netlink.remove_route(route)?),
            Self::RouteTable(table) => Ok(netlink.remove_table(*table).map(drop)?),
            Self::Rule(rule) => Ok(netlink.remove_rule(rule)?),
            Self::Firewall(table) => Ok(Nft::find()?.remove(table)?),
            Self::Switch(before) => Ok(before.restore()?),
            Self::Resolver(conf) => Ok(conf.restore()?),
        }
    }
}

/// Why something could not be undone.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// A link, route or rule.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A table of nftables.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// A switch.
    #[error(transparent)]
    Switch(#[from] SysctlError),
    /// The file of the system's resolver.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
}

impl UndoError {
    /// Whether the same may succeed later with nothing changed by hand.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Netlink(source) => source.retryable(),
            Self::Firewall(source) => source.retryable(),
            Self::Switch(source) => source.retryable(),
            Self::Resolver(source) => source.retryable(),
        }
    }
}

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Its file.
    #[error("{} cannot be used", .path.display())]
    Io {
        /// Where it is.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It is not one, or was changed by hand.
    #[error("{} is damaged", .path.display())]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A later shoald wrote it.
    #[error("{} is of version {version}, and this shoald knows {VERSION}", .path.display())]
    Newer {
        /// Where it is.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// No entry more.
    #[error("the journal has {MADE_MAX} entries already")]
    Full,
    /// It was written in another network namespace that may still be there.
    #[error("what it names was made in another network namespace, {0}")]
    Elsewhere(String),
}

impl JournalError {
    /// Whether the same may succeed later with nothing changed by hand: a full disk may have room again.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

/// Where a journal's entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Here, if at all.
    Here,
    /// Nowhere: the system was started anew since.
    Rebooted,
    /// In another network namespace.
    Elsewhere,
}

/// The file's content, and its form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    boot: String,
    namespace: String,
    made: Vec<Made>,
}

/// All a reader of any version can know.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// What became of one entry.
#[derive(Debug)]
pub struct Undone {
    /// The entry.
    pub made: Made,
    /// It is gone, or why not.
    pub result: Result<(), UndoError>,
}

/// The journal of one data directory. One process at a time may have it.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    content: Content,
    /// The boot and namespace this process is in.
    here: (String, String),
}

impl Journal {
    /// Reads the journal of a data directory; none is an empty one.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let path = directory.join(FILE);
        let io = |source| JournalError::Io { path: path.clone(), source };
        let here = here().map_err(io)?;
        let content = match read_bounded(&path, FILE_MAX).map_err(io)? {
            Some(bytes) => parse(&bytes, &path)?,
            None => empty(&here),
        };
        Ok(Self { path, content, here })
    }

    /// What was noted and not undone, in the order of the notes.
    #[must_use]
    pub fn made(&self) -> &[Made] {
        &self.content.made
    }

    /// Where that is.
    #[must_use]
    pub fn place(&self) -> Place {
        if self.content.made.is_empty() || (&self.content.boot, &self.content.namespace) == (&self.here.0, &self.here.1)
        {
            Place::Here
        } else if self.content.boot == self.here.0 {
            Place::Elsewhere
        } else {
            Place::Rebooted
        }
    }

    /// Notes what is about to be made; what is noted already stays as it is. It is on disk when this returns, and only
    /// then may it be made. Entries of an earlier boot are dropped, but
    /// for those that outlive one.
    ///
    /// # Errors
    /// [`JournalError`]; then nothing was noted, and none of it may be made. `Elsewhere` while there are entries of
    /// another namespace: undo them there, or [`Self::forget`] them.
    pub fn note(&mut self, made: &[Made]) -> Result<(), JournalError> {
        let mut content = match self.place() {
            Place::Here => Content { made: self.content.made.clone(), ..empty(&self.here) },
            Place::Rebooted => {
                let left = self.content.made.iter().filter(|made| made.outlives_boot());
                Content { made: left.cloned().collect(), ..empty(&self.here) }
            }
            Place::Elsewhere => return Err(JournalError::Elsewhere(self.content.namespace.clone())),
        };
        let before = content.made.len();
        for one in made {
            if !content.made.iter().any(|noted| one.is_noted_by(noted)) {
                content.made.push(one.clone());
            }
        }
        if content.made.len() == before && content == self.content {
            return Ok(());
        }
        if content.made.len() > MADE_MAX {
            return Err(JournalError::Full);
        }
        self.replace(content)
    }

    /// Undoes what was noted and what `which` wants, the last first, and goes on after a failure. What is gone is no
    /// longer in the journal afterwards, what failed is. To undo twice is fine.
    ///
    /// # Errors
    /// [`JournalError`]: nothing was undone (`Elsewhere`), or all was tried and the journal still names it (`Io`).
    pub fn undo(&mut self, netlink: &mut Netlink, which: impl Fn(&Made) -> bool) -> Result<Vec<Undone>, JournalError> {
        let place = self.place();
        if place == Place::Elsewhere {
            return Err(JournalError::Elsewhere(self.content.namespace.clone()));
        }
        let (chosen, kept): (Vec<Made>, Vec<Made>) =
            self.content.made.iter().cloned().partition(|made| which(made) || place == Place::Rebooted);
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let undo = |made: Made| {
            let is_there = place == Place::Here || made.outlives_boot();
            let result = if is_there { made.undo(netlink) } else { Ok(()) };
            Undone { made, result }
        };
        let undone: Vec<Undone> = chosen.into_iter().rev().map(undo).collect();
        let failed = undone.iter().rev().filter(|one| one.result.is_err()).map(|one| one.made.clone());
        // What stays was made before what failed, or is undone as well after it.
        let made = kept.into_iter().chain(failed).collect();
        self.replace(Content { made, ..empty(&self.here) })?;
        Ok(undone)
    }

    /// Drops all entries without undoing them: for a namespace that is gone, as after a container was started anew.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn forget(&mut self) -> Result<(), JournalError> {
        self.replace(empty(&self.here))
    }

    fn replace(&mut self, content: Content) -> Result<(), JournalError> {
        let written = if content.made.is_empty() { self.remove() } else { self.write(&content) };
        written.map_err(|source| JournalError::Io { path: self.path.clone(), source })?;
        self.content = content;
        Ok(())
    }

    fn write(&self, content: &Content) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(content)?;
        bytes.push(b'\n');
        if bytes.len() as u64 > FILE_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        write_private(&self.path, &bytes)
    }

    /// Nothing made is no file. That it is gone need not be durable: to undo twice is fine.
    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn parse(bytes: &[u8], path: &Path) -> Result<Content, JournalError> {
    let damaged = |source| JournalError::Damaged { path: path.to_owned(), source };
    let Versioned { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version != VERSION {
        return Err(JournalError::Newer { path: path.to_owned(), version });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

fn empty((boot, namespace): &(String, String)) -> Content {
    Content { version: VERSION, boot: boot.clone(), namespace: namespace.clone(), made: Vec::new() }
}

/// The boot, and the network namespace of this thread.
fn here() -> io::Result<(String, String)> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    let namespace = fs::read_link("/proc/thread-self/ns/net")?.to_string_lossy().into_owned();
    Ok((boot, namespace))
}

/// What has one text form, as that text.
pub(crate) mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr,
        T::Err: Display,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
