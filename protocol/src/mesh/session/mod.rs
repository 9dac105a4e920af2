//! Sessions on the wire: how a datagram or lane frame of the private network begins, and what follows. Layouts alone;
//! nothing here holds a key of a session.
//!
//! - [`handshake`]: initiation, response, cookie reply, prologue, MACs.
//! - [`frame`]: the header of a data frame, its counter and nonce.
//! - [`content`]: what is inside a data frame once it is opened.

pub mod content;
pub mod frame;
pub mod handshake;

use core::fmt;

/// Version of handshake and frames, in every initiation and in the prologue.
pub const SESSION_VERSION: u8 = 1;

/// First bytes kept for punch packets, which share the socket with sessions.
pub const PUNCH_FIRST_BYTES: core::ops::RangeInclusive<u8> = 0xa8..=0xaf;

/// What a message of ours is, by its first byte. STUN begins with 0x00..=0x03 and TURN channel data with 0x40..=0x4f
/// (RFC 7983 §7), QUIC with 0x40..=0x7f and 0xc0..=0xff (RFC 9443 §3), punch packets with [`PUNCH_FIRST_BYTES`]: one
/// socket tells them apart by that byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// First message of a handshake.
    Initiation,
    /// Second message of a handshake.
    Response,
    /// "Come again with this cookie."
    CookieReply,
    /// A sealed frame.
    Data,
}

impl MessageKind {
    /// Every kind, in the order of their first bytes.
    pub const ALL: [Self; 4] = [Self::Initiation, Self::Response, Self::CookieReply, Self::Data];

    /// The first byte of such a message.
    #[must_use]
    pub const fn first_byte(self) -> u8 {
        match self {
            Self::Initiation => 0xa1,
            Self::Response => 0xa2,
            Self::CookieReply => 0xa3,
            Self::Data => 0xa4,
        }
    }

    /// The kind that begins with `byte`, if it is one of ours.
    #[must_use]
    pub fn of_first_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.first_byte() == byte)
    }
}

/// By what a receiver finds its own session: drawn by it at random, told in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIndex(pub u32);

impl fmt::Display for SessionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Why bytes are no message of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not as long as this kind of message is.
    #[error("length of the message")]
    Length,
    /// Begins with another byte than this kind does.
    #[error("first byte of the message")]
    Kind,
    /// Of a version this program does not speak.
    #[error("version {0} is not spoken here")]
    Version(u8),
    /// A field is out of its bounds.
    #[error("{0} is out of bounds")]
    Field(&'static str),
}

/// Takes the next `N` bytes off `rest`.
pub(crate) fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], MessageError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(MessageError::Length)?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_are_nobody_elses() {
        for kind in MessageKind::ALL {
            let byte = kind.first_byte();
            assert_eq!(MessageKind::of_first_byte(byte), Some(kind));
            assert!((0x80..0xc0).contains(&byte) && !PUNCH_FIRST_BYTES.contains(&byte));
        }
        assert_eq!((0..=255).filter(|byte| MessageKind::of_first_byte(*byte).is_some()).count(), 4);
    }
}
