//! The client home: where identity, known nodes and the catalogue of uploads live, readable by their owner alone.
//! It never shows a key and never replaces an identity.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_client::client::Failure;
use shoal_protocol::NodeId;
use zeroize::Zeroizing;

use crate::exit::{Problem, failure_of_io};
use crate::output::{OutputError, private_directory, write_private, write_private_new};

/// First word of an identity file.
const IDENTITY_MARK: &str = "shoal-identity-1";
/// Longest identity file, bytes.
const IDENTITY_MAX: usize = 256;

/// Why the client home cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HomeError {
    /// No variable says where it is.
    #[error("there is no place for the client home")]
    Nowhere,
    /// A file in it cannot be read.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// Which.
        path: String,
        /// The system's reason.
        cause: io::Error,
    },
    /// A file in it is not what it should be.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// Which.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// A file in it cannot be written.
    #[error(transparent)]
    Write(#[from] OutputError),
    /// The system gives no randomness.
    #[error("the system gives no randomness: {0}")]
    Random(getrandom::Error),
}

impl From<HomeError> for Problem {
    fn from(error: HomeError) -> Self {
        let what = error.to_string();
        match error {
            HomeError::Nowhere => {
                Self::usage(what, "SHOAL_HOME, XDG_CONFIG_HOME and HOME are all unset", "set SHOAL_HOME")
            }
            HomeError::Read { cause, .. } => {
                let failure = failure_of_io(&cause);
                Self::new(failure, what, "its permissions or owner are wrong", "correct them, or set SHOAL_HOME")
            }
            HomeError::Damaged { .. } => {
                Self::new(Failure::Other, what, "it was edited or cut", "move the file away, and repeat")
            }
            HomeError::Write(error) => Self { next: "correct the place, or set SHOAL_HOME".into(), ..error.into() },
            HomeError::Random(_) => {
                Self::new(Failure::Other, what, "the kernel is too old or locked down", "repeat elsewhere")
            }
        }
    }
}

/// The directory, which exists.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    directory: PathBuf,
}

/// A key of our own, and where it is.
pub(crate) struct Identity {
    pub(crate) key: SigningKey,
    pub(crate) file: PathBuf,
    /// Others may read the file.
    pub(crate) exposed: bool,
}

impl Identity {
    /// The node id of the key.
    pub(crate) fn node(&self) -> NodeId {
        NodeId::from_bytes(self.key.verifying_key().to_bytes())
    }
}

impl Home {
    /// Finds it by the environment, and makes it if it is missing.
    pub(crate) fn open(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, HomeError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let directory = set("SHOAL_HOME")
            .or_else(|| set("XDG_CONFIG_HOME").map(|config| config.join("shoal")))
            .or_else(|| set("HOME").map(|home| home.join(".config/shoal")))
            .ok_or(HomeError::Nowhere)?;
        private_directory(&directory)?;
        Ok(Self { directory })
    }

    /// The identity in `file`, else the one of the home; made on first use.
    pub(crate) fn identity(&self, file: Option<&Path>) -> Result<Identity, HomeError> {
        let file = file.map_or_else(|| self.directory.join("identity.key"), Path::to_owned);
        let text = match read_bounded(&file, IDENTITY_MAX)? {
            Some(text) => text,
            None => {
                make_identity(&file)?;
                read_bounded(&file, IDENTITY_MAX)?.unwrap_or_default()
            }
        };
        let key = parse_identity(&text).ok_or_else(|| HomeError::Damaged {
            path: file.display().to_string(),
            what: "not an identity file".into(),
        })?;
        let exposed = fs::metadata(&file).is_ok_and(|found| found.permissions().mode() & 0o077 != 0);
        Ok(Identity { key, file, exposed })
    }

    /// A folder of the home, made if it is missing.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, HomeError> {
        let folder = self.directory.join(name);
        private_directory(&folder)?;
        Ok(folder)
    }

    /// What a JSON file of the home holds; nothing if there is none.
    pub(crate) fn load<T: DeserializeOwned>(&self, name: &str, max: usize) -> Result<Option<T>, HomeError> {
        let path = self.directory.join(name);
        let Some(bytes) = read_bounded(&path, max)? else { return Ok(None) };
        let damaged =
            |error: serde_json::Error| HomeError::Damaged { path: path.display().to_string(), what: error.to_string() };
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Reads, changes and replaces a JSON file; others who do so wait.
    pub(crate) fn update<T: DeserializeOwned + Serialize + Default>(
        &self,
        name: &str,
        max: usize,
        change: impl FnOnce(&mut T),
    ) -> Result<(), HomeError> {
        let lock_path = self.directory.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.and_then(|lock| lock.lock().map(|()| lock));
        let lock = lock.map_err(|cause| HomeError::Read { path: lock_path.display().to_string(), cause })?;
        let mut value: T = self.load(name, max)?.unwrap_or_default();
        change(&mut value);
        let path = self.directory.join(name);
        let damaged = |what: String| HomeError::Damaged { path: path.display().to_string(), what };
        let bytes = serde_json::to_vec_pretty(&value).map_err(|error| damaged(error.to_string()))?;
        if bytes.len() > max {
            return Err(damaged(format!("it would be longer than {max} bytes")));
        }
        write_private(&path, &bytes)?;
        drop(lock);
        Ok(())
    }
}

