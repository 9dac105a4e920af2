//! The key a named network begins with. Whoever runs `init` makes one; the others are told its public half.
//!
//! `genesis.key` is one line: `shoal-genesis-1`, the network name, the 32-byte Ed25519 seed in hexadecimal.

use std::io;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use shoal_protocol::NetworkId;
use shoal_protocol::network::NetworkNameError;
use zeroize::Zeroizing;

use crate::clock;
use crate::files::{read_bounded, write_private};

const MARK: &str = "shoal-genesis-1";
const FILE_MAX: u64 = 512;

/// Why there is no network id.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GenesisError {
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] NetworkNameError),
    /// The file cannot be read or written.
    #[error("cannot use {path}: {cause}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// Not a genesis file.
    #[error("{0} is not a genesis file")]
    Damaged(PathBuf),
    /// The directory began another network.
    #[error("{path} began the network {found:?}, not {wanted:?}")]
    OtherNetwork {
        /// Which file.
        path: PathBuf,
        /// Its network.
        found: String,
        /// The network asked for.
        wanted: String,
    },
    /// The system gives no randomness.
    #[error("the system gives no randomness: {0}")]
    Random(getrandom::Error),
}

/// The public half of the genesis key in `data`, if this directory began `network`.
pub(crate) fn load(data: &Path, network: &str) -> Result<Option<[u8; 32]>, GenesisError> {
    let path = data.join("genesis.key");
    let bytes = read_bounded(&path, FILE_MAX).map_err(|cause| GenesisError::Io { path: path.clone(), cause })?;
    let Some(bytes) = bytes else { return Ok(None) };
    let (found, key) = parse(&bytes).ok_or_else(|| GenesisError::Damaged(path.clone()))?;
    if found != network {
        return Err(GenesisError::OtherNetwork { path, found, wanted: network.to_owned() });
    }
    Ok(Some(key.verifying_key().to_bytes()))
}

/// The public half, made now if there is none.
pub(crate) fn load_or_make(data: &Path, network: &str) -> Result<[u8; 32], GenesisError> {
    NetworkId::derive(None, network)?;
    if let Some(public) = load(data, network)? {
        return Ok(public);
    }
    let seed = Zeroizing::new(clock::random::<32>().map_err(GenesisError::Random)?);
    let digits = Zeroizing::new(data_encoding::HEXLOWER.encode(&*seed));
    let text = Zeroizing::new(format!("{MARK} {network} {}\n", *digits));
    let path = data.join("genesis.key");
    write_private(&path, text.as_bytes()).map_err(|cause| GenesisError::Io { path, cause })?;
    Ok(SigningKey::from_bytes(&seed).verifying_key().to_bytes())
}

pub(crate) fn parse(bytes: &[u8]) -> Option<(String, SigningKey)> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end();
    let (name, digits) = text.strip_prefix(MARK)?.strip_prefix(' ')?.split_once(' ')?;
    let seed = Zeroizing::new(data_encoding::HEXLOWER.decode(digits.as_bytes()).ok()?);
    Some((name.to_owned(), SigningKey::from_bytes(seed.as_slice().try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_begins_one_network() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(load(place.path(), "home").unwrap(), None);
        let public = load_or_make(place.path(), "home").unwrap();
        assert_eq!(load_or_make(place.path(), "home").unwrap(), public);
        assert_eq!(load(place.path(), "home").unwrap(), Some(public));
        assert!(matches!(load(place.path(), "work"), Err(GenesisError::OtherNetwork { .. })));
        assert!(matches!(load_or_make(place.path(), "a b"), Err(GenesisError::Name(_))));
    }
}
