//! Handshake messages of a session: their bytes, the prologue both sides hash first, and the MACs that are checked before
//! anything costs. It never runs the handshake.
//!
//! ```text
//! initiation, 163   = a1 || version u8 || sender u32 LE || introduction 18, masked || noise 107 || mac1 16 || mac2 16
//! introduction, 18  = peer hash of the initiator 10 || epoch of its mesh key u64 LE
//! response, 76      = a2 || sender u32 LE || receiver u32 LE || noise 51 || mac1 16
//! cookie reply, 69  = a3 || receiver u32 LE || salt 32 || cookie 16, sealed || tag 16
//! opening, 11       = stamp u64 LE || offer 3                        (payload of the first Noise message)
//! offer, 3          = flags u8 || max_frame u16 LE                   (payload of the second)
//! ```

use core::fmt;

use super::{MessageError, MessageKind, SESSION_VERSION, SessionIndex, take};
use crate::hash::{MESH_COOKIE, MESH_COOKIE_KEY, MESH_INTRODUCTION, MESH_MAC1, MESH_MAC2, derive, deriver};
use crate::id::NodeId;
use crate::mesh::offloads::Offloads;
use crate::mesh::peer_hash::PeerHash;
use crate::network::NetworkId;
use crate::suite::Suite;

/// The Noise protocol (revision 34) both run.
pub const NOISE_NAME: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// Bytes of an initiation.
pub const INITIATION: usize = 163;
/// Bytes of a response.
pub const RESPONSE: usize = 76;
/// Bytes of a cookie reply: less than half of what it answers, so it amplifies nothing.
pub const COOKIE_REPLY: usize = 69;
/// Bytes of the first Noise message: e 32, s 32 + 16, opening 11 + 16.
pub const NOISE_FIRST: usize = 107;
/// Bytes of the second Noise message: e 32, offer 3 + 16.
pub const NOISE_SECOND: usize = 51;
/// Bytes of an introduction.
pub const INTRODUCTION: usize = PeerHash::LEN + 8;
/// Bytes of a MAC of a handshake message and of a cookie.
pub const HANDSHAKE_MAC: usize = 16;
/// Bytes of an opening.
pub const OPENING: usize = 8 + OFFER;
/// Bytes of an offer.
pub const OFFER: usize = 3;
/// Least `max_frame` that is offered: the smallest MTU of IPv6, 1280 (RFC 8200 §5), has to fit.
pub const MAX_FRAME_MIN: u16 = 1280;

/// A MAC of a handshake message, or a cookie.
pub type HandshakeMac = [u8; HANDSHAKE_MAC];

/// Who initiates, readable only by those who know the responder's mesh key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Peer hash of the initiator.
    pub peer: PeerHash,
    /// Epoch of the mesh key it uses.
    pub epoch: u64,
}

impl Introduction {
    /// As it is on the wire. XOR with `derive('shoal mesh introduction v1', network, responder's mesh key, ephemeral)`:
    /// the ephemeral key is new in every initiation, so no mask is used twice.
    #[must_use]
    pub fn mask(&self, network: &NetworkId, responder: &[u8; 32], ephemeral: &[u8; 32]) -> [u8; INTRODUCTION] {
        let mut out = [0; INTRODUCTION];
        let (peer, epoch) = out.split_at_mut(PeerHash::LEN);
        peer.copy_from_slice(self.peer.as_bytes());
        epoch.copy_from_slice(&self.epoch.to_le_bytes());
        apply_mask(&mut out, network, responder, ephemeral);
        out
    }

    /// The reverse of [`Self::mask`].
    #[must_use]
    pub fn unmask(
        masked: &[u8; INTRODUCTION],
        network: &NetworkId,
        responder: &[u8; 32],
        ephemeral: &[u8; 32],
    ) -> Self {
        let mut plain = *masked;
        apply_mask(&mut plain, network, responder, ephemeral);
        let (mut peer, mut epoch) = ([0; PeerHash::LEN], [0; 8]);
        let (first, second) = plain.split_at(PeerHash::LEN);
        peer.copy_from_slice(first);
        epoch.copy_from_slice(second);
        Self { peer: PeerHash::new(peer), epoch: u64::from_le_bytes(epoch) }
    }
}

fn apply_mask(bytes: &mut [u8; INTRODUCTION], network: &NetworkId, responder: &[u8; 32], ephemeral: &[u8; 32]) {
    let mask = derive(MESH_INTRODUCTION, &[network.as_bytes(), responder, ephemeral]);
    bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

/// First message of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initiation {
    /// The initiator's index for the session.
    pub sender: SessionIndex,
    /// See [`Introduction`].
    pub introduction: [u8; INTRODUCTION],
    /// Noise: e, es, s, ss, opening.
    pub noise: [u8; NOISE_FIRST],
    /// Over all bytes before it, see [`mac1`].
    pub mac1: HandshakeMac,
    /// Over all bytes before it, see [`mac2`]; zeros without a cookie.
    pub mac2: HandshakeMac,
}

