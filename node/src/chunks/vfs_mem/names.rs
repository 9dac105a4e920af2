//! The names on the disk: as seen now, as durable, and the unsynced creations, renames and removals between.
//!
//! It never touches the bytes of a file, and a clone shares all until one side changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chunks::random::Random;

type Entries = BTreeMap<PathBuf, u64>;

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    live: Arc<Entries>,
    durable: Arc<Entries>,
    pending: Arc<Vec<NameChange>>,
}

/// One change that survives a crash as a whole or not at all.
#[derive(Clone, Debug)]
enum NameChange {
    Create { path: PathBuf, inode: u64 },
    Rename { from: PathBuf, to: PathBuf, inode: u64 },
    Remove { path: PathBuf, inode: u64 },
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        let (Self::Create { path, .. } | Self::Rename { from: path, .. } | Self::Remove { path, .. }) = self;
        path.parent() == Some(dir)
    }

    /// Applies the change if the name still means what it meant: after a crash lost an earlier change, a later one
    /// must not take away a file that nobody removed.
    fn apply(&self, entries: &mut Entries) {
        match self {
            Self::Create { path, inode } => {
                entries.entry(path.clone()).or_insert(*inode);
            }
            Self::Rename { from, to, inode } => {
                if entries.get(from) == Some(inode) {
                    entries.remove(from);
                    entries.insert(to.clone(), *inode);
                }
            }
            Self::Remove { path, inode } => {
                if entries.get(path) == Some(inode) {
                    entries.remove(path);
                }
            }
        }
    }
}

impl Names {
    pub(super) fn get(&self, path: &Path) -> Option<u64> {
        self.live.get(path).copied()
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.live.keys()
    }

    pub(super) fn inodes(&self) -> BTreeSet<u64> {
        self.live.values().copied().collect()
    }

    pub(super) fn create(&mut self, path: &Path, inode: u64) {
        self.change(NameChange::Create { path: path.to_path_buf(), inode });
    }

    /// Renames; nothing happens if there is no such file.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        if let Some(inode) = self.get(from) {
            self.change(NameChange::Rename { from: from.to_path_buf(), to: to.to_path_buf(), inode });
        }
    }

    /// Removes; nothing happens if there is no such file.
    pub(super) fn remove(&mut self, path: &Path) {
        if let Some(inode) = self.get(path) {
            self.change(NameChange::Remove { path: path.to_path_buf(), inode });
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(Arc::make_mut(&mut self.live));
        Arc::make_mut(&mut self.pending).push(change);
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        if !self.pending.iter().any(|change| change.is_in(dir)) {
            return;
        }
        let durable = Arc::make_mut(&mut self.durable);
        Arc::make_mut(&mut self.pending).retain(|change| {
            let now = change.is_in(dir);
            if now {
                change.apply(durable);
            }
            !now
        });
    }

    pub(super) fn crash(&mut self, random: &mut Random) {
        for change in std::mem::take(&mut self.pending).iter() {
            if random.below(2) == 0 {
                change.apply(Arc::make_mut(&mut self.durable));
            }
        }
        self.live = Arc::clone(&self.durable);
    }
}
