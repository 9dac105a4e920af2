//! The short name of a peer in frame headers and tables of the private network. It proves nothing: what is signed names
//! the whole key.

use core::fmt;

use crate::id::NodeId;

/// The first 10 bytes of BLAKE3 over the 32 bytes of a node id: 80 bits, so that a second key for a given hash costs
/// 2^80 tries and two of 2^20 peers collide with a chance below 2^-40.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerHash([u8; 10]);

impl PeerHash {
    /// Bytes of a peer hash.
    pub const LEN: usize = 10;

    /// Takes the bytes as they are.
    #[must_use]
    pub const fn new(bytes: [u8; 10]) -> Self {
        Self(bytes)
    }

    /// The short name of a node.
    #[must_use]
    pub fn of(node: &NodeId) -> Self {
        let hash = blake3::hash(node.as_bytes());
        let bytes = hash.as_bytes();
        Self(core::array::from_fn(|i| bytes[i]))
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 10] {
        &self.0
    }
}

impl fmt::Display for PeerHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PeerHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerHash({self})")
    }
}
