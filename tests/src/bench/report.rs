//! How a row is said: figure, ratio, limit and verdict in one line. It measures nothing.

use std::time::Duration;

/// The limit of a row.
#[derive(Clone, Copy)]
pub enum Limit {
    /// The value must not be lower.
    AtLeast(f64),
    /// The value must not be higher.
    AtMost(f64),
}

/// One row with its limit.
pub fn judged(what: &str, figure: &str, value: f64, unit: &str, limit: Limit) {
    let (met, sign, bound) = match limit {
        Limit::AtLeast(bound) => (value >= bound, ">=", bound),
        Limit::AtMost(bound) => (value <= bound, "<=", bound),
    };
    println!("{what}: {figure}: {value:.2} {unit}, limit {sign} {bound:.2}: {}", if met { "ok" } else { "MISSED" });
}

/// One row without a limit.
pub fn plain(what: &str, figure: &str) {
    println!("{what}: {figure}, no limit");
}

/// What helps to read the row before.
pub fn context(text: &str) {
    println!("    {text}");
}

/// The value below which a share `share` of `values` lies.
pub fn quantile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    let at = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or_default()
}

/// The middle one of `values`.
pub fn median(values: &[Duration]) -> Duration {
    quantile(&mut values.to_vec(), 0.5)
}

/// Millions of bytes a second.
pub fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / 1e6
}

/// Milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
