//! How likely a file is lost, in numbers that can be recomputed: nodes that die one by one and are repaired, nodes that
//! are away together, nodes that nobody repairs. It never promises anything: what it computes follows from the
//! assumptions it is given, and nodes that fail for one common reason are not in the first number.
//!
//! - [`Churn`], [`yearly_loss`]: Markov chain over the shards that are left.
//! - [`lost_together`]: a share of the holders is away or gone at once.
//! - [`Odds`]: a probability by its logarithm, because 1e-900 is none an `f64` holds.
//! - [`survey`]: every code that fits a swarm, with all of this, and which of them to take.

mod correlated;
mod model;
mod odds;
mod survey;

pub use correlated::lost_together;
pub use model::{Churn, ChurnError, HOURS_PER_YEAR, Hazard, YEARLY_FAILURES_DEFAULT, yearly_loss};
pub use odds::Odds;
pub use survey::{AWAY, CODES, Question, Row, Survey, size_in_code, survey};

#[cfg(test)]
mod big;
#[cfg(test)]
mod tests;
