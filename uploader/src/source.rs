//! What is uploaded: files, directories and links below the given paths, sorted by the bytes of their whole stored
//! paths, each opened only when its turn comes. It follows no link and reads no device, socket or pipe but stdin.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use shoal_client::client::{SourceContent, SourceEntry, UploadSource};
use shoal_client::manifest::Meta;
use walkdir::WalkDir;

use crate::exit::{Problem, failure_of_io};
use crate::report::now;
use crate::text::plain;

/// Most entries of one upload.
const ENTRIES_MAX: usize = 1_000_000;
/// Most skipped things named one by one.
const WARNINGS_MAX: usize = 20;

/// Why the source cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// It cannot be looked at.
    #[error("cannot read {path}: {cause}")]
    Io {
        /// What.
        path: String,
        /// The system's reason.
        cause: io::Error,
    },
    /// A name that is no text.
    #[error("the name of {0} is not valid UTF-8")]
    NotUtf8(String),
    /// Two paths that would be stored under one name.
    #[error("two of the given paths are called {0:?}")]
    Duplicate(String),
    /// A path without a name of its own.
    #[error("{0} has no name to store it under")]
    NoName(String),
    /// A device or the like, named itself.
    #[error("{0} is neither a file, a directory nor a link")]
    Special(String),
    /// Too much at once.
    #[error("more than {ENTRIES_MAX} files")]
    TooMany,
}

impl From<SourceError> for Problem {
    fn from(error: SourceError) -> Self {
        let what = error.to_string();
        match error {
            SourceError::Io { cause, .. } => {
                Self::new(failure_of_io(&cause), what, "the path is wrong, or not readable by you", "correct the path")
            }
            SourceError::NotUtf8(_) => {
                Self::usage(what, "stored names are text, the same on every machine", "rename it")
            }
            SourceError::Duplicate(_) => Self::usage(
                what,
                "each given path keeps its last name",
                "upload them apart, or from the directory above",
            ),
            SourceError::NoName(_) => Self::usage(what, "the root has no name", "name what is inside it"),
            SourceError::Special(_) => {
                Self::usage(what, "devices, sockets and pipes are not stored", "pipe it: shoal upload -")
            }
            SourceError::TooMany => Self::usage(what, "one upload has a bound", "upload it in parts"),
        }
    }
}

/// Where content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    File(PathBuf),
    Directory,
    Symlink(Vec<u8>),
    Stdin,
}

#[derive(Debug)]
struct Item {
    meta: Meta,
    origin: Origin,
}

/// All there is to upload, not yet opened.
#[derive(Debug, Default)]
pub(crate) struct Source {
    items: Vec<Item>,
    /// Bytes of all files as their directories claim; none with stdin.
    pub(crate) size_hint: Option<u64>,
    /// What was left out.
    pub(crate) warnings: Vec<String>,
    skipped: usize,
}

impl Source {
    /// Looks at everything below `paths`. Blocks.
    pub(crate) fn collect(paths: &[PathBuf]) -> Result<Self, SourceError> {
        let mut source = Self { size_hint: Some(0), ..Self::default() };
        let mut names = BTreeSet::new();
        for path in paths {
            let name = if path == Path::new("-") { "stdin".to_owned() } else { name_of(path)? };
            if !names.insert(name.clone()) {
                return Err(SourceError::Duplicate(name));
            }
            if path == Path::new("-") {
                let modified_ms = i64::try_from(now().0).unwrap_or(i64::MAX);
                source.items.push(Item { meta: Meta { path: name, mode: 0o644, modified_ms }, origin: Origin::Stdin });
                source.size_hint = None;
            } else {
                source.walk(path, &name)?;
            }
        }
        // Order of whole paths, not of each directory: "a-b" comes before "a/b".
        source.items.sort_unstable_by(|a, b| a.meta.path.as_bytes().cmp(b.meta.path.as_bytes()));
        if source.skipped > WARNINGS_MAX {
            source.warnings.push(format!("{} more were skipped", source.skipped - WARNINGS_MAX));
        }
        Ok(source)
    }

