//! What was uploaded from here: enough to find it again with the password. It holds no password and no key.

use serde::{Deserialize, Serialize};

use crate::home::{Home, HomeError};

const FILE: &str = "catalogue.json";
/// Most uploads listed.
const UPLOADS_MAX: usize = 10_000;
/// Longest file, bytes.
const FILE_MAX: usize = 32 * 1024 * 1024;

/// One upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Upload {
    /// When, milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// What it was called.
    pub(crate) name: String,
    /// Bytes of content.
    pub(crate) bytes: u64,
    /// Files, directories and links.
    pub(crate) entries: u64,
    /// The `shoal1` capability.
    pub(crate) capability: String,
    /// Name of its network.
    pub(crate) network: String,
    /// The network's founding key, hexadecimal, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) genesis: Option<String>,
}

/// All uploads, oldest first.
pub(crate) fn list(home: &Home) -> Result<Vec<Upload>, HomeError> {
    Ok(home.load(FILE, FILE_MAX)?.unwrap_or_default())
}

/// Adds one; false if the list is full, for what is in it is never dropped unasked.
pub(crate) fn add(home: &Home, upload: Upload) -> Result<bool, HomeError> {
    let mut added = false;
    home.update(FILE, FILE_MAX, |uploads: &mut Vec<Upload>| {
        added = uploads.len() < UPLOADS_MAX;
        if added {
            uploads.push(upload);
        }
    })?;
    Ok(added)
}

/// Forgets number `number` of the list, counted from 1, and returns it.
pub(crate) fn remove(home: &Home, number: usize) -> Result<Option<Upload>, HomeError> {
    let mut removed = None;
    home.update(FILE, FILE_MAX, |uploads: &mut Vec<Upload>| {
        removed = number.checked_sub(1).filter(|&index| index < uploads.len()).map(|index| uploads.remove(index));
    })?;
    Ok(removed)
}

/// What a file of these bytes holds, as it is written again.
#[cfg(feature = "test-utils")]
pub(crate) fn written_again(bytes: &[u8]) -> Option<Vec<u8>> {
    let list: Vec<Upload> = serde_json::from_slice(bytes.get(..FILE_MAX.min(bytes.len()))?).ok()?;
    serde_json::to_vec_pretty(&list).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_come_and_go() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(|_| Some(place.path().as_os_str().to_owned())).unwrap();
        let upload = |name: &str| Upload {
            time_ms: 1,
            name: name.into(),
            bytes: 2,
            entries: 3,
            capability: "shoal1x".into(),
            network: "home".into(),
            genesis: None,
        };
        assert!(list(&home).unwrap().is_empty());
        assert!(add(&home, upload("a")).unwrap() && add(&home, upload("b")).unwrap());
        assert_eq!(remove(&home, 3).unwrap(), None);
        assert_eq!(remove(&home, 0).unwrap(), None);
        assert_eq!(remove(&home, 1).unwrap(), Some(upload("a")));
        assert_eq!(list(&home).unwrap(), [upload("b")]);
        home.update(FILE, FILE_MAX, |uploads: &mut Vec<Upload>| uploads.resize(UPLOADS_MAX, upload("c"))).unwrap();
        assert!(!add(&home, upload("d")).unwrap());
        assert_eq!(list(&home).unwrap().len(), UPLOADS_MAX);
    }
}
