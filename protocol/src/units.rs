//! Numbers that mean something: milliseconds, bytes, segment numbers. Arithmetic that could overflow is checked.

use core::fmt;

use minicbor::{Decode, Encode};

/// Milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This time plus `milliseconds`, stopping at the end of time.
    #[must_use]
    pub const fn saturating_add(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// How far two times are apart, milliseconds.
    #[must_use]
    pub const fn distance(self, other: Self) -> u64 {
        self.0.abs_diff(other.0)
    }
}

/// A count of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct ByteCount(pub u64);

impl fmt::Display for ByteCount {
    /// Decimal units, one digit after the point: `8.4 MB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEPS: [(u64, &str); 4] =
            [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
        for (size, name) in STEPS {
            if self.0 >= size {
                let tenths = u128::from(self.0) * 10 / u128::from(size);
                return write!(f, "{}.{} {name}", tenths / 10, tenths % 10);
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// Which segment of an upload. Data segments count from 0; page segments from [`SegmentNumber::FIRST_PAGE`], so that
/// no page ever shares a key or a mask with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct SegmentNumber(pub u32);

impl SegmentNumber {
    /// The first page segment: the top bit.
    pub const FIRST_PAGE: u32 = 1 << 31;

    /// Page number `page`, if it is in range.
    #[must_use]
    pub const fn page(page: u32) -> Option<Self> {
        match page.checked_add(Self::FIRST_PAGE) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Whether this is a page segment.
    #[must_use]
    pub const fn is_page(self) -> bool {
        self.0 >= Self::FIRST_PAGE
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_page() { write!(f, "page {}", self.0 - Self::FIRST_PAGE) } else { write!(f, "{}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_read_well() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (8_388_608, "8.3 MB"), (u64::MAX, "18446744.0 TB")]
        {
            assert_eq!(ByteCount(bytes).to_string(), text);
        }
    }

    #[test]
    fn pages_have_numbers_of_their_own() {
        assert!(SegmentNumber::page(0).unwrap().is_page());
        assert!(!SegmentNumber(SegmentNumber::FIRST_PAGE - 1).is_page());
        assert_eq!(SegmentNumber::page(u32::MAX), None);
        assert_eq!(SegmentNumber::page(3).unwrap().to_string(), "page 3");
    }
}