    /// What a catalogue calls it.
    pub(crate) fn name(&self) -> String {
        let mut tops: Vec<&str> = self.items.iter().filter_map(|item| item.meta.path.split('/').next()).collect();
        tops.dedup();
        match tops.as_slice() {
            [] => String::new(),
            [one] => (*one).to_owned(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        }
    }

    /// How many entries.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Opens them one after the other.
    pub(crate) fn entries(self) -> UploadSource {
        Box::new(self.items.into_iter().map(open))
    }

    fn walk(&mut self, root: &Path, name: &str) -> Result<(), SourceError> {
        for found in WalkDir::new(root).follow_links(false).follow_root_links(false) {
            let found = found.map_err(|error| SourceError::Io {
                path: error.path().unwrap_or(root).display().to_string(),
                cause: error.into_io_error().unwrap_or_else(|| io::Error::other("the directories form a loop")),
            })?;
            let shown = || plain(&found.path().display().to_string());
            let failed = |cause| SourceError::Io { path: shown(), cause };
            let relative = found.path().strip_prefix(root).unwrap_or_else(|_| Path::new(""));
            let mut path = name.to_owned();
            for part in relative.components() {
                path.push('/');
                path.push_str(part.as_os_str().to_str().ok_or_else(|| SourceError::NotUtf8(shown()))?);
            }
            let metadata = fs::symlink_metadata(found.path()).map_err(failed)?;
            let kind = metadata.file_type();
            let origin = if kind.is_file() {
                self.size_hint = self.size_hint.map(|sum| sum.saturating_add(metadata.len()));
                Origin::File(found.path().to_owned())
            } else if kind.is_dir() {
                Origin::Directory
            } else if kind.is_symlink() {
                if relative.as_os_str().is_empty() {
                    self.warnings
                        .push(format!("{} is a link and is stored as a link, not as what it leads to", shown()));
                }
                Origin::Symlink(fs::read_link(found.path()).map_err(failed)?.into_os_string().into_vec())
            } else if relative.as_os_str().is_empty() {
                return Err(SourceError::Special(shown()));
            } else {
                self.skipped += 1;
                if self.skipped <= WARNINGS_MAX {
                    self.warnings.push(format!("skipped {}: neither a file, a directory nor a link", shown()));
                }
                continue;
            };
            if self.items.len() >= ENTRIES_MAX {
                return Err(SourceError::TooMany);
            }
            self.items.push(Item { meta: meta(path, &metadata), origin });
        }
        Ok(())
    }
}

/// The last name of a path; `.` and `..` have that of the directory they mean.
fn name_of(path: &Path) -> Result<String, SourceError> {
    let shown = || plain(&path.display().to_string());
    let named = match path.file_name() {
        Some(name) => name.to_owned(),
        None => {
            let real = path.canonicalize().map_err(|cause| SourceError::Io { path: shown(), cause })?;
            real.file_name().ok_or_else(|| SourceError::NoName(shown()))?.to_owned()
        }
    };
    named.into_string().map_err(|_| SourceError::NotUtf8(shown()))
}

fn meta(path: String, metadata: &Metadata) -> Meta {
    let modified_ms = metadata.mtime().saturating_mul(1000).saturating_add(metadata.mtime_nsec() / 1_000_000);
    Meta { path, mode: metadata.mode() & 0o7777, modified_ms }
}

fn open(item: Item) -> Result<SourceEntry, (String, io::Error)> {
    let Item { meta: listed, origin } = item;
    Ok(match origin {
        Origin::Directory => SourceEntry { meta: listed, content: SourceContent::Directory },
        Origin::Symlink(link) => SourceEntry { meta: listed, content: SourceContent::Symlink(link) },
        Origin::Stdin => SourceEntry { meta: listed, content: SourceContent::File(Box::new(io::stdin())) },
        Origin::File(path) => {
            let (file, metadata) = open_file(&path).map_err(|cause| (plain(&path.display().to_string()), cause))?;
            SourceEntry { meta: meta(listed.path, &metadata), content: SourceContent::File(Box::new(file)) }
        }
    })
}

/// Opens a file that must still be one: no link is followed and no pipe waited for.
fn open_file(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(io::Error::other("it is no longer a file")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    fn paths(source: &Source) -> Vec<&str> {
        source.items.iter().map(|item| item.meta.path.as_str()).collect()
    }

    #[test]
    fn order_is_that_of_whole_paths() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("t");
        fs::create_dir_all(top.join("a")).unwrap();
        for (name, bytes) in [("a/b", "1"), ("a-b", "22"), ("a.c", "333"), ("b", "4444")] {
            fs::write(top.join(name), bytes).unwrap();
        }
        symlink("nowhere", top.join("a/l")).unwrap();
        let source = Source::collect(&[top]).unwrap();
        assert_eq!(paths(&source), ["t", "t/a", "t/a-b", "t/a.c", "t/a/b", "t/a/l", "t/b"]);
        assert_eq!((source.size_hint, source.name(), source.len()), (Some(10), "t".into(), 7));
        let mut bytes = Vec::new();
        for entry in source.entries() {
            if let SourceContent::File(mut file) = entry.unwrap().content {
                file.read_to_end(&mut bytes).unwrap();
            }
        }
        assert_eq!(bytes, b"2233314444");
    }

    #[test]
    fn several_paths_lie_side_by_side() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("x/d")).unwrap();
        fs::create_dir_all(at("y")).unwrap();
        for name in ["x/f", "y/f", "y/c"] {
            fs::write(at(name), name).unwrap();
        }
        let source = Source::collect(&[at("x/f"), at("y/c"), at("x/d/"), at("x/d/.."), "-".into()]).unwrap();
        assert_eq!(paths(&source), ["c", "d", "f", "stdin", "x", "x/d", "x/f"]);
        assert_eq!((source.size_hint, source.name()), (None, "c and 4 more".into()));
        let twice = Source::collect(&[at("x/f"), at("y/f")]);
        assert!(matches!(twice, Err(SourceError::Duplicate(name)) if name == "f"));
        assert!(matches!(Source::collect(&["/".into()]), Err(SourceError::NoName(_))));
        assert!(matches!(Source::collect(&[at("none")]), Err(SourceError::Io { .. })));
    }

    #[test]
    fn odd_things_are_skipped_or_refused() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("t");
        fs::create_dir(&top).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(top.join("s")).unwrap();
        let source = Source::collect(std::slice::from_ref(&top)).unwrap();
        assert_eq!((paths(&source), source.warnings.len()), (vec!["t"], 1));
        assert!(matches!(Source::collect(&[top.join("s")]), Err(SourceError::Special(_))));
        fs::write(top.join(std::ffi::OsStr::from_bytes(b"\xff")), b"").unwrap();
        assert!(matches!(Source::collect(&[top]), Err(SourceError::NotUtf8(_))));
    }

    #[test]
    fn a_file_that_became_a_link_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("f");
        fs::write(&path, b"x").unwrap();
        let source = Source::collect(std::slice::from_ref(&path)).unwrap();
        fs::remove_file(&path).unwrap();
        symlink("/etc/hostname", &path).unwrap();
        assert!(source.entries().next().unwrap().is_err());
        let link = Source::collect(&[path]).unwrap();
        assert!(matches!(&link.items[0].origin, Origin::Symlink(to) if to == b"/etc/hostname"));
        assert_eq!(link.warnings.len(), 1);
    }
}
