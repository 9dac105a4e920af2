//! A node in ten bytes: what frames, relay headers and addresses name it by. It proves nothing; who is meant is checked
//! against the node id by whoever holds it.

use core::fmt;

use minicbor::decode::Error as DecodeError;
use minicbor::{Decode, Decoder, Encode, Encoder};

use crate::id::NodeId;

/// The first 10 bytes of BLAKE3 over the 32 bytes of a node id. 80 bits: among a million nodes two are alike with a
/// chance of about 2^-41.
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

    /// The hash of this node.
    #[must_use]
    pub fn of(node: &NodeId) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, ..] = *blake3::hash(node.as_bytes()).as_bytes();
        Self([a, b, c, d, e, f, g, h, i, j])
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

impl<C> Encode<C> for PeerHash {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for PeerHash {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        d.bytes()?.try_into().map(Self).map_err(|_| DecodeError::message("length of a peer hash"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_head_of_the_hash_of_the_id() {
        let node = NodeId::from_bytes([7; 32]);
        let hash = PeerHash::of(&node);
        assert_eq!(hash.as_bytes()[..], blake3::hash(&[7; 32]).as_bytes()[..10]);
        assert_eq!(hash.to_string().len(), 20);
        assert_ne!(hash, PeerHash::of(&NodeId::from_bytes([8; 32])));
    }
}
