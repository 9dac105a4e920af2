//! How much of each segment still matters: recomputed from the log like the rest of the index, never stored apart. It
//! decides which segment is worth compacting, and never touches a file.

use std::collections::BTreeMap;

use super::super::record::{Entry, Kind, SEGMENT_HEADER_BYTES};

/// Room a copy may take beyond its records: a segment that has to be begun for it, in whole disk blocks.
const COPY_SLACK: u64 = 64 * 1024;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentUse {
    /// Where its durable records end, bytes from the start of the file.
    pub end: u64,
    /// Bytes of records that are in use; marks are counted apart.
    pub live: u64,
    /// Bytes of REF, DROP and TOMBSTONE records.
    pub marks: u64,
    /// Records of all kinds.
    pub records: u32,
    /// Lowest sequence number; `u64::MAX` without records.
    pub first: u64,
    /// Highest sequence number of a mark.
    pub last_mark: u64,
    /// Whether it ends with a footer.
    pub sealed: bool,
    /// Something in it is damaged, or it was given up without a footer: what is good in it belongs elsewhere.
    pub suspect: bool,
}

impl Default for SegmentUse {
    fn default() -> Self {
        Self {
            end: SEGMENT_HEADER_BYTES as u64,
            live: 0,
            marks: 0,
            records: 0,
            first: u64::MAX,
            last_mark: 0,
            sealed: false,
            suspect: false,
        }
    }
}

impl SegmentUse {
    /// Bytes that count against the quota.
    pub(crate) fn stored(&self) -> u64 {
        self.end.saturating_sub(SEGMENT_HEADER_BYTES as u64)
    }
}

/// The segments of a store by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segments {
    table: BTreeMap<u32, SegmentUse>,
}

impl Segments {
    pub(crate) fn get(&self, segment: u32) -> Option<&SegmentUse> {
        self.table.get(&segment)
    }

    pub(crate) fn entry(&mut self, segment: u32) -> &mut SegmentUse {
        self.table.entry(segment).or_default()
    }

    pub(crate) fn get_mut(&mut self, segment: u32) -> Option<&mut SegmentUse> {
        self.table.get_mut(&segment)
    }

