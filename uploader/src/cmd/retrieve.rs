//! `retrieve`: an upload back onto the disk, whole or not at all. Links are made last, so that nothing is written
//! through one; set-id bits are not restored, for a stranger may have set them.

use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Advice, AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};
use serde_json::json;
use shoal_client::client::{Client, Fleet, OpenFile, ReadPiece, RetrieveError};
use shoal_client::manifest::{FileTree, Piece};
use shoal_client::transport::ShardTransport;
use shoal_protocol::ByteCount;
use shoal_protocol::page::{Entry, EntryKind};

use super::cat::{pick, pieces, refuse_json, to_stdout};
use super::open;
use crate::cli::{Common, RetrieveArgs};
use crate::exit::Problem;
use crate::output::OutputError;
use crate::progress::{ReadBar, wanted};
use crate::report::Outcome;
use crate::stage::Stage;
use crate::text::{count, plain};
use crate::writing::{GivenUp, Writing};

/// Bytes of a file that are written before the disk is waited for.
const SYNC_BYTES: u64 = 32 << 20;
/// Bytes at the end of a file that the system is not told to forget: whoever retrieves a file opens it next.
const RECENT_BYTES: u64 = 64 << 20;
/// Bits of a mode that are restored.
const MODE_MASK: u32 = 0o1777;

pub(crate) async fn run(common: &Common, args: RetrieveArgs) -> Result<Outcome, Problem> {
    let RetrieveArgs { target, out, force, dry_run, access } = args;
    let to_pipe = out.as_deref() == Some(Path::new("-"));
    if to_pipe {
        refuse_json(common)?;
    } else if let Some(out) = &out {
        Stage::check(out, force)?;
    }
    let opened = open(common, target, access).await?;
    let entries = opened.entries()?;
    let bytes = entries.iter().filter(|entry| entry.kind == EntryKind::File).map(|entry| entry.size).sum::<u64>();
    if to_pipe {
        let entry = pick(entries, None)?.clone();
        if !dry_run {
            to_stdout(&opened, &entry, 0..entry.size).await?;
        }
        let details = json!({ "out": "-", "path": entry.path, "bytes": bytes, "dry_run": dry_run });
        return Ok(Outcome { details, warnings: opened.close().await, ..Outcome::default() });
    }
    let (target, strip) = place(entries, out)?;
    let shown = target.display().to_string();
    let number = count(entries.len() as u64, "entry", "entries");
    let details = json!({ "out": shown, "bytes": bytes, "entries": entries.len(), "dry_run": dry_run });
    if dry_run {
        Stage::check(&target, force)?;
        let mut stdout = format!("would write {number} ({}) to {}\n", ByteCount(bytes), plain(&shown));
        for entry in entries {
            let place = below(&target, relative(entry, strip));
            stdout.push_str(&format!("{:>12}  {}\n", entry.size, plain(&place.display().to_string())));
        }
        return Ok(Outcome { details, stdout, warnings: opened.close().await, ..Outcome::default() });
    }
    let stage = Arc::new(Stage::new(&target, force)?);
    let bar = ReadBar::new(wanted(common.json, common.quiet), bytes);
    fetch(&opened.session.client, &opened.session.fleet, &opened.file, &Staging { stage: &stage, strip, bar: &bar })
        .await?;
    let (target, entries) = (commit(stage)?, opened.entries()?);
    bar.done();
    let mut warnings = restore_directories(entries, &target, strip);
    let summary = vec![format!("wrote {number} ({}) to {}", ByteCount(bytes), plain(&shown))];
    warnings.extend(opened.close().await);
    Ok(Outcome { details, summary, warnings, ..Outcome::default() })
}

/// Where an upload goes, and how many bytes of each path that place stands for: a single file or directory becomes
/// the target itself, several lie inside it.
pub(super) fn place(entries: &[Entry], out: Option<PathBuf>) -> Result<(PathBuf, usize), Problem> {
    let top = |entry: &Entry| entry.path.split('/').next().unwrap_or_default().to_owned();
    let (Some(first), Some(last)) = (entries.first().map(top), entries.last().map(top)) else {
        let missing =
            || Problem::usage("the upload is empty", "it has no name of its own", "name the target with --out");
        return Ok((out.ok_or_else(missing)?, 0));
    };
    let single = entries.iter().all(|entry| top(entry) == first);
    match (out, single) {
        (Some(out), true) => Ok((out, first.len())),
        (Some(out), false) => Ok((out, 0)),
        (None, true) => Ok((PathBuf::from(&first), first.len())),
        (None, false) => {
            let what = format!("the upload holds {} to {} side by side", plain(&first), plain(&last));
            Err(Problem::usage(what, "there is no one name for them", "name a directory for them with --out"))
        }
    }
}

/// Path of an entry below the target.
fn relative(entry: &Entry, strip: usize) -> &str {
    entry.path.get(strip..).unwrap_or_default().trim_start_matches('/')
}

