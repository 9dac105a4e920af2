//! An address prefix in its only form: no host bits, no IPv4 in IPv6 clothes. It says what addresses are in it, and
//! nothing of who may use them.
//!
//! ```text
//! prefix = CBOR byte string: address (4 or 16 bytes, host bits zero) || length u8 (0..=32 or 0..=128)
//! ```

use core::cmp::Ordering;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use minicbor::decode::Error as DecodeError;
use minicbor::{Decode, Decoder, Encode, Encoder};

/// Why something is not a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// More bits than an address of its family has.
    #[error("a prefix of {length} bits is longer than its address")]
    TooLong {
        /// The length claimed.
        length: u8,
    },
    /// Bits behind the prefix are set.
    #[error("bits behind the prefix are set")]
    HostBits,
    /// An IPv6 prefix inside `::ffff:0:0/96`, which has an IPv4 spelling.
    #[error("an IPv4 prefix must be written as one")]
    Mapped,
    /// Not `address/length`.
    #[error("not an address, a slash and a length")]
    Text,
}

/// A prefix of one family. The order is that of a longest-prefix match: IPv4 before IPv6, longer before shorter, then by
/// address, so that the first entry of a sorted list that contains an address is the most specific one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of `length` bits at `address`.
    ///
    /// # Errors
    /// [`PrefixError`] unless it is in its only form.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, PrefixError> {
        if length > bits(address) {
            return Err(PrefixError::TooLong { length });
        }
        let prefix = Self { address, length };
        if prefix.number() & !mask(length) != 0 {
            return Err(PrefixError::HostBits);
        }
        match address {
            IpAddr::V6(v6) if length >= 96 && v6.to_ipv4_mapped().is_some() => Err(PrefixError::Mapped),
            _ => Ok(prefix),
        }
    }

    /// Every address of the family of `address`.
    #[must_use]
    pub const fn all(address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self { address, length: 0 }
    }

    /// The prefix of exactly one address; an IPv4 address in IPv6 form becomes the IPv4 address it stands for.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, length: bits(address) }
    }

    /// The prefix of this length that `address` is in; a length beyond the address is that of the address. An IPv4 address
    /// in IPv6 form becomes the IPv4 address it stands for, if the prefix has one.
    #[must_use]
    pub fn around(address: IpAddr, length: u8) -> Self {
        let (address, length) = match (address.to_canonical(), length.checked_sub(96)) {
            (IpAddr::V4(v4), Some(length)) if address.is_ipv6() => (IpAddr::V4(v4), length),
            _ => (address, length),
        };
        let length = length.min(bits(address));
        let number = left(address) & mask(length);
        let address = match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number >> 96).unwrap_or(0))),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(number)),
        };
        Self { address, length }
    }

    /// Its first address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits are fixed.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is everything of its family.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        self.length == 0
    }

    /// Whether it is one address.
    #[must_use]
    pub const fn is_host(&self) -> bool {
        self.length == bits(self.address)
    }

    /// Whether `address`, in canonical form, is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && (left(address) ^ self.number()) & mask(self.length) == 0
    }

    /// Whether every address of `other` is in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Whether some address is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// First and last address as numbers: of IPv4 the 32 bits of an address, of IPv6 all 128.
    #[must_use]
    pub fn range(&self) -> (u128, u128) {
        let shift = 128 - u32::from(bits(self.address));
        (self.number() >> shift, (self.number() | !mask(self.length)) >> shift)
    }

    /// The bytes that stand for it in a message and in a digest: address, then length.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(17);
        match self.address {
            IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
        }
        out.push(self.length);
        out
    }

    /// The prefix in `bytes`; their count tells the family.
    ///
    /// # Errors
    /// [`PrefixError`] unless it is in its only form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PrefixError> {
        let (length, address) = bytes.split_last().ok_or(PrefixError::Text)?;
        let address = if let Ok(octets) = <[u8; 4]>::try_from(address) {
            IpAddr::V4(Ipv4Addr::from(octets))
        } else {
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(address).map_err(|_| PrefixError::Text)?))
        };
        Self::new(address, *length)
    }

    /// The address, its first bit the highest of the number.
    fn number(&self) -> u128 {
        left(self.address)
    }
}

const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address at the left end of 128 bits.
fn left(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// `length` ones at the left end of 128 bits.
fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128_u32.saturating_sub(u32::from(length))).unwrap_or(0)
}

