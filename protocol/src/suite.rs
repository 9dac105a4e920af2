//! Which cipher an upload uses: one number for seal and mask together.

use core::fmt;
use core::str::FromStr;

use minicbor::{Decode, Encode};

/// A pair of AEAD and keystream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Suite {
    /// ChaCha20-Poly1305 (RFC 8439) with the ChaCha20 keystream as mask.
    #[n(1)]
    ChaCha20Poly1305,
    /// AES-256-GCM (NIST SP 800-38D) with AES-256-CTR as mask.
    #[n(2)]
    Aes256Gcm,
}

impl Suite {
    /// The number on the wire and in AAD.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::ChaCha20Poly1305 => 1,
            Self::Aes256Gcm => 2,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Aes256Gcm => "aes-256-gcm",
        })
    }
}

/// A cipher name nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown cipher {0:?}; known are chacha20-poly1305 and aes-256-gcm")]
pub struct UnknownSuite(pub String);

impl FromStr for Suite {
    type Err = UnknownSuite;

    fn from_str(text: &str) -> Result<Self, UnknownSuite> {
        match text {
            "chacha20-poly1305" => Ok(Self::ChaCha20Poly1305),
            "aes-256-gcm" => Ok(Self::Aes256Gcm),
            other => Err(UnknownSuite(other.chars().take(40).collect())),
        }
    }
}
