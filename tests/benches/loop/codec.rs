//! Row `codec`: segments through `PlainSegment::seal` on one thread, beside its four parts, each alone over the same
//! library: AEAD, Reed-Solomon, keystream, BLAKE3. What is compared with is `1 / (1/aead + 1/rs + x/ctr + x/blake3)`,
//! where x is shard bytes by plain bytes, 1.5 for 8+4 and 4+2: the speed if nothing else had to be done.
//!
//! The parts work on one row at a time in the same few units again and again, as the pipeline does while a row is in the
//! cache; only the plain text comes from memory. So their speeds are the best there are, and the comparison is strict.
//! Time is that of the thread on a processor, not that of the clock, because the machine may do other work.

use std::hint::black_box;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _, StreamCipherSeek as _};
use shoal_client::keys::{ReadKey, RootKey};
use shoal_client::pipeline::{Chunker, FileLayout};
use shoal_protocol::layout::Code;
use shoal_protocol::limits::{TAG, UNIT};
use shoal_protocol::{FileId, Suite};
use shoal_tests::bench::Setting;
use shoal_tests::bench::machine::thread_time;
use shoal_tests::bench::report::{Limit, context, judged, median, rate};
use shoal_tests::sample;
use sia_reed_solomon::ReedSolomon;

const PLAIN_BYTES: u64 = 128 << 20;
/// Less says nothing, also of a small run: it has to be more than the caches hold.
const PLAIN_BYTES_MIN: u64 = 32 << 20;
const ROUNDS: usize = 9;
/// Share of the speed of the parts that the whole has at least.
const LIMIT: f64 = 0.80;
/// Plain bytes of a frame.
const FRAME: usize = UNIT - TAG;

/// Millions of bytes a second: the whole and the parts per plain byte, keystream and hash per shard byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speeds {
    whole: f64,
    aead: f64,
    rs: f64,
    ctr: f64,
    blake3: f64,
    /// Shard bytes for each plain byte.
    stretch: f64,
}

impl Speeds {
    /// The whole if it were nothing but its parts.
    fn parts(&self) -> f64 {
        1.0 / (1.0 / self.aead + 1.0 / self.rs + self.stretch / self.ctr + self.stretch / self.blake3)
    }

    /// Seconds of one core for a thousand million plain bytes by stage: seal, code, mask, hash, the rest of the pipeline.
    pub(crate) fn seconds_per_gb(&self) -> [f64; 5] {
        let per_gb = |speed: f64| 1000.0 / speed;
        let stages =
            [per_gb(self.aead), per_gb(self.rs), self.stretch * per_gb(self.ctr), self.stretch * per_gb(self.blake3)];
        let rest = (per_gb(self.whole) - stages.iter().sum::<f64>()).max(0.0);
        let [seal, code, mask, hash] = stages;
        [seal, code, mask, hash, rest]
    }
}

/// Measures and prints the row.
pub(crate) fn row(setting: &Setting) {
    for (k, m) in [(8, 4), (4, 2)] {
        for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
            let name = format!("seal, code, mask and hash, {k}+{m}, {suite}, one core");
            say(&name, setting, Code::new(k, m).unwrap(), suite);
        }
    }
}

fn say(name: &str, setting: &Setting, code: Code, suite: Suite) {
    let (speeds, pairs) = measure(setting, code, suite);
    let figure = format!("{:.0} MB/s, its parts {:.0} MB/s in the same run", speeds.whole, speeds.parts());
    judged(name, &figure, speeds.whole / speeds.parts(), "of its parts", Limit::AtLeast(LIMIT));
    let (least, most) =
        pairs.iter().fold((f64::MAX, 0.0_f64), |(least, most), pair| (least.min(*pair), most.max(*pair)));
    context(&format!(
        "AEAD {:.0} MB/s, Reed-Solomon {:.0}, keystream {:.0}, BLAKE3 {:.0}; turns {least:.2} to {most:.2}, {ROUNDS} of them",
        speeds.aead, speeds.rs, speeds.ctr, speeds.blake3,
    ));
}

/// Medians over alternating turns, and whole by parts of each turn.
pub(crate) fn measure(setting: &Setting, code: Code, suite: Suite) -> (Speeds, Vec<f64>) {
    // Whole segments, so that a turn seals exactly as much as it is given.
    let segment = code.segment_plain() as u64;
    let bytes = setting.size(PLAIN_BYTES).max(PLAIN_BYTES_MIN).div_ceil(segment) * segment;
    let plain = sample::bytes(1, bytes as usize);
    let (mut parts, mut whole) = (Parts::new(code, suite), Whole::new(code, suite));
    // The first segments pay for the first touch of their memory.
    whole.seal(&plain);
    let stretch = code.n() as f64 / code.k() as f64;
    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let turn = [
            whole.seal(&plain),
            timed(|| parts.aead(&plain)),
            timed(|| parts.rs(plain.len())),
            timed(|| parts.ctr(plain.len())),
            timed(|| parts.blake3(plain.len())),
        ];
        times.iter_mut().zip(turn).for_each(|(times, time)| times.push(time));
    }
    let speeds = |pick: &dyn Fn(&Vec<Duration>) -> Duration| {
        let [whole, aead, rs, ctr, blake3] = [0, 1, 2, 3, 4].map(|at| rate(bytes, pick(&times[at])));
        Speeds { whole, aead, rs, ctr: ctr * stretch, blake3: blake3 * stretch, stretch }
    };
    let turns = (0..ROUNDS).map(|round| speeds(&|times: &Vec<Duration>| times[round]));
    let pairs = turns.map(|turn| turn.whole / turn.parts()).collect();
    (speeds(&|times: &Vec<Duration>| median(times)), pairs)
}