impl Ord for Prefix {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |prefix: &Self| (prefix.address.is_ipv6(), core::cmp::Reverse(prefix.length), prefix.number());
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// `address/length`, such as `192.168.1.0/24`.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').ok_or(PrefixError::Text)?;
        let plain = length.bytes().all(|byte| byte.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
        let length = length.parse().ok().filter(|_| plain).ok_or(PrefixError::Text)?;
        Self::new(address.parse().map_err(|_| PrefixError::Text)?, length)
    }
}

impl<C> Encode<C> for Prefix {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.to_bytes())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Prefix {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        Self::from_bytes(d.bytes()?).map_err(|_| DecodeError::message("prefix"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn only_one_spelling_is_a_prefix() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.1/32", "::/0", "fd00::/8", "fd00::1/128", "::/96"] {
            let prefix = prefix(text);
            assert_eq!(prefix.to_string(), text);
            assert_eq!(Prefix::from_bytes(&prefix.to_bytes()), Ok(prefix));
        }
        for (text, error) in [
            ("10.0.0.1/8", PrefixError::HostBits),
            ("10.0.0.0/33", PrefixError::TooLong { length: 33 }),
            ("fd00::1/64", PrefixError::HostBits),
            ("::ffff:10.0.0.0/104", PrefixError::Mapped),
            ("10.0.0.0", PrefixError::Text),
            ("10.0.0.0/+8", PrefixError::Text),
            ("10.0.0.0/08", PrefixError::Text),
        ] {
            assert_eq!(text.parse::<Prefix>(), Err(error), "{text}");
        }
        assert_eq!(Prefix::from_bytes(&[10, 0, 0, 8]), Err(PrefixError::Text));
    }

    #[test]
    fn the_first_match_of_a_sorted_list_is_the_longest() {
        let mut list: Vec<Prefix> =
            ["0.0.0.0/0", "::/0", "10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "10.1.2.3/32"].map(prefix).to_vec();
        list.sort_unstable();
        let first = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            list.iter().find(|prefix| prefix.contains(address)).unwrap().to_string()
        };
        assert_eq!(first("10.1.2.3"), "10.1.2.3/32");
        assert_eq!(first("10.1.2.4"), "10.1.0.0/16");
        assert_eq!(first("10.2.0.0"), "10.0.0.0/8");
        assert_eq!(first("192.0.2.1"), "0.0.0.0/0");
        assert_eq!(first("::ffff:10.1.2.3"), "10.1.2.3/32");
        assert_eq!(first("fdff::"), "fd00::/8");
        assert_eq!(first("2001:db8::"), "::/0");
    }

    #[test]
    fn a_prefix_around_an_address_is_in_its_only_form() {
        for (address, length, text) in [
            ("10.1.2.3", 16, "10.1.0.0/16"),
            ("10.1.2.3", 200, "10.1.2.3/32"),
            ("fd00::1:2", 112, "fd00::1:0/112"),
            ("fd00::1", 0, "::/0"),
            ("::ffff:10.1.2.3", 128, "10.1.2.3/32"),
            ("::ffff:10.1.2.3", 104, "10.0.0.0/8"),
            ("::ffff:10.1.2.3", 96, "0.0.0.0/0"),
            ("::ffff:10.1.2.3", 95, "::fffe:0:0/95"),
        ] {
            let around = Prefix::around(address.parse().unwrap(), length);
            assert_eq!(around.to_string(), text, "{address}/{length}");
            assert_eq!(text.parse(), Ok(around));
        }
    }

    #[test]
    fn ranges_and_cover() {
        assert_eq!(prefix("10.1.0.0/16").range(), (0x0a01_0000, 0x0a01_ffff));
        assert_eq!(prefix("::/0").range(), (0, u128::MAX));
        assert_eq!(prefix("0.0.0.0/0").range(), (0, 0xffff_ffff));
        assert!(prefix("10.0.0.0/8").covers(&prefix("10.1.0.0/16")));
        assert!(!prefix("10.1.0.0/16").covers(&prefix("10.0.0.0/8")));
        assert!(!prefix("0.0.0.0/0").covers(&prefix("::/0")));
        assert!(
            prefix("10.0.0.0/8").overlaps(&prefix("10.1.0.0/16"))
                && prefix("10.1.0.0/16").overlaps(&prefix("10.0.0.0/8"))
        );
        assert!(
            !prefix("10.0.0.0/8").overlaps(&prefix("11.0.0.0/8")) && !prefix("0.0.0.0/0").overlaps(&prefix("::/0"))
        );
        assert!(prefix("::/0").is_default() && !prefix("::/1").is_default());
        assert!(prefix("10.1.2.3/32").is_host() && !prefix("fd00::/32").is_host());
    }
}
