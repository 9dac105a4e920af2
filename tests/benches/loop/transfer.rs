//! One file there and back over six real nodes, checked byte for byte. It starts everything anew each time, so that no
//! turn profits from the one before, and it compares nothing.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use shoal_tests::bench::Setting;
use shoal_tests::bench::machine::{Work, free};

use crate::source;
use crate::swarm::{Nodes, Ran, World};

/// Nodes.
pub(crate) const NODES: usize = 6;
/// Their code.
pub(crate) const CODE: (usize, usize) = (4, 2);
/// Bytes of the file.
const FILE_BYTES: u64 = 1 << 30;
/// What all nodes offer each: many times what comes, and nothing that the disk has to have.
const QUOTA: u64 = 4 << 30;

/// A run of the client and what the nodes did meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Leg {
    pub(crate) client: Ran,
    pub(crate) nodes: Vec<Work>,
}

/// There and back.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) upload: Leg,
    /// Into a file, which is on the disk when the program ends.
    pub(crate) retrieve: Leg,
    /// Into a pipe.
    pub(crate) stream: Leg,
}

/// Bytes to transfer; none, and a line that says so, where the disk has no room for `copies` of them.
pub(crate) fn file_bytes(setting: &Setting, what: &str, copies: f64) -> Option<u64> {
    let bytes = setting.size(FILE_BYTES);
    let (needed, left) = (bytes as f64 * copies, free(&setting.dir) as f64);
    if left < needed {
        println!("{what}: SKIPPED: needs {:.0} GB free, {:.0} are", needed / 1e9, left / 1e9);
        return None;
    }
    Some(bytes)
}

/// Makes the file that is uploaded; its hash.
pub(crate) fn make_input(path: &Path, bytes: u64) -> blake3::Hash {
    let hash = source::file(path, bytes);
    // Or the system writes it out while the first turn is measured.
    File::open(path).unwrap().sync_all().unwrap();
    hash
}

/// Has the system hold as many pages of memory as a turn is about to fill with files. On a virtual machine the first
/// touch of a page that its host has taken back costs several times what copying into it does, and without this it is a
/// matter of luck which turn pays for that.
pub(crate) fn touch_memory(dir: &Path, bytes: u64) {
    let path = dir.join("touched");
    source::file(&path, bytes);
    fs::remove_file(&path).unwrap();
}

/// Uploads `input` to new nodes and gets it back, `between` runs in the middle, while the nodes rest.
pub(crate) fn turn(setting: &Setting, input: &Path, hash: blake3::Hash, between: impl FnOnce()) -> Turn {
    let code = format!("{}+{}", CODE.0, CODE.1);
    let world = World::new(setting.fresh(), NODES, QUOTA, &code);
    let (client, out) = (&world.client, world.dir.join("out"));
    let length = fs::metadata(input).unwrap().len();
    let stored = length * (CODE.0 + CODE.1) as u64 / CODE.0 as u64;
    touch_memory(&world.dir, stored);
    let mut capability = String::new();
    let upload = leg(&world.nodes, || {
        let (said, ran) = client.upload(input, &code);
        capability = said;
        ran
    });
    between();
    touch_memory(&world.dir, length);
    let retrieve = leg(&world.nodes, || client.retrieve(&capability, &out));
    let (back, _) = source::hash_of(&mut File::open(&out).unwrap()).unwrap();
    assert_eq!(back, hash, "what came back differs");
    fs::remove_file(&out).unwrap();
    let stream = leg(&world.nodes, || client.retrieve_to(&capability, counted(length)));
    Turn { upload, retrieve, stream }
}

fn leg(nodes: &Nodes, run: impl FnOnce() -> Ran) -> Leg {
    let before = nodes.work();
    let client = run();
    let nodes = nodes.work().into_iter().zip(before).map(|(after, before)| after.since(before)).collect();
    Leg { client, nodes }
}

/// Lets all that comes go, and checks only that it was so much: hashing it would take from what is measured.
fn counted(length: u64) -> crate::swarm::Drain {
    Box::new(move |mut output| {
        let count = io::copy(&mut output, &mut io::sink()).unwrap();
        assert_eq!(count, length, "bytes that came back");
    })
}

/// Times of one leg over all turns.
pub(crate) fn times<'a>(turns: &'a [Turn], pick: impl Fn(&'a Turn) -> &'a Leg) -> Vec<Duration> {
    turns.iter().map(|turn| pick(turn).client.took).collect()
}
