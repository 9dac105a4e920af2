//! Which shards are asked about, and how many leaves of each. The randomness is an argument, and must be fit for keys:
//! a node that can foresee it keeps what will be asked and drops the rest.

use shoal_protocol::limits::AUDIT_SLICES_MAX;

/// Shards of a node asked about in a round, unless told otherwise: all where it has no more.
pub const SAMPLE_DEFAULT: usize = 64;
/// Leaves of a node asked about in a round, where its shards have as many: one that misses 2 % of them is caught with
/// 1 - 0.98^256 = 99.4 %.
pub const LEAVES_ASKED: usize = 256;

/// Leaves to ask of each of `shards` shards of one node: together about [`LEAVES_ASKED`], 1 to 32 each.
#[must_use]
pub fn slices_for(shards: usize) -> u8 {
    let each = LEAVES_ASKED.div_ceil(shards.max(1)).clamp(1, AUDIT_SLICES_MAX);
    u8::try_from(each).unwrap_or(1)
}

/// `want` distinct numbers below `count`, ascending, each set of them equally likely; all if `want` is not less.
/// `draw` gives random numbers of 64 bits.
#[must_use]
pub fn pick(count: usize, want: usize, mut draw: impl FnMut() -> u64) -> Vec<usize> {
    if want >= count {
        return (0..count).collect();
    }
    // Floyd: one draw a number, no list of all.
    let mut chosen = std::collections::BTreeSet::new();
    for last in count.saturating_sub(want)..count {
        let drawn = below(last.saturating_add(1), &mut draw);
        if !chosen.insert(drawn) {
            chosen.insert(last);
        }
    }
    chosen.into_iter().collect()
}

/// A number below `bound`, without the bias of a remainder. `bound` is not 0.
fn below(bound: usize, draw: &mut impl FnMut() -> u64) -> usize {
    let bound = (bound as u64).max(1);
    let unbiased = u64::MAX - u64::MAX % bound;
    loop {
        let drawn = draw();
        if drawn < unbiased {
            return usize::try_from(drawn % bound).unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: u64) -> impl FnMut() -> u64 {
        let mut output = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        move || {
            let mut bytes = [0; 8];
            output.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        }
    }

    #[test]
    fn samples_are_distinct_ascending_and_as_many_as_wanted() {
        for seed in 0..200 {
            let picked = pick(50, 7, numbers(seed));
            assert_eq!(picked.len(), 7);
            assert!(picked.is_sorted_by(|a, b| a < b) && picked.iter().all(|&at| at < 50));
        }
        assert_eq!(pick(3, 3, numbers(0)), [0, 1, 2]);
        assert_eq!(pick(3, 9, numbers(0)), [0, 1, 2]);
        assert_eq!(pick(0, 1, numbers(0)), [0usize; 0]);
        assert_eq!(pick(5, 0, numbers(0)), [0usize; 0]);
    }

    #[test]
    fn every_shard_is_as_likely_as_any_other() {
        let mut hits = [0u32; 10];
        for seed in 0..10_000 {
            pick(10, 3, numbers(seed)).iter().for_each(|&at| hits[at] += 1);
        }
        // 3000 each, standard deviation 46.
        assert!(hits.iter().all(|hits| (2_750..3_250).contains(hits)), "{hits:?}");
    }

    #[test]
    fn leaves_are_spread_over_the_shards() {
        assert_eq!([1, 8, 9, 64, 256, 10_000].map(slices_for), [32, 32, 29, 4, 1, 1]);
        assert_eq!(slices_for(0), 32);
    }
}