/// Bytes of an initiation that MAC1 covers.
pub const INITIATION_BEFORE_MAC1: usize = INITIATION - 2 * HANDSHAKE_MAC;
/// Bytes of an initiation that MAC2 covers.
pub const INITIATION_BEFORE_MAC2: usize = INITIATION - HANDSHAKE_MAC;
/// Bytes of a response that MAC1 covers.
pub const RESPONSE_BEFORE_MAC1: usize = RESPONSE - HANDSHAKE_MAC;

impl Initiation {
    /// The initiation in `bytes`; nothing is authenticated.
    ///
    /// # Errors
    /// [`MessageError`] for another length, kind or version.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut rest = expect(bytes, MessageKind::Initiation, INITIATION)?;
        let [version] = take(&mut rest)?;
        if version != SESSION_VERSION {
            return Err(MessageError::Version(version));
        }
        Ok(Self {
            sender: SessionIndex(u32::from_le_bytes(take(&mut rest)?)),
            introduction: take(&mut rest)?,
            noise: take(&mut rest)?,
            mac1: take(&mut rest)?,
            mac2: take(&mut rest)?,
        })
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; INITIATION] {
        let head = [MessageKind::Initiation.first_byte(), SESSION_VERSION];
        join(&[&head, &self.sender.0.to_le_bytes(), &self.introduction, &self.noise, &self.mac1, &self.mac2])
    }

    /// The initiator's ephemeral key, in the clear as in every Noise message that begins with e.
    #[must_use]
    pub fn ephemeral(&self) -> [u8; 32] {
        core::array::from_fn(|at| self.noise[at])
    }
}

/// Second message of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The responder's index for the session.
    pub sender: SessionIndex,
    /// The initiator's, from the initiation.
    pub receiver: SessionIndex,
    /// Noise: e, ee, se, psk, offer.
    pub noise: [u8; NOISE_SECOND],
    /// Over all bytes before it, keyed by the initiator's mesh key.
    pub mac1: HandshakeMac,
}

impl Response {
    /// The response in `bytes`; nothing is authenticated.
    ///
    /// # Errors
    /// [`MessageError`] for another length or kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut rest = expect(bytes, MessageKind::Response, RESPONSE)?;
        Ok(Self {
            sender: SessionIndex(u32::from_le_bytes(take(&mut rest)?)),
            receiver: SessionIndex(u32::from_le_bytes(take(&mut rest)?)),
            noise: take(&mut rest)?,
            mac1: take(&mut rest)?,
        })
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; RESPONSE] {
        let head = [MessageKind::Response.first_byte()];
        join(&[&head, &self.sender.0.to_le_bytes(), &self.receiver.0.to_le_bytes(), &self.noise, &self.mac1])
    }
}

/// What a responder under load sends instead of a response. The cookie is sealed with ChaCha20-Poly1305 under
/// [`cookie_key`], nonce 0, with the MAC1 of the initiation as associated data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieReply {
    /// The initiator's index, from the initiation.
    pub receiver: SessionIndex,
    /// Fresh for this reply.
    pub salt: [u8; 32],
    /// Cookie and tag.
    pub sealed: [u8; HANDSHAKE_MAC + 16],
}

impl CookieReply {
    /// The reply in `bytes`; nothing is authenticated.
    ///
    /// # Errors
    /// [`MessageError`] for another length or kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut rest = expect(bytes, MessageKind::CookieReply, COOKIE_REPLY)?;
        Ok(Self {
            receiver: SessionIndex(u32::from_le_bytes(take(&mut rest)?)),
            salt: take(&mut rest)?,
            sealed: take(&mut rest)?,
        })
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; COOKIE_REPLY] {
        let head = [MessageKind::CookieReply.first_byte()];
        join(&[&head, &self.receiver.0.to_le_bytes(), &self.salt, &self.sealed])
    }
}

/// What the sender of this offer can take in, and how long a frame may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What may come unfinished.
    pub offloads: Offloads,
    /// Longest data frame it takes, bytes with header and tag: [`MAX_FRAME_MIN`] or more.
    pub max_frame: u16,
}

impl Offer {
    /// flags u8 (see [`Offloads`]) || `max_frame` u16 LE.
    #[must_use]
    pub const fn to_bytes(&self) -> [u8; OFFER] {
        let [low, high] = self.max_frame.to_le_bytes();
        [self.offloads.to_byte(), low, high]
    }

    /// The offer in these bytes.
    ///
    /// # Errors
    /// [`MessageError::Field`] for unknown flags or a `max_frame` below the least.
    pub fn from_bytes([flags, low, high]: [u8; OFFER]) -> Result<Self, MessageError> {
        let offloads = Offloads::from_byte(flags).ok_or(MessageError::Field("flags of an offer"))?;
        let max_frame = u16::from_le_bytes([low, high]);
        if max_frame < MAX_FRAME_MIN {
            return Err(MessageError::Field("max_frame"));
        }
        Ok(Self { offloads, max_frame })
    }
}

