//! What a command is about: a manifest file or a capability. Secret capabilities are taken from files and the
//! environment, never from argv, and never shown.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use shoal_client::client::Failure;
use shoal_client::manifest::{FileError, MANIFEST_MAX, ManifestFile};
use shoal_protocol::NetworkId;
use shoal_protocol::capability::{CAPABILITY_TEXT_MAX, Capability, CapabilityError, CapabilityKind};
use zeroize::Zeroizing;

use crate::exit::{Problem, failure_of_io};

/// Beginnings of capability texts that are secrets by themselves.
const SECRET_PREFIXES: [&str; 3] = ["shoalr1", "shoalv1", "shoalo1"];
/// Beginning of the one that may be typed.
const PLAIN_PREFIX: &str = "shoal1";

/// Why there is nothing to work on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// A secret on the command line.
    #[error("a secret capability ({0}..) was given on the command line")]
    SecretInArgv(&'static str),
    /// Neither argument nor file nor variable.
    #[error("no manifest or capability was given")]
    Missing,
    /// An argument of no characters.
    #[error("TARGET is empty")]
    Empty,
    /// Both.
    #[error("TARGET and --capability-file were both given")]
    Both,
    /// Not a capability.
    #[error("{place}: {cause}")]
    Capability {
        /// Where it came from.
        place: &'static str,
        /// Why.
        cause: CapabilityError,
    },
    /// The file cannot be read.
    #[error("cannot read {path}: {cause}")]
    Io {
        /// Which.
        path: String,
        /// The system's reason.
        cause: io::Error,
    },
    /// The file is no manifest.
    #[error("{path}: {cause}")]
    Manifest {
        /// Which.
        path: String,
        /// Why.
        cause: FileError,
    },
}

impl From<TargetError> for Problem {
    fn from(error: TargetError) -> Self {
        let what = error.to_string();
        match error {
            TargetError::SecretInArgv(_) => Self::usage(
                what,
                "every user of this machine can see command lines, and shells keep them",
                "put it into a file of mode 0600 and use --capability-file FILE (a file of that name is written ./NAME)",
            ),
            TargetError::Missing => Self::usage(
                what,
                "TARGET is missing, and so are --capability-file and SHOAL_CAPABILITY",
                "name a manifest file or a shoal1.. capability",
            ),
            TargetError::Empty => Self::usage(
                what,
                "the command or file that should have given it failed",
                "look at what it says, then name a manifest file or a shoal1.. capability",
            ),
            TargetError::Both => Self::usage(what, "only one can be meant", "leave one out"),
            TargetError::Capability { .. } => {
                Self::usage(what, "it was cut or mistyped on its way here", "copy the whole string again")
            }
            TargetError::Io { cause, .. } => Self::new(
                failure_of_io(&cause),
                what,
                "the path is wrong, or the file is not yours",
                "correct the path",
            ),
            TargetError::Manifest { cause, .. } => Self::new(
                of_file(&cause),
                what,
                "it is another file, or was damaged on its way here",
                "use the capability instead, or another copy",
            ),
        }
    }
}

/// The failure behind a manifest file that was refused.
pub(crate) const fn of_file(error: &FileError) -> Failure {
    match error {
        FileError::Version(_) => Failure::Other,
        _ => Failure::Integrity,
    }
}

/// What a command is about.
#[derive(Debug)]
pub(crate) enum Target {
    /// A capability of any kind.
    Capability(Capability),
    /// A manifest file.
    Manifest(Box<ManifestFile>),
}

impl Target {
    /// The capability, or the one inside the manifest file.
    pub(crate) fn capability(&self) -> Capability {
        match self {
            Self::Capability(capability) => capability.clone(),
            Self::Manifest(file) => {
                let (locate, hints) = (CapabilityKind::Locate, file.hints.clone());
                Capability::new(locate, &file.network, file.owner, *file.locator.as_bytes(), [0; 32], hints)
            }
        }
    }

    /// The manifest file, as a cache of records and pages.
    pub(crate) fn cached(&self) -> Option<&ManifestFile> {
        match self {
            Self::Capability(_) => None,
            Self::Manifest(file) => Some(file),
        }
    }

    /// Its network, where it names it in full.
    pub(crate) fn network(&self) -> Option<NetworkId> {
        self.cached().map(|file| file.network)
    }

    /// Whether a password opens it, rather than a key of its own.
    pub(crate) fn needs_password(&self) -> bool {
        match self {
            Self::Capability(capability) => capability.kind() == CapabilityKind::Locate,
            Self::Manifest(_) => true,
        }
    }
}

/// Refuses a command line that holds a secret capability anywhere, before anything could repeat it in a message.
pub(crate) fn check_argv(arguments: &[OsString]) -> Result<(), TargetError> {
    let found = arguments.iter().find_map(|argument| {
        let value = argument.to_str()?;
        let value =
            value.split_once('=').filter(|(option, _)| option.starts_with('-')).map_or(value, |(_, value)| value);
        SECRET_PREFIXES.into_iter().find(|prefix| begins(value, prefix))
    });
    found.map_or(Ok(()), |prefix| Err(TargetError::SecretInArgv(prefix)))
}

/// Whether this word is meant as a capability: decided by its beginning alone.
pub(crate) fn is_capability(word: &OsStr) -> bool {
    word.to_str().is_some_and(|word| begins(word, PLAIN_PREFIX))
}

