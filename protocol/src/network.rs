//! Which group two machines belong to: 32 bytes in every signature, 16 hex digits in every protocol name.

use core::fmt;

use crate::hash::{NETWORK, derive};
use crate::limits::NETWORK_NAME_MAX;

/// The identity of one swarm. Two groups with one name but different genesis keys never mix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId([u8; 32]);

/// Why a name cannot name a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a network name has 1 to {NETWORK_NAME_MAX} characters, letters, digits, '-', '_' or '.'; {0:?} does not")]
pub struct NetworkNameError(pub String);

impl NetworkId {
    /// derive("shoal network v1", genesis key or 32 zero bytes, name).
    ///
    /// # Errors
    /// [`NetworkNameError`] if the name is empty, too long or has other characters.
    pub fn derive(genesis: Option<&[u8; 32]>, name: &str) -> Result<Self, NetworkNameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > NETWORK_NAME_MAX || !name.bytes().all(allowed) {
            return Err(NetworkNameError(name.chars().take(80).collect()));
        }
        Ok(Self(derive(NETWORK, &[genesis.unwrap_or(&[0; 32]), name.as_bytes()])))
    }

    /// Takes the bytes as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// All 32 bytes, as signatures cover them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 8 bytes, as capability strings carry them.
    #[must_use]
    pub fn tag_bytes(&self) -> [u8; 8] {
        core::array::from_fn(|i| self.0[i])
    }

    /// The first 16 hexadecimal digits, as protocol names carry them.
    #[must_use]
    pub fn tag(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.tag_bytes())
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkId({}..)", self.tag())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn genesis_and_name_both_count() {
        let bare = NetworkId::derive(None, "home").unwrap();
        assert_eq!(bare, NetworkId::derive(Some(&[0; 32]), "home").unwrap());
        assert_ne!(bare, NetworkId::derive(Some(&[1; 32]), "home").unwrap());
        assert_ne!(bare, NetworkId::derive(None, "home2").unwrap());
        assert_eq!(bare.tag().len(), 16);
    }

    #[test]
    fn odd_names_are_refused() {
        for name in ["", "a b", "é", "a/b", &"x".repeat(65)] {
            assert!(NetworkId::derive(None, name).is_err(), "{name:?}");
        }
    }
}
