//! Who this store is, and whether its directories are the ones it was made in: two copies of the key, and a marker
//! beside the segments. It never makes a new identity where anything was ever stored.

use std::path::{Path, PathBuf};

use super::error::OpenError;
use super::record::{Codec, KEY_FILE_BYTES, MARKER_BYTES, Refused, StoreKey};
use super::recovery::io_error;
use super::segment::{segment_number, segments_dir};
use super::vfs::{OpenMode, Vfs, replace_file};

/// Names of the two copies of the key. Without it no record can be told from a stranger's bytes, so one bad sector must
/// not cost the store.
const KEY_FILES: [&str; 2] = ["store.key", "store.key.copy"];

fn marker_path(data: &Path) -> PathBuf {
    segments_dir(data).join("store.id")
}

/// What is found where a copy of the key belongs.
enum Copy {
    Absent,
    Damaged,
    Whole(StoreKey),
}

/// The identity of the store in `data`, and whether it was made now: only where nothing was ever stored.
///
/// # Errors
/// [`OpenError`] if the key is lost, or the segments are missing or another store's.
pub(crate) fn load_or_make(vfs: &dyn Vfs, data: &Path, seed: &[u8; 32]) -> Result<(StoreKey, bool), OpenError> {
    let copies = [read_copy(vfs, data, KEY_FILES[0])?, read_copy(vfs, data, KEY_FILES[1])?];
    let key = match &copies {
        [Copy::Whole(key), Copy::Whole(other)] if key != other => {
            return Err(OpenError::KeyDamaged(data.join(KEY_FILES[1])));
        }
        [Copy::Whole(key), _] | [_, Copy::Whole(key)] => key.clone(),
        [Copy::Absent, Copy::Absent] => return make(vfs, data, seed).map(|key| (key, true)),
        _ => return Err(OpenError::KeyDamaged(data.join(KEY_FILES[0]))),
    };
    let codec = Codec::new(&key);
    match check_marker(vfs, data, &codec) {
        // It is not missing and no other store's: only its bytes are wrong, and the segments say whose they are.
        Err(OpenError::MarkerDamaged(path)) => replace(vfs, &segments_dir(data), &path, &codec.marker())?,
        other => other?,
    }
    for (copy, name) in copies.iter().zip(KEY_FILES) {
        if !matches!(copy, Copy::Whole(_)) {
            tracing::warn!(name, "a copy of the store's key was lost or damaged and is written again");
            replace(vfs, data, &data.join(name), &key.encode())?;
        }
    }
    Ok((key, false))
}

/// The identity in `data` without changing anything; `None` if there is no store.
///
/// # Errors
/// As [`load_or_make`].
pub(crate) fn load(vfs: &dyn Vfs, data: &Path) -> Result<Option<StoreKey>, OpenError> {
    let copies = [read_copy(vfs, data, KEY_FILES[0])?, read_copy(vfs, data, KEY_FILES[1])?];
    match copies {
        [Copy::Whole(key), _] | [_, Copy::Whole(key)] => {
            check_marker(vfs, data, &Codec::new(&key))?;
            Ok(Some(key))
        }
        [Copy::Absent, Copy::Absent] => Ok(None),
        _ => Err(OpenError::KeyDamaged(data.join(KEY_FILES[0]))),
    }
}

/// Whether the key files and the marker are still what they were; damaged ones are written again. Returns how many were.
///
/// # Errors
/// [`OpenError::Missing`] or [`OpenError::Foreign`] if these are other directories now; the system's.
pub(crate) fn repair(vfs: &dyn Vfs, data: &Path, key: &StoreKey) -> Result<u64, OpenError> {
    let mut repaired = 0u64;
    let codec = Codec::new(key);
    match check_marker(vfs, data, &codec) {
        Err(OpenError::MarkerDamaged(path)) => {
            replace(vfs, &segments_dir(data), &path, &codec.marker())?;
            repaired = repaired.saturating_add(1);
        }
        other => other?,
    }
    for name in KEY_FILES {
        if !matches!(read_copy(vfs, data, name)?, Copy::Whole(found) if found == *key) {
            replace(vfs, data, &data.join(name), &key.encode())?;
            repaired = repaired.saturating_add(1);
        }
    }
    Ok(repaired)
}

fn read_copy(vfs: &dyn Vfs, data: &Path, name: &str) -> Result<Copy, OpenError> {
    let path = data.join(name);
    let file = match vfs.open(&path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Copy::Absent),
        Err(error) => return Err(io_error("open", &path)(error)),
    };
    let mut bytes = [0; KEY_FILE_BYTES];
    if file.read_exact_at(&mut bytes, 0).is_err() {
        return Ok(Copy::Damaged);
    }
    match StoreKey::decode(&bytes) {
        Ok(key) => Ok(Copy::Whole(key)),
        Err(Refused::Invalid) => Ok(Copy::Damaged),
        Err(Refused::Newer(what)) => Err(OpenError::Newer { path, what }),
    }
}

/// Whether the marker beside the segments is this store's.
pub(crate) fn check_marker(vfs: &dyn Vfs, data: &Path, codec: &Codec) -> Result<(), OpenError> {
    let path = marker_path(data);
    let file = match vfs.open(&path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(OpenError::Missing(segments_dir(data)));
        }
        Err(error) => return Err(io_error("open", &path)(error)),
    };
    let mut bytes = [0; MARKER_BYTES];
    if file.read_exact_at(&mut bytes, 0).is_err() {
        return Err(OpenError::MarkerDamaged(path));
    }
    let ours = codec.marker();
    if bytes == ours {
        return Ok(());
    }
    // Another store's marker is whole but for its MAC, which only that store can check.
    // One with our MAC is ours, and its id is what is damaged.
    let whole = bytes[..16] == ours[..16] && bytes[32..48] == ours[32..48] && bytes[48..] != ours[48..];
    Err(if whole && bytes[16..32] != ours[16..32] { OpenError::Foreign(path) } else { OpenError::MarkerDamaged(path) })
}

/// Marker first and `store.key` last: a directory that has a key has, or had, its segments.
fn make(vfs: &dyn Vfs, data: &Path, seed: &[u8; 32]) -> Result<StoreKey, OpenError> {
    let segments = segments_dir(data);
    let names = vfs.list(&segments).map_err(io_error("list", &segments))?;
    if names.iter().any(|name| segment_number(name).is_some()) {
        return Err(OpenError::KeyMissing(data.to_path_buf()));
    }
    let key = StoreKey::from_seed(seed);
    replace(vfs, &segments, &marker_path(data), &Codec::new(&key).marker())?;
    replace(vfs, data, &data.join(KEY_FILES[1]), &key.encode())?;
    replace(vfs, data, &data.join(KEY_FILES[0]), &key.encode())?;
    Ok(key)
}

fn replace(vfs: &dyn Vfs, dir: &Path, path: &Path, bytes: &[u8]) -> Result<(), OpenError> {
    replace_file(vfs, dir, path, bytes).map_err(io_error("write", path))
}
