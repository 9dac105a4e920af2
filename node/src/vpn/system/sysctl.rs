//! Switches of the kernel's network that the VPN needs: read, set, and put back as they were. It decides on none of them.
//!
//! Forwarding is more than one switch: to write `all` overwrites what every interface had by itself. So what is noted
//! before are `all` and the interfaces that differed, and both are put back.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::is_interface_name;

/// Where the kernel shows its switches; those of the network are of the reader's namespace.
const ROOT: &str = "/proc/sys/net";
/// Bytes of the longest value of a switch here.
const VALUE_MAX: usize = 16;
/// Switches for interfaces to come and for all at once: no interfaces.
const TEMPLATES: [&str; 2] = ["all", "default"];
/// Interfaces looked at; a machine with more keeps a value for them that `all` gave.
const INTERFACES_MAX: usize = 4096;

/// A switch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// Packets of others are passed on, IPv4.
    ForwardV4,
    /// Packets of others are passed on, IPv6. A machine that does so ignores router advertisements, unless
    /// [`Self::AcceptAdvertisements`] of the interface is 2.
    ForwardV6,
    /// The mark of a packet counts when the way back to its sender is looked for.
    SourceMark,
    /// Whether an interface learns its addresses and default route from routers: 0, 1 while it does not forward, 2.
    AcceptAdvertisements(String),
}

/// What a switch was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    /// Which one.
    pub switch: Switch,
    /// Its value.
    pub value: String,
    /// Interfaces with another value of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<(String, String)>,
}

/// Why a switch could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The system does not let this process.
    #[error("{} may not be written", .0.display())]
    NotPermitted(PathBuf),
    /// This kernel has no such switch: IPv6 switched off, say, or the interface is gone.
    #[error("there is no {}", .0.display())]
    Missing(PathBuf),
    /// Not a value or interface name this file knows how to write.
    #[error("`{0}` is no value of a switch")]
    BadValue(String),
    /// The kernel refuses or fails.
    #[error("{} cannot be used", .path.display())]
    Other {
        /// Its file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl SysctlError {
    /// Whether the same request may succeed later with nothing changed by hand: never known to.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        false
    }

    fn of(source: io::Error, path: &Path) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::NotPermitted(path),
            io::ErrorKind::NotFound => Self::Missing(path),
            _ => Self::Other { path, source },
        }
    }
}

impl Switch {
    fn path(&self) -> Result<PathBuf, SysctlError> {
        let below = match self {
            Self::ForwardV4 => "ipv4/conf/all/forwarding".to_owned(),
            Self::ForwardV6 => "ipv6/conf/all/forwarding".to_owned(),
            Self::SourceMark => "ipv4/conf/all/src_valid_mark".to_owned(),
            Self::AcceptAdvertisements(name) if is_interface_name(name) => format!("ipv6/conf/{name}/accept_ra"),
            Self::AcceptAdvertisements(name) => return Err(SysctlError::BadValue(name.clone())),
        };
        Ok(Path::new(ROOT).join(below))
    }

    /// The folder of the interfaces that `all` overwrites.
    fn interfaces(&self) -> Option<PathBuf> {
        let family = match self {
            Self::ForwardV4 => "ipv4",
            Self::ForwardV6 => "ipv6",
            Self::SourceMark | Self::AcceptAdvertisements(_) => return None,
        };
        Some(Path::new(ROOT).join(family).join("conf"))
    }

    /// Its value.
    ///
    /// # Errors
    /// [`SysctlError`].
    pub fn read(&self) -> Result<String, SysctlError> {
        let path = self.path()?;
        read(&path).map_err(|error| SysctlError::of(error, &path))
    }

    /// All that [`Self::set`] would change.
    ///
    /// # Errors
    /// [`SysctlError`].
    pub fn before(&self) -> Result<Before, SysctlError> {
        let value = self.read()?;
        let mut others = Vec::new();
        if let Some(folder) = self.interfaces() {
            let entries = fs::read_dir(&folder).map_err(|error| SysctlError::of(error, &folder))?;
            for entry in entries.take(INTERFACES_MAX).flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // An interface that goes meanwhile has nothing to put back.
                let own = read(&entry.path().join("forwarding")).unwrap_or_else(|_| value.clone());
                if name != "all" && own != value && is_interface_name(&name) {
                    others.push((name, own));
                }
            }
            others.sort();
        }
        Ok(Before { switch: self.clone(), value, others })
    }

    /// Sets it. What has the value is not written: writing is what overwrites the interfaces.
    ///
    /// # Errors
    /// [`SysctlError`].
    pub fn set(&self, value: &str) -> Result<(), SysctlError> {
        if self.read()? == value {
            return Ok(());
        }
        let path = self.path()?;
        write(&path, value)
    }
}

/// Interfaces that learn their addresses and default route from routers as long as they do not forward.
#[must_use]
pub fn learning_interfaces() -> BTreeSet<String> {
    let folder = Path::new(ROOT).join("ipv6/conf");
    let is = |path: PathBuf, value: &str| read(&path).is_ok_and(|found| found == value);
    let Ok(entries) = fs::read_dir(&folder) else { return BTreeSet::new() };
    let learning = entries
        .take(INTERFACES_MAX)
        .flatten()
        .filter(|entry| is(entry.path().join("accept_ra"), "1") && is(entry.path().join("forwarding"), "0"));
    let names = learning.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| is_interface_name(name) && !TEMPLATES.contains(&name.as_str())).collect()
}

impl Before {
    /// Puts everything back. A switch or interface that is gone is fine.
    ///
    /// # Errors
    /// [`SysctlError`], the first; the rest is put back nevertheless.
    pub fn restore(&self) -> Result<(), SysctlError> {
        let mut first = self.switch.set(&self.value).or_else(missing_is_fine);
        if let Some(folder) = self.switch.interfaces() {
            for (name, value) in self.others.iter().filter(|(name, _)| is_interface_name(name)) {
                let path = folder.join(name).join("forwarding");
                first = first.and(write(&path, value).or_else(missing_is_fine));
            }
        }
        first
    }
}

fn missing_is_fine(error: SysctlError) -> Result<(), SysctlError> {
    if matches!(error, SysctlError::Missing(_)) { Ok(()) } else { Err(error) }
}

fn read(path: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

/// Writes a number of few digits, which is all these switches take; a journal cannot make it write anything else.
fn write(path: &Path, value: &str) -> Result<(), SysctlError> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    if digits.is_empty() || value.len() > VALUE_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(SysctlError::BadValue(value.chars().take(VALUE_MAX).collect()));
    }
    fs::write(path, value).map_err(|error| SysctlError::of(error, path))
}
