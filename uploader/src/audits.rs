//! What an auditor keeps in the client home: which token rounds were shown to which node, and the transcripts of its
//! audits. A round is written down before it is asked, so that a crash spends it and never repeats it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_client::audit::{TRANSCRIPT_MAX, Transcript, TranscriptError};
use shoal_client::client::Failure;
use shoal_protocol::limits::AUDIT_ROUNDS_MAX;
use shoal_protocol::{FileId, NodeId};

use crate::exit::{Problem, failure_of_io};
use crate::home::{Home, HomeError};
use crate::output::{OutputError, write_private_new};

/// Folder of the client home.
const FOLDER: &str = "audits";
/// File of the spent rounds in it.
const SPENT: &str = "audits/rounds.json";
/// Longest file of spent rounds, bytes.
const SPENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Pairs of file and node whose rounds are remembered; further ones get no round, for nothing may be forgotten.
const SPENT_MAX: usize = 50_000;
/// Ending of a transcript.
const ENDING: &str = ".audit";
/// Transcripts kept, the newest.
const TRANSCRIPTS_MAX: usize = 64;
/// Names tried for a transcript of one millisecond.
const NAMES_MAX: u64 = 16;

/// Rounds of one file that one node has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Spent {
    file: String,
    node: String,
    /// Bit r for round r.
    rounds: u64,
}

/// Spends up to `want` rounds of each node, of the `have` that the file has tokens for. Each is given out once.
pub(crate) fn spend_rounds(
    home: &Home,
    file: &FileId,
    nodes: &[NodeId],
    have: u8,
    want: u32,
) -> Result<BTreeMap<NodeId, Vec<u8>>, HomeError> {
    home.folder(FOLDER)?;
    let mut given = BTreeMap::new();
    home.update(SPENT, SPENT_BYTES_MAX, |all: &mut Vec<Spent>| {
        given = spend(all, &file.to_hex(), nodes, have, want);
    })?;
    Ok(given)
}

fn spend(all: &mut Vec<Spent>, file: &str, nodes: &[NodeId], have: u8, want: u32) -> BTreeMap<NodeId, Vec<u8>> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (at, spent) in all.iter().enumerate().filter(|(_, spent)| spent.file == file) {
        places.insert(spent.node.clone(), at);
    }
    let mut given = BTreeMap::new();
    for node in nodes {
        let name = node.to_string();
        let at = match places.get(&name) {
            Some(at) => *at,
            None if all.len() < SPENT_MAX => {
                all.push(Spent { file: file.to_owned(), node: name.clone(), rounds: 0 });
                places.insert(name, all.len().saturating_sub(1));
                all.len().saturating_sub(1)
            }
            None => continue,
        };
        let Some(spent) = all.get_mut(at) else { continue };
        let free = (0..have.min(AUDIT_ROUNDS_MAX)).filter(|round| spent.rounds & (1 << round) == 0);
        let rounds: Vec<u8> = free.take(usize::try_from(want).unwrap_or(usize::MAX)).collect();
        for round in &rounds {
            spent.rounds |= 1 << round;
        }
        given.insert(*node, rounds);
    }
    given
}

/// Keeps a transcript, readable by its owner alone; the oldest go when there are more than [`TRANSCRIPTS_MAX`].
pub(crate) fn keep(home: &Home, transcript: &Transcript) -> Result<PathBuf, HomeError> {
    let folder = home.folder(FOLDER)?;
    let bytes = transcript.encode();
    let file = transcript.file.to_hex();
    let file = file.get(..16).unwrap_or(&file);
    let mut last = None;
    for more in 0..NAMES_MAX {
        let path = folder.join(format!("{:014}-{file}{ENDING}", transcript.begun.0.saturating_add(more)));
        match write_private_new(&path, &bytes) {
            Ok(()) => {
                remove_oldest(&folder);
                return Ok(path);
            }
            Err(error @ OutputError::Exists(_)) => last = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.map_or(HomeError::Nowhere, Into::into))
}

/// What cannot be removed stays: the next audit tries again.
fn remove_oldest(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut names: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ENDING)))
        .collect();
    // The time is first and of fixed width.
    names.sort();
    let surplus = names.len().saturating_sub(TRANSCRIPTS_MAX);
    for path in names.into_iter().take(surplus) {
        let _ = fs::remove_file(path);
    }
}

