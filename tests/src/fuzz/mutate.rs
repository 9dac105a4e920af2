//! Seeded mutations of a corpus: what a test does in seconds where the fuzzer has hours. It knows no format.

/// Numbers at which lengths and counts tend to break.
const EDGES: [u32; 10] = [0, 1, 0x17, 0x18, 0xff, 0x100, 0xffff, 0x1_0000, 0x7fff_ffff, u32::MAX];

/// A source of choices that depends on its seed alone.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// Begins with `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// One of `corpus`, changed in one to four places.
    pub fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut out = corpus.get(self.below(corpus.len())).cloned().unwrap_or_default();
        for _ in 0..1 + self.below(4) {
            let at = self.below(out.len());
            match self.below(8) {
                0 => out.get_mut(at).map_or((), |byte| *byte ^= 1 << (self.byte() % 8)),
                1 => out.get_mut(at).map_or((), |byte| *byte = self.byte()),
                2 => out.insert(at, self.byte()),
                3 if !out.is_empty() => drop(out.remove(at)),
                4 => out.truncate(at),
                5 => {
                    let edge = EDGES[self.below(EDGES.len())];
                    let bytes = if self.byte().is_multiple_of(2) { edge.to_le_bytes() } else { edge.to_be_bytes() };
                    let length = 1 << self.below(3);
                    out.iter_mut().skip(at).zip(&bytes[..length]).for_each(|(to, from)| *to = *from);
                }
                6 => {
                    let length = self.below(out.len().saturating_sub(at).min(64) + 1);
                    let copied = out.get(at..at + length).unwrap_or_default().to_vec();
                    let to = self.below(out.len() + 1);
                    out.splice(to..to, copied);
                }
                _ => {
                    let other = corpus.get(self.below(corpus.len())).cloned().unwrap_or_default();
                    let from = self.below(other.len());
                    out.truncate(at);
                    out.extend_from_slice(other.get(from..).unwrap_or_default());
                }
            }
        }
        out
    }
}