fn timed(work: impl FnOnce()) -> Duration {
    let before = thread_time();
    work();
    thread_time().saturating_sub(before)
}

/// An upload that goes on and on: its buffers are those of the segments before.
struct Whole {
    layout: FileLayout,
    read: ReadKey,
    chunker: Chunker,
    sealed: u64,
}

impl Whole {
    fn new(code: Code, suite: Suite) -> Self {
        let layout = FileLayout::new(FileId::from_bytes([1; 32]), suite, code, 1).unwrap();
        Self { layout, read: RootKey::new([2; 32]).read(), chunker: Chunker::new(code), sealed: 0 }
    }

    /// Time to make shards of so much, without cutting it. The shards of a segment are let go before the next one, as
    /// in an upload once their receipts are in.
    fn seal(&mut self, mut plain: &[u8]) -> Duration {
        let mut took = Duration::ZERO;
        while !plain.is_empty() {
            let Some(segment) = self.chunker.push(&mut plain).unwrap() else { break };
            let mut salt = [3; 32];
            salt[..8].copy_from_slice(&self.sealed.to_le_bytes());
            self.sealed += 1;
            took += timed(|| drop(black_box(segment.seal(&self.layout, &self.read, salt).unwrap())));
        }
        took
    }
}

/// The keystream of a shard.
enum Keystream {
    ChaCha(ChaCha20),
    Aes(Box<EncryptingKey>),
}

/// What the pipeline is made of, and the row it works on.
struct Parts {
    code: Code,
    aead: LessSafeKey,
    coder: ReedSolomon,
    keystream: Keystream,
    row: Vec<Vec<u8>>,
}

impl Parts {
    fn new(code: Code, suite: Suite) -> Self {
        let key = [4; 32];
        let (algorithm, keystream) = match suite {
            Suite::ChaCha20Poly1305 => {
                let stream = ChaCha20::new(&key.into(), &[0; 12].into());
                (&CHACHA20_POLY1305, Keystream::ChaCha(stream))
            }
            Suite::Aes256Gcm => {
                let key = UnboundCipherKey::new(&AES_256, &key).and_then(EncryptingKey::ctr).unwrap();
                (&AES_256_GCM, Keystream::Aes(Box::new(key)))
            }
        };
        let aead = LessSafeKey::new(UnboundKey::new(algorithm, &key).unwrap());
        let coder = ReedSolomon::new(code.k(), code.m()).unwrap();
        Self { code, aead, coder, keystream, row: vec![vec![5; UNIT]; code.n()] }
    }

    fn aead(&mut self, plain: &[u8]) {
        let width = self.code.k();
        for (number, frame) in plain.chunks(FRAME).enumerate() {
            let mut nonce = [0; 12];
            nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
            let unit = &mut self.row[number % width][..frame.len() + TAG];
            let (out, tag) = unit.split_at_mut(frame.len());
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.aead.seal_out_of_place_scatter(nonce, Aad::from([0; 64]), frame, out, &[], tag).unwrap();
        }
    }

    /// How many rows so many plain bytes fill.
    fn rows(&self, plain: usize) -> usize {
        plain / (self.code.k() * FRAME)
    }

    fn rs(&mut self, plain: usize) {
        for _ in 0..self.rows(plain) {
            self.coder.encode(&mut self.row).unwrap();
            black_box(&self.row);
        }
    }

    fn ctr(&mut self, plain: usize) {
        for number in 0..self.rows(plain) {
            // 32 rows make a full shard.
            let offset = number % 32 * UNIT;
            for unit in &mut self.row {
                match &mut self.keystream {
                    Keystream::ChaCha(stream) => {
                        stream.seek(offset);
                        stream.apply_keystream(unit);
                    }
                    Keystream::Aes(key) => {
                        let block = (offset / 16) as u128;
                        let context = EncryptionContext::Iv128(FixedLength::from(block.to_be_bytes()));
                        key.less_safe_encrypt(unit, context).unwrap();
                    }
                }
            }
        }
    }

    fn blake3(&self, plain: usize) {
        let mut hashers = vec![blake3::Hasher::new(); self.code.n()];
        for _ in 0..self.rows(plain) {
            for (hasher, unit) in hashers.iter_mut().zip(&self.row) {
                hasher.update(unit);
            }
        }
        black_box(hashers.iter().map(blake3::Hasher::finalize).collect::<Vec<_>>());
    }
}
