//! Address prefixes: read, compared, found. They say nothing about who owns them.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

/// A prefix in its only form: no bit is set beyond its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not an address, a slash and a number.
    #[error("`{0}` is not a prefix like 10.1.0.0/16 or fd00:1::/64")]
    Form(String),
    /// More bits than an address has.
    #[error("`{0}` has a length beyond its address")]
    Length(String),
    /// Bits are set beyond the length.
    #[error("`{0}` has bits beyond its length; the prefix is {1}")]
    HostBits(String, Prefix),
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address with all bits beyond `length` cleared.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

impl Prefix {
    /// The prefix of this length around an address.
    #[must_use]
    pub fn around(address: IpAddr, length: u8) -> Self {
        let length = length.min(width(address));
        Self { address: masked(address, length), length }
    }

    /// One address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self::around(address, width(address))
    }

    /// The first address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits that count.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is everything.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        self.length == 0
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.length) == self.address
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Whether they share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let shown = || text.chars().take(80).collect();
        let (address, length) = text.split_once('/').ok_or_else(|| PrefixError::Form(shown()))?;
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Form(shown()))?;
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u8 = length.parse().ok().filter(|_| digits).ok_or_else(|| PrefixError::Form(shown()))?;
        if length > width(address) {
            return Err(PrefixError::Length(shown()));
        }
        let prefix = Self::around(address, length);
        if prefix.address == address { Ok(prefix) } else { Err(PrefixError::HostBits(shown(), prefix)) }
    }
}

/// Values by prefix; the longest that fits is found by one binary search a length in use.
#[derive(Clone, Debug)]
pub struct PrefixTable<T> {
    /// Ordered by prefix, none twice.
    rows: Vec<(Prefix, T)>,
    /// Lengths in use, the longest first.
    lengths: Vec<u8>,
}

impl<T> PrefixTable<T> {
    /// A table of these rows; of two with one prefix the first counts.
    #[must_use]
    pub fn new(mut rows: Vec<(Prefix, T)>) -> Self {
        rows.sort_by_key(|(prefix, _)| *prefix);
        rows.dedup_by_key(|(prefix, _)| *prefix);
        let lengths: std::collections::BTreeSet<u8> = rows.iter().map(|(prefix, _)| prefix.length).collect();
        Self { rows, lengths: lengths.into_iter().rev().collect() }
    }

    /// The longest prefix that has all of `wanted`, with its value.
    #[must_use]
    pub fn longest(&self, wanted: &Prefix) -> Option<(&Prefix, &T)> {
        let lengths = self.lengths.iter().filter(|length| **length <= wanted.length);
        lengths.into_iter().find_map(|length| {
            let prefix = Prefix { address: masked(wanted.address, *length), length: *length };
            let at = self.rows.binary_search_by_key(&prefix, |(prefix, _)| *prefix).ok()?;
            self.rows.get(at).map(|(prefix, value)| (prefix, value))
        })
    }

    /// The longest prefix an address is in, with its value.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<(&Prefix, &T)> {
        self.longest(&Prefix::host(address))
    }
}
