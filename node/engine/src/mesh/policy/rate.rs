//! Rates as people write them: `20 Mbit`, `1.5Gbit`, `64 kbit`, a second. It guesses no unit.

use crate::suggest::closest;

/// Units, by bits a second.
const UNITS: [(&str, u64); 4] = [("bit", 1), ("kbit", 1_000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000)];
/// Least rate, bytes a second: a full packet in a second and a half.
const LEAST: u64 = 1_000;
/// Greatest rate, bytes a second: a terabit.
const MOST: u64 = 125_000_000_000;
/// Digits behind the point.
const FRACTION_MAX: usize = 3;

/// Why a text is no rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoRate {
    pub(super) why: &'static str,
    /// What was probably meant.
    pub(super) suggestion: Option<String>,
}

/// Bytes a second.
pub(super) fn bytes_per_second(text: &str) -> Result<u64, NoRate> {
    let no = |why| NoRate { why, suggestion: None };
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim();
    let Some((_, bits)) = UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
        let meant = closest(unit, UNITS.into_iter().map(|(name, _)| name)).map(|unit| format!("{number} {unit}"));
        return Err(NoRate { why: "has no unit of bit, kbit, Mbit or Gbit", suggestion: meant });
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let thousandths = format!("{fraction:0<FRACTION_MAX$}");
    if fraction.len() > FRACTION_MAX || (number.contains('.') && fraction.is_empty()) {
        return Err(no("has none or more than three digits behind its point"));
    }
    let (Ok(whole), Ok(thousandths)) = (whole.parse::<u64>(), thousandths.parse::<u64>()) else {
        return Err(no("has no number before its unit"));
    };
    let bits = u128::from(whole)
        .saturating_mul(1000)
        .saturating_add(thousandths.into())
        .saturating_mul(bits.into())
        .checked_div(8_000)
        .and_then(|bytes| u64::try_from(bytes).ok());
    bits.filter(|bytes| (LEAST..=MOST).contains(bytes)).ok_or_else(|| no("is not between 8 kbit and 1000 Gbit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_in_every_unit() {
        let read = |text: &str| bytes_per_second(text).ok();
        assert_eq!(read("20 Mbit"), Some(2_500_000));
        assert_eq!(read("20mbit"), Some(2_500_000));
        assert_eq!(read(" 1.5 Gbit "), Some(187_500_000));
        assert_eq!(read("64 kbit"), Some(8_000));
        assert_eq!(read("8000bit"), Some(1_000));
        assert_eq!(read("1000 Gbit"), Some(125_000_000_000));
    }

    #[test]
    fn what_is_no_rate_says_why() {
        let why = |text: &str| bytes_per_second(text).unwrap_err();
        assert_eq!(why("20 Mbits").suggestion.as_deref(), Some("20 Mbit"));
        assert!(why("20").why.contains("unit") && why("").why.contains("unit") && why("20 MB/s").why.contains("unit"));
        assert!(why("Mbit").why.contains("number") && why("1.2.3 Mbit").why.contains("number"));
        assert!(why("1. Mbit").why.contains("digits") && why("1.2345 Mbit").why.contains("digits"));
        for text in ["0 Mbit", "7 kbit", "1001 Gbit", "99999999999999999999 Gbit", "18446744073709551615 Gbit"] {
            assert!(why(text).why.contains("between") || why(text).why.contains("number"), "{text}");
        }
    }
}