/// Reads a transcript.
pub(crate) fn read(path: &Path) -> Result<Transcript, Problem> {
    let name = path.display();
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(TRANSCRIPT_MAX as u64 + 1).read_to_end(&mut bytes));
    file.map_err(|cause| {
        let what = format!("cannot read {name}: {cause}");
        Problem::new(failure_of_io(&cause), what, "the path is wrong, or the file is not yours", "correct the path")
    })?;
    Transcript::decode(&bytes).map_err(|error| {
        let failure = match error {
            TranscriptError::Version(_) => Failure::Other,
            _ => Failure::Integrity,
        };
        let cause = "it is another file, or was damaged on its way here";
        Problem::new(failure, format!("{name}: {error}"), cause, "use another copy, or audit again")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::{NetworkId, UnixMillis};
    use std::os::unix::fs::PermissionsExt;

    fn home(place: &Path) -> Home {
        Home::open(|_| Some(place.as_os_str().to_owned())).unwrap()
    }

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn transcript(begun: u64) -> Transcript {
        Transcript {
            network: NetworkId::from_bytes([1; 32]),
            auditor: node(1),
            file: FileId::from_bytes([2; 32]),
            begun: UnixMillis(begun),
            left_out: 0,
            entries: vec![],
        }
    }

    #[test]
    fn no_round_is_given_twice_to_one_node() {
        let place = tempfile::tempdir().unwrap();
        let home = home(place.path());
        let (file, other) = (FileId::from_bytes([1; 32]), FileId::from_bytes([2; 32]));
        let spend = |file: &FileId, nodes: &[NodeId], want| spend_rounds(&home, file, nodes, 5, want).unwrap();
        assert_eq!(spend(&file, &[node(1), node(2)], 2), [(node(1), vec![0, 1]), (node(2), vec![0, 1])].into());
        assert_eq!(spend(&file, &[node(1)], 2), [(node(1), vec![2, 3])].into());
        assert_eq!(spend(&file, &[node(1), node(2)], 9), [(node(1), vec![4]), (node(2), vec![2, 3, 4])].into());
        assert_eq!(spend(&file, &[node(1)], 1), [(node(1), vec![])].into());
        assert_eq!(spend(&other, &[node(1)], 1), [(node(1), vec![0])].into(), "another file, another challenge");
        let all = spend_rounds(&home, &file, &[node(3)], 200, 1000).unwrap();
        assert_eq!(all[&node(3)], (0..64).collect::<Vec<u8>>());
        fs::write(place.path().join(SPENT), b"[{").unwrap();
        assert!(spend_rounds(&home, &file, &[node(1)], 5, 1).is_err(), "a damaged file spends nothing anew");
    }

    #[test]
    fn a_full_list_gives_nothing_and_forgets_nothing() {
        let mut all: Vec<Spent> =
            (0..SPENT_MAX).map(|n| Spent { file: n.to_string(), node: node(1).to_string(), rounds: 1 }).collect();
        assert!(spend(&mut all, "x", &[node(1)], 4, 1).is_empty());
        assert_eq!(spend(&mut all, "7", &[node(1)], 4, 1), [(node(1), vec![1])].into());
        assert_eq!(all.len(), SPENT_MAX);
    }

    #[test]
    fn transcripts_are_private_and_few() {
        let place = tempfile::tempdir().unwrap();
        let home = home(place.path());
        let first = keep(&home, &transcript(1000)).unwrap();
        assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&first).unwrap(), transcript(1000));
        let second = keep(&home, &transcript(1000)).unwrap();
        assert_ne!(first, second, "none is replaced");
        for n in 0..TRANSCRIPTS_MAX as u64 {
            keep(&home, &transcript(2000 + n)).unwrap();
        }
        let kept = fs::read_dir(place.path().join(FOLDER)).unwrap().count();
        assert_eq!((kept, first.exists(), second.exists()), (TRANSCRIPTS_MAX, false, false));
        let damaged = place.path().join("d");
        let mut bytes = transcript(1).encode();
        bytes[20] ^= 1;
        fs::write(&damaged, bytes).unwrap();
        assert_eq!(read(&damaged).unwrap_err().failure, Failure::Integrity);
        assert_eq!(read(&place.path().join("none")).unwrap_err().failure, Failure::NotFound);
    }
}
