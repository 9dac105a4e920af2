//! Journals of uploads under way, one file each in the client home: locked by the upload that writes it, gone when that has
//! succeeded, swept when the leases of what it names are over. It never reads what is inside.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use shoal_client::client::JournalStore;
use shoal_client::journal::JOURNAL_MAX;
use shoal_protocol::NetworkId;
use shoal_protocol::hash::{JOURNAL_NAME, derive};
use shoal_protocol::limits::LEASE_MS_DEFAULT;

use crate::home::{Home, HomeError};
use crate::output::{OutputError, parent, sync_directory};

/// Folder of the client home.
const FOLDER: &str = "journals";
/// End of their names.
const SUFFIX: &str = "journal";
/// Times a file is opened: again when another upload put a new one in its place, or when it is locked, for a process that
/// was killed just now keeps its locks until its memory is given back.
const OPENED_MAX: u32 = 40;
/// Pause before a locked file is opened again.
const PAUSE: Duration = Duration::from_millis(50);

/// The journal of one command, open and locked.
#[derive(Debug)]
pub(crate) struct JournalFile {
    path: PathBuf,
    file: File,
}

/// What a command finds.
#[derive(Debug)]
pub(crate) enum Found {
    /// Its journal, empty or from an earlier run.
    Journal(JournalFile),
    /// The same command runs already: its journal is taken.
    Taken,
}

impl JournalFile {
    /// Opens the journal of `command` in `network`, and drops those that nothing can come of any more. Blocks for two
    /// seconds before it says that it is taken.
    pub(crate) fn open(home: &Home, network: &NetworkId, command: &[&[u8]]) -> Result<Found, HomeError> {
        let folder = home.folder(FOLDER)?;
        sweep(&folder);
        let parts: Vec<&[u8]> = std::iter::once(network.as_bytes().as_slice()).chain(command.iter().copied()).collect();
        let name = HEXLOWER.encode(&derive(JOURNAL_NAME, &parts));
        let path = folder.join(name).with_extension(SUFFIX);
        open_locked(&path).map_err(|cause| HomeError::Read { path: path.display().to_string(), cause })
    }

    /// A second handle for the upload; this one keeps the lock until [`JournalFile::remove`].
    pub(crate) fn store(&self) -> io::Result<Box<dyn JournalStore>> {
        Ok(Box::new(Self { path: self.path.clone(), file: self.file.try_clone()? }))
    }

    /// The upload begins anew.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// The upload is done.
    pub(crate) fn remove(&self) -> Result<(), OutputError> {
        let removed = match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        removed.and_then(|()| sync_directory(parent(&self.path))).map_err(OutputError::io(&self.path))
    }
}

impl JournalStore for JournalFile {
    fn load(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.try_clone()?.take(JOURNAL_MAX as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > JOURNAL_MAX {
            return Err(io::Error::other(format!("it is longer than {JOURNAL_MAX} bytes")));
        }
        Ok(bytes)
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut next = tempfile::Builder::new().prefix(".shoal-").tempfile_in(parent(&self.path))?;
        next.write_all(bytes)?;
        next.as_file().sync_all()?;
        // Locked before it has the name: whoever opens it finds it taken.
        next.as_file().try_lock().map_err(|_| io::Error::other("a new file is locked by somebody else"))?;
        self.file = next.persist(&self.path).map_err(|error| error.error)?;
        sync_directory(parent(&self.path))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }
}

/// A file that was replaced or removed between opening and locking is opened again by its name.
fn open_locked(path: &Path) -> io::Result<Found> {
    for _ in 0..OPENED_MAX {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let (ours, named) = (file.metadata()?, fs::metadata(path));
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino())) {
            return Ok(Found::Journal(JournalFile { path: path.to_owned(), file }));
        }
    }
    Ok(Found::Taken)
}

/// Removes journals last written before any lease of theirs could still live, and temporary files as old. Best effort:
/// what cannot be looked at stays.
fn sweep(folder: &Path) {
    let Some(oldest) = SystemTime::now().checked_sub(Duration::from_millis(LEASE_MS_DEFAULT)) else { return };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.metadata().and_then(|found| found.modified()).is_ok_and(|modified| modified < oldest) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn home(place: &Path) -> Home {
        Home::open(|name| (name == "SHOAL_HOME").then(|| place.as_os_str().to_owned())).unwrap()
    }

    fn open(home: &Home, command: &str) -> Found {
        JournalFile::open(home, &NetworkId::from_bytes([1; 32]), &[command.as_bytes()]).unwrap()
    }

    fn journal(home: &Home, command: &str) -> JournalFile {
        match open(home, command) {
            Found::Journal(journal) => journal,
            Found::Taken => panic!("{command} is taken"),
        }
    }

    #[test]
    fn what_is_written_is_found_by_the_same_command() {
        let place = tempfile::tempdir().unwrap();
        let home = home(place.path());
        let first = journal(&home, "a");
        let mut store = first.store().unwrap();
        assert_eq!(store.load().unwrap(), b"");
        store.replace(b"one").unwrap();
        store.append(b" two").unwrap();
        store.replace(b"three").unwrap();
        store.append(b" four").unwrap();
        assert_eq!(fs::metadata(&first.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(open(&home, "a"), Found::Taken), "while it is open");
        assert_eq!(journal(&home, "b").store().unwrap().load().unwrap(), b"");
        drop((first, store));
        let again = journal(&home, "a");
        assert_eq!(again.store().unwrap().load().unwrap(), b"three four");
        again.remove().unwrap();
        again.remove().unwrap();
        drop(again);
        assert_eq!(journal(&home, "a").store().unwrap().load().unwrap(), b"");
    }

    #[test]
    fn a_journal_that_was_replaced_stays_taken() {
        let place = tempfile::tempdir().unwrap();
        let home = home(place.path());
        let first = journal(&home, "a");
        let mut store = first.store().unwrap();
        store.replace(b"x").unwrap();
        drop(first);
        assert!(matches!(open(&home, "a"), Found::Taken), "the new file has the lock");
    }

    #[test]
    fn what_no_lease_covers_any_more_is_swept() {
        let place = tempfile::tempdir().unwrap();
        let home = home(place.path());
        let (old, young) = (journal(&home, "old"), journal(&home, "young"));
        let age = Duration::from_millis(LEASE_MS_DEFAULT + 60_000);
        old.file.set_modified(SystemTime::now() - age).unwrap();
        let (old, young) = (old.path, young.path);
        drop(journal(&home, "other"));
        assert!(!old.exists() && young.exists());
    }
}