/// Capabilities are bech32: upper and lower case are the same.
fn begins(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Finds what a command is about: the word, else the file, else SHOAL_CAPABILITY. Blocks where the file is stdin.
pub(crate) fn resolve(
    word: Option<&OsStr>,
    capability_file: Option<&Path>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Target, TargetError> {
    match (word, capability_file) {
        (Some(_), Some(_)) => Err(TargetError::Both),
        (Some(word), None) if word.is_empty() => Err(TargetError::Empty),
        (Some(word), None) if is_capability(word) => {
            capability(word.to_str().unwrap_or_default(), "the capability on the command line")
        }
        (Some(word), None) => Ok(Target::Manifest(Box::new(manifest(Path::new(word))?.1))),
        (None, Some(path)) => {
            let text = if path == Path::new("-") { bounded(io::stdin().lock(), path) } else { open(path) };
            let text = Zeroizing::new(text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())?);
            capability(&text, "the capability file")
        }
        (None, None) => {
            let value = variable("SHOAL_CAPABILITY").filter(|value| !value.is_empty()).ok_or(TargetError::Missing)?;
            capability(value.to_str().unwrap_or_default(), "SHOAL_CAPABILITY")
        }
    }
}

fn capability(text: &str, place: &'static str) -> Result<Target, TargetError> {
    Capability::parse(text).map(Target::Capability).map_err(|cause| TargetError::Capability { place, cause })
}

fn failed(path: &Path) -> impl Fn(io::Error) -> TargetError {
    let path = path.display().to_string();
    move |cause| TargetError::Io { path: path.clone(), cause }
}

fn open(path: &Path) -> Result<Zeroizing<Vec<u8>>, TargetError> {
    bounded(File::open(path).map_err(failed(path))?, path)
}

/// A capability with white space around it; one that is longer fails its checksum.
fn bounded(source: impl Read, path: &Path) -> Result<Zeroizing<Vec<u8>>, TargetError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * CAPABILITY_TEXT_MAX));
    source.take(2 * CAPABILITY_TEXT_MAX as u64).read_to_end(&mut bytes).map_err(failed(path))?;
    Ok(bytes)
}

/// A manifest file: its bytes and what they say.
pub(crate) fn manifest(path: &Path) -> Result<(Vec<u8>, ManifestFile), TargetError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed(path))?;
    file.take(MANIFEST_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed(path))?;
    let decoded = ManifestFile::decode(&bytes);
    match decoded {
        Ok(file) => Ok((bytes, file)),
        Err(cause) => Err(TargetError::Manifest { path: path.display().to_string(), cause }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::PublicKey;

    fn text(kind: CapabilityKind) -> String {
        let network = NetworkId::derive(None, "home").unwrap();
        Capability::new(kind, &network, PublicKey::from_bytes([3; 32]), [4; 32], [5; 32], vec![]).to_text().to_string()
    }

    fn none(_: &str) -> Option<OsString> {
        None
    }

    #[test]
    fn secrets_in_argv_are_refused_and_not_repeated() {
        for kind in [CapabilityKind::Read, CapabilityKind::Verify, CapabilityKind::Owner] {
            let secret = text(kind);
            for argument in [secret.clone(), secret.to_uppercase(), format!("--out={secret}")] {
                let problem = Problem::from(check_argv(&["shoal".into(), argument.into()]).unwrap_err());
                assert_eq!(problem.failure, Failure::Usage);
                assert!(problem.text().contains("--capability-file") && !problem.text().contains(&secret[..20]));
            }
        }
        let fine = [text(CapabilityKind::Locate), "./shoalr1x".into(), "shoal".into(), "a=shoalr1".into()];
        assert!(check_argv(&fine.map(OsString::from)).is_ok());
    }

    #[test]
    fn the_beginning_decides() {
        let plain = text(CapabilityKind::Locate);
        let target = resolve(Some(OsStr::new(&plain)), None, none).unwrap();
        assert!(target.needs_password() && target.cached().is_none());
        let broken = resolve(Some(OsStr::new(&plain[..40])), None, none);
        assert!(matches!(broken, Err(TargetError::Capability { .. })));
        for path in ["./shoal1abc", "shoal", "x/shoal1abc"] {
            assert!(matches!(resolve(Some(OsStr::new(path)), None, none), Err(TargetError::Io { .. })), "{path}");
        }
    }

    #[test]
    fn files_and_variables_carry_secrets() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("c");
        for kind in [CapabilityKind::Locate, CapabilityKind::Read, CapabilityKind::Verify, CapabilityKind::Owner] {
            std::fs::write(&path, format!("{}\n", text(kind))).unwrap();
            let target = resolve(None, Some(&path), none).unwrap();
            assert_eq!(target.needs_password(), kind == CapabilityKind::Locate);
            let variable = |name: &str| (name == "SHOAL_CAPABILITY").then(|| text(kind).into());
            assert_eq!(resolve(None, None, variable).unwrap().capability().kind(), kind);
        }
        assert!(matches!(resolve(Some(OsStr::new("m")), Some(&path), none), Err(TargetError::Both)));
        assert!(matches!(resolve(None, None, none), Err(TargetError::Missing)));
        assert!(matches!(resolve(Some(OsStr::new("")), None, none), Err(TargetError::Empty)));
        std::fs::write(&path, b"not one").unwrap();
        assert!(matches!(resolve(None, Some(&path), none), Err(TargetError::Capability { .. })));
    }

    #[test]
    fn a_damaged_manifest_is_an_integrity_failure() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("m");
        std::fs::write(&path, b"SHOALMF1 and so on, long enough for a checksum").unwrap();
        let problem = Problem::from(manifest(&path).unwrap_err());
        assert_eq!(problem.failure, Failure::Integrity);
    }
}
