//! Mesh key records: the X25519 key a node takes part in the private network with, signed by its node key. Nothing here
//! uses a key.

use minicbor::{Decode, Encode};

use crate::codec::{Bounded, bytes_array, ensure};
use crate::signed::Statement;
use crate::suite::Suite;
use crate::units::UnixMillis;

/// Longest time from now to `not_after` that is believed, milliseconds: eight days. A key is replaced daily; a week
/// without contact to the origin still leaves a usable record.
pub const MESH_KEY_LIFE_MAX_MS: u64 = 8 * 24 * 3600 * 1000;

/// Signed by the node whose key it is: the envelope carries the node's own public key, its signature covers the network.
/// Of two records of one node the one with the higher epoch counts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct MeshKey {
    /// X25519 public key (RFC 7748), never the node key converted.
    #[cbor(n(0), with = "bytes_array")]
    pub public: [u8; 32],
    /// Grows with every new key of this node.
    #[n(1)]
    pub epoch: u64,
    /// No handshake is begun or answered with this key from then on.
    #[n(2)]
    pub not_after: UnixMillis,
    /// What the node's processor seals data frames with: ascending by number, ChaCha20-Poly1305 always among them.
    #[n(3)]
    pub suites: Vec<Suite>,
}

impl Bounded for MeshKey {
    fn check(&self) -> Result<(), &'static str> {
        // A public key of zeros is the one point of low order that careless code produces.
        ensure(self.public != [0; 32], "mesh key")?;
        ensure(self.suites.is_sorted_by(|a, b| a.number() < b.number()), "order of suites")?;
        ensure(self.suites.contains(&Suite::ChaCha20Poly1305), "suite everybody has")
    }
}

impl Statement for MeshKey {
    const CONTEXT: &'static str = "shoal mesh key v1";
    const LIMIT: usize = 128;
}

impl MeshKey {
    /// Whether it may be used at `now`: not over, and not claimed for longer than [`MESH_KEY_LIFE_MAX_MS`].
    #[must_use]
    pub fn is_usable(&self, now: UnixMillis) -> bool {
        now < self.not_after && self.not_after <= now.saturating_add(MESH_KEY_LIFE_MAX_MS)
    }
}

/// What both seal data frames with: AES-256-GCM if both state it, else ChaCha20-Poly1305. Which lists were compared is
/// bound by the prologue of the handshake.
#[must_use]
pub fn data_suite(one: &[Suite], other: &[Suite]) -> Suite {
    let both = |suite| one.contains(&suite) && other.contains(&suite);
    if both(Suite::Aes256Gcm) { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Suite::{Aes256Gcm as Aes, ChaCha20Poly1305 as ChaCha};

    fn key(suites: &[Suite]) -> MeshKey {
        MeshKey { public: [9; 32], epoch: 1, not_after: UnixMillis(10), suites: suites.to_vec() }
    }

    #[test]
    fn suites_are_ascending_and_have_the_common_one() {
        assert!(key(&[ChaCha]).check().is_ok() && key(&[ChaCha, Aes]).check().is_ok());
        for bad in [&[][..], &[Aes], &[Aes, ChaCha], &[ChaCha, ChaCha]] {
            assert!(key(bad).check().is_err(), "{bad:?}");
        }
        assert!(MeshKey { public: [0; 32], ..key(&[ChaCha]) }.check().is_err());
    }

    #[test]
    fn aes_needs_both() {
        assert_eq!(data_suite(&[ChaCha, Aes], &[ChaCha, Aes]), Aes);
        assert_eq!(data_suite(&[ChaCha, Aes], &[ChaCha]), ChaCha);
        assert_eq!(data_suite(&[ChaCha], &[ChaCha, Aes]), ChaCha);
    }

    #[test]
    fn a_key_is_usable_until_its_end_and_not_for_years() {
        let key = MeshKey { not_after: UnixMillis(MESH_KEY_LIFE_MAX_MS + 100), ..key(&[ChaCha]) };
        assert!(!key.is_usable(UnixMillis(99)));
        assert!(key.is_usable(UnixMillis(100)));
        assert!(!key.is_usable(key.not_after));
    }
}
