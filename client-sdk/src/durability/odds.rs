//! A probability by its natural logarithm, and its nines. It never holds more than 1 or what is no number.

use core::f64::consts::{LN_2, LN_10};

/// A probability. Kept as ln P: a wide code loses a segment with 1e-900 a year, below the smallest `f64`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Odds {
    ln: f64,
}

impl Odds {
    /// The event of probability exp(`ln`); above 1, and for what is no number, the certain one: nothing is promised by
    /// an accident of arithmetic.
    #[must_use]
    pub const fn from_ln(ln: f64) -> Self {
        // `min` gives the other operand where one is no number.
        Self { ln: ln.min(0.0) }
    }

    /// 1 - exp(-exp(`ln`)): at least one event in a time in which exp(`ln`) of them are expected.
    #[must_use]
    pub fn from_ln_expected(ln: f64) -> Self {
        // Below 2^-54 the exponential series ends after its first term, to the last bit of an f64.
        if ln < -54.0 * LN_2 { Self::from_ln(ln) } else { Self::from_ln((-(-ln.exp()).exp_m1()).ln()) }
    }

    /// The natural logarithm of the probability, at most 0.
    #[must_use]
    pub const fn ln(self) -> f64 {
        self.ln
    }

    /// The probability, 0..=1; 0 where it is below the smallest `f64`.
    #[must_use]
    pub fn probability(self) -> f64 {
        self.ln.exp()
    }

    /// Nines: -log10 P. 3 is one in a thousand.
    #[must_use]
    pub fn nines(self) -> f64 {
        // Not -0.0 for the certain event.
        (-self.ln / LN_10).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nines_are_minus_log_ten() {
        assert!((Odds::from_ln(0.001f64.ln()).nines() - 3.0).abs() < 1e-12);
        assert_eq!(Odds::from_ln(0.0).nines().to_string(), "0");
        assert_eq!((Odds::from_ln(1e-9).probability(), Odds::from_ln(f64::NAN).probability()), (1.0, 1.0));
        assert!((Odds::from_ln(-900.0 * LN_10).nines() - 900.0).abs() < 1e-9);
    }

    #[test]
    fn expected_events_saturate_at_certainty_without_a_step() {
        assert_eq!(Odds::from_ln_expected(10.0).probability(), 1.0);
        assert_eq!(Odds::from_ln_expected(f64::INFINITY).probability(), 1.0);
        assert!((Odds::from_ln_expected(0.0).probability() - 0.632_120_558_828_557_7).abs() < 1e-15);
        let border = -54.0 * LN_2;
        let below = Odds::from_ln_expected(border.next_down());
        let above = Odds::from_ln_expected(border);
        assert!((above.ln() - below.ln()).abs() < 1e-12, "{below:?} {above:?}");
    }
}
