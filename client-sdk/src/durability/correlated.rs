//! Holders that are away or gone at the same moment: the tail of a binomial distribution. It never asks why.

use shoal_protocol::layout::Code;

use super::Odds;

/// That fewer than k of the n shards of a segment are within reach when each holder is away with probability `away`,
/// independently of the others: P[Bin(n, away) >= n - k + 1].
///
/// For holders that are gone for good this is the loss of a file, for holders that are switched off it is a file that
/// cannot be read now. With the share of nodes that die in a year it is a year without any repair. Outside of 0..=1
/// `away` is taken as the nearer end; what is no number is taken as certain loss.
#[must_use]
pub fn lost_together(code: Code, away: f64) -> Odds {
    let (k, n) = (u32::from(code.data), u32::from(code.data) + u32::from(code.parity));
    // Both ends are exact: the logarithm of 0 is minus infinity, and no term below has 0 times it.
    if away <= 0.0 {
        return Odds::from_ln(f64::NEG_INFINITY);
    }
    if away.is_nan() || away >= 1.0 {
        return Odds::from_ln(0.0);
    }
    let (ln_away, ln_there) = (away.ln(), (-away).ln_1p());
    let terms = (n - k + 1..=n).map(|gone| {
        // C(n, gone): a sum of logarithms, exact to a few units in the last place for n <= 255.
        let ln_ways: f64 = (1..=gone).map(|at| (f64::from(n - gone + at) / f64::from(at)).ln()).sum();
        ln_ways + f64::from(gone) * ln_away + f64::from(n - gone) * ln_there
    });
    let terms: Vec<f64> = terms.collect();
    let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // All terms are positive: nothing is subtracted here either.
    let sum: f64 = terms.iter().map(|term| (term - largest).exp()).sum();
    Odds::from_ln(largest + sum.ln())
}
