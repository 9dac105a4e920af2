//! Nodes die one by one and lost shards are made anew: a Markov chain over the shards of a segment that are left.
//! It never covers nodes that fail together, which is `correlated.rs`.
//!
//! States i = n..k; loss at rate i x lambda; at i <= r a repair back to n at rate mu = 1/T; below k all is over. With
//! T_i the mean time to the end from state i and T_(k-1) = 0:
//!
//! ```text
//! T_i = (1 + i lambda T_(i-1) + m_i T_n) / (i lambda + m_i)        m_i = mu if i <= r, else 0
//! T_i = a_i + (1 - c_i) T_n
//! a_i = (1 + i lambda a_(i-1)) / (i lambda + m_i)                  a_(k-1) = 0
//! c_i = c_(i-1) x i lambda / (i lambda + m_i)                      c_(k-1) = 1
//! MTTDL = T_n = (1 / (n lambda) + a_(n-1)) / c_(n-1)
//! ```
//!
//! The usual form carries b_i = 1 - c_i and takes it from 1 at the end, which needs 60 digits and more. c_i itself obeys
//! a product: nothing is ever subtracted, so each step costs one rounding and an `f64` is right to 13 digits after 254 of
//! them. c is carried as a logarithm, because it may be 1e-900.

use shoal_protocol::layout::Code;

use super::Odds;

/// Hours of a mean year: 365.25 days.
pub const HOURS_PER_YEAR: f64 = 8766.0;
/// Share of nodes that a swarm of ordinary machines loses for good in a year, unless its owner knows better.
/// Source: what Storj measured of its nodes, 7.6 to 7.9 %.
pub const YEARLY_FAILURES_DEFAULT: f64 = 0.08;
/// Hours until a lost shard is noticed and made anew, unless its owner knows better.
const REPAIR_HOURS_DEFAULT: f64 = 24.0;
/// Longest repair that is one: ten years.
const REPAIR_HOURS_MAX: f64 = 10.0 * HOURS_PER_YEAR;

/// How nodes come to their end, and how soon that is made good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    yearly_failures: f64,
    repair_hours: f64,
}

/// Why two numbers are no churn.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ChurnError {
    /// None, all, or no number.
    #[error("the share of nodes lost in a year is above 0 and below 100 %")]
    YearlyFailures,
    /// Not between a moment and ten years.
    #[error("a repair takes more than 0 and at most {REPAIR_HOURS_MAX} hours")]
    RepairHours,
}

impl Default for Churn {
    /// 8 % a year, 24 hours.
    fn default() -> Self {
        Self { yearly_failures: YEARLY_FAILURES_DEFAULT, repair_hours: REPAIR_HOURS_DEFAULT }
    }
}

impl Churn {
    /// `yearly_failures`: share of nodes lost for good in a year, 0..1. `repair_hours`: mean time until a loss is noticed
    /// and its shard made anew.
    ///
    /// # Errors
    /// [`ChurnError`] at and beyond the ends.
    pub fn new(yearly_failures: f64, repair_hours: f64) -> Result<Self, ChurnError> {
        // Below this, 1 - AFR is 1 for an f64 and nothing ever fails.
        if !(f64::EPSILON..1.0).contains(&yearly_failures) {
            return Err(ChurnError::YearlyFailures);
        }
        // A millisecond: far below any network, far above where mu would be infinite.
        if !(1.0 / 3_600_000.0..=REPAIR_HOURS_MAX).contains(&repair_hours) {
            return Err(ChurnError::RepairHours);
        }
        Ok(Self { yearly_failures, repair_hours })
    }

    /// Share of nodes lost for good in a year, 0..1.
    #[must_use]
    pub const fn yearly_failures(&self) -> f64 {
        self.yearly_failures
    }

    /// Mean hours until a lost shard is made anew.
    #[must_use]
    pub const fn repair_hours(&self) -> f64 {
        self.repair_hours
    }

    /// lambda: failures of one node an hour.
    fn rate(&self) -> f64 {
        -(-self.yearly_failures).ln_1p() / HOURS_PER_YEAR
    }
}

/// Losses of a segment expected in a year, by the logarithm: year / MTTDL.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hazard {
    ln_per_year: f64,
}

impl Hazard {
    /// Mean time to data loss in hours, by its natural logarithm.
    #[must_use]
    pub fn ln_mttdl_hours(self) -> f64 {
        HOURS_PER_YEAR.ln() - self.ln_per_year
    }

    /// That all of a file's segments, held by one set of nodes, are lost within a year: they live and die together.
    #[must_use]
    pub fn year(self) -> Odds {
        Odds::from_ln_expected(self.ln_per_year)
    }

    /// That at least one of `segments` segments is lost within a year, each on a set of nodes of its own: an upper bound
    /// for what strikes shards one by one, such as rot.
    #[must_use]
    pub fn year_apart(self, segments: u64) -> Odds {
        #[expect(clippy::cast_precision_loss, reason = "a count of segments, used by its logarithm")]
        let segments = segments.max(1) as f64;
        Odds::from_ln_expected(self.ln_per_year + segments.ln())
    }
}

/// How soon a segment of `code` is lost when shards are made anew as soon as only `repair_at` of them are left.
///
/// `repair_at` is r of the formula: n - 1 repairs at the first loss, n and above is the same, below k is never in time.
#[must_use]
pub fn yearly_loss(code: Code, repair_at: usize, churn: &Churn) -> Hazard {
    let (lambda, mu) = (churn.rate(), 1.0 / churn.repair_hours);
    let (k, n) = (u32::from(code.data), u32::from(code.data) + u32::from(code.parity));
    let (mut a, mut ln_c) = (0.0f64, 0.0f64);
    for left in k..n {
        let loss = f64::from(left) * lambda;
        let repair = if left as usize <= repair_at { mu } else { 0.0 };
        a = (1.0 + loss * a) / (loss + repair);
        // ln(loss / (loss + repair)) without dividing: exact also where the quotient is close to 1.
        ln_c -= (repair / loss).ln_1p();
    }
    let ln_mttdl = (1.0 / (f64::from(n) * lambda) + a).ln() - ln_c;
    Hazard { ln_per_year: HOURS_PER_YEAR.ln() - ln_mttdl }
}
