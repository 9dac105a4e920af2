//! The only place of the node that reads a clock or draws randomness.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

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
