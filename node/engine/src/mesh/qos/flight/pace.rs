//! How fast bytes come at the far side of a lane while more of them wait at this one. It decides nothing.

/// Windows over which the greatest rate counts.
const WINDOWS: usize = 8;
/// Least length of a window, microseconds: ten credits and more.
const WINDOW_US: u64 = 20_000;
/// A rate that was not seen for so long is forgotten, microseconds: links change, and who sends again learns it anew.
const FORGET_US: u64 = 10_000_000;

/// See the head of this file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Bytes a second of the last windows, in a ring.
    windows: [u64; WINDOWS],
    at: usize,
    /// When the window began, with a credit, and the bytes that came since.
    window: Option<(u64, u64)>,
    /// Somebody found no room in the window.
    is_limited: bool,
    seen_us: u64,
}

impl Pace {
    /// Somebody found no room.
    pub(super) const fn missed(&mut self) {
        self.is_limited = true;
    }

    /// Nothing was on its way: what comes next says nothing of the time before.
    pub(super) const fn idle(&mut self) {
        self.window = None;
    }

    /// So many bytes more came.
    pub(super) fn came(&mut self, bytes: u64, now_us: u64) {
        let Some((begun_us, sum)) = self.window else {
            self.window = Some((now_us, 0));
            self.is_limited = false;
            return;
        };
        let sum = sum.saturating_add(bytes);
        let length_us = now_us.saturating_sub(begun_us);
        if length_us < WINDOW_US {
            self.window = Some((begun_us, sum));
            return;
        }
        if std::mem::take(&mut self.is_limited) {
            let rate = sum.saturating_mul(1_000_000).checked_div(length_us).unwrap_or_default();
            if let Some(slot) = self.windows.get_mut(self.at % WINDOWS) {
                *slot = rate;
            }
            self.at = self.at.wrapping_add(1);
            self.seen_us = now_us;
        }
        self.window = Some((now_us, 0));
    }

    /// Bytes a second, if that was seen lately.
    pub(super) fn rate(&self, now_us: u64) -> Option<u64> {
        self.last().filter(|_| now_us.saturating_sub(self.seen_us) <= FORGET_US)
    }

    /// Bytes a second, however long ago.
    pub(super) fn last(&self) -> Option<u64> {
        self.windows.iter().copied().max().filter(|rate| *rate > 0)
    }
}
