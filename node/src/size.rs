//! Sizes as people write them: `25GB`, `1.5 TiB`, `500000`. Decimal and binary units, nothing in between.

use std::str::FromStr;

/// A count of bytes from a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size; write a number with B, kB, MB, GB, TB or KiB, MiB, GiB, TiB, such as 25GB")]
pub(crate) struct SizeError(String);

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || SizeError(text.chars().take(40).collect());
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" | "k" => 1_000,
            "mb" | "m" => 1_000_000,
            "gb" | "g" => 1_000_000_000,
            "tb" | "t" => 1_000_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return Err(error()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.len() > 6 || fraction.contains('.') {
            return Err(error());
        }
        let whole: u64 = whole.parse().map_err(|_| error())?;
        let scale = 10u64.pow(u32::try_from(fraction.len()).map_err(|_| error())?);
        let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| error())? };
        let part = u128::from(fraction) * u128::from(factor) / u128::from(scale);
        let bytes = u128::from(whole) * u128::from(factor) + part;
        u64::try_from(bytes).map(Self).map_err(|_| error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_written() {
        for (text, bytes) in [
            ("500000", 500_000),
            ("25GB", 25_000_000_000),
            ("1.5 TiB", 3 << 39),
            ("0.25kb", 250),
            (" 8 MiB ", 8 << 20),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "GB", "5XB", "-1", "1..2", "1.2.3GB", "99999999999999999TB", "1,5GB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