/// Grows with every initiation of one mesh key towards one peer: milliseconds of the initiator's wall clock times 256,
/// or one more than the last stamp if that is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub u64);

/// Payload of the first Noise message. It holds no data of a user: it could be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Refused unless greater than every one seen of this key.
    pub stamp: Stamp,
    /// The initiator's.
    pub offer: Offer,
}

impl Opening {
    /// The bytes inside the Noise message.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; OPENING] {
        join(&[&self.stamp.0.to_le_bytes(), &self.offer.to_bytes()])
    }

    /// The opening in these bytes.
    ///
    /// # Errors
    /// As [`Offer::from_bytes`].
    pub fn from_bytes(bytes: &[u8; OPENING]) -> Result<Self, MessageError> {
        let mut rest = &bytes[..];
        let stamp = Stamp(u64::from_le_bytes(take(&mut rest)?));
        Ok(Self { stamp, offer: Offer::from_bytes(take(&mut rest)?)? })
    }
}

/// One side of a handshake, as the prologue names it.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// Its node.
    pub node: &'a NodeId,
    /// Epoch of its mesh key.
    pub epoch: u64,
    /// Suites of its mesh key record.
    pub suites: &'a [Suite],
}

/// version u8 || network 32 || initiator 32 || responder 32 || initiator's epoch u64 LE || responder's epoch u64 LE ||
/// count u8 and numbers of the initiator's suites || the same of the responder's.
#[must_use]
pub fn prologue(network: &NetworkId, initiator: Side<'_>, responder: Side<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.push(SESSION_VERSION);
    out.extend_from_slice(network.as_bytes());
    out.extend_from_slice(initiator.node.as_bytes());
    out.extend_from_slice(responder.node.as_bytes());
    out.extend_from_slice(&initiator.epoch.to_le_bytes());
    out.extend_from_slice(&responder.epoch.to_le_bytes());
    for side in [initiator, responder] {
        // A record has at most one entry for each of two suites.
        out.push(u8::try_from(side.suites.len()).unwrap_or(u8::MAX));
        out.extend(side.suites.iter().map(|suite| suite.number()));
    }
    out
}

/// MAC1: who sends it knows network and mesh key of the receiver. First 16 bytes of
/// `derive('shoal mesh mac1 v1', network, receiver's mesh key, all bytes before)`.
#[must_use]
pub fn mac1(network: &NetworkId, receiver: &[u8; 32], before: &[u8]) -> HandshakeMac {
    Mac1Key::new(network, receiver).mac(before)
}

/// What the MAC1 of every message to one receiver begins with, hashed once: half the work of [`mac1`] for those who
/// check many.
#[derive(Clone)]
pub struct Mac1Key(blake3::Hasher);

impl fmt::Debug for Mac1Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac1Key(..)")
    }
}

impl Mac1Key {
    /// For messages to the owner of this mesh key.
    #[must_use]
    pub fn new(network: &NetworkId, receiver: &[u8; 32]) -> Self {
        Self(deriver(MESH_MAC1, &[network.as_bytes(), receiver]))
    }

    /// MAC1 behind `before`.
    #[must_use]
    pub fn mac(&self, before: &[u8]) -> HandshakeMac {
        let mut hasher = self.0.clone();
        hasher.update(&(before.len() as u64).to_le_bytes());
        hasher.update(before);
        first(*hasher.finalize().as_bytes())
    }
}

/// MAC2: who sends it received what was sent to its address. First 16 bytes of
/// `derive('shoal mesh mac2 v1', cookie, all bytes before)`.
#[must_use]
pub fn mac2(cookie: &HandshakeMac, before: &[u8]) -> HandshakeMac {
    first(derive(MESH_MAC2, &[cookie, before]))
}

/// The cookie of a source under a responder's own changing secret: first 16 bytes of
/// `derive('shoal mesh cookie v1', secret, source)`.
#[must_use]
pub fn cookie(secret: &[u8; 32], source: &[u8]) -> HandshakeMac {
    first(derive(MESH_COOKIE, &[secret, source]))
}

/// What a cookie is sealed under: `derive('shoal mesh cookie key v1', network, responder's mesh key, salt)`.
#[must_use]
pub fn cookie_key(network: &NetworkId, responder: &[u8; 32], salt: &[u8; 32]) -> [u8; 32] {
    derive(MESH_COOKIE_KEY, &[network.as_bytes(), responder, salt])
}

fn first(hash: [u8; 32]) -> HandshakeMac {
    core::array::from_fn(|at| hash[at])
}

fn expect(bytes: &[u8], kind: MessageKind, length: usize) -> Result<&[u8], MessageError> {
    let (head, rest) = bytes.split_first().ok_or(MessageError::Length)?;
    if *head != kind.first_byte() {
        return Err(MessageError::Kind);
    }
    if bytes.len() != length {
        return Err(MessageError::Length);
    }
    Ok(rest)
}

/// Parts one after the other; they are written to fill `N` bytes exactly.
fn join<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(parts.iter().copied().flatten()).for_each(|(to, from)| *to = *from);
    debug_assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), N);
    out
}
