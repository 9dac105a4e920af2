//! The fuzz bodies over the committed corpus and seeded mutations of it, with what each input takes of memory. It runs
//! without libFuzzer; the fuzzer itself is started by `just fuzz`.
//!
//! `UPDATE_CORPUS=1` adds the seeds of every body to its corpus and then fails, so that nobody passes by rewriting.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use peak_alloc::PeakAlloc;
use shoal_tests::budget::{FUZZ_MUTATIONS, say};
use shoal_tests::fuzz::mutate::Mutator;
use shoal_tests::fuzz::{TARGETS, Target};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Most bytes of a whole corpus folder: it is cloned by everybody.
const CORPUS_BYTES_MAX: u64 = 200 * 1024;

/// One test at a time: memory is counted for the process.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let dir = fuzz_dir().join("corpus").join(target.name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect()
}

/// Runs one input; says what was understood and what it took of memory.
fn run(target: &Target, data: &[u8]) -> (bool, usize) {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let understood = (target.run)(data);
    (understood, MEMORY.peak_usage().saturating_sub(before))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(4096).map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_corpus_input_and_mutations_of_it_keep_what_their_bodies_assert() {
    let _alone = alone();
    let mutations = FUZZ_MUTATIONS.take();
    for (number, target) in TARGETS.iter().enumerate() {
        let corpus = corpus(target);
        // What a body makes once and keeps is not counted against an input.
        corpus.iter().for_each(|(_, data)| _ = (target.run)(data));
        let (mut good, mut most) = (0, 0);
        for (name, data) in &corpus {
            let (understood, memory) = run(target, data);
            good += usize::from(understood);
            most = most.max(memory);
            assert!(memory <= target.memory, "{name}: {memory} bytes of memory");
        }
        assert!(good > 0, "{}: nothing in its corpus is understood", target.name);
        let inputs: Vec<Vec<u8>> = corpus.into_iter().map(|(_, data)| data).collect();
        let mut mutator = Mutator::new(number as u64);
        let mut good = 0;
        for _ in 0..mutations {
            let data = mutator.mutate(&inputs);
            let guard = Failing { target, data: &data };
            let (understood, memory) = run(target, &data);
            assert!(memory <= target.memory, "{memory} bytes of memory");
            std::mem::forget(guard);
            good += usize::from(understood);
            most = most.max(memory);
        }
        assert!(good < mutations, "{}: nothing is refused", target.name);
        say(&format!(
            "fuzz {}: {} inputs, {good} of {mutations} mutations understood, {most} bytes",
            target.name,
            inputs.len()
        ));
    }
}

/// Shows the input that a body panicked over.
struct Failing<'a> {
    target: &'a Target,
    data: &'a [u8],
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        say(&format!("fuzz {}: fails for {} bytes {}", self.target.name, self.data.len(), hex(self.data)));
    }
}

/// Names in a folder of `fuzz`, without the ending.
fn names(folder: &str, ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz_dir().join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| name.strip_suffix(ending).unwrap_or_else(|| panic!("{folder}/{name}")).to_owned()).collect()
}

#[test]
fn every_entry_point_has_a_body_and_a_corpus_and_the_other_way_round() {
    let _alone = alone();
    let bodies: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(bodies.len(), TARGETS.len(), "a body twice");
    assert_eq!(names("fuzz_targets", ".rs"), bodies, "entry points");
    assert_eq!(names("corpus", ""), bodies, "corpus folders");
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).unwrap();
    let paths = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""));
    assert_eq!(paths.map(str::to_owned).collect::<BTreeSet<_>>(), bodies, "binaries of fuzz/Cargo.toml");
    for name in &bodies {
        let text = fs::read_to_string(fuzz_dir().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(text.contains(&format!("shoal_tests::fuzz::{name}(data)")), "{name} runs another body");
    }
}

#[test]
fn every_corpus_is_small() {
    let _alone = alone();
    for target in TARGETS {
        let bytes: u64 = corpus(target).iter().map(|(_, data)| data.len() as u64).sum();
        assert!(bytes <= CORPUS_BYTES_MAX, "{}: {bytes} bytes", target.name);
    }
}

#[test]
fn every_seed_is_in_its_corpus() {
    let _alone = alone();
    let update = std::env::var_os("UPDATE_CORPUS").is_some_and(|value| value == "1");
    for target in TARGETS {
        let dir = fuzz_dir().join("corpus").join(target.name);
        if update {
            fs::create_dir_all(&dir).unwrap();
        }
        let found: BTreeSet<Vec<u8>> = corpus(target).into_iter().map(|(_, data)| data).collect();
        for (number, seed) in (target.seeds)().iter().enumerate().filter(|(_, seed)| !found.contains(*seed)) {
            assert!(update, "{}: seed {number} is not in the corpus: run with UPDATE_CORPUS=1", target.name);
            fs::write(dir.join(format!("seed-{number:02}")), seed).unwrap();
        }
    }
    assert!(!update, "the corpus was written; look at it, then run again without UPDATE_CORPUS");
}

#[test]
fn a_body_that_takes_too_much_memory_is_noticed() {
    let _alone = alone();
    let greedy = Target {
        name: "greedy",
        run: |data| std::hint::black_box(vec![0u8; data.len() * 1024]).is_empty(),
        seeds: Vec::new,
        memory: 64 * 1024,
    };
    assert!(run(&greedy, &[0; 10]).1 < greedy.memory);
    assert!(run(&greedy, &[0; 100]).1 > greedy.memory);
}
