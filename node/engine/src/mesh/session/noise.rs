//! The Noise handshake of a session: snow with ciphers of our choice and without a random source of its own. It sends
//! nothing and decides nothing; every secret it made is wiped where it can be reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blake2::{Blake2s256, Digest};
use shoal_protocol::Suite;
use shoal_protocol::limits::TAG;
use shoal_protocol::mesh::session::handshake::{NOISE_FIRST, NOISE_NAME, NOISE_SECOND, OFFER, OPENING};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, Zeroizing};

use super::keys::Aead;

/// Where the preshared key goes: after the second message.
const PSK_PLACE: u8 = 2;
/// Bytes of a preshared key.
pub const PSK: usize = 32;

/// How many multiplications on the curve were made: what a forged message must not cause.
#[derive(Clone, Debug, Default)]
pub struct PublicKeyOperations(Arc<AtomicU64>);

impl PublicKeyOperations {
    /// So far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What both sides of a handshake are given. The ephemeral key is 32 fresh random bytes and is used once.
pub(super) struct Inputs<'a> {
    pub(super) secret: &'a [u8; 32],
    pub(super) peer: &'a [u8; 32],
    pub(super) prologue: &'a [u8],
    pub(super) psk: &'a [u8; PSK],
    pub(super) ephemeral: Zeroizing<[u8; 32]>,
    pub(super) operations: &'a PublicKeyOperations,
}

/// What a finished handshake leaves: raw keys, from which those of frames are derived.
pub(super) struct Secrets {
    pub(super) hash: [u8; 32],
    pub(super) from_initiator: Zeroizing<[u8; 32]>,
    pub(super) from_responder: Zeroizing<[u8; 32]>,
}

/// The message does not open, names a key of low order, or is out of turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

impl From<Error> for Refused {
    fn from(_: Error) -> Self {
        Self
    }
}

/// An initiator that waits for the second message.
pub(super) struct Initiator(Box<HandshakeState>);

impl Initiator {
    pub(super) fn begin(inputs: Inputs<'_>, opening: &[u8; OPENING]) -> Result<(Self, [u8; NOISE_FIRST]), Refused> {
        let mut state = Box::new(build(inputs, true)?);
        let mut out = [0; NOISE_FIRST];
        let length = state.write_message(opening, &mut out)?;
        if length == NOISE_FIRST { Ok((Self(state), out)) } else { Err(Refused) }
    }

    /// Reads the second message. One that does not open changes nothing; after one that does the initiator is spent.
    pub(super) fn finish(&mut self, noise: &[u8; NOISE_SECOND]) -> Result<(Secrets, [u8; OFFER]), Refused> {
        // snow opens into a buffer that has room for the tag as well.
        let mut payload = [0; NOISE_SECOND];
        let length = self.0.read_message(noise, &mut payload)?;
        let offer = payload.get(..length).and_then(|offer| offer.try_into().ok()).ok_or(Refused)?;
        let secrets = split(&mut self.0);
        forget(&mut self.0)?;
        Ok((secrets, offer))
    }
}

/// A responder that has read the first message.
pub(super) struct Responder(Box<HandshakeState>);

impl Responder {
    pub(super) fn read(inputs: Inputs<'_>, noise: &[u8; NOISE_FIRST]) -> Result<(Self, [u8; OPENING]), Refused> {
        let peer = *inputs.peer;
        let mut state = Box::new(build(inputs, false)?);
        let mut payload = Zeroizing::new([0; NOISE_FIRST]);
        let length = state.read_message(noise, &mut payload[..])?;
        let opening = payload.get(..length).and_then(|opening| opening.try_into().ok()).ok_or(Refused)?;
        // The key inside has to be that of the record whose peer and epoch the prologue named.
        if state.get_remote_static() != Some(&peer[..]) {
            return Err(Refused);
        }
        Ok((Self(state), opening))
    }

    pub(super) fn answer(mut self, offer: &[u8; OFFER]) -> Result<(Secrets, [u8; NOISE_SECOND]), Refused> {
        let mut out = [0; NOISE_SECOND];
        let length = self.0.write_message(offer, &mut out)?;
        let secrets = split(&mut self.0);
        forget(&mut self.0)?;
        if length == NOISE_SECOND { Ok((secrets, out)) } else { Err(Refused) }
    }
}

fn build(inputs: Inputs<'_>, initiator: bool) -> Result<HandshakeState, Refused> {
    let resolver = Box::new(Primitives { ephemeral: inputs.ephemeral, operations: inputs.operations.clone() });
    let builder = Builder::with_resolver(NOISE_NAME.parse()?, resolver);
    let builder = builder.local_private_key(inputs.secret)?.prologue(inputs.prologue)?.psk(PSK_PLACE, inputs.psk)?;
    Ok(if initiator {
        builder.remote_public_key(inputs.peer)?.build_initiator()?
    } else {
        builder.build_responder()?
    })
}

