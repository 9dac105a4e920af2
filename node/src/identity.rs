//! The node's key: one file, made once, readable by its owner alone, with a phrase of 24 words as its backup. It is
//! never replaced and never shown except as that phrase, on request.
//!
//! `identity.key` is one line: `shoal-identity-1`, a space, the 32-byte Ed25519 seed in lower-case hexadecimal.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bip39::Mnemonic;
use ed25519_dalek::SigningKey;
use shoal_protocol::NodeId;
use zeroize::Zeroizing;

use crate::clock;
use crate::files::{read_bounded, write_private};

const MARK: &str = "shoal-identity-1";
const FILE_MAX: u64 = 256;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// The file cannot be read or written.
    #[error("cannot use {path}: {cause}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// Others may read the key.
    #[error("{0} can be read by others")]
    Exposed(PathBuf),
    /// Not an identity file.
    #[error("{0} is not an identity file")]
    Damaged(PathBuf),
    /// There is one already.
    #[error("{0} exists and is never replaced")]
    Exists(PathBuf),
    /// Not 24 words of the list, or their checksum is wrong.
    #[error("the phrase is not right: {0}")]
    Phrase(String),
    /// The system gives no randomness.
    #[error("the system gives no randomness: {0}")]
    Random(getrandom::Error),
}

/// The id of a key.
pub(crate) fn node_id(key: &SigningKey) -> NodeId {
    NodeId::from_bytes(key.verifying_key().to_bytes())
}

/// The key in `data`, if there is one.
pub(crate) fn load(data: &Path) -> Result<Option<SigningKey>, IdentityError> {
    let path = data.join("identity.key");
    let io = |cause| IdentityError::Io { path: path.clone(), cause };
    let Some(bytes) = read_bounded(&path, FILE_MAX).map_err(io)? else { return Ok(None) };
    let mode = fs::metadata(&path).map_err(io)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed(path));
    }
    parse(&bytes).map(Some).ok_or(IdentityError::Damaged(path))
}

/// The key in `data`, made now if there is none.
pub(crate) fn load_or_make(data: &Path) -> Result<SigningKey, IdentityError> {
    if let Some(key) = load(data)? {
        return Ok(key);
    }
    let seed = Zeroizing::new(clock::random::<32>().map_err(IdentityError::Random)?);
    save(data, &seed)
}

/// Makes the key whose backup is `phrase`; a key that is there already is left alone.
pub(crate) fn restore(data: &Path, phrase: &str) -> Result<SigningKey, IdentityError> {
    if load(data)?.is_some() {
        return Err(IdentityError::Exists(data.join("identity.key")));
    }
    let words = Mnemonic::parse_normalized(phrase.trim()).map_err(|error| IdentityError::Phrase(error.to_string()))?;
    let (entropy, length) = words.to_entropy_array();
    let entropy = Zeroizing::new(entropy);
    let seed: Option<[u8; 32]> = entropy.get(..length).and_then(|seed| seed.try_into().ok());
    let seed = seed.ok_or_else(|| IdentityError::Phrase("24 words are needed".into()))?;
    save(data, &Zeroizing::new(seed))
}

/// The 24 words that bring this key back.
pub(crate) fn phrase(key: &SigningKey) -> Result<Zeroizing<String>, IdentityError> {
    let words = Mnemonic::from_entropy(key.as_bytes()).map_err(|error| IdentityError::Phrase(error.to_string()))?;
    Ok(Zeroizing::new(words.to_string()))
}

fn save(data: &Path, seed: &[u8; 32]) -> Result<SigningKey, IdentityError> {
    let path = data.join("identity.key");
    let digits = Zeroizing::new(data_encoding::HEXLOWER.encode(seed));
    let text = Zeroizing::new(format!("{MARK} {}\n", *digits));
    write_private(&path, text.as_bytes()).map_err(|cause| IdentityError::Io { path, cause })?;
    Ok(SigningKey::from_bytes(seed))
}

pub(crate) fn parse(bytes: &[u8]) -> Option<SigningKey> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end();
    let digits = text.strip_prefix(MARK)?.strip_prefix(' ')?;
    let seed = Zeroizing::new(data_encoding::HEXLOWER.decode(digits.as_bytes()).ok()?);
    Some(SigningKey::from_bytes(seed.as_slice().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_kept() {
        let place = tempfile::tempdir().unwrap();
        assert!(load(place.path()).unwrap().is_none());
        let first = load_or_make(place.path()).unwrap();
        assert_eq!(node_id(&first), node_id(&load_or_make(place.path()).unwrap()));
        let path = place.path().join("identity.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(load(place.path()), Err(IdentityError::Exposed(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "shoal-identity-1 00").unwrap();
        assert!(matches!(load(place.path()), Err(IdentityError::Damaged(_))));
    }

    #[test]
    fn the_phrase_brings_the_key_back() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = load_or_make(one.path()).unwrap();
        let words = phrase(&key).unwrap();
        assert_eq!(words.split(' ').count(), 24);
        assert_eq!(node_id(&restore(two.path(), &words).unwrap()), node_id(&key));
        assert!(matches!(restore(two.path(), &words), Err(IdentityError::Exists(_))));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(restore(empty.path(), "abandon abandon"), Err(IdentityError::Phrase(_))));
    }
}
