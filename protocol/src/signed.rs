//! The one envelope for everything that carries a signature, and the only way to a [`Verified`] value.
//!
//! ```text
//! envelope  = CBOR map { 0: payload bytes, 1: public key (32), 2: Ed25519 signature (64) }
//! signed    = len(context) as u64 LE || context || network id (32) || payload, as received
//! ```
//! The context says what kind of statement it is, the network id which swarm it is for: a signature of one kind or
//! one network is worthless in another.

use core::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use minicbor::{Decode, Encode};

use crate::codec::{self, Bounded, CodecError, Message, bytes_array, ensure};
use crate::id::PublicKey;
use crate::limits::FRESHNESS_MS;
use crate::network::NetworkId;
use crate::units::UnixMillis;

/// A value that can be signed: its context and its size limit.
pub trait Statement: Message {
    /// Separates this kind of statement from every other.
    const CONTEXT: &'static str;
    /// Most bytes the payload may have.
    const LIMIT: usize;
}

/// Why a signed object was not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// The envelope or the payload is not what it should be.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The public key is not a point on the curve, or a weak one.
    #[error("public key is not usable")]
    BadKey,
    /// The signature does not match payload, context, network and key.
    #[error("signature does not match")]
    BadSignature,
    /// Well signed, but by another key than the one expected.
    #[error("signed by {found}, expected {expected}")]
    WrongSigner {
        /// Who should have signed.
        expected: PublicKey,
        /// Who did.
        found: PublicKey,
    },
    /// Its time is more than two minutes from now.
    #[error("statement of {said:?} is not fresh at {now:?}")]
    Stale {
        /// Time in the statement.
        said: UnixMillis,
        /// The reader's time.
        now: UnixMillis,
    },
}

/// Payload bytes with a key and a signature, nothing checked yet.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Signed {
    #[cbor(n(0), with = "minicbor::bytes")]
    payload: Vec<u8>,
    #[n(1)]
    key: PublicKey,
    #[cbor(n(2), with = "bytes_array")]
    signature: [u8; 64],
}

impl Bounded for Signed {}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({} bytes by {:?})", self.payload.len(), self.key)
    }
}

/// Bytes the envelope adds to a payload, at most.
pub const ENVELOPE: usize = 128;

impl Signed {
    /// Signs `statement` for one network.
    #[must_use]
    pub fn seal<T: Statement>(statement: &T, signer: &SigningKey, network: &NetworkId) -> Self {
        let payload = codec::encode(statement);
        let signature = signer.sign(&message(T::CONTEXT, network, &payload)).to_bytes();
        Self { payload, key: PublicKey::from_bytes(signer.verifying_key().to_bytes()), signature }
    }

    /// The statement, if the signature is right for this network and kind.
    ///
    /// # Errors
    /// [`Forged`] with the first reason found; the signature is checked before the payload is parsed.
    pub fn verify<T: Statement>(&self, network: &NetworkId) -> Result<Verified<T>, Forged> {
        let key = VerifyingKey::from_bytes(self.key.as_bytes()).map_err(|_| Forged::BadKey)?;
        if self.payload.len() > T::LIMIT {
            return Err(CodecError::TooLong { length: self.payload.len(), limit: T::LIMIT }.into());
        }
        key.verify_strict(&message(T::CONTEXT, network, &self.payload), &Signature::from_bytes(&self.signature))
            .map_err(|_| Forged::BadSignature)?;
        Ok(Verified { statement: codec::decode(&self.payload, T::LIMIT)?, signer: self.key })
    }

    /// The same, and by this signer.
    ///
    /// # Errors
    /// [`Forged`]; a wrong signer is found before the signature is checked.
    pub fn verify_by<T: Statement>(&self, signer: &PublicKey, network: &NetworkId) -> Result<Verified<T>, Forged> {
        if self.key != *signer {
            return Err(Forged::WrongSigner { expected: *signer, found: self.key });
        }
        self.verify(network)
    }

    /// The key it claims to be signed by, unchecked.
    #[must_use]
    pub const fn claimed_signer(&self) -> &PublicKey {
        &self.key
    }

    /// The envelope's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The envelope in `bytes`.
    ///
    /// # Errors
    /// [`CodecError`] if it is longer than `limit` or not an envelope in its only form.
    pub fn from_bytes(bytes: &[u8], limit: usize) -> Result<Self, CodecError> {
        codec::decode(bytes, limit)
    }
}

fn message(context: &str, network: &NetworkId, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + context.len() + 32 + payload.len());
    out.extend_from_slice(&(context.len() as u64).to_le_bytes());
    out.extend_from_slice(context.as_bytes());
    out.extend_from_slice(network.as_bytes());
    out.extend_from_slice(payload);
    out
}

/// A statement whose signature was checked. Nothing but [`Signed::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    statement: T,
    signer: PublicKey,
}

impl<T> Verified<T> {
    /// Who signed it.
    #[must_use]
    pub const fn signer(&self) -> &PublicKey {
        &self.signer
    }

    /// The statement alone.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.statement
    }
}

impl<T> core::ops::Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.statement
    }
}

/// Whether a message said at `said` may bind the addressed party at `now`: at most two minutes apart, either way.
///
/// # Errors
/// [`Forged::Stale`] otherwise.
pub fn ensure_fresh(said: UnixMillis, now: UnixMillis) -> Result<(), Forged> {
    ensure(now.distance(said) <= FRESHNESS_MS, "").map_err(|_| Forged::Stale { said, now })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Note {
        #[n(0)]
        value: u64,
    }
    impl Bounded for Note {}
    impl Statement for Note {
        const CONTEXT: &'static str = "test note";
        const LIMIT: usize = 64;
    }
    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Other {
        #[n(0)]
        value: u64,
    }
    impl Bounded for Other {}
    impl Statement for Other {
        const CONTEXT: &'static str = "test other";
        const LIMIT: usize = 64;
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let network = NetworkId::derive(None, "a").unwrap();
        let signer = SigningKey::from_bytes(&[5; 32]);
        let bytes = Signed::seal(&Note { value: 300 }, &signer, &network).to_bytes();
        let good = Signed::from_bytes(&bytes, 256).unwrap();
        assert_eq!(good.verify::<Note>(&network).unwrap().value, 300);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let believed = Signed::from_bytes(&bad, 256).map(|signed| signed.verify::<Note>(&network).is_ok());
            assert_ne!(believed, Ok(true), "bit {bit}");
        }
    }

    #[test]
    fn context_network_and_signer_bind() {
        let network = NetworkId::derive(None, "a").unwrap();
        let signer = SigningKey::from_bytes(&[5; 32]);
        let signed = Signed::seal(&Note { value: 1 }, &signer, &network);
        assert_eq!(signed.verify::<Other>(&network), Err(Forged::BadSignature));
        assert_eq!(signed.verify::<Note>(&NetworkId::derive(None, "b").unwrap()), Err(Forged::BadSignature));
        let other = PublicKey::from_bytes([9; 32]);
        assert!(matches!(signed.verify_by::<Note>(&other, &network), Err(Forged::WrongSigner { .. })));
    }

    #[test]
    fn freshness_counts_both_ways() {
        let now = UnixMillis(1_000_000);
        assert!(ensure_fresh(UnixMillis(1_000_000 - 120_000), now).is_ok());
        assert!(ensure_fresh(UnixMillis(1_000_000 + 120_000), now).is_ok());
        assert!(ensure_fresh(UnixMillis(1_000_000 - 120_001), now).is_err());
        assert!(ensure_fresh(UnixMillis(1_000_000 + 120_001), now).is_err());
    }
}
