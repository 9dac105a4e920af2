//! The ids of Shoal: fixed-size newtypes, checked when made, short in Debug, text forms that others understand.

use core::fmt;
use core::str::FromStr;

use crate::hash::{self, derive};
use crate::network::NetworkId;
use minicbor::decode::Error as DecodeError;
use minicbor::{Decode, Decoder, Encode, Encoder};

/// Why a text is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind}: {text:?}")]
pub struct IdError {
    /// What was expected.
    pub kind: &'static str,
    /// The text, cut to 80 characters.
    pub text: String,
}

impl IdError {
    fn new(kind: &'static str, text: &str) -> Self {
        Self { kind, text: text.chars().take(80).collect() }
    }
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Bytes of this id.
            pub const LEN: usize = $len;

            /// Takes the bytes as they are.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Lower-case hexadecimal of all bytes.
            #[must_use]
            pub fn to_hex(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}..)", stringify!($name), data_encoding::HEXLOWER.encode(&self.0[..4]))
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
                let bytes = d.bytes()?;
                let array = bytes.try_into().map_err(|_| DecodeError::message(concat!("length of ", stringify!($name))))?;
                Ok(Self(array))
            }
        }
    };
}

bytes_id! {
    /// A node: its Ed25519 public key. Shown as the libp2p peer id of that key.
    NodeId, 32
}
bytes_id! {
    /// A shard: the BLAKE3 hash of its masked bytes. Shown as a CIDv1 (raw, blake3).
    ShardId, 32
}
bytes_id! {
    /// An upload: derived from its owner key.
    FileId, 32
}
bytes_id! {
    /// A lease group: derived from the owner key of an upload.
    GroupId, 32
}
bytes_id! {
    /// Where a record lives: derived from its kind, signer and index.
    RecordKey, 32
}
bytes_id! {
    /// An Ed25519 public key that is not (or not only) a node's: owner, steward, issuer.
    PublicKey, 32
}
bytes_id! {
    /// A caller's own 16 random bytes, echoed in the signed answer.
    Nonce, 16
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number_id! {
    /// Space promised to one STORE on one node until it expires.
    ReservationId
}
number_id! {
    /// Drawn at random when a node starts: a request that names an older one is void.
    BootEpoch
}

/// Protobuf header of a libp2p Ed25519 public key: field 1 = type 1 (Ed25519), field 2 = 32 bytes.
/// Source: libp2p specs, peer-ids/peer-ids.md, "Keys".
const PEER_ID_KEY_HEADER: [u8; 4] = [0x08, 0x01, 0x12, 0x20];
/// Multihash header of an inlined 36-byte key: identity (0x00), length 36.
const PEER_ID_HASH_HEADER: [u8; 2] = [0x00, 0x24];

impl NodeId {
    /// The libp2p peer id of this key, as bytes of its identity multihash.
    #[must_use]
    pub fn to_peer_id_bytes(&self) -> [u8; 38] {
        let mut out = [0; 38];
        out[..2].copy_from_slice(&PEER_ID_HASH_HEADER);
        out[2..6].copy_from_slice(&PEER_ID_KEY_HEADER);
        out[6..].copy_from_slice(&self.0);
        out
    }

    /// The node behind a libp2p peer id, if that id inlines an Ed25519 key.
    #[must_use]
    pub fn from_peer_id_bytes(bytes: &[u8]) -> Option<Self> {
        let key = bytes.strip_prefix(&PEER_ID_HASH_HEADER)?.strip_prefix(&PEER_ID_KEY_HEADER)?;
        Some(Self(key.try_into().ok()?))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_peer_id_bytes()).into_string())
    }
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError::new("peer id of an Ed25519 key", text);
        if text.len() > 64 {
            return Err(error());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| error())?;
        Self::from_peer_id_bytes(&bytes).ok_or_else(error)
    }
}

/// CIDv1 header: version 1, codec raw (0x55), multihash blake3 (0x1e) of 32 bytes. Source: multicodec table.
const CID_HEADER: [u8; 4] = [0x01, 0x55, 0x1e, 0x20];

impl ShardId {
    /// The id of these shard bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cid = [0; 36];
        cid[..4].copy_from_slice(&CID_HEADER);
        cid[4..].copy_from_slice(&self.0);
        write!(f, "b{}", data_encoding::BASE32_NOPAD.encode(&cid).to_ascii_lowercase())
    }
}

impl FromStr for ShardId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError::new("shard CID", text);
        let body = text.strip_prefix('b').filter(|body| body.len() <= 64).ok_or_else(error)?;
        if body.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(error());
        }
        let bytes = data_encoding::BASE32_NOPAD.decode(body.to_ascii_uppercase().as_bytes()).map_err(|_| error())?;
        let hash = bytes.strip_prefix(&CID_HEADER).ok_or_else(error)?;
        Ok(Self(hash.try_into().map_err(|_| error())?))
    }
}

macro_rules! hex_display {
    ($($name:ident),*) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        })*
    };
}
hex_display!(FileId, GroupId, RecordKey, Nonce, PublicKey);

impl From<NodeId> for PublicKey {
    fn from(node: NodeId) -> Self {
        Self(node.0)
    }
}

impl From<PublicKey> for NodeId {
    fn from(key: PublicKey) -> Self {
        Self(key.0)
    }
}

impl FileId {
    /// The file an owner key stands for, in one network.
    #[must_use]
    pub fn of_owner(network: &NetworkId, owner: &PublicKey) -> Self {
        Self(derive(hash::FILE, &[network.as_bytes(), &owner.0]))
    }
}

impl GroupId {
    /// The lease group of an owner key, in one network.
    #[must_use]
    pub fn of_owner(network: &NetworkId, owner: &PublicKey) -> Self {
        Self(derive(hash::GROUP, &[network.as_bytes(), &owner.0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_id_text_round_trips() {
        let node = NodeId::from_bytes([7; 32]);
        assert!(node.to_string().starts_with("12D3KooW"));
        assert_eq!(node.to_string().parse::<NodeId>(), Ok(node));
        assert!("12D3KooWnope".parse::<NodeId>().is_err());
        assert!("1".repeat(500).parse::<NodeId>().is_err());
    }

    #[test]
    fn shard_id_is_a_cid_of_the_blake3_hash() {
        let shard = ShardId::of(b"hello");
        assert!(shard.to_string().starts_with("bafkr4i"));
        assert_eq!(shard.to_string().parse::<ShardId>(), Ok(shard));
        assert!(shard.to_string().to_uppercase().parse::<ShardId>().is_err());
    }
}
