//! Small files that are there whole or not at all, readable by their owner alone. Nothing is replaced unless asked for.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use shoal_client::client::Failure;

use crate::exit::{Problem, failure_of_io};

/// Why an output cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    /// It is there already.
    #[error("{0} exists")]
    Exists(String),
    /// A file is wanted where a directory is.
    #[error("{0} is a directory")]
    IsDirectory(String),
    /// It would end in `..`, or in nothing.
    #[error("{0:?} does not name a file or directory to be made")]
    NoName(String),
    /// A stored path that leads out of the target.
    #[error("stored path {0:?} leads out of the target")]
    Outside(String),
    /// The system said no.
    #[error("cannot write {path}: {cause}")]
    Io {
        /// What was to be written.
        path: String,
        /// The system's reason.
        cause: io::Error,
    },
}

impl OutputError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |cause| Self::Io { path, cause }
    }
}

impl From<OutputError> for Problem {
    fn from(error: OutputError) -> Self {
        let what = error.to_string();
        match error {
            OutputError::Exists(_) => {
                Self::usage(what, "nothing is replaced unless asked for", "add --force or name another place")
            }
            OutputError::IsDirectory(_) => Self::usage(what, "a file cannot take its place", "name a file inside it"),
            OutputError::NoName(_) => {
                Self::usage(what, "the last part of the path is missing", "name the target itself")
            }
            OutputError::Outside(_) => Self::new(
                Failure::Integrity,
                what,
                "the upload was made by a hostile program",
                "do not use this upload",
            ),
            OutputError::Io { cause, .. } => Self::new(
                failure_of_io(&cause),
                what,
                "the directory is missing or not writable, or the disk is full",
                "make room, or name another place",
            ),
        }
    }
}

/// The directory that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Makes `directory` and what leads to it, readable by its owner alone.
pub(crate) fn private_directory(directory: &Path) -> Result<(), OutputError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(OutputError::io(directory))
}

/// Writes a file of mode 0600: temporary beside it, synced, renamed. An existing file is replaced.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    write_temporary(path, bytes)?.persist(path).map_err(|error| OutputError::io(path)(error.error))?;
    sync_directory(parent(path)).map_err(OutputError::io(path))
}

/// The same, but never over an existing file.
pub(crate) fn write_private_new(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    write_temporary(path, bytes)?.persist_noclobber(path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => OutputError::Exists(path.display().to_string()),
        _ => OutputError::io(path)(error.error),
    })?;
    sync_directory(parent(path)).map_err(OutputError::io(path))
}

/// A named temporary file is made with mode 0600.
fn write_temporary(path: &Path, bytes: &[u8]) -> Result<tempfile::NamedTempFile, OutputError> {
    let written = tempfile::Builder::new().prefix(".shoal-").tempfile_in(parent(path)).and_then(|mut file| {
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        Ok(file)
    });
    written.map_err(OutputError::io(path))
}

pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Whether a new file may be made at `path`: it is free or may be replaced, and its directory exists.
pub(crate) fn check_new_file(path: &Path, force: bool) -> Result<(), OutputError> {
    let name = || path.display().to_string();
    if path.file_name().is_none() {
        return Err(OutputError::NoName(name()));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Err(OutputError::IsDirectory(name())),
        Ok(_) if !force => Err(OutputError::Exists(name())),
        Ok(_) => Ok(()),
        Err(_) => fs::metadata(parent(path)).map(drop).map_err(OutputError::io(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn private_files_are_whole_and_private() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("f");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(write_private_new(&path, b"three"), Err(OutputError::Exists(_))));
        assert!(write_private(&place.path().join("no/f"), b"x").is_err());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
