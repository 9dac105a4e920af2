//! A retrieval on its way to the disk: in a private directory beside its target, moved there when it is whole. Nothing
//! is written outside the target or through a link, and what is not committed is removed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use tempfile::TempDir;

use crate::output::{OutputError, parent, sync_directory};

/// A retrieval on its way: a directory of our own beside the target, removed when dropped.
#[derive(Debug)]
pub(crate) struct Stage {
    directory: TempDir,
    target: PathBuf,
    force: bool,
}

impl Stage {
    /// Begins beside `target`, which must be free unless `force`.
    pub(crate) fn new(target: &Path, force: bool) -> Result<Self, OutputError> {
        Self::check(target, force)?;
        let directory = tempfile::Builder::new().prefix(".shoal-").tempdir_in(parent(target));
        let directory = directory.map_err(OutputError::io(target))?;
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).map_err(OutputError::io(target))?;
        Ok(Self { directory, target: target.to_owned(), force })
    }

    /// Whether `target` may be made.
    pub(crate) fn check(target: &Path, force: bool) -> Result<(), OutputError> {
        if target.file_name().is_none() {
            return Err(OutputError::NoName(target.display().to_string()));
        }
        if !force && fs::symlink_metadata(target).is_ok() {
            return Err(OutputError::Exists(target.display().to_string()));
        }
        Ok(())
    }

    /// Where `relative` lies while it is staged; the empty path is the target itself.
    pub(crate) fn path(&self, relative: &str) -> Result<PathBuf, OutputError> {
        let outside = || OutputError::Outside(relative.chars().take(200).collect());
        let mut path = self.directory.path().join("content");
        if relative.is_empty() {
            return Ok(path);
        }
        for part in relative.split('/') {
            let mut components = Path::new(part).components();
            match (components.next(), components.next()) {
                (Some(Component::Normal(name)), None) if name.as_bytes() == part.as_bytes() => path.push(name),
                _ => return Err(outside()),
            }
        }
        Ok(path)
    }

    /// Makes a staged directory and those that lead to it.
    pub(crate) fn directory(&self, relative: &str) -> Result<PathBuf, OutputError> {
        let path = self.path(relative)?;
        fs::create_dir_all(&path).map_err(OutputError::io(&path))?;
        Ok(path)
    }

    /// Makes a staged file, which must be new.
    pub(crate) fn file(&self, relative: &str) -> Result<File, OutputError> {
        let path = self.beside_parents(relative)?;
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(OutputError::io(&path))
    }

    /// Makes a staged link; nothing may be written after the first one.
    pub(crate) fn symlink(&self, relative: &str, link: &[u8]) -> Result<PathBuf, OutputError> {
        let path = self.beside_parents(relative)?;
        let link = OsStr::from_bytes(link);
        std::os::unix::fs::symlink(link, &path).map_err(OutputError::io(&path))?;
        Ok(path)
    }

    fn beside_parents(&self, relative: &str) -> Result<PathBuf, OutputError> {
        if let Some((above, _)) = relative.rsplit_once('/') {
            self.directory(above)?;
        } else if !relative.is_empty() {
            self.directory("")?;
        }
        self.path(relative)
    }

    /// Moves the staged content to the target.
    pub(crate) fn commit(self) -> Result<PathBuf, OutputError> {
        let (staged, target) = (self.path("")?, self.target.as_path());
        let failed = OutputError::io(target);
        let staged_is_directory = fs::symlink_metadata(&staged).map_err(OutputError::io(target))?.is_dir();
        match fs::symlink_metadata(target) {
            Ok(_) if !self.force => return Err(OutputError::Exists(target.display().to_string())),
            Ok(there) if there.is_dir() && !staged_is_directory => {
                return Err(OutputError::IsDirectory(target.display().to_string()));
            }
            // A file or link gives way to a file at once; all else is moved aside first, and back if need be.
            Ok(there) if there.is_dir() || staged_is_directory => {
                let aside = self.directory.path().join("replaced");
                fs::rename(target, &aside).map_err(OutputError::io(target))?;
                if let Err(cause) = fs::rename(&staged, target) {
                    let _ = fs::rename(&aside, target);
                    return Err(failed(cause));
                }
            }
            Ok(_) => fs::rename(&staged, target).map_err(failed)?,
            Err(_) => rename_new(&staged, target)?,
        }
        sync_directory(parent(target)).map_err(OutputError::io(target))?;
        Ok(self.target.clone())
    }
}

/// Renames to a name that must still be free, where the file system can promise that.
fn rename_new(from: &Path, to: &Path) -> Result<(), OutputError> {
    use rustix::io::Errno;
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Err(OutputError::Exists(to.display().to_string())),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => fs::rename(from, to).map_err(OutputError::io(to)),
        Err(error) => Err(OutputError::io(to)(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn dropped_stages_leave_nothing() {
        let place = tempfile::tempdir().unwrap();
        let stage = Stage::new(&place.path().join("out"), false).unwrap();
        stage.file("d/x").unwrap().write_all(b"half").unwrap();
        assert_eq!(names(place.path()).len(), 1);
        drop(stage);
        assert!(names(place.path()).is_empty());
    }

    #[test]
    fn trees_and_single_files_arrive_whole() {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree");
        let stage = Stage::new(&tree, false).unwrap();
        stage.file("d/x").unwrap().write_all(b"x").unwrap();
        stage.symlink("d/l", b"../../elsewhere").unwrap();
        stage.commit().unwrap();
        assert_eq!(fs::read(tree.join("d/x")).unwrap(), b"x");
        assert_eq!(fs::read_link(tree.join("d/l")).unwrap(), Path::new("../../elsewhere"));
        let file = place.path().join("file");
        let stage = Stage::new(&file, false).unwrap();
        stage.file("").unwrap().write_all(b"y").unwrap();
        stage.commit().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"y");
        assert_eq!(names(place.path()), ["file", "tree"]);
    }

    #[test]
    fn existing_targets_need_force() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        let late = Stage::new(&out, false).unwrap();
        late.file("").unwrap();
        fs::write(&out, b"mine").unwrap();
        assert!(matches!(Stage::new(&out, false), Err(OutputError::Exists(_))));
        assert!(matches!(late.commit(), Err(OutputError::Exists(_))));
        assert_eq!(fs::read(&out).unwrap(), b"mine");
        for directory in [true, true, false] {
            let stage = Stage::new(&out, true).unwrap();
            if directory {
                stage.file("new").unwrap();
                stage.commit().unwrap();
                assert_eq!(names(&out), ["new"]);
            } else {
                stage.file("").unwrap();
                assert!(matches!(stage.commit(), Err(OutputError::IsDirectory(_))));
            }
        }
        assert_eq!(names(place.path()), ["out"]);
    }

    #[test]
    fn stored_paths_cannot_leave() {
        let place = tempfile::tempdir().unwrap();
        let stage = Stage::new(&place.path().join("out"), false).unwrap();
        for path in ["..", "a/../../b", "/etc/passwd", "a//b", "./a", "a/", "."] {
            assert!(matches!(stage.path(path), Err(OutputError::Outside(_))), "{path:?}");
        }
        assert!(stage.path("a/b").unwrap().ends_with("content/a/b"));
        for target in ["/", "..", "a/.."] {
            assert!(matches!(Stage::check(Path::new(target), true), Err(OutputError::NoName(_))), "{target}");
        }
    }
}
