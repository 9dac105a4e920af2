//! Every "no" counted by its word, so that an operator sees what is refused. It never says to whom.

use shoal_protocol::Refusal;

/// Refusals since the start, by reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    counts: [u64; Refusal::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self { counts: [0; Refusal::ALL.len()] }
    }
}

impl Counters {
    /// Counts one; stops at the largest number.
    pub fn refused(&mut self, reason: Refusal) {
        for (count, known) in self.counts.iter_mut().zip(Refusal::ALL) {
            if known == reason {
                *count = count.saturating_add(1);
            }
        }
    }

    /// The word of every reason with its count, those of none included.
    pub fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refusal::ALL.into_iter().zip(self.counts).map(|(reason, count)| (reason.label(), count))
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_count_of_its_own() {
        let mut counters = Counters::default();
        for (times, reason) in Refusal::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| counters.refused(reason));
        }
        let counts: Vec<u64> = counters.by_reason().map(|(_, count)| count).collect();
        assert_eq!(counts, (0..Refusal::ALL.len() as u64).collect::<Vec<_>>());
        assert_eq!(counters.total(), 190);
        let words: std::collections::BTreeSet<&str> = counters.by_reason().map(|(word, _)| word).collect();
        assert_eq!(words.len(), Refusal::ALL.len());
    }
}