fn below(target: &Path, relative: &str) -> PathBuf {
    if relative.is_empty() { target.to_owned() } else { target.join(relative) }
}

/// Where content goes on its way.
pub(super) struct Staging<'a> {
    pub(super) stage: &'a Arc<Stage>,
    pub(super) strip: usize,
    pub(super) bar: &'a ReadBar,
}

/// Brings everything into the stage: directories, inline files, the stream, and links at the end.
pub(super) async fn fetch<T: ShardTransport>(
    client: &Client<T>,
    fleet: &Fleet,
    file: &OpenFile,
    staging: &Staging<'_>,
) -> Result<(), Problem> {
    let (tree, &Staging { stage, strip, bar }) = (file.tree(), staging);
    let (mut all, mut owners): (Vec<Piece>, Vec<usize>) = (Vec::new(), Vec::new());
    if tree.entries.iter().all(|entry| entry.kind == EntryKind::Directory) {
        stage.directory("")?;
    }
    for (index, entry) in tree.entries.iter().enumerate() {
        match (entry.kind, &entry.inline) {
            (EntryKind::Directory, _) => drop(stage.directory(relative(entry, strip))?),
            (EntryKind::File, Some(inline)) => {
                let mut file = stage.file(relative(entry, strip))?;
                file.write_all(inline).and_then(|()| restore_file(&file, entry)).map_err(RetrieveError::Output)?;
                bar.on(entry.size);
            }
            (EntryKind::File, None) => {
                let pieces = pieces(tree, entry, 0..entry.size)?;
                owners.extend(std::iter::repeat_n(index, pieces.len()));
                all.extend(pieces);
            }
            (EntryKind::Symlink, _) => {}
        }
    }
    let mut writer = Writer { stage: Arc::clone(stage), tree: Arc::clone(tree), strip, owners, current: None };
    let write = move |piece: Option<ReadPiece>| match piece {
        Some(piece) => writer.write(piece.index, &piece.bytes),
        None => writer.finish(),
    };
    // Waited for: its files are in the stage, which removes itself when it is given up.
    Writing::start(GivenUp::Wait, write)?.all(client.read(file, fleet, &all), |bytes| bar.on(bytes)).await?;
    for entry in tree.entries.iter().filter(|entry| entry.kind == EntryKind::Symlink) {
        let path = stage.symlink(relative(entry, strip), entry.inline.as_deref().unwrap_or_default())?;
        // A link without its time is still the link.
        let _ = rustix::fs::utimensat(CWD, &path, &timestamps(entry.modified_ms), AtFlags::SYMLINK_NOFOLLOW);
    }
    Ok(())
}

/// The staged content at its target. Nobody writes into it any more.
pub(super) fn commit(stage: Arc<Stage>) -> Result<PathBuf, OutputError> {
    match Arc::try_unwrap(stage) {
        Ok(stage) => stage.commit(),
        Err(_) => unreachable!("the thread that writes has ended"),
    }
}

/// Writes the files of the stream, one open at a time.
struct Writer {
    stage: Arc<Stage>,
    tree: Arc<FileTree>,
    strip: usize,
    /// Entry of each piece.
    owners: Vec<usize>,
    current: Option<Current>,
}

/// The file that is open.
struct Current {
    /// Its entry.
    index: usize,
    file: File,
    written: u64,
    /// Bytes that are on the disk.
    synced: u64,
}

impl Current {
    /// Appends, and has the disk keep up: or all of a large file would have to be waited for in the end, and would take
    /// the place of other programs' files in memory until then.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.written = self.written.saturating_add(bytes.len() as u64);
        if self.written.saturating_sub(self.synced) >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.written;
            if let Some(old) = NonZeroU64::new(self.synced.saturating_sub(RECENT_BYTES)) {
                // The system need not follow.
                let _ = rustix::fs::fadvise(&self.file, 0, Some(old), Advice::DontNeed);
            }
        }
        Ok(())
    }
}

impl Writer {
    fn write(&mut self, piece: usize, bytes: &[u8]) -> io::Result<()> {
        let owner = *self.owners.get(piece).ok_or_else(|| contradiction("bytes of no file".into()))?;
        if self.current.as_ref().is_none_or(|current| current.index != owner) {
            self.finish()?;
            let entry = self.tree.entries.get(owner).ok_or_else(|| contradiction("bytes of no file".into()))?;
            let file = self.stage.file(relative(entry, self.strip)).map_err(into_io)?;
            self.current = Some(Current { index: owner, file, written: 0, synced: 0 });
        }
        self.current.as_mut().map_or(Ok(()), |current| current.append(bytes))
    }

    /// Ends the file that is open.
    fn finish(&mut self) -> io::Result<()> {
        let Some(Current { index, file, written, .. }) = self.current.take() else { return Ok(()) };
        match self.tree.entries.get(index) {
            Some(entry) if entry.size == written => restore_file(&file, entry),
            _ => Err(contradiction(format!("a file got {written} bytes, which is not its size"))),
        }
    }
}

