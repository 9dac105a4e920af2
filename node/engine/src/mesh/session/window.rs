//! Replay windows: which of the last 8,192 sequence numbers were seen. It authenticates nothing: it is asked before a
//! frame is opened and told after.

use shoal_protocol::mesh::session::frame::WINDOW;

use super::drops::Dropped;

const WORD: u64 = u64::BITS as u64;
/// One word more than the window, so that a word can be cleared while the window reaches over its neighbours (RFC 6479).
const WORDS: u64 = WINDOW / WORD + 1;

/// One window, 1,032 bytes and a number.
#[derive(Clone, Debug)]
pub(super) struct Window {
    seen: [u64; WORDS as usize],
    /// One more than the greatest sequence seen.
    next: u64,
}

impl Window {
    pub(super) const fn new() -> Self {
        Self { seen: [0; WORDS as usize], next: 0 }
    }

    /// Whether `sequence` may still be accepted. Anything newer than all before may.
    pub(super) fn check(&self, sequence: u64) -> Result<(), Dropped> {
        if sequence >= self.next {
            return Ok(());
        }
        if self.next.saturating_sub(sequence) > WINDOW {
            return Err(Dropped::TooOld);
        }
        let word = self.seen.get(place(sequence)).copied().unwrap_or(u64::MAX);
        if word & bit(sequence) == 0 { Ok(()) } else { Err(Dropped::Replayed) }
    }

    /// Remembers a sequence that [`Self::check`] let pass and whose frame was authentic.
    pub(super) fn accept(&mut self, sequence: u64) {
        if sequence >= self.next {
            let newest = self.next.saturating_sub(1) / WORD;
            let skipped = (sequence / WORD).saturating_sub(newest).min(WORDS);
            for step in 1..=skipped {
                let at = newest.saturating_add(step).wrapping_rem(WORDS) as usize;
                if let Some(word) = self.seen.get_mut(at) {
                    *word = 0;
                }
            }
            self.next = sequence.saturating_add(1);
        }
        if let Some(word) = self.seen.get_mut(place(sequence)) {
            *word |= bit(sequence);
        }
    }
}

const fn place(sequence: u64) -> usize {
    ((sequence / WORD) % WORDS) as usize
}

const fn bit(sequence: u64) -> u64 {
    1 << (sequence % WORD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The same, by remembering everything.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn check(&self, sequence: u64) -> Result<(), Dropped> {
            let greatest = self.seen.last().copied();
            match greatest {
                Some(greatest) if sequence + WINDOW <= greatest => Err(Dropped::TooOld),
                _ if self.seen.contains(&sequence) => Err(Dropped::Replayed),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn it_answers_as_if_it_remembered_everything() {
        for seed in 0..20_u64 {
            let (mut window, mut model, mut state, mut top) = (Window::new(), Model::default(), seed, 0_u64);
            for _ in 0..20_000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let draw = state >> 33;
                let sequence = match draw % 16 {
                    0 => top + draw % 20_000,
                    1..=4 => top.saturating_sub(draw % 9_000),
                    5 => top.saturating_sub(WINDOW - 1 + draw % 3),
                    6 => top.saturating_sub(draw % 3),
                    _ => top + 1,
                };
                assert_eq!(window.check(sequence), model.check(sequence), "seed {seed}, {sequence} under {top}");
                if window.check(sequence).is_ok() {
                    window.accept(sequence);
                    model.seen.insert(sequence);
                    top = top.max(sequence);
                }
            }
        }
    }

    #[test]
    fn the_last_sequence_there_is_can_be_accepted_once() {
        let mut window = Window::new();
        let last = (1 << 56) - 1;
        assert_eq!(window.check(last), Ok(()));
        window.accept(last);
        assert_eq!(window.check(last), Err(Dropped::Replayed));
        assert_eq!(window.check(last - WINDOW + 1), Ok(()));
        assert_eq!(window.check(last - WINDOW), Err(Dropped::TooOld));
    }
}
