//! The only place of the node that reads a clock or draws randomness.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use shoal_engine::Now;
use shoal_protocol::UnixMillis;

/// The wall clock.
pub(crate) fn wall() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Both clocks the engine wants.
pub(crate) fn now() -> Now {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    let begun = BEGUN.get_or_init(Instant::now);
    Now { wall: wall(), uptime_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX) }
}

/// How long the machine was suspended since it was started, milliseconds: what one clock counts of it and the other not.
pub(crate) fn asleep_ms() -> u64 {
    let ms = |id| {
        let time = clock_gettime(id);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds.saturating_mul(1000).saturating_add(u64::try_from(time.tv_nsec / 1_000_000).unwrap_or(0))
    };
    ms(ClockId::Boottime).saturating_sub(ms(ClockId::Monotonic))
}

/// Fills memory with the system's randomness, for keys of a node that runs already. A system that gave some at the start and
/// gives none now is broken: keys of zeros would be worse than none, so the program ends.
pub(crate) fn fill_random(out: &mut [u8]) {
    if let Err(error) = getrandom::fill(out) {
        tracing::error!(%error, "the system gives no randomness any more");
        std::process::abort();
    }
}

/// `N` bytes of the system's randomness.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut out = [0; N];
    getrandom::fill(&mut out)?;
    Ok(out)
}
