//! The operations of the simulated disk as a test names them, and the crash points kept before them.
//!
//! It never runs an operation: it only says what kind each is.

use std::path::PathBuf;

use super::MemVfs;

/// What an operation does: one kind per method of the two traits, three for `open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OperationKind {
    /// `Vfs::create_dir`.
    CreateDir,
    /// `Vfs::lock`.
    Lock,
    /// `Vfs::list`.
    List,
    /// `Vfs::open` for reading.
    OpenRead,
    /// `Vfs::open` of an existing file for writing.
    OpenWrite,
    /// `Vfs::open` of a new file.
    Create,
    /// `Vfs::rename`.
    Rename,
    /// `Vfs::remove`.
    Remove,
    /// `Vfs::sync_dir`.
    SyncDir,
    /// `Vfs::free_bytes`.
    Free,
    /// `VfsFile::length`.
    Length,
    /// `VfsFile::read_exact_at`.
    Read,
    /// `VfsFile::write_all_at`.
    Write,
    /// `VfsFile::allocate`.
    Allocate,
    /// `VfsFile::set_length`.
    SetLength,
    /// `VfsFile::sync_data`.
    SyncData,
    /// `VfsFile::sync_all`.
    SyncAll,
}

/// Kinds that a lasting fault hits together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Read,
    Write,
    Sync,
    Name,
}

impl OperationKind {
    /// True if it changes the disk or makes something durable.
    #[must_use]
    pub fn changes(self) -> bool {
        self.group() != Group::Read
    }

    pub(super) fn group(self) -> Group {
        match self {
            Self::Lock | Self::List | Self::OpenRead | Self::OpenWrite | Self::Free | Self::Length | Self::Read => {
                Group::Read
            }
            Self::Write | Self::Allocate | Self::SetLength => Group::Write,
            Self::SyncDir | Self::SyncData | Self::SyncAll => Group::Sync,
            Self::CreateDir | Self::Create | Self::Rename | Self::Remove => Group::Name,
        }
    }
}

/// One call of a method of `Vfs` or `VfsFile`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What it does.
    pub kind: OperationKind,
    /// The file or directory: of a rename the old name, of an open file the name it was opened by.
    pub path: PathBuf,
}

/// The disk as it was just before an operation.
#[derive(Clone, Debug)]
pub struct CrashPoint {
    /// A disk of its own, with all that was unsynced still unsynced.
    pub disk: MemVfs,
    /// The operation that came next.
    pub operation: Operation,
}