fn split(state: &mut HandshakeState) -> Secrets {
    let (first, second) = state.dangerously_get_raw_split();
    let mut hash = [0; 32];
    hash.iter_mut().zip(state.get_handshake_hash()).for_each(|(to, from)| *to = *from);
    Secrets { hash, from_initiator: Zeroizing::new(first), from_responder: Zeroizing::new(second) }
}

/// snow does not wipe its chaining key, from which the split could be made again. A state without secrets is put in the
/// place of the finished one, so that the memory both are in holds nothing.
fn forget(state: &mut HandshakeState) -> Result<(), Refused> {
    let nobody = Primitives { ephemeral: Zeroizing::new([0; 32]), operations: PublicKeyOperations::default() };
    *state =
        Builder::with_resolver("Noise_NN_25519_ChaChaPoly_BLAKE2s".parse()?, Box::new(nobody)).build_initiator()?;
    core::hint::black_box(state);
    Ok(())
}

struct Primitives {
    ephemeral: Zeroizing<[u8; 32]>,
    operations: PublicKeyOperations,
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519)
            .then(|| Box::new(X25519 { pair: None, operations: self.operations.clone() }) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::Blake2s).then(|| Box::new(Blake2s(Blake2s256::new())) as Box<dyn Hash>)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly).then(|| Box::new(ChaChaPoly(None)) as Box<dyn Cipher>)
    }
}

/// The one ephemeral key that was given; asked for a second one it fails.
struct Once(Option<Zeroizing<[u8; 32]>>);

impl Random for Once {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        let bytes = self.0.take().ok_or(Error::Rng)?;
        if out.len() != bytes.len() {
            return Err(Error::Rng);
        }
        out.copy_from_slice(&bytes[..]);
        Ok(())
    }
}

struct X25519 {
    /// Wiped when dropped.
    pair: Option<(StaticSecret, [u8; 32])>,
    operations: PublicKeyOperations,
}

impl X25519 {
    fn put(&mut self, mut bytes: [u8; 32]) {
        let secret = StaticSecret::from(bytes);
        bytes.zeroize();
        self.operations.add();
        let public = PublicKey::from(&secret).to_bytes();
        self.pair = Some((secret, public));
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(secret).for_each(|(to, from)| *to = *from);
        self.put(bytes);
    }

    fn generate(&mut self, source: &mut dyn Random) -> Result<(), Error> {
        let mut bytes = [0; 32];
        source.try_fill_bytes(&mut bytes)?;
        self.put(bytes);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.pair.as_ref().map_or(&[0; 32], |(_, public)| public)
    }

    fn privkey(&self) -> &[u8] {
        self.pair.as_ref().map_or(&[0; 32], |(secret, _)| secret.as_bytes())
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let (secret, _) = self.pair.as_ref().ok_or(Error::Dh)?;
        let public: [u8; 32] = public.get(..32).and_then(|bytes| bytes.try_into().ok()).ok_or(Error::Dh)?;
        self.operations.add();
        let shared = secret.diffie_hellman(&PublicKey::from(public));
        // Noise §12.1 leaves this check to the user: a point of low order makes the result known to everybody.
        if !shared.was_contributory() {
            return Err(Error::Dh);
        }
        out.get_mut(..32).ok_or(Error::Dh)?.copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let hash = core::mem::take(&mut self.0).finalize();
        out.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    }
}

struct ChaChaPoly(Option<Aead>);

impl ChaChaPoly {
    /// Noise §12.3: 4 zero bytes and the number, little-endian.
    fn nonce(number: u64) -> [u8; 12] {
        let mut out = [0; 12];
        let (_, low) = out.split_at_mut(4);
        low.copy_from_slice(&number.to_le_bytes());
        out
    }
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = Some(Aead::new(Suite::ChaCha20Poly1305, key));
    }

    fn encrypt(&self, number: u64, aad: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        let Some((text, rest)) = out.split_at_mut_checked(plain.len()) else { return 0 };
        let (Some(key), Some(tag)) = (&self.0, rest.first_chunk_mut::<TAG>()) else { return 0 };
        text.copy_from_slice(plain);
        *tag = key.seal(Self::nonce(number), aad, text);
        plain.len().saturating_add(TAG)
    }

    fn decrypt(&self, number: u64, aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (text, tag) = sealed.split_last_chunk::<TAG>().ok_or(Error::Decrypt)?;
        let out = out.get_mut(..text.len()).ok_or(Error::Decrypt)?;
        out.copy_from_slice(text);
        let key = self.0.as_ref().ok_or(Error::Decrypt)?;
        key.open(Self::nonce(number), aad, out, tag).map_err(|_| Error::Decrypt)?;
        Ok(text.len())
    }
}
