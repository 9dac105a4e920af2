//! When somebody who was told that the node is busy may come again. It knows how much waits, not for what.

/// Shortest time to wait, milliseconds: about a batch of the writer on a slow disk.
pub const RETRY_MS_MIN: u32 = 500;
/// Longest time to wait, milliseconds.
pub const RETRY_MS_MAX: u32 = 8_000;

/// Milliseconds after which it is worth asking again, where `waiting` of at most `most` places are taken: the fuller, the
/// later, so that those who come again do not all come at once.
#[must_use]
pub fn retry_after_ms(waiting: usize, most: usize) -> u32 {
    let waiting = u32::try_from(waiting.min(most)).unwrap_or(u32::MAX);
    let most = u32::try_from(most).unwrap_or(u32::MAX).max(1);
    let span = u64::from(RETRY_MS_MAX.saturating_sub(RETRY_MS_MIN)).saturating_mul(u64::from(waiting));
    let more = span.checked_div(u64::from(most)).unwrap_or(0);
    RETRY_MS_MIN.saturating_add(u32::try_from(more).unwrap_or(u32::MAX)).min(RETRY_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_the_later_within_bounds() {
        assert_eq!(retry_after_ms(0, 128), RETRY_MS_MIN);
        assert_eq!(retry_after_ms(64, 128), 4250);
        assert_eq!(retry_after_ms(128, 128), RETRY_MS_MAX);
        assert_eq!(retry_after_ms(usize::MAX, usize::MAX), RETRY_MS_MAX);
        assert_eq!(retry_after_ms(5, 0), RETRY_MS_MIN);
    }
}
