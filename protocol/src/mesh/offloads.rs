//! What a machine's kernel takes unfinished: super-packets to be cut, checksums to be made. Stated in the handshake; it
//! says nothing about any packet.
//!
//! ```text
//! bit 0 tso4, bit 1 tso6, bit 2 uso, bit 3 checksum; bits 4-7 zero
//! ```

use super::meta::SuperKind;

/// What the sender of a handshake message takes unfinished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Super-packets of TCP over IPv4.
    pub tso4: bool,
    /// Super-packets of TCP over IPv6.
    pub tso6: bool,
    /// Super-packets of UDP.
    pub uso: bool,
    /// Pending checksums. Without it nothing else counts: a super-packet's are always pending.
    pub checksum: bool,
}

impl Offloads {
    /// Everything there is.
    pub const ALL: Self = Self { tso4: true, tso6: true, uso: true, checksum: true };

    /// Whether super-packets of this kind are taken.
    #[must_use]
    pub const fn takes(self, kind: SuperKind) -> bool {
        self.checksum
            && match kind {
                SuperKind::Tcp4 => self.tso4,
                SuperKind::Tcp6 => self.tso6,
                SuperKind::Udp => self.uso,
            }
    }

    /// The byte.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        self.tso4 as u8 | (self.tso6 as u8) << 1 | (self.uso as u8) << 2 | (self.checksum as u8) << 3
    }

    /// What a byte says, if it has no other bits.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        if byte > 0x0f {
            return None;
        }
        let (tso4, tso6) = (byte & 1 != 0, byte & 2 != 0);
        Some(Self { tso4, tso6, uso: byte & 4 != 0, checksum: byte & 8 != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_one_set_of_flags_or_none() {
        for byte in 0..=255 {
            assert_eq!(Offloads::from_byte(byte).map(Offloads::to_byte), (byte < 16).then_some(byte));
        }
        assert_eq!(Offloads::ALL.to_byte(), 15);
        assert_eq!(Offloads { checksum: true, ..Offloads::default() }.to_byte(), 8);
    }

    #[test]
    fn without_checksums_no_super_packet_is_taken() {
        for kind in [SuperKind::Tcp4, SuperKind::Tcp6, SuperKind::Udp] {
            assert!(Offloads::ALL.takes(kind));
            assert!(!Offloads { checksum: false, ..Offloads::ALL }.takes(kind));
        }
        assert!(!Offloads { tso6: false, ..Offloads::ALL }.takes(SuperKind::Tcp6));
    }
}
