//! Row `index`: memory of an open store per shard, at sizes around those where its tables double. It counts all that the
//! process has more after opening than before, not only the tables.

use crate::child::{grow, reopen, reopen_from_log, snapshot_peak};
use shoal_tests::bench::Setting;
use shoal_tests::bench::report::{Limit, context, judged, plain};

/// Shards. Powers of two times 7/8 are where tables double; 0.93 million is just behind one.
const SIZES: [u64; 6] = [900_000, 930_000, 1_000_000, 1_100_000, 1_200_000, 1_300_000];
/// Bytes of a payload: the index does not depend on it.
const SHARD_BYTES: u64 = 64;
/// Most bytes of memory a shard.
const LIMIT: f64 = 80.0;

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    let dir = setting.fresh();
    let data = dir.path().join("store");
    let (mut worst, mut worst_log, mut filled) = ((0.0_f64, 0), (0.0_f64, 0), 0);
    for size in SIZES.map(|size| setting.size(size)) {
        grow(&data, filled, size, SHARD_BYTES);
        filled = size;
        let (opened, from_log) = (reopen(&data), reopen_from_log(&data));
        assert!(opened.from_snapshot && opened.shards == size && from_log.shards == size);
        let [each, each_log] = [opened.memory, from_log.memory].map(|bytes| bytes as f64 / size as f64);
        let [peak, peak_log] = [opened.peak, from_log.peak].map(|bytes| bytes as f64 / size as f64);
        let (open, during) = snapshot_peak(&data);
        context(&format!(
            "{size} shards: {each:.1} B each opened from the snapshot (peak {peak:.1}), {each_log:.1} from the log \
             (peak {peak_log:.1}); taking a snapshot {:.1} -> {:.1}",
            open as f64 / size as f64,
            during as f64 / size as f64,
        ));
        worst = if each > worst.0 { (each, size) } else { worst };
        worst_log = if each_log > worst_log.0 { (each_log, size) } else { worst_log };
        if filled == setting.size(1_300_000) {
            let figure = format!(
                "{:.0} MB while it is taken, {:.0} MB before, at {size} shards",
                during as f64 / 1e6,
                open as f64 / 1e6
            );
            plain("peak memory of a snapshot", &figure);
        }
    }
    for (way, (each, size)) in [("the snapshot", worst), ("the log", worst_log)] {
        let figure = format!("worst of {} sizes, at {size} shards, opened from {way}", SIZES.len());
        judged("index memory", &figure, each, "B a shard", Limit::AtMost(LIMIT));
    }
}
