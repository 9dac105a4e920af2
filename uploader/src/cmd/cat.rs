//! `cat`: bytes of one entry to stdout, verified before they are written. A reader who has enough is no error.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::Path;

use serde_json::json;
use shoal_client::client::{ReadPiece, RetrieveError};
use shoal_client::manifest::{FileTree, Piece, PieceError};
use shoal_protocol::page::{Entry, EntryKind};

use super::{Opened, open};
use crate::cli::{CatArgs, Common};
use crate::exit::Problem;
use crate::report::Outcome;
use crate::session::variable;
use crate::target::is_capability;
use crate::text::plain;
use crate::writing::{GivenUp, Writing};

pub(crate) async fn run(common: &Common, args: CatArgs) -> Result<Outcome, Problem> {
    refuse_json(common)?;
    let CatArgs { target, entry, range, access } = args;
    let (word, path) =
        split((target, entry), access.capability_file.is_some(), variable("SHOAL_CAPABILITY").is_some())?;
    let opened = open(common, word, access).await?;
    let entry = pick(opened.entries()?, path.as_deref())?.clone();
    let range = range.map_or(0..entry.size, |range| range.within(entry.size));
    let bytes = range.end.saturating_sub(range.start);
    to_stdout(&opened, &entry, range).await?;
    let details = json!({ "path": entry.path, "bytes": bytes });
    Ok(Outcome { details, warnings: opened.close().await, ..Outcome::default() })
}

/// Content and an object do not fit on one stdout.
pub(super) fn refuse_json(common: &Common) -> Result<(), Problem> {
    if common.json {
        let what = "--json and content cannot both be on stdout";
        Err(Problem::usage(what, "with --json stdout holds exactly one object", "use --report-out FILE instead"))
    } else {
        Ok(())
    }
}

/// Target and entry among the two words: with a capability from elsewhere there is no target.
fn split(
    words: (Option<OsString>, Option<OsString>),
    has_file: bool,
    has_variable: bool,
) -> Result<(Option<OsString>, Option<String>), Problem> {
    let text = |word: OsString| {
        let odd = |_| Problem::usage("the entry's path is not valid UTF-8", "stored paths are text", "run `shoal ls`");
        word.into_string().map_err(odd)
    };
    Ok(match words {
        (Some(target), Some(entry)) if !has_file => (Some(target), Some(text(entry)?)),
        (Some(_), Some(_)) => return Err(crate::target::TargetError::Both.into()),
        (Some(entry), None) if has_file => (None, Some(text(entry)?)),
        (Some(entry), None) if has_variable && !is_capability(&entry) && !Path::new(&entry).exists() => {
            (None, Some(text(entry)?))
        }
        (target, _) => (target, None),
    })
}

/// The entry of this path, or the only file there is.
pub(super) fn pick<'a>(entries: &'a [Entry], path: Option<&str>) -> Result<&'a Entry, Problem> {
    let mut files = entries.iter().filter(|entry| entry.kind == EntryKind::File);
    let Some(path) = path else {
        return match (files.next(), files.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => {
                Err(Problem::usage("the upload holds no file", "it has directories or links only", "run `shoal ls`"))
            }
            (Some(_), Some(_)) => Err(Problem::usage(
                "the upload holds several files",
                "it is not said which is meant",
                "name an ENTRY that `shoal ls` lists",
            )),
        };
    };
    let found =
        entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok().and_then(|index| entries.get(index));
    match found {
        Some(entry) if entry.kind == EntryKind::File => Ok(entry),
        Some(entry) => Err(Problem::usage(
            format!("{} is not a file", plain(&entry.path)),
            "directories and links have no bytes",
            "name a file",
        )),
        None => Err(RetrieveError::NoEntry(plain(path)).into()),
    }
}

/// Where bytes `range` of an entry lie in the stream.
pub(super) fn pieces(tree: &FileTree, entry: &Entry, range: Range<u64>) -> Result<Vec<Piece>, RetrieveError> {
    tree.pieces(entry, range).map_err(|error| match error {
        PieceError::OutsideFile { start, end, size } => RetrieveError::Range { start, end, size },
        PieceError::OutsideStream => RetrieveError::Integrity(error.to_string()),
    })
}

/// Writes bytes `range` of an entry to stdout.
pub(super) async fn to_stdout(opened: &Opened, entry: &Entry, range: Range<u64>) -> Result<(), RetrieveError> {
    let pieces = pieces(opened.file.tree(), entry, range.clone())?;
    // Not through std's line buffer: content has no lines.
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(RetrieveError::Output)?;
    let mut stdout = File::from(stdout);
    let written = if let Some(inline) = &entry.inline {
        let at = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let bytes = inline.get(at(range.start)..at(range.end)).unwrap_or_default();
        stdout.write_all(bytes).map_err(RetrieveError::Output)
    } else {
        let write = move |piece: Option<ReadPiece>| piece.map_or(Ok(()), |piece| stdout.write_all(&piece.bytes));
        let pieces = opened.session.client.read(&opened.file, &opened.session.fleet, &pieces);
        Writing::start(GivenUp::Leave, write)?.all(pieces, |_| {}).await
    };
    match written {
        Err(RetrieveError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_client::client::Failure;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        let inline = (kind == EntryKind::File).then(Vec::new);
        Entry { path: path.into(), kind, mode: 0, modified_ms: 0, size: 0, extents: vec![], inline }
    }

    #[test]
    fn words_are_target_and_entry() {
        let split = |words: &[&str], file, variable| {
            let mut words = words.iter().map(OsString::from);
            let (target, entry) = split((words.next(), words.next()), file, variable).ok()?;
            Some((target.map(|word| word.into_string().unwrap()), entry))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(split(&["m", "e"], false, true), Some((some("m"), some("e"))));
        assert_eq!(split(&["m"], false, false), Some((some("m"), None)));
        assert_eq!(split(&["e"], true, false), Some((None, some("e"))));
        assert_eq!(split(&["e"], false, true), Some((None, some("e"))));
        assert_eq!(split(&["shoal1x"], false, true), Some((some("shoal1x"), None)));
        assert_eq!(split(&["/"], false, true), Some((some("/"), None)));
        assert_eq!(split(&[], false, true), Some((None, None)));
        assert_eq!(split(&["m", "e"], true, false), None);
    }

    #[test]
    fn one_file_is_found_by_itself() {
        use EntryKind::{Directory, File};
        let one = [entry("d", Directory), entry("d/f", File)];
        assert_eq!(pick(&one, None).unwrap().path, "d/f");
        assert_eq!(pick(&one, Some("d/f")).unwrap().path, "d/f");
        assert_eq!(pick(&one, Some("d")).unwrap_err().failure, Failure::Usage);
        assert_eq!(pick(&one, Some("x")).unwrap_err().failure, Failure::NotFound);
        let two = [entry("a", File), entry("b", File)];
        assert_eq!(pick(&two, None).unwrap_err().failure, Failure::Usage);
        assert_eq!(pick(&[], None).unwrap_err().failure, Failure::Usage);
    }

    #[test]
    fn ranges_outside_are_usage_errors() {
        let (tree, file) = (FileTree::default(), entry("a", EntryKind::File));
        assert!(pieces(&tree, &file, 0..0).unwrap().is_empty());
        let error = pieces(&tree, &file, 0..1).unwrap_err();
        assert_eq!(Problem::from(error).failure, Failure::Usage);
    }
}