fn make_identity(file: &Path) -> Result<(), HomeError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(HomeError::Random)?;
    let text = Zeroizing::new(format!("{IDENTITY_MARK} {}\n", *Zeroizing::new(HEXLOWER.encode(seed.as_slice()))));
    match write_private_new(file, text.as_bytes()) {
        // Another process was first: its identity is ours.
        Err(OutputError::Exists(_)) => Ok(()),
        other => Ok(other?),
    }
}

pub(crate) fn parse_identity(bytes: &[u8]) -> Option<SigningKey> {
    let text = str::from_utf8(bytes).ok()?.trim_end();
    let digits = text.strip_prefix(IDENTITY_MARK)?.strip_prefix(' ')?;
    let seed: Zeroizing<Vec<u8>> = Zeroizing::new(HEXLOWER.decode(digits.as_bytes()).ok()?);
    Some(SigningKey::from_bytes(seed.as_slice().try_into().ok()?))
}

/// A whole file of at most `max` bytes; nothing if there is none.
fn read_bounded(path: &Path, max: usize) -> Result<Option<Zeroizing<Vec<u8>>>, HomeError> {
    let failed = |cause| HomeError::Read { path: path.display().to_string(), cause };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > max {
        return Err(HomeError::Damaged { path: path.display().to_string(), what: format!("longer than {max} bytes") });
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(place: &Path) -> Home {
        Home::open(|name| (name == "SHOAL_HOME").then(|| place.join("h").into_os_string())).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn home_follows_the_environment() {
        let place = tempfile::tempdir().unwrap();
        let at = |set: &'static str| {
            let home = Home::open(|name| (name == set).then(|| place.path().join(set).into_os_string()));
            home.unwrap().directory.strip_prefix(place.path()).unwrap().to_owned()
        };
        assert_eq!(at("SHOAL_HOME"), Path::new("SHOAL_HOME"));
        assert_eq!(at("XDG_CONFIG_HOME"), Path::new("XDG_CONFIG_HOME/shoal"));
        assert_eq!(at("HOME"), Path::new("HOME/.config/shoal"));
        assert!(matches!(Home::open(|_| None), Err(HomeError::Nowhere)));
        assert!(matches!(Home::open(|_| Some(OsString::new())), Err(HomeError::Nowhere)));
        assert_eq!(mode(&place.path().join("SHOAL_HOME")), 0o700);
    }

    #[test]
    fn identity_is_made_once() {
        let place = tempfile::tempdir().unwrap();
        let home = home(place.path());
        let first = home.identity(None).unwrap();
        assert_eq!(first.node(), home.identity(None).unwrap().node());
        assert_eq!((mode(&first.file), first.exposed), (0o600, false));
        let other = home.identity(Some(&place.path().join("other.key"))).unwrap();
        assert_ne!(first.node(), other.node());
        fs::set_permissions(&other.file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(home.identity(Some(&other.file)).unwrap().exposed);
        for text in ["", "shoal-identity-1 00", "key", &"x".repeat(300)] {
            fs::write(&other.file, text).unwrap();
            assert!(matches!(home.identity(Some(&other.file)), Err(HomeError::Damaged { .. })), "{text:?}");
        }
    }

    #[test]
    fn json_files_are_bounded_and_survive_damage() {
        let place = tempfile::tempdir().unwrap();
        let home = home(place.path());
        assert_eq!(home.load::<Vec<u8>>("x.json", 100).unwrap(), None);
        home.update("x.json", 100, |list: &mut Vec<u8>| list.push(7)).unwrap();
        home.update("x.json", 100, |list: &mut Vec<u8>| list.push(8)).unwrap();
        assert_eq!(home.load::<Vec<u8>>("x.json", 100).unwrap(), Some(vec![7, 8]));
        assert!(home.update("x.json", 100, |list: &mut Vec<u8>| list.resize(99, 1)).is_err());
        assert_eq!(home.load::<Vec<u8>>("x.json", 100).unwrap(), Some(vec![7, 8]));
        assert_eq!(mode(&home.directory.join("x.json")), 0o600);
        fs::write(home.directory.join("x.json"), b"{").unwrap();
        assert!(home.update("x.json", 100, |list: &mut Vec<u8>| list.push(9)).is_err());
        assert_eq!(fs::read(home.directory.join("x.json")).unwrap(), b"{");
    }
}
