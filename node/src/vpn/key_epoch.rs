//! The greatest epoch of a mesh key that was ever used here, between two runs: one file of nine bytes, a version and the
//! epoch. It decides nothing: what a lost one leads to is the engine's matter.

use std::io;
use std::path::{Path, PathBuf};

use crate::files::{read_bounded, write_private};

/// The file, in the data directory.
const FILE: &str = "vpn-key-epoch";
/// Of the format: this byte, then the epoch, little-endian.
const VERSION: u8 = 1;
const LENGTH: usize = 9;

/// Where it is kept.
#[derive(Clone, Debug)]
pub(crate) struct KeyEpochFile(PathBuf);

impl KeyEpochFile {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self(data_dir.join(FILE))
    }

    /// What the runs before used; 0 if there was none, or if it cannot be read: then others tell of it.
    pub(crate) fn load(&self) -> u64 {
        let bytes = read_bounded(&self.0, LENGTH as u64);
        match bytes.map(|bytes| bytes.map_or(Some(0), |bytes| decode(&bytes))) {
            Ok(Some(epoch)) => epoch,
            Ok(None) | Err(_) => {
                tracing::warn!(file = %self.0.display(), "the epoch of the mesh key cannot be read");
                0
            }
        }
    }

    /// Keeps it, durably.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn save(&self, epoch: u64) -> io::Result<()> {
        write_private(&self.0, &encode(epoch))
    }
}

fn encode(epoch: u64) -> [u8; LENGTH] {
    let [a, b, c, d, e, f, g, h] = epoch.to_le_bytes();
    [VERSION, a, b, c, d, e, f, g, h]
}

fn decode(bytes: &[u8]) -> Option<u64> {
    match *bytes {
        [VERSION, a, b, c, d, e, f, g, h] => Some(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_bytes_are_these_and_no_others_are_read() {
        let bytes = encode(0x0102_0304_0506_0708);
        assert_eq!(bytes, [1, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(decode(&bytes), Some(0x0102_0304_0506_0708));
        assert_eq!(decode(&bytes[..8]), None);
        assert_eq!(decode(&[2, 8, 7, 6, 5, 4, 3, 2, 1]), None);
    }

    #[test]
    fn what_was_kept_is_there_in_the_next_run_and_what_cannot_be_read_is_none() {
        let folder = std::env::temp_dir().join(format!("shoal-key-epoch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = KeyEpochFile::new(&folder);
        assert_eq!(file.load(), 0);
        file.save(7).unwrap();
        assert_eq!(KeyEpochFile::new(&folder).load(), 7);
        std::fs::write(folder.join(FILE), b"nonsense").unwrap();
        assert_eq!(file.load(), 0);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
