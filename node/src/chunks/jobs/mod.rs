//! What a store does by itself: each job a state that takes short steps, handed the store's shared state and a log to
//! write to. They name no clock and no thread; [`super::upkeep`] gives them both.

pub(crate) mod compact;
pub(crate) mod expire;
pub(crate) mod scrub;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::Shared;
use super::commit::Draft;
use super::record::{Entry, KEY_FILE_BYTES, Kind};
use super::verify::Damage;
use super::vfs::{Vfs, read_file};

/// What every job works in.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub vfs: Arc<dyn Vfs>,
    pub data: PathBuf,
    pub shared: Arc<Shared>,
}

/// What does not read while the disk reads nothing at all is out of reach, not damaged.
///
/// # Errors
/// The system's, if neither copy of the key reads either.
pub(crate) fn in_reach(room: &Room, damage: Damage) -> io::Result<()> {
    if damage != Damage::Unreadable {
        return Ok(());
    }
    let key = |name| read_file(room.vfs.as_ref(), &room.data.join(name), KEY_FILE_BYTES as u64);
    key("store.key").or_else(|_| key("store.key.copy")).map(drop)
}

/// Takes a damaged record in use out of use, and its segment out of trust. A shard is lost by a record of its own, which
/// is to be written; a statement or version is forgotten, and its segment given up.
pub(crate) fn bury(room: &Room, segment: u32, entry: &Entry, damage: Damage, wall_ms: u64) -> Option<Draft> {
    let key = data_encoding::HEXLOWER.encode(&entry.key);
    tracing::error!(segment, offset = entry.offset, kind = ?entry.kind, key, ?damage, "damaged on disk");
    let mut index = room.shared.index_mut();
    index.segments.entry(segment).suspect = true;
    index.quarantine(entry, segment);
    let lost = Draft { number: wall_ms.max(1), ..Draft::mark(Kind::Tombstone, entry.key, [0; 32]) };
    (entry.kind == Kind::Put).then_some(Draft { at: Some((segment, entry.offset)), ..lost })
}