    pub(crate) fn remove(&mut self, segment: u32) -> Option<SegmentUse> {
        self.table.remove(&segment)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &SegmentUse)> {
        self.table.iter().map(|(number, segment)| (*number, segment))
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Counts a record that was written to a segment.
    pub(crate) fn note(&mut self, segment: u32, entry: &Entry) {
        let held = self.entry(segment);
        held.end = held.end.max(entry.end());
        held.records = held.records.saturating_add(1);
        held.first = held.first.min(entry.sequence);
        if matches!(entry.kind, Kind::Ref | Kind::Drop | Kind::Tombstone) {
            held.marks = held.marks.saturating_add(entry.size());
            held.last_mark = held.last_mark.max(entry.sequence);
        }
    }

    /// A record of this size came into use.
    pub(crate) fn alive(&mut self, segment: u32, size: u64) {
        let held = self.entry(segment);
        held.live = held.live.saturating_add(size);
    }

    /// A record of this size is no longer in use. Of a segment that is gone, nothing is counted.
    pub(crate) fn dead(&mut self, segment: u32, size: u64) {
        if let Some(held) = self.table.get_mut(&segment) {
            held.live = held.live.saturating_sub(size);
        }
    }

    /// Bytes of all segments that count against the quota.
    pub(crate) fn stored(&self) -> u64 {
        self.table.values().map(SegmentUse::stored).sum()
    }

    /// Bytes in use in all segments.
    pub(crate) fn live(&self) -> u64 {
        self.table.values().map(|segment| segment.live).sum()
    }

    /// The segment to compact next: a suspect one first, then the one with the least in use, below `alive_percent`.
    /// Never `active`, and never one with more in use than `room` bytes, which is what there is to copy into.
    ///
    /// A segment without a footer stays until its own turn, and so does its successor before it, whose header says where
    /// it ends.
    pub(crate) fn candidate(&self, active: Option<u32>, alive_percent: u64, room: u64) -> Option<u32> {
        let oldest = self.oldest_pair();
        let mut before_sealed = true;
        let mut best: Option<(bool, u64, u32)> = None;
        for (number, segment) in self.iter() {
            let follows_unsealed = !std::mem::replace(&mut before_sealed, segment.sealed);
            let copies = segment.live.saturating_add(segment.marks).saturating_add(COPY_SLACK);
            if Some(number) == active || follows_unsealed || (segment.live > 0 && copies > room) {
                continue;
            }
            let alive = segment.live.saturating_add(self.marks_needed(number, segment, oldest));
            let percent = alive.saturating_mul(100).checked_div(segment.stored()).unwrap_or(0);
            if segment.suspect || percent < alive_percent {
                let rank = (!segment.suspect, percent, number);
                best = Some(best.map_or(rank, |best| best.min(rank)));
            }
        }
        best.map(|(.., number)| number)
    }

    /// The two lowest first sequences, with the segment that has the lowest.
    fn oldest_pair(&self) -> (u32, u64, u64) {
        let mut lowest = (0, u64::MAX, u64::MAX);
        for (number, segment) in self.iter() {
            if segment.first < lowest.1 {
                lowest = (number, segment.first, lowest.1);
            } else {
                lowest.2 = lowest.2.min(segment.first);
            }
        }
        lowest
    }

    /// Bytes of marks that may still matter: all, unless every other segment is younger than all of them.
    fn marks_needed(&self, number: u32, segment: &SegmentUse, (oldest, first, second): (u32, u64, u64)) -> u64 {
        let others = if oldest == number { second } else { first };
        if segment.last_mark < others { 0 } else { segment.marks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(list: &[(u32, u64, bool, bool)]) -> Segments {
        let mut segments = Segments::default();
        for (number, live, sealed, suspect) in list {
            let first = u64::from(*number) * 100;
            *segments.entry(*number) =
                SegmentUse { end: 1064, live: *live, sealed: *sealed, suspect: *suspect, first, ..Default::default() };
        }
        segments
    }

    #[test]
    fn the_least_used_goes_first_and_damage_before_that() {
        let list = [(0, 900, true, false), (1, 300, true, false), (2, 200, true, false), (3, 0, false, false)];
        assert_eq!(segments(&list).candidate(Some(3), 50, 1 << 30), Some(2));
        assert_eq!(segments(&list).candidate(Some(3), 50, 65_000), None, "there is no room for a copy");
        assert_eq!(segments(&list).candidate(Some(3), 20, 1 << 30), None);
        let list = [(0, 900, true, true), (1, 300, true, false), (3, 0, false, false)];
        assert_eq!(segments(&list).candidate(Some(3), 50, 1 << 30), Some(0));
    }

    #[test]
    fn the_successor_of_an_unsealed_segment_stays() {
        let list = [(4, 800, false, false), (5, 0, true, false), (6, 0, false, false)];
        assert_eq!(segments(&list).candidate(Some(6), 50, 1 << 30), None);
        let list = [(4, 800, false, true), (5, 0, true, false), (6, 0, false, false)];
        assert_eq!(segments(&list).candidate(Some(6), 50, 1 << 30), Some(4));
    }

    #[test]
    fn marks_count_as_used_until_nothing_older_is_left() {
        let mut segments = segments(&[(1, 0, true, false), (2, 1000, true, false), (9, 0, false, false)]);
        segments.entry(1).marks = 900;
        segments.entry(1).last_mark = 150;
        assert_eq!(segments.candidate(Some(9), 50, 1 << 30), Some(1), "all others are younger");
        segments.entry(2).first = 120;
        assert_eq!(segments.candidate(Some(9), 50, 1 << 30), None);
    }
}
