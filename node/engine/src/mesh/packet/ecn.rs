//! Congestion marks across the tunnel (RFC 3168, RFC 6040), and the DSCP a class is chosen by. Only the two ECN bits are
//! ever changed, and DSCP is never copied outside: it would tell what is inside.

use super::PacketDrop;
use super::bytes::{be16, byte, put, put16};
use super::checksum::changed;

/// The two ECN bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ecn {
    /// The ends do not take part: drop instead of mark.
    #[default]
    NotCapable,
    /// ECT(1).
    Capable1,
    /// ECT(0).
    Capable0,
    /// Congestion was met.
    Congested,
}

impl Ecn {
    /// From the lower two bits of a traffic class.
    #[must_use]
    pub const fn of(traffic_class: u8) -> Self {
        match traffic_class & 0b11 {
            0b00 => Self::NotCapable,
            0b01 => Self::Capable1,
            0b10 => Self::Capable0,
            _ => Self::Congested,
        }
    }

    /// The two bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::NotCapable => 0b00,
            Self::Capable1 => 0b01,
            Self::Capable0 => 0b10,
            Self::Congested => 0b11,
        }
    }
}

/// The upper six bits of a traffic class (RFC 2474).
#[must_use]
pub const fn dscp(traffic_class: u8) -> u8 {
    traffic_class >> 2
}

/// What the outer header carries for an inner one: a copy (RFC 6040 4.1, normal mode).
#[must_use]
pub const fn outer(inner: Ecn) -> Ecn {
    inner
}

/// What the inner header becomes when it arrives with this outer one; none means the packet has to be dropped, because
/// its ends would not understand the mark (RFC 6040 4.2, figure 4).
#[must_use]
pub const fn inner(inner: Ecn, outer: Ecn) -> Option<Ecn> {
    match (inner, outer) {
        (Ecn::NotCapable, Ecn::Congested) => None,
        (Ecn::NotCapable, _) => Some(Ecn::NotCapable),
        (_, Ecn::Congested) | (Ecn::Congested, _) => Some(Ecn::Congested),
        (Ecn::Capable0, Ecn::Capable1) => Some(Ecn::Capable1),
        (kept, _) => Some(kept),
    }
}

/// Writes the ECN bits of a packet, and of IPv4 the header checksum.
///
/// # Errors
/// [`PacketDrop`] if it is too short or of no version.
pub fn set(packet: &mut [u8], ecn: Ecn) -> Result<(), PacketDrop> {
    let word = be16(packet, 0)?;
    match byte(packet, 0)? >> 4 {
        4 => {
            let new = (word & !0b11) | u16::from(ecn.bits());
            let checksum = changed(be16(packet, 10)?, word, new);
            put(packet, 0, &new.to_be_bytes())?;
            put16(packet, 10, checksum)
        }
        // The traffic class of IPv6 begins in the middle of the first byte.
        6 => put16(packet, 0, (word & !0b11_0000) | u16::from(ecn.bits()) << 4),
        _ => Err(PacketDrop::Version),
    }
}

/// Marks congestion, if the packet's ends take part. Says whether it is marked now.
pub fn mark(packet: &mut [u8]) -> bool {
    let Ok(word) = be16(packet, 0) else { return false };
    let traffic_class = match word >> 12 {
        4 => word & 0xff,
        6 => word >> 4 & 0xff,
        _ => return false,
    };
    let [_, traffic_class] = traffic_class.to_be_bytes();
    match Ecn::of(traffic_class) {
        Ecn::NotCapable => false,
        Ecn::Congested => true,
        Ecn::Capable0 | Ecn::Capable1 => set(packet, Ecn::Congested).is_ok(),
    }
}
