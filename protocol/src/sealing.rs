//! What every sealing has in common on the wire: salts, nonces, associated data, key slots, password-hash settings.
//! The ciphers themselves are the client's.

use minicbor::{Decode, Encode};

use crate::codec::{Bounded, bytes_array, ensure};
use crate::id::FileId;
use crate::layout::Code;
use crate::limits::{KDF_LANES_MAX, KDF_MEMORY_KIB_MAX, KDF_MEMORY_KIB_MIN, KDF_PASSES_MAX};
use crate::suite::Suite;
use crate::units::SegmentNumber;

/// First byte of every AAD.
pub const SEALING_VERSION: u8 = 1;
/// Fresh random bytes drawn for every sealing and stored beside it.
pub type Salt = [u8; 32];
/// Bytes of the AAD of a frame.
pub const FRAME_AAD: usize = 49;

/// Associated data of one frame:
/// version u8, suite u8, file id 32, segment u32 LE, counter u32 LE, k u8, m u8, unit length u32 LE, last u8.
#[derive(Clone, Copy, Debug)]
pub struct FrameAad {
    /// Cipher pair.
    pub suite: Suite,
    /// File the segment belongs to.
    pub file: FileId,
    /// Segment within the file.
    pub segment: SegmentNumber,
    /// row x k + column.
    pub counter: u32,
    /// Code of the segment.
    pub code: Code,
    /// Unit bytes with tag.
    pub unit_length: u32,
    /// Whether this frame belongs to the last segment of the stream.
    pub last: bool,
}

impl FrameAad {
    /// The bytes as the AEAD receives them.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; FRAME_AAD] {
        let mut out = [0; FRAME_AAD];
        out[0] = SEALING_VERSION;
        out[1] = self.suite.number();
        out[2..34].copy_from_slice(self.file.as_bytes());
        out[34..38].copy_from_slice(&self.segment.0.to_le_bytes());
        out[38..42].copy_from_slice(&self.counter.to_le_bytes());
        out[42] = self.code.data;
        out[43] = self.code.parity;
        out[44..48].copy_from_slice(&self.unit_length.to_le_bytes());
        out[48] = u8::from(self.last);
        out
    }
}

/// The 96-bit nonce of a counter: little-endian, high bytes zero. Unique because every key seals one segment once.
#[must_use]
pub fn nonce(counter: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..4].copy_from_slice(&counter.to_le_bytes());
    out
}

/// Associated data of a single sealing (record body, read section, journal): version u8, suite u8, file id 32,
/// number u64 LE (record version, or the segment number of a page).
#[must_use]
pub fn single_aad(suite: Suite, file: &FileId, number: u64) -> [u8; 42] {
    let mut out = [0; 42];
    out[0] = SEALING_VERSION;
    out[1] = suite.number();
    out[2..34].copy_from_slice(file.as_bytes());
    out[34..].copy_from_slice(&number.to_le_bytes());
    out
}

/// Bytes sealed in one piece under a key of their own: derive(context, key || salt), nonce 0.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SealedBox {
    /// Fresh for this sealing.
    #[cbor(n(0), with = "bytes_array")]
    pub salt: Salt,
    /// Ciphertext and tag.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub sealed: Vec<u8>,
}

/// argon2id settings, one set for all slots of a file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct KdfParams {
    /// Random, shared by all slots.
    #[cbor(n(0), with = "bytes_array")]
    pub salt: [u8; 16],
    /// Memory, KiB: 19 MiB to 1 GiB.
    #[n(1)]
    pub memory_kib: u32,
    /// Passes over the memory.
    #[n(2)]
    pub passes: u32,
    /// Parallel lanes.
    #[n(3)]
    pub lanes: u32,
}

impl KdfParams {
    /// 64 MiB, 3 passes, 4 lanes: the second recommended choice of RFC 9106 §4.
    #[must_use]
    pub const fn recommended(salt: [u8; 16]) -> Self {
        Self { salt, memory_kib: 64 * 1024, passes: 3, lanes: 4 }
    }
}

impl Bounded for KdfParams {
    fn check(&self) -> Result<(), &'static str> {
        ensure((KDF_MEMORY_KIB_MIN..=KDF_MEMORY_KIB_MAX).contains(&self.memory_kib), "password-hash memory")?;
        ensure((1..=KDF_PASSES_MAX).contains(&self.passes), "password-hash passes")?;
        ensure((1..=KDF_LANES_MAX).contains(&self.lanes), "password-hash lanes")
    }
}

/// One password's way to the root key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct KeySlot {
    /// Fresh for this slot.
    #[cbor(n(0), with = "bytes_array")]
    pub salt: Salt,
    /// derive('slot commitment', KEK || salt): compared in constant time before the AEAD is tried.
    #[cbor(n(1), with = "bytes_array")]
    pub commitment: [u8; 32],
    /// The root key sealed under derive('slot key', KEK || salt), nonce 0: 32 bytes and tag.
    #[cbor(n(2), with = "bytes_array")]
    pub sealed: [u8; 48],
}
