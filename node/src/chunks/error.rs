//! Why the store refuses: one enum per operation. An error never carries payload bytes.

use std::io;
use std::path::PathBuf;

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process or handle holds the directory.
    #[error("the store in {0} is in use by another process")]
    Locked(PathBuf),
    /// The disk refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There are segments but no `store.key`: a wrong or partly mounted directory, not an empty store.
    #[error("{0} holds segments but no store.key")]
    KeyMissing(PathBuf),
    /// Both copies of the key are damaged, or they differ.
    #[error("{0} is damaged, and so is its copy")]
    KeyDamaged(PathBuf),
    /// There is a key, but the marker beside the segments is not there: their disk is not mounted, or they were removed.
    #[error("{0} is not the directory this store was made in: it has no store.id")]
    Missing(PathBuf),
    /// The marker beside the segments is damaged.
    #[error("{0} is damaged")]
    MarkerDamaged(PathBuf),
    /// Something here was written by a newer version.
    #[error("{path} was written by a newer version ({what})")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: String,
    },
    /// A segment or marker of another store: another disk is mounted here.
    #[error("{0} belongs to another store")]
    Foreign(PathBuf),
    /// The writer thread did not start.
    #[error("cannot start the writer thread")]
    Thread(#[source] io::Error),
    /// The quota is below [`super::QUOTA_MIN`].
    #[error("a quota of {0} bytes is too small")]
    Quota(u64),
}

impl OpenError {
    /// True if the same call may succeed later without anybody's help.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Locked(_) | Self::Io { .. } | Self::Thread(_))
    }
}

/// Why space is not promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The quota has no room.
    #[error("quota: {wanted} bytes wanted, {left} left")]
    Quota {
        /// Bytes on disk this would take.
        wanted: u64,
        /// Bytes of quota neither stored nor reserved.
        left: u64,
    },
    /// The disk has no room beyond the reserve file.
    #[error("disk: {wanted} bytes wanted, {left} left")]
    Disk {
        /// Bytes on disk this would take.
        wanted: u64,
        /// Bytes of disk neither taken nor reserved.
        left: u64,
    },
    /// More than the largest shard.
    #[error("{0} bytes are more than the largest shard")]
    Length(u64),
    /// The disk failed twice; nothing is accepted any more.
    #[error("the store is read-only")]
    ReadOnly,
    /// The free space of the disk is unknown.
    #[error("the disk does not tell its free space: {0}")]
    Io(io::ErrorKind),
}

impl ReserveError {
    /// True if the same call may succeed later without an operator's help.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Quota { .. } | Self::Disk { .. } | Self::Io(_))
    }
}

/// Why bytes were not stored. Nothing was promised: the caller must not sign a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// The bytes are not the ones the id names.
    #[error("the bytes do not hash to the id")]
    Mismatch,
    /// Empty, or longer than the kind allows.
    #[error("a length of {0} bytes is not allowed")]
    Length(u64),
    /// The reservation is for fewer bytes.
    #[error("{length} bytes do not fit the reservation of {reserved}")]
    Reservation {
        /// Bytes given.
        length: u64,
        /// Bytes reserved.
        reserved: u64,
    },
    /// A version at least as new is stored.
    #[error("version {stored} is stored already")]
    Stale {
        /// The newest version there is.
        stored: u64,
    },
    /// The shard to be marked is not here.
    #[error("no such shard")]
    NotFound,
    /// There is no space for it.
    #[error("no space: {0}")]
    Space(#[from] ReserveError),
    /// The disk turned out to be full while writing.
    #[error("the disk is full")]
    DiskFull,
    /// The index holds as many entries as it may.
    #[error("the index is full")]
    IndexFull,
    /// The disk failed twice; nothing is accepted any more.
    #[error("the store is read-only")]
    ReadOnly,
    /// The disk failed while these bytes were written. They may or may not be there after a restart.
    #[error("the disk failed: {0}")]
    Io(io::ErrorKind),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl PutError {
    /// True if the same call may succeed later without an operator's help.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Space(error) => error.retryable(),
            Self::DiskFull | Self::Io(_) => true,
            Self::Mismatch
            | Self::Length(_)
            | Self::Reservation { .. }
            | Self::Stale { .. }
            | Self::NotFound
            | Self::IndexFull
            | Self::ReadOnly
            | Self::Closed => false,
        }
    }
}

/// Why bytes cannot be read. Whatever had reached the sink before was verified.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not stored here.
    #[error("not stored here")]
    NotFound,
    /// A range is empty, reversed or beyond the end.
    #[error("a range is not within the {length} bytes of the shard")]
    Range {
        /// Length of the shard.
        length: u32,
    },
    /// More ranges than [`shoal_protocol::limits::RANGES_MAX`].
    #[error("{0} ranges are too many")]
    Ranges(usize),
    /// What is on disk is not what was stored.
    #[error("damaged on disk")]
    Rot,
    /// The disk refused.
    #[error("the disk failed")]
    Io(#[source] io::Error),
}

impl ReadError {
    /// True if the same call may succeed later.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Io(_))
    }
}
