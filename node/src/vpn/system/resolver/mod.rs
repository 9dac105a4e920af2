//! How programs of this machine come to ask our name server: by systemd-resolved where that answers them, else by a marked
//! block in `/etc/resolv.conf`. It answers no question, and chooses no server but ours.
//!
//! What is done depends on what [`ResolvConf::PATH`] is, for that file is what programs read:
//!
//! | it is | then |
//! |---|---|
//! | a link to a file of systemd-resolved, or names its stub alone | `resolvectl` tells it which domains we answer; what it asks for others stays as it was |
//! | a file | our block is put in front, and the servers it named before are whom we ask for other domains |
//!
//! Where all packets leave through an exit, all questions do ([`Asks::Everything`]): systemd-resolved is told that we answer
//! everything, and in the file the other servers are commented out, for a resolver asks the next one when ours fails.
//!
//! | it is | then |
//! |---|---|
//! | another link, or nothing | nothing: whoever makes that file would undo it, or not know of it |

mod resolv_conf;
mod resolved;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub use resolv_conf::{Nameserver, ResolvConf};
pub use resolved::Resolved;

/// Where systemd-resolved answers, by the servers it has from others for what is not asked of us.
pub(crate) const RESOLVED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 53);

use super::state::JournalError;

/// Why programs are not led to our name server. It answers those who ask it by its address all the same.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// The file cannot be read or written.
    #[error("{} cannot be used", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It is a link to a file somebody else makes.
    #[error("{} is a link to {}, which another program makes", .path.display(), .target.display())]
    Link {
        /// Which.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// There is none, or it is no file.
    #[error("{} is no file", .0.display())]
    NoFile(PathBuf),
    /// It is longer than such a file is.
    #[error("{} is too long", .0.display())]
    TooLong(PathBuf),
    /// systemd-resolved answers programs, and there is no `resolvectl` to tell it anything.
    #[error("systemd-resolved runs, and there is no program resolvectl")]
    NoProgram,
    /// `resolvectl` refused.
    #[error("resolvectl: {0}")]
    Refused(String),
    /// `resolvectl` did not end in time, or could not be started.
    #[error("resolvectl does not answer")]
    Run(#[source] io::Error),
    /// What would be made cannot be noted, so it is not made.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl ResolverError {
    /// Whether the same may succeed later with nothing changed by hand.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Run(_) | Self::Refused(_) => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::Journal(error) => error.retryable(),
            Self::Link { .. } | Self::NoFile(_) | Self::TooLong(_) | Self::NoProgram => false,
        }
    }
}

/// Which way there is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// systemd-resolved.
    Resolved(Resolved),
    /// A block in this file.
    File(ResolvConf),
}

impl Way {
    /// Looks at `file`; `data` is where its content would be kept.
    ///
    /// # Errors
    /// [`ResolverError`] where there is no way.
    pub fn find(file: &Path, data: &Path) -> Result<Self, ResolverError> {
        let io = |source| ResolverError::Io { path: file.to_owned(), source };
        let kind = match std::fs::symlink_metadata(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ResolverError::NoFile(file.to_owned()));
            }
            other => other.map_err(io)?.file_type(),
        };
        if kind.is_symlink() {
            let target = std::fs::read_link(file).map_err(io)?;
            // Where it leads in the end; one that leads nowhere is judged by what it says.
            let end = file.canonicalize().unwrap_or_else(|_| target.clone());
            if resolved::is_its_file(&end) {
                return Ok(Self::Resolved(Resolved::find()?));
            }
            return Err(ResolverError::Link { path: file.to_owned(), target });
        }
        if !kind.is_file() {
            return Err(ResolverError::NoFile(file.to_owned()));
        }
        let conf = ResolvConf::new(file, data);
        if resolved::is_its_stub(&conf.nameservers()?) {
            return Ok(Self::Resolved(Resolved::find()?));
        }
        Ok(Self::File(conf))
    }
}

/// What programs are led here with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Our domains; the rest goes, through us or not, where it went before.
    Ours,
    /// Everything, and nobody else is asked.
    Everything,
}

/// What a name server of ours is on its machine.
#[derive(Clone, Debug)]
pub struct Server<'a> {
    /// The device it is on.
    pub interface: &'a str,
    /// Its address: the one that never changes.
    pub address: Ipv6Addr,
    /// What it answers.
    pub domains: &'a [String],
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_written_and_a_link_is_not() {
        let room = tempfile::tempdir().unwrap();
        let at = |name: &str| room.path().join(name);
        assert!(matches!(Way::find(&at("none"), room.path()), Err(ResolverError::NoFile(_))));
        fs::write(at("file"), "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(Way::find(&at("file"), room.path()).unwrap(), Way::File(ResolvConf::new(&at("file"), room.path())));
        symlink(at("file"), at("link")).unwrap();
        assert!(matches!(Way::find(&at("link"), room.path()), Err(ResolverError::Link { .. })));
        symlink(at("gone"), at("dangling")).unwrap();
        assert!(matches!(Way::find(&at("dangling"), room.path()), Err(ResolverError::Link { .. })));
        assert!(matches!(Way::find(room.path(), room.path()), Err(ResolverError::NoFile(_))));
        // Links into the folder of systemd-resolved, also where it does not run: then nobody reads what we would write.
        symlink("/run/systemd/resolve/stub-resolv.conf", at("stub")).unwrap();
        fs::write(at("stub-by-name"), "nameserver 127.0.0.53\noptions edns0\n").unwrap();
        for name in ["stub", "stub-by-name"] {
            assert!(matches!(Way::find(&at(name), room.path()), Ok(Way::Resolved(_)) | Err(ResolverError::NoProgram)));
        }
    }
}