fn into_io(error: OutputError) -> io::Error {
    match error {
        OutputError::Io { cause, .. } => cause,
        other => contradiction(other.to_string()),
    }
}

/// The upload itself is wrong, not the disk.
fn contradiction(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Mode and time of a finished file, and its bytes on the disk before it gets its name.
fn restore_file(file: &File, entry: &Entry) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(entry.mode & MODE_MASK))?;
    file.set_times(FileTimes::new().set_modified(system_time(entry.modified_ms)))?;
    if entry.inline.is_some() { Ok(()) } else { file.sync_data() }
}

/// Modes and times of directories, deepest first: only now, for both would hinder or be lost by writing into them.
pub(super) fn restore_directories(entries: &[Entry], target: &Path, strip: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    for entry in entries.iter().rev().filter(|entry| entry.kind == EntryKind::Directory) {
        let path = below(target, relative(entry, strip));
        let restored = File::open(&path).and_then(|directory| {
            directory.set_times(FileTimes::new().set_modified(system_time(entry.modified_ms)))?;
            fs::set_permissions(&path, Permissions::from_mode(entry.mode & MODE_MASK))
        });
        if let Err(error) = restored {
            warnings.push(format!("mode and time of {} are not restored: {error}", plain(&path.display().to_string())));
        }
    }
    warnings
}

/// A time the system can hold; the epoch for those it cannot.
fn system_time(unix_ms: i64) -> SystemTime {
    let distance = Duration::from_millis(unix_ms.unsigned_abs());
    let time = if unix_ms < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

fn timestamps(unix_ms: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: unix_ms.div_euclid(1000), tv_nsec: unix_ms.rem_euclid(1000) * 1_000_000 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_client::client::Failure;

    fn entry(path: &str, kind: EntryKind, size: u64) -> Entry {
        Entry {
            path: path.into(),
            kind,
            mode: 0o4640,
            modified_ms: 1_000_000_000_500,
            size,
            extents: vec![],
            inline: None,
        }
    }

    #[test]
    fn one_top_becomes_the_target() {
        use EntryKind::{Directory, File};
        let file = [entry("f.txt", File, 1)];
        assert_eq!(place(&file, None).unwrap(), ("f.txt".into(), 5));
        assert_eq!(place(&file, Some("out".into())).unwrap(), ("out".into(), 5));
        assert_eq!(relative(&file[0], 5), "");
        let tree = [entry("d", Directory, 0), entry("d/x", File, 1)];
        let (target, strip) = place(&tree, Some("o".into())).unwrap();
        assert_eq!((target, relative(&tree[0], strip), relative(&tree[1], strip)), ("o".into(), "", "x"));
        let several = [entry("a", File, 1), entry("b", File, 1)];
        assert_eq!(place(&several, Some("o".into())).unwrap(), ("o".into(), 0));
        assert_eq!(place(&several, None).unwrap_err().failure, Failure::Usage);
        assert_eq!(place(&[], None).unwrap_err().failure, Failure::Usage);
    }

    #[test]
    fn writer_splits_pieces_into_files_and_checks_sizes() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("out");
        let entries = vec![entry("d/a", EntryKind::File, 3), entry("d/b", EntryKind::File, 2)];
        let tree = Arc::new(FileTree { entries, segments: vec![], pages: vec![] });
        let writer = |stage: &Arc<Stage>, owners: Vec<usize>| {
            let (stage, tree) = (Arc::clone(stage), Arc::clone(&tree));
            Writer { stage, tree, strip: 1, owners, current: None }
        };
        let stage = Arc::new(Stage::new(&target, false).unwrap());
        let mut first = writer(&stage, vec![0, 0, 1]);
        for (piece, bytes) in [(0, b"x".as_slice()), (0, b"y"), (1, b"z"), (2, b"uv")] {
            first.write(piece, bytes).unwrap();
        }
        assert!(first.write(9, b"").is_err());
        first.finish().unwrap();
        drop(first);
        commit(stage).unwrap();
        assert_eq!(fs::read(target.join("a")).unwrap(), b"xyz");
        let found = fs::metadata(target.join("b")).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o640, "set-id bits stay away");
        assert_eq!(found.modified().unwrap(), system_time(1_000_000_000_500));

        let short = Arc::new(Stage::new(&place.path().join("short"), false).unwrap());
        let mut second = writer(&short, vec![0]);
        second.write(0, b"x").unwrap();
        assert!(second.finish().is_err());
        drop((short, second));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn times_that_do_not_fit_are_the_epoch() {
        assert_eq!(system_time(-1500), UNIX_EPOCH - Duration::from_millis(1500));
        let _ = (system_time(i64::MAX), system_time(i64::MIN), timestamps(i64::MIN));
        assert_eq!(timestamps(-1).last_modification, Timespec { tv_sec: -1, tv_nsec: 999_000_000 });
    }
}
