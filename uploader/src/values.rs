//! Values of options that only this program knows: ciphers, byte ranges, keys in hexadecimal. None of them is a secret.

use std::ops::Range;

use clap::ValueEnum;
use shoal_client::durability::Churn;
use shoal_protocol::Suite;

/// Choice of ciphers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cipher {
    Auto,
    #[value(name = "chacha20-poly1305")]
    ChaCha20Poly1305,
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
}

impl Cipher {
    /// The suite meant.
    pub(crate) fn suite(self) -> Suite {
        match self {
            Self::ChaCha20Poly1305 => Suite::ChaCha20Poly1305,
            Self::Aes256Gcm => Suite::Aes256Gcm,
            Self::Auto if has_aes() => Suite::Aes256Gcm,
            Self::Auto => Suite::ChaCha20Poly1305,
        }
    }
}

/// Whether the processor has AES and carry-less multiplication.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    let found = std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let found = std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
    let found = false;
    found
}

/// Bytes asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSpan {
    start: u64,
    end: Option<u64>,
}

impl ByteSpan {
    /// The bytes meant in content of `size` bytes; not checked against it.
    pub(crate) fn within(self, size: u64) -> Range<u64> {
        self.start..self.end.unwrap_or_else(|| size.max(self.start))
    }
}

/// Reads `A-B` or `A-`: decimal digits only.
pub(crate) fn byte_range(text: &str) -> Result<ByteSpan, String> {
    let form = || "write A-B or A-, such as 0-100 for the first hundred bytes".to_owned();
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<u64>().ok()).flatten().ok_or_else(form)
    };
    let (start, end) = text.split_once('-').ok_or_else(form)?;
    let start = number(start)?;
    let end = if end.is_empty() { None } else { Some(number(end)?) };
    if end.is_some_and(|end| end < start) {
        return Err("the end is before the start".into());
    }
    Ok(ByteSpan { start, end })
}

/// Reads a size: a number, with or without a decimal or binary unit, such as `25GB` or `1.5TiB`.
pub(crate) fn byte_size(text: &str) -> Result<u64, String> {
    let form = || "write a number with B, kB, MB, GB, TB or KiB, MiB, GiB, TiB, such as 25GB".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u128 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(form()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // 20 digits hold every u64, and times a tebibyte they fit 128 bits; 6 behind the point are a millionth of a unit.
    if !(1..=20).contains(&whole.len()) || !(1..=6).contains(&fraction.len()) {
        return Err(form());
    }
    let whole: u128 = whole.parse().map_err(|_| form())?;
    let millionths: u128 = format!("{fraction:0<6}").parse().map_err(|_| form())?;
    u64::try_from(whole * factor + millionths * factor / 1_000_000).map_err(|_| form())
}

/// Reads a share in per cent, above 0 and below 100.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    let value = decimal(text)?;
    Churn::new(value / 100.0, 24.0).map(|_| value).map_err(|error| error.to_string())
}

/// Reads hours a repair may take.
pub(crate) fn hours(text: &str) -> Result<f64, String> {
    let value = decimal(text)?;
    Churn::new(0.5, value).map(|_| value).map_err(|error| error.to_string())
}

/// Reads a count of nines, above 0 and up to 1000.
pub(crate) fn nines(text: &str) -> Result<f64, String> {
    let value = decimal(text)?;
    if value > 0.0 && value <= 1000.0 { Ok(value) } else { Err("nines are above 0 and at most 1000".into()) }
}

/// Digits and at most one point: no sign, no exponent, no infinity.
fn decimal(text: &str) -> Result<f64, String> {
    let plain = (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    plain.then(|| text.parse().ok()).flatten().ok_or_else(|| "write a number such as 8 or 2.5".to_owned())
}

/// Reads a public key of 64 hexadecimal digits.
pub(crate) fn genesis(text: &str) -> Result<[u8; 32], String> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| "64 hexadecimal digits are wanted".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let range = |text: &str| byte_range(text).map(|span| span.within(100));
        assert_eq!(range("0-10"), Ok(0..10));
        assert_eq!(range("7-"), Ok(7..100));
        assert_eq!(range("200-"), Ok(200..200));
        assert_eq!(range("5-5"), Ok(5..5));
        assert_eq!(range("5-500"), Ok(5..500));
        for text in ["", "-", "-5", "5", "9-3", "a-b", "1-2-3", "+1-2", " 1-2", "0x1-2", "99999999999999999999-"] {
            assert!(byte_range(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn ciphers_have_suites() {
        assert_eq!(Cipher::ChaCha20Poly1305.suite(), Suite::ChaCha20Poly1305);
        assert_eq!(Cipher::Aes256Gcm.suite(), Suite::Aes256Gcm);
        assert_eq!(Cipher::Auto.suite(), if has_aes() { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 });
        for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
            assert_eq!(Cipher::from_str(&suite.to_string(), false).map(Cipher::suite), Ok(suite));
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("500000", 500_000),
            ("25GB", 25_000_000_000),
            ("1.5 TiB", 3 << 39),
            ("0.25kb", 250),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(byte_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", ".5GB", "5.", "5XB", "-1", "+1", "1..2", "1.2.3GB", "20000000TB", "1e9", "1.1234567GB"] {
            assert!(byte_size(text).is_err(), "{text}");
        }
        for text in ["", "1e3", "-1", "+1", "NaN", "inf", "1.2.3", "."] {
            assert!(decimal(text).is_err(), "{text}");
        }
        assert_eq!((percent("8"), hours("0.5"), nines("1000")), (Ok(8.0), Ok(0.5), Ok(1000.0)));
        assert!(percent("100").is_err() && percent("0").is_err() && hours("0").is_err() && nines("0.0").is_err());
    }

    #[test]
    fn keys() {
        assert_eq!(genesis(&"Ab".repeat(32)), Ok([0xab; 32]));
        for text in ["", "zz", &"a".repeat(63), &"a".repeat(66)] {
            assert!(genesis(text).is_err(), "{text:?}");
        }
    }
}
